//! How the messages of the tables stand on the wire: made once from the tables, looked up while encoding.

use super::wire::{Backwards, FIXED64, VARINT, put_bytes, put_number, put_tag};
use crate::types::{Alternative, Field, Member, Presence, Schema, Shape, Type, TypeId};

/// The plans of all messages of a schema, by type id.
#[derive(Debug)]
pub(crate) struct Plan(Vec<Message>);

/// How one message is written.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// What to write, the last part first.
    pub(super) steps: Box<[Step]>,
    /// The message without any field set.
    pub(super) empty: Box<[u8]>,
}

/// A step of writing a message from its end to its beginning.
#[derive(Debug)]
pub(super) enum Step {
    /// A field.
    Field {
        /// Position in [`Type::fields`].
        at: usize,
        /// Field number.
        number: u32,
        /// What stands there when it was not given, tag included.
        zero: Box<[u8]>,
    },
    /// The end of a message nested for inline members.
    End,
    /// Its beginning, and its field number.
    Begin(u32),
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
    let mut steps = Vec::new();
    let mut at = 0;
    order(schema, of, &mut at, &mut steps, &mut |field, number| {
        zero(schema, &of.fields[field], number, plans, depth).unwrap_or_default().into_boxed_slice()
    });
    let mut made = Message { steps: steps.into(), empty: Box::default() };
    made.empty = match of.union {
        Some(union) if union.other == Alternative::Bool => vec![VARINT as u8 | 1 << 3, 0].into(),
        _ => made.without_fields().into(),
    };
    plans[id.0 as usize] = Some(made);
}

/// Notes the members of a message by descending number; `at` counts its fields in the order in which [`Type::fields`] has them: those of inline
/// members flattened in.
fn order(schema: &Schema, of: &Type, at: &mut usize, steps: &mut Vec<Step>, zero: &mut dyn FnMut(usize, u32) -> Box<[u8]>) {
    let mut members: Vec<(u32, Vec<Step>)> = Vec::with_capacity(of.members.len());
    for member in &of.members {
        match member {
            Member::Field(field) => {
                if let Some(number) = of.fields[*field as usize].number {
                    members.push((number, vec![Step::Field { at: *at, number, zero: zero(*at, number) }]));
                }
                *at += 1;
            }
            Member::Inline { number, message } => {
                let mut nested = vec![Step::End];
                order(schema, schema.get(*message), at, &mut nested, zero);
                nested.push(Step::Begin(*number));
                members.push((*number, nested));
            }
        }
    }
    members.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    steps.extend(members.into_iter().flat_map(|(_, steps)| steps));
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
    fn without_fields(&self) -> Vec<u8> {
        let (mut out, mut ends) = (Backwards::default(), Vec::new());
        for step in &self.steps {
            match step {
                Step::Field { zero, .. } => out.put(zero),
                Step::End => ends.push(out.len()),
                Step::Begin(number) => out.close(*number, ends.pop().unwrap_or_default()),
            }
        }
        out.into_bytes()
    }
}
