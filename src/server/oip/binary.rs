//! Tensors as bytes: `BYTES` elements with their lengths, and base64 text.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::error::{ErrorKind, InferError};

/// Bytes of the length in front of each `BYTES` element.
const PREFIX_BYTES: usize = 4;

/// Splits a binary `BYTES` tensor, `elements` times a little-endian `u32` length and that many bytes, into
/// slices of `data`. **Errors:** `BinarySize` if the lengths do not end exactly at the end of `data`.
pub(super) fn split_elements(data: &Bytes, elements: usize) -> Result<Vec<Bytes>, InferError> {
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

/// Decodes standard base64, with or without its padding.
///
/// **Errors:** `BadBase64` with the position of the first character that cannot be there.
pub fn decode_base64(text: &[u8]) -> Result<Vec<u8>, InferError> {
    const STANDARD: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    STANDARD.decode(text).map_err(|error| {
        use base64::DecodeError as E;
        let length = text.len();
        let message = match error {
            E::InvalidByte(at, byte) => {
                format!("base64: invalid character '{}' at position {at} of {length}", byte.escape_ascii())
            }
            E::InvalidLastSymbol { .. } => {
                format!("base64: the last character leaves bits over, the text of {length} is cut short or altered")
            }
            E::InvalidLength(_) => format!("base64: {length} characters are no whole number of bytes"),
            E::InvalidPadding => format!("base64: wrong padding at the end of {length} characters"),
        };
        InferError::new(ErrorKind::BadBase64, message)
    })
}

/// `BinarySize` with `message`.
pub(super) fn size_error(message: impl Into<String>) -> InferError {
    InferError::new(ErrorKind::BinarySize, message)
}
