//! Bytes of several owners that are sent one after another, without being copied together.

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Slices in the order in which they are sent.
#[derive(Default)]
pub struct Rope {
    slices: Vec<Bytes>,
    /// Those before this one were taken.
    next: usize,
    remaining: usize,
}

impl Rope {
    /// Appends a slice; an empty one is left out.
    pub fn push(&mut self, slice: Bytes) {
        if !slice.is_empty() {
            self.remaining += slice.len();
            self.slices.push(slice);
        }
    }

    /// All in one: copied, unless there is one slice only.
    pub fn into_bytes(mut self) -> Bytes {
        self.copy_to_bytes(self.remaining)
    }
}

impl From<Bytes> for Rope {
    fn from(slice: Bytes) -> Self {
        Self { remaining: slice.len(), slices: vec![slice], next: 0 }
    }
}

impl Extend<Bytes> for Rope {
    fn extend<I: IntoIterator<Item = Bytes>>(&mut self, slices: I) {
        slices.into_iter().for_each(|slice| self.push(slice));
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.slices.get(self.next).map_or(&[], Bytes::as_ref)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let slices = &self.slices[self.next..];
        into.iter_mut().zip(slices).map(|(place, slice)| *place = IoSlice::new(slice)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining = self.remaining.saturating_sub(count);
        while count > 0
            && let Some(slice) = self.slices.get_mut(self.next)
        {
            let taken = count.min(slice.len());
            count -= taken;
            if taken < slice.len() {
                slice.advance(taken);
            } else {
                // Given up at once: it may be all that holds its object.
                *slice = Bytes::new();
                self.next += 1;
            }
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        match self.slices.get_mut(self.next) {
            Some(slice) if slice.len() >= count => {
                let taken = slice.split_to(count);
                self.remaining -= count;
                self.next += usize::from(slice.is_empty());
                taken
            }
            _ => {
                let mut whole = BytesMut::with_capacity(count);
                whole.put(self.take(count));
                whole.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope() -> Rope {
        let mut rope = Rope::from(Bytes::from_static(b"one"));
        rope.extend(["", ",", "two", ",", "three"].map(Bytes::from));
        rope
    }

    fn joined(places: &[IoSlice<'_>]) -> Vec<u8> {
        places.iter().flat_map(|place| place.to_vec()).collect()
    }

    #[test]
    fn slices_are_read_in_their_order_from_wherever_one_is() {
        let text = b"one,two,three";
        assert_eq!(rope().into_bytes(), &text[..]);
        for taken in 0..=text.len() {
            let mut rest = rope();
            rest.advance(taken);
            assert_eq!(rest.remaining(), text.len() - taken);
            let mut places = [IoSlice::new(&[]); 8];
            let count = rest.chunks_vectored(&mut places);
            assert_eq!(joined(&places[..count]), text[taken..]);
            assert!(places[..count].iter().all(|place| !place.is_empty()));
            assert_eq!(rest.into_bytes(), text[taken..]);
        }
    }

    #[test]
    fn fewer_places_than_slices_are_filled_with_the_first() {
        let rope = rope();
        let mut places = [IoSlice::new(&[]); 2];
        assert_eq!((rope.chunks_vectored(&mut places), joined(&places)), (2, b"one,".to_vec()));
    }

    #[test]
    fn what_was_sent_is_held_no_longer() {
        let held = Bytes::from(vec![1; 100]);
        let mut rope = Rope::from(held.clone());
        rope.push(Bytes::from_static(b"more"));
        assert!(!held.is_unique());
        rope.advance(100);
        assert!(held.is_unique());
        assert_eq!((rope.copy_to_bytes(2), rope.copy_to_bytes(2)), (Bytes::from_static(b"mo"), Bytes::from_static(b"re")));
        assert!(!rope.has_remaining() && rope.chunk().is_empty());
    }
}
