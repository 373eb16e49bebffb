//! How many watch what: a write costs what telling them costs (upstream `flowcontrol/watch_tracker.go`).

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::request::RequestInfo;

/// The watches there are: how many, by a digest of what they are of. Two that share one are told of as one, which costs a few seats too many.
#[derive(Default)]
pub(super) struct Watches {
    counts: Mutex<HashMap<u64, usize>>,
    hasher: RandomState,
}

/// A watch that is counted until this is dropped.
pub(crate) struct Registered {
    watches: Arc<Watches>,
    digest: u64,
}

impl Watches {
    /// Counts a watch. One of the pods of a single node is not: few writes are told to it.
    pub(super) fn register(self: &Arc<Self>, info: &RequestInfo) -> Option<Registered> {
        if info.resource == "pods" && info.fields.requires("spec.nodeName").is_some_and(|node| !node.is_empty()) {
            return None;
        }
        let digest = self.digest(info, &info.namespace, &info.name);
        *self.counts.lock().entry(digest).or_default() += 1;
        Some(Registered { watches: Arc::clone(self), digest })
    }

    /// How many watches may be told of what this request writes.
    pub(super) fn interested(&self, info: &RequestInfo) -> usize {
        let (mut places, mut count) = ([("", ""); 3], 1);
        if !info.namespace.is_empty() {
            places[count] = (&info.namespace, "");
            count += 1;
        }
        if !info.name.is_empty() {
            places[count] = (&info.namespace, &info.name);
            count += 1;
        }
        let digests = places.map(|(namespace, name)| self.digest(info, namespace, name));
        let counts = self.counts.lock();
        digests[..count].iter().filter_map(|digest| counts.get(digest)).sum()
    }

    /// Of what a watch of objects of this request's resource is of.
    fn digest(&self, info: &RequestInfo, namespace: &str, name: &str) -> u64 {
        self.hasher.hash_one((info.resource.as_str(), info.group.as_str(), namespace, name))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut counts = self.watches.counts.lock();
        if let Some(count) = counts.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(verb: &str, namespace: &str, name: &str) -> RequestInfo {
        let text = str::to_owned;
        RequestInfo { verb: text(verb), namespace: text(namespace), name: text(name), resource: text("pods"), ..RequestInfo::default() }
    }

    #[test]
    fn a_write_is_told_to_those_who_watch_all_its_namespace_or_itself() {
        let watches = Arc::new(Watches::default());
        let kept: Vec<_> = [("", ""), ("a", ""), ("a", "x"), ("b", "")].map(|(n, o)| watches.register(&info("watch", n, o))).into();
        assert_eq!(watches.interested(&info("update", "a", "x")), 3);
        assert_eq!(watches.interested(&info("create", "a", "")), 2);
        assert_eq!(watches.interested(&info("delete", "b", "y")), 2);
        let other = RequestInfo { resource: "nodes".into(), ..info("create", "", "") };
        assert_eq!(watches.interested(&other), 0);
        drop(kept);
        assert!(watches.counts.lock().is_empty());
        let fields = crate::registry::selector::FieldSelector::parse("spec.nodeName=n").unwrap();
        assert!(watches.register(&RequestInfo { fields, ..info("watch", "", "") }).is_none());
    }
}
