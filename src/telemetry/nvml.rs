//! GPU metrics: sampled when somebody scrapes, by one thread, so that NVML can hang and `/metrics` does not.
//!
//! The series are rendered here and not kept in the registry: one that cannot be read any more is gone, not frozen.

use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::names::{self, Kind};
use crate::gpu::nvml::{Identity, Monitor, Reading, THROTTLE_REASONS};
use crate::gpu::probe::GpuInfo;

/// Scrapes within this time share a sample: NVML's own sampling period is up to 1 s.
const FRESH: Duration = Duration::from_secs(1);
/// How long a scrape waits for a sample; then it is answered with the one before. A scrape's own limit is 10 s.
const PATIENCE: Duration = Duration::from_millis(500);
/// Older numbers are left out: four scrapes at the usual interval.
const STALE: Duration = Duration::from_secs(60);

/// The latest look at every GPU; `None` for one that is lost.
#[derive(Debug)]
struct Sample {
    at: Instant,
    gpus: Vec<(Identity, Option<Reading>)>,
}

/// The scraping side.
#[derive(Debug)]
pub struct GpuWatch {
    wake: SyncSender<()>,
    latest: watch::Receiver<Option<Sample>>,
}

impl GpuWatch {
    /// Starts the thread that looks at `gpus`. Returns at once; without NVML, the thread says so and ends.
    #[must_use]
    pub fn start(gpus: Vec<GpuInfo>) -> Self {
        let (wake, asked) = sync_channel(1);
        let (publish, latest) = watch::channel(None);
        let thread = std::thread::Builder::new().name("nvml".to_owned());
        // Never joined: it may be in a call that does not come back.
        if let Err(e) = thread.spawn(move || sample(&gpus, &asked, &publish)) {
            tracing::warn!("no GPU metrics: the thread that reads them cannot be started: {e}");
        }
        Self { wake, latest }
    }

    /// Sees to a sample that is not older than `FRESH`, and waits for it for `PATIENCE` at most.
    pub async fn refresh(&self) {
        let mut latest = self.latest.clone();
        if latest.borrow_and_update().as_ref().is_some_and(|s| s.at.elapsed() < FRESH) {
            return;
        }
        // Full: a sample has been asked for. Closed: there is no NVML.
        let _ = self.wake.try_send(());
        let _ = tokio::time::timeout(PATIENCE, latest.changed()).await;
    }

    /// Adds the metrics in Prometheus' text format.
    pub fn render(&self, text: &mut String) {
        if let Some(sample) = self.latest.borrow().as_ref() {
            render(&sample.gpus, sample.at.elapsed(), text);
        }
    }
}

/// Samples whenever it is asked, until nobody can ask any more.
fn sample(gpus: &[GpuInfo], asked: &Receiver<()>, publish: &watch::Sender<Option<Sample>>) {
    let monitor = match Monitor::open(gpus) {
        Ok((monitor, unknown)) => {
            for gpu in unknown {
                tracing::info!("no metrics of {gpu}");
            }
            monitor
        }
        Err(e) => {
            tracing::info!("no GPU metrics: NVML cannot be used: {e}");
            return;
        }
    };
    while asked.recv().is_ok() {
        // Asked for before the latest one was there.
        if publish.borrow().as_ref().is_some_and(|s| s.at.elapsed() < FRESH) {
            continue;
        }
        let gpus = monitor.read();
        publish.send_replace(Some(Sample { at: Instant::now(), gpus }));
    }
}

/// A number that a GPU has, with the label that tells it from others of its metric.
type Value = (&'static str, Option<(&'static str, &'static str)>, Option<f64>);

/// Every metric of one GPU, those of one name together.
fn values(reading: &Reading) -> Vec<Value> {
    let [used, total] = reading.memory_bytes.map_or([None; 2], |bytes| bytes.map(Some));
    let one = |name, value| (name, None, value);
    let two = |name, label, words: [&'static str; 2], values: [Option<f64>; 2]| {
        [0, 1].map(|i| (name, Some((label, words[i])), values[i]))
    };
    let clocks = ["sm", "memory"];
    let mut all = vec![
        one(names::GPU_UP, Some(1.0)),
        one(names::GPU_UTILIZATION, reading.utilization),
        one(names::GPU_DECODER_UTILIZATION, reading.decoder_utilization),
        one(names::GPU_JPEG_UTILIZATION, reading.jpeg_utilization),
        one(names::GPU_MEMORY_USED, used),
        one(names::GPU_MEMORY_TOTAL, total),
        one(names::GPU_TEMPERATURE, reading.temperature_celsius),
        one(names::GPU_POWER, reading.power_watts),
        one(names::GPU_POWER_LIMIT, reading.power_limit_watts),
        one(names::GPU_ENERGY, reading.energy_joules),
    ];
    all.extend(two(names::GPU_CLOCK, "clock", clocks, reading.clock_hertz));
    all.extend(two(names::GPU_CLOCK_MAX, "clock", clocks, reading.clock_max_hertz));
    all.extend(two(names::GPU_ECC_ERRORS, "type", ["corrected", "uncorrected"], reading.ecc_errors));
    all.extend(THROTTLE_REASONS.map(|(flag, word)| {
        let on = reading.throttled.map(|reasons| f64::from(u8::from(reasons.contains(flag))));
        (names::GPU_THROTTLED, Some(("reason", word)), on)
    }));
    all
}

fn render(gpus: &[(Identity, Option<Reading>)], age: Duration, text: &mut String) {
    let rows: Vec<(&Identity, Vec<Value>)> = gpus
        .iter()
        .map(|(identity, reading)| match reading {
            Some(reading) if age < STALE => (identity, values(reading)),
            Some(_) | None => (identity, vec![(names::GPU_UP, None, Some(0.0))]),
        })
        .collect();
    for &(name, kind, help) in names::ALL.iter().filter(|(name, ..)| names::NVML.contains(name)) {
        let mut described = false;
        for (identity, values) in &rows {
            for (_, label, value) in values.iter().filter(|(of, ..)| *of == name) {
                let Some(value) = value else { continue };
                if !described {
                    let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
                    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
                    described = true;
                }
                let Identity { index, uuid, name: gpu } = identity;
                let _ =
                    write!(text, r#"{name}{{gpu="{index}",uuid="{}",name="{}""#, escaped(uuid), escaped(gpu));
                if let Some((label, word)) = label {
                    let _ = write!(text, r#",{label}="{word}""#);
                }
                let _ = writeln!(text, "}} {value}");
            }
        }
        if described {
            text.push('\n');
        }
    }
}

/// A label's value as the text format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, reading: Option<Reading>) -> (Identity, Option<Reading>) {
        (Identity { index, uuid: format!("GPU-{index}"), name: "an \"A\"\\B".to_owned() }, reading)
    }

    fn text(gpus: &[(Identity, Option<Reading>)], age: Duration) -> String {
        let mut text = String::new();
        render(gpus, age, &mut text);
        text
    }

    #[test]
    fn series_of_one_name_stand_together_and_what_is_not_known_is_left_out() {
        let first =
            Reading { utilization: Some(0.25), clock_hertz: [Some(1.41e9), None], ..Reading::default() };
        let second = Reading {
            utilization: Some(1.0),
            memory_bytes: Some([1.0, 85_899_345_920.0]),
            ..Reading::default()
        };
        let text = text(&[gpu(0, Some(first)), gpu(7, Some(second))], Duration::ZERO);
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
        let label = r#"name="an \"A\"\\B""#;
        assert_eq!(
            lines,
            [
                format!(r#"visord_gpu_up{{gpu="0",uuid="GPU-0",{label}}} 1"#),
                format!(r#"visord_gpu_up{{gpu="7",uuid="GPU-7",{label}}} 1"#),
                format!(r#"visord_gpu_utilization_ratio{{gpu="0",uuid="GPU-0",{label}}} 0.25"#),
                format!(r#"visord_gpu_utilization_ratio{{gpu="7",uuid="GPU-7",{label}}} 1"#),
                format!(r#"visord_gpu_memory_used_bytes{{gpu="7",uuid="GPU-7",{label}}} 1"#),
                format!(r#"visord_gpu_memory_total_bytes{{gpu="7",uuid="GPU-7",{label}}} 85899345920"#),
                format!(r#"visord_gpu_clock_hertz{{gpu="0",uuid="GPU-0",{label},clock="sm"}} 1410000000"#),
            ]
        );
        assert_eq!(text.matches("# TYPE").count(), 5, "{text}");
    }

    #[test]
    fn every_metric_of_nvml_is_rendered_and_described() {
        let full = Reading {
            utilization: Some(0.0),
            decoder_utilization: Some(0.0),
            jpeg_utilization: Some(0.0),
            memory_bytes: Some([0.0; 2]),
            temperature_celsius: Some(0.0),
            power_watts: Some(0.0),
            power_limit_watts: Some(0.0),
            energy_joules: Some(0.0),
            clock_hertz: [Some(0.0); 2],
            clock_max_hertz: [Some(0.0); 2],
            ecc_errors: [Some(0.0); 2],
            throttled: Some(THROTTLE_REASONS[2].0),
        };
        let text = text(&[gpu(0, Some(full))], Duration::ZERO);
        for name in names::NVML {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            assert!(text.contains(&format!("# TYPE {name} {kind}\n{name}{{")), "{name} is not in\n{text}");
        }
        let on: Vec<&str> = text.lines().filter(|l| l.contains("throttled{") && l.ends_with(" 1")).collect();
        assert!(on.len() == 1 && on[0].contains("sw_power_cap"), "{text}");
    }

    #[test]
    fn of_a_gpu_that_does_not_answer_only_that_is_said() {
        let known = Reading { utilization: Some(0.5), ..Reading::default() };
        for (what, reading, age) in [("lost", None, Duration::ZERO), ("silent", Some(known), STALE)] {
            let text = text(&[gpu(0, reading)], age);
            assert!(text.contains("visord_gpu_up{") && text.trim_end().ends_with("} 0"), "{what}: {text}");
            assert_eq!(text.lines().filter(|l| l.contains('{')).count(), 1, "{what}: {text}");
        }
        let text = text(&[gpu(0, Some(known))], STALE - Duration::from_secs(1));
        assert!(text.contains("} 0.5\n"), "{text}");
    }
}
