//! Random bytes at every endpoint over a real socket: whatever comes back, the daemon goes on.

use std::time::Duration;

use crate::common::onnx::{self, Kind, Pixels};
use crate::common::{Client, Repository, base64, form, png};
use serde_json::json;

/// xorshift64: the same bytes on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.below(256) as u8).collect()
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// A few bytes of `valid` replaced, removed, repeated or cut off.
    fn spoil(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => bytes[at..end].iter_mut().for_each(|b| *b = self.below(256) as u8),
                3 => drop(bytes.splice(at..at, self.bytes(8))),
                _ => bytes.extend_from_within(at..end),
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }
}

const PATHS: [&str; 22] = [
    "/v1/models/small/infer",
    "/v1/models/small/versions/1/infer",
    "/v1/models/small/infer?timeout=1&priority=9&output=logits",
    "/v2/models/small/infer",
    "/v2/models/small/versions/1/infer",
    "/v2/models/add/infer",
    "/v2/models/any/infer",
    "/small/prediction",
    "/add/prediction",
    "/nothing/prediction",
    "/v2",
    "/v2/models/small",
    "/v2/models/small/config",
    "/v2/models/small/stats",
    "/v2/models/stats",
    "/v2/health/ready",
    "/metrics",
    "/openapi.json",
    "/",
    "/%00/%ff",
    "*",
    "/v2/models/%2e%2e/infer",
];

/// The first of them, which read bodies.
const BODY_PATHS: usize = 10;

const TYPES: [&str; 7] = [
    "image/png",
    "application/json",
    "application/octet-stream",
    "multipart/form-data; boundary=xyz",
    "multipart/form-data; boundary=\"",
    "text/html",
    "\u{1}",
];

#[test]
fn random_bytes_disturb_nobody() {
    let repository = Repository::new()
        .model("small", "", &onnx::classifier(Pixels::Nchw, 1.0))
        .model("add", "", &onnx::two_inputs(Kind::INT64, &[-1, 4]))
        .model("any", "max_batch_size = 0\n", &onnx::doubled(&[-1, -1]));
    let server =
        repository.serve_with("rten", &["--max-body-bytes", "100000", "--max-image-pixels", "100000"]);
    let picture = png(9, 7, |x, y, c| (x * 20 + y * 30) as u8 ^ c as u8);
    let image = json!({"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(&picture)]});
    let a = json!({"name": "a", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]});
    let b = json!({"name": "b", "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 4]});
    let x = json!({"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]});
    let valid: Vec<Vec<u8>> = vec![
        picture.clone(),
        form(&[&picture, &picture]).1,
        json!({"id": "1", "inputs": [image], "parameters": {"timeout": 9, "priority": 1}}).to_string().into(),
        json!({"inputs": [a, b], "outputs": [{"name": "sum", "parameters": {"classification": 3}}]})
            .to_string()
            .into(),
        json!({"inputs": [x]}).to_string().into(),
        json!({"key": ["image"], "value": [base64(&picture)], "logid": 1}).to_string().into(),
        [&(picture.len() as u32).to_le_bytes(), picture.as_slice()].concat(),
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut statuses = std::collections::BTreeMap::new();
    let mut client = Client::connect(server.http);
    for round in 0..1500 {
        let body = match random.below(4) {
            0 => {
                let length = random.below(300);
                random.bytes(length)
            }
            1 => valid[random.below(valid.len())].clone(),
            _ => random.spoil(&valid[round % valid.len()]),
        };
        // Most go where bodies are read.
        let method = random.pick(&["POST", "POST", "POST", "POST", "POST", "POST", "GET", "PUT", "BREW"]);
        let path = if random.below(3) > 0 { PATHS[random.below(BODY_PATHS)] } else { random.pick(&PATHS) };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: t\r\n");
        if random.below(3) > 0 {
            head += &format!("Content-Type: {}\r\n", random.pick(&TYPES));
        }
        if random.below(6) == 0 {
            head += &format!("Content-Encoding: {}\r\n", random.pick(&["gzip", "deflate", "br"]));
        }
        if random.below(4) == 0 {
            let length = random.below(body.len() + 10);
            head += &format!(
                "Inference-Header-Content-Length: {}\r\n",
                if random.below(3) == 0 { 0 } else { length }
            );
        }
        let chunked = random.below(5) == 0;
        head += &match chunked {
            true => format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()),
            false => format!("Content-Length: {}\r\n\r\n", body.len()),
        };
        let mut bytes = [head.as_bytes(), &body, if chunked { b"\r\n0\r\n\r\n" } else { b"" }].concat();
        // One in ten is spoilt as a whole, head included, and then everything may happen to its connection.
        let spoilt = random.below(10) == 0;
        if spoilt {
            bytes = random.spoil(&bytes);
        }
        let _ = client.raw(&bytes);
        if spoilt {
            client.finish();
        }
        match client.answer() {
            Ok(answer) => {
                assert!(answer.status != 500 && answer.status < 600, "{bytes:?}: {}", answer.text());
                *statuses.entry(answer.status).or_insert(0) += 1;
                if spoilt || answer.header("connection") == Some("close") {
                    client = Client::connect(server.http);
                }
            }
            // The server may close on a head that is none; it never leaves a whole request without an answer.
            Err(e) => {
                assert!(
                    spoilt || e.kind() == std::io::ErrorKind::UnexpectedEof,
                    "{}: {e}",
                    String::from_utf8_lossy(&bytes)
                );
                client = Client::connect(server.http);
            }
        }
    }
    println!("{statuses:?}");
    for expected in [200, 400, 404, 405, 415] {
        assert!(statuses.contains_key(&expected), "{statuses:?}: no {expected}");
    }
    // Bytes that are no HTTP at all, on many connections.
    for _ in 0..100 {
        let mut client = Client::connect(server.http);
        let length = 1 + random.below(2000);
        let _ = client.raw(&random.bytes(length));
        client.finish();
        let _ = client.answer();
    }
    drop(client);
    for model in ["small", "add", "any"] {
        let labels = format!("{{model=\"{model}\",version=\"1\"}}");
        assert_eq!(server.metric(&format!("visord_instance_restarts_total{labels}")), 0.0);
        assert_eq!(server.metric(&format!("visord_pending_rows{labels}")), 0.0);
    }
    assert_eq!(server.post("/v1/models/small/infer", &[("Content-Type", "image/png")], &picture).status, 200);
    assert_eq!(server.get("/v2/health/ready").status, 200);
    let start = std::time::Instant::now();
    // The connection that asks, and no other.
    while server.metric("visord_http_connections") > 1.0 {
        assert!(start.elapsed() < Duration::from_secs(10), "connections stay open");
        std::thread::yield_now();
    }
    assert_eq!(server.metric("visord_request_inflight_bytes"), 0.0);
}
