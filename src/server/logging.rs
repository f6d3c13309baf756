//! `/v2/logging` and `LogSettings`: Triton's logging extension, and the filter of `--log-level` beside it.
//!
//! Our levels are a ladder, where Triton's are switches: a level that is on has all those below it.
//!
//! Source: Triton's `docs/protocol/extension_logging.md`.

use hyper::body::Incoming;
use hyper::{HeaderMap, Method};
use serde_json::{Map, Value};
use tracing::level_filters::LevelFilter;

use super::body;
use super::reply::{Reply, document};
use super::state::ServerState;
use crate::error::{ErrorKind, InferError, shorten};
use crate::telemetry::context::Context;
use crate::telemetry::logging::{Logging, logging};

/// Longest body of a change, bytes; and with it, of a filter.
const MAX_BYTES: usize = 16 * 1024;

/// The timestamps of our lines, in Triton's word for them.
const FORMAT: &str = "ISO8601";

/// The value of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// On or off.
    Bool(bool),
    /// A level.
    Number(u64),
    /// A name or filter.
    Text(String),
    /// What no setting takes, as text.
    Other(String),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(value) => write!(f, "\"{}\"", shorten(value)),
            Self::Other(value) => shorten(value).fmt(f),
        }
    }
}

impl From<Value> for Setting {
    fn from(value: Value) -> Self {
        match value {
            Value::Bool(value) => Self::Bool(value),
            Value::String(value) => Self::Text(value),
            Value::Number(number) if number.is_u64() => Self::Number(number.as_u64().unwrap_or(0)),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Self::Other(value.to_string())
            }
        }
    }
}

/// Answers `GET` and `POST /v2/logging`.
///
/// # Errors
/// Those of [`change`], of reading the body, and `MalformedJson`.
pub async fn answer(
    state: &ServerState,
    method: &Method,
    headers: &HeaderMap,
    incoming: Incoming,
    context: &Context,
) -> Result<Reply, InferError> {
    if method == Method::POST {
        let collected = body::collect(state, headers, incoming).await?;
        context.received(collected.sent);
        let given = parse(&collected.bytes)?;
        change(state, given.into_iter().map(|(name, value)| (name, value.into())))?;
    }
    let settings = settings()?.into_iter().map(|(name, value)| {
        let value = match value {
            Setting::Bool(value) => Value::from(value),
            Setting::Number(value) => Value::from(value),
            Setting::Text(value) | Setting::Other(value) => Value::from(value),
        };
        (name.to_owned(), value)
    });
    Ok(document(&settings.collect::<Map<String, Value>>()))
}

fn parse(body: &[u8]) -> Result<Map<String, Value>, InferError> {
    if body.len() > MAX_BYTES {
        let text = format!("settings of the log have up to {MAX_BYTES} bytes, got {}", body.len());
        return Err(InferError::new(ErrorKind::BodyTooLarge, text));
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|e| {
        let text =
            format!("the body is no JSON object of settings such as {{\"log_level\": \"debug\"}}: {e}");
        InferError::new(ErrorKind::MalformedJson, text)
    })
}

fn installed() -> Result<&'static Logging, InferError> {
    logging().ok_or_else(|| {
        InferError::new(ErrorKind::Unimplemented, "this process has a log that is not the server's own")
    })
}

/// Every setting as it is now, in Triton's order, and `log_level` behind.
///
/// # Errors
/// `Unimplemented` where the server is a part of another program.
pub fn settings() -> Result<Vec<(&'static str, Setting)>, InferError> {
    let (level, most) = installed()?.level();
    let ladder = Ladder::of(most);
    Ok(vec![
        ("log_file", Setting::Text(String::new())),
        ("log_info", Setting::Bool(ladder.info)),
        ("log_warning", Setting::Bool(ladder.warning)),
        ("log_error", Setting::Bool(ladder.error)),
        ("log_verbose_level", Setting::Number(ladder.verbose)),
        ("log_format", Setting::Text(FORMAT.to_owned())),
        ("log_level", Setting::Text(level)),
    ])
}

/// Changes settings, all of those given or none.
///
/// # Errors
/// `Forbidden` without `--log-control`; `InvalidArgument` for a setting that is unknown, has another type, or asks for
/// what is no level; `Unimplemented` for what is set when the server starts.
pub fn change(state: &ServerState, given: impl Iterator<Item = (String, Setting)>) -> Result<(), InferError> {
    if !state.log_control {
        let text = "settings of the log are not changed by request here; start with --log-control";
        return Err(InferError::new(ErrorKind::Forbidden, text));
    }
    let logging = installed()?;
    let Some(level) = wanted(logging.level().1, given)? else { return Ok(()) };
    logging.set_level(&level).map_err(|e| {
        let text = format!("log_level \"{}\": {e}; as in info, or visord=debug,hyper=warn", shorten(&level));
        InferError::new(ErrorKind::InvalidArgument, text)
    })?;
    tracing::warn!(level, "the log's level was changed by request");
    Ok(())
}

/// The filter that these settings come to; `None` where they change nothing.
fn wanted(
    now: LevelFilter,
    given: impl Iterator<Item = (String, Setting)>,
) -> Result<Option<String>, InferError> {
    let refuse = |kind, text: String| Err(InferError::new(kind, text));
    let mut ladder = Ladder::of(now);
    let (mut level, mut switched) = (None, false);
    for (name, value) in given {
        match (name.as_str(), value) {
            ("log_level", Setting::Text(text)) if !text.is_empty() && text.len() <= MAX_BYTES => {
                level = Some(text);
            }
            ("log_info", Setting::Bool(on)) => (ladder.info, switched) = (on, true),
            ("log_warning", Setting::Bool(on)) => (ladder.warning, switched) = (on, true),
            ("log_error", Setting::Bool(on)) => (ladder.error, switched) = (on, true),
            ("log_verbose_level", Setting::Number(n)) => (ladder.verbose, switched) = (n, true),
            ("log_format", Setting::Text(text)) if text == FORMAT => {}
            ("log_file", Setting::Text(text)) if text.is_empty() => {}
            ("log_format", value) => {
                let text =
                    format!("log_format {value}: timestamps are {FORMAT}; text or JSON is --log-format");
                return refuse(ErrorKind::InvalidArgument, text);
            }
            ("log_file", Setting::Text(_)) => {
                let text =
                    "log_file: the log goes to standard error; send it elsewhere when the server starts";
                return refuse(ErrorKind::Unimplemented, text.to_owned());
            }
            ("log_info" | "log_warning" | "log_error", value) => {
                return refuse(
                    ErrorKind::InvalidArgument,
                    format!("{name}: expected true or false, got {value}"),
                );
            }
            ("log_verbose_level", value) => {
                let text =
                    format!("log_verbose_level: expected 0 (off), 1 (debug) or 2 (trace), got {value}");
                return refuse(ErrorKind::InvalidArgument, text);
            }
            ("log_level" | "log_file", value) => {
                return refuse(ErrorKind::InvalidArgument, format!("{name}: expected a text, got {value}"));
            }
            _ => {
                let text = format!(
                    "unknown setting \"{}\"; there are log_level, log_info, log_warning, log_error, log_verbose_level, \
                     log_format, log_file",
                    shorten(&name)
                );
                return refuse(ErrorKind::InvalidArgument, text);
            }
        }
    }
    match (level, switched) {
        (Some(_), true) => {
            let text = "log_level and Triton's settings of levels are given; send one or the other";
            refuse(ErrorKind::InvalidArgument, text.to_owned())
        }
        (Some(level), false) => Ok(Some(level)),
        (None, true) => ladder.level().map(|level| Some(level.to_owned())),
        (None, false) => Ok(None),
    }
}

/// Triton's switches.
#[derive(Debug, Clone, Copy)]
struct Ladder {
    error: bool,
    warning: bool,
    info: bool,
    verbose: u64,
}

impl Ladder {
    fn of(most: LevelFilter) -> Self {
        Self {
            error: most >= LevelFilter::ERROR,
            warning: most >= LevelFilter::WARN,
            info: most >= LevelFilter::INFO,
            verbose: u64::from(most >= LevelFilter::DEBUG) + u64::from(most >= LevelFilter::TRACE),
        }
    }

    fn level(self) -> Result<&'static str, InferError> {
        let gap = |text: &str| {
            let text = format!("{text}: a level here has all those below it; send both");
            Err(InferError::new(ErrorKind::InvalidArgument, text))
        };
        match (self.error, self.warning, self.info, self.verbose) {
            (true, true, true, 2..) => Ok("trace"),
            (true, true, true, 1) => Ok("debug"),
            (true, true, true, 0) => Ok("info"),
            (true, true, false, 0) => Ok("warn"),
            (true, false, false, 0) => Ok("error"),
            (false, false, false, 0) => Ok("off"),
            (_, _, false, 1..) => gap("log_verbose_level above 0 without log_info"),
            (_, false, true, _) => gap("log_info without log_warning"),
            (false, ..) => gap("log_warning without log_error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_to_a_filter() {
        use LevelFilter as L;
        type Case = (LevelFilter, &'static str, Result<Option<&'static str>, &'static str>);
        let cases: [Case; 22] = [
            (L::INFO, "{}", Ok(None)),
            (L::INFO, r#"{"log_level": "visord=debug"}"#, Ok(Some("visord=debug"))),
            (L::INFO, r#"{"log_verbose_level": 1}"#, Ok(Some("debug"))),
            (L::INFO, r#"{"log_verbose_level": 7}"#, Ok(Some("trace"))),
            (L::DEBUG, r#"{"log_verbose_level": 0}"#, Ok(Some("info"))),
            (L::INFO, r#"{"log_info": false}"#, Ok(Some("warn"))),
            (L::WARN, r#"{"log_info": true}"#, Ok(Some("info"))),
            (L::INFO, r#"{"log_info": false, "log_warning": false}"#, Ok(Some("error"))),
            (L::ERROR, r#"{"log_error": false}"#, Ok(Some("off"))),
            (L::OFF, r#"{"log_error": true, "log_warning": true, "log_info": true}"#, Ok(Some("info"))),
            (L::INFO, r#"{"log_format": "ISO8601", "log_file": ""}"#, Ok(None)),
            (L::INFO, r#"{"log_warning": false}"#, Err("log_info without log_warning")),
            (L::INFO, r#"{"log_error": false}"#, Err("log_warning without log_error")),
            (L::DEBUG, r#"{"log_info": false}"#, Err("log_verbose_level above 0")),
            (L::INFO, r#"{"log_level": "info", "log_info": true}"#, Err("one or the other")),
            (L::INFO, r#"{"log_level": 3}"#, Err("expected a text, got 3")),
            (L::INFO, r#"{"log_info": "yes"}"#, Err("expected true or false, got \"yes\"")),
            (L::INFO, r#"{"log_verbose_level": -1}"#, Err("got -1")),
            (L::INFO, r#"{"log_file": "/tmp/log"}"#, Err("standard error")),
            (L::INFO, r#"{"log_format": "default"}"#, Err("ISO8601")),
            (L::INFO, r#"{"log_everything": true}"#, Err("unknown setting \"log_everything\"")),
            (L::INFO, "[1]", Err("no JSON object")),
        ];
        for (now, body, want) in cases {
            let given = parse(body.as_bytes());
            let found = given.and_then(|g| wanted(now, g.into_iter().map(|(n, v)| (n, v.into()))));
            match (found, want) {
                (Ok(found), Ok(want)) => assert_eq!(found.as_deref(), want, "{now} {body}"),
                (Err(e), Err(words)) => assert!(e.message.contains(words), "{now} {body}: {e}"),
                (found, want) => panic!("{now} {body}: {found:?}, expected {want:?}"),
            }
        }
        assert_eq!(parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err().kind, ErrorKind::BodyTooLarge);
    }
}
