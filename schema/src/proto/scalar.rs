//! Values whose protobuf form is a small message of its own.

use super::wire::Backwards;

/// `Timestamp` of an RFC 3339 text; only with `micros` its fraction counts (`Time.ProtoTime`).
pub(super) fn time(text: &str, micros: bool, out: &mut Backwards) -> Result<(), String> {
    let (seconds, nanos) = match canonical(text) {
        Some(parts) => parts,
        None => {
            let at: jiff::Timestamp = text.parse().map_err(|_| format!("{text:?} is no time"))?;
            (at.as_second(), i64::from(at.subsec_nanosecond()))
        }
    };
    out.number(2, if micros { (nanos / 1_000 * 1_000) as u64 } else { 0 });
    out.number(1, seconds as u64);
    Ok(())
}

/// `metav1.Duration`
pub(super) fn duration(text: &str, out: &mut Backwards) -> Result<(), String> {
    let nanos = coracle_cel::duration(text).ok_or_else(|| format!("{text:?} is no duration"))?;
    out.number(1, nanos as u64);
    Ok(())
}

/// `IntOrString` that is text.
pub(super) fn text_alternative(text: &str, out: &mut Backwards) {
    out.bytes(3, text.as_bytes());
    out.number(2, 0);
    out.number(1, 1);
}

/// `IntOrString` that is a number.
pub(super) fn number_alternative(value: i64, out: &mut Backwards) {
    out.bytes(3, b"");
    out.number(2, value as u64);
    out.number(1, 0);
}

/// Seconds and nanoseconds of a time as objects are stored with: `2006-01-02T15:04:05Z`, perhaps with six digits of fraction.
fn canonical(text: &str) -> Option<(i64, i64)> {
    let bytes = text.as_bytes();
    let (date, fraction) = bytes.split_at_checked(19)?;
    let nanos = match fraction {
        b"Z" => 0,
        [b'.', digits @ .., b'Z'] if digits.len() == 6 => number(digits)? * 1_000,
        _ => return None,
    };
    let [y @ .., b'-', mo0, mo1, b'-', d0, d1, b'T', h0, h1, b':', mi0, mi1, b':', s0, s1] = date else { return None };
    let (year, month, day) = (number(y)?, number(&[*mo0, *mo1])?, number(&[*d0, *d1])?);
    let (hour, minute, second) = (number(&[*h0, *h1])?, number(&[*mi0, *mi1])?, number(&[*s0, *s1])?);
    Some(((days(year, month, day) * 24 + hour) * 3_600 + minute * 60 + second, nanos))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0')))
}

/// Days since 1970-01-01 in the Gregorian calendar: years begin in March, so that the leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_to_a_time_leads_where_the_long_one_does() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2024-02-29T23:59:59Z",
            "2000-03-01T00:00:00Z",
            "1969-12-31T00:00:01Z",
            "0001-01-02T00:00:00Z",
            "9998-12-31T23:59:59.123456Z",
        ] {
            let at: jiff::Timestamp = text.parse().unwrap();
            let (seconds, nanos) = canonical(text).unwrap();
            assert_eq!(i128::from(seconds) * 1_000_000_000 + i128::from(nanos), at.as_nanosecond(), "{text}");
        }
        for other in ["2024-02-29T23:59:59+01:00", "2024-02-29", "2024-02-29T23:59:59.5Z", "garbage"] {
            assert_eq!(canonical(other), None);
        }
    }
}
