//! The standard functions (cel-go `common/stdlib/standard.go`) and those of optional values (`cel/library.go`).

use crate::library::{Row, lists, strings};
use crate::time::Part;
use crate::value::Val;
use crate::{EvalError, convert};

type Eval<'a> = Result<Val<'a>, EvalError>;

pub(super) const OPERATORS: &[Row] = &[
    ("conditional", "_?_:_(bool, A, A) -> A", None),
    ("logical_and", "_&&_(bool, bool) -> bool", None),
    ("logical_or", "_||_(bool, bool) -> bool", None),
    ("logical_not", "!_(bool) -> bool", None),
    ("equals", "_==_(A, A) -> bool", None),
    ("not_equals", "_!=_(A, A) -> bool", None),
    ("add_bytes", "_+_(bytes, bytes) -> bytes", None),
    ("add_double", "_+_(double, double) -> double", None),
    ("add_duration_duration", "_+_(duration, duration) -> duration", None),
    ("add_duration_timestamp", "_+_(duration, timestamp) -> timestamp", None),
    ("add_timestamp_duration", "_+_(timestamp, duration) -> timestamp", None),
    ("add_int64", "_+_(int, int) -> int", None),
    ("add_list", "_+_(list(A), list(A)) -> list(A)", None),
    ("add_string", "_+_(string, string) -> string", None),
    ("add_uint64", "_+_(uint, uint) -> uint", None),
    ("divide_double", "_/_(double, double) -> double", None),
    ("divide_int64", "_/_(int, int) -> int", None),
    ("divide_uint64", "_/_(uint, uint) -> uint", None),
    ("modulo_int64", "_%_(int, int) -> int", None),
    ("modulo_uint64", "_%_(uint, uint) -> uint", None),
    ("multiply_double", "_*_(double, double) -> double", None),
    ("multiply_int64", "_*_(int, int) -> int", None),
    ("multiply_uint64", "_*_(uint, uint) -> uint", None),
    ("negate_double", "-_(double) -> double", None),
    ("negate_int64", "-_(int) -> int", None),
    ("subtract_double", "_-_(double, double) -> double", None),
    ("subtract_duration_duration", "_-_(duration, duration) -> duration", None),
    ("subtract_int64", "_-_(int, int) -> int", None),
    ("subtract_timestamp_duration", "_-_(timestamp, duration) -> timestamp", None),
    ("subtract_timestamp_timestamp", "_-_(timestamp, timestamp) -> duration", None),
    ("subtract_uint64", "_-_(uint, uint) -> uint", None),
    ("index_list", "_[_](list(A), int) -> A", None),
    ("index_map", "_[_](map(A, B), A) -> B", None),
    ("optional_list_index_int", "_[_](optional(list(V)), int) -> optional(V)", None),
    ("optional_map_index_value", "_[_](optional(map(K, V)), K) -> optional(V)", None),
    ("list_optindex_optional_int", "_[?_](list(V), int) -> optional(V)", None),
    ("optional_list_optindex_optional_int", "_[?_](optional(list(V)), int) -> optional(V)", None),
    ("map_optindex_optional_value", "_[?_](map(K, V), K) -> optional(V)", None),
    ("optional_map_optindex_optional_value", "_[?_](optional(map(K, V)), K) -> optional(V)", None),
    ("in_list", "@in(A, list(A)) -> bool", Some(lists::member)),
    ("in_map", "@in(A, map(A, B)) -> bool", Some(lists::member)),
    ("optional_or_optional", "optional(V) : or(optional(V)) -> optional(V)", None),
    ("optional_orValue_value", "optional(V) : orValue(V) -> V", None),
];

/// The overloads of the four orderings: of each kind with itself, and of numbers with one another.
pub(super) fn comparisons() -> Vec<(&'static str, String, String)> {
    const KINDS: [(&str, &str, &str); 14] = [
        ("bool", "bool", "bool"),
        ("int64", "int", "int"),
        ("int64_double", "int", "double"),
        ("int64_uint64", "int", "uint"),
        ("uint64", "uint", "uint"),
        ("uint64_double", "uint", "double"),
        ("uint64_int64", "uint", "int"),
        ("double", "double", "double"),
        ("double_int64", "double", "int"),
        ("double_uint64", "double", "uint"),
        ("string", "string", "string"),
        ("bytes", "bytes", "bytes"),
        ("timestamp", "timestamp", "timestamp"),
        ("duration", "duration", "duration"),
    ];
    let names = [("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals")];
    names
        .iter()
        .flat_map(|(name, prefix)| {
            KINDS.iter().map(move |(suffix, one, other)| (*name, format!("{prefix}_{suffix}"), format!("{name}({one}, {other}) -> bool")))
        })
        .collect()
}

pub(super) const FUNCTIONS: &[Row] = &[
    ("size_bytes", "size(bytes) -> int", Some(size)),
    ("bytes_size", "bytes : size() -> int", Some(size)),
    ("size_list", "size(list(A)) -> int", Some(size)),
    ("list_size", "list(A) : size() -> int", Some(size)),
    ("size_map", "size(map(A, B)) -> int", Some(size)),
    ("map_size", "map(A, B) : size() -> int", Some(size)),
    ("size_string", "size(string) -> int", Some(size)),
    ("string_size", "string : size() -> int", Some(size)),
    ("type", "type(A) -> type(A)", Some(type_of)),
    ("bool_to_bool", "bool(bool) -> bool", Some(|args| convert::to_bool(&args[0]))),
    ("string_to_bool", "bool(string) -> bool", Some(|args| convert::to_bool(&args[0]))),
    ("bytes_to_bytes", "bytes(bytes) -> bytes", Some(|args| convert::to_bytes(&args[0]))),
    ("string_to_bytes", "bytes(string) -> bytes", Some(|args| convert::to_bytes(&args[0]))),
    ("double_to_double", "double(double) -> double", Some(|args| convert::to_double(&args[0]))),
    ("int64_to_double", "double(int) -> double", Some(|args| convert::to_double(&args[0]))),
    ("string_to_double", "double(string) -> double", Some(|args| convert::to_double(&args[0]))),
    ("uint64_to_double", "double(uint) -> double", Some(|args| convert::to_double(&args[0]))),
    ("duration_to_duration", "duration(duration) -> duration", Some(|args| convert::to_duration(&args[0]))),
    ("string_to_duration", "duration(string) -> duration", Some(|args| convert::to_duration(&args[0]))),
    ("to_dyn", "dyn(A) -> dyn", Some(|args| Ok(args[0].clone()))),
    ("int64_to_int64", "int(int) -> int", Some(|args| convert::to_int(&args[0]))),
    ("double_to_int64", "int(double) -> int", Some(|args| convert::to_int(&args[0]))),
    ("duration_to_int64", "int(duration) -> int", Some(|args| convert::to_int(&args[0]))),
    ("string_to_int64", "int(string) -> int", Some(|args| convert::to_int(&args[0]))),
    ("timestamp_to_int64", "int(timestamp) -> int", Some(|args| convert::to_int(&args[0]))),
    ("uint64_to_int64", "int(uint) -> int", Some(|args| convert::to_int(&args[0]))),
    ("string_to_string", "string(string) -> string", Some(|args| convert::to_string(&args[0]))),
    ("bool_to_string", "string(bool) -> string", Some(|args| convert::to_string(&args[0]))),
    ("bytes_to_string", "string(bytes) -> string", Some(|args| convert::to_string(&args[0]))),
    ("double_to_string", "string(double) -> string", Some(|args| convert::to_string(&args[0]))),
    ("duration_to_string", "string(duration) -> string", Some(|args| convert::to_string(&args[0]))),
    ("int64_to_string", "string(int) -> string", Some(|args| convert::to_string(&args[0]))),
    ("timestamp_to_string", "string(timestamp) -> string", Some(|args| convert::to_string(&args[0]))),
    ("uint64_to_string", "string(uint) -> string", Some(|args| convert::to_string(&args[0]))),
    ("ip_to_string", "string(ip) -> string", Some(|args| convert::to_string(&args[0]))),
    ("cidr_to_string", "string(cidr) -> string", Some(|args| convert::to_string(&args[0]))),
    ("timestamp_to_timestamp", "timestamp(timestamp) -> timestamp", Some(|args| convert::to_timestamp(&args[0]))),
    ("int64_to_timestamp", "timestamp(int) -> timestamp", Some(|args| convert::to_timestamp(&args[0]))),
    ("string_to_timestamp", "timestamp(string) -> timestamp", Some(|args| convert::to_timestamp(&args[0]))),
    ("uint64_to_uint64", "uint(uint) -> uint", Some(|args| convert::to_uint(&args[0]))),
    ("double_to_uint64", "uint(double) -> uint", Some(|args| convert::to_uint(&args[0]))),
    ("int64_to_uint64", "uint(int) -> uint", Some(|args| convert::to_uint(&args[0]))),
    ("string_to_uint64", "uint(string) -> uint", Some(|args| convert::to_uint(&args[0]))),
    ("contains_string", "string : contains(string) -> bool", Some(strings::contains)),
    ("ends_with_string", "string : endsWith(string) -> bool", Some(strings::ends_with)),
    ("starts_with_string", "string : startsWith(string) -> bool", Some(strings::starts_with)),
    ("matches", "matches(string, string) -> bool", Some(strings::matches)),
    ("matches_string", "string : matches(string) -> bool", Some(strings::matches)),
    ("timestamp_to_year", "timestamp : getFullYear() -> int", Some(|args| part(args, Part::Year))),
    ("timestamp_to_year_with_tz", "timestamp : getFullYear(string) -> int", Some(|args| part(args, Part::Year))),
    ("timestamp_to_month", "timestamp : getMonth() -> int", Some(|args| part(args, Part::Month))),
    ("timestamp_to_month_with_tz", "timestamp : getMonth(string) -> int", Some(|args| part(args, Part::Month))),
    ("timestamp_to_day_of_year", "timestamp : getDayOfYear() -> int", Some(|args| part(args, Part::DayOfYear))),
    ("timestamp_to_day_of_year_with_tz", "timestamp : getDayOfYear(string) -> int", Some(|args| part(args, Part::DayOfYear))),
    ("timestamp_to_day_of_month", "timestamp : getDayOfMonth() -> int", Some(|args| part(args, Part::DayOfMonth))),
    ("timestamp_to_day_of_month_with_tz", "timestamp : getDayOfMonth(string) -> int", Some(|args| part(args, Part::DayOfMonth))),
    ("timestamp_to_day_of_month_1_based", "timestamp : getDate() -> int", Some(|args| part(args, Part::Date))),
    ("timestamp_to_day_of_month_1_based_with_tz", "timestamp : getDate(string) -> int", Some(|args| part(args, Part::Date))),
    ("timestamp_to_day_of_week", "timestamp : getDayOfWeek() -> int", Some(|args| part(args, Part::DayOfWeek))),
    ("timestamp_to_day_of_week_with_tz", "timestamp : getDayOfWeek(string) -> int", Some(|args| part(args, Part::DayOfWeek))),
    ("timestamp_to_hours", "timestamp : getHours() -> int", Some(|args| part(args, Part::Hours))),
    ("timestamp_to_hours_with_tz", "timestamp : getHours(string) -> int", Some(|args| part(args, Part::Hours))),
    ("duration_to_hours", "duration : getHours() -> int", Some(|args| span(args, 3_600_000_000_000))),
    ("timestamp_to_minutes", "timestamp : getMinutes() -> int", Some(|args| part(args, Part::Minutes))),
    ("timestamp_to_minutes_with_tz", "timestamp : getMinutes(string) -> int", Some(|args| part(args, Part::Minutes))),
    ("duration_to_minutes", "duration : getMinutes() -> int", Some(|args| span(args, 60_000_000_000))),
    ("timestamp_to_seconds", "timestamp : getSeconds() -> int", Some(|args| part(args, Part::Seconds))),
    ("timestamp_to_seconds_tz", "timestamp : getSeconds(string) -> int", Some(|args| part(args, Part::Seconds))),
    ("duration_to_seconds", "duration : getSeconds() -> int", Some(|args| span(args, 1_000_000_000))),
    ("timestamp_to_milliseconds", "timestamp : getMilliseconds() -> int", Some(|args| part(args, Part::Milliseconds))),
    ("timestamp_to_milliseconds_with_tz", "timestamp : getMilliseconds(string) -> int", Some(|args| part(args, Part::Milliseconds))),
    ("duration_to_milliseconds", "duration : getMilliseconds() -> int", Some(|args| span(args, 1_000_000))),
    ("optional_of", "optional.of(V) -> optional(V)", Some(|args| Ok(Val::some(args[0].clone())))),
    ("optional_ofNonZeroValue", "optional.ofNonZeroValue(V) -> optional(V)", Some(of_non_zero)),
    ("optional_none", "optional.none() -> optional(V)", Some(|_| Ok(Val::Optional(None)))),
    ("optional_value", "optional(V) : value() -> V", Some(optional_value)),
    ("optional_hasValue", "optional(V) : hasValue() -> bool", Some(has_value)),
];

fn size<'a>(args: &[Val<'a>]) -> Eval<'a> {
    match &args[0] {
        sized @ (Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_)) => {
            Ok(Val::Int(i64::try_from(sized.size()).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::new("no such overload: size")),
    }
}

fn type_of<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(Val::Type(args[0].ty().into()))
}

/// A part of a point of time; of Greenwich time if no zone is named.
fn part<'a>(args: &[Val<'a>], part: Part) -> Eval<'a> {
    match (&args[0], args.get(1).map(Val::as_str)) {
        (Val::Timestamp(time), None) => time.part(part, Some("UTC")).map(Val::Int),
        (Val::Timestamp(time), Some(Some(zone))) => time.part(part, Some(zone)).map(Val::Int),
        _ => Err(EvalError::no_overload()),
    }
}

/// A duration in whole units.
fn span<'a>(args: &[Val<'a>], unit: i64) -> Eval<'a> {
    match &args[0] {
        Val::Duration(nanos) => Ok(Val::Int(nanos / unit)),
        _ => Err(EvalError::no_overload()),
    }
}

fn of_non_zero<'a>(args: &[Val<'a>]) -> Eval<'a> {
    Ok(if args[0].is_zero() { Val::Optional(None) } else { Val::some(args[0].clone()) })
}

fn optional_value<'a>(args: &[Val<'a>]) -> Eval<'a> {
    match &args[0] {
        Val::Optional(Some(value)) => Ok((**value).clone()),
        Val::Optional(None) => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::no_overload()),
    }
}

fn has_value<'a>(args: &[Val<'a>]) -> Eval<'a> {
    match &args[0] {
        Val::Optional(value) => Ok(Val::Bool(value.is_some())),
        _ => Err(EvalError::no_overload()),
    }
}
