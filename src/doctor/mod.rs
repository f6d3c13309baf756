//! `visord doctor`: what was found on this machine, what would be served on what, and what to do about each problem.
//!
//! It asks what `serve` asks ([`crate::config`], [`crate::backend::select`], [`crate::gpu::probe`]), in child processes
//! (`child`, `look`) where a library is opened; `system`, `libraries` and `models` make lines of the answers.

pub mod args;
mod child;
pub mod finding;
pub mod health;
mod libraries;
mod look;
mod machine;
mod models;
pub mod report;
mod system;

use std::ffi::OsString;
use std::time::Duration;

use args::{DoctorArgs, Part};
use child::Caller;
use finding::{Fault, Level};
use report::Report;

use crate::config::Config;
use crate::model::config::BackendChoice;
use crate::problems::Problems;

/// As `visord --version` says it.
#[cfg(feature = "tensorrt")]
const TENSORRT_HEADERS: &str = env!("VISORD_TENSORRT_HEADERS");
#[cfg(not(feature = "tensorrt"))]
const TENSORRT_HEADERS: &str = "built without TensorRT";

/// A child's end: what `part` looks at is answered on standard output, and the process ends.
pub fn probe(part: Part, args: DoctorArgs) -> ! {
    look::child(part, args)
}

/// Looks at everything; blocking, for at most three times `--probe-timeout-secs`, usually a second. `arguments` are those
/// of this process, without the program: its children are called with them. `problems` are those of the command
/// line so far.
#[must_use]
pub fn run(args: DoctorArgs, arguments: Vec<OsString>, mut problems: Problems) -> Report {
    let caller = Caller { arguments, limit: Duration::from_secs(args.probe_timeout_secs) };
    let DoctorArgs { serve, container, .. } = args;
    let config = Config::resolve_all(serve, &mut problems);
    let asked = Asked::new(&config);
    let mut report = Report::default();
    system::mistakes(&mut report, &problems, &config);
    let machine = machine::Root::default();
    system::cpu_and_memory(&mut report, &machine, &config);
    let libraries = libraries::look(&caller, &asked);
    libraries.report(&mut report, &machine, &asked, &container);
    models::report(&mut report, &caller, &config, &machine, &libraries);
    system::ports(&mut report, &machine, &config);
    system::limits(&mut report, &machine, &config);
    system::tls(&mut report, &config);
    system::clock(&mut report);
    report
}

/// Which libraries the configuration asks for.
#[derive(Debug)]
struct Asked {
    /// No model may do without a GPU, or one must not.
    gpu_required: bool,
    /// A GPU would be used.
    gpu_wanted: bool,
    openvino_required: bool,
    openvino_wanted: bool,
}

impl Asked {
    fn new(config: &Config) -> Self {
        let server = config.args.backend;
        let effective = |choice| if choice == BackendChoice::Auto { server } else { choice };
        let mut choices: Vec<BackendChoice> =
            config.models.iter().map(|m| effective(m.config.backend)).collect();
        if choices.is_empty() {
            choices.push(server);
        }
        let has = |choice| choices.contains(&choice);
        let require_gpu = config.args.require_gpu;
        let gpu_required = require_gpu || has(BackendChoice::TensorRt);
        let openvino_required = has(BackendChoice::OpenVino);
        Self {
            gpu_required,
            gpu_wanted: gpu_required || has(BackendChoice::Auto),
            openvino_required,
            openvino_wanted: openvino_required || (has(BackendChoice::Auto) && !require_gpu),
        }
    }

    /// How bad it is that the GPU cannot be used; `present` where there is one, as far as can be seen.
    fn gpu(&self, present: bool) -> Level {
        match (self.gpu_required, self.gpu_wanted && present) {
            (true, _) => Level::Fail,
            (false, true) => Level::Warn,
            (false, false) => Level::Note,
        }
    }

    /// How bad it is that OpenVINO cannot be used.
    fn openvino(&self, gpu_usable: bool) -> Level {
        match (self.openvino_required, self.openvino_wanted && !gpu_usable) {
            (true, _) => Level::Fail,
            (false, true) => Level::Warn,
            (false, false) => Level::Note,
        }
    }
}

/// What a child answered, or what became of it.
type Looked<T> = Result<T, Fault>;

/// Bytes in the unit that people read.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}
