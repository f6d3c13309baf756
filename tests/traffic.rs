//! Two versions of a model at once: shares, sticky keys and the version's name in every HTTP protocol, copies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::onnx::{Pixels, classifier};
use crate::common::{Answer, Repository, base64, output, png, text};
use serde_json::json;
use visord::scheduler::traffic::key_hash;

const STICKY: &str = "sticky_header = \"X-User-Id\"\nsticky_parameter = \"user_id\"\n";

/// A model `m` of two versions whose logits differ.
fn repository(toml: &str) -> Repository {
    Repository::new()
        .file("m/model.toml", format!("max_batch_size = 4\n{toml}").as_bytes())
        .file("m/1/model.onnx", &classifier(Pixels::Nchw, 1.0))
        .file("m/2/model.onnx", &classifier(Pixels::Nchw, 0.5))
}

fn picture() -> Vec<u8> {
    png(8, 8, |x, y, c| ((x * 31 + y * 17) * (c as u32 + 2) % 256) as u8)
}

/// The version that gave an answer, out of its header.
#[track_caller]
fn version(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let header = answer.header("visord-model-version").unwrap_or_else(|| panic!("no header: {answer:?}"));
    let number = header.strip_prefix("m/").unwrap_or_else(|| panic!("{header}"));
    number.parse().unwrap()
}

/// Version 2 for the last 30 % of the range.
fn wanted(key: &str) -> u64 {
    let position = (u128::from(key_hash(key)) * 100) >> 64;
    if position < 70 { 1 } else { 2 }
}

fn oip(parameters: &serde_json::Value) -> Vec<u8> {
    let input = json!({"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(&picture())]});
    json!({"parameters": parameters, "inputs": [input]}).to_string().into_bytes()
}

const V1: &str = "/v1/models/m/infer";
const V2: &str = "/v2/models/m/infer";
const PADDLE: &str = "/m/prediction";
const PNG: (&str, &str) = ("Content-Type", "image/png");

#[test]
fn a_key_has_its_version_in_every_protocol() {
    let server = repository(&format!("[traffic]\n1 = 70\n2 = 30\n{STICKY}")).serve("rten");
    let picture = picture();
    let image = base64(&picture);
    let one = |v| {
        output(&server.post(&format!("/v1/models/m/versions/{v}/infer"), &[PNG], &picture).json(), "logits")
    };
    let logits = [one(1), one(2)];
    assert_ne!(logits[0], logits[1]);
    let mut seen = [0, 0];
    for number in 1000..1020 {
        let key = number.to_string();
        let want = wanted(&key);
        seen[want as usize - 1] += 1;
        let who = ("x-user-id", key.as_str());
        let query = format!("{V1}?user_id={key}&timeout=60000000");
        let paddle = json!({"key": ["user_id", "i0"], "value": [key, image]}).to_string();
        let paddle_header = json!({"key": ["i0"], "value": [image]}).to_string();
        let cases: [(&str, Answer); 9] = [
            ("plain, header", server.post(V1, &[PNG, who], &picture)),
            ("plain, query", server.post(&query, &[PNG], &picture)),
            ("npy", server.post(V1, &[PNG, who, ("Accept", "application/x-npy")], &picture)),
            ("floats", server.post(V1, &[PNG, who, ("Accept", "application/octet-stream")], &picture)),
            ("oip, header", server.post(V2, &[who], &oip(&json!({})))),
            ("oip, string", server.post(V2, &[], &oip(&json!({"user_id": key})))),
            ("oip, integer", server.post(V2, &[], &oip(&json!({"user_id": number})))),
            ("paddle, key", server.post(PADDLE, &[], paddle.as_bytes())),
            ("paddle, header", server.post(PADDLE, &[who], paddle_header.as_bytes())),
        ];
        for (name, answer) in cases {
            assert_eq!(version(&answer), want, "{key} by {name}");
            if name.starts_with("plain") || name.starts_with("oip") {
                let answer = answer.json();
                assert_eq!(answer["model_version"], want.to_string(), "{key} by {name}");
                assert_eq!(output(&answer, "logits"), logits[want as usize - 1], "{key} by {name}");
            } else if name.starts_with("paddle") {
                assert_eq!(answer.json()["err_no"], 0, "{key} by {name}: {}", answer.text());
            }
        }
        // A version that is named answers whoever asks.
        let path = format!("/v2/models/m/versions/{}/infer", 3 - want);
        assert_eq!(version(&server.post(&path, &[who], &oip(&json!({"user_id": key})))), 3 - want, "{key}");
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both versions had keys: {seen:?}");
    // A raw request has no place for a parameter.
    let raw = [("Inference-Header-Content-Length", "0"), ("x-user-id", "1000")];
    assert_eq!(version(&server.post(V2, &raw, &picture)), wanted("1000"));
    let metadata = server.get("/v2/models/m").json();
    assert_eq!(metadata["versions"], json!(["1", "2"]));
}

#[test]
fn without_a_key_each_version_gets_its_share() {
    let server = repository(&format!("[traffic]\n1 = 70\n2 = 30\n{STICKY}")).serve("rten");
    let picture = picture();
    let mut client = crate::common::Client::connect(server.http);
    let mut second = 0;
    for n in 1..=200 {
        second += u32::from(version(&client.send("POST", V1, &[PNG], &picture)) == 2);
        let want = f64::from(n) * 0.3;
        assert!((f64::from(second) - want).abs() <= 4.0, "{second} of {n} went to version 2");
    }
    let count = |v| {
        let more = "protocol=\"http\",outcome=\"success\"";
        server.metric(&format!("visord_inference_requests_total{{model=\"m\",version=\"{v}\",{more}}}"))
    };
    assert_eq!([count(1), count(2)], [f64::from(200 - second), f64::from(second)]);
    for v in [1, 2] {
        let line = format!("visord_inference_request_duration_seconds_count{{model=\"m\",version=\"{v}\"}}");
        assert_eq!(server.metric(&line), count(v));
    }
    let share = |v| server.metric(&format!("visord_traffic_share_ratio{{model=\"m\",version=\"{v}\"}}"));
    assert_eq!([share(1), share(2)], [0.7, 0.3]);
}

#[test]
fn hostile_keys_are_answered_like_others() {
    let server = repository(&format!("[traffic]\n1 = 70\n2 = 30\n{STICKY}")).serve("rten");
    let picture = picture();
    let long = "x".repeat(4_000);
    for header in ["", " ", long.as_str(), "\u{80}\u{ff}", "a\tb", "';drop table--", "%00"] {
        let answer = server.post(V1, &[PNG, ("x-user-id", header)], &picture);
        assert!(matches!(version(&answer), 1 | 2), "{header}");
    }
    let escaped = format!("user_id={}", "%78".repeat(1_000));
    for query in ["user_id=", "user_id", "user_id=%", "user_id=%ff%fe", "user_id=%00", escaped.as_str()] {
        assert!(
            matches!(version(&server.post(&format!("{V1}?{query}"), &[PNG], &picture)), 1 | 2),
            "{query}"
        );
    }
    assert_eq!(version(&server.post(&format!("{V1}?{escaped}"), &[PNG], &picture)), wanted(&long));
    server.post(&format!("{V1}?user=1"), &[PNG], &picture).refused(400, &["\"user\"", "output, user_id"]);
    let megabytes = "x".repeat(4 << 20);
    for key in [
        json!(null),
        json!(true),
        json!(1.5),
        json!([1]),
        json!({"a": {"b": "c"}}),
        json!(u64::MAX),
        json!(megabytes),
        json!("\u{0}\u{10ffff}"),
    ] {
        assert!(matches!(version(&server.post(V2, &[], &oip(&json!({"user_id": key})))), 1 | 2));
    }
    // Each character of the key in an escape of its own: as many bytes of body, the same key.
    let body =
        String::from_utf8(oip(&json!({"user_id": "@"}))).unwrap().replace('@', &"\\u0078".repeat(4_000));
    assert_eq!(version(&server.post(V2, &[], body.as_bytes())), wanted(&long));
    let paddle = json!({"key": ["i0", "user_id"], "value": [base64(&picture), megabytes]}).to_string();
    assert_eq!(version(&server.post(PADDLE, &[], paddle.as_bytes())), wanted(&long));
    assert_eq!(server.get("/v2/health/ready").status, 200);
}

/// Waits for what comes after an answer.
#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_shadow_is_compared_and_answers_nobody() {
    let outputs = "[[output]]\nname = \"logits\"\nlabel_filename = \"labels.txt\"\n";
    let shadow = "[traffic]\n1 = 100\n[shadow]\nversion = \"2\"\nfraction = 1.0\n";
    let with = repository(&format!("{outputs}{shadow}")).file("m/labels.txt", b"a\nb\nc\nd\n");
    let server = with.serve("rten");
    let picture = picture();
    let logits = |v: u32| {
        let answer = server.post(&format!("/v1/models/m/versions/{v}/infer"), &[PNG], &picture);
        output(&answer.json(), "logits").1
    };
    let (a, b) = (logits(1), logits(2));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
    assert!(cosine < 0.9999, "the versions differ: {cosine}");

    // Version 1 was asked by its name once, and that was copied too.
    let ran = |outcome: &str| {
        let more = format!("version=\"2\",protocol=\"shadow\",outcome=\"{outcome}\"");
        server.metric(&format!("visord_inference_requests_total{{model=\"m\",{more}}}"))
    };
    let shed = || {
        let text = server.get("/metrics").text();
        let lines =
            text.lines().filter(|l| l.starts_with("visord_shadow_shed_total{model=\"m\",version=\"1\""));
        lines.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    for n in 1..=10 {
        until("the copy before is done", || ran("success") + shed() >= f64::from(n));
        let answer = server.post(V1, &[PNG], &picture);
        assert_eq!(version(&answer), 1);
        assert_eq!(output(&answer.json(), "logits").1, a, "a shadow changes no answer");
    }
    until("every copy is done", || ran("success") + shed() >= 11.0);
    let compared = ran("success");
    assert!(compared >= 1.0, "{} copies were shed", shed());
    let labels = "model=\"m\",version=\"1\",shadow=\"2\"";
    let count = format!("visord_shadow_cosine_count{{{labels},output=\"logits\"}}");
    until("every copy is compared", || {
        server.get("/metrics").text().contains(&format!("{count} {compared}\n"))
    });
    let sum = server.metric(&format!("visord_shadow_cosine_sum{{{labels},output=\"logits\"}}"));
    assert!((sum / compared - cosine).abs() < 1e-5, "{} is not {cosine}", sum / compared);
    // Every bucket below the cosine is empty, every one above is full.
    for bound in visord::telemetry::names::COSINE_BUCKETS {
        let line = format!("visord_shadow_cosine_bucket{{{labels},output=\"logits\",le=\"{bound}\"}}");
        assert_eq!(server.metric(&line), if cosine <= bound { compared } else { 0.0 }, "{bound}");
    }
    let top = |v: &[f64]| (0..4).max_by(|i, j| v[*i].total_cmp(&v[*j])).unwrap();
    let agree = top(&a) == top(&b);
    let line = format!("visord_shadow_agreement_total{{{labels},output=\"logits\",agree=\"{agree}\"}}");
    assert_eq!(server.metric(&line), compared);
    for side in ["primary", "shadow"] {
        let line = format!("visord_shadow_duration_seconds_count{{{labels},side=\"{side}\"}}");
        assert_eq!(server.metric(&line), compared, "{side}");
    }
    // Of the shadow's own requests there was one, by its name.
    let seconds = "visord_inference_request_duration_seconds_count";
    assert_eq!(server.metric(&format!("{seconds}{{model=\"m\",version=\"2\"}}")), 1.0);
    let stats = &server.get("/v2/models/m/versions/2/stats").json()["model_stats"][0];
    assert_eq!(stats["inference_stats"]["success"]["count"], 1);
    // The documents without a version are of the one that answers.
    assert_eq!(server.get("/v2/models/m/stats").json()["model_stats"][0]["version"], "1");
}

#[test]
fn a_shadow_beside_a_version_policy() {
    let shadow = "[version_policy.all]\n[shadow]\nversion = \"2\"\nfraction = 0\n";
    let server = repository(shadow).serve("rten");
    assert_eq!(version(&server.post(V1, &[PNG], &picture())), 1);
    assert_eq!(server.get("/v2/health/ready").status, 200);
}

#[test]
fn only_what_is_named_is_served() {
    let repository = |toml: &str| repository(toml).file("m/3/model.onnx", &classifier(Pixels::Nchw, 3.0));
    let cases: [(&str, &[&str]); 4] = [
        ("[traffic]\n1 = 100\n", &["1"]),
        ("[traffic]\n1 = 100\n2 = 0\n", &["1", "2"]),
        ("[traffic]\n2 = 1\n[shadow]\nversion = \"3\"\nfraction = 0.5\n", &["2", "3"]),
        ("[traffic]\n1 = 1\n[version_policy.all]\n", &["1", "2", "3"]),
    ];
    for (toml, versions) in cases {
        let server = repository(toml).serve("rten");
        assert_eq!(server.get("/v2/models/m").json()["versions"], json!(versions), "{toml}");
    }
    let mistakes = [
        ("[traffic]\n1 = 90\n4 = 10\n", "traffic.4 = 4: has no folder"),
        (
            "[traffic]\n1 = 90\n3 = 10\n[version_policy.latest]\n",
            "traffic.1 = 90: must be a version that is served",
        ),
        (
            "[traffic]\n1 = 90\n[version_policy.specific]\nversions = [2]\n",
            "traffic.1 = 90: must be a version that is served, and version_policy chooses 2;",
        ),
        (
            "[shadow]\nversion = \"2\"\nfraction = 0.1\n",
            "shadow.version = \"2\": must be a version that is served, and version_policy chooses 3;",
        ),
        (
            "[shadow]\nversion = \"3\"\nfraction = 0.1\n",
            "shadow.version = \"3\": must leave another version to answer",
        ),
        (
            "[traffic]\n1 = 1\n[shadow]\nversion = \"9\"\nfraction = 0.1\n",
            "shadow.version = 9: has no folder",
        ),
    ];
    for (toml, want) in mistakes {
        let output = repository(toml).run("check", &[]);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(64), "{toml}: {text}");
        assert!(text.contains(want) && text.contains("1 mistake"), "{toml}: no \"{want}\" in\n{text}");
    }
}

/// Ends the clients of a test when dropped.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_change_of_traffic_loses_no_request_and_loads_no_version_again() {
    let weights = |one: u32, two: u32, shadow: &str| {
        format!("max_batch_size = 4\n[traffic]\n1 = {one}\n2 = {two}\n{STICKY}{shadow}")
    };
    let repository = repository("[traffic]\n1 = 100\n");
    let server = repository.serve_with("rten", &["--model-control-mode", "explicit", "--load-model", "m"]);
    let picture = picture();
    let stop = AtomicBool::new(false);
    let answered = std::thread::scope(|s| {
        let client = || {
            let mut client = crate::common::Client::connect(server.http);
            let mut answered = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.send("POST", V1, &[PNG], &picture);
                assert!(matches!(version(&answer), 1 | 2));
                answered += 1;
            }
            answered
        };
        let clients = [s.spawn(client), s.spawn(client)];
        // Also where an assertion fails: the clients would go on for ever.
        let stopping = Stopping(&stop);
        let shadow = "[shadow]\nversion = \"2\"\nfraction = 1.0\n";
        let steps = [(100, 0, shadow), (50, 50, shadow), (0, 100, ""), (100, 0, ""), (1, 99, "")];
        let mut counts = [0, 0];
        for (round, (one, two, shadow)) in steps.iter().cycle().take(15).enumerate() {
            let toml = weights(*one, *two, shadow);
            std::fs::write(repository.path().join("m/model.toml"), &toml).unwrap();
            let answer = server.post("/v2/repository/models/m/load", &[], b"{}");
            assert_eq!(answer.status, 200, "{toml}: {}", answer.text());
            let seen: Vec<u64> = (0..20).map(|_| version(&server.post(V1, &[PNG], &picture))).collect();
            for (v, weight) in [(1, one), (2, two)] {
                let has = seen.contains(&v);
                assert!(if *weight == 0 { !has } else { *weight < 50 || has }, "{toml}: {seen:?}");
                let share =
                    server.metric(&format!("visord_traffic_share_ratio{{model=\"m\",version=\"{v}\"}}"));
                assert!((share - f64::from(*weight) / 100.0).abs() < 1e-9, "{toml}: {share}");
                // A version that is loaded again counts from 0.
                let stats = &server.get(&format!("/v2/models/m/versions/{v}/stats")).json()["model_stats"][0];
                let count = stats["inference_count"].as_u64().unwrap();
                assert!(count >= counts[v as usize - 1], "round {round}: version {v} was loaded again");
                counts[v as usize - 1] = count;
            }
        }
        assert!(counts.iter().all(|c| *c > 100), "{counts:?}");
        drop(stopping);
        clients.map(|c| c.join().unwrap()).iter().sum::<u32>()
    });
    assert!(answered > 0);
    let text = server.get("/metrics").text();
    let failed = text.lines().find(|l| {
        l.starts_with("visord_inference_requests_total{model=\"m\"")
            && l.contains("protocol=\"http\"")
            && !l.contains("outcome=\"success\"")
    });
    assert_eq!(failed, None);
}
