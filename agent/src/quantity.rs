//! Reading Kubernetes quantities (`100m`, `1Gi`, `2e3`); rules from apimachinery `pkg/api/resource/quantity.go`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths of the quantity, rounded up; `None` when it cannot be read.
#[must_use]
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// The quantity in whole units, rounded up; `None` when it cannot be read.
#[must_use]
pub fn value(text: &str) -> Option<i64> {
    scaled(text, 1)
}

/// `name` in a resource list as thousandths (0 when absent or unreadable).
#[must_use]
pub fn milli_of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> i64 {
    list.and_then(|l| l.get(name)).and_then(|q| milli(&q.0)).unwrap_or(0)
}

/// `name` in a resource list in whole units (0 when absent or unreadable).
#[must_use]
pub fn value_of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> i64 {
    list.and_then(|l| l.get(name)).and_then(|q| value(&q.0)).unwrap_or(0)
}

fn scaled(text: &str, unit: i128) -> Option<i64> {
    let digits_end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (mantissa, decimals) = decimal(number)?;
    let (times, divided) = multiplier(suffix)?;
    let numerator = mantissa.checked_mul(times)?.checked_mul(unit)?;
    let denominator = divided.checked_mul(10_i128.checked_pow(decimals)?)?;
    let quotient = numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0);
    Some(i64::try_from(quotient).unwrap_or(if quotient > 0 { i64::MAX } else { i64::MIN }))
}

/// `12.50` as (1250, 2).
fn decimal(number: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let joined = format!("{whole}{fraction}");
    Some((joined.parse().ok()?, u32::try_from(fraction.len()).ok()?))
}

fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (10_i128.pow(15), 1),
        "E" => (10_i128.pow(18), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_upstream_reads_them() {
        for (text, millis, whole) in [
            ("0", 0, 0),
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            (".5", 500, 1),
            ("128Mi", 134_217_728_000, 134_217_728),
            ("2e3", 2_000_000, 2000),
            ("1E", 1_000_000_000_000_000_000_i64.saturating_mul(1000), 1_000_000_000_000_000_000),
            ("100u", 1, 1),
        ] {
            assert_eq!(milli(text), Some(millis), "{text}");
            assert_eq!(value(text), Some(whole), "{text}");
        }
        for text in ["", "m", "1x", "1.2.3", "Mi"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
