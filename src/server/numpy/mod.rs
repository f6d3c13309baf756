//! The text `repr(ndarray)` gives under `np.set_printoptions(threshold=sys.maxsize)`, byte for byte: what a
//! PaddleServing answer carries. The digits of a float come from [`dragon4`].
//!
//! The rules are numpy's `arrayprint` defaults (8 digits of precision, 75 columns) as of 2.2;
//! `docs/compatibility.md` has the cases in which other versions print another text.

mod dragon4;

use crate::tensor::{Datatype, Tensor};
use dragon4::{Cut, Digits, Magnitude};

/// Columns of a line, less the closing parenthesis.
const LINE_WIDTH: usize = 74;
/// Columns of a line for the test that moves the datatype to a line of its own.
const FULL_LINE_WIDTH: usize = 75;
const PREFIX: &[u8] = b"array(";
/// Decimals of a float at most.
const PRECISION: i32 = 8;

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

/// A binary float format. Its values are handled as `f64`, which holds all of them exactly.
trait Format {
    /// Significant bits.
    const PRECISION: i32;
    /// Exponent of the last bit of a subnormal.
    const MIN_EXPONENT: i32;
    const SIZE_BYTES: usize;
    fn read(element: &[u8]) -> f64;
    /// Whether non-zero magnitudes from `min` to `max` print with exponents, compared as the format compares.
    fn scientific(min: f64, max: f64) -> bool;
}

struct Half;

impl Format for Half {
    const PRECISION: i32 = 11;
    const MIN_EXPONENT: i32 = -24;
    const SIZE_BYTES: usize = 2;

    fn read(element: &[u8]) -> f64 {
        half::f16::from_le_bytes([element[0], element[1]]).to_f64()
    }

    fn scientific(min: f64, max: f64) -> bool {
        // A quotient of halves is one of singles, rounded. No half reaches 1e8.
        let ratio = half::f16::from_f32(max as f32 / min as f32);
        min < half::f16::from_f64(1e-4).to_f64() || ratio > half::f16::from_f32(1000.0)
    }
}

struct Single;

impl Format for Single {
    const PRECISION: i32 = 24;
    const MIN_EXPONENT: i32 = -149;
    const SIZE_BYTES: usize = 4;

    fn read(element: &[u8]) -> f64 {
        f32::from_le_bytes([element[0], element[1], element[2], element[3]]).into()
    }

    fn scientific(min: f64, max: f64) -> bool {
        let (min, max) = (min as f32, max as f32);
        max >= 1e8 || min < 1e-4 || max / min > 1000.0
    }
}

struct Double;

impl Format for Double {
    const PRECISION: i32 = 53;
    const MIN_EXPONENT: i32 = -1074;
    const SIZE_BYTES: usize = 8;

    fn read(element: &[u8]) -> f64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(element);
        f64::from_le_bytes(bytes)
    }

    fn scientific(min: f64, max: f64) -> bool {
        max >= 1e8 || min < 1e-4 || max / min > 1000.0
    }
}

/// The widths all the floats of one array share.
struct Floats<F> {
    /// Digits of the exponent, where there is one.
    exponent_digits: Option<usize>,
    /// Columns before the decimal point, sign included.
    left: usize,
    /// Columns behind the decimal point; with exponents, those of the exponent come on top.
    right: usize,
    width: usize,
    format: std::marker::PhantomData<F>,
}

impl<F: Format> Floats<F> {
    fn measure(data: &[u8]) -> Self {
        let values = || data.chunks_exact(F::SIZE_BYTES).map(F::read);
        let (mut smallest, mut largest) = (f64::INFINITY, 0.0_f64);
        // The largest magnitude of either sign decides the width before the point.
        let (mut top, mut bottom): (Option<f64>, Option<f64>) = (None, None);
        let (mut unbounded, mut negative_infinity) = (false, false);
        for value in values() {
            if !value.is_finite() {
                unbounded = true;
                negative_infinity |= value == f64::NEG_INFINITY;
                continue;
            }
            let magnitude = value.abs();
            if magnitude > 0.0 {
                smallest = smallest.min(magnitude);
                largest = largest.max(magnitude);
            }
            let side = if value.is_sign_negative() { &mut bottom } else { &mut top };
            *side = Some(side.map_or(magnitude, |m| m.max(magnitude)));
        }
        let mut floats =
            Self { exponent_digits: None, left: 0, right: 0, width: 0, format: std::marker::PhantomData };
        let finite = values().filter(|v| v.is_finite() && *v != 0.0);
        // Columns behind the point that the exponent takes.
        let mut tail = 0;
        if largest > 0.0 && F::scientific(smallest, largest) {
            floats.left = if bottom.is_some() { 2 } else { 1 };
            let mut exponent_digits = 2;
            for value in finite {
                let digits = Digits::of(Self::magnitude(value), Cut::Shortest(PRECISION + 1));
                floats.right = floats.right.max(digits.trimmed().len() - 1);
                exponent_digits = exponent_digits.max(exponent_width(digits.exponent));
                // No three-digit exponents in a format that narrow, and no more decimals than these.
                if floats.right == PRECISION as usize && F::PRECISION < 53 {
                    break;
                }
            }
            floats.exponent_digits = Some(exponent_digits);
            tail = exponent_digits + 2;
        } else {
            let columns = |magnitude: f64| if magnitude == 0.0 { 1 } else { Self::whole(magnitude) };
            floats.left = top.map_or(0, columns).max(bottom.map_or(0, |m| columns(m) + 1));
            for value in finite {
                let digits = Digits::of(Self::magnitude(value), Cut::Decimals(PRECISION));
                let decimals = digits.trimmed().len() as i32 - 1 - digits.exponent;
                floats.right = floats.right.max(usize::try_from(decimals).unwrap_or(0));
                if floats.right == PRECISION as usize {
                    break;
                }
            }
        }
        if unbounded {
            let behind = floats.right + tail + 1;
            floats.left = floats.left.max(3_usize.saturating_sub(behind));
            floats.left = floats.left.max((3 + usize::from(negative_infinity)).saturating_sub(behind));
        }
        floats.width = floats.left + 1 + floats.right + tail;
        floats
    }

    /// Digits before the decimal point, at least one.
    fn whole(magnitude: f64) -> usize {
        let digits = Digits::of(Self::magnitude(magnitude), Cut::Decimals(PRECISION));
        usize::try_from(digits.exponent).map_or(1, |e| e + 1)
    }

    fn magnitude(value: f64) -> Magnitude {
        let bits = value.abs().to_bits();
        let (biased, fraction) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
        let (wide, low) = if biased == 0 { (fraction, -1074) } else { (fraction | (1 << 52), biased - 1075) };
        let exponent = (low + 53 - F::PRECISION).max(F::MIN_EXPONENT);
        let mantissa = wide >> (exponent - low);
        Magnitude {
            mantissa,
            exponent,
            unequal_margins: mantissa == 1 << (F::PRECISION - 1) && exponent > F::MIN_EXPONENT,
        }
    }

    fn write_scientific(&self, value: f64, exponent_digits: usize, out: &mut Vec<u8>) {
        self.write_sign(value, 1, out);
        let count = self.right + 1;
        let exponent = if value == 0.0 {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + self.right, b'0');
            0
        } else {
            let digits = Digits::of(Self::magnitude(value), Cut::Exact(count as i32));
            out.push(digits.ascii()[0]);
            out.push(b'.');
            out.extend_from_slice(&digits.ascii()[1..]);
            digits.exponent
        };
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(exponent.unsigned_abs()).as_bytes();
        out.resize(out.len() + exponent_digits - text.len(), b'0');
        out.extend_from_slice(text);
    }

    fn write_positional(&self, value: f64, out: &mut Vec<u8>) {
        let digits = (value != 0.0).then(|| Digits::of(Self::magnitude(value), Cut::Decimals(PRECISION)));
        let (text, exponent) = digits.as_ref().map_or((&b""[..], -1), |d| (d.trimmed(), d.exponent));
        // Digits before the point, or zeros behind it.
        let whole = usize::try_from(exponent + 1).unwrap_or(0);
        let zeros = usize::try_from(-1 - exponent).unwrap_or(0);
        self.write_sign(value, whole.max(1), out);
        if whole == 0 {
            out.push(b'0');
        }
        let (before, behind) = text.split_at(whole.min(text.len()));
        out.extend_from_slice(before);
        out.resize(out.len() + whole - before.len(), b'0');
        out.push(b'.');
        out.resize(out.len() + zeros, b'0');
        out.extend_from_slice(behind);
        pad(out, self.right - zeros - behind.len());
    }

    /// Spaces and the sign, up to where `whole` digits and the point follow.
    fn write_sign(&self, value: f64, whole: usize, out: &mut Vec<u8>) {
        let negative = value.is_sign_negative();
        pad(out, self.left - whole - usize::from(negative));
        if negative {
            out.push(b'-');
        }
    }
}

impl<F: Format> Words for Floats<F> {
    fn width(&self) -> usize {
        self.width
    }

    fn write(&self, element: &[u8], out: &mut Vec<u8>) {
        let value = F::read(element);
        if !value.is_finite() {
            let text: &[u8] = match value {
                f64::INFINITY => b"inf",
                f64::NEG_INFINITY => b"-inf",
                _ => b"nan",
            };
            pad(out, self.width - text.len());
            out.extend_from_slice(text);
            return;
        }
        match self.exponent_digits {
            Some(digits) => self.write_scientific(value, digits, out),
            None => self.write_positional(value, out),
        }
    }
}

/// Digits of a decimal exponent, at least two.
fn exponent_width(exponent: i32) -> usize {
    if exponent.abs() < 100 { 2 } else { 3 }
}
