//! Roles and their bindings (upstream `apis/rbac/validation`).

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::Value;

use super::{template, view};
use crate::registry::{Object, Part, Policy, Rules};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Rules of `roles` and `clusterroles`.
pub(super) struct Role {
    /// Whether its objects live in namespaces.
    pub(super) namespaced: bool,
}

/// Rules of `rolebindings` and `clusterrolebindings`.
pub(super) struct RoleBinding {
    /// Whether its objects live in namespaces.
    pub(super) namespaced: bool,
}

impl Rules for Role {
    fn policy(&self) -> Policy {
        Policy::CREATING
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "rules.apiGroups",
            "rules.resources",
            "rules.nonResourceURLs",
            "rules.verbs",
            "rules",
            "aggregationRule.clusterRoleSelectors.",
        ]
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        for (at, rule) in view::list(new.value(), "rules").iter().enumerate() {
            policy_rule(rule, self.namespaced, &format!("rules[{at}]"), &mut errors);
        }
        if let Some(aggregation) = view::get(new.value(), "aggregationRule") {
            let path = "aggregationRule.clusterRoleSelectors";
            let selectors = view::list(aggregation, "clusterRoleSelectors");
            if selectors.is_empty() {
                errors.required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
            }
            for (at, given) in selectors.iter().enumerate() {
                let path = format!("{path}[{at}]");
                selector::validate_object(given, &path, &mut errors);
                if selector::LabelSelector::from_object(Some(given)).is_err() {
                    errors.invalid(path, Value::Null, "invalid label selector.");
                }
            }
        }
        errors
    }
}

fn policy_rule(rule: &Value, namespaced: bool, path: &str, errors: &mut FieldErrors) {
    // That there are verbs is in the tables.
    let list = |name| view::list(rule, name);
    if !list("nonResourceURLs").is_empty() {
        let urls = view::member(rule, "nonResourceURLs");
        if namespaced {
            errors.invalid(format!("{path}.nonResourceURLs"), urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !list(field).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(format!("{path}.nonResourceURLs"), urls, detail);
        }
        return;
    }
    if list("apiGroups").is_empty() {
        errors.required(format!("{path}.apiGroups"), "resource rules must supply at least one api group");
    }
    if list("resources").is_empty() {
        errors.required(format!("{path}.resources"), "resource rules must supply at least one resource");
    }
}

impl Rules for RoleBinding {
    fn policy(&self) -> Policy {
        Policy::CREATING
    }

    fn default(&self, object: &mut Object) {
        for subject in view::items_mut(object.value_mut(), "subjects") {
            if ["User", "Group"].contains(&view::text(subject, "kind")) && view::text(subject, "apiGroup").is_empty() {
                subject["apiGroup"] = GROUP.into();
            }
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let role = view::member(new.value(), "roleRef");
        let group = view::text(role, "apiGroup");
        if group != GROUP {
            errors.not_supported("roleRef.apiGroup", view::quoted(group), &[GROUP]);
        }
        let kinds: &[&str] = if self.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        let kind = view::text(role, "kind");
        if !kinds.contains(&kind) {
            errors.not_supported("roleRef.kind", view::quoted(kind), kinds);
        }
        let role_name = view::text(role, "name");
        errors.invalid_each("roleRef.name", role_name, name::path_segment(role_name));
        for (at, given) in view::list(new.value(), "subjects").iter().enumerate() {
            subject(given, self.namespaced, &format!("subjects[{at}]"), &mut errors);
        }
        errors
    }

    fn order(&self) -> &'static [&'static str] {
        &["metadata", "roleRef.apiGroup", "roleRef.kind", "roleRef.name", "subjects.apiGroup", "subjects.kind", "subjects.name"]
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        template::immutable(new.value(), old.value(), "roleRef", "", &mut errors);
        errors
    }
}

fn subject(subject: &Value, namespaced: bool, path: &str, errors: &mut FieldErrors) {
    let (name, group) = (view::text(subject, "name"), view::text(subject, "apiGroup"));
    match view::text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_each(&format!("{path}.name"), name, name::subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(format!("{path}.apiGroup"), view::quoted(group), &[""]);
            }
            if !namespaced && view::text(subject, "namespace").is_empty() {
                errors.required(format!("{path}.namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(format!("{path}.apiGroup"), view::quoted(group), &[GROUP]);
            }
        }
        other => errors.not_supported(format!("{path}.kind"), view::quoted(other), &["ServiceAccount", "User", "Group"]),
    }
}
