//! Conflicts: fields that an apply would change although others own them (apimachinery's `managedfields/internal/conflict.go`).

use crate::managed::{Deltas, Entries, Entry, intersection, paths};

/// A field that somebody else owns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The owner as messages name it: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`
    pub path: String,
}

/// All conflicts of an apply, by owner. Each is a cause of reason `FieldManagerConflict` in the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflicts(pub Vec<Conflict>);

impl Conflict {
    /// The message of its cause.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.manager)
    }
}

impl Conflicts {
    /// The message of the whole answer.
    pub fn message(&self) -> String {
        if let [only] = self.0.as_slice() {
            return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.path);
        }
        let mut lines = Vec::with_capacity(self.0.len() + 1);
        let mut manager = None;
        for conflict in &self.0 {
            if manager != Some(&conflict.manager) {
                lines.push(format!("conflicts with {}:", conflict.manager));
                manager = Some(&conflict.manager);
            }
            lines.push(format!("- {}", conflict.path));
        }
        format!("Apply failed with {} conflicts: {}", self.0.len(), lines.join("\n"))
    }
}

/// Fails if anybody in `entries` owns any of the paths that were changed.
pub(super) fn none(entries: &Entries, deltas: &Deltas) -> Result<(), Conflicts> {
    let mut owners: Vec<&Entry> = entries.0.iter().collect();
    owners.sort_by_cached_key(|owner| identifier(owner));
    let mut conflicts = Vec::new();
    for owner in owners {
        let manager = printed(owner);
        let theirs = paths(&intersection(&owner.fields, deltas.changed(&owner.api_version)));
        conflicts.extend(theirs.into_iter().map(|path| Conflict { manager: manager.clone(), path }));
    }
    if conflicts.is_empty() { Ok(()) } else { Err(Conflicts(conflicts)) }
}

/// The text by which upstream tells owners apart, and orders them.
fn identifier(owner: &Entry) -> String {
    let operation = if owner.applied { "Apply" } else { "Update" };
    let version = if owner.applied { "" } else { &owner.api_version };
    let members =
        [("manager", owner.manager.as_str()), ("operation", operation), ("apiVersion", version), ("subresource", &owner.subresource)];
    let members: Vec<String> = members.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k:?}:{v:?}")).collect();
    format!("{{{}}}", members.join(","))
}

fn printed(owner: &Entry) -> String {
    let mut text = format!("{:?}", owner.manager);
    if !owner.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", owner.subresource));
    }
    if !owner.applied {
        text.push_str(&format!(" using {}", owner.api_version));
    }
    text
}
