//! The host device: `tests/fake` built, and a running process's counters of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for counters: only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder with the fake libraries, built on first use. For `LD_LIBRARY_PATH`.
pub fn libraries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("fake", &[]))
}

/// The same with AddressSanitizer and UndefinedBehaviorSanitizer, and what a process without them has to preload.
pub fn sanitized() -> (&'static Path, String) {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let preload = ["libasan.so", "libubsan.so"].map(|library| {
        let found = Command::new("c++").arg(format!("-print-file-name={library}")).output().unwrap();
        super::text(&found).trim().to_owned()
    });
    (BUILT.get_or_init(|| build("fake-sanitized", &["--sanitize"])), preload.join(":"))
}

fn build(folder: &str, flags: &[&str]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/build");
    let output = Command::new(&script)
        .arg(&dir)
        .args(flags)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}; it needs python3", script.display()));
    assert!(output.status.success(), "{}", super::text(&output));
    dir
}

/// Where a process on the host device writes its counters.
pub struct Counters(PathBuf);

impl Counters {
    /// `file` goes into the process's `VISORD_FAKE_CUDA_COUNTERS`.
    pub fn new(file: PathBuf) -> Self {
        Self(file)
    }

    pub fn file(&self) -> &Path {
        &self.0
    }

    /// The counters of the running process as they are now.
    #[track_caller]
    pub fn read(&self) -> Snapshot {
        let request = self.0.with_added_extension("request");
        std::fs::write(&request, b"").unwrap();
        let start = Instant::now();
        while request.exists() {
            assert!(start.elapsed() < PATIENCE, "no process answers {}", request.display());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.last()
    }

    /// What the process wrote when it ended.
    #[track_caller]
    pub fn last(&self) -> Snapshot {
        let text = std::fs::read_to_string(&self.0).unwrap_or_else(|e| panic!("{}: {e}", self.0.display()));
        Snapshot(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}")))
    }
}

/// Counters at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot(pub Value);

impl Snapshot {
    /// One number: `captures`, or `copies.htod`. What was never counted is 0 within a group.
    #[track_caller]
    pub fn get(&self, name: &str) -> u64 {
        let found = match name.split_once('.') {
            Some((group, name)) => {
                let group = self.0.get(group).unwrap_or_else(|| panic!("no group {group} in {:#}", self.0));
                return group.get(name).and_then(Value::as_u64).unwrap_or(0);
            }
            None => self.0.get(name).and_then(Value::as_u64),
        };
        found.unwrap_or_else(|| panic!("no counter {name} in {:#}", self.0))
    }

    /// How much a counter grew since `earlier`.
    #[track_caller]
    pub fn since(&self, earlier: &Self, name: &str) -> u64 {
        self.get(name) - earlier.get(name)
    }
}

/// What the fake TensorRT computes of one row of inputs, as `tests/fake/nvinfer/library.h` says it: the mean of each of
/// `columns` slices.
pub fn means(row: &[f64], columns: usize) -> Vec<f64> {
    let length = row.len();
    (0..columns)
        .map(|k| {
            let begin = k * length / columns;
            let end = ((k + 1) * length / columns).max(begin + 1);
            row[begin..end].iter().sum::<f64>() / (end - begin) as f64
        })
        .collect()
}
