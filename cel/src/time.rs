//! Points of time and durations (cel-go `common/types/{timestamp,duration,overflow}.go`, kube-openapi `strfmt`).

use std::cmp::Ordering;
use std::fmt;

use jiff::ToSpan;
use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;

use crate::EvalError;

const NANOS: i64 = 1_000_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A point of time with the offset in which it was written.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
    /// Seconds east of Greenwich.
    offset: i32,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Timestamp) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Timestamp) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Timestamp) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
}

const EPOCH: Date = date(1970, 1, 1);

/// The date and the time of day, so many seconds after the beginning of 1970.
fn local(seconds: i64) -> DateTime {
    let day = EPOCH.checked_add(seconds.div_euclid(86_400).days()).unwrap_or(Date::MAX);
    let rest = i32::try_from(seconds.rem_euclid(86_400)).unwrap_or_default();
    let part = |seconds: i32| i8::try_from(seconds).unwrap_or_default();
    day.at(part(rest / 3600), part(rest / 60 % 60), part(rest % 60), 0)
}

fn overflow() -> EvalError {
    EvalError::new("timestamp overflow")
}

/// A decimal number of exactly `count` digits at the start, and what follows.
fn digits(text: &str, count: usize) -> Option<(i64, &str)> {
    let head = text.get(..count)?;
    head.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    Some((head.parse().ok()?, &text[count..]))
}

impl Timestamp {
    /// Seconds since 1970, if the year has four digits.
    pub fn from_seconds(seconds: i64) -> Result<Timestamp, EvalError> {
        Timestamp::new(seconds, 0, 0)
    }

    fn new(seconds: i64, nanos: u32, offset: i32) -> Result<Timestamp, EvalError> {
        if SECONDS.contains(&seconds) { Ok(Timestamp { seconds, nanos, offset }) } else { Err(overflow()) }
    }

    /// Parses RFC 3339.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let (local, rest) = Timestamp::parse_local(text)?;
        let offset = match rest {
            "Z" => 0,
            _ => {
                let sign = if rest.starts_with('-') { -1 } else { 1 };
                let (hours, rest) = digits(rest.strip_prefix(['+', '-'])?, 2)?;
                let (minutes, rest) = digits(rest.strip_prefix(':')?, 2)?;
                (rest.is_empty() && hours <= 24 && minutes < 60).then_some(())?;
                sign * i32::try_from(hours * 3600 + minutes * 60).ok()?
            }
        };
        Timestamp::new(local.seconds - i64::from(offset), local.nanos, offset).ok()
    }

    /// A date and a time of day, and the rest of the text.
    fn parse_local(text: &str) -> Option<(Timestamp, &str)> {
        let (year, rest) = digits(text, 4)?;
        let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
        let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
        // Go takes an hour of one digit, too.
        let rest = rest.strip_prefix('T')?;
        let (hour, rest) = digits(rest, 2).or_else(|| digits(rest, 1))?;
        let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
        let (second, mut rest) = digits(rest.strip_prefix(':')?, 2)?;
        let mut nanos = 0;
        if let Some(fraction) = rest.strip_prefix(['.', ',']) {
            let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
            (length > 0).then_some(())?;
            nanos = format!("{:0<9}", &fraction[..length.min(9)]).parse().ok()?;
            rest = &fraction[length..];
        }
        let date = Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
        (hour < 24 && minute < 60 && second < 60).then_some(())?;
        let days = i64::from(EPOCH.until(date).ok()?.get_days());
        let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
        Some((Timestamp::new(seconds, nanos, 0).ok()?, rest))
    }

    /// Whole seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.seconds == *SECONDS.start() && self.nanos == 0
    }

    /// Later by `nanos`.
    pub(crate) fn add(&self, nanos: i64) -> Result<Timestamp, EvalError> {
        let total = i64::from(self.nanos) + nanos % NANOS;
        let seconds = self.seconds + nanos / NANOS + total.div_euclid(NANOS);
        Timestamp::new(seconds, u32::try_from(total.rem_euclid(NANOS)).unwrap_or_default(), self.offset)
    }

    /// Nanoseconds since `earlier`.
    pub(crate) fn since(&self, earlier: &Timestamp) -> Result<i64, EvalError> {
        (self.seconds - earlier.seconds)
            .checked_mul(NANOS)
            .and_then(|nanos| nanos.checked_add(i64::from(self.nanos) - i64::from(earlier.nanos)))
            .ok_or_else(|| EvalError::new("integer overflow"))
    }

    /// A part of the date or time of day, in a time zone: a name, an offset such as `-02:30`, or where it was written.
    pub(crate) fn part(&self, part: Part, zone: Option<&str>) -> Result<i64, EvalError> {
        let east = match zone {
            None => self.offset,
            Some(name) if name.contains(':') => offset(name)?,
            Some("" | "UTC" | "Local") => 0,
            Some(name) => {
                let zone = TimeZone::get(name).map_err(|_| EvalError::new(format!("unknown time zone {name}")))?;
                // The last day of the last year is beyond what zones are reckoned for; its offset is that of the day before.
                let stamp = jiff::Timestamp::from_second(self.seconds).unwrap_or(jiff::Timestamp::MAX);
                zone.to_offset(stamp).seconds()
            }
        };
        let local = local(self.seconds + i64::from(east));
        Ok(match part {
            Part::Year => local.year().into(),
            Part::Month => i64::from(local.month()) - 1,
            Part::DayOfYear => i64::from(local.date().day_of_year()) - 1,
            Part::Date => local.day().into(),
            Part::DayOfMonth => i64::from(local.day()) - 1,
            Part::DayOfWeek => local.weekday().to_sunday_zero_offset().into(),
            Part::Hours => local.hour().into(),
            Part::Minutes => local.minute().into(),
            Part::Seconds => local.second().into(),
            Part::Milliseconds => i64::from(self.nanos / 1_000_000),
        })
    }
}

/// Seconds east of Greenwich, of `+02:00` and the like.
fn offset(text: &str) -> Result<i32, EvalError> {
    let (hours, minutes) = text.split_once(':').unwrap_or((text, ""));
    let number = |part: &str| part.parse::<i32>().map_err(|_| EvalError::new(format!("strconv.Atoi: parsing {part:?}: invalid syntax")));
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if !(0..=59).contains(&minutes) {
        return Err(EvalError::new(format!("timezone offset minutes out of range [0, 59]: {text}")));
    }
    let total = i64::from(hours) * 60 + if text.starts_with('-') { -i64::from(minutes) } else { i64::from(minutes) };
    i32::try_from(total * 60).map_err(|_| EvalError::new("timezone offset out of range"))
}

/// What can be asked of a point of time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Year,
    Month,
    DayOfYear,
    Date,
    DayOfMonth,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = local(self.seconds + i64::from(self.offset));
        write!(
            out,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            local.year(),
            local.month(),
            local.day(),
            local.hour(),
            local.minute(),
            local.second()
        )?;
        if self.nanos > 0 {
            let fraction = format!("{:09}", self.nanos);
            write!(out, ".{}", fraction.trim_end_matches('0'))?;
        }
        match self.offset {
            0 => out.write_str("Z"),
            east => write!(out, "{}{:02}:{:02}", if east < 0 { '-' } else { '+' }, east.abs() / 3600, east.abs() % 3600 / 60),
        }
    }
}

/// `format: date-time` of a schema: RFC 3339, or local time without an offset.
pub(crate) fn schema_date_time(text: &str) -> Option<Timestamp> {
    if text.is_empty() {
        return Timestamp::from_seconds(0).ok();
    }
    Timestamp::parse(text).or_else(|| Timestamp::parse_local(text).filter(|(_, rest)| rest.is_empty()).map(|(time, _)| time))
}

/// Nanoseconds of a duration as Go writes it (`time.ParseDuration`): `1h2m3.5s`.
pub fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
        let fraction = rest[whole..].strip_prefix('.').map(|after| after.bytes().take_while(u8::is_ascii_digit).count());
        if whole == 0 && fraction.unwrap_or(0) == 0 {
            return None;
        }
        let end = whole + fraction.map_or(0, |length| length + 1);
        let after = &rest[end..];
        let unit_length = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let unit: i128 = match &after[..unit_length] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        if whole > 0 {
            total += rest[..whole].parse::<i64>().ok().map(i128::from)? * unit;
        }
        if let Some(length) = fraction.filter(|length| *length > 0) {
            let text = &rest[whole + 1..whole + 1 + length.min(18)];
            total += text.parse::<i128>().ok()? * unit / 10_i128.pow(u32::try_from(text.len()).ok()?);
        }
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return None;
        }
        rest = &after[unit_length..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// `format: duration` of a schema: as Go writes it, or words such as `2 days 3 hours`.
pub(crate) fn schema_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = duration(text) {
        return Some(nanos);
    }
    const UNITS: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "µs", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec"], NANOS),
        (&["m", "min"], 60 * NANOS),
        (&["h", "hr", "hour"], 3600 * NANOS),
        (&["d", "day"], 24 * 3600 * NANOS),
        (&["w", "wk", "week"], 7 * 24 * 3600 * NANOS),
    ];
    let (mut total, mut found, mut rest) = (0_i64, false, text);
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[start..];
        let count = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..count].parse().ok()?;
        rest = &rest[count..];
        let unit = rest.trim_start();
        let length = unit.find(|c: char| !(c.is_ascii_alphabetic() || c == 'µ')).unwrap_or(unit.len());
        let word = unit[..length].to_lowercase();
        if length > 0 {
            rest = &unit[length..];
        }
        for (names, nanos) in UNITS {
            let long = names.last().is_some_and(|last| !word.is_empty() && word.starts_with(last));
            if long || names.contains(&word.as_str()) {
                found = true;
                total = total.wrapping_add(number.wrapping_mul(nanos));
            }
        }
    }
    found.then_some(total)
}

/// Seconds, as `string(duration)` shows them: `5400s`, `0.5s`.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn duration_text(nanos: i64) -> String {
    // As Go's Duration.Seconds(): whole seconds and the rest are converted apart.
    let seconds = (nanos / NANOS) as f64 + (nanos % NANOS) as f64 / 1e9;
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in
            [("1h2m3s", 3723 * NANOS), ("1.5s", 1_500_000_000), ("-2ms", -2_000_000), ("0", 0), ("+1us", 1000), (".5s", 500_000_000)]
        {
            assert_eq!(duration(text), Some(nanos), "{text}");
        }
        for text in ["", "1", "s", "1x", "1.s.", "-", "9223372036854775808ns"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(schema_duration("2 days 3 hours"), Some((2 * 24 + 3) * 3600 * NANOS));
        assert_eq!(duration_text(90 * 60 * NANOS), "5400s");
        assert_eq!(duration_text(500_000_000), "0.5s");
    }

    #[test]
    fn points_of_time_keep_their_offset_and_compare_without_it() {
        let there = Timestamp::parse("2024-02-29T12:00:00.25+02:00").unwrap();
        let here = Timestamp::parse("2024-02-29T10:00:00.250Z").unwrap();
        assert_eq!(there, here);
        assert_eq!(there.to_string(), "2024-02-29T12:00:00.25+02:00");
        assert_eq!(there.part(Part::Hours, None).unwrap(), 12);
        assert_eq!(there.part(Part::Hours, Some("-02:30")).unwrap(), 7);
        assert_eq!(here.part(Part::DayOfYear, Some("UTC")).unwrap(), 59);
        assert!(Timestamp::parse("2023-02-29T10:00:00Z").is_none());
        assert!(here.add(i64::MAX).unwrap().add(i64::MAX).unwrap() > here);
    }
}
