//! The caches of objects: one for each store they are in, since each store counts its own revisions.

use std::sync::Arc;

use coracle_store::{
    Store,
    cache::{Cache, Collection},
    split::{Elsewhere, Seen},
};

use super::items::{Facts, Items};

/// One cache for most, others for what is kept elsewhere.
pub(super) struct Caches {
    main: Cache<Facts>,
    elsewhere: Vec<(String, Cache<Facts>)>,
}

impl Caches {
    /// Over a store; of `elsewhere` each prefix is in a store of its own, whose revisions count there.
    pub(super) fn start(store: &Arc<dyn Store>, elsewhere: Elsewhere, items: &Arc<Items>) -> Self {
        let others = elsewhere.into_iter().map(|(prefix, place)| {
            let seen = Arc::new(Seen { whole: Arc::clone(store), place, prefix: prefix.clone() });
            (prefix, Cache::start(seen, items.clone()))
        });
        Self { elsewhere: others.collect(), main: Cache::start(Arc::clone(store), items.clone()) }
    }

    fn all(&self) -> impl Iterator<Item = &Cache<Facts>> {
        std::iter::once(&self.main).chain(self.elsewhere.iter().map(|(_, cache)| cache))
    }

    fn of(&self, prefix: &str) -> &Cache<Facts> {
        self.elsewhere.iter().find(|(place, _)| prefix.starts_with(place.as_str())).map_or(&self.main, |(_, cache)| cache)
    }

    /// The cache of most objects.
    pub(super) fn main(&self) -> &Cache<Facts> {
        &self.main
    }

    pub(super) fn collection(&self, prefix: &str) -> Arc<Collection<Facts>> {
        self.of(prefix).collection(prefix)
    }

    pub(super) fn known(&self, prefix: &str) -> Option<Arc<Collection<Facts>>> {
        self.of(prefix).known(prefix)
    }

    pub(super) fn reload(&self, prefix: &str) {
        self.of(prefix).reload(prefix);
    }

    pub(super) fn remove(&self, prefix: &str) {
        self.of(prefix).remove(prefix);
    }

    pub(super) fn close(&self) {
        self.all().for_each(Cache::close);
    }

    pub(super) fn age_forms(&self) {
        self.all().for_each(Cache::age_forms);
    }
}
