//! The bodies of the `model_repository` extension. All of them may be empty, as tritonclient sends the index's.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize as Derive, Serialize};

use super::json::{self, Object};
use crate::error::InferError;
use crate::repository::{IndexEntry, LoadParameters};

/// One line of the answer to `POST /v2/repository/index`; what has no value is left out.
#[derive(Debug, Serialize)]
pub struct IndexLine<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    state: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

impl<'a> From<&'a IndexEntry> for IndexLine<'a> {
    fn from(entry: &'a IndexEntry) -> Self {
        Self { name: &entry.name, version: &entry.version, state: entry.state, reason: &entry.reason }
    }
}

#[derive(Derive)]
struct IndexDocument {
    ready: Option<bool>,
}

#[derive(Derive, Default)]
struct LoadDocument {
    #[serde(default)]
    parameters: Option<LoadNames>,
}

#[derive(Derive)]
struct UnloadDocument {
    parameters: Option<Object<UnloadParameters>>,
}

#[derive(Derive)]
struct UnloadParameters {
    #[serde(rename = "unload_dependents")]
    _unload_dependents: Option<bool>,
}

/// The parameters of a load that say what shall be loaded, by name alone: content would be for nothing.
struct LoadNames(LoadParameters);

impl<'de> Deserialize<'de> for LoadNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = LoadNames;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LoadNames, A::Error> {
                let mut found = LoadParameters::default();
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    map.next_value::<IgnoredAny>()?;
                    if key == "config" {
                        found.config = Some(String::new());
                    } else if key.starts_with("file:") && found.files.is_empty() {
                        // One is enough to be refused.
                        found.files.push((json::clip(&key).to_string(), Bytes::new()));
                    }
                }
                Ok(LoadNames(found))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// Whether only what serves is asked for.
///
/// # Errors
/// `MalformedJson`, `InvalidArgument`.
pub fn parse_index(body: &[u8]) -> Result<bool, InferError> {
    Ok(read::<IndexDocument>("repository index", body)?.and_then(|d| d.ready).unwrap_or(false))
}

/// What a load is asked to load instead of what the repository holds, without its content.
///
/// # Errors
/// As [`parse_index`].
pub fn parse_load(body: &[u8]) -> Result<LoadParameters, InferError> {
    let document = read::<LoadDocument>("load request", body)?.unwrap_or_default();
    Ok(document.parameters.map(|p| p.0).unwrap_or_default())
}

/// Checks the body of an unload. `unload_dependents` is read: no model here depends on another.
///
/// # Errors
/// As [`parse_index`].
pub fn parse_unload(body: &[u8]) -> Result<(), InferError> {
    let document = read::<UnloadDocument>("unload request", body)?;
    let _ = document.and_then(|d| d.parameters);
    Ok(())
}

/// A JSON object, or `None` where there is nothing but white space.
fn read<'de, T: Deserialize<'de>>(what: &str, body: &'de [u8]) -> Result<Option<T>, InferError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    serde_json::from_slice::<Object<T>>(body).map(|o| Some(o.0)).map_err(|e| json::error(what, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn bodies() {
        let bad = |kind: ErrorKind| Err(kind);
        let cases: [(&str, Result<bool, ErrorKind>); 8] = [
            ("", Ok(false)),
            (" \n", Ok(false)),
            ("{}", Ok(false)),
            (r#"{"ready": true, "more": [1]}"#, Ok(true)),
            (r#"{"ready": null}"#, Ok(false)),
            (r#"{"ready": 1}"#, bad(ErrorKind::InvalidArgument)),
            ("[true]", bad(ErrorKind::InvalidArgument)),
            ("{", bad(ErrorKind::MalformedJson)),
        ];
        for (body, want) in cases {
            assert_eq!(parse_index(body.as_bytes()).map_err(|e| e.kind), want, "{body}");
        }
        let loads = [
            ("", false, 0),
            ("{}", false, 0),
            (r#"{"parameters": null}"#, false, 0),
            (r#"{"parameters": {"other": [{}]}}"#, false, 0),
            (r#"{"parameters": {"config": "{}"}}"#, true, 0),
            (r#"{"parameters": {"file:1/model.onnx": "AAAA", "file:1/b": ""}}"#, false, 1),
        ];
        for (body, config, files) in loads {
            let found = parse_load(body.as_bytes()).unwrap();
            assert_eq!((found.config.is_some(), found.files.len()), (config, files), "{body}");
        }
        assert_eq!(parse_load(b"{\"parameters\": 7}").unwrap_err().kind, ErrorKind::InvalidArgument);
        for body in ["", "{}", r#"{"parameters": {"unload_dependents": true}}"#] {
            parse_unload(body.as_bytes()).unwrap();
        }
        let wrong = r#"{"parameters": {"unload_dependents": "yes"}}"#;
        assert_eq!(parse_unload(wrong.as_bytes()).unwrap_err().kind, ErrorKind::InvalidArgument);
    }
}
