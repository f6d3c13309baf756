//! Log lines on standard error, as text for people or JSON for collectors; the level can change while the server runs.

use std::io::{BufWriter, IsTerminal, stderr};
use std::sync::{Mutex, OnceLock, PoisonError};

use metrics::Counter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::access;
use super::args::TelemetryArgs;

/// Lines that wait to be written, at most; beyond, lines are dropped and counted.
const QUEUE_LINES: usize = 8_192;

/// Lines that are written at once, bytes.
const WRITE_BYTES: usize = 32 * 1024;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Installs the process-wide subscriber for a command that ends by itself. `level` is an `EnvFilter` expression, e.g.
/// `info` or `visord=debug`.
///
/// # Errors
/// The text of what is wrong with `level`.
pub fn install(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|e| e.to_string())?;
    // A second call (tests start several servers in one process) keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(lines(format, stderr).with_filter(filter)).try_init();
    Ok(())
}

fn lines<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

/// The log of a server.
#[derive(Debug)]
pub struct Logging {
    reload: reload::Handle<EnvFilter, Registry>,
    /// The filter as it was asked for.
    level: Mutex<String>,
    access_log: bool,
    dropped: ErrorCounter,
    guard: Mutex<Option<WorkerGuard>>,
}

static LOGGING: OnceLock<Logging> = OnceLock::new();

/// The log of this process, where [`serve`] has installed it.
#[must_use]
pub fn logging() -> Option<&'static Logging> {
    LOGGING.get()
}

/// Installs the log of a server: lines are written by a thread of their own, so that a reader who stalls holds up no
/// request.
///
/// # Errors
/// The text of what is wrong with `--log-level`.
pub fn serve(args: &TelemetryArgs) -> Result<(), String> {
    let filter = filter(&args.log_level, args.access_log)?;
    let (writer, guard): (NonBlocking, WorkerGuard) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE_LINES)
        .lossy(true)
        .thread_name("log")
        // The thread flushes whenever it has caught up: lines that come together are one call of the kernel.
        .finish(BufWriter::with_capacity(WRITE_BYTES, stderr()));
    let dropped = writer.error_counter();
    let (filter, reload) = reload::Layer::new(filter);
    let installed =
        tracing_subscriber::registry().with(filter).with(lines(args.log_format, writer)).try_init();
    if installed.is_ok() {
        let (level, guard) = (Mutex::new(args.log_level.clone()), Mutex::new(Some(guard)));
        let _ = LOGGING.set(Logging { reload, level, access_log: args.access_log, dropped, guard });
    }
    Ok(())
}

/// Writes what waits to be written, for as long as a second, and ends the thread that does; to be called before the
/// process ends.
pub fn flush() {
    if let Some(logging) = logging() {
        drop(logging.guard.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The filter of that text. The access log has a switch of its own: a level does not turn it off, unless it names it.
fn filter(level: &str, access_log: bool) -> Result<EnvFilter, String> {
    let named = level.contains(access::TARGET);
    let all =
        if access_log && !named { format!("{level},{}=info", access::TARGET) } else { level.to_owned() };
    EnvFilter::try_new(all).map_err(|e| e.to_string())
}

impl Logging {
    /// The filter in force, and the most detailed level that it lets through.
    #[must_use]
    pub fn level(&self) -> (String, LevelFilter) {
        let level = self.level.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without the access log, whose level is no part of what was asked for.
        let most = filter(&level, false).ok().and_then(|f| f.max_level_hint()).unwrap_or(LevelFilter::TRACE);
        (level, most)
    }

    /// Changes the filter, from the next line on.
    ///
    /// # Errors
    /// The text of what is wrong with it; nothing has changed then.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = filter(level, self.access_log)?;
        let mut kept = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload.reload(filter).map_err(|e| e.to_string())?;
        level.clone_into(&mut kept);
        Ok(())
    }

    /// Brings a counter up to the lines that were dropped because nobody read them.
    pub fn count_dropped(&self, counter: &Counter) {
        counter.absolute(self.dropped.dropped_lines() as u64);
    }
}
