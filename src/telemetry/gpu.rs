//! What the GPU path records of a model version.

use metrics::{Counter, Label};

use super::metrics::Telemetry;
use super::names;

/// The `decoder` label, in the order of [`GpuMetrics::decoded`].
pub const DECODERS: [&str; 3] = ["hardware", "hybrid", "cpu"];

/// The recording side of the GPU path.
#[derive(Clone)]
pub struct GpuMetrics {
    decoded: [Counter; 3],
}

impl std::fmt::Debug for GpuMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuMetrics").finish_non_exhaustive()
    }
}

impl GpuMetrics {
    /// Registers every decoder.
    #[must_use]
    pub fn new(telemetry: &Telemetry, model: &str, version: u64) -> Self {
        let decoded = DECODERS.map(|decoder| {
            let labels = vec![
                Label::new("model", model.to_owned()),
                Label::new("version", version.to_string()),
                Label::new("decoder", decoder),
            ];
            telemetry.counter(names::IMAGE_DECODES, labels)
        });
        Self { decoded }
    }

    /// Counts images: by the JPEG engine, by nvJPEG with the CPU's help, by the CPU.
    pub fn decoded(&self, images: [u64; 3]) {
        for (counter, count) in self.decoded.iter().zip(images) {
            counter.increment(count);
        }
    }
}
