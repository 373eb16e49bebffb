//! Pods: what follows from other fields, what the server decides, what is refused, what may still change.

mod claims;
mod container;
mod defaults;
mod field_ref;
mod image;
mod profile;
mod resources;
mod spec;
mod status;
mod update;
mod volumes;
pub(super) mod warnings;
mod windows;

use coracle_schema::FieldErrors;
use coracle_tree::{Value, json};

use super::{template, view, volume_source};
use crate::registry::{Object, Part, Policy, Rules};

pub(super) use self::{container::port_or_name, defaults::spec as default_spec, spec::check as validate_spec};

/// What the checks of containers need to know of their pod.
struct Context<'v> {
    /// Volumes that are fine.
    volumes: Vec<&'v Value>,
    /// Names of the pod's claims of devices.
    claims: Vec<&'v str>,
    restart_policy: &'v str,
    /// A pod and not a template.
    is_pod: bool,
    /// Whether the pod's users are the node's.
    host_users: bool,
}

impl<'v> Context<'v> {
    fn volume(&self, name: &str) -> Option<&'v Value> {
        self.volumes.iter().find(|v| view::text(v, "name") == name).copied()
    }
}

/// Rules of `pods`.
pub(super) struct Pod;

impl Rules for Pod {
    fn policy(&self) -> Policy {
        Policy { graceful: true, ..Policy::DEFAULT }
    }

    fn default(&self, object: &mut Object) {
        let pod = object.value_mut();
        if let Some(spec) = view::message_mut(pod, "spec") {
            defaults::spec(spec);
        }
        defaults::pod(pod);
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        match (old, part) {
            (None, _) => prepare_new(new.value_mut()),
            (Some(old), Part::Whole) => keep_pod_level(new.value_mut(), old.value()),
            (Some(old), Part::Status) => status::keep(new.value_mut(), old.value()),
            (Some(old), Part::Other("ephemeralcontainers")) => {
                let containers = new.value().pointer("/spec/ephemeralContainers").cloned();
                let mut spec = view::member(old.value(), "spec").clone();
                spec["ephemeralContainers"] = containers.unwrap_or_default();
                take_spec(new.value_mut(), spec, old.value());
            }
            (Some(old), Part::Other("resize")) => {
                let spec = resized(view::member(new.value(), "spec"), view::member(old.value(), "spec"));
                take_spec(new.value_mut(), spec, old.value());
                keep_pod_level(new.value_mut(), old.value());
                resources::default_pod_level(&mut new.value_mut()["spec"]);
            }
            (Some(_), Part::Other(_)) => {}
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let pod = new.value();
        if part == Part::Status {
            status::check(pod, old.map_or(&Value::Null, Object::value), &mut errors);
            return errors;
        }
        spec::check(view::member(pod, "spec"), new.name(), true, &"spec", &mut errors);
        pod_only(view::member(pod, "spec"), &mut errors);
        match (old, part) {
            (None, _) => on_create(view::member(pod, "spec"), &mut errors),
            (Some(old), Part::Whole) => update::whole(pod, old.value(), &mut errors),
            (Some(old), Part::Other("ephemeralcontainers")) => update::ephemeral_containers(pod, old.value(), &mut errors),
            (Some(old), Part::Other("resize")) => update::resize(pod, old.value(), &mut errors),
            _ => {}
        }
        errors
    }

    fn unheard(&self) -> &'static [&'static str] {
        &[
            "spec.volumes.gcePersistentDisk.pdName",
            "spec.containers.volumeMounts.mountPropagation",
            "spec.initContainers.volumeMounts.mountPropagation",
            "spec.ephemeralContainers.volumeMounts.mountPropagation",
        ]
    }

    fn passed_over(&self, new: &Object, _: Option<&Object>) -> Vec<String> {
        let volumes = view::list(view::member(new.value(), "spec"), "volumes").iter().enumerate();
        let more = |(at, volume)| {
            let given = volume_source::given(volume, volume_source::OF_POD);
            given.into_iter().skip(1).map(move |(kind, _)| format!("spec.volumes[{at}].{kind}"))
        };
        let init = view::list(view::member(new.value(), "spec"), "initContainers").iter().enumerate();
        let unruled = init.filter(|(_, container)| view::get(container, "restartPolicy").is_none());
        let rules = unruled.map(|(at, _)| format!("spec.initContainers[{at}].restartPolicyRules"));
        volumes.flat_map(more).chain(rules).collect()
    }

    fn note_time(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>, now: &str) {
        if old.is_some() {
            return;
        }
        let status = new.member_mut("status");
        let conditions = status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
        for condition in conditions.filter(|condition| view::text(condition, "reason") == "SchedulingGated") {
            condition["lastTransitionTime"] = now.into();
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let mut all = template::name_warnings(new, old, "the Pod's hostname");
        all.extend(warnings::of(new.value(), ""));
        all
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (view::member(object, "spec"), view::member(object, "status"));
        let owned = |of: &Value, name: &str| view::text(of, name).to_owned();
        let ip = view::list(status, "podIPs").first().map(|ip| owned(ip, "ip"));
        vec![
            ("spec.nodeName", owned(spec, "nodeName")),
            ("spec.restartPolicy", owned(spec, "restartPolicy")),
            ("spec.schedulerName", owned(spec, "schedulerName")),
            ("spec.serviceAccountName", owned(spec, "serviceAccountName")),
            ("spec.hostNetwork", view::flag(spec, "hostNetwork").to_string()),
            ("status.phase", owned(status, "phase")),
            ("status.podIP", ip.unwrap_or_else(|| owned(status, "podIP"))),
            // A label that upstream knows and nothing has.
            ("status.podIPs", String::new()),
            ("status.nominatedNodeName", owned(status, "nominatedNodeName")),
        ]
    }
}

fn prepare_new(pod: &mut Value) {
    let gated = !view::list(view::member(pod, "spec"), "schedulingGates").is_empty();
    let labels = view::member(view::member(pod, "metadata"), "labels").clone();
    let mut quality = "BestEffort";
    if let Some(spec) = view::message_mut(pod, "spec") {
        merge_label_keys(spec, &labels);
        resources::default_pod_level(spec);
        quality = resources::quality(spec);
    }
    let mut status = json!({"phase": "Pending", "qosClass": quality});
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": null, "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    pod["status"] = status;
    profile::take_annotations(pod);
}

/// `matchLabelKeys` and `mismatchLabelKeys` become expressions over the pod's own labels (KEP-3633, KEP-3243).
fn merge_label_keys(spec: &mut Value, labels: &Value) {
    let merge = |term: &mut Value| {
        let mut added = Vec::new();
        for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let known = view::texts(term, keys).filter_map(|key| Some((key, view::get(labels, key)?)));
            added.extend(known.map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]})));
        }
        if let Some(selector) = view::message_mut(term, "labelSelector").filter(|_| !added.is_empty()) {
            let mut all = view::list(selector, "matchExpressions").to_vec();
            all.extend(added);
            selector["matchExpressions"] = all.into();
        }
    };
    view::items_mut(spec, "topologySpreadConstraints").for_each(merge);
    let Some(affinity) = view::message_mut(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = view::message_mut(affinity, kind) else { continue };
        view::items_mut(pods, "requiredDuringSchedulingIgnoredDuringExecution").for_each(merge);
        let preferred = view::items_mut(pods, "preferredDuringSchedulingIgnoredDuringExecution");
        preferred.filter_map(|term| view::message_mut(term, "podAffinityTerm")).for_each(merge);
    }
}

/// A client that does not know pod-level resources does not remove them.
fn keep_pod_level(new: &mut Value, old: &Value) {
    if let Some(resources) = old.pointer("/spec/resources").filter(|r| !r.is_null())
        && let Some(spec) = view::message_mut(new, "spec")
    {
        view::set_absent(spec, "resources", resources.clone());
    }
}

/// Puts a spec made from the old one in place, and everything else back.
fn take_spec(new: &mut Value, mut spec: Value, old: &Value) {
    if view::get(&spec, "ephemeralContainers").is_none() {
        view::remove(&mut spec, "ephemeralContainers");
    }
    new["spec"] = spec;
    new["status"] = view::member(old, "status").clone();
}

/// The old spec with the new one's resources; the new spec itself when containers do not correspond, so that validation refuses it.
fn resized(new: &Value, old: &Value) -> Value {
    let mut spec = old.clone();
    for list in ["containers", "initContainers"] {
        let (now, before) = (view::list(new, list), view::list(old, list));
        let same = now.len() == before.len() && now.iter().zip(before).all(|(a, b)| view::text(a, "name") == view::text(b, "name"));
        if !same {
            return new.clone();
        }
        for (container, now) in view::items_mut(&mut spec, list).zip(now) {
            for field in ["resources", "resizePolicy"] {
                match view::get(now, field) {
                    Some(value) => container[field] = value.clone(),
                    None => drop(view::remove(container, field)),
                }
            }
        }
    }
    if let Some(own) = view::get(new, "resources") {
        spec["resources"] = own.clone();
    }
    spec
}

fn pod_only(spec: &Value, errors: &mut FieldErrors) {
    if view::text(spec, "serviceAccountName").is_empty() {
        for (at, volume) in view::list(spec, "volumes").iter().enumerate() {
            for (source_at, source) in view::list(view::member(volume, "projected"), "sources").iter().enumerate() {
                if view::get(source, "serviceAccountToken").is_some() {
                    let path = format!("spec.volumes[{at}].projected.sources[{source_at}].serviceAccountToken");
                    errors.forbidden(path, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    if let Some(seconds) = view::int(spec, "terminationGracePeriodSeconds").filter(|s| *s < 0) {
        errors.invalid("spec.terminationGracePeriodSeconds", seconds, "must be greater than or equal to 0");
    }
}

fn on_create(spec: &Value, errors: &mut FieldErrors) {
    if !view::list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if !view::text(spec, "nodeName").is_empty() && !view::list(spec, "schedulingGates").is_empty() {
        errors.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
}

#[cfg(test)]
mod tests;
