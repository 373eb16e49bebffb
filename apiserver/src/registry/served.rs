//! All kinds there are: the built-in ones, which stay, and those of CRDs, which come and go. A change costs what one CRD costs, however
//! many there are.

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use imbl::OrdMap;

use super::kind::Kind;

/// All kinds at one moment.
#[derive(Clone, Default)]
pub struct Catalog {
    built_in: Arc<BuiltIn>,
    /// `GROUP/PLURAL` -> what its CRD serves.
    custom: OrdMap<Arc<str>, Arc<Served>>,
    /// Rises with every change.
    revision: u64,
}

#[derive(Default)]
struct BuiltIn {
    /// In discovery order.
    kinds: Vec<Arc<Kind>>,
    /// Plural -> its kinds in all groups and versions.
    by_resource: HashMap<Arc<str>, Vec<Arc<Kind>>>,
    /// Groups with their versions.
    versions: HashSet<(Arc<str>, Arc<str>)>,
}

/// What a CRD serves.
pub struct Served {
    /// A kind for each served version.
    pub kinds: Vec<Arc<Kind>>,
    /// The version objects are stored in, served or not.
    pub stored: Arc<Kind>,
}

impl Catalog {
    /// A catalog of these built-in kinds, in discovery order.
    pub fn new(kinds: Vec<Arc<Kind>>) -> Self {
        let mut by_resource: HashMap<Arc<str>, Vec<Arc<Kind>>> = HashMap::new();
        for kind in &kinds {
            by_resource.entry(Arc::clone(&kind.id.resource)).or_default().push(Arc::clone(kind));
        }
        let versions = kinds.iter().map(|kind| (Arc::clone(&kind.gvk.group), Arc::clone(&kind.gvk.version))).collect();
        Self { built_in: Arc::new(BuiltIn { kinds, by_resource, versions }), custom: OrdMap::new(), revision: 0 }
    }

    /// The built-in kinds, in discovery order.
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.built_in.kinds
    }

    /// What CRDs serve, by group and plural.
    pub fn custom(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.custom.values()
    }

    /// What the CRDs of a group serve, by plural.
    pub fn custom_of<'c>(&'c self, group: &'c str) -> impl Iterator<Item = &'c Arc<Served>> {
        let of = move |key: &str| key.strip_prefix(group).is_some_and(|rest| rest.starts_with('/'));
        let start = format!("{group}/");
        let range = (Bound::Included(start.as_str()), Bound::Unbounded);
        let found: Vec<_> = self.custom.range::<_, str>(range).take_while(|(key, _)| of(key)).map(|(_, served)| served).collect();
        found.into_iter()
    }

    /// Tells catalogs apart: equal numbers mean equal kinds.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The kind a path addresses.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Kind>> {
        let of = |kind: &&Arc<Kind>| &*kind.gvk.group == group && &*kind.gvk.version == version;
        let built_in = self.built_in.by_resource.get(resource).and_then(|kinds| kinds.iter().find(of));
        built_in.or_else(|| self.of_crd(group, resource)?.kinds.iter().find(of))
    }

    /// The built-in kinds of resources of this name, of any group and version.
    pub fn kinds_of(&self, resource: &str) -> &[Arc<Kind>] {
        self.built_in.by_resource.get(resource).map_or(&[], |kinds| kinds.as_slice())
    }

    /// The kind of a resource in the version it is stored in.
    pub fn stored(&self, group: &str, resource: &str) -> Option<&Arc<Kind>> {
        self.stored_built_in(group, resource).or_else(|| self.of_crd(group, resource).map(|served| &served.stored))
    }

    /// Whether a resource is built in, whatever the version.
    pub fn is_built_in(&self, group: &str, resource: &str) -> bool {
        self.stored_built_in(group, resource).is_some()
    }

    /// What the CRD of a resource serves.
    pub fn of_crd(&self, group: &str, resource: &str) -> Option<&Arc<Served>> {
        if self.custom.is_empty() { None } else { self.custom.get(key(group, resource).as_str()) }
    }

    /// The catalog with what a CRD serves now. A version of a group that is built in stays as it is, whatever CRDs say of it: upstream's
    /// routes of that version come first and know nothing of others.
    pub fn with(&self, mut served: Served) -> Self {
        let versions = &self.built_in.versions;
        served.kinds.retain(|kind| !versions.contains(&(Arc::clone(&kind.gvk.group), Arc::clone(&kind.gvk.version))));
        let id = &served.stored.id;
        let key = key(&id.group, &id.resource);
        self.changed(self.custom.update(key.into(), Arc::new(served)))
    }

    /// The catalog without what a CRD served.
    pub fn without(&self, group: &str, resource: &str) -> Self {
        self.changed(self.custom.without(key(group, resource).as_str()))
    }

    fn changed(&self, custom: OrdMap<Arc<str>, Arc<Served>>) -> Self {
        Self { built_in: Arc::clone(&self.built_in), custom, revision: self.revision + 1 }
    }

    fn stored_built_in(&self, group: &str, resource: &str) -> Option<&Arc<Kind>> {
        let mut kinds = self.built_in.by_resource.get(resource)?.iter().filter(|k| &*k.id.group == group);
        let first = kinds.next()?;
        if first.conversion.is_none() { Some(first) } else { kinds.find(|k| k.conversion.is_none()).or(Some(first)) }
    }
}

fn key(group: &str, resource: &str) -> String {
    format!("{group}/{resource}")
}
