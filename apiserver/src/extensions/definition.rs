//! What the server needs to know of a CRD at all times: little. Schemas are read from the CRD's bytes when somebody uses the kind.

use bytes::Bytes;
use coracle_tree::Value;
use serde::Deserialize;

use crate::{authz::policy::nullable, registry::condition::Condition, webhook::ClientConfig};

/// A CRD without its schemas.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Definition {
    /// Name, deletion and generation.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Spec,
    /// What is so.
    pub status: Status,
}

/// Of `metadata`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub deletion_timestamp: Option<String>,
    pub finalizers: Vec<String>,
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// Of `spec`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub group: String,
    pub scope: String,
    pub names: Names,
    pub versions: Vec<Version>,
    pub conversion: Option<Conversion>,
    pub preserve_unknown_fields: bool,
}

/// `spec.names` and `status.acceptedNames`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Names {
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub kind: String,
    pub list_kind: String,
    pub categories: Vec<String>,
}

/// Of `spec.versions[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Version {
    pub name: String,
    pub served: bool,
    pub storage: bool,
    pub deprecated: bool,
    pub deprecation_warning: Option<String>,
    pub subresources: Option<Subresources>,
    pub additional_printer_columns: Vec<Column>,
    pub selectable_fields: Vec<SelectableField>,
}

/// Of `spec.versions[].subresources`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Subresources {
    pub status: Option<Value>,
    pub scale: Option<Scale>,
}

/// Of `spec.versions[].subresources.scale`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Scale {
    pub spec_replicas_path: String,
    pub status_replicas_path: String,
    pub label_selector_path: Option<String>,
}

/// Of `spec.versions[].additionalPrinterColumns[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i32,
    #[serde(rename = "jsonPath")]
    pub json_path: String,
}

/// Of `spec.versions[].selectableFields[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct SelectableField {
    #[serde(rename = "jsonPath")]
    pub json_path: String,
}

/// Of `spec.conversion`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Conversion {
    pub strategy: String,
    pub webhook: Option<Webhook>,
}

/// Of `spec.conversion.webhook`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Webhook {
    pub client_config: ClientConfig,
    pub conversion_review_versions: Vec<String>,
}

/// Of `status`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "nullable")]
    pub accepted_names: Names,
}

/// The finalizer that keeps a CRD until its objects are gone.
pub(super) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Definition {
    /// Reads a CRD; `None` when it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// A condition.
    pub(super) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.kind == kind)
    }

    /// Whether a condition is there and true.
    pub(super) fn is_true(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|c| c.status == "True")
    }

    /// Whether its kind is to be answered for.
    pub(super) fn is_served(&self) -> bool {
        let names = &self.status.accepted_names;
        let complete = [&names.plural, &names.singular, &names.kind, &names.list_kind].iter().all(|name| !name.is_empty());
        complete && (self.is_true("NamesAccepted") || self.is_true("Established"))
    }

    /// Whether it is being deleted.
    pub(super) fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() || self.is_true("Terminating")
    }

    /// Whether its objects still have to be deleted before it may go.
    pub(super) fn awaits_cleanup(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() && self.metadata.finalizers.iter().any(|f| f == CLEANUP)
    }

    /// The version objects are stored in.
    pub(super) fn storage_version(&self) -> Option<&Version> {
        self.spec.versions.iter().find(|v| v.storage)
    }

    /// The webhook that converts, if one does.
    pub(super) fn webhook(&self) -> Option<&Webhook> {
        let conversion = self.spec.conversion.as_ref().filter(|c| c.strategy == "Webhook")?;
        conversion.webhook.as_ref()
    }
}

/// The schema of one version, from the bytes of its CRD; `Null` when it has none.
pub(super) fn schema_of(source: &Bytes, version: &str) -> Value {
    #[derive(Deserialize)]
    struct Outer {
        spec: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        versions: Vec<Of>,
    }
    #[derive(Deserialize)]
    struct Of {
        name: String,
        #[serde(default)]
        schema: Option<Holder>,
    }
    #[derive(Deserialize)]
    struct Holder {
        #[serde(default, rename = "openAPIV3Schema")]
        schema: Option<Value>,
    }
    let Ok(outer) = serde_json::from_slice::<Outer>(source) else { return Value::Null };
    let found = outer.spec.versions.into_iter().find(|v| v.name == version);
    found.and_then(|v| v.schema).and_then(|s| s.schema).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn crd() -> Value {
        json!({
            "metadata": {"name": "widgets.example.com", "uid": "u", "generation": 2, "deletionTimestamp": "t", "finalizers": [CLEANUP]},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [
                    {"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object", "description": "one"}}},
                    {"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                     "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}},
                ],
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x/y"}, "conversionReviewVersions": ["v1"]}},
            },
            "status": {"conditions": null, "acceptedNames": null, "storedVersions": ["v2"]},
        })
    }

    #[test]
    fn what_matters_is_read_and_schemas_are_not() {
        let read = Definition::read(crd().to_string().as_bytes()).unwrap();
        assert_eq!(read.storage_version().unwrap().name, "v2");
        assert!(read.awaits_cleanup() && read.is_terminating() && !read.is_served());
        assert_eq!(read.webhook().unwrap().client_config.url.as_deref(), Some("https://x/y"));
        assert!(read.spec.versions[1].subresources.as_ref().unwrap().status.is_some());
    }

    #[test]
    fn the_schema_of_a_version_is_found_in_the_bytes() {
        let source = Bytes::from(crd().to_string());
        assert_eq!(schema_of(&source, "v1"), json!({"type": "object", "description": "one"}));
        assert_eq!(schema_of(&source, "v9"), Value::Null);
    }
}
