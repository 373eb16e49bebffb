//! Which objects of a collection a list, watch or deletecollection is about.

use coracle_store::cache::{Cached, Snapshot};

use std::sync::Arc;

use super::Call;
use crate::{
    registry::{FieldSelector, Kind, LabelSelector, items::Facts},
    request::query::ListOptions,
    wire::Status,
};

/// Place and selectors of a request over a collection.
pub struct Filter {
    kind: Arc<Kind>,
    /// Key prefix: of the namespace, or of all.
    prefix: String,
    /// The only key that can match, when the name is given.
    key: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    /// From a request's path and options; 400 for fields that cannot be selected.
    pub fn new(kind: &Arc<Kind>, call: &Call, options: &ListOptions) -> Result<Self, Status> {
        let known = kind.rules.selectable(&serde_json::Value::Object(serde_json::Map::new()));
        for field in options.fields.fields() {
            let general = matches!(field, "metadata.name" | "metadata.namespace");
            if !general && !known.iter().any(|(name, _)| *name == field) {
                return Err(Status::bad_request(unknown_field(field, known.is_empty())));
            }
        }
        let namespace = match options.fields.requires("metadata.namespace") {
            Some(namespace) if kind.is_namespaced() && call.info.namespace.is_empty() => namespace,
            _ => call.namespace_of(kind),
        };
        let prefix = kind.list_prefix(namespace);
        let name = if call.info.name.is_empty() { options.fields.requires("metadata.name") } else { Some(call.info.name.as_str()) };
        let one_place = !kind.is_namespaced() || !namespace.is_empty();
        let key = name.filter(|_| one_place).map(|name| format!("{prefix}{name}"));
        Ok(Self { kind: Arc::clone(kind), prefix, key, labels: options.labels.clone(), fields: options.fields.clone() })
    }

    /// Whether all objects of the place are meant.
    pub fn is_open(&self) -> bool {
        self.key.is_none() && self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object is meant; its key need not be in the place.
    pub fn selects(&self, cached: &Cached<Facts>) -> bool {
        let key = cached.key.as_str();
        if !key.starts_with(&self.prefix) || self.key.as_deref().is_some_and(|only| only != key) {
            return false;
        }
        if !self.labels.matches(|label| cached.facts.label(label)) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        let (namespace, name) = self.kind.split_key(key);
        self.fields.matches(|field| match field {
            "metadata.name" => name,
            "metadata.namespace" => namespace,
            other => cached.facts.field(other),
        })
    }

    /// The objects meant, in key order, after a key.
    pub fn pick<'a>(
        &'a self,
        snapshot: &'a Snapshot<Facts>,
        after: Option<&'a str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Cached<Facts>>> + 'a> {
        if let Some(key) = &self.key {
            let found = snapshot.get(key).filter(|c| after.is_none_or(|a| c.key.as_str() > a));
            return Box::new(found.into_iter().filter(|c| self.selects(c)));
        }
        Box::new(snapshot.range(&self.prefix, after).filter(|c| self.is_open() || self.selects(c)))
    }

    /// The key prefix of the place.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// apimachinery's two wordings: of kinds without and with fields of their own.
fn unknown_field(field: &str, plain: bool) -> String {
    if plain {
        format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    }
}
