//! TLS: both ports, both versions of HTTP, client certificates, files that change under traffic, mistakes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::http2::Http2;
use crate::common::pki::{Authority, Identity, client};
use crate::common::{Client, Repository, Server, onnx, output, text};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ClientConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const INFER: &str = "/v2/models/m/infer";
const EXPIRY: &str = "visord_tls_certificate_expiry_timestamp_seconds";

fn serve(repository: &Repository, flags: &[&str]) -> Server {
    Server::start(repository.path(), "rten", flags)
}

fn repository() -> Repository {
    Repository::new().model("m", "", &onnx::doubled(&[-1, 1]))
}

/// `/metrics` on its own port, which has no TLS.
fn metric(server: &Server, line: &str) -> f64 {
    let text = Client::connect(server.metrics).send("GET", "/metrics", &[], b"").text();
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
}

fn failures(server: &Server, reason: &str) -> f64 {
    metric(server, &format!("visord_tls_handshake_failures_total{{reason=\"{reason}\"}}"))
}

/// Waits until the metric has that value, which is sure to come.
#[track_caller]
fn until(server: &Server, line: &str, value: f64) {
    let start = Instant::now();
    while metric(server, line) != value {
        assert!(start.elapsed() < Duration::from_secs(30), "{line} never became {value}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn shake(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

fn body() -> Vec<u8> {
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [2.0]});
    json!({"inputs": [input]}).to_string().into_bytes()
}

/// One inference over HTTP/1.1 on a connection of its own, and the certificate that the server showed.
async fn infer_http1(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<CertificateDer<'static>> {
    let mut stream = shake(address, config).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let body = body();
    let head = format!(
        "POST {INFER} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    let json: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(output(&json, "y").1, [4.0]);
    Ok(shown)
}

#[test]
fn both_ports_speak_tls_and_http_is_chosen_by_alpn() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("root"));
    let identity = authority.identity(2040);
    let (cert, key) = identity.write(folder.path());
    let repository = repository();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = serve(&repository, &flags);
    // 2040-01-01.
    assert_eq!(metric(&server, EXPIRY), 2_208_988_800.0);
    server.runtime.block_on(async {
        for version in [&TLS12, &TLS13] {
            for (alpn, chosen) in [
                (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
                (&["http/1.1", "h2"], Some(b"h2")),
                (&["http/1.1"], Some(b"http/1.1")),
                (&[], None),
            ] {
                let config = client(&[&authority], None, alpn, &[version]);
                for address in [server.http, server.grpc] {
                    let stream = shake(address, Arc::clone(&config)).await.unwrap();
                    assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{alpn:?}");
                }
                if chosen == Some(b"h2") {
                    let stream = shake(server.http, Arc::clone(&config)).await.unwrap();
                    let answer =
                        Http2::over(stream).await.request("POST", INFER, &[], &body()).await.unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let stream = shake(server.grpc, config).await.unwrap();
                    let kind = [("content-type", "application/grpc")];
                    let answer =
                        Http2::over(stream).await.request("POST", "/no.Such/Method", &kind, b"").await;
                    assert_eq!(answer.unwrap().headers["grpc-status"], "12");
                } else {
                    assert_eq!(infer_http1(server.http, config).await.unwrap(), identity.der, "{alpn:?}");
                }
            }
        }
        // Not everybody negotiates: the preface alone says HTTP/2 as well.
        let stream = shake(server.http, client(&[&authority], None, &[], ALL_VERSIONS)).await.unwrap();
        assert_eq!(Http2::over(stream).await.request("GET", "/livez", &[], b"").await.unwrap().status, 200);
    });
    assert_eq!(Client::connect(server.metrics).send("GET", "/livez", &[], b"").status, 200);
}

#[test]
fn handshakes_that_fail_are_bounded_and_counted() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("root"));
    let (cert, key) = authority.identity(2040).write(folder.path());
    let repository = repository();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = serve(&repository, &[&flags[..], &["--header-read-timeout-secs", "1"]].concat());
    for reason in ["timeout", "closed", "not_tls", "client_certificate", "alert", "negotiation", "other"] {
        assert_eq!(failures(&server, reason), 0.0, "{reason}");
    }
    let mut silent = TcpStream::connect(server.grpc).unwrap();
    drop(TcpStream::connect(server.http).unwrap());
    let mut plain = TcpStream::connect(server.http).unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let mut read = Vec::new();
    let _ = plain.read_to_end(&mut read);
    assert!(!read.starts_with(b"HTTP"), "{read:?}");
    server.runtime.block_on(async {
        let stranger = Authority::new("another root");
        let config = client(&[&stranger], None, &["h2"], ALL_VERSIONS);
        assert!(shake(server.http, config).await.is_err());
        let config = client(&[&authority], None, &["spdy/3"], ALL_VERSIONS);
        assert!(shake(server.http, config).await.is_err());
    });
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0);
    for reason in ["timeout", "closed", "not_tls", "alert", "negotiation"] {
        until(&server, &format!("visord_tls_handshake_failures_total{{reason=\"{reason}\"}}"), 1.0);
    }
    // This one's own connection.
    until(&server, "visord_http_connections", 1.0);
    until(&server, "visord_grpc_connections", 0.0);
}

#[test]
fn clients_must_show_a_certificate_of_the_client_ca() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients, stranger) =
        (Authority::new("root"), Authority::new("clients"), Authority::new("stranger"));
    let (cert, key) = authority.identity(2040).write(folder.path());
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, clients.pem()).unwrap();
    let repository = repository();
    let server = serve(
        &repository,
        &[
            "--tls-cert",
            cert.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
            "--tls-client-ca",
            ca.to_str().unwrap(),
        ],
    );
    let cases = [
        ("none", None, false),
        ("a stranger's", Some(stranger.identity(2040)), false),
        ("the server's own", Some(authority.identity(2040)), false),
        ("an expired one", Some(clients.identity(2020)), false),
        ("a good one", Some(clients.identity(2040)), true),
    ];
    let mut refused = 0.0;
    for (what, identity, good) in cases {
        for version in [&TLS12, &TLS13] {
            let answered = server.runtime.block_on(infer_http1(
                server.http,
                client(&[&authority], identity.as_ref(), &[], &[version]),
            ));
            assert_eq!(answered.is_ok(), good, "{what}: {answered:?}");
            let grpc = server.runtime.block_on(async {
                let stream =
                    shake(server.grpc, client(&[&authority], identity.as_ref(), &["h2"], &[version])).await?;
                let (send, connection) =
                    h2::client::handshake(stream).await.map_err(std::io::Error::other)?;
                let mut http2 = Http2 { send, driver: tokio::spawn(connection) };
                http2.request("POST", "/no.Such/Method", &[], b"").await.map_err(std::io::Error::other)
            });
            assert_eq!(grpc.is_ok(), good, "{what}: {grpc:?}");
            refused += if good { 0.0 } else { 2.0 };
            until(&server, r#"visord_tls_handshake_failures_total{reason="client_certificate"}"#, refused);
        }
    }
    // Probes have no certificate.
    assert_eq!(Client::connect(server.metrics).send("GET", "/readyz", &[], b"").status, 200);
}

/// Puts files in place as Kubernetes does for a secret: a folder behind a link that is swapped.
fn swap(folder: &Path, number: usize, identity: &Identity) {
    let (data, new) = (format!("..{number}"), folder.join("..new"));
    identity.write(&folder.join(&data));
    symlink(&data, &new).unwrap();
    std::fs::rename(&new, folder.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let link = folder.join(file);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{file}"), link).unwrap();
        }
    }
}

#[test]
fn files_that_change_are_used_without_a_failed_request_and_bad_ones_are_not() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("root"));
    let first = authority.identity(2040);
    swap(folder.path(), 0, &first);
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let repository = repository();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = serve(&repository, &flags);
    let (success, failure) =
        (r#"visord_tls_reloads_total{outcome="success"}"#, r#"visord_tls_reloads_total{outcome="failure"}"#);

    let config = client(&[&authority], None, &["http/1.1"], ALL_VERSIONS);
    let http2 = client(&[&authority], None, &["h2"], ALL_VERSIONS);
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut traffic = Vec::new();
    for _ in 0..3 {
        let (done, served, config, address) =
            (Arc::clone(&done), Arc::clone(&served), Arc::clone(&config), server.http);
        traffic.push(server.runtime.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                infer_http1(address, Arc::clone(&config)).await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    // One connection stays open over all changes.
    let (done2, address) = (Arc::clone(&done), server.http);
    traffic.push(server.runtime.spawn(async move {
        let mut kept = Http2::over(shake(address, http2).await.unwrap()).await;
        while !done2.load(Ordering::Relaxed) {
            assert_eq!(kept.request("POST", INFER, &[], &body()).await.unwrap().status, 200);
        }
    }));
    let shown = || server.runtime.block_on(infer_http1(server.http, Arc::clone(&config))).unwrap();
    assert_eq!(shown(), first.der);

    let second = authority.identity(2041);
    swap(folder.path(), 1, &second);
    until(&server, success, 1.0);
    assert_eq!((shown(), metric(&server, EXPIRY)), (second.der.clone(), 2_240_611_200.0));

    // A key of another certificate, and a file cut short.
    let mixed = Identity { cert: authority.identity(2042).cert, ..authority.identity(2042) };
    swap(folder.path(), 2, &mixed);
    until(&server, failure, 1.0);
    assert_eq!((shown(), metric(&server, EXPIRY)), (second.der.clone(), 2_240_611_200.0));
    let third = authority.identity(2043);
    let cut = third.cert.len() / 2;
    swap(folder.path(), 3, &Identity { cert: third.cert[..cut].to_owned(), ..authority.identity(2043) });
    until(&server, failure, 2.0);
    assert_eq!(shown(), second.der);

    swap(folder.path(), 4, &third);
    until(&server, success, 2.0);
    assert_eq!(shown(), third.der);
    done.store(true, Ordering::Relaxed);
    for task in traffic {
        server.runtime.block_on(task).unwrap();
    }
    assert!(served.load(Ordering::Relaxed) > 0);
    assert_eq!(failures(&server, "other"), 0.0);
}

#[test]
fn mistakes_are_reported_before_anything_is_started() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("root"));
    let identity = authority.identity(2040);
    identity.write(folder.path());
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key) = (file("tls.crt", identity.cert.as_bytes()), file("tls.key", identity.key.as_bytes()));
    let other = file("other.key", authority.identity(2040).key.as_bytes());
    let nothing = file("nothing.pem", b"nothing");
    let cut = file("cut.pem", &identity.cert.as_bytes()[..200]);
    let junk = file("junk.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let large = file("large.pem", &vec![b'x'; (1 << 20) + 1]);
    let encrypted = file(
        "encrypted.pem",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let absent = folder.path().join("absent.pem").to_str().unwrap().to_owned();
    let a_folder = folder.path().to_str().unwrap().to_owned();
    let repository = repository();
    let cases: [(&[&str], &[&str]); 15] = [
        (&["--tls-cert", &cert], &["--tls-cert = ", "needs --tls-key"]),
        (&["--tls-key", &key], &["--tls-key = ", "needs --tls-cert"]),
        (&["--tls-client-ca", &cert], &["--tls-client-ca = ", "needs --tls-cert and --tls-key"]),
        (&["--tls-cert", &cert, "--tls-client-ca", &cert], &["--tls-cert = ", "needs --tls-key"]),
        (&["--tls-cert", &absent, "--tls-key", &key], &["--tls-cert = ", "cannot be read: No such file"]),
        (&["--tls-cert", &cert, "--tls-key", &a_folder], &["--tls-key = ", "cannot be read"]),
        (
            &["--tls-cert", &nothing, "--tls-key", &nothing],
            &["--tls-cert = ", "holds no certificate", "--tls-key = ", "holds no private key"],
        ),
        (&["--tls-cert", &cut, "--tls-key", &key], &["--tls-cert = ", "is not valid PEM"]),
        (&["--tls-cert", &junk, "--tls-key", &key], &["--tls-cert = ", "cannot be used"]),
        (&["--tls-cert", &large, "--tls-key", &key], &["--tls-cert = ", "is over 1048576 bytes"]),
        (&["--tls-cert", &cert, "--tls-key", &other], &["--tls-key = ", "is not the key of --tls-cert"]),
        (&["--tls-cert", &cert, "--tls-key", &encrypted], &["--tls-key = ", "not encrypted"]),
        (&["--tls-cert", &key, "--tls-key", &cert], &["holds no certificate", "holds no private key"]),
        (
            &["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &nothing],
            &["--tls-client-ca = ", "holds no certificate"],
        ),
        (
            &["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &junk],
            &["--tls-client-ca = ", "certificate 1 in it cannot be a root"],
        ),
    ];
    for (flags, says) in cases {
        for command in ["serve", "check"] {
            let output = repository.run(command, flags);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(64), "{command} {flags:?}: {said}");
            for part in says {
                assert!(said.contains(part), "{command} {flags:?}: no \"{part}\" in {said}");
            }
        }
    }
    let output = repository.run("check", &["--backend", "rten", "--tls-cert", &cert, "--tls-key", &key]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}
