//! `visord doctor`: what it finds, mistake by mistake, in a table; `--health`; its page in `docs/`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::pki::Authority;
use crate::common::{Repository, Server, onnx, openvino_dir, text, visord};
use serde_json::Value;
use visord::doctor::finding::Id;

/// Ports that nobody can have, so that a case has the mistakes that it names and no other.
const FREE_PORTS: [&str; 6] = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"];

fn repository() -> Repository {
    Repository::new().model("m", "", &onnx::doubled(&[-1, 4]))
}

/// The doctor, and nothing of what the tests' own environment says of GPUs and colours.
fn doctor(repository: &Path, flags: &[&str]) -> Command {
    let mut command = visord();
    for name in [
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES",
        "NO_COLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    command.arg("doctor").arg("--model-repository").arg(repository);
    // A flag may be given once, so that a case's own goes before.
    for pair in FREE_PORTS.chunks(2).filter(|pair| !flags.contains(&pair[0])) {
        command.args(pair);
    }
    if let Some(dir) = openvino_dir().filter(|_| !flags.contains(&"--openvino-dir")) {
        command.arg("--openvino-dir").arg(dir);
    }
    command.args(flags);
    command
}

/// What is to be found: level, name, and words of the line or of what to do.
type Finding = (&'static str, &'static str, &'static [&'static str]);

/// Runs the doctor with `--json`: it ends with `code` and finds `findings`, maybe more; nothing fails that is not among
/// them.
#[track_caller]
fn finds(what: &str, command: &mut Command, code: i32, findings: &[Finding]) -> Value {
    let output = command.arg("--json").output().unwrap();
    let all = text(&output);
    assert_eq!(output.status.code(), Some(code), "{what}: {all}");
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{what}: {e}: {all}"));
    assert_eq!(report["exit_status"], code, "{what}");
    let checks = report["checks"].as_array().unwrap();
    for (level, id, words) in findings {
        let found = checks.iter().any(|c| {
            let said = format!("{} {}", c["text"], c["fix"]);
            c["level"] == *level && c["id"] == *id && words.iter().all(|w| said.contains(w))
        });
        assert!(found, "{what}: no {level} {id} with {words:?} in {:#}", report["checks"]);
    }
    for check in checks {
        let id = check["id"].as_str();
        if check["level"] == "ok" {
            assert!(id.is_none() && check["fix"].is_null(), "{what}: {check}");
            continue;
        }
        let id = id.unwrap_or_else(|| panic!("{what}: no name: {check}"));
        assert!(Id::ALL.iter().any(|known| known.name() == id), "{what}: {check}");
        assert!(check["fix"].as_str().is_some_and(|f| !f.is_empty() && !f.contains('\n')), "{what}: {check}");
        let expected = findings.iter().any(|(level, known, _)| *level == "fail" && *known == id);
        assert!(check["level"] != "fail" || expected, "{what}: {check}");
    }
    report
}

/// A library of that name which does `what` as soon as it is opened, in a folder of its own.
fn library(name: &str, what: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("library.c");
    let code = format!(
        "#include <stdlib.h>\n#include <unistd.h>\n__attribute__((constructor)) static void begin(void) {{ {what} }}\n"
    );
    std::fs::write(&source, code).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join(name)).arg(&source);
    let output = compiler.output().unwrap_or_else(|e| panic!("cc: {e}; the tests need a C compiler"));
    assert!(output.status.success(), "{}", text(&output));
    folder
}

const ABORTS: &str = "write(2, \"the last words\\n\", 15); abort();";
const HANGS: &str = "for (;;) pause();";

#[test]
fn a_machine_without_a_gpu_is_described() {
    let repository = repository();
    let report = finds(
        "rten",
        &mut doctor(repository.path(), &["--backend", "rten"]),
        0,
        &[("note", "gpu-none", &[])],
    );
    assert_eq!(report["visord"]["version"], env!("CARGO_PKG_VERSION"));
    let keys: BTreeSet<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["checks", "counts", "exit_status", "facts", "status", "visord"].into());
    let facts: BTreeSet<&str> = report["facts"].as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = [
        "container",
        "cpu",
        "gpu",
        "limits",
        "memory",
        "models",
        "nvml",
        "openvino",
        "plan_cache",
        "ports",
        "tensorrt",
    ];
    for wanted in wanted {
        assert!(facts.contains(wanted), "{wanted}: {facts:?}");
    }
    let lines = report["checks"].as_array().unwrap();
    let subjects: BTreeSet<&str> = lines.iter().filter_map(|c| c["subject"].as_str()).collect();
    for wanted in
        ["repository", "cpu", "memory", "gpu", "tensorrt", "openvino", "rten", "model", "ports", "limits"]
    {
        assert!(subjects.contains(wanted), "{wanted}: {subjects:?}");
    }
    let model = &report["facts"]["models"][0];
    assert_eq!((model["model"].as_str(), model["name"].as_str()), (Some("m"), Some("rten")), "{model}");
    let counted: u64 = report["counts"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(counted, lines.len() as u64);
    if let Some(dir) = openvino_dir() {
        let report = finds("auto", &mut doctor(repository.path(), &[]), 0, &[]);
        let (dir, found) = (dir.canonicalize().unwrap(), &report["facts"]["openvino"]);
        assert!(found["path"].as_str().is_some_and(|p| p.starts_with(dir.to_str().unwrap())), "{found}");
        assert_eq!(report["facts"]["models"][0]["name"], "openvino");
    }
}

#[test]
fn the_text_fits_and_has_colours_only_where_they_are_wanted() {
    let repository = repository();
    let long = format!("/{}", "long/".repeat(60));
    let flags = ["--backend", "rten", "--tls-cert", &*long, "--tls-key", &*long];
    for (name, env, colours) in [
        ("piped", &[][..], false),
        ("forced", &[("CLICOLOR_FORCE", "1")][..], true),
        ("refused", &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")][..], false),
    ] {
        let output = doctor(repository.path(), &flags).envs(env.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.contains('\u{1b}'), colours, "{name}: {said}");
        if colours {
            continue;
        }
        for line in said.lines() {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
        for words in [
            "visord ",
            "\nok    cpu ",
            "\nFAIL  tls ",
            " [tls-files]",
            "-> ",
            "failed, ",
            "would not serve as asked",
        ] {
            assert!(said.contains(words), "{name}: \"{words}\" is not in\n{said}");
        }
    }
}

/// A case of the table: flags, environment, status, findings. In flags `@` stands for the case's own folder, in which is
/// an empty folder `empty`, a file `file`, and a folder `garbage` with something that is no OpenVINO.
type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a [Finding]);

const CASES: &[Case<'_>] = &[
    (
        "configuration",
        &["--max-inflight-bytes", "1"],
        &[],
        1,
        &[("fail", "configuration", &["--max-inflight-bytes = 1", "--max-body-bytes"])],
    ),
    (
        "no repository",
        &["--model-repository", "@/none"],
        &[],
        1,
        &[("fail", "repository", &["@/none", "cannot be read"])],
    ),
    (
        "empty repository",
        &["--model-repository", "@/empty"],
        &[],
        1,
        &[("fail", "repository", &["holds no model", "add <model>/1/model.onnx"])],
    ),
    (
        "no models yet",
        &["--model-repository", "@/empty", "--model-control-mode", "poll"],
        &[],
        0,
        &[("note", "no-models", &["@/empty"])],
    ),
    (
        "address",
        &["--host", "192.0.2.1"],
        &[],
        1,
        &[("fail", "port-refused", &["192.0.2.1", "--http-port", "--host"])],
    ),
    (
        "memory",
        &["--max-inflight-bytes", "17592186044416"],
        &[],
        0,
        &[("warn", "memory-low", &["16384.0 GiB"])],
    ),
    (
        "strict",
        &["--max-inflight-bytes", "17592186044416", "--strict"],
        &[],
        1,
        &[("warn", "memory-low", &[])],
    ),
    (
        "tensorrt without a GPU",
        &["--backend", "tensorrt"],
        &[],
        1,
        &[
            ("fail", "gpu-none", &["libcuda", "NVIDIA's driver"]),
            ("fail", "tensorrt-missing", &["--tensorrt-dir"]),
            ("fail", "model-unserved", &["m version 1", "--backend openvino"]),
        ],
    ),
    (
        "a GPU that is required",
        &["--require-gpu", "--backend", "auto"],
        &[],
        1,
        &[
            ("fail", "gpu-none", &[]),
            ("fail", "tensorrt-missing", &[]),
            ("fail", "model-unserved", &["m version 1"]),
        ],
    ),
    (
        "no OpenVINO",
        &["--backend", "openvino", "--openvino-dir", "@/empty"],
        &[],
        1,
        &[
            ("fail", "openvino-unusable", &["@/empty holds no libopenvino_c.so", "--openvino-dir"]),
            ("fail", "model-unserved", &["m version 1", "openvino"]),
        ],
    ),
    (
        "another than OpenVINO",
        &["--backend", "auto", "--openvino-dir", "@/empty"],
        &[],
        0,
        &[("warn", "openvino-unusable", &[]), ("warn", "model-fallback", &["m version 1: rten", "openvino"])],
    ),
    (
        "a broken OpenVINO",
        &["--backend", "auto", "--openvino-dir", "@/garbage"],
        &[],
        0,
        &[("warn", "openvino-unusable", &["libopenvino_c.so"]), ("warn", "model-fallback", &[])],
    ),
    (
        "TLS files",
        &["--tls-cert", "@/file", "--tls-key", "@/none"],
        &[],
        1,
        &[
            ("fail", "tls-files", &["--tls-cert = @/file", "holds no certificate"]),
            ("fail", "tls-files", &["--tls-key = @/none", "cannot be read"]),
        ],
    ),
    ("half of TLS", &["--tls-cert", "@/file"], &[], 1, &[("fail", "tls-files", &["needs --tls-key"])]),
    (
        "plan cache",
        &["--plan-cache", "@/file/plans"],
        &[],
        0,
        &[("note", "plan-cache-read-only", &["@/file", "--plan-cache"])],
    ),
    (
        "a container without GPUs",
        &[],
        &[("NVIDIA_VISIBLE_DEVICES", "void"), ("NVIDIA_DRIVER_CAPABILITIES", "utility")],
        0,
        &[
            ("note", "visible-devices", &["void"]),
            ("note", "capability-compute", &["\"utility\"", "compute,utility,video"]),
        ],
    ),
];

#[test]
fn each_mistake_is_found() {
    let repository = repository();
    for (name, flags, env, code, findings) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap();
        for sub in ["empty", "garbage"] {
            std::fs::create_dir(folder.path().join(sub)).unwrap();
        }
        for file in ["file", "garbage/libopenvino_c.so"] {
            std::fs::write(folder.path().join(file), "nothing of use\n").unwrap();
        }
        let mut flags: Vec<String> = flags.iter().map(|f| f.replace('@', root)).collect();
        if !flags.iter().any(|f| f == "--backend") {
            flags.extend(["--backend", "rten"].map(str::to_owned));
        }
        let path = flags.iter().position(|f| f == "--model-repository").map(|at| {
            flags.remove(at);
            PathBuf::from(flags.remove(at))
        });
        let path = path.as_deref().unwrap_or(repository.path());
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut command = doctor(path, &flags);
        command.envs(env.iter().copied());
        let words: Vec<Vec<String>> = findings
            .iter()
            .map(|(_, _, words)| words.iter().map(|w| w.replace('@', root)).collect())
            .collect();
        let plain: Vec<Finding> = findings.iter().map(|(level, id, _)| (*level, *id, &[][..])).collect();
        let report = finds(name, &mut command, *code, &plain);
        for ((level, id, _), words) in findings.iter().zip(&words) {
            let mut checks = report["checks"].as_array().unwrap().iter();
            let found = checks.any(|c| {
                let said =
                    format!("{} {}", c["text"].as_str().unwrap(), c["fix"].as_str().unwrap_or_default());
                c["level"] == *level && c["id"] == *id && words.iter().all(|w| said.contains(w.as_str()))
            });
            assert!(found, "{name}: no {level} {id} with {words:?} in {:#}", report["checks"]);
        }
    }
}

#[test]
fn mistakes_of_the_repository_are_those_of_check() {
    let repository = repository()
        .file("m/model.toml", b"precision = \"int4\"\nmax_batchsize = 3\n")
        .file("Empty/model.toml", b"");
    let says = text(&repository.run("check", &["--backend", "rten"]));
    assert!(says.contains("3 mistake(s)"), "{says}");
    let report = finds(
        "repository",
        &mut doctor(repository.path(), &["--backend", "rten"]),
        1,
        &[
            ("fail", "repository", &["precision = ", "must be one of"]),
            ("fail", "repository", &["max_batchsize", "unknown key"]),
            ("fail", "repository", &["holds no version", "add 1/model.onnx"]),
        ],
    );
    assert_eq!(report["counts"]["fail"], 3);
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag_and_process() {
    let repository = repository();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let process = format!("process {}", std::process::id());
    let report = finds(
        "taken",
        &mut doctor(repository.path(), &["--backend", "rten", "--grpc-port", &port]),
        1,
        &[("fail", "port-taken", &["--grpc-port"])],
    );
    let checks = report["checks"].as_array().unwrap();
    let said = checks.iter().find(|c| c["id"] == "port-taken").unwrap()["text"].as_str().unwrap();
    assert!(said.contains(&process) && said.contains(&port), "{said}");
}

#[test]
fn few_open_files_are_too_few() {
    let repository = repository();
    let plain = doctor(repository.path(), &["--backend", "rten"]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 200; exec \"$@\"", "sh"]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    finds(
        "200 files",
        &mut command,
        0,
        &[("warn", "open-files-low", &["200 open files", "--max-connections 4096", "ulimit -n 12544"])],
    );
}

#[test]
fn a_certificate_is_asked_when_it_ends() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), repository());
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400 + 6;
    // The day's date, by the usual arithmetic with years from March.
    let z = soon as i64 + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let of_year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day = of_era - (365 * of_year + of_year / 4 - of_year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = of_year + era * 400 + i64::from(month <= 2);
    for (name, (year, month, day), code, finding) in [
        ("ended", (2021, 3, 1), 1, Some(("fail", "tls-expired", &["day(s) ago"][..]))),
        (
            "soon",
            (year as i32, month as u8, day as u8),
            0,
            Some(("warn", "tls-expires", &["expires in 5 day(s)"][..])),
        ),
        ("later", (2075, 1, 1), 0, None),
    ] {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, month, day);
        let key = rcgen::KeyPair::generate().unwrap();
        let files = ["cert", "key"].map(|f| folder.path().join(f));
        std::fs::write(&files[0], params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        let [cert, key] = files.each_ref().map(|f| f.to_str().unwrap());
        let flags = ["--backend", "rten", "--tls-cert", cert, "--tls-key", key];
        finds(name, &mut doctor(repository.path(), &flags), code, finding.as_slice());
    }
}

#[test]
fn a_library_that_aborts_or_hangs_is_a_finding() {
    let repository = repository();
    for (name, does, backend, code, findings) in [
        (
            "aborts",
            ABORTS,
            "auto",
            1,
            &[
                ("fail", "probe-crashed", &["openvino", "SIGABRT", "the last words"][..]),
                ("fail", "model-unserved", &["OpenVINO"][..]),
            ][..],
        ),
        (
            "aborts, and is not asked for",
            ABORTS,
            "rten",
            0,
            &[("note", "probe-crashed", &["SIGABRT"][..])][..],
        ),
        (
            "hangs",
            HANGS,
            "openvino",
            1,
            &[("fail", "probe-hung", &["openvino", "within 4 s"][..]), ("fail", "model-unserved", &[][..])][..],
        ),
    ] {
        let folder = library("libopenvino_c.so", does);
        let dir = folder.path().to_str().unwrap();
        let limit = if does == HANGS { "4" } else { "60" };
        let flags = ["--backend", backend, "--openvino-dir", dir, "--probe-timeout-secs", limit];
        let begin = Instant::now();
        finds(name, &mut doctor(repository.path(), &flags), code, findings);
        assert!(begin.elapsed() < Duration::from_secs(60), "{name}");
    }
}

/// `visord serve`, for as long as it is kept.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(repository: &Path, flags: &[&str]) -> Self {
        let mut command = visord();
        command.args(["serve", "--backend", "rten", "--model-repository"]).arg(repository);
        command.args(FREE_PORTS).args(flags).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.find_map(|l| l.ok().filter(|l| l.contains("listening"))).expect("it listens");
        let address = line.split("http=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        // Whoever does not read blocks the daemon.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    fn terminate(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn health(url: &str, flags: &[&str]) -> Output {
    visord().args(["doctor", "--health", url]).args(flags).output().unwrap()
}

/// Asks until it ends with `code`, which it is sure to do.
#[track_caller]
fn until(url: &str, code: i32) -> Output {
    let start = Instant::now();
    loop {
        let output = health(url, &["--timeout-secs", "30"]);
        if output.status.code() == Some(code) {
            return output;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{url}: {}", text(&output));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn health_of_a_daemon_is_its_readiness() {
    let repository = repository();
    let daemon = Serving::start(repository.path(), &["--exit-delay-secs", "600"]);
    let url = format!("http://{}/v2/health/ready", daemon.address);
    assert!(text(&until(&url, 0)).is_empty());
    // A daemon that runs is no stranger on its port.
    let port = daemon.address.rsplit(':').next().unwrap();
    let flags = ["--backend", "rten", "--http-port", port];
    finds(
        "serving",
        &mut doctor(repository.path(), &flags),
        0,
        &[("warn", "port-serving", &["--http-port"])],
    );
    let missing = health(&format!("http://{}/none", daemon.address), &["--timeout-secs", "30"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing).contains("404"), "{}", text(&missing));
    // On its way down it answers, and is not ready.
    daemon.terminate();
    let said = text(&until(&url, 1));
    assert!(said.starts_with("unhealthy: ") && said.contains("503") && said.lines().count() == 1, "{said}");
}

#[test]
fn health_of_what_does_not_answer_ends_in_time() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Connections are made by the kernel; nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    for (url, flags, code, words) in [
        (format!("http://{closed}/"), &["--timeout-secs", "30"][..], 1, "cannot connect"),
        (format!("http://{silent}/"), &["--timeout-secs", "1"][..], 1, "no answer within 1 s"),
        ("nonsense".to_owned(), &[][..], 64, "http://"),
        (format!("https://{closed}/"), &[][..], 64, "--tls-ca"),
        (format!("http://{closed}/"), &["--timeout-secs", "0"][..], 64, "1..=3600"),
        (format!("http://{closed}/"), &["--json"][..], 64, "cannot be used with"),
    ] {
        let begin = Instant::now();
        let output = health(&url, flags);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{url} {flags:?}: {said}");
        assert!(said.contains(words), "{url} {flags:?}: {said}");
        assert!(begin.elapsed() < Duration::from_secs(30), "{url}");
    }
}

#[test]
fn health_over_tls_wants_a_certificate_that_it_knows() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), repository());
    let authorities = ["ours", "another's"].map(Authority::new);
    let identity = authorities[0].identity(2090);
    let files = ["cert", "key", "ca", "other"].map(|f| folder.path().join(f));
    let contents = [&identity.cert, &identity.key, &authorities[0].pem(), &authorities[1].pem()];
    for (file, pem) in files.iter().zip(contents) {
        std::fs::write(file, pem).unwrap();
    }
    let [cert, key, ca, other] = files.each_ref().map(|f| f.to_str().unwrap());
    let server = Server::start(repository.path(), "rten", &["--tls-cert", cert, "--tls-key", key]);
    let url = format!("https://localhost:{}/v2/health/ready", server.http.port());
    for (ca, code, words) in
        [(ca, 0, ""), (other, 1, "no TLS"), ("/nonexistent", 64, "--tls-ca = /nonexistent")]
    {
        let output = health(&url, &["--timeout-secs", "30", "--tls-ca", ca]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{ca}: {said}");
        assert!(said.contains(words), "{ca}: {said}");
    }
}

#[test]
fn every_finding_is_explained() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("## Findings").expect("it has the table");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|l| l.starts_with("| `"))
        .map(|l| l.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    for id in Id::ALL {
        let name = format!("`{id}`");
        let row = rows.iter().find(|cells| cells[0] == name).unwrap_or_else(|| panic!("{id} has no row"));
        assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
    for row in rows {
        assert!(Id::ALL.iter().any(|id| row[0] == format!("`{id}`")), "{row:?} is of no finding");
    }
}

#[cfg(feature = "tensorrt")]
mod on_a_gpu {
    //! On the host device of `tests/fake`.

    use super::*;
    use crate::common::fake;

    const TENSORRT: &[&str] = &["--backend", "tensorrt"];
    const AUTO: &[&str] = &["--backend", "auto"];
    const RTEN: &[&str] = &["--backend", "rten"];
    /// Unless a case has another.
    const A_GPU: &[(&str, &str)] =
        &[("VISORD_FAKE_CUDA_NAME", "NVIDIA A100-SXM4-40GB"), ("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "8.0")];
    const V100: &[(&str, &str)] = &[
        ("VISORD_FAKE_CUDA_NAME", "Tesla V100-SXM2-32GB"),
        ("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "7.0"),
        ("VISORD_FAKE_NVJPEG_HARDWARE", "0"),
    ];
    const WITHOUT_VIDEO: &[(&str, &str)] =
        &[("VISORD_FAKE_NVJPEG_HARDWARE", "0"), ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility")];

    fn on(libraries: &Path, repository: &Repository, flags: &[&str], env: &[(&str, &str)]) -> Command {
        let mut command = doctor(repository.path(), flags);
        command.env("LD_LIBRARY_PATH", libraries).envs(A_GPU.iter().chain(env).copied());
        command
    }

    /// The fake libraries without those whose names begin with one of `left_out`.
    fn some(left_out: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fake::libraries()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.contains(".so.") && !left_out.iter().any(|l| name.starts_with(l)) {
                std::os::unix::fs::symlink(&path, folder.path().join(name)).unwrap();
            }
        }
        folder
    }

    #[test]
    fn a_gpu_and_its_libraries_are_described() {
        let repository = repository();
        let libraries = some(&[]);
        let kernels = libraries.path().join("libnvinfer_builder_resource.so.11");
        std::fs::write(kernels, "").unwrap();
        let plan: Finding = ("note", "plan-missing", &["m version 1", "visord build --model m"]);
        let report = finds("as it is", &mut on(libraries.path(), &repository, TENSORRT, &[]), 0, &[plan]);
        let (gpu, tensorrt) = (&report["facts"]["gpu"], &report["facts"]["tensorrt"]["library"]);
        assert_eq!(gpu["devices"].as_array().map(Vec::len), Some(1), "{gpu}");
        assert_eq!(tensorrt["flavor"], "TensorRT 11", "{tensorrt}");
        assert_eq!(report["facts"]["nvjpeg"]["gpus"][0]["jpeg_engine"], true);
        let nvml = &report["facts"]["nvml"];
        assert!(
            nvml["devices"] == 1 && nvml["driver_version"] == report["facts"]["driver_version"],
            "{nvml}"
        );
        assert_eq!(report["facts"]["models"][0]["name"], "tensorrt");
        let mut checks = report["checks"].as_array().unwrap().iter();
        assert!(!checks.any(|c| c["id"] == "tensorrt-resources"), "{:#}", report["checks"]);
        let beside: &[Finding] = &[("warn", "tensorrt-resources", &["libnvinfer_builder_resource"])];
        finds("no resources", &mut on(fake::libraries(), &repository, TENSORRT, &[]), 0, beside);
    }

    #[test]
    fn each_fault_of_a_gpu_is_found() {
        const AUTO_FALLS_BACK: Finding = ("warn", "model-fallback", &["m version 1"]);
        type Case = (
            &'static str,
            &'static [&'static str],
            &'static [(&'static str, &'static str)],
            i32,
            &'static [Finding],
        );
        const CASES: &[Case] = &[
            (
                "V100",
                AUTO,
                V100,
                0,
                &[
                    ("warn", "tensorrt-too-new", &["V100", "7.0", "10.4"]),
                    ("note", "jpeg-engine-none", &["GPU 0"]),
                ],
            ),
            ("V100, and nothing else will do", TENSORRT, V100, 1, &[("fail", "tensorrt-too-new", &[])]),
            (
                "A100 without video",
                AUTO,
                WITHOUT_VIDEO,
                0,
                &[
                    ("warn", "jpeg-engine-hidden", &["video"]),
                    ("warn", "capability-video", &["compute,utility"]),
                ],
            ),
            (
                "an old driver",
                AUTO,
                &[("VISORD_FAKE_CUDA_DRIVER_VERSION", "11040")],
                0,
                &[("warn", "driver-old", &["CUDA 11.4", "install driver 520"]), AUTO_FALLS_BACK],
            ),
            (
                "an old driver, and a GPU is required",
                &["--require-gpu"],
                &[("VISORD_FAKE_CUDA_DRIVER_VERSION", "11040")],
                1,
                &[("fail", "driver-old", &[]), ("fail", "model-unserved", &[])],
            ),
            (
                "an old GPU",
                AUTO,
                &[("VISORD_FAKE_CUDA_COMPUTE_CAPABILITY", "6.1")],
                0,
                &[("warn", "gpu-too-old", &["6.1", "Volta"]), AUTO_FALLS_BACK],
            ),
            (
                "no device",
                AUTO,
                &[("CUDA_VISIBLE_DEVICES", "")],
                0,
                &[("note", "gpu-hidden", &["CUDA_VISIBLE_DEVICES"])],
            ),
            (
                "no device, and nothing else will do",
                TENSORRT,
                &[("VISORD_FAKE_CUDA_DEVICES", "0")],
                1,
                &[("fail", "gpu-hidden", &["nvidia-smi"]), ("fail", "model-unserved", &[])],
            ),
            (
                "little memory",
                AUTO,
                &[("VISORD_FAKE_CUDA_MEMORY_BYTES", "500000000")],
                0,
                &[("warn", "gpu-memory-low", &["GPU 0"])],
            ),
            (
                "an old nvJPEG",
                AUTO,
                &[("VISORD_FAKE_NVJPEG_VERSION", "12.0.1")],
                0,
                &[("note", "nvjpeg-chroma", &["12.0.1"])],
            ),
        ];
        let repository = repository();
        for (name, flags, env, code, findings) in CASES {
            finds(name, &mut on(fake::libraries(), &repository, flags, env), *code, findings);
        }
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        let repository = repository();
        let no_headers = !text(&visord().arg("--version").output().unwrap()).contains("headers: 10");
        for (name, left_out, flags, code, findings) in [
            (
                "TensorRT",
                &["libnvinfer"][..],
                AUTO,
                0,
                &[("warn", "tensorrt-missing", &["libnvinfer.so.11", "--tensorrt-dir"][..])][..],
            ),
            (
                "TensorRT, asked for",
                &["libnvinfer"][..],
                TENSORRT,
                1,
                &[("fail", "tensorrt-missing", &[][..]), ("fail", "model-unserved", &[][..])][..],
            ),
            (
                "parser",
                &["libnvonnxparser"][..],
                AUTO,
                0,
                &[
                    ("warn", "tensorrt-cannot-build", &["ONNX parser"][..]),
                    ("warn", "model-fallback", &[][..]),
                ][..],
            ),
            (
                "NVML",
                &["libnvidia-ml"][..],
                AUTO,
                0,
                &[("note", "nvml-unusable", &["libnvidia-ml", "utility"][..])][..],
            ),
            (
                "nvJPEG",
                &["libnvjpeg"][..],
                AUTO,
                0,
                &[("warn", "nvjpeg-unusable", &["libnvjpeg.so.12"][..])][..],
            ),
        ] {
            let libraries = some(left_out);
            finds(name, &mut on(libraries.path(), &repository, flags, &[]), code, findings);
        }
        let (libraries, ten) = (some(&["libnvinfer"]), library("libnvinfer.so.10", ""));
        let flags = ["--backend", "auto", "--tensorrt-dir", ten.path().to_str().unwrap()];
        let id = if no_headers { "tensorrt-headers" } else { "tensorrt-missing" };
        finds(
            "headers",
            &mut on(libraries.path(), &repository, &flags, &[]),
            0,
            &[("warn", id, &["libnvinfer.so.10"])],
        );
    }

    #[test]
    fn a_driver_that_aborts_or_hangs_is_a_finding() {
        let repository = repository();
        static LIBRARIES: OnceLock<[tempfile::TempDir; 2]> = OnceLock::new();
        let [aborts, hangs] =
            LIBRARIES.get_or_init(|| [ABORTS, HANGS].map(|what| library("libcuda.so.1", what)));
        let unserved: Finding = ("fail", "model-unserved", &["the driver"]);
        for (name, folder, flags, code, findings) in [
            (
                "aborts",
                aborts,
                AUTO,
                1,
                &[("fail", "probe-crashed", &["gpu", "SIGABRT", "the last words"][..]), unserved][..],
            ),
            (
                "aborts, and is not asked for",
                aborts,
                RTEN,
                0,
                &[("note", "probe-crashed", &["SIGABRT"][..])][..],
            ),
            ("hangs", hangs, AUTO, 1, &[("fail", "probe-hung", &["gpu", "within 4 s"][..]), unserved][..]),
        ] {
            let limit = if name == "hangs" { "4" } else { "60" };
            let flags = [flags, &["--probe-timeout-secs", limit]].concat();
            finds(name, &mut on(folder.path(), &repository, &flags, &[]), code, findings);
        }
    }

    #[test]
    fn a_plan_is_found_damaged_or_nowhere_to_be_kept() {
        let repository = repository();
        let run = |what: &str, flags: &[&str], findings: &[Finding]| {
            let flags = [TENSORRT, flags].concat();
            finds(what, &mut on(fake::libraries(), &repository, &flags, &[]), 0, findings)
        };
        let build = || {
            let mut command = visord();
            command.args(["build", "--model-repository"]).arg(repository.path());
            command.env("LD_LIBRARY_PATH", fake::libraries()).envs(A_GPU.iter().copied());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
        };
        build();
        let report = run("built", &[], &[]);
        let plan = &report["facts"]["models"][0]["plans"][0];
        assert!(plan["state"]["ready"]["bytes"].as_u64() > Some(0), "{plan}");
        assert_eq!(report["facts"]["plan_cache"]["plans"], 1);
        std::fs::write(plan["file"].as_str().unwrap(), "other bytes").unwrap();
        run("damaged", &[], &[("warn", "plan-corrupt", &["m version 1", "visord build"])]);
        let file = repository.path().join("m/model.toml");
        let nowhere = file.join("plans");
        let flags = ["--plan-cache", nowhere.to_str().unwrap()];
        run(
            "nowhere",
            &flags,
            &[("warn", "plan-cache-read-only", &["--plan-cache"]), ("note", "plan-missing", &[])],
        );
    }
}
