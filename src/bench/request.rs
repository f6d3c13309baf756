//! The requests of a run: made once, before it, so that sending one costs no more than its bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE};
use hyper::{HeaderMap, Method, Uri};
use serde_json::json;

use super::args::{HttpVersion, Protocol};
use super::images;
use crate::wire::{Field, Message};

/// One request, to be sent any number of times.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// GET without a body, else POST.
    pub method: Method,
    /// The path alone with HTTP/1.1, whole with HTTP/2.
    pub uri: Uri,
    /// All headers but Content-Length.
    pub headers: HeaderMap,
    /// The body as sent.
    pub body: Bytes,
}

/// What all requests to a server have in common.
#[derive(Debug, Clone)]
pub struct Shape<'a> {
    /// What is spoken.
    pub protocol: Protocol,
    /// Version of HTTP.
    pub http: HttpVersion,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port, as in the URL.
    pub authority: &'a str,
    /// Instead of the protocol's.
    pub path: Option<&'a str>,
    /// The model's name; empty where the path is the user's.
    pub model: &'a str,
    /// Its version, or the server's choice.
    pub version: Option<&'a str>,
    /// Name of the image input.
    pub input: &'a str,
    /// Instead of the protocol's.
    pub content_type: Option<&'a str>,
    /// Of the user.
    pub headers: &'a HeaderMap,
}

impl Shape<'_> {
    /// A request with these images.
    ///
    /// # Errors
    /// A path, model or content type that HTTP cannot carry.
    pub fn of_images(&self, images: &[Bytes]) -> Result<Prepared, String> {
        let mut head = None;
        let (body, kind) = match self.protocol {
            Protocol::Http => {
                let image = images.first().cloned().unwrap_or_default();
                let kind = images::content_type(&image);
                (image, kind)
            }
            Protocol::Oip => {
                let (bytes, length) = self.oip_binary(images);
                head = Some(length);
                (bytes, "application/octet-stream")
            }
            Protocol::OipJson => {
                let data: Vec<String> = images.iter().map(|i| STANDARD.encode(i)).collect();
                let input = json!({"name": self.input, "datatype": "BYTES", "shape": [images.len(), 1], "data": data});
                (json!({"inputs": [input]}).to_string().into(), "application/json")
            }
            Protocol::Paddle => {
                let values: Vec<String> = images.iter().map(|i| STANDARD.encode(i)).collect();
                let body = json!({"key": self.keys(images.len()), "value": values});
                (body.to_string().into(), "application/json")
            }
            Protocol::OipGrpc => (framed(&self.oip_message(images)), "application/grpc"),
            Protocol::PaddleGrpc => (framed(&self.paddle_message(images)), "application/grpc"),
        };
        self.prepared(Method::POST, body, kind, head)
    }

    /// A request with this body, or without any.
    ///
    /// # Errors
    /// As [`Self::of_images`].
    pub fn of_body(&self, body: Option<Bytes>) -> Result<Prepared, String> {
        let kind = match self.protocol {
            Protocol::OipGrpc | Protocol::PaddleGrpc => {
                let message = body.unwrap_or_default();
                return self.prepared(Method::POST, framed(&message), "application/grpc", None);
            }
            Protocol::Http | Protocol::Oip => "application/octet-stream",
            Protocol::OipJson | Protocol::Paddle => "application/json",
        };
        let method = if body.is_some() { Method::POST } else { Method::GET };
        self.prepared(method, body.unwrap_or_default(), kind, None)
    }

    fn prepared(
        &self,
        method: Method,
        body: Bytes,
        kind: &str,
        head: Option<usize>,
    ) -> Result<Prepared, String> {
        let path = self.path();
        let uri = match self.http {
            HttpVersion::V1 => path.parse::<Uri>(),
            HttpVersion::V2 => format!("{}://{}{path}", self.scheme, self.authority).parse::<Uri>(),
        };
        let uri = uri.map_err(|e| format!("{path} is no path of HTTP: {e}"))?;
        let mut headers = HeaderMap::new();
        let value =
            |text: &str| HeaderValue::from_str(text).map_err(|_| format!("{text:?} is no header value"));
        if self.http == HttpVersion::V1 {
            headers.insert(HOST, value(self.authority)?);
        }
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, value(self.content_type.unwrap_or(kind))?);
        }
        if self.protocol.is_grpc() {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(length) = head {
            headers.insert(
                HeaderName::from_static("inference-header-content-length"),
                HeaderValue::from(length),
            );
        }
        for (name, value) in self.headers {
            headers.insert(name.clone(), value.clone());
        }
        Ok(Prepared { method, uri, headers, body })
    }

    fn path(&self) -> String {
        if let Some(path) = self.path {
            return path.to_owned();
        }
        let model = self.model;
        let version = self.version.map_or(String::new(), |v| format!("/versions/{v}"));
        match self.protocol {
            Protocol::Http => format!("/v1/models/{model}{version}/infer"),
            Protocol::Oip | Protocol::OipJson => format!("/v2/models/{model}{version}/infer"),
            Protocol::Paddle => format!("/{model}/prediction"),
            Protocol::OipGrpc => "/inference.GRPCInferenceService/ModelInfer".to_owned(),
            Protocol::PaddleGrpc => {
                "/baidu.paddle_serving.pipeline_serving.PipelineService/inference".to_owned()
            }
        }
    }

    /// JSON of the tensors, then each image with its length; outputs are asked for in binary.
    ///
    /// **Source:** the binary tensor data extension of the inference protocol.
    fn oip_binary(&self, images: &[Bytes]) -> (Bytes, usize) {
        let raw = raw_tensor(images);
        let head = json!({
            "inputs": [{"name": self.input, "datatype": "BYTES", "shape": [images.len(), 1],
                        "parameters": {"binary_data_size": raw.len()}}],
            "parameters": {"binary_data_output": true},
        });
        let mut body = head.to_string().into_bytes();
        let length = body.len();
        body.extend_from_slice(&raw);
        (body.into(), length)
    }

    /// `inference.ModelInferRequest` of proto/inference.proto, images in `raw_input_contents`.
    fn oip_message(&self, images: &[Bytes]) -> Vec<u8> {
        let mut shape = Vec::new();
        for mut size in [images.len(), 1] {
            while size >= 0x80 {
                shape.push(size as u8 | 0x80);
                size >>= 7;
            }
            shape.push(size as u8);
        }
        let input =
            Message(vec![Field::text(1, self.input), Field::text(2, "BYTES"), Field::bytes(3, shape)])
                .encode();
        let mut fields = vec![Field::text(1, self.model)];
        fields.extend(self.version.map(|v| Field::text(2, v)));
        fields.extend([Field::bytes(5, input), Field::bytes(7, raw_tensor(images))]);
        Message(fields).encode()
    }

    /// `Request` of proto/pipeline_service.proto. The name of the service is left out where there is none: 0.6 and 0.9
    /// number it in two ways, and an empty one is the same in both.
    fn paddle_message(&self, images: &[Bytes]) -> Vec<u8> {
        let mut fields: Vec<Field<'_>> = self.keys(images.len()).iter().map(|k| Field::text(1, k)).collect();
        fields.extend(images.iter().map(|i| Field::text(2, &STANDARD.encode(i))));
        if !self.model.is_empty() {
            fields.push(Field::text(4, self.model));
        }
        Message(fields).encode()
    }

    /// A key for each image; the first is the input's name.
    fn keys(&self, count: usize) -> Vec<String> {
        (0..count)
            .map(|i| if i == 0 { self.input.to_owned() } else { format!("{}_{i}", self.input) })
            .collect()
    }
}

/// Elements of a BYTES tensor: each with its length before it, 4 bytes, little-endian.
fn raw_tensor(images: &[Bytes]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(images.iter().map(|i| i.len() + 4).sum());
    for image in images {
        raw.extend_from_slice(&(image.len() as u32).to_le_bytes());
        raw.extend_from_slice(image);
    }
    raw
}

/// A message of gRPC: not compressed, and its length, 4 bytes, big-endian.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(message.len() + 5);
    frame.push(0);
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}
