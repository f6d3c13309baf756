//! `visord bench`: load on a server over any of the protocols, and what came of it.
//!
//! It makes its requests before it starts (`request`), sends them on connections of its own (`target`, `exchange`), as
//! answers come or as they are due (`load`, `pace`), and counts in histograms that are joined at the end (`tally`).
//! Nothing of the server is used: other servers are measured just so.

pub mod args;
mod exchange;
mod failure;
mod images;
mod load;
mod log;
mod order;
mod pace;
mod plan;
mod progress;
mod report;
mod request;
mod stages;
mod summary;
mod table;
mod tally;
mod target;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::LocalSet;
use tokio::time::Instant;

pub use plan::Plan;

use load::{Live, Load, Measured, Server};
use log::Log;
use progress::Progress;
use stages::Page;
use summary::{Document, Summary};

/// How long answers on their way are waited for once the run is ended early.
const GRACE: Duration = Duration::from_secs(1);
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Measured, and no more requests failed than may.
    Done,
    /// Measured, and more requests failed than may, or none was answered.
    Failed,
    /// A signal ended it early; what was measured is told.
    Interrupted,
    /// A second signal: nothing is told.
    Abandoned,
}

/// Measures, and tells: the table on standard output, the files that were asked for.
///
/// `signal` waits for the next SIGINT or SIGTERM: the first ends the run early.
///
/// # Errors
/// What the system did not give, or what could not be written.
pub async fn run(plan: Plan, command: String, signal: impl AsyncFnMut()) -> Result<Ending, String> {
    let log = match &plan.log {
        Some(path) => {
            Some(Log::create(path).map_err(|e| format!("{} cannot be written: {e}", path.display()))?)
        }
        None => None,
    };
    LocalSet::new().run_until(Bench { plan, command, signal, log, stopped: false }.run()).await
}

struct Bench<S> {
    plan: Plan,
    command: String,
    signal: S,
    log: Option<Log>,
    stopped: bool,
}

/// A second signal came.
struct Abandoned;

impl<S: AsyncFnMut()> Bench<S> {
    async fn run(mut self) -> Result<Ending, String> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let measured = if self.plan.sweep.is_empty() { self.rounds().await? } else { self.sweep().await? };
        let Ok(runs) = measured else { return Ok(Ending::Abandoned) };
        let comparison = match &runs[..] {
            [first, second] if self.plan.servers.len() == 2 => {
                summary::compare(&first.rounds, &second.rounds)
            }
            _ => Vec::new(),
        };
        let command = std::mem::take(&mut self.command);
        let document = Document {
            version: env!("CARGO_PKG_VERSION"),
            commit: crate::COMMIT,
            started,
            command,
            runs,
            comparison,
        };
        print!("{}", table::text(&document));
        if let Some(path) = &self.plan.json {
            let json = serde_json::to_string_pretty(&document).map_err(|e| e.to_string())?;
            write(path, &(json + "\n"))?;
        }
        if let Some((path, kind)) = &self.plan.report {
            write(path, &report::document(&document, *kind))?;
        }
        let failed = document.runs.iter().any(|r| r.error_ratio() > self.plan.max_error_ratio || r.ok == 0);
        Ok(match (self.stopped, failed) {
            (true, _) => Ending::Interrupted,
            (false, true) => Ending::Failed,
            (false, false) => Ending::Done,
        })
    }

    /// Each server in turn, as often as there are rounds; who is first changes, so that what drifts hits both.
    async fn rounds(&mut self) -> Result<Result<Vec<Summary>, Abandoned>, String> {
        let servers = self.plan.servers.clone();
        let load = self.plan.load.clone();
        let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); servers.len()];
        let mut gain = Page::default();
        'rounds: for round in 0..self.plan.rounds {
            let mut order: Vec<usize> = (0..servers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let title = match (servers.len(), self.plan.rounds) {
                    (1, _) => String::new(),
                    (_, rounds) => format!("round {} of {rounds}, {}", round + 1, servers[index].name),
                };
                let page = if index == 0 { Some(&mut gain) } else { None };
                match self.measure(&servers[index], &load, &title, page).await? {
                    Ok(measured) => runs[index].push(measured),
                    Err(abandoned) => return Ok(Err(abandoned)),
                }
                if self.stopped {
                    break 'rounds;
                }
            }
        }
        let batch = self.plan.batch;
        let summary = |(index, runs): (usize, Vec<Measured>)| {
            let stages = if index == 0 { gain.stages() } else { Vec::new() };
            Summary::new(&servers[index], &load, &runs, batch, stages)
        };
        let ran = runs.into_iter().enumerate().filter(|(_, r)| !r.is_empty());
        Ok(Ok(ran.map(summary).collect()))
    }

    /// The one server with each number of connections.
    async fn sweep(&mut self) -> Result<Result<Vec<Summary>, Abandoned>, String> {
        let mut summaries = Vec::new();
        let Some(server) = self.plan.servers.first().cloned() else { return Ok(Ok(summaries)) };
        for connections in self.plan.sweep.clone() {
            let load = Load { connections: connections as usize, ..self.plan.load.clone() };
            let plural = if connections == 1 { "" } else { "s" };
            let server = Server { name: format!("{connections} connection{plural}"), ..server.clone() };
            let mut gain = Page::default();
            match self.measure(&server, &load, &server.name, Some(&mut gain)).await? {
                Ok(measured) => {
                    summaries.push(Summary::new(&server, &load, &[measured], self.plan.batch, gain.stages()));
                }
                Err(abandoned) => return Ok(Err(abandoned)),
            }
            if self.stopped {
                break;
            }
        }
        Ok(Ok(summaries))
    }

    /// One run, with progress, ended early by a signal; what the server's metrics gained goes to `gain`.
    async fn measure(
        &mut self,
        server: &Server,
        load: &Load,
        title: &str,
        gain: Option<&mut Page>,
    ) -> Result<Result<Measured, Abandoned>, String> {
        let metrics = self.plan.metrics.clone().filter(|_| gain.is_some());
        let before = match &metrics {
            Some(target) => Some(Page::fetch(target).await.map_err(|e| format!("--server-metrics: {e}"))?),
            None => None,
        };
        let live = Arc::new(Live::default());
        let mut job = {
            let (server, load, live) = (server.clone(), load.clone(), Arc::clone(&live));
            tokio::task::spawn_blocking(move || load::run(&server, &load, &live))
        };
        let mut progress = Progress::new(load, title, self.plan.quiet);
        let mut tick = tokio::time::interval(TICK);
        let mut cut_at = None;
        let measured = loop {
            let cut = async {
                match cut_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = &mut job => {
                    let ended = ended.map_err(|e| format!("the run broke off: {e}"))?;
                    break ended.map_err(|e| format!("no thread or runtime for the load: {e}"))?;
                }
                () = (self.signal)() => {
                    if self.stopped {
                        return Ok(Err(Abandoned));
                    }
                    self.stopped = true;
                    live.stop();
                    cut_at = Some(Instant::now() + GRACE);
                }
                () = cut => {
                    live.cut();
                    cut_at = None;
                }
                _ = tick.tick() => progress.show(&live),
            }
        };
        progress.finish();
        if let Some(log) = &mut self.log {
            log.write(&server.name, measured.began, &measured.tally.samples)
                .map_err(|e| format!("--log cannot be written: {e}"))?;
        }
        if let (Some(target), Some(before), Some(gain)) = (&metrics, &before, gain) {
            let after = Page::fetch(target).await.map_err(|e| format!("--server-metrics: {e}"))?;
            gain.add_gain(before, &after);
        }
        Ok(Ok(measured))
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{} cannot be written: {e}", path.display()))
}
