//! `decoder = "auto"`: who decodes pictures of which size fastest, measured on this machine when a model loads.

use std::time::Duration;

use rayon::prelude::*;

use super::gpu::GpuLife;
use super::model::ImagePath;
use crate::gpu::decode::DecodeBench;
use crate::gpu::jpeg::{Rates, Thresholds, images_per_second, sample_jpegs, thresholds};

/// Time for each way and size. Nine of them make half a second.
const BUDGET: Duration = Duration::from_millis(50);
/// Pictures in a batch of the measurement, at most: enough to keep engine and pool busy.
const MAX_BATCH: usize = 16;

/// Measures every way at three sizes, and says in the log what will be done.
pub(super) fn measure(model: &str, path: &ImagePath, life: &GpuLife, rows: usize) -> Thresholds {
    match rates(path, life, rows.clamp(1, MAX_BATCH)) {
        Ok(rates) => {
            for r in &rates {
                tracing::info!(
                    model,
                    pixels = r.pixels,
                    cpu = r.cpu.round(),
                    hybrid = r.hybrid.map(f64::round),
                    hardware = r.hardware.map(f64::round),
                    "decoder = \"auto\": images a second"
                );
            }
            let chosen = thresholds(&rates);
            tracing::info!(
                model,
                hardware_from_pixels = from(chosen.hardware_min_pixels),
                hybrid_from_pixels = from(chosen.hybrid_min_pixels),
                "decoder = \"auto\": chosen; the CPU decodes the rest"
            );
            chosen
        }
        Err(why) => {
            tracing::warn!(
                model,
                why,
                "decoder = \"auto\" could not be measured: pictures are decoded on the CPU"
            );
            Thresholds::NEVER
        }
    }
}

fn from(pixels: u64) -> Option<u64> {
    (pixels < u64::MAX).then_some(pixels)
}

fn rates(path: &ImagePath, life: &GpuLife, batch: usize) -> Result<Vec<Rates>, String> {
    let nvjpeg = life.nvjpeg.as_ref().map_err(Clone::clone)?;
    let pool = &path.workers.pool;
    sample_jpegs()?
        .into_iter()
        .map(|sample| {
            let pictures = vec![(); batch];
            let cpu = images_per_second(BUDGET, || {
                pool.install(|| {
                    pictures.par_iter().with_max_len(1).try_for_each(|()| {
                        let mut lane = path.workers.lane(0);
                        lane.decoder
                            .decode(&sample.encoded, &path.limits)
                            .map(drop)
                            .map_err(|e| e.to_string())
                    })
                })
                .map(|()| batch)
            });
            let mut bench = DecodeBench::new(&life.device, nvjpeg, sample.width, sample.height, batch)
                .map_err(|e| e.to_string())?;
            let hybrid = path.capabilities.hybrid.then(|| {
                images_per_second(BUDGET, || {
                    let images = bench.images();
                    pool.install(|| {
                        images.par_iter().with_max_len(1).try_for_each(|image| {
                            let mut lane = path.workers.lane(0);
                            let hybrid = lane.hybrid(life).map_err(|e| e.to_string())?;
                            hybrid.decode(&sample.encoded, image).map(drop).map_err(|e| e.to_string())
                        })
                    })?;
                    bench.synchronize().map_err(|e| e.to_string())?;
                    Ok::<_, String>(batch)
                })
            });
            let encoded = &sample.encoded;
            let hardware = path.capabilities.hardware.then(|| {
                images_per_second(BUDGET, || {
                    bench.decode_batch(encoded).map(|()| batch).map_err(|e| e.to_string())
                })
            });
            Ok(Rates {
                pixels: u64::from(sample.width) * u64::from(sample.height),
                cpu: cpu?,
                // A way that fails is a way that is not there; the pictures of requests are tried one by one.
                hybrid: hybrid.and_then(Result::ok),
                hardware: hardware.and_then(Result::ok),
            })
        })
        .collect()
}
