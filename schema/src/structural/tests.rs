#![allow(clippy::needless_pass_by_value, reason = "what json! makes is passed as it is")]

use std::sync::{Arc, LazyLock};

use coracle_tree::{Value, json};

use super::*;
use crate::{
    Tables,
    decode::{self, FieldValidation},
};

static TABLES: LazyLock<Arc<Schema>> = LazyLock::new(|| Tables::load().unwrap().schema);

/// A compiled schema, structural or not.
pub(crate) fn node(schema: &Value) -> Node {
    build::build(props::Props::of(schema).unwrap()).unwrap()
}

pub(crate) fn compiled(schema: &Value) -> Structural {
    compile(schema, &TABLES, "Widget", false).unwrap()
}

fn texts(errors: &FieldErrors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

/// What is wrong with an object whose only field `x` has this schema.
fn wrong(schema: Value, value: Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"x": schema}});
    let object = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "x": value});
    texts(&compiled(&schema).validate(&object, None))
}

#[test]
fn a_body_is_pruned_and_what_goes_is_reported() {
    let made = compiled(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "integer"}}}}}));
    let body =
        r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","odd":1},"spec":{"a":"text","a":1.0,"b":null},"more":{}}"#;
    let decoded = decode::from_json(body.as_bytes(), &made.schema, FieldValidation::Warn).unwrap();
    let reports = ["duplicate field \"spec.a\"", "unknown field \"metadata.odd\"", "unknown field \"more\"", "unknown field \"spec.b\""];
    assert_eq!(decoded.reports, reports);
    assert_eq!(decoded.value["spec"], json!({"a": 1}));
    assert_eq!(decoded.value["metadata"], json!({"name": "w"}));
    assert!(matches!(decode::from_json(body.as_bytes(), &made.schema, FieldValidation::Strict), Err(decode::DecodeError::Strict(_))));
}

#[test]
fn metadata_of_the_wrong_type_is_refused_and_elsewhere_left_to_validation() {
    let made = compiled(&json!({"type": "object", "properties": {"spec": {"type": "object"}}}));
    let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"labels": {"a": 1}}});
    let error = decode::from_value(body, &made.schema, FieldValidation::Ignore).unwrap_err();
    assert_eq!(error.to_string(), "json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string");
    let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": "text"});
    assert_eq!(decode::from_value(body.clone(), &made.schema, FieldValidation::Ignore).unwrap().value, body);
}

#[test]
fn defaults_fill_what_is_absent_or_null_and_no_more() {
    let made = compiled(&json!({"type": "object", "properties": {
        "a": {"type": "string", "default": "x"}, "n": {"type": "string", "nullable": true, "default": "y"},
        "o": {"type": "object", "default": {}, "properties": {"p": {"type": "integer", "default": 3}}},
        "absent": {"type": "object", "properties": {"q": {"type": "integer", "default": 4}}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"r": {"type": "integer", "default": 5}}}},
        "m": {"type": "object", "additionalProperties": {"type": "string", "default": "z"}}}}));
    let mut object = json!({"a": null, "n": null, "l": [{}, {"r": 0}], "m": {"k": null, "j": ""}});
    crate::default::apply(&mut object, &made.schema);
    assert_eq!(object, json!({"a": "x", "n": null, "o": {"p": 3}, "l": [{"r": 5}, {"r": 0}], "m": {"k": "z", "j": ""}}));
}

#[test]
fn values_are_refused_with_upstreams_words() {
    let cases = [
        (json!({"type": "integer"}), json!("a"), vec!["x: Invalid value: \"string\": x in body must be of type integer: \"string\""]),
        (json!({"type": "string"}), json!(null), vec!["x: Invalid value: \"null\": x in body must be of type string: \"null\""]),
        (json!({"type": "integer", "minimum": 1}), json!(0), vec!["x: Invalid value: 0: x in body should be greater than or equal to 1"]),
        (json!({"type": "string", "enum": ["a", "b"]}), json!("c"), vec!["x: Unsupported value: \"c\": supported values: \"a\", \"b\""]),
        (json!({"type": "string", "maxLength": 5}), json!("123456"), vec!["x: Too long: may not be more than 5 bytes"]),
        (json!({"type": "string", "minLength": 1}), json!(""), vec!["x: Invalid value: \"\": x in body should be at least 1 chars long"]),
        (json!({"type": "string", "pattern": "^a+$"}), json!("b"), vec!["x: Invalid value: \"b\": x in body should match '^a+$'"]),
        (json!({"type": "string", "format": "ipv4"}), json!("b"), vec!["x: Invalid value: \"b\": x in body must be of type ipv4: \"b\""]),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
            json!([1, 2]),
            vec!["x: Too many: 2: must have at most 1 item"],
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}}),
            json!([1, "a"]),
            vec!["x[1]: Invalid value: \"string\": x[1] in body must be of type integer: \"string\""],
        ),
        (json!({"type": "object", "required": ["y"], "properties": {"y": {"type": "string"}}}), json!({}), vec!["x.y: Required value"]),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"k": 1}),
            vec!["x.k: Invalid value: \"integer\": x.k in body must be of type string: \"integer\""],
        ),
        (json!({"type": "number", "multipleOf": 0.5}), json!(0.7), vec!["x: Invalid value: 0.7: x in body should be a multiple of 0.5"]),
        (
            json!({"type": "integer", "format": "int32"}),
            json!(3_000_000_000i64),
            vec!["<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in x"],
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            vec!["x: Invalid value: \"boolean\": x in body must be of type integer,string: \"boolean\""],
        ),
        (
            json!({"type": "string", "not": {"enum": ["a"]}}),
            json!("a"),
            vec!["<nil>: Invalid value: \"\": \"x\" must not validate the schema (not)"],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["a", "b", "a", "a"]),
            vec!["x[2]: Duplicate value: \"a\""],
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}}),
            json!([{"k": "a"}, {"k": "a"}]),
            vec!["x[1]: Duplicate value: {\"k\":\"a\"}"],
        ),
    ];
    for (schema, value, expected) in cases {
        assert_eq!(wrong(schema.clone(), value), expected, "{schema}");
    }
}

#[test]
fn of_several_alternatives_the_nearest_is_reported() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(
        wrong(schema.clone(), json!({"a": "1", "b": "2"})),
        ["<nil>: Invalid value: \"\": \"x\" must validate one and only one schema (oneOf). Found 2 valid alternatives"]
    );
    let none = ["<nil>: Invalid value: \"\": \"x\" must validate one and only one schema (oneOf). Found none valid", "x.a: Required value"];
    assert_eq!(wrong(schema, json!({})), none);
}

#[test]
fn what_did_not_change_is_not_checked_again() {
    let loose = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string"},
        "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"],
            "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}}}}}});
    let made = compiled(&loose);
    let old = json!({"spec": {"a": "too long", "b": "1", "l": [{"k": "x", "v": 5}]}});
    let new = json!({"spec": {"a": "too long", "b": "2", "l": [{"k": "y", "v": 1}, {"k": "x", "v": 5}]}});
    assert!(made.validate(&new, Some(&old)).is_empty());
    assert_eq!(made.validate(&new, None).0.len(), 2);
    let changed = json!({"spec": {"a": "other text", "l": [{"k": "x", "v": 6}]}});
    assert_eq!(made.validate(&changed, Some(&old)).0.len(), 2);
}

#[test]
fn a_status_is_checked_alone_and_named_as_upstream_names_it() {
    let made = compiled(
        &json!({"type": "object", "properties": {"spec": {"type": "string"}, "status": {"type": "object", "properties": {"n": {"type": "integer"}}}}}),
    );
    let object = json!({"spec": 1, "status": {"n": "a"}});
    let errors = validate(&object, None, &made.schema, Written::Status);
    assert_eq!(texts(&errors), ["status.n: Invalid value: \"string\": n in body must be of type integer: \"string\""]);
}
