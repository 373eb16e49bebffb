//! What may change in a pod that exists (upstream `ValidatePodUpdate`, `ValidatePodEphemeralContainersUpdate`, `ValidatePodResize`).

use coracle_schema::{FieldErrors, name};
use coracle_tree::{Text, Value};

use super::resources;
use crate::kinds::view;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
     additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A PUT or PATCH of the pod itself.
pub(super) fn whole(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (view::member(new, "spec"), view::member(old, "spec"));
    for list in ["containers", "initContainers"] {
        if view::list(new, list).len() != view::list(old, list).len() {
            errors.forbidden(format!("spec.{list}"), "pod updates may not add or remove containers");
            return;
        }
    }
    if !deadline(new, old, errors) {
        return;
    }
    tolerations(new, old, errors);
    gates(new, old, errors);
    if is_otherwise_same(new, old) {
        return;
    }
    let allowed = with_updatable(new, old);
    let gated = !view::list(old, "schedulingGates").is_empty();
    let allowed = if gated { with_placement(allowed, old, errors) } else { allowed };
    if &allowed != old {
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{}", differences(old, &allowed));
        errors.forbidden("spec", &detail);
    }
}

/// Whether checking goes on.
fn deadline(new: &Value, old: &Value, errors: &mut FieldErrors) -> bool {
    let path = "spec.activeDeadlineSeconds";
    match (view::int(new, "activeDeadlineSeconds"), view::int(old, "activeDeadlineSeconds")) {
        (Some(seconds), before) => {
            let most = i64::from(i32::MAX);
            if let Some(message) = name::in_range(seconds, 0, most).first() {
                errors.invalid(path, seconds, message);
                return false;
            }
            if before.is_some_and(|before| before < seconds) {
                errors.invalid(path, seconds, "must be less than or equal to previous value");
                return false;
            }
        }
        (None, Some(_)) => errors.invalid(path, "null", "must not update from a positive integer to nil value"),
        (None, None) => {}
    }
    true
}

fn tolerations(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let without_seconds = |toleration: &Value| {
        let mut copy = toleration.clone();
        view::remove(&mut copy, "tolerationSeconds");
        copy
    };
    let now: Vec<Value> = view::list(new, "tolerations").iter().map(without_seconds).collect();
    if view::list(old, "tolerations").iter().any(|before| !now.contains(&without_seconds(before))) {
        errors.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn gates(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let before = view::list(old, "schedulingGates");
    for (at, gate) in view::list(new, "schedulingGates").iter().enumerate() {
        let name = view::text(gate, "name");
        if !before.iter().any(|g| view::text(g, "name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(format!("spec.schedulingGates[{at}].name"), &detail);
        }
    }
}

/// Whether nothing but what may always change did: found without the copy that naming the differences takes.
fn is_otherwise_same(new: &Value, old: &Value) -> bool {
    let containers = |name: &str| matches!(name, "containers" | "initContainers");
    let may_change = |name: &str| matches!(name, "activeDeadlineSeconds" | "schedulingGates" | "tolerations");
    is_same_but(new, old, |name| containers(name) || may_change(name))
        && ["containers", "initContainers"].iter().all(|list| {
            let (new, old) = (view::list(new, list), view::list(old, list));
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| is_same_but(new, old, |name| name == "image"))
        })
}

/// Whether two messages have the same members, but for these.
fn is_same_but(new: &Value, old: &Value, except: impl Fn(&str) -> bool) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let of = |members: &coracle_tree::Map| members.keys().filter(|name| !except(name)).count();
    of(new) == of(old) && new.iter().filter(|(name, _)| !except(name)).all(|(name, value)| old.get(name) == Some(value))
}

/// The new spec with the old values of all that may change: equal to the old one when nothing else did.
fn with_updatable(new: &Value, old: &Value) -> Value {
    let mut allowed = new.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> = view::list(old, list).iter().map(|c| view::member(c, "image").clone()).collect();
        for (container, image) in view::items_mut(&mut allowed, list).zip(images) {
            container["image"] = image;
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(&mut allowed, old, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if view::int(old, grace).is_some_and(|s| s < 0) && view::int(&allowed, grace) == Some(1) {
        restore(&mut allowed, old, grace);
    }
    allowed
}

fn restore(to: &mut Value, from: &Value, field: &str) {
    match view::get(from, field) {
        Some(value) => to[field] = value.clone(),
        None => drop(view::remove(to, field)),
    }
}

/// A pod that no scheduler has seen yet may be narrowed further.
fn with_placement(mut allowed: Value, old: &Value, errors: &mut FieldErrors) -> Value {
    let (now, before) = (view::map(&allowed, "nodeSelector"), view::map(old, "nodeSelector"));
    if before.iter().any(|(key, value)| now.get(key) != Some(value)) {
        errors.invalid(
            "spec.nodeSelector",
            view::member(&allowed, "nodeSelector"),
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    restore(&mut allowed, old, "nodeSelector");
    let node = |spec: &Value| view::member(view::member(spec, "affinity"), "nodeAffinity").clone();
    let (now, before) = (node(&allowed), node(old));
    if now != before {
        narrowed(&now, &before, errors);
        let others =
            |spec: &Value| ["podAffinity", "podAntiAffinity"].map(|kind| view::member(view::member(spec, "affinity"), kind).clone());
        if others(&allowed) == others(old) {
            restore(&mut allowed, old, "affinity");
        }
    }
    allowed
}

/// Required terms may get further expressions, nothing else (`validateNodeAffinityMutation`).
fn narrowed(now: &Value, before: &Value, errors: &mut FieldErrors) {
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let required = |affinity| view::member(view::member(affinity, "requiredDuringSchedulingIgnoredDuringExecution"), "nodeSelectorTerms");
    let (new, old) = (required(now), required(before));
    let terms = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (now, before) = (terms(new), terms(old));
    if !before.is_empty() && now.len() != before.len() {
        return errors.invalid(path, new, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (at, (now, before)) in now.iter().zip(&before).enumerate() {
        let lists = |term| ["matchExpressions", "matchFields"].map(|list| view::list(term, list));
        let empty = lists(before).iter().all(|list| list.is_empty());
        let grown = lists(now).iter().zip(lists(before)).all(|(now, before)| now.starts_with(before));
        if !grown || empty && lists(now).iter().any(|list| !list.is_empty()) {
            errors.invalid(format!("{path}[{at}]"), now, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// Only what is new may be in the list, and nothing may leave it.
pub(super) fn ephemeral_containers(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = "spec.ephemeralContainers";
    let now = view::list(view::member(new, "spec"), "ephemeralContainers");
    for before in view::list(view::member(old, "spec"), "ephemeralContainers") {
        let name = view::text(before, "name");
        match now.iter().find(|c| view::text(c, "name") == name) {
            None => errors.forbidden(path, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(same) if same == before => {}
            Some(other) => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n{}", differences(before, other));
                errors.forbidden(path, &detail);
            }
        }
    }
}

/// Resources may change, quality of service and containers may not.
pub(super) fn resize(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (new, old) = (view::member(new, "spec"), view::member(old, "spec"));
    if resources::quality(new) != resources::quality(old) {
        errors.invalid("spec", view::quoted(resources::quality(new)), "Pod QOS Class may not change as a result of resizing");
    }
    for list in ["containers", "initContainers"] {
        let names = |spec: &Value| view::list(spec, list).iter().map(|c| view::text(c, "name").to_owned()).collect::<Vec<_>>();
        if names(new) != names(old) {
            errors.forbidden(format!("spec.{list}"), "containers may not be added, removed, renamed or reordered on resize");
        }
        for (at, (now, before)) in view::list(new, list).iter().zip(view::list(old, list)).enumerate() {
            for kind in ["limits", "requests"] {
                let (now, before) = (view::map(view::member(now, "resources"), kind), view::map(view::member(before, "resources"), kind));
                for name in before.keys().filter(|name| !now.contains_key(name)) {
                    errors.forbidden(format!("spec.{list}[{at}].resources.{kind}"), &format!("resource {kind} cannot be removed: {name}"));
                }
                let changed = now.iter().filter(|(name, amount)| before.get(name) != Some(amount));
                for (name, _) in changed.filter(|(name, _)| !["cpu", "memory"].contains(&name.as_str())) {
                    errors.forbidden(format!("spec.{list}[{at}].resources.{kind}[{name}]"), "only cpu and memory resources are mutable");
                }
            }
        }
    }
}

/// The members that differ, a line each.
fn differences(old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    collect(old, new, "", &mut lines);
    lines.join("\n")
}

fn collect(old: &Value, new: &Value, path: &str, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&Text> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                collect(view::member(old, name), view::member(new, name), &format!("{path}.{name}"), lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (old, new)) in a.iter().zip(b).enumerate() {
                collect(old, new, &format!("{path}[{at}]"), lines);
            }
        }
        _ if old == new => {}
        _ => lines.push(format!("-{path}: {old}\n+{path}: {new}")),
    }
}
