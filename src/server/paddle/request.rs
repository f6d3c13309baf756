//! Requests: the JSON form of the protobuf message `Request`, read as `jsonpb` reads it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::GatewayError;
use crate::error::{ErrorKind, InferError};
use crate::server::base64;

/// The key that ArcFace's operator reads.
const IMAGE_KEY: &str = "image";
/// Asks a PaddleServing for its timings; never an image.
const PROFILE_KEY: &str = "pipeline.profile";

/// One request. Its strings borrow from the body unless they have escapes in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PaddleRequest<'b> {
    /// What the values are called.
    pub key: Vec<Text<'b>>,
    /// One value for each key: for an image, base64.
    pub value: Vec<Text<'b>>,
    /// How many tensors came along; visord reads none.
    pub tensors: usize,
    /// The client's number for the request, for logs and error texts.
    pub logid: i64,
    /// The client's own idea of its address.
    pub clientip: Text<'b>,
    /// The service; over HTTP the path overrides it.
    pub name: Text<'b>,
    /// Not looked at.
    pub method: Text<'b>,
}

impl PaddleRequest<'_> {
    /// The value of `key`; of one that comes twice, the last.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.key.iter().zip(&self.value).rev().find(|(k, _)| &***k == key)?;
        Some(value)
    }
}

/// A string out of the body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text<'b>(Cow<'b, str>);

impl<'b> From<&'b str> for Text<'b> {
    fn from(text: &'b str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Reads a request from a body: JSON whatever its content type says.
///
/// An empty body is an empty request, unknown fields are skipped, `null` is as good as no field, of a field that
/// comes twice the last counts, and what follows the closing brace is not looked at.
///
/// **Errors:** HTTP 400, code 3 for JSON that does not parse, fields of another type and more than `max_keys`
/// keys or values; the message ends in line and column.
pub fn parse(body: &[u8], max_keys: usize) -> Result<PaddleRequest<'_>, GatewayError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(PaddleRequest::default());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut request = PaddleRequest::default();
    json.deserialize_option(Fields { request: &mut request, max_keys }).map_err(|error| GatewayError {
        http: 400,
        code: 3,
        message: format!("request body: {error}"),
    })?;
    Ok(request)
}

/// The images of a request, in the order of their keys' first coming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images<'r> {
    named: Vec<(&'r str, &'r str)>,
}

impl<'r> Images<'r> {
    /// Finds the images. Where there is a key `image`, as ArcFace's operator wants it, other keys count only if
    /// their names start with `image`; else every key is an image, whatever its name, as for PaddleClas.
    ///
    /// Keys and values pair up as in a Python dict: of a key that comes twice, the last value counts, at the
    /// first place. Values without a key are skipped. The key `pipeline.profile` is not an image.
    ///
    /// **Errors:** `MalformedJson` for fewer values than keys (PaddleServing's package error),
    /// `InvalidArgument` for no image at all, for tensors and for numpy text in place of base64.
    pub fn of(request: &'r PaddleRequest<'_>) -> Result<Self, InferError> {
        Self::besides(request, None)
    }

    /// [`Images::of`], where the key `other` is no image either: it says who asks.
    ///
    /// **Errors:** as there.
    pub fn besides(request: &'r PaddleRequest<'_>, other: Option<&str>) -> Result<Self, InferError> {
        let invalid = |message: String| Err(InferError::new(ErrorKind::InvalidArgument, message));
        if request.value.len() < request.key.len() {
            let message = "rpc package error: list index out of range";
            return Err(InferError::new(ErrorKind::MalformedJson, message));
        }
        if request.tensors > 0 {
            return invalid(format!("tensors: {} given; send images as base64 in value", request.tensors));
        }
        let mut named: Vec<(&str, &str)> = Vec::with_capacity(request.key.len());
        let mut places = std::collections::HashMap::with_capacity(request.key.len());
        for (key, value) in request.key.iter().zip(&request.value) {
            if &**key == PROFILE_KEY || other == Some(&**key) {
                continue;
            }
            let place = *places.entry(&**key).or_insert(named.len());
            match named.get_mut(place) {
                Some(slot) => slot.1 = value,
                None => named.push((key, value)),
            }
        }
        if places.contains_key(IMAGE_KEY) {
            named.retain(|(key, _)| key.starts_with(IMAGE_KEY));
        }
        if named.is_empty() {
            // The text of Python's KeyError.
            return invalid("'image'".to_owned());
        }
        for (key, value) in &named {
            let start = value.trim_start();
            if start.starts_with("array(") || start.starts_with('[') {
                return invalid(format!("{key}: numpy text given; send the image file as base64"));
            }
        }
        Ok(Self { named })
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Never: a request without an image is an error.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Each image's key and base64 text.
    pub fn iter(&self) -> impl Iterator<Item = (&'r str, &'r str)> {
        self.named.iter().copied()
    }

    /// The bytes of image `index`, which is below [`Images::len`].
    ///
    /// **Errors:** `BadBase64`, with the key in front.
    pub fn decode(&self, index: usize) -> Result<Vec<u8>, InferError> {
        let (key, text) = self.named[index];
        base64::decode(text).map_err(|error| error.context(key))
    }
}

impl<'de: 'b, 'b> Deserialize<'de> for Text<'b> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            // Go leaves a string empty at a null.
            fn visit_unit<E: de::Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }

        json.deserialize_any(Strings)
    }
}

/// A number of 64 bits, also as a string, as protobuf's JSON has it.
struct Int64(i64);

impl<'de> Deserialize<'de> for Int64 {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Numbers;

        impl Visitor<'_> for Numbers {
            type Value = Int64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a 64-bit integer, as a number or a string")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Int64, E> {
                Ok(Int64(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Int64, E> {
                i64::try_from(number)
                    .map(Int64)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Int64, E> {
                // A JSON number has no plus sign.
                let number = text.trim().parse().ok().filter(|_| !text.contains('+'));
                number.map(Int64).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        json.deserialize_any(Numbers)
    }
}

/// An array of at most `max` elements; `null` is an empty one.
struct Bounded<'a, T> {
    field: &'static str,
    max: usize,
    into: &'a mut Vec<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Bounded<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array in {}", self.field)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.into.clear();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        self.into.clear();
        while let Some(element) = elements.next_element()? {
            if self.into.len() == self.max {
                return Err(de::Error::custom(format_args!(
                    "{}: more than {} elements",
                    self.field, self.max
                )));
            }
            self.into.push(element);
        }
        Ok(())
    }
}

/// The fields of the message; all have one word for a name, so the original and the camelCase one are the same.
struct Fields<'a, 'b> {
    request: &'a mut PaddleRequest<'b>,
    max_keys: usize,
}

impl<'de: 'b, 'b> Visitor<'de> for Fields<'_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { request, max_keys: max } = self;
        let mut tensors: Vec<IgnoredAny> = Vec::new();
        while let Some(field) = fields.next_key::<Text<'de>>()? {
            match &*field {
                "key" => fields.next_value_seed(Bounded { field: "key", max, into: &mut request.key })?,
                "value" => {
                    fields.next_value_seed(Bounded { field: "value", max, into: &mut request.value })?
                }
                "tensors" => fields.next_value_seed(Bounded { field: "tensors", max, into: &mut tensors })?,
                "logid" => request.logid = fields.next_value::<Option<Int64>>()?.map_or(0, |n| n.0),
                "clientip" => request.clientip = fields.next_value()?,
                "name" => request.name = fields.next_value()?,
                "method" => request.method = fields.next_value()?,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        request.tensors = tensors.len();
        Ok(())
    }
}
