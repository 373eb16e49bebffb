//! The downward API: a pod's own fields and resources as text (`pkg/fieldpath`, `pkg/api/v1/resource`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, ResourceFieldSelector};

use crate::context::Context;
use crate::pods::object::BoundPod;
use crate::pods::qos::Amounts;
use crate::quantity::{milli, milli_of, value_of};

/// The text of a pod's field.
///
/// # Errors
/// When the path is not one of those that exist.
pub(crate) fn field(ctx: &Context, pod: &BoundPod, addresses: &[IpAddr], path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.labels" => Ok(meta.labels.get(key).cloned().unwrap_or_default()),
            "metadata.annotations" => Ok(meta.annotations.get(key).cloned().unwrap_or_default()),
            _ => Err(format!("fieldPath {path:?} does not support subscript")),
        };
    }
    let own: Vec<IpAddr> = if pod.host_network() { ctx.options.node_ips.clone() } else { addresses.to_vec() };
    let join = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Ok(match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => format_map(&meta.labels),
        "metadata.annotations" => format_map(&meta.annotations),
        "spec.nodeName" => ctx.options.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => ctx.options.node_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.hostIPs" => join(&ctx.options.node_ips),
        "status.podIP" => own.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => join(&own),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['a/b']` as (`metadata.labels`, `a/b`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` a line, sorted, as files of the downward API have it.
fn format_map(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// The text of a container's resource, divided and rounded up; limits that are not set are the node's allocatable.
///
/// # Errors
/// When container, resource or divisor make no sense.
pub(crate) fn resource(
    pod: &BoundPod,
    own: Option<&ContainerSpec>,
    selector: &ResourceFieldSelector,
    node: Amounts,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => pod.container(name).map(|(_, c)| c).ok_or_else(|| format!("container {name} not found"))?,
        None => own.ok_or("containerName is required here")?,
    };
    let (kind, name) =
        selector.resource.split_once('.').ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let list = match kind {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref().filter(|m| m.contains_key(name)).or(r.limits.as_ref())),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let whole_node = |amount: i64| if kind == "limits" && list.is_none_or(|l| !l.contains_key(name)) { Some(amount) } else { None };
    let amount_milli = match name {
        "cpu" => i128::from(whole_node(node.cpu_milli).unwrap_or_else(|| milli_of(list, name))),
        "memory" => i128::from(whole_node(node.memory).unwrap_or_else(|| value_of(list, name))) * 1000,
        "ephemeral-storage" => i128::from(whole_node(node.ephemeral_storage).unwrap_or_else(|| value_of(list, name))) * 1000,
        other if other.starts_with("hugepages-") => i128::from(value_of(list, name)) * 1000,
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = match selector.divisor.as_ref().map(|q| q.0.as_str()) {
        None | Some("" | "0") => 1000,
        Some(text) => i128::from(milli(text).filter(|d| *d > 0).ok_or_else(|| format!("divisor {text:?} is not a positive quantity"))?),
    };
    Ok((amount_milli.div_euclid(divisor) + i128::from(amount_milli.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> BoundPod {
        BoundPod::decode(
            br#"{"metadata":{"name":"p","labels":{"b":"2","a":"x\"y"}},"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1500m","memory":"100Mi"},"requests":{"cpu":"250m"}}}]}}"#,
        )
        .expect("decodes")
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let pod = pod();
        let node = Amounts { cpu_milli: 4000, memory: 1 << 30, ephemeral_storage: 5 << 30 };
        for (resource_name, divisor, text) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("requests.cpu", Some("1m"), "250"),
            ("limits.memory", Some("1Mi"), "100"),
            ("requests.memory", Some("1Mi"), "100"),
            ("limits.ephemeral-storage", Some("1Gi"), "5"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor: divisor.map(|d| k8s_openapi::apimachinery::pkg::api::resource::Quantity(d.to_owned())),
                resource: resource_name.to_owned(),
            };
            let got = resource(&pod, pod.spec.containers.first(), &selector, node);
            assert_eq!(got.as_deref(), Ok(text), "{resource_name} {divisor:?}");
        }
    }

    #[test]
    fn maps_are_sorted_and_quoted() {
        assert_eq!(format_map(&pod().metadata.labels), "a=\"x\\\"y\"\nb=\"2\"");
    }

    #[test]
    fn subscripts_name_one_label() {
        assert_eq!(subscript("metadata.labels['app.kubernetes.io/name']"), Some(("metadata.labels", "app.kubernetes.io/name")));
        assert_eq!(subscript("metadata.labels"), None);
    }
}
