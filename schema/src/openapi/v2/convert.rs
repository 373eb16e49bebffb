//! From version 3 to version 2: what moved, what has other words, and what version 2 cannot say.

use coracle_tree::{Map, Text, Value, json};

/// A path's operations and common parameters; parameters that many operations share go into `shared`.
pub(super) fn path(item: &Value, shared: &mut Map) -> Value {
    let mut made = Map::new();
    for (name, value) in item.as_object().into_iter().flatten() {
        let value = if name == "parameters" { parameters(value, None, shared).into() } else { operation(value, shared) };
        made.insert(name.clone(), value);
    }
    Value::Object(made)
}

fn operation(v3: &Value, shared: &mut Map) -> Value {
    let mut made: Map =
        v3.as_object().into_iter().flatten().filter(|(name, _)| *name != "requestBody").map(|(n, v)| (n.clone(), v.clone())).collect();
    let body = &v3["requestBody"];
    let bodies: Vec<&Text> = body["content"].as_object().into_iter().flat_map(coracle_tree::Map::keys).collect();
    let answers: Vec<&Text> = v3["responses"]["200"]["content"].as_object().into_iter().flat_map(coracle_tree::Map::keys).collect();
    let consumes = if bodies.is_empty() { json!(["*/*"]) } else { json!(bodies) };
    // Discovery itself is no object: upstream says the same of both directions.
    let consumes = if v3.get("x-kubernetes-action").is_none() { json!(answers) } else { consumes };
    made.insert("consumes", consumes);
    made.insert("produces", json!(answers));
    made.insert("schemes", json!(["https"]));
    let list = parameters(&v3["parameters"], Some(body), shared);
    if list.is_empty() {
        made.remove("parameters");
    } else {
        made.insert("parameters", list.into());
    }
    let responses = v3["responses"].as_object().into_iter().flatten().map(|(code, answer)| (code.clone(), response(answer)));
    made.insert("responses", Value::Object(responses.collect()));
    Value::Object(made)
}

fn response(v3: &Value) -> Value {
    let mut made = json!({"description": v3["description"]});
    if let Some(content) = first(&v3["content"]) {
        made["schema"] = schema(&content["schema"]);
    }
    made
}

/// Parameters, the body first; those that stand in many places are referred to.
fn parameters(v3: &Value, body: Option<&Value>, shared: &mut Map) -> Vec<Value> {
    let mut made = Vec::new();
    if let Some(content) = body.and_then(|body| first(&body["content"])) {
        let mut parameter = json!({"name": "body", "in": "body", "schema": schema(&content["schema"])});
        if body.is_some_and(|body| body["required"] == true) {
            parameter["required"] = true.into();
        }
        let reference = parameter["schema"]["$ref"].as_str().unwrap_or_default();
        let name = reference.rsplit('.').next().unwrap_or_default().to_owned();
        let common = ["DeleteOptions", "Patch"].contains(&&*name);
        made.push(if common { share(&format!("body-{name}"), parameter, shared) } else { parameter });
    }
    for parameter in v3.as_array().into_iter().flatten() {
        let mut flat: Map = parameter["schema"].as_object().cloned().unwrap_or_default();
        flat.extend(parameter.as_object().into_iter().flatten().filter(|(name, _)| *name != "schema").map(|(n, v)| (n.clone(), v.clone())));
        let name = format!("{}-{}", parameter["name"].as_str().unwrap_or_default(), parameter["in"].as_str().unwrap_or_default());
        made.push(share(&name, Value::Object(flat), shared));
    }
    made
}

/// A reference to a parameter that stands in one place; one of the same name that says something else stays where it is.
fn share(name: &str, parameter: Value, shared: &mut Map) -> Value {
    let there = shared.entry(name).or_insert_with(|| parameter.clone());
    if *there == parameter { json!({"$ref": format!("#/parameters/{name}")}) } else { parameter }
}

fn first(content: &Value) -> Option<&Value> {
    content.as_object()?.values().next()
}

/// A definition; some have a form of their own in version 2.
pub(super) fn definition(name: &str, v3: &Value) -> Value {
    const MARKS: [&str; 2] = ["x-kubernetes-group-version-kind", "x-kubernetes-selectable-fields"];
    if v3.get(MARKS[0]).is_some() && v3.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        // A custom kind that takes anything says nothing of its members: kubectl would refuse those it is not told of.
        let marks = MARKS.iter().filter_map(|mark| Some(((*mark).to_owned(), v3.get(*mark)?.clone())));
        return Value::Object(marks.chain([("type".to_owned(), "object".into())]).collect());
    }
    let mut made = schema(v3);
    match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => made["type"] = "string".into(),
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => {
            made["type"] = "string".into();
            made["format"] = "int-or-string".into();
        }
        _ => {}
    }
    made
}

/// A schema as version 2 can say it: no alternatives, no defaults, no null (`apiextensions-apiserver/pkg/controller/openapi/v2`).
fn schema(v3: &Value) -> Value {
    let Some(members) = v3.as_object() else { return v3.clone() };
    let mut made = Map::new();
    for (name, value) in members {
        match name.as_str() {
            "$ref" => {
                made.insert(name.clone(), reference(value));
            }
            "allOf" => {
                // A reference was only wrapped so that words could stand beside it.
                if let Some([only]) = value.as_array().map(Vec::as_slice)
                    && let Some(target) = only.get("$ref")
                {
                    made.insert("$ref".to_owned(), reference(target));
                }
            }
            "oneOf" | "anyOf" | "not" | "default" | "nullable" => {}
            "properties" => {
                let properties = value.as_object().into_iter().flatten().map(|(name, of)| (name.clone(), schema(of)));
                made.insert(name.clone(), Value::Object(properties.collect()));
            }
            "items" | "additionalProperties" => {
                made.insert(name.clone(), schema(value));
            }
            _ => {
                made.insert(name.clone(), value.clone());
            }
        }
    }
    simplify(members, &mut made);
    Value::Object(made)
}

/// Old clients cannot cope with values of no one type if they have parts, nor with lists of nothing.
fn simplify(v3: &Map, made: &mut Map) {
    let on = |name: &str| v3.get(name) == Some(&Value::Bool(true));
    let (nullable, open) = (on("nullable"), on("x-kubernetes-preserve-unknown-fields"));
    if nullable || open {
        made.remove("items");
        made.remove("properties");
    }
    let kind = made.get("type").and_then(Value::as_str);
    if nullable || kind == Some("array") && !made.contains_key("items") || open && kind == Some("object") {
        made.remove("type");
    }
    let null = |of: &Value| of.get("nullable") == Some(&Value::Bool(true));
    if v3.get("additionalProperties").is_some_and(null) {
        made.remove("required");
    }
    if let (Some(required), Some(properties)) = (made.get_mut("required").and_then(Value::as_array_mut), v3.get("properties")) {
        required.retain(|name| !properties.get(name.as_str().unwrap_or_default()).is_some_and(null));
        if required.is_empty() {
            made.remove("required");
        }
    }
}

fn reference(target: &Value) -> Value {
    target.as_str().map_or(Value::Null, |target| target.replace("#/components/schemas/", "#/definitions/").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_version_two_cannot_say_is_left_out() {
        let v3 = json!({
            "type": "object", "required": ["a", "b"], "anyOf": [{"required": ["a"]}],
            "properties": {
                "a": {"type": "string", "default": "x", "description": "An a."},
                "b": {"type": "object", "nullable": true, "properties": {"c": {"type": "string"}}},
                "d": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"c": {}}},
                "e": {"allOf": [{"$ref": "#/components/schemas/x.E"}], "description": "An e.", "default": {}},
            },
        });
        let expected = json!({
            "type": "object", "required": ["a"],
            "properties": {
                "a": {"type": "string", "description": "An a."},
                "b": {},
                "d": {"x-kubernetes-preserve-unknown-fields": true},
                "e": {"$ref": "#/definitions/x.E", "description": "An e."},
            },
        });
        assert_eq!(schema(&v3), expected);
    }

    #[test]
    fn a_custom_kind_that_takes_anything_is_an_object_and_no_more() {
        let mark = json!([{"group": "example.com", "kind": "Any", "version": "v1"}]);
        let v3 = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-group-version-kind": mark,
            "properties": {"apiVersion": {"type": "string"}}, "description": "anything"});
        assert_eq!(definition("com.example.v1.Any", &v3), json!({"type": "object", "x-kubernetes-group-version-kind": mark}));
    }
}
