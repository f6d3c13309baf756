//! What a run gave, as figures: the rows of tables, the documents of `--json`.

use serde::Serialize;

use super::failure::Counted;
use super::load::{Load, Measured, Server};
use super::log::Samples;
use super::stages::Stage;
use super::tally::{Percentiles, Step, Tally};

/// Points of the percentile curve: 1 - 10^-k, in steps of a sixth of k.
const CURVE_POINTS: i32 = 36;

/// One server under one load.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// What it is called.
    pub name: String,
    /// Where requests went.
    pub url: String,
    /// What was spoken.
    pub protocol: &'static str,
    /// Connections.
    pub connections: usize,
    /// Requests at a time on each.
    pub streams: usize,
    /// How long was measured, seconds.
    pub seconds: f64,
    /// Requests measured, good and failed.
    pub requests: u64,
    /// Good answers.
    pub ok: u64,
    /// Requests that failed, those that were never sent included.
    pub failed: u64,
    /// By kind, most frequent first.
    pub errors: Vec<Counted>,
    /// Good answers a second.
    pub requests_per_second: f64,
    /// The same times `--batch`.
    pub images_per_second: f64,
    /// Bodies of requests, bytes a second.
    pub sent_bytes_per_second: f64,
    /// Bodies of answers, bytes a second.
    pub received_bytes_per_second: f64,
    /// Good answers: from when the request was due, or left in a closed loop.
    pub latency_ms: Percentiles,
    /// In an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_loop: Option<OpenLoop>,
    /// Requests of the warm-up, in no other figure.
    pub warmup_requests: u64,
    /// Requests whose answers were not waited for, since the run was cut short.
    pub cut: u64,
    /// Connections opened.
    pub connections_opened: u64,
    /// `true` where the run was ended early.
    pub interrupted: bool,
    /// Means of the server's stages, where its metrics were read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub server_stages: Vec<Stage>,
    /// `[share of answers, milliseconds within which they came]`.
    pub percentile_curve: Vec<[f64; 2]>,
    /// Answers by time.
    pub timeline: TimelineSummary,
    /// Each round's figures, where there were several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Round>,
    /// What it was counted from.
    #[serde(skip)]
    pub tally: Tally,
}

/// What an open loop has besides.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct OpenLoop {
    /// Requests a second that were asked for.
    pub rate: f64,
    /// Requests that were due.
    pub due: u64,
    /// Good answers: from when the request left.
    pub service_ms: Percentiles,
    /// From when a request was due to when it left.
    pub send_delay_ms: Percentiles,
    /// Requests that left more than a millisecond late.
    pub sent_late: u64,
    /// Most requests that waited for a connection at a time.
    pub backlog_max: usize,
}

/// Answers by time.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineSummary {
    /// Width of a step, seconds.
    pub step_seconds: f64,
    /// From the start of the measurement on.
    pub steps: Vec<Step>,
}

/// One round of `--compare`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    /// Good answers a second.
    pub requests_per_second: f64,
    /// Failed requests.
    pub failed: u64,
    /// As [`Summary::latency_ms`].
    pub latency_ms: Percentiles,
}

impl Round {
    /// The figures of one run.
    #[must_use]
    pub fn new(measured: &Measured) -> Self {
        Self {
            requests_per_second: measured.rate,
            failed: measured.tally.failed,
            latency_ms: measured.tally.response.percentiles(),
        }
    }
}

impl Summary {
    /// The figures of one or several runs of the same kind.
    #[must_use]
    pub fn new(server: &Server, load: &Load, runs: &[Measured], batch: u32, stages: Vec<Stage>) -> Self {
        let mut tally = Tally::default();
        for run in runs {
            tally.merge(&run.tally);
        }
        tally.samples = Samples::default();
        let seconds: f64 = runs.iter().map(|r| r.seconds).sum();
        // Rounds are equally long, so each counts the same.
        let rate = runs.iter().map(|r| r.rate).sum::<f64>() / runs.len().max(1) as f64;
        let bytes = |total: u64| if tally.ok == 0 { 0.0 } else { total as f64 / tally.ok as f64 * rate };
        let open_loop = load.rate.map(|rate| OpenLoop {
            rate,
            due: runs.iter().filter_map(|r| r.paced).map(|p| p.due).sum(),
            service_ms: tally.service.percentiles(),
            send_delay_ms: tally.delay.percentiles(),
            sent_late: tally.late,
            backlog_max: runs.iter().filter_map(|r| r.paced).map(|p| p.backlog).max().unwrap_or(0),
        });
        let target = &server.target;
        let path = server.requests.first().map_or("", |r| r.uri.path());
        Self {
            name: server.name.clone(),
            url: format!("{}://{}{path}", target.scheme, target.authority),
            protocol: server.reading.protocol.name(),
            connections: load.connections,
            streams: load.streams,
            seconds,
            requests: tally.ok + tally.failed,
            ok: tally.ok,
            failed: tally.failed,
            errors: tally.failures.counted(),
            requests_per_second: rate,
            images_per_second: rate * f64::from(batch),
            sent_bytes_per_second: bytes(tally.bytes_sent),
            received_bytes_per_second: bytes(tally.bytes_received),
            latency_ms: tally.response.percentiles(),
            open_loop,
            warmup_requests: tally.warmup,
            cut: tally.cut,
            connections_opened: tally.opened,
            interrupted: tally.stopped,
            server_stages: stages,
            percentile_curve: curve(&tally),
            timeline: TimelineSummary {
                step_seconds: tally.timeline.step.as_secs_f64(),
                steps: tally.timeline.steps.clone(),
            },
            rounds: if runs.len() > 1 { runs.iter().map(Round::new).collect() } else { Vec::new() },
            tally,
        }
    }

    /// Share of requests that failed; 1 where there was none at all.
    #[must_use]
    pub fn error_ratio(&self) -> f64 {
        if self.requests == 0 { 1.0 } else { self.failed as f64 / self.requests as f64 }
    }
}

/// Up to the share that one answer is: beyond it, every point would be the maximum.
fn curve(tally: &Tally) -> Vec<[f64; 2]> {
    let count = tally.response.count();
    if count == 0 {
        return Vec::new();
    }
    let shares = (0..=CURVE_POINTS).map(|i| 1.0 - 10f64.powf(-f64::from(i) / 6.0));
    let mut points: Vec<[f64; 2]> =
        shares.take_while(|s| (1.0 - s) * count as f64 >= 1.0).map(|s| [s, tally.response.at(s)]).collect();
    points.push([1.0 - 1.0 / count as f64, tally.response.at(1.0)]);
    points
}

/// How the second server compares with the first.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What is compared.
    pub figure: &'static str,
    /// Second by first: the median over the rounds.
    pub ratio: f64,
    /// The smallest of any round.
    pub min: f64,
    /// The largest of any round.
    pub max: f64,
}

/// Ratios of the second server by the first, taken within each round.
#[must_use]
pub fn compare(first: &[Round], second: &[Round]) -> Vec<Comparison> {
    type Figure = fn(&Round) -> f64;
    let figures: [(&'static str, Figure); 5] = [
        ("requests_per_second", |r| r.requests_per_second),
        ("mean_ms", |r| r.latency_ms.mean),
        ("p50_ms", |r| r.latency_ms.p50),
        ("p95_ms", |r| r.latency_ms.p95),
        ("p99_ms", |r| r.latency_ms.p99),
    ];
    let compared = figures.into_iter().filter_map(|(figure, of)| {
        let pairs = first.iter().zip(second).filter(|(a, _)| of(a) > 0.0);
        let mut ratios: Vec<f64> = pairs.map(|(a, b)| of(b) / of(a)).collect();
        ratios.sort_by(f64::total_cmp);
        let (min, max) = (*ratios.first()?, *ratios.last()?);
        let middle = ratios.len() / 2;
        let ratio = if ratios.len() % 2 == 1 {
            ratios[middle]
        } else {
            f64::midpoint(ratios[middle - 1], ratios[middle])
        };
        Some(Comparison { figure, ratio, min, max })
    });
    compared.collect()
}

/// Everything, for `--json`.
#[derive(Debug, Serialize)]
pub struct Document {
    /// Of visord.
    pub version: &'static str,
    /// Commit that it was built from.
    pub commit: &'static str,
    /// When the command was given, seconds since 1970.
    pub started: u64,
    /// The command line behind `visord`.
    pub command: String,
    /// One for each server, or for each number of connections.
    pub runs: Vec<Summary>,
    /// With `--compare`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub comparison: Vec<Comparison>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_with_its_spread() {
        let round = |rate: f64| Round {
            requests_per_second: rate,
            failed: 0,
            latency_ms: Percentiles { p50: 1e3 / rate, ..Percentiles::default() },
        };
        let [a, b] = [[100.0, 50.0, 200.0], [200.0, 150.0, 300.0]].map(|rates| rates.map(round));
        let compared = compare(&a, &b);
        // What neither has, as the mean here, is left out.
        let names: Vec<_> = compared.iter().map(|c| c.figure).collect();
        assert_eq!(names, ["requests_per_second", "p50_ms"]);
        let rate = &compared[0];
        assert_eq!((rate.ratio, rate.min, rate.max), (2.0, 1.5, 3.0));
        let even = compare(&a[..2], &b[..2]);
        assert_eq!(even[0].ratio, 2.5);
    }
}
