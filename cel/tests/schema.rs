//! Declarations of schemas, as the server makes them.

use coracle_cel::{Decl, Listing, ObjectType};
use coracle_tree::Value;

/// The declaration of a schema, as the server makes it.
pub(crate) fn decl(schema: &Value, name: &str) -> Decl {
    let number = |key: &str| schema[key].as_u64();
    let made = match (schema["type"].as_str(), schema["format"].as_str()) {
        (None, _) => Decl::int_or_string(number("maxLength")),
        (Some("boolean"), _) => Decl::bool(),
        (Some("integer"), _) => Decl::int(),
        (Some("number"), _) => Decl::double(),
        (Some("string"), Some("byte")) => Decl::bytes(number("maxLength")),
        (Some("string"), Some("duration")) => Decl::duration(),
        (Some("string"), Some("date")) => Decl::date(),
        (Some("string"), Some("date-time")) => Decl::date_time(),
        (Some("string"), _) => {
            let longest =
                schema["enum"].as_array().map(|all| all.iter().filter_map(Value::as_str).map(|text| text.len() as u64).max().unwrap_or(0));
            Decl::string(number("maxLength"), longest)
        }
        (Some("array"), _) => {
            let listing = match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Listing::Set,
                Some("map") => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array().unwrap();
                    Listing::Map(keys.iter().map(|key| key.as_str().unwrap().to_string()).collect())
                }
                _ => Listing::Atomic,
            };
            Decl::list(decl(&schema["items"], &format!("{name}.@idx")), listing, number("maxItems"))
        }
        (Some(_), _) if schema["additionalProperties"].is_object() => {
            Decl::map(decl(&schema["additionalProperties"], &format!("{name}.@elem")), number("maxProperties"))
        }
        (Some(_), _) => {
            let none = coracle_tree::Map::new();
            let properties = schema["properties"].as_object().unwrap_or(&none);
            let fields = properties.iter().map(|(field, schema)| (field.to_string(), decl(schema, &format!("{name}.{field}"))));
            let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            Decl::object(ObjectType::new(name, fields), &required)
        }
    };
    if schema["nullable"] == true { made.nullable() } else { made }
}
