//! gRPC at the edges: bounds, deadlines, cancellation, streams, and calls that are none. What clients of the protocol
//! do with it day by day is in `tests/clients/test_grpc*.py`.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::onnx::{self, Pixels};
use crate::common::{Repository, Server, output, png};
use bytes::Bytes;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// What a client generates from `proto/`.
#[allow(missing_docs, clippy::all, reason = "generated")]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/client/inference.rs"));
}

use pb::grpc_inference_service_client::GrpcInferenceServiceClient as Client;
use pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

/// Longest wait for something that is sure to come; only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(60);

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const READY: &str = "/inference.GRPCInferenceService/ServerReady";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// A request waits for company that never comes.
const WAITS: &str = "[dynamic_batching]\nmax_queue_delay_microseconds = 10000000\npreferred_batch_size = [4]\n\
                     [[instance_group]]\ncount = 1\n";

fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc)).unwrap();
    server.runtime.block_on(endpoint.connect()).unwrap()
}

fn client(server: &Server) -> Client<Channel> {
    Client::new(channel(server)).max_decoding_message_size(usize::MAX)
}

/// `y = 2 x`, one number a row.
fn doubled(toml: &str) -> Repository {
    Repository::new().model("m", toml, &onnx::doubled(&[-1, 1]))
}

fn number(value: f32) -> pb::ModelInferRequest {
    numbers(&[value])
}

fn numbers(values: &[f32]) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![values.len() as i64, 1],
            ..Default::default()
        }],
        raw_input_contents: vec![values.iter().flat_map(|v| v.to_le_bytes()).collect()],
        ..Default::default()
    }
}

fn values(answer: &pb::ModelInferResponse) -> Vec<f32> {
    answer.raw_output_contents[0].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// How a call ended that was made by hand.
#[derive(Debug)]
struct Ended {
    http: u16,
    code: Option<Code>,
    message: String,
    reason: String,
    retry_after: Option<String>,
}

impl Ended {
    fn of(response: &Response<Body>) -> Self {
        let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let status = Status::from_header_map(response.headers());
        Self {
            http: response.status().as_u16(),
            code: status.as_ref().map(Status::code),
            message: status.map(|s| s.message().to_owned()).unwrap_or_default(),
            reason: header("visord-reason").unwrap_or_default(),
            retry_after: header("retry-after"),
        }
    }
}

/// Makes a call by hand: head and body are what they are told to be.
fn call(server: &Server, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Ended {
    let body = Body::new(Full::new(body.into()));
    let response = server.runtime.block_on(send(server, path, headers, body));
    Ended::of(&response)
}

async fn send(server: &Server, path: &str, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut request = Request::post(format!("http://{}{path}", server.grpc));
    if headers.iter().all(|(name, _)| *name != "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // Not a channel of tonic's, which gives up at `grpc-timeout` by itself.
    let stream = tokio::net::TcpStream::connect(server.grpc).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request.body(body).unwrap()));
    answer.await.expect("an answer").unwrap().map(Body::new)
}

/// A message with its head.
fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn encoded(request: &pb::ModelInferRequest) -> Vec<u8> {
    prost::Message::encode_to_vec(request)
}

#[track_caller]
fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn outcomes(server: &Server, outcome: &str) -> f64 {
    let line = format!(
        "visord_inference_requests_total{{model=\"m\",version=\"1\",protocol=\"oip_grpc\",outcome=\"{outcome}\"}}"
    );
    let text = server.get("/metrics").text();
    text.lines().find_map(|l| l.strip_prefix(&line)?.trim().parse().ok()).unwrap_or(0.0)
}

fn pending(server: &Server) -> f64 {
    server.metric("visord_pending_rows{model=\"m\",version=\"1\"}")
}

fn inflight_bytes(server: &Server) -> f64 {
    server.metric("visord_request_inflight_bytes")
}

fn errors(server: &Server, protocol: &str, reason: &str) -> f64 {
    let line = format!("visord_request_errors_total{{protocol=\"{protocol}\",reason=\"{reason}\"}}");
    let text = server.get("/metrics").text();
    text.lines().find_map(|l| l.strip_prefix(&line)?.trim().parse().ok()).unwrap_or(0.0)
}

#[test]
fn typed_raw_and_http_give_the_same_bits() {
    let repository = Repository::new().model("small", "", &onnx::classifier(Pixels::Nchw, 1.0));
    let server = repository.serve("rten");
    let mut client = client(&server);
    let picture = png(9, 7, |x, y, c| (x * 20 + y * 3) as u8 + c as u8);
    let http = server.post("/v1/models/small/infer", &[("Content-Type", "image/png")], &picture).json();
    let want: Vec<u32> = output(&http, "logits").1.iter().map(|v| (*v as f32).to_bits()).collect();
    let image = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        ..Default::default()
    };
    let request = pb::ModelInferRequest { model_name: "small".into(), ..Default::default() };
    let element = [&(picture.len() as u32).to_le_bytes()[..], &picture].concat();
    let raw = pb::ModelInferRequest {
        inputs: vec![image.clone()],
        raw_input_contents: vec![element.into()],
        ..request.clone()
    };
    let contents = pb::InferTensorContents { bytes_contents: vec![picture.into()], ..Default::default() };
    let typed = pb::ModelInferRequest {
        inputs: vec![InferInputTensor { contents: Some(contents), ..image }],
        outputs: vec![InferRequestedOutputTensor { name: "logits".into(), ..Default::default() }],
        ..request
    };
    for (name, request) in [("raw", raw), ("typed", typed)] {
        let answer = server.runtime.block_on(client.model_infer(request)).unwrap().into_inner();
        let bits: Vec<u32> = values(&answer).iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, want, "{name}");
        assert_eq!(
            (answer.outputs[0].name.as_str(), &answer.outputs[0].shape[..]),
            ("logits", &[1, want.len() as i64][..])
        );
        assert_eq!(answer.model_version, "1");
    }
}

#[test]
fn calls_that_are_none_are_refused() {
    let server =
        doubled("").serve_with("rten", &["--max-body-bytes", "100000", "--max-inflight-bytes", "150000"]);
    let good = framed(&encoded(&number(1.0)));
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        let inner = encoder.finish().unwrap();
        [&[1], &(inner.len() as u32).to_be_bytes()[..], &inner].concat()
    };
    let zipped = ("grpc-encoding", "gzip");
    let image = |bytes: usize| {
        let mut request = number(1.0);
        request.raw_input_contents = vec![vec![0; bytes].into()];
        encoded(&request)
    };
    type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, Vec<u8>, Code, &'a str, &'a str);
    let cases: Vec<Case<'_>> = vec![
        ("no message", INFER, vec![], vec![], Code::InvalidArgument, "malformed_protobuf", "no message"),
        (
            "half a head",
            INFER,
            vec![],
            good[..3].to_vec(),
            Code::InvalidArgument,
            "malformed_protobuf",
            "3 of 5 bytes",
        ),
        (
            "half a message",
            INFER,
            vec![],
            good[..20].to_vec(),
            Code::InvalidArgument,
            "malformed_protobuf",
            "after 15 of the message's",
        ),
        (
            "two messages",
            INFER,
            vec![],
            good.repeat(2),
            Code::InvalidArgument,
            "malformed_protobuf",
            "second message",
        ),
        (
            "bad flag",
            INFER,
            vec![],
            [&[7], &good[1..]].concat(),
            Code::InvalidArgument,
            "malformed_protobuf",
            "got 7",
        ),
        (
            "no protobuf",
            INFER,
            vec![],
            framed(b"\xff\xff\xff"),
            Code::InvalidArgument,
            "malformed_protobuf",
            "no protobuf",
        ),
        (
            "cut protobuf",
            INFER,
            vec![],
            framed(&encoded(&number(1.0))[..20]),
            Code::InvalidArgument,
            "malformed_protobuf",
            "no protobuf",
        ),
        (
            "no protobuf, small",
            READY,
            vec![],
            framed(b"\x0a\x7f"),
            Code::InvalidArgument,
            "malformed_protobuf",
            "no protobuf",
        ),
        (
            "fields",
            READY,
            vec![],
            framed(&[0x08, 0].repeat(5000)),
            Code::InvalidArgument,
            "invalid_argument",
            "more than 4096 fields",
        ),
        (
            "large",
            INFER,
            vec![],
            framed(&image(100_000)),
            Code::ResourceExhausted,
            "body_too_large",
            "--max-body-bytes 100000",
        ),
        (
            "said to be large",
            INFER,
            vec![],
            [&[0], &u32::MAX.to_be_bytes()[..]].concat(),
            Code::ResourceExhausted,
            "body_too_large",
            "--max-body-bytes 100000",
        ),
        (
            "a bomb",
            INFER,
            vec![zipped],
            gzip(&image(5_000_000)),
            Code::ResourceExhausted,
            "body_too_large",
            "inflates to more than --max-body-bytes 100000",
        ),
        (
            "more than there is",
            INFER,
            vec![zipped],
            gzip(&image(99_000)),
            Code::Unavailable,
            "overloaded",
            "--max-inflight-bytes 150000",
        ),
        (
            "not gzip",
            INFER,
            vec![zipped],
            [&[1], &good[1..]].concat(),
            Code::InvalidArgument,
            "corrupt_encoding",
            "gzip",
        ),
        (
            "compressed, not said how",
            INFER,
            vec![],
            gzip(&encoded(&number(1.0))),
            Code::InvalidArgument,
            "corrupt_encoding",
            "no grpc-encoding",
        ),
        (
            "encoding",
            INFER,
            vec![("grpc-encoding", "br")],
            good.clone(),
            Code::Unimplemented,
            "unsupported_encoding",
            "br",
        ),
        (
            "timeout",
            INFER,
            vec![("grpc-timeout", "soon")],
            good.clone(),
            Code::InvalidArgument,
            "invalid_argument",
            "grpc-timeout",
        ),
        (
            "method",
            "/inference.GRPCInferenceService/Nothing",
            vec![],
            good.clone(),
            Code::Unimplemented,
            "unknown_path",
            "GRPCInferenceService/Nothing",
        ),
        (
            "service",
            "/nothing/ModelInfer",
            vec![],
            good.clone(),
            Code::Unimplemented,
            "unknown_path",
            "/nothing/ModelInfer",
        ),
        (
            "path",
            "/",
            vec![],
            good.clone(),
            Code::Unimplemented,
            "unknown_path",
            "inference.GRPCInferenceService",
        ),
        (
            "health's method",
            "/grpc.health.v1.Health/Nothing",
            vec![],
            good.clone(),
            Code::Unimplemented,
            "unknown_path",
            "Nothing",
        ),
    ];
    for (name, path, headers, body, code, reason, words) in cases {
        let ended = call(&server, path, &headers, body);
        assert_eq!(
            (ended.http, ended.code, ended.reason.as_str()),
            (200, Some(code), reason),
            "{name}: {ended:?}"
        );
        assert!(ended.message.contains(words), "{name}: {ended:?}");
        assert_eq!(ended.retry_after.as_deref(), (reason == "overloaded").then_some("1"), "{name}");
        let protocol = if path.starts_with("/inference.") { "oip_grpc" } else { "none" };
        assert!(errors(&server, protocol, reason) >= 1.0, "{name} is not counted");
        assert_eq!(inflight_bytes(&server), 0.0, "{name} holds memory");
    }
    for (name, headers, status) in [
        ("JSON", vec![("content-type", "application/json")], 415),
        ("gRPC-Web", vec![("content-type", "application/grpc-web")], 415),
    ] {
        let ended = call(&server, INFER, &headers, good.clone());
        assert_eq!((ended.http, ended.code), (status, None), "{name}: {ended:?}");
    }
    // What is right beside all that is answered.
    for (name, headers, body) in [
        ("plain", vec![], good.clone()),
        ("compressed", vec![zipped], gzip(&encoded(&number(1.0)))),
        ("not compressed, though it might be", vec![zipped], good.clone()),
        ("with a type", vec![("content-type", "application/grpc+proto")], good.clone()),
        ("as large as allowed", vec![], {
            let mut request = number(1.0);
            request.parameters.insert("p".into(), text("a".repeat(99_000)));
            framed(&encoded(&request))
        }),
    ] {
        let ended = call(&server, INFER, &headers, body);
        assert_eq!(ended.code, None, "{name}: {ended:?}");
    }
    let small = 1 << 20;
    let server = doubled("").serve("rten");
    let ended = call(&server, READY, &[], framed(&vec![0; small + 1]));
    assert_eq!(ended.code, Some(Code::ResourceExhausted), "{ended:?}");
    assert!(ended.message.contains("takes up to 1048576"), "{ended:?}");
}

fn text(value: String) -> pb::InferParameter {
    use pb::infer_parameter::ParameterChoice::StringParam;
    pb::InferParameter { parameter_choice: Some(StringParam(value)) }
}

/// A body that is sent in pieces, as told.
fn pieces() -> (mpsc::Sender<Vec<u8>>, Body) {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(8);
    let frames = ReceiverStream::new(receiver).map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
    (sender, Body::new(StreamBody::new(frames)))
}

#[test]
fn a_message_counts_against_the_budget_while_it_arrives() {
    let flags = ["--max-body-bytes", "100000", "--max-inflight-bytes", "150000"];
    let server = doubled("").serve_with("rten", &flags);
    let (sender, body) = pieces();
    let head = [&[0], &90_000_u32.to_be_bytes()[..]].concat();
    server.runtime.block_on(sender.send(head)).unwrap();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| Ended::of(&server.runtime.block_on(send(&server, INFER, &[], body))));
        wait("the head of the message reserves its size", || inflight_bytes(&server) == 90_000.0);
        let mut request = number(1.0);
        request.parameters.insert("p".into(), text("a".repeat(80_000)));
        let ended = call(&server, INFER, &[], framed(&encoded(&request)));
        assert_eq!((ended.code, ended.reason.as_str()), (Some(Code::Unavailable), "overloaded"), "{ended:?}");
        assert_eq!(call(&server, INFER, &[], framed(&encoded(&number(1.0)))).code, None, "a small one fits");
        drop(sender);
        let ended = held.join().unwrap();
        assert_eq!(ended.reason, "malformed_protobuf", "{ended:?}");
    });
    assert_eq!(inflight_bytes(&server), 0.0);
}

#[test]
fn a_slow_message_is_ended() {
    let server = doubled("").serve_with("rten", &["--request-read-timeout-secs", "1"]);
    for (name, path, first) in [
        ("nothing at all", INFER, vec![]),
        ("a part", INFER, framed(&encoded(&number(1.0)))[..9].to_vec()),
        ("a part, on a stream", STREAM, framed(&encoded(&number(1.0)))[..9].to_vec()),
    ] {
        let (sender, body) = pieces();
        let (status, reason) = server.runtime.block_on(async {
            if !first.is_empty() {
                sender.send(first).await.unwrap();
            }
            let response = send(&server, path, &[], body).await;
            trailers(response).await
        });
        assert_eq!(
            (status.code(), reason.as_str()),
            (Code::DeadlineExceeded, "slow_client"),
            "{name}: {status:?}"
        );
        assert!(status.message().contains("--request-read-timeout-secs 1"), "{name}: {status:?}");
        drop(sender);
    }
    // Time between the messages of a stream is no slowness.
    let mut client = client(&server);
    server.runtime.block_on(async {
        let (sender, receiver) = mpsc::channel(1);
        let mut answers =
            client.model_stream_infer(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        for round in 0..2_u8 {
            sender.send(number(f32::from(round))).await.unwrap();
            let answer = answers.next().await.unwrap().unwrap();
            assert_eq!(values(&answer.infer_response.unwrap()), [2.0 * f32::from(round)]);
            tokio::time::sleep(Duration::from_millis(1_200)).await;
        }
    });
}

/// The status at the end of an answer, and its reason.
async fn trailers(response: Response<Body>) -> (Status, String) {
    use http_body_util::BodyExt as _;
    let (parts, body) = response.into_parts();
    let trailers = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().trailers().cloned();
    let headers = trailers.unwrap_or(parts.headers);
    let reason = headers.get("visord-reason").map_or_else(String::new, |v| v.to_str().unwrap().to_owned());
    (Status::from_header_map(&headers).unwrap(), reason)
}

#[test]
fn a_deadline_is_the_shorter_of_two() {
    let server = doubled(WAITS).serve("rten");
    let micros = |value: i64| pb::InferParameter {
        parameter_choice: Some(pb::infer_parameter::ParameterChoice::Int64Param(value)),
    };
    for (name, header, parameter, names) in [
        ("the call's", Some("50m"), None, "50000 microseconds"),
        ("the request's", None, Some(60_000), "60000 microseconds"),
        ("the call's is shorter", Some("50m"), Some(60_000_000), "50000 microseconds"),
        ("the request's is shorter", Some("60S"), Some(70_000), "70000 microseconds"),
    ] {
        let mut message = number(1.0);
        if let Some(value) = parameter {
            message.parameters.insert("timeout".into(), micros(value));
        }
        let headers: Vec<_> = header.iter().map(|value| ("grpc-timeout", *value)).collect();
        let before = outcomes(&server, "deadline_exceeded");
        // By hand: a client of tonic's would give up by itself.
        let ended = call(&server, INFER, &headers, framed(&encoded(&message)));
        assert_eq!(ended.code, Some(Code::DeadlineExceeded), "{name}: {ended:?}");
        assert_eq!(ended.reason, "deadline_exceeded", "{name}: {ended:?}");
        assert!(ended.message.contains(names), "{name}: {ended:?}");
        assert_eq!(outcomes(&server, "deadline_exceeded"), before + 1.0, "{name}");
        assert_eq!(pending(&server), 0.0, "{name}: its row is out of the queue");
    }
}

#[test]
fn a_client_that_leaves_takes_its_rows_along() {
    let server = doubled(WAITS).serve("rten");
    let mut client = client(&server);
    let call = server.runtime.spawn(async move { client.model_infer(number(1.0)).await });
    wait("the request waits in the queue", || pending(&server) == 1.0);
    call.abort();
    wait("it is out of the queue", || pending(&server) == 0.0);
    wait("and counted", || outcomes(&server, "cancelled") == 1.0);
    assert_eq!(inflight_bytes(&server), 0.0);

    // So does a stream with several.
    let mut client = self::client(&server);
    let (sender, receiver) = mpsc::channel(8);
    let answers = server.runtime.block_on(async {
        for _ in 0..3 {
            sender.send(number(1.0)).await.unwrap();
        }
        client.model_stream_infer(ReceiverStream::new(receiver)).await.unwrap()
    });
    wait("the stream's requests wait in the queue", || pending(&server) == 3.0);
    drop((answers, sender, client));
    wait("they are out of the queue", || pending(&server) == 0.0);
    wait("and counted", || outcomes(&server, "cancelled") == 4.0);
    wait("and their memory is free", || inflight_bytes(&server) == 0.0);
}

#[test]
fn a_stream_answers_out_of_order_and_goes_on_after_errors() {
    let server = doubled("").serve("rten");
    let mut client = client(&server);
    let named = |id: &str, mut request: pb::ModelInferRequest| {
        request.id = id.into();
        request
    };
    let mut wrong = number(1.0);
    wrong.raw_input_contents[0] = vec![0; 3].into();
    let requests = vec![
        named("a", number(1.0)),
        named("size", wrong),
        named("model", pb::ModelInferRequest { model_name: "nothing".into(), ..number(1.0) }),
        named("b", numbers(&[3.0, 4.0])),
    ];
    let mut answers = server.runtime.block_on(async {
        let answers = client.model_stream_infer(tokio_stream::iter(requests)).await.unwrap().into_inner();
        answers.collect::<Result<Vec<_>, _>>().await.unwrap()
    });
    let id = |a: &pb::ModelStreamInferResponse| a.infer_response.as_ref().unwrap().id.clone();
    answers.sort_by_key(id);
    assert_eq!(answers.iter().map(id).collect::<Vec<_>>(), ["a", "b", "model", "size"]);
    let response = |at: usize| answers[at].infer_response.as_ref().unwrap();
    assert_eq!((values(response(0)), values(response(1))), (vec![2.0], vec![6.0, 8.0]));
    for (at, word) in [(0, ""), (1, ""), (2, "unknown model"), (3, "raw_input_contents")] {
        let text = &answers[at].error_message;
        assert!(text.contains(word) && text.is_empty() == word.is_empty(), "{at}: {text}");
    }
    assert_eq!(errors(&server, "oip_grpc", "binary_size"), 1.0);
    assert_eq!(inflight_bytes(&server), 0.0);
}

/// A stream has 256 requests in flight and no more: the rest is not read, and holds no memory here.
#[test]
fn a_stream_is_not_read_beyond_its_bound() {
    // Rows of different shapes cannot share a batch, so each waits for company by itself.
    let repository = Repository::new().model("m", WAITS, &onnx::doubled(&[-1, -1]));
    let server = repository.serve("rten");
    let mut client = client(&server);
    let requests = tokio_stream::iter((1..=400).map(|n| {
        let mut request = numbers(&vec![1.0; n]);
        request.inputs[0].shape = vec![1, n as i64];
        request
    }));
    let answers = server.runtime.block_on(client.model_stream_infer(requests)).unwrap();
    wait("256 wait", || pending(&server) == 256.0);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(pending(&server), 256.0, "and no more come");
    drop(answers);
    wait("they are out of the queue", || pending(&server) == 0.0);
}

#[test]
fn a_stream_ends_at_its_deadline() {
    let server = doubled(WAITS).serve("rten");
    let mut client = client(&server);
    let (sender, receiver) = mpsc::channel(8);
    let mut request = tonic::Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let ended = server.runtime.block_on(async {
        sender.send(number(1.0)).await.unwrap();
        let mut answers = client.model_stream_infer(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(answer) = answers.next().await {
            last = Some(answer);
        }
        last
    });
    let error = ended.unwrap().expect_err("the stream ends with an error");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    wait("nothing is left in the queue", || pending(&server) == 0.0);
}

#[test]
fn documents_of_several_versions() {
    let repository = Repository::new()
        .file("m/model.toml", b"[version_policy.all]\n")
        .file("m/1/model.onnx", &onnx::doubled(&[-1, 1]))
        .file("m/2/model.onnx", &onnx::doubled(&[-1, 1]));
    let server = repository.serve("rten");
    let mut client = client(&server);
    let block = &server.runtime;
    for version in ["1", "2", ""] {
        let request = pb::ModelInferRequest { model_version: version.into(), ..number(1.0) };
        let answer = block.block_on(client.model_infer(request)).unwrap().into_inner();
        assert_eq!(answer.model_version, if version.is_empty() { "2" } else { version });
    }
    for (name, version, want) in [("", "", vec!["1", "2"]), ("m", "", vec!["1", "2"]), ("m", "1", vec!["1"])]
    {
        let request = pb::ModelStatisticsRequest { name: name.into(), version: version.into() };
        let statistics = block.block_on(client.model_statistics(request)).unwrap().into_inner().model_stats;
        let versions: Vec<&str> = statistics.iter().map(|s| s.version.as_str()).collect();
        assert_eq!(versions, want, "{name} {version}");
        let counts: Vec<u64> = statistics.iter().map(|s| s.inference_count).collect();
        assert_eq!(counts, if want.len() == 2 { vec![1, 2] } else { vec![1] });
    }
    let http = server.get("/v2/models/m/stats").json();
    assert_eq!(http["model_stats"].as_array().map(Vec::len), Some(2), "HTTP tells the same: {http}");
    let request = pb::ModelStatisticsRequest { name: "m".into(), version: "3".into() };
    let error = block.block_on(client.model_statistics(request)).unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let index = block.block_on(client.repository_index(pb::RepositoryIndexRequest::default())).unwrap();
    let index: Vec<_> =
        index.into_inner().models.into_iter().map(|m| json!([m.name, m.version, m.state])).collect();
    assert_eq!(json!(index), json!([["m", "1", "READY"], ["m", "2", "READY"]]));
}
