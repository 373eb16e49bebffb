//! `'%s is %d'.format([a, b])` (cel-go `ext/formatting.go`).

use std::fmt::Write as _;

use crate::EvalError;
use crate::convert::to_text;
use crate::value::{List, Map, Val};

type Result<T> = std::result::Result<T, EvalError>;

/// The most digits after a point; upstream has no bound.
const PRECISION_LIMIT: usize = 1000;
const DEFAULT_PRECISION: usize = 6;

/// One conversion: `%.3f`.
pub(crate) struct Clause {
    pub(crate) letter: char,
    pub(crate) precision: Option<usize>,
}

/// What may go into a clause, for messages; `name` is the name of a type.
pub(crate) fn refused(letter: char, name: &str) -> Option<String> {
    let (fits, what): (&[&str], &str) = match letter {
        's' => (
            &[
                "list",
                "map",
                "int",
                "uint",
                "double",
                "bool",
                "string",
                "google.protobuf.Timestamp",
                "bytes",
                "google.protobuf.Duration",
                "type",
                "null_type",
            ],
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
        ),
        'd' => (&["int", "uint"], "decimal clause can only be used on integers"),
        'f' => (&["double"], "fixed-point clause can only be used on doubles"),
        'e' => (&["double"], "scientific clause can only be used on doubles"),
        'b' => (&["int", "uint", "bool"], "only integers and bools can be formatted as binary"),
        'x' | 'X' => (&["string", "bytes", "int", "uint"], "only integers, byte buffers, and strings can be formatted as hex"),
        _ => (&["int", "uint"], "octal clause can only be used on integers"),
    };
    (!fits.contains(&name)).then(|| format!("{what}, was given {name}"))
}

/// Reads the clause after a `%`, and its length without the `%`.
pub(crate) fn clause(rest: &str) -> std::result::Result<(Clause, usize), String> {
    let failed = |why: String| format!("could not parse formatting clause: {why}");
    let mut at = 0;
    let mut precision = None;
    if let Some(after) = rest.strip_prefix('.') {
        let length = after.bytes().take_while(u8::is_ascii_digit).count();
        if length == after.len() {
            return Err(failed("error while parsing precision: could not find end of precision specifier".into()));
        }
        let number: usize = after[..length].parse().map_err(|_| {
            let why = if length == 0 { "invalid syntax" } else { "value out of range" };
            failed(format!(
                "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {:?}: {why}",
                &after[..length]
            ))
        })?;
        if number > PRECISION_LIMIT {
            let exceeds = format!("precision {number} exceeds maximum allowed precision {PRECISION_LIMIT}");
            return Err(failed(format!("error while parsing precision: {exceeds}")));
        }
        precision = Some(number);
        at = length + 1;
    }
    let letter = rest[at..].chars().next().unwrap_or('%');
    if !"sdfebxXo".contains(letter) {
        return Err(failed(format!("unrecognized formatting clause \"{letter}\"")));
    }
    Ok((Clause { letter, precision }, at + 1))
}

/// Formats `args`.
pub(super) fn format<'a>(args: &[Val<'a>]) -> Result<Val<'a>> {
    let (Some(template), Some(Val::List(values))) = (args[0].as_str(), args.get(1)) else { return Err(EvalError::no_overload()) };
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut index = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let value = values.get(index).ok_or_else(|| EvalError::new(format!("index {index} out of range")))??;
        if rest.is_empty() {
            return Err(EvalError::new("unexpected end of string"));
        }
        let (clause, length) = clause(rest).map_err(EvalError::new)?;
        write_clause(&clause, &value, &mut out).map_err(|error| EvalError::new(format!("error during formatting: {error}")))?;
        rest = &rest[length..];
        index += 1;
    }
    out.push_str(rest);
    Ok(Val::from(out))
}

fn write_clause(clause: &Clause, value: &Val<'_>, out: &mut String) -> Result<()> {
    let precision = clause.precision.unwrap_or(DEFAULT_PRECISION);
    // Text that spells a float that has no digits counts as one.
    let spelled = match (clause.letter, value.as_str()) {
        ('f' | 'e', Some("NaN")) => Some(f64::NAN),
        ('f' | 'e', Some("Infinity")) => Some(f64::INFINITY),
        ('f' | 'e', Some("-Infinity")) => Some(f64::NEG_INFINITY),
        _ => None,
    };
    let ty = value.ty();
    if let (None, Some(complaint)) = (spelled, refused(clause.letter, ty.name())) {
        return Err(EvalError::new(complaint));
    }
    let double = match value {
        Val::Double(number) => *number,
        _ => spelled.unwrap_or_default(),
    };
    let written = match (clause.letter, value) {
        ('s', _) => return text(value, out),
        ('f' | 'e', _) if !double.is_finite() => write!(
            out,
            "{}",
            if double.is_nan() {
                "NaN"
            } else if double > 0.0 {
                "∞"
            } else {
                "-∞"
            }
        ),
        ('f', _) => {
            out.push_str(&grouped(&format!("{double:.precision$}")));
            Ok(())
        }
        ('e', _) => write!(out, "{}", scientific(double, precision)),
        ('d', Val::Int(number)) => write!(out, "{number}"),
        ('d', Val::Uint(number)) => write!(out, "{number}"),
        ('b', Val::Bool(value)) => write!(out, "{}", u8::from(*value)),
        ('b' | 'o' | 'x' | 'X', Val::Int(number)) => {
            out.push_str(if *number < 0 { "-" } else { "" });
            write_radix(clause.letter, number.unsigned_abs(), out)
        }
        ('b' | 'o' | 'x' | 'X', Val::Uint(number)) => write_radix(clause.letter, *number, out),
        (letter, Val::String(text)) => write_hex(letter, text.as_str().as_bytes(), out),
        (letter, Val::Bytes(bytes)) => write_hex(letter, bytes, out),
        _ => Ok(()),
    };
    written.map_err(|_| EvalError::memory())
}

fn write_radix(letter: char, number: u64, out: &mut String) -> std::fmt::Result {
    match letter {
        'b' => write!(out, "{number:b}"),
        'o' => write!(out, "{number:o}"),
        'x' => write!(out, "{number:x}"),
        _ => write!(out, "{number:X}"),
    }
}

fn write_hex(letter: char, bytes: &[u8], out: &mut String) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| if letter == 'x' { write!(out, "{byte:02x}") } else { write!(out, "{byte:02X}") })
}

/// Digits in groups of three, as the English locale has them.
fn grouped(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `1.052033×10⁰³`, as the English locale has it.
fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let value: i32 = exponent.parse().unwrap_or_default();
    let raised: String = format!("{}{:02}", if value < 0 { "-" } else { "" }, value.abs())
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or_default()).unwrap_or(digit),
        })
        .collect();
    format!("{digits}×10{raised}")
}

fn text(value: &Val<'_>, out: &mut String) -> Result<()> {
    match value {
        Val::List(items) => list(items, out),
        Val::Map(entries) => map(entries, out),
        _ => {
            out.push_str(&to_text(value)?);
            Ok(())
        }
    }
}

/// A value within a list or map.
fn member(value: &Val<'_>, out: &mut String) -> Result<()> {
    match value {
        Val::String(text) => quoted("", text.as_str(), out),
        Val::Bytes(_) => quoted("b", &to_text(value)?, out),
        Val::Timestamp(time) => {
            out.push_str(&format!("timestamp(\"{time}\")"));
        }
        Val::Duration(_) => {
            out.push_str(&format!("duration(\"{}\")", to_text(value)?));
        }
        Val::Double(number) if number.is_finite() => out.push_str(&format!("{number:.DEFAULT_PRECISION$}")),
        Val::Double(number) => quoted(
            "",
            if number.is_nan() {
                "NaN"
            } else if *number > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            },
            out,
        ),
        Val::List(items) => return list(items, out),
        Val::Map(entries) => return map(entries, out),
        Val::Optional(_) | Val::Object(_) | Val::Preserved(_) | Val::Host(_) => {
            return Err(EvalError::new(format!("no formatting function for {}", value.ty().name())));
        }
        _ => out.push_str(&to_text(value)?),
    }
    Ok(())
}

fn quoted(prefix: &str, text: &str, out: &mut String) {
    out.push_str(prefix);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn list(items: &List<'_>, out: &mut String) -> Result<()> {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        member(&item?, out)?;
    }
    out.push(']');
    Ok(())
}

fn map(entries: &Map<'_>, out: &mut String) -> Result<()> {
    let mut pairs = Vec::with_capacity(entries.len());
    for key in entries.keys() {
        if !matches!(key, Val::String(_) | Val::Bool(_) | Val::Int(_) | Val::Uint(_)) {
            return Err(EvalError::new(format!("no formatting function for map key of type {}", key.ty().name())));
        }
        let (mut name, mut value) = (String::new(), String::new());
        member(&key, &mut name)?;
        if let Some(found) = entries.find(&key) {
            member(&found?, &mut value)?;
        }
        pairs.push(format!("{name}:{value}"));
    }
    pairs.sort();
    out.push('{');
    out.push_str(&pairs.join(", "));
    out.push('}');
    Ok(())
}
