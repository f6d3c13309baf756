//! Every single request of a run, for those who compute figures of their own.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::failure::Kind;
use super::tally::Moments;

/// Most requests that are kept: 32 bytes each.
const MAX_SAMPLES: usize = 10_000_000;

/// One request; times in microseconds from the start of the measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    due: u64,
    sent: u64,
    done: u64,
    failed: Option<Kind>,
}

/// The requests of a thread or of a run.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Keeps one, while there is room.
    pub fn add(&mut self, begin: std::time::Instant, moments: Moments, failed: Option<Kind>) {
        if self.0.len() < MAX_SAMPLES {
            let [due, sent, done] = [moments.due, moments.sent, moments.done]
                .map(|at| at.saturating_duration_since(begin).as_micros() as u64);
            self.0.push(Sample { due, sent, done, failed });
        }
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Self) {
        let room = MAX_SAMPLES.saturating_sub(self.0.len());
        self.0.extend(other.0.iter().take(room));
    }
}

/// Runs that are being written, a line for each request: `run,due,sent,done,failed`, times in seconds since 1970.
pub struct Log(BufWriter<std::fs::File>);

impl Log {
    /// Begins the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        writeln!(file, "run,due,sent,done,failed")?;
        Ok(Self(file))
    }

    /// Writes the requests of a run that began then, in the order in which they were due.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, run: &str, began: SystemTime, samples: &Samples) -> std::io::Result<()> {
        let began = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut samples = samples.0.clone();
        samples.sort_by_key(|s| s.due);
        let run = run.replace([',', '\n', '\r', '"'], " ");
        for sample in &samples {
            let [due, sent, done] = [sample.due, sample.sent, sample.done]
                .map(|t| (began + Duration::from_micros(t)).as_secs_f64());
            let failed = sample.failed.map_or("", Kind::name);
            writeln!(self.0, "{run},{due:.6},{sent:.6},{done:.6},{failed}")?;
        }
        self.0.flush()
    }
}
