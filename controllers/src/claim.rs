//! Who belongs to whom: objects that match a selector and have no controller are adopted, those that match no more are
//! released (upstream `pkg/controller/controller_ref_manager.go`).

use std::sync::Arc;

use serde_json::json;

use crate::{
    change::{Change, PatchKind, Tolerate},
    object::{Key, Kind, controller_reference},
    store::Store,
};

/// The objects of one owner, and the patches that make it so.
pub(crate) struct Claim<T> {
    /// Those that are the owner's, or will be.
    pub mine: Vec<Arc<T>>,
    /// Adoptions and releases.
    pub changes: Vec<Change>,
}

/// Claims the objects of `owner`'s namespace for it. `selects` is its selector; objects that are not `alive` are neither
/// adopted nor released: they are history.
pub(crate) fn claim<O: Kind, T: Kind>(owner: &O, store: &Store<T>, selects: impl Fn(&T) -> bool, alive: impl Fn(&T) -> bool) -> Claim<T> {
    let (mut mine, mut changes) = (Vec::new(), Vec::new());
    for object in store.owned_by(owner.uid()) {
        if selects(&object) {
            mine.push(object);
        } else if owner.deleted().is_none() && alive(&object) {
            changes.push(release(owner, object.as_ref()));
        }
    }
    if owner.deleted().is_none() {
        for object in store.orphans(owner.namespace()) {
            if object.deleted().is_none() && alive(&object) && selects(&object) {
                changes.push(adopt(owner, object.as_ref()));
                mine.push(object);
            }
        }
    }
    Claim { mine, changes }
}

fn adopt<O: Kind, T: Kind>(owner: &O, object: &T) -> Change {
    let body = json!({"metadata": {"ownerReferences": [controller_reference(owner)], "uid": object.uid()}});
    Change::patch::<T>(Key::of(object), PatchKind::Strategic, body).tolerate(Tolerate::Races)
}

fn release<O: Kind, T: Kind>(owner: &O, object: &T) -> Change {
    let body = json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner.uid()}], "uid": object.uid()}});
    Change::patch::<T>(Key::of(object), PatchKind::Strategic, body).tolerate(Tolerate::Races)
}
