//! The past of a key, of any store that tells its writes from an earlier revision on.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use crate::{Event, Key, Past, Revision, Step, Store, StoreError, Version};

/// Versions that are told at most, and bytes of their values; the newest count.
pub(crate) const VERSIONS: usize = 1000;
pub(crate) const BYTES: usize = 64 << 20;
/// How long the store may take to tell.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every version since the last compaction, by watching from there. What was there at that time is not among them, unless nobody wrote it
/// since; neither are times, which no such store keeps.
pub(crate) async fn told<S: Store + ?Sized>(store: &S, key: &Key) -> Result<Past, StoreError> {
    let now = store.get(key).await?;
    // Up to its last write, which the watch tells. When a key went it does not say: then everything is watched, since not every etcd tells
    // how far the watch of a key has come to which nothing happens any more.
    let (prefix, last) = now.value.as_ref().map_or(("", now.revision), |entry| (key.as_str(), entry.revision));
    let mut since = Revision(0);
    let found = loop {
        match timeout(PATIENCE, gathered(store, key, prefix, since, last)).await {
            Err(_) => return Err(StoreError::Unavailable(format!("the store did not tell the history of {key} in {PATIENCE:?}"))),
            Ok(Err(StoreError::Compacted { oldest })) if oldest > since => since = oldest,
            Ok(found) => break found?,
        }
    };
    let mut versions = Vec::from(found.versions);
    if versions.is_empty()
        && let Some(entry) = now.value
    {
        versions.push(Version { revision: entry.revision, created: entry.created, at: None, value: Some(entry.value) });
    }
    if found.dropped {
        since = versions.first().map_or(since, |version| version.revision);
    }
    Ok(Past { versions, since })
}

/// The newest versions, as many as are told.
#[derive(Default)]
struct Newest {
    versions: VecDeque<Version>,
    bytes: usize,
    /// Whether there were older ones.
    dropped: bool,
}

impl Newest {
    fn push(&mut self, version: Version) {
        let size = |version: &Version| version.value.as_ref().map_or(0, Bytes::len);
        self.bytes += size(&version);
        self.versions.push_back(version);
        // The last one is told whatever its size.
        while self.versions.len() > VERSIONS || (self.bytes > BYTES && self.versions.len() > 1) {
            self.bytes -= self.versions.pop_front().map_or(0, |first| size(&first));
            self.dropped = true;
        }
    }
}

async fn gathered<S: Store + ?Sized>(store: &S, key: &Key, prefix: &str, from: Revision, last: Revision) -> Result<Newest, StoreError> {
    let mut newest = Newest::default();
    if from >= last {
        return Ok(newest);
    }
    let mut steps = store.follow(prefix, from);
    store.expedite(last);
    let mut take = |event: Event| {
        if event.key == *key {
            let created = event.after.as_ref().map_or(Revision(0), |entry| entry.created);
            newest.push(Version { revision: event.revision, created, at: None, value: event.after.map(|entry| entry.value) });
        }
        event.revision
    };
    while let Some(step) = steps.next().await {
        let reached = match step? {
            Step::Write(event) => take(event),
            Step::Writes(events) => events.into_iter().map(&mut take).max().unwrap_or_default(),
            // A version that cannot be read is none that can be told.
            Step::Unreadable(_, revision) | Step::Reached(revision) => revision,
        };
        if reached >= last {
            break;
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Expect, Write,
        contract::put,
        embedded::{Embedded, Options},
    };

    fn pushed(sizes: impl IntoIterator<Item = usize>) -> (Vec<u64>, bool) {
        let mut newest = Newest::default();
        for (n, size) in (1..).zip(sizes) {
            let value = Some(Bytes::from(vec![0; size]));
            newest.push(Version { revision: Revision(n), created: Revision(1), at: None, value });
            assert!(newest.bytes == newest.versions.iter().map(|version| version.value.as_ref().unwrap().len()).sum());
        }
        (newest.versions.iter().map(|version| version.revision.0).collect(), newest.dropped)
    }

    #[test]
    fn only_the_newest_are_kept_by_number_and_by_size() {
        assert_eq!(pushed([BYTES / 2, BYTES / 2]), (vec![1, 2], false));
        assert_eq!(pushed([BYTES / 2, BYTES / 2, 1]), (vec![2, 3], true));
        assert_eq!(pushed([1, BYTES + 1]), (vec![2], true), "the last is told though it is too large");
        let (many, dropped) = pushed([0; VERSIONS + 2]);
        assert_eq!((many.len(), many[0], dropped), (VERSIONS, 3, true));
    }

    #[tokio::test]
    async fn a_watch_tells_what_the_log_tells() {
        let store = Embedded::open(&Options::memory()).unwrap();
        let first = store.commit(&"/a".into(), Expect::Absent, put("1")).await.unwrap();
        let second = store.commit(&"/a".into(), Expect::At(first), put("2")).await.unwrap();
        store.commit(&"/ab".into(), Expect::Absent, put("another")).await.unwrap();
        let gone = store.commit(&"/a".into(), Expect::At(second), Write::Delete).await.unwrap();
        let again = store.commit(&"/a".into(), Expect::Absent, put("3")).await.unwrap();
        let values = |past: &Past| -> Vec<(Revision, Option<String>)> {
            let text = |value: &bytes::Bytes| String::from_utf8(value.to_vec()).unwrap();
            past.versions.iter().map(|version| (version.revision, version.value.as_ref().map(text))).collect()
        };
        let text = |text: &str| Some(text.to_owned());
        let all = [(first, text("1")), (second, text("2")), (gone, None), (again, text("3"))];
        let (log, watched) = (store.past(&"/a".into()).await.unwrap(), told(&store, &"/a".into()).await.unwrap());
        assert_eq!((values(&log), values(&watched)), (all.to_vec(), all.to_vec()));
        assert!(log.versions.iter().all(|version| version.at.is_some()));

        store.compact(second).await.unwrap();
        let (log, watched) = (store.past(&"/a".into()).await.unwrap(), told(&store, &"/a".into()).await.unwrap());
        assert_eq!(values(&log), all[1..], "the one that was there then is kept");
        assert_eq!((values(&watched), watched.since), (all[2..].to_vec(), second));
        store.compact(again).await.unwrap();
        let (log, watched) = (store.past(&"/a".into()).await.unwrap(), told(&store, &"/a".into()).await.unwrap());
        assert_eq!((values(&log), values(&watched)), (all[3..].to_vec(), all[3..].to_vec()));
    }
}
