//! Claims for devices: counts that follow from the allocation mode (upstream `apis/resource/v1`).

use serde_json::Value;

use super::view;
use crate::registry::{Object, Rules};

/// Rules of `resourceclaims` and `resourceclaimtemplates`.
pub(super) struct ResourceClaim {
    /// Where the claim's spec is.
    pub(super) spec: &'static str,
}

impl Rules for ResourceClaim {
    fn default(&self, object: &mut Object) {
        let devices = object.value_mut().pointer_mut(self.spec).and_then(|spec| spec.get_mut("devices"));
        let Some(devices) = devices else { return };
        for request in view::items_mut(devices, "requests") {
            if let Some(exactly) = view::message_mut(request, "exactly") {
                count(exactly);
            }
            view::items_mut(request, "firstAvailable").for_each(count);
        }
    }
}

fn count(request: &mut Value) {
    if view::text(request, "allocationMode") == "ExactCount" && view::int(request, "count").unwrap_or_default() == 0 {
        request["count"] = 1.into();
    }
}
