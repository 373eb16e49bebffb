//! Several stores as one: what begins with some prefixes is elsewhere. Each store counts its own revisions, so a caller that compares them
//! asks for those of one place ([`Seen`]).

use std::sync::Arc;

use async_trait::async_trait;

use crate::{At, Each, Entry, Events, Expect, Key, Page, Past, Revision, Stats, Steps, Store, StoreError, Write};

/// Prefixes, none of which begins with another, with the stores their objects are in.
pub type Elsewhere = Vec<(String, Arc<dyn Store>)>;

/// A store in which some prefixes are elsewhere.
pub struct Split {
    main: Arc<dyn Store>,
    elsewhere: Elsewhere,
}

/// A store seen from one place: everything is asked of `whole`, which may stand above others, and revisions are those of `place`.
pub struct Seen {
    /// Where keys are read and written.
    pub whole: Arc<dyn Store>,
    /// Whose revisions count.
    pub place: Arc<dyn Store>,
    /// What keys begin with there: who follows all is told of these.
    pub prefix: String,
}

impl Seen {
    fn within<'p>(&'p self, prefix: &'p str) -> &'p str {
        if self.prefix.starts_with(prefix) { &self.prefix } else { prefix }
    }
}

impl Split {
    /// All but `elsewhere` is in `main`.
    pub fn new(main: Arc<dyn Store>, elsewhere: Elsewhere) -> Self {
        Self { main, elsewhere }
    }

    /// The store of a key, or of all keys with a prefix: such a prefix is at one place.
    fn of(&self, key: &str) -> &Arc<dyn Store> {
        self.elsewhere.iter().find(|(prefix, _)| key.starts_with(prefix.as_str())).map_or(&self.main, |(_, store)| store)
    }
}

#[async_trait]
impl Store for Split {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.main.revision().await
    }

    fn latest(&self) -> Option<Revision> {
        self.main.latest()
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.of(key.as_str()).get(key).await
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.of(prefix).range(prefix, page).await
    }

    async fn scan(&self, prefix: &str, each: Each) -> Result<Revision, StoreError> {
        self.of(prefix).scan(prefix, each).await
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        self.of(key.as_str()).commit(key, expect, write).await
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        self.of(prefix).watch(prefix, from)
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        self.of(prefix).follow(prefix, from)
    }

    fn expedite(&self, to: Revision) {
        self.main.expedite(to);
    }

    fn bound_to(&self, key: &Key) -> Vec<u8> {
        self.of(key.as_str()).bound_to(key)
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        self.of(prefix).count(prefix).await
    }

    async fn past(&self, key: &Key) -> Result<Past, StoreError> {
        self.of(key.as_str()).past(key).await
    }

    fn size(&self) -> Option<u64> {
        self.main.size()
    }

    async fn stats(&self) -> Stats {
        self.main.stats().await
    }

    fn alarm(&self) -> Option<String> {
        std::iter::once(&self.main).chain(self.elsewhere.iter().map(|(_, store)| store)).find_map(|store| store.alarm())
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.main.compact(to).await
    }
}

#[async_trait]
impl Store for Seen {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.place.revision().await
    }

    fn latest(&self) -> Option<Revision> {
        self.place.latest()
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        self.whole.get(key).await
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        self.whole.range(prefix, page).await
    }

    async fn scan(&self, prefix: &str, each: Each) -> Result<Revision, StoreError> {
        self.whole.scan(prefix, each).await
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        self.whole.commit(key, expect, write).await
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        self.whole.watch(self.within(prefix), from)
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        self.whole.follow(self.within(prefix), from)
    }

    fn expedite(&self, to: Revision) {
        self.place.expedite(to);
    }

    fn bound_to(&self, key: &Key) -> Vec<u8> {
        self.whole.bound_to(key)
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        self.whole.count(prefix).await
    }

    async fn past(&self, key: &Key) -> Result<Past, StoreError> {
        self.whole.past(key).await
    }

    fn size(&self) -> Option<u64> {
        self.place.size()
    }

    async fn stats(&self) -> Stats {
        self.place.stats().await
    }

    fn alarm(&self) -> Option<String> {
        self.place.alarm()
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.place.compact(to).await
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::embedded::{Embedded, Options};

    #[tokio::test]
    async fn each_prefix_is_at_its_place_and_counts_its_own_revisions() {
        let memory = || Arc::new(Embedded::open(&Options::memory()).unwrap()) as Arc<dyn Store>;
        let (main, events) = (memory(), memory());
        let split: Arc<dyn Store> = Arc::new(Split::new(main.clone(), vec![("/registry/events/".into(), events.clone())]));
        let put = async |key: &str| split.commit(&Key::from(key), Expect::Absent, Write::put("x")).await.unwrap();
        let first = put("/registry/events/a/e").await;
        for key in ["/registry/pods/a/p", "/registry/pods/a/q", "/registry/eventsother/a"] {
            put(key).await;
        }
        let count = async |store: &Arc<dyn Store>| store.count("/registry/").await.unwrap();
        assert_eq!((count(&main).await, count(&events).await), (3, 1));
        assert_eq!(split.count("/registry/events/").await.unwrap(), 1);
        assert!(split.get(&Key::from("/registry/events/a/e")).await.unwrap().value.is_some());
        assert_eq!(split.revision().await, main.revision().await);
        let seen = Seen { whole: split.clone(), place: events.clone(), prefix: "/registry/events/".into() };
        assert_eq!((seen.revision().await, seen.latest()), (events.revision().await, events.latest()));
        assert_eq!(seen.range("/registry/events/", Page::default()).await.unwrap().revision, seen.revision().await.unwrap());
        let mut watch = seen.watch("", first);
        put("/registry/events/a/f").await;
        assert_eq!(watch.next().await.unwrap().unwrap().key.as_str(), "/registry/events/a/f");
    }
}
