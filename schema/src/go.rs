//! What Go calls the values of JSON: upstream's error messages say it in these words.

pub use coracle_cel::quoted;
use coracle_tree::Value;
use serde::Serialize;

/// The Go type of a value decoded without a schema (`%T`).
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// What Go's JSON decoder calls a value that does not fit (`json.UnmarshalTypeError`).
pub fn json_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Why Go does not read bytes as a JSON object (`json.Unmarshal` into a map); `None` if it does. The value is not kept, so that its depth
/// costs nothing.
pub fn not_an_object(bytes: &[u8]) -> Option<String> {
    if let Some(fault) = crate::decode::syntax::fault(bytes) {
        return Some(fault);
    }
    let found = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'n') | None => return None,
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(_) => "number",
    };
    Some(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
}

/// JSON text as Go's encoder writes it: `<`, `>`, `&` and the two line separators of Unicode escaped.
pub fn json(value: &(impl Serialize + ?Sized)) -> String {
    let plain = serde_json::to_string(value).unwrap_or_default();
    if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return plain;
    }
    let mut escaped = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_told_in_gos_words() {
        let cases = [
            ("{\"a\":[1,{}]}", None),
            (" null ", None),
            ("", Some("unexpected end of JSON input")),
            ("changed", Some("invalid character 'c' looking for beginning of value")),
            ("[{}]", Some("json: cannot unmarshal array into Go value of type map[string]interface {}")),
            ("-1", Some("json: cannot unmarshal number into Go value of type map[string]interface {}")),
        ];
        for (text, expected) in cases {
            assert_eq!(not_an_object(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
