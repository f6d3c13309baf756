//! Lists of numbers in `golden.json`, to and from the little-endian bytes of a tensor.

use half::{bf16, f16};
use serde::de::DeserializeOwned;

use crate::tensor::Datatype;

/// Reads a flat JSON list of values of `datatype` into little-endian bytes.
///
/// # Errors
/// What stands where such a value belongs, or is beyond its range; `BYTES` has no values here.
pub(super) fn read(json: &str, datatype: Datatype) -> Result<Vec<u8>, String> {
    use Datatype as D;
    match datatype {
        D::Bool => list(json, datatype, |v: bool| Some([u8::from(v)])),
        D::Uint8 => list(json, datatype, |v: u8| Some([v])),
        D::Int8 => list(json, datatype, |v: i8| Some(v.to_le_bytes())),
        D::Uint16 => list(json, datatype, |v: u16| Some(v.to_le_bytes())),
        D::Int16 => list(json, datatype, |v: i16| Some(v.to_le_bytes())),
        D::Uint32 => list(json, datatype, |v: u32| Some(v.to_le_bytes())),
        D::Int32 => list(json, datatype, |v: i32| Some(v.to_le_bytes())),
        D::Uint64 => list(json, datatype, |v: u64| Some(v.to_le_bytes())),
        D::Int64 => list(json, datatype, |v: i64| Some(v.to_le_bytes())),
        D::Fp16 => list(json, datatype, |v: f32| {
            let v = f16::from_f32(v);
            v.is_finite().then(|| v.to_le_bytes())
        }),
        D::Bf16 => list(json, datatype, |v: f32| {
            let v = bf16::from_f32(v);
            v.is_finite().then(|| v.to_le_bytes())
        }),
        D::Fp32 => list(json, datatype, |v: f32| v.is_finite().then(|| v.to_le_bytes())),
        D::Fp64 => list(json, datatype, |v: f64| v.is_finite().then(|| v.to_le_bytes())),
        D::Bytes => Err("BYTES cannot be compared".to_owned()),
    }
}

fn list<T: DeserializeOwned, const N: usize>(
    json: &str,
    datatype: Datatype,
    bytes: impl Fn(T) -> Option<[u8; N]>,
) -> Result<Vec<u8>, String> {
    let values: Vec<T> =
        serde_json::from_str(json).map_err(|e| format!("must be a flat list of {datatype} values: {e}"))?;
    let mut out = Vec::with_capacity(values.len() * N);
    for (index, value) in values.into_iter().enumerate() {
        let value = bytes(value).ok_or_else(|| format!("value {index} is beyond the range of {datatype}"))?;
        out.extend_from_slice(&value);
    }
    Ok(out)
}

/// Appends the values as a JSON list, each as short as reads back as the same.
///
/// # Errors
/// The index of the first NaN or infinity, which JSON does not have.
pub(super) fn write(out: &mut String, datatype: Datatype, data: &[u8]) -> Result<(), usize> {
    use Datatype as D;
    match datatype {
        D::Bool => each(out, data, |[b]: [u8; 1]| Some((b != 0).to_string())),
        D::Uint8 | D::Bytes => each(out, data, |[b]: [u8; 1]| Some(b.to_string())),
        D::Int8 => each(out, data, |b| Some(i8::from_le_bytes(b).to_string())),
        D::Uint16 => each(out, data, |b| Some(u16::from_le_bytes(b).to_string())),
        D::Int16 => each(out, data, |b| Some(i16::from_le_bytes(b).to_string())),
        D::Uint32 => each(out, data, |b| Some(u32::from_le_bytes(b).to_string())),
        D::Int32 => each(out, data, |b| Some(i32::from_le_bytes(b).to_string())),
        D::Uint64 => each(out, data, |b| Some(u64::from_le_bytes(b).to_string())),
        D::Int64 => each(out, data, |b| Some(i64::from_le_bytes(b).to_string())),
        D::Fp16 => each(out, data, |b| short(f16::from_le_bytes(b).to_f32())),
        D::Bf16 => each(out, data, |b| short(bf16::from_le_bytes(b).to_f32())),
        D::Fp32 => each(out, data, |b| short(f32::from_le_bytes(b))),
        D::Fp64 => each(out, data, |b| short(f64::from_le_bytes(b))),
    }
}

fn short<F: ryu::Float + Into<f64> + Copy>(value: F) -> Option<String> {
    value.into().is_finite().then(|| ryu::Buffer::new().format_finite(value).to_owned())
}

fn each<const N: usize>(
    out: &mut String,
    data: &[u8],
    text: impl Fn([u8; N]) -> Option<String>,
) -> Result<(), usize> {
    out.push('[');
    for (index, bytes) in data.as_chunks::<N>().0.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&text(*bytes).ok_or(index)?);
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_as_the_same_bytes() {
        let cases = [
            (Datatype::Bool, "[true,false]"),
            (Datatype::Uint8, "[0,255]"),
            (Datatype::Int8, "[-128,127]"),
            (Datatype::Uint16, "[0,65535]"),
            (Datatype::Int16, "[-32768,32767]"),
            (Datatype::Uint32, "[4294967295]"),
            (Datatype::Int32, "[-2147483648]"),
            (Datatype::Uint64, "[18446744073709551615]"),
            (Datatype::Int64, "[-9223372036854775808,9007199254740993]"),
            (Datatype::Fp16, "[0.5,-65504.0]"),
            (Datatype::Bf16, "[0.5,-256.0]"),
            (Datatype::Fp32, "[0.1,-1e30,3.4028235e38]"),
            (Datatype::Fp64, "[0.1,1e300]"),
            (Datatype::Fp32, "[]"),
        ];
        for (datatype, json) in cases {
            let bytes = read(json, datatype).unwrap_or_else(|e| panic!("{json}: {e}"));
            let mut text = String::new();
            write(&mut text, datatype, &bytes).unwrap();
            assert_eq!(text, json, "{datatype}");
        }
        assert_eq!(write(&mut String::new(), Datatype::Fp32, &f32::NAN.to_le_bytes()), Err(0));
        let half = [f16::ONE.to_le_bytes(), f16::INFINITY.to_le_bytes()];
        assert_eq!(write(&mut String::new(), Datatype::Fp16, half.as_flattened()), Err(1));
    }

    #[test]
    fn what_is_no_such_value_is_said() {
        let deep = "[".repeat(100_000);
        for (datatype, json, word) in [
            (Datatype::Fp32, "[1, 1e39]", "value 1 is beyond the range of FP32"),
            (Datatype::Fp32, "[1e999]", "out of range"),
            (Datatype::Fp16, "[65536]", "value 0 is beyond the range of FP16"),
            (Datatype::Bf16, "[3.38e38, 3.4028e38]", "value 1 is beyond the range of BF16"),
            (Datatype::Fp32, "[[1]]", "flat list of FP32"),
            (Datatype::Fp32, "7", "flat list of FP32"),
            (Datatype::Fp32, "[null]", "flat list of FP32"),
            (Datatype::Fp32, "[\"NaN\"]", "flat list of FP32"),
            (Datatype::Fp32, &deep, "flat list of FP32"),
            (Datatype::Uint8, "[256]", "expected u8"),
            (Datatype::Int32, "[1.5]", "expected i32"),
            (Datatype::Bool, "[1]", "expected a boolean"),
            (Datatype::Bytes, "[]", "BYTES"),
        ] {
            let error = read(json, datatype).unwrap_err();
            assert!(error.contains(word), "{datatype} {}: {error}", crate::error::shorten(json));
        }
    }
}
