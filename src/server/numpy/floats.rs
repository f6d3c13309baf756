//! How numpy lays out the floats of one array: with or without exponents, and how many columns before and
//! behind the point all of them take.

use super::dragon4::{Cut, Digits, Magnitude};
use super::{Words, pad};

/// Decimals of a float at most.
const PRECISION: i32 = 8;

/// A binary float format. Its values are handled as `f64`, which holds all of them exactly.
pub(super) trait Format {
    /// Significant bits.
    const PRECISION: i32;
    /// Exponent of the last bit of a subnormal.
    const MIN_EXPONENT: i32;
    const SIZE_BYTES: usize;
    fn read(element: &[u8]) -> f64;
    /// Whether non-zero magnitudes from `min` to `max` print with exponents, compared as the format compares.
    fn scientific(min: f64, max: f64) -> bool;
}

pub(super) struct Half;

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

pub(super) struct Single;

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

pub(super) struct Double;

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
pub(super) struct Floats<F> {
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
    pub fn measure(data: &[u8]) -> Self {
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
