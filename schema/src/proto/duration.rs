//! `metav1.Duration`: text in JSON (`1h2m3.5s`), nanoseconds in protobuf; both as Go's `time` package has them.

/// Nanoseconds as Go prints a duration: `1h2m3.5s`.
pub fn text(nanos: i64) -> String {
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let decimal = |unit: u64, name: &str| {
        let (whole, rest) = (magnitude / unit, magnitude % unit);
        let digits = unit.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        if rest == 0 { format!("{sign}{whole}{name}") } else { format!("{sign}{whole}.{fraction}{name}") }
    };
    match magnitude {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let minutes = magnitude / 60_000_000_000;
            let seconds = magnitude % 60_000_000_000;
            let mut text = sign.to_owned();
            if minutes >= 60 {
                text.push_str(&format!("{}h", minutes / 60));
            }
            if minutes > 0 {
                text.push_str(&format!("{}m", minutes % 60));
            }
            let fraction = format!("{:09}", seconds % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            text.push_str(&format!("{}{dot}{fraction}s", seconds / 1_000_000_000));
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_and_parse_as_in_go() {
        for (count, written) in [
            (0, "0s"),
            (15, "15ns"),
            (1_500, "1.5µs"),
            (1_500_000, "1.5ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-2_500_000_000, "-2.5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
        ] {
            assert_eq!(text(count), written);
            assert_eq!(coracle_cel::duration(written), Some(count));
        }
        assert_eq!(coracle_cel::duration("1.5h"), Some(5_400_000_000_000));
        for wrong in ["", "-", "1", "s", "1x", ".s", "1..2s", "99999999999h"] {
            assert_eq!(coracle_cel::duration(wrong), None, "{wrong}");
        }
    }
}
