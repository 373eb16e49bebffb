//! Into trees and out of them.

use std::borrow::{Borrow, Cow};

use serde::de::DeserializeOwned;
use serde_json::Error;

use crate::{Map, Number, Text, Value};

/// What a type of `serde` reads from a tree.
///
/// # Errors
/// Where the tree is not of the type.
pub fn from_value<T: DeserializeOwned>(value: impl Borrow<Value>) -> Result<T, Error> {
    T::deserialize(value.borrow())
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => Self::Number(number),
            serde_json::Value::String(text) => Self::String(text.into()),
            serde_json::Value::Array(items) => items.into_iter().collect(),
            serde_json::Value::Object(members) => members.into_iter().collect(),
        }
    }
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::String(text.into()),
            Value::Array(items) => items.into_iter().map(Self::from).collect(),
            Value::Object(members) => members.into_iter().map(|(name, value)| (String::from(name), Self::from(value))).collect(),
        }
    }
}

macro_rules! from {
    ($($of:ty: $value:ident => $made:expr),* $(,)?) => {$(
        impl From<$of> for Value {
            fn from($value: $of) -> Self {
                $made
            }
        }
    )*};
}

from! {
    bool: value => Self::Bool(value),
    i32: value => Self::Number(value.into()),
    i64: value => Self::Number(value.into()),
    u8: value => Self::Number(value.into()),
    u16: value => Self::Number(value.into()),
    u32: value => Self::Number(value.into()),
    u64: value => Self::Number(value.into()),
    usize: value => Self::Number(value.into()),
    f64: value => Number::from_f64(value).map_or(Self::Null, Self::Number),
    Number: number => Self::Number(number),
    &str: text => Self::String(text.into()),
    &mut str: text => Self::String((&*text).into()),
    &String: text => Self::String(text.into()),
    String: text => Self::String(text.into()),
    Text: text => Self::String(text),
    Cow<'_, str>: text => Self::String(text.into()),
    Map: members => Self::Object(members),
}

impl<V: Into<Self>> From<Vec<V>> for Value {
    fn from(items: Vec<V>) -> Self {
        items.into_iter().collect()
    }
}

impl<V: Clone + Into<Self>> From<&[V]> for Value {
    fn from(items: &[V]) -> Self {
        items.iter().cloned().collect()
    }
}

impl<V: Into<Self>, const N: usize> From<[V; N]> for Value {
    fn from(items: [V; N]) -> Self {
        items.into_iter().collect()
    }
}

impl<V: Into<Self>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<V: Into<Self>> FromIterator<V> for Value {
    fn from_iter<I: IntoIterator<Item = V>>(items: I) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

impl<K: Into<Text>, V: Into<Self>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        Self::Object(members.into_iter().collect())
    }
}

macro_rules! equal {
    ($($of:ty: $value:ident, $other:ident => $is_equal:expr),* $(,)?) => {$(
        impl PartialEq<$of> for Value {
            fn eq(&self, $other: &$of) -> bool {
                let $value = self;
                $is_equal
            }
        }

        impl PartialEq<Value> for $of {
            fn eq(&self, value: &Value) -> bool {
                value == self
            }
        }
    )*};
}

equal! {
    str: value, other => value.as_str() == Some(other),
    &str: value, other => value.as_str() == Some(*other),
    String: value, other => value.as_str() == Some(other.as_str()),
    Text: value, other => value.as_str() == Some(other.as_str()),
    bool: value, other => value.as_bool() == Some(*other),
    i32: value, other => value.as_i64() == Some(i64::from(*other)),
    i64: value, other => value.as_i64() == Some(*other),
    u16: value, other => value.as_u64() == Some(u64::from(*other)),
    u64: value, other => value.as_u64() == Some(*other),
    usize: value, other => value.as_u64() == u64::try_from(*other).ok(),
    f64: value, other => value.as_f64() == Some(*other),
}

// References to texts compare as references to values do.
macro_rules! equal_by_reference {
    ($($of:ty),*) => {$(
        impl PartialEq<$of> for &Value {
            fn eq(&self, other: &$of) -> bool {
                **self == *other
            }
        }
    )*};
}

equal_by_reference!(bool, i32, i64, u64);
