//! Sample JPEGs to time decoders with, made when they are needed: nothing large is shipped.

use crate::ffi::turbojpeg::compress_rgb;

/// Sizes that are asked about: a thumbnail, a web picture, a video frame. 4:2:0 at quality 85, as most of the
/// world's JPEGs.
const SIZES: [(u32, u32); 3] = [(256, 256), (640, 480), (1920, 1080)];
const QUALITY: u8 = 85;

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// A baseline JPEG, 4:2:0.
    pub encoded: Vec<u8>,
}

/// The same synthetic picture at 256x256, 640x480 and 1920x1080, from small to large. Takes some 0.1 s.
///
/// **Errors:** libjpeg-turbo's text, out of memory for all that is known.
pub fn sample_jpegs() -> Result<Vec<Sample>, String> {
    SIZES
        .iter()
        .map(|&(width, height)| {
            let encoded = compress_rgb(&photograph(width, height), width, height, QUALITY)
                .map_err(|error| format!("sample JPEG of {width}x{height}: {error}"))?;
            Ok(Sample { width, height, encoded })
        })
        .collect()
}

/// An RGB picture `[height, width, 3]` that costs an entropy decoder about what a photograph does: smooth light,
/// shapes with edges, texture over some octaves of value noise, and a little grain.
fn photograph(width: u32, height: u32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
            let texture: f32 = (0..5)
                .map(|octave| {
                    value_noise(x as f32, y as f32, 96.0 / (1 << octave) as f32) * 0.5_f32.powi(octave)
                })
                .sum();
            let shape = if (u * 7.0).sin() + (v * 5.0).cos() > 0.4 { 30.0 } else { 0.0 };
            let grain = (hash(x, y) & 15) as f32 - 7.5;
            let light = 70.0 + 80.0 * v + shape + 60.0 * texture + grain;
            let warm = 25.0 * value_noise(x as f32, y as f32, 64.0);
            for value in [light + warm, light, light - warm] {
                pixels.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    pixels
}

/// Smooth noise in -1..1 that changes over `cell` pixels.
fn value_noise(x: f32, y: f32, cell: f32) -> f32 {
    let (x, y) = (x / cell, y / cell);
    let at = |x: f32, y: f32| (hash(x as u32, y as u32) & 0xffff) as f32 / 32_768.0 - 1.0;
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (left, top) = (x.floor(), y.floor());
    let (across, down) = (smooth(x - left), smooth(y - top));
    let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
    let above = mix(at(left, top), at(left + 1.0, top), across);
    let below = mix(at(left, top + 1.0), at(left + 1.0, top + 1.0), across);
    mix(above, below, down)
}

/// Two coordinates, well stirred.
fn hash(x: u32, y: u32) -> u32 {
    let mut h = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77);
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h ^ (h >> 13)
}

#[cfg(test)]
mod tests {
    use super::super::{Capabilities, Decode, DecoderChoice, Policy, Thresholds, route};
    use super::*;
    use crate::image::{Decoder, Limits, jpeg_header};

    #[test]
    fn samples_are_like_photographs_and_fit_every_decoder() {
        let mut decoder = Decoder::new();
        let samples = sample_jpegs().unwrap();
        assert_eq!(samples.len(), SIZES.len());
        for sample in &samples {
            let size = (sample.width, sample.height);
            let header = jpeg_header(&sample.encoded, &Limits::default()).unwrap().unwrap();
            assert_eq!((header.width, header.height), size);
            let policy = Policy { choice: DecoderChoice::Hardware, thresholds: Thresholds::NEVER };
            let everything = Capabilities { hardware: true, hybrid: true };
            assert_eq!(route(&header, &everything, &policy), Decode::Hardware, "{size:?}");
            let view = decoder.decode(&sample.encoded, &Limits::default()).unwrap();
            assert_eq!((view.width(), view.height()), size);
            // Photographs at this quality take some 1 to 2.5 bits a pixel.
            let bits = sample.encoded.len() as f64 * 8.0 / header.pixels() as f64;
            assert!((1.0..2.5).contains(&bits), "{size:?}: {bits} bits a pixel");
        }
    }
}
