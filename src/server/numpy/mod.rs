//! The text `repr(ndarray)` gives under `np.set_printoptions(threshold=sys.maxsize)`, byte for byte: what a
//! PaddleServing answer carries. The digits of a float come from `dragon4`.
//!
//! The rules are numpy's `arrayprint` defaults (8 digits of precision, 75 columns) as of 2.2;
//! `docs/compatibility.md` has the cases in which other versions print another text.

mod dragon4;
mod floats;

use crate::tensor::{Datatype, Tensor};
use floats::{Double, Floats, Half, Single};

/// Columns of a line, less the closing parenthesis.
const LINE_WIDTH: usize = 74;
/// Columns of a line for the test that moves the datatype to a line of its own.
const FULL_LINE_WIDTH: usize = 75;
const PREFIX: &[u8] = b"array(";

/// Why a tensor has no numpy text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumpyError {
    /// numpy has no such element type.
    #[error("numpy has no {0} arrays")]
    Datatype(Datatype),
    /// The data does not fill the shape.
    #[error("{shape_bytes} bytes of shape, {data_bytes} bytes of data")]
    Size {
        /// Bytes the shape and the datatype ask for.
        shape_bytes: usize,
        /// Bytes there are.
        data_bytes: usize,
    },
}

/// Appends the `repr` of `tensor` to `out`.
///
/// **Errors:** `Datatype` for `BF16` and `BYTES`, `Size` if the data does not fill the shape; `out` is then as
/// it was.
pub fn write_repr(tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), NumpyError> {
    write(tensor, b"\n", out)
}

/// [`write_repr`] as the inside of a JSON string: the text's only character to escape is the newline.
///
/// **Errors:** as [`write_repr`].
pub fn write_repr_json(tensor: &Tensor, out: &mut Vec<u8>) -> Result<(), NumpyError> {
    write(tensor, b"\\n", out)
}

/// numpy's name of a datatype; `None` where it has none.
#[must_use]
pub const fn dtype_name(datatype: Datatype) -> Option<&'static str> {
    match datatype {
        Datatype::Bool => Some("bool"),
        Datatype::Uint8 => Some("uint8"),
        Datatype::Uint16 => Some("uint16"),
        Datatype::Uint32 => Some("uint32"),
        Datatype::Uint64 => Some("uint64"),
        Datatype::Int8 => Some("int8"),
        Datatype::Int16 => Some("int16"),
        Datatype::Int32 => Some("int32"),
        Datatype::Int64 => Some("int64"),
        Datatype::Fp16 => Some("float16"),
        Datatype::Fp32 => Some("float32"),
        Datatype::Fp64 => Some("float64"),
        Datatype::Bf16 | Datatype::Bytes => None,
    }
}

/// The size of an element and numpy's name of it, if the data fills the shape.
///
/// **Errors:** as [`write_repr`].
pub(super) fn check(tensor: &Tensor) -> Result<(usize, &'static str), NumpyError> {
    let (Some(size_bytes), Some(name)) = (tensor.datatype.size_bytes(), dtype_name(tensor.datatype)) else {
        return Err(NumpyError::Datatype(tensor.datatype));
    };
    let shape_bytes = tensor.shape.iter().try_fold(size_bytes, |n, &side| n.checked_mul(side));
    if shape_bytes != Some(tensor.data.len()) {
        let shape_bytes = shape_bytes.unwrap_or(usize::MAX);
        return Err(NumpyError::Size { shape_bytes, data_bytes: tensor.data.len() });
    }
    Ok((size_bytes, name))
}

fn write(tensor: &Tensor, newline: &'static [u8], out: &mut Vec<u8>) -> Result<(), NumpyError> {
    let (_, name) = check(tensor)?;
    let data: &[u8] = &tensor.data;
    let shape: &[usize] = &tensor.shape;
    let mut page = Page { out, newline, column: 0 };
    page.put(PREFIX);
    if tensor.elements() == 0 {
        page.put(b"[]");
        page.finish(name, (shape != [0]).then_some(shape), true);
        return Ok(());
    }
    match tensor.datatype {
        Datatype::Bool => page.rows(shape, data, 1, &Bools { scalar: shape.is_empty() }),
        Datatype::Uint8 => page.ints(shape, data, |[b]: [u8; 1]| b.into()),
        Datatype::Uint16 => page.ints(shape, data, |b| u16::from_le_bytes(b).into()),
        Datatype::Uint32 => page.ints(shape, data, |b| u32::from_le_bytes(b).into()),
        Datatype::Uint64 => page.ints(shape, data, |b| u64::from_le_bytes(b).into()),
        Datatype::Int8 => page.ints(shape, data, |b| i8::from_le_bytes(b).into()),
        Datatype::Int16 => page.ints(shape, data, |b| i16::from_le_bytes(b).into()),
        Datatype::Int32 => page.ints(shape, data, |b| i32::from_le_bytes(b).into()),
        Datatype::Int64 => page.ints(shape, data, |b| i64::from_le_bytes(b).into()),
        Datatype::Fp16 => page.rows(shape, data, 2, &Floats::<Half>::measure(data)),
        Datatype::Fp32 => page.rows(shape, data, 4, &Floats::<Single>::measure(data)),
        Datatype::Fp64 => page.rows(shape, data, 8, &Floats::<Double>::measure(data)),
        Datatype::Bf16 | Datatype::Bytes => return Err(NumpyError::Datatype(tensor.datatype)),
    }
    let implied = matches!(tensor.datatype, Datatype::Bool | Datatype::Int64 | Datatype::Fp64);
    page.finish(name, None, !implied);
    Ok(())
}

/// The text so far and the column it has reached.
struct Page<'o> {
    out: &'o mut Vec<u8>,
    newline: &'static [u8],
    column: usize,
}

impl Page<'_> {
    fn put(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
        self.column += text.len();
    }

    fn line(&mut self, indent: usize) {
        self.out.extend_from_slice(self.newline);
        self.out.resize(self.out.len() + indent, b' ');
        self.column = indent;
    }

    fn ints<const N: usize>(&mut self, shape: &[usize], data: &[u8], read: fn([u8; N]) -> i128) {
        self.rows(shape, data, N, &Ints::measure(data, read));
    }

    fn rows(&mut self, shape: &[usize], data: &[u8], size_bytes: usize, words: &impl Words) {
        self.out.reserve((data.len() / size_bytes) * (words.width() + 4));
        self.nested(shape, data, size_bytes, words, PREFIX.len() + 1, LINE_WIDTH - 1);
    }

    /// One axis of the array: `indent` columns up to behind its bracket, words up to `right`.
    fn nested(
        &mut self,
        shape: &[usize],
        data: &[u8],
        size_bytes: usize,
        words: &impl Words,
        indent: usize,
        right: usize,
    ) {
        let Some((&len, inner)) = shape.split_first() else {
            words.write(data, self.out);
            self.column += words.width();
            return;
        };
        self.put(b"[");
        if inner.is_empty() {
            for (i, element) in data.chunks_exact(size_bytes).enumerate() {
                if i > 0 {
                    self.put(b",");
                    if self.column + 1 + words.width() > right {
                        self.line(indent);
                    } else {
                        self.put(b" ");
                    }
                }
                words.write(element, self.out);
                self.column += words.width();
            }
        } else {
            for (i, row) in data.chunks_exact(data.len() / len).enumerate() {
                if i > 0 {
                    self.put(b",");
                    for _ in 1..inner.len() {
                        self.line(0);
                    }
                    self.line(indent);
                }
                self.nested(inner, row, size_bytes, words, indent + 1, right.saturating_sub(1));
            }
        }
        self.put(b"]");
    }

    /// The shape if it is not to be seen, the datatype unless it is implied, and the parenthesis.
    fn finish(mut self, dtype: &str, shape: Option<&[usize]>, name_dtype: bool) {
        let mut extras = String::new();
        if let Some(shape) = shape {
            extras.push_str("shape=(");
            for (i, side) in shape.iter().enumerate() {
                if i > 0 {
                    extras.push_str(", ");
                }
                extras.push_str(itoa::Buffer::new().format(*side));
            }
            extras.push_str("), ");
        }
        if name_dtype {
            extras.push_str("dtype=");
            extras.push_str(dtype);
            self.put(b",");
            if self.column + extras.len() + 2 > FULL_LINE_WIDTH {
                self.line(PREFIX.len());
            } else {
                self.put(b" ");
            }
            self.put(extras.as_bytes());
        }
        self.put(b")");
    }
}

/// How the elements of one array print: all equally wide.
trait Words {
    fn width(&self) -> usize;
    fn write(&self, element: &[u8], out: &mut Vec<u8>);
}

struct Bools {
    scalar: bool,
}

impl Words for Bools {
    fn width(&self) -> usize {
        5
    }

    fn write(&self, element: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(match (element, self.scalar) {
            ([0], _) => b"False",
            (_, true) => b"True",
            (_, false) => b" True",
        });
    }
}

struct Ints<const N: usize> {
    read: fn([u8; N]) -> i128,
    width: usize,
}

impl<const N: usize> Ints<N> {
    fn measure(data: &[u8], read: fn([u8; N]) -> i128) -> Self {
        let (chunks, _) = data.as_chunks::<N>();
        let (min, max) = chunks.iter().fold((i128::MAX, i128::MIN), |(min, max), &chunk| {
            let value = read(chunk);
            (min.min(value), max.max(value))
        });
        let mut buffer = itoa::Buffer::new();
        let width = buffer.format(min).len().max(itoa::Buffer::new().format(max).len());
        Self { read, width }
    }
}

impl<const N: usize> Words for Ints<N> {
    fn width(&self) -> usize {
        self.width
    }

    fn write(&self, element: &[u8], out: &mut Vec<u8>) {
        let Some((chunk, _)) = element.split_first_chunk::<N>() else { return };
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format((self.read)(*chunk)).as_bytes();
        pad(out, self.width - text.len());
        out.extend_from_slice(text);
    }
}

fn pad(out: &mut Vec<u8>, spaces: usize) {
    out.resize(out.len() + spaces, b' ');
}
