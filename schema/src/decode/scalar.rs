//! Texts with a form of their own: times, bytes, quantities. Each is checked and made canonical; errors are Go's.

use base64::{DecodeError as Base64Error, Engine, engine::general_purpose::STANDARD};

use coracle_tree::Text;

use crate::{quantity::Quantity, time};

/// Layouts of Go's `time` package, as they appear in its errors.
const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `metav1.Time`: RFC 3339 in, UTC with whole seconds out; `None` for Go's zero time.
pub(super) fn time(text: &str) -> Result<Option<String>, String> {
    let at = parse_time(text, SECONDS)?;
    Ok((at.as_second() != ZERO_TIME).then(|| time::seconds(at)))
}

/// `metav1.MicroTime`: RFC 3339 with exactly six digits of fraction.
pub(super) fn micro_time(text: &str) -> Result<Option<String>, String> {
    let at = parse_time(text, MICROS)?;
    Ok((at.as_second() != ZERO_TIME).then(|| time::micros(at)))
}

/// 0001-01-01T00:00:00Z
const ZERO_TIME: i64 = -62_135_596_800;

fn parse_time(text: &str, layout: &'static str) -> Result<jiff::Timestamp, String> {
    let cannot = |rest: &str, element: &str| format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}");
    let out_of_range = |what: &str| format!("parsing time {text:?}: {what} out of range");
    let mut rest = text;
    let mut parts = [0i32; 6];
    let elements = [("2006", 4, "-"), ("01", 2, "-"), ("02", 2, "T"), ("15", 2, ":"), ("04", 2, ":"), ("05", 2, "")];
    for (at, (element, width, separator)) in elements.into_iter().enumerate() {
        let digits = rest.get(..width).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).ok_or_else(|| cannot(rest, element))?;
        parts[at] = digits.parse().unwrap_or_default();
        rest = &rest[width..];
        rest = rest.strip_prefix(separator).ok_or_else(|| cannot(rest, separator))?;
    }
    let [year, month, day, hour, minute, second] = parts;
    for (value, low, high, what) in [(month, 1, 12, "month"), (hour, 0, 23, "hour"), (minute, 0, 59, "minute"), (second, 0, 59, "second")] {
        if value < low || value > high {
            return Err(out_of_range(what));
        }
    }
    let (nanos, rest) = fraction(rest, layout).ok_or_else(|| cannot(rest, ".000000"))?;
    let offset = offset_seconds(rest).ok_or_else(|| cannot(rest, "Z07:00"))?;
    let narrow = |n: i32| i8::try_from(n).unwrap_or_default();
    let date = jiff::civil::DateTime::new(
        i16::try_from(year).unwrap_or_default(),
        narrow(month),
        narrow(day),
        narrow(hour),
        narrow(minute),
        narrow(second),
        nanos,
    );
    let date = date.map_err(|_| out_of_range("day"))?;
    let zone = jiff::tz::Offset::from_seconds(offset).map_err(|_| cannot(rest, "Z07:00"))?;
    zone.to_timestamp(date).map_err(|_| out_of_range("year"))
}

/// The fraction in nanoseconds and what follows it. Six digits are a must for [`MICROS`] and any number is allowed otherwise.
fn fraction<'a>(rest: &'a str, layout: &str) -> Option<(i32, &'a str)> {
    let must = layout == MICROS;
    let Some(after) = rest.strip_prefix(['.', ',']) else { return (!must).then_some((0, rest)) };
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    if end == 0 || (must && end != 6) {
        return None;
    }
    let nanos = after[..end].bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, digit| n * 10 + i32::from(digit - b'0'));
    Some((nanos, &after[end..]))
}

fn offset_seconds(text: &str) -> Option<i32> {
    if text == "Z" {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    let two = |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<i32>().ok()).flatten();
    Some(sign * (two(hours)? * 3600 + two(minutes)? * 60))
}

/// Base64 in, base64 without line breaks out.
pub(super) fn bytes(text: Text) -> Result<Text, String> {
    let text = if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "").into() } else { text };
    match STANDARD.decode(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let at = match error {
                Base64Error::InvalidByte(at, _) | Base64Error::InvalidLastSymbol(at, _) => at,
                Base64Error::InvalidLength(at) => at,
                Base64Error::InvalidPadding => text.len(),
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// A canonical quantity; `coarse` rounds up to thousandths, as resource lists are stored.
pub(super) fn quantity(text: &str, coarse: bool) -> Result<String, String> {
    let parsed: Quantity = text.trim().parse().map_err(|e: crate::quantity::QuantityError| e.to_string())?;
    Ok(if coarse { parsed.round_up_to_milli() } else { parsed }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_stored_in_utc_with_whole_seconds() {
        assert_eq!(time("2024-02-29T12:00:00.9+02:00").unwrap().unwrap(), "2024-02-29T10:00:00Z");
        assert_eq!(micro_time("2024-02-29T12:00:00.123456Z").unwrap().unwrap(), "2024-02-29T12:00:00.123456Z");
        assert_eq!(time("0001-01-01T00:00:00Z").unwrap(), None);
    }

    #[test]
    fn what_is_no_time_is_refused_with_gos_words() {
        let text = "parsing time \"soon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"soon\" as \"2006\"";
        assert_eq!(time("soon").unwrap_err(), text);
        assert_eq!(time("2024-13-01T00:00:00Z").unwrap_err(), "parsing time \"2024-13-01T00:00:00Z\": month out of range");
        assert_eq!(time("2023-02-29T00:00:00Z").unwrap_err(), "parsing time \"2023-02-29T00:00:00Z\": day out of range");
        assert!(micro_time("2024-02-29T12:00:00Z").unwrap_err().ends_with("cannot parse \"Z\" as \".000000\""));
        assert!(time("2024-02-29T12:00:00").unwrap_err().ends_with("cannot parse \"\" as \"Z07:00\""));
    }

    #[test]
    fn line_breaks_in_base64_are_dropped_and_other_bytes_refused() {
        assert_eq!(bytes("aGVs\nbG8=".into()).unwrap(), "aGVsbG8=");
        assert_eq!(bytes("a$b=".into()).unwrap_err(), "illegal base64 data at input byte 1");
    }
}
