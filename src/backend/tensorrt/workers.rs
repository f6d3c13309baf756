//! The decode pool of a model: threads that decode what the GPU does not, and do the CPU's part of what it does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::gpu::GpuLife;
use crate::gpu::decode::DecodeLane;
use crate::gpu::engine::EngineError;
use crate::image::{Decoder, Preprocess, PreprocessConfig, PreprocessError};

/// What one thread decodes with.
pub(super) struct Lane {
    pub decoder: Decoder,
    pub preprocess: Preprocess,
    /// By GPU.
    hybrid: Vec<DecodeLane>,
}

impl Lane {
    fn new(config: PreprocessConfig) -> Result<Self, PreprocessError> {
        Ok(Self { decoder: Decoder::new(), preprocess: Preprocess::new(config)?, hybrid: Vec::new() })
    }

    /// The part that decodes on `gpu`; made when it is first asked for, and again after the GPU was lost.
    pub fn hybrid(&mut self, gpu: &GpuLife) -> Result<&mut DecodeLane, EngineError> {
        self.hybrid.retain(|lane| lane.device().failure().is_none());
        let at = match self.hybrid.iter().position(|lane| Arc::ptr_eq(lane.device(), &gpu.device)) {
            Some(at) => at,
            None => {
                let nvjpeg = gpu.nvjpeg.as_ref().map_err(|why| EngineError::Interface(why.clone()))?;
                self.hybrid.push(DecodeLane::new(&gpu.device, nvjpeg)?);
                self.hybrid.len() - 1
            }
        };
        Ok(&mut self.hybrid[at])
    }
}

/// A model's lanes: one for each thread of the pool, and one for each instance's own thread behind them.
pub(super) struct Workers {
    pub pool: Arc<rayon::ThreadPool>,
    lanes: Vec<Mutex<Lane>>,
}

impl Workers {
    pub fn new(
        pool: &Arc<rayon::ThreadPool>,
        instances: usize,
        config: &PreprocessConfig,
    ) -> Result<Self, PreprocessError> {
        let lanes = (0..pool.current_num_threads() + instances)
            .map(|_| Lane::new(config.clone()).map(Mutex::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { pool: Arc::clone(pool), lanes })
    }

    /// The lane of this thread: of the pool, or of instance `ordinal`. Nobody else wants it.
    pub fn lane(&self, ordinal: usize) -> MutexGuard<'_, Lane> {
        let index = self.pool.current_thread_index().unwrap_or(self.pool.current_num_threads() + ordinal);
        // A lane that a panic left is as good as any: decoders begin anew with each picture.
        self.lanes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
