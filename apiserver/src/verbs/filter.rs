//! Which objects of a collection a list, watch or deletecollection is about.

use coracle_store::cache::{Cached, Interest, Snapshot};

use std::sync::Arc;

use coracle_tree::Value;

use super::Call;
use crate::{
    registry::{
        Conversion, FieldSelector, Kind, LabelSelector,
        custom::Field,
        items::{self, Facts, NODE},
    },
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
    /// Fields are looked up in the converted object: what was noted of the stored one does not hold for it.
    by_wire: bool,
}

impl Filter {
    /// From a request's path and options; 400 for fields that cannot be selected.
    pub fn new(kind: &Arc<Kind>, call: &Call, options: &ListOptions) -> Result<Self, Status> {
        let known = kind.selectable();
        let labels = kind.rules.field_labels(&kind.gvk.group);
        let general = |field: &str| field == "metadata.name" || (field == "metadata.namespace" && knows_namespaces(kind, known.is_empty()));
        let field_refused = |field: &str| Status::bad_request(unknown_field(kind, field, known.is_empty()));
        let own_name = |field: &str| match labels.iter().find(|(theirs, _)| *theirs == field) {
            Some((_, ours)) => Some((*ours).to_owned()),
            // What pods called their node in the beginning.
            None if field == "spec.host" && &*kind.id.resource == "pods" => Some("spec.nodeName".to_owned()),
            None => (labels.is_empty() || general(field)).then(|| field.to_owned()),
        };
        let fields = options.fields.renamed(own_name).map_err(field_refused)?;
        for field in fields.fields() {
            if !general(field) && !known.iter().any(|name| **name == *field) {
                return Err(field_refused(field));
            }
        }
        let namespace = match fields.requires("metadata.namespace") {
            Some(namespace) if kind.is_namespaced() && call.info.namespace.is_empty() => namespace,
            _ => call.namespace_of(kind),
        };
        let prefix = kind.list_prefix(namespace);
        let name = if call.info.name.is_empty() { fields.requires("metadata.name") } else { Some(call.info.name.as_str()) };
        let one_place = !kind.is_namespaced() || !namespace.is_empty();
        let key = name.filter(|_| one_place).map(|name| format!("{prefix}{name}"));
        let foreign = matches!(&kind.conversion, Some(Conversion::Versions(versions)) if !versions.is_local());
        let by_wire = foreign && fields.fields().any(|field| !field.starts_with("metadata."));
        Ok(Self { kind: Arc::clone(kind), prefix, key, labels: options.labels.clone(), fields, by_wire })
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
        if !self.labels.matches(|label| items::label(cached, label)) {
            return false;
        }
        if self.fields.is_empty() || self.by_wire {
            return true;
        }
        let (namespace, name) = self.kind.split_key(key);
        self.fields.matches(|field| match field {
            "metadata.name" => name,
            "metadata.namespace" => namespace,
            other => items::field(cached, other),
        })
    }

    /// What a watch of the objects meant is to be woken for.
    pub fn interest(&self) -> Interest {
        if let Some(key) = &self.key {
            return Interest::Place(key.clone());
        }
        match self.fields.requires(NODE) {
            Some(node) if !node.is_empty() && !self.by_wire => Interest::Word(node.to_owned()),
            _ if self.prefix != self.kind.list_prefix("") => Interest::Place(self.prefix.clone()),
            _ => Interest::All,
        }
    }

    /// Whether what [`Filter::selects`] lets pass has to be asked about again, with [`Filter::selects_wire`].
    pub fn needs_wire(&self) -> bool {
        self.by_wire
    }

    /// Whether an object is meant whose fields count as they are in its converted form.
    pub fn selects_wire(&self, wire: &[u8]) -> bool {
        let object: Value = serde_json::from_slice(wire).unwrap_or_default();
        let values: Vec<(&str, String)> = self.fields.fields().map(|field| (field, self.field_of(&object, field))).collect();
        self.fields.matches(|field| values.iter().find(|(name, _)| *name == field).map_or("", |(_, value)| value))
    }

    fn field_of(&self, object: &Value, field: &str) -> String {
        let fields = self.kind.custom.iter().flat_map(|custom| custom.fields.iter());
        match fields.into_iter().find(|f| *f.name == *field) {
            Some(found) => found.value(object),
            None => Field::new(field).value(object),
        }
    }

    /// The objects meant, in key order, after a key.
    pub fn pick<'a>(
        &'a self,
        snapshot: &'a Snapshot<Facts>,
        after: Option<&'a str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Cached<Facts>>> + Send + 'a> {
        if let Some(key) = &self.key {
            let found = snapshot.get(key).filter(|c| after.is_none_or(|a| c.key.as_str() > a));
            return Box::new(found.into_iter().filter(|c| self.selects(c)));
        }
        Box::new(snapshot.range(&self.prefix, after).filter(|c| self.is_open() || self.selects(c)))
    }

    /// The only key that can match, if there is only one.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The key prefix of the place.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// Whether `metadata.namespace` can be selected by: kinds with fields of their own name all there are, and those without namespaces, and
/// one with, do not name it.
fn knows_namespaces(kind: &Kind, plain: bool) -> bool {
    plain || kind.is_custom() || (kind.is_namespaced() && &*kind.id.resource != "podcertificaterequests")
}

/// The wordings there are: of kinds without fields of their own, and of those that list theirs.
fn unknown_field(kind: &Kind, field: &str, plain: bool) -> String {
    match &*kind.id.resource {
        _ if plain && !kind.is_custom() => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        "jobs" => format!("field label {field:?} not supported for Job"),
        "resourceslices" => format!("field label not supported for {}, Kind={}: {field}", kind.api_version(), kind.gvk.kind),
        _ => format!("field label not supported: {field}"),
    }
}
