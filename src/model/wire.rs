//! Reads an ONNX file whatever is in it. rten-onnx 0.27 reads ten bytes with their high bits set, where a number
//! should be, for ever, takes memory for as many bytes as a field claims to have, and one stack frame after another for
//! graphs within graphs; this reader does none of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};

use rten_onnx::onnx::ModelProto;
use rten_onnx::protobuf::{DecodeMessage, ErrorKind, OwnedValues, ProtobufError, ReadValue};

/// Graphs within graphs. protobuf's own readers end at 100 messages within each other, and a graph takes three.
const MAX_NESTED_GRAPHS: usize = 33;

/// Parses a file.
///
/// # Errors
/// A sentence: it cannot be read, or is no ONNX.
pub(crate) fn parse_file(file: File) -> Result<ModelProto, String> {
    let size = file.metadata().map_err(|e| format!("cannot be read: {e}"))?.len();
    parse(BufReader::new(file), size)
}

/// Parses bytes.
///
/// # Errors
/// As [`parse_file`].
#[cfg(any(test, feature = "tensorrt"))]
pub(crate) fn parse_bytes(bytes: &[u8]) -> Result<ModelProto, String> {
    parse(std::io::Cursor::new(bytes), bytes.len() as u64)
}

fn parse(inner: impl BufRead + Seek, size: u64) -> Result<ModelProto, String> {
    let mut source = Bounded { inner, at: 0, size };
    if nested_graphs(&mut source) > MAX_NESTED_GRAPHS {
        return Err(format!(
            "is not an ONNX model: it has more than {MAX_NESTED_GRAPHS} graphs within each other"
        ));
    }
    source.inner.seek(SeekFrom::Start(0)).map_err(|e| format!("cannot be read: {e}"))?;
    ModelProto::decode(Bounded { at: 0, ..source }).map_err(|e| format!("is not an ONNX model: {e}"))
}

/// A message that a graph can be in, or can be in a graph.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
}

impl Message {
    /// What is in a field of it. Source of the numbers: onnx.proto.
    const fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Graph, 1) => Some(Self::Node),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Model | Self::Graph | Self::Node | Self::Attribute, _) => None,
        }
    }
}

/// How many graphs are within each other, at most, up to one more than is allowed. Ends where the bytes make no sense:
/// the parser says why.
fn nested_graphs<R: BufRead + Seek>(source: &mut Bounded<R>) -> usize {
    let mut open = vec![(source.size, Message::Model)];
    let (mut graphs, mut most) = (0, 0);
    while let Some(&(end, message)) = open.last() {
        if source.at >= end {
            open.pop();
            graphs -= usize::from(message == Message::Graph);
            continue;
        }
        let Ok(tag) = source.read_varint() else { break };
        let known = match tag & 7 {
            0 => source.read_varint().is_ok(),
            1 => source.skip(8).is_ok(),
            5 => source.skip(4).is_ok(),
            2 => match (source.read_varint(), message.field(tag >> 3)) {
                (Ok(length), Some(inner)) if length <= end.saturating_sub(source.at) => {
                    open.push((source.at + length, inner));
                    graphs += usize::from(inner == Message::Graph);
                    most = most.max(graphs);
                    most <= MAX_NESTED_GRAPHS
                }
                (Ok(length), None) => usize::try_from(length).is_ok_and(|n| source.skip(n).is_ok()),
                (Ok(_) | Err(_), _) => false,
            },
            _ => false,
        };
        if !known {
            break;
        }
    }
    most
}

/// A source of `size` bytes.
struct Bounded<R> {
    inner: R,
    at: u64,
    size: u64,
}

impl<R: BufRead + Seek> Bounded<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ProtobufError> {
        if buffer.len() as u64 > self.size.saturating_sub(self.at) {
            return Err(ProtobufError::new(ErrorKind::Eof));
        }
        self.inner.read_exact(buffer)?;
        self.at += buffer.len() as u64;
        Ok(())
    }
}

impl<R: BufRead + Seek> ReadValue for Bounded<R> {
    type Types = OwnedValues;

    fn read_i32(&mut self) -> Result<i32, ProtobufError> {
        let mut buffer = [0; 4];
        self.fill(&mut buffer)?;
        Ok(i32::from_le_bytes(buffer))
    }

    fn read_i64(&mut self) -> Result<i64, ProtobufError> {
        let mut buffer = [0; 8];
        self.fill(&mut buffer)?;
        Ok(i64::from_le_bytes(buffer))
    }

    fn read_varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        // Nine bytes of seven bits, and one of one.
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            // Where a field may begin, this is how a message ends.
            self.fill(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                let fits = shift < 63 || byte[0] <= 1;
                return if fits { Ok(value) } else { Err(ProtobufError::new(ErrorKind::InvalidVarint)) };
            }
        }
        Err(ProtobufError::new(ErrorKind::InvalidVarint))
    }

    fn read_bytes(&mut self, len: usize) -> Result<Vec<u8>, ProtobufError> {
        if len as u64 > self.size.saturating_sub(self.at) {
            return Err(ProtobufError::new(ErrorKind::Eof));
        }
        let mut buffer = vec![0; len];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    fn read_string(&mut self, len: usize) -> Result<String, ProtobufError> {
        String::from_utf8(self.read_bytes(len)?).map_err(|_| ProtobufError::new(ErrorKind::InvalidUtf8))
    }

    fn skip(&mut self, len: usize) -> Result<(), ProtobufError> {
        let eof = || ProtobufError::new(ErrorKind::Eof);
        let len =
            u64::try_from(len).ok().filter(|l| *l <= self.size.saturating_sub(self.at)).ok_or_else(eof)?;
        self.inner.seek_relative(i64::try_from(len).map_err(|_| eof())?)?;
        self.at += len;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_model_reads_as_it_does_with_the_crate() {
        let bytes = std::fs::read("engines/ArcFace/1/model.onnx").unwrap();
        let ours = parse_bytes(&bytes).unwrap().write_buf().unwrap();
        let theirs = ModelProto::parse_buf(&bytes).unwrap().write_buf().unwrap();
        assert!(ours == theirs);
        let file = parse_file(File::open("engines/ArcFace/1/model.onnx").unwrap()).unwrap();
        assert!(file.write_buf().unwrap() == theirs);
    }

    #[test]
    fn what_is_hostile_ends() {
        let cases: [(&str, Vec<u8>); 6] = [
            ("a tag without an end", vec![0xff; 64]),
            ("ten bytes", vec![0xff; 10]),
            ("more than 64 bits", [&[0xff; 9][..], &[2]].concat()),
            ("a number without an end", [&[0x08][..], &[0x80; 64]].concat()),
            // producer_name, of 2^46 bytes.
            ("a string of 64 TiB", vec![0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]),
            // A field that nobody knows, of 2^46 bytes.
            ("a field of 64 TiB", vec![0x7a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]),
        ];
        for (name, bytes) in cases {
            let error = parse_bytes(&bytes).map(|_| ()).expect_err(name);
            assert!(error.starts_with("is not an ONNX model: "), "{name}: {error}");
        }
    }

    /// A model with that many graphs within each other, the innermost with an empty name.
    fn nested(graphs: usize) -> Vec<u8> {
        let within = |tag: u8, message: &mut Vec<u8>| {
            let mut length = message.len();
            let mut head = vec![tag];
            while length >= 0x80 {
                head.push(length as u8 | 0x80);
                length >>= 7;
            }
            head.push(length as u8);
            message.splice(..0, head);
        };
        let mut message = vec![0x12, 0];
        for level in (0..graphs).rev() {
            let path: &[u8] = if level == 0 { &[0x3a] } else { &[0x32, 0x2a, 0x0a] };
            path.iter().for_each(|tag| within(*tag, &mut message));
        }
        message
    }

    #[test]
    fn graphs_within_graphs_are_counted_before_they_are_read() {
        for (graphs, fine) in [(1, true), (33, true), (34, false), (20_000, false)] {
            let outcome = parse_bytes(&nested(graphs)).map(|_| ());
            assert_eq!(outcome.is_ok(), fine, "{graphs}: {outcome:?}");
            assert!(fine || outcome.unwrap_err().contains("more than 33 graphs"), "{graphs}");
        }
    }
}
