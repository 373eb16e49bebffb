//! The wire format: varints, tags and length-delimited parts, read with a bound on every length.

use super::ProtoError;

/// A value on the wire.
#[derive(Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message, in wire order.
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), ProtoError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

impl<'a> Parts<'a> {
    fn part(&mut self) -> Result<(u32, Wire<'a>), ProtoError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtoError::Mismatch("tag".into()))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtoError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(ProtoError::Mismatch(number.to_string())),
        };
        Ok((number, wire))
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtoError::Truncated)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtoError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(ProtoError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        self.take(N)?.try_into().map_err(|_| ProtoError::Truncated)
    }
}

/// Wire type of numbers.
pub(super) const VARINT: u32 = 0;
/// Wire type of doubles.
pub(super) const FIXED64: u32 = 1;
/// Wire type of everything with a length.
pub(super) const BYTES: u32 = 2;

/// How many bytes a varint takes.
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field's tag.
pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    put_varint(out, u64::from(number << 3 | wire));
}

/// Appends a field of bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    put_tag(out, number, BYTES);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// Appends a field that is a number.
pub(super) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, VARINT);
    put_varint(out, value);
}

/// Bytes written from the last to the first, as the generated code of the Go types does it: what is inside of a message is there before its
/// length has to be told, so that nothing is measured beforehand.
#[derive(Default)]
pub(super) struct Backwards {
    bytes: Vec<u8>,
    /// Where what is written begins.
    start: usize,
}

impl Backwards {
    /// With room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], start: bytes }
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.drain(..self.start);
        self.bytes
    }

    /// Room for so many bytes in front of what is there.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.start < bytes {
            self.grow(bytes);
        }
        self.start -= bytes;
        &mut self.bytes[self.start..self.start + bytes]
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        let more = self.bytes.len().max(bytes).max(256);
        let mut larger = vec![0; more + self.bytes.len()];
        larger[more + self.start..].copy_from_slice(&self.bytes[self.start..]);
        (self.bytes, self.start) = (larger, more + self.start);
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        if let Ok(byte @ ..0x80) = u8::try_from(value) {
            self.room(1)[0] = byte;
            return;
        }
        let room = self.room(varint_len(value));
        let last = room.len() - 1;
        for byte in &mut room[..last] {
            *byte = value as u8 | 0x80;
            value >>= 7;
        }
        room[last] = value as u8;
    }

    fn tag(&mut self, number: u32, wire: u32) {
        self.varint(u64::from(number << 3 | wire));
    }

    /// A field that is a number.
    pub(super) fn number(&mut self, number: u32, value: u64) {
        self.varint(value);
        self.tag(number, VARINT);
    }

    /// A field that is a double.
    pub(super) fn double(&mut self, number: u32, value: f64) {
        self.put(&value.to_bits().to_le_bytes());
        self.tag(number, FIXED64);
    }

    /// A field of bytes.
    pub(super) fn bytes(&mut self, number: u32, content: &[u8]) {
        self.put(content);
        self.varint(content.len() as u64);
        self.tag(number, BYTES);
    }

    /// Makes what was written since there were `end` bytes the content of a field.
    pub(super) fn close(&mut self, number: u32, end: usize) {
        self.varint((self.len() - end) as u64);
        self.tag(number, BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_as_long_as_announced_and_read_back() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            assert_eq!(Parts(&out).varint(), Ok(value));
        }
    }

    #[test]
    fn what_is_written_backwards_reads_forwards() {
        for room in [0, 3, 1_000] {
            let mut out = Backwards::with_capacity(room);
            let end = out.len();
            out.bytes(2, &[b'x'; 300]);
            out.double(3, 0.5);
            out.close(200, end);
            out.number(1, u64::MAX);
            let written = out.into_bytes();
            let mut parts = Parts(&written);
            assert!(matches!(parts.next(), Some(Ok((1, Wire::Varint(u64::MAX))))));
            let Some(Ok((200, Wire::Bytes(inner)))) = parts.next() else { panic!("{written:?}") };
            assert!(parts.next().is_none());
            let mut inner = Parts(inner);
            assert!(matches!(inner.next(), Some(Ok((3, Wire::Fixed64(bits)))) if bits == 0.5f64.to_bits()));
            assert!(matches!(inner.next(), Some(Ok((2, Wire::Bytes(text)))) if text == [b'x'; 300]));
        }
    }
}
