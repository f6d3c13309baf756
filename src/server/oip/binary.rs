//! Tensors as bytes: `BYTES` elements with their lengths.

use bytes::Bytes;

use crate::error::{ErrorKind, InferError};

/// Bytes of the length in front of each `BYTES` element.
const PREFIX_BYTES: usize = 4;

/// Splits a binary `BYTES` tensor, `elements` times a little-endian `u32` length and that many bytes, into
/// slices of `data`.
///
/// **Errors:** `BinarySize` if the lengths do not end exactly at the end of `data`.
pub fn split_elements(data: &Bytes, elements: usize) -> Result<Vec<Bytes>, InferError> {
    let present = data.len();
    if elements > present / PREFIX_BYTES {
        return Err(size_error(format!(
            "{elements} BYTES elements need at least {} bytes for their lengths, {present} are present",
            elements * PREFIX_BYTES
        )));
    }
    let mut items = Vec::with_capacity(elements);
    let mut at = 0;
    for index in 0..elements {
        let Some((prefix, rest)) = data[at..].split_first_chunk::<PREFIX_BYTES>() else {
            return Err(size_error(format!(
                "element {index} of {elements} needs a 4-byte length at byte {at}, {present} bytes are present"
            )));
        };
        // u32 to usize: lossless on every target that has a GPU to serve.
        let declared = u32::from_le_bytes(*prefix) as usize;
        if declared > rest.len() {
            return Err(size_error(format!(
                "element {index} of {elements} declares {declared} bytes at byte {at}, {} are present",
                rest.len()
            )));
        }
        at += PREFIX_BYTES;
        items.push(data.slice(at..at + declared));
        at += declared;
    }
    if at != present {
        return Err(size_error(format!("{elements} elements declare {at} bytes, {present} are present")));
    }
    Ok(items)
}

/// Appends one `BYTES` element: its little-endian length, then its bytes.
///
/// **Errors:** `Backend` for an element of 4 GiB or more, which the format cannot hold.
pub(super) fn push_element(out: &mut Vec<u8>, element: &[u8]) -> Result<(), InferError> {
    let length = u32::try_from(element.len()).map_err(|_| {
        InferError::new(ErrorKind::Backend, format!("an element of {} bytes is over 4 GiB", element.len()))
    })?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(element);
    Ok(())
}

/// `BinarySize` with `message`.
pub(super) fn size_error(message: impl Into<String>) -> InferError {
    InferError::new(ErrorKind::BinarySize, message)
}
