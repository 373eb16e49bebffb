//! The protobuf form of a document (`google/gnostic-models/openapiv3/OpenAPIv3.proto`): one table of what each member of the JSON is in its
//! message.

use coracle_tree::Value;

use super::gnostic::{Members, Part, bytes, extensions, message, nested, requirement, varint};

/// The media types of the protobuf form: how it is answered, and how old clients ask for it.
pub const PROTOBUF_TYPES: [&str; 2] =
    ["application/com.github.proto-openapi.spec.v3.v1.0+protobuf", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"];

/// The document as a gnostic `Document`. Members that its message does not have are left out.
pub fn protobuf(document: &Value) -> Vec<u8> {
    message(DOCUMENT, document)
}

const DOCUMENT: Members = &[
    ("openapi", 1, Part::Text),
    ("info", 2, Part::Of(&[("title", 1, Part::Text), ("description", 2, Part::Text), ("version", 6, Part::Text)])),
    ("paths", 4, Part::Map(1, path)),
    ("components", 5, Part::Of(&[("schemas", 1, Part::Map(1, schema)), ("securitySchemes", 7, Part::Map(1, security_scheme))])),
    ("security", 6, Part::List(requirement)),
];

const PATH: Members = &[
    ("summary", 2, Part::Text),
    ("description", 3, Part::Text),
    ("get", 4, Part::By(operation)),
    ("put", 5, Part::By(operation)),
    ("post", 6, Part::By(operation)),
    ("delete", 7, Part::By(operation)),
    ("options", 8, Part::By(operation)),
    ("head", 9, Part::By(operation)),
    ("patch", 10, Part::By(operation)),
    ("parameters", 13, Part::List(parameter)),
];

const OPERATION: Members = &[
    ("tags", 1, Part::Texts),
    ("summary", 2, Part::Text),
    ("description", 3, Part::Text),
    ("operationId", 5, Part::Text),
    ("parameters", 6, Part::List(parameter)),
    ("requestBody", 7, Part::By(request_body)),
    ("responses", 8, Part::Map(2, response)),
    ("deprecated", 10, Part::Bool),
];

const PARAMETER: Members = &[
    ("name", 1, Part::Text),
    ("in", 2, Part::Text),
    ("description", 3, Part::Text),
    ("required", 4, Part::Bool),
    ("schema", 10, Part::By(schema)),
];

const CONTENT: Part = Part::Map(1, media);

const SCHEMA: Members = &[
    ("nullable", 1, Part::Bool),
    ("readOnly", 3, Part::Bool),
    ("writeOnly", 4, Part::Bool),
    ("externalDocs", 6, Part::Of(&[("description", 1, Part::Text), ("url", 2, Part::Text)])),
    ("example", 7, Part::Any),
    ("deprecated", 8, Part::Bool),
    ("title", 9, Part::Text),
    ("multipleOf", 10, Part::Double),
    ("maximum", 11, Part::Double),
    ("exclusiveMaximum", 12, Part::Bool),
    ("minimum", 13, Part::Double),
    ("exclusiveMinimum", 14, Part::Bool),
    ("maxLength", 15, Part::Int),
    ("minLength", 16, Part::Int),
    ("pattern", 17, Part::Text),
    ("maxItems", 18, Part::Int),
    ("minItems", 19, Part::Int),
    ("uniqueItems", 20, Part::Bool),
    ("maxProperties", 21, Part::Int),
    ("minProperties", 22, Part::Int),
    ("required", 23, Part::Texts),
    ("enum", 24, Part::Anys),
    ("type", 25, Part::Text),
    ("allOf", 26, Part::List(schema)),
    ("oneOf", 27, Part::List(schema)),
    ("anyOf", 28, Part::List(schema)),
    ("not", 29, Part::By(plain_schema)),
    ("items", 30, Part::By(items)),
    ("properties", 31, Part::Map(1, schema)),
    ("additionalProperties", 32, Part::By(additional)),
    ("default", 33, Part::By(default)),
    ("description", 34, Part::Text),
    ("format", 35, Part::Text),
];

const SECURITY_SCHEME: Members =
    &[("type", 1, Part::Text), ("description", 2, Part::Text), ("name", 3, Part::Text), ("in", 4, Part::Text), ("scheme", 5, Part::Text)];

fn path(value: &Value) -> Vec<u8> {
    let mut out = message(PATH, value);
    extensions(14, value, &mut out);
    out
}

fn operation(value: &Value) -> Vec<u8> {
    let mut out = message(OPERATION, value);
    extensions(13, value, &mut out);
    out
}

/// `XOrReference`: what stands there, or where it is.
fn or_reference(value: &Value, there: fn(&Value) -> Vec<u8>) -> Vec<u8> {
    if value.get("$ref").is_some() { nested(&[(2, message(&[("$ref", 1, Part::Text)], value))]) } else { nested(&[(1, there(value))]) }
}

fn schema(value: &Value) -> Vec<u8> {
    or_reference(value, plain_schema)
}

fn plain_schema(value: &Value) -> Vec<u8> {
    let mut out = message(SCHEMA, value);
    extensions(36, value, &mut out);
    out
}

fn parameter(value: &Value) -> Vec<u8> {
    or_reference(value, |value| {
        let mut out = message(PARAMETER, value);
        extensions(14, value, &mut out);
        out
    })
}

fn request_body(value: &Value) -> Vec<u8> {
    or_reference(value, |value| message(&[("description", 1, Part::Text), ("content", 2, CONTENT), ("required", 3, Part::Bool)], value))
}

fn response(value: &Value) -> Vec<u8> {
    or_reference(value, |value| message(&[("description", 1, Part::Text), ("content", 3, CONTENT)], value))
}

fn media(value: &Value) -> Vec<u8> {
    message(&[("schema", 1, Part::By(schema))], value)
}

fn security_scheme(value: &Value) -> Vec<u8> {
    or_reference(value, |value| message(SECURITY_SCHEME, value))
}

/// `ItemsItem`
fn items(value: &Value) -> Vec<u8> {
    nested(&[(1, schema(value))])
}

/// `AdditionalPropertiesItem`
fn additional(value: &Value) -> Vec<u8> {
    match value {
        Value::Bool(allowed) => vec![2 << 3, u8::from(*allowed)],
        _ => nested(&[(1, schema(value))]),
    }
}

/// `DefaultType`: a number, a truth value or a text; it has no room for anything else.
fn default(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Value::Number(number) => {
            varint(1 << 3 | 1, &mut out);
            out.extend(number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::Bool(value) => out.extend([2 << 3, u8::from(*value)]),
        Value::String(text) => bytes(3, text.as_bytes(), &mut out),
        Value::Null | Value::Array(_) | Value::Object(_) => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_schema_is_what_gnostic_writes() {
        let value = json!({"type": "object", "minimum": 0, "default": {}, "additionalProperties": true,
            "properties": {"a": {"$ref": "#/x"}, "b": {"type": "integer", "default": 1, "maxLength": 3}}});
        let a = b"\x0a\x0c\x0a\x01a\x12\x07\x12\x05\x0a\x03#/x";
        let b = b"\x0a\x1f\x0a\x01b\x12\x1a\x0a\x18\x78\x03\xca\x01\x07integer\x8a\x02\x09\x09\0\0\0\0\0\0\xf0\x3f";
        let properties = [a.as_slice(), b].concat();
        let expected =
            [b"\xca\x01\x06object\xfa\x01".as_slice(), &[properties.len() as u8], &properties, b"\x82\x02\x02\x10\x01\x8a\x02\0"].concat();
        assert_eq!(schema(&value), nested(&[(1, expected)]));
    }

    #[test]
    fn every_document_has_a_protobuf_form_that_begins_with_its_version() {
        for (path, document) in crate::openapi::documents() {
            let bytes = protobuf(&document);
            assert!(bytes.starts_with(b"\x0a\x053.0.0\x12"), "{path}");
            assert!(bytes.len() > 300, "{path}");
        }
    }
}
