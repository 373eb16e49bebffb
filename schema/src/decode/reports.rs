//! What a decoding found that strict clients want to hear of: unknown fields, and fields that stand twice.

use std::cell::RefCell;

use coracle_tree::Value;

use super::{DecodeError, Decoded, FieldValidation, path::Path};

/// Fields reported for one body; the rest is dropped in silence.
const MOST: usize = 100;

/// The reports of one decoding, each once.
pub(super) struct Reports {
    mode: FieldValidation,
    found: RefCell<Vec<String>>,
}

impl Reports {
    pub(super) fn new(mode: FieldValidation) -> Self {
        Self { mode, found: RefCell::default() }
    }

    /// A field that is `unknown` or a `duplicate`.
    pub(super) fn add(&self, what: &str, path: &Path<'_>) {
        if self.mode != FieldValidation::Ignore {
            self.note(format!("{what} field {:?}", path.strict()));
        }
    }

    /// Paths of fields that were pruned.
    pub(super) fn unknown(&self, paths: impl IntoIterator<Item = String>) {
        if self.mode != FieldValidation::Ignore {
            paths.into_iter().for_each(|path| self.note(format!("unknown field \"{path}\"")));
        }
    }

    fn note(&self, report: String) {
        let mut found = self.found.borrow_mut();
        if found.len() < MOST && !found.contains(&report) {
            found.push(report);
        }
    }

    pub(super) fn into_texts(self) -> Vec<String> {
        self.found.into_inner()
    }

    /// The decoded value, unless it is refused for what was reported.
    pub(super) fn settle(self, value: Value) -> Result<Decoded, DecodeError> {
        let strict = self.mode == FieldValidation::Strict;
        match self.into_texts() {
            reports if strict && !reports.is_empty() => Err(DecodeError::Strict(reports)),
            reports => Ok(Decoded { value, reports }),
        }
    }
}
