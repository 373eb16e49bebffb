//! Times as Go writes those of the API. Every write and every audit event has some, and a general formatter takes ten times as long.

use jiff::{Timestamp, tz::Offset};

/// `2026-01-02T15:04:05Z`, as `metav1.Time` is written.
pub fn seconds(at: Timestamp) -> String {
    let mut text = String::with_capacity(20);
    put_civil(&mut text, at);
    text.push('Z');
    text
}

/// `2026-01-02T15:04:05.000000Z`, as `metav1.MicroTime` is written.
pub fn micros(at: Timestamp) -> String {
    let mut text = String::with_capacity(27);
    put_civil(&mut text, at);
    text.push('.');
    // Before 1970 fractions count from the second before.
    put(&mut text, at.subsec_nanosecond().rem_euclid(1_000_000_000).unsigned_abs() / 1000, 6);
    text.push('Z');
    text
}

/// Date and time of day in UTC. Of a year that has no four digits Go writes as many as it has, and nobody reads that.
fn put_civil(text: &mut String, at: Timestamp) {
    let civil = Offset::UTC.to_datetime(at);
    let parts = [("-", civil.month()), ("-", civil.day()), ("T", civil.hour()), (":", civil.minute()), (":", civil.second())];
    if civil.year() < 0 {
        text.push('-');
    }
    put(text, u32::from(civil.year().unsigned_abs()), 4);
    for (separator, part) in parts {
        text.push_str(separator);
        put(text, u32::from(part.unsigned_abs()), 2);
    }
}

/// A number with leading zeros, in six digits at most.
fn put(text: &mut String, mut number: u32, width: usize) {
    let mut digits = [b'0'; 6];
    for digit in digits[..width].iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    text.push_str(str::from_utf8(&digits[..width]).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_a_general_formatter_writes_them() {
        for nanos in
            [0, 1_700_000_000_123_456_789, 951_782_399_999_999_000, -1, -62_135_596_800_000_000_000, 4_102_444_800_000_001_000_i128]
        {
            let at = Timestamp::from_nanosecond(nanos).unwrap();
            assert_eq!(seconds(at), at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            assert_eq!(micros(at), at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
        }
        assert_eq!(micros(Timestamp::from_microsecond(1_767_366_245_000_007).unwrap()), "2026-01-02T15:04:05.000007Z");
    }
}
