//! `visord build`: plans into the cache, before a daemon needs them.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::builder::{Builder, Flavor};
use super::cache::{Plan, PlanCache, Source};
use super::key;
use super::network::Network;
use super::progress::Progress;
use super::request::{PlanError, PlanRequest, Target};
use super::tensorrt::TensorRtBuilder;
use crate::cli::{BuildArgs, PlanPrecision};
use crate::gpu::probe::{self, GpuInfo};
use crate::model::config::Precision;
use crate::model::repository::{self, RepositoryModel};
use crate::model::spec::ModelSpec;
use crate::problems::Problems;

/// Without a terminal, a line this often, or whenever the ratio has grown this much.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
const LINE_RATIO: f64 = 0.25;

/// How `visord build` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every plan is in the cache.
    Done,
    /// At least one is not; the reasons are on standard error.
    Failed,
    /// It was stopped.
    Stopped,
}

/// What was asked for, checked.
#[derive(Debug)]
pub struct BuildConfig {
    args: BuildArgs,
    models: Vec<RepositoryModel>,
}

impl BuildConfig {
    /// Reads the repository and picks the models; every mistake lands in `problems`.
    pub fn resolve(args: BuildArgs, problems: &mut Problems) -> Self {
        if let Err(e) = tracing_subscriber::EnvFilter::try_new(&args.log_level) {
            problems.add("command line", "--log-level", &args.log_level, e);
        }
        let mut models = repository::read(&args.model_repository, problems);
        for name in &args.model {
            if !models.iter().any(|m| m.config.name == *name) {
                let names = models.iter().map(|m| m.config.name.as_str()).collect::<Vec<_>>().join(", ");
                let names = if names.is_empty() { "none".to_owned() } else { names };
                let root = args.model_repository.display();
                problems.add("command line", "--model", name, format!("must be a model of {root}: {names}"));
            }
        }
        models.retain(|m| args.model.is_empty() || args.model.contains(&m.config.name));
        if let Some(precision) = args.precision {
            for version in models.iter_mut().flat_map(|m| &mut m.versions) {
                version.spec.precision = match precision {
                    PlanPrecision::Fp32 => Precision::Fp32,
                    PlanPrecision::Tf32 => Precision::Tf32,
                    PlanPrecision::Fp16 => Precision::Fp16,
                };
            }
        }
        let versions: usize = models.iter().map(|m| m.versions.len()).sum();
        if let Some(file) = &args.write_onnx
            && versions > 1
        {
            let allowed =
                format!("writes one network, and {versions} model versions are chosen; name one in --model");
            problems.add("command line", "--write-onnx", file.display(), allowed);
        }
        Self { args, models }
    }

    /// The flags.
    #[must_use]
    pub fn args(&self) -> &BuildArgs {
        &self.args
    }

    fn versions(&self) -> impl Iterator<Item = (&str, u64, &ModelSpec)> {
        self.models
            .iter()
            .flat_map(|m| m.versions.iter().map(|v| (m.config.name.as_str(), v.version, &v.spec)))
    }
}

/// Builds what is asked for; blocking. Says what was built on standard output, and the rest on standard error.
/// Ends soon after `stop` is set.
pub fn run(config: &BuildConfig, stop: &AtomicBool) -> Ending {
    if let Some(file) = &config.args.write_onnx {
        let written = config.versions().try_for_each(|(_, _, spec)| write_onnx(spec, file));
        return ending(written.err());
    }
    let found = TensorRtBuilder::find(config.args.plans.tensorrt_dir.as_deref());
    let targets =
        |builder: &TensorRtBuilder| targets(&config.args.compute_capability, builder.identity().flavor);
    match found.and_then(|builder| targets(&builder).map(|t| (builder, t))) {
        Ok((builder, targets)) => build(config, &builder, &targets, stop),
        Err(e) => ending(Some(e)),
    }
}

fn ending(error: Option<String>) -> Ending {
    let Some(error) = error else { return Ending::Done };
    eprintln!("error: {error}");
    Ending::Failed
}

/// Writes what a strongly typed builder would be given.
fn write_onnx(spec: &ModelSpec, file: &Path) -> Result<(), String> {
    let network = Network::read(&spec.path).map_err(|e| PlanError::Network(e).to_string())?;
    let onnx = if spec.precision == Precision::Fp16 {
        &key::rewritten(&network, spec).map_err(|e| e.to_string())?
    } else {
        &network.onnx
    };
    std::fs::write(file, onnx)
        .map_err(|e| format!("--write-onnx: {} cannot be written: {e}", file.display()))?;
    println!("{}: {} bytes, precision {}", file.display(), onnx.len(), spec.precision.name());
    Ok(())
}

/// The GPUs to build for: those that were named, or those that are here.
fn targets(asked: &[(u32, u32)], flavor: Flavor) -> Result<Vec<Target>, String> {
    let present = probe::probe().map(|gpus| gpus.devices).map_err(|e| e.to_string());
    let target = |gpu: &GpuInfo| Target {
        compute_capability: gpu.compute_capability,
        name: gpu.name.clone(),
        present: true,
    };
    if !asked.is_empty() {
        let here = present.unwrap_or_default();
        let here = |capability: &(u32, u32)| {
            here.iter().find(|gpu| gpu.compute_capability == *capability).map(target)
        };
        return Ok(asked.iter().map(|c| here(c).unwrap_or_else(|| Target::absent(*c))).collect());
    }
    let present = present.map_err(|e| {
        format!("no GPU was found; give --compute-capability to build for one that is not here: {e}")
    })?;
    let mut targets: Vec<Target> = present.iter().map(target).collect();
    if flavor.builds_without_gpu() {
        targets.sort_by_key(|t| t.compute_capability);
        targets.dedup_by_key(|t| t.compute_capability);
    } else {
        // TensorRT measures its kernels on the first GPU.
        if targets.iter().any(|t| t.name != targets[0].name) {
            eprintln!(
                "note: building for the first GPU, {}; CUDA_VISIBLE_DEVICES chooses another",
                targets[0].name
            );
        }
        targets.truncate(1);
    }
    Ok(targets)
}

fn build(config: &BuildConfig, builder: &dyn Builder, targets: &[Target], stop: &AtomicBool) -> Ending {
    let args = &config.args;
    let dir = args.plans.cache_dir(&args.model_repository);
    let cache = PlanCache::open(&dir, args.plans.plan_cache_bytes, None);
    let mut ending = Ending::Done;
    for (model, version, spec) in config.versions() {
        for target in targets {
            let (major, minor) = target.compute_capability;
            let what = format!(
                "{model} version {version}, {}, compute capability {major}.{minor}",
                spec.precision.name()
            );
            let request = PlanRequest { model, version, spec, target, force: args.force };
            let mut teller = Teller::new(&what);
            let plan = cache.obtain(&request, builder, &mut |progress| {
                teller.tell(progress);
                if stop.load(Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            teller.finish();
            match plan.map_err(|e| (matches!(e, PlanError::Cancelled), e.to_string())).and_then(|plan| {
                let kept = kept(&plan).map_err(|e| (false, e))?;
                Ok(format!(
                    "{what}: {kept}\n  {} bytes in {}\n  key {}",
                    plan.bytes.len(),
                    plan.path.display(),
                    plan.key
                ))
            }) {
                Ok(text) => println!("{text}"),
                Err((true, _)) => {
                    eprintln!("{what}: stopped; nothing of it is kept");
                    return Ending::Stopped;
                }
                Err((false, why)) => {
                    eprintln!("error: {what}: {why}");
                    ending = Ending::Failed;
                }
            }
        }
    }
    ending
}

/// How the plan came to be in the cache.
///
/// # Errors
/// It is not.
fn kept(plan: &Plan) -> Result<String, String> {
    match &plan.source {
        Source::Hit => Ok("in the cache already".to_owned()),
        Source::Waited => Ok("built by another process meanwhile".to_owned()),
        Source::Built(took) => Ok(format!("built in {:.1} s", took.as_secs_f64())),
        Source::Memory { took, why } => Err(format!(
            "built in {:.1} s, and cannot be kept as {}: {why}; name a folder with room in --plan-cache",
            took.as_secs_f64(),
            plan.path.display()
        )),
    }
}

/// Shows how far a build is: a bar on a terminal, otherwise a line every few seconds.
struct Teller<'a> {
    what: &'a str,
    bar: Option<ProgressBar>,
    told: Option<(Instant, f64)>,
}

/// Steps of the bar: as fine as a terminal can show.
const BAR_STEPS: u64 = 1000;

impl<'a> Teller<'a> {
    fn new(what: &'a str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} % {elapsed} {msg}");
            let bar = ProgressBar::new(BAR_STEPS).with_prefix(what.to_owned());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        });
        Self { what, bar, told: None }
    }

    fn tell(&mut self, progress: &Progress<'_>) {
        let (ratio, text) = match progress {
            Progress::Waiting { elapsed } => {
                (0.0, format!("waiting for another process, {} s", elapsed.as_secs()))
            }
            Progress::Building { ratio, phase, .. } => (*ratio, (*phase).to_owned()),
        };
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.set_position((ratio * BAR_STEPS as f64) as u64);
        } else if self
            .told
            .is_none_or(|(at, told)| at.elapsed() >= LINE_INTERVAL || ratio >= told + LINE_RATIO)
        {
            self.told = Some((Instant::now(), ratio));
            eprintln!("{}: {:.0} % {text}", self.what, ratio * 100.0);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
