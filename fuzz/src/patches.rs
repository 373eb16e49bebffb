//! Patches of all three kinds.

use coracle_schema::patch::{json_patch, merge_patch, strategic_merge_patch};
use coracle_tree::Value;

use crate::kind;

/// `object \xFF patch`: the result is JSON within bounds, or a reason.
pub(crate) fn patches(data: &[u8]) {
    let Some((schema, rest)) = kind(data) else { return };
    let Some(at) = rest.iter().position(|b| *b == 0xFF) else { return };
    let (object, patch) = (&rest[..at], &rest[at + 1..]);
    let Ok(object @ Value::Object(_)) = serde_json::from_slice::<Value>(object) else { return };
    let _ = json_patch(object.clone(), patch);
    let Ok(patch) = serde_json::from_slice::<Value>(patch) else { return };
    if let Ok(merged) = merge_patch(object.clone(), patch.clone()) {
        let again = merge_patch(merged.clone(), patch.clone());
        assert_eq!(again.ok(), Some(merged), "a merge patch is idempotent");
    }
    let _ = strategic_merge_patch(&schema, object, patch);
}
