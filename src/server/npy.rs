//! The `.npy` file of a tensor, format 1.0 as `numpy.save` writes it: a magic, a header padded to a multiple
//! of 64 bytes, the elements in C order.
//!
//! Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use super::numpy::{self, NumpyError};
use crate::tensor::{Datatype, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The header, with what is before it, fills a multiple of this.
const ALIGNMENT: usize = 64;

/// Appends `tensor` as a `.npy` file to `out`.
///
/// **Errors:** `Datatype` for `BF16` and `BYTES`, `Size` if the data does not fill the shape; `out` is then as
/// it was.
pub fn write(tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), NumpyError> {
    numpy::check(tensor)?;
    let descr = descr(tensor.datatype).ok_or(NumpyError::Datatype(tensor.datatype))?;
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (");
    let mut sides = itoa::Buffer::new();
    for (i, &side) in tensor.shape.iter().enumerate() {
        header.push_str(if i > 0 { ", " } else { "" });
        header.push_str(sides.format(side));
    }
    header.push_str(if tensor.shape.len() == 1 { ",), }" } else { "), }" });
    // numpy leaves room for the first side to grow to twenty-one digits in place.
    if let Some(&first) = tensor.shape.first() {
        let digits = sides.format(first).len();
        header.extend(std::iter::repeat_n(' ', 21 - digits));
    }
    let before = MAGIC.len() + 2;
    let filled = (before + header.len() + 1).next_multiple_of(ALIGNMENT);
    header.extend(std::iter::repeat_n(' ', filled - before - header.len() - 1));
    header.push('\n');
    // Format 1.0 has sixteen bits for it: four thousand sides, where numpy allows 64.
    let header_bytes = u16::try_from(header.len())
        .map_err(|_| NumpyError::Size { shape_bytes: usize::MAX, data_bytes: tensor.data.len() })?;
    out.reserve(filled + tensor.data.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&header_bytes.to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&tensor.data);
    Ok(())
}

const fn descr(datatype: Datatype) -> Option<&'static str> {
    match datatype {
        Datatype::Bool => Some("|b1"),
        Datatype::Uint8 => Some("|u1"),
        Datatype::Uint16 => Some("<u2"),
        Datatype::Uint32 => Some("<u4"),
        Datatype::Uint64 => Some("<u8"),
        Datatype::Int8 => Some("|i1"),
        Datatype::Int16 => Some("<i2"),
        Datatype::Int32 => Some("<i4"),
        Datatype::Int64 => Some("<i8"),
        Datatype::Fp16 => Some("<f2"),
        Datatype::Fp32 => Some("<f4"),
        Datatype::Fp64 => Some("<f8"),
        Datatype::Bf16 | Datatype::Bytes => None,
    }
}
