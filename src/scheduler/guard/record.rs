//! Writing `golden.json`: what a backend answers in FP32 now, for `visord check --golden`.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::{execute, row};
use crate::backend::{Backend, InstancePlan};
use crate::image::Limits;
use crate::model::config::Precision;
use crate::model::golden::{Case, CaseInput, Expected, Golden, MAX_CASES};
use crate::model::spec::ModelSpec;
use crate::tensor::{Datatype, Tensor};

/// Inputs that are made up where none are given.
const SYNTHETIC: u32 = 3;

/// The text of a `golden.json` for `spec`: its cases run one by one on `backend` in FP32, whatever the model asks
/// for; blocking. `images` are files; where there are none, or the model takes tensors, the inputs are made up,
/// always the same.
///
/// Returns the text and the number of cases.
///
/// # Errors
/// A sentence: the backend's, or about an image or an output that cannot be used.
pub fn record(
    spec: &ModelSpec,
    backend: &dyn Backend,
    limits: Limits,
    images: &[PathBuf],
) -> Result<(String, usize), String> {
    let spec = ModelSpec { precision: Precision::Fp32, ..spec.clone() };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let gpus = backend.plan(&spec, &[]).map_err(|e| e.to_string())?.gpus.into_iter().take(1).collect();
    let plan = InstancePlan { count: 1, threads, gpus };
    let loaded: Arc<_> = backend.load(&spec, &plan, limits).map_err(|e| e.to_string())?;
    let mut instance = loaded.instance(0, Arc::new(|| {})).map_err(|e| e.to_string())?;
    let mut cases = Vec::new();
    for (name, input) in inputs(&spec, images)? {
        let answers = execute(instance.as_mut(), &spec, loaded.normalizes(), &[&row(&input)]);
        let answer = answers.and_then(|mut rows| rows.swap_remove(0).map_err(|e| e.to_string()));
        let outputs = answer.map_err(|why| format!("{name}: {why}"))?.into_iter().enumerate();
        let outputs = outputs.map(|(output, data)| Expected { output, data }).collect();
        cases.push(Case { name, input, outputs });
    }
    let made_by =
        format!("visord {}, {} {} in fp32", env!("CARGO_PKG_VERSION"), backend.name(), backend.version());
    Ok((Golden::render(&made_by, &spec, &cases)?, cases.len()))
}

fn inputs(spec: &ModelSpec, images: &[PathBuf]) -> Result<Vec<(String, CaseInput)>, String> {
    let Some(image) = &spec.image else {
        return (0..SYNTHETIC)
            .map(|seed| Ok((format!("made-up {}", seed + 1), tensors(spec, seed)?)))
            .collect();
    };
    if images.len() > MAX_CASES {
        return Err(format!("{} images are given; at most {MAX_CASES} are read", images.len()));
    }
    if !images.is_empty() {
        let read = |path: &PathBuf| {
            let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, CaseInput::Image(Bytes::from(bytes))))
        };
        return images.iter().map(read).collect();
    }
    let (width, height) = (image.preprocess.width, image.preprocess.height);
    let made = |seed| Ok((format!("made-up {}", seed + 1), CaseInput::Image(picture(width, height, seed)?)));
    (0..SYNTHETIC).map(made).collect()
}

/// A PNG of slow waves: every level and both directions occur, and it stays small.
fn picture(width: u32, height: u32, seed: u32) -> Result<Bytes, String> {
    let wave = |along: u32, side: u32, turns: u32| {
        let at = u64::from(along) * u64::from(turns) * 510 / u64::from(side.max(1)) % 510;
        if at < 255 { at } else { 509 - at }
    };
    let picture = image::RgbImage::from_fn(width, height, |x, y| {
        let level = |channel: u32| {
            let (a, b) = (wave(x, width, seed + channel + 1), wave(y, height, seed + 3 - channel));
            u8::try_from(a.midpoint(b)).unwrap_or(u8::MAX)
        };
        image::Rgb([level(0), level(1), level(2)])
    });
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png).map_err(|e| format!("a made-up picture: {e}"))?;
    Ok(Bytes::from(file.into_inner()))
}

/// Floats from -1 to 1 in steps of an eighth, whole numbers 0 and 1; a dimension that varies is 1.
fn tensors(spec: &ModelSpec, seed: u32) -> Result<CaseInput, String> {
    // Knuth's multiplicative hash: no two inputs alike, and the same on every machine.
    let mut state = seed.wrapping_add(1).wrapping_mul(2_654_435_761);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let tensors = spec.inputs.iter().map(|input| {
        let shape: Vec<usize> = input.shape.iter().map(|d| usize::try_from(*d).unwrap_or(1)).collect();
        let elements: usize = shape.iter().product();
        let mut data = Vec::new();
        for _ in 0..elements {
            push(&mut data, input.datatype, next()).ok_or_else(|| {
                format!("input \"{}\" is {}, for which no values can be made up", input.name, input.datatype)
            })?;
        }
        Ok(Tensor { datatype: input.datatype, shape, data: data.into() })
    });
    Ok(CaseInput::Tensors(tensors.collect::<Result<_, String>>()?))
}

fn push(data: &mut Vec<u8>, datatype: Datatype, random: u32) -> Option<()> {
    use Datatype as D;
    let float = (random % 17) as f32 / 8.0 - 1.0;
    match datatype {
        D::Fp16 => data.extend(half::f16::from_f32(float).to_le_bytes()),
        D::Bf16 => data.extend(half::bf16::from_f32(float).to_le_bytes()),
        D::Fp32 => data.extend(float.to_le_bytes()),
        D::Fp64 => data.extend(f64::from(float).to_le_bytes()),
        D::Bytes => return None,
        D::Bool | D::Uint8 | D::Uint16 | D::Uint32 | D::Uint64 | D::Int8 | D::Int16 | D::Int32 | D::Int64 => {
            let bit = u64::from(random % 2).to_le_bytes();
            data.extend_from_slice(&bit[..datatype.size_bytes()?]);
        }
    }
    Some(())
}
