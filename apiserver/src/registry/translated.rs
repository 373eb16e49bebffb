//! A store whose values are kept in another form than the one everybody above it reads and writes. What cannot be read is left out, and
//! whoever translates remembers it with the reason.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_store::{At, Entry, Event, Events, Expect, Key, Page, Past, Revision, Stats, Step, Steps, Store, StoreError, Version, Write};
use futures::StreamExt;

/// Both directions of a form.
#[async_trait]
pub(crate) trait Translate: Send + Sync + 'static {
    /// Where values are in the form they are kept in.
    fn store(&self) -> &Arc<dyn Store>;

    /// The entry as everybody reads it, or `None` and a note when that cannot be made.
    async fn open(&self, entry: Entry) -> Option<Entry>;

    /// The value as it is kept.
    fn close(&self, key: &Key, value: &Bytes) -> Result<Bytes, StoreError>;

    /// The object is gone: a note of it, too.
    fn forget(&self, key: &Key);

    /// The error for an object that cannot be read.
    fn unreadable(&self, key: &Key) -> StoreError;
}

/// The store as everybody above sees it.
pub(crate) struct Translated<T>(pub(crate) Arc<T>);

impl<T: Translate> Translated<T> {
    /// The event as everybody reads it; `None` when an object was written that cannot be read.
    async fn event(translate: &T, event: Event) -> Option<Event> {
        let Some(entry) = event.after else {
            translate.forget(&event.key);
            return Some(event);
        };
        let after = Some(translate.open(entry).await?);
        Some(Event { after, ..event })
    }

    async fn step(translate: &T, step: Step) -> Step {
        let events = match step {
            Step::Write(event) => vec![event],
            Step::Writes(events) => events,
            other => return other,
        };
        let keys = |events: &[Event]| events.iter().map(|event| event.key.clone()).collect();
        let (revision, alone) = (events.first().map_or(Revision(0), |event| event.revision), events.len() == 1);
        let unreadable = Step::Unreadable(keys(&events), revision);
        let mut opened = Vec::with_capacity(events.len());
        for event in events {
            match Self::event(translate, event).await {
                Some(event) => opened.push(event),
                None => return unreadable,
            }
        }
        match opened.pop() {
            Some(only) if alone => Step::Write(only),
            last => Step::Writes(opened.into_iter().chain(last).collect()),
        }
    }
}

#[async_trait]
impl<T: Translate> Store for Translated<T> {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.store().revision().await
    }

    fn latest(&self) -> Option<Revision> {
        self.0.store().latest()
    }

    async fn get(&self, key: &Key) -> Result<At<Option<Entry>>, StoreError> {
        let At { value, revision } = self.0.store().get(key).await?;
        let Some(entry) = value else { return Ok(At { value: None, revision }) };
        match self.0.open(entry).await {
            Some(entry) => Ok(At { value: Some(entry), revision }),
            None => Err(self.0.unreadable(key)),
        }
    }

    async fn range(&self, prefix: &str, page: Page) -> Result<At<Vec<Entry>>, StoreError> {
        let Page { mut after, limit } = page;
        let mut opened = Vec::new();
        loop {
            // What is left out must not make a page look like the last.
            let wanted = limit.map(|limit| limit - opened.len());
            let At { value, revision } = self.0.store().range(prefix, Page { after, limit: wanted }).await?;
            let (count, last) = (value.len(), value.last().map(|entry| entry.key.clone()));
            for entry in value {
                opened.extend(self.0.open(entry).await);
            }
            let full = wanted.is_none_or(|wanted| count < wanted) || limit.is_some_and(|limit| opened.len() >= limit);
            if full {
                return Ok(At { value: opened, revision });
            }
            after = last;
        }
    }

    async fn commit(&self, key: &Key, expect: Expect, write: Write) -> Result<Revision, StoreError> {
        let write = match write {
            Write::Put { value, ttl, durability } => Write::Put { value: self.0.close(key, &value)?, ttl, durability },
            Write::Delete => Write::Delete,
        };
        self.0.store().commit(key, expect, write).await
    }

    fn watch(&self, prefix: &str, from: Revision) -> Events {
        let translate = Arc::clone(&self.0);
        let events = self.0.store().watch(prefix, from).then(move |event| {
            let translate = Arc::clone(&translate);
            async move {
                let event = event?;
                let key = event.key.clone();
                Self::event(&translate, event).await.ok_or_else(|| translate.unreadable(&key))
            }
        });
        events.boxed()
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        let translate = Arc::clone(&self.0);
        let steps = self.0.store().follow(prefix, from).then(move |step| {
            let translate = Arc::clone(&translate);
            async move { Ok(Self::step(&translate, step?).await) }
        });
        steps.boxed()
    }

    fn expedite(&self, to: Revision) {
        self.0.store().expedite(to);
    }

    async fn past(&self, key: &Key) -> Result<Past, StoreError> {
        let Past { versions, since } = self.0.store().past(key).await?;
        let mut opened = Vec::with_capacity(versions.len());
        for version in versions {
            let value = match version.value {
                None => None,
                Some(value) => {
                    let entry = Entry { key: key.clone(), value, revision: version.revision, created: version.created };
                    Some(self.0.open(entry).await.ok_or_else(|| self.0.unreadable(key))?.value)
                }
            };
            opened.push(Version { value, ..version });
        }
        Ok(Past { versions: opened, since })
    }

    async fn stats(&self) -> Stats {
        self.0.store().stats().await
    }

    fn alarm(&self) -> Option<String> {
        self.0.store().alarm()
    }

    async fn count(&self, prefix: &str) -> Result<usize, StoreError> {
        self.0.store().count(prefix).await
    }

    fn size(&self) -> Option<u64> {
        self.0.store().size()
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.0.store().compact(to).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coracle_store::{
        cache::{Cache, Cached, Decode, Decoded, Freshness},
        embedded::{Embedded, Options},
    };

    use super::*;

    /// Reads everything but `sealed`.
    struct Locked(Arc<dyn Store>);

    #[async_trait]
    impl Translate for Locked {
        fn store(&self) -> &Arc<dyn Store> {
            &self.0
        }

        async fn open(&self, entry: Entry) -> Option<Entry> {
            (&*entry.value != b"sealed").then_some(entry)
        }

        fn close(&self, _: &Key, value: &Bytes) -> Result<Bytes, StoreError> {
            Ok(value.clone())
        }

        fn forget(&self, _: &Key) {}

        fn unreadable(&self, key: &Key) -> StoreError {
            StoreError::Value(format!("{key} cannot be read"))
        }
    }

    struct Plain;

    impl Decode<()> for Plain {
        fn decode(&self, _: &Key, stored: &Bytes, _: Revision) -> Decoded<()> {
            Decoded { wire: stored.clone(), facts: () }
        }

        fn departed(&self, last: &Cached<()>, _: Revision) -> Bytes {
            last.wire.clone()
        }
    }

    async fn put(store: &dyn Store, key: &str, expect: Expect, value: &'static str) -> Revision {
        store.commit(&key.into(), expect, Write::put(value)).await.unwrap()
    }

    #[tokio::test]
    async fn an_object_that_can_no_longer_be_read_is_not_told_of_as_gone() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&Options::memory()).unwrap());
        let first = put(&*store, "/secrets/a", Expect::Absent, "one").await;
        let seen: Arc<dyn Store> = Arc::new(Translated(Arc::new(Locked(Arc::clone(&store)))));
        let mut watch = seen.watch("/secrets/", first);
        let mut steps = seen.follow("/secrets/", first);
        let cache = Cache::start(Arc::clone(&seen), Arc::new(Plain));
        let (secrets, pods) = (cache.collection("/secrets/"), cache.collection("/pods/"));
        let (_, mut watcher) = secrets.snapshot_and_watch(Freshness::Latest).await.unwrap();
        let (_, mut other) = pods.snapshot_and_watch(Freshness::Latest).await.unwrap();

        let second = put(&*store, "/secrets/a", Expect::At(first), "sealed").await;
        let third = put(&*store, "/pods/p", Expect::Absent, "pod").await;
        assert_eq!(watch.next().await.unwrap(), Err(StoreError::Value("/secrets/a cannot be read".into())));
        assert_eq!(steps.next().await.unwrap(), Ok(Step::Unreadable(vec!["/secrets/a".into()], second)));
        let told = tokio::time::timeout(Duration::from_secs(10), watcher.next_batch()).await.unwrap();
        assert!(told.is_err(), "a watch ends without a word of it");
        let told = other.next_batch().await.unwrap();
        assert_eq!(told.changes[0].revision, third, "and others go on");
    }
}
