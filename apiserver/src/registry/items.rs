//! What the cache keeps of an object: its wire form and the few facts that selectors look at.
//!
//! Stored JSON begins `{"apiVersion":…,"kind":…,"metadata":{` and has no resource version; the wire form is the same bytes with
//! `"resourceVersion":"N",` spliced in as the first member of metadata. The facts are read in one pass that skips everything else, when they are
//! first asked for.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_schema::{
    SchemaRef,
    decode::{self, MAX_NESTING},
    default,
    json::{self, TooDeep},
};
use coracle_store::{
    Key, Revision,
    cache::{Cached, Decode, Decoded},
};
use coracle_tree::{Map, Value};
use parking_lot::RwLock;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{
    convert::Conversion,
    custom::Custom,
    kind::{Kind, Shared},
    object::Object,
    rules::Rules,
    served::Catalog,
    storage::parse_wire,
};

const METADATA: &[u8] = b"\"metadata\":{";
const VERSION: &[u8] = b"\"resourceVersion\":\"";

/// What filters need to know of an object beside its key. Read when a filter first asks ([`label`], [`field`]): many objects are never
/// selected by anything but their key.
#[derive(Default)]
pub struct Facts {
    picked: OnceLock<Picked>,
    /// How they are read.
    reading: Option<Arc<Reading>>,
}

#[derive(Default)]
struct Picked {
    labels: Box<[(Box<str>, Box<str>)]>,
    /// The names of `values`, shared by all objects of the kind.
    names: Arc<[Arc<str>]>,
    values: Box<[Box<str>]>,
}

/// The value of an object's label.
pub fn label<'c>(object: &'c Cached<Facts>, key: &str) -> Option<&'c str> {
    picked(object).labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
}

/// The value of an object's selectable field; empty when it has none.
pub fn field<'c>(object: &'c Cached<Facts>, name: &str) -> &'c str {
    let picked = picked(object);
    picked.names.iter().zip(&picked.values).find(|(k, _)| &***k == name).map_or("", |(_, v)| &**v)
}

fn picked(object: &Cached<Facts>) -> &Picked {
    let Facts { picked, reading } = &object.facts;
    picked.get_or_init(|| reading.as_ref().map(|reading| reading.pick(&object.wire())).unwrap_or_default())
}

impl From<Picked> for Facts {
    fn from(picked: Picked) -> Self {
        Self { picked: OnceLock::from(picked), reading: None }
    }
}

/// The field by which agents select what is theirs of all pods: watches by it sleep until one of theirs changes.
pub const NODE: &str = "spec.nodeName";

/// Makes cache items of stored bytes; knows for each key prefix which fields can be selected.
pub struct Items(RwLock<HashMap<Arc<str>, Arc<Reading>>>);

/// How the objects under a prefix are read.
enum Reading {
    /// As they are stored.
    BuiltIn(Selectable),
    /// By the schema of a CRD, which may have changed since they were stored.
    Custom(Arc<Kind>, Arc<[Arc<str>]>),
}

impl Reading {
    fn pick(&self, object: &[u8]) -> Picked {
        match self {
            Self::BuiltIn(selectable) => selectable.pick(object),
            Self::Custom(..) => label_facts(object),
        }
    }
}

struct Selectable {
    rules: Shared<dyn Rules>,
    names: Arc<[Arc<str>]>,
    wanted: Wanted,
}

impl Items {
    /// For the built-in kinds of a catalog.
    pub fn new(catalog: &Catalog) -> Self {
        let stored = catalog.kinds().iter().filter(|k| k.conversion.is_none());
        let reading = |k: &Arc<Kind>| Some((k.prefix.clone()?, Arc::new(Reading::BuiltIn(Selectable::new(k)))));
        Self(RwLock::new(stored.filter_map(reading).collect()))
    }

    /// From now on objects are read as this custom kind's, which is the version they are stored in.
    pub fn add(&self, kind: &Arc<Kind>) {
        let Some(prefix) = kind.prefix.clone() else { return };
        let fields = kind.custom.iter().flat_map(|custom| custom.all_fields.iter());
        let names = fields.map(|field| Arc::clone(&field.name)).collect();
        self.0.write().insert(prefix, Arc::new(Reading::Custom(Arc::clone(kind), names)));
    }

    /// The kind under this prefix is gone.
    pub fn remove(&self, prefix: &str) {
        self.0.write().remove(prefix);
    }

    fn reading(&self, key: &str) -> Option<Arc<Reading>> {
        let all = self.0.read();
        key.match_indices('/').find_map(|(at, _)| all.get(&key[..=at]).cloned())
    }
}

impl Decode<Facts> for Items {
    fn decode(&self, key: &Key, stored: &Bytes, revision: Revision) -> Decoded<Facts> {
        let Some(reading) = self.reading(key.as_str()) else {
            return Decoded { wire: splice(stored, revision), facts: Facts::default() };
        };
        if let Reading::Custom(kind, names) = &*reading {
            let (current, picked) = custom(kind, names, stored);
            return Decoded { wire: splice(&current, revision), facts: picked.into() };
        }
        Decoded { facts: Facts { picked: OnceLock::new(), reading: Some(reading) }, wire: splice(stored, revision) }
    }

    fn departed(&self, last: &Cached<Facts>, revision: Revision) -> Bytes {
        respliced(&last.wire(), revision)
    }

    fn word<'c>(&self, object: &'c Cached<Facts>) -> &'c str {
        field(object, NODE)
    }
}

/// A custom resource as its CRD reads it now: pruned and defaulted by the schema of the version it is stored in, and what filters need of it.
/// The bytes pass as they are when that changes nothing. Those of a version that is no more are taken for the one stored now where nobody
/// outside converts.
fn custom(kind: &Arc<Kind>, names: &Arc<[Arc<str>]>, stored: &Bytes) -> (Bytes, Picked) {
    let as_stored = || (stored.clone(), label_facts(stored));
    let Some(of) = kind.custom.as_deref() else { return as_stored() };
    let Ok(mut object) = parse_wire(stored) else { return as_stored() };
    let known = match &kind.conversion {
        Some(Conversion::Versions(versions)) => Some(versions),
        _ => None,
    };
    let foreign = !is_of_version(stored, &of.stored);
    let local = known.is_some_and(|versions| versions.is_local());
    let schema = known.and_then(|versions| versions.versions().schema(object.text("/apiVersion")).ok());
    match schema.filter(|_| foreign) {
        Some(schema) => refresh(schema, &mut object),
        None if foreign && !local => return as_stored(),
        None => {
            object.value_mut()["apiVersion"] = (*of.stored).into();
            refresh(&kind.schema, &mut object);
        }
    }
    // Stored by a server that did not count generations yet.
    if object.generation() == 0 {
        object.set_metadata("generation", 1);
    }
    let facts = if foreign && !local { label_facts(stored) } else { custom_facts(of, names, object.value()) };
    match stored_bytes(&object) {
        Ok(current) if current != *stored => (current, facts),
        _ => (stored.clone(), facts),
    }
}

/// Brings an object into the form of the version a schema is of: pruned, with defaults.
fn refresh(schema: &SchemaRef, object: &mut Object) {
    decode::refresh(object.value_mut(), schema);
    default::apply(object.value_mut(), schema);
}

/// Whether an object's bytes, whose head is always the same, say that they are of this `apiVersion`.
pub fn is_of_version(bytes: &[u8], version: &str) -> bool {
    let rest = bytes.strip_prefix(b"{\"apiVersion\":\"").and_then(|rest| rest.strip_prefix(version.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&b'"'))
}

fn custom_facts(of: &Custom, names: &Arc<[Arc<str>]>, object: &Value) -> Picked {
    let values = of.all_fields.iter().map(|field| field.value(object).into_boxed_str()).collect();
    Picked { labels: labels(object), names: Arc::clone(names), values }
}

fn label_facts(stored: &[u8]) -> Picked {
    let mut wanted = Wanted::default();
    wanted.add("metadata.labels");
    let picked = wanted.deserialize(&mut serde_json::Deserializer::from_slice(stored));
    Picked { labels: picked.map(|picked| labels(&picked)).unwrap_or_default(), ..Picked::default() }
}

fn labels(object: &Value) -> Box<[(Box<str>, Box<str>)]> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    labels.filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect()
}

impl Selectable {
    fn new(kind: &Kind) -> Self {
        Self { rules: kind.rules.clone(), names: kind.selectable().into(), wanted: Wanted::of(&*kind.rules) }
    }

    fn pick(&self, object: &[u8]) -> Picked {
        let mut reader = serde_json::Deserializer::from_slice(object);
        let Ok(picked) = self.wanted.deserialize(&mut reader) else { return Picked::default() };
        // The rules name the same fields of every object, in the same order.
        let values = self.rules.selectable(&picked).into_iter().map(|(_, v)| v.into_boxed_str()).collect();
        Picked { labels: labels(&picked), names: Arc::clone(&self.names), values }
    }
}

/// A tree of member names; what hangs below a leaf is wanted whole.
#[derive(Default)]
struct Wanted(Vec<(&'static str, Wanted)>);

/// Selectable fields that are read from a member of another name.
const READ_FROM: &[(&str, &str)] = &[("status.successful", "status.succeeded"), ("status.podIP", "status.podIPs")];

impl Wanted {
    /// Labels, and the members the selectable fields are named after.
    fn of(rules: &dyn Rules) -> Self {
        let mut wanted = Self::default();
        wanted.add("metadata.labels");
        for (field, _) in rules.selectable(&Value::Object(Map::new())) {
            wanted.add(field);
            if let Some((_, source)) = READ_FROM.iter().find(|(name, _)| *name == field) {
                wanted.add(source);
            }
        }
        wanted
    }

    fn add(&mut self, path: &'static str) {
        let (head, tail) = path.split_once('.').map_or((path, None), |(h, t)| (h, Some(t)));
        let at = self.0.iter().position(|(name, _)| *name == head).unwrap_or_else(|| {
            self.0.push((head, Self::default()));
            self.0.len() - 1
        });
        if let Some(tail) = tail {
            self.0[at].1.add(tail);
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Wanted {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.is_empty() {
            return serde::Deserialize::deserialize(deserializer);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Wanted {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut picked = Map::new();
        while let Some(name) = map.next_key::<Name<'de>>()? {
            match self.0.iter().find(|(wanted, _)| *wanted == name.0) {
                Some((wanted, below)) => {
                    picked.insert((*wanted).to_owned(), map.next_value_seed(below)?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(picked))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }
}

/// A member name, borrowed when it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The stored form of an object: head first, no resource version. It fails when the object is nested deeper than [`MAX_NESTING`]: patches
/// could make an object of any depth, which nobody could then read or delete.
pub fn stored_bytes(object: &Object) -> Result<Bytes, TooDeep> {
    if let Some(known) = object.stored() {
        return Ok(known.clone());
    }
    let mut out = Vec::with_capacity(4096);
    let Some(members) = object.value().as_object() else { return Ok(Bytes::new()) };
    let text = |name: &str| object.value().get(name).and_then(Value::as_str).unwrap_or_default();
    out.extend_from_slice(b"{\"apiVersion\":");
    json::write_text(text("apiVersion"), &mut out);
    out.extend_from_slice(b",\"kind\":");
    json::write_text(text("kind"), &mut out);
    out.extend_from_slice(b",\"metadata\":{");
    let metadata = members.get("metadata").and_then(Value::as_object);
    let mut first = true;
    for (name, value) in metadata.into_iter().flatten().filter(|(name, _)| *name != "resourceVersion") {
        write_member(&mut out, std::mem::take(&mut first), name, value, 2)?;
    }
    out.push(b'}');
    for (name, value) in members {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            write_member(&mut out, false, name, value, 1)?;
        }
    }
    out.push(b'}');
    Ok(out.into())
}

/// Appends an object as it is. Where that is its stored form, as of most new objects, that is kept for the store.
pub fn append(object: &Object, out: &mut Vec<u8>) {
    let is_text = |name: &str| object.value().get(name).is_some_and(Value::is_string);
    let plain = |metadata: &Value| metadata.as_object().is_some_and(|metadata| !metadata.contains_key("resourceVersion"));
    if is_text("apiVersion")
        && is_text("kind")
        && object.value().get("metadata").is_some_and(plain)
        && let Ok(stored) = stored_bytes(object)
    {
        out.extend_from_slice(&stored);
        return object.keep_stored(stored);
    }
    // However deep: it was read or made here.
    let _cannot_fail = json::write(object.value(), usize::MAX, out);
}

/// A member of something that is so many levels deep.
fn write_member(out: &mut Vec<u8>, first: bool, name: &str, value: &Value, depth: usize) -> Result<(), TooDeep> {
    if !first {
        out.push(b',');
    }
    json::write_text(name, out);
    out.push(b':');
    json::write(value, MAX_NESTING - depth, out)
}

/// The wire form: stored bytes with the resource version in metadata. Bytes of another shape pass as they are.
pub fn splice(stored: &Bytes, revision: Revision) -> Bytes {
    let Some(at) = stored.windows(METADATA.len()).position(|w| w == METADATA) else { return stored.clone() };
    let at = at + METADATA.len();
    let mut out = BytesMut::with_capacity(stored.len() + VERSION.len() + 24);
    out.put_slice(&stored[..at]);
    put_version(&mut out, revision);
    if stored.get(at) != Some(&b'}') {
        out.put_u8(b',');
    }
    out.put_slice(&stored[at..]);
    out.freeze()
}

/// The resource version in a wire form; 0 when it has none.
pub fn revision_of(wire: &[u8]) -> Revision {
    let start = wire.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len());
    let digits = start.and_then(|at| wire[at..].strip_prefix(VERSION)).unwrap_or_default();
    let number =
        digits.iter().take_while(|b| b.is_ascii_digit()).fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0')));
    Revision(number)
}

/// The wire form with another resource version.
pub fn respliced(wire: &Bytes, revision: Revision) -> Bytes {
    let Some(at) = wire.windows(METADATA.len()).position(|w| w == METADATA) else { return wire.clone() };
    let at = at + METADATA.len();
    let rest = &wire[at..];
    let Some(digits) = rest.strip_prefix(VERSION) else { return wire.clone() };
    let Some(end) = digits.iter().position(|b| *b == b'"') else { return wire.clone() };
    let mut out = BytesMut::with_capacity(wire.len() + 8);
    out.put_slice(&wire[..at]);
    put_version(&mut out, revision);
    out.put_slice(&digits[end + 1..]);
    out.freeze()
}

fn put_version(out: &mut BytesMut, revision: Revision) {
    out.put_slice(VERSION);
    out.put_slice(revision.to_string().as_bytes());
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use coracle_store::Entry;

    use super::*;

    struct Phases;

    impl Rules for Phases {
        fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
            let text = |p: &str| object.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
            vec![("spec.nodeName", text("/spec/nodeName")), ("status.phase", text("/status/phase"))]
        }
    }

    #[test]
    fn the_wire_form_is_the_stored_form_with_its_version() {
        let object =
            Object::new(json!({"kind": "Pod", "apiVersion": "v1", "aa": 1, "metadata": {"name": "a", "resourceVersion": "3"}})).unwrap();
        let stored = stored_bytes(&object).unwrap();
        assert_eq!(stored, r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"aa":1}"#);
        let wire = splice(&stored, Revision(12));
        assert_eq!(wire, r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"12","name":"a"},"aa":1}"#);
        assert_eq!(respliced(&wire, Revision(7)), splice(&stored, Revision(7)));
        assert_eq!((revision_of(&wire), revision_of(&stored)), (Revision(12), Revision(0)));
    }

    #[test]
    fn a_stored_form_that_was_made_before_is_that_of_the_object_as_it_is() {
        let shown = |object: &Object| {
            let mut out = Vec::new();
            append(object, &mut out);
            String::from_utf8(out).unwrap()
        };
        let mut object = Object::new(json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {}})).unwrap();
        assert_eq!(shown(&object), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}"#);
        object.adjust(|_| false);
        assert!(object.stored().is_some());
        object.adjust(|value| std::mem::replace(&mut value["spec"], json!({"y": 2})) != json!({"y": 2}));
        assert!(object.stored().is_none());
        object.member_mut("spec").clear();
        shown(&object);
        object.set_metadata("uid", "u");
        assert_eq!(stored_bytes(&object).unwrap(), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"u"},"spec":{}}"#);
        shown(&object);
        object.member_mut("spec").insert("x".to_owned(), 1.into());
        object.set_metadata("resourceVersion", "3");
        assert!(shown(&object).contains(r#""resourceVersion":"3","uid":"u"},"spec":{"x":1}"#));
        assert!(!stored_bytes(&object).unwrap().windows(15).any(|w| w == b"resourceVersion"));
        let bare = Object::new(json!({"a": 1})).unwrap();
        assert_eq!(shown(&bare), r#"{"a":1}"#, "nothing is added to what has no type or metadata");
    }

    #[test]
    fn facts_are_picked_without_reading_the_rest() {
        let names = ["spec.nodeName", "status.phase"].map(Arc::from).into();
        let selectable = Selectable { rules: Shared::Static(&Phases), names, wanted: Wanted::of(&Phases) };
        let text = json!({"metadata": {"labels": {"a": "b"}, "x": [1, {"labels": 2}]}, "spec": {"nodeName": "n", "y": {}}, "status": null});
        let entry = Entry { key: "/pods/a".into(), value: Bytes::new(), revision: Revision(1), created: Revision(1) };
        let facts = Facts { reading: Some(Arc::new(Reading::BuiltIn(selectable))), ..Facts::default() };
        let pod = Cached::new(&entry, Decoded { wire: text.to_string().into(), facts });
        assert_eq!((label(&pod, "a"), label(&pod, "x")), (Some("b"), None));
        assert_eq!((field(&pod, "spec.nodeName"), field(&pod, "status.phase")), ("n", ""));
        let facts = Facts { reading: pod.facts.reading, ..Facts::default() };
        assert_eq!(label(&Cached::new(&entry, Decoded { wire: "not json".into(), facts }), "a"), None);
    }
}
