//! What is refused of the core kinds, and in which words: the answers of kube-apiserver to the same requests.

use coracle_tree::{Value, json};

use super::tests::{create, update};
use crate::registry::{Object, Part};

/// A change to one member.
type Change = (&'static str, Value);

fn made(resource: &str, given: Value) -> Object {
    let (object, errors) = create("", "v1", resource, given);
    assert!(errors.is_empty(), "{errors:?}");
    object
}

/// What is said of each change: the starts of the messages.
fn expect_of_changes(resource: &str, old: &Object, cases: &[(Change, &[&str])]) {
    for ((place, value), expected) in cases {
        let (_, errors) = update("", "v1", resource, old, Part::Whole, |object| match object.pointer_mut(place) {
            Some(member) => *member = value.clone(),
            None => {
                let (of, name) = place.rsplit_once('/').unwrap();
                object.pointer_mut(of).unwrap()[name] = value.clone();
            }
        });
        let fits = errors.len() == expected.len() && errors.iter().zip(*expected).all(|(error, start)| error.starts_with(start));
        assert!(fits, "{place} {value}: {errors:?}");
    }
}

#[test]
fn of_a_claim_only_the_size_changes_and_a_source_may_keep_its_odd_group() {
    const STAYS: &str = "spec: Forbidden: spec is immutable";
    const LESS: &str = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
    let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
    let mut claim = made(
        "persistentvolumeclaims",
        json!({"metadata": {"name": "c"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "dataSource": source,
            "volumeAttributesClassName": "gold",
        }}),
    );
    claim.value_mut()["status"] = json!({"phase": "Pending", "currentVolumeAttributesClassName": "gold"});
    let size = "/spec/resources/requests/storage";
    expect_of_changes(
        "persistentvolumeclaims",
        &claim,
        &[
            // Nothing is known of a capacity, so that any size is more.
            ((size, json!("1Gi")), &[STAYS]),
            (("/spec/resources/requests", json!({})), &["spec.resources[storage]: Required value", STAYS, LESS]),
            (("/spec/volumeMode", json!("Block")), &[STAYS, "volumeMode: Invalid value: \"Block\": field is immutable"]),
            (("/spec/dataSource/apiGroup", json!("No Group")), &["spec: Invalid value: ", STAYS]),
            (("/spec/dataSourceRef/namespace", json!("other")), &["spec: Invalid value: ", STAYS]),
            (
                ("/spec/volumeAttributesClassName", json!("")),
                &[STAYS, "spec.volumeAttributesClassName: Forbidden: update to empty string is forbidden"],
            ),
        ],
    );
    claim.value_mut()["status"]["capacity"] = json!({"storage": "1Gi"});
    expect_of_changes("persistentvolumeclaims", &claim, &[((size, json!("1Gi")), &[STAYS, LESS]), ((size, json!("1500Mi")), &[STAYS])]);
}

#[test]
fn nothing_is_taken_from_a_source_in_another_namespace_nor_from_one_here_that_has_its_name() {
    let claim = made(
        "persistentvolumeclaims",
        json!({"metadata": {"name": "c"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
            "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "c", "namespace": "other"},
        }}),
    );
    assert!(claim.value()["spec"].get("dataSourceRef").is_none() && claim.value()["spec"].get("dataSource").is_none());
}

#[test]
fn a_claims_warnings_speak_of_fractions_of_bytes() {
    let given = json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "500m"}, "limits": {"storage": "1"}}}});
    let warnings = super::rules_for("", "persistentvolumeclaims").warnings(&Object::new(given).unwrap(), None);
    assert_eq!(warnings, ["spec.resources.requests[storage]: fractional byte value \"500m\" is invalid, must be an integer"]);
}

#[test]
fn a_services_faults_come_in_upstreams_order() {
    let ports = json!([{"name": "a", "port": 1, "nodePort": 30101}, {"name": "b", "port": 2}]);
    let service = |change: &dyn Fn(&mut Value)| {
        let mut given = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": ports}});
        change(&mut given["spec"]);
        create("", "v1", "services", given).1
    };
    let same = service(&|spec| spec["ports"][1]["port"] = 1.into());
    assert_eq!(same[0], "spec.ports[1].nodePort: Duplicate value: 30101");
    assert!(same[1].starts_with("spec.ports[1]: Duplicate value: "), "{same:?}");
    let odd = service(&|spec| {
        spec["type"] = "Odd".into();
        spec["ports"] = json!([]);
        spec["loadBalancerSourceRanges"] = json!(["192.0.2.0/24"]);
        spec["externalTrafficPolicy"] = "Local".into();
        spec["healthCheckNodePort"] = (-1).into();
    });
    let paths: Vec<&str> = odd.iter().map(|error| error.split(": ").next().unwrap()).collect();
    assert_eq!(
        paths,
        ["spec.ports", "spec.type", "spec.LoadBalancerSourceRanges", "spec.externalTrafficPolicy", "spec.healthCheckNodePort"]
    );
    assert!(odd[4].contains("may only be set when `type` is 'LoadBalancer'"), "{odd:?}");
}

#[test]
fn a_balancer_that_needs_no_more_node_ports_keeps_those_it_has() {
    let given = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 1, "nodePort": 30102}]}});
    let old = made("services", given);
    let (kept, errors) = update("", "v1", "services", &old, Part::Whole, |s| s["spec"]["allocateLoadBalancerNodePorts"] = false.into());
    assert_eq!((&kept.value()["spec"]["ports"][0]["nodePort"], errors.len()), (&json!(30102), 0));
    let (freed, errors) = update("", "v1", "services", &old, Part::Whole, |s| {
        s["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        s["spec"]["ports"] = json!([{"port": 1, "nodePort": 0}]);
    });
    assert!(errors.is_empty() && freed.value()["spec"]["ports"][0]["nodePort"].as_i64().unwrap_or_default() == 0, "{errors:?}");
    let (inner, errors) = update("", "v1", "services", &old, Part::Whole, |s| {
        s["spec"]["type"] = "ClusterIP".into();
        s["spec"]["ports"] = json!([{"name": "a", "port": 1, "nodePort": 30102}, {"name": "b", "port": 2}]);
    });
    assert!(errors.is_empty() && inner.value()["spec"]["ports"][0].get("nodePort").is_none(), "{errors:?}");
}

#[test]
fn a_service_that_becomes_a_name_elsewhere_drops_what_leads_to_endpoints() {
    let named = |s: &mut Value| {
        s["spec"]["type"] = "ExternalName".into();
        s["spec"]["externalName"] = "a.example.com".into();
    };
    let mut given = json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}});
    let old = made("services", given.clone());
    let (new, errors) = update("", "v1", "services", &old, Part::Whole, |s| {
        named(s);
        s["spec"].as_object_mut().unwrap().remove("clusterIPs");
    });
    let spec = &new.value()["spec"];
    assert!(errors.is_empty() && ["clusterIP", "clusterIPs", "internalTrafficPolicy"].iter().all(|f| spec.get(f).is_none()), "{spec}");
    named(&mut given);
    given["spec"] = json!({"type": "ExternalName", "externalName": "a.example.com", "internalTrafficPolicy": "Cluster"});
    assert!(made("services", given).value()["spec"].get("internalTrafficPolicy").is_none());
}

#[test]
fn a_volume_keeps_its_source_but_may_get_a_secret_to_be_expanded_with() {
    const STAYS: &str = "spec.persistentvolumesource: Forbidden: ";
    let secret = json!({"name": "s", "namespace": "n"});
    let expression = json!({"key": "beta.kubernetes.io/os", "operator": "In", "values": ["linux"]});
    let volume = made(
        "persistentvolumes",
        json!({"metadata": {"name": "v"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "csi": {"driver": "d.example.com", "volumeHandle": "h"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression, expression]}]}},
            "volumeAttributesClassName": "gold",
        }}),
    );
    let key = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/1/key";
    expect_of_changes(
        "persistentvolumes",
        &volume,
        &[
            (("/spec/csi/controllerExpandSecretRef", secret), &[]),
            (("/spec/csi/volumeHandle", json!("other")), &[STAYS]),
            ((key, json!("kubernetes.io/os")), &[]),
            ((key, json!("example.com/os")), &["nodeAffinity: Invalid value: "]),
            (("/spec/volumeAttributesClassName", Value::Null), &["spec.volumeAttributesClassName: Forbidden: update from non-nil"]),
            (
                ("/spec/azureDisk", json!({"diskName": "d", "diskURI": "u", "kind": "Managed"})),
                &["spec.azureDisk.diskURI: Unsupported value: \"u\": supported values: \"/subscriptions/", "spec.csi: Forbidden", STAYS],
            ),
        ],
    );
}

#[test]
fn a_nodes_taints_are_of_its_metadata_and_its_old_configuration_is_dropped() {
    let taints = json!([{"key": "a", "effect": "Odd"}, {"key": "b", "effect": "NoSchedule"}, {"key": "b", "effect": "NoSchedule"}]);
    let given = json!({"metadata": {"name": "n"}, "spec": {"taints": taints, "configSource": {}, "externalID": "x"}});
    let (node, errors) = create("", "v1", "nodes", given);
    assert_eq!(
        errors[0],
        "metadata.taints[0].effect: Unsupported value: \"Odd\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""
    );
    assert!(
        errors[1].starts_with("metadata.taints[2]: Duplicate value: ")
            && errors[1].ends_with(": taints must be unique by key and effect pair")
    );
    assert!(errors.len() == 2 && node.value()["spec"].get("configSource").is_none(), "{errors:?}");
    let warnings = super::rules_for("", "nodes").warnings(&node, None);
    assert_eq!(warnings, ["spec.externalID: this field is deprecated, and is unused by Kubernetes"]);
}

#[test]
fn a_template_of_claims_is_checked_again_when_it_changes() {
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": "c"}});
    let kind = ("resource.k8s.io", "v1", "resourceclaimtemplates");
    let given = json!({"metadata": {"name": "t"}, "spec": {"spec": {"devices": {"requests": [request]}}}});
    let (old, errors) = create(kind.0, kind.1, kind.2, given);
    assert!(errors.is_empty(), "{errors:?}");
    let changed =
        |change: &dyn Fn(&mut Value)| update(kind.0, kind.1, kind.2, &old, Part::Whole, |t| change(&mut t["spec"]["spec"]["devices"])).1;
    let wrong = changed(&|devices| devices["requests"][0]["exactly"]["count"] = (-1).into());
    assert_eq!(wrong[0], "spec.spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero");
    assert!(wrong.len() == 2 && wrong[1].starts_with("spec: Invalid value: ") && wrong[1].ends_with(": field is immutable"), "{wrong:?}");
    let twice = changed(&|devices| devices["requests"] = json!([request, request]));
    assert!(
        twice[0].starts_with("spec: Invalid value: ") && twice[1].starts_with("spec.spec.devices.requests[1]: Duplicate value: {"),
        "{twice:?}"
    );
}

#[test]
fn a_registrys_credentials_are_json_and_what_is_wrong_is_told_as_go_tells_it() {
    let given =
        json!({"metadata": {"name": "s"}, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "changed"}});
    let (_, errors) = create("", "v1", "secrets", given);
    let why =
        "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid character 'c' looking for beginning of value";
    assert_eq!(errors, [why]);
}

#[test]
fn of_a_claim_the_annotation_that_names_its_class_stays_or_moves_to_the_field() {
    const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    const KEPT: &str = "metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: ";
    const STAYS: &str = "spec: Forbidden: spec is immutable";
    let claim = |annotations: Value| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
        made("persistentvolumeclaims", json!({"metadata": {"name": "c", "annotations": annotations}, "spec": spec}))
    };
    let (annotations, field) = ("/metadata/annotations", "/spec/storageClassName");
    let old = claim(json!({CLASS: "a"}));
    expect_of_changes(
        "persistentvolumeclaims",
        &old,
        &[
            ((annotations, json!({CLASS: "b"})), &[KEPT]),
            ((annotations, json!({})), &[KEPT]),
            ((field, json!("a")), &[]),
            ((field, json!("b")), &[STAYS]),
        ],
    );
    expect_of_changes(
        "persistentvolumeclaims",
        &claim(json!({})),
        &[((annotations, json!({CLASS: "b"})), &[KEPT]), ((field, json!("b")), &[])],
    );
    let (_, errors) = update("", "v1", "persistentvolumeclaims", &old, Part::Whole, |claim| {
        claim["metadata"]["annotations"] = json!({});
        claim["spec"]["storageClassName"] = json!("a");
    });
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn ranges_of_a_balancer_are_plain_wherever_they_stand_and_annotations_of_topology_agree() {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let service = |kind: &str, annotations: Value, ranges: Value| {
        let spec = json!({"type": kind, "ports": [{"port": 80}], "loadBalancerSourceRanges": ranges});
        json!({"metadata": {"name": "a", "annotations": annotations}, "spec": spec})
    };
    let told = |given: Value| create("", "v1", "services", given).1;
    let wrong = told(service(
        "LoadBalancer",
        json!({}),
        json!(["10.0.0.1/8", " 10.0.0.0/8 ", "010.0.0.0/8", "::ffff:1.2.3.4/128", "x", "10.0.0.0/08"]),
    ));
    let why = [
        "[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
        "[2]: Invalid value: \"010.0.0.0/8\": must not have leading 0s in IP or prefix length",
        "[3]: Invalid value: \"::ffff:1.2.3.4/128\": must not have an IPv4-mapped IPv6 address",
        "[4]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        "[5]: Invalid value: \"10.0.0.0/08\": must not have leading 0s in IP or prefix length",
    ];
    assert_eq!(wrong, why.map(|why| format!("spec.LoadBalancerSourceRanges{why}")));
    let path = format!("metadata.annotations[{RANGES}]");
    let wrong = told(service("ClusterIP", json!({RANGES: "10.0.0.0/8, x"}), json!([])));
    let only = format!("{path}: Forbidden: may only be used when `type` is 'LoadBalancer'");
    let cidr = format!("{path}: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    assert_eq!(wrong, [only, cidr]);
    assert!(told(service("LoadBalancer", json!({RANGES: " "}), json!([]))).is_empty());

    let hints = "service.kubernetes.io/topology-aware-hints";
    let modes = |mode: &str| json!({hints: "Auto", "service.kubernetes.io/topology-mode": mode});
    assert!(told(service("ClusterIP", modes("Auto"), json!([]))).is_empty());
    let wrong = told(service("ClusterIP", modes("None"), json!([])));
    let path = "metadata.annotations[service.kubernetes.io/topology-mode]";
    assert_eq!(wrong, [format!("{path}: Invalid value: \"None\": must match annotations[{hints}] when both are specified")]);

    // What was there before this was looked at may stay.
    let mut old = made("services", service("LoadBalancer", json!({}), json!(["10.0.0.0/8"])));
    old.value_mut()["spec"]["loadBalancerSourceRanges"] = json!(["10.0.0.1/8"]);
    let (_, errors) = update("", "v1", "services", &old, Part::Whole, |service| service["metadata"]["labels"] = json!({"x": "y"}));
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_range_without_text_is_none_that_a_policy_had() {
    let from = json!([{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]);
    let policy = json!({"metadata": {"name": "a"}, "spec": {"podSelector": {}, "ingress": [{"from": from}]}});
    let old = create("networking.k8s.io", "v1", "networkpolicies", policy).0;
    let (_, errors) = update("networking.k8s.io", "v1", "networkpolicies", &old, Part::Whole, |policy| {
        policy["spec"]["ingress"][0]["from"][1]["ipBlock"]["except"][0] = json!("");
    });
    assert!(errors.iter().any(|error| error.contains("must be a valid CIDR value")), "{errors:?}");
}

#[test]
fn an_address_of_a_slice_is_of_its_family_and_one_of_six_has_one_spelling() {
    let told = |kind: &str, address: &str| {
        let slice = json!({"metadata": {"name": "s"}, "addressType": kind, "endpoints": [{"addresses": [address]}]});
        create("discovery.k8s.io", "v1", "endpointslices", slice).1.join("; ")
    };
    assert_eq!((told("IPv4", "10.0.0.1"), told("IPv6", "2001:db8::1")), (String::new(), String::new()));
    let of = |path: &str, address: &str, why: &str| format!("endpoints[0].addresses{path}: Invalid value: {address:?}: {why}");
    assert_eq!(told("IPv4", "2001:db8::1"), of("", "2001:db8::1", "must be an IPv4 address"));
    assert_eq!(told("IPv6", "2001:DB8::1"), of("[0]", "2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"));
    assert_eq!(told("IPv6", "::"), of("[0]", "::", "may not be unspecified (::)"));
    assert_eq!(told("IPv4", "::ffff:1.2.3.4"), of("[0]", "::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"));
}
