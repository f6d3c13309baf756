//! Where each row of a batch is decoded, and the decoding: on the GPU's JPEG engine, on the GPU with the CPU's
//! help, or on the CPU.
//!
//! Rows that the host prepares (decoded on the CPU, or tensors) come first in the batch, so that one copy brings
//! them; rows decoded on the GPU follow, and the preprocessing kernel writes them in place.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rayon::prelude::*;
use smallvec::SmallVec;

use super::gpu::GpuLife;
use super::model::ImagePath;
use super::workers::Lane;
use crate::backend::{BackendError, Executed, RowInput};
use crate::error::{ErrorKind, InferError};
use crate::gpu::jpeg::{Capabilities, Decode, DecodeError, route};
use crate::gpu::pipeline::Pipeline;
use crate::gpu::slot::{ArenaImage, picture_bytes};
use crate::gpu::stream::Event;
use crate::image::{Orientation, jpeg_header};
use crate::tensor::Datatype;

/// What is to be done with a row.
enum Job<'a> {
    /// Copied.
    Tensor(&'a [u8]),
    /// Decoded and preprocessed on the CPU.
    Cpu(&'a Bytes),
    /// Decoded to `image`, with the CPU's help.
    Hybrid { encoded: &'a Bytes, image: ArenaImage },
    /// Decoded to `image` on the JPEG engine, already under way.
    Hardware { image: ArenaImage },
    /// Nothing: there is an outcome.
    None,
}

/// What has become of a row.
pub(super) enum Staged {
    /// The host has written it to this row of the first input.
    Host(usize),
    /// It is, or will be, decoded in the arena.
    Device { image: ArenaImage, event: Option<Arc<Event>> },
}

/// A row on its way.
struct Row<'a> {
    job: Job<'a>,
    /// The picture, where the GPU is to decode it.
    encoded: Option<&'a Bytes>,
    outcome: Option<Result<Staged, InferError>>,
    decode: Option<Duration>,
    preprocess: Option<Duration>,
    method: Option<Decode>,
}

/// The rows of a batch, staged.
pub(super) struct StagedRows {
    /// For each row of the batch.
    pub rows: SmallVec<[Result<Staged, InferError>; 32]>,
    /// Rows that the host has written.
    pub host_rows: usize,
    /// Pictures decoded by each of [`Decode`]'s ways: engine, hybrid, CPU.
    pub decoded: [u64; 3],
}

/// A picture that the GPU is to decode, if there is room for it.
struct Wanted {
    row: usize,
    by: Decode,
    width: u32,
    height: u32,
    orientation: Orientation,
}

/// A decoder's failure that is not the picture's ends the batch.
type Fatal = Mutex<Option<BackendError>>;

/// Decodes and copies what comes from outside, into the host's block and the arena; returns when everything that the
/// CPU does is done.
pub(super) fn stage(
    pipeline: &mut Pipeline,
    path: &ImagePath,
    gpu: &GpuLife,
    ordinal: usize,
    rows: &[&RowInput],
    wanted: &dyn Fn(usize) -> Result<(), InferError>,
    done: &mut Executed,
) -> Result<StagedRows, BackendError> {
    let mut list: SmallVec<[Row<'_>; 32]> =
        rows.iter().enumerate().map(|(i, row)| Row::new(row, wanted(i))).collect();
    assign(pipeline, path, gpu, &mut list);
    hardware(pipeline, &mut list)?;
    let layout = pipeline.input_layout(rows.len(), &[]);
    let range = layout.tensors.first().cloned().unwrap_or_default();
    let row_bytes = range.len() / rows.len().max(1);
    let datatype = pipeline.config().inputs[0].datatype;
    let slots = Mutex::new(pipeline.host_input()[range].chunks_exact_mut(row_bytes.max(1)).enumerate());
    let fatal: Fatal = Mutex::new(None);
    let take = || slots.lock().ok().and_then(|mut s| s.next());
    let work = |row: &mut Row<'_>| {
        let mut lane = path.workers.lane(ordinal);
        row.run(&mut lane, path, gpu, datatype, &take, &fatal);
    };
    // One picture is decoded here: waking another thread would take longer than it saves.
    if list.iter().filter(|r| r.is_work()).count() > 1 {
        path.workers
            .pool
            .install(|| list.par_iter_mut().with_max_len(1).filter(|r| r.is_work()).for_each(work));
    } else {
        list.iter_mut().filter(|r| r.is_work()).for_each(work);
    }
    let host_rows = slots.into_inner().map_or(0, |left| rows.len() - left.count());
    if let Ok(Some(error)) = fatal.into_inner() {
        // Other rows' pictures may still be on their way into the arena, which the next batch fills anew.
        let decoded: SmallVec<[Arc<Event>; 32]> = list.iter().filter_map(Row::decoded).collect();
        pipeline.cancel(&decoded);
        return Err(error);
    }
    let mut decoded = [0; 3];
    let rows = list
        .into_iter()
        .map(|row| {
            done.decode.extend(row.decode);
            done.preprocess.extend(row.preprocess);
            if let Some(method) = row.method {
                decoded[method as usize] += 1;
            }
            row.outcome.unwrap_or_else(|| Err(InferError::new(ErrorKind::Internal, "the row was not staged")))
        })
        .collect();
    Ok(StagedRows { rows, host_rows, decoded })
}

/// Decides where each picture is decoded, and takes room for those that the GPU decodes.
fn assign(pipeline: &mut Pipeline, path: &ImagePath, gpu: &GpuLife, list: &mut [Row<'_>]) {
    // What this GPU has: the model's others may have more, or less.
    let capabilities = Capabilities { hardware: pipeline.has_hardware_decoder(), hybrid: gpu.nvjpeg.is_ok() };
    let policy = path.policy();
    let mut wanted: SmallVec<[Wanted; 32]> = SmallVec::new();
    for (i, row) in list.iter_mut().enumerate() {
        let Job::Cpu(encoded) = &row.job else { continue };
        match jpeg_header(encoded, &path.limits) {
            None => {}
            Some(Err(error)) => {
                row.job = Job::None;
                row.outcome = Some(Err(error));
            }
            Some(Ok(header)) => match route(&header, &capabilities, &policy) {
                Decode::Cpu => {}
                by @ (Decode::Hardware | Decode::Hybrid) => {
                    let (width, height, orientation) = (header.width, header.height, header.orientation);
                    wanted.push(Wanted { row: i, by, width, height, orientation });
                }
            },
        }
    }
    let bytes = wanted.iter().map(|w| picture_bytes(w.width, w.height)).sum();
    if bytes > 0 && !pipeline.reserve_pictures(bytes) {
        tracing::debug!(bytes, "too many pixels for the GPU at once: some pictures are decoded on the CPU");
    }
    for Wanted { row: i, by, width, height, orientation } in wanted {
        let Some(image) = pipeline.take_picture(width, height, orientation) else { continue };
        let Job::Cpu(encoded) = list[i].job else { continue };
        list[i].job = match by {
            Decode::Hardware => {
                list[i].method = Some(Decode::Hardware);
                Job::Hardware { image }
            }
            Decode::Hybrid | Decode::Cpu => Job::Hybrid { encoded, image },
        };
        list[i].encoded = Some(encoded);
    }
}

/// Starts the JPEG engine on its pictures; those that it does not take are decoded with the CPU's help.
fn hardware(pipeline: &mut Pipeline, list: &mut [Row<'_>]) -> Result<(), BackendError> {
    loop {
        let mut places: SmallVec<[usize; 32]> = SmallVec::new();
        let mut pictures: SmallVec<[(Bytes, ArenaImage); 32]> = SmallVec::new();
        for (i, row) in list.iter().enumerate() {
            if let (Job::Hardware { image, .. }, Some(encoded)) = (&row.job, row.encoded) {
                places.push(i);
                pictures.push((encoded.clone(), image.clone()));
            }
        }
        if pictures.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        match pipeline.decode_batch(&pictures) {
            Ok(()) => {
                let share = start.elapsed() / u32::try_from(places.len()).unwrap_or(1);
                for i in places {
                    let row = &mut list[i];
                    if let Job::Hardware { image } = std::mem::replace(&mut row.job, Job::None) {
                        row.outcome = Some(Ok(Staged::Device { image, event: None }));
                        row.decode = Some(share);
                    }
                }
                return Ok(());
            }
            Err(DecodeError::Rejected { pictures: rejected, source }) => {
                tracing::debug!(count = rejected.len(), why = %source, "not for the JPEG engine");
                for i in rejected.into_iter().filter_map(|at| places.get(at)) {
                    let row = &mut list[*i];
                    row.method = None;
                    if let (Job::Hardware { image }, Some(encoded)) =
                        (std::mem::replace(&mut row.job, Job::None), row.encoded)
                    {
                        row.job = Job::Hybrid { encoded, image };
                    }
                }
            }
            Err(error) => {
                let error =
                    super::instance::fault(pipeline.device(), "nvjpegDecodeBatched", error.to_string());
                pipeline.cancel(&[]);
                return Err(error);
            }
        }
    }
}

impl<'a> Row<'a> {
    fn new(row: &'a RowInput, wanted: Result<(), InferError>) -> Self {
        let (job, outcome) = match (wanted, row) {
            (Err(error), _) => (Job::None, Some(Err(error))),
            (Ok(()), RowInput::Image(encoded)) => (Job::Cpu(encoded), None),
            (Ok(()), RowInput::Tensors(tensors)) => match tensors.first() {
                Some(tensor) => (Job::Tensor(&tensor.data), None),
                None => (Job::None, None),
            },
        };
        Self { job, outcome, encoded: None, decode: None, preprocess: None, method: None }
    }

    /// Reached when the row's picture is in the arena, where another stream brings it there.
    fn decoded(&self) -> Option<Arc<Event>> {
        match &self.outcome {
            Some(Ok(Staged::Device { event, .. })) => event.clone(),
            Some(Ok(Staged::Host(_)) | Err(_)) | None => None,
        }
    }

    fn is_work(&self) -> bool {
        matches!(self.job, Job::Tensor(_) | Job::Cpu(_) | Job::Hybrid { .. })
    }

    fn run<'s>(
        &mut self,
        lane: &mut Lane,
        path: &ImagePath,
        gpu: &GpuLife,
        datatype: Datatype,
        take: &(dyn Fn() -> Option<(usize, &'s mut [u8])> + Sync),
        fatal: &Fatal,
    ) {
        match std::mem::replace(&mut self.job, Job::None) {
            Job::Tensor(data) => {
                self.outcome = Some(place(take, |slot| slot.copy_from_slice(data)));
            }
            Job::Cpu(encoded) => self.on_cpu(lane, path, datatype, encoded, take),
            Job::Hybrid { encoded, image } => {
                let start = Instant::now();
                let decoded = match lane.hybrid(gpu) {
                    Ok(hybrid) => hybrid.decode(encoded, &image),
                    Err(e) => return tell(fatal, gpu, "nvjpegDecoderCreate", &e.to_string()),
                };
                match decoded {
                    Ok(event) => {
                        self.decode = Some(start.elapsed());
                        self.method = Some(Decode::Hybrid);
                        self.outcome = Some(Ok(Staged::Device { image, event: Some(event) }));
                    }
                    // Not a bad picture until the CPU says so.
                    Err(DecodeError::Rejected { source, .. }) => {
                        tracing::debug!(why = %source, "not for nvJPEG");
                        self.on_cpu(lane, path, datatype, encoded, take);
                    }
                    Err(e) => tell(fatal, gpu, "nvjpegDecodeJpeg", &e.to_string()),
                }
            }
            Job::Hardware { .. } | Job::None => {}
        }
    }

    fn on_cpu<'s>(
        &mut self,
        lane: &mut Lane,
        path: &ImagePath,
        datatype: Datatype,
        encoded: &[u8],
        take: &(dyn Fn() -> Option<(usize, &'s mut [u8])> + Sync),
    ) {
        let start = Instant::now();
        self.method = Some(Decode::Cpu);
        let Lane { decoder, preprocess, .. } = lane;
        self.outcome = Some(decoder.decode(encoded, &path.limits).and_then(|view| {
            let decoded = Instant::now();
            self.decode = Some(decoded - start);
            let staged = place(take, |slot| preprocess.run_as(datatype, &view, slot));
            self.preprocess = Some(decoded.elapsed());
            staged
        }));
    }
}

/// Writes the next row of the host's block.
fn place<'s>(
    take: &(dyn Fn() -> Option<(usize, &'s mut [u8])> + Sync),
    write: impl FnOnce(&mut [u8]),
) -> Result<Staged, InferError> {
    let Some((row, slot)) = take() else {
        return Err(InferError::new(ErrorKind::Internal, "the batch has more rows than room"));
    };
    write(slot);
    Ok(Staged::Host(row))
}

fn tell(fatal: &Fatal, gpu: &GpuLife, call: &'static str, why: &str) {
    if let Ok(mut fatal) = fatal.lock() {
        fatal.get_or_insert_with(|| super::instance::fault(&gpu.device, call, why.to_owned()));
    }
}
