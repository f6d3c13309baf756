//! How fast the ways to decode are: the JPEG engine, CPU and GPU together, the CPU pool.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde_json::{Value, json};
use visord::gpu::decode::{DecodeBench, DecodeLane};
use visord::gpu::jpeg::{Library, Nvjpeg, Sample, sample_jpegs};
use visord::image::{Decoder, Limits};

use super::Failure;
use super::device::Gpu;

/// nvJPEG for the current context.
pub fn open(dir: Option<&Path>) -> Result<Nvjpeg, Failure> {
    Ok(Nvjpeg::new(Library::open(dir)?)?)
}

/// What nvJPEG says of itself and of the GPU.
pub fn facts(nvjpeg: &Nvjpeg) -> Value {
    let library = nvjpeg.library();
    let engine = match nvjpeg.hardware() {
        Ok(Some((engines, cores))) => json!({ "usable": true, "engines": engines, "cores_of_each": cores }),
        Ok(None) => json!({ "usable": true }),
        Err(why) => json!({
            "usable": false,
            "why": why.to_string(),
            "note": if why.means_no_engine() {
                "this GPU has none, or the container lacks the `video` capability"
            } else {
                "not the answer of a GPU without one"
            },
        }),
    };
    json!({
        "path": library.path(),
        "version": library.version().to_string(),
        "cuda_runtime": library.cuda_runtime().to_string(),
        "hardware": engine,
    })
}

/// Pictures a second and the median time of a batch.
struct Rate {
    images_per_second: f64,
    p50_ms: f64,
}

/// Calls `decode`, which decodes `batch` pictures to the end, for `budget`; the first call is not counted.
fn rate(
    budget: Duration,
    batch: usize,
    mut decode: impl FnMut() -> Result<(), Failure>,
) -> Result<Rate, Failure> {
    decode()?;
    let (start, mut took) = (Instant::now(), Vec::new());
    while start.elapsed() < budget || took.is_empty() {
        let begin = Instant::now();
        decode()?;
        took.push(begin.elapsed());
    }
    let elapsed = start.elapsed().as_secs_f64();
    took.sort_unstable();
    Ok(Rate {
        images_per_second: (took.len() * batch) as f64 / elapsed.max(1e-9),
        p50_ms: took[took.len() / 2].as_secs_f64() * 1e3,
    })
}

/// Every way at three sizes and three batches.
pub fn rates(gpu: &Gpu, nvjpeg: &Nvjpeg, quick: bool) -> Result<Value, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let budget = Duration::from_millis(if quick { 20 } else { 300 });
    let mut threads: Vec<usize> = if quick { vec![1, 2] } else { vec![1, 2, 4, 8, cores] };
    threads.retain(|t| *t <= cores.max(2));
    threads.sort_unstable();
    threads.dedup();
    let batches: &[usize] = if quick { &[1, 8] } else { &[1, 8, 32] };
    let mut lines = Vec::new();
    eprintln!("decoder | picture | batch | threads | images/s | p50 ms a batch");
    for sample in sample_jpegs()?.iter().take(if quick { 2 } else { 3 }) {
        let mut add = |decoder: &str, batch: usize, threads: usize, rate: Result<Rate, Failure>| {
            let (width, height) = (sample.width, sample.height);
            let mut line = json!({
                "decoder": decoder, "width": width, "height": height, "batch": batch, "threads": threads,
            });
            match rate {
                Ok(Rate { images_per_second, p50_ms }) => {
                    eprintln!(
                        "{decoder} | {width}x{height} | {batch} | {threads} | {images_per_second:.0} | {p50_ms:.3}"
                    );
                    line["images_per_second"] = images_per_second.into();
                    line["p50_ms"] = p50_ms.into();
                }
                Err(why) => {
                    eprintln!("{decoder} | {width}x{height} | {batch} | {threads} | {why}");
                    line["error"] = why.to_string().into();
                }
            }
            lines.push(line);
        };
        for &batch in batches {
            if nvjpeg.capabilities().hardware {
                add("hardware", batch, 1, hardware(gpu, nvjpeg, sample, batch, budget));
            }
            // More threads than pictures have nothing to do.
            for &threads in threads.iter().filter(|t| **t <= batch) {
                add("hybrid", batch, threads, hybrid(gpu, nvjpeg, sample, (batch, threads), budget));
                add("cpu", batch, threads, cpu(sample, batch, threads, budget));
            }
        }
    }
    Ok(Value::Array(lines))
}

fn hardware(
    gpu: &Gpu,
    nvjpeg: &Nvjpeg,
    sample: &Sample,
    batch: usize,
    budget: Duration,
) -> Result<Rate, Failure> {
    let mut bench = DecodeBench::new(&gpu.device, nvjpeg, sample.width, sample.height, batch)?;
    rate(budget, batch, || Ok(bench.decode_batch(&sample.encoded)?))
}

fn pool(threads: usize) -> Result<rayon::ThreadPool, Failure> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?)
}

/// Takes a decoder that no other thread uses.
fn take<T>(from: &Mutex<Vec<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn give<T>(to: &Mutex<Vec<T>>, item: T) {
    to.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

fn hybrid(
    gpu: &Gpu,
    nvjpeg: &Nvjpeg,
    sample: &Sample,
    (batch, threads): (usize, usize),
    budget: Duration,
) -> Result<Rate, Failure> {
    let bench = DecodeBench::new(&gpu.device, nvjpeg, sample.width, sample.height, batch)?;
    let lanes: Result<Vec<_>, _> = (0..threads).map(|_| DecodeLane::new(&gpu.device, nvjpeg)).collect();
    let lanes = Mutex::new(lanes?);
    let pool = pool(threads)?;
    let images = bench.images();
    rate(budget, batch, || {
        pool.install(|| {
            images.par_iter().with_max_len(1).try_for_each(|image| -> Result<(), Failure> {
                let mut lane = take(&lanes).ok_or("a thread has a lane")?;
                let decoded = lane.decode(&sample.encoded, image).map(drop);
                give(&lanes, lane);
                Ok(decoded?)
            })
        })?;
        Ok(bench.synchronize()?)
    })
}

fn cpu(sample: &Sample, batch: usize, threads: usize, budget: Duration) -> Result<Rate, Failure> {
    let decoders = Mutex::new((0..threads).map(|_| Decoder::new()).collect::<Vec<_>>());
    let (pool, pictures, limits) = (pool(threads)?, vec![(); batch], Limits::default());
    rate(budget, batch, || {
        pool.install(|| {
            pictures.par_iter().with_max_len(1).try_for_each(|()| -> Result<(), Failure> {
                let mut decoder = take(&decoders).ok_or("a thread has a decoder")?;
                let decoded = decoder.decode(&sample.encoded, &limits).map(drop).map_err(|e| e.to_string());
                give(&decoders, decoder);
                Ok(decoded?)
            })
        })
    })
}
