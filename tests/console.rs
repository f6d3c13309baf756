//! The page at `/`: who gets it, with which headers, and who gets what was there before.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::onnx;
use crate::common::{Answer, Client, Repository, Server};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn repository() -> Repository {
    Repository::new().model("m", "", &onnx::doubled(&[-1, 1]))
}

fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    Client::connect(server.http).send(method, path, headers, b"")
}

/// Paths of the page's files, as the page and its scripts name them.
fn files(page: &str) -> Vec<String> {
    let named = page.split("\"/console/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut files: Vec<String> = named.map(|name| format!("/console/{name}")).collect();
    files.dedup();
    assert!(files.len() >= 4, "{files:?}");
    files
}

#[test]
fn browsers_get_the_page_and_programs_what_was_there() {
    let server = repository().serve("rten");
    let cases = [
        (Some(BROWSER), 200),
        (Some("text/html"), 200),
        (Some("application/json"), 404),
        (Some("*/*"), 404),
        (None, 404),
    ];
    for (accept, status) in cases {
        let headers: Vec<(&str, &str)> = accept.map(|a| ("Accept", a)).into_iter().collect();
        let answer = ask(&server, "GET", "/", &headers);
        assert_eq!(answer.status, status, "{accept:?}");
        if status == 404 {
            answer.refused(404, &["nothing at /"]);
        }
    }
    let posted = ask(&server, "POST", "/", &[("Accept", BROWSER)]);
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(ask(&server, "POST", "/", &[]).status, 404);
    for path in ["/console", "/console/", "/console/mod.rs", "/console/../v2", "/console/app.js/x"] {
        assert_eq!(ask(&server, "GET", path, &[("Accept", BROWSER)]).status, 404, "{path}");
    }
}

#[test]
fn every_file_has_its_headers_and_is_sent_once() {
    let server = repository().serve("rten");
    let page = ask(&server, "GET", "/", &[("Accept", BROWSER)]);
    let mut paths = files(&page.text());
    paths.push("/".to_owned());
    for path in paths {
        let path = path.as_str();
        let answer = ask(&server, "GET", path, &[("Accept", BROWSER)]);
        assert_eq!(answer.status, 200, "{path}");
        let content_type = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        assert_eq!(answer.header("vary"), (path == "/").then_some("accept"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        for loose in ["unsafe", "http", "data:", "*"] {
            assert!(!policy.contains(loose), "{path}: {policy}");
        }
        let tag = answer.header("etag").unwrap();
        let again = ask(&server, "GET", path, &[("Accept", BROWSER), ("If-None-Match", tag)]);
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), Some(tag), "{path}");
        let other = ask(&server, "GET", path, &[("Accept", BROWSER), ("If-None-Match", "\"old\"")]);
        assert_eq!((other.status, other.body), (200, answer.body.clone()), "{path}");

        let mut stream = TcpStream::connect(server.http).unwrap();
        let head =
            format!("HEAD {path} HTTP/1.1\r\nHost: t\r\nAccept: {BROWSER}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut seen = String::new();
        stream.read_to_string(&mut seen).unwrap();
        let length = format!("content-length: {}\r\n", answer.body.len());
        assert!(seen.starts_with("HTTP/1.1 200 ") && seen.ends_with("\r\n\r\n"), "{path}: {seen}");
        assert!(seen.contains(&length) && seen.contains(tag), "{path}: {seen}");
    }
}

#[test]
fn there_is_no_page_where_it_is_off_nor_on_other_ports() {
    let on = repository().serve("rten");
    let page = ask(&on, "GET", "/", &[("Accept", BROWSER)]).text();
    let off = repository().serve_with("rten", &["--console", "false"]);
    let (with, without) = (on.get("/openapi.json").json(), off.get("/openapi.json").json());
    assert!(with["paths"].get("/").is_some() && without["paths"].get("/").is_none());
    for path in files(&page).iter().map(String::as_str).chain(["/"]) {
        for method in ["GET", "POST"] {
            assert_eq!(ask(&off, method, path, &[("Accept", BROWSER)]).status, 404, "{method} {path}");
        }
        let metrics = Client::connect(on.metrics).send("GET", path, &[("Accept", BROWSER)], b"");
        assert_eq!(metrics.status, 404, "{path} on the metrics port");
        let grpc = Client::connect(on.grpc).send("GET", path, &[("Accept", BROWSER)], b"");
        assert!(grpc.status >= 400, "{path} on the gRPC port: {}", grpc.status);
        assert!(!grpc.text().contains("<html"), "{path} on the gRPC port");
    }
    // What the page asks is there without it.
    assert_eq!(off.get("/metrics").status, 200);
}
