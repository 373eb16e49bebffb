//! Where the fields of a message stand, by their names: asked for each member of each object, several times a write.

use crate::types::Field;

/// A table of positions, at least half of it free, in which a name is looked for from where its letters say.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Positions from 1; 0 is free. As many as a power of two.
    slots: Box<[u32]>,
}

impl Places {
    /// The places of these fields. Of two with one name the first is found.
    pub(crate) fn new(fields: &[Field]) -> Self {
        let mut slots = vec![0; (fields.len() * 2).next_power_of_two()];
        for (field, position) in fields.iter().zip(1..) {
            let mut at = start(&field.name, slots.len());
            while slots[at] != 0 {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = position;
        }
        Self { slots: slots.into() }
    }

    /// The position of the field with this name.
    #[inline]
    pub(crate) fn of(&self, name: &str, fields: &[Field]) -> Option<usize> {
        let mut at = start(name, self.slots.len());
        loop {
            let position = (*self.slots.get(at)? as usize).checked_sub(1)?;
            if fields[position].name == name {
                return Some(position);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

/// Where a name is looked for first: by its length, its first and its last letters, in which hardly two fields of a message agree.
#[inline]
fn start(name: &str, slots: usize) -> usize {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let bytes = name.as_bytes();
    let letters = match (bytes.first_chunk(), bytes.last_chunk(), bytes) {
        (Some(first), Some(last), _) => u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32,
        (_, _, [first, .., last]) => u64::from(*first) | u64::from(*last) << 8,
        (_, _, [one]) => u64::from(*one),
        (_, _, []) => 0,
    };
    ((letters ^ bytes.len() as u64).wrapping_mul(SPREAD) >> 32) as usize & slots.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tables;

    #[test]
    fn every_field_of_every_message_is_found_at_its_position_and_nothing_else() {
        let tables = Tables::load().unwrap();
        for of in &tables.schema.types {
            for (at, field) in of.fields.iter().enumerate() {
                assert_eq!(of.position(&field.name), Some(at), "{of}.{}", field.name);
                assert_eq!(of.position(&field.name[1..]).filter(|other| *other == at), None);
                assert_eq!(of.position(&format!("{}x", field.name)).filter(|other| *other == at), None);
            }
            assert_eq!((of.position(""), of.position("x"), of.position("no such field")), (None, None, None), "{of}");
        }
        assert_eq!(Places::default().of("name", &[]), None);
    }
}
