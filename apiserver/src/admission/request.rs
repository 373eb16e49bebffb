//! `AdmissionRequest` without its objects: what expressions and webhooks are told of a write (apiserver `plugin/cel/condition.go`,
//! `plugin/webhook/request/admissionreview.go`).

use serde_json::{Value, json};

use super::attempt::Attempt;
use crate::registry::{GroupVersionKind, Kind, Object};

/// The request, as it matched: `other` is the version of the kind that a rule named, if it is not the one addressed.
pub(super) fn describe(attempt: &Attempt<'_>, new: Option<&Object>, other: Option<&Kind>) -> Value {
    let request = attempt.request;
    let own = attempt.gvk();
    let kind = other.map_or(own, |other| attempt.part_of(other).map_or(&other.gvk, |(gvk, _)| gvk));
    let resource = json!({"group": request.group, "version": request.version, "resource": request.resource});
    let matched = other.map(|other| json!({"group": &*other.gvk.group, "version": &*other.gvk.version, "resource": &*other.id.resource}));
    let mut out = json!({
        "kind": gvk(kind),
        "resource": matched.unwrap_or_else(|| resource.clone()),
        "requestKind": gvk(own),
        "requestResource": resource,
        "operation": attempt.operation.name(),
        "userInfo": user(attempt),
        "dryRun": attempt.dry_run,
        "options": attempt.given(),
    });
    for (field, text) in [
        ("subResource", request.subresource.as_str()),
        ("requestSubResource", &request.subresource),
        ("name", attempt.name(new)),
        ("namespace", attempt.namespace(new)),
    ] {
        if !text.is_empty() {
            out[field] = text.into();
        }
    }
    out
}

fn gvk(of: &GroupVersionKind) -> Value {
    json!({"group": &*of.group, "version": &*of.version, "kind": &*of.kind})
}

fn user(attempt: &Attempt<'_>) -> Value {
    let user = attempt.user;
    let mut out = json!({});
    for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            out[field] = (**text).into();
        }
    }
    if !user.groups.is_empty() {
        out["groups"] = user.groups.iter().map(|group| &**group).collect();
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}
