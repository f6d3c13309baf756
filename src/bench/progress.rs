//! How far a run is: a bar on a terminal, else a line now and then, on standard error.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::load::{Live, Load};

/// Between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);
const TEMPLATE: &str = "{prefix}{bar:30} {percent:>3} %  {msg}";

/// Shows one run.
pub struct Progress {
    how: How,
    title: String,
    total: Option<Duration>,
    requests: Option<u64>,
    /// When it was last shown, and how many answers there were.
    last: Option<(Instant, u64)>,
}

enum How {
    Bar(ProgressBar),
    Lines,
    Not,
}

impl Progress {
    /// A run that begins.
    pub fn new(load: &Load, title: &str, quiet: bool) -> Self {
        let title = if title.is_empty() { String::new() } else { format!("{title}: ") };
        let how = if quiet {
            How::Not
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(1000).with_prefix(title.clone());
            // The template is a constant that indicatif takes.
            bar.set_style(
                ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            How::Bar(bar)
        } else {
            How::Lines
        };
        let total = load.duration.map(|d| d + load.warmup);
        Self { how, title, total, requests: load.requests, last: None }
    }

    /// Shows how it stands.
    pub fn show(&mut self, live: &Live) {
        let Some(started) = live.started() else { return };
        let now = Instant::now();
        let (ok, failed) = (live.ok.load(Ordering::Relaxed), live.failed.load(Ordering::Relaxed));
        let by_time = self.total.map_or(0.0, |t| started.elapsed().as_secs_f64() / t.as_secs_f64().max(1e-3));
        let by_number = self.requests.map_or(0.0, |n| (ok + failed) as f64 / n as f64);
        let share = by_time.max(by_number).min(1.0);
        let (then, before) = *self.last.get_or_insert((started, 0));
        let apart = now.saturating_duration_since(then).as_secs_f64();
        let rate = if apart > 0.0 { (ok - before.min(ok)) as f64 / apart } else { 0.0 };
        let text = format!("{ok} answers, {rate:.0}/s, {failed} failed");
        match &self.how {
            How::Bar(bar) => {
                bar.set_position((share * 1000.0) as u64);
                bar.set_message(text);
                if apart > 1.0 {
                    self.last = Some((now, ok));
                }
            }
            How::Lines if apart >= BETWEEN_LINES.as_secs_f64() => {
                eprintln!("{}{:.0} %, {text}", self.title, share * 100.0);
                self.last = Some((now, ok));
            }
            How::Lines | How::Not => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
    }
}
