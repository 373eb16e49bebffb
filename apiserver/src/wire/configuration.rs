//! Configuration files of the server: one object of one kind, YAML or JSON, decoded strictly and refused in the words of apimachinery's
//! decoders (`runtime/serializer`, `EnableStrict`).

use coracle_tree::Value;
use serde::de::DeserializeOwned;

use super::yaml;

/// What is shown of a file that has no kind.
const SHOWN: usize = 2048;

/// What a file may be.
pub(crate) struct Format {
    /// `apiserver.config.k8s.io`
    pub(crate) group: &'static str,
    /// Versions that are read; they must not differ in fields.
    pub(crate) versions: &'static [&'static str],
    /// The kind.
    pub(crate) kind: &'static str,
    /// Other kinds of the group.
    pub(crate) others: &'static [&'static str],
    /// The fields there are, by the path at which they stand, without indices; what stands below a path that is not here is not looked at.
    pub(crate) fields: &'static [(&'static str, &'static [&'static str])],
}

impl Format {
    /// Decodes a file. Unknown and doubled fields are refused, all of them at once; `null` is as if it were not there.
    pub(crate) fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, String> {
        let read = yaml::read(bytes)?;
        let mut wrong: Vec<String> = read.strict().into_iter().collect();
        let mut value = read.value;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        for (field, missing) in [("Kind", kind.is_empty()), ("apiVersion", version.is_empty())] {
            if missing {
                return Err(format!("Object '{field}' is missing in '{}'", String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)])));
            }
        }
        let known = self.knows(version);
        if known && self.others.contains(&kind) {
            return Err(format!("expected {}, got *apiserver.{kind}", self.kind));
        }
        if !known || kind != self.kind {
            let versions: Vec<String> = self.versions.iter().map(|version| format!("{}/{version}", self.group)).collect();
            return Err(format!("no kind {kind:?} is registered for version {version:?}; known: {} of {}", self.kind, versions.join(", ")));
        }
        self.unknown(&value, "", "", &mut wrong);
        without_nulls(&mut value);
        let read = coracle_tree::from_value(value).map_err(|e| e.to_string())?;
        if wrong.is_empty() { Ok(read) } else { Err(format!("strict decoding error: {}", wrong.join(", "))) }
    }

    /// Decodes a file that may also be of an `older` form.
    pub(crate) fn read_or<T: DeserializeOwned>(&self, older: &Self, bytes: &[u8]) -> Result<T, String> {
        let value = yaml::read(bytes)?.value;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        if older.knows(text("apiVersion")) && older.kind == text("kind") { older.read(bytes) } else { self.read(bytes) }
    }

    fn knows(&self, version: &str) -> bool {
        version.split_once('/').is_some_and(|(group, version)| group == self.group && self.versions.contains(&version))
    }

    /// Fields nobody knows; `place` is where they stand without indices, `path` with them.
    fn unknown(&self, value: &Value, place: &str, path: &str, unknown: &mut Vec<String>) {
        match value {
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.unknown(item, place, &format!("{path}[{at}]"), unknown);
                }
            }
            Value::Object(fields) => {
                let Some((_, known)) = self.fields.iter().find(|(known, _)| *known == place) else { return };
                let below = |of: &str, field: &str| if of.is_empty() { field.to_owned() } else { format!("{of}.{field}") };
                for (field, value) in fields {
                    let path = below(path, field);
                    if known.contains(&field.as_str()) {
                        self.unknown(value, &below(place, field), &path, unknown);
                    } else {
                        unknown.push(format!("unknown field {path:?}"));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Takes out members that are `null`, as if they were not there.
pub(crate) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const FORMAT: Format = Format {
        group: "g.io",
        versions: &["v1", "v1beta1"],
        kind: "Thing",
        others: &["Other"],
        fields: &[("", &["apiVersion", "kind", "items"]), ("items", &["name"])],
    };

    #[derive(Deserialize, Debug, Default)]
    #[serde(default)]
    struct Thing {
        items: Vec<Item>,
    }

    #[derive(Deserialize, Debug, Default)]
    #[serde(default)]
    struct Item {
        name: String,
    }

    fn read(text: &str) -> Result<Vec<String>, String> {
        FORMAT.read::<Thing>(text.as_bytes()).map(|thing| thing.items.into_iter().map(|item| item.name).collect())
    }

    #[test]
    fn a_file_of_a_known_version_is_read_and_null_is_nothing() {
        assert_eq!(read("{apiVersion: g.io/v1beta1, kind: Thing, items: [{name: a}, {name: null}]}").unwrap(), ["a", ""]);
        assert_eq!(read(r#"{"apiVersion": "g.io/v1", "kind": "Thing", "items": null}"#).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_file_of_an_older_form_is_read_and_refused_as_that() {
        const OLDER: Format = Format { group: "old.io", kind: "Stuff", ..FORMAT };
        let read = |text: &str| FORMAT.read_or::<Thing>(&OLDER, text.as_bytes()).map(|thing| thing.items.len());
        assert_eq!(read("{apiVersion: g.io/v1, kind: Thing, items: [{}]}"), Ok(1));
        assert_eq!(read("{apiVersion: old.io/v1, kind: Stuff, items: [{}]}"), Ok(1));
        assert!(read("{apiVersion: old.io/v1, kind: Stuff, x: 1}").unwrap_err().starts_with("strict decoding error"));
        assert!(read("{apiVersion: old.io/v1, kind: Thing}").unwrap_err().starts_with("no kind \"Thing\""));
    }

    #[test]
    fn what_is_not_a_file_of_this_kind_is_refused_in_upstreams_words() {
        for (text, expected) in [
            ("kind: Thing", "Object 'apiVersion' is missing in 'kind: Thing'"),
            ("apiVersion: g.io/v1", "Object 'Kind' is missing in 'apiVersion: g.io/v1'"),
            ("{apiVersion: g.io/v2, kind: Thing}", "no kind \"Thing\" is registered for version \"g.io/v2\""),
            ("{apiVersion: g.io/v1, kind: Else}", "no kind \"Else\" is registered for version \"g.io/v1\""),
            ("{apiVersion: g.io/v1, kind: Other}", "expected Thing, got *apiserver.Other"),
            (
                "{apiVersion: g.io/v1, kind: Thing, x: 1, items: [{name: a}, {nam: b}]}",
                "strict decoding error: unknown field \"items[1].nam\", unknown field \"x\"",
            ),
            ("{apiVersion: g.io/v1, kind: Thing, items: [], items: []}", "strict decoding error: yaml: unmarshal errors:\n  line 1: key"),
            ("{apiVersion: g.io/v1, kind: Thing, items: a}", "invalid type"),
            ("a: [", "yaml: "),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.starts_with(expected), "{text}: {refused}");
        }
    }
}
