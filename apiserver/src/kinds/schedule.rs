//! The syntax of cron schedules: five fields, names, ranges, steps, and the `@` words (robfig/cron's standard parser).

/// A field: its bounds and the names its values have.
struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Bounds; 5] = [
    Bounds { low: 0, high: 59, names: &[] },
    Bounds { low: 0, high: 23, names: &[] },
    Bounds { low: 1, high: 31, names: &[] },
    Bounds { low: 1, high: 12, names: MONTHS },
    Bounds { low: 0, high: 6, names: DAYS },
];

/// Whether a schedule parses; the error says what does not.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let mut text = schedule.trim();
    if ["TZ=", "CRON_TZ="].iter().any(|prefix| text.starts_with(prefix)) {
        text = text.split_once(' ').map_or("", |(_, rest)| rest.trim());
    }
    if text.starts_with('@') {
        return descriptor(text);
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(field, bounds)| field.split(',').try_for_each(|part| range(part, bounds)))
}

fn descriptor(text: &str) -> Result<(), String> {
    const WORDS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    match text.strip_prefix("@every ") {
        Some(duration) if is_duration(duration) => Ok(()),
        Some(duration) => Err(format!("failed to parse duration {text}: time: invalid duration {duration:?}")),
        None if WORDS.contains(&text) => Ok(()),
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

/// `5`, `1-5`, `*/2`, `mon-fri`
fn range(text: &str, bounds: &Bounds) -> Result<(), String> {
    let (span, step) = match text.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {text}")),
        Some((span, step)) => (span, Some(step)),
        None => (text, None),
    };
    let (start, end) = match span.split_once('-') {
        Some((_, end)) if end.contains('-') => return Err(format!("too many hyphens: {text}")),
        Some((start, end)) => (value(start, bounds)?, value(end, bounds)?),
        None if span == "*" || span == "?" => (bounds.low, bounds.high),
        None => {
            let start = value(span, bounds)?;
            (start, if step.is_some() { bounds.high } else { start })
        }
    };
    let step = step.map_or(Ok(1), number)?;
    if start < bounds.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.low));
    }
    if end > bounds.high {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.low + at as u32),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    if text.starts_with('-') {
        return Err(format!("negative number ({text}) not allowed: {text}"));
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

/// Go's durations: `1h30m`, `1.5s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"].into_iter().filter(|u| digits.starts_with(u)).max_by_key(|u| u.len());
        match unit {
            Some(unit) if digits.len() < rest.len() => rest = &digits[unit.len()..],
            _ => return false,
        }
        parts += 1;
    }
    parts > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_cron_knows_are_fine() {
        for fine in ["* * * * *", "*/5 0-6,22 1 JAN-mar 1-5", "0 0 ? * sun", "@hourly", "@every 1h30m", "5/15 * * * *", "TZ=UTC 0 0 * * *"]
        {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(check("* * *").unwrap_err(), "expected exactly 5 fields, found 3: [* * *]");
        assert_eq!(check("60 * * * *").unwrap_err(), "end of range (60) above maximum (59): 60");
        assert_eq!(check("* * 0 * *").unwrap_err(), "beginning of range (0) below minimum (1): 0");
        assert_eq!(check("5-1 * * * *").unwrap_err(), "beginning of range (5) beyond end of range (1): 5-1");
        assert_eq!(check("*/0 * * * *").unwrap_err(), "step of range should be a positive number: */0");
        assert!(check("a * * * *").unwrap_err().starts_with("failed to parse int from a"));
        assert_eq!(check("@never").unwrap_err(), "unrecognized descriptor: @never");
        assert!(check("@every soon").is_err());
    }
}
