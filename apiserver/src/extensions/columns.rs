//! How custom resources are printed: name, and what `additionalPrinterColumns` say (upstream's `tableconvertor.go`).

use coracle_schema::{go, jsonpath::JsonPath};
use coracle_tree::Value;
use jiff::Timestamp;

use super::definition;
use crate::{
    kinds::columns::age_of,
    wire::table::{Column, Printer},
};

/// The columns of one version of a custom resource.
pub(super) struct Columns(Vec<Extra>);

struct Extra {
    name: Box<str>,
    kind: Box<str>,
    format: Box<str>,
    description: Box<str>,
    priority: i32,
    path: JsonPath,
}

impl Columns {
    /// Those of a CRD's version; its age alone when it names none. A path that cannot be read ends the list, as upstream ends it.
    pub(super) fn new(columns: &[definition::Column]) -> Self {
        if columns.is_empty() {
            let age = definition::Column {
                name: "Age".into(),
                kind: "date".into(),
                description: "Time since the object was created.".into(),
                json_path: ".metadata.creationTimestamp".into(),
                ..definition::Column::default()
            };
            return Self(Extra::new(&age).into_iter().collect());
        }
        Self(columns.iter().map_while(Extra::new).collect())
    }
}

impl Extra {
    fn new(column: &definition::Column) -> Option<Self> {
        let path = JsonPath::parse(&column.json_path).ok()?;
        let description = match column.description.as_str() {
            "" => format!("Custom resource definition column (in JSONPath format): {}", column.json_path),
            given => given.to_owned(),
        };
        Some(Self {
            name: column.name.as_str().into(),
            kind: column.kind.as_str().into(),
            format: column.format.as_str().into(),
            description: description.into(),
            priority: column.priority,
            path,
        })
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.find(object).ok().and_then(|found| found.first().copied());
        let Some(value) = found else { return Value::Null };
        match (&*self.kind, value) {
            ("string", value) => printed(value).into(),
            (_, Value::Null) => Value::Null,
            ("integer", Value::Number(number)) => number.as_i64().map_or_else(|| number.as_f64().map(|f| f as i64).into(), Value::from),
            ("number", Value::Number(number)) => number.as_f64().into(),
            ("boolean", Value::Bool(flag)) => (*flag).into(),
            ("date", Value::String(text)) => age_of(text, now).unwrap_or_else(|| "<invalid>".to_owned()).into(),
            _ => Value::Null,
        }
    }
}

impl Printer for Columns {
    fn columns(&self) -> Vec<Column<'_>> {
        let name = Column::new("Name", "string", "name", "Name of the object, unique among its kind in its namespace.", 0);
        let extra = self.0.iter().map(|e| Column::new(&e.name, &e.kind, &e.format, &e.description, e.priority));
        std::iter::once(name).chain(extra).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
        std::iter::once(name).chain(self.0.iter().map(|extra| extra.cell(object, now))).collect()
    }
}

/// What a column of text shows of a value (client-go `jsonpath`, `PrintResults`).
fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.to_string(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => go::json(value),
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn column(name: &str, kind: &str, path: &str) -> definition::Column {
        definition::Column { name: name.into(), kind: kind.into(), json_path: path.into(), ..definition::Column::default() }
    }

    #[test]
    fn cells_are_what_the_paths_lead_to() {
        let columns = Columns::new(&[
            column("Size", "integer", ".spec.size"),
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            column("Since", "date", ".status.since"),
            column("Tags", "string", ".spec.tags"),
            column("Map", "string", ".spec.map"),
            column("Null", "string", ".spec.null"),
            column("On", "boolean", ".spec.on"),
            column("None", "string", ".spec.none"),
        ]);
        let object = json!({
            "metadata": {"name": "w"}, "spec": {"size": 3, "tags": ["a", 1], "map": {"b": "<", "a": 1}, "null": null, "on": true},
            "status": {"since": "1970-01-01T00:00:00Z", "conditions": [{"type": "A", "status": "x"}, {"type": "Ready", "status": "True"}]},
        });
        let cells = columns.cells(&object, Timestamp::from_second(7200).unwrap());
        let (tags, map) = (json!(r#"["a",1]"#), json!(r#"{"a":1,"b":"\u003c"}"#));
        assert_eq!(cells, [json!("w"), json!(3), json!("True"), json!("120m"), tags, map, json!("<no value>"), json!(true), Value::Null]);
        assert_eq!(columns.columns()[1].description, "Custom resource definition column (in JSONPath format): .spec.size");
    }

    #[test]
    fn without_columns_the_age_is_shown() {
        let columns = Columns::new(&[]);
        let cells = columns.cells(&json!({"metadata": {"name": "w", "creationTimestamp": "bad"}}), Timestamp::UNIX_EPOCH);
        assert_eq!((cells, columns.columns()[1].name), (vec![json!("w"), json!("<invalid>")], "Age"));
    }
}
