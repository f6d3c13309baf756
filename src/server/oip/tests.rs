//! Tests of the codecs: tables, hostile bodies, and what `tritonclient` sends and reads.

mod golden;
mod hostile;
mod requests;
mod responses;

use bytes::Bytes;

use super::{InferRequest, Parsed, parse};
use crate::error::InferError;
use crate::tensor::{Datatype, TensorSpec};

/// `json` and then `tail`, with the header that splits them where there is a tail.
fn parse_split(json: &str, tail: Option<&[u8]>) -> Result<InferRequest, InferError> {
    let body = Bytes::from([json.as_bytes(), tail.unwrap_or_default()].concat());
    let header = tail.map(|_| json.len().to_string());
    match parse(&body, header.as_deref())? {
        Parsed::Infer(request) => Ok(request),
        Parsed::Raw(raw) => panic!("{json} became {raw:?}"),
    }
}

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
