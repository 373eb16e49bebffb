//! Writing a pod's status: the smallest strategic merge patch from what was last written to what is true now.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::object::BoundPod;

/// The patch of the `status` subresource, or `None` when nothing visible changed.
#[must_use]
pub fn patch(pod: &BoundPod, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let mut changes = Map::new();
    // A list of fields instead of a diff of two JSON trees: this runs for every pod on every change.
    macro_rules! fields {
        ($($field:ident => $name:literal),* $(,)?) => {
            $(if old.$field != new.$field {
                changes.insert($name.to_owned(), serde_json::to_value(&new.$field).unwrap_or(Value::Null));
            })*
        };
    }
    fields! {
        phase => "phase", reason => "reason", message => "message", start_time => "startTime", qos_class => "qosClass",
        observed_generation => "observedGeneration", host_ip => "hostIP", pod_ip => "podIP",
        container_statuses => "containerStatuses", init_container_statuses => "initContainerStatuses",
        ephemeral_container_statuses => "ephemeralContainerStatuses",
    }
    let ips = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let pod_ips = |s: &PodStatus| ips(s.pod_ips.iter().flatten().map(|p| p.ip.as_str()).collect());
    let host_ips = |s: &PodStatus| ips(s.host_ips.iter().flatten().map(|p| p.ip.as_str()).collect());
    changed_addresses(&mut changes, "podIPs", &pod_ips(old), &pod_ips(new));
    changed_addresses(&mut changes, "hostIPs", &host_ips(old), &host_ips(new));
    changed_conditions(&mut changes, old, new);
    if changes.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": pod.metadata.uid}, "status": changes}))
}

/// Lists keyed by address: what is no longer there has to be named.
fn changed_addresses(changes: &mut Map<String, Value>, name: &str, old: &[String], new: &[String]) {
    if old == new {
        return;
    }
    let mut list: Vec<Value> = new.iter().map(|ip| json!({"ip": ip})).collect();
    list.extend(old.iter().filter(|ip| !new.contains(ip)).map(|ip| json!({"$patch": "delete", "ip": ip})));
    changes.insert(name.to_owned(), Value::Array(list));
}

/// Conditions are keyed by type: only the changed ones, with what they no longer say set to null.
fn changed_conditions(changes: &mut Map<String, Value>, old: &PodStatus, new: &PodStatus) {
    let before = |kind: &str| old.conditions.iter().flatten().find(|c| c.type_ == kind);
    let list: Vec<Value> =
        new.conditions.iter().flatten().filter(|c| before(&c.type_) != Some(c)).map(|c| condition(c, before(&c.type_))).collect();
    if !list.is_empty() {
        changes.insert("conditions".to_owned(), Value::Array(list));
    }
}

fn condition(new: &PodCondition, old: Option<&PodCondition>) -> Value {
    let mut value = serde_json::to_value(new).unwrap_or(Value::Null);
    if let (Value::Object(map), Some(old)) = (&mut value, old) {
        for (gone, name) in
            [(old.reason.is_some() && new.reason.is_none(), "reason"), (old.message.is_some() && new.message.is_none(), "message")]
        {
            if gone {
                map.insert(name.to_owned(), Value::Null);
            }
        }
        map.entry("lastProbeTime").or_insert(Value::Null);
    }
    value
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodIP;

    use super::*;

    fn with_condition(status: &str, message: Option<&str>) -> PodStatus {
        let one = PodCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            message: message.map(str::to_owned),
            ..PodCondition::default()
        };
        PodStatus { conditions: Some(vec![one]), ..PodStatus::default() }
    }

    #[test]
    fn nothing_changed_means_no_request() {
        let status = with_condition("False", Some("x"));
        assert_eq!(patch(&BoundPod::default(), &status, &status.clone()), None);
    }

    #[test]
    fn a_message_that_went_away_is_removed_explicitly() {
        let change = patch(&BoundPod::default(), &with_condition("False", Some("x")), &with_condition("True", None)).expect("changed");
        let written = &change["status"]["conditions"][0];
        assert_eq!(written["status"], "True");
        assert!(written.as_object().expect("object").contains_key("message") && written["message"].is_null());
    }

    #[test]
    fn an_address_that_changed_is_removed_by_its_key() {
        let ip = |ip: &str| PodStatus { pod_ips: Some(vec![PodIP { ip: ip.to_owned() }]), ..PodStatus::default() };
        let change = patch(&BoundPod::default(), &ip("10.0.0.1"), &ip("10.0.0.2")).expect("changed");
        assert_eq!(change["status"]["podIPs"], json!([{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}]));
    }
}
