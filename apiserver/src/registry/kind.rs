//! A kind of object: all the server knows of it, as data. Built-in kinds come from the tables; a CRD builds the same value at run time.

use std::{collections::HashMap, sync::Arc};

use coracle_schema::SchemaRef;

use super::rules::Rules;

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
    /// RFC 1123 label, 63 characters: namespaces.
    Label,
    /// RFC 1035 label: services.
    Label1035,
    /// Any path segment: RBAC kinds.
    PathSegment,
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
}

/// A subresource of a kind.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`, `scale`, `log`, `binding`, …
    pub name: Arc<str>,
    /// The kind its requests and answers carry.
    pub gvk: GroupVersionKind,
    /// Its verbs.
    pub verbs: Vec<Verb>,
    /// Message type of its body, if the tables have it.
    pub schema: Option<SchemaRef>,
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
    /// The schema of its objects.
    pub schema: SchemaRef,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Which names are allowed.
    pub naming: NameRule,
    /// When generation moves.
    pub generation: Generation,
    /// Its odd rules; [`super::rules::PLAIN`] for most.
    pub rules: &'static dyn Rules,
}

/// All kinds. Swapped as a whole when a CRD changes.
#[derive(Default)]
pub struct Catalog {
    /// In discovery order.
    pub kinds: Vec<Arc<Kind>>,
    /// (group, version, plural) -> kind.
    pub by_resource: HashMap<(Arc<str>, Arc<str>, Arc<str>), Arc<Kind>>,
}

impl Kind {
    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| &*s.name == name)
    }

    /// Whether the kind has a status subresource, hence a status that ordinary writes cannot touch.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
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
