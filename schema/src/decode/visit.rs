//! The one pass: a serde visitor that follows the schema.

use std::{borrow::Cow, fmt};

use coracle_tree::{Map, Number, Text, Value};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{
    quantity::QuantityError,
    types::{Alternative, Shape, Type, TypeId},
};

use super::{Session, path::Path, scalar, zero};

/// Decodes one value of a shape.
#[derive(Clone, Copy)]
pub(super) struct Seed<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) shape: &'a Shape,
    pub(super) path: &'a Path<'a>,
    /// The whole object: `apiVersion` and `kind` are its own, and null is no object.
    pub(super) root: bool,
    /// Quantities are rounded up to thousandths: values of a resource list.
    pub(super) coarse: bool,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        match self.shape {
            Shape::Any | Shape::Object | Shape::Fields => serde::Deserialize::deserialize(source),
            _ => source.deserialize_any(self),
        }
    }
}

impl<'a> Seed<'a> {
    fn below(self, shape: &'a Shape, path: &'a Path<'a>) -> Self {
        Self { shape, path, root: false, coarse: false, ..self }
    }

    /// Stops: what was found is not what the schema wants.
    pub(super) fn mismatch<T, E: serde::de::Error>(self, found: &str) -> Result<T, E> {
        if *self.shape == Shape::Quantity {
            // Quantities read what stands there themselves.
            return self.stop(QuantityError::Form.to_string());
        }
        let wanted = go_type(self.session, self.shape, self.path.go_name(self.session.schema), self.path.is_field());
        self.stop(format!("json: cannot unmarshal {found} into {} of type {wanted}", self.path.go(self.session.schema)))
    }

    fn stop<T, E: serde::de::Error>(self, message: String) -> Result<T, E> {
        let error = E::custom(&message);
        self.session.mismatch.set(Some(message));
        Err(error)
    }

    pub(super) fn text<E: serde::de::Error>(self, text: Text) -> Result<Value, E> {
        let stored = match self.shape {
            Shape::String | Shape::IntOrString | Shape::Duration => return Ok(text.into()),
            Shape::Time => scalar::time(&text).map(Value::from),
            Shape::MicroTime => scalar::micro_time(&text).map(Value::from),
            Shape::Bytes => scalar::bytes(text).map(Value::from),
            Shape::Quantity => scalar::quantity(&text, self.coarse).map(Value::from),
            _ => return self.mismatch("string"),
        };
        stored.or_else(|message| self.stop(message))
    }

    pub(super) fn number<E: serde::de::Error>(self, number: &Number) -> Result<Value, E> {
        let narrow = || number.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        match self.shape {
            Shape::Int32 | Shape::IntOrString if narrow() => Ok(Value::Number(number.clone())),
            Shape::Int64 if number.is_i64() => Ok(Value::Number(number.clone())),
            Shape::Float64 => Ok(Value::Number(whole(number))),
            Shape::Quantity => match scalar::quantity(&number.to_string(), self.coarse) {
                Ok(text) => Ok(text.into()),
                Err(message) => self.stop(message),
            },
            Shape::Int32 | Shape::Int64 | Shape::IntOrString => self.mismatch(&format!("number {number}")),
            _ => self.mismatch("number"),
        }
    }

    fn message<'de, A: MapAccess<'de>>(self, of: &'a Type, mut source: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let (mut seen, mut kept) = (Bits::default(), Bits::default());
        while let Some(key) = source.next_key_seed(KeyOf { of, typed: self.root || of.typed })? {
            match key {
                Key::Field(at) => {
                    let field = &of.fields[at];
                    let path = Path::Field { parent: self.path, owner: of, name: &field.name };
                    if seen.set(at) {
                        self.session.reports.add("duplicate", &path);
                    }
                    let value = source.next_value_seed(self.below(&field.shape, &path))?;
                    if zero::is_left_out(field, &value) {
                        continue;
                    }
                    // Whatever the zero value of the field is, is written instead.
                    let value = if zero::is_absent(field, &value) { zero::absent(self.session.schema, field) } else { Some(value) };
                    if let Some(value) = value {
                        kept.set(at);
                        out.insert(field.key(), value);
                    }
                }
                Key::TypeMeta(name) => {
                    let path = Path::Field { parent: self.path, owner: of, name };
                    let value = source.next_value_seed(self.below(&Shape::String, &path))?;
                    if out.contains_key(name) {
                        self.session.reports.add("duplicate", &path);
                    }
                    if value.as_str().is_some_and(|text| !text.is_empty()) {
                        out.insert(name, value);
                    }
                }
                Key::Unknown(name) if of.open => {
                    let value = source.next_value()?;
                    out.insert(name, value);
                }
                Key::Unknown(name) => {
                    self.session.reports.add("unknown", &Path::Key { parent: self.path, key: &name });
                    source.next_value::<IgnoredAny>()?;
                }
            }
        }
        for at in of.written.iter().map(|at| *at as usize) {
            let field = &of.fields[at];
            if !kept.has(at)
                && let Some(value) = zero::absent(self.session.schema, field)
            {
                out.insert(field.key(), value);
            }
        }
        Ok(Value::Object(out))
    }

    fn map<'de, A: MapAccess<'de>>(self, of: &'a Shape, mut source: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = source.next_key::<Text>()? {
            let path = Path::Key { parent: self.path, key: &key };
            if out.contains_key(&key) {
                self.session.reports.add("duplicate", &path);
            }
            let seed = Seed { coarse: self.is_resource_list(of), ..self.below(of, &path) };
            let value = source.next_value_seed(seed)?;
            let value = if value.is_null() { zero::value(self.session.schema, of) } else { value };
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }

    /// Whether this is a map to quantities that are stored rounded.
    pub(super) fn is_resource_list(&self, of: &Shape) -> bool {
        *of == Shape::Quantity && !self.path.keeps_quantities()
    }

    /// What the items of a list are, if one may stand here: also as the form of a union that is not its message.
    pub(super) fn item(self) -> Option<Cow<'a, Shape>> {
        match self.shape {
            Shape::List(of) => Some(Cow::Borrowed(of)),
            Shape::Message(id) => {
                let union = self.session.schema.get(*id).union?;
                match union.other {
                    Alternative::List => Some(Cow::Owned(Shape::Message(union.message))),
                    Alternative::Strings => Some(Cow::Owned(Shape::String)),
                    Alternative::Bool => None,
                }
            }
            _ => None,
        }
    }

    /// The message whose members stand in the JSON.
    pub(super) fn message_of(self, id: TypeId) -> &'a Type {
        let of = self.session.schema.get(id);
        of.union.map_or(of, |union| self.session.schema.get(union.message))
    }

    fn may_be_bool(self, id: TypeId) -> bool {
        self.session.schema.get(id).union.is_some_and(|union| union.other == Alternative::Bool)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        if self.root { self.mismatch("null") } else { Ok(Value::Null) }
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        match self.shape {
            Shape::Bool => Ok(Value::Bool(value)),
            Shape::Message(id) if self.may_be_bool(*id) => Ok(Value::Bool(value)),
            _ => self.mismatch("bool"),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.number(&value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.number(&value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => self.number(&number),
            None => Err(E::custom("number is not finite")),
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.text(value.into())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.text(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let Some(of) = self.item() else { return self.mismatch("array") };
        let mut out = Vec::new();
        loop {
            let path = Path::Index { parent: self.path, at: out.len() };
            let seed = Seed { session: self.session, shape: &of, path: &path, root: false, coarse: false };
            match source.next_element_seed(seed)? {
                Some(Value::Null) => out.push(zero::value(self.session.schema, &of)),
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, source: A) -> Result<Value, A::Error> {
        match self.shape {
            Shape::Message(id) => self.message(self.message_of(*id), source),
            Shape::Map(of) => self.map(of, source),
            _ => self.mismatch("object"),
        }
    }
}

/// A float without a fraction is written as a whole number, as Go does.
pub(super) fn whole(number: &Number) -> Number {
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 => Number::from(value as i64),
        _ => number.clone(),
    }
}

/// The Go type a shape has upstream, as decoding errors name it.
/// `named` is what Go calls the type of the field, where that is a type of its own; `whole` if this is all of the field.
fn go_type(session: &Session<'_>, shape: &Shape, named: Option<&str>, whole: bool) -> String {
    match (shape, named.map(|name| name.strip_suffix("[]").ok_or(name))) {
        (Shape::String | Shape::Any, Some(Err(name))) => return name.to_owned(),
        (Shape::List(of), Some(Ok(name))) if **of == Shape::String || whole => return name.to_owned(),
        // A map to lists of texts: those have the name.
        (Shape::Map(of), Some(Ok(name))) if whole && !matches!(**of, Shape::List(_)) => return name.to_owned(),
        _ => {}
    }
    match shape {
        Shape::String | Shape::Time | Shape::MicroTime | Shape::Duration => "string".to_owned(),
        Shape::Bool => "bool".to_owned(),
        Shape::Int32 | Shape::IntOrString => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Float64 => "float64".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::Object | Shape::Fields | Shape::Any => "interface {}".to_owned(),
        Shape::List(of) => format!("[]{}", go_type(session, of, named, false)),
        Shape::Map(of) if **of == Shape::Quantity => "v1.ResourceList".to_owned(),
        Shape::Map(of) => format!("map[string]{}", go_type(session, of, named, false)),
        Shape::Message(id) => {
            let of = session.schema.get(*id);
            let version = if of.name.starts_with("autoscalingv2.") { "v2" } else { "v1" };
            format!("{version}.{}", of.short_name())
        }
    }
}

/// A member's name, resolved without copying it when it is known.
enum Key {
    Field(usize),
    TypeMeta(&'static str),
    Unknown(Text),
}

struct KeyOf<'a> {
    of: &'a Type,
    typed: bool,
}

impl<'de> DeserializeSeed<'de> for KeyOf<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Key, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Key, E> {
        if let Some(at) = self.of.position(name) {
            return Ok(Key::Field(at));
        }
        Ok(match name {
            "apiVersion" if self.typed => Key::TypeMeta("apiVersion"),
            "kind" if self.typed => Key::TypeMeta("kind"),
            _ => Key::Unknown(name.into()),
        })
    }
}

/// A set of field positions; messages have few, custom resources may have many.
#[derive(Default)]
pub(super) struct Bits {
    small: u128,
    large: Vec<usize>,
}

impl Bits {
    /// Adds one; whether it was there.
    pub(super) fn set(&mut self, at: usize) -> bool {
        let there = self.has(at);
        match u32::try_from(at).ok().and_then(|at| 1u128.checked_shl(at)) {
            Some(bit) => self.small |= bit,
            None if !there => self.large.push(at),
            None => {}
        }
        there
    }

    pub(super) fn has(&self, at: usize) -> bool {
        match u32::try_from(at).ok().and_then(|at| 1u128.checked_shl(at)) {
            Some(bit) => self.small & bit != 0,
            None => self.large.contains(&at),
        }
    }
}
