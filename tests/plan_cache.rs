//! `visord build` with TensorRT-RTX's builder, which needs no GPU: plans, errors, and several processes at once.
//!
//! The cache's own rules are tested in `src/plan/tests.rs`, with a builder that does as it is told.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use crate::common::onnx::{self, Graph, Kind};
use crate::common::{Repository, text, visord};
use serde_json::Value;

/// The folder of TensorRT-RTX's libraries. `None`, loudly, on a machine that could not fetch them; CI has to.
#[allow(clippy::disallowed_methods, reason = "tests find the libraries where `make` puts them")]
fn rtx() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let dir = std::env::var_os("VISORD_TENSORRT_DIR")
        .map_or_else(|| target.join("tensorrt/rtx-1.7.1.116"), PathBuf::from);
    if dir.is_dir() {
        return Some(dir);
    }
    let text = format!("{} is missing; scripts/tensorrt-rtx fetches it", dir.display());
    // NVIDIA has this wheel for x86-64 only.
    let required = cfg!(target_arch = "x86_64") && std::env::var_os("CI").is_some();
    assert!(!required, "{text}");
    eprintln!("NOT TESTED: {text}");
    None
}

/// `visord build` on a repository, for compute capability 8.6.
fn build(repository: &Repository, rtx: &Path, flags: &[&str]) -> Command {
    let mut command = visord();
    command.arg("build").arg("--model-repository").arg(repository.path()).arg("--tensorrt-dir").arg(rtx);
    command.args(["--compute-capability", "8.6"]).args(flags);
    command
}

#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) -> String {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "\"{word}\" is not in\n{text}");
    }
    text
}

/// Every file of the repository's cache, hidden ones too.
fn files(repository: &Repository) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(repository.path().join(".plans")) else { return BTreeSet::new() };
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn notes(repository: &Repository) -> Vec<Value> {
    let notes = files(repository).into_iter().filter(|f| f.ends_with(".plan.json"));
    notes
        .map(|f| {
            serde_json::from_slice(&std::fs::read(repository.path().join(".plans").join(f)).unwrap()).unwrap()
        })
        .collect()
}

/// A network of so many layers that its build takes a few seconds.
fn slow() -> Repository {
    let weights: Vec<f32> = (0..16 * 16 * 9).map(|i| (i % 13) as f32 / 100.0 - 0.06).collect();
    let mut graph = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 16, 32, 32])
        .output("y", Kind::FLOAT, &[-1, 16, 32, 32])
        .weights("w", &[16, 16, 3, 3], &weights);
    let mut last = "x".to_owned();
    for layer in 0..LAYERS {
        let next = if layer + 1 == LAYERS { "y".to_owned() } else { format!("r{layer}") };
        let convolved = format!("c{layer}");
        let pads = vec![onnx::ints("pads", &[1, 1, 1, 1])];
        graph = graph.node_with("Conv", &[&last, "w"], &convolved, pads).node("Relu", &[&convolved], &next);
        last = next;
    }
    Repository::new().model("slow", "max_batch_size = 4\n[image]\nenabled = false\n", &graph.model())
}

const LAYERS: usize = 400;

/// A build that is under way.
struct Building {
    child: Child,
    errors: BufReader<ChildStderr>,
    seen: String,
}

impl Building {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        Self { child, errors, seen: String::new() }
    }

    /// Waits for a line with one of these words on standard error.
    #[track_caller]
    fn sees(&mut self, word: &str) {
        loop {
            let start = self.seen.len();
            assert!(self.errors.read_line(&mut self.seen).unwrap() > 0, "no \"{word}\" in\n{}", self.seen);
            if self.seen[start..].contains(word) {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The exit status, and all that it said.
    fn end(mut self) -> (Option<i32>, String) {
        self.errors.read_to_string(&mut self.seen).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut self.seen).unwrap();
        (self.child.wait().unwrap().code(), self.seen)
    }
}

#[test]
fn the_shipped_model_becomes_plans_for_two_gpus_in_two_precisions() {
    let Some(rtx) = rtx() else { return };
    let model =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/ArcFace/1/model.onnx")).unwrap();
    let toml = "max_batch_size = 32\n[dynamic_batching]\npreferred_batch_size = [8, 32]\n";
    let repository = Repository::new().model("ArcFace", toml, &model);
    let both = |precision: &str| {
        let flags = ["--compute-capability", "8.9", "--precision", precision];
        build(&repository, &rtx, &flags).output().unwrap()
    };
    for precision in ["fp32", "fp16"] {
        let output = both(precision);
        let words = [
            &format!("ArcFace version 1, {precision}, compute capability 8.6: built in "),
            &format!("ArcFace version 1, {precision}, compute capability 8.9: built in "),
            "compute capability 8.9: 0 % reading the network",
        ];
        let text = says(&output, 0, &words);
        let ratios: Vec<u32> = text
            .lines()
            .filter_map(|l| l.strip_prefix("ArcFace version 1, ")?.split_once("8.6: ")?.1.split_once(" % "))
            .map(|(percent, _)| percent.parse().unwrap())
            .collect();
        assert!(
            ratios.len() > 1 && ratios.is_sorted() && ratios.iter().all(|r| *r <= 100),
            "{ratios:?}\n{text}"
        );
    }
    let plans = notes(&repository);
    assert_eq!(plans.len(), 4);
    for note in &plans {
        let from = &note["built_from"];
        let file = format!(".plans/ArcFace-1-{}.plan", &note["key"].as_str().unwrap()[..16]);
        let size = std::fs::metadata(repository.path().join(file)).unwrap().len();
        assert_eq!(note["size_bytes"], size);
        assert_eq!(from["options"]["profiles"].as_array().unwrap().len(), 2, "{note}");
        assert_eq!((&from["device"], &from["tensorrt"]), (&"any".into(), &"tensorrt-rtx".into()));
    }
    // 5.2 MB of weights in 32 bits, half of that in 16.
    let size = |precision: &str, capability: &str| {
        let of = |n: &&Value| {
            n["built_from"]["precision"] == precision && n["built_from"]["compute_capability"] == capability
        };
        plans.iter().find(of).unwrap()["size_bytes"].as_u64().unwrap()
    };
    for capability in ["8.6", "8.9"] {
        let (single, half) = (size("fp32", capability), size("fp16", capability));
        assert!(half > 2_500_000 && half + 2_000_000 < single, "{capability}: {half} and {single}");
    }
    let before = files(&repository);
    assert!(before.iter().all(|f| f.starts_with("ArcFace-1-")), "{before:?}");
    for precision in ["fp32", "fp16"] {
        let output = both(precision);
        let text = says(&output, 0, &["compute capability 8.6: in the cache already"]);
        assert!(!text.contains("built in"), "{text}");
    }
    assert_eq!(files(&repository), before);

    // The note's own command makes the plan again, a damaged plan is made again without being asked.
    let command = plans[0]["command"].as_str().unwrap().strip_prefix("visord ").unwrap();
    let again = visord().args(command.split(' ')).output().unwrap();
    says(&again, 0, &["built in", plans[0]["key"].as_str().unwrap()]);
    for note in &plans {
        let file = format!(".plans/ArcFace-1-{}.plan", &note["key"].as_str().unwrap()[..16]);
        std::fs::File::options()
            .write(true)
            .open(repository.path().join(file))
            .unwrap()
            .set_len(1000)
            .unwrap();
    }
    let output = both("fp16");
    says(
        &output,
        0,
        &["it has 1000 bytes, not ", "compute capability 8.6: built in", "compute capability 8.9: built in"],
    );

    // The cache is in the repository, and no model of it.
    let check = repository.run("check", &["--backend", "rten"]);
    says(&check, 0, &["model    ArcFace version 1"]);
}

#[test]
fn one_process_builds_while_the_other_waits() {
    let Some(rtx) = rtx() else { return };
    let repository = slow();
    let mut first = Building::start(build(&repository, &rtx, &[]));
    first.sees("% reading the network");
    let mut second = Building::start(build(&repository, &rtx, &[]));
    second.sees("waiting for another process");
    let (code, text) = first.end();
    assert!(code == Some(0) && text.contains(": built in "), "{code:?}: {text}");
    let (code, text) = second.end();
    assert!(code == Some(0) && text.contains(": built by another process meanwhile"), "{code:?}: {text}");
    assert_eq!(files(&repository).len(), 2, "{:?}", files(&repository));
}

#[test]
fn a_builder_that_is_killed_leaves_no_lock() {
    let Some(rtx) = rtx() else { return };
    let repository = slow();
    let mut killed = Building::start(build(&repository, &rtx, &[]));
    killed.sees("% reading the network");
    killed.signal("-KILL");
    let (code, _) = killed.end();
    assert_eq!(code, None);
    let left = files(&repository);
    assert!(left.iter().any(|f| f.ends_with(".lock")), "{left:?}");
    let text = says(&build(&repository, &rtx, &[]).output().unwrap(), 0, &["built in"]);
    assert!(!text.contains("waiting"), "{text}");
    assert!(files(&repository).iter().all(|f| !f.starts_with('.')), "{:?}", files(&repository));
}

#[test]
fn an_interrupted_build_ends_with_130_and_leaves_nothing() {
    let Some(rtx) = rtx() else { return };
    for signal in ["-INT", "-TERM"] {
        let repository = slow();
        let mut building = Building::start(build(&repository, &rtx, &[]));
        building.sees("% reading the network");
        // Into the middle: TensorRT is asked to stop, not us before it begins.
        std::thread::sleep(Duration::from_millis(500));
        building.signal(signal);
        let (code, text) = building.end();
        assert_eq!(code, Some(130), "{text}");
        assert!(text.contains("stopped; nothing of it is kept") && !text.contains("built in"), "{text}");
        assert_eq!(files(&repository), BTreeSet::new(), "{signal}");
    }
}

/// Name, network, flags, exit status, words.
type Case<'a> = (&'a str, &'a [u8], &'a [&'a str], i32, &'a [&'a str]);

#[test]
fn models_that_cannot_be_built_are_named() {
    let Some(rtx) = rtx() else { return };
    let good = onnx::doubled(&[-1, 3]);
    let unknown = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .output("y", Kind::FLOAT, &[-1, 3])
        .node("NoSuchOperator", &["x"], "y")
        .model();
    let external = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .output("y", Kind::FLOAT, &[-1, 3])
        .external("w", &[3], "../weights.bin")
        .node("Add", &["x", "w"], "y")
        .model();
    let table: [Case<'_>; 7] = [
        (
            "unknown operator",
            &unknown,
            &[],
            1,
            &["m/1/model.onnx: ", "NoSuchOperator_y", "operator NoSuchOperator", "use another backend"],
        ),
        ("truncated", &good[..good.len() - 7], &[], 64, &["m/1/model.onnx: is not an ONNX model"]),
        ("empty", b"", &[], 64, &["m/1/model.onnx: is not an ONNX model: it holds no graph"]),
        ("open shape", &onnx::doubled(&[-1, -1]), &[], 1, &["input \"x\" is [-1]", "[[tensorrt.shape]]"]),
        (
            "weights elsewhere",
            &external,
            &[],
            1,
            &["\"../weights.bin\"; they must be in the model's own folder"],
        ),
        ("another GPU", &good, &["--compute-capability", "9.0"], 1, &["compute capability 9.0"]),
        ("no such model", &good, &["--model", "n"], 64, &["--model = n: must be a model of ", ": m"]),
    ];
    for (name, onnx, flags, code, words) in table {
        let repository = Repository::new().model("m", "max_batch_size = 4\n", onnx);
        let output = build(&repository, &rtx, flags).output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(code), "{name}: {text}");
        for word in words {
            assert!(text.contains(word), "{name}: \"{word}\" is not in\n{text}");
        }
        assert!(files(&repository).iter().all(|f| !f.starts_with('.')), "{name}: {:?}", files(&repository));
    }
    let open = "max_batch_size = 4\n[[tensorrt.shape]]\ninput = \"x\"\nmin = [1]\nopt = [8]\nmax = [64]\n";
    let repository = Repository::new().model("m", open, &onnx::doubled(&[-1, -1]));
    says(&build(&repository, &rtx, &[]).output().unwrap(), 0, &["built in"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let Some(rtx) = rtx() else { return };
    let repository =
        Repository::new().model("m", "max_batch_size = 4\n", &onnx::doubled(&[-1, 3])).file("file", b"");
    let under_a_file = repository.path().join("file/plans");
    let flags = ["--plan-cache", under_a_file.to_str().unwrap()];
    let says_why = ["cannot be kept as", "Not a directory", "name a folder with room in --plan-cache"];
    says(&build(&repository, &rtx, &flags).output().unwrap(), 1, &says_why);

    // As on a full disk: no file may grow beyond 4096 bytes.
    let command = build(&repository, &rtx, &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]).arg(command.get_program());
    limited.args(command.get_args());
    let text = says(&limited.output().unwrap(), 1, &["cannot be kept as", "File too large"]);
    assert_eq!(files(&repository), BTreeSet::new(), "{text}");
}

#[test]
fn without_a_library_it_says_what_was_looked_for() {
    let repository = Repository::new().model("m", "max_batch_size = 4\n", &onnx::doubled(&[-1, 3]));
    let words = [
        "error: no TensorRT was found:",
        "libnvinfer.so.10: ",
        "libnvinfer.so.11: ",
        "libtensorrt_rtx.so.1: ",
        "name the folder with the libraries in --tensorrt-dir or VISORD_TENSORRT_DIR",
    ];
    says(&build(&repository, repository.path(), &[]).output().unwrap(), 1, &words);
}

#[test]
fn the_network_as_the_builder_gets_it_can_be_had_without_tensorrt() {
    let graph = || {
        Graph::default()
            .input("x", Kind::FLOAT, &[-1, 3])
            .output("y", Kind::FLOAT, &[-1, 2])
            .weights("w", &[3, 2], &[0.5; 6])
            .node("MatMul", &["x", "w"], "y")
            .model()
    };
    let repository = Repository::new().model("m", "max_batch_size = 4\n", &graph());
    let out = repository.path().join("out.onnx");
    let write = |repository: &Repository, flags: &[&str]| {
        repository.run("build", &[&["--write-onnx", out.to_str().unwrap()], flags].concat())
    };
    says(&write(&repository, &[]), 0, &["out.onnx: ", "precision fp32"]);
    assert_eq!(std::fs::read(&out).unwrap(), graph());
    says(&write(&repository, &["--precision", "fp16"]), 0, &["precision fp16"]);
    let half = rten_onnx::onnx::ModelProto::parse_buf(&std::fs::read(&out).unwrap()).unwrap().graph.unwrap();
    let weights = half.initializer.iter().find(|w| w.dims == [3, 2]).unwrap();
    assert_eq!(weights.data_type, Some(Kind::FLOAT16));
    assert_eq!(files(&repository), BTreeSet::new());
    let repository = repository.model("n", "max_batch_size = 4\n", &graph());
    says(&write(&repository, &[]), 64, &["2 model versions are chosen; name one in --model"]);
    says(&write(&repository, &["--model", "n"]), 0, &[]);
    let kept = "max_batch_size = 4\n[tensorrt]\nfp32_operators = [\"Matmul\"]\n";
    let repository = Repository::new().model("m", kept, &graph());
    says(
        &write(&repository, &["--precision", "fp16"]),
        1,
        &["m/1/model.onnx cannot be rewritten", "fp32_operators has \"Matmul\""],
    );
}
