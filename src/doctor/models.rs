//! Lines on what each model would be served with, and on its plans.

use std::path::Path;

use serde_json::json;

use super::args::Part;
use super::child::Caller;
use super::finding::{Fault, Id, Level};
use super::libraries::Libraries;
use super::look::ModelLook;
use super::machine::Root;
use super::report::Report;
use super::size;
use crate::backend::PreparedState;
use crate::config::Config;
use crate::ffi::disk;

/// Threads besides those of the network and the instances: decoders, the loader, the runtime's.
const OTHER_THREADS: u64 = 64;
/// Less room than this for plans is little whatever the models are, bytes.
const LITTLE_ROOM: u64 = 256 << 20;
/// Less lockable memory than this may not hold the pinned buffers of one instance, bytes.
const LITTLE_LOCKED: u64 = 64 << 20;

pub(super) fn report(
    report: &mut Report,
    caller: &Caller,
    config: &Config,
    machine: &Root,
    libraries: &Libraries,
) {
    let versions: usize = config.models.iter().map(|m| m.versions.len()).sum();
    let mut models = Vec::new();
    if let Some(deadly) = libraries.deadly {
        let text = format!(
            "not asked what {versions} version(s) of models get: {deadly} would end the process, or hang it"
        );
        report.found(Level::Fail, "model", Fault::new(Id::ModelUnserved, text, "see above"));
    } else if versions > 0 {
        match caller.ask::<Vec<ModelLook>>(Part::Models) {
            Ok(looks) => models = looks,
            Err(fault) => report.found(Level::Fail, "model", fault),
        }
    } else if report.worst() < Level::Fail {
        let text = format!("{} holds none yet", config.args.model_repository.display());
        let fault = Fault::new(Id::NoModels, text, "add <model>/1/model.onnx, or load one by request");
        report.found(Level::Note, "model", fault);
    }
    for look in &models {
        model(report, look);
    }
    plan_cache(report, config, &models);
    threads(report, config, machine, &models);
    report.fact("models", &models);
}

fn model(report: &mut Report, look: &ModelLook) {
    let who = format!("{} version {}", look.model, look.version);
    if let Some(why) = &look.fault {
        let (why, fix) =
            why.rsplit_once("; ").unwrap_or((why, "ask for another backend or precision in model.toml"));
        let fix = fix.trim_start_matches("or ");
        return report.found(
            Level::Fail,
            "model",
            Fault::new(Id::ModelUnserved, format!("{who}: {why}"), fix),
        );
    }
    let backend = look.backend.as_deref().unwrap_or_default();
    let instances = look.instances.unwrap_or(0);
    report.ok("model", format!("{who}: {backend}, precision {}, {instances} instance(s)", look.precision));
    for why in &look.passed_over {
        let name = look.name.as_deref().unwrap_or_default();
        let (why, fix) = why.rsplit_once("; ").unwrap_or((why, "see above"));
        let fault = Fault::new(Id::ModelFallback, format!("{who}: {name}, because {why}"), fix);
        report.found(Level::Warn, "model", fault);
    }
    for plan in &look.plans {
        let (file, gpu) = (plan.file.display(), plan.gpu);
        match &plan.state {
            PreparedState::Ready { bytes } => {
                report.ok("plan", format!("{who}: {} for GPU {gpu} in {file}", size(*bytes)));
            }
            PreparedState::Missing => {
                let text =
                    format!("{who}: none for GPU {gpu} yet; the first start builds it, which takes minutes");
                let fix =
                    format!("build it ahead: `visord build --model {}`, with the same flags", look.model);
                report.found(Level::Note, "plan", Fault::new(Id::PlanMissing, text, fix));
            }
            PreparedState::Corrupt { why } => {
                let text = format!("{who}: {file} cannot be used: {why}; the next start builds it again");
                let fix = "look at the disk, and at who else writes there; `visord build` builds it ahead";
                report.found(Level::Warn, "plan", Fault::new(Id::PlanCorrupt, text, fix));
            }
        }
    }
}

/// Whether plans can be kept. Without a model on TensorRT nobody cares.
fn plan_cache(report: &mut Report, config: &Config, models: &[ModelLook]) {
    const SUBJECT: &str = "plan cache";
    let dir = config.args.plans.cache_dir(&config.args.model_repository);
    let used = models.iter().any(|m| m.name.as_deref() == Some("tensorrt"));
    let (plans, bytes) = plans_in(&dir);
    // The folder is made when it is first written to, with those above it.
    let there = std::path::absolute(&dir).unwrap_or_else(|_| dir.clone());
    let there = there.ancestors().find(|p| p.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    let writable = disk::writable(there);
    let space = disk::space(there);
    report.fact(
        "plan_cache",
        json!({
            "dir": dir,
            "plans": plans,
            "bytes": bytes,
            "writable": writable.is_ok(),
            "free_bytes": space.as_ref().ok().map(|s| s.free_bytes),
        }),
    );
    if !used && config.args.plans.plan_cache.is_none() {
        return;
    }
    let level = if used { Level::Warn } else { Level::Note };
    let name = dir.display();
    if let Err(e) = writable {
        let text = format!(
            "{name} cannot be written ({}: {e}): every start builds its plans again",
            there.display()
        );
        let fix =
            "mount a volume there that this user may write to, or name another folder with --plan-cache";
        return report.found(level, SUBJECT, Fault::new(Id::PlanCacheReadOnly, text, fix));
    }
    let free = space.map_or(0, |s| s.free_bytes);
    report.ok(SUBJECT, format!("{name}: {plans} plan(s), {}; writable, {} free", size(bytes), size(free)));
    let missing = models.iter().flat_map(|m| m.plans.iter().map(move |p| (m, p)));
    let missing = missing.filter(|(_, p)| !matches!(p.state, PreparedState::Ready { .. }));
    // A plan is about as large as its network, smaller in FP16.
    let needed = missing.map(|(m, _)| m.model_bytes).sum::<u64>().max(LITTLE_ROOM);
    if free < needed {
        let text = format!("{name}: {} are free, and plans may need {}", size(free), size(needed));
        let fix = "make room, or name another folder with --plan-cache";
        report.found(level, SUBJECT, Fault::new(Id::PlanCacheSpace, text, fix));
    }
}

/// Plans in the folder, and their size.
fn plans_in(dir: &Path) -> (usize, u64) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let plans = entries.filter(|e| e.path().extension().is_some_and(|x| x == "plan"));
    plans.filter_map(|e| e.metadata().ok()).fold((0, 0), |(n, bytes), m| (n + 1, bytes + m.len()))
}

/// Threads and locked memory, which depend on how many instances there are and where.
fn threads(report: &mut Report, config: &Config, machine: &Root, models: &[ModelLook]) {
    let limits = machine.limits();
    let instances: u64 = models.iter().filter_map(|m| m.instances).map(|n| n as u64).sum();
    let needed = config.http_threads as u64 + instances + OTHER_THREADS;
    let in_cgroup = limits.cgroup_pids.map(|max| max.saturating_sub(limits.cgroup_pids_now.unwrap_or(0)));
    if let Some(left) = in_cgroup.into_iter().chain(limits.processes).min().filter(|left| *left < needed) {
        let text = format!("{left} more threads are allowed, and {needed} may be needed");
        let fix = "raise the container's pids limit (`--pids-limit`) or `ulimit -u`";
        report.found(Level::Warn, "limits", Fault::new(Id::ThreadsLow, text, fix));
    }
    let on_gpu = models.iter().any(|m| m.name.as_deref() == Some("tensorrt"));
    if let Some(locked) = limits.locked_bytes.filter(|bytes| on_gpu && *bytes < LITTLE_LOCKED) {
        let text = format!("{} may be locked in memory, and buffers that a GPU reads are", size(locked));
        let fix = "where loading says so, raise `ulimit -l`; in a container `--ulimit memlock=-1`";
        report.found(Level::Note, "limits", Fault::new(Id::LockedMemoryLow, text, fix));
    }
}
