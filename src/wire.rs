//! Protobuf messages as lists of fields, without a schema: for files of which a part is rewritten and the rest goes
//! back as it was read, and for requests whose fields are bounded before anything is made of them.
//!
//! Source of the encoding: <https://protobuf.dev/programming-guides/encoding/>.

use std::borrow::Cow;

/// Fields that one message may have. The largest networks have some 100 000 nodes and weights; the bound keeps
/// a file of empty fields from taking twenty times its size in memory.
const MAX_FIELDS: usize = 1 << 20;

/// Why bytes are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field is longer than what is left of its message.
    #[error("a field ends behind its message")]
    Truncated,
    /// A number of more than ten bytes or 64 bits.
    #[error("a number takes more than 64 bits")]
    Varint,
    /// Field number 0 or above 2^29, a group, or a wire type that does not exist.
    #[error("a field has the invalid tag {0}")]
    Tag(u64),
    /// More fields than `MAX_FIELDS`.
    #[error("a message has more than {MAX_FIELDS} fields")]
    Fields,
    /// A field is there with another wire type than its own.
    #[error("field {0} has the wrong wire type")]
    Type(u32),
    /// A name is not UTF-8.
    #[error("field {0} is not UTF-8 text")]
    Text(u32),
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `int32`, `int64`, `bool` and enums.
    Varint(u64),
    /// `double`.
    Fixed64([u8; 8]),
    /// `float`.
    Fixed32([u8; 4]),
    /// `string`, `bytes`, messages and packed lists.
    Bytes(Cow<'a, [u8]>),
}

/// One field of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Field<'a> {
    /// Its number in the `.proto` file.
    pub number: u32,
    /// Its content.
    pub value: Value<'a>,
}

impl<'a> Field<'a> {
    /// A number.
    pub fn varint(number: u32, value: u64) -> Self {
        Self { number, value: Value::Varint(value) }
    }

    /// Text, bytes or an encoded message.
    pub fn bytes(number: u32, value: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { number, value: Value::Bytes(value.into()) }
    }

    /// Text.
    pub fn text(number: u32, value: &str) -> Self {
        Self::bytes(number, value.as_bytes().to_vec())
    }

    /// The number that it holds.
    ///
    /// # Errors
    /// [`WireError::Type`].
    pub fn as_varint(&self) -> Result<u64, WireError> {
        match &self.value {
            Value::Varint(v) => Ok(*v),
            Value::Fixed64(_) | Value::Fixed32(_) | Value::Bytes(_) => Err(WireError::Type(self.number)),
        }
    }

    /// The enum or `int32` that it holds; values outside of 32 bits are cut, as every protobuf reader does.
    ///
    /// # Errors
    /// [`WireError::Type`].
    pub fn as_i32(&self) -> Result<i32, WireError> {
        Ok(self.as_varint()? as i32)
    }

    /// The `int64` that it holds.
    ///
    /// # Errors
    /// [`WireError::Type`].
    pub fn as_i64(&self) -> Result<i64, WireError> {
        Ok(self.as_varint()?.cast_signed())
    }

    /// The bytes of a field that was read and not made.
    ///
    /// # Errors
    /// [`WireError::Type`].
    pub fn borrowed(&self) -> Result<&'a [u8], WireError> {
        match &self.value {
            Value::Bytes(Cow::Borrowed(v)) => Ok(v),
            Value::Bytes(Cow::Owned(_)) | Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) => {
                Err(WireError::Type(self.number))
            }
        }
    }

    /// The text of a field that was read and not made.
    ///
    /// # Errors
    /// [`WireError::Type`], [`WireError::Text`].
    pub fn as_text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.borrowed()?).map_err(|_| WireError::Text(self.number))
    }
}

/// The fields of a message, one after the other, without a list of them.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let (head, tail) = self.0.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn field(&mut self) -> Result<Field<'a>, WireError> {
        let tag = varint(&mut self.0)?;
        let number =
            u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n)).ok_or(WireError::Tag(tag))?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut self.0)?),
            1 => Value::Fixed64(self.array()?),
            2 => {
                let length = varint(&mut self.0)?;
                Value::Bytes(Cow::Borrowed(self.take(length)?))
            }
            5 => Value::Fixed32(self.array()?),
            _ => return Err(WireError::Tag(tag)),
        };
        Ok(Field { number, value })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Takes a number off the front of `bytes`.
///
/// # Errors
/// [`WireError::Truncated`], [`WireError::Varint`].
pub fn varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(WireError::Truncated)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(WireError::Varint);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Varint)
}

/// A message whose fields are all at hand.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message<'a>(pub Vec<Field<'a>>);

impl<'a> Message<'a> {
    /// Reads the fields; messages inside stay bytes.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Vec::new();
        for field in Fields::new(bytes) {
            if fields.len() == MAX_FIELDS {
                return Err(WireError::Fields);
            }
            fields.push(field?);
        }
        Ok(Self(fields))
    }

    /// All fields of that number.
    pub fn all(&self, number: u32) -> impl Iterator<Item = &Field<'a>> {
        self.0.iter().filter(move |f| f.number == number)
    }

    /// The last field of that number, which is the one that counts where a field is not a list.
    pub fn last(&self, number: u32) -> Option<&Field<'a>> {
        self.0.iter().rev().find(|f| f.number == number)
    }

    /// Puts `field` in the place of the first one of its number, and removes the others.
    pub fn set(&mut self, field: Field<'a>) {
        let number = field.number;
        let at = self.0.iter().position(|f| f.number == number);
        self.0.retain(|f| f.number != number);
        self.0.insert(at.unwrap_or(self.0.len()), field);
    }

    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let length = self.0.iter().map(|f| match &f.value {
            Value::Bytes(b) => b.len() + 10,
            Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) => 12,
        });
        let mut out = Vec::with_capacity(length.sum());
        for field in &self.0 {
            let tag = |wire: u64| u64::from(field.number) << 3 | wire;
            match &field.value {
                Value::Varint(v) => {
                    put_varint(&mut out, tag(0));
                    put_varint(&mut out, *v);
                }
                Value::Fixed64(v) => {
                    put_varint(&mut out, tag(1));
                    out.extend_from_slice(v);
                }
                Value::Bytes(v) => {
                    put_varint(&mut out, tag(2));
                    put_varint(&mut out, v.len() as u64);
                    out.extend_from_slice(v);
                }
                Value::Fixed32(v) => {
                    put_varint(&mut out, tag(5));
                    out.extend_from_slice(v);
                }
            }
        }
        out
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_field_is_written_as_it_was_read() {
        let message = Message(vec![
            Field::varint(1, 0),
            Field::varint(536_870_911, u64::MAX),
            Field { number: 3, value: Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8]) },
            Field { number: 4, value: Value::Fixed32([9; 4]) },
            Field::bytes(20, vec![7; 300]),
            Field::text(1, "again"),
        ]);
        let bytes = message.encode();
        assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let cases: [(&[u8], WireError); 9] = [
            (&[0x08], WireError::Truncated),
            (&[0x08, 0x80], WireError::Truncated),
            (&[0x0a, 0x05, 1], WireError::Truncated),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], WireError::Truncated),
            (&[0x09, 1, 2], WireError::Truncated),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], WireError::Varint),
            (&[0x0b], WireError::Tag(11)),
            (&[0x0f], WireError::Tag(15)),
            (&[0x00], WireError::Tag(0)),
        ];
        for (bytes, want) in cases {
            assert_eq!(Message::parse(bytes), Err(want), "{bytes:?}");
        }
        assert_eq!(Message::parse(&[0x08, 0].repeat(MAX_FIELDS + 1)), Err(WireError::Fields));
    }
}
