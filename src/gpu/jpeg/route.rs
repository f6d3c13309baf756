//! Who decodes a JPEG: a pure decision on its header, what the GPU has, and what was asked for.

use crate::image::{JpegColor, JpegHeader, JpegProcess, Subsampling};
pub use crate::model::config::DecoderChoice;

/// The largest side that the JPEG engine is given. An assumption: NVIDIA's guide names no limit. Where the library
/// can say, [`super::HardwareDecoder::supported`] asks it besides.
const HARDWARE_MAX_SIDE: u32 = 16_384;

/// The largest side that the hybrid decoder is given. An assumption too: larger ones are the CPU's.
const HYBRID_MAX_SIDE: u32 = 32_768;

/// The most scans a picture may have to be decoded in phases. The CPU's phase costs a pass over all coefficients
/// for each; encoders write about 10.
const HYBRID_MAX_SCANS: u32 = 32;

/// Who decodes a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// The GPU's JPEG engine, in batches.
    Hardware,
    /// CPU and GPU together, picture by picture.
    Hybrid,
    /// The CPU.
    Cpu,
}

impl Decode {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Hybrid => "hybrid",
            Self::Cpu => "cpu",
        }
    }
}

/// From how many pixels on a picture goes to the GPU under [`DecoderChoice::Auto`]; `u64::MAX` for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// To the JPEG engine.
    pub hardware_min_pixels: u64,
    /// To CPU and GPU together.
    pub hybrid_min_pixels: u64,
}

impl Thresholds {
    /// The GPU decodes nothing.
    pub const NEVER: Self = Self { hardware_min_pixels: u64::MAX, hybrid_min_pixels: u64::MAX };
}

/// What was asked for, and what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The operator's word.
    pub choice: DecoderChoice,
    /// What `Auto` goes by.
    pub thresholds: Thresholds,
}

/// What there is to choose from, besides the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A JPEG engine.
    pub hardware: bool,
    /// nvJPEG at all.
    pub hybrid: bool,
}

/// Who decodes the picture of `header`. Whoever cannot is passed over, in the order hardware, hybrid, CPU, from the
/// one that `policy` asks for; the CPU takes everything, and alone judges broken and truncated files: nvJPEG is
/// never given one that is known to be either.
#[must_use]
pub fn route(header: &JpegHeader, capabilities: &Capabilities, policy: &Policy) -> Decode {
    let hardware = capabilities.hardware && hardware_takes(header);
    let hybrid = capabilities.hybrid && hybrid_takes(header);
    let pixels = header.pixels();
    let (hardware, hybrid) = match policy.choice {
        DecoderChoice::Auto => (
            hardware && pixels >= policy.thresholds.hardware_min_pixels,
            hybrid && pixels >= policy.thresholds.hybrid_min_pixels,
        ),
        DecoderChoice::Hardware => (hardware, hybrid),
        DecoderChoice::Hybrid => (false, hybrid),
        DecoderChoice::Cpu => (false, false),
    };
    if hardware {
        Decode::Hardware
    } else if hybrid {
        Decode::Hybrid
    } else {
        Decode::Cpu
    }
}

/// Whole, sound, 8 bits, grey or YCbCr: what both ways on the GPU ask for. CMYK would need another rule than
/// nvJPEG's, RGB is not among the colours that it documents.
fn nvjpeg_takes(header: &JpegHeader, max_side: u32) -> bool {
    header.complete
        && header.defect.is_none()
        && header.precision_bits == 8
        && header.width.max(header.height) <= max_side
        && match header.color {
            JpegColor::Gray => header.subsampling == Subsampling::Gray,
            JpegColor::YCbCr => header.subsampling != Subsampling::Other,
            JpegColor::Rgb | JpegColor::Cmyk | JpegColor::Ycck | JpegColor::Unclear => false,
        }
}

/// Baseline in one scan, and neither 4:1:0 nor 4:1:1: what the guide says of `NVJPEG_BACKEND_HARDWARE`.
fn hardware_takes(header: &JpegHeader) -> bool {
    nvjpeg_takes(header, HARDWARE_MAX_SIDE)
        && header.process == JpegProcess::Baseline
        && header.scans == 1
        && !matches!(header.subsampling, Subsampling::S411 | Subsampling::S410)
}

/// Baseline and progressive, in every subsampling that the guide lists.
fn hybrid_takes(header: &JpegHeader) -> bool {
    nvjpeg_takes(header, HYBRID_MAX_SIDE)
        && matches!(header.process, JpegProcess::Baseline | JpegProcess::Progressive)
        && header.scans <= HYBRID_MAX_SCANS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Orientation;

    const BOTH: Capabilities = Capabilities { hardware: true, hybrid: true };
    const V100: Capabilities = Capabilities { hardware: false, hybrid: true };
    const ALWAYS: Thresholds = Thresholds { hardware_min_pixels: 0, hybrid_min_pixels: 0 };

    fn plain() -> JpegHeader {
        JpegHeader {
            width: 640,
            height: 480,
            orientation: Orientation::Upright,
            process: JpegProcess::Baseline,
            precision_bits: 8,
            components: 3,
            subsampling: Subsampling::S420,
            color: JpegColor::YCbCr,
            restart_interval: 0,
            scans: 1,
            complete: true,
            defect: None,
        }
    }

    fn choose(choice: DecoderChoice, capabilities: &Capabilities, header: &JpegHeader) -> Decode {
        route(header, capabilities, &Policy { choice, thresholds: ALWAYS })
    }

    #[test]
    fn the_kind_decides() {
        use Decode::{Cpu, Hardware, Hybrid};
        use Subsampling as S;
        type Change = fn(&mut JpegHeader);
        let cases: &[(&str, Change, Decode)] = &[
            ("plain", |_| {}, Hardware),
            ("4:4:4", |h| h.subsampling = S::S444, Hardware),
            ("4:2:2", |h| h.subsampling = S::S422, Hardware),
            ("4:4:0", |h| h.subsampling = S::S440, Hardware),
            ("4:1:1", |h| h.subsampling = S::S411, Hybrid),
            ("4:1:0", |h| h.subsampling = S::S410, Hybrid),
            ("odd sampling", |h| h.subsampling = S::Other, Cpu),
            ("grey", |h| (h.color, h.subsampling, h.components) = (JpegColor::Gray, S::Gray, 1), Hardware),
            ("grey, sampled 2x2", |h| (h.color, h.subsampling) = (JpegColor::Gray, S::Other), Cpu),
            ("restart intervals", |h| h.restart_interval = 8, Hardware),
            ("turned", |h| h.orientation = Orientation::Rotate90, Hardware),
            ("progressive", |h| (h.process, h.scans) = (JpegProcess::Progressive, 10), Hybrid),
            ("progressive, one scan", |h| h.process = JpegProcess::Progressive, Hybrid),
            ("32 scans", |h| (h.process, h.scans) = (JpegProcess::Progressive, 32), Hybrid),
            ("33 scans", |h| (h.process, h.scans) = (JpegProcess::Progressive, 33), Cpu),
            ("a scan for each component", |h| h.scans = 3, Hybrid),
            ("extended", |h| h.process = JpegProcess::Extended, Cpu),
            ("lossless", |h| h.process = JpegProcess::Lossless, Cpu),
            ("arithmetic", |h| h.process = JpegProcess::Other, Cpu),
            ("12 bits", |h| h.precision_bits = 12, Cpu),
            ("RGB", |h| (h.color, h.subsampling) = (JpegColor::Rgb, S::S444), Cpu),
            ("unclear colour", |h| h.color = JpegColor::Unclear, Cpu),
            ("CMYK", |h| (h.color, h.subsampling) = (JpegColor::Cmyk, S::Other), Cpu),
            ("YCCK", |h| (h.color, h.subsampling) = (JpegColor::Ycck, S::Other), Cpu),
            ("truncated", |h| h.complete = false, Cpu),
            ("broken", |h| h.defect = Some("a second frame"), Cpu),
            ("widest for the engine", |h| h.width = 16_384, Hardware),
            ("wider", |h| h.width = 16_385, Hybrid),
            ("higher", |h| h.height = 16_385, Hybrid),
            ("too high for both", |h| h.height = 32_769, Cpu),
        ];
        for (what, change, expected) in cases {
            let mut header = plain();
            change(&mut header);
            assert_eq!(choose(DecoderChoice::Hardware, &BOTH, &header), *expected, "{what}");
            assert_eq!(choose(DecoderChoice::Auto, &BOTH, &header), *expected, "{what}, auto");
            let without = if *expected == Cpu { Cpu } else { Hybrid };
            assert_eq!(choose(DecoderChoice::Hardware, &V100, &header), without, "{what}, without an engine");
            assert_eq!(choose(DecoderChoice::Hybrid, &BOTH, &header), without, "{what}, hybrid");
            assert_eq!(choose(DecoderChoice::Cpu, &BOTH, &header), Cpu, "{what}, cpu");
            let nothing = Capabilities { hardware: false, hybrid: false };
            assert_eq!(choose(DecoderChoice::Hardware, &nothing, &header), Cpu, "{what}, without nvJPEG");
        }
    }

    #[test]
    fn auto_goes_by_the_size() {
        use Decode::{Cpu, Hardware, Hybrid};
        let pixels = plain().pixels();
        for (hardware, hybrid, capabilities, expected) in [
            (pixels, 0, BOTH, Hardware),
            (pixels + 1, 0, BOTH, Hybrid),
            (pixels + 1, pixels + 1, BOTH, Cpu),
            (0, u64::MAX, V100, Cpu),
            (0, pixels, V100, Hybrid),
            (u64::MAX, u64::MAX, BOTH, Cpu),
        ] {
            let thresholds = Thresholds { hardware_min_pixels: hardware, hybrid_min_pixels: hybrid };
            let policy = Policy { choice: DecoderChoice::Auto, thresholds };
            assert_eq!(route(&plain(), &capabilities, &policy), expected, "{thresholds:?}");
            // What is forced takes no notice of sizes.
            let policy = Policy { choice: DecoderChoice::Hybrid, thresholds };
            assert_eq!(route(&plain(), &capabilities, &policy), Hybrid, "{thresholds:?}");
        }
    }
}
