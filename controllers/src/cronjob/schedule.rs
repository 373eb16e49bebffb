//! Schedules in the five fields of cron, and its `@` words.

use jiff::{Span, Timestamp, ToSpan, Zoned, civil::DateTime, tz::TimeZone};

/// A parsed schedule: one bit a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether day and weekday are both restricted: then either will do.
    either_day: bool,
    /// For `@every`: a fixed distance instead.
    every_seconds: Option<i64>,
}

/// What is wrong with a schedule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScheduleError {
    /// There are not five fields.
    #[error("expected exactly 5 fields, found {0}")]
    Fields(usize),
    /// A field cannot be read.
    #[error("failed to parse field {0:?}")]
    Field(String),
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule.
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(distance) = text.strip_prefix("@every ") {
            let span: Span = distance.trim().parse().map_err(|_| ScheduleError::Field(distance.to_owned()))?;
            let seconds = span.total(jiff::Unit::Second).map_err(|_| ScheduleError::Field(distance.to_owned()))?;
            // Distances are whole seconds, one at least.
            #[allow(clippy::cast_possible_truncation)]
            let seconds = (seconds as i64).max(1);
            return Ok(Self { minutes: 0, hours: 0, days: 0, months: 0, weekdays: 0, either_day: false, every_seconds: Some(seconds) });
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else { return Err(ScheduleError::Fields(fields.len())) };
        let mut weekday_bits = field(weekdays, 0, 7, &DAYS)?;
        // Sunday is 0 and 7.
        weekday_bits |= weekday_bits >> 7 & 1;
        let open = |text: &str| text.starts_with('*') || text.starts_with('?');
        Ok(Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: weekday_bits,
            either_day: !open(days) && !open(weekdays),
            every_seconds: None,
        })
    }

    /// The first time after `from`; none within five years means never.
    pub(super) fn after(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Some(seconds) = self.every_seconds {
            return Some(crate::time::plus(crate::time::seconds(from), seconds));
        }
        let start: Zoned = from.to_zoned(zone.clone());
        let mut at: DateTime = start.datetime().with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        let end = start.datetime().checked_add(5.years()).ok()?;
        while at <= end {
            if !has(self.months, at.month()) {
                at = at.with().day(1).hour(0).minute(0).build().ok()?.checked_add(1.month()).ok()?;
            } else if !self.is_day(at) {
                at = at.with().hour(0).minute(0).build().ok()?.checked_add(1.day()).ok()?;
            } else if !has(self.hours, at.hour()) {
                at = at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                let found = at.to_zoned(zone.clone()).ok()?.timestamp();
                // A clock that is set back shows some times twice: only the later ones are after `from`.
                if found > from {
                    return Some(found);
                }
                at = at.checked_add(1.minute()).ok()?;
            }
        }
        None
    }

    /// The last time after `from` that is not after `now`.
    pub(super) fn latest(&self, from: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Some(seconds) = self.every_seconds {
            let times = (now.as_second() - from.as_second()) / seconds;
            return (times > 0).then(|| crate::time::plus(crate::time::seconds(from), times * seconds));
        }
        // Look back in growing steps: the last time is mostly near, and `from` may be years ago.
        let mut distance = 3600;
        loop {
            let begin = crate::time::plus(now, -distance).max(from);
            let mut last = None;
            let mut next = self.after(begin, zone);
            while let Some(found) = next.filter(|found| *found <= now) {
                last = Some(found);
                next = self.after(found, zone);
            }
            if last.is_some() || begin <= from {
                return last;
            }
            distance = distance.saturating_mul(8);
        }
    }

    fn is_day(&self, at: DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.either_day { day || weekday } else { day && weekday }
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits >> value & 1 == 1)
}

/// Reads one field: lists of values, ranges and steps.
fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, ScheduleError> {
    let wrong = || ScheduleError::Field(text.to_owned());
    let number = |word: &str| {
        let lower = word.to_ascii_lowercase();
        // Names of months count from 1, of days from 0: as their fields do.
        let named = names.iter().position(|name| *name == lower).and_then(|index| u32::try_from(index).ok()).map(|index| index + low);
        named.or_else(|| word.parse().ok()).filter(|value| (low..=high).contains(value)).ok_or_else(wrong)
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(wrong)?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (low, high),
            Some((first, last)) => (number(first)?, number(last)?),
            // `5/10` means from 5 on.
            None if part.contains('/') => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if first > last {
            return Err(wrong());
        }
        (first..=last).step_by(usize::try_from(step).unwrap_or(1)).for_each(|value| bits |= 1u64 << value);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, from: &str) -> String {
        Schedule::parse(schedule).unwrap().after(from.parse().unwrap(), &TimeZone::UTC).map(|at| at.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_next_time_is_found_in_every_field() {
        let cases = [
            ("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("0 9 * * mon-fri", "2026-01-02T10:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("30 4 1,15 jan *", "2026-02-01T00:00:00Z", "2027-01-01T04:30:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:01Z", "2026-01-01T01:00:00Z"),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z", ""),
        ];
        for (schedule, from, expected) in cases {
            assert_eq!(next(schedule, from), expected, "{schedule} after {from}");
        }
    }

    #[test]
    fn wrong_schedules_are_refused() {
        assert_eq!(Schedule::parse("* * * *"), Err(ScheduleError::Fields(4)));
        for wrong in ["60 * * * *", "* 5-2 * * *", "*/0 * * * *", "x * * * *"] {
            assert!(matches!(Schedule::parse(wrong), Err(ScheduleError::Field(_))), "{wrong}");
        }
    }

    #[test]
    fn the_latest_missed_time_is_found_near_and_far() {
        let latest = |schedule: &str, from: &str, now: &str| {
            Schedule::parse(schedule).unwrap().latest(from.parse().unwrap(), now.parse().unwrap(), &TimeZone::UTC).map(|at| at.to_string())
        };
        assert_eq!(latest("*/5 * * * *", "2026-01-01T00:00:00Z", "2026-03-01T00:07:00Z").as_deref(), Some("2026-03-01T00:05:00Z"));
        assert_eq!(latest("0 0 1 1 *", "2020-06-01T00:00:00Z", "2026-06-01T00:00:00Z").as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(latest("0 * * * *", "2026-01-01T00:10:00Z", "2026-01-01T00:50:00Z"), None);
    }
}
