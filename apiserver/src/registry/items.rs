//! What the cache keeps of an object: its wire form and the few facts that selectors look at.
//!
//! Stored JSON begins `{"apiVersion":…,"kind":…,"metadata":{` and has no resource version; the wire form is the same bytes with
//! `"resourceVersion":"N",` spliced in as the first member of metadata. The facts are read in one pass that skips everything else.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_store::{
    Key, Revision,
    cache::{Cached, Decode, Decoded},
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{kind::Catalog, object::Object, rules::Rules};

const METADATA: &[u8] = b"\"metadata\":{";
const VERSION: &[u8] = b"\"resourceVersion\":\"";

/// What filters need to know of an object beside its key.
#[derive(Debug, Default)]
pub struct Facts {
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(&'static str, Box<str>)]>,
}

impl Facts {
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// A selectable field's value; empty when the object has none.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| &**v)
    }
}

/// Makes cache items of stored bytes; knows for each key prefix which fields can be selected.
pub struct Items(HashMap<Arc<str>, Selectable>);

struct Selectable {
    rules: &'static dyn Rules,
    wanted: Wanted,
}

impl Items {
    /// For all kinds of a catalog.
    pub fn new(catalog: &Catalog) -> Self {
        let stored = catalog.kinds().iter().filter(|k| k.conversion.is_none());
        Self(stored.filter_map(|k| Some((k.prefix.clone()?, Selectable { rules: k.rules, wanted: Wanted::of(k.rules) }))).collect())
    }

    fn selectable(&self, key: &str) -> Option<&Selectable> {
        key.match_indices('/').find_map(|(at, _)| self.0.get(&key[..=at]))
    }
}

impl Decode<Facts> for Items {
    fn decode(&self, key: &Key, stored: &Bytes, revision: Revision) -> Decoded<Facts> {
        let facts = self.selectable(key.as_str()).map(|s| s.read(stored)).unwrap_or_default();
        Decoded { wire: splice(stored, revision), facts }
    }

    fn departed(&self, last: &Cached<Facts>, revision: Revision) -> Bytes {
        respliced(&last.wire, revision)
    }
}

impl Selectable {
    fn read(&self, stored: &[u8]) -> Facts {
        let mut reader = serde_json::Deserializer::from_slice(stored);
        let Ok(picked) = self.wanted.deserialize(&mut reader) else { return Facts::default() };
        let labels = picked.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect();
        let fields = self.rules.selectable(&picked).into_iter().map(|(k, v)| (k, v.into_boxed_str())).collect();
        Facts { labels, fields }
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

/// The stored form of an object: head first, no resource version.
pub fn stored_bytes(object: &Object) -> Result<Bytes, serde_json::Error> {
    let mut out = BytesMut::with_capacity(1024).writer();
    let Some(members) = object.value().as_object() else { return Ok(Bytes::new()) };
    let text = |name: &str| object.value().get(name).and_then(Value::as_str).unwrap_or_default();
    out.get_mut().put_slice(b"{\"apiVersion\":");
    serde_json::to_writer(&mut out, text("apiVersion"))?;
    out.get_mut().put_slice(b",\"kind\":");
    serde_json::to_writer(&mut out, text("kind"))?;
    out.get_mut().put_slice(b",\"metadata\":");
    write_members(&mut out, members.get("metadata").and_then(Value::as_object), &["resourceVersion"])?;
    for (name, value) in members {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            out.get_mut().put_u8(b',');
            serde_json::to_writer(&mut out, name)?;
            out.get_mut().put_u8(b':');
            serde_json::to_writer(&mut out, value)?;
        }
    }
    out.get_mut().put_u8(b'}');
    Ok(out.into_inner().freeze())
}

fn write_members(
    out: &mut bytes::buf::Writer<BytesMut>,
    members: Option<&Map<String, Value>>,
    without: &[&str],
) -> Result<(), serde_json::Error> {
    let mut open = b'{';
    for (name, value) in members.into_iter().flatten().filter(|(n, _)| !without.contains(&n.as_str())) {
        out.get_mut().put_u8(open);
        open = b',';
        serde_json::to_writer(&mut *out, name)?;
        out.get_mut().put_u8(b':');
        serde_json::to_writer(&mut *out, value)?;
    }
    if open == b'{' {
        out.get_mut().put_u8(b'{');
    }
    out.get_mut().put_u8(b'}');
    Ok(())
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
    use serde_json::json;

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
    }

    #[test]
    fn facts_are_picked_without_reading_the_rest() {
        let selectable = Selectable { rules: &Phases, wanted: Wanted::of(&Phases) };
        let text = json!({"metadata": {"labels": {"a": "b"}, "x": [1, {"labels": 2}]}, "spec": {"nodeName": "n", "y": {}}, "status": null});
        let facts = selectable.read(text.to_string().as_bytes());
        assert_eq!((facts.label("a"), facts.label("x")), (Some("b"), None));
        assert_eq!((facts.field("spec.nodeName"), facts.field("status.phase")), ("n", ""));
        assert!(selectable.read(b"not json").labels.is_empty());
    }
}
