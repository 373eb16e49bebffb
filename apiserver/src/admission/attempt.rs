//! One write on its way to the store, as plugins see it (apiserver `admission/attributes.go`).

use std::collections::BTreeMap;

use coracle_schema::SchemaRef;
use coracle_tree::{Value, json};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::reinvocation::Reinvocation;
use crate::{
    audit::Level,
    authn::User,
    registry::{GroupVersionKind, Kind, Object, names},
    request::{
        Query, RequestInfo,
        query::{self, DeleteOptions},
    },
};

/// The operations admission tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// `CREATE`, as rules and reviews have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }

    /// Those that a rule names so: `*` names all.
    pub(super) fn named(name: &str) -> &'static [Self] {
        match name {
            "*" => &[Self::Create, Self::Update, Self::Delete, Self::Connect],
            "CREATE" => &[Self::Create],
            "UPDATE" => &[Self::Update],
            "DELETE" => &[Self::Delete],
            "CONNECT" => &[Self::Connect],
            _ => &[],
        }
    }
}

/// The options a request came with.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// It has none.
    None,
    /// In its query: of create, update and patch.
    Query(&'a Query),
    /// Of a delete.
    Delete(&'a DeleteOptions),
}

/// One write on its way to the store.
pub struct Attempt<'a> {
    /// Create, update, delete or connect.
    pub operation: Operation,
    /// Where it goes: resource, subresource, namespace, name.
    pub request: &'a RequestInfo,
    /// The kind addressed.
    pub kind: &'a Kind,
    /// Who asks.
    pub user: &'a User,
    /// The object as it was (update, delete).
    pub old: Option<&'a Object>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The options it came with.
    pub options: Given<'a>,
    /// Texts for `Warning:` headers, to add to.
    pub warnings: Vec<String>,
    /// What the audit log is to tell of it.
    pub annotations: &'a Annotations,
    /// What runs a second time.
    pub reinvocation: Reinvocation,
    /// When the request ends, answered or not: nobody is asked for longer.
    pub until: Option<Instant>,
}

impl<'a> Attempt<'a> {
    /// An attempt without an old object and without options.
    pub fn new(operation: Operation, request: &'a RequestInfo, kind: &'a Kind, user: &'a User, annotations: &'a Annotations) -> Self {
        Self {
            operation,
            request,
            kind,
            user,
            old: None,
            dry_run: false,
            options: Given::None,
            warnings: Vec::new(),
            annotations,
            reinvocation: Reinvocation::default(),
            until: None,
        }
    }

    /// The kind of the objects that are sent: that of the subresource, where it has its own (`Scale`, `PodExecOptions`).
    pub fn gvk(&self) -> &'a GroupVersionKind {
        self.part_of(self.kind).map_or(&self.kind.gvk, |(gvk, _)| gvk)
    }

    /// Kind and schema of the same subresource of another version of the kind.
    pub(super) fn part_of<'k>(&self, kind: &'k Kind) -> Option<(&'k GroupVersionKind, Option<&'k SchemaRef>)> {
        let part = self.request.subresource.as_str();
        let part = (!part.is_empty()).then(|| kind.subresource(part)).flatten()?;
        Some((&part.gvk, part.schema.as_ref()))
    }

    /// Whether the object is a namespace.
    pub(super) fn is_namespace(&self) -> bool {
        self.request.resource == "namespaces" && self.request.group.is_empty()
    }

    /// The name of what is written. Deletes of collections have none.
    pub(super) fn name<'n>(&'n self, new: Option<&'n Object>) -> &'n str {
        match self.request.name.as_str() {
            _ if self.request.verb == "deletecollection" => "",
            "" => new.map(Object::name).unwrap_or_default(),
            name => name,
        }
    }

    /// The namespace of what is written; of a namespace, itself.
    pub(super) fn namespace<'n>(&'n self, new: Option<&'n Object>) -> &'n str {
        match self.request.namespace.as_str() {
            "" if self.is_namespace() => self.name(new),
            namespace => namespace,
        }
    }

    /// Somebody outside is about to change the object: its managed fields may have to be put back.
    pub(super) fn remember_fields(&mut self, object: &Object) {
        if self.reinvocation.fields.is_none() {
            self.reinvocation.fields = Some(object.at("/metadata/managedFields").cloned().unwrap_or_default());
        }
    }

    /// `CreateOptions` and the like, as sent.
    pub(super) fn given(&self) -> Value {
        let mut options = match self.options {
            Given::None => return Value::Null,
            Given::Query(query) => query::given_in(query),
            Given::Delete(options) => options.given.clone(),
        };
        let kind = match self.operation {
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            _ => "CreateOptions",
        };
        if self.operation == Operation::Delete && self.is_namespace() && options.get("preconditions").is_none() {
            // Upstream's storage of namespaces makes sure that it is the one it looked at.
            options["preconditions"] = json!({"uid": self.old.map(Object::uid).unwrap_or_default()});
        }
        options["kind"] = kind.into();
        options["apiVersion"] = "meta.k8s.io/v1".into();
        options
    }
}

/// What admission has to tell the audit log of a request. Each key is told once.
#[derive(Debug, Default)]
pub struct Annotations(Mutex<BTreeMap<String, (Level, String)>>);

impl Annotations {
    /// Adds one. The error says what is wrong with the key, or that it has another value already.
    pub fn add(&self, key: &str, value: &str, level: Level) -> Result<(), String> {
        if key.matches('/').count() != 1 {
            return Err(format!("annotation key {key:?} is not a DNS subdomain, a '/' and a name"));
        }
        let wrong = names::qualified_name(key);
        if !wrong.is_empty() {
            return Err(format!("annotation key {key:?} has invalid format: {}", wrong.join(",")));
        }
        let mut all = self.0.lock();
        match all.get(key) {
            Some((known, text)) if (*known, text.as_str()) != (level, value) => Err(format!("annotation {key:?} may not be overwritten")),
            Some(_) => Ok(()),
            None => {
                all.insert(key.to_owned(), (level, value.to_owned()));
                Ok(())
            }
        }
    }

    /// Those a policy of this level writes.
    pub fn up_to(&self, level: Level) -> Value {
        let all = self.0.lock();
        let told = all.iter().filter(|(_, (of, _))| *of <= level);
        told.fold(json!({}), |mut out, (key, (_, value))| {
            out[key] = value.as_str().into();
            out
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_qualified_and_told_once() {
        let annotations = Annotations::default();
        assert!(annotations.add("h.example.com/a", "1", Level::Metadata).is_ok());
        assert!(annotations.add("h.example.com/a", "1", Level::Metadata).is_ok());
        assert!(annotations.add("h.example.com/a", "2", Level::Metadata).is_err());
        assert!(annotations.add("h.example.com/p", "[]", Level::Request).is_ok());
        for wrong in ["plain", "a/b/c", "h.example.com/bad key"] {
            assert!(annotations.add(wrong, "", Level::Metadata).is_err(), "{wrong}");
        }
        assert_eq!(annotations.up_to(Level::Metadata), json!({"h.example.com/a": "1"}));
        assert_eq!(annotations.up_to(Level::Request), json!({"h.example.com/a": "1", "h.example.com/p": "[]"}));
    }
}
