//! Roles and bindings, parsed once and found by subject.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use coracle_schema::go::quoted;
use serde::Deserialize;

use super::policy::{Rule, nullable};
use crate::authn::User;

/// Whom a binding names. A service account is a user, by the name its tokens give it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(Arc<str>),
    Group(Arc<str>),
}

/// By what a binding concerns a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Through<'u> {
    User(&'u str),
    Group(&'u str),
}

/// Where a binding stands and what it points to.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// Namespace of a RoleBinding; empty for a ClusterRoleBinding.
    pub(super) namespace: Arc<str>,
    /// Name of the binding.
    pub(super) binding: Arc<str>,
    /// The role pointed to.
    pub(super) role: RoleKey,
    /// What is said of it up to whom it names: `RBAC: allowed by ClusterRoleBinding "x" of ClusterRole "y" to `
    pub(super) shown: Box<str>,
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
    /// Bindings at cluster level: every request looks here.
    cluster: Level,
    namespaces: HashMap<Arc<str>, Level>,
}

/// The bindings of one level by whom they name: found without making a key.
#[derive(Default)]
struct Level {
    users: HashMap<Arc<str>, Vec<Arc<Grant>>>,
    groups: HashMap<Arc<str>, Vec<Arc<Grant>>>,
}

impl Level {
    fn put(&mut self, subject: &Subject, grant: &Arc<Grant>) {
        let (of, name) = match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        };
        let grants = of.entry(name.clone()).or_default();
        // A grant names a subject twice at most in a row: those of other bindings are never the same.
        if !grants.last().is_some_and(|last| Arc::ptr_eq(last, grant)) {
            grants.push(grant.clone());
        }
    }

    fn remove(&mut self, subject: &Subject, grant: &Arc<Grant>) {
        let (of, name) = match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        };
        if let Some(grants) = of.get_mut(name) {
            grants.retain(|known| !Arc::ptr_eq(known, grant));
            if grants.is_empty() {
                of.remove(name);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
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
        let role = RoleKey::new(of, &binding.role_ref.name);
        let shown = shown(&namespace, &name, &role);
        let grant = Arc::new(Grant { namespace: namespace.as_str().into(), binding: name.as_str().into(), role, shown });
        let subjects: Vec<Subject> = binding.subjects.iter().filter_map(|s| s.resolve(&namespace)).collect();
        let level = if namespace.is_empty() { &mut self.cluster } else { self.namespaces.entry(grant.namespace.clone()).or_default() };
        for subject in &subjects {
            level.put(subject, &grant);
        }
        self.bindings.insert((grant.namespace.clone(), grant.binding.clone()), (grant, subjects));
        true
    }

    /// Forgets a binding.
    pub(super) fn remove_binding(&mut self, namespace: &str, name: &str) {
        let Some((grant, subjects)) = self.bindings.remove(&(namespace.into(), name.into())) else { return };
        if namespace.is_empty() {
            subjects.iter().for_each(|subject| self.cluster.remove(subject, &grant));
            return;
        }
        let Some(level) = self.namespaces.get_mut(namespace) else { return };
        subjects.iter().for_each(|subject| level.remove(subject, &grant));
        if level.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    /// The rules of a role.
    pub(super) fn role(&self, key: &RoleKey) -> Option<&Arc<[Rule]>> {
        self.roles.get(key)
    }

    /// Everything that binds the user, at cluster level and, when `namespace` is not empty, in it. Stops when `visit` returns a value.
    pub(super) fn find_grant<'u, T>(
        &self,
        user: &'u User,
        namespace: &str,
        mut visit: impl FnMut(&Grant, Through<'u>) -> Option<T>,
    ) -> Option<T> {
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        for level in std::iter::once(&self.cluster).chain(local) {
            for grant in level.users.get(&*user.name).into_iter().flatten() {
                if let Some(found) = visit(grant, Through::User(&user.name)) {
                    return Some(found);
                }
            }
            for group in &user.groups {
                for grant in level.groups.get(&**group).into_iter().flatten() {
                    if let Some(found) = visit(grant, Through::Group(group)) {
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
            "" => format!("clusterrole.rbac.authorization.k8s.io {} not found", quoted(&key.name)),
            _ => format!("role.rbac.authorization.k8s.io {} not found", quoted(&key.name)),
        }
    }

    /// The rules of all roles the user has, each role once, and what is said of roles that are not there.
    pub(super) fn rules_of(&self, user: &User, namespace: &str) -> (Vec<Arc<[Rule]>>, Vec<String>) {
        let (mut seen, mut rules, mut missing) = (HashSet::new(), Vec::new(), Vec::new());
        let none: Option<()> = self.find_grant(user, namespace, |grant, _| {
            match self.role(&grant.role) {
                Some(found) if seen.insert(Arc::as_ptr(found)) => rules.push(found.clone()),
                Some(_) => {}
                None => missing.push(Self::missing(&grant.role)),
            }
            None
        });
        debug_assert!(none.is_none());
        (rules, missing)
    }
}

/// What [`Grant::shown`] says: made once, as many requests are allowed by it.
fn shown(namespace: &str, name: &str, role: &RoleKey) -> Box<str> {
    let binding = match namespace {
        "" => format!("ClusterRoleBinding {}", quoted(name)),
        namespace => format!("RoleBinding {}", quoted(&format!("{name}/{namespace}"))),
    };
    let kind = if role.namespace.is_empty() { "ClusterRole" } else { "Role" };
    format!("RBAC: allowed by {binding} of {kind} {} to ", quoted(&role.name)).into()
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
