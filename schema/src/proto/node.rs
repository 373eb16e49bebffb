//! What a message is made of: an object that is at hand, or as much of its JSON as the message asks for.

use std::{borrow::Cow, fmt};

use coracle_tree::Value;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::ProtoError;
use crate::{
    decode::MAX_NESTING,
    json,
    types::{Alternative, Schema, SchemaRef, Shape, Type, TypeId},
};

/// A value within an object.
pub(super) trait Node: Sized {
    fn is_null(&self) -> bool;
    fn bool(&self) -> Option<bool>;
    fn integer(&self) -> Option<i64>;
    fn float(&self) -> Option<f64>;
    fn text(&self) -> Option<&str>;
    fn items(&self) -> Option<&[Self]>;

    /// The values of a message's fields, by their positions in [`Type::fields`]; whether this is one.
    fn fields<'n>(&'n self, of: &Type, found: &mut [Option<&'n Self>]) -> bool;

    /// The entries of a map, ordered by key.
    fn entries(&self) -> Option<impl DoubleEndedIterator<Item = (&str, &Self)>>;

    /// Its JSON.
    fn json(&self, out: &mut Vec<u8>) -> Result<(), ProtoError>;

    /// What it is, as an error says it.
    fn what(&self) -> &'static str {
        let kinds = [
            (self.is_null(), "null"),
            (self.bool().is_some(), "a truth value"),
            (self.integer().is_some(), "a number"),
            (self.float().is_some(), "a fraction"),
            (self.text().is_some(), "text"),
            (self.items().is_some(), "a list"),
        ];
        kinds.into_iter().find_map(|(is, what)| is.then_some(what)).unwrap_or("an object")
    }
}

impl Node for Value {
    fn is_null(&self) -> bool {
        self.is_null()
    }

    fn bool(&self) -> Option<bool> {
        self.as_bool()
    }

    fn integer(&self) -> Option<i64> {
        self.as_i64()
    }

    fn float(&self) -> Option<f64> {
        self.as_f64()
    }

    fn text(&self) -> Option<&str> {
        self.as_str()
    }

    fn items(&self) -> Option<&[Self]> {
        self.as_array().map(Vec::as_slice)
    }

    fn fields<'n>(&'n self, of: &Type, found: &mut [Option<&'n Self>]) -> bool {
        let Some(members) = self.as_object() else { return false };
        for (name, value) in members {
            if let Some(at) = of.position(name) {
                found[at] = Some(value);
            }
        }
        true
    }

    fn entries(&self) -> Option<impl DoubleEndedIterator<Item = (&str, &Self)>> {
        self.as_object().map(|members| members.iter().map(|(key, value)| (key.as_str(), value)))
    }

    fn json(&self, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        json::write(self, MAX_NESTING, out).map_err(|error| ProtoError::Unwritable(error.to_string()))
    }
}

/// A value that was read of JSON: texts are slices of it unless they have escapes, and what stays JSON in a message is not looked into.
#[derive(Debug)]
pub(super) enum Read<'j> {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'j, str>),
    Json(&'j str),
    List(Vec<Self>),
    /// Ordered by key.
    Map(Vec<(Cow<'j, str>, Self)>),
    /// Positions in [`Type::fields`] and values.
    Message(Vec<(usize, Self)>),
}

impl<'j> Read<'j> {
    /// Reads an object.
    pub(super) fn object(json: &'j [u8], schema: &SchemaRef) -> Result<Self, ProtoError> {
        let unwritable = |error: &dyn fmt::Display| ProtoError::Unwritable(error.to_string());
        let json = str::from_utf8(json).map_err(|error| unwritable(&error))?;
        let mut source = serde_json::Deserializer::from_str(json);
        let seed = Seed { schema: &schema.schema, shape: &Shape::Message(schema.root) };
        let read = seed.deserialize(&mut source).map_err(|error| unwritable(&error))?;
        source.end().map_err(|error| unwritable(&error))?;
        Ok(read)
    }
}

impl Node for Read<'_> {
    fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn bool(&self) -> Option<bool> {
        if let Self::Bool(set) = self { Some(*set) } else { None }
    }

    fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn items(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }

    fn fields<'n>(&'n self, _of: &Type, found: &mut [Option<&'n Self>]) -> bool {
        let Self::Message(fields) = self else { return false };
        fields.iter().for_each(|(at, value)| found[*at] = Some(value));
        true
    }

    fn entries(&self) -> Option<impl DoubleEndedIterator<Item = (&str, &Self)>> {
        let Self::Map(entries) = self else { return None };
        Some(entries.iter().map(|(key, value)| (&**key, value)))
    }

    fn json(&self, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        let Self::Json(text) = self else { return Err(ProtoError::Unwritable(format!("{} was not read as JSON", self.what()))) };
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Reads one value of a shape.
struct Seed<'s> {
    schema: &'s Schema,
    shape: &'s Shape,
}

impl Seed<'_> {
    fn mismatch<T, E: Error>(&self, found: &str) -> Result<T, E> {
        Err(E::custom(format_args!("{found} stands where {:?} is expected", self.shape)))
    }

    /// What the items of a list are, if one may stand here: also as the form of a union that is not its message.
    fn item(&self) -> Option<Cow<'_, Shape>> {
        match self.shape {
            Shape::List(of) => Some(Cow::Borrowed(of)),
            Shape::Message(id) => match self.schema.get(*id).union? {
                union if union.other == Alternative::List => Some(Cow::Owned(Shape::Message(union.message))),
                union => (union.other == Alternative::Strings).then_some(Cow::Owned(Shape::String)),
            },
            _ => None,
        }
    }

    fn message<'j, A: MapAccess<'j>>(&self, id: TypeId, mut source: A) -> Result<Read<'j>, A::Error> {
        let of = self.schema.get(id);
        let of = of.union.map_or(of, |union| self.schema.get(union.message));
        let mut fields = Vec::new();
        while let Some(at) = source.next_key_seed(FieldOf(of))? {
            match at {
                Some(at) => fields.push((at, source.next_value_seed(Seed { schema: self.schema, shape: &of.fields[at].shape })?)),
                None => {
                    source.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Read::Message(fields))
    }

    fn map<'j, A: MapAccess<'j>>(&self, of: &Shape, mut source: A) -> Result<Read<'j>, A::Error> {
        let mut entries: Vec<(Cow<'j, str>, Read<'j>)> = Vec::new();
        while let Some(key) = source.next_key_seed(Text)? {
            entries.push((key, source.next_value_seed(Seed { schema: self.schema, shape: of })?));
        }
        if !entries.is_sorted_by(|(a, _), (b, _)| a <= b) {
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        Ok(Read::Map(entries))
    }
}

impl<'j> DeserializeSeed<'j> for Seed<'_> {
    type Value = Read<'j>;

    fn deserialize<D: Deserializer<'j>>(self, source: D) -> Result<Read<'j>, D::Error> {
        match self.shape {
            Shape::Object | Shape::Fields | Shape::Any => {
                let raw = <&RawValue>::deserialize(source)?.get();
                Ok(if raw == "null" { Read::Null } else { Read::Json(raw) })
            }
            _ => source.deserialize_any(self),
        }
    }
}

impl<'j> Visitor<'j> for Seed<'_> {
    type Value = Read<'j>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shape)
    }

    fn visit_unit<E>(self) -> Result<Read<'j>, E> {
        Ok(Read::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Read<'j>, E> {
        Ok(Read::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Read<'j>, E> {
        Ok(Read::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Read<'j>, E> {
        Ok(i64::try_from(value).map_or(Read::Float(value as f64), Read::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Read<'j>, E> {
        Ok(Read::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'j str) -> Result<Read<'j>, E> {
        Ok(Read::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Read<'j>, E> {
        Ok(Read::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'j>>(self, mut source: A) -> Result<Read<'j>, A::Error> {
        let Some(of) = self.item() else { return self.mismatch("a list") };
        let mut items = Vec::new();
        while let Some(item) = source.next_element_seed(Seed { schema: self.schema, shape: &of })? {
            items.push(item);
        }
        Ok(Read::List(items))
    }

    fn visit_map<A: MapAccess<'j>>(self, source: A) -> Result<Read<'j>, A::Error> {
        match self.shape {
            Shape::Map(of) => self.map(of, source),
            Shape::Message(id) => self.message(*id, source),
            _ => self.mismatch("an object"),
        }
    }
}

/// A member's name as the position of its field; `None` for names the message does not have.
struct FieldOf<'t>(&'t Type);

impl<'j> DeserializeSeed<'j> for FieldOf<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'j>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldOf<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.position(name))
    }
}

/// A text, borrowed when it has no escapes.
struct Text;

impl<'j> DeserializeSeed<'j> for Text {
    type Value = Cow<'j, str>;

    fn deserialize<D: Deserializer<'j>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'j> Visitor<'j> for Text {
    type Value = Cow<'j, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E>(self, text: &'j str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
