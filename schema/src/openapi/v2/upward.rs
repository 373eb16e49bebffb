//! From version 2 to version 3, for servers that tell version 2 alone (kube-openapi `pkg/openapiconv`). What version 3 can say and version 2
//! cannot stays unsaid.

use coracle_tree::{Map, Value, json};

/// The whole document.
pub fn to_v3(mut v2: Value) -> Value {
    let mut made = json!({"openapi": "3.0.0", "info": v2["info"].take()});
    if v2["externalDocs"].is_object() {
        made["externalDocs"] = v2["externalDocs"].take();
    }
    made["paths"] = each(v2["paths"].take(), path);
    let mut components = Map::new();
    let produces = v2["produces"].take();
    for (place, name, convert) in [
        ("definitions", "schemas", schema as fn(Value) -> Value),
        ("securityDefinitions", "securitySchemes", security),
        ("parameters", "parameters", parameter),
    ] {
        if v2[place].is_object() {
            components.insert(name, each(v2[place].take(), convert));
        }
    }
    if v2["responses"].is_object() {
        components.insert("responses", each(v2["responses"].take(), |answer| response(answer, &produces)));
    }
    made["components"] = components.into();
    made
}

/// The members of an object, each converted; those that are extensions stay.
fn each(of: Value, convert: impl Fn(Value) -> Value) -> Value {
    let Value::Object(members) = of else { return of };
    members.into_iter().map(|(name, value)| if name.starts_with("x-") { (name, value) } else { (name, convert(value)) }).collect()
}

/// Moves a reference to where version 3 has what it names.
fn point(of: &mut Value) {
    if let Some(Value::String(target)) = of.get_mut("$ref") {
        for (old, new) in
            [("definitions", "components/schemas"), ("parameters", "components/parameters"), ("responses", "components/responses")]
        {
            if let Some(name) = target.strip_prefix(&format!("#/{old}/")) {
                *target = format!("#/{new}/{name}").into();
                return;
            }
        }
    }
}

fn path(item: Value) -> Value {
    let Value::Object(members) = item else { return item };
    let members = members.into_iter().map(|(name, value)| {
        let made = match (name.as_str(), value) {
            ("parameters", Value::Array(list)) => list.into_iter().map(parameter).collect(),
            ("get" | "put" | "post" | "delete" | "options" | "head" | "patch", value) => operation(value),
            (_, value) => value,
        };
        (name, made)
    });
    members.collect()
}

fn operation(v2: Value) -> Value {
    let Value::Object(mut members) = v2 else { return v2 };
    let (consumes, produces) = (members.remove("consumes").unwrap_or_default(), members.remove("produces").unwrap_or_default());
    members.remove("schemes");
    if let Some(Value::Array(given)) = members.remove("parameters") {
        let mut kept = Vec::new();
        for mut one in given {
            if one["name"] == "body" && one["schema"].is_object() {
                let mut body = json!({"content": content(&consumes, &schema(one["schema"].take()))});
                if one["required"] == true {
                    body["required"] = true.into();
                }
                members.insert("requestBody", body);
            } else {
                kept.push(parameter(one));
            }
        }
        if !kept.is_empty() {
            members.insert("parameters", kept.into());
        }
    }
    if let Some(responses) = members.remove("responses") {
        members.insert("responses", each(responses, |answer| response(answer, &produces)));
    }
    Value::Object(members)
}

/// The same schema for each media type.
fn content(types: &Value, schema: &Value) -> Value {
    let types = types.as_array().into_iter().flatten().filter_map(Value::as_str);
    types.map(|media| (media, json!({"schema": schema}))).collect()
}

fn response(mut v2: Value, produces: &Value) -> Value {
    point(&mut v2);
    if let Some(members) = v2.as_object_mut()
        && let Some(given) = members.remove("schema")
    {
        let made = content(produces, &schema(given));
        if made.as_object().is_some_and(|types| !types.is_empty()) {
            members.insert("content", made);
        }
    }
    v2
}

/// What a parameter is stands in a schema of its own.
fn parameter(mut v2: Value) -> Value {
    point(&mut v2);
    let Value::Object(members) = v2 else { return v2 };
    if members.contains_key("$ref") {
        return members.into();
    }
    let (mut made, mut of) = (Map::new(), Map::new());
    for (name, value) in members {
        match name.as_str() {
            "name" | "description" | "in" | "required" | "allowEmptyValue" => drop(made.insert(name, value)),
            "schema" => drop(made.insert(name, schema(value))),
            extension if extension.starts_with("x-") => drop(made.insert(name, value)),
            _ => drop(of.insert(name, value)),
        }
    }
    made.entry("schema").or_insert_with(|| of.into());
    made.into()
}

fn security(v2: Value) -> Value {
    let Value::Object(mut members) = v2 else { return v2 };
    if let Some(Value::String(flow)) = members.remove("flow") {
        let of = ["authorizationUrl", "tokenUrl", "scopes"].into_iter().filter_map(|name| Some((name.to_owned(), members.remove(name)?)));
        let of: Map = of.collect();
        members.insert("flows", json!({flow: of}));
    }
    members.into()
}

/// A schema: references point elsewhere, and where anything stands beside one they are wrapped (kube-openapi `builder3/util.WrapRefs`).
fn schema(mut v2: Value) -> Value {
    point(&mut v2);
    let Value::Object(members) = v2 else { return v2 };
    let members = members.into_iter().map(|(name, value)| {
        let made = match (name.as_str(), value) {
            ("properties", value) => match value {
                Value::Object(all) => all.into_iter().map(|(name, of)| (name, schema(of))).collect(),
                other => other,
            },
            ("items" | "allOf", Value::Array(list)) => list.into_iter().map(schema).collect(),
            ("items" | "additionalProperties" | "additionalItems", value) => schema(value),
            (_, value) => value,
        };
        (name, made)
    });
    let mut made: Map = members.collect();
    if made.len() > 1
        && let Some(target) = made.remove("$ref")
    {
        made.insert("allOf", json!([{"$ref": target}]));
    }
    made.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_answers_parameters_and_references_are_where_version_3_has_them() {
        let v2 = json!({
            "swagger": "2.0", "info": {"title": "t"}, "schemes": ["https"],
            "paths": {"/things": {
                "parameters": [{"name": "pretty", "in": "query", "type": "string", "uniqueItems": true, "description": "d"}],
                "post": {
                    "consumes": ["*/*"], "produces": ["application/json", "application/yaml"], "schemes": ["https"], "operationId": "make",
                    "parameters": [
                        {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/Thing"}},
                        {"$ref": "#/parameters/dry"},
                    ],
                    "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/Thing"}}, "401": {"description": "No"}},
                    "x-kubernetes-action": "post",
                },
            }},
            "definitions": {"Thing": {"properties": {
                "spec": {"$ref": "#/definitions/Spec", "description": "words", "default": {}},
                "all": {"type": "array", "items": {"$ref": "#/definitions/Spec"}},
                "map": {"additionalProperties": {"$ref": "#/definitions/Spec"}},
                "$ref": {"type": "string"},
            }}},
            "parameters": {"dry": {"name": "dryRun", "in": "query", "type": "string"}},
            "securityDefinitions": {"B": {"type": "apiKey", "name": "authorization", "in": "header"}},
        });
        let thing = json!({"schema": {"$ref": "#/components/schemas/Thing"}});
        let spec = json!({"$ref": "#/components/schemas/Spec"});
        assert_eq!(
            to_v3(v2),
            json!({
                "openapi": "3.0.0", "info": {"title": "t"},
                "paths": {"/things": {
                    "parameters": [
                        {"name": "pretty", "in": "query", "description": "d", "schema": {"type": "string", "uniqueItems": true}},
                    ],
                    "post": {
                        "operationId": "make", "x-kubernetes-action": "post",
                        "requestBody": {"required": true, "content": {"*/*": thing}},
                        "parameters": [{"$ref": "#/components/parameters/dry"}],
                        "responses": {
                            "200": {"description": "OK", "content": {"application/json": thing, "application/yaml": thing}},
                            "401": {"description": "No"},
                        },
                    },
                }},
                "components": {
                    "schemas": {"Thing": {"properties": {
                        "spec": {"allOf": [spec], "description": "words", "default": {}},
                        "all": {"type": "array", "items": spec},
                        "map": {"additionalProperties": spec},
                        "$ref": {"type": "string"},
                    }}},
                    "parameters": {"dry": {"name": "dryRun", "in": "query", "schema": {"type": "string"}}},
                    "securitySchemes": {"B": {"type": "apiKey", "name": "authorization", "in": "header"}},
                },
            })
        );
    }

    #[test]
    fn nonsense_stays_what_it_is() {
        assert_eq!(to_v3(json!({"paths": {"/a": 1, "/b": {"get": "x"}}}))["paths"], json!({"/a": 1, "/b": {"get": "x"}}));
    }
}
