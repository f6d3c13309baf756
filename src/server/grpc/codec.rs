//! Messages as tonic's generated services exchange them: read within bounds, written once.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::status::status;
use crate::error::{ErrorKind, InferError};
use crate::wire::Fields;

/// Fields of a message that is read by generated code: each may become a hundred bytes of memory and takes two on the
/// wire. Only loading a model has many, one for each file.
const MAX_FIELDS: usize = 4_096;

/// First size of the buffer that a message is read into: the small ones fit, for a large one it grows once.
const READ_BYTES: usize = 1024;
/// First size of the buffer that a message is written into. It grows to the message's size.
const WRITE_BYTES: usize = 1024;
/// A buffer is handed on when it is as large as that.
const YIELD_BYTES: usize = 32 * 1024;

/// What can be read out of a message's bytes.
pub trait FromMessage: Sized {
    /// Reads it. What it keeps of `message` are slices.
    ///
    /// # Errors
    /// `MalformedProtobuf`, or what its bounds say.
    fn from_message(message: Bytes) -> Result<Self, InferError>;
}

impl<M: Message + Default> FromMessage for M {
    fn from_message(message: Bytes) -> Result<Self, InferError> {
        if Fields::new(&message).nth(MAX_FIELDS).is_some() {
            let text = format!("the message has more than {MAX_FIELDS} fields");
            return Err(InferError::new(ErrorKind::InvalidArgument, text));
        }
        M::decode(message).map_err(malformed)
    }
}

/// A message that does not parse.
pub fn malformed(why: impl std::fmt::Display) -> InferError {
    InferError::new(ErrorKind::MalformedProtobuf, format!("the message is no protobuf of its type: {why}"))
}

/// Writes `T`, reads `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<fn(T) -> U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + 'static,
    U: FromMessage + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Writer<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> Writer<T> {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader(PhantomData)
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct Writer<T>(PhantomData<fn(T)>);

impl<T: Message> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode(buffer).map_err(|e| Status::internal(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(WRITE_BYTES, YIELD_BYTES)
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct Reader<U>(PhantomData<fn() -> U>);

impl<U: FromMessage> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Splits the buffer, copies nothing.
        let message = buffer.copy_to_bytes(buffer.remaining());
        U::from_message(message).map(Some).map_err(|e| status(&e))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(READ_BYTES, YIELD_BYTES)
    }
}
