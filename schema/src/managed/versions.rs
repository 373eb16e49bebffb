//! Fields that are owned in other versions of the kind than that of the request (`Updater.update` and
//! `reconcileManagedFieldsWithSchemaChanges` of structured-merge-diff's `merge/update.go`).

use std::{borrow::Cow, fmt::Debug};

use coracle_tree::{Text, Value};

use super::{Delta, Entries, Set, Who, check, compare, reconcile, set_of_names, subtract_trees};
use crate::SchemaRef;

/// Why an object cannot be had in a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unconverted {
    /// There is no such version (any more): who owns fields in it is forgotten.
    Missing,
    /// It cannot be converted.
    Failed(String),
}

/// The other versions of a kind.
pub trait Versions: Debug + Sync {
    /// The schema of a version.
    fn schema(&self, api_version: &str) -> Result<&SchemaRef, Unconverted>;

    /// An object in a version there is. If versions differ in `apiVersion` and schema alone, it is the same object.
    fn convert<'o>(&self, object: &'o Value, api_version: &str) -> Result<Cow<'o, Value>, Unconverted>;
}

/// Objects of a request as they are in each version.
#[derive(Clone, Copy)]
pub(crate) struct Views<'a> {
    schema: &'a SchemaRef,
    api_version: &'a str,
    versions: Option<&'a dyn Versions>,
}

impl<'a> Views<'a> {
    /// `schema` is that of the request's version.
    pub(crate) fn new(schema: &'a SchemaRef, who: &Who<'a>) -> Self {
        Self { schema, api_version: who.api_version, versions: who.versions }
    }

    fn schema(&self, version: &str) -> Result<&'a SchemaRef, Unconverted> {
        if version == self.api_version {
            return Ok(self.schema);
        }
        self.versions.ok_or(Unconverted::Missing)?.schema(version)
    }

    /// An object in a version, whose schema it must fit: otherwise nobody could tell what is owned in it.
    pub(crate) fn of<'o>(&self, object: &'o Value, version: &str) -> Result<(Cow<'o, Value>, &'a SchemaRef), Unconverted> {
        let schema = self.schema(version)?;
        let own = version == self.api_version;
        let said = object.get("apiVersion").and_then(Value::as_str).unwrap_or(self.api_version);
        if own && said == version {
            return Ok((Cow::Borrowed(object), schema));
        }
        let made = self.versions.ok_or(Unconverted::Missing)?.convert(object, version)?;
        check(schema, &made).map_err(Unconverted::Failed)?;
        Ok((made, schema))
    }
}

/// What is there, in the versions besides that of the request in which somebody owns fields.
pub(crate) struct Others<'a, 'o>(Vec<Other<'a, 'o>>);

struct Other<'a, 'o> {
    version: String,
    schema: &'a SchemaRef,
    live: Option<Cow<'o, Value>>,
}

impl<'a, 'o> Others<'a, 'o> {
    /// Those of `entries`, which are brought up to the schemas as they are now; entries in versions that are missing are dropped.
    pub(crate) fn of(views: &Views<'a>, entries: &mut Entries, live: Option<&'o Value>) -> Result<Self, String> {
        let mut found: Vec<Other<'a, 'o>> = Vec::new();
        let mut gone: Vec<Text> = Vec::new();
        for entry in &mut entries.0 {
            let version = entry.api_version.as_str();
            let schema = if version == views.api_version {
                views.schema
            } else if gone.iter().any(|known| known == version) {
                continue;
            } else if let Some(known) = found.iter().find(|known| known.version == version) {
                known.schema
            } else {
                let made = match live {
                    Some(live) => views.of(live, version).map(|(made, schema)| (Some(made), schema)),
                    None => views.schema(version).map(|schema| (None, schema)),
                };
                match made {
                    Ok((live, schema)) => {
                        found.push(Other { version: version.to_owned(), schema, live });
                        schema
                    }
                    Err(Unconverted::Missing) => {
                        gone.push(version.into());
                        continue;
                    }
                    Err(Unconverted::Failed(why)) => return Err(why),
                }
            };
            reconcile(schema, &mut entry.fields);
        }
        entries.0.retain(|entry| !gone.contains(&entry.api_version));
        Ok(Self(found))
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
    /// Between `old` (nothing: the object is being created) and `new`, in the version of the request. What the endpoint does not write
    /// counts as unchanged.
    pub(crate) fn between(schema: &SchemaRef, old: Option<&Value>, new: &Value, who: &Who<'_>) -> Self {
        Self { own: delta(schema, old, new, &set_of_names(who.reset)), others: Vec::new() }
    }

    /// The same, also in the versions in which `owners` own fields. Of custom resources upstream knows what the endpoint does not write
    /// in the version of the request alone, unless it is that of the status.
    pub(crate) fn in_versions<'a>(
        views: &Views<'a>,
        old: Option<&Value>,
        new: &Value,
        who: &Who<'a>,
        (others, owners): (&Others<'a, '_>, &Entries),
    ) -> Result<Self, String> {
        let mut made = Self::between(views.schema, old, new, who);
        let own_only = views.schema.custom().is_some() && who.subresource != "status";
        let reset = if own_only { Set::new() } else { set_of_names(who.reset) };
        for other in others.0.iter().filter(|other| owners.0.iter().any(|owner| owner.api_version == other.version)) {
            let new = match views.of(new, &other.version) {
                Ok((new, _)) => new,
                Err(Unconverted::Missing) => continue,
                Err(Unconverted::Failed(why)) => return Err(format!("failed to convert new object: {why}")),
            };
            made.others.push((other.version.clone(), delta(other.schema, other.live.as_deref(), &new, &reset)));
        }
        Ok(made)
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

fn delta(schema: &SchemaRef, old: Option<&Value>, new: &Value, reset: &Set) -> Delta {
    let mut made = compare(schema, old, new);
    subtract_trees(&mut made.changed, reset);
    subtract_trees(&mut made.removed, reset);
    made
}
