//! The kernels of `kernels/`: their PTX, the names of their entry points, and the shape of a launch. What they
//! are told is in `descriptor`.
//!
//! The PTX is for compute capability 7.0 and PTX ISA 7.8: drivers from 520 on compile it for any GPU from the
//! V100 on. `make kernels` writes it.

use std::ffi::CStr;

use super::descriptor::PreprocessParameters;
use crate::tensor::Datatype;

/// PTX of `preprocess_f32`, `preprocess_f16` and `preprocess_u8`.
///
/// Arguments: the device address of the [`super::descriptor::ImageDescriptor`]s, that of the input binding, and
/// [`PreprocessParameters`].
pub const PREPROCESS_PTX: &CStr = ptx(concat!(include_str!("../../kernels/preprocess.ptx"), "\0"));

/// PTX of [`L2_NORMALIZE_F32`].
pub const L2_NORMALIZE_PTX: &CStr = ptx(concat!(include_str!("../../kernels/l2_normalize.ptx"), "\0"));

/// Entry point that divides each row of an FP32 output by its Euclidean norm, in place; a row of zeros stays.
///
/// Arguments: the device address of the output, and [`super::descriptor::L2NormalizeParameters`].
pub const L2_NORMALIZE_F32: &CStr = c"l2_normalize_f32";

/// Threads of a block of `preprocess`, across and down: a warp is one run of 32 pixels in a row.
const PREPROCESS_BLOCK: (u32, u32) = (32, 8);

/// Threads of a block of [`L2_NORMALIZE_F32`]: `L2_NORMALIZE_THREADS` in its source.
pub const L2_NORMALIZE_THREADS: u32 = 256;

/// The most blocks in z, on any GPU. **Source:** CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability".
const MAX_GRID_Z: u32 = 65_535;

/// Blocks and threads of a launch, in x, y and z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks.
    pub grid: (u32, u32, u32),
    /// Threads of a block.
    pub block: (u32, u32, u32),
}

const fn ptx(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("PTX is text without a NUL"),
    }
}

/// The entry point of [`PREPROCESS_PTX`] that writes inputs of this type; `None` if images cannot be fed to it.
#[must_use]
pub const fn preprocess_entry(input: Datatype) -> Option<&'static CStr> {
    match input {
        Datatype::Fp32 => Some(c"preprocess_f32"),
        Datatype::Fp16 => Some(c"preprocess_f16"),
        Datatype::Uint8 => Some(c"preprocess_u8"),
        Datatype::Bool
        | Datatype::Uint16
        | Datatype::Uint32
        | Datatype::Uint64
        | Datatype::Int8
        | Datatype::Int16
        | Datatype::Int32
        | Datatype::Int64
        | Datatype::Bf16
        | Datatype::Fp64
        | Datatype::Bytes => None,
    }
}

/// One thread for each pixel of the input, and z for the images: beyond 65535 of them the blocks take turns.
#[must_use]
pub fn preprocess_shape(parameters: &PreprocessParameters) -> LaunchShape {
    let (across, down) = PREPROCESS_BLOCK;
    LaunchShape {
        grid: (
            parameters.width.div_ceil(across),
            parameters.height.div_ceil(down),
            parameters.images.clamp(1, MAX_GRID_Z),
        ),
        block: (across, down, 1),
    }
}

/// One block for each row.
#[must_use]
pub fn l2_normalize_shape(rows: u32) -> LaunchShape {
    LaunchShape { grid: (rows.max(1), 1, 1), block: (L2_NORMALIZE_THREADS, 1, 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ColorOrder, Layout, PreprocessConfig, ResizeRule};

    #[test]
    fn every_entry_point_is_in_its_ptx() {
        let inputs = Datatype::ALL.into_iter().filter_map(preprocess_entry);
        let entries =
            inputs.map(|entry| (PREPROCESS_PTX, entry)).chain([(L2_NORMALIZE_PTX, L2_NORMALIZE_F32)]);
        let mut found = 0;
        for (ptx, entry) in entries {
            let (ptx, entry) = (ptx.to_str().unwrap(), entry.to_str().unwrap());
            assert!(ptx.contains(&format!(".visible .entry {entry}(")), "{entry}");
            assert!(ptx.contains(".target sm_70\n"), "{entry}");
            found += 1;
        }
        assert_eq!(found, 4);
    }

    #[test]
    fn a_launch_covers_the_input() {
        for (width, height, images, grid) in [
            (1, 1, 1, (1, 1, 1)),
            (112, 112, 32, (4, 14, 32)),
            (113, 113, 4096, (4, 15, 4096)),
            (16_384, 16_384, 70_000, (512, 2048, 65_535)),
            (8, 8, 0, (1, 1, 1)),
        ] {
            let config = PreprocessConfig {
                width,
                height,
                layout: Layout::Nchw,
                color_order: ColorOrder::Rgb,
                mean: [0.0; 3],
                scale: [1.0; 3],
                resize: ResizeRule::Stretch,
            };
            let shape = preprocess_shape(&PreprocessParameters::new(&config, images, images).unwrap());
            assert_eq!(shape, LaunchShape { grid, block: (32, 8, 1) }, "{width}x{height}, {images} images");
        }
        assert_eq!(l2_normalize_shape(7), LaunchShape { grid: (7, 1, 1), block: (256, 1, 1) });
    }
}
