//! Values as kube-apiserver keeps them in etcd: built-in kinds as protobuf (or JSON, `--storage-media-type`), custom resources as JSON.
//! Above this everything is the JSON of `items`; a store that is ours alone keeps that as it is and needs nothing of this.
//!
//! What is read may have been written by kube-apiserver, of this or an earlier version: either form, any version of the kind, with fields
//! that are known no more and without those that came later, which are defaulted as upstream's decoder does.

mod definitions;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use coracle_schema::{
    SchemaRef, Tables,
    decode::{self, FieldValidation},
    default, proto,
};
use coracle_store::{Key, Store, StoreError};
use coracle_tree::Value;

use super::{
    convert::Conversion,
    items,
    kind::Kind,
    object::Object,
    served::Catalog,
    storage::DEFINITIONS,
    translated::{Faults, Translate},
};

/// In which form built-in kinds are written (`--storage-media-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MediaType {
    /// `application/vnd.kubernetes.protobuf`
    #[default]
    Protobuf,
    /// `application/json`
    Json,
}

/// Kinds that 1.37 serves in a version younger than that in which it keeps them, so that the release before can still read them. The
/// messages are the same.
const KEPT_AS: &[(&str, &str, &str)] = &[
    ("certificates.k8s.io", "clustertrustbundles", "certificates.k8s.io/v1beta1"),
    ("certificates.k8s.io", "podcertificaterequests", "certificates.k8s.io/v1beta1"),
    ("resource.k8s.io", "devicetaintrules", "resource.k8s.io/v1beta2"),
    ("storagemigration.k8s.io", "storageversionmigrations", "storagemigration.k8s.io/v1beta1"),
];

/// Groups of API servers of their own inside kube-apiserver, which keep JSON whatever the others keep.
const KEPT_AS_JSON: &[&str] = &["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// Both directions between what upstream keeps under a key and the canonical JSON of `items`, which is what a store of our own keeps.
pub struct Codec {
    places: HashMap<Arc<str>, Place>,
    tables: Arc<Tables>,
}

/// The kinds whose objects have keys with one prefix.
struct Place {
    /// In the version that is written.
    stored: Arc<Kind>,
    /// In others that may be found.
    others: Vec<Arc<Kind>>,
    /// The `apiVersion` that stands with it.
    kept_as: String,
    /// What the canonical JSON of the stored version begins with.
    head: Vec<u8>,
}

impl Codec {
    /// For the built-in kinds of a catalog; what is kept besides (allocations of ports, addresses of servers) goes by the tables.
    pub fn new(tables: Arc<Tables>, catalog: &Catalog) -> Self {
        let mut places = HashMap::new();
        for stored in catalog.kinds().iter().filter(|kind| kind.conversion.is_none()) {
            let Some(prefix) = stored.prefix.clone() else { continue };
            let same = |kind: &&Arc<Kind>| kind.prefix.as_ref() == Some(&prefix) && kind.conversion.is_some();
            let others = catalog.kinds().iter().filter(same).cloned().collect();
            let head = format!(r#"{{"apiVersion":"{}","kind":"{}","metadata":{{"#, stored.api_version(), stored.gvk.kind).into_bytes();
            let kept_as = KEPT_AS.iter().find(|(group, resource, _)| stored.id.is((*group, *resource)));
            let kept_as = kept_as.map_or_else(|| stored.api_version(), |(.., version)| (*version).to_owned());
            places.insert(prefix, Place { stored: Arc::clone(stored), others, kept_as, head });
        }
        Self { places, tables }
    }

    /// The canonical JSON of what is kept under a key, in whichever form and version. The error says why it cannot be made.
    pub fn json(&self, key: &Key, kept: &Bytes) -> Result<Bytes, String> {
        match self.place(key.as_str()) {
            Some(place) => place.json(kept),
            None if kept.starts_with(b"{") => custom_json(kept),
            None if kept.starts_with(proto::MAGIC) => {
                let (api_version, kind) = proto::type_of(kept).map_err(|error| error.to_string())?;
                let schema = self.message(&api_version, &kind);
                let schema = schema.ok_or_else(|| format!("no kind {kind:?} is registered for version {api_version:?}"))?;
                let value = proto::decode(kept, &schema).map_err(|error| error.to_string())?;
                let decoded = decode::from_value(value, &schema, FieldValidation::Ignore).map_err(|error| error.to_string())?;
                canonical(decoded.value)
            }
            // No object: a key of somebody else's.
            None => Ok(kept.clone()),
        }
    }

    /// What is kept of an object's canonical JSON. The error says why it cannot be made.
    pub fn kept(&self, key: &Key, json: &Bytes, media: MediaType) -> Result<Bytes, String> {
        let (api_version, kind, schema) = match (media, self.place(key.as_str())) {
            (_, Some(Place { stored, .. })) if stored.id.is(DEFINITIONS) => return definition(json),
            (MediaType::Json, Some(place)) => return Ok(as_go_writes(&place.renamed(json))),
            (MediaType::Json, None) => return Ok(as_go_writes(json)),
            (MediaType::Protobuf, Some(Place { stored, .. })) if KEPT_AS_JSON.contains(&&*stored.id.group) => {
                return Ok(as_go_writes(json));
            }
            (MediaType::Protobuf, Some(Place { stored, kept_as, .. })) => {
                (kept_as.clone(), &*stored.gvk.kind, Some((*stored.schema).clone()))
            }
            (MediaType::Protobuf, None) => {
                let Some((api_version, kind)) = head(json) else { return Ok(json.clone()) };
                (api_version.to_owned(), kind, self.message(api_version, kind))
            }
        };
        match schema.filter(SchemaRef::has_protobuf) {
            Some(schema) => {
                let message = proto::message(json, &schema).map_err(|error| error.to_string())?;
                Ok(proto::envelope(&api_version, kind, &message).into())
            }
            None => Ok(as_go_writes(json)),
        }
    }

    fn place(&self, key: &str) -> Option<&Place> {
        key.match_indices('/').find_map(|(at, _)| self.places.get(&key[..=at]))
    }

    fn message(&self, api_version: &str, kind: &str) -> Option<SchemaRef> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.tables.kind(group, version, kind)
    }
}

/// A store with upstream's values.
pub(crate) struct Values {
    store: Arc<dyn Store>,
    codec: Codec,
    media: MediaType,
    faults: Faults,
}

impl Values {
    pub(crate) fn new(store: Arc<dyn Store>, codec: Codec, media: MediaType) -> Self {
        Self { store, codec, media, faults: Faults::default() }
    }

    /// Whether an object should be written again although nothing of it changes: it is kept in another version or form than it would be now.
    /// Upstream, too, compares what is kept, and the migration of storage versions rests on it. `version` is that of a custom kind.
    pub(crate) async fn is_stale(&self, key: &Key, version: Option<&str>) -> bool {
        let Ok(Some(entry)) = self.store.get(key).await.map(|found| found.value) else { return false };
        let Ok(json) = self.codec.json(key, &entry.value) else { return false };
        let other = version.is_some_and(|version| !items::is_of_version(&json, version));
        other || self.codec.kept(key, &json, self.media).is_ok_and(|again| again != entry.value)
    }
}

impl Translate for Values {
    const WRONG: &'static str = "object not decodable";
    const DATED: bool = true;

    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }

    async fn read(&self, key: &Key, value: &Bytes) -> Result<Bytes, String> {
        self.codec.json(key, value)
    }

    fn close(&self, key: &Key, value: &Bytes) -> Result<Bytes, StoreError> {
        self.codec.kept(key, value, self.media).map_err(StoreError::Value)
    }
}

impl Place {
    fn json(&self, kept: &Bytes) -> Result<Bytes, String> {
        let mut value: Value = if kept.starts_with(proto::MAGIC) {
            let (api_version, _) = proto::type_of(kept).map_err(|error| error.to_string())?;
            proto::decode(kept, &self.written_as(&api_version).schema).map_err(|error| error.to_string())?
        } else if kept.starts_with(&self.head) && !kept.ends_with(b"\n") {
            return Ok(kept.clone());
        } else {
            serde_json::from_slice(kept).map_err(|error| error.to_string())?
        };
        if self.stored.id.is(DEFINITIONS) && value["apiVersion"] == definitions::KEPT {
            definitions::from_v1beta1(&mut value);
        }
        let object = self.current(value)?;
        items::stored_bytes(&object).map_err(|error| error.to_string())
    }

    /// Canonical JSON under the version that stands with what is kept.
    fn renamed(&self, json: &Bytes) -> Bytes {
        let served = self.stored.api_version();
        let rest = json.strip_prefix(br#"{"apiVersion":""#).and_then(|rest| rest.strip_prefix(served.as_bytes()));
        match rest.filter(|_| self.kept_as != served) {
            Some(rest) => [br#"{"apiVersion":""#, self.kept_as.as_bytes(), rest].concat().into(),
            None => json.clone(),
        }
    }

    /// The kind of the version a value says it is of. Versions that are served no more had the fields of the one that is.
    fn written_as(&self, api_version: &str) -> &Arc<Kind> {
        self.others.iter().find(|kind| kind.api_version() == api_version).unwrap_or(&self.stored)
    }

    /// The object in the version that is stored, with defaults.
    fn current(&self, value: Value) -> Result<Object, String> {
        let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut value = self.decoded(value, self.written_as(&api_version))?;
        if let Some(Conversion::Renaming(renaming)) = &self.written_as(&api_version).conversion {
            (renaming.to_stored)(&mut value);
            value = self.decoded(value, &self.stored)?;
        }
        value["apiVersion"] = self.stored.api_version().into();
        value["kind"] = (*self.stored.gvk.kind).into();
        Object::new(value).ok_or_else(|| "it is no object".to_owned())
    }

    fn decoded(&self, value: Value, kind: &Kind) -> Result<Value, String> {
        let decoded = decode::from_value(value, &kind.schema, FieldValidation::Ignore).map_err(|error| error.to_string())?;
        let mut object = Object::new(decoded.value).ok_or_else(|| "it is no object".to_owned())?;
        default::apply(object.value_mut(), &kind.schema);
        kind.rules.default(&mut object);
        kind.rules.complete_old(&mut object);
        Ok(object.into_value())
    }
}

/// A definition as it is kept.
fn definition(json: &[u8]) -> Result<Bytes, String> {
    let mut value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    definitions::to_v1beta1(&mut value);
    canonical(value).map(|kept| as_go_writes(&kept))
}

/// A custom resource with its head first and no line end, as `items` cuts into it.
fn custom_json(kept: &Bytes) -> Result<Bytes, String> {
    let kept = kept.slice(..kept.trim_ascii_end().len());
    if head(&kept).is_some() {
        return Ok(kept);
    }
    canonical(serde_json::from_slice(&kept).map_err(|error| error.to_string())?)
}

fn canonical(value: Value) -> Result<Bytes, String> {
    let object = Object::new(value).ok_or_else(|| "it is no object".to_owned())?;
    items::stored_bytes(&object).map_err(|error| error.to_string())
}

/// `apiVersion` and `kind` of canonical JSON; `None`: it is none.
fn head(json: &[u8]) -> Option<(&str, &str)> {
    let (api_version, rest) = text(json.strip_prefix(br#"{"apiVersion":""#)?)?;
    let (kind, rest) = text(rest.strip_prefix(br#","kind":""#)?)?;
    rest.starts_with(br#","metadata":{"#).then_some((api_version, kind))
}

/// A text without escapes up to its closing quote, and what follows.
fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    let rest = bytes[end..].strip_prefix(b"\"")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, rest))
}

/// JSON as Go's encoder writes it: letters that mean something in HTML escaped, and a line end behind. Upstream compares bytes to tell
/// whether an object changes.
fn as_go_writes(json: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(json.len() + 16);
    let mut rest = &json[..];
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xe2)) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let (escape, length): (&[u8], usize) = match rest {
            [b'<', ..] => (b"\\u003c", 1),
            [b'>', ..] => (b"\\u003e", 1),
            [b'&', ..] => (b"\\u0026", 1),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            _ => (&rest[..1], 1),
        };
        out.extend_from_slice(escape);
        rest = &rest[length..];
    }
    out.extend_from_slice(rest);
    out.push(b'\n');
    out.into()
}

#[cfg(test)]
mod tests;
