//! What the CPU path feeds a model: what a stub engine that copies values of its input must answer.

use std::path::Path;

use serde_json::{Map, Value, json};
use visord::gpu::jpeg::sample_jpegs;
use visord::image::{Decoder, Limits, Preprocess};
use visord::model::repository;
use visord::problems::Problems;

use super::Failure;

/// For every file of `images`: `count` values, the first at 0 and each `elements / count` behind the one before, of
/// the FP32 input that the CPU path makes of it for the first model of the repository.
pub fn values(repository: &Path, images: &Path, count: usize) -> Result<Value, Failure> {
    let mut problems = Problems::default();
    let models = repository::read(repository, &mut problems);
    let model = models.first().ok_or("the repository has no model")?;
    let spec = &model.versions.first().ok_or("the model has no version")?.spec;
    let image = spec.image.as_ref().ok_or("the model takes no images")?;
    let mut preprocess = Preprocess::new(image.preprocess.clone())?;
    let elements = preprocess.elements();
    if count == 0 || count > elements {
        return Err(format!("--expect must be 1 to {elements}, the elements of a row").into());
    }
    let (mut decoder, mut row) = (Decoder::new(), vec![0.0_f32; elements]);
    let mut found = Map::new();
    for entry in std::fs::read_dir(images).map_err(|e| format!("{}: {e}", images.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let encoded = std::fs::read(&path)?;
        let view = decoder.decode(&encoded, &Limits::default()).map_err(|e| format!("{name}: {e}"))?;
        preprocess.run(&view, &mut row);
        let values: Vec<f32> = row.iter().step_by(elements / count).take(count).copied().collect();
        found.insert(name, json!(values));
    }
    // A level is this far apart in the input.
    let scale = image.preprocess.scale;
    Ok(json!({ "model": model.config.name, "scale": scale, "values": found }))
}

/// Writes the JPEGs that decoders are timed with.
pub fn samples(folder: &Path) -> Result<Value, Failure> {
    std::fs::create_dir_all(folder)?;
    let mut names = Vec::new();
    for sample in sample_jpegs()? {
        let name = format!("{}x{}.jpg", sample.width, sample.height);
        std::fs::write(folder.join(&name), &sample.encoded)?;
        names.push(name);
    }
    Ok(json!({ "written": names }))
}
