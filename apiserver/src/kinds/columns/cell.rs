//! What cells are made of: short ways into an object, and text as upstream prints it.

use coracle_schema::selector::LabelSelector;
use coracle_tree::{Map, Value};
use jiff::Timestamp;

/// An object being printed.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) object: &'a Value,
    pub(super) now: Timestamp,
}

static NULL: Value = Value::Null;

/// A text, empty when absent.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A number, 0 when absent.
pub(super) fn int(value: &Value, name: &str) -> i64 {
    value.get(name).and_then(Value::as_i64).unwrap_or_default()
}

/// The items of a list.
pub(super) fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A member that is there and not null.
pub(super) fn there<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|v| !v.is_null())
}

/// The texts of a list, joined.
pub(super) fn joined(value: &Value, name: &str) -> String {
    items(value, name).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// A scalar as text: a quantity, a number or text.
pub(super) fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `value`, or `instead` when it is empty.
pub(super) fn or<'v>(value: &'v str, instead: &'v str) -> &'v str {
    if value.is_empty() { instead } else { value }
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(value: Option<&Value>) -> String {
    let pairs = |map: &Map| map.iter().map(|(k, v)| format!("{k}={}", scalar(v))).collect::<Vec<_>>().join(",");
    let printed = value.and_then(Value::as_object).map(pairs).unwrap_or_default();
    or(&printed, "<none>").to_owned()
}

/// A `LabelSelector`, or `<none>`.
pub(super) fn selector(value: Option<&Value>) -> String {
    match LabelSelector::from_object(value.filter(|v| !v.is_null())) {
        Ok(selector) => or(&selector.to_string(), "<none>").to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of containers, each joined.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    let column = |name: &str| items(pod_spec, "containers").iter().map(|c| text(c, name)).collect::<Vec<_>>().join(",");
    [column("name").into(), column("image").into()]
}

/// At most `max` of a list's texts, and how many more there are; `<unset>` when there are none.
pub(super) fn first_of(all: &[String], max: usize) -> String {
    let shown = all[..all.len().min(max)].join(",");
    if all.len() > max { format!("{shown} + {} more...", all.len() - max) } else { or(&shown, "<unset>").to_owned() }
}

/// Whether a condition of this type has status True; `None` when there is none.
pub(super) fn condition(status: &Value, kind: &str) -> Option<bool> {
    items(status, "conditions").iter().find(|c| text(c, "type") == kind).map(|c| text(c, "status") == "True")
}

/// `True`, `False` or `<unset>`.
pub(super) fn truth(value: Option<&Value>) -> &'static str {
    match value.and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    }
}

/// An instant; `None` when absent.
pub(super) fn time(value: &Value, name: &str) -> Option<Timestamp> {
    text(value, name).parse().ok()
}

/// A length of time in the one or two units that matter (apimachinery's `duration.HumanDuration`). `seconds` is rounded towards zero.
pub(super) fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let pair = |first: i64, one: char, second: i64, other: char| {
        if second == 0 { format!("{first}{one}") } else { format!("{first}{one}{second}{other}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => pair(hours / 24, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => pair(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// The seconds from one instant to another, rounded towards zero.
pub(super) fn between(from: Timestamp, to: Timestamp) -> i64 {
    i64::try_from((to.as_nanosecond() - from.as_nanosecond()) / 1_000_000_000).unwrap_or(i64::MAX)
}

impl<'a> Subject<'a> {
    /// A top-level member, null when absent.
    pub(super) fn get(self, name: &str) -> &'a Value {
        self.object.get(name).unwrap_or(&NULL)
    }

    pub(super) fn metadata(self) -> &'a Value {
        self.get("metadata")
    }

    pub(super) fn spec(self) -> &'a Value {
        self.get("spec")
    }

    pub(super) fn status(self) -> &'a Value {
        self.get("status")
    }

    pub(super) fn name(self) -> Value {
        text(self.metadata(), "name").into()
    }

    /// How long ago the object was made.
    pub(super) fn age(self) -> Value {
        self.since(self.metadata(), "creationTimestamp").into()
    }

    /// How long ago an instant was; `<unknown>` when absent.
    pub(super) fn since(self, value: &Value, name: &str) -> String {
        time(value, name).map_or_else(|| "<unknown>".to_owned(), |then| human(between(then, self.now)))
    }

    pub(super) fn is_deleting(self) -> bool {
        there(self.metadata(), "deletionTimestamp").is_some()
    }

    /// An annotation.
    pub(super) fn annotation(self, key: &str) -> Option<&'a str> {
        self.metadata().get("annotations")?.get(key)?.as_str()
    }

    /// A member somewhere below, null when absent.
    pub(super) fn at(self, pointer: &str) -> &'a Value {
        self.object.pointer(pointer).unwrap_or(&NULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        let (minute, hour, day) = (60, 3600, 86_400);
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (9 * minute + 59, "9m59s"),
            (10 * minute + 5, "10m"),
            (179 * minute, "179m"),
            (180 * minute, "3h"),
            (7 * hour + 59 * minute, "7h59m"),
            (8 * hour + 59 * minute, "8h"),
            (47 * hour, "47h"),
            (48 * hour, "2d"),
            (7 * day + 23 * hour, "7d23h"),
            (8 * day + 23 * hour, "8d"),
            (2 * 365 * day, "2y"),
            (3 * 365 * day + 4 * day, "3y4d"),
            (9 * 365 * day + 4 * day, "9y"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn seconds_are_rounded_towards_zero() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(between(at("2026-01-01T00:00:01.9Z"), at("2026-01-01T00:00:00Z")), -1);
        assert_eq!(between(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:01.9Z")), 1);
    }
}
