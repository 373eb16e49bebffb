//! Moving from `kubectl apply` to `kubectl apply --server-side`: the last-applied annotation counts as ownership, and is kept up for
//! clients that still use it (apimachinery's `lastappliedmanager.go` and `lastappliedupdater.go`).

use coracle_tree::Value;

use super::{ApplyError, Attempt, Conflicts, owned};
use crate::{
    go,
    managed::{self, node::Node},
};

/// Where client-side apply keeps what it applied.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together may have this many bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The conflicts that the last-applied annotation does not explain: `None` if it explains them all and the apply may be forced.
pub(super) fn remaining(attempt: &Attempt<'_>, conflicts: Conflicts) -> Result<Option<Conflicts>, ApplyError> {
    let Some(allowed) = explained(attempt) else { return Ok(Some(conflicts)) };
    let left: Vec<_> = conflicts.0.into_iter().filter(|c| !allowed.contains(&c.path)).collect();
    Ok(if left.is_empty() { None } else { Some(Conflicts(left)) })
}

/// The paths that were applied on the client's side and still have the value applied then.
fn explained(attempt: &Attempt<'_>) -> Option<std::collections::HashSet<String>> {
    let live = attempt.live?;
    let text = annotations(live)?.get(ANNOTATION)?.as_str().filter(|t| !t.is_empty())?;
    let applied: Value = serde_json::from_str(text).ok()?;
    if applied.get("apiVersion")?.as_str()? != attempt.who.api_version {
        return None;
    }
    let mut fields = owned::of(&attempt.schema.schema, Node::root(attempt.schema), &applied);
    let delta = managed::compare(attempt.schema, Some(&applied), live);
    managed::subtract(&mut fields, &delta.changed);
    managed::subtract(&mut fields, &delta.removed);
    Some(managed::paths(&fields).into_iter().collect())
}

/// Writes the configuration into the annotation of an object that has one; drops it when it has become too large.
pub(super) fn renew(object: &mut Value, config: &Value) {
    let has_one = annotations(object).and_then(|a| a.get(ANNOTATION)).and_then(Value::as_str).is_some_and(|t| !t.is_empty());
    if !has_one {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{}\n", go::json(&config));
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    annotations.insert(ANNOTATION, text.into());
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}

fn annotations(object: &Value) -> Option<&coracle_tree::Map> {
    object.pointer("/metadata/annotations")?.as_object()
}
