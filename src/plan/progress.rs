//! How far a build is: TensorRT's nested phases as one number, and who is told.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use metrics::Gauge;

use super::builder::Event;

/// A daemon's log has a line this often while it builds or waits.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// How far a plan is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress<'a> {
    /// Another process builds the same plan; it is loaded from the cache when that is done.
    Waiting {
        /// For how long already.
        elapsed: Duration,
    },
    /// This process builds.
    Building {
        /// Of the whole, 0 to 1; never goes back, and is 1 only at the end. Steps differ in length.
        ratio: f64,
        /// TensorRT's name for what it does.
        phase: &'a str,
        /// For how long already.
        elapsed: Duration,
    },
}

/// Who is told, and may stop it all by breaking.
pub type Monitor<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

struct Phase {
    /// Unique: names may come twice.
    id: u64,
    name: String,
    parent: Option<u64>,
    steps: u32,
    done: u32,
}

/// Turns events into a ratio.
#[derive(Default)]
pub(super) struct Tracker {
    phases: Vec<Phase>,
    started: u64,
    ratio: f64,
}

/// Open phases beyond this are not looked at: a builder that nests without end must not take memory or time.
const MAX_PHASES: usize = 64;

impl Tracker {
    /// The ratio after `event`, below 1.
    pub(super) fn event(&mut self, event: Event<'_>) -> f64 {
        match event {
            Event::Start { phase, parent, steps } => {
                if self.phases.len() < MAX_PHASES {
                    self.started += 1;
                    let parent = parent.and_then(|name| self.phases.iter().rfind(|p| p.name == name));
                    let parent = parent.map(|p| p.id);
                    self.phases.push(Phase {
                        id: self.started,
                        name: phase.to_owned(),
                        parent,
                        steps,
                        done: 0,
                    });
                }
            }
            Event::Step { phase, step } => {
                if let Some(p) = self.phases.iter_mut().rfind(|p| p.name == phase) {
                    p.done = p.done.max(step.saturating_add(1)).min(p.steps);
                }
            }
            Event::Finish { phase } => {
                if let Some(at) = self.phases.iter().rposition(|p| p.name == phase) {
                    let p = &mut self.phases[at];
                    p.done = p.steps;
                    self.measure();
                    self.phases.remove(at);
                }
            }
        }
        self.measure();
        self.ratio
    }

    /// Only the first phase without a parent counts: what comes before or after it is short.
    fn measure(&mut self) {
        let root = self.phases.iter().find(|p| p.parent.is_none());
        if let Some(root) = root {
            self.ratio = self.ratio.max(self.fraction(root)).min(0.99);
        }
    }

    /// Of one phase: its steps, and within the step in hand the phase inside that is furthest.
    fn fraction(&self, phase: &Phase) -> f64 {
        if phase.steps == 0 {
            return 0.0;
        }
        let inside = self.phases.iter().filter(|p| p.parent == Some(phase.id));
        let inside = inside.map(|p| self.fraction(p)).fold(0.0, f64::max);
        ((f64::from(phase.done) + inside) / f64::from(phase.steps)).min(1.0)
    }
}

/// Tells a daemon's log and metrics: a line every five seconds, the gauge at every step.
pub fn daemon<'a>(
    model: &'a str,
    version: u64,
    gauge: Gauge,
) -> impl FnMut(&Progress<'_>) -> ControlFlow<()> + 'a {
    let mut told: Option<Instant> = None;
    move |progress| {
        let due = told.is_none_or(|t| t.elapsed() >= LOG_INTERVAL);
        if due {
            told = Some(Instant::now());
        }
        match progress {
            Progress::Waiting { elapsed } if due => {
                tracing::info!(
                    model,
                    version,
                    seconds = elapsed.as_secs(),
                    "another process builds the same plan; waiting"
                );
            }
            Progress::Building { ratio, phase, elapsed } => {
                gauge.set(*ratio);
                if due {
                    let percent = (ratio * 100.0) as u32;
                    tracing::info!(
                        model,
                        version,
                        percent,
                        phase,
                        seconds = elapsed.as_secs(),
                        "building a plan"
                    );
                }
            }
            Progress::Waiting { .. } => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start<'a>(phase: &'a str, parent: Option<&'a str>, steps: u32) -> Event<'a> {
        Event::Start { phase, parent, steps }
    }

    #[test]
    fn nested_phases_make_one_ratio_that_never_goes_back() {
        let step = |phase, step| Event::Step { phase, step };
        let table = [
            (start("build", None, 4), 0.0),
            (step("build", 0), 0.25),
            (start("tactics", Some("build"), 2), 0.25),
            (step("tactics", 0), 0.375),
            (start("layer", Some("tactics"), 10), 0.375),
            (step("layer", 4), 0.4375),
            (Event::Finish { phase: "layer" }, 0.5),
            (step("tactics", 1), 0.5),
            (Event::Finish { phase: "tactics" }, 0.5),
            (step("build", 1), 0.5),
            // Steps beyond the number that was told, unknown phases, phases of no steps: nothing breaks.
            (start("empty", Some("build"), 0), 0.5),
            (step("empty", 7), 0.5),
            (step("nobody", 7), 0.5),
            (Event::Finish { phase: "nobody" }, 0.5),
            (start("build", Some("build"), 1), 0.5),
            (step("build", u32::MAX), 0.75),
            (Event::Finish { phase: "build" }, 0.75),
            (step("build", 3), 0.99),
            (Event::Finish { phase: "build" }, 0.99),
            (start("after", None, 2), 0.99),
        ];
        let mut tracker = Tracker::default();
        for (i, (event, want)) in table.into_iter().enumerate() {
            let got = tracker.event(event);
            assert!((got - want).abs() < 1e-9, "row {i}, {event:?}: {got}, not {want}");
        }
        for i in 0..1000 {
            tracker.event(start(&format!("p{i}"), None, 1));
        }
        assert!(tracker.phases.len() <= MAX_PHASES);
    }
}
