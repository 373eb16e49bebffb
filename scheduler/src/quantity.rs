//! `resource.Quantity` as the scheduler needs it: whole units, rounded up.

/// A quantity in thousandths (`100m` → 100, `2` → 2000); `None` when it is malformed. Rounds up, saturates.
pub(crate) fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000.0)
}

/// A quantity in whole units (`1Ki` → 1024), rounded up.
pub(crate) fn units(text: &str) -> Option<i64> {
    scaled(text, 1.0)
}

fn scaled(text: &str, scale: f64) -> Option<i64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = factor(suffix)?;
    // Whole numbers stay exact: memory of a large node does not fit a float's mantissa times 1000.
    if let (Ok(whole), true) = (number.parse::<i64>(), factor >= 1.0) {
        return Some(whole.saturating_mul(factor as i64).saturating_mul(scale as i64));
    }
    let value = number.parse::<f64>().ok()? * factor * scale;
    Some((value - 1e-9).ceil() as i64)
}

fn factor(suffix: &str) -> Option<f64> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
        return exponent.parse::<i32>().ok().map(|exponent| 10f64.powi(exponent));
    }
    let power = |base: f64, n: i32| Some(base.powi(n));
    match suffix {
        "" => Some(1.0),
        "n" => power(10.0, -9),
        "u" => power(10.0, -6),
        "m" => power(10.0, -3),
        "k" => power(10.0, 3),
        "M" => power(10.0, 6),
        "G" => power(10.0, 9),
        "T" => power(10.0, 12),
        "P" => power(10.0, 15),
        "E" => power(10.0, 18),
        "Ki" => power(1024.0, 1),
        "Mi" => power(1024.0, 2),
        "Gi" => power(1024.0, 3),
        "Ti" => power(1024.0, 4),
        "Pi" => power(1024.0, 5),
        "Ei" => power(1024.0, 6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, thousandths) in [("100m", 100), ("2", 2000), ("0.5", 500), ("1e3", 1_000_000), ("1500u", 2), ("1k", 1_000_000)] {
            assert_eq!(milli(text), Some(thousandths), "{text}");
        }
        for (text, whole) in
            [("1Ki", 1024), ("1.5Gi", 1_610_612_736), ("128974848", 128_974_848), ("100m", 1), ("1E", 1_000_000_000_000_000_000)]
        {
            assert_eq!(units(text), Some(whole), "{text}");
        }
        for wrong in ["", "x", "1x", "Mi"] {
            assert_eq!(units(wrong), None, "{wrong}");
        }
    }
}
