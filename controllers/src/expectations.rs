//! Reading one's own writes. A key that wrote something is not planned again before the caches show it: otherwise a replica
//! set whose cache lags by 500 creations would create them again. Upstream counts expected creations; the server's totally
//! ordered resource versions let us wait for exactly what was written instead.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{object::Key, store::AnyStore};

/// After this long the wait is given up (upstream's `ExpectationsTimeout`).
pub const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// What one key waits for, per store.
struct Awaited {
    store: Arc<dyn AnyStore>,
    /// The newest version written to a kind.
    version: u64,
    /// Objects deleted: their removal has no version in the answer.
    deleted: Vec<(Key, String)>,
    since: Instant,
}

/// What the keys of one controller wait for.
#[derive(Default)]
pub struct Expectations {
    keys: Mutex<HashMap<Key, Vec<Awaited>>>,
}

impl Expectations {
    /// `key` wrote an object of `store`'s kind at `version`.
    pub fn wrote(&self, key: &Key, store: &Arc<dyn AnyStore>, version: u64) {
        self.with(key, store, |awaited| awaited.version = awaited.version.max(version));
    }

    /// `key` deleted an object of `store`'s kind.
    pub fn deleted(&self, key: &Key, store: &Arc<dyn AnyStore>, object: Key, uid: String) {
        self.with(key, store, |awaited| awaited.deleted.push((object, uid)));
    }

    /// Whether the caches show everything `key` wrote; what they show is forgotten.
    pub fn satisfied(&self, key: &Key) -> bool {
        let mut keys = self.keys.lock();
        let Some(awaited) = keys.get_mut(key) else { return true };
        awaited.retain_mut(|awaited| {
            awaited.deleted.retain(|(object, uid)| !awaited.store.is_deleted(object, uid));
            if awaited.deleted.is_empty() && awaited.store.reached(awaited.version) {
                return false;
            }
            let late = awaited.since.elapsed() > TIMEOUT;
            if late {
                tracing::warn!(%key, kind = %awaited.store.resource().kind, "own writes never showed up in the cache; going on without them");
            }
            !late
        });
        let done = awaited.is_empty();
        if done {
            keys.remove(key);
        }
        done
    }

    fn with(&self, key: &Key, store: &Arc<dyn AnyStore>, change: impl FnOnce(&mut Awaited)) {
        let mut keys = self.keys.lock();
        let list = keys.entry(key.clone()).or_default();
        let at = list.iter().position(|awaited| awaited.store.resource() == store.resource()).unwrap_or_else(|| {
            list.push(Awaited { store: store.clone(), version: 0, deleted: Vec::new(), since: Instant::now() });
            list.len() - 1
        });
        list[at].since = Instant::now();
        change(&mut list[at]);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;
    use crate::store::Store;

    fn map(name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("a".into());
        map.metadata.uid = Some(name.into());
        map.metadata.resource_version = Some(version.into());
        map
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_until_its_writes_are_in_the_cache() {
        let store = Arc::new(Store::<ConfigMap>::default());
        let any: Arc<dyn AnyStore> = store.clone();
        let (expectations, key) = (Expectations::default(), Key::new("a", "set"));
        assert!(expectations.satisfied(&key));
        expectations.wrote(&key, &any, 7);
        store.put(map("x", "6"));
        assert!(!expectations.satisfied(&key));
        store.put(map("y", "7"));
        assert!(expectations.satisfied(&key));
        expectations.deleted(&key, &any, Key::new("a", "x"), "x".into());
        assert!(!expectations.satisfied(&key));
        store.remove(&map("x", "9"), 9);
        assert!(expectations.satisfied(&key));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_end_is_given_up() {
        let any: Arc<dyn AnyStore> = Arc::new(Store::<ConfigMap>::default());
        let (expectations, key) = (Expectations::default(), Key::new("a", "set"));
        expectations.wrote(&key, &any, 7);
        tokio::time::advance(TIMEOUT + Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&key));
    }
}
