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
    async fn event(translate: Arc<T>, event: Event) -> Event {
        let after = match event.after {
            Some(entry) => translate.open(entry).await,
            None => {
                translate.forget(&event.key);
                None
            }
        };
        Event { after, ..event }
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
            async move { Ok(Self::event(translate, event?).await) }
        });
        events.boxed()
    }

    fn follow(&self, prefix: &str, from: Revision) -> Steps {
        let translate = Arc::clone(&self.0);
        let steps = self.0.store().follow(prefix, from).then(move |step| {
            let translate = Arc::clone(&translate);
            async move {
                Ok(match step? {
                    Step::Write(event) => Step::Write(Self::event(translate, event).await),
                    Step::Writes(events) => {
                        let mut opened = Vec::with_capacity(events.len());
                        for event in events {
                            opened.push(Self::event(Arc::clone(&translate), event).await);
                        }
                        Step::Writes(opened)
                    }
                    reached @ Step::Reached(_) => reached,
                })
            }
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
