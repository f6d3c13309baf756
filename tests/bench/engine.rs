//! What an engine does with no server around it: `cargo bench --bench engine -- [IMAGE] [SECONDS]`.
//!
//! For each backend that works here, each division of the cores into instances and threads, and each batch
//! size: images/s of all instances together, decode and preprocessing included, and the median and 99th
//! percentile of one batch. The same code that the daemon's instances run; OpenVINO is found by
//! `VISORD_OPENVINO_DIR`, as by the daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use visord::backend::select::Backends;
use visord::backend::{Backend, InstancePlan, LoadedModel, RowInput};
use visord::cli::{self, Command};
use visord::image::Limits;
use visord::model::config::BackendChoice;
use visord::model::repository;
use visord::problems::Problems;
use visord::telemetry::metrics::Telemetry;

fn main() {
    // `cargo bench` adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let image = arguments.first().map_or("tests/golden/images/face.jpg", String::as_str);
    let seconds: f64 = arguments.get(1).map_or(3.0, |s| s.parse().expect("SECONDS is a number"));
    let encoded = Bytes::from(std::fs::read(image).expect("the image can be read"));

    let mut problems = Problems::default();
    let models = repository::read(Path::new("engines"), &mut problems);
    let spec = &models.iter().find(|m| m.config.name == "ArcFace").expect("engines/ArcFace").versions[0].spec;
    // For the defaults of `serve`, and its variables.
    let cli = cli::parse(["visord", "serve"].map(Into::into), &mut problems).expect("the defaults are right");
    let Command::Serve(flags) = cli.command else { unreachable!("serve was asked for") };
    let backends = Backends::new(&flags, &Telemetry::new(false), &Arc::default());

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("image {image}, {} bytes; {cores} cores; {seconds} s a line", encoded.len());
    println!("| backend | instances x threads | batch | images/s | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|");
    for choice in [BackendChoice::OpenVino, BackendChoice::Rten] {
        let backend = match backends.choose("ArcFace", choice) {
            Ok(chosen) => chosen.backend,
            Err(e) => {
                println!("| {} | {e} | | | | |", choice.name());
                continue;
            }
        };
        for plan in [
            InstancePlan { count: cores, threads: 1, gpus: Vec::new() },
            InstancePlan { count: 1, threads: cores, gpus: Vec::new() },
            InstancePlan { count: 1, threads: 1, gpus: Vec::new() },
        ] {
            let loaded = backend.load(spec, &plan, Limits::default()).expect("the model loads");
            for batch in [1, 2, 4, 8] {
                measure(&*backend, &loaded, &plan, batch, &encoded, Duration::from_secs_f64(seconds));
            }
        }
    }
}

fn measure(
    backend: &dyn Backend,
    loaded: &Arc<dyn LoadedModel>,
    plan: &InstancePlan,
    batch: usize,
    encoded: &Bytes,
    time: Duration,
) {
    let threads: Vec<_> = (0..plan.count)
        .map(|ordinal| {
            let (loaded, encoded) = (Arc::clone(loaded), encoded.clone());
            std::thread::spawn(move || {
                let mut instance = loaded.instance(ordinal, Arc::new(|| {})).expect("an instance");
                let row = RowInput::Image(encoded);
                let rows = vec![&row; batch];
                for _ in 0..3 {
                    instance.run(&rows).expect("the engine runs");
                }
                let (start, mut took) = (Instant::now(), Vec::new());
                while start.elapsed() < time {
                    let begin = Instant::now();
                    instance.run(&rows).expect("the engine runs");
                    took.push(begin.elapsed());
                }
                (took.len() * batch, start.elapsed(), took)
            })
        })
        .collect();
    let (mut rate, mut took) = (0.0, Vec::new());
    for thread in threads {
        let (images, elapsed, times) = thread.join().expect("the thread ends");
        rate += images as f64 / elapsed.as_secs_f64();
        took.extend(times);
    }
    took.sort_unstable();
    let ms = |q: f64| took[((took.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!(
        "| {} | {} x {} | {batch} | {rate:.1} | {:.2} | {:.2} |",
        backend.name(),
        plan.count,
        plan.threads,
        ms(0.5),
        ms(0.99)
    );
}
