//! Roles and their bindings, certificate requests (upstream `apis/rbac/validation`, `registry/certificates`).

use coracle_schema::{FieldErrors, name, selector};
use serde_json::{Value, json};

use super::view;
use crate::{
    authn::User,
    registry::{Object, Part, Rules},
};

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

/// Rules of `certificatesigningrequests`.
pub(super) struct CertificateSigningRequest;

impl Rules for Role {
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
                selector::validate_object(given, &format!("{path}[{at}]"), &mut errors);
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
    fn default(&self, object: &mut Object) {
        for subject in view::items_mut(object.value_mut(), "subjects") {
            if ["User", "Group"].contains(&view::text(subject, "kind")) && view::text(subject, "apiGroup").is_empty() {
                subject["apiGroup"] = GROUP.into();
            }
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
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
        if let Some(old) = old
            && view::member(old.value(), "roleRef") != role
        {
            errors.invalid("roleRef", role, "cannot change roleRef");
        }
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

impl Rules for CertificateSigningRequest {
    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        let Some(old) = old else {
            new.value_mut()["status"] = json!({});
            return;
        };
        if part == Part::Other("approval") {
            let conditions = new.value().pointer("/status/conditions").cloned();
            for member in ["spec", "status"] {
                let before = view::member(old.value(), member).clone();
                new.value_mut()[member] = before;
            }
            if let Some(conditions) = conditions {
                new.value_mut()["status"]["conditions"] = conditions;
            }
        }
        if part == Part::Status {
            keep_decisions(new.value_mut(), old.value());
        }
    }

    /// Signers trust these fields, so what the writer says in them is of no account.
    fn note_creator(&self, new: &mut Object, creator: &User) {
        let Some(spec) = new.value_mut().get_mut("spec").and_then(Value::as_object_mut) else { return };
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        spec.insert("username".into(), json!(&*creator.name));
        if !creator.uid.is_empty() {
            spec.insert("uid".into(), json!(&*creator.uid));
        }
        if !creator.groups.is_empty() {
            spec.insert("groups".into(), creator.groups.iter().map(|group| Value::from(&**group)).collect());
        }
        if !creator.extra.is_empty() {
            spec.insert("extra".into(), json!(creator.extra));
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        if view::text(spec, "request").is_empty() {
            errors.invalid("spec.request", "\"\"", "PEM block type must be CERTIFICATE REQUEST");
        }
        if view::list(spec, "usages").is_empty() {
            errors.required("spec.usages", "");
        }
        let signer = view::text(spec, "signerName");
        if signer.is_empty() {
            errors.required("spec.signerName", "");
        } else if !signer.split_once('/').is_some_and(|(domain, rest)| name::is_subdomain(domain) && !rest.is_empty()) {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid("spec.signerName", view::quoted(signer), detail);
        }
        if let Some(seconds) = view::int(spec, "expirationSeconds").filter(|s| *s < 600) {
            errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 600 seconds (10 minutes)");
        }
        let decided =
            |kind: &str| view::list(view::member(new.value(), "status"), "conditions").iter().any(|c| view::text(c, "type") == kind);
        if decided("Approved") && decided("Denied") {
            errors.invalid("status.conditions", "\"Denied\"", "Approved and Denied conditions are mutually exclusive");
        }
        if let Some(old) = old
            && view::member(old.value(), "spec") != spec
        {
            errors.invalid("spec", spec, "field is immutable");
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", view::text(view::member(object, "spec"), "signerName").to_owned())]
    }
}

/// Approval and denial are written through their own subresource only.
fn keep_decisions(new: &mut Value, old: &Value) {
    let is_decision = |c: &&Value| ["Approved", "Denied"].contains(&view::text(c, "type"));
    let kept: Vec<Value> = view::list(view::member(old, "status"), "conditions").iter().filter(is_decision).cloned().collect();
    let Some(status) = view::message_mut(new, "status") else { return };
    let mut all = kept;
    all.extend(view::list(status, "conditions").iter().filter(|c| !is_decision(c)).cloned());
    if !all.is_empty() {
        status["conditions"] = all.into();
    }
}
