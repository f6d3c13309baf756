//! Decimal digits of a binary float under the rules of Steele and White's Dragon4, as numpy applies them:
//! shortest digits that read back, cut at a position, rounded on the exact value.
//!
//! The arithmetic is exact. It is generic over the integer's width because most 32-bit floats of an
//! embedding need no more than a `u64`, and the rest must still come out right.

use std::cmp::Ordering;

/// Most digits a caller can ask for: 8 before the decimal point and 8 behind it, and room for a carry.
const MAX_DIGITS: usize = 24;

/// A finite non-zero magnitude `mantissa * 2^exponent`, with what its neighbours look like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Magnitude {
    pub mantissa: u64,
    pub exponent: i32,
    /// The float below is half as far as the float above (the mantissa is a power of two).
    pub unequal_margins: bool,
}

/// Where digits end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    /// Every digit before the decimal point, then shortest digits, but none beyond `10^-n`.
    Decimals(i32),
    /// Shortest digits, but at most `n`.
    Shortest(i32),
    /// Exactly `n` digits, even where fewer would read back.
    Exact(i32),
}

/// Digits `d[0] . d[1] d[2] ..` times `10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Digits {
    digits: [u8; MAX_DIGITS],
    len: usize,
    /// Decimal exponent of the first digit.
    pub exponent: i32,
}

impl Digits {
    /// The digits as ASCII.
    pub fn ascii(&self) -> &[u8] {
        &self.digits[..self.len]
    }

    /// The digits as ASCII, without the zeros they end in.
    pub fn trimmed(&self) -> &[u8] {
        let end = self.ascii().iter().rposition(|&d| d != b'0').map_or(1, |i| i + 1);
        &self.digits[..end]
    }

    /// The digits of `value`.
    pub fn of(value: Magnitude, cut: Cut) -> Self {
        // The decimal exponent of the highest bit, so the value's own or one below. The factor is log10(2) so
        // closely that the floor is right for every exponent of a 64-bit float.
        let bits = 64 - value.mantissa.leading_zeros().cast_signed();
        let guess = ((i64::from(bits - 1 + value.exponent) * 1_292_913_986) >> 32) as i32;
        // 10^n takes at most n * 3.33 bits; the 36 are two for the margins, four for a factor of ten and
        // the thirty by which nine digits can push a margin over the scale.
        let power = |n: i32| (n.max(0) * 107) / 32 + 1;
        let widest = (bits + value.exponent.max(0) + power(-guess)).max(power(guess) - value.exponent.min(0));
        let margin = value.exponent.max(0) + power(-guess) + 36;
        let need = (widest + 8).max(margin);
        if need <= 64 {
            Scaled::<u64>::digits(value, guess, cut)
        } else if need <= 128 {
            Scaled::<u128>::digits(value, guess, cut)
        } else {
            Scaled::<Big>::digits(value, guess, cut)
        }
    }

    fn push(&mut self, digit: u8) {
        self.digits[self.len] = b'0' + digit;
        self.len += 1;
    }

    /// Adds one unit in the last place.
    fn round_up(&mut self) {
        for i in (0..self.len).rev() {
            if self.digits[i] < b'9' {
                self.digits[i] += 1;
                return;
            }
            self.digits[i] = b'0';
        }
        // All nines: 9.99 becomes 10.0, which is 1.00 one decimal exponent up.
        self.digits[0] = b'1';
        self.exponent += 1;
    }
}

/// A magnitude as `value / scale` with `scale <= value < 10 * scale`, and half the way to its neighbours.
struct Scaled<W> {
    value: W,
    scale: W,
    /// The scale's exponent where it is a power of two: then a digit is a shift away.
    shift: Option<u32>,
    low: W,
    high: W,
}

impl<W: Wide> Scaled<W> {
    fn new(m: Magnitude, decimal_exponent: i32) -> Self {
        // Everything is multiplied by four, so that half the distance to the nearer neighbour is whole.
        let up = m.exponent.max(0).cast_unsigned();
        let down = m.exponent.min(0).unsigned_abs() + 2;
        let mut scaled = Self {
            value: W::new(m.mantissa << 2).shl(up),
            scale: W::new(1).shl(down),
            shift: Some(down),
            low: W::new(if m.unequal_margins { 1 } else { 2 }).shl(up),
            high: W::new(2).shl(up),
        };
        let power = decimal_exponent.unsigned_abs();
        match decimal_exponent.cmp(&0) {
            Ordering::Less => {
                scaled.value.mul_pow10(power);
                scaled.low.mul_pow10(power);
                scaled.high.mul_pow10(power);
            }
            Ordering::Equal => {}
            Ordering::Greater => {
                scaled.scale.mul_pow10(power);
                scaled.shift = None;
            }
        }
        scaled
    }

    fn digits(m: Magnitude, guess: i32, cut: Cut) -> Digits {
        let mut exponent = guess;
        let mut scaled = Self::new(m, exponent);
        if scaled.at_least_ten() {
            exponent += 1;
            scaled = Self::new(m, exponent);
        }
        let mut digits = Digits { digits: [b'0'; MAX_DIGITS], len: 0, exponent };
        // Digits end at position `last`, or from position `first` on as soon as they read back.
        let (first, last) = match cut {
            Cut::Decimals(n) => (0, -n),
            Cut::Shortest(n) => (exponent, exponent + 1 - n),
            Cut::Exact(n) => (exponent + 1 - n, exponent + 1 - n),
        };
        let even = m.mantissa.is_multiple_of(2);
        let mut position = exponent;
        // Before that, whether the digits read back is of no account, nor are the margins.
        while position > first {
            digits.push(scaled.take_digit());
            scaled.value.mul_small(10);
            position -= 1;
        }
        if position < exponent {
            let passed = (exponent - position).cast_unsigned();
            scaled.low.mul_pow10(passed);
            scaled.high.mul_pow10(passed);
        }
        loop {
            let digit = scaled.take_digit();
            let low = match scaled.value.cmp(&scaled.low) {
                Ordering::Less => true,
                Ordering::Equal => even,
                Ordering::Greater => false,
            };
            let high = match scaled.value.add(&scaled.high).cmp(&scaled.scale) {
                Ordering::Greater => true,
                Ordering::Equal => even,
                Ordering::Less => false,
            };
            digits.push(digit);
            if position <= last || low || high {
                let up = if low == high {
                    match scaled.value.add(&scaled.value).cmp(&scaled.scale) {
                        Ordering::Less => false,
                        Ordering::Equal => digit % 2 == 1,
                        Ordering::Greater => true,
                    }
                } else {
                    high
                };
                if up {
                    digits.round_up();
                }
                break;
            }
            position -= 1;
            scaled.value.mul_small(10);
            scaled.low.mul_small(10);
            scaled.high.mul_small(10);
        }
        digits
    }

    fn at_least_ten(&self) -> bool {
        let mut ten = self.scale;
        ten.mul_small(10);
        self.value.cmp(&ten) != Ordering::Less
    }

    /// Takes the leading digit off the value.
    fn take_digit(&mut self) -> u8 {
        if let Some(shift) = self.shift {
            return self.value.take_high(shift);
        }
        let mut digit = 0;
        while self.value.cmp(&self.scale) != Ordering::Less {
            self.value.sub(&self.scale);
            digit += 1;
        }
        digit
    }
}

/// An unsigned integer wide enough for the float at hand; callers see to it that nothing overflows.
trait Wide: Copy + Ord {
    fn new(value: u64) -> Self;
    fn shl(self, bits: u32) -> Self;
    fn add(&self, other: &Self) -> Self;
    fn sub(&mut self, other: &Self);
    fn mul_small(&mut self, factor: u64);
    /// Removes and returns the bits from `shift` up; they are a decimal digit.
    fn take_high(&mut self, shift: u32) -> u8;

    fn mul_pow10(&mut self, mut power: u32) {
        while power >= 19 {
            self.mul_small(10_u64.pow(19));
            power -= 19;
        }
        self.mul_small(10_u64.pow(power));
    }
}

macro_rules! primitive {
    ($type:ty) => {
        impl Wide for $type {
            fn new(value: u64) -> Self {
                value.into()
            }

            fn shl(self, bits: u32) -> Self {
                self << bits
            }

            fn add(&self, other: &Self) -> Self {
                self + other
            }

            fn sub(&mut self, other: &Self) {
                *self -= other;
            }

            fn mul_small(&mut self, factor: u64) {
                *self *= Self::from(factor);
            }

            fn take_high(&mut self, shift: u32) -> u8 {
                let high = *self >> shift;
                *self -= high << shift;
                high as u8
            }
        }
    };
}

primitive!(u64);
primitive!(u128);

/// 1,280 bits: the smallest 64-bit float scaled to one digit takes 1,140.
const LIMBS: usize = 20;

/// Little-endian limbs; those from `len` up are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Big {
    limbs: [u64; LIMBS],
    len: usize,
}

impl PartialOrd for Big {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Big {
    fn cmp(&self, other: &Self) -> Ordering {
        let len = self.len.max(other.len);
        self.limbs[..len].iter().rev().cmp(other.limbs[..len].iter().rev())
    }
}

impl Big {
    fn trim(&mut self) {
        while self.len > 0 && self.limbs[self.len - 1] == 0 {
            self.len -= 1;
        }
    }
}

impl Wide for Big {
    fn new(value: u64) -> Self {
        let mut limbs = [0; LIMBS];
        limbs[0] = value;
        Self { limbs, len: 1 }
    }

    fn shl(self, bits: u32) -> Self {
        let (whole, part) = ((bits / 64) as usize, bits % 64);
        let mut limbs = [0; LIMBS];
        let len = (self.len + whole + 1).min(LIMBS);
        for i in 0..self.len {
            let wide = u128::from(self.limbs[i]) << part;
            limbs[i + whole] |= wide as u64;
            if let Some(next) = limbs.get_mut(i + whole + 1) {
                *next = (wide >> 64) as u64;
            }
        }
        let mut shifted = Self { limbs, len };
        shifted.trim();
        shifted
    }

    fn add(&self, other: &Self) -> Self {
        let mut sum = *self;
        let mut carry = 0;
        sum.len = (self.len.max(other.len) + 1).min(LIMBS);
        for i in 0..sum.len {
            let wide = u128::from(self.limbs[i]) + u128::from(other.limbs[i]) + carry;
            sum.limbs[i] = wide as u64;
            carry = wide >> 64;
        }
        sum.trim();
        sum
    }

    fn sub(&mut self, other: &Self) {
        let mut borrow = false;
        for i in 0..self.len {
            let (limb, under) = self.limbs[i].overflowing_sub(other.limbs[i]);
            let (limb, under_borrow) = limb.overflowing_sub(borrow.into());
            self.limbs[i] = limb;
            borrow = under || under_borrow;
        }
        self.trim();
    }

    fn mul_small(&mut self, factor: u64) {
        let mut carry = 0;
        for limb in &mut self.limbs[..self.len] {
            let wide = u128::from(*limb) * u128::from(factor) + carry;
            *limb = wide as u64;
            carry = wide >> 64;
        }
        if carry > 0 {
            self.limbs[self.len] = carry as u64;
            self.len += 1;
        }
    }

    fn take_high(&mut self, shift: u32) -> u8 {
        let (whole, part) = ((shift / 64) as usize, shift % 64);
        let next = self.limbs.get(whole + 1).map_or(0, |&limb| u128::from(limb) << 64);
        let high = (next | u128::from(self.limbs[whole])) >> part;
        self.limbs[whole] &= (1 << part) - 1;
        if let Some(next) = self.limbs.get_mut(whole + 1) {
            *next = 0;
        }
        self.trim();
        high as u8
    }
}
