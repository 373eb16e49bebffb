//! How volumes are made: classes of storage and the drivers behind them (upstream `apis/storage/validation`).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::view;
use crate::registry::{Object, Part, Policy, Rules};

/// Rules of `storageclasses`.
pub(super) struct StorageClass;

/// Rules of `csidrivers`.
pub(super) struct CsiDriver;

impl Rules for CsiDriver {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let spec = view::member(new.value(), "spec");
        let requests = |of: &Value| view::list(of, "tokenRequests").to_vec();
        let same = old.is_some_and(|old| requests(view::member(old.value(), "spec")) == requests(spec));
        if same || requests(spec).is_empty() || view::get(spec, "serviceAccountTokenInSecrets").is_some() {
            return Vec::new();
        }
        let text = "if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
        vec![format!("spec.serviceAccountTokenInSecrets is unset; {text}")]
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.volumeLifecycleModes"]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        if let Some(policy) = view::get(spec, "fsGroupPolicy").and_then(Value::as_str)
            && !["File", "None", "ReadWriteOnceWithFSType"].contains(&policy)
        {
            errors.not_supported("spec.fsGroupPolicy", view::quoted(policy), &["File", "None", "ReadWriteOnceWithFSType"]);
        }
        let mut audiences = HashSet::new();
        for (at, request) in view::list(spec, "tokenRequests").iter().enumerate() {
            let path = format!("spec.tokenRequests[{at}]");
            let audience = view::text(request, "audience");
            if !audiences.insert(audience) {
                errors.duplicate(format!("{path}.audience"), view::quoted(audience));
                continue;
            }
            let path = format!("{path}.expirationSeconds");
            match view::int(request, "expirationSeconds") {
                Some(seconds) if seconds < 600 => errors.invalid(path, seconds, "may not specify a duration less than 10 minutes"),
                Some(seconds) if seconds > 1 << 32 => errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"),
                _ => {}
            }
        }
        for mode in view::texts(spec, "volumeLifecycleModes").filter(|mode| !["Persistent", "Ephemeral"].contains(mode)) {
            errors.not_supported("spec.volumeLifecycleModes", view::quoted(mode), &["Persistent", "Ephemeral"]);
        }
        if let Some(seconds) = view::int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|seconds| *seconds < 10) {
            errors.invalid("spec.nodeAllocatableUpdatePeriodSeconds", seconds, "must be greater than or equal to 10 seconds");
        }
        if let Some(secret) = view::get(spec, "serviceAccountTokenInSecrets").filter(|_| view::list(spec, "tokenRequests").is_empty()) {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.invalid("spec.serviceAccountTokenInSecrets", secret, detail);
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let (spec, before) = (view::member(new.value(), "spec"), view::member(old.value(), "spec"));
        for (field, shown) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
            if view::get(spec, field) != view::get(before, field) {
                errors.invalid(format!("spec.{shown}"), view::member(spec, field), "field is immutable");
            }
        }
        errors
    }
}

/// Where volumes of a class may be (`ValidateTopologySelectorTerm`).
fn topologies(class: &Value, errors: &mut FieldErrors) {
    let mut terms: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (at, term) in view::list(class, "allowedTopologies").iter().enumerate() {
        let path = format!("allowedTopologies[{at}].matchLabelExpressions");
        let mut keys = BTreeMap::new();
        for (at, expression) in view::list(term, "matchLabelExpressions").iter().enumerate() {
            let path = format!("{path}[{at}]");
            let mut values = BTreeSet::new();
            if view::list(expression, "values").is_empty() {
                errors.required(format!("{path}.values"), "");
            }
            for (at, value) in view::texts(expression, "values").enumerate() {
                if !values.insert(value) {
                    errors.duplicate(format!("{path}.values[{at}]"), view::quoted(value));
                }
            }
            let key = view::text(expression, "key");
            errors.invalid_each(&format!("{path}.key"), key, name::qualified(key));
            if keys.insert(key, values).is_some() {
                errors.duplicate(format!("{path}.key"), view::quoted(key));
            }
        }
        // A term without expressions equals the nothing upstream begins with.
        if keys.is_empty() || terms.contains(&keys) {
            errors.duplicate(path, "\"\"");
        }
        terms.push(keys);
    }
}

impl Rules for StorageClass {
    fn unheard(&self) -> &'static [&'static str] {
        &["allowedTopologies.matchLabelExpressions.key", "allowedTopologies.matchLabelExpressions.values", "reclaimPolicy"]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let class = new.value();
        let provisioner = view::text(class, "provisioner");
        if !provisioner.is_empty() {
            // Upstream shows it as it looks at it.
            let provisioner = provisioner.to_lowercase();
            errors.invalid_each("provisioner", &provisioner, name::qualified(&provisioner));
        }
        for key in view::map(class, "parameters").keys().filter(|key| key.is_empty()) {
            errors.invalid("parameters", view::quoted(key), "field can not be empty.");
        }
        let policy = view::text(class, "reclaimPolicy");
        if !["", "Delete", "Retain"].contains(&policy) {
            errors.not_supported("reclaimPolicy", view::quoted(policy), &["Delete", "Retain"]);
        }
        topologies(class, &mut errors);
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            // Upstream does not show what was sent.
            if view::get(new.value(), field) != view::get(old.value(), field) {
                errors.invalid(field, Value::Null, "field is immutable");
            }
        }
        errors
    }
}
