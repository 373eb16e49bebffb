//! Fields that are owned in other versions of the kind than that of the request (`Updater.update` of structured-merge-diff's
//! `merge/update.go`, with the converter of custom resources that changes `apiVersion` and nothing else).

use std::fmt::Debug;

use serde_json::Value;

use super::{Delta, Entries, Set, Who, check, compare, set_of_names, subtract_trees};
use crate::SchemaRef;

/// The versions of a kind whose objects differ from one another in `apiVersion` and schema alone.
pub trait Versions: Debug + Sync {
    /// The schema of a version; `None`: there is no such version (any more).
    fn schema(&self, api_version: &str) -> Option<&SchemaRef>;
}

/// The versions besides that of the request in which somebody owns fields.
#[derive(Default)]
pub(crate) struct Others<'a>(Vec<(String, &'a SchemaRef)>);

impl<'a> Others<'a> {
    /// Those of `entries`. What is there (`live`) must fit each of them: otherwise nobody could tell what is owned in it.
    pub(crate) fn of(entries: &Entries, live: Option<&Value>, who: &Who<'a>) -> Result<Self, String> {
        let mut found: Vec<(String, &SchemaRef)> = Vec::new();
        let Some(versions) = who.versions else { return Ok(Self(found)) };
        for entry in &entries.0 {
            let version = entry.api_version.as_str();
            if version == who.api_version || found.iter().any(|(known, _)| known == version) {
                continue;
            }
            let unknown = || format!("request to convert CR to an invalid group/version: {version}");
            let schema = versions.schema(version).ok_or_else(unknown)?;
            if let Some(live) = live {
                check(schema, live)?;
            }
            found.push((version.to_owned(), schema));
        }
        Ok(Self(found))
    }

    /// Whether an object fits one of these versions, if it is one of them.
    pub(crate) fn check_in(&self, version: &str, object: &Value) -> Result<(), String> {
        self.0.iter().find(|(known, _)| known == version).map_or(Ok(()), |(_, schema)| check(schema, object))
    }

    /// Whether an object fits all of these versions.
    pub(crate) fn check(&self, object: &Value) -> Result<(), String> {
        self.0.iter().try_for_each(|(_, schema)| check(schema, object))
    }
}

/// What a write changed, in each version in which somebody owns fields.
#[derive(Debug, Default)]
pub(crate) struct Deltas {
    /// In the version of the request.
    pub(crate) own: Delta,
    others: Vec<(String, Delta)>,
}

impl Deltas {
    /// Between `old` (nothing: the object is being created) and `new`. What the endpoint does not write counts as unchanged, in the version
    /// of the request: upstream knows of no other.
    pub(crate) fn between(schema: &SchemaRef, old: Option<&Value>, new: &Value, others: &Others<'_>, who: &Who<'_>) -> Self {
        let reset = set_of_names(who.reset);
        let mut own = compare(schema, old, new);
        subtract_trees(&mut own.changed, &reset);
        subtract_trees(&mut own.removed, &reset);
        let others = others.0.iter().map(|(version, schema)| (version.clone(), compare(schema, old, new))).collect();
        Self { own, others }
    }

    /// What was added or modified, to somebody who owns fields in `version`.
    pub(crate) fn changed(&self, version: &str) -> &Set {
        &self.in_version(version).changed
    }

    /// What was removed, to somebody who owns fields in `version`.
    pub(crate) fn removed(&self, version: &str) -> &Set {
        &self.in_version(version).removed
    }

    fn in_version(&self, version: &str) -> &Delta {
        self.others.iter().find(|(known, _)| known == version).map_or(&self.own, |(_, delta)| delta)
    }
}
