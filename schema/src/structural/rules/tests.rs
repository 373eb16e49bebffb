use coracle_tree::{Value, json};

use super::{Known, Rules, check};
use crate::field::FieldErrors;
use crate::structural::tests::node;

fn asked(schema: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors = FieldErrors::none();
    Rules::default().validate(&node(schema), new, old, &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

fn checked(schema: &Value) -> Vec<String> {
    let mut errors = FieldErrors::none();
    check(&node(schema), "s", &Known::default(), false, &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

fn spec(rules: &Value, properties: &Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules, "properties": properties}}})
}

#[test]
fn a_rule_that_is_not_kept_is_reported_where_it_stands() {
    let schema = spec(
        &json!([{"rule": "self.min <= self.max"}, {"rule": "self.max < 100", "message": "too large", "fieldPath": ".max"}]),
        &json!({"min": {"type": "integer"}, "max": {"type": "integer", "x-kubernetes-validations": [{"rule": "self % 2 == 0"}]}}),
    );
    assert_eq!(asked(&schema, &json!({"spec": {"min": 1, "max": 2}}), None), Vec::<String>::new());
    assert_eq!(
        asked(&schema, &json!({"spec": {"min": 300, "max": 201}}), None),
        [
            "spec: Invalid value: failed rule: self.min <= self.max",
            "spec.max: Invalid value: too large",
            "spec.max: Invalid value: 201: failed rule: self % 2 == 0"
        ]
    );
}

#[test]
fn reasons_choose_the_kind_of_error_and_expressions_make_messages() {
    let rules = json!([
        {"rule": "has(self.a)", "reason": "FieldValueRequired", "fieldPath": ".a", "message": "a is needed"},
        {"rule": "!has(self.b)", "reason": "FieldValueForbidden", "message": "no b"},
        {"rule": "!has(self.b)", "reason": "FieldValueDuplicate"},
        {"rule": "!has(self.b)", "messageExpression": "'b is ' + self.b"},
        {"rule": "!has(self.b)", "messageExpression": "self.a", "message": "plain"}
    ]);
    let schema = spec(&rules, &json!({"a": {"type": "string"}, "b": {"type": "string"}}));
    assert_eq!(
        asked(&schema, &json!({"spec": {"b": "x"}}), None),
        [
            "spec.a: Required value: a is needed",
            "spec: Forbidden: no b",
            "spec: Duplicate value",
            "spec: Invalid value: b is x",
            "spec: Invalid value: plain"
        ]
    );
}

#[test]
fn transitions_are_asked_only_if_there_was_something_before() {
    let rules = json!([
        {"rule": "self.a == oldSelf.a", "message": "immutable"},
        {"rule": "oldSelf.hasValue() || self.a != 'first'", "optionalOldSelf": true, "message": "not at first"}
    ]);
    let schema = spec(&rules, &json!({"a": {"type": "string"}}));
    let of = |a: &str| json!({"spec": {"a": a}});
    assert_eq!(asked(&schema, &of("x"), None), Vec::<String>::new());
    assert_eq!(asked(&schema, &of("first"), None), ["spec: Invalid value: not at first"]);
    assert_eq!(asked(&schema, &of("y"), Some(&of("x"))), ["spec: Invalid value: immutable"]);
    assert_eq!(asked(&schema, &of("x"), Some(&of("x"))), Vec::<String>::new());
}

#[test]
fn items_of_map_lists_know_what_they_were() {
    let schema = json!({"type": "object", "properties": {"l": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "shrinks"}]}}}});
    let old = json!({"l": [{"k": "a", "v": 5}, {"k": "b", "v": 1}]});
    let new = json!({"l": [{"k": "b", "v": 1}, {"k": "new", "v": 0}, {"k": "a", "v": 4}]});
    assert_eq!(asked(&schema, &new, Some(&old)), ["l[2]: Invalid value: shrinks"]);
}

#[test]
fn what_did_not_change_may_stay_wrong() {
    let schema = json!({"type": "object", "properties": {
        "bad": {"type": "object", "properties": {"v": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": "self.v < 10"}]},
        "other": {"type": "string"}}});
    let old = json!({"bad": {"v": 11}, "other": "a"});
    assert_eq!(asked(&schema, &json!({"bad": {"v": 11}, "other": "b"}), Some(&old)), Vec::<String>::new());
    assert_eq!(asked(&schema, &json!({"bad": {"v": 12}, "other": "a"}), Some(&old)), ["bad: Invalid value: failed rule: self.v < 10"]);
}

#[test]
fn errors_of_evaluation_are_told() {
    let schema = spec(&json!([{"rule": "self.a == 'x'"}]), &json!({"a": {"type": "string"}}));
    assert_eq!(
        asked(&schema, &json!({"spec": {}}), None),
        ["spec: Invalid value: \"object\": no such key: a evaluating rule: self.a == 'x'"]
    );
}

#[test]
fn a_root_rule_sees_what_every_object_has() {
    let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a') && self.kind == 'Foo'"}],
        "properties": {"metadata": {"type": "object"}}});
    let of = |name: &str| json!({"apiVersion": "v1", "kind": "Foo", "metadata": {"name": name, "uid": "u"}});
    assert_eq!(asked(&schema, &of("abc"), None), Vec::<String>::new());
    let refused = asked(&schema, &of("bcd"), None);
    assert!(refused[0].starts_with("<nil>: Invalid value: failed rule: self.metadata.name"), "{refused:?}");
}

#[test]
fn rules_that_do_not_compile_are_refused() {
    let schema = spec(
        &json!([{"rule": "self.nope == 1"}, {"rule": "1"}, {"rule": "true", "messageExpression": "2"}]),
        &json!({"a": {"type": "string"}}),
    );
    let errors = checked(&schema);
    let shown = |rule: &str, message: &str| {
        format!(
            "{{\"Rule\":{rule:?},\"Message\":\"\",\"MessageExpression\":{message:?},\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}}"
        )
    };
    assert_eq!(
        errors,
        [
            format!(
                "s.properties[spec].x-kubernetes-validations[0].rule: Invalid value: {}: compilation failed: \
                 ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^",
                shown("self.nope == 1", "")
            ),
            format!(
                "s.properties[spec].x-kubernetes-validations[1].rule: Invalid value: {}: cel expression must evaluate to a bool",
                shown("1", "")
            ),
            format!(
                "s.properties[spec].x-kubernetes-validations[2].messageExpression: Invalid value: {}: messageExpression must evaluate to a string",
                shown("true", "2")
            )
        ]
    );
}

#[test]
fn rules_that_could_cost_too_much_are_refused() {
    let list = |limit: Value| {
        let mut items = json!({"type": "array", "items": {"type": "string", "maxLength": 10}, "x-kubernetes-validations": [
            {"rule": "self.all(x, self.all(y, x == y || x != y))"}]});
        if !limit.is_null() {
            items["maxItems"] = limit;
        }
        json!({"type": "object", "properties": {"l": items}})
    };
    assert_eq!(checked(&list(json!(10))), Vec::<String>::new());
    let errors = checked(&list(Value::Null));
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].contains("rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"), "{errors:?}");
    assert!(errors[1].contains("contributed to estimated rule cost total exceeding cost limit"), "{errors:?}");
    assert!(errors[2].starts_with("s: Forbidden: x-kubernetes-validations estimated rule cost total"), "{errors:?}");
}

#[test]
fn old_self_needs_items_that_can_be_told_apart() {
    let schema = json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 3, "items":
        {"type": "string", "maxLength": 3, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    assert_eq!(
        checked(&schema),
        ["s.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": \
          oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]"]
    );
}
