//! What kube-apiserver 1.37.1 answered when custom resources with these specs were created (`upstream.jsonl`, a line a schema: the schema of
//! the spec, and for each spec either what was stored, or the errors, or another status; and the warnings about unknown fields).

use coracle_tree::{Value, json};

use super::{Written, tests::compiled, validate};
use crate::{
    decode::{self, FieldValidation},
    default,
};

fn texts(of: &Value) -> Vec<String> {
    let mut texts: Vec<String> = of.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    texts.sort_unstable();
    texts
}

/// What becomes of an object, in the words of a case.
fn answer(schema: &Value, spec: &Value) -> Value {
    let made = compiled(&json!({"type": "object", "properties": {"spec": schema}}));
    let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "x"}, "spec": spec});
    let decoded = match decode::from_json(body.to_string().as_bytes(), &made.schema, FieldValidation::Warn) {
        Ok(decoded) => decoded,
        Err(error) => return json!({"status": error.to_string()}),
    };
    let mut object = decoded.value;
    default::apply(&mut object, &made.schema);
    let errors = validate(&object, None, &made.schema, Written::Whole);
    let mut answer = match errors.is_empty() {
        true => json!({"stored": object.get("spec").cloned().unwrap_or("ABSENT".into())}),
        false => json!({"errors": texts(&errors.0.iter().map(ToString::to_string).collect())}),
    };
    if !decoded.reports.is_empty() {
        answer["warnings"] = json!(texts(&decoded.reports.into()));
    }
    answer
}

#[test]
fn objects_are_stored_or_refused_as_upstream_does() {
    let mut differ = Vec::new();
    for line in include_str!("upstream.jsonl").lines() {
        let group: Value = serde_json::from_str(line).unwrap();
        for case in group["cases"].as_array().unwrap() {
            let ours = answer(&group["schema"], &case["spec"]);
            let expected = |name: &str| match (name, &case[name]) {
                // The words of the decoder stand at the end of the message.
                ("status", Value::Array(status)) => {
                    let message = status[1].as_str().unwrap_or_default();
                    message
                        .rsplit_once(" cannot be handled as a ")
                        .and_then(|(_, rest)| rest.split_once(": "))
                        .map_or(message, |(_, text)| text)
                        .into()
                }
                ("warnings" | "errors", list @ Value::Array(_)) => json!(texts(list)),
                (_, other) => other.clone(),
            };
            for name in ["stored", "errors", "warnings", "status"] {
                if ours.get(name).unwrap_or(&Value::Null) != &expected(name) {
                    differ.push(format!("{}\n  upstream {name}: {}\n  ours:     {}", case["spec"], expected(name), ours[name]));
                }
            }
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}
