//! What `serde` does not refuse by itself: arrays for objects, endless lists, and errors as long as the body.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::error::{ErrorKind, InferError};

/// Characters of the client's own text that an error repeats.
const CLIP_CHARS: usize = 64;
/// Characters of a JSON error; serde repeats whole strings of the body.
const ERROR_CHARS: usize = 240;

/// A struct that is only read from a JSON object; derived impls read arrays too, in field order.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

/// A list refused at item `N + 1`, before a hostile one fills the memory.
#[derive(Debug)]
pub(super) struct AtMost<T, const N: usize>(pub Vec<T>);

impl<T, const N: usize> Default for AtMost<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtMostVisitor<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for AtMostVisitor<T, N> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a JSON array of at most {N} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == N {
                        return Err(A::Error::custom(format_args!("an array of more than {N} items")));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(AtMostVisitor::<T, N>(PhantomData)).map(AtMost)
    }
}

/// `what` that serde refused: `MalformedJson` where it is no JSON, `InvalidArgument` where JSON of another
/// form was expected. Both keep line and column.
pub(super) fn error(what: &str, error: &serde_json::Error) -> InferError {
    use serde_json::error::Category;
    let kind = match error.classify() {
        Category::Data => ErrorKind::InvalidArgument,
        Category::Syntax | Category::Eof | Category::Io => ErrorKind::MalformedJson,
    };
    let text = error.to_string();
    // A line number of 0 means that serde had no position and printed none.
    let (text, place) = match text.rfind(" at line ").filter(|_| error.line() > 0) {
        Some(at) => text.split_at(at),
        None => (text.as_str(), ""),
    };
    InferError::new(kind, format!("{what}: {}{place}", clip_to(text, ERROR_CHARS)))
}

/// The client's own text, short enough to send back.
pub(super) fn clip(text: &str) -> impl fmt::Display + '_ {
    clip_to(text, CLIP_CHARS)
}

fn clip_to(text: &str, chars: usize) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| match text.char_indices().nth(chars) {
        Some((end, _)) => write!(f, "{}…", &text[..end]),
        None => f.write_str(text),
    })
}
