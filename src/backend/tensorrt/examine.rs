//! A look at the GPUs through nvJPEG, for `visord doctor`: what a load would find, and nothing kept.

use std::path::Path;

use super::gpu::Gpu;
use crate::gpu::jpeg::{Library as NvjpegLibrary, Version};
use crate::gpu::probe::GpuInfo;

/// nvJPEG, and what it finds on each GPU.
#[derive(Debug)]
pub struct Examined {
    /// The library's version and that of the CUDA runtime in it, or why it cannot be opened.
    pub nvjpeg: Result<(Version, Version), String>,
    /// Whether it can interpolate chroma, as the CPU's decoder does.
    pub interpolates_chroma: bool,
    /// One for each GPU that was asked for.
    pub gpus: Vec<ExaminedGpu>,
}

/// One GPU.
#[derive(Debug)]
pub struct ExaminedGpu {
    /// CUDA ordinal.
    pub ordinal: usize,
    /// Memory that nobody uses, bytes, or why the GPU's context or the kernels cannot be made.
    pub free_bytes: Result<usize, String>,
    /// Why nvJPEG cannot be used on it.
    pub nvjpeg_fault: Option<String>,
    /// JPEG engines and cores of each where nvJPEG says so, or why there is none.
    pub jpeg_engine: Result<Option<(u32, u32)>, String>,
}

/// Opens nvJPEG in `dir`, or where the loader looks, and makes a context on each of `gpus`; blocking, about a second
/// each.
#[must_use]
pub fn examine(gpus: Vec<GpuInfo>, dir: Option<&Path>) -> Examined {
    let library = NvjpegLibrary::open(dir).map_err(|e| e.to_string());
    let one = |info: GpuInfo| {
        let ordinal = info.ordinal;
        let none = || Err("nvJPEG cannot be used".to_owned());
        match Gpu::new(info, library.clone()).life() {
            Ok(life) => {
                let free = life.device.enter().and_then(|_section| life.device.memory_info());
                ExaminedGpu {
                    ordinal,
                    free_bytes: free.map(|(free, _)| free).map_err(|e| e.to_string()),
                    nvjpeg_fault: life.nvjpeg.as_ref().err().cloned(),
                    jpeg_engine: life
                        .nvjpeg
                        .as_ref()
                        .map_or_else(|_| none(), |nvjpeg| nvjpeg.hardware().map_err(|e| e.to_string())),
                }
            }
            Err(e) => ExaminedGpu {
                ordinal,
                free_bytes: Err(e.to_string()),
                nvjpeg_fault: None,
                jpeg_engine: none(),
            },
        }
    };
    Examined {
        gpus: gpus.into_iter().map(one).collect(),
        interpolates_chroma: library.as_ref().is_ok_and(|l| l.interpolates_chroma()),
        nvjpeg: library.map(|l| (l.version(), l.cuda_runtime())),
    }
}
