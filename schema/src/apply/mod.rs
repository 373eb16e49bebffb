//! Server-side apply: merges what a manager wants into what is there, by ownership (structured-merge-diff's `merge/update.go` and
//! apimachinery's `util/managedfields`).
//!
//! Fields that somebody owns in another version of the kind are looked at in that version, into which [`managed::Versions`] converts; who
//! owns something in a version that is missing is forgotten.

mod conflict;
mod last_applied;
mod merge;
mod owned;
mod prune;

use coracle_tree::Value;

pub use conflict::{Conflict, Conflicts};

use crate::{
    SchemaRef,
    managed::{self, Deltas, Entries, Entry, Others, Views, Who, node::Node},
};

/// The manager whose applies carry on what `kubectl apply` without `--server-side` began.
const KUBECTL: &str = "kubectl";
/// Who owns what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Why an apply was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields with another value: 409 `Conflict`.
    #[error("{}", .0.message())]
    Conflicts(Conflicts),
    /// The request makes no sense: 400 `BadRequest`.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration, or the object in a version in which somebody owns fields of it, does not fit the schema: upstream answers 500
    /// without a reason, with exactly this message.
    #[error("{0}")]
    Mistyped(String),
}

/// The object that results when `who` applies `config` to `live` (nothing: it is created), `metadata.managedFields` included. It is not
/// defaulted, pruned or validated. `force` takes fields from others instead of failing.
pub fn apply(schema: &SchemaRef, live: Option<&Value>, config: &Value, who: &Who<'_>, force: bool) -> Result<Value, ApplyError> {
    check_head(config, who)?;
    let mistyped = |e: String| {
        let text = |path: &str| config.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let version = if who.api_version.contains('/') { who.api_version.into() } else { format!("/{}", who.api_version) };
        let message = format!("failed to create typed patch object ({namespace}/{name}; {version}, Kind={}): {e}", who.kind);
        ApplyError::Mistyped(message)
    };
    managed::check(schema, config).map_err(mistyped)?;

    let list = live.and_then(|live| live.get("metadata")?.get("managedFields")).cloned().unwrap_or_default();
    let mut entries = Entries::stored(list);
    if entries.0.is_empty()
        && let Some(live) = live
    {
        let who = Who { manager: BEFORE_FIRST_APPLY, ..*who };
        managed::record(&mut entries, Deltas::between(schema, None, live, &who), &who);
    }

    let views = Views::new(schema, who);
    let others = Others::of(&views, &mut entries, live).map_err(ApplyError::Mistyped)?;
    let attempt = Attempt { schema, views, live, config, who, others };
    let made = if who.manager == KUBECTL && !force {
        match attempt.run(entries.clone(), false) {
            Err(ApplyError::Conflicts(conflicts)) => match last_applied::remaining(&attempt, conflicts)? {
                None => attempt.run(entries, true),
                Some(conflicts) => Err(ApplyError::Conflicts(conflicts)),
            },
            made => made,
        }
    } else {
        attempt.run(entries, force)
    };
    let (mut object, entries) = made?;
    if who.manager == KUBECTL {
        last_applied::renew(&mut object, config);
    }
    managed::put_list(&mut object, entries);
    Ok(object)
}

/// `live` with `config` merged in as an apply merges it, without owners: what a mutating policy's configuration does. Atomic lists, maps
/// and messages may not be in it (apiserver `admission/plugin/policy/mutating/patch/smd.go`).
pub fn overlay(schema: &SchemaRef, live: &Value, config: &Value) -> Result<Value, String> {
    managed::check(schema, config).map_err(|e| format!("failed to convert patch object to typed object: {e}"))?;
    let root = Node::root(schema);
    let mut atomics = Vec::new();
    find_atomics(&schema.schema, root, config, "", &mut atomics);
    if !atomics.is_empty() {
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", atomics.join(", ")));
    }
    Ok(merge::merge(&schema.schema, root, live, config))
}

fn find_atomics(schema: &crate::Schema, node: Node<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    match (node, value) {
        (Node::Leaf | Node::Atomic, Value::Object(_) | Value::Array(_)) => found.push(path.to_owned()),
        (_, Value::Object(members)) => {
            for (name, value) in members {
                if let Some(child) = node.child(schema, name) {
                    find_atomics(schema, child, value, &format!("{path}.{name}"), found);
                }
            }
        }
        (Node::List(..), Value::Array(items)) => {
            let child = node.item(schema);
            items.iter().enumerate().for_each(|(at, item)| find_atomics(schema, child, item, &format!("{path}[{at}]"), found));
        }
        _ => {}
    }
}

fn check_head(config: &Value, who: &Who<'_>) -> Result<(), ApplyError> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != who.api_version || kind != who.kind {
        let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
        return Err(ApplyError::BadRequest(format!("invalid object type: {version}, Kind={kind}")));
    }
    match config.pointer("/metadata/managedFields") {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(ApplyError::BadRequest("metadata.managedFields must be nil".into())),
    }
}

/// One try to apply.
struct Attempt<'a> {
    schema: &'a SchemaRef,
    views: Views<'a>,
    live: Option<&'a Value>,
    config: &'a Value,
    who: &'a Who<'a>,
    others: Others<'a, 'a>,
}

impl Attempt<'_> {
    fn run(&self, mut entries: Entries, force: bool) -> Result<(Value, Entries), ApplyError> {
        let root = Node::root(self.schema);
        let schema = &*self.schema.schema;
        let merged = match self.live {
            Some(live) => merge::objects(schema, root, live, self.config),
            None => self.config.clone(),
        };
        let reset = managed::set_of_names(self.who.reset);
        let mut fields = owned::of(schema, root, self.config);
        managed::subtract_trees(&mut fields, &reset);
        let mut entry = Entry {
            manager: self.who.manager.into(),
            applied: true,
            api_version: self.who.api_version.into(),
            subresource: self.who.subresource.into(),
            time: None,
            fields,
        };
        let last = entries.position(&entry).map(|at| entries.0.remove(at));
        entry.time = last.as_ref().and_then(|l| l.time.clone());
        let (new, compared) = match &last {
            // All that was applied is applied again, in one version: nothing can go.
            Some(last) if !(self.is_alone(last, &entries) && managed::includes(&entry.fields, &last.fields)) => {
                let pruned = prune::prune(&self.views, &merged, last, &entry, &entries);
                let pruned = pruned.map_err(|why| ApplyError::Mistyped(format!("failed to prune fields: {why}")))?;
                (pruned.stored, Some(pruned.compared))
            }
            _ => (merged, None),
        };

        let deltas = match self.live {
            Some(live) => {
                let new = compared.as_ref().unwrap_or(&new);
                Deltas::in_versions(&self.views, Some(live), new, self.who, (&self.others, &entries)).map_err(ApplyError::Mistyped)?
            }
            None => Deltas::default(),
        };
        if !force {
            conflict::none(&entries, &deltas).map_err(ApplyError::Conflicts)?;
        }
        entries.take(&deltas);

        managed::strip(&mut entry.fields);
        if self.live.is_none_or(|live| !managed::same_rest(live, &new)) {
            entry.time = Some(self.who.now.into());
        }
        if !entry.fields.is_empty() {
            entries.0.push(entry);
        }
        Ok((new, entries))
    }

    /// Whether all owners own fields in the version of the request.
    fn is_alone(&self, last: &Entry, others: &Entries) -> bool {
        others.0.iter().chain([last]).all(|entry| entry.api_version == self.who.api_version)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream;
