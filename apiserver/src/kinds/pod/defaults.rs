//! Defaults of pods and pod templates that depend on other fields (upstream `apis/core/v1/defaults.go`).

use coracle_tree::{Map, Value, json};

use super::image;
use crate::kinds::view;

/// Volume members that are no volume source.
const NO_SOURCE: [&str; 1] = ["name"];

/// Every pod spec, in a pod or in a template.
pub(crate) fn spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    let account = match (view::text(spec, "serviceAccountName"), view::text(spec, "serviceAccount")) {
        ("", deprecated) => deprecated.to_owned(),
        (name, _) => name.to_owned(),
    };
    if !account.is_empty() {
        spec["serviceAccountName"] = account.as_str().into();
        spec["serviceAccount"] = account.into();
    }
    for volume in view::items_mut(spec, "volumes") {
        self::volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in view::items_mut(spec, list) {
            if view::text(container, "imagePullPolicy").is_empty() && container.is_object() {
                container["imagePullPolicy"] = image::pull_policy(view::text(container, "image")).into();
            }
        }
    }
}

fn volume(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|m| m.iter().any(|(name, v)| !NO_SOURCE.contains(&name.as_str()) && !v.is_null()));
    if !has_source && volume.is_object() {
        volume["emptyDir"] = json!({});
    }
    if let Some(image) = view::message_mut(volume, "image")
        && view::text(image, "pullPolicy").is_empty()
    {
        image["pullPolicy"] = image::pull_policy(view::text(image, "reference")).into();
    }
}

/// What only pods get, and templates do not.
pub(super) fn pod(pod: &mut Value) {
    pod_ips(pod);
    let Some(spec) = view::message_mut(pod, "spec") else { return };
    if view::int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
    view::set_absent(spec, "enableServiceLinks", true);
    let host_network = view::flag(spec, "hostNetwork");
    for list in ["containers", "initContainers"] {
        for container in view::items_mut(spec, list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
}

/// A limit without a request is the request as well.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = view::message_mut(container, "resources") else { return };
    let limits = view::map(resources, "limits").clone();
    if limits.is_empty() {
        return;
    }
    if !resources["requests"].is_object() {
        resources["requests"] = Value::Object(Map::new());
    }
    for (name, limit) in limits {
        view::set_absent(&mut resources["requests"], &name, limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in view::items_mut(container, "ports") {
        if view::int(port, "hostPort").unwrap_or_default() == 0 && port.is_object() {
            port["hostPort"] = view::member(port, "containerPort").clone();
        }
    }
}

/// `podIP` and the first of `podIPs` are the same; the former wins.
fn pod_ips(pod: &mut Value) {
    let Some(status) = view::message_mut(pod, "status") else { return };
    let first = view::list(status, "podIPs").first().map(|ip| view::text(ip, "ip").to_owned()).unwrap_or_default();
    match view::text(status, "podIP").to_owned() {
        one if one == first => {}
        one if one.is_empty() => status["podIP"] = first.into(),
        one => status["podIPs"] = json!([{"ip": one}]),
    }
}
