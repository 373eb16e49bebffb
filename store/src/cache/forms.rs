//! Encodings made once, on first demand.

use std::sync::OnceLock;

use bytes::Bytes;

/// Up to `N` encodings of the thing this stands in. Costs two words until the first is asked for. What the slots mean is the caller's
/// convention.
pub struct Forms<const N: usize>(OnceLock<Box<[OnceLock<Bytes>; N]>>);

impl<const N: usize> Forms<N> {
    /// The encoding in `slot`, made by `make` if it is not there yet. Concurrent callers wait for the one that makes it. A slot out of
    /// range is made each time.
    pub fn get_or_make(&self, slot: usize, make: impl FnOnce() -> Bytes) -> Bytes {
        match self.slots().get(slot) {
            Some(cell) => cell.get_or_init(make).clone(),
            None => make(),
        }
    }

    /// As [`Forms::get_or_make`], when making may fail; a failure is not kept. Concurrent callers may both make it, one of them in vain.
    pub fn try_get_or_make<E>(&self, slot: usize, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(found) = self.get(slot) {
            return Ok(found);
        }
        let made = make()?;
        Ok(self.get_or_make(slot, || made))
    }

    /// The encoding in `slot`, if it was made.
    pub fn get(&self, slot: usize) -> Option<Bytes> {
        self.0.get()?.get(slot)?.get().cloned()
    }

    /// Bytes of all that were made.
    pub fn bytes(&self) -> usize {
        self.0.get().map_or(0, |slots| slots.iter().filter_map(OnceLock::get).map(Bytes::len).sum())
    }

    fn slots(&self) -> &[OnceLock<Bytes>; N] {
        self.0.get_or_init(|| Box::new([const { OnceLock::new() }; N]))
    }
}

impl<const N: usize> Default for Forms<N> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_made_once_and_slots_are_apart() {
        let forms = Forms::<8>::default();
        assert_eq!(forms.get_or_make(0, || Bytes::from_static(b"json")), "json");
        assert_eq!(forms.get_or_make(0, || Bytes::from_static(b"again")), "json");
        assert_eq!(forms.get_or_make(7, || Bytes::from_static(b"proto")), "proto");
        assert_eq!(forms.get_or_make(8, || Bytes::from_static(b"beyond")), "beyond");
        assert_eq!((forms.get(7), forms.get(1)), (Some(Bytes::from_static(b"proto")), None));
        assert_eq!((forms.bytes(), Forms::<8>::default().bytes()), (9, 0));
    }

    #[test]
    fn a_form_that_cannot_be_made_is_tried_again() {
        let forms = Forms::<1>::default();
        assert_eq!(forms.try_get_or_make(0, || Err("no")), Err("no"));
        assert_eq!(forms.try_get_or_make::<()>(0, || Ok(Bytes::from_static(b"yes"))), Ok(Bytes::from_static(b"yes")));
        assert_eq!(forms.try_get_or_make(0, || Err("no")), Ok(Bytes::from_static(b"yes")));
    }
}
