//! The drift guard: a version's golden cases run on the instance that will serve them, and what comes out is
//! compared as a client would see it, after softmax and normalisation.
//!
//! `instance` calls it once a version, after the first instance's warm-up; what it finds decides in
//! [`super::served`] whether the version is ready.

pub(super) mod compare;
pub mod record;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use super::instance::check;
use super::postprocess;
use super::served::shape_key;
use crate::backend::{Executed, Instance, LoadedModel, OutputBuffer, RowInput};
use crate::error::{ErrorKind, InferError};
use crate::model::config::Precision;
use crate::model::golden::{CaseInput, Golden};
use crate::model::spec::ModelSpec;
use compare::{Agreement, compare};

/// How a version did on its golden cases, where it did well enough.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenReport {
    /// Cases that ran.
    pub cases: usize,
    /// Time that they took.
    pub took: Duration,
    /// What held, and where it came from: `bound cosine 0.9995, the default in fp32`.
    pub bound: String,
    /// For each output with an expectation, how near its worst row came.
    pub outputs: Vec<OutputReport>,
}

/// How near one output came.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputReport {
    /// Its name.
    pub name: String,
    /// Least cosine of a row; integers have none.
    pub cosine: Option<f64>,
    /// Largest difference of a value.
    pub difference: f64,
}

impl GoldenReport {
    /// Least cosine of all outputs.
    #[must_use]
    pub fn worst_cosine(&self) -> Option<f64> {
        self.outputs.iter().filter_map(|o| o.cosine).min_by(f64::total_cmp)
    }

    /// Largest difference of all outputs.
    #[must_use]
    pub fn worst_difference(&self) -> f64 {
        self.outputs.iter().map(|o| o.difference).fold(0.0, f64::max)
    }
}

/// An output that is further off than it may be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{file}: {precision} on {backend} drifts: output \"{output}\" of {case} {reached} ({bound}); {off} of {cases} \
     case(s) are off"
)]
pub struct Drift {
    /// The `golden.json`.
    pub file: String,
    /// Arithmetic that drifted.
    pub precision: &'static str,
    /// The backend's name.
    pub backend: &'static str,
    /// Output that is worst.
    pub output: String,
    /// Case that is worst.
    pub case: String,
    /// How far off it is, as the end of a sentence.
    pub reached: String,
    /// The bound and where it comes from.
    pub bound: String,
    /// Cases beyond the bound.
    pub off: usize,
    /// Cases in the file.
    pub cases: usize,
    /// What to do.
    pub fix: &'static str,
}

/// Why an instance is not ready.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It could not be built, warmed up or run.
    Failed(String),
    /// It runs, and gives wrong answers.
    Drift(Box<Drift>),
}

/// Runs the golden cases, in batches of up to `max_batch_size`, and compares; blocking.
pub(super) fn run(
    golden: &Golden,
    spec: &ModelSpec,
    max_batch_size: usize,
    backend: &'static str,
    loaded: &dyn LoadedModel,
    instance: &mut dyn Instance,
) -> Result<GoldenReport, Refusal> {
    let start = Instant::now();
    let (precision, normalized) = (loaded.precision(), loaded.normalizes());
    let rows: Vec<RowInput> = golden.cases.iter().map(|c| row(&c.input)).collect();
    let rows: Vec<&RowInput> = rows.iter().collect();
    let failed = |why: String| Refusal::Failed(format!("{}: {why}", golden.path.display()));
    let (bound, bound_text) = golden.bound_in(precision);
    let mut worst: Vec<Option<Agreement>> = vec![None; spec.outputs.len()];
    let mut offence: Option<(f64, Drift)> = None;
    let (mut at, mut off) = (0, 0);
    while at < rows.len() {
        let alike = rows[at..].iter().take_while(|r| shape_key(r) == shape_key(rows[at])).count();
        let count = alike.min(if spec.batched() { max_batch_size } else { 1 });
        let answers = execute(instance, spec, normalized, &rows[at..at + count]).map_err(failed)?;
        for (index, answer) in (at..).zip(answers) {
            let case = golden.case_name(index);
            let answer = match answer {
                // A backend that looks for NaN by itself gives no numbers to compare.
                Err(e) if e.kind == ErrorKind::NanOutput => None,
                Err(e) => return Err(failed(format!("{case}: {e}"))),
                Ok(answer) => Some(answer),
            };
            let mut bad = false;
            for expected in &golden.cases[index].outputs {
                let tensor = &spec.outputs[expected.output].tensor;
                let agreement = match &answer {
                    Some(answer) => compare(tensor.datatype, &answer[expected.output], &expected.data),
                    None => Agreement::NAN,
                };
                if let Some((score, reached)) = agreement.beyond(&bound) {
                    bad = true;
                    if offence.as_ref().is_none_or(|(least, _)| score < *least) {
                        let drift = Drift {
                            file: golden.path.display().to_string(),
                            precision: precision.name(),
                            backend,
                            output: tensor.name.clone(),
                            case: case.clone(),
                            reached,
                            bound: bound_text.clone(),
                            off: 0,
                            cases: golden.cases.len(),
                            fix: fix(precision),
                        };
                        offence = Some((score, drift));
                    }
                }
                let worst = &mut worst[expected.output];
                *worst = Some(worst.take().map_or(agreement.clone(), |w| w.worse(agreement)));
            }
            off += usize::from(bad);
        }
        at += count;
    }
    if let Some((_, drift)) = offence {
        return Err(Refusal::Drift(Box::new(Drift { off, ..drift })));
    }
    let outputs = worst.into_iter().zip(&spec.outputs).filter_map(|(agreement, output)| {
        let agreement = agreement?;
        Some(OutputReport {
            name: output.tensor.name.clone(),
            cosine: agreement.cosine,
            difference: agreement.difference,
        })
    });
    let outputs = outputs.collect();
    Ok(GoldenReport { cases: rows.len(), took: start.elapsed(), bound: bound_text, outputs })
}

fn fix(precision: Precision) -> &'static str {
    match precision {
        Precision::Fp32 => {
            "if the network or its model.toml has changed, write the file anew: visord check --golden --force"
        }
        Precision::Tf32 | Precision::Fp16 | Precision::Bf16 => {
            "set precision = \"fp32\", or golden.on_drift = \"fallback\", in model.toml; if the network has changed, \
             write the file anew: visord check --golden --force"
        }
    }
}

fn row(input: &CaseInput) -> RowInput {
    match input {
        CaseInput::Image(bytes) => RowInput::Image(bytes.clone()),
        CaseInput::Tensors(tensors) => RowInput::Tensors(tensors.clone()),
    }
}

/// Bytes of each output of one row.
type Answer = Vec<Vec<u8>>;

/// Runs one batch; for each row, its outputs after post-processing, or why it has none.
///
/// **Errors:** a sentence; then the whole batch failed.
fn execute(
    instance: &mut dyn Instance,
    spec: &ModelSpec,
    normalized: bool,
    rows: &[&RowInput],
) -> Result<Vec<Result<Answer, InferError>>, String> {
    let Executed { rows: places, ran, mut outputs, .. } = instance.run(rows).map_err(|e| e.to_string())?;
    if let Some(why) = check(&outputs, ran, spec) {
        return Err(why);
    }
    for (output, spec) in outputs.iter_mut().zip(&spec.outputs) {
        postprocess::apply(output, spec, normalized);
    }
    let part = |output: &OutputBuffer, place: usize| {
        let (bytes, at) =
            if spec.batched() { (output.data.len() / ran.max(1), place) } else { (output.data.len(), 0) };
        output.data[at * bytes..][..bytes].to_vec()
    };
    let answer = |place: usize| outputs.iter().map(|o| part(o, place)).collect::<Answer>();
    Ok(places.into_iter().map(|place| place.map(answer)).collect())
}
