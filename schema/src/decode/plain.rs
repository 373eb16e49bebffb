//! JSON without a schema: read as it is, in Go's numbers, with a report of each member that stands twice.

use coracle_tree::{Map, Number, Text, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{FieldValidation, custom::go_number, path::Path, reports::Reports};

/// Reads a value: a patch. The reports are what `sigs.k8s.io/json` says of it in strict mode.
pub fn plain_json(text: &str, mode: FieldValidation) -> serde_json::Result<(Value, Vec<String>)> {
    let reports = Reports::new(mode);
    read(text, &reports).map(|value| (value, reports.into_texts()))
}

/// What is unknown in the operations of a JSON patch, or stands twice (`jsonPatchOp` of apiserver `endpoints/handlers/patch.go`).
pub fn json_patch_reports(text: &str, mode: FieldValidation) -> serde_json::Result<Vec<String>> {
    let reports = Reports::new(mode);
    let plain = Plain { reports: &reports, path: &Path::Root };
    let mut source = serde_json::Deserializer::from_str(text);
    source.deserialize_any(Operations(plain))?;
    Ok(reports.into_texts().into_iter().map(|report| format!("json patch {report}")).collect())
}

pub(super) fn read(text: &str, reports: &Reports) -> serde_json::Result<Value> {
    let mut source = serde_json::Deserializer::from_str(text);
    let value = Plain { reports, path: &Path::Root }.deserialize(&mut source)?;
    source.end().map(|()| value)
}

/// Reads any value, and reports members that stand twice.
#[derive(Clone, Copy)]
struct Plain<'a> {
    reports: &'a Reports,
    path: &'a Path<'a>,
}

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(go_number(&value.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(go_number(&number))),
            None => Err(E::custom("number is not finite")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let path = Path::Index { parent: self.path, at: out.len() };
            match source.next_element_seed(Plain { reports: self.reports, path: &path })? {
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = source.next_key::<Text>()? {
            let path = Path::Key { parent: self.path, key: &key };
            if out.contains_key(&key) {
                self.reports.add("duplicate", &path);
            }
            let value = source.next_value_seed(Plain { reports: self.reports, path: &path })?;
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// The members of an operation.
const OPERATION: [&str; 4] = ["op", "path", "from", "value"];

/// A list of operations.
struct Operations<'a>(Plain<'a>);

impl<'de> Visitor<'de> for Operations<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<(), A::Error> {
        let mut at = 0;
        loop {
            let path = Path::Index { parent: self.0.path, at };
            if source.next_element_seed(Operation(Plain { path: &path, ..self.0 }))?.is_none() {
                return Ok(());
            }
            at += 1;
        }
    }
}

/// One operation.
struct Operation<'a>(Plain<'a>);

impl<'de> DeserializeSeed<'de> for Operation<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Operation<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an operation")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<(), A::Error> {
        let mut seen = Vec::new();
        while let Some(key) = source.next_key::<Text>()? {
            let path = Path::Key { parent: self.0.path, key: &key };
            if !OPERATION.contains(&key.as_str()) {
                self.0.reports.add("unknown", &path);
            } else if seen.contains(&key) {
                self.0.reports.add("duplicate", &path);
            }
            source.next_value_seed(Plain { path: &path, ..self.0 })?;
            seen.push(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_twice_is_reported_once_and_its_last_value_counts() {
        let (value, reports) = plain_json(r#"{"a":1,"a":2,"a":3,"b":[{"c":1,"c":1}]}"#, FieldValidation::Warn).unwrap();
        assert_eq!(value, coracle_tree::json!({"a": 3, "b": [{"c": 1}]}));
        assert_eq!(reports, [r#"duplicate field "a""#, r#"duplicate field "b[0].c""#]);
        assert_eq!(plain_json(r#"{"a":1,"a":2}"#, FieldValidation::Ignore).unwrap().1, [""; 0]);
        assert!(plain_json("{} {}", FieldValidation::Warn).is_err());
    }

    #[test]
    fn operations_of_a_json_patch_have_four_members() {
        let patch = r#"[{"op":"add","path":"/a","value":{"q":1,"q":2},"foo":1},{"path":"/b","path":"/c"}]"#;
        let expected = [
            r#"json patch duplicate field "[0].value.q""#,
            r#"json patch unknown field "[0].foo""#,
            r#"json patch duplicate field "[1].path""#,
        ];
        assert_eq!(json_patch_reports(patch, FieldValidation::Strict).unwrap(), expected);
    }
}
