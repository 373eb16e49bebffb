//! Values as Go prints them in messages (`field.Error.ErrorBody`, `%v`, `%q`).

use coracle_tree::{Number, Value};

use crate::go;
pub(super) use crate::go::quoted;

/// A refused value as it stands in a message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Number(number) => number_text(number),
        Value::Bool(set) => set.to_string(),
        other => go::json(other),
    }
}

/// `%v` of a number.
pub(super) fn number_text(number: &Number) -> String {
    match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole.to_string(),
        (None, Some(float)) => float_text(float),
        (None, None) => number.to_string(),
    }
}

/// `%v` of a float: shortest digits, with an exponent where it is below -4 or at least 6.
pub(super) fn float_text(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return value.to_string() };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn values_print_as_go_prints_them() {
        assert_eq!(shown(&json!(1.5)), "1.5");
        assert_eq!(float_text(3e9), "3e+09");
        assert_eq!(float_text(123_456.0), "123456");
        assert_eq!(shown(&json!(0.00001)), "1e-05");
        assert_eq!(shown(&json!("a\"\n\u{1}é")), "\"a\\\"\\n\\x01é\"");
        assert_eq!(shown(&json!({"b": "<", "a": [null]})), "{\"a\":[null],\"b\":\"\\u003c\"}");
    }
}
