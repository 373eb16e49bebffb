//! Times as Go writes those of the API. Every write and every audit event has some, and a general formatter takes ten times as long.

use jiff::{Timestamp, tz::Offset};

/// `2026-01-02T15:04:05Z`, as `metav1.Time` is written.
pub fn seconds(at: Timestamp) -> String {
    civil(*b"0000-00-00T00:00:00Z", at)
}

/// `2026-01-02T15:04:05.000000Z`, as `metav1.MicroTime` is written.
pub fn micros(at: Timestamp) -> String {
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    // Before 1970 fractions count from the second before.
    put(&mut text[20..26], at.subsec_nanosecond().rem_euclid(1_000_000_000).unsigned_abs() / 1000);
    civil(text, at)
}

/// Fills in date and time of day in UTC. Of a year that has no four digits Go writes as many as it has, and nobody reads that.
fn civil<const N: usize>(mut text: [u8; N], at: Timestamp) -> String {
    let civil = Offset::UTC.to_datetime(at);
    put(&mut text[..4], u32::from(civil.year().unsigned_abs()));
    for (from, part) in [(5, civil.month()), (8, civil.day()), (11, civil.hour()), (14, civil.minute()), (17, civil.second())] {
        put(&mut text[from..from + 2], u32::from(part.unsigned_abs()));
    }
    let text = str::from_utf8(&text).unwrap_or_default();
    if civil.year() < 0 { format!("-{text}") } else { text.to_owned() }
}

/// A number with leading zeros.
fn put(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
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
