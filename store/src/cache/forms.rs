//! Encodings made once, on first demand, and given up when nobody asks for them any more.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use parking_lot::RwLock;

/// Up to `N` encodings of the thing this stands in. Costs two words until the first is asked for. What the slots mean is the caller's
/// convention.
pub struct Forms<const N: usize>(RwLock<Kept<N>>);

enum Kept<const N: usize> {
    Nothing,
    Some(Box<Made<N>>),
    /// Nothing from now on.
    Never,
}

struct Made<const N: usize> {
    slots: [OnceLock<Bytes>; N],
    /// Somebody asked since they were last looked at.
    used: AtomicBool,
}

impl<const N: usize> Forms<N> {
    /// The encoding in `slot`, made by `make` if it is not there yet. Concurrent callers wait for the one that makes it. A slot out of
    /// range is made each time.
    pub fn get_or_make(&self, slot: usize, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut forms = self.0.read();
        while slot < N && matches!(&*forms, Kept::Nothing) {
            drop(forms);
            self.0.write().begin();
            forms = self.0.read();
        }
        match forms.slot(slot) {
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
        self.0.read().slot(slot)?.get().cloned()
    }

    /// Bytes of all that were made.
    pub fn bytes(&self) -> usize {
        self.0.read().made().map_or(0, |made| made.slots.iter().filter_map(OnceLock::get).map(Bytes::len).sum())
    }

    /// Gives them up; not while somebody just makes or takes one.
    pub fn clear(&self) {
        if let Some(mut forms) = self.0.try_write()
            && let Kept::Some(_) = &*forms
        {
            *forms = Kept::Nothing;
        }
    }

    /// Gives them up and keeps none from now on: each is made for whoever asks for it.
    pub fn close(&self) {
        *self.0.write() = Kept::Never;
    }

    /// Gives them up if nobody asked since this was last called.
    pub fn age(&self) {
        let unused = self.0.read().made().is_some_and(|made| !made.used.swap(false, Ordering::Relaxed));
        if unused {
            self.clear();
        }
    }
}

impl<const N: usize> Kept<N> {
    fn begin(&mut self) {
        if let Self::Nothing = self {
            *self = Self::Some(Box::new(Made { slots: [const { OnceLock::new() }; N], used: AtomicBool::new(true) }));
        }
    }

    fn made(&self) -> Option<&Made<N>> {
        match self {
            Self::Some(made) => Some(made),
            Self::Nothing | Self::Never => None,
        }
    }

    fn slot(&self, slot: usize) -> Option<&OnceLock<Bytes>> {
        let made = self.made()?;
        // Most are asked for by many at once: who finds it written does not write it again.
        if !made.used.load(Ordering::Relaxed) {
            made.used.store(true, Ordering::Relaxed);
        }
        made.slots.get(slot)
    }
}

impl<const N: usize> Default for Forms<N> {
    fn default() -> Self {
        Self(RwLock::new(Kept::Nothing))
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

    #[test]
    fn forms_that_nobody_asks_for_go() {
        let forms = Forms::<1>::default();
        let make = || Bytes::from_static(b"made");
        forms.age();
        assert_eq!(forms.get_or_make(0, make), "made");
        forms.age();
        assert_eq!(forms.get(0), Some(make()), "made since it was last looked at");
        forms.age();
        forms.age();
        assert_eq!((forms.get(0), forms.bytes()), (None, 0));
        assert_eq!(forms.get_or_make(0, make), "made");
        forms.clear();
        assert_eq!(forms.get(0), None);
    }

    #[test]
    fn closed_forms_are_made_for_each_and_kept_for_nobody() {
        let forms = Forms::<1>::default();
        assert_eq!(forms.get_or_make(0, || Bytes::from_static(b"kept")), "kept");
        forms.close();
        for text in ["one", "two"] {
            assert_eq!(forms.get_or_make(0, || text.into()), text);
        }
        forms.clear();
        forms.age();
        assert_eq!((forms.get(0), forms.bytes()), (None, 0));
        assert_eq!(forms.get_or_make(0, || Bytes::from_static(b"three")), "three");
        assert_eq!(forms.get(0), None);
    }
}
