//! Custom resources as discovery shows them (upstream's `apiserver/customresource_discovery_controller.go`).

use std::{collections::HashMap, sync::Arc};

use coracle_schema::discovery::{CUSTOM_PRIORITY, Discovery, Entry, Foreign, Group, SubEntry};

use crate::registry::{Catalog, Kind, Served, Subresource, Verb};

/// Discovery of all kinds of one catalog and of other servers. Kept from one to the next, so that a changed CRD costs its group only.
pub struct View {
    /// The revisions it is of: of the catalog, and of what others serve; `None` before the first.
    revision: Option<(u64, u64)>,
    built_in: Vec<Entry>,
    /// Of each group with custom resources or of other servers: what is served in it, and how it is shown.
    groups: HashMap<Arc<str>, Shown>,
    discovery: Arc<Discovery>,
}

/// What other servers serve at one moment.
#[derive(Clone, Default)]
pub struct Others {
    /// Rises with every change.
    pub revision: u64,
    /// Version by version.
    pub versions: Vec<Arc<Foreign>>,
}

/// What is served in a group here, and elsewhere.
type Both = (Vec<Arc<Served>>, Vec<Arc<Foreign>>);

/// What is served in a group, and how that is shown.
struct Shown {
    served: Vec<Arc<Served>>,
    foreign: Vec<Arc<Foreign>>,
    group: Arc<Group>,
}

impl View {
    /// A view of the built-in resources.
    pub fn new(built_in: Vec<Entry>) -> Self {
        let discovery = Arc::new(Discovery::new(built_in.clone()));
        Self { revision: None, built_in, groups: HashMap::new(), discovery }
    }

    /// The discovery of the catalog last looked at.
    pub fn discovery(&self) -> &Arc<Discovery> {
        &self.discovery
    }

    /// Whether it is of these revisions.
    pub fn is_of(&self, revision: (u64, u64)) -> bool {
        self.revision == Some(revision)
    }

    /// Looks at a catalog and at what others serve; the groups that came, changed or went since the last look.
    pub fn look(&mut self, catalog: &Catalog, others: &Others) -> Vec<Arc<str>> {
        let revision = (catalog.revision(), others.revision);
        if self.revision.is_some_and(|known| known.0 >= revision.0 && known.1 >= revision.1) {
            return Vec::new();
        }
        self.revision = Some(revision);
        let mut all: HashMap<Arc<str>, Both> = HashMap::new();
        for one in catalog.custom() {
            all.entry(Arc::clone(&one.stored.gvk.group)).or_default().0.push(Arc::clone(one));
        }
        for one in &others.versions {
            all.entry(one.group.as_str().into()).or_default().1.push(Arc::clone(one));
        }
        let mut moved: Vec<Arc<str>> = self.groups.keys().filter(|group| !all.contains_key(*group)).cloned().collect();
        self.groups.retain(|group, _| all.contains_key(group));
        for (group, (served, foreign)) in all {
            if self.groups.get(&group).is_some_and(|known| same(&known.served, &served) && same(&known.foreign, &foreign)) {
                continue;
            }
            let own = self.built_in.iter().filter(|entry| *entry.group == *group).cloned();
            let own = own.chain(served.iter().flat_map(|served| entries(served))).collect();
            let made = Group::with(own, foreign.iter().map(|one| Foreign::clone(one)).collect());
            moved.push(Arc::clone(&group));
            self.groups.insert(group, Shown { served, foreign, group: Arc::new(made) });
        }
        if moved.is_empty() {
            return moved;
        }
        let built_in = self.discovery.groups().iter().filter(|group| !moved.iter().any(|m| **m == *group.name())).cloned();
        let built_in: Vec<Arc<Group>> = built_in.filter(|group| !self.groups.contains_key(group.name())).collect();
        let lost = moved.iter().filter(|group| !self.groups.contains_key(*group)).filter_map(|group| self.built_in_group(group));
        let custom = self.groups.values().filter(|shown| !shown.group.is_empty()).map(|shown| Arc::clone(&shown.group));
        self.discovery = Arc::new(Discovery::of(built_in.into_iter().chain(lost).chain(custom).collect()));
        moved
    }

    /// A built-in group that is without custom resources again.
    fn built_in_group(&self, group: &str) -> Option<Arc<Group>> {
        let entries: Vec<Entry> = self.built_in.iter().filter(|entry| entry.group == group).cloned().collect();
        (!entries.is_empty()).then(|| Arc::new(Group::new(entries)))
    }
}

fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// An entry for each version that is served.
fn entries(served: &Served) -> Vec<Entry> {
    let stored = served.kinds.iter().any(|kind| Arc::ptr_eq(kind, &served.stored)).then_some(&*served.stored);
    served.kinds.iter().map(|kind| entry(kind, stored)).collect()
}

fn entry(kind: &Kind, stored: Option<&Kind>) -> Entry {
    let texts = |list: &[Arc<str>]| list.iter().map(ToString::to_string).collect();
    let words = |verbs: &[Verb]| verbs.iter().map(|verb| verb.as_str().to_owned()).collect();
    let allowed: Vec<Verb> = if kind.is_terminating() {
        kind.verbs.iter().copied().filter(|verb| !matches!(verb, Verb::Patch | Verb::Create | Verb::Update)).collect()
    } else {
        kind.verbs.clone()
    };
    let part = |part: &Subresource| SubEntry {
        name: part.name.to_string(),
        group: part.gvk.group.to_string(),
        version: part.gvk.version.to_string(),
        kind: part.gvk.kind.to_string(),
        verbs: words(&part.verbs),
    };
    Entry {
        group: kind.gvk.group.to_string(),
        version: kind.gvk.version.to_string(),
        priority: CUSTOM_PRIORITY,
        plural: kind.id.resource.to_string(),
        singular: kind.singular.to_string(),
        kind: kind.gvk.kind.to_string(),
        namespaced: kind.is_namespaced(),
        short_names: texts(&kind.short_names),
        categories: texts(&kind.categories),
        verbs: words(&allowed),
        subresources: kind.subresources.iter().map(part).collect(),
        stored_as: stored.map(|stored| (stored.gvk.group.to_string(), stored.gvk.version.to_string(), stored.gvk.kind.to_string())),
        revision: kind.custom.as_ref().map(|custom| format!("{} {}", custom.uid, custom.generation)).unwrap_or_default(),
    }
}
