//! How values are kept in the store, and what of them cannot be read.

use std::sync::Arc;

use coracle_store::{Key, Store};

use super::{
    translated::{Fault, Translate, Translated},
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

    /// What is known of an object that is there and cannot be read.
    pub(super) fn fault(&self, key: &Key) -> Option<Fault> {
        let sealed = self.at_rest.as_deref().and_then(|rest| rest.faults().of::<AtRest>(key));
        sealed.or_else(|| self.values.as_deref()?.faults().of::<Values>(key))
    }

    /// All of them under a prefix, in the order of their keys.
    pub(super) fn faults(&self, prefix: &str) -> Vec<Fault> {
        let mut known = self.at_rest.as_deref().map_or_else(Vec::new, |rest| rest.faults().under::<AtRest>(prefix));
        known.extend(self.values.as_deref().into_iter().flat_map(|values| values.faults().under::<Values>(prefix)));
        known.sort_by(|one, other| one.key.cmp(&other.key));
        known
    }
}
