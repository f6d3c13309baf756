//! A tensor's `data` as JSON: arrays to little-endian bytes, and back.
//!
//! `serde_json` has already checked the text that is read here, so a scan for brackets, commas and quotes
//! finds the elements, whatever the nesting: no tree is built, no recursion can run deep, and each number is
//! read once, by the parser of its own type (an FP32 through `f64` would be rounded twice).

use std::str::FromStr;

use bytes::Bytes;
use half::{bf16, f16};

use super::checks::{count_error, element_error, expected};
use super::json::{self, clip};
use crate::error::{ErrorKind, InferError};
use crate::tensor::Datatype;

/// Reads `elements` numbers or booleans of `datatype` (never `BYTES`) into little-endian bytes, row-major.
///
/// `json` is valid JSON. **Errors:** `WrongDatatype` with the index of an element that is no `datatype` or out
/// of its range, `WrongShape` for another count than `elements`, `InvalidArgument` if `json` is no array.
pub(super) fn read_numbers(json: &str, datatype: Datatype, elements: usize) -> Result<Bytes, InferError> {
    let mut leaves = Leaves::of(json)?;
    // An element and the comma after it take two characters: no shape allocates more than the text can fill.
    let plausible = elements.min(json.len() / 2);
    let mut out = Vec::with_capacity(plausible * datatype.size_bytes().unwrap_or(1));
    for index in 0..elements {
        let Some(leaf) = leaves.next() else { return Err(count_error(elements, index, "data")) };
        if push_number(&mut out, datatype, leaf).is_none() {
            return Err(element_error(index, expected(datatype), leaf));
        }
    }
    match leaves.count() {
        0 => Ok(Bytes::from(out)),
        more => Err(count_error(elements, elements + more, "data")),
    }
}

/// Reads `elements` strings as the UTF-8 text they are. A string without escapes is a slice of `body`.
///
/// `json` is valid JSON and lies in `body`. **Errors:** as [`read_numbers`]; `MalformedJson` for an escape that
/// is no character.
pub(super) fn read_strings(body: &Bytes, json: &str, elements: usize) -> Result<Vec<Bytes>, InferError> {
    let mut leaves = Leaves::of(json)?;
    let mut out = Vec::with_capacity(elements.min(json.len() / 2));
    for index in 0..elements {
        let Some(leaf) = leaves.next() else { return Err(count_error(elements, index, "data")) };
        let Some(text) = leaf.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Err(element_error(index, "a string", leaf));
        };
        out.push(if text.contains('\\') {
            let text: String =
                serde_json::from_str(leaf).map_err(|e| json::error(&format!("element {index}"), &e))?;
            Bytes::from(text)
        } else {
            body.slice_ref(text.as_bytes())
        });
    }
    match leaves.count() {
        0 => Ok(out),
        more => Err(count_error(elements, elements + more, "data")),
    }
}

/// Appends `data`, dense elements of `datatype` (never `BYTES`), as JSON values with commas between them.
///
/// FP32 and FP64 are the shortest decimals that read back as the same value; FP16 and BF16 are written as the
/// FP32 of the same value. **Errors:** the index of the first NaN or infinity, which JSON cannot hold.
pub(super) fn write_numbers(out: &mut Vec<u8>, datatype: Datatype, data: &[u8]) -> Result<(), usize> {
    use Datatype as D;
    let int =
        |out: &mut Vec<u8>, value: i64| out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    match datatype {
        D::Bool => each(out, data, |out, [b]| {
            out.extend_from_slice(if b == 0 { b"false" } else { b"true" });
            true
        }),
        D::Uint8 | D::Bytes => each(out, data, |out, [b]| {
            int(out, b.into());
            true
        }),
        D::Int8 => each(out, data, |out, b| {
            int(out, i8::from_le_bytes(b).into());
            true
        }),
        D::Uint16 => each(out, data, |out, b| {
            int(out, u16::from_le_bytes(b).into());
            true
        }),
        D::Int16 => each(out, data, |out, b| {
            int(out, i16::from_le_bytes(b).into());
            true
        }),
        D::Uint32 => each(out, data, |out, b| {
            int(out, u32::from_le_bytes(b).into());
            true
        }),
        D::Int32 => each(out, data, |out, b| {
            int(out, i32::from_le_bytes(b).into());
            true
        }),
        D::Int64 => each(out, data, |out, b| {
            int(out, i64::from_le_bytes(b));
            true
        }),
        D::Uint64 => each(out, data, |out, b| {
            out.extend_from_slice(itoa::Buffer::new().format(u64::from_le_bytes(b)).as_bytes());
            true
        }),
        D::Fp16 => each(out, data, |out, b| push_f32(out, f16::from_le_bytes(b).to_f32())),
        D::Bf16 => each(out, data, |out, b| push_f32(out, bf16::from_le_bytes(b).to_f32())),
        D::Fp32 => each(out, data, |out, b| push_f32(out, f32::from_le_bytes(b))),
        D::Fp64 => each(out, data, |out, b| {
            let value = f64::from_le_bytes(b);
            if value.is_finite() {
                out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
            }
            value.is_finite()
        }),
    }
}

/// Characters a JSON element of `datatype` takes, comma included: rarely less, to size the body once.
pub(super) const fn element_chars(datatype: Datatype) -> usize {
    match datatype {
        Datatype::Bool | Datatype::Uint8 | Datatype::Int8 | Datatype::Uint16 | Datatype::Int16 => 7,
        Datatype::Uint32 | Datatype::Int32 => 12,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 => 15,
        Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => 24,
        Datatype::Bytes => 32,
    }
}

/// Writes each element of `N` bytes and a comma between them; stops at the first that `write` refuses.
fn each<const N: usize>(
    out: &mut Vec<u8>,
    data: &[u8],
    write: impl Fn(&mut Vec<u8>, [u8; N]) -> bool,
) -> Result<(), usize> {
    for (index, element) in data.as_chunks::<N>().0.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if !write(out, *element) {
            return Err(index);
        }
    }
    Ok(())
}

fn push_f32(out: &mut Vec<u8>, value: f32) -> bool {
    if value.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    }
    value.is_finite()
}

/// Appends the little-endian bytes of `text`; `None` if it is no `datatype`.
fn push_number(out: &mut Vec<u8>, datatype: Datatype, text: &str) -> Option<()> {
    match datatype {
        Datatype::Bool => out.push(u8::from(text.parse::<bool>().ok()?)),
        Datatype::Uint8 => out.push(text.parse().ok()?),
        Datatype::Uint16 => out.extend_from_slice(&text.parse::<u16>().ok()?.to_le_bytes()),
        Datatype::Uint32 => out.extend_from_slice(&text.parse::<u32>().ok()?.to_le_bytes()),
        Datatype::Uint64 => out.extend_from_slice(&text.parse::<u64>().ok()?.to_le_bytes()),
        Datatype::Int8 => out.extend_from_slice(&text.parse::<i8>().ok()?.to_le_bytes()),
        Datatype::Int16 => out.extend_from_slice(&text.parse::<i16>().ok()?.to_le_bytes()),
        Datatype::Int32 => out.extend_from_slice(&text.parse::<i32>().ok()?.to_le_bytes()),
        Datatype::Int64 => out.extend_from_slice(&text.parse::<i64>().ok()?.to_le_bytes()),
        Datatype::Fp16 => {
            let value = Some(f16::from_f64(float(text)?)).filter(|v| v.is_finite())?;
            out.extend_from_slice(&value.to_le_bytes());
        }
        Datatype::Bf16 => {
            let value = Some(bf16::from_f64(float(text)?)).filter(|v| v.is_finite())?;
            out.extend_from_slice(&value.to_le_bytes());
        }
        Datatype::Fp32 => {
            let value = float::<f32>(text).filter(|v| v.is_finite())?;
            out.extend_from_slice(&value.to_le_bytes());
        }
        Datatype::Fp64 => {
            let value = float::<f64>(text).filter(|v| v.is_finite())?;
            out.extend_from_slice(&value.to_le_bytes());
        }
        Datatype::Bytes => return None,
    }
    Some(())
}

/// A number as the standard library reads it, which is correctly rounded. Its `inf` and `nan` are words that
/// valid JSON does not have, its infinity for large numbers is the caller's to refuse.
fn float<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// The innermost values of nested JSON arrays, in the order of the text. An object is one value, and the last.
struct Leaves<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Leaves<'a> {
    fn of(json: &'a str) -> Result<Self, InferError> {
        if json.starts_with('[') {
            return Ok(Self { json, at: 0 });
        }
        let message = format!("`data` is to be an array, got {}", clip(json));
        Err(InferError::new(ErrorKind::InvalidArgument, message))
    }
}

impl<'a> Iterator for Leaves<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = &self.json.as_bytes()[self.at..];
        let skipped =
            rest.iter().position(|b| !matches!(b, b'[' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t'))?;
        let start = self.at + skipped;
        let rest = &self.json[start..];
        let length = match rest.as_bytes()[0] {
            b'"' => string_length(rest),
            b'{' => rest.len(),
            _ => rest
                .bytes()
                .position(|b| matches!(b, b']' | b',' | b' ' | b'\n' | b'\r' | b'\t'))
                .unwrap_or(rest.len()),
        };
        self.at = start + length;
        Some(&rest[..length])
    }
}

/// Bytes of the JSON string at the start of `text`, its quotes included. Base64 images are megabytes, hence the
/// library's search for the quote instead of a walk over characters.
fn string_length(text: &str) -> usize {
    let mut end = 1;
    while let Some(quote) = text[end..].find('"') {
        let before = &text.as_bytes()[1..end + quote];
        end += quote + 1;
        let escapes = before.iter().rev().take_while(|&&b| b == b'\\').count();
        if escapes % 2 == 0 {
            return end;
        }
    }
    text.len()
}
