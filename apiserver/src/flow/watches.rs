//! How many watch what: a write costs what telling them costs (upstream `flowcontrol/watch_tracker.go`).

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::request::RequestInfo;

/// The watches there are, by resource.
#[derive(Default)]
pub(super) struct Watches(Mutex<HashMap<String, Vec<Watched>>>);

/// Watches of the same objects of a resource.
struct Watched {
    group: String,
    namespace: String,
    name: String,
    count: usize,
}

/// A watch that is counted until this is dropped.
pub(crate) struct Registered {
    watches: Arc<Watches>,
    resource: String,
    group: String,
    namespace: String,
    name: String,
}

impl Watches {
    /// Counts a watch. One of the pods of a single node is not: few writes are told to it.
    pub(super) fn register(self: &Arc<Self>, info: &RequestInfo) -> Option<Registered> {
        if info.resource == "pods" && info.fields.requires("spec.nodeName").is_some_and(|node| !node.is_empty()) {
            return None;
        }
        let (group, namespace, name) = (info.group.clone(), info.namespace.clone(), info.name.clone());
        let registered = Registered { watches: Arc::clone(self), resource: info.resource.clone(), group, namespace, name };
        let mut all = self.0.lock();
        let of = all.entry(info.resource.clone()).or_default();
        match of.iter_mut().find(|watched| watched.is(&info.group, &info.namespace, &info.name)) {
            Some(watched) => watched.count += 1,
            None => {
                let (group, namespace, name) = (info.group.clone(), info.namespace.clone(), info.name.clone());
                of.push(Watched { group, namespace, name, count: 1 });
            }
        }
        Some(registered)
    }

    /// How many watches may be told of what this request writes.
    pub(super) fn interested(&self, info: &RequestInfo) -> usize {
        let all = self.0.lock();
        let Some(of) = all.get(info.resource.as_str()) else { return 0 };
        let (mut places, mut count) = ([("", ""); 3], 1);
        if !info.namespace.is_empty() {
            places[count] = (&info.namespace, "");
            count += 1;
        }
        if !info.name.is_empty() {
            places[count] = (&info.namespace, &info.name);
            count += 1;
        }
        let told = |watched: &&Watched| places[..count].iter().any(|(namespace, name)| watched.is(&info.group, namespace, name));
        of.iter().filter(told).map(|watched| watched.count).sum()
    }
}

impl Watched {
    fn is(&self, group: &str, namespace: &str, name: &str) -> bool {
        self.group == group && self.namespace == namespace && self.name == name
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = self.watches.0.lock();
        let Some(of) = all.get_mut(&self.resource) else { return };
        if let Some(at) = of.iter().position(|watched| watched.is(&self.group, &self.namespace, &self.name)) {
            of[at].count -= 1;
            if of[at].count == 0 {
                of.swap_remove(at);
            }
        }
        if of.is_empty() {
            all.remove(&self.resource);
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
        assert!(watches.0.lock().is_empty());
        let fields = crate::registry::selector::FieldSelector::parse("spec.nodeName=n").unwrap();
        assert!(watches.register(&RequestInfo { fields, ..info("watch", "", "") }).is_none());
    }
}
