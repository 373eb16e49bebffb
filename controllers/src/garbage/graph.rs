//! Who owns whom, by uid.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;

use super::{FOREGROUND, ORPHAN};
use crate::object::{Key, Object, Resource};

/// Absent owners remembered, so that a thousand dependents ask once.
const REMEMBERED: usize = 4096;

/// What the collector knows of one object.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its kind.
    pub(super) resource: Arc<Resource>,
    /// Its name.
    pub(super) key: Key,
    /// Its uid.
    pub(super) uid: Arc<str>,
    /// Its resource version.
    pub(super) version: Box<str>,
    /// Its owners.
    pub(super) owners: Vec<OwnerReference>,
    /// Its deletion was asked for.
    pub(super) deleting: bool,
    /// It is being deleted and waits for its dependents to go.
    pub(super) foreground: bool,
    /// It is being deleted and waits for its dependents to be cut loose.
    pub(super) orphaning: bool,
    /// It has the finalizer for orphans, deleted or not.
    pub(super) wants_orphans: bool,
}

impl Item {
    fn of(resource: Arc<Resource>, object: &dyn Object) -> Self {
        let has = |finalizer: &str| object.finalizers().iter().any(|present| present == finalizer);
        let deleting = object.deleted().is_some();
        Self {
            resource,
            key: Key::new(object.namespace(), object.name()),
            uid: object.uid().into(),
            version: object.resource_version().into(),
            owners: object.owners().to_vec(),
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
            wants_orphans: has(ORPHAN),
        }
    }

    /// Whether it keeps the owner of this uid from going.
    pub(super) fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is there.
    Present,
    /// It is there, being deleted, and waits for its dependents.
    Waiting,
    /// It is gone.
    Absent,
    /// It is there, in another namespace.
    Elsewhere,
    /// Nothing.
    Unknown,
}

/// The uids a change concerns.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wakes {
    /// To be looked at now.
    pub(super) now: Vec<Arc<str>>,
    /// To be looked at soon: their owner may only not have shown up yet.
    pub(super) later: Vec<Arc<str>>,
}

/// The graph.
#[derive(Default)]
pub(super) struct Graph {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    items: HashMap<Arc<str>, Item>,
    dependents: HashMap<Box<str>, HashSet<Arc<str>>>,
    resources: HashMap<Resource, Arc<Resource>>,
    absent: HashSet<Box<str>>,
    absent_order: VecDeque<Box<str>>,
}

impl Graph {
    /// Takes a new or changed object.
    pub(super) fn put(&self, resource: &Resource, object: &dyn Object) -> Wakes {
        let mut inner = self.inner.lock();
        let resource = match inner.resources.get(resource) {
            Some(known) => known.clone(),
            None => {
                let shared = Arc::new(resource.clone());
                inner.resources.insert(resource.clone(), shared.clone());
                shared
            }
        };
        let item = Item::of(resource, object);
        let uid = item.uid.clone();
        let old = inner.items.insert(uid.clone(), item.clone());
        let mut wakes = Wakes::default();
        let old_owners = old.as_ref().map(|old| old.owners.as_slice()).unwrap_or_default();
        if old_owners != item.owners {
            inner.relink(&uid, old_owners, &item.owners, &mut wakes);
        }
        let began = |now: bool, before: fn(&Item) -> bool| now && !old.as_ref().is_some_and(before);
        if began(item.orphaning, |old| old.orphaning) {
            wakes.now.push(uid.clone());
        }
        if began(item.foreground, |old| old.foreground) {
            wakes.now.push(uid.clone());
            wakes.now.extend(inner.dependents.get(uid.as_ref()).into_iter().flatten().cloned());
        }
        wakes
    }

    /// Takes a deletion.
    pub(super) fn remove(&self, uid: &str) -> Wakes {
        let mut inner = self.inner.lock();
        let mut wakes = Wakes::default();
        let Some(item) = inner.items.remove(uid) else { return wakes };
        for owner in &item.owners {
            inner.unlink(&owner.uid, uid);
            inner.wake_waiting(&owner.uid, &mut wakes);
        }
        if let Some(dependents) = inner.dependents.get(uid) {
            wakes.now.extend(dependents.iter().cloned());
            inner.note_absent(uid);
        }
        wakes
    }

    /// The uids of all objects of a kind.
    pub(super) fn of_kind(&self, resource: &Resource) -> Vec<Arc<str>> {
        let inner = self.inner.lock();
        inner.items.values().filter(|item| item.resource.as_ref() == resource).map(|item| item.uid.clone()).collect()
    }

    /// One object.
    pub(super) fn item(&self, uid: &str) -> Option<Item> {
        self.inner.lock().items.get(uid).cloned()
    }

    /// What is known of an owner of an object in `namespace`.
    pub(super) fn owner(&self, uid: &str, namespace: &str) -> Owner {
        let inner = self.inner.lock();
        match inner.items.get(uid) {
            Some(owner) if !owner.key.namespace.is_empty() && owner.key.namespace.as_ref() != namespace => Owner::Elsewhere,
            Some(owner) if owner.foreground => Owner::Waiting,
            Some(_) => Owner::Present,
            None if inner.absent.contains(uid) => Owner::Absent,
            None => Owner::Unknown,
        }
    }

    /// Remembers that the server does not have this owner.
    pub(super) fn note_absent(&self, uid: &str) {
        self.inner.lock().note_absent(uid);
    }

    /// The objects that name this uid as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        let inner = self.inner.lock();
        inner.dependents.get(uid).into_iter().flatten().filter_map(|uid| inner.items.get(uid).cloned()).collect()
    }

    /// Whether any object names this uid as an owner.
    pub(super) fn has_dependents(&self, uid: &str) -> bool {
        self.inner.lock().dependents.contains_key(uid)
    }
}

impl Inner {
    fn relink(&mut self, uid: &Arc<str>, old: &[OwnerReference], new: &[OwnerReference], wakes: &mut Wakes) {
        for owner in old.iter().filter(|owner| !new.contains(owner)) {
            if !new.iter().any(|kept| kept.uid == owner.uid) {
                self.unlink(&owner.uid, uid);
            }
            // Gone, or no longer in the way.
            self.wake_waiting(&owner.uid, wakes);
        }
        for owner in new.iter().filter(|owner| !old.contains(owner)) {
            self.dependents.entry(owner.uid.as_str().into()).or_default().insert(uid.clone());
            match self.items.get(owner.uid.as_str()) {
                Some(found) if found.foreground => wakes.now.push(uid.clone()),
                Some(found) => {
                    let child = self.items.get(uid);
                    if child.is_some_and(|child| !found.key.namespace.is_empty() && found.key.namespace != child.key.namespace) {
                        wakes.now.push(uid.clone());
                    }
                }
                None if self.absent.contains(owner.uid.as_str()) => wakes.now.push(uid.clone()),
                None => wakes.later.push(uid.clone()),
            }
        }
    }

    fn unlink(&mut self, owner: &str, uid: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(uid);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn wake_waiting(&self, owner: &str, wakes: &mut Wakes) {
        if let Some(owner) = self.items.get(owner).filter(|owner| owner.foreground) {
            wakes.now.push(owner.uid.clone());
        }
    }

    fn note_absent(&mut self, uid: &str) {
        if self.absent.insert(uid.into()) {
            self.absent_order.push_back(uid.into());
            if self.absent_order.len() > REMEMBERED
                && let Some(oldest) = self.absent_order.pop_front()
            {
                self.absent.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;
    use crate::{object::Kind, time};

    fn object(uid: &str, owner: Option<&str>, finalizer: Option<&str>) -> ConfigMap {
        let owner_references =
            owner.map(|uid| vec![OwnerReference { uid: uid.into(), block_owner_deletion: Some(true), ..Default::default() }]);
        let metadata = ObjectMeta {
            name: Some(uid.into()),
            namespace: Some("a".into()),
            uid: Some(uid.into()),
            owner_references,
            deletion_timestamp: finalizer.map(|_| time::api(jiff::Timestamp::UNIX_EPOCH)),
            finalizers: finalizer.map(|finalizer| vec![finalizer.to_owned()]),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn put(graph: &Graph, object: &ConfigMap) -> (Vec<String>, Vec<String>) {
        told(graph.put(&ConfigMap::RESOURCE, object))
    }

    fn told(wakes: Wakes) -> (Vec<String>, Vec<String>) {
        let names = |uids: Vec<Arc<str>>| uids.iter().map(ToString::to_string).collect();
        (names(wakes.now), names(wakes.later))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_deleted_owner_wakes_its_dependents_and_is_remembered_as_absent() {
        let graph = Graph::default();
        put(&graph, &object("owner", None, None));
        assert_eq!(put(&graph, &object("child", Some("owner"), None)), (vec![], vec![]));
        assert_eq!(graph.owner("owner", "a"), Owner::Present);
        assert_eq!(told(graph.remove("owner")), (names(&["child"]), vec![]));
        assert_eq!(graph.owner("owner", "a"), Owner::Absent);
        assert_eq!(put(&graph, &object("late", Some("owner"), None)), (names(&["late"]), vec![]), "born after its owner died");
    }

    #[test]
    fn a_child_seen_before_its_owner_is_looked_at_later() {
        let graph = Graph::default();
        assert_eq!(put(&graph, &object("child", Some("owner"), None)), (vec![], names(&["child"])));
        assert_eq!(graph.owner("owner", "a"), Owner::Unknown);
        put(&graph, &object("owner", None, None));
        assert_eq!((graph.owner("owner", "a"), graph.owner("owner", "b")), (Owner::Present, Owner::Elsewhere));
    }

    #[test]
    fn an_owner_deleted_in_the_foreground_is_woken_by_each_dependent_that_goes() {
        let graph = Graph::default();
        put(&graph, &object("owner", None, None));
        put(&graph, &object("x", Some("owner"), None));
        let (now, _) = put(&graph, &object("owner", None, Some(FOREGROUND)));
        assert_eq!(now, names(&["owner", "x"]));
        assert_eq!(graph.owner("owner", "a"), Owner::Waiting);
        assert!(graph.dependents("owner").iter().all(|item| item.blocks("owner")));
        assert_eq!(told(graph.remove("x")).0, names(&["owner"]));
        assert!(!graph.has_dependents("owner"));
    }

    #[test]
    fn a_dependent_cut_loose_no_longer_belongs_to_its_owner() {
        let graph = Graph::default();
        put(&graph, &object("owner", None, Some(ORPHAN)));
        put(&graph, &object("x", Some("owner"), None));
        put(&graph, &object("x", None, None));
        assert!(!graph.has_dependents("owner"));
        assert!(graph.item("owner").unwrap().orphaning);
    }
}
