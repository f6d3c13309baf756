//! How near an output came to what it must be: pure arithmetic, in double precision.

use half::{bf16, f16};

use crate::model::golden::Bound;
use crate::tensor::Datatype;

/// How one row of an output agrees with its expectation.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::scheduler) struct Agreement {
    /// `a·b / (|a| |b|)`; 1 where both are zero, 0 where one is, NaN where `a` is no number. Integers have none.
    pub cosine: Option<f64>,
    /// `|a| / |b|`: the cosine alone would pass an output that is all twice as large. 1 for integers.
    pub stretch: f64,
    /// Largest `|a - b|`; infinite where `a` is no number.
    pub difference: f64,
    /// Values that differ at all.
    pub unequal: usize,
    /// Values that there are, and that there must be.
    pub values: (usize, usize),
}

/// Compares `got`, what an engine answered, with `want`; both `datatype`, little-endian.
pub(in crate::scheduler) fn compare(datatype: Datatype, got: &[u8], want: &[u8]) -> Agreement {
    let (a, b) = (numbers(datatype, got), numbers(datatype, want));
    let size = datatype.size_bytes().unwrap_or(1);
    let unequal = got.chunks(size).zip(want.chunks(size)).filter(|(a, b)| a != b).count();
    let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, larger);
    let values = (a.len(), b.len());
    if !floating(datatype) {
        return Agreement { cosine: None, stretch: 1.0, difference, unequal, values };
    }
    let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
    let (aa, bb) = (square(&a), square(&b));
    let dot: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    let (cosine, stretch) = match (aa == 0.0, bb == 0.0) {
        (true, true) => (1.0, 1.0),
        (true, false) => (0.0, 0.0),
        (false, true) => (0.0, f64::INFINITY),
        // Rounding may carry it past 1.
        (false, false) => ((dot / (aa.sqrt() * bb.sqrt())).min(1.0), (aa / bb).sqrt()),
    };
    let cosine = match (aa.is_finite(), unequal) {
        (false, _) => f64::NAN,
        (true, 0) if got.len() == want.len() => 1.0,
        (true, _) => cosine,
    };
    Agreement { cosine: Some(cosine), stretch, difference, unequal, values }
}

/// The larger of two; NaN counts as infinite.
fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}

fn floating(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// The values of a tensor.
pub(in crate::scheduler) fn numbers(datatype: Datatype, bytes: &[u8]) -> Vec<f64> {
    use Datatype as D;
    match datatype {
        D::Bool | D::Uint8 | D::Bytes => bytes.iter().map(|b| f64::from(*b)).collect(),
        D::Int8 => each(bytes, |b| f64::from(i8::from_le_bytes(b))),
        D::Uint16 => each(bytes, |b| f64::from(u16::from_le_bytes(b))),
        D::Int16 => each(bytes, |b| f64::from(i16::from_le_bytes(b))),
        D::Uint32 => each(bytes, |b| f64::from(u32::from_le_bytes(b))),
        D::Int32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
        D::Uint64 => each(bytes, |b| u64::from_le_bytes(b) as f64),
        D::Int64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        D::Fp16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        D::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        D::Fp32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))),
        D::Fp64 => each(bytes, f64::from_le_bytes),
    }
}

fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect()
}

impl Agreement {
    /// Of an output that was found to hold NaN before it came here.
    pub const NAN: Self = Self {
        cosine: Some(f64::NAN),
        stretch: f64::NAN,
        difference: f64::INFINITY,
        unequal: 0,
        values: (0, 0),
    };

    /// Whether this is beyond `bound`: a score, lower for worse, and the end of a sentence that says how far.
    ///
    /// With a cosine `c`, an error may be `sqrt(2 (1 - c))` of the row's length sideways; so much it may be
    /// lengthwise too, which the cosine does not see. Integers must be equal, unless `absolute` says more.
    pub fn beyond(&self, bound: &Bound) -> Option<(f64, String)> {
        let (got, want) = self.values;
        if got != want {
            return Some((f64::NEG_INFINITY, format!("has {got} values, and must have {want}")));
        }
        if !self.difference.is_finite() || self.cosine.is_some_and(f64::is_nan) {
            return Some((f64::NEG_INFINITY, "holds NaN or infinity".to_owned()));
        }
        if let (Some(cosine), Some(least)) = (self.cosine, bound.cosine) {
            if cosine < least {
                return Some((cosine, format!("has cosine {} to what it must be", digits(cosine))));
            }
            let room = (2.0 * (1.0 - least)).max(0.0).sqrt();
            if (self.stretch - 1.0).abs() > room.max(ROUNDING) {
                let text = format!(
                    "is {:.4} times as long as it must be, and may differ by {room:.4}; its cosine is {}",
                    self.stretch,
                    digits(cosine)
                );
                return Some((2.0 / (self.stretch + 1.0 / self.stretch), text));
            }
        }
        match bound.absolute {
            Some(most) if self.difference > most => Some((
                -self.difference,
                format!("differs by {} from what it must be", self.difference as f32),
            )),
            None if self.cosine.is_none() && self.unequal > 0 => {
                let text = format!("differs in {} of {got} values, and integers must be equal", self.unequal);
                Some((-1.0, text))
            }
            _ => None,
        }
    }

    /// The worse of both in every respect.
    pub fn worse(self, other: Self) -> Self {
        let cosine = match (self.cosine, other.cosine) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let further = |a: f64, b: f64| if (a - 1.0).abs() > (b - 1.0).abs() { a } else { b };
        Self {
            cosine,
            stretch: further(self.stretch, other.stretch),
            difference: self.difference.max(other.difference),
            unequal: self.unequal.max(other.unequal),
            values: other.values,
        }
    }
}

/// What two ways of adding up FP32 may differ by, so that `cosine = 1` can be met at all.
const ROUNDING: f64 = 1e-6;

/// Six digits, cut off: a cosine below its bound never looks equal to it.
pub(super) fn digits(cosine: f64) -> String {
    format!("{:.6}", (cosine * 1e6).floor() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp32(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    const COSINE: Bound = Bound { cosine: Some(0.999), absolute: None };
    const ABSOLUTE: Bound = Bound { cosine: None, absolute: Some(0.01) };

    #[test]
    fn floats_by_cosine_length_and_difference() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        type Row<'a> = (&'a [f32], &'a [f32], Bound, Option<&'a str>);
        let table: [Row<'_>; 20] = [
            (&[1.0, 2.0], &[1.0, 2.0], COSINE, None),
            (&[3.0, 4.0], &[4.0, 3.0], COSINE, Some("cosine 0.960000")),
            (&[-1.0, 0.0], &[1.0, 0.0], COSINE, Some("cosine -1.000000")),
            // The angle of cosine 0.999 is 0.0447: a bit less and a bit more of it.
            (&[1.0, 0.044], &[1.0, 0.0], COSINE, None),
            (&[1.0, 0.046], &[1.0, 0.0], COSINE, Some("cosine 0.998943")),
            // And lengthwise: sqrt(2 * 0.001) = 0.0447.
            (&[1.044, 0.0], &[1.0, 0.0], COSINE, None),
            (
                &[1.046, 0.0],
                &[1.0, 0.0],
                COSINE,
                Some("1.0460 times as long as it must be, and may differ by 0.0447"),
            ),
            (&[0.95, 0.0], &[1.0, 0.0], COSINE, Some("0.9500 times as long")),
            (&[2.0], &[1.0], COSINE, Some("2.0000 times as long")),
            (&[0.0, 0.0], &[0.0, 0.0], COSINE, None),
            (&[0.0, 0.0], &[0.0, 1e-3], COSINE, Some("cosine 0.000000")),
            (&[1e-3, 0.0], &[0.0, 0.0], COSINE, Some("cosine 0.000000")),
            (&[nan, 1.0], &[0.0, 1.0], COSINE, Some("NaN or infinity")),
            (&[inf, 1.0], &[0.0, 1.0], COSINE, Some("NaN or infinity")),
            (&[1.0, nan], &[1.0, 2.0], ABSOLUTE, Some("NaN or infinity")),
            (&[-inf, 2.0], &[1.0, 2.0], ABSOLUTE, Some("NaN or infinity")),
            (&[1.0, 2.0], &[1.009, 1.991], ABSOLUTE, None),
            (&[1.0, 2.0], &[1.011, 2.0], ABSOLUTE, Some("differs by 0.01")),
            (&[1.0], &[1.0, 2.0], COSINE, Some("has 1 values, and must have 2")),
            (&[1.0, 2.0, 3.0], &[1.0, 2.0], ABSOLUTE, Some("has 3 values, and must have 2")),
        ];
        for (got, want, bound, text) in table {
            let found = compare(Datatype::Fp32, &fp32(got), &fp32(want)).beyond(&bound).map(|(_, text)| text);
            let same = match (&found, text) {
                (None, None) => true,
                (Some(found), Some(text)) => found.contains(text),
                _ => false,
            };
            assert!(same, "{got:?} for {want:?} within {bound}: {found:?}, not {text:?}");
        }
        let both = Bound { cosine: Some(0.9), absolute: Some(0.01) };
        let far = compare(Datatype::Fp32, &fp32(&[1.0, 100.0]), &fp32(&[1.1, 100.0]));
        assert!(far.beyond(&both).is_some_and(|(_, text)| text.contains("differs by 0.1")));
        let exact = Bound { cosine: Some(1.0), absolute: None };
        let thirds = fp32(&[0.1, 0.2, 0.3, 1e-7]);
        assert_eq!(compare(Datatype::Fp32, &thirds, &thirds).beyond(&exact), None);
    }

    #[test]
    fn every_datatype_is_read_as_what_it_is() {
        for (datatype, got, want, difference) in [
            (Datatype::Bool, &[1][..], &[0][..], 1.0),
            (Datatype::Uint8, &[255], &[0], 255.0),
            (Datatype::Int8, &[255], &[1], 2.0),
            (Datatype::Uint16, &[0, 1], &[0, 0], 256.0),
            (Datatype::Int16, &[255, 255], &[1, 0], 2.0),
            (Datatype::Uint32, &[0, 0, 1, 0], &[0, 0, 0, 0], 65536.0),
            (Datatype::Int32, &[255; 4], &[1, 0, 0, 0], 2.0),
            (Datatype::Uint64, &[0, 0, 0, 0, 1, 0, 0, 0], &[0; 8], 4_294_967_296.0),
            (Datatype::Int64, &[255; 8], &[1, 0, 0, 0, 0, 0, 0, 0], 2.0),
            (Datatype::Fp16, &[0x00, 0x3c], &[0x00, 0x40], 1.0),
            (Datatype::Bf16, &[0x80, 0x3f], &[0x00, 0x40], 1.0),
            (Datatype::Fp32, &1.5f32.to_le_bytes(), &2.0f32.to_le_bytes(), 0.5),
            (Datatype::Fp64, &1.5f64.to_le_bytes(), &2.0f64.to_le_bytes(), 0.5),
        ] {
            let agreement = compare(datatype, got, want);
            assert_eq!((agreement.difference, agreement.unequal), (difference, 1), "{datatype}");
            let lenient = Bound { cosine: Some(-1.0), absolute: None };
            // Integers must be equal under any cosine, and may differ by what `absolute` says.
            assert_eq!(agreement.beyond(&lenient).is_some(), !floating(datatype), "{datatype}");
            let absolute = |v| Bound { cosine: None, absolute: Some(v) };
            assert_eq!(agreement.beyond(&absolute(difference)), None, "{datatype}");
            assert!(agreement.beyond(&absolute(difference * 0.9)).is_some(), "{datatype}");
        }
    }

    #[test]
    fn the_worse_of_two_is_worse_in_every_respect() {
        let a = compare(Datatype::Fp32, &fp32(&[1.0, 0.1]), &fp32(&[1.0, 0.0]));
        let b = compare(Datatype::Fp32, &fp32(&[3.0, 0.0]), &fp32(&[2.0, 0.0]));
        let worst = a.clone().worse(b.clone());
        assert_eq!((worst.cosine, worst.stretch, worst.difference), (a.cosine, 1.5, 1.0));
        assert_eq!(b.worse(a), worst);
    }

    #[test]
    fn a_cosine_below_its_bound_never_looks_equal_to_it() {
        assert_eq!(digits(0.999_499_999), "0.999499");
        assert_eq!(digits(-0.5), "-0.500000");
        assert_eq!(digits(1.0), "1.000000");
    }
}
