//! Short ways to look into JSON objects. Absent, null and wrong-typed members all read as the empty value: types were checked at the door.

use coracle_schema::Quantity;
pub(super) use coracle_schema::go::quoted;
use coracle_tree::{Map, Value};

/// Where in an object something is. It becomes text only when there is something to say: most objects are as they should be.
pub(super) type At<'a> = &'a dyn std::fmt::Display;

static NULL: Value = Value::Null;
static EMPTY: std::sync::LazyLock<Map> = std::sync::LazyLock::new(Map::new);

/// A member that is there and not null.
pub(super) fn get<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    there(value, name).filter(|v| !v.is_null())
}

fn there<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    // Most messages are not there at all.
    if let Value::Object(members) = value { members.get(name) } else { None }
}

/// A member, null when absent.
pub(super) fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    there(value, name).unwrap_or(&NULL)
}

/// A text.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    there(value, name).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number that is there.
pub(super) fn int(value: &Value, name: &str) -> Option<i64> {
    there(value, name).and_then(Value::as_i64)
}

/// A truth value, false when absent.
pub(super) fn flag(value: &Value, name: &str) -> bool {
    there(value, name).and_then(Value::as_bool).unwrap_or_default()
}

/// A list.
pub(super) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    there(value, name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A map or message.
pub(super) fn map<'v>(value: &'v Value, name: &str) -> &'v Map {
    there(value, name).and_then(Value::as_object).unwrap_or(&EMPTY)
}

/// The texts of a list.
pub(super) fn texts<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v str> {
    list(value, name).iter().filter_map(Value::as_str)
}

/// The items of a list, to change.
pub(super) fn items_mut<'v>(value: &'v mut Value, name: &str) -> impl Iterator<Item = &'v mut Value> {
    value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A message inside an object, to change, if it is there.
pub(super) fn message_mut<'v>(value: &'v mut Value, name: &str) -> Option<&'v mut Value> {
    value.get_mut(name).filter(|v| v.is_object())
}

/// Sets a member that is absent or null.
pub(super) fn set_absent(value: &mut Value, name: &str, default: impl Into<Value>) {
    if let Value::Object(members) = value
        && members.get(name).is_none_or(Value::is_null)
    {
        members.insert(name, default.into());
    }
}

/// Removes a member.
pub(super) fn remove(value: &mut Value, name: &str) -> Option<Value> {
    value.as_object_mut().and_then(|members| members.remove(name))
}

/// A quantity that is there and parses.
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(|text| text.parse().ok())
}
