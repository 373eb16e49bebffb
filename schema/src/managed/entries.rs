//! The entries of `metadata.managedFields`: who owns what, and the rules for reading, writing and bounding them
//! (apimachinery's `managedfields/internal/managedfields.go` and `capmanagers.go`).

use std::{cmp::Ordering, collections::HashMap};

use coracle_tree::{Map, Text, Value};

use super::{
    Deltas, element,
    set::{self, Set},
};

/// More update entries than this are merged, the oldest first.
const MAX_UPDATERS: usize = 10;
/// Who owns the fields of merged entries.
const MERGED_UPDATERS: &str = "ancient-changes";

/// One entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) manager: Text,
    /// Operation `Apply`; otherwise `Update`.
    pub(crate) applied: bool,
    pub(crate) api_version: Text,
    pub(crate) subresource: Text,
    /// RFC 3339; an entry made by a write that changed nothing has none.
    pub(crate) time: Option<Text>,
    pub(crate) fields: Set,
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries(pub(crate) Vec<Entry>);

impl Entry {
    /// Whether both are entries of the same manager. Appliers are the same across versions.
    fn is(&self, other: &Self) -> bool {
        self.applied == other.applied
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    /// The order of entries on the wire.
    fn order(&self, other: &Self) -> Ordering {
        let key = |e: &Self| !e.applied;
        let time = |e: &Self| e.time.clone().unwrap_or_default();
        key(self)
            .cmp(&key(other))
            .then_with(|| time(self).cmp(&time(other)))
            .then_with(|| self.manager.cmp(&other.manager))
            .then_with(|| self.api_version.cmp(&other.api_version))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }

    /// Reads an entry that we wrote.
    fn trusted(entry: Value) -> Option<Self> {
        let Value::Object(mut entry) = entry else { return None };
        let mut text = |name: &str| match entry.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let manager = text("manager").unwrap_or_default();
        let applied = text("operation").as_deref() == Some("Apply");
        let (api_version, subresource) = (text("apiVersion").unwrap_or_default(), text("subresource").unwrap_or_default());
        let time = text("time");
        let fields = match entry.remove("fieldsV1") {
            Some(Value::Object(fields)) => fields,
            _ => Set::new(),
        };
        Some(Self { manager, applied, api_version, subresource, time, fields })
    }

    /// Reads an entry that a client sent, or says what is wrong with it.
    fn checked(at: usize, entry: Value) -> Result<Self, String> {
        match entry.get("operation").and_then(Value::as_str) {
            Some("Apply" | "Update") => {}
            _ => return Err("operation must be `Apply` or `Update`".into()),
        }
        match entry.get("fieldsType").and_then(Value::as_str) {
            Some("FieldsV1") => {}
            None | Some("") => return Err(format!("missing fieldsType in managed fields entry {at}")),
            Some(other) => return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
        }
        let malformed = entry.get("fieldsV1").is_some_and(|fields| !fields.is_object() && !fields.is_null());
        let mut read = Self::trusted(entry).unwrap_or_default();
        if malformed {
            return Err("error decoding set: the fields are no JSON object".into());
        }
        if read.api_version.is_empty() {
            return Err("apiVersion must not be empty".into());
        }
        read.fields = element::canonical(read.fields).map_err(|e| format!("error decoding set: {e}"))?;
        Ok(read)
    }

    fn into_value(self) -> Value {
        let mut entry = Map::new();
        let mut text = |name: &str, value: Text| {
            if !value.is_empty() {
                entry.insert(name, Value::String(value));
            }
        };
        text("manager", self.manager);
        text("operation", if self.applied { "Apply" } else { "Update" }.into());
        text("apiVersion", self.api_version);
        text("time", self.time.unwrap_or_default());
        text("fieldsType", "FieldsV1".into());
        text("subresource", self.subresource);
        entry.insert("fieldsV1", Value::Object(self.fields));
        Value::Object(entry)
    }
}

impl Entries {
    /// Reads `metadata.managedFields` as we stored it.
    pub(crate) fn stored(list: Value) -> Self {
        match list {
            Value::Array(list) => Self(list.into_iter().filter_map(Entry::trusted).collect()),
            _ => Self::default(),
        }
    }

    /// Reads `metadata.managedFields` as a client sent it.
    pub(crate) fn sent(list: Value) -> Result<Self, String> {
        let Value::Array(list) = list else { return Ok(Self::default()) };
        let mut read = Self::default();
        for (at, entry) in list.into_iter().enumerate() {
            let entry = Entry::checked(at, entry)?;
            match read.position(&entry) {
                Some(at) => read.0[at] = entry,
                None => read.0.push(entry),
            }
        }
        Ok(read)
    }

    /// Where the entry of the same manager stands.
    pub(crate) fn position(&self, like: &Entry) -> Option<usize> {
        self.0.iter().position(|e| e.is(like))
    }

    /// Takes what a write changed from everybody; who owns nothing any more is forgotten.
    pub(crate) fn take(&mut self, deltas: &Deltas) {
        for entry in &mut self.0 {
            set::subtract(&mut entry.fields, deltas.changed(&entry.api_version));
            set::subtract(&mut entry.fields, deltas.removed(&entry.api_version));
        }
        self.0.retain(|e| !e.fields.is_empty());
    }

    /// Adds what `entry` owns to the entry of the same manager, and moves its time.
    pub(crate) fn join(&mut self, entry: Entry) {
        match self.position(&entry) {
            Some(at) => {
                let own = &mut self.0[at];
                set::add(&mut own.fields, &entry.fields);
                own.time = entry.time;
            }
            None => self.0.push(entry),
        }
    }

    /// Merges the oldest update entries, per version, until no more than [`MAX_UPDATERS`] are left.
    pub(crate) fn cap(&mut self) {
        let mut length = self.0.iter().filter(|e| !e.applied).count();
        if length <= MAX_UPDATERS {
            return;
        }
        self.0.sort_by(Entry::order);
        let (mut kept, updaters): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut self.0).into_iter().partition(|e| e.applied);
        // Of each version, where its first entry and then the bucket stands in `kept`.
        let mut first: HashMap<Text, usize> = HashMap::new();
        for entry in updaters {
            match first.get(&entry.api_version) {
                Some(&at) if length > MAX_UPDATERS => {
                    let bucket = &mut kept[at];
                    bucket.manager = MERGED_UPDATERS.into();
                    bucket.subresource.clear();
                    set::add(&mut bucket.fields, &entry.fields);
                    bucket.time = entry.time;
                    length -= 1;
                }
                _ => {
                    first.entry(entry.api_version.clone()).or_insert(kept.len());
                    kept.push(entry);
                }
            }
        }
        self.0 = kept;
    }

    /// As it is stored; `None` when nobody owns anything.
    pub(crate) fn into_value(mut self) -> Option<Value> {
        self.0.sort_by(Entry::order);
        (!self.0.is_empty()).then(|| Value::Array(self.0.into_iter().map(Entry::into_value).collect()))
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn updater(manager: &str, version: &str, second: u32) -> Entry {
        let fields = json!({(format!("f:{manager}")): {}}).as_object().unwrap().clone();
        let time = Some(format!("2026-01-01T00:00:{second:02}Z").into());
        Entry { manager: manager.into(), api_version: version.into(), time, fields, ..Entry::default() }
    }

    #[test]
    fn the_oldest_updaters_are_merged_per_version() {
        let mut entries = Entries((0..12).map(|n| updater(&format!("m{n:02}"), if n == 1 { "v2" } else { "v1" }, n)).collect());
        entries.cap();
        let mut names: Vec<&str> = entries.0.iter().map(|e| e.manager.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["ancient-changes", "m01", "m04", "m05", "m06", "m07", "m08", "m09", "m10", "m11"]);
        let bucket = entries.0.iter().find(|e| e.manager == MERGED_UPDATERS).unwrap();
        assert_eq!(Value::Object(bucket.fields.clone()), json!({"f:m00": {}, "f:m02": {}, "f:m03": {}}));
        assert_eq!(bucket.time.as_deref(), Some("2026-01-01T00:00:03Z"));
    }

    #[test]
    fn a_wrong_entry_of_a_client_is_refused_with_the_reason() {
        let wrong = |entry: Value| Entries::sent(json!([entry])).unwrap_err();
        assert_eq!(wrong(json!({"operation": "Create"})), "operation must be `Apply` or `Update`");
        assert_eq!(wrong(json!({"operation": "Apply"})), "missing fieldsType in managed fields entry 0");
        let fields = json!({"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"x:": {}}});
        assert!(wrong(fields).contains("unknown path element"));
    }

    #[test]
    fn appliers_come_first_and_then_the_oldest() {
        let apply = Entry { applied: true, ..updater("z", "v1", 9) };
        let value = Entries(vec![updater("b", "v1", 5), updater("a", "v1", 5), apply, updater("c", "v1", 1)]).into_value().unwrap();
        let names: Vec<&str> = value.as_array().unwrap().iter().map(|e| e["manager"].as_str().unwrap()).collect();
        assert_eq!(names, ["z", "c", "a", "b"]);
    }
}
