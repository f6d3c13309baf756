//! Plain HTTP: an image in the body, or several in a form; the answer as JSON, .npy or bare floats.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::body::{self, in_place};
use super::reply::{JSON, OCTETS, Reply, reply};
use super::state::ServerState;
use super::sticky::{HttpSticky, name_version, query_value};
use super::{multipart, npy, oip, rows};
use crate::error::{ErrorKind, InferError, shorten};
use crate::scheduler::request::{InferRequest, InferResponse};
use crate::scheduler::served::ServedModel;
use crate::telemetry::context::Context;
use crate::telemetry::metrics::Protocol;

const NPY: HeaderValue = HeaderValue::from_static("application/x-npy");

/// How the client wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Npy,
    Raw,
}

/// `?timeout=…&priority=…&output=…`, and the model's sticky parameter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query<'a> {
    timeout: Option<Duration>,
    priority: u64,
    output: Option<&'a str>,
    sticky: Option<Cow<'a, str>>,
}

/// Answers `POST /v1/models/{model}[/versions/{version}]/infer`.
///
/// # Errors
/// Whatever [`ErrorKind`] names.
pub async fn infer(
    state: &ServerState,
    model: &str,
    version: Option<&str>,
    query: &str,
    headers: &HeaderMap,
    incoming: Incoming,
    context: &Context,
) -> Result<Reply, InferError> {
    context.inference(Protocol::Http);
    let target = state.registry.target(model, version)?;
    let query = Query::parse(query, target.sticky_parameter())?;
    let content = Content::of(headers)?;
    let collected = body::collect(state, headers, incoming).await?;
    context.received(collected.sent);
    let images = match content {
        Content::Image => vec![collected.bytes.clone()],
        Content::Form(content_type) => form_images(&collected.bytes, &content_type, state.limits.max_images)?,
    };
    let chosen = target.pick(&HttpSticky::new(headers, query.sticky));
    let request = InferRequest {
        rows: rows::images(&chosen.spec, images)?,
        priority: query.priority,
        timeout: query.timeout,
        arrival: context.arrival,
        context: context.clone(),
    };
    let response = chosen.infer(request, Protocol::Http).await?;
    let mut answer = answer(&chosen, response, Format::of(headers), query.output)?;
    name_version(&mut answer, &chosen);
    Ok(answer)
}

enum Content {
    Image,
    Form(String),
}

impl Content {
    fn of(headers: &HeaderMap) -> Result<Self, InferError> {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Self::Image) };
        let text = value.to_str().unwrap_or("?");
        let kind = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/octet-stream" => Ok(Self::Image),
            "multipart/form-data" => Ok(Self::Form(text.to_owned())),
            _ if kind.starts_with("image/") => Ok(Self::Image),
            _ => Err(InferError::new(
                ErrorKind::UnsupportedMediaType,
                format!(
                    "Content-Type \"{}\" is not read here; send image/*, application/octet-stream or multipart/form-data \
                     (curl: -H 'Content-Type: image/jpeg' --data-binary @file, or -F image=@file)",
                    shorten(text)
                ),
            )),
        }
    }
}

/// The files of a form; its plain fields are not looked at.
fn form_images(body: &Bytes, content_type: &str, limit: usize) -> Result<Vec<Bytes>, InferError> {
    let boundary = multipart::boundary(content_type)?;
    let parts = in_place(body.len(), || multipart::parse(body, &boundary, limit))?;
    Ok(parts.into_iter().filter(|p| p.filename.is_some()).map(|p| p.data).collect())
}

impl Format {
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let kinds = accept.split(',').map(|a| a.split(';').next().unwrap_or("").trim());
        kinds
            .filter_map(|kind| match kind {
                "application/json" | "*/*" | "application/*" => Some(Self::Json),
                "application/x-npy" => Some(Self::Npy),
                "application/octet-stream" => Some(Self::Raw),
                _ => None,
            })
            .next()
            .unwrap_or(Self::Json)
    }
}

impl<'a> Query<'a> {
    fn parse(query: &'a str, sticky: Option<&str>) -> Result<Self, InferError> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                value.parse::<u64>().map_err(|_| {
                    let text = format!("{key} = \"{}\": must be a whole number", shorten(value));
                    InferError::new(ErrorKind::InvalidArgument, text)
                })
            };
            match key {
                "timeout" => parsed.timeout = Some(Duration::from_micros(number()?)),
                "priority" => parsed.priority = number()?,
                "output" => parsed.output = Some(value),
                _ if sticky == Some(key) => parsed.sticky = query_value(value),
                _ => {
                    let text = format!(
                        "unknown query parameter \"{}\"; there are timeout (microseconds), priority, output{}{}",
                        shorten(key),
                        if sticky.is_some() { ", " } else { "" },
                        sticky.unwrap_or("")
                    );
                    return Err(InferError::new(ErrorKind::InvalidArgument, text));
                }
            }
        }
        Ok(parsed)
    }
}

fn answer(
    served: &ServedModel,
    response: InferResponse,
    format: Format,
    output: Option<&str>,
) -> Result<Reply, InferError> {
    let specs = &served.spec.outputs;
    let chosen = match output {
        None => None,
        Some(name) => Some(specs.iter().position(|s| s.tensor.name == name).ok_or_else(|| {
            let names = specs.iter().map(|s| s.tensor.name.as_str()).collect::<Vec<_>>().join(", ");
            InferError::new(
                ErrorKind::InvalidArgument,
                format!("output = \"{}\": must be one of {names}", shorten(name)),
            )
        })?),
    };
    if format == Format::Json {
        let version = served.version.to_string();
        let outputs = specs.iter().zip(response.outputs).enumerate();
        let outputs = outputs.filter(|(i, _)| chosen.is_none_or(|c| c == *i)).map(|(_, (spec, tensor))| {
            oip::OutputTensor { name: &spec.tensor.name, tensor, labels: &spec.labels }
        });
        let response = oip::InferResponse {
            model_name: &served.config.name,
            model_version: &version,
            id: None,
            outputs: outputs.collect(),
        };
        return Ok(reply(StatusCode::OK, JSON, oip::write(&response, &[], false)?.body));
    }
    if chosen.is_none() && specs.len() > 1 {
        let names = specs.iter().map(|s| s.tensor.name.as_str()).collect::<Vec<_>>().join(", ");
        let text = format!("this form of answer holds one output; name it with ?output=, one of {names}");
        return Err(InferError::new(ErrorKind::InvalidArgument, text));
    }
    let tensor = &response.outputs[chosen.unwrap_or(0)];
    if format == Format::Raw {
        return Ok(reply(StatusCode::OK, OCTETS, tensor.data.clone()));
    }
    let mut file = Vec::with_capacity(tensor.data.len() + 128);
    npy::write(tensor, &mut file).map_err(|e| InferError::new(ErrorKind::Internal, e.to_string()))?;
    Ok(reply(StatusCode::OK, NPY, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters() {
        let ok = Query::parse("timeout=5000&priority=2&output=x&user=a%20b", Some("user")).unwrap();
        let timeout = Some(Duration::from_millis(5));
        let want = Query { timeout, priority: 2, output: Some("x"), sticky: Some("a b".into()) };
        assert_eq!(ok, want);
        assert_eq!(Query::parse("", None).unwrap(), Query::default());
        assert_eq!(Query::parse("user=%ff", Some("user")).unwrap(), Query::default());
        for (bad, names) in [
            ("timeout=x", "timeout"),
            ("priority=-1", "priority"),
            ("top=1", "\"top\""),
            ("top=1", "output, user"),
            ("User=1", "\"User\""),
        ] {
            let error = Query::parse(bad, Some("user")).unwrap_err();
            assert!(
                error.kind == ErrorKind::InvalidArgument && error.message.contains(names),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn the_first_known_accept_decides() {
        let cases = [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/html, application/x-npy", Format::Npy),
            ("application/octet-stream;q=0.9", Format::Raw),
            ("application/json, application/x-npy", Format::Json),
        ];
        for (accept, want) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            assert_eq!(Format::of(&headers), want, "{accept}");
        }
    }
}
