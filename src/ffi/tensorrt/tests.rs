//! Against the real libraries, which need no GPU for this: TensorRT-RTX's builder, and the lean runtimes of
//! TensorRT 10 and 11. `scripts/tensorrt-rtx` and `scripts/tensorrt-lean` fetch them.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::onnx_models::{self as onnx, Graph, Kind};

use super::builder::Built;
use super::*;

#[derive(Clone, Copy)]
enum Fetched {
    Rtx,
    Lean10,
    Lean11,
}

impl Fetched {
    /// The folder of the libraries. `None`, loudly, on a machine that could not fetch them; CI has to.
    #[allow(clippy::disallowed_methods, reason = "tests find the libraries where `make` puts them")]
    fn dir(self) -> Option<PathBuf> {
        let (variable, name, script) = match self {
            Self::Rtx => ("VISORD_TENSORRT_DIR", "rtx-1.7.1.116", "scripts/tensorrt-rtx"),
            Self::Lean10 => ("VISORD_TENSORRT_LEAN_10_DIR", "lean-10.16.1.11", "scripts/tensorrt-lean 10"),
            Self::Lean11 => ("VISORD_TENSORRT_LEAN_11_DIR", "lean-11.4.0.106", "scripts/tensorrt-lean 11"),
        };
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
        let dir =
            std::env::var_os(variable).map_or_else(|| target.join("tensorrt").join(name), PathBuf::from);
        if dir.is_dir() {
            return Some(dir);
        }
        let text = format!("{} is missing; {script} fetches it", dir.display());
        // NVIDIA has these wheels for x86-64 only.
        let required = cfg!(target_arch = "x86_64") && std::env::var_os("CI").is_some();
        assert!(!required, "{text}");
        eprintln!("NOT TESTED: {text}");
        None
    }

    fn lean(self) -> Option<(Flavor, PathBuf)> {
        let (flavor, file) = match self {
            Self::Rtx => panic!("TensorRT-RTX has no lean runtime"),
            Self::Lean10 => (Flavor::TensorRt10, "libnvinfer_lean.so.10"),
            Self::Lean11 => (Flavor::TensorRt11, "libnvinfer_lean.so.11"),
        };
        Some((flavor, self.dir()?.join(file)))
    }
}

fn rtx() -> Option<Arc<Library>> {
    let (library, findings) = Library::find(Some(&Fetched::Rtx.dir()?));
    Some(library.unwrap_or_else(|| panic!("{findings:?}")))
}

/// Whether this machine could run a plan; then TensorRT says other things.
fn has_driver() -> bool {
    // SAFETY: it opens libcuda and closes it again.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

fn options(profiles: Vec<Profile>) -> BuildOptions {
    BuildOptions {
        fp16: false,
        tf32: false,
        int8: false,
        workspace_bytes: None,
        optimization_level: None,
        hardware_compatibility: HardwareCompatibility::None,
        profiles,
        compute_capabilities: vec![(8, 6)],
        timing_cache: Vec::new(),
    }
}

fn input(name: &str, min: &[i64], opt: &[i64], max: &[i64]) -> ProfileInput {
    ProfileInput { name: name.into(), min: min.into(), opt: opt.into(), max: max.into() }
}

/// Batches of 1 to 4 of `x`, `[batch, 3]`.
fn batches() -> Vec<Profile> {
    vec![Profile { inputs: vec![input("x", &[1, 3], &[2, 3], &[4, 3])] }]
}

fn doubled() -> Vec<u8> {
    onnx::doubled(&[-1, 3])
}

fn quiet(_: &BuildProgress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn build(library: &Library, onnx: &[u8], options: &BuildOptions) -> Result<Built, TensorRtError> {
    library.build(&Network { onnx, path: Path::new("model.onnx") }, options, &mut quiet)
}

fn arcface() -> (Vec<u8>, PathBuf, Vec<Profile>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/ArcFace/1/model.onnx");
    let shape = |batch| [batch, 3, 112, 112];
    let profile = Profile { inputs: vec![input("input", &shape(1), &shape(8), &shape(32))] };
    (std::fs::read(&path).unwrap(), path, vec![profile])
}

/// The error's kind, and its text has each of `words`.
#[track_caller]
fn assert_error(case: &str, error: &TensorRtError, kind: &str, words: &[&str]) {
    let debug = format!("{error:?}");
    assert!(debug.starts_with(kind), "{case}: wanted {kind}, got {debug}");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{case}: \"{word}\" is not in: {text}");
    }
}

#[test]
fn both_sides_of_the_shim_agree_on_its_structs() {
    let compiled: Vec<Flavor> = Flavor::ALL.into_iter().filter(|f| f.api().is_some()).collect();
    assert!(
        compiled.ends_with(&[Flavor::TensorRt11, Flavor::TensorRtRtx]),
        "trtx-sys has both: {compiled:?}"
    );
    for flavor in compiled {
        let api = flavor.api().unwrap();
        assert_eq!(api.layout, sys::LAYOUT, "{flavor:?}");
        let major = match flavor {
            Flavor::TensorRt10 => 10,
            Flavor::TensorRt11 => 11,
            Flavor::TensorRtRtx => 1,
        };
        assert_eq!(api.headers.major, major, "{flavor:?}");
    }
}

#[test]
fn finds_tensorrt_rtx_in_a_folder() {
    let Some(dir) = Fetched::Rtx.dir() else { return };
    let (library, findings) = Library::find(Some(&dir));
    let library = library.unwrap_or_else(|| panic!("{findings:?}"));
    assert_eq!(library.flavor(), Flavor::TensorRtRtx);
    assert_eq!(library.version().to_string(), "1.7.1.116");
    assert_eq!(library.path(), dir.join("libtensorrt_rtx.so.1"));
    assert!(library.can_build());
    let names: Vec<&str> = findings.iter().map(|f| f.library.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["libnvinfer.so.10", "libnvinfer.so.11", "libtensorrt_rtx.so.1"]);
    for missing in &findings[..2] {
        let why = missing.outcome.as_ref().unwrap_err();
        assert!(why.starts_with("cannot open shared object file"), "{missing:?}");
    }
    assert_eq!(findings[2].outcome, Ok("TensorRT-RTX 1.7.1.116".to_owned()));
}

#[test]
fn a_runtime_without_its_parser_opens_and_says_that_it_cannot_build() {
    let Some(dir) = Fetched::Rtx.dir() else { return };
    let folder = tempfile::tempdir().unwrap();
    let name = "libtensorrt_rtx.so.1";
    std::os::unix::fs::symlink(dir.join(name), folder.path().join(name)).unwrap();
    let (library, findings) = Library::find(Some(folder.path()));
    let library = library.unwrap_or_else(|| panic!("{findings:?}"));
    assert!(!library.can_build());
    let says = findings[2].outcome.as_ref().unwrap();
    assert!(says.contains("without its ONNX parser") && says.contains("libtensorrt_onnxparser"), "{says}");
    let error = build(&library, &doubled(), &options(batches())).unwrap_err();
    assert_error("build", &error, "Unsupported", &["runtime only", "no ONNX parser"]);
}

#[test]
fn what_is_not_the_library_wanted_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut cases: Vec<(&str, Flavor, PathBuf, &str)> = vec![
        ("nothing", Flavor::TensorRt11, folder.path().join("none.so"), "No such file"),
        ("text", Flavor::TensorRt11, file("text.so", b"not a library, but a text"), "file too short"),
        ("long text", Flavor::TensorRtRtx, file("long.so", &[b'x'; 9000]), "invalid ELF header"),
    ];
    if let Some(dir) = Fetched::Rtx.dir() {
        let (runtime, parser) =
            (dir.join("libtensorrt_rtx.so.1"), dir.join("libtensorrt_onnxparser_rtx.so.1"));
        cases.push(("a library of another kind", Flavor::TensorRtRtx, parser, "it is no TensorRT"));
        let wanted = "it is version 1.7.1.116, where TensorRT 11 is needed";
        cases.push(("RTX as 11", Flavor::TensorRt11, runtime, wanted));
    }
    if let Some((_, path)) = Fetched::Lean10.lean() {
        let wanted = "it is version 10.16.1.11, where TensorRT 11 is needed";
        cases.push(("10 as 11", Flavor::TensorRt11, path, wanted));
    }
    if let Some((_, path)) = Fetched::Lean11.lean() {
        let wanted = "it is version 11.4.0.106, where TensorRT-RTX 1 is needed";
        cases.push(("11 as RTX", Flavor::TensorRtRtx, path, wanted));
    }
    for (case, flavor, path, words) in cases {
        let error = Library::open(flavor, &path, None).unwrap_err();
        assert_error(case, &error, "Open", &[words, path.to_str().unwrap()]);
        assert_eq!(error.to_string().matches(path.to_str().unwrap()).count(), 1, "{case}: {error}");
    }
    let (library, findings) = Library::find(Some(folder.path()));
    assert!(library.is_none());
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings.iter().all(|f| f.outcome.is_err()), "{findings:?}");
}

#[test]
fn lean_runtimes_say_who_they_are_and_that_there_is_no_driver() {
    for (fetched, version) in [(Fetched::Lean10, "10.16.1.11"), (Fetched::Lean11, "11.4.0.106")] {
        let Some((flavor, path)) = fetched.lean() else { continue };
        let opened = Library::open(flavor, &path, None);
        if flavor.api().is_none() {
            let words = ["it is there", "without the headers of TensorRT 10", "TENSORRT_INCLUDE_DIR_10"];
            assert_error(version, &opened.unwrap_err(), "Unsupported", &words);
            continue;
        }
        let library = Arc::new(opened.unwrap_or_else(|e| panic!("{version}: {e}")).0);
        assert_eq!(library.version().to_string(), version);
        assert!(!library.can_build(), "{version}");
        let error = build(&library, &doubled(), &options(batches())).unwrap_err();
        assert_error(version, &error, "Unsupported", &["runtime only", "no builder"]);
        for (case, plan) in [("empty", &[][..]), ("random", &[9; 5000])] {
            let error = library.deserialize(plan).unwrap_err();
            if !has_driver() {
                let words = ["createInferRuntime", "CUDA initialization failure with error: 35"];
                assert_error(&format!("{version}, {case}"), &error, "NoDriver", &words);
            }
        }
    }
}

#[test]
fn the_shipped_model_builds_for_several_gpus_and_reports_its_progress() {
    let Some(library) = rtx() else { return };
    let (onnx, path, profiles) = arcface();
    for (compute_capabilities, tf32) in [
        (vec![(8, 6)], false),
        (vec![(8, 9)], true),
        (vec![(8, 6), (8, 9)], false),
        (vec![(12, 0)], false),
        (vec![], false),
    ] {
        let case = format!("{compute_capabilities:?}");
        let options = BuildOptions { compute_capabilities, tf32, ..options(profiles.clone()) };
        let thread = std::thread::current().id();
        // Open phases with their next step and count of steps.
        let mut open: Vec<(String, u32, u32)> = Vec::new();
        let (mut phases, mut steps) = (0, 0);
        let network = Network { onnx: &onnx, path: &path };
        let built = library.build(&network, &options, &mut |progress| {
            assert_eq!(std::thread::current().id(), thread);
            let at = |open: &[(String, u32, u32)], phase: &str| open.iter().rposition(|p| p.0 == phase);
            match *progress {
                BuildProgress::Start { phase, parent, steps } => {
                    assert!(
                        parent.is_none_or(|p| at(&open, p).is_some()),
                        "{case}: {progress:?} in {open:?}"
                    );
                    open.push((phase.to_owned(), 0, steps));
                    phases += 1;
                }
                BuildProgress::Step { phase, step } => {
                    let at = at(&open, phase).unwrap_or_else(|| panic!("{case}: {progress:?} in {open:?}"));
                    let (_, next, count) = &mut open[at];
                    assert!(step >= *next && step < *count, "{case}: {progress:?}, {next} of {count}");
                    *next = step + 1;
                    steps += 1;
                }
                BuildProgress::Finish { phase } => {
                    let at = at(&open, phase).unwrap_or_else(|| panic!("{case}: {progress:?} in {open:?}"));
                    open.remove(at);
                }
            }
            ControlFlow::Continue(())
        });
        let built = built.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(open.is_empty(), "{case}: {open:?}");
        assert!(phases >= 3 && steps >= 50, "{case}: {phases} phases, {steps} steps");
        // The weights are 5.2 MB.
        assert!((5 << 20..12 << 20).contains(&built.plan.len()), "{case}: {} bytes", built.plan.len());
        assert!(!built.timing_cache.is_empty(), "{case}");
        let again = BuildOptions { timing_cache: built.timing_cache, ..options };
        assert!(build(&library, &onnx, &again).is_ok(), "{case}: with its own timing cache");
    }
}

#[test]
fn the_monitor_stops_a_build() {
    let Some(library) = rtx() else { return };
    let (onnx, path, profiles) = arcface();
    let network = Network { onnx: &onnx, path: &path };
    let events = |monitor: &mut dyn FnMut(usize) -> ControlFlow<()>| {
        let mut seen = 0;
        let result = library.build(&network, &options(profiles.clone()), &mut |_| {
            seen += 1;
            monitor(seen)
        });
        (seen, result)
    };
    let (whole, built) = events(&mut |_| ControlFlow::Continue(()));
    assert!(built.is_ok());
    for stop in [1, 2, whole / 4, whole / 2, 3 * whole / 4, whole - 1, whole] {
        let at = |seen| if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let (seen, result) = events(&mut |seen| at(seen));
        assert_eq!(result.map(|b| b.plan.len()), Err(TensorRtError::Cancelled), "at {stop} of {whole}");
        assert_eq!(seen, stop, "the monitor is not called after it said Break");
    }
}

#[test]
fn a_cancelled_build_does_not_go_on() {
    let Some(library) = rtx() else { return };
    let (onnx, path, profiles) = arcface();
    let network = Network { onnx: &onnx, path: &path };
    let time = |stop: bool| {
        let began = std::time::Instant::now();
        let result = library.build(&network, &options(profiles.clone()), &mut |progress| {
            // The network is copied first of all.
            let first = matches!(progress, BuildProgress::Step { .. });
            if stop && first { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (began.elapsed(), result.is_ok())
    };
    let (whole, done) = time(false);
    assert!(done);
    // The best of three: other tests take the processor too.
    let stopped = (0..3).map(|_| time(true)).inspect(|(_, done)| assert!(!done)).map(|t| t.0).min().unwrap();
    assert!(stopped * 2 < whole, "stopped after {stopped:?} of {whole:?}");
}

#[test]
fn a_panic_in_the_monitor_ends_the_build_and_goes_on() {
    let Some(library) = rtx() else { return };
    let network = Network { onnx: &doubled(), path: Path::new("model.onnx") };
    for at in [1, 5] {
        let mut seen = 0;
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
            library.build(&network, &options(batches()), &mut |_| {
                seen += 1;
                assert!(seen < at, "the monitor fell over");
                ControlFlow::Continue(())
            })
        }));
        let panic = caught.map(|_| ()).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the monitor fell over"), "at {at}");
    }
    assert!(build(&library, &doubled(), &options(batches())).is_ok(), "the library is as before");
}

#[test]
fn models_that_cannot_be_built_are_refused_in_words() {
    let Some(library) = rtx() else { return };
    let (arcface, ..) = arcface();
    let unknown = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .output("y", Kind::FLOAT, &[-1, 3])
        .node("Relu", &["x"], "a")
        .node("Frobnicate", &["a"], "b")
        .node("Embroider", &["b"], "y")
        .model();
    let dangling = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .output("y", Kind::FLOAT, &[-1, 3])
        .node("Add", &["x", "nowhere"], "y")
        .model();
    let shape_input = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .input("shape", Kind::INT64, &[2])
        .output("y", Kind::FLOAT, &[-1, -1])
        .node("Reshape", &["x", "shape"], "y")
        .model();
    let noise: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let cases: Vec<(&str, &[u8], &str, &[&str])> = vec![
        (
            "unknown operators",
            &unknown,
            "Parse",
            &[
                "node 1 \"Frobnicate_b\", operator Frobnicate",
                "node 2 \"Embroider_y\", operator Embroider",
                "export the model with others, or use another backend",
            ],
        ),
        (
            "a node without its input",
            &dangling,
            "Parse",
            &["node 0 \"Add_y\", operator Add: ", "onnx.checker"],
        ),
        ("half a file", &arcface[..arcface.len() / 2], "Parse", &["Failed to parse", "the file is damaged"]),
        ("the head of a file", &arcface[..1000], "Parse", &["Failed to parse", "the file is damaged"]),
        ("an empty file", b"", "Interface", &["model.onnx", "no inputs", "the file is empty"]),
        ("a text", b"Hello, this is no model.\n", "Interface", &["no inputs", "no ONNX model"]),
        ("noise", &noise, "Interface", &["no inputs", "no ONNX model"]),
        ("a shape as input", &shape_input, "Unsupported", &["\"shape\" is used as a shape"]),
    ];
    for (case, onnx, kind, words) in cases {
        let error = build(&library, onnx, &options(batches())).unwrap_err();
        assert_error(case, &error, kind, words);
    }
}

#[test]
fn options_that_do_not_fit_are_refused_in_words() {
    let Some(library) = rtx() else { return };
    let one = |inputs: Vec<ProfileInput>| options(vec![Profile { inputs }]);
    let long = [1; 9];
    let cases: Vec<(&str, BuildOptions, &str, &[&str])> = vec![
        ("no profile", options(vec![]), "Interface", &["no optimisation profile", "\"x\" [-1, 3]"]),
        (
            "another name",
            one(vec![input("data", &[1, 3], &[1, 3], &[1, 3])]),
            "Interface",
            &["profile 0", "no input \"data\"", "\"x\" [-1, 3]"],
        ),
        (
            "an input left out",
            options(vec![batches().remove(0), Profile { inputs: vec![] }]),
            "Interface",
            &["profile 1", "no shapes for input \"x\""],
        ),
        (
            "another rank",
            one(vec![input("x", &[1, 3, 1], &[1, 3, 1], &[1, 3, 1])]),
            "Interface",
            &["\"x\" is [-1, 3] in the model", "[1, 3, 1] does not fit"],
        ),
        (
            "another fixed dimension",
            one(vec![input("x", &[1, 3], &[1, 3], &[1, 4])]),
            "Interface",
            &["\"x\" is [-1, 3] in the model", "[1, 4] does not fit"],
        ),
        (
            "min above opt",
            one(vec![input("x", &[3, 3], &[2, 3], &[4, 3])]),
            "Interface",
            &["min <= opt <= max"],
        ),
        (
            "opt above max",
            one(vec![input("x", &[1, 3], &[5, 3], &[4, 3])]),
            "Interface",
            &["min <= opt <= max"],
        ),
        ("a negative min", one(vec![input("x", &[-1, 3], &[2, 3], &[4, 3])]), "Interface", &["0 <= min"]),
        ("other ranks", one(vec![input("x", &[1], &[2, 3], &[4, 3])]), "Interface", &["as many dimensions"]),
        (
            "nine dimensions",
            one(vec![input("x", &long, &long, &long)]),
            "Interface",
            &["9 dimensions", "takes 8"],
        ),
        ("NUL", one(vec![input("x\0", &[1, 3], &[1, 3], &[1, 3])]), "Interface", &["NUL"]),
        ("FP16", BuildOptions { fp16: true, ..options(batches()) }, "Unsupported", &["strongly typed"]),
        (
            "hardware compatibility",
            BuildOptions { hardware_compatibility: HardwareCompatibility::AmperePlus, ..options(batches()) },
            "Unsupported",
            &["does not have this hardware compatibility", "compute capabilities"],
        ),
        (
            "level 6",
            BuildOptions { optimization_level: Some(6), ..options(batches()) },
            "Interface",
            &["0 to 5"],
        ),
        (
            "a V100",
            BuildOptions { compute_capabilities: vec![(7, 0)], ..options(batches()) },
            "Call",
            &["Compute capability is invalid or not supported", "7.0"],
        ),
        (
            "an H100 beside an A10",
            BuildOptions { compute_capabilities: vec![(8, 6), (9, 0)], ..options(batches()) },
            "Call",
            &["Compute capability is invalid or not supported", "9.0"],
        ),
        (
            "no compute capability",
            BuildOptions { compute_capabilities: vec![(0, 86)], ..options(batches()) },
            "Interface",
            &["0.86 is no compute capability"],
        ),
    ];
    for (case, options, kind, words) in cases {
        assert_error(case, &build(&library, &doubled(), &options).unwrap_err(), kind, words);
    }
}

#[test]
fn options_that_fit_are_taken() {
    let Some(library) = rtx() else { return };
    let three_profiles = [1, 2, 4].map(|batch| Profile {
        inputs: vec![
            input("b", &[1, 3], &[batch, 3], &[batch, 3]),
            input("a", &[1, 3], &[batch, 3], &[batch, 3]),
        ],
    });
    let plain = || options(batches());
    let cases: Vec<(&str, Vec<u8>, BuildOptions)> = vec![
        (
            "two inputs, three profiles",
            onnx::two_inputs(Kind::INT32, &[-1, 3]),
            options(three_profiles.into()),
        ),
        ("fixed shapes, no profile", onnx::doubled(&[2, 3]), options(vec![])),
        ("every level", doubled(), BuildOptions { optimization_level: Some(0), ..plain() }),
        ("every level", doubled(), BuildOptions { optimization_level: Some(5), ..plain() }),
        ("workspace", doubled(), BuildOptions { workspace_bytes: Some(64 << 20), ..plain() }),
        ("a timing cache of nobody", doubled(), BuildOptions { timing_cache: vec![7; 1000], ..plain() }),
        ("quantised", quantised(), BuildOptions { int8: true, ..plain() }),
    ];
    for (case, onnx, options) in cases {
        let built = build(&library, &onnx, &options).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(!built.plan.is_empty() && !built.timing_cache.is_empty(), "{case}");
    }
}

/// `y = x * weights` with both quantised to 8 bits.
fn quantised() -> Vec<u8> {
    Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .output("y", Kind::FLOAT, &[-1, 4])
        .weights("scale", &[], &[0.01])
        .weights("weights", &[3, 4], &[0.5; 12])
        .node("QuantizeLinear", &["x", "scale"], "x8")
        .node("DequantizeLinear", &["x8", "scale"], "xq")
        .node("QuantizeLinear", &["weights", "scale"], "w8")
        .node("DequantizeLinear", &["w8", "scale"], "wq")
        .node("MatMul", &["xq", "wq"], "y")
        .model()
}

#[test]
fn external_data_is_found_beside_the_model() {
    let Some(library) = rtx() else { return };
    let folder = tempfile::tempdir().unwrap();
    let onnx = external();
    let path = folder.path().join("model.onnx");
    let build = || library.build(&Network { onnx: &onnx, path: &path }, &options(batches()), &mut quiet);
    let file = folder.path().join("weights.bin");
    let words = [
        "Failed to import initializer: w",
        file.to_str().unwrap(),
        "put the model's external data beside it",
    ];
    assert_error("without the file", &build().unwrap_err(), "Parse", &words);
    std::fs::write(&file, [0_u8; 12]).unwrap();
    assert!(build().is_ok(), "{:?}", build().map(|_| ()));
}

/// `y = x + w`, with the three weights in `weights.bin`.
fn external() -> Vec<u8> {
    use rten_onnx::onnx::{DataLocation, DataType, ModelProto, StringStringEntryProto, TensorProto};
    let onnx = Graph::default()
        .input("x", Kind::FLOAT, &[-1, 3])
        .output("y", Kind::FLOAT, &[-1, 3])
        .node("Add", &["x", "w"], "y")
        .model();
    let mut model = ModelProto::parse_buf(&onnx).unwrap();
    let entry =
        |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    model.graph.as_mut().unwrap().initializer.push(TensorProto {
        dims: vec![3],
        data_type: Some(DataType::FLOAT),
        name: Some("w".into()),
        external_data: vec![entry("location", "weights.bin"), entry("offset", "0"), entry("length", "12")],
        data_location: Some(DataLocation::EXTERNAL),
        raw_data: None::<RefCell<Vec<u8>>>,
        ..TensorProto::default()
    });
    model.write_buf().unwrap()
}

#[test]
fn plans_do_not_load_without_a_driver_and_damaged_ones_never() {
    let Some(library) = rtx() else { return };
    let plan = build(&library, &doubled(), &options(batches())).unwrap().plan;
    let whole = library.deserialize(&plan);
    if !has_driver() {
        let words = ["deserializeCudaEngine", "no usable CUDA driver", "cudaError 35"];
        assert_error("whole", &whole.unwrap_err(), "NoDriver", &words);
    }
    for (case, plan, words) in [
        ("half", &plan[..plan.len() / 2], "plan.header.size == blobSize"),
        ("empty", &[][..], "empty memory buffer"),
        ("text", &b"this is no plan"[..], "bufferSize >= minBufferSize"),
        ("random", &[9; 5000][..], "incompatible serialization version"),
    ] {
        assert_error(
            case,
            &library.deserialize(plan).unwrap_err(),
            "Call",
            &["deserializeCudaEngine", words],
        );
    }
}

#[test]
fn a_library_opens_again_after_it_was_closed_and_builds_in_several_threads() {
    let Some(library) = rtx() else { return };
    drop(library);
    let Some(library) = rtx() else { return };
    std::thread::scope(|scope| {
        let builds: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| build(&library, &doubled(), &options(batches())).map(|_| ())))
            .collect();
        for each in builds {
            assert_eq!(each.join().unwrap(), Ok(()));
        }
    });
}
