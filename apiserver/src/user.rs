//! Who somebody is, once it is known.

use std::{collections::BTreeMap, sync::Arc};

use coracle_schema::json::{Members, write_texts};

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct User {
    /// `system:serviceaccount:default:default`
    pub name: Arc<str>,
    /// Opaque id; empty when unknown.
    pub uid: Arc<str>,
    /// `system:authenticated` and others.
    pub groups: Vec<Arc<str>>,
    /// Extra facts (`authentication.kubernetes.io/pod-name`).
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of a component in this process, or of a certificate: name and groups; `system:authenticated` is added.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut all: Vec<Arc<str>> = groups.iter().map(|g| Arc::from(*g)).collect();
        if !groups.contains(&"system:authenticated") {
            all.push("system:authenticated".into());
        }
        Self { name: name.into(), groups: all, ..Self::default() }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// The same user as one of those who are known (`group.NewAuthenticatedGroupAdder`).
    pub(crate) fn authenticated(mut self) -> Self {
        if !self.in_group("system:authenticated") && !self.in_group("system:unauthenticated") && &*self.name != "system:anonymous" {
            self.groups.push("system:authenticated".into());
        }
        self
    }

    /// The members of a `UserInfo` that there are.
    pub(crate) fn tell(&self, members: &mut Members) {
        members.told(r#","username":"#, &self.name);
        members.told(r#","uid":"#, &self.uid);
        if !self.groups.is_empty() {
            members.texts(r#","groups":"#, &self.groups);
        }
        if !self.extra.is_empty() {
            members.object(r#","extra":"#, |members| {
                self.extra.iter().for_each(|(key, values)| write_texts(values, members.key(key)));
            });
        }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| &**g == group)
    }
}
