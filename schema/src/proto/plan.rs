//! How the messages of the tables stand on the wire: made once from the tables, looked up while encoding.

use super::wire::{FIXED64, VARINT, put_bytes, put_number, put_tag};
use crate::types::{Alternative, Field, Member, Presence, Schema, Shape, Type, TypeId};

/// The plans of all messages of a schema, by type id.
#[derive(Debug)]
pub(crate) struct Plan(Vec<Message>);

/// How one message is written.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Where each field of [`Type::fields`] goes; `None`: nowhere.
    pub(super) places: Box<[Option<Place>]>,
    /// The messages nested for inline members, outer ones before the inner ones they hold.
    pub(super) inlines: Box<[Inline]>,
    /// What is written for fields that are absent, in the order of their places.
    pub(super) zeros: Box<[(Place, Box<[u8]>)]>,
    /// The message without any field set.
    pub(super) empty: Box<[u8]>,
}

/// A field number, and which nested message it is a number of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    /// 0: the message itself; else 1 + position in [`Message::inlines`].
    pub(super) group: u16,
    /// Field number.
    pub(super) number: u32,
}

/// A nested message for inline members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inline {
    /// Its place in the message around it.
    pub(super) at: Place,
}

impl Plan {
    /// For all messages of a schema.
    pub(crate) fn new(schema: &Schema) -> Self {
        let mut plans: Vec<Option<Message>> = (0..schema.types.len()).map(|_| None).collect();
        for id in 0..schema.types.len() {
            make(schema, TypeId(id as u32), &mut plans, 0);
        }
        Self(plans.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The plan of a message, if it is one of this schema.
    pub(super) fn get(&self, id: TypeId) -> Option<&Message> {
        self.0.get(id.0 as usize)
    }
}

/// Messages hold one another by value only so deep; a circle of them would be a mistake of the tables and ends here.
const NESTED: usize = 32;

fn make(schema: &Schema, id: TypeId, plans: &mut Vec<Option<Message>>, depth: usize) {
    if plans[id.0 as usize].is_some() || depth > NESTED {
        return;
    }
    let of = &schema.types[id.0 as usize];
    let (mut places, mut inlines) = (vec![None; of.fields.len()], Vec::new());
    let mut at = 0;
    place(schema, of, 0, &mut at, &mut places, &mut inlines);
    let mut zeros = Vec::new();
    for (field, place) in of.fields.iter().zip(&places) {
        let Some(place) = *place else { continue };
        if let Some(bytes) = zero(schema, field, place.number, plans, depth) {
            zeros.push((place, bytes.into_boxed_slice()));
        }
    }
    zeros.sort_unstable_by_key(|(place, _)| *place);
    let mut made = Message { places: places.into(), inlines: inlines.into(), zeros: zeros.into(), empty: Box::default() };
    made.empty = match of.union {
        Some(union) if union.other == Alternative::Bool => vec![VARINT as u8 | 1 << 3, 0].into(),
        _ => made.empty_group(0).into(),
    };
    plans[id.0 as usize] = Some(made);
}

/// Numbers the fields of a message in the order in which [`Type::fields`] has them: inline members flattened in.
fn place(schema: &Schema, of: &Type, group: u16, at: &mut usize, places: &mut [Option<Place>], inlines: &mut Vec<Inline>) {
    for member in &of.members {
        match member {
            Member::Field(field) => {
                if let Some(slot) = places.get_mut(*at) {
                    *slot = of.fields[*field as usize].number.map(|number| Place { group, number });
                }
                *at += 1;
            }
            Member::Inline { number, message } => {
                inlines.push(Inline { at: Place { group, number: *number } });
                let inner = inlines.len() as u16;
                place(schema, schema.get(*message), inner, at, places, inlines);
            }
        }
    }
}

/// What Go writes for a field that was not set: nothing for pointers, lists, maps and bytes, the zero value for all else.
fn zero(schema: &Schema, field: &Field, number: u32, plans: &mut Vec<Option<Message>>, depth: usize) -> Option<Vec<u8>> {
    if matches!(field.presence, Presence::Optional | Presence::Nullable) {
        return None;
    }
    let mut out = Vec::new();
    match &field.shape {
        Shape::Bytes | Shape::List(_) | Shape::Map(_) => return None,
        Shape::String | Shape::Time | Shape::MicroTime | Shape::Object | Shape::Fields | Shape::Any => put_bytes(&mut out, number, b""),
        Shape::Bool | Shape::Int32 | Shape::Int64 => put_number(&mut out, number, 0),
        Shape::Float64 => {
            put_tag(&mut out, number, FIXED64);
            out.extend_from_slice(&[0; 8]);
        }
        Shape::Duration => put_bytes(&mut out, number, &[0x08, 0]),
        Shape::Quantity => put_bytes(&mut out, number, b"\x0a\x010"),
        Shape::IntOrString => put_bytes(&mut out, number, &[0x08, 0, 0x10, 0, 0x1a, 0]),
        Shape::Message(id) => {
            make(schema, *id, plans, depth + 1);
            let empty = plans[id.0 as usize].as_ref().map_or(&b""[..], |plan| &plan.empty);
            put_bytes(&mut out, number, empty);
        }
    }
    Some(out)
}

impl Message {
    /// A group without any field set.
    fn empty_group(&self, group: u16) -> Vec<u8> {
        let mut parts: Vec<(u32, Vec<u8>)> = Vec::new();
        for (place, bytes) in self.zeros.iter().filter(|(place, _)| place.group == group) {
            parts.push((place.number, bytes.to_vec()));
        }
        for (at, inline) in self.inlines.iter().enumerate().filter(|(_, inline)| inline.at.group == group) {
            let (inner, mut out) = (self.empty_group(at as u16 + 1), Vec::new());
            put_bytes(&mut out, inline.at.number, &inner);
            parts.push((inline.at.number, out));
        }
        parts.sort_unstable_by_key(|(number, _)| *number);
        parts.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }
}
