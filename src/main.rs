//! The `visord` binary: parse, build, run, exit.

use std::collections::BTreeSet;
use std::process::ExitCode;

use visord::app::{App, AppError};
use visord::backend::Backend;
use visord::backend::select::Backends;
use visord::bench::args::BenchArgs;
use visord::bench::{self, Ending as BenchEnding, Plan};
use visord::cli::{self, BuildArgs, CheckArgs, Command, ServeArgs};
use visord::config::Config;
use visord::doctor::args::DoctorArgs;
use visord::doctor::health::{self, Unhealthy};
use visord::model::golden::{GOLDEN_FILE, Golden};
use visord::model::repository::RepositoryVersion;
use visord::problems::Problems;
use visord::process::exit;
use visord::scheduler::guard::record::record;
use visord::telemetry::logging;
use visord::telemetry::metrics::Telemetry;

/// glibc gives the memory of every run back to the kernel and faults it in again: with rten, that was a sixth of
/// the time (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit status for a command line or configuration that is wrong (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// Exit status of a server that could not start or go on.
const FAILURE: u8 = 1;
/// Exit status of a run that SIGINT or SIGTERM cut short, as a shell gives it for SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let mut problems = Problems::default();
    let cli = match cli::parse(std::env::args_os().collect::<Vec<_>>(), &mut problems) {
        Ok(cli) => cli,
        Err(e) => {
            let failed = e.use_stderr();
            let _ = e.print();
            return if failed { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(args) => with_config(*args, problems, serve),
        Command::Check(args) => check(*args, problems),
        Command::Doctor(args) => doctor(*args, problems),
        Command::Build(args) => build(*args, problems),
        Command::Migrate(args) => written(visord::migrate::run(&args).map(|m| (m.text, m.complete))),
        Command::Init(args) => written(visord::init::run(&args).map(|text| (text, true))),
        Command::Bench(args) => bench(&args, problems),
    }
}

/// Resolves the configuration, or reports all that is wrong with it at once.
fn with_config(args: ServeArgs, mut problems: Problems, run: fn(Config) -> ExitCode) -> ExitCode {
    let config = Config::resolve(args, &mut problems);
    if problems.0.is_empty() { run(config) } else { refuse(&problems) }
}

/// Says what was written, or all that kept it from being written.
fn written(result: Result<(String, bool), Vec<String>>) -> ExitCode {
    match result {
        Ok((text, complete)) => {
            print!("{text}");
            if complete { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
        }
        Err(errors) => {
            for error in &errors {
                eprintln!("error: {error}");
            }
            eprintln!("{} mistake(s); nothing was written", errors.len());
            ExitCode::from(USAGE)
        }
    }
}

fn refuse(problems: &Problems) -> ExitCode {
    for problem in &problems.0 {
        eprintln!("error: {problem}");
    }
    eprintln!("{} mistake(s); nothing was started", problems.0.len());
    ExitCode::from(USAGE)
}

fn check(args: CheckArgs, mut problems: Problems) -> ExitCode {
    let config = Config::resolve_all(args.serve.clone(), &mut problems);
    // What is to be replaced need not be right.
    problems.0.retain(|p| !args.force || !p.source.ends_with(GOLDEN_FILE));
    if problems.0.is_empty() { check_config(&config, &args) } else { refuse(&problems) }
}

fn check_config(config: &Config, args: &CheckArgs) -> ExitCode {
    let backends = Backends::new(&config.args, &Telemetry::new(false), &std::sync::Arc::default());
    println!("http     {}", config.http);
    println!("metrics  {}", config.metrics);
    let mut notes = BTreeSet::new();
    let mut failed = false;
    for model in &config.models {
        for version in &model.versions {
            let spec = &version.spec;
            let chosen = backends.choose(&model.config.name, model.config.backend).map_err(|e| e.to_string());
            let usable = chosen.and_then(|chosen| {
                notes.extend(chosen.passed_over);
                let backend = chosen.backend;
                backend.check(spec).map_err(|e| e.to_string())?;
                Ok(backend.describe())
            });
            failed |= usable.is_err();
            let backend = usable.unwrap_or_else(|e| format!("NOT SERVED: {e}"));
            println!("model    {} version {}: {backend}", model.config.name, version.version);
            describe(version);
            if args.golden {
                let chosen =
                    backends.choose(&model.config.name, model.config.backend).map_err(|e| e.to_string());
                let written = chosen.and_then(|c| write_golden(version, &*c.backend, config, args));
                failed |= written.is_err();
                println!("         {}", written.unwrap_or_else(|e| format!("golden NOT WRITTEN: {e}")));
            }
        }
    }
    for note in notes {
        println!("note     {note}");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn doctor(args: DoctorArgs, problems: Problems) -> ExitCode {
    if let Some(part) = args.probe {
        visord::doctor::probe(part, args);
    }
    if let Some(url) = &args.health {
        return healthy(url, &args);
    }
    let (json, strict) = (args.json, args.strict);
    let report = visord::doctor::run(args, std::env::args_os().skip(1).collect(), problems);
    let text = if json { format!("{:#}\n", report.json(strict)) } else { report.text(strict) };
    // Without a terminal, and where NO_COLOR is set, the colours are left out. Nobody may be reading.
    let _ = std::io::Write::write_all(&mut anstream::stdout(), text.as_bytes());
    if report.failed(strict) { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS }
}

fn healthy(url: &str, args: &DoctorArgs) -> ExitCode {
    match health::check(url, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Unhealthy::Usage(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(USAGE)
        }
        Err(Unhealthy::Answer(why)) => {
            eprintln!("unhealthy: {why}");
            ExitCode::from(FAILURE)
        }
    }
}

#[cfg(feature = "tensorrt")]
fn build(args: BuildArgs, mut problems: Problems) -> ExitCode {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use visord::plan::command::{self, BuildConfig, Ending};

    let config = BuildConfig::resolve(args, &mut problems);
    if !problems.0.is_empty() {
        return refuse(&problems);
    }
    if let Err(e) = logging::install(config.args().log_format, &config.args().log_level) {
        eprintln!("error: --log-level: {e}");
        return ExitCode::from(USAGE);
    }
    let stopped = async {
        let mut signals = Signals::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let mut building = tokio::task::spawn_blocking(move || command::run(&config, &flag));
        let ending = tokio::select! {
            ending = &mut building => ending,
            () = signals.next() => {
                eprintln!("stopping; a second signal ends at once");
                stop.store(true, Ordering::Relaxed);
                tokio::select! {
                    ending = building => ending,
                    () = signals.next() => exit(INTERRUPTED),
                }
            }
        };
        ending.map_err(|e| AppError::Process { what: "building", source: std::io::Error::other(e) })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ending = runtime
        .map_err(|source| AppError::Process { what: "starting a runtime", source })
        .and_then(|runtime| runtime.block_on(stopped));
    match ending {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Failed) => ExitCode::FAILURE,
        Ok(Ending::Stopped) => ExitCode::from(INTERRUPTED),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(feature = "tensorrt"))]
fn build(_: BuildArgs, _: Problems) -> ExitCode {
    eprintln!(
        "error: this visord has no TensorRT: build it with the cargo feature `tensorrt`, which is on by default"
    );
    ExitCode::FAILURE
}

fn bench(args: &BenchArgs, mut problems: Problems) -> ExitCode {
    let Some(plan) = Plan::resolve(args, &mut problems) else { return refuse(&problems) };
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let measured = async {
        let mut signals = Signals::new().map_err(|e| e.to_string())?;
        bench::run(plan, command, async || signals.next().await).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(|e| format!("no runtime: {e}")).and_then(|runtime| runtime.block_on(measured)) {
        Ok(BenchEnding::Done) => ExitCode::SUCCESS,
        Ok(BenchEnding::Failed) => ExitCode::from(FAILURE),
        Ok(BenchEnding::Interrupted) => ExitCode::from(INTERRUPTED),
        Ok(BenchEnding::Abandoned) => exit(INTERRUPTED),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(FAILURE)
        }
    }
}

fn describe(version: &RepositoryVersion) {
    let spec = &version.spec;
    let (path, precision) = (spec.path.display(), spec.precision.name());
    println!("         file {path}, precision {precision}, max_batch_size {}", spec.max_batch_size);
    if let Some(image) = &spec.image {
        let p = &image.preprocess;
        println!(
            "         input \"{}\" BYTES: encoded images, {:?} to {}x{},",
            image.name, p.resize, p.width, p.height
        );
        println!(
            "               {} {}, mean {:?}, scale {:?}",
            p.color_order.name(),
            p.layout.name(),
            p.mean,
            p.scale
        );
    }
    for input in &spec.inputs {
        println!("         input \"{}\" {} {:?}", input.name, input.datatype, input.shape);
    }
    for output in &spec.outputs {
        let tensor = &output.tensor;
        println!("         output \"{}\" {} {:?}", tensor.name, tensor.datatype, tensor.shape);
    }
    match &version.golden {
        Some(golden) => {
            let made_by = golden.made_by.as_ref().map_or(String::new(), |by| format!(", made by {by}"));
            let (_, bound) = golden.bound_in(spec.precision);
            println!("         golden {} case(s), {bound}{made_by}", golden.cases.len());
        }
        None => println!("         golden none; `visord check --golden` writes {GOLDEN_FILE}"),
    }
}

/// Writes a version's `golden.json`, whole or not at all; says what was written.
fn write_golden(
    version: &RepositoryVersion,
    backend: &dyn Backend,
    config: &Config,
    args: &CheckArgs,
) -> Result<String, String> {
    let path = Golden::path(&version.spec);
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if path.symlink_metadata().is_ok() && !args.force {
        return Err(format!("{} is there; --force replaces it", path.display()));
    }
    let (text, cases) = record(&version.spec, backend, config.image, &args.golden_image)?;
    let part = path.with_extension("json.part");
    std::fs::write(&part, &text).and_then(|()| std::fs::rename(&part, &path)).map_err(failed)?;
    let (bytes, backend) = (text.len(), backend.name());
    Ok(format!("golden {} written: {cases} case(s) by {backend} in fp32, {bytes} bytes", path.display()))
}

fn serve(config: Config) -> ExitCode {
    if let Err(e) = logging::serve(&config.args.telemetry) {
        eprintln!("error: --log-level: {e}");
        return ExitCode::from(USAGE);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.http_threads)
        .thread_name("http")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!(error = %e, "the network threads cannot be started");
            logging::flush();
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(config));
    if let Err(e) = &ended {
        tracing::error!("{e}");
    }
    logging::flush();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => exit(0),
        Err(_) => exit(FAILURE),
    }
}

/// Serves until a signal. `false` where a thread is left behind in an engine.
async fn run(config: Config) -> Result<bool, AppError> {
    let mut signals = Signals::new()?;
    let mut app = App::start(config).await?;
    let (http, grpc, metrics) = (app.http, app.grpc, app.metrics);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %http, %grpc, %metrics, "listening");
    let mut lost = None;
    tokio::select! {
        loaded = app.loaded() => {
            loaded?;
            tokio::select! {
                () = signals.next() => {}
                error = app.lost() => lost = Some(error),
            }
        }
        () = signals.next() => {}
    }
    tokio::select! {
        ended = app.shut_down() => lost.map_or(Ok(ended), Err),
        () = signals.next() => {
            tracing::warn!("second signal: exiting at once");
            logging::flush();
            exit(INTERRUPTED)
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, AppError> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |source| AppError::Process { what: "installing signal handlers", source };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
