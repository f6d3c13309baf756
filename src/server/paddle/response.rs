//! Answers: the JSON form of the protobuf message `Response`, written as `jsonpb` writes it.

use super::{GatewayError, PaddleVersion};
use crate::error::InferError;
use crate::server::numpy::{self, NumpyError};
use crate::tensor::Tensor;

/// Where a request failed, which decides the shape of the error's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the operator: the message stands as it is.
    Service,
    /// Reading and decoding the images.
    Preprocess,
    /// Waiting for the model and running it.
    Inference,
    /// Making the answer out of the outputs.
    Postprocess,
}

/// Writes the answers to one request. Each is the body of an HTTP 200.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Which PaddleServing to look like.
    pub version: PaddleVersion,
    /// The service's name, which error texts call the operator.
    pub service: &'a str,
    /// The request's `logid`.
    pub logid: i64,
    /// The server's own number for the request.
    pub data_id: u64,
}

impl Answer<'_> {
    /// Appends the answer with `outputs`: each a key and the numpy text of its tensor.
    ///
    /// `images` are the request's. One makes an array with its row, `array([[…]], dtype=float32)`; several make
    /// the text of a list with an array for each, `[array([…], dtype=float32), …]`, as PaddleClas' operators
    /// give lists.
    ///
    /// **Errors:** a tensor that has no numpy text; `out` is then as it was.
    pub fn write_outputs(
        &self,
        outputs: &[(&str, &Tensor)],
        images: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), NumpyError> {
        let start = out.len();
        out.extend_from_slice(br#"{"err_no":0,"err_msg":"","key":["#);
        for (i, (key, _)) in outputs.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_json_string(key, out);
        }
        out.extend_from_slice(br#"],"value":["#);
        for (i, (_, tensor)) in outputs.iter().enumerate() {
            out.extend_from_slice(if i > 0 { b",\"" } else { b"\"" });
            write_value(tensor, images, numpy::write_repr_json, out).inspect_err(|_| out.truncate(start))?;
            out.push(b'"');
        }
        out.push(b']');
        self.finish(out);
        Ok(())
    }

    /// The text of `tensor` that [`write_outputs`](Self::write_outputs) puts into JSON, by itself.
    ///
    /// **Errors:** a tensor that has no numpy text.
    pub fn value(tensor: &Tensor, images: usize) -> Result<String, NumpyError> {
        let mut out = Vec::new();
        write_value(tensor, images, numpy::write_repr, &mut out)?;
        Ok(String::from_utf8(out).expect("numpy's text is ASCII"))
    }

    /// The number of an error.
    #[must_use]
    pub const fn err_no(&self, error: &InferError) -> i32 {
        let status = error.kind.status();
        match self.version {
            PaddleVersion::V06 => status.paddle_06,
            PaddleVersion::V08 => status.paddle,
        }
    }

    /// Appends the answer that is an error.
    pub fn write_error(&self, stage: Stage, error: &InferError, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"err_no":"#);
        out.extend_from_slice(itoa::Buffer::new().format(self.err_no(error)).as_bytes());
        out.extend_from_slice(br#","err_msg":"#);
        write_json_string(&self.error_text(stage, &error.message), out);
        out.extend_from_slice(br#","key":[],"value":[]"#);
        self.finish(out);
    }

    /// The `err_msg` for `message`.
    #[must_use]
    pub fn error_text(&self, stage: Stage, message: &str) -> String {
        let Self { service, logid, data_id, .. } = self;
        match (stage, self.version) {
            (Stage::Service, _) => message.to_owned(),
            // Its texts come from `str(exception)`, less the single quotes.
            (Stage::Preprocess, PaddleVersion::V08) => self.caught(message, "preprocess"),
            (Stage::Postprocess, PaddleVersion::V08) => self.caught(message, "postprocess"),
            (Stage::Preprocess, PaddleVersion::V06) => {
                format!("(data_id={data_id} log_id={logid}) [{service}|0] Failed to preprocess: {message}")
            }
            (Stage::Postprocess, PaddleVersion::V06) => {
                format!("(data_id={data_id} log_id={logid}) [{service}|0] Failed to postprocess: {message}")
            }
            // It says no more; we say why.
            (Stage::Inference, PaddleVersion::V06) => {
                format!("(log_id={logid}) {service} failed to predict. {message}")
            }
            // It goes on about its log file, which visord does not have.
            (Stage::Inference, PaddleVersion::V08) => format!(
                "[{service}] failed to predict. (data_id={data_id} log_id={logid}) [{service}|0] Failed to \
                 process(batch: [{data_id}]): {message}"
            ),
        }
    }

    fn caught(&self, message: &str, function: &str) -> String {
        format!(
            "Log_id: {}  Raise_msg: {}  ClassName: Op._run_{function}.<locals>.{function}_help  FunctionName: \
             {function}_help",
            self.logid,
            message.replace('\'', "")
        )
    }

    fn finish(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.version {
            PaddleVersion::V06 => b"}",
            PaddleVersion::V08 => br#","tensors":[]}"#,
        });
    }
}

/// Writes an array, with JSON's escapes or without.
type Repr = fn(&Tensor, &mut Vec<u8>) -> Result<(), NumpyError>;

/// Appends the text of one output: an array, or for several images the text of `list(array)`, where each row is an
/// array of its own.
fn write_value(tensor: &Tensor, images: usize, repr: Repr, out: &mut Vec<u8>) -> Result<(), NumpyError> {
    let (rows, shape) = match tensor.shape.split_first() {
        Some((&rows, shape)) if images > 1 => (rows, shape),
        _ => return repr(tensor, out),
    };
    let bytes = tensor.data.len().checked_div(rows).unwrap_or(0);
    out.push(b'[');
    for row in 0..rows {
        if row > 0 {
            out.extend_from_slice(b", ");
        }
        let data = tensor.data.slice(row * bytes..(row + 1) * bytes);
        repr(&Tensor { datatype: tensor.datatype, shape: shape.to_vec(), data }, out)?;
    }
    out.push(b']');
    Ok(())
}

/// Appends the body of an answer that the gateway gives by itself.
pub fn write_gateway_error(error: &GatewayError, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"error":"#);
    write_json_string(&error.message, out);
    out.extend_from_slice(br#","code":"#);
    out.extend_from_slice(itoa::Buffer::new().format(error.code).as_bytes());
    out.extend_from_slice(br#","message":"#);
    write_json_string(&error.message, out);
    out.extend_from_slice(br#","details":[]}"#);
}

/// Appends `text` as a JSON string with Go's escapes: `jsonpb` hands strings to `encoding/json`, which escapes
/// what HTML or JavaScript could mistake.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
            }
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
