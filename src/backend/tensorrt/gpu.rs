//! One GPU as all models share it: its kernels and its nvJPEG, anew for each life of its context.

use std::sync::{Arc, Mutex, PoisonError};

use crate::gpu::device::{Device, GpuSlot, OnDevice};
use crate::gpu::error::CudaError;
use crate::gpu::jpeg::{Library as NvjpegLibrary, Nvjpeg};
use crate::gpu::kernel::Kernels;
use crate::gpu::probe::GpuInfo;

/// What lives as long as a context.
pub(super) struct GpuLife {
    pub device: Arc<Device>,
    pub kernels: Arc<Kernels>,
    /// Or why pictures are decoded on the CPU alone.
    pub nvjpeg: Result<OnDevice<Nvjpeg>, String>,
}

/// See the module.
pub(super) struct Gpu {
    slot: GpuSlot,
    nvjpeg: Result<Arc<NvjpegLibrary>, String>,
    life: Mutex<Option<Arc<GpuLife>>>,
}

impl Gpu {
    pub fn new(info: GpuInfo, nvjpeg: Result<Arc<NvjpegLibrary>, String>) -> Self {
        Self { slot: GpuSlot::new(info), nvjpeg, life: Mutex::new(None) }
    }

    pub fn info(&self) -> &GpuInfo {
        self.slot.info()
    }

    /// The present life of the context: a new one where the last has ended.
    pub fn life(&self) -> Result<Arc<GpuLife>, CudaError> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let device = self.slot.device()?;
        if let Some(life) = life.as_ref()
            && Arc::ptr_eq(&life.device, &device)
        {
            return Ok(Arc::clone(life));
        }
        let section = device.enter()?;
        let kernels = Arc::new(Kernels::load(&device)?);
        let nvjpeg = self.nvjpeg.clone().and_then(|library| {
            let nvjpeg = Nvjpeg::new(library).map_err(|e| e.to_string())?;
            Ok(OnDevice::new(&device, nvjpeg))
        });
        let ordinal = device.info().ordinal;
        match &nvjpeg {
            Err(why) => tracing::warn!(gpu = ordinal, why, "pictures are decoded on the CPU: no nvJPEG"),
            Ok(nvjpeg) => match nvjpeg.hardware() {
                Ok(engines) => tracing::info!(gpu = ordinal, ?engines, "the GPU's JPEG engine can be used"),
                Err(e) => tracing::info!(
                    gpu = ordinal,
                    why = %e,
                    "no JPEG engine: nvJPEG decodes with the CPU's help. A100, A30 and H100 have one, which a container \
                     sees only with `video` in NVIDIA_DRIVER_CAPABILITIES"
                ),
            },
        }
        drop(section);
        let new = Arc::new(GpuLife { device, kernels, nvjpeg });
        *life = Some(Arc::clone(&new));
        Ok(new)
    }
}
