//! The endpoints of the service `kubernetes` as they should be, in both forms. Pure (`reconcilers/lease.go`, `reconcilers/endpointsadapter.go`).

use std::net::IpAddr;

use coracle_tree::{Value, json};

const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The object `Endpoints` to write, if it is not as it should be. `ports`: also when only its port is another, which is looked at when a
/// server goes: servers with different ports would write without end.
pub(super) fn endpoints(now: Option<&Value>, there: &[IpAddr], port: u16, ports: bool) -> Option<Value> {
    let texts: Vec<String> = there.iter().map(ToString::to_string).collect();
    let wanted_port = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let empty = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default"}});
    let mut next = now.cloned().unwrap_or_else(|| empty.clone());
    next["apiVersion"] = empty["apiVersion"].clone();
    next["kind"] = empty["kind"].clone();
    if !next["metadata"]["labels"].is_object() {
        next["metadata"]["labels"] = json!({});
    }
    next["metadata"]["labels"][SKIP_MIRROR] = "true".into();
    let subsets = next["subsets"].as_array().cloned().unwrap_or_default();
    let [subset] = subsets.as_slice() else {
        next["subsets"] = subsets_of(&texts, &wanted_port);
        return changed(now, next, subsets.is_empty() && texts.is_empty());
    };
    let shown: Vec<&str> = subset["addresses"].as_array().into_iter().flatten().filter_map(|address| address["ip"].as_str()).collect();
    let mut same = shown.len() == texts.len() && texts.iter().all(|text| shown.contains(&text.as_str()));
    let mut kept_port = subset["ports"].clone();
    if ports && kept_port != wanted_port {
        (same, kept_port) = (false, wanted_port);
    }
    if !same {
        next["subsets"] = subsets_of(&texts, &kept_port);
    }
    changed(now, next, same)
}

fn subsets_of(addresses: &[String], ports: &Value) -> Value {
    if addresses.is_empty() {
        return json!([]);
    }
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    json!([{"addresses": addresses, "ports": ports}])
}

fn changed(now: Option<&Value>, next: Value, same_subsets: bool) -> Option<Value> {
    let labelled = now.is_some_and(|now| now["metadata"]["labels"][SKIP_MIRROR] == "true");
    (!labelled || !same_subsets).then_some(next)
}

/// The `EndpointSlice` to write, if it is not as it should be. One of another address type takes the place of what is there, which must go.
pub(super) fn slice(now: Option<&Value>, there: &[IpAddr], port: u16, ports: bool) -> Option<Value> {
    // A slice is of one family, for good: IPv6 only where all are. Of nobody's addresses it may stay what it is.
    let of_six = match now {
        Some(now) if there.is_empty() => now["addressType"] == "IPv6",
        _ => !there.is_empty() && there.iter().all(IpAddr::is_ipv6),
    };
    let shown: Vec<Value> = there
        .iter()
        .filter(|address| address.is_ipv6() == of_six)
        .map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
        .collect();
    let wanted_port = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let kept_port =
        now.filter(|_| !ports).map(|now| now["ports"].clone()).filter(|kept| kept.as_array().is_some_and(|kept| !kept.is_empty()));
    let mut next = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {SERVICE_NAME: "kubernetes"}},
        "addressType": if of_six { "IPv6" } else { "IPv4" },
        "endpoints": shown, "ports": kept_port.unwrap_or(wanted_port),
    });
    let Some(now) = now else { return Some(next) };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let same = now["addressType"] == next["addressType"]
        && list(&now["endpoints"]) == list(&next["endpoints"])
        && now["ports"] == next["ports"]
        && now["metadata"]["labels"] == next["metadata"]["labels"];
    if same {
        return None;
    }
    if now["addressType"] == next["addressType"] {
        next["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    }
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn endpoints_are_made_changed_and_then_left_alone() {
        let first = endpoints(None, &of(&["10.0.0.1"]), 6443, false).unwrap();
        let port = json!([{"name": "https", "port": 6443, "protocol": "TCP"}]);
        assert_eq!(first["subsets"], json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": port}]));
        assert_eq!(endpoints(Some(&first), &of(&["10.0.0.1"]), 6443, true), None);
        let three = endpoints(Some(&first), &of(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), 6443, false).unwrap();
        assert_eq!(three["subsets"][0]["addresses"].as_array().unwrap().len(), 3);
        assert_eq!(endpoints(Some(&three), &of(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), 7443, false), None);
        let last = endpoints(Some(&first), &[], 6443, true).unwrap();
        assert_eq!(last["subsets"], json!([]));
        assert_eq!(endpoints(Some(&last), &[], 6443, true), None);
    }

    #[test]
    fn a_mirror_of_them_is_never_made() {
        let mut unlabelled = endpoints(None, &of(&["10.0.0.1"]), 6443, false).unwrap();
        unlabelled["metadata"]["labels"] = json!({"mine": "x"});
        let mended = endpoints(Some(&unlabelled), &of(&["10.0.0.1"]), 6443, false).unwrap();
        assert_eq!(mended["metadata"]["labels"], json!({"mine": "x", SKIP_MIRROR: "true"}));
        assert_eq!(mended["subsets"], unlabelled["subsets"]);
    }

    #[test]
    fn the_slice_says_the_same() {
        let first = slice(None, &of(&["10.0.0.1", "10.0.0.2"]), 6443, false).unwrap();
        assert_eq!((first["endpoints"].as_array().unwrap().len(), &first["addressType"]), (2, &json!("IPv4")));
        assert_eq!(slice(Some(&first), &of(&["10.0.0.1", "10.0.0.2"]), 7443, false), None);
        assert!(slice(Some(&first), &of(&["10.0.0.1", "10.0.0.2"]), 7443, true).is_some());
        assert_eq!(slice(Some(&first), &of(&["10.0.0.2"]), 6443, false).unwrap()["endpoints"][0]["addresses"], json!(["10.0.0.2"]));
        assert_eq!(slice(None, &of(&["fd00::1"]), 6443, false).unwrap()["addressType"], "IPv6");
    }

    #[test]
    fn a_slice_of_the_other_family_is_another_object_and_that_of_nobody_stays_what_it_is() {
        let mut four = slice(None, &of(&["10.0.0.1"]), 6443, false).unwrap();
        four["metadata"]["resourceVersion"] = "7".into();
        let six = slice(Some(&four), &of(&["fd00::1"]), 6443, false).unwrap();
        assert_eq!((&six["addressType"], &six["metadata"]["resourceVersion"]), (&json!("IPv6"), &Value::Null));
        let nobody = slice(Some(&six), &[], 6443, true).unwrap();
        assert_eq!((&nobody["addressType"], &nobody["endpoints"]), (&json!("IPv6"), &json!([])));
        assert_eq!(slice(Some(&nobody), &[], 6443, true), None);
    }
}
