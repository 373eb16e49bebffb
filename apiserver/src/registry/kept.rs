//! How values are kept in the store, and what of them cannot be read.

use std::sync::Arc;

use coracle_store::{Key, Revision, Store};

use super::{
    translated::{Faults, Translate, Translated, corrupt},
    values::{Codec, MediaType, Values},
};
use crate::atrest::AtRest;

/// What stands between objects and the store.
#[derive(Clone)]
pub(super) struct Kept {
    /// What encrypts values; `None` where nothing does.
    pub(super) at_rest: Option<Arc<AtRest>>,
    /// What makes upstream's values of ours; `None` where they are kept as they are.
    pub(super) values: Option<Arc<Values>>,
}

impl Kept {
    /// Over a store; returns it as it is to be read and written, too.
    pub(super) fn over(store: Arc<dyn Store>, at_rest: Option<Arc<AtRest>>, values: Option<(Codec, MediaType)>) -> (Arc<dyn Store>, Self) {
        let store = match &at_rest {
            Some(at_rest) => Arc::new(Translated(Arc::clone(at_rest))),
            None => store,
        };
        let values = values.map(|(codec, media)| Arc::new(Values::new(Arc::clone(&store), codec, media)));
        let store = match &values {
            Some(values) => Arc::new(Translated(Arc::clone(values))),
            None => store,
        };
        (store, Self { at_rest, values })
    }

    /// Why an object is there and cannot be read, and in what way.
    pub(super) fn fault(&self, key: &Key) -> Option<(String, &'static str)> {
        self.faults().find_map(|(faults, what)| Some((faults.of(key)?, what)))
    }

    /// The revision at which it was found that an object cannot be read.
    pub(super) fn fault_at(&self, key: &Key) -> Option<Revision> {
        self.faults().find_map(|(faults, _)| faults.at(key))
    }

    /// The same of the first object under a prefix of which that is so, in upstream's words.
    pub(super) fn fault_under(&self, prefix: &str) -> Option<String> {
        let ((key, why), what) = self.faults().find_map(|(faults, what)| Some((faults.under(prefix)?, what)))?;
        Some(corrupt(key.as_str(), what, &why))
    }

    /// What cannot be read and in what way, sealed things first.
    fn faults(&self) -> impl Iterator<Item = (&Faults, &'static str)> {
        let sealed = self.at_rest.as_deref().map(|rest| (rest.faults(), AtRest::WRONG));
        sealed.into_iter().chain(self.values.as_deref().map(|values| (values.faults(), Values::WRONG)))
    }
}
