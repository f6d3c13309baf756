//! System shared memory: tensors that clients of this host leave beside the request, and everything that can be wrong
//! with them.

use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Answer, Client, Repository, Server, onnx, output};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/m/infer";
const PATIENT: &str = "max_batch_size = 8\n[dynamic_batching]\nmax_queue_delay_microseconds = 10000000\n\
                       preferred_batch_size = [8]\n[[instance_group]]\ncount = 1\n";

/// A shared memory object that goes away with the test.
struct Object {
    key: String,
    path: PathBuf,
    file: std::fs::File,
}

impl Object {
    fn new(bytes: u64) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let key = format!("visord-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = PathBuf::from("/dev/shm").join(&key);
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(bytes).unwrap();
        Self { key, path, file }
    }

    fn put(&self, offset: u64, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, offset).unwrap();
    }

    fn get(&self, offset: u64, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; 4 * count];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(toml: &str, flags: &[&str]) -> Server {
    Repository::new()
        .model("m", toml, &onnx::doubled(&[-1, 1]))
        .serve_with("rten", &[&["--shared-memory"], flags].concat())
}

fn register(server: &Server, name: &str, key: &str, offset: u64, byte_size: u64) -> Answer {
    let path = format!("/v2/systemsharedmemory/region/{name}/register");
    server.post_json(&path, &json!({"key": key, "offset": offset, "byte_size": byte_size}))
}

fn unregister(server: &Server, name: &str) {
    let path = format!("/v2/systemsharedmemory/region/{name}/unregister");
    assert_eq!(server.post(&path, &[], b"").status, 200);
}

fn place(region: &str, offset: u64, byte_size: u64) -> Value {
    json!({
        "shared_memory_region": region,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": byte_size,
    })
}

fn request(rows: usize, input: &Value, output: Option<&Value>) -> Value {
    let mut request =
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 1], "parameters": input}]});
    if let Some(output) = output {
        request["outputs"] = json!([{"name": "y", "parameters": output}]);
    }
    request
}

#[test]
fn tensors_come_from_regions_and_go_there() {
    let server = serve("", &[]);
    let (input, result) = (Object::new(4096), Object::new(64));
    assert_eq!(register(&server, "in", &input.key, 16, 1000).status, 200);
    assert_eq!(register(&server, "out", &format!("/{}", result.key), 0, 64).status, 200);
    assert_eq!(server.metric("visord_shared_memory_regions"), 2.0);
    let status = server.get("/v2/systemsharedmemory/status").json();
    let facts = |name: &str, key: &str, offset: u64, byte_size: u64| json!({"name": name, "key": key, "offset": offset, "byte_size": byte_size});
    let (first, second) =
        (facts("in", &input.key, 16, 1000), facts("out", &format!("/{}", result.key), 0, 64));
    assert_eq!(status, json!([first, second]));
    assert_eq!(server.get("/v2/systemsharedmemory/region/out/status").json(), json!([second]));
    let extensions = server.get("/v2").json()["extensions"].clone();
    assert!(extensions.as_array().unwrap().contains(&json!("system_shared_memory")), "{extensions}");

    input.put(16 + 8, &[1.0, 2.0, 3.0]);
    let answer = server.post_json(INFER, &request(3, &place("in", 8, 12), None));
    assert_eq!(output(&answer.json(), "y"), (vec![3, 1], vec![2.0, 4.0, 6.0]));

    let answer = server.post_json(INFER, &request(3, &place("in", 8, 12), Some(&place("out", 4, 60))));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found = answer.json()["outputs"][0].clone();
    let want = json!({"name": "y", "datatype": "FP32", "shape": [3, 1], "parameters": place("out", 4, 12)});
    assert_eq!(found, want);
    assert_eq!(result.get(0, 5), [0.0, 2.0, 4.0, 6.0, 0.0]);
    // In place: the output over the input.
    let answer = server.post_json(INFER, &request(3, &place("in", 8, 12), Some(&place("in", 8, 12))));
    assert_eq!((answer.status, input.get(24, 3)), (200, vec![2.0, 4.0, 6.0]));
    assert_eq!(server.metric("visord_request_inflight_bytes"), 0.0);

    unregister(&server, "in");
    unregister(&server, "never-registered");
    let gone = server.post_json(INFER, &request(3, &place("in", 8, 12), None));
    gone.refused(404, &["input `x`", "region `in` is not registered"]);
    assert_eq!(server.post("/v2/systemsharedmemory/unregister", &[], b"").status, 200);
    assert_eq!(server.get("/v2/systemsharedmemory/status").json(), json!([]));
    assert_eq!(server.metric("visord_shared_memory_regions"), 0.0);
}

#[test]
fn regions_are_validated() {
    let server = serve("", &[]);
    let object = Object::new(100);
    let key = object.key.as_str();
    let link = Object::new(1);
    std::fs::remove_file(&link.path).unwrap();
    symlink("/etc/passwd", &link.path).unwrap();
    let folder = PathBuf::from(format!("/dev/shm/{key}-folder"));
    std::fs::create_dir(&folder).unwrap();
    let (fifo, fifo_key) = (format!("/dev/shm/{key}-fifo"), format!("{key}-fifo"));
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let long = "x".repeat(300);
    let folder_key = format!("{key}-folder");
    let cases: [(&str, &str, u64, u64, &str); 20] = [
        ("r", "", 0, 1, "must be the name of a shared memory object"),
        ("r", "/", 0, 1, "must be the name"),
        ("r", ".", 0, 1, "must be the name"),
        ("r", "..", 0, 1, "must be the name"),
        ("r", "/..", 0, 1, "must be the name"),
        ("r", "../../etc/passwd", 0, 1, "must be the name"),
        ("r", "//etc", 0, 1, "must be the name"),
        ("r", "a/b", 0, 1, "must be the name"),
        ("r", "a\0b", 0, 1, "must be the name"),
        ("r", &long, 0, 1, "must be the name"),
        ("r", "visord-no-such-object", 0, 1, "No such file"),
        ("r", &link.key, 0, 1, "cannot be opened"),
        ("r", &folder_key, 0, 1, "cannot be opened"),
        ("r", &fifo_key, 0, 1, "is no shared memory object"),
        ("r", key, 0, 0, "byte_size: must be at least 1"),
        ("r", key, 0, 101, "has 100 bytes; offset 0 and byte_size 101 go beyond"),
        ("r", key, 100, 1, "go beyond"),
        ("r", key, u64::MAX, 2, "go beyond"),
        ("a%20b", key, 0, 1, "a name has 1 to 255"),
        (&long, key, 0, 1, "a name has 1 to 255"),
    ];
    for (name, key, offset, byte_size, says) in cases {
        let answer = register(&server, name, key, offset, byte_size);
        assert_eq!(answer.status, 400, "{name} {key:?} {offset} {byte_size}: {}", answer.text());
        answer.refused(400, &[says]);
    }
    std::fs::remove_dir(folder).unwrap();
    std::fs::remove_file(fifo).unwrap();
    let path = "/v2/systemsharedmemory/region/r/register";
    for body in ["", "{}", "[]", r#"{"key": 1, "byte_size": 1}"#, r#"{"key": "k", "byte_size": -1}"#] {
        server.post(path, &[], body.as_bytes()).refused(400, &["\"byte_size\": integer"]);
    }
    server.get("/v2/systemsharedmemory/region/r/status").refused(404, &["`r` is not registered"]);
    server.get(path).refused(405, &["POST"]);
    assert_eq!(server.get("/v2/systemsharedmemory/nonsense").status, 404);
    // As many as there may be, and one more.
    for i in 0..256 {
        assert_eq!(register(&server, &format!("r{i}"), key, 0, 1).status, 200, "{i}");
    }
    register(&server, "r256", key, 0, 1).refused(400, &["256 regions are registered"]);
    register(&server, "r7", key, 0, 1).refused(400, &["`r7` is registered already"]);
    unregister(&server, "r7");
    assert_eq!(register(&server, "r7", key, 0, 1).status, 200);
}

#[test]
fn places_are_validated_before_anything_is_read() {
    let server = serve("", &["--max-body-bytes", "10000", "--max-inflight-bytes", "10000"]);
    let (input, result, large) = (Object::new(100), Object::new(100), Object::new(1 << 20));
    assert_eq!(register(&server, "in", &input.key, 0, 50).status, 200);
    assert_eq!(register(&server, "out", &result.key, 0, 100).status, 200);
    assert_eq!(register(&server, "large", &large.key, 0, 1 << 20).status, 200);
    let fine = place("in", 0, 4);
    /// Elements of the input, its place, the output's, the status, and words of the answer.
    type Case<'a> = (usize, Value, Option<Value>, u16, &'a [&'a str]);
    let cases: [Case<'_>; 15] = [
        (1, place("nowhere", 0, 4), None, 404, &["input `x`", "`nowhere` is not registered"]),
        (
            1,
            place("in", 47, 4),
            None,
            400,
            &["input `x`", "offset` 47", "beyond the 50 bytes of region `in`"],
        ),
        (1, place("in", u64::MAX, 4), None, 400, &["beyond the 50 bytes"]),
        (13, place("in", 0, 52), None, 400, &["beyond the 50 bytes"]),
        (1, place("in", 0, 8), None, 400, &["`shared_memory_byte_size` is 8", "takes 4 bytes"]),
        (1, json!({"shared_memory_region": "in"}), None, 400, &["`shared_memory_byte_size`", "got none"]),
        (1, json!({"shared_memory_region": 7}), None, 400, &["the name of a region, got 7"]),
        (
            1,
            json!({"shared_memory_region": "in", "shared_memory_byte_size": -4}),
            None,
            400,
            &["an integer of at least 0"],
        ),
        (
            1,
            json!({"shared_memory_region": "in", "shared_memory_byte_size": 4, "binary_data_size": 4}),
            None,
            400,
            &["both"],
        ),
        (2501, place("large", 0, 10_004), None, 413, &["10004", "--max-body-bytes 10000"]),
        (2500, place("large", 0, 10_000), None, 503, &["--max-inflight-bytes 10000"]),
        (1, fine.clone(), Some(place("nowhere", 0, 4)), 404, &["output `y`", "`nowhere` is not registered"]),
        (1, fine.clone(), Some(place("out", 97, 4)), 400, &["output `y`", "beyond the 100 bytes"]),
        (1, fine.clone(), Some(place("out", 0, 3)), 400, &["output `y`", "takes 4 bytes", "is 3"]),
        (1, fine, Some(json!({"shared_memory_region": "out"})), 400, &["output `y`", "got none"]),
    ];
    for (rows, input, output, status, says) in cases {
        let sent = request(rows, &input, output.as_ref());
        let answer = server.post_json(INFER, &sent);
        assert_eq!(answer.status, status, "{sent}: {}", answer.text());
        answer.refused(status, says);
    }
    let sent = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0],
        "parameters": place("in", 0, 4)}]});
    server.post_json(INFER, &sent).refused(400, &["both `shared_memory_region` and `data`"]);
    assert_eq!(server.metric("visord_request_inflight_bytes"), 0.0);
    assert_eq!(result.get(0, 25), [0.0; 25]);
}

#[test]
fn a_region_that_shrinks_is_an_error_and_nothing_worse() {
    let server = serve("", &[]);
    let object = Object::new(1 << 20);
    assert_eq!(register(&server, "r", &object.key, 0, 1 << 20).status, 200);
    let sent = request(4, &place("r", 1 << 19, 16), Some(&place("r", 0, 16)));
    assert_eq!(server.post_json(INFER, &sent).status, 200);
    object.file.set_len(1 << 10).unwrap();
    server.post_json(INFER, &sent).refused(400, &["input `x`", "`r` has become shorter"]);
    let sent = request(4, &place("r", 0, 16), Some(&place("r", 1 << 19, 16)));
    server.post_json(INFER, &sent).refused(400, &["output `y`", "`r` has become shorter"]);
    assert_eq!(object.file.metadata().unwrap().len(), 1 << 10, "writing must not make it grow");
    object.file.set_len(1 << 20).unwrap();
    assert_eq!(server.post_json(INFER, &sent).status, 200);

    // While it shrinks and grows as fast as it can, every answer is right or says why not.
    let (stop, file) = (std::sync::Arc::new(AtomicUsize::new(0)), object.file.try_clone().unwrap());
    let stopped = std::sync::Arc::clone(&stop);
    let shaking = std::thread::spawn(move || {
        while stopped.load(Ordering::Relaxed) == 0 {
            file.set_len(0).unwrap();
            file.set_len(1 << 20).unwrap();
        }
    });
    let rows = (1 << 20) / 4;
    let sent = request(rows, &place("r", 0, 1 << 20), None).to_string();
    let mut client = Client::connect(server.http);
    for _ in 0..50 {
        let answer = client.send("POST", INFER, &[], sent.as_bytes());
        assert!(matches!(answer.status, 200 | 400), "{}", answer.text());
    }
    stop.store(1, Ordering::Relaxed);
    shaking.join().unwrap();
}

#[test]
fn a_region_that_is_unregistered_in_use_serves_to_the_end() {
    let server = serve(PATIENT, &[]);
    let object = Object::new(64);
    assert_eq!(register(&server, "r", &object.key, 0, 64).status, 200);
    object.put(0, &[5.0]);
    let body = request(1, &place("r", 0, 4), Some(&place("r", 32, 32))).to_string();
    let mut waiting = Client::connect(server.http);
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    waiting.raw(head.as_bytes()).unwrap();
    let start = Instant::now();
    while server.metric(r#"visord_pending_rows{model="m",version="1"}"#) != 1.0 {
        assert!(start.elapsed() < Duration::from_secs(30), "the request never waited");
    }
    unregister(&server, "r");
    std::fs::remove_file(&object.path).unwrap();
    object.put(0, &[6.0]);
    let rest = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [7, 1], "data": [0, 0, 0, 0, 0, 0, 0]}]});
    assert_eq!(server.post_json(INFER, &rest).status, 200);
    let answer = waiting.answer().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    // What it held when the request came.
    assert_eq!(object.get(32, 1), [10.0]);
    server.post_json(INFER, &serde_json::from_str(&body).unwrap()).refused(404, &["not registered"]);
}

#[test]
fn outputs_must_not_overlap() {
    let network = onnx::Graph::default()
        .input("x", onnx::Kind::FLOAT, &[-1, 1])
        .output("a", onnx::Kind::FLOAT, &[-1, 1])
        .output("b", onnx::Kind::FLOAT, &[-1, 1])
        .node("Add", &["x", "x"], "a")
        .node("Mul", &["x", "x"], "b");
    let repository = Repository::new().model("m", "", &network.model());
    let server = repository.serve_with("rten", &["--shared-memory"]);
    let object = Object::new(64);
    assert_eq!(register(&server, "r", &object.key, 0, 64).status, 200);
    let sent = |second: u64| {
        json!({
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}],
            "outputs": [
                {"name": "a", "parameters": place("r", 0, 8)},
                {"name": "b", "parameters": place("r", second, 8)},
            ],
        })
    };
    for second in [0, 4, 7] {
        server.post_json(INFER, &sent(second)).refused(400, &["`b`", "are another output's"]);
    }
    let answer = server.post_json(INFER, &sent(8));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((object.get(0, 1), object.get(8, 1)), (vec![6.0], vec![9.0]));
}

#[test]
fn without_the_flag_there_is_none() {
    let server = Repository::new().model("m", "", &onnx::doubled(&[-1, 1])).serve("rten");
    let object = Object::new(64);
    let says = ["shared memory is off", "--shared-memory"];
    register(&server, "r", &object.key, 0, 64).refused(501, &says);
    server.get("/v2/systemsharedmemory/status").refused(501, &says);
    server.post("/v2/systemsharedmemory/unregister", &[], b"").refused(501, &says);
    server.post_json(INFER, &request(1, &place("r", 0, 4), None)).refused(501, &says);
    let inline = json!({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}],
        "outputs": [{"name": "y", "parameters": place("r", 0, 4)}],
    });
    server.post_json(INFER, &inline).refused(501, &says);
    let extensions = server.get("/v2").json()["extensions"].clone();
    assert!(!extensions.as_array().unwrap().contains(&json!("system_shared_memory")), "{extensions}");
}
