//! Service accounts (upstream `registry/core/serviceaccount/strategy.go`).

use coracle_tree::json;

use super::view;
use crate::registry::{Object, Part, Rules};

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Rules of `serviceaccounts`.
pub(super) struct ServiceAccount;

impl Rules for ServiceAccount {
    fn prepare(&self, new: &mut Object, _old: Option<&Object>, _part: Part<'_>) {
        // Only names count: the secrets are in the account's namespace.
        for secret in view::items_mut(new.value_mut(), "secrets") {
            let name = view::text(secret, "name").to_owned();
            *secret = if name.is_empty() { json!({}) } else { json!({ "name": name }) };
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if new.annotation(MOUNTABLE).is_none() || old.is_some_and(|old| old.annotation(MOUNTABLE).is_some()) {
            return Vec::new();
        }
        let text = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        vec![format!("metadata.annotations[{MOUNTABLE}]: {text}")]
    }
}
