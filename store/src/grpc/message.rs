//! Protobuf messages by hand: the few that are needed here do not pay for a code generator.

/// A message that is written.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Text or bytes; what is empty is left out.
    #[must_use]
    pub fn bytes(self, number: u32, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.whole(number, value) }
    }

    /// A whole number; 0 is left out.
    #[must_use]
    pub fn number(mut self, number: u32, value: u64) -> Self {
        if value != 0 {
            self.put(u64::from(number << 3));
            self.put(value);
        }
        self
    }

    /// A field of eight bytes.
    #[must_use]
    pub fn fixed(mut self, number: u32, value: u64) -> Self {
        self.put(u64::from(number << 3 | 1));
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A message within this one; left out when it is empty.
    #[must_use]
    pub fn message(self, number: u32, message: &Self) -> Self {
        self.bytes(number, &message.0)
    }

    /// A message within this one that says something by being there, even when it is empty.
    #[must_use]
    pub fn choice(self, number: u32, message: &Self) -> Self {
        self.whole(number, &message.0)
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn whole(mut self, number: u32, value: &[u8]) -> Self {
        self.0.reserve(value.len() + 12);
        self.put(u64::from(number << 3 | 2));
        self.put(value.len() as u64);
        self.0.extend_from_slice(value);
        self
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
pub enum Field<'m> {
    /// A varint.
    Number(u64),
    /// Text, bytes or a message.
    Bytes(&'m [u8]),
}

/// The fields of a message, in order; a last `None` item when it is none. Fields of fixed size are passed over.
pub struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    /// Reads a message.
    pub fn of(message: &'m [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Option<Option<(u64, Field<'m>)>> {
        let message = &mut self.0;
        let tag = varint(message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(message)?),
            2 => {
                let length = usize::try_from(varint(message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                *message = rest;
                Field::Bytes(bytes)
            }
            1 => {
                *message = message.get(8..)?;
                return Some(None);
            }
            5 => {
                *message = message.get(4..)?;
                return Some(None);
            }
            _ => return None,
        };
        Some(Some((tag >> 3, field)))
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = Option<(u64, Field<'m>)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.field() {
                Some(Some(field)) => return Some(Some(field)),
                Some(None) => {}
                None => {
                    self.0 = &[];
                    return Some(None);
                }
            }
        }
        None
    }
}

/// All fields of a message; `None` when it is none.
pub fn fields(message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    Fields::of(message).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Writer::default().number(1, 300);
        let message =
            Writer::default().bytes(1, b"key").bytes(2, b"").fixed(3, 9).message(4, &inner).choice(5, &Writer::default()).finish();
        let read: Vec<_> = fields(&message)
            .unwrap()
            .into_iter()
            .map(|(number, field)| match field {
                Field::Number(value) => (number, value.to_string()),
                Field::Bytes(bytes) => (number, format!("{bytes:?}")),
            })
            .collect();
        let expected = [(1, format!("{:?}", b"key")), (4, "[8, 172, 2]".to_owned()), (5, "[]".to_owned())];
        assert_eq!(read, expected);
    }

    #[test]
    fn what_breaks_off_is_no_message() {
        let message = Writer::default().bytes(1, b"key").number(2, 1 << 40).finish();
        for length in 1..message.len() {
            let cut = &message[..length];
            // A cut between fields is a shorter message.
            assert_eq!(fields(cut).is_some(), length == 5, "{length}");
        }
        assert!(fields(&[0xff; 20]).is_none());
    }
}
