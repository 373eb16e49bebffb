//! JSON seen as values of declared types (apiserver `pkg/cel/common/valuesunstructured.go`). Nothing is copied but scalars.

use base64::Engine as _;
use coracle_tree::{Map as JsonMap, Number, Value as Json};

use crate::EvalError;
use crate::convert;
use crate::decl::{Decl, Listing, ObjectType, Shape};
use crate::escape::escape;
use crate::time::{self, Timestamp};
use crate::value::{List, Map, Text, Val};

type Eval<T> = Result<T, EvalError>;

static ATOMIC: Listing = Listing::Atomic;

/// `json` as `decl` says it is to be seen.
pub(crate) fn value<'a>(json: &'a Json, decl: &'a Decl) -> Eval<Val<'a>> {
    match (decl.shape(), json) {
        (Shape::Dyn, _) => Ok(dynamic(json, decl)),
        (Shape::Optional(of), _) => value(json, of).map(Val::some),
        (_, Json::Null) if decl.is_nullable() => Ok(Val::Null),
        (_, Json::Null) => Err(EvalError::new("invalid data, got null for schema with nullable=false")),
        (Shape::String, Json::String(text)) => Ok(Val::String(Text::Slice(text))),
        (Shape::Int, Json::Number(number)) => {
            number.as_i64().map(Val::Int).ok_or_else(|| EvalError::new("invalid data, expected int, got float64"))
        }
        (Shape::Double, Json::Number(number)) => Ok(Val::Double(number.as_f64().unwrap_or_default())),
        (Shape::Bool, Json::Bool(value)) => Ok(Val::Bool(*value)),
        (Shape::Object(object), Json::Object(map)) => Ok(Val::Map(Map::Object(map, object))),
        (Shape::Map(value), Json::Object(map)) => Ok(Val::Map(Map::Json(map, value))),
        (Shape::List(item, listing), Json::Array(items)) => Ok(Val::List(List::Json(items, item, listing))),
        (Shape::IntOrString, Json::String(text)) => Ok(Val::String(Text::Slice(text))),
        (Shape::IntOrString, Json::Number(number)) if number.is_i64() => Ok(Val::Int(number.as_i64().unwrap_or_default())),
        (Shape::Preserved | Shape::Host, _) => Ok(Val::Preserved(json)),
        (shape, Json::String(text)) => formatted(shape, text),
        (shape, _) => Err(unfit(shape, json)),
    }
}

/// Text of a format that is a value of its own.
fn formatted<'a>(shape: &Shape, text: &'a str) -> Eval<Val<'a>> {
    match shape {
        Shape::Bytes => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(|bytes| Val::Bytes(bytes.into()))
            .map_err(|error| EvalError::new(format!("Invalid byte formatted string {text}: {error}"))),
        Shape::Duration => time::schema_duration(text)
            .map(Val::Duration)
            .ok_or_else(|| EvalError::new(format!("Invalid duration {text}: unable to parse {text} as duration"))),
        Shape::Date => Timestamp::parse(&format!("{text}T00:00:00Z"))
            .map(Val::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date formatted string {text}"))),
        Shape::DateTime => time::schema_date_time(text)
            .map(Val::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {text}"))),
        _ => Err(unfit(shape, &Json::from(text))),
    }
}

fn unfit(shape: &Shape, json: &Json) -> EvalError {
    let got = match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_i64() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    };
    EvalError::new(match shape {
        Shape::Object(_) | Shape::Map(_) => "invalid data, expected a map for the provided schema with type=object".to_string(),
        Shape::List(..) => "invalid data, expected an array for the provided schema with type=array".to_string(),
        Shape::IntOrString => "invalid data, expected XIntOrString value to be either a string or integer".to_string(),
        Shape::Int => format!("invalid data, expected int, got {got}"),
        Shape::Double => format!("invalid data, expected float, got {got}"),
        Shape::Bool => format!("invalid data, expected bool, got {got}"),
        _ => format!("invalid data, expected string, got {got}"),
    })
}

/// Untyped JSON: whole numbers are `int`, others `double`.
pub(crate) fn dynamic<'a>(json: &'a Json, decl: &'a Decl) -> Val<'a> {
    match json {
        Json::Null => Val::Null,
        Json::Bool(value) => Val::Bool(*value),
        Json::Number(number) => number.as_i64().map_or_else(|| Val::Double(number.as_f64().unwrap_or_default()), Val::Int),
        Json::String(text) => Val::String(Text::Slice(text)),
        Json::Array(items) => Val::List(List::Json(items, decl, &ATOMIC)),
        Json::Object(map) => Val::Map(Map::Json(map, decl)),
    }
}

/// The field that stands in `map` under its name in JSON; a null field counts as absent.
pub(crate) fn field<'a>(map: &'a JsonMap, object: &'a ObjectType, identifier: &str) -> Option<Eval<Val<'a>>> {
    let property = object.field(identifier)?;
    match map.get(&property.name)? {
        Json::Null => None,
        json => Some(value(json, &property.decl)),
    }
}

impl<'a> Map<'a> {
    /// The value of a key.
    pub(crate) fn find(&self, key: &Val<'a>) -> Option<Eval<Val<'a>>> {
        match (self, key) {
            (Map::Object(map, object), Val::String(name)) => field(map, object, name.as_str()),
            (Map::Json(map, decl), Val::String(name)) => map.get(name.as_str()).map(|json| value(json, decl)),
            (Map::Json(_, decl), _) if decl.ty().is_dyn() => None,
            (Map::Json(..) | Map::Object(..), _) => Some(Err(EvalError::no_overload())),
            (Map::Shared(table), key) => table.get(key).cloned().map(Ok),
        }
    }

    /// The key at a position, in the order in which folds see them.
    pub(crate) fn keys(&self) -> Box<dyn Iterator<Item = Val<'a>> + '_> {
        match self {
            Map::Json(map, _) => Box::new(map.keys().map(|key| Val::String(Text::Slice(key)))),
            Map::Object(map, object) => {
                Box::new(map.keys().filter(|key| object.property(key).is_some()).filter_map(|key| escape(key).map(Val::from)))
            }
            Map::Shared(table) => Box::new(table.entries().iter().map(|(key, _)| key.clone())),
        }
    }
}

/// Turns a value into JSON (cel-go's conversions to `structpb.Value`), or tells why it cannot.
pub(crate) fn json(value: &Val<'_>) -> Eval<Json> {
    Ok(match value {
        Val::Null => Json::Null,
        Val::Bool(value) => Json::Bool(*value),
        Val::Int(value) => Json::from(*value),
        Val::Uint(value) => Json::from(*value),
        Val::Double(value) => Number::from_f64(*value).map_or_else(|| Json::from(convert::double_text(*value)), Json::Number),
        Val::String(text) => Json::from(text.as_str()),
        Val::Bytes(bytes) => Json::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Val::Duration(nanos) => Json::from(time::duration_text(*nanos)),
        Val::Timestamp(time) => Json::from(time.to_string()),
        Val::List(List::Json(items, decl, _)) if decl.ty().is_dyn() => Json::Array(items.to_vec()),
        Val::List(list) => Json::Array(list.iter().map(|item| json(&item?)).collect::<Eval<_>>()?),
        Val::Map(Map::Json(map, _) | Map::Object(map, _)) => Json::Object((*map).clone()),
        Val::Map(Map::Shared(table)) => Json::Object(
            table.entries().iter().map(|(key, value)| Ok((convert::to_text(key)?.to_string(), json(value)?))).collect::<Eval<_>>()?,
        ),
        Val::Object(object) => {
            Json::Object(object.fields.iter().map(|(name, value)| Ok(((*name).to_string(), json(value)?))).collect::<Eval<_>>()?)
        }
        Val::Preserved(json) => (*json).clone(),
        Val::Optional(Some(value)) => json(value)?,
        Val::Optional(None) | Val::Type(_) | Val::Host(_) => {
            return Err(EvalError::new(format!("unsupported conversion of '{}' to JSON", value.ty().name())));
        }
    })
}
