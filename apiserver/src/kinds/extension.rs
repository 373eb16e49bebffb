//! Kinds that extend the server: custom resource definitions, API services. What is needed to store them; serving is elsewhere.

use coracle_schema::{FieldErrors, name, structural::definition};
use coracle_tree::{Value, json};

use super::view;
use crate::registry::{NameRule, Object, Part, Policy, Rules, meta, names};

/// Rules of `customresourcedefinitions`.
pub(super) struct CustomResourceDefinition;
/// Rules of `apiservices`.
pub(super) struct ApiService;

impl Rules for CustomResourceDefinition {
    fn policy(&self) -> Policy {
        Policy { unconditional_update: false, ..Policy::DEFAULT }
    }

    fn default(&self, object: &mut Object) {
        default_stored_version(object);
        drop_empty_webhook(object);
        let Some(names) = view::message_mut(object.value_mut(), "spec").and_then(|spec| view::message_mut(spec, "names")) else { return };
        let kind = view::text(names, "kind").to_owned();
        if view::text(names, "singular").is_empty() {
            names["singular"] = kind.to_lowercase().into();
        }
        if view::text(names, "listKind").is_empty() && !kind.is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
    }

    /// The objects go first: a finalizer waits for that, and a condition says so (upstream's `registry/customresourcedefinition/etcd.go`).
    fn mark_deleted(&self, object: &mut Object, now: jiff::Timestamp) -> bool {
        const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
        let now = meta::time_text(now);
        object.set_metadata("deletionTimestamp", now.as_str());
        let mut finalizers: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
        if !finalizers.iter().any(|finalizer| finalizer == CLEANUP) {
            finalizers.push(CLEANUP.to_owned());
        }
        meta::set_finalizers(object, &finalizers);
        let condition = json!({
            "type": "Terminating", "status": "True", "lastTransitionTime": now, "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        });
        let conditions = object.member_mut("status").entry("conditions").or_insert_with(|| json!([]));
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|c| c["type"] != "Terminating");
            list.push(condition);
        }
        true
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        if old.is_none() {
            new.value_mut()["status"] = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
        }
        if part == Part::Status {
            return;
        }
        // A version that was ever stored is remembered until an administrator says that no object is kept in it.
        let versions = view::list(view::member(new.value(), "spec"), "versions");
        let Some(stored) = versions.iter().find(|v| view::flag(v, "storage")).map(|v| view::text(v, "name").to_owned()) else { return };
        let status = new.member_mut("status");
        let known = status.entry("storedVersions").or_insert_with(|| json!([]));
        if known.is_null() {
            *known = json!([]);
        }
        if let Some(list) = known.as_array_mut()
            && !list.iter().any(|v| v == stored.as_str())
        {
            list.push(stored.into());
        }
    }

    /// Upstream looks at the name of a new definition only: what it says of the parts cannot change later.
    fn name_faults(&self, new: &Object, old: Option<&Object>, given: &str, prefix: bool) -> Option<Vec<String>> {
        let mut faults = names::object_name(NameRule::Subdomain, given, prefix);
        if old.is_none() {
            faults.extend(definition::name_fault(new.value(), given).map(str::to_owned));
        }
        Some(faults)
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        match part {
            Part::Status => definition::check_status(new.value()),
            Part::Whole | Part::Other(_) => definition::check(new.value(), old.map(Object::value)),
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        definition::warnings(new.value(), old.map(Object::value))
    }
}

/// A webhook of a conversion that says nothing is none: upstream's own types have no place for it.
fn drop_empty_webhook(definition: &mut Object) {
    let Some(spec) = view::message_mut(definition.value_mut(), "spec") else { return };
    let Some(conversion) = view::message_mut(spec, "conversion") else { return };
    let webhook = view::member(conversion, "webhook");
    let says = view::get(webhook, "clientConfig").is_some() || view::get(webhook, "conversionReviewVersions").is_some();
    if webhook.is_object() && !says {
        view::remove(conversion, "webhook");
    }
}

/// A status that names no stored version has the one the spec stores in.
fn default_stored_version(definition: &mut Object) {
    let spec = view::member(definition.value(), "spec");
    let stored = view::list(spec, "versions").iter().find(|version| view::flag(version, "storage"));
    let Some(stored) = stored.map(|version| view::text(version, "name").to_owned()) else { return };
    let versions = definition.member_mut("status").entry("storedVersions").or_insert(Value::Null);
    if versions.as_array().is_none_or(Vec::is_empty) {
        *versions = json!([stored]);
    }
}

impl Rules for ApiService {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn name_faults(&self, new: &Object, _old: Option<&Object>, given: &str, _prefix: bool) -> Option<Vec<String>> {
        let faults = name::path_segment(given);
        let spec = view::member(new.value(), "spec");
        let wanted = format!("{}.{}", view::text(spec, "version"), view::text(spec, "group"));
        let other = faults.is_empty() && given != wanted;
        Some(if other { vec![format!("must be `spec.version+\".\"+spec.group`: {wanted:?}")] } else { faults })
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
            for (at, condition) in view::list(view::member(new.value(), "status"), "conditions").iter().enumerate() {
                let status = view::text(condition, "status");
                if !STATUSES.contains(&status) {
                    errors.not_supported(format!("status.conditions[{at}].status"), view::quoted(status), &STATUSES);
                }
            }
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let (group, version) = (view::text(spec, "group"), view::text(spec, "version"));
        if group.is_empty() && version != "v1" {
            errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
        } else if !group.is_empty() {
            errors.invalid_each("spec.group", group, name::subdomain(group));
        }
        errors.invalid_each("spec.version", version, name::label_1035(version));
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = view::int(spec, field).unwrap_or_default();
            if !(1..=most).contains(&value) {
                errors.invalid(format!("spec.{field}"), value, &format!("must be positive and less than {most}"));
            }
        }
        backing_service(spec, &mut errors);
        errors
    }
}

fn backing_service(spec: &Value, errors: &mut FieldErrors) {
    let (bundle, insecure) = (view::text(spec, "caBundle"), view::flag(spec, "insecureSkipTLSVerify"));
    let Some(service) = view::get(spec, "service") else {
        if !bundle.is_empty() {
            let size = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, bundle).map_or(0, |bytes| bytes.len());
            errors.invalid("spec.caBundle", format_args!("\"{size} bytes\""), "local APIServices may not have a caBundle");
        }
        if insecure {
            errors.invalid("spec.insecureSkipTLSVerify", true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    for field in ["namespace", "name"] {
        if view::text(service, field).is_empty() {
            errors.required(format!("spec.service.{field}"), "");
        }
    }
    if let Some(port) = view::int(service, "port") {
        for message in name::port_number(port) {
            errors.invalid("spec.service.port", port, &format!("port is not valid: {message}"));
        }
    }
    if insecure && !bundle.is_empty() {
        errors.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
    }
}
