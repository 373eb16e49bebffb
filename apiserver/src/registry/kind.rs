//! A kind of object: all the server knows of it, as data. Built-in kinds come from the tables; a CRD builds the same value at run time.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use coracle_schema::{SchemaRef, decode};
use coracle_store::{Durability, Key};
use coracle_tree::Value;
use parking_lot::Mutex;

use super::{convert::Conversion, custom::Custom, object::Object, rules::Rules};
use crate::wire::{status::Subject, table::Printer};

/// `apps/v1, Kind=Deployment`
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as in the API")]
pub struct GroupVersionKind {
    pub group: Arc<str>,
    pub version: Arc<str>,
    pub kind: Arc<str>,
}

/// `deployments.apps`: a resource, whatever its version.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ResourceId {
    /// `apps`; empty for the core group.
    pub group: Arc<str>,
    /// `deployments`
    pub resource: Arc<str>,
}

/// Whether objects live in namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// The verbs of the API, as RBAC and discovery name them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// What names are allowed (apimachinery `validation.NameIs…`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameRule {
    /// RFC 1123 subdomain, 253 characters: most kinds.
    Subdomain,
    /// The same as a type declares it (`k8s-long-name`): upstream counts bytes, and does not look at what a name is made of.
    LongName,
    /// RFC 1123 label, 63 characters: namespaces, services.
    Label,
    /// RFC 1035 label: what services were before `RelaxedServiceNameValidation`.
    Label1035,
    /// Any path segment: RBAC kinds.
    PathSegment,
    /// An IP address in its canonical form.
    Address,
}

/// When `metadata.generation` moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generation {
    /// The kind has none (ConfigMap).
    None,
    /// When anything outside metadata and status changes.
    Spec,
    /// Also when annotations change (Deployment).
    SpecAndAnnotations,
    /// Also when labels change (EndpointSlice).
    SpecAndLabels,
    /// When anything outside metadata changes (custom resources).
    Body,
    /// Never: it is 1 (PriorityClass).
    Fixed,
    /// As with the spec, but there is none before the first change (CSIDriver).
    FromChange,
}

/// A subresource of a kind.
#[derive(Clone)]
pub struct Subresource {
    /// `status`, `scale`, `log`, `binding`, …
    pub name: Arc<str>,
    /// The kind its requests and answers carry.
    pub gvk: GroupVersionKind,
    /// Its verbs.
    pub verbs: Vec<Verb>,
    /// Message type of its body, if the tables have it.
    pub schema: Option<SchemaRef>,
    /// How its answers are printed, where they have columns of their own: scales of built-in kinds.
    pub printer: Option<Shared<dyn Printer>>,
}

/// A kind.
pub struct Kind {
    /// Group, version and kind.
    pub gvk: GroupVersionKind,
    /// Group and plural.
    pub id: ResourceId,
    /// Singular name.
    pub singular: Arc<str>,
    /// Short names (`po`).
    pub short_names: Vec<Arc<str>>,
    /// Categories (`all`).
    pub categories: Vec<Arc<str>>,
    /// Namespaced or not.
    pub scope: Scope,
    /// Verbs of the main resource.
    pub verbs: Vec<Verb>,
    /// Key prefix of its objects, `/registry/pods/`; `None` for virtual kinds (reviews), which are answered and never stored.
    pub prefix: Option<Arc<str>>,
    /// How its objects relate to what is stored, if that may be another version than its own.
    pub conversion: Option<Conversion>,
    /// The schema of its objects.
    pub schema: KindSchema,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Which names are allowed.
    pub naming: NameRule,
    /// When generation moves.
    pub generation: Generation,
    /// Switches that upstream's storage of the kind has.
    pub traits: Traits,
    /// The status of a new object, made on first demand.
    pub empty_status: OnceLock<Option<Value>>,
    /// How its objects are printed in tables.
    pub printer: Option<Shared<dyn Printer>>,
    /// Its odd rules; [`super::rules::PLAIN`] for most.
    pub rules: Shared<dyn Rules>,
    /// What only kinds made by a CRD have.
    pub custom: Option<Arc<Custom>>,
}

/// The schema of a kind: at hand for built-in kinds, compiled on first use for custom ones.
#[derive(Clone)]
pub enum KindSchema {
    /// Of the tables.
    Ready(SchemaRef),
    /// Of a CRD.
    Lazy(Arc<LazySchema>),
}

/// A schema that is made when it is first looked at, and then kept. What it is made of is let go then.
pub struct LazySchema {
    made: OnceLock<SchemaRef>,
    make: Mutex<Option<Make>>,
    /// Stands in should the making have failed before (it panicked).
    fallback: SchemaRef,
}

type Make = Box<dyn FnOnce() -> SchemaRef + Send>;

/// Something built in, or made at run time and shared.
pub enum Shared<T: ?Sized + 'static> {
    /// Built in.
    Static(&'static T),
    /// Made at run time.
    Made(Arc<T>),
}

/// How the storage of a kind differs from most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits {
    /// A new object keeps the status it was sent with (nodes).
    pub status_on_create: bool,
    /// `spec.finalizers` must be empty, too, before an object goes (namespaces).
    pub spec_finalizers: bool,
    /// DELETE answers with the object instead of a Status.
    pub returns_deleted: bool,
    /// Objects hold addresses and ports that no other may hold (services).
    pub claims: bool,
    /// Dependents are set free unless a delete says otherwise (replication controllers).
    pub orphans: bool,
}

impl LazySchema {
    /// Made by `make`, once.
    pub fn new(fallback: SchemaRef, make: impl FnOnce() -> SchemaRef + Send + 'static) -> Self {
        Self { made: OnceLock::new(), make: Mutex::new(Some(Box::new(make))), fallback }
    }

    /// Whether it was looked at.
    pub fn is_made(&self) -> bool {
        self.made.get().is_some()
    }

    fn get(&self) -> &SchemaRef {
        self.made.get_or_init(|| {
            let make = self.make.lock().take();
            make.map_or_else(|| self.fallback.clone(), |make| make())
        })
    }
}

impl Deref for KindSchema {
    type Target = SchemaRef;

    fn deref(&self) -> &SchemaRef {
        match self {
            Self::Ready(schema) => schema,
            Self::Lazy(lazy) => lazy.get(),
        }
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Static(built_in) => built_in,
            Self::Made(made) => made,
        }
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Static(built_in) => Self::Static(built_in),
            Self::Made(made) => Self::Made(Arc::clone(made)),
        }
    }
}

impl ResourceId {
    /// Whether it is this group's plural.
    pub fn is(&self, (group, resource): (&str, &str)) -> bool {
        *self.group == *group && *self.resource == *resource
    }
}

/// The resource of heartbeats, and where those of nodes are (`corev1.NamespaceNodeLease`).
const LEASES: (&str, &str) = ("coordination.k8s.io", "leases");
const NODE_LEASES: &str = "kube-node-lease/";

impl Kind {
    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| &*s.name == name)
    }

    /// Whether a CRD made it.
    pub fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    /// The kind of its lists: `PodList`.
    pub fn list_kind(&self) -> String {
        self.custom.as_ref().map_or_else(|| format!("{}List", self.gvk.kind), |custom| custom.list_kind.to_string())
    }

    /// Whether a CRD that is going away made it: nothing new may be created.
    pub fn is_terminating(&self) -> bool {
        self.custom.as_ref().is_some_and(|custom| custom.terminating)
    }

    /// The fields beyond name and namespace that field selectors may name.
    pub fn selectable(&self) -> Vec<Arc<str>> {
        match &self.custom {
            Some(custom) => custom.fields.iter().map(|field| Arc::clone(&field.name)).collect(),
            None => self.rules.selectable(&Value::Object(coracle_tree::Map::new())).into_iter().map(|(name, _)| Arc::from(name)).collect(),
        }
    }

    /// Whether the kind has a status subresource, hence a status that ordinary writes cannot touch.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Sets the status of a new object to the empty one of its type.
    pub fn reset_status(&self, object: &mut Object) {
        let status = self.empty_status.get_or_init(|| {
            let empty = decode::from_value(Value::Object(coracle_tree::Map::new()), &self.schema, decode::FieldValidation::Ignore);
            empty.ok().and_then(|mut e| e.value.as_object_mut().and_then(|m| m.remove("status")))
        });
        match (status.clone(), object.value_mut().as_object_mut()) {
            (Some(status), Some(members)) => members.insert("status", status),
            (None, Some(members)) => members.remove("status"),
            (_, None) => None,
        };
    }

    /// How many finalizers stand in the spec, where they count.
    pub fn spec_finalizers(&self, object: &Object) -> usize {
        let list = object.value().pointer("/spec/finalizers").and_then(Value::as_array);
        if self.traits.spec_finalizers { list.map_or(0, Vec::len) } else { 0 }
    }

    /// Whether the kind has a verb.
    pub fn has_verb(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether its objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The subject of an error about an object of this kind.
    pub fn subject<'a>(&'a self, name: &'a str) -> Subject<'a> {
        Subject { group: &self.id.group, resource: &self.id.resource, name }
    }

    /// The subject of a validation error: named by kind.
    pub fn kind_subject<'a>(&'a self, name: &'a str) -> Subject<'a> {
        // Events of both groups are one kind inside, of the core group.
        let group = if &*self.gvk.group == "events.k8s.io" { "" } else { &*self.gvk.group };
        Subject { group, resource: &self.gvk.kind, name }
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Option<Key> {
        let prefix = self.prefix.as_deref()?;
        Some(Key::from(if self.is_namespaced() { format!("{prefix}{namespace}/{name}") } else { format!("{prefix}{name}") }))
    }

    /// What a crash may take of a write of an object. Heartbeats of nodes are made anew within seconds, and a node whose last one is lost is
    /// given its whole time again; events are a courtesy that ends after an hour. Both come often, and a flash disk wears by them.
    pub fn durability(&self, key: &Key) -> Durability {
        let heartbeat = || {
            let within = self.prefix.as_deref().and_then(|prefix| key.as_str().strip_prefix(prefix));
            self.id.is(LEASES) && within.is_some_and(|rest| rest.starts_with(NODE_LEASES))
        };
        if self.id.is(("", "events")) || self.id.is(("events.k8s.io", "events")) || heartbeat() {
            return Durability::Relaxed;
        }
        Durability::Strict
    }

    /// The key prefix of the objects of a namespace, or of all when it is empty.
    pub fn list_prefix(&self, namespace: &str) -> String {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        if self.is_namespaced() && !namespace.is_empty() { format!("{prefix}{namespace}/") } else { prefix.to_owned() }
    }

    /// Namespace (empty for cluster kinds) and name in a key.
    pub fn split_key<'k>(&self, key: &'k str) -> (&'k str, &'k str) {
        let rest = key.strip_prefix(self.prefix.as_deref().unwrap_or_default()).unwrap_or(key);
        if self.is_namespaced() { rest.split_once('/').unwrap_or(("", rest)) } else { ("", rest) }
    }

    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(&self) -> String {
        self.gvk.api_version()
    }
}

impl GroupVersionKind {
    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
}

impl Verb {
    /// From RBAC's spelling.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Get, Self::List, Self::Watch, Self::Create, Self::Update, Self::Patch, Self::Delete, Self::DeleteCollection];
        all.into_iter().find(|v| v.as_str() == text)
    }

    /// As RBAC spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// Questions that are asked of the server, not stored (`DefaultExcludedResources`).
const REVIEWS: [&str; 6] = [
    "selfsubjectreviews",
    "tokenreviews",
    "localsubjectaccessreviews",
    "selfsubjectaccessreviews",
    "selfsubjectrulesreviews",
    "subjectaccessreviews",
];

/// Whether a resource is a question to the server, which policies and webhooks never see.
pub fn is_review(group: &str, resource: &str) -> bool {
    matches!(group, "authentication.k8s.io" | "authorization.k8s.io") && REVIEWS.contains(&resource)
}
