//! HTTP/2 on every port: the same answers as over HTTP/1.1, the same bounds, and an end that cuts nobody off.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::http2::{Http2, answered, ended};
use crate::common::{Client, Repository, Server, onnx, output};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/m/infer";
const PATIENT: &str = "max_batch_size = 8\n[dynamic_batching]\nmax_queue_delay_microseconds = 10000000\n\
                       preferred_batch_size = [8]\n[[instance_group]]\ncount = 1\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn serve(toml: &str, flags: &[&str]) -> Server {
    Repository::new().model("m", toml, &onnx::doubled(&[-1, 1])).serve_with("rten", flags)
}

fn body(value: f32) -> Vec<u8> {
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]});
    json!({"inputs": [input]}).to_string().into_bytes()
}

/// Waits until the metric has that value, which is sure to come.
#[track_caller]
fn until(server: &Server, line: &str, value: f64) {
    let start = Instant::now();
    while server.metric(line) != value {
        assert!(start.elapsed() < Duration::from_secs(30), "{line} never became {value}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn slow_clients(server: &Server) -> f64 {
    let text = server.get("/metrics").text();
    let line = r#"visord_request_errors_total{protocol="none",reason="slow_client"} "#;
    text.lines().find_map(|l| l.strip_prefix(line)).map_or(0.0, |v| v.parse().unwrap())
}

/// Reads until the server closes; panics where it does not.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the server did not close: {e}"),
    }
    all
}

#[test]
fn a_port_speaks_both_versions_of_http() {
    let server = serve("", &["--max-body-bytes", "100000"]);
    server.runtime.block_on(async {
        let mut client = Http2::connect(server.http).await;
        let answer = client.request("GET", "/v2", &[], b"").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut streams = Vec::new();
        for value in 0..50 {
            streams.push(client.open("POST", INFER, &[], &body(value as f32), true).await.unwrap().0);
        }
        for (value, stream) in streams.into_iter().enumerate() {
            let answer = answered(stream).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            let json: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(output(&json, "y").1, [2.0 * value as f64]);
        }
        // Refused before it is read: HTTP/1.1 says that it closes, HTTP/2 has no such header and goes on.
        let length = [("content-length", "100001")];
        let (answer, _stream) = client.open("POST", INFER, &length, b"{", false).await.unwrap();
        let answer = answered(answer).await.unwrap();
        assert_eq!((answer.status, answer.headers.get("connection")), (413, None), "{answer:?}");
        for (method, path, status) in
            [("GET", "/nothing", 404), ("GET", INFER, 405), ("HEAD", "/v2", 200), ("GET", "/metrics", 200)]
        {
            let id = [("x-request-id", "my id")];
            let answer = client.request(method, path, &id, b"").await.unwrap();
            assert_eq!(answer.headers["x-request-id"], "my id", "{method} {path}");
            assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
            let length: usize = answer.headers["content-length"].to_str().unwrap().parse().unwrap();
            assert_eq!(answer.body.len(), if method == "HEAD" { 0 } else { length }, "{method} {path}");
            assert!(length > 0, "{method} {path}");
        }
        let mut metrics = Http2::connect(server.metrics).await;
        assert_eq!(metrics.request("GET", "/livez", &[], b"").await.unwrap().status, 200);
        assert_eq!(metrics.request("GET", "/v2", &[], b"").await.unwrap().status, 404);
    });
    let mut client = Client::connect(server.http);
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: t\r\nContent-Length: 100001\r\n\r\n{{");
    client.raw(head.as_bytes()).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
}

#[test]
fn the_port_of_grpc_tells_http_1_where_to_go() {
    let server = serve("", &[]);
    let answer = Client::connect(server.grpc).send("GET", "/v2/health/live", &[], b"");
    answer.refused(400, &["gRPC", "HTTP/2", "--http-port"]);
    server.runtime.block_on(async {
        let mut client = Http2::connect(server.grpc).await;
        let answer = client.request("POST", "/no.Such/Method", &[("content-type", "application/grpc")], b"");
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"12".parse().unwrap()));
        until(&server, "visord_grpc_connections", 1.0);
    });
    until(&server, "visord_grpc_connections", 0.0);
}

#[test]
fn the_preface_may_come_in_pieces_and_a_likeness_of_it_is_http_1() {
    let server = serve("", &[]);
    let mut client = TcpStream::connect(server.http).unwrap();
    client.set_nodelay(true).unwrap();
    for byte in PREFACE.iter().chain(SETTINGS) {
        client.write_all(&[*byte]).unwrap();
        std::thread::yield_now();
    }
    let mut frame = [0; 9];
    client.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "the first frame is the server's SETTINGS: {frame:?}");

    for (sent, want) in [
        (&b"PR"[..], None),
        (b"PRI * HTTP/1.1\r\nHost: t\r\n\r\n", Some(404)),
        (b"PROPFIND /v2 HTTP/1.1\r\nHost: t\r\n\r\n", Some(405)),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Some(400)),
        (b"P\r\n\r\n", Some(400)),
    ] {
        let mut client = Client::connect(server.http);
        client.raw(sent).unwrap();
        client.finish();
        let status = client.answer().ok().map(|a| a.status);
        assert_eq!(status, want, "{}", String::from_utf8_lossy(sent));
    }
}

#[test]
fn who_sends_no_request_is_let_go() {
    let server = serve("", &["--header-read-timeout-secs", "1"]);
    let cases: [(&str, &[u8], bool); 5] = [
        ("nothing", b"", true),
        ("half a preface", &PREFACE[..20], true),
        ("half a method", b"PO", true),
        ("half a head", b"POST /v2 HTTP/1.1\r\nHost: te", true),
        ("a preface", &[PREFACE, SETTINGS].concat(), false),
    ];
    let start = Instant::now();
    let mut clients = Vec::new();
    for (what, sent, _) in cases {
        for address in [server.http, server.grpc, server.metrics] {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(sent).unwrap();
            clients.push((what, address, client));
        }
    }
    for (what, address, client) in &mut clients {
        let _ = rest(client);
        assert!(start.elapsed() >= Duration::from_millis(900), "{what} on {address}: {:?}", start.elapsed());
    }
    let slow = 3 * cases.iter().filter(|(_, _, slow)| *slow).count();
    assert_eq!(slow_clients(&server), slow as f64);
}

#[test]
fn an_idle_connection_gets_a_goaway_and_a_busy_one_does_not() {
    let server = serve(PATIENT, &["--header-read-timeout-secs", "1", "--request-read-timeout-secs", "60"]);
    server.runtime.block_on(async {
        let mut busy = Http2::connect(server.http).await;
        let (answer, mut stream) = busy.open("POST", INFER, &[], b"{", false).await.unwrap();
        let mut idle = Http2::connect(server.http).await;
        assert_eq!(idle.request("GET", "/livez", &[], b"").await.unwrap().status, 200);
        ended(idle.driver).await.unwrap();
        assert!(idle.send.ready().await.is_err(), "a connection that is going away takes no request");
        stream.send_data("nonsense".into(), true).unwrap();
        assert_eq!(answered(answer).await.unwrap().status, 400);
        ended(busy.driver).await.unwrap();
    });
    assert_eq!(slow_clients(&server), 0.0);
}

#[test]
fn shutting_down_lets_streams_finish_and_takes_no_more() {
    let mut server = serve("", &[]);
    let whole = body(1.0);
    let runtime = server.runtime.handle().clone();
    runtime.block_on(async {
        let mut client = Http2::connect(server.http).await;
        let (answer, mut stream) = client.open("POST", INFER, &[], &whole[..10], false).await.unwrap();
        let idle = Http2::connect(server.grpc).await;
        // The stream is known to the server once a later one of the same connection is answered.
        assert_eq!(client.request("GET", "/livez", &[], b"").await.unwrap().status, 200);
        let down = server.shut_down();
        ended(idle.driver).await.unwrap();
        stream.send_data(whole[10..].to_vec().into(), true).unwrap();
        let answer = answered(answer).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        ended(client.driver).await.unwrap();
        down.await.unwrap();
    });
}

#[test]
fn streams_that_are_reset_at_once_end_the_connection_and_leave_no_place_taken() {
    let server = serve(PATIENT, &[]);
    server.runtime.block_on(async {
        let mut client = Http2::connect(server.http).await;
        for n in 0..20_000 {
            let opened = client.open("POST", INFER, &[], b"{", false).await;
            let Ok((_, mut stream)) = opened else { break };
            stream.send_reset(h2::Reason::CANCEL);
            assert!(n < 19_999, "the server takes any number of resets");
        }
        // It says ENHANCE_YOUR_CALM, which a client that still sends may not get to read.
        let error = ended(client.driver).await.unwrap_err();
        assert!(error.is_io() || error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM), "{error:?}");
    });
    until(&server, "visord_request_inflight_bytes", 0.0);
    // This connection's own.
    until(&server, "visord_http_connections", 1.0);
    assert_eq!(
        server.metric(r#"visord_request_errors_total{protocol="none",reason="invalid_argument"}"#),
        1.0
    );
}

#[test]
fn a_stream_that_is_reset_gives_its_place_back() {
    let server = serve(PATIENT, &[]);
    const PENDING: &str = r#"visord_pending_rows{model="m",version="1"}"#;
    let mut client = server.runtime.block_on(Http2::connect(server.http));
    let mut streams: Vec<_> = (0..2)
        .map(|v| server.runtime.block_on(client.open("POST", INFER, &[], &body(v as f32), true)).unwrap())
        .collect();
    until(&server, PENDING, 2.0);
    for (_, stream) in &mut streams {
        stream.send_reset(h2::Reason::CANCEL);
    }
    until(&server, PENDING, 0.0);
}

#[test]
fn heads_are_bounded() {
    let server = serve("", &["--max-header-bytes", "8192"]);
    server.runtime.block_on(async {
        let mut client = Http2::connect(server.http).await;
        let long = "x".repeat(9000);
        let answer = client.request("GET", "/livez", &[("x-long", &long)], b"").await.unwrap();
        assert_eq!(answer.status, 431);
        let fits = "x".repeat(7000);
        let answer = client.request("GET", "/livez", &[("x-long", &fits)], b"").await.unwrap();
        assert_eq!(answer.status, 200);
    });
}

#[test]
fn a_client_that_does_not_answer_pings_is_dropped() {
    let server = serve(PATIENT, &["--http2-keepalive-secs", "1", "--http2-keepalive-timeout-secs", "1"]);
    let (mut client, connection) = server.runtime.block_on(async {
        let io = tokio::net::TcpStream::connect(server.http).await.unwrap();
        h2::client::handshake(io).await.unwrap()
    });
    // Driven for one answer only: from then on nobody reads its pings.
    let mut connection = Box::pin(connection);
    let request = || hyper::Request::post(format!("http://t{INFER}")).body(()).unwrap();
    let (_answer, mut stream) = client.send_request(request(), false).unwrap();
    stream.send_data(body(1.0).into(), true).unwrap();
    server.runtime.block_on(async {
        let until_sent = async {
            while server_pending(&server).await < 1.0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            ended = connection.as_mut() => panic!("ended: {ended:?}"),
            () = until_sent => {}
        }
    });
    until(&server, r#"visord_pending_rows{model="m",version="1"}"#, 0.0);
    until(&server, "visord_http_connections", 1.0);
    drop(connection);
}

async fn server_pending(server: &Server) -> f64 {
    let mut client = Http2::connect(server.metrics).await;
    let text = client.request("GET", "/metrics", &[], b"").await.unwrap().text();
    let line = r#"visord_pending_rows{model="m",version="1"} "#;
    text.lines().find_map(|l| l.strip_prefix(line)).unwrap().parse().unwrap()
}

#[test]
fn connections_that_are_cut_are_not_counted_any_more() {
    let mut server = serve("", &["--exit-timeout-secs", "0"]);
    let runtime = server.runtime.handle().clone();
    runtime.block_on(async {
        let mut client = Http2::connect(server.http).await;
        let (answer, _stream) = client.open("POST", INFER, &[], b"{", false).await.unwrap();
        assert_eq!(client.request("GET", "/livez", &[], b"").await.unwrap().status, 200);
        let start = Instant::now();
        server.shut_down().await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(answered(answer).await.is_err());
    });
}
