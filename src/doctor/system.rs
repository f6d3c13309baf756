//! Lines on the configuration, the machine, ports, limits, TLS and the clock.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::finding::{Fault, Id, Level};
use super::machine::Root;
use super::report::Report;
use super::size;
use crate::backend::openvino::cpu_has_bf16;
use crate::config::Config;
use crate::ffi::disk;
use crate::problems::{Problem, Problems};

/// Open files besides connections: libraries, plans, the kernel's own.
const OTHER_FILES: u64 = 256;
/// A certificate that ends within this is worth a warning: renewals of 90-day certificates come a month ahead.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
/// POSIX shared memory below this holds few tensors: it is what Docker gives unasked.
const LITTLE_SHARED: u64 = 64 << 20;

/// What `serve` and `check` would refuse.
pub(super) fn mistakes(report: &mut Report, problems: &Problems, config: &Config) {
    let file = config.args.config.as_ref().map(|f| f.display().to_string());
    for problem in &problems.0 {
        let (id, subject) = if problem.key.starts_with("--tls") {
            (Id::TlsFiles, "tls")
        } else if problem.source == "command line" || Some(&problem.source) == file.as_ref() {
            (Id::Configuration, "config")
        } else {
            (Id::Repository, "repository")
        };
        report.found(Level::Fail, subject, mistake(id, problem));
    }
    if problems.0.is_empty() {
        let (models, repository) = (config.models.len(), config.args.model_repository.display());
        report.ok("repository", format!("{repository}: {models} model(s), no mistakes"));
    }
}

/// A mistake, with what is allowed as what to do.
fn mistake(id: Id, problem: &Problem) -> Fault {
    let Problem { source, key, value, allowed } = problem;
    if !key.is_empty() {
        let value = if value.is_empty() { String::new() } else { format!(" = {value}") };
        return Fault::new(id, format!("{source}: {key}{value}"), allowed);
    }
    let fix = "correct it: docs/configuration.md says what belongs there";
    let (text, fix) = allowed.split_once("; ").unwrap_or((allowed, fix));
    Fault::new(id, format!("{source}: {text}"), fix)
}

pub(super) fn cpu_and_memory(report: &mut Report, machine: &Root, config: &Config) {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = machine.cpu(usable);
    let bf16 = cpu_has_bf16();
    let has = |name: &str| cpu.features.contains(&name);
    let mut means = vec![if bf16 {
        "OpenVINO computes fp32, and bf16 in hardware (precision = \"bf16\")".to_owned()
    } else {
        "OpenVINO computes fp32; precision = \"bf16\" is refused".to_owned()
    }];
    if has("VNNI") || has("AMX") || has("I8MM") {
        means.push("int8 networks run at full speed".to_owned());
    }
    let quota = cpu.quota.map_or(String::new(), |q| format!(", a cgroup allows the time of {q:.1}"));
    let features =
        if cpu.features.is_empty() { "no features known".to_owned() } else { cpu.features.join(", ") };
    report.ok(
        "cpu",
        format!(
            "{}, {} of {} core(s) usable{quota}; {features}: {}",
            cpu.model,
            cpu.usable,
            cpu.cores,
            means.join("; ")
        ),
    );
    if cpu.architecture == "x86_64" && !has("AVX2") {
        let fix = "use a CPU from 2015 or later, or let the virtual machine see it (`-cpu host`)";
        report.found(
            Level::Warn,
            "cpu",
            Fault::new(Id::CpuNoAvx2, "no AVX2: engines on the CPU are several times slower", fix),
        );
    }
    if let Some(quota) = cpu.quota.filter(|q| *q < 1.0) {
        let text = format!("the cgroup allows the time of {quota:.2} cores: every batch is stopped midway");
        report.found(
            Level::Warn,
            "cpu",
            Fault::new(Id::CpuQuota, text, "give the container at least one whole core"),
        );
    }
    report.fact("cpu", &cpu);

    let memory = machine.memory();
    let bound = memory
        .cgroup_bytes
        .map_or("no bound by a cgroup".to_owned(), |b| format!("a cgroup allows {}", size(b)));
    report.ok(
        "memory",
        format!("{}, {} available; {bound}", size(memory.total_bytes), size(memory.available_bytes)),
    );
    let sizes = config.models.iter().flat_map(|m| &m.versions);
    let models: u64 = sizes.filter_map(|v| std::fs::metadata(&v.spec.path).ok()).map(|m| m.len()).sum();
    let needed = config.args.max_inflight_bytes.saturating_add(models);
    if memory.available_bytes < needed {
        let text = format!(
            "{} are available; requests may take {} (--max-inflight-bytes), networks {}",
            size(memory.available_bytes),
            size(config.args.max_inflight_bytes),
            size(models)
        );
        let fix =
            "give it more memory, or lower --max-inflight-bytes: the kernel ends a process that takes more";
        report.found(Level::Warn, "memory", Fault::new(Id::MemoryLow, text, fix));
    }
    report.fact("memory", &memory);
}

/// Listens on each port for a moment, as `serve` would.
pub(super) fn ports(report: &mut Report, machine: &Root, config: &Config) {
    let ports =
        [("--http-port", config.http), ("--grpc-port", config.grpc), ("--metrics-port", config.metrics)];
    let (mut free, mut facts) = (Vec::new(), Vec::new());
    for (flag, address) in ports {
        let listens = TcpListener::bind(address).map(drop);
        let mut fact = json!({ "flag": flag, "address": address, "free": listens.is_ok() });
        match listens {
            Ok(()) => free.push(format!("{address} ({flag})")),
            Err(e) => {
                let listener = machine.listener(address.port()).filter(|_| e.kind() == ErrorKind::AddrInUse);
                fact["listener"] = json!(listener);
                let (level, fault) = port_fault(flag, address, &e, listener.as_ref());
                report.found(level, "ports", fault);
            }
        }
        facts.push(fact);
    }
    if !free.is_empty() {
        report.ok("ports", format!("free: {}", free.join(", ")));
    }
    report.fact("ports", facts);
}

fn port_fault(
    flag: &str,
    address: SocketAddr,
    error: &std::io::Error,
    listener: Option<&super::machine::Listener>,
) -> (Level, Fault) {
    let what = format!("{address} ({flag})");
    let by = listener.map_or("a process that cannot be seen from here".to_owned(), |l| {
        format!("{}, process {}", l.name, l.pid)
    });
    let (level, id, text, fix) = match (error.kind(), listener.is_some_and(|l| l.visord)) {
        (ErrorKind::AddrInUse, true) => (
            Level::Warn,
            Id::PortServing,
            format!("{what}: {by}, listens there"),
            format!("nothing where that is the server in question; another one needs another {flag}"),
        ),
        (ErrorKind::AddrInUse, false) => (
            Level::Fail,
            Id::PortTaken,
            format!("{what} is taken by {by}"),
            format!("stop it, or choose another port with {flag}; 0 takes a free one"),
        ),
        (ErrorKind::PermissionDenied, _) => (
            Level::Fail,
            Id::PortRefused,
            format!("{what}: {error}"),
            format!("choose a port from 1024 on with {flag}, or grant CAP_NET_BIND_SERVICE"),
        ),
        (_, _) => (
            Level::Fail,
            Id::PortRefused,
            format!("{what}: {error}"),
            "name an address of this machine with --host; 0.0.0.0 for every interface".to_owned(),
        ),
    };
    (level, Fault::new(id, text, fix))
}

pub(super) fn limits(report: &mut Report, machine: &Root, config: &Config) {
    let limits = machine.limits();
    let connections = config.args.max_connections;
    let needed = 3 * connections + OTHER_FILES;
    if let Some(files) = limits.open_files.filter(|files| *files < needed) {
        let text = format!(
            "{files} open files are allowed; --max-connections {connections} on three ports may need {needed}"
        );
        let fix = format!(
            "raise it: `ulimit -n {needed}`, in a container `--ulimit nofile={needed}`; or lower --max-connections"
        );
        report.found(Level::Warn, "limits", Fault::new(Id::OpenFilesLow, text, fix));
    }
    let told = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
    report.ok(
        "limits",
        format!(
            "open files {}, locked memory {}, threads {}",
            told(limits.open_files),
            limits.locked_bytes.map_or("unlimited".to_owned(), size),
            told(limits.cgroup_pids.into_iter().chain(limits.processes).min())
        ),
    );
    report.fact("limits", &limits);
    if config.args.sockets.shared_memory {
        shared_memory(report);
    }
}

fn shared_memory(report: &mut Report) {
    const SUBJECT: &str = "shm";
    match disk::space(Path::new("/dev/shm")) {
        Err(e) => {
            let fix = "mount a tmpfs there, or leave --shared-memory out";
            report.found(
                Level::Fail,
                SUBJECT,
                Fault::new(Id::SharedMemoryMissing, format!("/dev/shm: {e}; --shared-memory needs it"), fix),
            );
        }
        Ok(space) => {
            report.fact("shared_memory_free_bytes", space.free_bytes);
            if space.free_bytes < LITTLE_SHARED {
                let text = format!(
                    "/dev/shm: {} of {} are free for clients' tensors",
                    size(space.free_bytes),
                    size(space.total_bytes)
                );
                let fix = "raise it: in a container `--shm-size=1g`, or share the clients' with `--ipc`";
                report.found(Level::Note, SUBJECT, Fault::new(Id::SharedMemorySmall, text, fix));
            } else {
                report.ok(SUBJECT, format!("/dev/shm: {} free", size(space.free_bytes)));
            }
        }
    }
}

pub(super) fn tls(report: &mut Report, config: &Config) {
    let Some(credentials) = &config.tls else { return };
    let file = credentials.files.cert.display();
    let Some(expiry) = credentials.expiry else {
        return report.ok("tls", format!("{file}: fits its key; when it ends cannot be read"));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = expiry - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let days = left / 86_400;
    report.fact("tls_expires_in_days", days);
    let fix = "put a renewed certificate in its place: it is taken up without a restart";
    if left <= 0 {
        let text = format!("{file}: the certificate has expired {} day(s) ago: clients refuse it", -days);
        report.found(Level::Fail, "tls", Fault::new(Id::TlsExpired, text, fix));
    } else if left.unsigned_abs() < EXPIRES_SOON.as_secs() {
        let text = format!("{file}: the certificate expires in {days} day(s)");
        report.found(Level::Warn, "tls", Fault::new(Id::TlsExpires, text, fix));
    } else {
        report.ok("tls", format!("{file}: fits its key, good for {days} days"));
    }
}

/// A clock behind the day on which this program was written to disk is wrong, and certificates are refused by it.
pub(super) fn clock(report: &mut Report) {
    let built = std::fs::metadata("/proc/self/exe").and_then(|m| m.modified());
    let Ok(behind) = built.map(|b| b.duration_since(SystemTime::now()).unwrap_or_default()) else { return };
    if behind > Duration::from_secs(86_400) {
        let text = format!("it is {} day(s) behind the file of this program", behind.as_secs() / 86_400);
        report.found(
            Level::Warn,
            "clock",
            Fault::new(Id::Clock, text, "set it: TLS, tokens and logs go by it (`timedatectl`)"),
        );
    }
}
