//! Encodings made once, on first demand.

use std::sync::OnceLock;

use bytes::Bytes;

/// How many encodings are kept beside one thing.
pub const FORMS: usize = 8;

/// Up to [`FORMS`] encodings of the thing this stands in. Costs two words until the first is asked for.
#[derive(Default)]
pub struct Forms(OnceLock<Box<[OnceLock<Bytes>; FORMS]>>);

impl Forms {
    /// The encoding in `slot` (below [`FORMS`]; what the numbers mean is the caller's convention), made by `make` if it is not there
    /// yet. Concurrent callers wait for the one that makes it. A slot out of range is made each time.
    pub fn get_or_make(&self, slot: usize, make: impl FnOnce() -> Bytes) -> Bytes {
        match self.0.get_or_init(Default::default).get(slot) {
            Some(cell) => cell.get_or_init(make).clone(),
            None => make(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_made_once_and_slots_are_apart() {
        let forms = Forms::default();
        assert_eq!(forms.get_or_make(0, || Bytes::from_static(b"json")), "json");
        assert_eq!(forms.get_or_make(0, || Bytes::from_static(b"again")), "json");
        assert_eq!(forms.get_or_make(FORMS - 1, || Bytes::from_static(b"proto")), "proto");
        assert_eq!(forms.get_or_make(FORMS, || Bytes::from_static(b"beyond")), "beyond");
    }
}
