//! One cached copy of a kind: written by its reflector alone, read by every controller of the room.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::object::{Key, Kind, Object, Resource};

/// What happened to one object; both sides are there when it changed.
pub struct Delta<'a, K> {
    /// As it was in the cache.
    pub old: Option<&'a Arc<K>>,
    /// As it is now.
    pub new: Option<&'a Arc<K>>,
}

impl<K> Clone for Delta<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Delta<'_, K> {}

impl<'a, K> Delta<'a, K> {
    /// The newest form known: the present one, or of a deleted object the last.
    #[must_use]
    pub fn last(&self) -> Option<&'a Arc<K>> {
        self.new.or(self.old)
    }

    /// Both forms, the old one first.
    pub fn both(&self) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.old.into_iter().chain(self.new)
    }
}

type Listener<K> = Box<dyn Fn(Delta<'_, K>) + Send + Sync>;
type Filed<K> = BTreeMap<Key, Arc<K>>;

/// The cache of one kind.
pub struct Store<K> {
    inner: RwLock<Inner<K>>,
    listeners: RwLock<Vec<Listener<K>>>,
    needed: AtomicBool,
    synced: watch::Sender<bool>,
}

struct Inner<K> {
    objects: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<K>>>,
    owned: HashMap<String, Filed<K>>,
    orphans: HashMap<Arc<str>, Filed<K>>,
    indexed: HashMap<String, Filed<K>>,
    version: u64,
    count: usize,
}

impl<K> Default for Inner<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), owned: HashMap::new(), orphans: HashMap::new(), indexed: HashMap::new(), version: 0, count: 0 }
    }
}

impl<K: Kind> Default for Store<K> {
    fn default() -> Self {
        Self { inner: RwLock::default(), listeners: RwLock::default(), needed: AtomicBool::new(false), synced: watch::Sender::new(false) }
    }
}

impl<K: Kind> Store<K> {
    /// One object.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.inner.read().objects.get(namespace)?.get(name).cloned()
    }

    /// One object by key.
    #[must_use]
    pub fn at(&self, key: &Key) -> Option<Arc<K>> {
        self.get(&key.namespace, &key.name)
    }

    /// All objects of a namespace (of the cluster, for cluster-scoped kinds, with `""`), by name.
    #[must_use]
    pub fn list(&self, namespace: &str) -> Vec<Arc<K>> {
        self.inner.read().objects.get(namespace).map(|map| map.values().cloned().collect()).unwrap_or_default()
    }

    /// All objects of all namespaces.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.inner.read().objects.values().flat_map(|map| map.values().cloned()).collect()
    }

    /// The objects whose controller has this uid, by key.
    #[must_use]
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.inner.read().owned.get(uid).map(|map| map.values().cloned().collect()).unwrap_or_default()
    }

    /// The objects of a namespace without a controller.
    #[must_use]
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.inner.read().orphans.get(namespace).map(|map| map.values().cloned().collect()).unwrap_or_default()
    }

    /// The objects filed under `index` by [`Object::index`].
    #[must_use]
    pub fn indexed(&self, index: &str) -> Vec<Arc<K>> {
        self.inner.read().indexed.get(index).map(|map| map.values().cloned().collect()).unwrap_or_default()
    }

    /// How many objects are cached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.read().count
    }

    /// Whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the room watch this kind, and calls `listener` for every change from then on, in the order of changes.
    pub fn listen(&self, listener: impl Fn(Delta<'_, K>) + Send + Sync + 'static) {
        self.need();
        self.listeners.write().push(Box::new(listener));
    }

    /// Makes the room watch this kind.
    pub fn need(&self) {
        self.needed.store(true, Ordering::Release);
    }

    /// Takes the whole of the collection as read at `version`: what is missing in `objects` is gone.
    pub fn replace(&self, objects: Vec<K>, version: u64) {
        let mut kept: std::collections::HashSet<Key> = std::collections::HashSet::with_capacity(objects.len());
        for object in objects {
            kept.insert(Key::of(&object));
            self.put(object);
        }
        let gone: Vec<Arc<K>> = self.all().into_iter().filter(|object| !kept.contains(&Key::of(object.as_ref()))).collect();
        for object in gone {
            self.remove(&object, 0);
        }
        self.advance(version);
        self.synced.send_replace(true);
    }

    /// Takes one new or changed object.
    pub fn put(&self, mut object: K) {
        object.trim();
        let version = object.resource_version().parse().unwrap_or_default();
        let new = Arc::new(object);
        let old = {
            let mut inner = self.inner.write();
            let old = inner.unfile(&Key::of(new.as_ref()));
            inner.file(&new);
            inner.version = inner.version.max(version);
            old
        };
        if old.as_ref().is_some_and(|old| old.resource_version() == new.resource_version() && old.uid() == new.uid()) {
            return;
        }
        // A name that was used again while we were not looking is two changes, not one.
        match old {
            Some(old) if old.uid() != new.uid() => {
                self.tell(Delta { old: Some(&old), new: None });
                self.tell(Delta { old: None, new: Some(&new) });
            }
            old => self.tell(Delta { old: old.as_ref(), new: Some(&new) }),
        }
    }

    /// Takes one deletion, seen at `version`.
    pub fn remove(&self, object: &K, version: u64) {
        let old = {
            let mut inner = self.inner.write();
            inner.version = inner.version.max(version);
            inner.unfile(&Key::of(object))
        };
        if let Some(old) = old {
            self.tell(Delta { old: Some(&old), new: None });
        }
    }

    /// Notes that all changes up to `version` are in the cache.
    pub fn advance(&self, version: u64) {
        let mut inner = self.inner.write();
        inner.version = inner.version.max(version);
    }

    fn tell(&self, delta: Delta<'_, K>) {
        for listener in self.listeners.read().iter() {
            listener(delta);
        }
    }
}

impl<K: Object> Inner<K> {
    fn file(&mut self, object: &Arc<K>) {
        let key = Key::of(object.as_ref());
        match object.controller() {
            Some(owner) => self.owned.entry(owner.uid.clone()).or_default().insert(key.clone(), object.clone()),
            None => self.orphans.entry(key.namespace.clone()).or_default().insert(key.clone(), object.clone()),
        };
        if let Some(index) = object.index() {
            self.indexed.entry(index.to_owned()).or_default().insert(key.clone(), object.clone());
        }
        self.objects.entry(key.namespace).or_default().insert(key.name, object.clone());
        self.count += 1;
    }

    fn unfile(&mut self, key: &Key) -> Option<Arc<K>> {
        let object = take(&mut self.objects, key.namespace.as_ref(), &key.name)?;
        match object.controller() {
            Some(owner) => take(&mut self.owned, owner.uid.as_str(), key),
            None => take(&mut self.orphans, key.namespace.as_ref(), key),
        };
        if let Some(index) = object.index() {
            take(&mut self.indexed, index, key);
        }
        self.count -= 1;
        Some(object)
    }
}

/// Takes `key` out of the group, and the group away when it was the last.
fn take<G, K, V>(groups: &mut HashMap<G, BTreeMap<K, V>>, group: &str, key: &K) -> Option<V>
where
    G: std::hash::Hash + Eq + std::borrow::Borrow<str>,
    K: Ord,
{
    let map = groups.get_mut(group)?;
    let value = map.remove(key);
    if map.is_empty() {
        groups.remove(group);
    }
    value
}

/// A store seen without its type: by the wiring and by those who wait for their own writes.
pub trait AnyStore: Send + Sync {
    /// The kind it holds.
    fn resource(&self) -> Resource;
    /// Whether a controller reads it.
    fn is_needed(&self) -> bool;
    /// Turns true when the first list is in.
    fn synced(&self) -> watch::Receiver<bool>;
    /// Whether every change up to `version` is in.
    fn reached(&self, version: u64) -> bool;
    /// Whether the object is gone, replaced by a namesake, or being deleted.
    fn is_deleted(&self, key: &Key, uid: &str) -> bool;
    /// How many objects it holds.
    fn count(&self) -> usize;
}

impl<K: Kind> AnyStore for Store<K> {
    fn resource(&self) -> Resource {
        K::RESOURCE
    }
    fn is_needed(&self) -> bool {
        self.needed.load(Ordering::Acquire)
    }
    fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }
    fn reached(&self, version: u64) -> bool {
        self.inner.read().version >= version
    }
    fn is_deleted(&self, key: &Key, uid: &str) -> bool {
        self.at(key).is_none_or(|object| object.uid() != uid || object.deleted().is_some())
    }
    fn count(&self) -> usize {
        self.len()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::OwnerReference};

    use super::*;

    fn map(name: &str, uid: &str, version: &str, owner: Option<&str>) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.namespace = Some("a".into());
        map.metadata.uid = Some(uid.into());
        map.metadata.resource_version = Some(version.into());
        map.metadata.owner_references =
            owner.map(|uid| vec![OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() }]);
        map
    }

    #[test]
    fn indexes_follow_a_change_of_owner() {
        let store = Store::<ConfigMap>::default();
        store.put(map("x", "1", "5", Some("o")));
        assert_eq!((store.owned_by("o").len(), store.orphans("a").len(), store.len()), (1, 0, 1));
        store.put(map("x", "1", "6", None));
        assert_eq!((store.owned_by("o").len(), store.orphans("a").len(), store.len()), (0, 1, 1));
        assert!(store.reached(6) && !store.reached(7));
    }

    #[test]
    fn a_relist_drops_what_is_gone_and_tells_of_it() {
        let store = Store::<ConfigMap>::default();
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let log = seen.clone();
        store.listen(move |delta| log.lock().push((delta.old.is_some(), delta.new.is_some())));
        store.replace(vec![map("x", "1", "5", None), map("y", "2", "6", None)], 9);
        store.replace(vec![map("y", "2", "6", None)], 12);
        assert_eq!(*seen.lock(), [(false, true), (false, true), (true, false)]);
        assert!(store.is_deleted(&Key::new("a", "x"), "1") && !store.is_deleted(&Key::new("a", "y"), "2"));
        assert!(store.reached(12));
    }

    #[test]
    fn a_name_used_again_is_a_deletion_and_a_creation() {
        let store = Store::<ConfigMap>::default();
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let log = seen.clone();
        store.put(map("x", "1", "5", None));
        store.listen(move |delta| log.lock().push((delta.old.is_some(), delta.new.is_some())));
        store.put(map("x", "2", "7", None));
        assert_eq!(*seen.lock(), [(true, false), (false, true)]);
    }
}
