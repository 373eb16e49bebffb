//! Path elements as text: one step of a path, as it stands as a key in `FieldsV1` (structured-merge-diff's `serialize-pe.go`).

use coracle_tree::{Map, Text, Value};

use super::node::Defaults;
use crate::{go, types::ListKind};

/// `f:name`
pub(crate) fn field(name: &str) -> Text {
    let mut text = Text::with_capacity(name.len() + 2);
    text.push_str("f:");
    text.push_str(name);
    text
}

/// The element of a list's item: `k:{…}` by its keys, `v:…` by its value. `defaults` are those of keys.
/// Fails with the reason when the item has no such identity.
pub(crate) fn of_item(kind: &ListKind, defaults: Defaults<'_>, item: &Value) -> Result<Text, String> {
    match kind {
        ListKind::Map(keys) => by_keys(keys, defaults, item),
        ListKind::Set => by_value(item),
        ListKind::Atomic => Err("invalid indexing of non-associative list".into()),
    }
}

fn by_keys(keys: &[Box<str>], defaults: Defaults<'_>, item: &Value) -> Result<Text, String> {
    let Some(map) = item.as_object() else {
        let what = if item.is_null() { "a null element" } else { "non-map elements" };
        return Err(format!("associative list with keys may not have {what}"));
    };
    let mut found: Vec<(&str, &Value)> = Vec::with_capacity(keys.len());
    for key in keys {
        let value = map.get(key).or_else(|| defaults.of(key));
        found.extend(value.map(|v| (&**key, v)));
    }
    if found.is_empty() && !keys.is_empty() {
        let names: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
        let names = names.join(" ");
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{names}] (and doesn't have default values for any key fields)"
        ));
    }
    found.sort_unstable_by_key(|(name, _)| *name);
    let mut text = Text::with_capacity(40);
    text.push_str("k:{");
    for (at, (name, value)) in found.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        push_text(&mut text, name);
        text.push(':');
        push_value(&mut text, value);
    }
    text.push('}');
    Ok(text)
}

fn by_value(item: &Value) -> Result<Text, String> {
    match item {
        Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
        Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
        Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
        scalar => {
            let mut text = Text::from("v:");
            push_value(&mut text, scalar);
            Ok(text)
        }
    }
}

fn push_value(into: &mut Text, value: &Value) {
    match value {
        Value::String(text) => push_text(into, text),
        other => into.push_str(&go::json(other)),
    }
}

fn push_text(into: &mut Text, text: &str) {
    if text.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&')) {
        into.push('"');
        into.push_str(text);
        into.push('"');
    } else {
        into.push_str(&go::json(&Value::from(text)));
    }
}

/// The element as a part of a printed path: `.name`, `[name="a",port=80]`, `[="text"]`, `[0]`.
pub(crate) fn display(key: &str) -> String {
    let (kind, rest) = key.split_at_checked(2).unwrap_or(("", key));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let fields: Map = serde_json::from_str(rest).unwrap_or_default();
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", fields.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

/// Checks a whole tree that a client sent, and brings its elements to the one spelling we compare by.
pub(crate) fn canonical(tree: Map) -> Result<Map, String> {
    let mut made = Map::new();
    for (key, node) in tree {
        let Value::Object(children) = node else { return Err(format!("{key:?} is not an object")) };
        let key = if key == "." { key } else { canonical_key(&key)? };
        made.insert(key, Value::Object(canonical(children)?));
    }
    Ok(made)
}

fn canonical_key(key: &str) -> Result<Text, String> {
    let (kind, rest) = key.split_at_checked(2).ok_or("key must be 2 characters long")?;
    match kind {
        "f:" => Ok(key.into()),
        "k:" => {
            let fields: Map = serde_json::from_str(rest).map_err(|e| e.to_string())?;
            Ok(format!("k:{}", go::json(&Value::Object(fields))).into())
        }
        "v:" => {
            let value: Value = serde_json::from_str(rest).map_err(|e| e.to_string())?;
            Ok(format!("v:{}", go::json(&value)).into())
        }
        "i:" => rest.parse::<i64>().map(|at| format!("i:{at}").into()).map_err(|e| e.to_string()),
        _ => Err(format!("unknown path element type {key:?}")),
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn keys_are_sorted_by_name_and_keep_their_json_type() {
        let kind = ListKind::Map(vec!["protocol".into(), "containerPort".into()]);
        let text = of_item(&kind, Defaults::None, &json!({"containerPort": 80, "protocol": "TCP", "name": "x"})).unwrap();
        assert_eq!(text, r#"k:{"containerPort":80,"protocol":"TCP"}"#);
        assert!(
            of_item(&kind, Defaults::None, &json!({"name": "x"}))
                .unwrap_err()
                .contains(r#"omits all key fields ["protocol" "containerPort"]"#)
        );
    }

    #[test]
    fn markup_is_escaped_as_go_does() {
        assert_eq!(of_item(&ListKind::Set, Defaults::None, &json!("a<b")).unwrap(), r#"v:"a\u003cb""#);
        assert_eq!(canonical_key(r#"k:{"b": 1, "a":"<"}"#).unwrap(), r#"k:{"a":"\u003c","b":1}"#);
        assert!(canonical_key("x:y").is_err());
    }
}
