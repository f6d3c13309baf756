//! The CPU image path against OpenCV's results and against hostile files: `tests/golden/make.py` writes both.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use visord::image::{
    ColorOrder, Decoder, Layout, Limits, Preprocess, PreprocessConfig, ResizeRule, Rgb8View,
};

/// `ResizeRule`, as `make.py` writes it.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Resize {
    Stretch,
    Letterbox {
        fill: [u8; 3],
    },
    CenterCrop {
        #[serde(default)]
        resize_shorter_side: Option<u32>,
    },
}

impl From<Resize> for ResizeRule {
    fn from(resize: Resize) -> Self {
        match resize {
            Resize::Stretch => Self::Stretch,
            Resize::Letterbox { fill } => Self::Letterbox { fill },
            Resize::CenterCrop { resize_shorter_side } => Self::CenterCrop { resize_shorter_side },
        }
    }
}

#[derive(Deserialize)]
struct Manifest {
    cases: Vec<Case>,
    bad: Vec<Bad>,
}

#[derive(Deserialize)]
struct Case {
    image: String,
    oriented_size: (u32, u32),
    width: u32,
    height: u32,
    resize: Resize,
    expected: String,
}

#[derive(Deserialize)]
struct Bad {
    image: String,
    reason: String,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(folder: &str, file: &str) -> Vec<u8> {
    let path = golden().join(folder).join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run tests/golden/make.py", path.display()))
}

fn manifest() -> Manifest {
    serde_json::from_slice(&read(".", "manifest.json")).expect("manifest.json is what this test reads")
}

fn config(width: u32, height: u32, resize: ResizeRule) -> PreprocessConfig {
    PreprocessConfig {
        width,
        height,
        layout: Layout::Nhwc,
        color_order: ColorOrder::Rgb,
        mean: [127.5; 3],
        scale: [1.0 / 128.0; 3],
        resize,
    }
}

/// Worst and mean difference.
fn difference(got: &[u8], expected: &[u8]) -> (u8, f64) {
    assert_eq!(got.len(), expected.len());
    let each = got.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let worst = each.clone().max().unwrap_or(0);
    (worst, each.map(f64::from).sum::<f64>() / got.len() as f64)
}

#[test]
fn pixels_are_those_of_opencv() {
    let mut decoder = Decoder::new();
    let (mut table, mut failed) = (String::new(), 0);
    for case in manifest().cases {
        let expected = read("expected", &case.expected);
        let expected = decoder.decode(&expected, &Limits::default()).unwrap().pixels().to_vec();
        let encoded = read("images", &case.image);
        let mut preprocess = Preprocess::new(config(case.width, case.height, case.resize.into())).unwrap();
        let mut got = vec![0; preprocess.elements()];
        let name = &case.expected;
        match decoder.decode(&encoded, &Limits::default()) {
            Ok(image) if image.oriented_size() == case.oriented_size => {
                preprocess.run_u8(&image, &mut got);
                let (worst, mean) = difference(&got, &expected);
                // Every fixture comes out bit for bit, lossy ones too: one level off is a change to look into.
                let bad = worst > 0;
                failed += usize::from(bad);
                let mark = if bad { "FAILED" } else { "" };
                writeln!(table, "{name:45} max {worst:3} mean {mean:7.4} {mark}").unwrap();
            }
            Ok(image) => {
                failed += 1;
                let (got, want) = (image.oriented_size(), case.oriented_size);
                writeln!(table, "{name:45} is {got:?}, not {want:?} FAILED").unwrap();
            }
            Err(e) => {
                failed += 1;
                writeln!(table, "{name:45} {:?}: {e} FAILED", e.kind).unwrap();
            }
        }
    }
    println!("{table}");
    assert_eq!(failed, 0, "cases that differ from OpenCV:\n{table}");
}

#[test]
fn bad_files_are_refused_with_their_reason() {
    let mut decoder = Decoder::new();
    let mut table = String::new();
    for bad in manifest().bad {
        let got = match decoder.decode(&read("bad", &bad.image), &Limits::default()) {
            Ok(_) => "decoded".to_owned(),
            Err(e) if e.kind.status().reason == bad.reason => continue,
            Err(e) => format!("{}: {e}", e.kind.status().reason),
        };
        writeln!(table, "{:30} expected {}, got {got}", bad.image, bad.reason).unwrap();
    }
    assert!(table.is_empty(), "\n{table}");
}

#[test]
fn dimensions_are_refused_with_size_and_limit() {
    let mut decoder = Decoder::new();
    for file in ["huge.png", "huge.jpg", "huge.bmp", "huge.gif", "huge.tif", "huge.webp"] {
        let error = decoder.decode(&read("bad", file), &Limits::default()).expect_err(file);
        let expected = "image is 60000x60000 = 3600000000 pixels; max_image_pixels is 50000000";
        assert_eq!(error.message, expected, "{file}");
    }
    let face = read("images", "face.jpg");
    assert!(decoder.decode(&face, &Limits { max_image_pixels: 200 * 200 }).is_ok());
    let error = decoder.decode(&face, &Limits { max_image_pixels: 200 * 200 - 1 }).expect_err("too large");
    assert_eq!(error.message, "image is 200x200 = 40000 pixels; max_image_pixels is 39999");
}

/// A broken image leaves nothing behind that the next one meets.
#[test]
fn a_decoder_recovers_from_every_bad_file() {
    let mut decoder = Decoder::new();
    let face = read("images", "face.jpg");
    let frame = read("images", "jpeg_no_huffman_tables.jpg");
    let clean =
        |encoded: &[u8]| Decoder::new().decode(encoded, &Limits::default()).unwrap().pixels().to_vec();
    let (clean_face, clean_frame) = (clean(&face), clean(&frame));
    for bad in manifest().bad {
        assert!(decoder.decode(&read("bad", &bad.image), &Limits::default()).is_err(), "{}", bad.image);
        let got = decoder.decode(&face, &Limits::default()).unwrap();
        assert_eq!(got.pixels(), clean_face, "after {}", bad.image);
        let got = decoder.decode(&frame, &Limits::default()).unwrap();
        assert_eq!(got.pixels(), clean_frame, "after {}", bad.image);
    }
}

/// SplitMix64: the same numbers on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Damages a file: flips bytes, mostly in its header, cuts it, or puts in a piece of another.
fn mutate(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..=random.below(3) {
        let len = out.len();
        match random.below(5) {
            0 | 1 if len > 0 => {
                let reach = if random.below(2) == 0 { len.min(64) } else { len };
                for _ in 0..=random.below(4) {
                    let at = random.below(reach);
                    let values = [0, 0xff, 0x7f, 0x80, random.next() as u8];
                    out[at] = values[random.below(values.len())];
                }
            }
            2 => out.truncate(random.below(len + 1)),
            3 => {
                let (from, at) = (random.below(other.len()), random.below(len));
                let piece = &other[from..other.len().min(from + 1 + random.below(64))];
                out.splice(at..len.min(at + random.below(64)), piece.iter().copied());
            }
            _ => {
                let at = random.below(len);
                out.drain(at..len.min(at + 1 + random.below(8)));
            }
        }
    }
    out
}

#[test]
fn no_bytes_make_the_decoder_panic() {
    const CASES_PER_FILE: usize = 500;
    // Small, so that a header that claims much costs no more than a message.
    let limits = Limits { max_image_pixels: 1 << 20 };
    let manifest = manifest();
    let mut seeds = Vec::new();
    for case in &manifest.cases {
        let large = matches!(case.image.as_str(), "astronaut.jpg" | "size_224x224.png");
        if matches!(case.resize, Resize::Stretch) && !large {
            seeds.push(read("images", &case.image));
        }
    }
    seeds.extend(manifest.bad.iter().map(|b| read("bad", &b.image)));
    let mut random = Random(20_240_601);
    let mut decoder = Decoder::new();
    let mut preprocess = Preprocess::new(config(24, 16, ResizeRule::Stretch)).unwrap();
    let mut out = vec![0.0; preprocess.elements()];
    let (mut decoded, mut refused) = (0, 0);
    for (i, seed) in seeds.iter().enumerate() {
        for _ in 0..CASES_PER_FILE {
            let other = &seeds[random.below(seeds.len())];
            match decoder.decode(&mutate(&mut random, seed, other), &limits) {
                Ok(image) => {
                    preprocess.run(&image, &mut out);
                    decoded += 1;
                }
                Err(e) => {
                    assert!(!e.message.is_empty(), "seed {i}");
                    refused += 1;
                }
            }
        }
    }
    println!("{decoded} decoded, {refused} refused");
    assert!(
        decoded > 100 && refused > 100,
        "{decoded} decoded, {refused} refused: the damage is too uniform"
    );
}

#[test]
fn views_have_pixels_for_their_size() {
    let pixels = [0; 18];
    for (width, height, valid) in [(2, 3, true), (6, 1, true), (2, 2, false), (0, 0, false), (7, 1, false)] {
        let view = Rgb8View::new(&pixels, width, height, visord::image::Orientation::Upright);
        assert_eq!(view.is_some(), valid, "{width}x{height}");
    }
    assert!(Rgb8View::new(&[], 0, 5, visord::image::Orientation::Upright).is_none());
}
