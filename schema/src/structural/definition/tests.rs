#![allow(clippy::needless_pass_by_value, reason = "what json! makes is passed as it is")]

use coracle_tree::json;

use super::*;

/// A definition whose only version has this schema.
fn with(schema: Value) -> Value {
    json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "conversion": {"strategy": "None"},
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
        "status": {"storedVersions": ["v1"]},
    })
}

fn wrong(definition: &Value) -> Vec<String> {
    check(definition, None).0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_definition_is_accepted() {
    assert_eq!(wrong(&with(json!({"type": "object"}))), Vec::<String>::new());
}

#[test]
fn a_schema_that_is_not_structural_is_refused_where_it_fails() {
    let schema = json!({"type": "object", "properties": {"spec": {"properties": {"a": {"type": "array"}}},
        "metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}, "anyOf": [{"properties": {"x": {"type": "string"}}}]});
    let path = "spec.validation.openAPIV3Schema";
    assert_eq!(
        wrong(&with(schema)),
        [
            format!("{path}.anyOf[0].properties[x].type: Forbidden: must be empty to be structural"),
            format!(
                "{path}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
            ),
            format!("{path}.properties[spec].properties[a].items: Required value: must be specified"),
            format!("{path}.properties[spec].type: Required value: must not be empty for specified object fields"),
            format!("{path}.properties[x]: Required value: because it is defined in {path}.anyOf[0].properties[x]"),
        ]
    );
}

#[test]
fn defaults_must_be_valid_and_pruned() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"},
        "b": {"type": "object", "properties": {"c": {"type": "string"}}, "default": {"d": 1}}}});
    let path = "spec.validation.openAPIV3Schema.properties";
    assert_eq!(
        wrong(&with(schema)),
        [
            format!("{path}[a].default: Invalid value: \"string\": {path}[a].default in body must be of type integer: \"string\"")
                .replace(&format!("{path}[a].default in body"), " in body"),
            format!("{path}[b].default: Invalid value: {{\"d\":1}}: must not have unknown fields"),
        ]
    );
}

#[test]
fn lists_that_are_maps_need_their_keys() {
    let list = |more: Value| {
        let mut list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}});
        for (name, value) in more.as_object().unwrap() {
            list[name] = value.clone();
        }
        wrong(&with(json!({"type": "object", "properties": {"l": list}})))
    };
    let path = "spec.validation.openAPIV3Schema.properties[l]";
    let missing = format!(
        "{path}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
    );
    assert_eq!(list(json!({})), [missing]);
    let other = format!("{path}.x-kubernetes-list-map-keys: Invalid value: [\"z\"]: entries must all be names of item properties");
    assert_eq!(list(json!({"x-kubernetes-list-map-keys": ["z"]})), [other]);
}

#[test]
fn what_versions_do_not_share_is_named_at_the_version() {
    let mut definition = with(json!({"type": "object"}));
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    second["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"a": {}}});
    second["additionalPrinterColumns"] = json!([{"name": "", "type": "text", "jsonPath": "spec"}]);
    second["subresources"] = json!({"scale": {"specReplicasPath": ".status.n", "statusReplicasPath": ""}});
    definition["spec"]["versions"].as_array_mut().unwrap().push(second);
    assert_eq!(
        wrong(&definition),
        [
            "spec.versions[1].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
            "spec.versions[1].subresources.scale.specReplicasPath: Invalid value: \".status.n\": should be a json path under .spec",
            "spec.versions[1].subresources.scale.statusReplicasPath: Required value",
            "spec.versions[1].additionalPrinterColumns[0].name: Required value",
            "spec.versions[1].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
            "spec.versions[1].additionalPrinterColumns[0].JSONPath: Invalid value: \"spec\": must be a simple json path starting with .",
        ]
    );
}

#[test]
fn an_established_definition_keeps_its_scope_and_kind() {
    let mut old = with(json!({"type": "object"}));
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let mut new = old.clone();
    new["spec"]["scope"] = "Cluster".into();
    new["spec"]["names"]["kind"] = "Gadget".into();
    let texts: Vec<String> = check(&new, Some(&old)).0.iter().map(ToString::to_string).collect();
    let expected =
        ["spec.scope: Invalid value: \"Cluster\": field is immutable", "spec.names.kind: Invalid value: \"Gadget\": field is immutable"];
    assert_eq!(texts, expected);
    new["spec"] = old["spec"].clone();
    new["spec"]["versions"][0]["name"] = "v2".into();
    let gone = check(&new, Some(&old));
    assert!(gone.0.iter().any(|e| e.path == "status.storedVersions[0]" && e.message.contains("missing from spec.versions")));
}

#[test]
fn groups_of_the_community_need_its_approval() {
    let mut definition = with(json!({"type": "object"}));
    definition["metadata"]["name"] = "widgets.apps.k8s.io".into();
    definition["spec"]["group"] = "apps.k8s.io".into();
    assert_eq!(wrong(&definition).len(), 1);
    definition["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, a test"});
    assert!(wrong(&definition).is_empty());
}

#[test]
fn selectable_fields_are_scalars_outside_of_metadata() {
    let mut definition = with(
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"o": {"type": "object"}, "s": {"type": "string"}}}}}),
    );
    definition["spec"]["versions"][0]["selectableFields"] =
        json!([{"jsonPath": ".spec.s"}, {"jsonPath": ".spec.o"}, {"jsonPath": ".spec.x"}, {"jsonPath": ".spec.s"}]);
    assert_eq!(
        wrong(&definition),
        [
            "spec.selectableFields[1].jsonPath: Invalid value: \".spec.o\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            "spec.selectableFields[2].jsonPath: Invalid value: \".spec.x\": is an invalid path: does not refer to a valid field",
            "spec.selectableFields[3].jsonPath: Duplicate value: \".spec.s\"",
        ]
    );
}

#[test]
fn unknown_formats_are_worth_a_word_once() {
    let definition =
        with(json!({"type": "object", "properties": {"a": {"type": "string", "format": "ip"}, "b": {"type": "string", "format": "ipv4"}}}));
    assert_eq!(warnings(&definition, None), ["unrecognized format \"ip\""]);
    assert!(warnings(&definition, Some(&definition)).is_empty());
}
