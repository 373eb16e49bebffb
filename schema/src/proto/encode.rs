//! From an object, or its JSON bytes, to its protobuf message, in one pass over it and one over what was found in it.
//!
//! The first pass notes every field as a [`Part`]: a number, or a slice of a text, or the parts of a nested message, with its length.
//! The second writes them. Nothing is copied in between but texts with escapes and what has another form in protobuf, or none.

use std::{borrow::Cow, fmt, ops::Range};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};

use super::{
    ProtoError,
    plan::{Message, Plan},
    scalar,
    wire::{BYTES, FIXED64, VARINT, put_tag, put_varint, varint_len},
};
use crate::types::{Alternative, Schema, SchemaRef, Shape, Type, TypeId, Union};

/// The message of an object, without envelope, from its JSON. What the schema does not know is left out.
pub fn message(json: &[u8], schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
    let json = str::from_utf8(json).map_err(|e| ProtoError::Unwritable(e.to_string()))?;
    let mut source = serde_json::Deserializer::from_str(json);
    let message = encoded(&mut source, Source::Text { length: json.len() }, schema)?;
    source.end().map_err(unwritable)?;
    Ok(message)
}

/// The same of an object that is at hand, for half of what its JSON costs.
pub fn message_of(object: &Value, schema: &SchemaRef) -> Result<Vec<u8>, ProtoError> {
    encoded(object, Source::Value, schema)
}

/// What a message is made of.
#[derive(Clone, Copy)]
enum Source {
    Text { length: usize },
    Value,
}

fn encoded<'a, D>(object: D, source: Source, schema: &'a SchemaRef) -> Result<Vec<u8>, ProtoError>
where
    D: Deserializer<'a, Error = serde_json::Error>,
{
    if !schema.has_protobuf() {
        return Err(ProtoError::Unwritable(format!("{} has no protobuf form", schema.root().name)));
    }
    let plan = schema.schema.plan();
    let parts = match source {
        Source::Text { length } => length / 24 + 16,
        Source::Value => 64,
    };
    let (open, closed) = (Vec::with_capacity(64), Vec::with_capacity(parts));
    let mut encoder = Encoder { schema: &schema.schema, plan, source, open, closed, scratch: Vec::new() };
    let shape = Shape::Message(schema.root);
    let item = Seed { encoder: &mut encoder, shape: &shape, number: 0 }.deserialize(object).map_err(unwritable)?;
    let item = item.ok_or_else(|| ProtoError::Unwritable("it is null".into()))?;
    let mut out = Vec::with_capacity(item.length as usize);
    encoder.write_content(&item, &mut out);
    Ok(out)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unwritable(error: serde_json::Error) -> ProtoError {
    ProtoError::Unwritable(error.to_string())
}

/// A value, ready to be written.
struct Item<'a> {
    /// Of the content, without tag and length prefix.
    length: u32,
    content: Content<'a>,
}

enum Content<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A slice of the source, or of the plan.
    Slice(&'a [u8]),
    /// Bytes in the scratch buffer.
    Made(Range<u32>),
    /// Parts of a message.
    Message(Range<u32>),
    /// Parts of the same number, one after another: a list or a map.
    Many(Range<u32>),
    /// A field that is already whole, tag included: a zero value of the plan.
    Whole(&'a [u8]),
}

/// A field of a message.
struct Part<'a> {
    number: u32,
    /// The nested message of an inline member it belongs to, see `Place`.
    group: u16,
    item: Item<'a>,
}

struct Encoder<'a> {
    schema: &'a Schema,
    plan: &'a Plan,
    source: Source,
    /// Fields of messages whose end was not reached yet.
    open: Vec<Part<'a>>,
    /// Parts of finished messages: those of one message stand together.
    closed: Vec<Part<'a>>,
    scratch: Vec<u8>,
}

impl<'a> Item<'a> {
    fn slice(bytes: &'a [u8]) -> Self {
        Self { length: bytes.len() as u32, content: Content::Slice(bytes) }
    }

    fn of_text(text: &'a str) -> Self {
        Self::slice(text.as_bytes())
    }

    fn varint(value: u64) -> Self {
        Self { length: varint_len(value) as u32, content: Content::Varint(value) }
    }
}

impl Part<'_> {
    /// Bytes on the wire, with tag and length.
    fn size(&self) -> u32 {
        let tag = varint_len(u64::from(self.number << 3)) as u32;
        match &self.item.content {
            Content::Varint(_) | Content::Fixed64(_) => tag + self.item.length,
            Content::Slice(_) | Content::Made(_) | Content::Message(_) => {
                tag + varint_len(u64::from(self.item.length)) as u32 + self.item.length
            }
            Content::Many(_) | Content::Whole(_) => self.item.length,
        }
    }
}

impl<'a> Encoder<'a> {
    /// Moves the open fields from `base` on to the closed ones, and sums their sizes.
    fn close(&mut self, base: usize) -> (Range<u32>, u32) {
        let start = self.closed.len() as u32;
        let length = self.open[base..].iter().map(Part::size).sum();
        self.closed.extend(self.open.drain(base..));
        (start..self.closed.len() as u32, length)
    }

    fn many(&mut self, base: usize) -> Item<'a> {
        let (parts, length) = self.close(base);
        Item { length, content: Content::Many(parts) }
    }

    fn nested(&mut self, base: usize) -> Item<'a> {
        let (parts, length) = self.close(base);
        Item { length, content: Content::Message(parts) }
    }

    fn push(&mut self, number: u32, item: Item<'a>) {
        self.open.push(Part { number, group: 0, item });
    }

    /// A message of one field of bytes.
    fn wrapped(&mut self, number: u32, item: Item<'a>) -> Item<'a> {
        let base = self.open.len();
        self.push(number, item);
        self.nested(base)
    }

    /// A message of the open fields from `base` on: zero values are added, groups become nested messages, numbers ascend.
    fn finish(&mut self, plan: &'a Message, base: usize) -> Item<'a> {
        for (at, inline) in plan.inlines.iter().enumerate().rev() {
            let item = self.finish_group(plan, at as u16 + 1, base);
            self.open.push(Part { number: inline.at.number, group: inline.at.group, item });
        }
        let item = self.finish_group(plan, 0, base);
        self.open.truncate(base);
        item
    }

    fn finish_group(&mut self, plan: &'a Message, group: u16, base: usize) -> Item<'a> {
        let start = self.closed.len();
        if plan.inlines.is_empty() {
            self.closed.extend(self.open.drain(base..));
        } else {
            let of_group = |part: &mut Part<'_>| part.group == group;
            self.closed.extend(self.open.extract_if(base.., of_group));
        }
        let given = self.closed.len();
        for (place, whole) in plan.zeros.iter().filter(|(place, _)| place.group == group) {
            if self.closed[start..given].iter().all(|part| part.number != place.number) {
                let item = Item { length: whole.len() as u32, content: Content::Whole(whole) };
                self.closed.push(Part { number: place.number, group, item });
            }
        }
        let parts = &mut self.closed[start..];
        parts.sort_unstable_by_key(|part| part.number);
        let length = parts.iter().map(Part::size).sum();
        Item { length, content: Content::Message(start as u32..self.closed.len() as u32) }
    }

    /// What null is in a list or a map.
    fn zero(&mut self, shape: &Shape) -> Item<'a> {
        match shape {
            Shape::Bool | Shape::Int32 | Shape::Int64 => Item::varint(0),
            Shape::Float64 => Item { length: 8, content: Content::Fixed64(0) },
            Shape::Quantity => self.wrapped(1, Item::slice(b"0")),
            Shape::Message(id) => Item::slice(self.plan.get(*id).map_or(&[], |plan| &plan.empty)),
            _ => Item::slice(&[]),
        }
    }

    fn made(&mut self, start: usize) -> Item<'a> {
        let range = start as u32..self.scratch.len() as u32;
        Item { length: range.end - range.start, content: Content::Made(range) }
    }

    fn copied(&mut self, text: &str) -> Item<'a> {
        let start = self.scratch.len();
        self.scratch.extend_from_slice(text.as_bytes());
        self.made(start)
    }

    fn write_content(&self, item: &Item<'a>, out: &mut Vec<u8>) {
        match &item.content {
            Content::Varint(value) => put_varint(out, *value),
            Content::Fixed64(bits) => out.extend_from_slice(&bits.to_le_bytes()),
            Content::Slice(bytes) | Content::Whole(bytes) => out.extend_from_slice(bytes),
            Content::Made(at) => out.extend_from_slice(&self.scratch[at.start as usize..at.end as usize]),
            Content::Message(parts) | Content::Many(parts) => {
                for part in &self.closed[parts.start as usize..parts.end as usize] {
                    self.write(part, out);
                }
            }
        }
    }

    fn write(&self, part: &Part<'a>, out: &mut Vec<u8>) {
        match part.item.content {
            Content::Varint(_) => put_tag(out, part.number, VARINT),
            Content::Fixed64(_) => put_tag(out, part.number, FIXED64),
            Content::Slice(_) | Content::Made(_) | Content::Message(_) => {
                put_tag(out, part.number, BYTES);
                put_varint(out, u64::from(part.item.length));
            }
            Content::Many(_) | Content::Whole(_) => {}
        }
        self.write_content(&part.item, out);
    }
}

/// Reads one value of a shape; nothing for null.
struct Seed<'s, 'a> {
    encoder: &'s mut Encoder<'a>,
    shape: &'s Shape,
    /// The number of the field it stands in, which every item of a list and every entry of a map repeats.
    number: u32,
}

impl<'a> DeserializeSeed<'a> for Seed<'_, 'a> {
    type Value = Option<Item<'a>>;

    fn deserialize<D: Deserializer<'a>>(self, source: D) -> Result<Self::Value, D::Error> {
        match self.shape {
            // JSON within the message: of a text taken as it stands.
            Shape::Object | Shape::Fields | Shape::Any => {
                let text = match self.encoder.source {
                    Source::Text { .. } => Some(<&RawValue>::deserialize(source)?.get()).filter(|raw| *raw != "null").map(Item::of_text),
                    Source::Value => Some(<Box<RawValue>>::deserialize(source)?)
                        .filter(|raw| raw.get() != "null")
                        .map(|raw| self.encoder.copied(raw.get())),
                };
                Ok(text.map(|text| self.encoder.wrapped(1, text)))
            }
            _ => source.deserialize_any(self),
        }
    }
}

impl<'a> Seed<'_, 'a> {
    fn mismatch<T, E: serde::de::Error>(&self, found: &str) -> Result<T, E> {
        Err(E::custom(format_args!("{found} stands where {:?} is expected", self.shape)))
    }

    /// A text that is written as something else; `None` when the shape is plain text.
    fn converted(&mut self, text: &str) -> Option<Result<Item<'a>, String>> {
        let start = self.encoder.scratch.len();
        let out = &mut self.encoder.scratch;
        let put = match self.shape {
            Shape::Bytes => scalar::bytes(text, out),
            Shape::Time => scalar::time(text, false, out),
            Shape::MicroTime => scalar::time(text, true, out),
            Shape::Duration => scalar::duration(text, out),
            Shape::IntOrString => {
                scalar::text_alternative(text, out);
                Ok(())
            }
            _ => return None,
        };
        Some(put.map(|()| self.encoder.made(start)))
    }

    fn text<E: serde::de::Error>(mut self, text: &str, as_is: impl FnOnce(&mut Encoder<'a>) -> Item<'a>) -> Result<Option<Item<'a>>, E> {
        if let Some(converted) = self.converted(text) {
            return converted.map(Some).map_err(E::custom);
        }
        match self.shape {
            Shape::String => Ok(Some(as_is(self.encoder))),
            Shape::Quantity => {
                let item = as_is(self.encoder);
                Ok(Some(self.encoder.wrapped(1, item)))
            }
            _ => self.mismatch("text"),
        }
    }

    fn number<E: serde::de::Error>(self, value: i64) -> Result<Option<Item<'a>>, E> {
        Ok(Some(match self.shape {
            // Negative numbers are sign-extended, 32-bit ones, too.
            Shape::Int32 | Shape::Int64 => Item::varint(value as u64),
            Shape::Float64 => Item { length: 8, content: Content::Fixed64((value as f64).to_bits()) },
            Shape::IntOrString => {
                let start = self.encoder.scratch.len();
                scalar::number_alternative(value, &mut self.encoder.scratch);
                self.encoder.made(start)
            }
            Shape::Quantity => {
                let item = self.encoder.copied(&value.to_string());
                self.encoder.wrapped(1, item)
            }
            _ => return self.mismatch("a number"),
        }))
    }

    fn union(&self, id: TypeId) -> Option<Union> {
        self.encoder.schema.get(id).union
    }

    fn message<A: MapAccess<'a>>(self, id: TypeId, mut source: A) -> Result<Option<Item<'a>>, A::Error> {
        let Self { encoder, .. } = self;
        let (of, Some(plan)) = (encoder.schema.get(id), encoder.plan.get(id)) else {
            return Err(serde::de::Error::custom("a message without a plan"));
        };
        let base = encoder.open.len();
        while let Some(found) = source.next_key_seed(FieldOf(of))? {
            let Some((at, place)) = found.and_then(|at| Some((at, plan.places[at]?))) else {
                source.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = &of.fields[at];
            let number = if field.nested { 1 } else { place.number };
            if let Some(mut item) = source.next_value_seed(Seed { encoder: &mut *encoder, shape: &field.shape, number })? {
                if field.nested {
                    item = encoder.wrapped(1, item);
                }
                encoder.open.push(Part { number: place.number, group: place.group, item });
            }
        }
        Ok(Some(encoder.finish(plan, base)))
    }

    /// A map is a list of messages of key 1 and value 2, sorted by key.
    fn map<A: MapAccess<'a>>(self, of: &Shape, mut source: A) -> Result<Option<Item<'a>>, A::Error> {
        let Self { encoder, number, .. } = self;
        let mut entries: Vec<(Cow<'a, str>, Item<'a>)> = Vec::new();
        while let Some(key) = source.next_key_seed(Text)? {
            let base = encoder.open.len();
            let text = match &key {
                Cow::Borrowed(key) => Item::slice(key.as_bytes()),
                Cow::Owned(key) => encoder.copied(key),
            };
            encoder.push(1, text);
            let value = source.next_value_seed(Seed { encoder: &mut *encoder, shape: of, number: 1 })?;
            let value = match (value, of) {
                (Some(list), Shape::List(_)) => encoder.wrapped(1, list),
                (Some(value), _) => value,
                (None, _) => encoder.zero(of),
            };
            encoder.push(2, value);
            let entry = encoder.nested(base);
            entries.push((key, entry));
        }
        if !entries.is_sorted_by(|a, b| a.0 <= b.0) {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let base = encoder.open.len();
        for (_, entry) in entries {
            encoder.push(number, entry);
        }
        Ok(Some(encoder.many(base)))
    }

    fn list<A: SeqAccess<'a>>(self, of: &Shape, mut source: A) -> Result<Item<'a>, A::Error> {
        let Self { encoder, number, .. } = self;
        let base = encoder.open.len();
        while let Some(item) = source.next_element_seed(Seed { encoder: &mut *encoder, shape: of, number })? {
            let item = item.unwrap_or_else(|| encoder.zero(of));
            encoder.push(number, item);
        }
        Ok(encoder.many(base))
    }
}

impl<'a> Visitor<'a> for Seed<'_, 'a> {
    type Value = Option<Item<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shape)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        match self.shape {
            Shape::Bool => Ok(Some(Item::varint(value.into()))),
            Shape::Message(id) if self.union(*id).is_some_and(|u| u.other == Alternative::Bool) => {
                Ok(Some(self.encoder.wrapped(1, Item::varint(value.into()))))
            }
            _ => self.mismatch("a truth value"),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.number(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.number(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        match self.shape {
            Shape::Float64 => Ok(Some(Item { length: 8, content: Content::Fixed64(value.to_bits()) })),
            _ => self.mismatch("a fraction"),
        }
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'a str) -> Result<Self::Value, E> {
        self.text(text, |_| Item::slice(text.as_bytes()))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.text(text, |encoder| encoder.copied(text))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, source: A) -> Result<Self::Value, A::Error> {
        let id = match self.shape {
            Shape::List(of) => return self.list(of, source).map(Some),
            Shape::Message(id) => *id,
            _ => return self.mismatch("a list"),
        };
        let of = match self.union(id) {
            Some(Union { message, other: Alternative::List }) => Shape::Message(message),
            Some(Union { other: Alternative::Strings, .. }) => Shape::String,
            _ => return self.mismatch("a list"),
        };
        let Self { encoder, .. } = self;
        let items = Seed { encoder: &mut *encoder, shape: &of, number: 2 }.list(&of, source)?;
        Ok(Some(encoder.wrapped(2, items)))
    }

    fn visit_map<A: MapAccess<'a>>(self, source: A) -> Result<Self::Value, A::Error> {
        let id = match self.shape {
            Shape::Map(of) => return self.map(of, source),
            Shape::Message(id) => *id,
            _ => return self.mismatch("an object"),
        };
        let Some(union) = self.union(id) else { return self.message(id, source) };
        let Self { encoder, shape, .. } = self;
        let Some(item) = (Seed { encoder: &mut *encoder, shape, number: 0 }).message(union.message, source)? else { return Ok(None) };
        let base = encoder.open.len();
        match union.other {
            // A schema allows.
            Alternative::Bool => {
                encoder.push(1, Item::varint(1));
                encoder.push(2, item);
            }
            Alternative::List | Alternative::Strings => encoder.push(1, item),
        }
        Ok(Some(encoder.nested(base)))
    }
}

/// A member's name as the position of its field; `None` for names the message does not have.
struct FieldOf<'t>(&'t Type);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
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

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
