//! Roles and bindings, parsed once and found by subject.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::Deserialize;

use super::policy::{Rule, nullable};
use crate::authn::User;

/// Whom a binding names. A service account is a user, by the name its tokens give it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    User(Arc<str>),
    Group(Arc<str>),
}

/// Where a binding stands and what it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Namespace of a RoleBinding; empty for a ClusterRoleBinding.
    pub(super) namespace: Arc<str>,
    /// Name of the binding.
    pub(super) binding: Arc<str>,
    /// The role pointed to.
    pub(super) role: RoleKey,
}

/// A role; the namespace is empty for a ClusterRole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RoleKey {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// A namespace, empty at cluster level, and a name.
type Name = (Arc<str>, Arc<str>);

/// All roles and bindings. Namespace, empty at cluster level, is the first key everywhere.
#[derive(Default)]
pub(super) struct Index {
    roles: HashMap<RoleKey, Arc<[Rule]>>,
    bindings: HashMap<Name, (Arc<Grant>, Vec<Subject>)>,
    by_subject: HashMap<Arc<str>, HashMap<Subject, Vec<Arc<Grant>>>>,
}

/// A role of either kind.
#[derive(Deserialize)]
struct Role {
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    rules: Vec<Rule>,
}

/// A binding of either kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    subjects: Vec<BoundSubject>,
    role_ref: RoleRef,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct BoundSubject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

impl Index {
    /// Takes in a Role or ClusterRole; `false` when the bytes are no such thing.
    pub(super) fn put_role(&mut self, json: &[u8]) -> bool {
        let Ok(role) = serde_json::from_slice::<Role>(json) else { return false };
        self.roles.insert(RoleKey::new(&role.metadata.namespace, &role.metadata.name), role.rules.into());
        true
    }

    /// Forgets a role.
    pub(super) fn remove_role(&mut self, namespace: &str, name: &str) {
        self.roles.remove(&RoleKey::new(namespace, name));
    }

    /// Takes in a RoleBinding or ClusterRoleBinding; `false` when the bytes are no such thing.
    pub(super) fn put_binding(&mut self, json: &[u8]) -> bool {
        let Ok(binding) = serde_json::from_slice::<Binding>(json) else { return false };
        let Metadata { name, namespace } = binding.metadata;
        self.remove_binding(&namespace, &name);
        let of = if binding.role_ref.kind == "Role" { namespace.as_str() } else { "" };
        let grant = Arc::new(Grant {
            namespace: namespace.as_str().into(),
            binding: name.as_str().into(),
            role: RoleKey::new(of, &binding.role_ref.name),
        });
        let subjects: Vec<Subject> = binding.subjects.iter().filter_map(|s| s.resolve(&namespace)).collect();
        let level = self.by_subject.entry(grant.namespace.clone()).or_default();
        for subject in &subjects {
            level.entry(subject.clone()).or_default().push(grant.clone());
        }
        self.bindings.insert((grant.namespace.clone(), grant.binding.clone()), (grant, subjects));
        true
    }

    /// Forgets a binding.
    pub(super) fn remove_binding(&mut self, namespace: &str, name: &str) {
        let Some((grant, subjects)) = self.bindings.remove(&(namespace.into(), name.into())) else { return };
        let Some(level) = self.by_subject.get_mut(namespace) else { return };
        for subject in subjects {
            if let Some(grants) = level.get_mut(&subject) {
                grants.retain(|g| !Arc::ptr_eq(g, &grant));
                if grants.is_empty() {
                    level.remove(&subject);
                }
            }
        }
        if level.is_empty() {
            self.by_subject.remove(namespace);
        }
    }

    /// The rules of a role.
    pub(super) fn role(&self, key: &RoleKey) -> Option<&Arc<[Rule]>> {
        self.roles.get(key)
    }

    /// Everything that binds the user, at cluster level and, when `namespace` is not empty, in it. Stops when `visit` returns a value.
    pub(super) fn find_grant<T>(&self, user: &User, namespace: &str, mut visit: impl FnMut(&Grant, &Subject) -> Option<T>) -> Option<T> {
        let levels: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        let subjects: Vec<Subject> =
            std::iter::once(Subject::User(user.name.clone())).chain(user.groups.iter().cloned().map(Subject::Group)).collect();
        for level in levels.iter().filter_map(|l| self.by_subject.get(*l)) {
            for subject in &subjects {
                for grant in level.get(subject).into_iter().flatten() {
                    if let Some(found) = visit(grant, subject) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    /// How many roles and bindings there are.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.roles.len(), self.bindings.len())
    }

    /// The rules of a role by text, for the messages of missing ones.
    pub(super) fn missing(key: &RoleKey) -> String {
        match &*key.namespace {
            "" => format!("clusterrole.rbac.authorization.k8s.io {:?} not found", key.name),
            _ => format!("role.rbac.authorization.k8s.io {:?} not found", key.name),
        }
    }

    /// All rules the user has, in no particular order, each once.
    pub(super) fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut roles: BTreeMap<Name, Arc<[Rule]>> = BTreeMap::new();
        let none: Option<()> = self.find_grant(user, namespace, |grant, _| {
            if let Some(rules) = self.role(&grant.role) {
                roles.insert((grant.role.namespace.clone(), grant.role.name.clone()), rules.clone());
            }
            None
        });
        debug_assert!(none.is_none());
        roles.values().flat_map(|r| r.iter().cloned()).collect()
    }
}

impl RoleKey {
    /// By namespace (empty for a ClusterRole) and name.
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl BoundSubject {
    /// As authentication names it; `home` is the binding's namespace, which an account without one is in.
    fn resolve(&self, home: &str) -> Option<Subject> {
        match self.kind.as_str() {
            "User" => Some(Subject::User(self.name.as_str().into())),
            "Group" => Some(Subject::Group(self.name.as_str().into())),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { home } else { &self.namespace };
                (!namespace.is_empty()).then(|| Subject::User(format!("system:serviceaccount:{namespace}:{}", self.name).into()))
            }
            _ => None,
        }
    }
}
