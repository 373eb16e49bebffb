//! Sums of quantities, exact to the nanounit.

/// Nanounits in one unit.
const UNIT: i128 = 1_000_000_000;
const DECIMAL: [(&str, u32); 10] =
    [("n", 0), ("u", 3), ("m", 6), ("", 9), ("k", 12), ("M", 15), ("G", 18), ("T", 21), ("P", 24), ("E", 27)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Reads a quantity as nanounits, rounded up; what is none counts as nothing.
pub(super) fn parse(text: &str) -> i128 {
    let text = text.trim();
    let end = text.find(|letter: char| !(letter.is_ascii_digit() || matches!(letter, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let scale = if let Some(power) = BINARY.iter().position(|known| *known == suffix) {
        u32::try_from(power).ok().and_then(|power| 1024i128.checked_pow(power + 1)).map(|factor| factor * UNIT)
    } else if let Some((_, power)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        10i128.checked_pow(*power)
    } else {
        let exponent = suffix.strip_prefix(['e', 'E']).and_then(|digits| digits.parse::<u32>().ok());
        exponent.and_then(|exponent| 10i128.checked_pow(exponent.checked_add(9)?))
    };
    scale.and_then(|scale| multiply(number, scale)).unwrap_or_default()
}

/// A decimal number times a whole one, rounded up.
fn multiply(number: &str, scale: i128) -> Option<i128> {
    let (sign, digits) = number.strip_prefix('-').map_or((1, number.trim_start_matches('+')), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let divisor = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = parse(fraction)?.checked_mul(scale)?;
    Some(sign * (parse(whole)?.checked_mul(scale)? + (part + divisor - 1) / divisor))
}

/// Writes nanounits in their canonical form: with the largest suffix that leaves a whole number.
pub(super) fn format(amount: i128, binary: bool) -> String {
    if amount == 0 {
        return "0".to_owned();
    }
    if binary && amount % UNIT == 0 {
        let (mut number, mut suffix) = (amount / UNIT, "");
        for known in BINARY {
            if number % 1024 != 0 {
                break;
            }
            (number, suffix) = (number / 1024, known);
        }
        return format!("{number}{suffix}");
    }
    let fits = DECIMAL.iter().rev().find_map(|(suffix, power)| {
        let scale = 10i128.checked_pow(*power)?;
        (amount % scale == 0).then(|| format!("{}{suffix}", amount / scale))
    });
    fits.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_written_canonically() {
        for (text, binary, expected) in [
            ("100m", false, "100m"),
            ("0.5", false, "500m"),
            ("1500m", false, "1500m"),
            ("2", false, "2"),
            ("1000", false, "1k"),
            ("1e3", false, "1k"),
            ("64Mi", true, "64Mi"),
            ("1.5Gi", true, "1536Mi"),
            ("1000", true, "1000"),
            ("2048", true, "2Ki"),
            ("0", false, "0"),
            ("nonsense", false, "0"),
        ] {
            assert_eq!(format(parse(text), binary), expected, "{text}");
        }
        assert_eq!(format(parse("64Mi") + parse("64Mi"), true), "128Mi");
    }
}
