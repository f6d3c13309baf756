//! `visord bench` against the daemon, and against servers that misbehave in every way that it must survive.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::onnx::{self, Pixels};
use crate::common::pki::Authority;
use crate::common::{Client, Repository, png, visord};
use serde_json::Value;

/// Longest wait for something that is sure to come; only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(60);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a command did.
struct Ran {
    status: i32,
    text: String,
    json: Value,
}

/// Runs `visord bench` without a warm-up, to its end.
fn bench(flags: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("run.json");
    let output = visord()
        .args(["bench", "--quiet", "--warmup", "0", "--json"])
        .arg(&json)
        .args(flags)
        .output()
        .unwrap();
    let text = crate::common::text(&output);
    let document = std::fs::read(&json).ok().and_then(|b| serde_json::from_slice(&b).ok());
    Ran { status: output.status.code().unwrap_or(-1), text, json: document.unwrap_or(Value::Null) }
}

impl Ran {
    /// The only run.
    #[track_caller]
    fn run(&self) -> &Value {
        let runs = self.json["runs"].as_array().unwrap_or_else(|| panic!("no JSON: {}", self.text));
        assert_eq!(runs.len(), 1, "{}", self.text);
        &runs[0]
    }

    /// Requests, good answers, failures.
    #[track_caller]
    fn counts(&self) -> [u64; 3] {
        ["requests", "ok", "failed"].map(|key| self.run()[key].as_u64().unwrap())
    }

    /// The failures as `kind code count`.
    #[track_caller]
    fn errors(&self) -> Vec<(String, Option<i64>, u64)> {
        let errors = self.run()["errors"].as_array().unwrap().iter();
        errors
            .map(|e| {
                (e["kind"].as_str().unwrap().to_owned(), e["code"].as_i64(), e["count"].as_u64().unwrap())
            })
            .collect()
    }
}

/// What a server does with its n-th request (from 0): whether the connection goes on.
type Answers = dyn Fn(usize, &mut TcpStream) -> bool + Send + Sync;

/// A server that answers GET as it is told, a thread for each connection.
struct Fake {
    address: SocketAddr,
    url: String,
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Fake {
    fn start(answers: impl Fn(usize, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ended) = (Arc::clone(&requests), Arc::clone(&stop));
        let answers: Arc<Answers> = Arc::new(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (answers, counter) = (Arc::clone(&answers), Arc::clone(&counter));
                std::thread::spawn(move || serve(stream, &*answers, &counter));
            }
        });
        Self { address, url: format!("http://{address}/x"), requests, stop }
    }

    /// Answers each request after `delay`.
    fn slow(delay: Duration) -> Self {
        Self::start(move |_, stream| {
            std::thread::sleep(delay);
            stream.write_all(OK).is_ok()
        })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, answers: &Answers, counter: &AtomicUsize) {
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if !answers(counter.fetch_add(1, Ordering::Relaxed), &mut stream) {
                return;
            }
        }
    }
}

/// Two images in a folder.
fn images(folder: &Path) -> String {
    let folder = folder.join("images");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, shift) in [("a.png", 0), ("b.png", 90)] {
        let file = png(9, 7, |x, y, c| (x * 7 + y * 5) as u8 + c as u8 * 20 + shift);
        std::fs::write(folder.join(name), file).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

#[test]
fn every_protocol_is_counted_as_the_daemon_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path());
    let network = onnx::classifier(Pixels::Nchw, 1.0);
    // Where rows are never joined, answers are the same to the last bit.
    let alone = "max_batch_size = 1\n";
    let server = Repository::new().model("m", "", &network).model("alone", alone, &network).serve("rten");
    let (http, grpc) = (format!("http://{}", server.http), format!("http://{}", server.grpc));
    let metrics = format!("http://{}/metrics", server.metrics);
    let cases: [(&str, &str, &[&str], u64); 10] = [
        ("http", "http", &[], 1),
        ("http", "http", &["--http-version", "2", "--streams", "4"], 1),
        ("http", "http", &["--threads", "2", "--order", "shuffle", "--verify"], 1),
        ("http", "http", &["--rate", "500", "--arrivals", "poisson"], 1),
        ("oip", "oip_http", &["--batch", "3"], 3),
        ("oip-json", "oip_http", &["--http-version", "2"], 1),
        ("oip-grpc", "oip_grpc", &["--streams", "3", "--batch", "2"], 2),
        ("paddle", "paddle_http", &["--batch", "2"], 2),
        ("paddle-grpc", "paddle_grpc", &[], 1),
        ("oip-grpc", "oip_grpc", &["--rate", "300", "--verify"], 1),
    ];
    for (protocol, label, flags, rows) in cases {
        let model = if flags.contains(&"--verify") { "alone" } else { "m" };
        let line = format!(
            "visord_inference_requests_total{{model=\"{model}\",version=\"1\",protocol=\"{label}\",outcome=\"success\"}}"
        );
        let inferred = format!("visord_inference_rows_total{{model=\"{model}\",version=\"1\"}}");
        let before = (server.metric(&line), server.metric(&inferred));
        let url = if protocol.contains("grpc") { &grpc } else { &http };
        let common =
            [url, "--protocol", protocol, "--model", model, "--images", &images, "-n", "30", "-c", "3"];
        let ran = bench(&[&common[..], &["--server-metrics", &metrics], flags].concat());
        let case = format!("{protocol} {flags:?}: {}", ran.text);
        assert_eq!((ran.status, ran.counts()), (0, [30, 30, 0]), "{case}");
        assert_eq!(server.metric(&line) - before.0, 30.0, "{case}");
        assert_eq!(server.metric(&inferred) - before.1, (30 * rows) as f64, "{case}");
        let run = ran.run();
        let stages = run["server_stages"].as_array().unwrap();
        let queue = stages.iter().find(|s| s["name"] == "queue").unwrap_or_else(|| panic!("{case}"));
        assert_eq!(queue["count"].as_u64(), Some(30 * rows), "{case}");
        assert_eq!(run["connections_opened"], 3, "{case}");
        let [p50, p99, max] = ["p50", "p99", "max"].map(|p| run["latency_ms"][p].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{case}");
    }
    // What the server refuses is told with its reason.
    for (protocol, url, kind, code, words) in [
        ("http", &http, "status", 404, "nobody"),
        ("oip-grpc", &grpc, "grpc_status", 5, "nobody"),
        // PaddleServing fails with status 200.
        ("paddle", &http, "err_no", 3002, "Service name error"),
        ("paddle-grpc", &grpc, "err_no", 3002, "Service name error"),
    ] {
        let flags = [url, "--protocol", protocol, "--model", "nobody", "--images", &images, "-n", "5"];
        let ran = bench(&flags);
        assert_eq!((ran.status, ran.counts()), (1, [5, 0, 5]), "{protocol}: {}", ran.text);
        assert_eq!(ran.errors(), [(kind.to_owned(), Some(code), 5)], "{protocol}: {}", ran.text);
        assert!(ran.text.contains(words), "{protocol}: {}", ran.text);
    }
}

#[test]
fn tls_is_checked_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path());
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let (cert, key) = authority.identity(2040).write(&dir.path().join("server"));
    let (own_cert, own_key) = authority.identity(2040).write(&dir.path().join("client"));
    let [ca, other_ca] = [("ca.pem", &authority), ("other.pem", &stranger)].map(|(name, authority)| {
        let path = dir.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let [cert, key, own_cert, own_key] =
        [cert, key, own_cert, own_key].map(|p| p.to_str().unwrap().to_owned());
    let repository = Repository::new().model("m", "", &onnx::classifier(Pixels::Nchw, 1.0));
    let flags = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let server = repository.serve_with("rten", &flags);
    let (http, grpc) = (format!("https://{}", server.http), format!("https://{}", server.grpc));
    let trusted = ["--tls-ca", &ca, "--tls-server-name", "localhost"];
    let identity = ["--tls-cert", &own_cert, "--tls-key", &own_key];
    let cases: [(&str, &str, Vec<&str>, bool); 6] = [
        ("http", &http, [&trusted[..], &identity].concat(), true),
        ("http", &http, [&trusted[..], &identity, &["--http-version", "2"]].concat(), true),
        ("oip-grpc", &grpc, [&trusted[..], &identity].concat(), true),
        ("http", &http, trusted.to_vec(), false),
        (
            "http",
            &http,
            [&["--tls-ca", &*other_ca, "--tls-server-name", "localhost"][..], &identity].concat(),
            false,
        ),
        (
            "http",
            &http,
            [&["--tls-ca", &*ca, "--tls-server-name", "elsewhere"][..], &identity].concat(),
            false,
        ),
    ];
    for (protocol, url, flags, works) in cases {
        let common = [url, "--protocol", protocol, "--model", "m", "--images", &images, "-n", "6", "-c", "2"];
        let ran = bench(&[&common[..], &flags].concat());
        let want = if works { (0, [6, 6, 0]) } else { (1, [6, 0, 6]) };
        assert_eq!((ran.status, ran.counts()), want, "{protocol} {flags:?}: {}", ran.text);
    }
}

#[test]
fn a_stall_is_seen_by_every_request_that_was_due_in_it() {
    // One connection, 100 requests a second, one stall of a second: the k-th slowest waits 1000 - 10 k ms.
    let fake = Fake::start(|n, stream| {
        if n == 50 {
            std::thread::sleep(Duration::from_secs(1));
        }
        stream.write_all(OK).is_ok()
    });
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("requests.csv");
    let ran = bench(&[&fake.url, "-c", "1", "--rate", "100", "-d", "2.5", "--log", log.to_str().unwrap()]);
    assert_eq!((ran.status, ran.counts()), (0, [250, 250, 0]), "{}", ran.text);
    let run = ran.run();
    let response = |p: &str| run["latency_ms"][p].as_f64().unwrap();
    let open = &run["open_loop"];
    for (p, least) in [("max", 995.0), ("p99", 950.0), ("p95", 850.0), ("p90", 725.0)] {
        assert!(response(p) >= least, "{p}: {}", ran.text);
    }
    // Due half a second or more before the stall's end: 50, and the one that stalled.
    let log = std::fs::read_to_string(log).unwrap();
    let times: Vec<Vec<f64>> = log
        .lines()
        .skip(1)
        .map(|l| l.split(',').skip(1).take(3).map(|t| t.parse().unwrap()).collect())
        .collect();
    assert_eq!(times.len(), 250, "{log}");
    let slow = times.iter().filter(|t| t[2] - t[0] > 0.495).count();
    assert!(slow >= 50 && times.iter().all(|t| t[0] <= t[1] && t[1] <= t[2]), "{slow}: {log}");
    // What a closed loop would show: one slow answer of 250.
    assert!(open["service_ms"]["max"].as_f64().unwrap() >= 995.0, "{}", ran.text);
    assert!(open["service_ms"]["p90"].as_f64().unwrap() < response("p90"), "{}", ran.text);
    assert_eq!(open["due"], 250, "{}", ran.text);
    assert!(open["sent_late"].as_u64().unwrap() >= 95, "{}", ran.text);
    assert!(open["backlog_max"].as_u64().unwrap() >= 90, "{}", ran.text);
    assert!(ran.text.contains("left more than 1 ms late"), "{}", ran.text);
}

#[test]
fn a_backlog_has_a_bound_and_what_is_beyond_it_counts() {
    let fake = Fake::slow(Duration::from_millis(200));
    for (flags, why) in [
        (["--max-backlog", "5", "--timeout", "20"], "--max-backlog"),
        (["--max-backlog", "1000", "--timeout", "0.5"], "waited longer than --timeout"),
    ] {
        let ran = bench(&[&[&*fake.url, "-c", "1", "--rate", "200", "-d", "1"][..], &flags].concat());
        let [requests, ok, failed] = ran.counts();
        assert_eq!((ran.status, requests, ok + failed), (1, 200, 200), "{flags:?}: {}", ran.text);
        assert!(ok >= 1 && ran.text.contains(why), "{flags:?}: {}", ran.text);
        let errors = ran.errors();
        assert!(errors.iter().any(|(k, _, n)| k == "not_sent" && *n >= 150), "{flags:?}: {errors:?}");
    }
}

#[test]
fn each_way_to_fail_has_its_name_and_is_bounded() {
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endless = |begin: &'static [u8], more: &'static [u8]| {
        move |_: usize, stream: &mut TcpStream| {
            let _ = stream.write_all(begin);
            let block = more.repeat(1000);
            while stream.write_all(&block).is_ok() {}
            false
        }
    };
    let failing = |bytes: &'static [u8], goes_on: bool| {
        Fake::start(move |_, stream| stream.write_all(bytes).is_ok() && goes_on)
    };
    let error = b"HTTP/1.1 500 Oops\r\nContent-Length: 18\r\n\r\nthe disk is broken";
    // What, by whom, flags, the kinds it may be counted as, words.
    type Case<'a> = (&'a str, Fake, &'a [&'a str], &'a [&'a str], &'a str);
    let cases: [Case<'_>; 9] = [
        ("an error", failing(error, true), &[], &["status"], "the disk is broken"),
        ("an end", failing(b"", false), &[], &["closed"], ""),
        (
            "half an answer",
            failing(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", false),
            &[],
            &["closed"],
            "",
        ),
        ("no HTTP", failing(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", true), &[], &["protocol"], ""),
        ("silence", failing(b"", true), &["--timeout", "0.2"], &["timeout"], "no answer within 0.2 s"),
        (
            "a drip",
            failing(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", true),
            &["--timeout", "0.2"],
            &["timeout"],
            "",
        ),
        (
            "headers without end",
            Fake::start(endless(b"HTTP/1.1 200 OK\r\n", b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")),
            &[],
            &["too_large", "protocol"],
            "",
        ),
        (
            "one header without end",
            Fake::start(endless(b"HTTP/1.1 200 OK\r\nx: ", b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")),
            &[],
            &["too_large", "protocol"],
            "",
        ),
        (
            "a body without end",
            Fake::start(endless(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", b"yyyyyyyy")),
            &["--max-answer-bytes", "100000"],
            &["too_large"],
            "--max-answer-bytes 100000",
        ),
    ];
    for (what, fake, flags, kinds, words) in &cases {
        let ran = bench(&[&[&*fake.url, "-n", "6", "-c", "2"][..], flags].concat());
        assert_eq!((ran.status, ran.counts()), (1, [6, 0, 6]), "{what}: {}", ran.text);
        let errors = ran.errors();
        assert!(errors.iter().all(|(kind, _, _)| kinds.contains(&&**kind)), "{what}: {}", ran.text);
        assert_eq!(errors.iter().map(|(_, _, count)| count).sum::<u64>(), 6, "{what}: {}", ran.text);
        assert!(ran.text.contains(words), "{what}: {}", ran.text);
    }
    let ran = bench(&[&format!("http://{refused}/x"), "-n", "6", "-c", "2"]);
    assert_eq!((ran.status, ran.errors()), (1, vec![("connect".to_owned(), None, 6)]), "{}", ran.text);
}

#[test]
fn a_share_of_failures_may_be_allowed_and_answers_may_be_compared() {
    let half = Fake::start(|n, stream| {
        let bad = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(if n % 2 == 1 { bad } else { OK }).is_ok()
    });
    for (ratio, status) in [("0.6", 0), ("0.5", 0), ("0.4", 1)] {
        let ran = bench(&[&half.url, "-n", "20", "-c", "1", "--max-error-ratio", ratio]);
        assert_eq!((ran.status, ran.counts()), (status, [20, 10, 10]), "{ratio}: {}", ran.text);
        assert_eq!(ran.errors(), [("status".to_owned(), Some(503), 10)], "{ratio}");
    }
    let fickle = || {
        Fake::start(|n, stream| {
            let other = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(if n % 5 == 4 { other } else { OK }).is_ok()
        })
    };
    let (fake, again) = (fickle(), fickle());
    let ran = bench(&[&fake.url, "-n", "20", "-c", "1", "--verify"]);
    assert_eq!((ran.status, ran.errors()), (1, vec![("differs".to_owned(), None, 4)]), "{}", ran.text);
    let ran = bench(&[&again.url, "-n", "20", "-c", "1"]);
    assert_eq!((ran.status, ran.counts()), (0, [20, 20, 0]), "{}", ran.text);
    // A server that closes after each answer costs connections, not requests.
    let closing = Fake::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        false
    });
    let ran = bench(&[&closing.url, "-n", "20", "-c", "2"]);
    assert_eq!((ran.status, ran.counts()), (0, [20, 20, 0]), "{}", ran.text);
    assert!(ran.run()["connections_opened"].as_u64().unwrap() >= 20, "{}", ran.text);
}

#[test]
fn two_servers_are_compared_and_reports_hold_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (slow, fast) = (Fake::slow(Duration::from_millis(150)), Fake::slow(Duration::from_millis(15)));
    let report = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (page, picture) = (report("compare.html"), report("sweep.svg"));
    let flags = ["--compare", &fast.url, "--rounds", "3", "-n", "8", "-c", "4", "--report", &page];
    let ran = bench(&[&[&*slow.url][..], &flags].concat());
    assert_eq!(ran.status, 0, "{}", ran.text);
    let runs = ran.json["runs"].as_array().unwrap();
    for run in runs {
        assert_eq!((run["requests"].as_u64(), run["rounds"].as_array().map(Vec::len)), (Some(24), Some(3)));
    }
    let ratio = |figure: &str, key: &str| {
        let all = ran.json["comparison"].as_array().unwrap();
        all.iter().find(|c| c["figure"] == figure).unwrap()[key].as_f64().unwrap()
    };
    assert!(ratio("requests_per_second", "ratio") > 1.2, "{}", ran.text);
    assert!(ratio("p50_ms", "ratio") < 0.8, "{}", ran.text);
    assert!(ratio("p50_ms", "min") <= ratio("p50_ms", "ratio"), "{}", ran.text);
    assert!(ratio("p50_ms", "ratio") <= ratio("p50_ms", "max"), "{}", ran.text);

    let sweep = bench(&[&fast.url, "--sweep", "1,2,4", "-n", "12", "--report", &picture]);
    let connections: Vec<_> =
        sweep.json["runs"].as_array().unwrap().iter().map(|r| r["connections"].as_u64()).collect();
    assert_eq!((sweep.status, connections), (0, vec![Some(1), Some(2), Some(4)]), "{}", sweep.text);

    let open = report("open.html");
    // A server's words are shown and never believed.
    let hostile = Fake::start(|n, stream| {
        let said = b"<script>&\x1b[2J]]>\"'\xff\x00</x>";
        let head = format!("HTTP/1.1 500 Oops\r\nContent-Length: {}\r\n\r\n", said.len());
        let bad = [head.as_bytes(), said].concat();
        stream.write_all(if n % 4 == 3 { &bad } else { OK }).is_ok()
    });
    let failing = bench(&[&hostile.url, "--rate", "100", "-d", "1", "-c", "2", "--report", &open]);
    assert_eq!((failing.status, failing.counts()), (1, [100, 75, 25]), "{}", failing.text);

    let shown = |value: &Value| visord_figure(value.as_f64().unwrap());
    let first = &runs[0];
    let cases = [
        (
            &page,
            vec!["24".to_owned(), shown(&first["latency_ms"]["p50"]), shown(&runs[1]["latency_ms"]["p99"])],
        ),
        (
            &picture,
            vec![
                shown(&sweep.json["runs"][2]["latency_ms"]["p99"]),
                "What does more throughput cost?".to_owned(),
            ],
        ),
        (&open, vec!["once sent".to_owned(), "status 500".to_owned(), "&lt;script&gt;&amp;".to_owned()]),
    ];
    for (path, wanted) in cases {
        let text = std::fs::read_to_string(path).unwrap();
        for word in wanted {
            assert!(text.contains(&word), "{word} is not in {path}");
        }
        for outside in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!text.contains(outside), "{outside} is in {path}");
        }
        let parse = "import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])";
        let parsed = Command::new("python3").args(["-c", parse, path]).output().unwrap();
        assert!(parsed.status.success(), "{path}: {}", crate::common::text(&parsed));
    }
}

/// As the tables show a number.
fn visord_figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

#[test]
fn a_signal_ends_the_run_and_tells_what_was_measured() {
    // The answer to one request never comes.
    let fake = Fake::start(|n, stream| {
        if n == 30 {
            std::thread::sleep(PATIENCE);
        }
        stream.write_all(OK).is_ok()
    });
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("run.json");
    for rate in [None, Some("200")] {
        fake.requests.store(0, Ordering::Relaxed);
        let mut command = visord();
        command.args([
            "bench",
            &fake.url,
            "-d",
            "600",
            "-c",
            "2",
            "--warmup",
            "0",
            "--timeout",
            "300",
            "--json",
        ]);
        command.arg(&json).args(rate.map(|r| ["--rate", r]).iter().flatten());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while fake.requests.load(Ordering::Relaxed) < 50 {
            assert!(start.elapsed() < PATIENCE, "{rate:?}: no load");
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert!(start.elapsed() < PATIENCE, "{rate:?}: it waited for what never comes");
        let text = crate::common::text(&output);
        assert_eq!(output.status.code(), Some(130), "{rate:?}: {text}");
        let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        let run = &document["runs"][0];
        assert_eq!(
            (&run["interrupted"], &run["cut"]),
            (&Value::Bool(true), &Value::from(1)),
            "{rate:?}: {text}"
        );
        assert!(run["ok"].as_u64().unwrap() >= 45 && text.contains("ended early"), "{rate:?}: {text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path());
    let fake = Fake::slow(Duration::ZERO);
    let base = format!("http://{}", fake.address);
    let cases: [(&[&str], &str); 17] = [
        (&[&base], "--model NAME or --path PATH"),
        (&[&base, "--path", "x"], "must begin with /"),
        (&[&fake.url, "--rate", "0"], "--rate = 0"),
        (&[&fake.url, "--rate", "nan"], "--rate = NaN"),
        (&[&fake.url, "--duration=-1"], "--duration = -1"),
        (&[&fake.url, "--timeout", "0"], "--timeout = 0"),
        (&[&fake.url, "--max-error-ratio", "2"], "--max-error-ratio = 2"),
        (&[&fake.url, "--streams", "2"], "--http-version 2"),
        (
            &[&base, "--protocol", "oip-grpc", "--model", "m", "--images", &images, "--http-version", "1.1"],
            "gRPC",
        ),
        (&[&base, "--protocol", "oip", "--model", "m"], "--images or --body"),
        (&[&base, "--model", "m", "--images", "/nowhere"], "cannot be read"),
        (&[&base, "--model", "m", "--images", &images, "--max-images-bytes", "10"], "--max-images-bytes 10"),
        (&[&base, "--model", "m", "--images", &images, "--batch", "2"], "one image a request"),
        (&[&fake.url, "--report", "latency.pdf"], ".html or .svg"),
        (&[&fake.url, "--header", "no header"], "NAME: VALUE"),
        (&["ftp://127.0.0.1/x"], "neither http nor https"),
        (&[&fake.url, "--sweep", "1,2", "--rate", "5"], "cannot be used with"),
    ];
    for (flags, words) in cases {
        let ran = bench(flags);
        assert_eq!(ran.status, 64, "{flags:?}: {}", ran.text);
        assert!(ran.text.contains(words), "{flags:?}: {}", ran.text);
    }
    assert_eq!(fake.requests.load(Ordering::Relaxed), 0);
    // Plain HTTP still works on it: the server was there all the time.
    assert_eq!(Client::connect(fake.address).send("GET", "/x", &[], b"").status, 200);
}
