//! What a version of a definition publishes (apiextensions-apiserver `controller/openapi/builder`).
//!
//! The words that upstream adds of its own, for `apiVersion`, `kind` and `metadata`, are left to whoever puts the document together.

use coracle_tree::{Map, Value, json};

use super::{build, invariants, props::Props};

/// The reference of metadata.
const OBJECT_META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// The schemas of a version's objects and lists by name (`com.example.v1.Widget`), as OpenAPI v3. Empty if there is no such version.
pub fn v3(definition: &Value, version: &str) -> Map {
    let empty = Value::Null;
    let spec = definition.get("spec").unwrap_or(&empty);
    let text = |path: &str| spec.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (group, kind, list_kind) = (text("/group"), text("/names/kind"), text("/names/listKind"));
    let versions = spec.get("versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let Some(found) = versions.iter().find(|v| v.get("name").and_then(Value::as_str) == Some(version)) else { return Map::new() };
    let fields = found.get("selectableFields").and_then(Value::as_array).filter(|fields| !fields.is_empty());
    let selectable = fields.map(|fields| fields.iter().filter_map(selectable_field).collect::<Value>());
    let mark = |mut schema: Value, kind: &str| {
        schema["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": kind, "version": version}]);
        if let Some(fields) = &selectable {
            schema["x-kubernetes-selectable-fields"] = fields.clone();
        }
        schema
    };
    let name = model_name(group, version, kind);
    let object = object(found.pointer("/schema/openAPIV3Schema").unwrap_or(&empty));
    let list = list(text("/names/plural"), kind, list_kind, &name);
    [(model_name(group, version, list_kind), mark(list, list_kind)), (name, mark(object, kind))].into_iter().collect()
}

/// `com.example.v1.Widget` of example.com/v1, Kind=Widget.
pub fn model_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// Brings a schema made by [`v3`] into a form that OpenAPI v2 and old clients of it hold: what they cannot say is left out.
pub fn lower(schema: &mut Value) {
    let keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields").is_some_and(|v| v == true);
    let Some(members) = schema.as_object_mut() else { return };
    if keeps_unknown {
        // kubectl would refuse what it does not know.
        members.retain(|name, _| matches!(name.as_str(), "x-kubernetes-group-version-kind" | "x-kubernetes-selectable-fields"));
        members.insert("type", "object".into());
        return;
    }
    lower_place(schema, true);
}

fn lower_place(schema: &mut Value, root: bool) {
    let Some(members) = schema.as_object_mut() else { return };
    for name in ["allOf", "anyOf", "oneOf", "not"] {
        if name != "allOf" || members.get(name).is_none_or(|all| all[0].get("$ref").is_none()) {
            members.remove(name);
        }
    }
    members.remove("default");
    let is_true = |members: &Map, name: &str| members.get(name).is_some_and(|v| v == true);
    let nullable = is_true(members, "nullable");
    let preserves = is_true(members, "x-kubernetes-preserve-unknown-fields");
    if nullable || preserves {
        for name in ["items", "properties", "nullable"] {
            members.remove(name);
        }
        if is_true(members, "x-kubernetes-embedded-resource") {
            members.remove("required");
        }
    }
    let untyped = members.get("type").is_some_and(|t| t == "array" && !members.contains_key("items") || t == "object" && preserves);
    if nullable || untyped {
        members.remove("type");
    }
    drop_nullable_requirements(members);
    for (name, below) in members.iter_mut() {
        match (name.as_str(), below) {
            ("properties", Value::Object(properties)) => {
                for (name, below) in properties.iter_mut() {
                    if !(root && name == "metadata") {
                        lower_place(below, false);
                    }
                }
            }
            ("items" | "additionalProperties", below @ Value::Object(_)) => lower_place(below, false),
            _ => {}
        }
    }
}

/// What may be null loses its type, so it cannot be required.
fn drop_nullable_requirements(members: &mut Map) {
    let nullable = |schema: &Value| schema.get("nullable").is_some_and(|v| v == true);
    let names: Vec<String> = match members.get("properties") {
        Some(Value::Object(properties)) => properties.iter().filter(|(_, s)| nullable(s)).map(|(name, _)| name.to_string()).collect(),
        _ => Vec::new(),
    };
    let all = members.get("additionalProperties").is_some_and(nullable);
    if let Some(Value::Array(required)) = members.get_mut("required") {
        required.retain(|name| !all && !names.iter().any(|known| name == known.as_str()));
        if required.is_empty() {
            members.remove("required");
        }
    }
}

fn selectable_field(field: &Value) -> Option<Value> {
    let path = field.get("jsonPath")?.as_str()?;
    Some(json!({"fieldPath": path.strip_prefix('.').unwrap_or(path)}))
}

/// The schema of the objects: that of the definition with what all objects have. One that is not structural says nothing.
fn object(given: &Value) -> Value {
    let structural = Props::of(given).filter(|props| build::build(*props).is_ok() && invariants::check(*props, "").is_empty());
    if structural.is_none() {
        return json!({"type": "object"});
    }
    let mut schema = given.clone();
    publish(&mut schema);
    add_meta(&mut schema);
    schema
}

/// Spells out what extensions imply: an integer or text is either, an embedded object has metadata.
fn publish(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let says = |members: &Map, name: &str| members.get(name).is_some_and(|v| v == true);
    if says(members, "x-kubernetes-int-or-string") {
        let in_all_of = members.get("allOf").is_some_and(|all| all[0].get("anyOf") == Some(&either));
        if !members.contains_key("anyOf") {
            if !in_all_of {
                members.insert("anyOf", either);
            }
        } else if members.get("anyOf") != Some(&either) && !in_all_of {
            let mut all = vec![json!({"anyOf": either})];
            all.extend(members.remove("allOf").and_then(|all| all.as_array().cloned()).unwrap_or_default());
            members.insert("allOf", all.into());
        }
    }
    for (name, below) in members.iter_mut() {
        match (name.as_str(), below) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(publish),
            ("items" | "additionalProperties", below @ Value::Object(_)) => publish(below),
            _ => {}
        }
    }
    if says(members, "x-kubernetes-embedded-resource") {
        let mut required = members.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
        members.insert("required", required.into());
        add_meta(schema);
    }
}

fn add_meta(schema: &mut Value) {
    if !schema.get("properties").is_some_and(Value::is_object) {
        schema["properties"] = Value::Object(Map::new());
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({"type": "string"});
    properties["kind"] = json!({"type": "string"});
    properties["metadata"] = json!({"allOf": [{"$ref": OBJECT_META}]});
}

fn list(plural: &str, kind: &str, list_kind: &str, name: &str) -> Value {
    const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    json!({
        "description": format!("{list_kind} is a list of {kind}"),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"allOf": [{"$ref": LIST_META}]},
            "items": {
                "description": format!("List of {plural}. More info: {CONVENTIONS}"),
                "type": "array",
                "items": {"$ref": format!("#/components/schemas/{name}")},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(schema: &Value) -> Value {
        let definition = json!({"spec": {"group": "example.com", "names": {"plural": "widgets", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}, "selectableFields": [{"jsonPath": ".spec.s"}]}]}});
        let mut made = v3(&definition, "v1");
        assert_eq!(made["com.example.v1.WidgetList"]["properties"]["items"]["items"]["$ref"], "#/components/schemas/com.example.v1.Widget");
        made.remove("com.example.v1.Widget").unwrap()
    }

    #[test]
    fn what_a_definition_says_is_published_with_what_all_objects_have() {
        let made = published(&json!({"type": "object", "description": "d", "properties": {"spec": {"type": "object", "properties": {
            "port": {"x-kubernetes-int-or-string": true}, "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}}}));
        assert_eq!(made["description"], "d");
        assert_eq!(made["x-kubernetes-group-version-kind"], json!([{"group": "example.com", "kind": "Widget", "version": "v1"}]));
        assert_eq!(made["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.s"}]));
        assert_eq!(made["properties"]["metadata"]["allOf"][0]["$ref"], OBJECT_META);
        let spec = &made["properties"]["spec"]["properties"];
        assert_eq!(spec["port"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
        assert_eq!(spec["template"]["required"], json!(["kind", "apiVersion"]));
    }

    #[test]
    fn a_schema_that_is_not_structural_says_nothing() {
        assert_eq!(published(&json!({"properties": {"a": {}}}))["type"], "object");
        assert!(published(&json!({"properties": {"a": {}}})).get("properties").is_none());
    }

    #[test]
    fn the_lower_form_leaves_out_what_old_clients_do_not_know() {
        let mut made = published(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["n", "s"], "oneOf": [{"required": ["s"]}],
            "properties": {"s": {"type": "string", "default": "a"}, "n": {"type": "object", "nullable": true, "properties": {"x": {"type": "string"}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"k": {"type": "string"}}}}}}}),
        );
        lower(&mut made);
        let spec = &made["properties"]["spec"];
        assert_eq!(spec["required"], json!(["s"]));
        assert_eq!(spec["properties"], json!({"s": {"type": "string"}, "n": {}, "free": {"x-kubernetes-preserve-unknown-fields": true}}));
        assert!(spec.get("oneOf").is_none());
        assert_eq!(made["properties"]["metadata"]["allOf"][0]["$ref"], OBJECT_META);
    }
}
