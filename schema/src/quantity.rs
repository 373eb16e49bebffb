//! `resource.Quantity`: a number with a unit, kept exactly to the billionth.
//!
//! Rules and wording of apimachinery's `api/resource`: any of the three notations is read; the canonical text keeps the notation, has no
//! fraction and the largest unit that divides the number.

use std::{cmp::Ordering, fmt, str::FromStr};

const NANO: i128 = 1_000_000_000;
/// Larger numbers are cut to this, as upstream does.
const MOST: i128 = i64::MAX as i128 * NANO;

/// How a quantity is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// `12`, `1500m`, `2k`
    #[default]
    DecimalSi,
    /// `1Gi`
    BinarySi,
    /// `12e6`
    DecimalExponent,
}

/// An exact number with the notation it was given in. Ordered and compared by number alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuantityError {
    /// It has not the form of one.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    /// The number part is none.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The unit is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A whole number.
    pub fn new(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// A number of thousandths, as CPU is counted.
    pub fn from_milli(value: i64) -> Self {
        Self { nanos: i128::from(value) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The whole number, fractions rounded away from zero.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// The number of thousandths, smaller fractions rounded away from zero.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// The same with nothing finer than a thousandth: how resource lists are stored.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        let unit = NANO / 1000;
        Self { nanos: divide_up(self.nanos, unit) * unit, ..self }
    }

    /// Whether it is a whole number.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    fn scaled(self, unit: i128) -> i64 {
        let number = divide_up(self.nanos, unit);
        i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
    }

    /// `self` when it is not zero decides the notation of a sum, else the other.
    fn combined(self, other: Self, nanos: i128) -> Self {
        Self { nanos, format: if self.is_zero() { other.format } else { self.format } }
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.combined(other, self.nanos.saturating_add(other.nanos))
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.combined(other, self.nanos.saturating_sub(other.nanos))
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, |sum, item| sum + item)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            None => return Err(QuantityError::Form),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if !suffix_has_form(suffix) {
            return Err(QuantityError::Form);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(QuantityError::Form);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Number);
        }
        let (scale, format) = unit(suffix).ok_or(QuantityError::Suffix)?;
        let nanos = scale.apply(whole, fraction);
        let format = if format == Format::BinarySi && nanos > 0 && nanos < NANO { Format::DecimalSi } else { format };
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kibi = 1024 * NANO;
        if self.format == Format::BinarySi && (self.nanos <= -kibi || self.nanos >= kibi) {
            let mut number = divide_up(self.nanos, NANO);
            let mut step = 0;
            while number % 1024 == 0 && step < 6 {
                number /= 1024;
                step += 1;
            }
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let (mut number, mut step) = (self.nanos, 0);
        while number != 0 && number % 1000 == 0 && step < 9 {
            number /= 1000;
            step += 1;
        }
        if number == 0 {
            return f.write_str("0");
        }
        if self.format == Format::DecimalExponent {
            let exponent = i32::try_from(step).unwrap_or_default() * 3 - 9;
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        write!(f, "{number}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][step])
    }
}

/// Parses a quantity and writes it in its canonical form.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    Ok(text.parse::<Quantity>()?.to_string())
}

/// What a unit multiplies by.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

impl Scale {
    /// The number of billionths of `whole.fraction` in this unit, rounded up, at most [`MOST`].
    fn apply(self, whole: &str, fraction: &str) -> i128 {
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        // digits * 10^exponent, then times 2^bits
        let (exponent, bits) = match self {
            Self::Ten(power) => (power - fraction.len() as i32, 0),
            Self::Two(bits) => (-(fraction.len() as i32), bits),
        };
        let mut digits: i128 = 0;
        let mut lost = false;
        let mut dropped = 0i32;
        for digit in whole.bytes().chain(fraction.bytes()) {
            if digits >= i128::MAX / 100 {
                dropped += 1;
                lost |= digit != b'0';
                continue;
            }
            digits = digits * 10 + i128::from(digit - b'0');
        }
        if digits == 0 {
            return 0;
        }
        let exponent = exponent.saturating_add(dropped).saturating_add(9);
        let mut number = digits;
        for _ in 0..bits {
            number = number.saturating_mul(2);
        }
        if number == i128::MAX && exponent >= 0 {
            return MOST;
        }
        if exponent >= 0 {
            for _ in 0..exponent.min(64) {
                number = number.saturating_mul(10);
            }
        } else {
            let mut divisor: i128 = 1;
            for _ in 0..(-exponent).min(38) {
                divisor = divisor.saturating_mul(10);
            }
            lost |= number % divisor != 0;
            number /= divisor;
            if lost {
                number += 1;
            }
        }
        number.min(MOST)
    }
}

/// Whether a suffix could be one: `[eEinumkKMGTP]*[-+]?[0-9]*`.
fn suffix_has_form(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

fn unit(suffix: &str) -> Option<(Scale, Format)> {
    let decimal = |power| Some((Scale::Ten(power), Format::DecimalSi));
    let binary = |bits| Some((Scale::Two(bits), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            Some((Scale::Ten(power), Format::DecimalExponent))
        }
    }
}

/// Division that rounds away from zero.
fn divide_up(number: i128, by: i128) -> i128 {
    let whole = number / by;
    if number % by == 0 { whole } else { whole + number.signum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn the_canonical_text_has_no_fraction_and_the_largest_unit() {
        for (given, canonical) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("100k", "100k"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Mi", "512Ki"),
            ("0.5Ki", "512"),
            ("512", "512"),
            ("1023Ki", "1023Ki"),
            ("12e6", "12e6"),
            ("12E6", "12e6"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("+1", "1"),
            ("-1.5", "-1500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("0.1n", "1n"),
            ("1n", "1n"),
            ("00001", "1"),
            ("0Ki", "0"),
            ("0.0001Ki", "102400u"),
            ("3Mi", "3Mi"),
        ] {
            assert_eq!(super::canonical(given).as_deref(), Ok(canonical), "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_upstreams_words() {
        assert_eq!("".parse::<Quantity>(), Err(QuantityError::Form));
        assert_eq!("1Foo".parse::<Quantity>(), Err(QuantityError::Form));
        assert_eq!("abc".parse::<Quantity>(), Err(QuantityError::Form));
        assert_eq!("1kk".parse::<Quantity>(), Err(QuantityError::Suffix));
        assert_eq!("1ki".parse::<Quantity>(), Err(QuantityError::Suffix));
        assert_eq!(".".parse::<Quantity>(), Err(QuantityError::Number));
        assert_eq!("1 ".parse::<Quantity>(), Err(QuantityError::Form));
        assert_eq!("1.1.1".parse::<Quantity>(), Err(QuantityError::Form));
    }

    #[test]
    fn numbers_too_large_are_cut_and_too_fine_are_rounded_up() {
        assert_eq!(q("100000000000000000000").value(), i64::MAX);
        assert_eq!(q("1e100").value(), i64::MAX);
        assert_eq!(q("999999Ei").value(), i64::MAX);
        assert_eq!(q("0.00000000001").to_string(), "1n");
        assert_eq!(q("1e-100").to_string(), "1e-9");
        assert_eq!(q("100u").round_up_to_milli().to_string(), "1m");
    }

    #[test]
    fn numbers_compare_and_add_whatever_their_notation() {
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + q("1Ki")).to_string(), "1Ki");
        assert_eq!((q("1") - q("1500m")).to_string(), "-500m");
        assert_eq!((q("100m").milli_value(), q("100m").value(), q("1.5").milli_value()), (100, 1, 1500));
        assert_eq!([q("100m"), q("0.2")].into_iter().sum::<Quantity>().to_string(), "300m");
        assert_eq!(Quantity::from_milli(250).to_string(), "250m");
    }
}
