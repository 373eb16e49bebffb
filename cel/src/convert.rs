//! Conversions between kinds of values: `int(x)`, `string(x)`, … (`ConvertToType` of cel-go's values).

use std::sync::Arc;

use crate::EvalError;
use crate::time::{self, Timestamp};
use crate::value::{Text, Val};

type Eval<'a> = Result<Val<'a>, EvalError>;

fn impossible(value: &Val<'_>, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{to}'", value.ty().name()))
}

fn overflow(what: &str) -> EvalError {
    EvalError::new(format!("{what} overflow"))
}

pub(crate) fn to_bool<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Bool(_) => Ok(value.clone()),
        Val::String(text) => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Val::Bool(false)),
            _ => Err(impossible(value, "bool")),
        },
        _ => Err(impossible(value, "bool")),
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
pub(crate) fn to_int<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Int(_) => Ok(value.clone()),
        Val::Uint(number) => i64::try_from(*number).map(Val::Int).map_err(|_| overflow("integer")),
        Val::Double(number) => {
            let fits = number.is_finite() && *number > i64::MIN as f64 && *number < i64::MAX as f64;
            if fits { Ok(Val::Int(*number as i64)) } else { Err(overflow("integer")) }
        }
        Val::String(text) => text.as_str().parse().map(Val::Int).map_err(|_| impossible(value, "int")),
        Val::Duration(nanos) => Ok(Val::Int(*nanos)),
        Val::Timestamp(time) => Ok(Val::Int(time.seconds())),
        _ => Err(impossible(value, "int")),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn to_uint<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Uint(_) => Ok(value.clone()),
        Val::Int(number) => u64::try_from(*number).map(Val::Uint).map_err(|_| overflow("unsigned integer")),
        Val::Double(number) => {
            let fits = *number >= 0.0 && *number < 18_446_744_073_709_551_616.0;
            if fits { Ok(Val::Uint(*number as u64)) } else { Err(overflow("unsigned integer")) }
        }
        // Go takes no sign for unsigned numbers.
        Val::String(text) if !text.as_str().starts_with('+') => text.as_str().parse().map(Val::Uint).map_err(|_| impossible(value, "uint")),
        _ => Err(impossible(value, "uint")),
    }
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn to_double<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Double(_) => Ok(value.clone()),
        Val::Int(number) => Ok(Val::Double(*number as f64)),
        Val::Uint(number) => Ok(Val::Double(*number as f64)),
        Val::String(text) => text.as_str().parse().map(Val::Double).map_err(|_| impossible(value, "double")),
        _ => Err(impossible(value, "double")),
    }
}

pub(crate) fn to_bytes<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Bytes(_) => Ok(value.clone()),
        Val::String(text) => Ok(Val::Bytes(text.as_str().as_bytes().into())),
        _ => Err(impossible(value, "bytes")),
    }
}

pub(crate) fn to_duration<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Duration(_) => Ok(value.clone()),
        Val::String(text) => time::duration(text.as_str()).map(Val::Duration).ok_or_else(|| impossible(value, "google.protobuf.Duration")),
        _ => Err(impossible(value, "google.protobuf.Duration")),
    }
}

pub(crate) fn to_timestamp<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::Timestamp(_) => Ok(value.clone()),
        Val::Int(seconds) => Timestamp::from_seconds(*seconds).map(Val::Timestamp),
        Val::String(text) => {
            Timestamp::parse(text.as_str()).map(Val::Timestamp).ok_or_else(|| impossible(value, "google.protobuf.Timestamp"))
        }
        _ => Err(impossible(value, "google.protobuf.Timestamp")),
    }
}

pub(crate) fn to_string<'a>(value: &Val<'a>) -> Eval<'a> {
    match value {
        Val::String(_) => Ok(value.clone()),
        _ => to_text(value).map(|text| Val::String(Text::Shared(text))),
    }
}

/// The text of a value, as `string()` makes it.
pub(crate) fn to_text(value: &Val<'_>) -> Result<Arc<str>, EvalError> {
    Ok(match value {
        Val::String(text) => text.as_str().into(),
        Val::Bool(value) => value.to_string().into(),
        Val::Int(number) => number.to_string().into(),
        Val::Uint(number) => number.to_string().into(),
        Val::Double(number) => double_text(*number).into(),
        Val::Bytes(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?.into()
        }
        Val::Duration(nanos) => time::duration_text(*nanos).into(),
        Val::Timestamp(time) => time.to_string().into(),
        Val::Null => "null".into(),
        Val::Type(ty) => ty.name().into(),
        Val::Host(host) => match host.text() {
            Some(text) => text.into(),
            None => return Err(impossible(value, "string")),
        },
        _ => return Err(impossible(value, "string")),
    })
}

/// A float as Go's `%g` writes it: the shortest digits, with an exponent when it is below -4 or above 20.
pub(crate) fn double_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if number != 0.0 && !(-4..21).contains(&exponent) {
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    format!("{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_go_writes_them() {
        for (number, text) in [
            (1.0, "1"),
            (1.5, "1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e-5, "1.5e-05"),
            (-0.0, "-0"),
            (0.0001, "0.0001"),
        ] {
            assert_eq!(double_text(number), text);
        }
    }
}
