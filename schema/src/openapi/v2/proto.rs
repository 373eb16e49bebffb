//! The protobuf form (`google/gnostic-models/openapiv2/OpenAPIv2.proto`): one table of what each member of the JSON is in its message.

use coracle_tree::Value;

use crate::openapi::gnostic::{Members, Part, bytes, extensions, message, nested, requirement};

/// The document as a gnostic `Document`. Members that its message does not have are left out.
pub fn protobuf(document: &Value) -> Vec<u8> {
    message(DOCUMENT, document)
}

const DOCUMENT: Members = &[
    ("swagger", 1, Part::Text),
    ("info", 2, Part::Of(&[("title", 1, Part::Text), ("version", 2, Part::Text), ("description", 3, Part::Text)])),
    ("host", 3, Part::Text),
    ("basePath", 4, Part::Text),
    ("schemes", 5, Part::Texts),
    ("consumes", 6, Part::Texts),
    ("produces", 7, Part::Texts),
    ("paths", 8, Part::Map(2, path)),
    ("definitions", 9, Part::Map(1, schema)),
    ("parameters", 10, Part::Map(1, parameter)),
    ("security", 12, Part::List(requirement)),
    ("securityDefinitions", 13, Part::Map(1, security_definition)),
];

const PATH: Members = &[
    ("get", 2, Part::By(operation)),
    ("put", 3, Part::By(operation)),
    ("post", 4, Part::By(operation)),
    ("delete", 5, Part::By(operation)),
    ("options", 6, Part::By(operation)),
    ("head", 7, Part::By(operation)),
    ("patch", 8, Part::By(operation)),
    ("parameters", 9, Part::List(parameter_or_reference)),
];

const OPERATION: Members = &[
    ("tags", 1, Part::Texts),
    ("summary", 2, Part::Text),
    ("description", 3, Part::Text),
    ("operationId", 5, Part::Text),
    ("produces", 6, Part::Texts),
    ("consumes", 7, Part::Texts),
    ("parameters", 8, Part::List(parameter_or_reference)),
    ("responses", 9, Part::Map(1, response)),
    ("schemes", 10, Part::Texts),
    ("deprecated", 11, Part::Bool),
];

const SCHEMA: Members = &[
    ("$ref", 1, Part::Text),
    ("format", 2, Part::Text),
    ("title", 3, Part::Text),
    ("description", 4, Part::Text),
    ("default", 5, Part::Any),
    ("multipleOf", 6, Part::Double),
    ("maximum", 7, Part::Double),
    ("exclusiveMaximum", 8, Part::Bool),
    ("minimum", 9, Part::Double),
    ("exclusiveMinimum", 10, Part::Bool),
    ("maxLength", 11, Part::Int),
    ("minLength", 12, Part::Int),
    ("pattern", 13, Part::Text),
    ("maxItems", 14, Part::Int),
    ("minItems", 15, Part::Int),
    ("uniqueItems", 16, Part::Bool),
    ("maxProperties", 17, Part::Int),
    ("minProperties", 18, Part::Int),
    ("required", 19, Part::Texts),
    ("enum", 20, Part::Anys),
    ("additionalProperties", 21, Part::By(additional)),
    ("type", 22, Part::By(kind)),
    ("items", 23, Part::By(items)),
    ("properties", 25, Part::Map(1, schema)),
    ("example", 30, Part::Any),
];

const BODY: Members = &[
    ("description", 1, Part::Text),
    ("name", 2, Part::Text),
    ("in", 3, Part::Text),
    ("required", 4, Part::Bool),
    ("schema", 5, Part::By(schema)),
];

/// Query parameters have one member more than those of the path, so the numbers differ.
const QUERY: Members = &[
    ("required", 1, Part::Bool),
    ("in", 2, Part::Text),
    ("description", 3, Part::Text),
    ("name", 4, Part::Text),
    ("type", 6, Part::Text),
    ("format", 7, Part::Text),
    ("uniqueItems", 20, Part::Bool),
];
const IN_PATH: Members = &[
    ("required", 1, Part::Bool),
    ("in", 2, Part::Text),
    ("description", 3, Part::Text),
    ("name", 4, Part::Text),
    ("type", 5, Part::Text),
    ("format", 6, Part::Text),
    ("uniqueItems", 19, Part::Bool),
];

fn path(value: &Value) -> Vec<u8> {
    message(PATH, value)
}

fn operation(value: &Value) -> Vec<u8> {
    let mut out = message(OPERATION, value);
    extensions(13, value, &mut out);
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = message(SCHEMA, value);
    extensions(31, value, &mut out);
    out
}

/// `Parameter`: the body, or one of the path or query, each in its own message.
fn parameter(value: &Value) -> Vec<u8> {
    match value["in"].as_str() {
        Some("body") => nested(&[(1, message(BODY, value))]),
        Some("path") => nested(&[(2, nested(&[(4, message(IN_PATH, value))]))]),
        _ => nested(&[(2, nested(&[(3, message(QUERY, value))]))]),
    }
}

/// `ParametersItem`
fn parameter_or_reference(value: &Value) -> Vec<u8> {
    match value.get("$ref") {
        Some(target) => nested(&[(2, message(&[("$ref", 1, Part::Text)], &coracle_tree::json!({"$ref": target})))]),
        None => nested(&[(1, parameter(value))]),
    }
}

/// `ResponseValue` with a `Response` whose schema is a `SchemaItem`.
fn response(value: &Value) -> Vec<u8> {
    let mut answer = message(&[("description", 1, Part::Text)], value);
    if let Some(of) = value.get("schema") {
        bytes(2, &nested(&[(1, schema(of))]), &mut answer);
    }
    nested(&[(1, answer)])
}

fn additional(value: &Value) -> Vec<u8> {
    match value {
        Value::Bool(allowed) => vec![2 << 3, u8::from(*allowed)],
        _ => nested(&[(1, schema(value))]),
    }
}

/// `TypeItem`
fn kind(value: &Value) -> Vec<u8> {
    value.as_str().map(|name| nested(&[(1, name.as_bytes().to_vec())])).unwrap_or_default()
}

fn items(value: &Value) -> Vec<u8> {
    nested(&[(1, schema(value))])
}

/// `SecurityDefinitionsItem` with an API key.
fn security_definition(value: &Value) -> Vec<u8> {
    let key: Members = &[("type", 1, Part::Text), ("name", 2, Part::Text), ("in", 3, Part::Text), ("description", 4, Part::Text)];
    nested(&[(2, message(key, value))])
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_schema_is_what_gnostic_writes() {
        let value = json!({"type": "object", "required": ["type"], "description": "A.",
            "x-kubernetes-group-version-kind": [{"group": "", "kind": "Pod", "version": "v1"}]});
        let mut expected = b"\x22\x02A.\x9a\x01\x04type\xb2\x01\x08\x0a\x06object".to_vec();
        let text = "[{\"group\":\"\",\"kind\":\"Pod\",\"version\":\"v1\"}]\n";
        let extension =
            [b"\x0a\x1fx-kubernetes-group-version-kind\x12".as_slice(), &[text.len() as u8 + 2, 0x12, text.len() as u8]].concat();
        expected.extend([0xfa, 0x01, (extension.len() + text.len()) as u8]);
        expected.extend(extension);
        expected.extend(text.as_bytes());
        assert_eq!(schema(&value), expected);
    }

    #[test]
    fn parameters_of_path_and_query_have_their_own_messages() {
        let name =
            json!({"name": "name", "in": "path", "required": true, "type": "string", "uniqueItems": true, "description": "name of it"});
        // As upstream's document has it.
        let expected = b"\x0a\x2b\x12\x29\x22\x27\x08\x01\x12\x04path\x1a\x0aname of it\x22\x04name\x2a\x06string\x98\x01\x01";
        let mut expected = expected.to_vec();
        let inner = expected.len() - 6;
        (expected[1], expected[3], expected[5]) = (inner as u8 + 4, inner as u8 + 2, inner as u8);
        assert_eq!(parameter_or_reference(&name), expected);
        let reference = json!({"$ref": "#/parameters/limit-query"});
        assert_eq!(parameter_or_reference(&reference), b"\x12\x1a\x0a\x18#/parameters/limit-query");
    }
}
