//! The tree.

use std::fmt;

use crate::{Map, Number, Text};

/// A JSON value: an object of the API or a part of one.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    String(Text),
    Array(Vec<Value>),
    Object(Map),
}

impl Value {
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    #[must_use]
    pub const fn is_boolean(&self) -> bool {
        matches!(self, Self::Bool(_))
    }

    #[must_use]
    pub const fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }

    #[must_use]
    pub const fn is_string(&self) -> bool {
        matches!(self, Self::String(_))
    }

    #[must_use]
    pub const fn is_array(&self) -> bool {
        matches!(self, Self::Array(_))
    }

    #[must_use]
    pub const fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// Whether it is a whole number that fits 64 bits with a sign.
    #[must_use]
    pub fn is_i64(&self) -> bool {
        matches!(self, Self::Number(number) if number.is_i64())
    }

    /// Whether it is a whole number of no less than nothing that fits 64 bits.
    #[must_use]
    pub fn is_u64(&self) -> bool {
        matches!(self, Self::Number(number) if number.is_u64())
    }

    /// Whether it is a number written with a point or an exponent.
    #[must_use]
    pub fn is_f64(&self) -> bool {
        matches!(self, Self::Number(number) if number.is_f64())
    }

    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    #[must_use]
    pub const fn as_number(&self) -> Option<&Number> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.as_number()?.as_i64()
    }

    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        self.as_number()?.as_u64()
    }

    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        self.as_number()?.as_f64()
    }

    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    #[must_use]
    pub const fn as_array(&self) -> Option<&Vec<Self>> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    #[must_use]
    pub const fn as_array_mut(&mut self) -> Option<&mut Vec<Self>> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    #[must_use]
    pub const fn as_object(&self) -> Option<&Map> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    #[must_use]
    pub const fn as_object_mut(&mut self) -> Option<&mut Map> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// Takes the value out and leaves `null`.
    #[must_use]
    pub const fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Null)
    }
}

/// As JSON without blanks; with `{:#}` indented by two.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if f.alternate() { serde_json::to_string_pretty(self) } else { serde_json::to_string(self) };
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

/// As JSON, which is what whoever looks at a value in a log wants to see.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{from_value, json, to_value};

    const TEXT: &str =
        r#"{"a":[1,-2,1.5,18446744073709551615,null,true,"x"],"b":{"a name that is longer than lies in place":{}},"c":"\u0000\"é"}"#;

    #[test]
    fn a_value_is_as_large_as_one_of_serde_json() {
        assert!(size_of::<Value>() <= size_of::<serde_json::Value>());
    }

    #[test]
    fn text_reads_and_writes_as_with_serde_json() {
        let (ours, theirs): (Value, serde_json::Value) = (serde_json::from_str(TEXT).unwrap(), serde_json::from_str(TEXT).unwrap());
        assert_eq!(ours.to_string(), theirs.to_string());
        assert_eq!(format!("{ours:#}"), format!("{theirs:#}"));
        assert_eq!(Value::from(theirs.clone()), ours);
        assert_eq!(serde_json::Value::from(ours), theirs);
        assert_eq!(serde_json::from_str::<Value>(r#"{"b":1,"a":2,"b":3}"#).unwrap(), json!({"a": 2, "b": 3}));
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    enum Form {
        Plain,
        Named { size: u8 },
        Pair(i64, Option<String>),
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Typed {
        forms: Vec<Form>,
        by_name: BTreeMap<String, f64>,
        #[serde(default)]
        absent: Option<bool>,
    }

    #[test]
    fn types_are_read_from_trees_and_written_as_trees() {
        let json = json!({"forms": ["plain", {"named": {"size": 3}}, {"pair": [-1, null]}], "by_name": {"x": 0.5}, "absent": null});
        let typed: Typed = from_value(&json).unwrap();
        assert_eq!(typed.forms, [Form::Plain, Form::Named { size: 3 }, Form::Pair(-1, None)]);
        assert_eq!(to_value(&typed).unwrap(), json);
        for wrong in
            [json!({"forms": [{"named": {"size": 300}}], "by_name": {}}), json!({"forms": [7], "by_name": {}}), json!([1, 2, 3, 4])]
        {
            assert!(from_value::<Typed>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_are_found_by_name_position_and_pointer() {
        let mut value = json!({"a": {"b/c": [{"~": 1}, 2]}});
        assert_eq!((value["a"]["b/c"][1].as_i64(), &value["a"]["b/c"][2]["x"]), (Some(2), &Value::Null));
        assert_eq!(value.pointer("/a/b~1c/0/~0"), Some(&Value::from(1)));
        for nothing in ["a", "/a/b", "/a/b~1c/2", "/a/b~1c/01", "/a/b~1c/+1", "/a/b~1c/", "/a/b~1c/1/x"] {
            assert_eq!(value.pointer(nothing), None, "{nothing}");
        }
        assert_eq!(value.pointer("").cloned(), Some(value.clone()));
        *value.pointer_mut("/a/b~1c/1").unwrap() = "x".into();
        value["a"]["new"]["deeper"] = true.into();
        assert_eq!(value, json!({"a": {"b/c": [{"~": 1}, "x"], "new": {"deeper": true}}}));
    }
}
