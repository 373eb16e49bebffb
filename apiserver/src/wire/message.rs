//! Protobuf messages that are not of the API: the few there are, by hand.

/// A message that is written.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Text or bytes; what is empty is left out.
    pub(crate) fn bytes(mut self, number: u32, value: &[u8]) -> Self {
        if !value.is_empty() {
            self.put(u64::from(number << 3 | 2));
            self.put(value.len() as u64);
            self.0.extend_from_slice(value);
        }
        self
    }

    /// A whole number; 0 is left out.
    pub(crate) fn number(mut self, number: u32, value: u64) -> Self {
        if value != 0 {
            self.put(u64::from(number << 3));
            self.put(value);
        }
        self
    }

    /// A field of eight bytes.
    pub(crate) fn fixed(mut self, number: u32, value: u64) -> Self {
        self.put(u64::from(number << 3 | 1));
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A message within this one.
    pub(crate) fn message(self, number: u32, message: &Self) -> Self {
        self.bytes(number, &message.0)
    }

    /// The bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field that was read.
pub(crate) enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// The fields of a message; `None` when it is none.
pub(crate) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Field::Bytes(bytes)
            }
            1 => {
                message = message.get(8..)?;
                continue;
            }
            5 => {
                message = message.get(4..)?;
                continue;
            }
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
