//! Quantities such as `1.5Gi` (apimachinery `pkg/api/resource`, apiserver `pkg/cel/library/quantity.go`).

use std::cmp::Ordering;

use crate::EvalError;

/// A decimal number: `value` times ten to the power of `scale`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    value: i128,
    scale: i32,
    /// Kept with more digits than 64 bits hold, so that it is never offered as an integer.
    large: bool,
}

const WRONG: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const SUFFIX: &str = "unable to parse quantity's suffix";
const NUMERIC: &str = "unable to parse numeric part of quantity";

/// The base and the exponent of a suffix.
fn suffix(text: &str) -> Option<(u32, i32)> {
    Some(match text {
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "" => (10, 0),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            (10, exponent.parse::<i32>().ok()?)
        }
    })
}

impl Quantity {
    /// Parses a quantity, with upstream's messages.
    pub(crate) fn parse(text: &str) -> Result<Quantity, EvalError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        let whole = unsigned.bytes().take_while(u8::is_ascii_digit).count();
        let fraction = unsigned[whole..].strip_prefix('.').map_or("", |rest| &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()]);
        let dot = usize::from(unsigned[whole..].starts_with('.'));
        let rest = &unsigned[whole + dot + fraction.len()..];
        if text.is_empty() || !well_formed(rest) {
            return Err(EvalError::new(WRONG));
        }
        let digits = unsigned[..whole].trim_start_matches('0');
        // A number of zeros only is zero before its suffix is looked at.
        if whole > 0 && whole == unsigned.len() && digits.is_empty() {
            return Ok(Quantity { value: 0, scale: 0, large: false });
        }
        let (base, exponent) = suffix(rest).ok_or_else(|| EvalError::new(SUFFIX))?;
        let significant = if digits.is_empty() { 1 } else { digits.len() } + fraction.len();
        let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        let mantissa: i128 = format!("0{digits}{fraction}").parse().map_err(|_| EvalError::new(NUMERIC))?;
        let signed = if negative { -mantissa } else { mantissa };
        let quantity = Quantity::assemble(signed, base, exponent, places, significant)?;
        // Without any digit a quantity is zero, unless it would have to be read with many.
        if quantity.large && whole == 0 && fraction.is_empty() {
            return Err(EvalError::new(NUMERIC));
        }
        Ok(quantity)
    }

    fn assemble(mantissa: i128, base: u32, exponent: i32, places: i32, significant: usize) -> Result<Quantity, EvalError> {
        let numeric = || EvalError::new(NUMERIC);
        let factor = if base == 2 { 1_i128 << exponent } else { 1 };
        let value = mantissa.checked_mul(factor).ok_or_else(numeric)?;
        let scale = if base == 10 { exponent } else { 0 }.saturating_sub(places);
        // What upstream keeps in 64 bits, and so offers as an integer.
        let precision = match base {
            10 => 18 - i32::try_from(significant).unwrap_or(i32::MAX),
            _ if places == 0 => 14 - i32::try_from(significant).unwrap_or(i32::MAX) - exponent * 3 / 10,
            _ => -1,
        };
        if precision >= 0 && scale >= -9 && i64::try_from(value).is_ok() {
            return Ok(Quantity { value, scale, large: false });
        }
        // Nothing finer than a billionth is kept; it is rounded away from zero.
        let mut quantity = Quantity { value, scale, large: true };
        while quantity.scale < -9 {
            let rest = i128::from(quantity.value % 10 != 0) * quantity.value.signum();
            quantity.value = quantity.value / 10 + rest;
            quantity.scale += 1;
            if quantity.value.abs() <= 1 {
                quantity.scale = -9;
            }
        }
        Ok(quantity)
    }

    /// A whole number.
    pub(crate) fn whole(value: i64) -> Quantity {
        Quantity { value: value.into(), scale: 0, large: false }
    }

    fn zeros(count: i32) -> Option<i128> {
        10_i128.checked_pow(u32::try_from(count).ok()?)
    }

    /// Both values at the finer of the two scales.
    fn aligned(&self, other: &Quantity) -> Option<(i128, i128, i32)> {
        let scale = self.scale.min(other.scale);
        let at = |one: &Quantity| if one.value == 0 { Some(0) } else { one.value.checked_mul(Quantity::zeros(one.scale - scale)?) };
        Some((at(self)?, at(other)?, scale))
    }

    pub(crate) fn cmp(&self, other: &Quantity) -> Ordering {
        match self.aligned(other) {
            Some((a, b, _)) => a.cmp(&b),
            None => self.approximate().partial_cmp(&other.approximate()).unwrap_or(Ordering::Equal),
        }
    }

    /// The sum; `None` if no room is left for its digits.
    pub(crate) fn add(&self, other: &Quantity) -> Option<Quantity> {
        let (a, b, scale) = self.aligned(other)?;
        let value = a.checked_add(b)?;
        let large = self.large || other.large || i64::try_from(value).is_err();
        Some(Quantity { value, scale, large })
    }

    pub(crate) fn negated(&self) -> Quantity {
        Quantity { value: -self.value, ..*self }
    }

    pub(crate) fn sign(&self) -> i64 {
        i64::try_from(self.value.signum()).unwrap_or_default()
    }

    /// The number, if it is kept as a whole one.
    pub(crate) fn integer(&self) -> Option<i64> {
        if self.large || self.scale < 0 {
            return None;
        }
        if self.value == 0 {
            return Some(0);
        }
        i64::try_from(self.value.checked_mul(Quantity::zeros(self.scale)?)?).ok()
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn approximate(&self) -> f64 {
        if self.scale == 0 { self.value as f64 } else { self.value as f64 * 10_f64.powi(self.scale) }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

/// Letters of suffixes, then perhaps a sign, then digits, and nothing else.
fn well_formed(rest: &str) -> bool {
    let rest = rest.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_count_the_same_in_all_notations() {
        let q = |text| Quantity::parse(text).unwrap();
        assert_eq!(q("1Ki"), q("1024"));
        assert_eq!(q("1500m"), q("1.5"));
        assert_eq!(q("1e3"), q("1k"));
        assert!(q("0.5Gi").cmp(&q("512Mi")) == Ordering::Equal);
        assert_eq!(q("-5k").integer(), Some(-5000));
        assert_eq!(q("1000m").integer(), None);
        assert_eq!(q("1").add(&q("500m")).unwrap(), q("1.5"));
        assert_eq!(q("Ki"), q("0"));
        for wrong in ["", "a", "1x", "1 ", "--1", "1.2.3"] {
            assert!(Quantity::parse(wrong).is_err(), "{wrong}");
        }
    }
}
