//! The cache with a builder that does as it is told. Real builds are in `tests/plan_cache.rs`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::builder::{Builder, BuilderError, Built, Event, Flavor, Identity, Options};
use super::cache::{Plan, PlanCache, Source};
use super::key::Entry;
use super::progress::{self, Progress};
use super::request::{PlanError, PlanRequest, Target};
use super::store;
use crate::model::config::{ModelConfig, Precision};
use crate::model::onnx::OnnxInfo;
use crate::model::spec::ModelSpec;
use crate::onnx_models::{self as onnx, Graph, Kind};
use crate::problems::Problems;
use crate::telemetry::metrics::Telemetry;
use crate::telemetry::plans::PlanMetrics;

/// A model repository with the cache in it.
struct Shop {
    root: tempfile::TempDir,
    telemetry: Telemetry,
}

impl Shop {
    fn new() -> Self {
        let shop = Self { root: tempfile::tempdir().unwrap(), telemetry: Telemetry::new(false) };
        shop.model("m", "max_batch_size = 4\n", &onnx::doubled(&[-1, 3]));
        shop
    }

    fn model(&self, name: &str, toml: &str, onnx: &[u8]) {
        let dir = self.root.path().join(name);
        std::fs::create_dir_all(dir.join("1")).unwrap();
        std::fs::write(dir.join("model.toml"), toml).unwrap();
        std::fs::write(dir.join("1/model.onnx"), onnx).unwrap();
    }

    fn spec(&self, name: &str) -> ModelSpec {
        let dir = self.root.path().join(name);
        let mut problems = Problems::default();
        let config = ModelConfig::read(&dir, name, &mut problems);
        let path = dir.join("1/model.onnx");
        let spec = ModelSpec::resolve(&config, &path, &OnnxInfo::read(&path).unwrap(), &mut problems);
        assert!(problems.0.is_empty(), "{problems:?}");
        spec
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(".plans")
    }

    fn cache(&self) -> PlanCache {
        self.bounded(1 << 30)
    }

    fn bounded(&self, max_bytes: u64) -> PlanCache {
        PlanCache::open(&self.dir(), max_bytes, Some(PlanMetrics::new(&self.telemetry)))
    }

    /// Outcomes that were counted, but for those at zero.
    fn counted(&self) -> BTreeSet<String> {
        let text = self.telemetry.render();
        let lines = text.lines().filter_map(|l| l.strip_prefix("visord_plan_cache_total{outcome=\""));
        lines.map(|l| l.replace("\"}", "")).filter(|l| !l.ends_with(" 0")).collect()
    }

    /// Every file of the cache, hidden ones too.
    fn files(&self) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.dir()) else { return BTreeSet::new() };
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn set<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.map(str::to_owned).into()
}

type Hook = Box<dyn Fn(&mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<(), BuilderError> + Sync>;

/// Counts its builds, and does in each what `during` says.
struct TestBuilder {
    identity: Identity,
    builds: AtomicUsize,
    during: Hook,
    timing: Mutex<Vec<Vec<u8>>>,
}

impl TestBuilder {
    fn new() -> Self {
        Self::doing(Box::new(|_| Ok(())))
    }

    fn doing(during: Hook) -> Self {
        let identity = Identity { flavor: Flavor::TensorRt10, version: "10.4.0.26".into(), dir: None };
        Self { identity, builds: AtomicUsize::new(0), during, timing: Mutex::default() }
    }

    fn builds(&self) -> usize {
        self.builds.load(Relaxed)
    }
}

impl Builder for TestBuilder {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn build(
        &self,
        onnx: &[u8],
        path: &Path,
        options: &Options,
        timing_cache: &[u8],
        monitor: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Built, BuilderError> {
        assert!(onnx == std::fs::read(path).unwrap(), "the network as it is in its file");
        let number = self.builds.fetch_add(1, Relaxed) + 1;
        self.timing.lock().unwrap().push(timing_cache.to_vec());
        (self.during)(monitor)?;
        let plan = format!("plan {number} {options:?}").into_bytes();
        Ok(Built { plan, timing_cache: format!("times {number}").into_bytes() })
    }
}

fn gpu() -> Target {
    Target { compute_capability: (8, 6), name: "NVIDIA RTX A4000".into(), present: true }
}

fn on(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn request<'a>(model: &'a str, spec: &'a ModelSpec, target: &'a Target) -> PlanRequest<'a> {
    PlanRequest { model, version: 1, spec, target, force: false }
}

#[track_caller]
fn obtain(cache: &PlanCache, model: &str, spec: &ModelSpec, builder: &TestBuilder) -> Plan {
    cache.obtain(&request(model, spec, &gpu()), builder, &mut on).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_plan_is_built_once_and_says_what_it_was_built_from() {
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    let spec = shop.spec("m");
    let built = obtain(&shop.cache(), "m", &spec, &builder);
    assert!(matches!(built.source, Source::Built(_)), "{:?}", built.source);
    // Another process, that is: another cache.
    let hit = obtain(&shop.cache(), "m", &spec, &builder);
    assert_eq!((hit.source, &hit.bytes, &hit.key), (Source::Hit, &built.bytes, &built.key));
    assert_eq!(builder.builds(), 1);
    assert_eq!(shop.counted(), set(["hit 1", "miss 1"]));

    let stem = format!("m-1-{}", &built.key[..16]);
    let timing = "timing-tensorrt-10-10.4.0.26-NVIDIA-RTX-A4000-sm86.cache";
    let want = [format!("{stem}.plan"), format!("{stem}.plan.json"), timing.to_owned()];
    assert_eq!(shop.files(), want.into());
    assert_eq!(std::fs::read(&hit.path).unwrap(), built.bytes);
    let note: Value =
        serde_json::from_slice(&std::fs::read(shop.dir().join(format!("{stem}.plan.json"))).unwrap())
            .unwrap();
    let from = &note["built_from"];
    for (got, want) in [
        (&note["model"], "m"),
        (&note["key"], &*built.key),
        (&from["tensorrt"], "tensorrt-10"),
        (&from["tensorrt_version"], "10.4.0.26"),
        (&from["compute_capability"], "8.6"),
        (&from["device"], "NVIDIA RTX A4000"),
        (&from["precision"], "fp32"),
    ] {
        assert_eq!(got, want, "{note}");
    }
    assert_eq!(note["size_bytes"], built.bytes.len());
    assert_eq!(from["options"]["profiles"][0]["inputs"][0]["max"], serde_json::json!([4, 3]));
    let command = note["command"].as_str().unwrap();
    let root = shop.root.path().display();
    assert!(
        command.starts_with(&format!("visord build --model-repository {root} --model m --precision fp32")),
        "{command}"
    );
    assert!(note["build_seconds"].is_f64() && note["built_at"].as_str().unwrap().ends_with('Z'), "{note}");

    let target = gpu();
    let forced = PlanRequest { force: true, ..request("m", &spec, &target) };
    let again = shop.cache().obtain(&forced, &builder, &mut on).unwrap();
    assert!(matches!(again.source, Source::Built(_)) && again.bytes != built.bytes);
    assert_eq!(obtain(&shop.cache(), "m", &spec, &builder).bytes, again.bytes);
}

/// The key of model `m`, as `change` leaves things.
fn key(change: impl FnOnce(&Shop, &mut Identity, &mut Target)) -> String {
    let shop = Shop::new();
    let (mut identity, mut target) = (TestBuilder::new().identity, gpu());
    let toml = "max_batch_size = 4\n";
    shop.model(
        "m",
        toml,
        &Graph::default()
            .input("x", Kind::FLOAT, &[-1, 3])
            .output("y", Kind::FLOAT, &[-1, 3])
            .external("w", &[3], "w.bin")
            .node("Add", &["x", "w"], "y")
            .model(),
    );
    std::fs::write(shop.root.path().join("m/1/w.bin"), [0; 12]).unwrap();
    change(&shop, &mut identity, &mut target);
    let spec = shop.spec("m");
    Entry::new(&request("m", &spec, &target), &identity).unwrap_or_else(|e| panic!("{e}")).key
}

#[test]
fn every_ingredient_changes_the_key_and_nothing_else_does() {
    fn toml(shop: &Shop, text: &str) {
        std::fs::write(shop.root.path().join("m/model.toml"), text).unwrap();
    }
    type Change = fn(&Shop, &mut Identity, &mut Target);
    let changes: [(&str, Change); 18] = [
        ("nothing", |_, _, _| ()),
        ("model", |shop, _, _| {
            let path = shop.root.path().join("m/1/model.onnx");
            // A longer producer name: another file, the same network.
            let bytes = [std::fs::read(&path).unwrap(), b"\x12\x01x".to_vec()].concat();
            std::fs::write(path, bytes).unwrap();
        }),
        ("external data", |shop, _, _| std::fs::write(shop.root.path().join("m/1/w.bin"), [1; 12]).unwrap()),
        ("product", |_, identity, _| identity.flavor = Flavor::TensorRt11),
        ("RTX", |_, identity, _| identity.flavor = Flavor::TensorRtRtx),
        ("version", |_, identity, _| identity.version = "10.4.0.27".into()),
        ("compute capability", |_, _, target| target.compute_capability = (8, 9)),
        ("device", |_, _, target| target.name = "NVIDIA A10".into()),
        ("tf32", |shop, _, _| toml(shop, "max_batch_size = 4\nprecision = \"tf32\"\n")),
        ("fp16", |shop, _, _| toml(shop, "max_batch_size = 4\nprecision = \"fp16\"\n")),
        ("fp16 of 11", |shop, identity, _| {
            identity.flavor = Flavor::TensorRt11;
            toml(shop, "max_batch_size = 4\nprecision = \"fp16\"\n");
        }),
        ("fp16 of 11, operators", |shop, identity, _| {
            identity.flavor = Flavor::TensorRt11;
            toml(shop, "max_batch_size = 4\nprecision = \"fp16\"\n[tensorrt]\nfp32_operators = [\"Add\"]\n");
        }),
        ("batch", |shop, _, _| toml(shop, "max_batch_size = 5\n")),
        ("profiles", |shop, _, _| {
            toml(shop, "max_batch_size = 4\n[dynamic_batching]\npreferred_batch_size = [2, 4]\n")
        }),
        ("workspace", |shop, _, _| toml(shop, "max_batch_size = 4\n[tensorrt]\nworkspace_bytes = 1048576\n")),
        ("optimisation", |shop, _, _| toml(shop, "max_batch_size = 4\n[tensorrt]\noptimization_level = 0\n")),
        ("compatibility", |shop, _, _| {
            toml(shop, "max_batch_size = 4\n[tensorrt]\nhardware_compatibility = \"ampere_plus\"\n");
        }),
        ("compatibility, same", |shop, _, _| {
            toml(
                shop,
                "max_batch_size = 4\n[tensorrt]\nhardware_compatibility = \"same_compute_capability\"\n",
            );
        }),
    ];
    let mut seen = std::collections::HashMap::new();
    for (name, change) in changes {
        let key = key(change);
        assert_eq!(key.len(), 64);
        if let Some(other) = seen.insert(key, name) {
            panic!("{name} has the key of {other}");
        }
    }
    let same: [(&str, Change); 3] = [
        ("where TensorRT is", |_, identity, _| identity.dir = Some("/opt/tensorrt".into())),
        ("timing cache", |shop, _, _| toml(shop, "max_batch_size = 4\n[tensorrt]\ntiming_cache = false\n")),
        ("what only serving needs", |shop, _, _| {
            toml(
                shop,
                "max_batch_size = 4\n[dynamic_batching]\nmax_queue_size = 7\n[[output]]\nname = \"y\"\nsoftmax = true\n",
            );
        }),
    ];
    for (name, change) in same {
        assert_eq!(seen.get(&key(change)), Some(&"nothing"), "{name}");
    }
    // TensorRT-RTX: the GPU's name and presence do not matter.
    let rtx = |target: Target| {
        key(move |_, identity, t| {
            identity.flavor = Flavor::TensorRtRtx;
            *t = target;
        })
    };
    assert_eq!(rtx(gpu()), rtx(Target::absent((8, 6))));
}

#[test]
fn a_stale_plan_is_left_where_it_is() {
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    let old = obtain(&shop.cache(), "m", &shop.spec("m"), &builder);
    shop.model("m", "max_batch_size = 8\n", &onnx::doubled(&[-1, 3]));
    let new = obtain(&shop.cache(), "m", &shop.spec("m"), &builder);
    assert!(matches!(new.source, Source::Built(_)) && new.path != old.path && old.path.exists());
    shop.model("m", "max_batch_size = 4\n", &onnx::doubled(&[-1, 3]));
    assert_eq!(obtain(&shop.cache(), "m", &shop.spec("m"), &builder).source, Source::Hit);
}

#[test]
fn what_is_damaged_is_set_aside_and_built_again() {
    type Damage = fn(plan: &Path, note: &Path);
    let table: [(Damage, &str); 11] = [
        (|plan, _| std::fs::write(plan, b"").unwrap(), "it has 0 bytes, not "),
        (
            |plan, _| File::options().write(true).open(plan).unwrap().set_len(9).unwrap(),
            "it has 9 bytes, not ",
        ),
        (
            |plan, _| {
                let mut bytes = std::fs::read(plan).unwrap();
                bytes[5] ^= 1;
                std::fs::write(plan, bytes).unwrap();
            },
            "its bytes are not those that were written",
        ),
        (|plan, _| std::fs::write(plan, [0; 4096]).unwrap(), "it has 4096 bytes, at most "),
        (|_, note| std::fs::remove_file(note).unwrap(), "its note cannot be read: No such file"),
        (|_, note| std::fs::write(note, b"").unwrap(), "its note does not parse: EOF"),
        (|_, note| std::fs::write(note, b"{\"model\": 1}").unwrap(), "its note does not parse: "),
        (|_, note| std::fs::write(note, b"[[[[[[").unwrap(), "its note does not parse: "),
        (
            |_, note| File::options().write(true).open(note).unwrap().set_len(1 << 30).unwrap(),
            "1073741824 bytes, at most",
        ),
        (
            |_, note| {
                let text = std::fs::read_to_string(note).unwrap();
                std::fs::write(note, text.replace("\"key\": \"", "\"key\": \"0")).unwrap();
            },
            "its note is of another plan, 0",
        ),
        (
            |plan, _| {
                std::fs::remove_file(plan).unwrap();
                std::fs::create_dir(plan).unwrap();
            },
            "it cannot be read: ",
        ),
    ];
    for (row, (damage, reason)) in table.into_iter().enumerate() {
        let (shop, builder) = (Shop::new(), TestBuilder::new());
        let spec = shop.spec("m");
        let first = obtain(&shop.cache(), "m", &spec, &builder);
        let note = first.path.with_extension("plan.json");
        damage(&first.path, &note);
        let second = obtain(&shop.cache(), "m", &spec, &builder);
        assert!(matches!(second.source, Source::Built(_)), "row {row}: {:?}", second.source);
        assert_eq!(shop.counted(), set(["miss 2", "corrupt 1"]), "row {row}");
        let aside = std::fs::read(first.path.with_extension("rejected.json")).unwrap();
        let aside: Value = serde_json::from_slice(&aside).unwrap();
        let text = aside["rejected"]["reason"].as_str().unwrap();
        assert!(text.contains(reason), "row {row}: {text}");
        assert!(first.path.with_extension("rejected").exists(), "row {row}");
        let third = obtain(&shop.cache(), "m", &spec, &builder);
        assert_eq!((third.source, third.bytes), (Source::Hit, second.bytes), "row {row}");
    }
}

#[test]
fn a_note_without_its_plan_is_a_miss() {
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    let spec = shop.spec("m");
    std::fs::remove_file(obtain(&shop.cache(), "m", &spec, &builder).path).unwrap();
    assert!(matches!(obtain(&shop.cache(), "m", &spec, &builder).source, Source::Built(_)));
    assert_eq!(shop.counted(), set(["miss 2"]));
}

#[test]
fn a_plan_that_tensorrt_refuses_is_set_aside_and_only_the_latest_is_kept() {
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    let spec = shop.spec("m");
    let cache = shop.cache();
    let first = obtain(&cache, "m", &spec, &builder);
    cache.reject(&first, "engine plan file is not compatible");
    let second = obtain(&cache, "m", &spec, &builder);
    assert!(matches!(second.source, Source::Built(_)));
    // Somebody else has replaced the first meanwhile: what is there is not what was refused.
    cache.reject(&first, "late");
    assert_eq!(obtain(&cache, "m", &spec, &builder).source, Source::Hit);
    shop.model("m", "max_batch_size = 8\n", &onnx::doubled(&[-1, 3]));
    let other = obtain(&cache, "m", &shop.spec("m"), &builder);
    cache.reject(&other, "and this one too");
    let rejected: Vec<String> = shop.files().into_iter().filter(|f| f.contains("rejected")).collect();
    let stem = format!("m-1-{}", &other.key[..16]);
    assert_eq!(rejected, [format!("{stem}.rejected"), format!("{stem}.rejected.json")]);
    let note = std::fs::read_to_string(shop.dir().join(&rejected[1])).unwrap();
    assert!(note.contains("and this one too") && note.contains(&other.key), "{note}");
    assert_eq!(shop.counted(), set(["miss 3", "rejected 3", "hit 1"]));
}

#[test]
fn two_at_once_build_one_plan() {
    let shop = Shop::new();
    let spec = shop.spec("m");
    let (waiting, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let wait = Mutex::new(wait);
    let slow = TestBuilder::doing(Box::new(move |_| {
        // Until the other one waits.
        wait.lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(30))
            .map_err(|e| BuilderError::Failed(e.to_string()))
    }));
    let (started, start) = std::sync::mpsc::sync_channel::<()>(1);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut told = |progress: &Progress<'_>| {
                if matches!(progress, Progress::Building { .. }) {
                    let _ = started.try_send(());
                }
                ControlFlow::Continue(())
            };
            shop.cache().obtain(&request("m", &spec, &gpu()), &slow, &mut told).unwrap()
        });
        start.recv().unwrap();
        // One that is told to stop while it waits, and one that waits to the end.
        let stopped =
            shop.cache().obtain(&request("m", &spec, &gpu()), &slow, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(PlanError::Cancelled)), "{stopped:?}");
        let mut polls = 0;
        let second = shop.cache().obtain(&request("m", &spec, &gpu()), &slow, &mut |progress| {
            assert!(matches!(progress, Progress::Waiting { .. }), "{progress:?}");
            polls += 1;
            if polls == 2 {
                waiting.send(()).unwrap();
            }
            ControlFlow::Continue(())
        });
        let (first, second) = (first.join().unwrap(), second.unwrap());
        assert_eq!((second.source, second.bytes), (Source::Waited, first.bytes));
    });
    assert_eq!(slow.builds(), 1);
    assert_eq!(shop.counted(), set(["miss 1", "waited 1"]));
    assert!(shop.files().iter().all(|f| !f.starts_with('.')), "{:?}", shop.files());
}

#[test]
fn a_build_that_fails_or_is_stopped_leaves_nothing() {
    let failing = TestBuilder::doing(Box::new(|_| Err(BuilderError::Failed("node 3, operator Foo".into()))));
    let stopping = TestBuilder::doing(Box::new(|monitor| {
        let begun = monitor(Event::Start { phase: "build", parent: None, steps: 2 });
        assert_eq!(begun, ControlFlow::Continue(()));
        match monitor(Event::Step { phase: "build", step: 0 }) {
            ControlFlow::Break(()) => Err(BuilderError::Cancelled),
            ControlFlow::Continue(()) => Ok(()),
        }
    }));
    for (builder, want) in [(failing, "m/1/model.onnx: node 3, operator Foo"), (stopping, "stopped")] {
        let shop = Shop::new();
        let spec = shop.spec("m");
        let mut ratios = Vec::new();
        let error =
            shop.cache().obtain(&request("m", &spec, &gpu()), &builder, &mut |progress| match progress {
                Progress::Building { ratio, .. } => {
                    ratios.push(*ratio);
                    if *ratio > 0.4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                }
                Progress::Waiting { .. } => ControlFlow::Continue(()),
            });
        let error = error.unwrap_err();
        assert!(error.to_string().ends_with(want), "{error}");
        assert_eq!(matches!(error, PlanError::Cancelled), want == "stopped", "{error:?}");
        assert_eq!(shop.files(), BTreeSet::new(), "{want}");
        assert_eq!(ratios[0], 0.0);
        // The next one does not wait.
        assert!(matches!(obtain(&shop.cache(), "m", &spec, &TestBuilder::new()).source, Source::Built(_)));
    }
}

#[test]
fn a_daemons_metrics_follow_a_build() {
    let builder = TestBuilder::doing(Box::new(|monitor| {
        let _ = monitor(Event::Start { phase: "build", parent: None, steps: 4 });
        let _ = monitor(Event::Step { phase: "build", step: 0 });
        Err(BuilderError::Failed("in the middle".into()))
    }));
    let (shop, target) = (Shop::new(), gpu());
    let spec = shop.spec("m");
    let gauge = || PlanMetrics::new(&shop.telemetry).build_progress("m", 1);
    for (builder, ratio, seconds) in [(&builder, "0.25", false), (&TestBuilder::new(), "1", true)] {
        let mut told = progress::daemon("m", 1, gauge());
        let plan = shop.cache().obtain(&request("m", &spec, &target), builder, &mut told);
        assert_eq!(plan.is_ok(), seconds);
        let text = shop.telemetry.render();
        let has = |line: &str| text.lines().any(|l| l.starts_with(line));
        let labels = "{model=\"m\",version=\"1\"}";
        assert!(has(&format!("visord_engine_build_progress_ratio{labels} {ratio}")), "{text}");
        assert_eq!(has(&format!("visord_engine_build_duration_seconds{labels} ")), seconds, "{text}");
    }
}

#[test]
fn a_build_ends_at_one() {
    let builder = TestBuilder::doing(Box::new(|monitor| {
        let _ = monitor(Event::Start { phase: "build", parent: None, steps: 4 });
        for step in 0..4 {
            let _ = monitor(Event::Step { phase: "build", step });
        }
        Ok(())
    }));
    let shop = Shop::new();
    let mut ratios = Vec::new();
    let mut told = |progress: &Progress<'_>| {
        if let Progress::Building { ratio, .. } = progress {
            ratios.push(*ratio);
        }
        // It is too late to stop at the end.
        if ratios.last() == Some(&1.0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let spec = shop.spec("m");
    shop.cache().obtain(&request("m", &spec, &gpu()), &builder, &mut told).unwrap();
    assert_eq!(ratios, [0.0, 0.0, 0.25, 0.5, 0.75, 0.99, 1.0]);
}

/// As a full disk does it: a part is written.
fn full(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    store::write_all(file, &bytes[..bytes.len() / 2])?;
    Err(io::ErrorKind::StorageFull.into())
}

/// Room for the plan, not for its note.
fn nearly_full(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    if bytes.starts_with(b"plan") { store::write_all(file, bytes) } else { full(file, bytes) }
}

#[test]
fn a_cache_that_cannot_be_written_serves_from_memory() {
    for write in [full, nearly_full] {
        let (shop, builder) = (Shop::new(), TestBuilder::new());
        let mut cache = shop.cache();
        cache.folder.write = write;
        let plan = obtain(&cache, "m", &shop.spec("m"), &builder);
        let Source::Memory { why, .. } = &plan.source else { panic!("{:?}", plan.source) };
        assert!(why.contains("no storage space"), "{why}");
        assert!(plan.bytes.starts_with(b"plan 1"));
        assert_eq!(shop.files(), BTreeSet::new());
        assert_eq!(shop.counted(), set(["miss 1", "unwritable 1"]));
        cache.reject(&plan, "there is no file to set aside");
        assert_eq!(shop.files(), BTreeSet::new());
    }
    // A folder that cannot be made, by root either.
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    std::fs::write(shop.dir(), b"a file").unwrap();
    let plan = obtain(&shop.cache(), "m", &shop.spec("m"), &builder);
    assert!(matches!(plan.source, Source::Memory { .. }), "{:?}", plan.source);
}

#[test]
fn a_plan_that_is_there_needs_no_lock() {
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    let spec = shop.spec("m");
    let built = obtain(&shop.cache(), "m", &spec, &builder);
    // Neither a lock file nor any other can be made under these names, as on a read-only file system.
    std::fs::create_dir(shop.dir().join(format!(".{}.lock", &built.key[..16]))).unwrap();
    let mut cache = shop.cache();
    cache.folder.write = full;
    assert_eq!(obtain(&cache, "m", &spec, &builder).source, Source::Hit);
    std::fs::remove_file(&built.path).unwrap();
    let plan = obtain(&cache, "m", &spec, &builder);
    assert!(matches!(plan.source, Source::Memory { .. }), "{:?}", plan.source);
}

fn used(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn the_bound_prunes_what_was_not_used_for_longest() {
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    let toml = "max_batch_size = 4\n[tensorrt]\ntiming_cache = false\n";
    // Each another network: the lock is the key's.
    for (width, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        shop.model(name, toml, &onnx::doubled(&[-1, 3 + width as i64]));
    }
    let plan = |name: &str| obtain(&shop.cache(), name, &shop.spec(name), &builder).path;
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(plan);
    let bytes = |path: &PathBuf| {
        let note = path.with_extension("plan.json");
        std::fs::metadata(path).unwrap().len() + std::fs::metadata(note).unwrap().len()
    };
    let each = bytes(&a);
    // `a` is the oldest and in use by the process that prunes, `b` is being built by another, `c` was set aside.
    shop.cache().reject(&obtain(&shop.cache(), "c", &shop.spec("c"), &builder), "refused");
    for (path, time) in [(&a, 1), (&b, 2), (&d, 4), (&e, 3)] {
        used(path, time);
    }
    let stranger = shop.dir().join("my-notes.plan");
    std::fs::write(&stranger, vec![0; 1 << 20]).unwrap();
    let key = b.file_stem().unwrap().to_str().unwrap().rsplit_once('-').unwrap().1.to_owned();
    let lock = File::create(store::lock_path(&shop.dir(), &key)).unwrap();
    lock.lock().unwrap();

    let pruning = shop.bounded(4 * each + each / 2);
    let spec = shop.spec("a");
    assert_eq!(obtain(&pruning, "a", &spec, &builder).source, Source::Hit);
    used(&a, 1);
    let f = obtain(&pruning, "f", &shop.spec("f"), &builder).path;
    let there = |paths: &[&PathBuf]| paths.iter().map(|p| p.exists()).collect::<Vec<_>>();
    assert_eq!(
        there(&[&a, &b, &c.with_extension("rejected"), &d, &e, &f]),
        [true, true, false, true, false, true]
    );
    drop(lock);

    // Nothing but what is in use fits, and even that does not.
    let tight = shop.bounded(1);
    obtain(&tight, "f", &shop.spec("f"), &builder);
    std::fs::remove_file(&a).unwrap();
    let a = obtain(&tight, "a", &spec, &builder).path;
    assert_eq!(there(&[&a, &b, &d, &f]), [true, false, false, true]);
    assert!(stranger.exists(), "what is not the cache's own is left alone");
    assert!(!b.with_extension("plan.json").exists(), "the note goes with its plan");
}

#[test]
fn what_a_writer_that_died_left_is_cleaned_up() {
    let shop = Shop::new();
    std::fs::create_dir(shop.dir()).unwrap();
    let file = |name: &str| {
        std::fs::write(shop.dir().join(name), b"half a pla").unwrap();
        File::open(shop.dir().join(name)).unwrap()
    };
    let names = ["0123456789abcdef", "fedcba9876543210"];
    for name in names {
        file(&format!(".{name}.tmp-4711-0"));
    }
    file(".0123456789abcdef.lock");
    let held = file(".fedcba9876543210.lock");
    held.lock().unwrap();
    file("keep-me");
    file(".hidden");
    let cache = shop.cache();
    let living = [".fedcba9876543210.lock", ".fedcba9876543210.tmp-4711-0"];
    assert_eq!(shop.files(), set([".hidden", "keep-me", living[0], living[1]]));
    drop(held);
    drop(cache);
    let _ = shop.cache();
    assert_eq!(shop.files(), set([".hidden", "keep-me"]));
}

#[test]
fn kernel_times_outlive_the_build_unless_damaged() {
    let (shop, builder) = (Shop::new(), TestBuilder::new());
    let build = |spec: &ModelSpec| {
        let target = gpu();
        let forced = PlanRequest { force: true, ..request("m", spec, &target) };
        shop.cache().obtain(&forced, &builder, &mut on).unwrap();
    };
    let spec = shop.spec("m");
    build(&spec);
    build(&spec);
    let file = shop.files().into_iter().find(|f| f.starts_with("timing-")).unwrap();
    let path = shop.dir().join(file);
    std::fs::write(&path, b"short").unwrap();
    build(&spec);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[33] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    build(&spec);
    shop.model("m", "max_batch_size = 4\n[tensorrt]\ntiming_cache = false\n", &onnx::doubled(&[-1, 3]));
    let before = std::fs::read(&path).unwrap();
    build(&shop.spec("m"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let given: [&[u8]; 5] = [b"", b"times 1", b"", b"", b""];
    assert_eq!(*builder.timing.lock().unwrap(), given);
}

#[test]
fn a_gpu_that_is_not_here_needs_tensorrt_rtx() {
    let shop = Shop::new();
    let mut spec = shop.spec("m");
    let absent = Target::absent((9, 0));
    let error = shop.cache().obtain(&request("m", &spec, &absent), &TestBuilder::new(), &mut on).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("compute capability 9.0") && text.contains("TensorRT-RTX"), "{text}");
    spec.precision = Precision::Bf16;
    let error = shop.cache().obtain(&request("m", &spec, &gpu()), &TestBuilder::new(), &mut on).unwrap_err();
    assert!(error.to_string().contains("use fp32, tf32 or fp16"), "{error}");
}

#[test]
fn weights_stay_in_the_models_folder() {
    for (location, want) in [
        ("/etc/passwd", "must be in the model's own folder"),
        ("../../secret", "must be in the model's own folder"),
        ("a/../../b", "must be in the model's own folder"),
        ("", "must be in the model's own folder"),
        ("no\0w", "must be in the model's own folder"),
        ("missing.bin", "missing.bin, which cannot be read: No such file"),
        (".", "which cannot be read: it is no file"),
    ] {
        let shop = Shop::new();
        let graph = Graph::default().input("x", Kind::FLOAT, &[-1, 3]).output("y", Kind::FLOAT, &[-1, 3]);
        let onnx = graph.external("w", &[3], location).node("Add", &["x", "w"], "y").model();
        shop.model("m", "max_batch_size = 4\n", &onnx);
        let spec = shop.spec("m");
        let error =
            shop.cache().obtain(&request("m", &spec, &gpu()), &TestBuilder::new(), &mut on).unwrap_err();
        assert!(error.to_string().contains(want), "{location:?}: {error}");
    }
}

/// `min/opt/max` of every input of every profile.
fn shapes(shop: &Shop, toml: &str, onnx: &[u8]) -> Result<Vec<String>, String> {
    shop.model("p", toml, onnx);
    let spec = shop.spec("p");
    let entry =
        Entry::new(&request("p", &spec, &gpu()), &TestBuilder::new().identity).map_err(|e| e.to_string())?;
    let inputs = entry.options.profiles.iter().flat_map(|p| &p.inputs);
    Ok(inputs.map(|i| format!("{} {:?} {:?} {:?}", i.name, i.min, i.opt, i.max)).collect())
}

#[test]
fn profiles_follow_the_batching_and_the_shapes() {
    use crate::onnx_models::Pixels;
    let shop = Shop::new();
    let any = onnx::doubled(&[-1, -1]);
    let range = "[[tensorrt.shape]]\ninput = \"x\"\nmin = [1]\nopt = [16]\nmax = [512]\n";
    for (name, toml, onnx, want) in [
        (
            "max_batch_size",
            "max_batch_size = 8\n".to_owned(),
            onnx::doubled(&[-1, 3]),
            vec!["x [1, 3] [8, 3] [8, 3]"],
        ),
        (
            "preferred",
            "max_batch_size = 8\n[dynamic_batching]\npreferred_batch_size = [4, 1]\n".to_owned(),
            onnx::doubled(&[-1, 3]),
            vec!["x [1, 3] [1, 3] [8, 3]", "x [1, 3] [4, 3] [8, 3]"],
        ),
        (
            "picture",
            "max_batch_size = 2\n[image]\nwidth = 8\nheight = 6\n".to_owned(),
            onnx::classifier(Pixels::AnySize, 1.0),
            vec!["pixels [1, 3, 6, 8] [2, 3, 6, 8] [2, 3, 6, 8]"],
        ),
        (
            "two inputs",
            "max_batch_size = 2\n".to_owned(),
            onnx::two_inputs(Kind::INT32, &[-1, 4]),
            vec!["a [1, 4] [2, 4] [2, 4]", "b [1, 4] [2, 4] [2, 4]"],
        ),
        ("fixed batch", String::new(), onnx::doubled(&[1, 3]), vec![]),
        ("no batch", "max_batch_size = 0\n".to_owned(), onnx::doubled(&[2, 3]), vec![]),
        ("open row", format!("max_batch_size = 4\n{range}"), any.clone(), vec!["x [1, 1] [4, 16] [4, 512]"]),
        (
            "open row, fixed batch",
            format!("max_batch_size = 1\n{range}"),
            onnx::doubled(&[1, -1]),
            vec!["x [1, 1] [1, 16] [1, 512]"],
        ),
        (
            "open, no batch",
            range.replace("[[", "max_batch_size = 0\n[["),
            onnx::doubled(&[-1]),
            vec!["x [1] [16] [512]"],
        ),
    ] {
        assert_eq!(shapes(&shop, &toml, &onnx), Ok(want.into_iter().map(str::to_owned).collect()), "{name}");
    }
    let error = shapes(&shop, "max_batch_size = 4\n", &any).unwrap_err();
    assert!(error.contains("[[tensorrt.shape]] with input = \"x\""), "{error}");
}

#[test]
fn quantised_models_are_told_apart() {
    let shop = Shop::new();
    let graph = |op: &str| {
        Graph::default()
            .input("x", Kind::FLOAT, &[-1, 3])
            .output("y", Kind::FLOAT, &[-1, 3])
            .weights("s", &[], &[0.5])
            .node(op, &["x", "s"], "y")
            .model()
    };
    for (op, flavor, want) in [
        ("Add", Flavor::TensorRt10, false),
        ("QuantizeLinear", Flavor::TensorRt10, true),
        ("DequantizeLinear", Flavor::TensorRt10, true),
        ("QuantizeLinear", Flavor::TensorRt11, false),
    ] {
        shop.model("q", "max_batch_size = 4\n", &graph(op));
        let identity = Identity { flavor, ..TestBuilder::new().identity };
        let spec = shop.spec("q");
        let entry = Entry::new(&request("q", &spec, &gpu()), &identity).unwrap();
        assert_eq!((entry.network.quantized, entry.options.int8), (op != "Add", want), "{op} {flavor:?}");
    }
}
