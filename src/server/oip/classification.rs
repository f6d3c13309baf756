//! The classification extension: the `N` largest values of each row, as `value:index` or `value:index:label`.

use std::cmp::Ordering;
use std::fmt::Write as _;

use half::{bf16, f16};

use crate::error::{ErrorKind, InferError};
use crate::tensor::{Datatype, Tensor};

/// The classes of a tensor: a `BYTES` tensor, not yet written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    /// `[batch, n]`, or `[n]` for a tensor of one dimension.
    pub shape: Vec<usize>,
    /// `shape` elements, row by row, the largest value first.
    pub elements: Vec<String>,
}

/// The `count` largest values of each row of `tensor`, or all of a row with fewer.
///
/// A row is everything behind the first dimension; a tensor of one dimension is one row. Of equal values the lower
/// index comes first, NaN comes last. Floats are written like C's `%f`, integers as they are. `labels` are the
/// rows' words by index; an index without one ends after the index, as does one whose label is empty.
///
/// **Errors:** `InvalidArgument` for `BOOL` and `BYTES`, which have no order.
pub fn classify(tensor: &Tensor, count: usize, labels: &[String]) -> Result<Classes, InferError> {
    let Some(read) = reader(tensor.datatype) else {
        return Err(InferError::new(
            ErrorKind::InvalidArgument,
            format!("`classification` needs numbers, this output is {}", tensor.datatype),
        ));
    };
    let (batch, row_len) = match tensor.shape.as_slice() {
        [] => (1, 1),
        [row] => (1, *row),
        [batch, row @ ..] => (*batch, row.iter().product()),
    };
    let n = count.min(row_len);
    let values: Vec<Score> =
        tensor.data.chunks_exact(tensor.datatype.size_bytes().unwrap_or(1)).map(read).collect();
    let mut elements = Vec::with_capacity(batch * n);
    let mut order: Vec<usize> = Vec::with_capacity(row_len);
    for row in values.chunks_exact(row_len.max(1)) {
        let by_value = |&a: &usize, &b: &usize| row[b].compare(&row[a]).then(a.cmp(&b));
        order.clear();
        order.extend(0..row_len);
        if n < row_len {
            order.select_nth_unstable_by(n, by_value);
        }
        order[..n].sort_unstable_by(by_value);
        elements.extend(order[..n].iter().map(|&index| row[index].element(index, labels)));
    }
    let shape = if tensor.shape.len() > 1 { vec![batch, n] } else { vec![n] };
    Ok(Classes { shape, elements })
}

/// A value of any numeric datatype, exactly.
#[derive(Clone, Copy)]
enum Score {
    Int(i128),
    Float(f64),
}

impl Score {
    /// Numeric order with NaN below everything; both are of one datatype.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => {
                a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
            }
            (Self::Int(_), Self::Float(_)) => Ordering::Less,
            (Self::Float(_), Self::Int(_)) => Ordering::Greater,
        }
    }

    fn element(self, index: usize, labels: &[String]) -> String {
        let mut text = match self {
            Self::Int(value) => value.to_string(),
            // C writes `nan`, Rust `NaN`.
            Self::Float(value) if value.is_nan() => "nan".to_owned(),
            Self::Float(value) => format!("{value:.6}"),
        };
        let _infallible = write!(text, ":{index}");
        if let Some(label) = labels.get(index).filter(|label| !label.is_empty()) {
            text.push(':');
            text.push_str(label);
        }
        text
    }
}

fn reader(datatype: Datatype) -> Option<fn(&[u8]) -> Score> {
    /// `bytes` has the datatype's size: `chunks_exact` cut it.
    fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    Some(match datatype {
        Datatype::Bool | Datatype::Bytes => return None,
        Datatype::Uint8 => |b| Score::Int(u8::from_le_bytes(le(b)).into()),
        Datatype::Uint16 => |b| Score::Int(u16::from_le_bytes(le(b)).into()),
        Datatype::Uint32 => |b| Score::Int(u32::from_le_bytes(le(b)).into()),
        Datatype::Uint64 => |b| Score::Int(u64::from_le_bytes(le(b)).into()),
        Datatype::Int8 => |b| Score::Int(i8::from_le_bytes(le(b)).into()),
        Datatype::Int16 => |b| Score::Int(i16::from_le_bytes(le(b)).into()),
        Datatype::Int32 => |b| Score::Int(i32::from_le_bytes(le(b)).into()),
        Datatype::Int64 => |b| Score::Int(i64::from_le_bytes(le(b)).into()),
        Datatype::Fp16 => |b| Score::Float(f16::from_le_bytes(le(b)).to_f64()),
        Datatype::Bf16 => |b| Score::Float(bf16::from_le_bytes(le(b)).to_f64()),
        Datatype::Fp32 => |b| Score::Float(f32::from_le_bytes(le(b)).into()),
        Datatype::Fp64 => |b| Score::Float(f64::from_le_bytes(le(b))),
    })
}
