//! Readiness, and the way down: what is in flight is answered, what waits too, what comes is refused.

use std::time::{Duration, Instant};

use crate::common::onnx;
use crate::common::{Client, Repository, Server, output};
use serde_json::json;

/// Rows wait for a batch that will not fill up: only the end of admission lets them go.
const PATIENT: &str = "max_batch_size = 8\n[dynamic_batching]\nmax_queue_delay_microseconds = 10000000\n\
                       preferred_batch_size = [8]\n[[instance_group]]\ncount = 1\n";

fn body(value: f32) -> Vec<u8> {
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]});
    json!({"inputs": [input]}).to_string().into_bytes()
}

const INFER: &str = "/v2/models/m/infer";

/// A request that waits in the queue, on a connection of its own.
fn waiting(server: &Server, value: f32) -> Client {
    let mut client = Client::connect(server.http);
    let body = body(value);
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len());
    client.raw(&[head.as_bytes(), &body].concat()).unwrap();
    client
}

/// Waits until the metric has that value, which is sure to come.
#[track_caller]
fn until(server: &Server, line: &str, value: f64) {
    let start = Instant::now();
    while server.metric(line) != value {
        assert!(start.elapsed() < Duration::from_secs(10), "{line} never became {value}");
        std::thread::yield_now();
    }
}

const PENDING: &str = r#"visord_pending_rows{model="m",version="1"}"#;

#[test]
fn shutting_down_answers_what_was_admitted_and_refuses_the_rest() {
    let repository = Repository::new().model("m", PATIENT, &onnx::doubled(&[-1, 1]));
    let mut server = repository.serve_with("rten", &["--exit-delay-secs", "2"]);
    assert_eq!(server.metric("visord_ready"), 1.0);
    let mut early = [1.0, 2.0].map(|v| waiting(&server, v));
    until(&server, PENDING, 2.0);
    let (mut watcher, mut late) = (Client::connect(server.http), Client::connect(server.http));
    assert_eq!(watcher.send("GET", "/v2/health/ready", &[], b"").status, 200);
    assert_eq!(late.send("GET", "/v2/health/live", &[], b"").status, 200);

    let start = Instant::now();
    let down = server.shut_down();
    // Readiness goes at once, admission stays open for the delay.
    let mut status = 200;
    while status == 200 && start.elapsed() < Duration::from_millis(1900) {
        status = watcher.send("GET", "/v2/health/ready", &[], b"").status;
    }
    assert_eq!(status, 503, "ready {:?} after the start of the shutdown", start.elapsed());
    for path in ["/readyz", "/health"] {
        assert_eq!(watcher.send("GET", path, &[], b"").status, 503, "{path}");
    }
    assert_eq!(watcher.send("GET", "/livez", &[], b"").status, 200);
    let metrics = Client::connect(server.metrics).send("GET", "/metrics", &[], b"").text();
    assert!(metrics.contains("\nvisord_ready 0\n"), "{metrics}");
    let mut admitted = waiting(&server, 3.0);
    until(&server, PENDING, 3.0);
    assert!(start.elapsed() < Duration::from_secs(2), "too slow to see the delay");

    for (client, value) in early.iter_mut().zip([2.0, 4.0]).chain([(&mut admitted, 6.0)]) {
        let answer = client.answer().unwrap();
        assert_eq!(output(&answer.json(), "y").1, [value]);
    }
    assert!(start.elapsed() >= Duration::from_secs(2), "admission closed before --exit-delay-secs");
    assert!(server.runtime.block_on(down).unwrap(), "a thread was left behind");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // Idle connections were closed, and nothing listens any more.
    let _ = late.raw(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n");
    assert!(late.answer().is_err());
    assert!(std::net::TcpStream::connect(server.http).is_err());
}

#[test]
fn a_request_that_is_still_arriving_is_answered() {
    let repository = Repository::new().model("m", "", &onnx::doubled(&[-1, 1]));
    let mut server = repository.serve("rten");
    let mut slow = Client::connect(server.http);
    let body = body(1.0);
    slow.raw(
        format!("POST {INFER} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
    )
    .unwrap();
    slow.raw(&body[..10]).unwrap();
    until(&server, "visord_http_connections", 2.0);
    // The head must have been read before the server stops reading heads: its body is counted from then on.
    until(&server, "visord_request_inflight_bytes", body.len() as f64);
    let down = server.shut_down();
    while std::net::TcpStream::connect(server.http).is_ok() {
        std::thread::yield_now();
    }
    slow.raw(&body[10..]).unwrap();
    assert_eq!(output(&slow.answer().unwrap().json(), "y").1, [2.0]);
    assert!(server.runtime.block_on(down).unwrap(), "a thread was left behind");
}

#[test]
fn the_exit_timeout_bounds_the_wait_for_clients() {
    let repository = Repository::new().model("m", "", &onnx::doubled(&[-1, 1]));
    let mut server = repository.serve_with("rten", &["--exit-timeout-secs", "0"]);
    let mut stuck = Client::connect(server.http);
    stuck
        .raw(format!("POST {INFER} HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n{{").as_bytes())
        .unwrap();
    until(&server, "visord_request_inflight_bytes", 1000.0);
    let start = Instant::now();
    let down = server.shut_down();
    assert!(server.runtime.block_on(down).unwrap(), "a thread was left behind");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_client_that_hangs_up_gives_its_place_back() {
    let repository = Repository::new().model("m", PATIENT, &onnx::doubled(&[-1, 1]));
    let server = repository.serve("rten");
    let clients = [1.0, 2.0].map(|v| waiting(&server, v));
    until(&server, PENDING, 2.0);
    drop(clients);
    until(&server, PENDING, 0.0);
    let cancelled =
        r#"visord_inference_requests_total{model="m",version="1",protocol="oip_http",outcome="cancelled"}"#;
    until(&server, cancelled, 2.0);
    assert_eq!(server.metric(r#"visord_inference_executions_total{model="m",version="1"}"#), 0.0);
}

#[test]
fn a_full_queue_and_a_passed_deadline_say_so() {
    let toml = PATIENT.replace("preferred", "max_queue_size = 2\npreferred");
    let repository = Repository::new().model("m", &toml, &onnx::doubled(&[-1, 1]));
    let server = repository.serve("rten");
    let _clients = [1.0, 2.0].map(|v| waiting(&server, v));
    until(&server, PENDING, 2.0);
    let refused = server.post(INFER, &[], &body(3.0));
    refused.refused(429, &["queue full", "max_queue_size 2"]);
    assert_eq!(refused.header("retry-after"), Some("1"));

    drop(_clients);
    until(&server, PENDING, 0.0);
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]});
    let hurried = json!({"inputs": [input], "parameters": {"timeout": 20_000}});
    server.post_json(INFER, &hurried).refused(504, &["timeout", "20000 microseconds"]);
    assert_eq!(server.metric(PENDING), 0.0);
}
