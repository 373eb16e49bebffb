//! What every cached object can say about itself, whatever its Rust type, and how the API names it.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

static NO_LABELS: Labels = BTreeMap::new();

/// Names one object of a known kind; the namespace is empty for cluster-scoped ones.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace, or nothing.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// The key of `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    #[must_use]
    pub fn of<K: Object + ?Sized>(object: &K) -> Self {
        Self::new(object.namespace(), object.name())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the API names a kind and its collection.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Resource {
    /// API group, empty for core.
    pub group: Cow<'static, str>,
    /// API version.
    pub version: Cow<'static, str>,
    /// The collection's name in paths.
    pub plural: Cow<'static, str>,
    /// The kind.
    pub kind: Cow<'static, str>,
}

impl Resource {
    /// A resource known at compile time.
    #[must_use]
    pub const fn known(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), plural: Cow::Borrowed(plural), kind: Cow::Borrowed(kind) }
    }

    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The collection's path; an empty `namespace` means the cluster's, or all namespaces.
    #[must_use]
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let slash = if self.group.is_empty() { "" } else { "/" };
        let within = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
        format!("{root}{slash}{}/{}/{within}{}", self.group, self.version, self.plural)
    }
}

/// The metadata of any object, for caches and the collector of garbage.
pub trait Object: Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> &str;
    /// Its namespace, empty for cluster-scoped objects.
    fn namespace(&self) -> &str;
    /// Its uid.
    fn uid(&self) -> &str;
    /// The resource version as the server sent it.
    fn resource_version(&self) -> &str;
    /// Its labels.
    fn labels(&self) -> &Labels;
    /// Its annotations.
    fn annotations(&self) -> &Labels;
    /// Its owners.
    fn owners(&self) -> &[OwnerReference];
    /// Its finalizers.
    fn finalizers(&self) -> &[String];
    /// When it was created.
    fn created(&self) -> Option<Timestamp>;
    /// When its deletion was asked for.
    fn deleted(&self) -> Option<Timestamp>;
    /// The generation of its spec.
    fn generation(&self) -> i64;
    /// A further name the cache files it under: the node of a pod.
    fn index(&self) -> Option<&str> {
        None
    }

    /// The owner that controls it, if any.
    fn controller(&self) -> Option<&OwnerReference> {
        self.owners().iter().find(|owner| owner.controller == Some(true))
    }
}

impl<K> Object for K
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta> + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
    fn resource_version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }
    fn labels(&self) -> &Labels {
        self.metadata().labels.as_ref().unwrap_or(&NO_LABELS)
    }
    fn annotations(&self) -> &Labels {
        self.metadata().annotations.as_ref().unwrap_or(&NO_LABELS)
    }
    fn owners(&self) -> &[OwnerReference] {
        self.metadata().owner_references.as_deref().unwrap_or_default()
    }
    fn finalizers(&self) -> &[String] {
        self.metadata().finalizers.as_deref().unwrap_or_default()
    }
    fn created(&self) -> Option<Timestamp> {
        self.metadata().creation_timestamp.as_ref().map(|time| time.0)
    }
    fn deleted(&self) -> Option<Timestamp> {
        self.metadata().deletion_timestamp.as_ref().map(|time| time.0)
    }
    fn generation(&self) -> i64 {
        self.metadata().generation.unwrap_or_default()
    }
}

/// A kind the room can list, watch and cache.
pub trait Kind: Object + DeserializeOwned + Clone + Debug {
    /// How the API names it.
    const RESOURCE: Resource;
    /// Watch only the objects this field selector chooses; such a store is not the whole collection.
    const FIELDS: Option<&'static str> = None;
    /// Drops what no controller reads before the object is cached.
    fn trim(&mut self) {}
}

impl<K> Kind for K
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    const RESOURCE: Resource = Resource::known(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT, K::KIND);

    fn trim(&mut self) {
        self.metadata_mut().managed_fields = None;
    }
}

/// Object metadata without managed fields, which are skipped while decoding and never built.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// Resource version.
    pub resource_version: String,
    /// Generation of the spec.
    pub generation: i64,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Owners.
    pub owner_references: Vec<OwnerReference>,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// When it was created.
    pub creation_timestamp: Option<Timestamp>,
    /// When its deletion was asked for.
    pub deletion_timestamp: Option<Timestamp>,
}

/// Implements [`Object`] for a struct with a `metadata: Meta`.
macro_rules! object_by_meta {
    ($kind:ty $(, index = $index:expr)?) => {
        impl $crate::object::Object for $kind {
            fn name(&self) -> &str {
                &self.metadata.name
            }
            fn namespace(&self) -> &str {
                &self.metadata.namespace
            }
            fn uid(&self) -> &str {
                &self.metadata.uid
            }
            fn resource_version(&self) -> &str {
                &self.metadata.resource_version
            }
            fn labels(&self) -> &$crate::object::Labels {
                &self.metadata.labels
            }
            fn annotations(&self) -> &$crate::object::Labels {
                &self.metadata.annotations
            }
            fn owners(&self) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference] {
                &self.metadata.owner_references
            }
            fn finalizers(&self) -> &[String] {
                &self.metadata.finalizers
            }
            fn created(&self) -> Option<jiff::Timestamp> {
                self.metadata.creation_timestamp
            }
            fn deleted(&self) -> Option<jiff::Timestamp> {
                self.metadata.deletion_timestamp
            }
            fn generation(&self) -> i64 {
                self.metadata.generation
            }
            $(
                fn index(&self) -> Option<&str> {
                    let index: fn(&Self) -> Option<&str> = $index;
                    index(self)
                }
            )?
        }
    };
}
pub(crate) use object_by_meta;

/// A reference to `object`, for events and endpoints.
#[must_use]
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::RESOURCE.api_version()),
        kind: Some(K::RESOURCE.kind.to_string()),
        namespace: (!object.namespace().is_empty()).then(|| object.namespace().to_owned()),
        name: Some(object.name().to_owned()),
        uid: Some(object.uid().to_owned()),
        resource_version: Some(object.resource_version().to_owned()),
        field_path: None,
    }
}

/// The owner reference with which `object` controls what it creates.
#[must_use]
pub fn controller_reference<K: Kind>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::RESOURCE.api_version(),
        kind: K::RESOURCE.kind.to_string(),
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// An object as a tree. By way of its text: the code that writes a type is large, and what writes texts is there anyway.
pub(crate) fn tree<T: Serialize>(object: &T) -> Value {
    serde_json::to_vec(object).and_then(|text| serde_json::from_slice(&text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_core_and_of_groups_differ() {
        let pods = Resource::known("", "v1", "pods", "Pod");
        assert_eq!(pods.path("default"), "/api/v1/namespaces/default/pods");
        assert_eq!(pods.path(""), "/api/v1/pods");
        let sets = Resource::known("apps", "v1", "replicasets", "ReplicaSet");
        assert_eq!(sets.path("a"), "/apis/apps/v1/namespaces/a/replicasets");
        assert_eq!((pods.api_version(), sets.api_version()), ("v1".to_owned(), "apps/v1".to_owned()));
    }

    #[test]
    fn meta_is_decoded_without_managed_fields() {
        let meta: Meta = serde_json::from_str(r#"{"name":"a","managedFields":[{"fieldsV1":{"f:spec":{}}}],"labels":{"x":"y"}}"#).unwrap();
        assert_eq!((meta.name.as_str(), meta.labels["x"].as_str()), ("a", "y"));
    }
}
