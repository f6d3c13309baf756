//! What a pipeline is made for: the engine's tensors, how large they get, and where they lie in a slot's blocks.

use std::ffi::CString;

use smallvec::SmallVec;

use crate::gpu::slot::{Layout, SlotSizes};
use crate::tensor::Datatype;

/// What a pipeline is made for.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// Rows that a batch can hold; at least 1.
    pub rows: usize,
    /// Whether the first dimension of every tensor is the batch.
    pub batched: bool,
    /// Datatype and largest shape of each input, batch included.
    pub inputs: Vec<PipelineTensor>,
    /// Likewise of each output.
    pub outputs: Vec<PipelineTensor>,
    /// Outputs, by index, that are L2-normalised along their last dimension on the device.
    pub normalize: Vec<usize>,
    /// Whether every dimension but the batch is fixed.
    pub fixed_shapes: bool,
    /// Whether work of batch sizes that come often is captured into CUDA graphs.
    pub graphs: bool,
    /// Room for decoded pictures at first, bytes a slot; 0 where none are decoded on the GPU.
    pub pictures: usize,
    /// Whether the GPU's JPEG engine decodes, where there is one.
    pub hardware_decoder: bool,
}

/// An input or output of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineTensor {
    /// Its name.
    pub name: CString,
    /// Its element type.
    pub datatype: Datatype,
    /// Its largest shape.
    pub max_shape: Vec<i64>,
}

impl PipelineTensor {
    /// Bytes of the tensor at that shape.
    pub(super) fn bytes(&self, shape: &[i64]) -> usize {
        let elements = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).product::<usize>();
        elements * self.datatype.size_bytes().unwrap_or(0)
    }
}

impl PipelineConfig {
    /// A tensor's largest shape, with `rows` in place of its batch dimension.
    pub(super) fn with_rows(&self, max: &[i64], rows: usize) -> SmallVec<[i64; 8]> {
        let mut shape = SmallVec::from_slice(max);
        if self.batched
            && let Some(first) = shape.first_mut()
        {
            *first = i64::try_from(rows).unwrap_or(i64::MAX);
        }
        shape
    }

    /// Where the inputs of `rows` rows lie; `shapes` as in [`super::Batch`].
    pub(super) fn input_layout(&self, rows: usize, shapes: &[Vec<i64>]) -> Layout {
        let start = SlotSizes::descriptors(self.rows);
        let sizes = self.inputs.iter().enumerate().map(|(i, tensor)| match shapes.get(i) {
            Some(shape) => tensor.bytes(shape),
            None => tensor.bytes(&self.with_rows(&tensor.max_shape, rows)),
        });
        Layout::new(start, sizes)
    }

    /// Where outputs of these shapes lie.
    pub(super) fn output_layout(&self, shapes: &[Vec<i64>]) -> Layout {
        Layout::new(0, self.outputs.iter().zip(shapes).map(|(t, s)| t.bytes(s)))
    }

    /// Sizes of the buffers for the largest batch.
    pub(super) fn slot_sizes(&self) -> SlotSizes {
        let start = SlotSizes::descriptors(self.rows);
        let bytes = |tensors: &[PipelineTensor], start| {
            Layout::new(start, tensors.iter().map(|t| t.bytes(&t.max_shape))).end()
        };
        SlotSizes {
            rows: self.rows,
            input: bytes(&self.inputs, start),
            output: bytes(&self.outputs, 0),
            pictures: self.pictures,
        }
    }
}
