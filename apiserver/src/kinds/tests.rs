//! Every kind of the tables is creatable from a minimal object; odd kinds behave as upstream's golden objects say.

use coracle_schema::{FieldErrors, Tables, decode, default, validate};
use coracle_tree::{Value, json};

use super::rules_for;
use crate::{
    registry::{Object, Part},
    user::User,
};

/// The tables, parsed once for all tests.
static TABLES: std::sync::LazyLock<Tables> = std::sync::LazyLock::new(|| Tables::load().unwrap());

fn decoded(group: &str, version: &str, resource: &str, given: Value) -> Object {
    let row = TABLES.resource(group, version, resource).unwrap();
    let schema = TABLES.schema_of(row);
    let mut value = decode::from_value(given, &schema, decode::FieldValidation::Strict).unwrap().value;
    value["apiVersion"] = if group.is_empty() { version.into() } else { format!("{group}/{version}").into() };
    value["kind"] = row.kind.into();
    default::apply(&mut value, &schema);
    let mut object = Object::new(value).unwrap();
    rules_for(group, resource).default(&mut object);
    object
}

fn faults(group: &str, version: &str, resource: &str, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
    let schema = TABLES.schema_of(TABLES.resource(group, version, resource).unwrap());
    let tables = validate::structure(new.value(), old.map(Object::value), &schema, validate::Rigour::BuiltIn);
    let rules = rules_for(group, resource);
    let mut found = crate::registry::rules::findings(tables, rules.validate(new, old, part), rules, new, old);
    if let Some(old) = old {
        found.extend(rules.immutable(new, old, part));
    }
    found
}

/// What a create makes of an object, and what is wrong with it.
pub(super) fn create(group: &str, version: &str, resource: &str, mut given: Value) -> (Object, Vec<String>) {
    let namespaced = TABLES.resource(group, version, resource).unwrap().namespaced;
    given["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555".into();
    if namespaced {
        given["metadata"]["namespace"] = "default".into();
    }
    let mut object = decoded(group, version, resource, given);
    rules_for(group, resource).begin(&mut object, None);
    rules_for(group, resource).prepare(&mut object, None, Part::Whole);
    let errors = faults(group, version, resource, &object, None, Part::Whole);
    rules_for(group, resource).read_back(&mut object);
    (object, errors.0.iter().map(ToString::to_string).collect())
}

/// What an update makes of an object that was created, and what is wrong with it.
pub(super) fn update(
    group: &str,
    version: &str,
    resource: &str,
    old: &Object,
    part: Part<'_>,
    change: impl Fn(&mut Value),
) -> (Object, Vec<String>) {
    let mut given = old.value().clone();
    change(&mut given);
    let mut object = decoded(group, version, resource, given);
    if part == Part::Whole {
        rules_for(group, resource).begin(&mut object, Some(old));
    }
    rules_for(group, resource).prepare(&mut object, Some(old), part);
    let errors = faults(group, version, resource, &object, Some(old), part);
    (object, errors.0.iter().map(ToString::to_string).collect())
}

fn fine(group: &str, version: &str, resource: &str, given: Value) -> Object {
    let (object, errors) = create(group, version, resource, given);
    assert!(errors.is_empty(), "{resource}: {errors:?}");
    object
}

/// What must be in the spec of a minimal object, by resource; everything else may be left out.
fn minimal(group: &str, version: &str, resource: &str) -> Value {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}});
    let selector = json!({"matchLabels": {"app": "a"}});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let job = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "nginx:1"}]}}});
    let policy = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}});
    match (group, version, resource) {
        ("", _, "pods") => json!({"spec": template["spec"]}),
        ("", _, "podtemplates") => json!({"template": template}),
        ("", _, "services") => json!({"spec": {"ports": [{"port": 80}]}}),
        ("", _, "replicationcontrollers") => json!({"spec": {"template": template}}),
        ("" | "events.k8s.io", "v1", "events") if group.is_empty() => json!({"involvedObject": {"namespace": "default"}}),
        ("events.k8s.io", _, "events") => {
            json!({"eventTime": "2024-01-01T00:00:00.000000Z", "regarding": {"namespace": "default"}, "type": "Normal",
            "reason": "R", "action": "A", "reportingController": "example.com/c", "reportingInstance": "i"})
        }
        ("", _, "persistentvolumeclaims") => json!({"spec": claim}),
        ("", _, "persistentvolumes") => {
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}})
        }
        ("apps", _, "controllerrevisions") => json!({"data": {"a": 1}}),
        ("apps", _, "deployments" | "replicasets" | "statefulsets" | "daemonsets") => {
            json!({"spec": {"selector": selector, "template": template}})
        }
        ("batch", _, "jobs") => json!({"spec": job}),
        ("batch", _, "cronjobs") => json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job}}}),
        ("autoscaling", _, _) => {
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}})
        }
        ("networking.k8s.io", _, "ingresses") => json!({"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}}),
        ("networking.k8s.io", _, "ingressclasses") => json!({"spec": {"controller": "example.com/c"}}),
        ("networking.k8s.io", _, "ipaddresses") => json!({"spec": {"parentRef": {"resource": "services", "name": "a"}}}),
        ("networking.k8s.io", _, "servicecidrs") => json!({"spec": {"cidrs": ["10.0.0.0/16"]}}),
        ("node.k8s.io", ..) => json!({"handler": "runc"}),
        ("rbac.authorization.k8s.io", _, "rolebindings") => json!({"roleRef": {"kind": "Role", "name": "a"}}),
        ("rbac.authorization.k8s.io", _, "clusterrolebindings") => json!({"roleRef": {"kind": "ClusterRole", "name": "a"}}),
        ("storage.k8s.io", _, "csistoragecapacities") => json!({"storageClassName": "a"}),
        ("storage.k8s.io", _, "volumeattributesclasses") => json!({"driverName": "example.com/d", "parameters": {"a": "b"}}),
        ("storage.k8s.io", _, "storageclasses") => json!({"provisioner": "example.com/p"}),
        ("storage.k8s.io", _, "volumeattachments") => {
            json!({"spec": {"attacher": "a", "source": {"persistentVolumeName": "v"}, "nodeName": "n"}})
        }
        ("discovery.k8s.io", ..) => json!({"addressType": "IPv4"}),
        ("certificates.k8s.io", _, "certificatesigningrequests") => {
            let request = super::certificates::sample_request();
            json!({"spec": {"request": request, "signerName": "example.com/s", "usages": ["client auth"]}})
        }
        ("storagemigration.k8s.io", ..) => json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}}}),
        ("certificates.k8s.io", _, "clustertrustbundles") => json!({"spec": {"trustBundle": super::trust::sample_bundle()}}),
        ("certificates.k8s.io", _, "podcertificaterequests") => {
            json!({"spec": {"signerName": "example.com/s", "podName": "p", "podUID": "u", "serviceAccountName": "s",
            "serviceAccountUID": "u", "nodeName": "n", "nodeUID": "u", "stubPKCS10Request": super::trust::sample_stub()}})
        }
        ("apiregistration.k8s.io", ..) => json!({"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10}}),
        ("apiextensions.k8s.io", ..) => {
            json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
        }
        ("admissionregistration.k8s.io", _, "validatingadmissionpolicies") => {
            json!({"spec": {"matchConstraints": policy["matchConstraints"], "validations": [{"expression": "true"}]}})
        }
        ("admissionregistration.k8s.io", _, "mutatingadmissionpolicies") => {
            let mutation = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}});
            json!({"spec": {"matchConstraints": policy["matchConstraints"], "reinvocationPolicy": "Never", "mutations": [mutation]}})
        }
        ("admissionregistration.k8s.io", _, "validatingadmissionpolicybindings") => {
            json!({"spec": {"policyName": "a", "validationActions": ["Deny"]}})
        }
        ("admissionregistration.k8s.io", _, "mutatingadmissionpolicybindings") => json!({"spec": {"policyName": "a"}}),
        ("flowcontrol.apiserver.k8s.io", _, "flowschemas") => json!({"spec": {"priorityLevelConfiguration": {"name": "a"}}}),
        ("flowcontrol.apiserver.k8s.io", _, "prioritylevelconfigurations") => {
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}})
        }
        ("resource.k8s.io", _, "resourceslices") => {
            json!({"spec": {"driver": "example.com", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "allNodes": true}})
        }
        ("resource.k8s.io", _, "devicetaintrules") => json!({"spec": {"taint": {"key": "example.com/a", "effect": "NoSchedule"}}}),
        ("authentication.k8s.io", _, "tokenreviews") => json!({"spec": {"token": "t"}}),
        ("", _, "bindings") => json!({"target": {"name": "n"}}),
        _ => json!({}),
    }
}

#[test]
fn every_kind_of_the_tables_is_creatable_from_a_minimal_object() {
    for row in &TABLES.resources {
        let mut given = minimal(row.group, row.version, row.plural);
        if given.pointer("/metadata/name").is_none() {
            given["metadata"]["name"] = "a".into();
        }
        let object = fine(row.group, row.version, row.plural, given);
        // What was made is stable: reading and defaulting it again changes nothing.
        let again = decoded(row.group, row.version, row.plural, object.value().clone());
        assert_eq!(again.value(), object.value(), "{}", row.plural);
    }
}

#[test]
fn a_deployment_is_stored_as_upstream_stores_it() {
    let given = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "nginx"}]}}}});
    let made = fine("apps", "v1", "deployments", given).into_value();
    assert_eq!(
        made["spec"],
        json!({
            "progressDeadlineSeconds": 600, "replicas": 1, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}, "type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "containers": [{"image": "nginx", "imagePullPolicy": "Always", "name": "web", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
                "terminationGracePeriodSeconds": 30,
            }},
        })
    );
}

#[test]
fn a_deployments_selector_must_be_there_match_and_stay() {
    let template =
        json!({"metadata": {"labels": {"app": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}], "restartPolicy": "Never"}});
    let (_, errors) = create("apps", "v1", "deployments", json!({"metadata": {"name": "a"}, "spec": {"template": template}}));
    assert_eq!(
        errors,
        [
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ]
    );
    let given = |app: &str| {
        json!({"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"app": app}},
        "template": {"metadata": {"labels": {"app": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}})
    };
    let (_, errors) = create("apps", "v1", "deployments", given("a"));
    assert_eq!(errors, ["spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"]);
    let old = fine("apps", "v1", "deployments", given("b"));
    let (_, errors) = update("apps", "v1", "deployments", &old, Part::Whole, |d| {
        d["spec"]["selector"]["matchLabels"]["app"] = "c".into();
        d["spec"]["template"]["metadata"]["labels"]["app"] = "c".into();
    });
    assert_eq!(errors, ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"c\"}}: field is immutable"]);
}

#[test]
fn a_daemon_set_counts_the_changes_of_its_template() {
    let given = minimal("apps", "v1", "daemonsets");
    let mut given = given;
    given["metadata"]["name"] = "a".into();
    let old = fine("apps", "v1", "daemonsets", given);
    let key = "deprecated.daemonset.template.generation";
    assert_eq!(old.annotation(key), Some("1"));
    assert_eq!(
        old.value()["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    let (new, _) = update("apps", "v1", "daemonsets", &old, Part::Whole, |d| d["spec"]["template"]["spec"]["hostname"] = "h".into());
    assert_eq!(new.annotation(key), Some("2"));
}

#[test]
fn a_job_selects_its_own_pods_and_its_template_stays() {
    let mut given = minimal("batch", "v1", "jobs");
    given["metadata"]["name"] = "pi".into();
    let job = fine("batch", "v1", "jobs", given.clone());
    let uid = job.uid();
    let spec = &job.value()["spec"];
    assert_eq!(spec["selector"]["matchLabels"], json!({"batch.kubernetes.io/controller-uid": uid}));
    assert_eq!(
        spec["template"]["metadata"]["labels"],
        json!({
            "batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": "pi", "controller-uid": uid, "job-name": "pi",
        })
    );
    for (field, value) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        assert_eq!(spec[field], value, "{field}");
    }
    let (_, errors) =
        update("batch", "v1", "jobs", &job, Part::Whole, |j| j["spec"]["template"]["spec"]["containers"][0]["image"] = "y".into());
    assert!(errors[0].starts_with("spec.template: Invalid value: ") && errors[0].ends_with(": field is immutable"), "{errors:?}");
    for (policy, expected) in [
        ("Always", &["Required value: valid values: \"OnFailure\", \"Never\""][..]),
        (
            "Odd",
            &[
                "Unsupported value: \"Odd\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                "Unsupported value: \"Odd\": supported values: \"OnFailure\", \"Never\"",
            ],
        ),
    ] {
        given["spec"]["template"]["spec"]["restartPolicy"] = policy.into();
        let (_, errors) = create("batch", "v1", "jobs", given.clone());
        let expected: Vec<String> = expected.iter().map(|text| format!("spec.template.spec.restartPolicy: {text}")).collect();
        assert_eq!(errors, expected);
    }
}

#[test]
fn an_indexed_job_grows_with_what_runs_at_once_and_a_suspended_one_is_placed_anew() {
    let mut given = minimal("batch", "v1", "jobs");
    given["metadata"]["name"] = "a".into();
    for (field, value) in
        [("completionMode", json!("Indexed")), ("completions", json!(4)), ("parallelism", json!(2)), ("suspend", json!(true))]
    {
        given["spec"][field] = value;
    }
    let job = fine("batch", "v1", "jobs", given);
    let told = |job: &Object, change: &dyn Fn(&mut Value)| update("batch", "v1", "jobs", job, Part::Whole, change).1;
    assert_eq!(
        told(&job, &|j| j["spec"]["completions"] = 5.into()),
        ["spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"]
    );
    assert!(told(&job, &|j| (j["spec"]["completions"], j["spec"]["parallelism"]) = (3.into(), 3.into())).is_empty());
    let placed = |j: &mut Value| j["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    assert!(told(&job, &placed).is_empty());
    let named = told(&job, &|j| j["spec"]["template"]["spec"]["schedulerName"] = "x".into());
    assert!(named[0].starts_with("spec.template.spec: Invalid value: "), "{named:?}");
    let mut running = job.clone();
    running.value_mut()["status"] = json!({"startTime": "2020-01-02T03:04:05Z", "active": 1});
    assert!(told(&running, &placed)[0].starts_with("spec.template: Invalid value: "));
    running.value_mut()["status"] = json!({"startTime": "2020-01-02T03:04:05Z", "conditions": [{"type": "Suspended", "status": "True"}]});
    assert!(told(&running, &placed).is_empty());
}

#[test]
fn many_completions_bound_what_runs_and_what_fails() {
    let mut given = minimal("batch", "v1", "jobs");
    given["metadata"]["name"] = "a".into();
    for (field, value) in [
        ("completionMode", json!("Indexed")),
        ("completions", json!(100_001)),
        ("parallelism", json!(10_001)),
        ("backoffLimitPerIndex", json!(1)),
        ("maxFailedIndexes", json!(100_001)),
    ] {
        given["spec"][field] = value;
    }
    let (_, errors) = create("batch", "v1", "jobs", given);
    let when = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
    assert_eq!(
        errors,
        [
            "spec.maxFailedIndexes: Invalid value: 100001: must be less than or equal to 100000".to_owned(),
            format!("spec.parallelism: Invalid value: 10001: {when}"),
            format!("spec.maxFailedIndexes: Invalid value: 100001: {when}"),
        ]
    );
}

#[test]
fn some_names_follow_from_what_the_object_says() {
    let told = |group: &str, resource: &str, spec: Value, name: &str, prefix: bool| {
        let object = Object::new(json!({"spec": spec})).unwrap();
        rules_for(group, resource).name_faults(&object, None, name, prefix).unwrap()
    };
    let bundle =
        |name: &str, prefix| told("certificates.k8s.io", "clustertrustbundles", json!({"signerName": "example.com/s"}), name, prefix);
    assert_eq!(bundle("a", false), ["ClusterTrustBundle for signerName example.com/s must be named with prefix example.com:s:"]);
    assert!(bundle("example.com:s:a-", true).is_empty() && !bundle("example.com:s:a-", false).is_empty());
    let service = |name: &str| told("apiregistration.k8s.io", "apiservices", json!({"group": "g.com", "version": "v1"}), name, false);
    assert!(service("v1.g.com").is_empty());
    assert_eq!(
        (service("a/b"), service("a")),
        (vec!["may not contain '/'".to_owned()], vec!["must be `spec.version+\".\"+spec.group`: \"v1.g.com\"".to_owned()])
    );
    let names = json!({"group": "g.com", "names": {"plural": "things"}});
    let definition = |name: &str| told("apiextensions.k8s.io", "customresourcedefinitions", names.clone(), name, false);
    assert!(definition("things.g.com").is_empty());
    assert_eq!(definition("x"), ["must be spec.names.plural+\".\"+spec.group"]);
    assert_eq!(definition("X").len(), 2);
}

#[test]
fn a_service_gets_target_ports_and_keeps_what_was_allocated() {
    let service = fine("", "v1", "services", json!({"metadata": {"name": "a"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}));
    let spec = &service.value()["spec"];
    assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(
        (&spec["sessionAffinity"], &spec["internalTrafficPolicy"], &spec["externalTrafficPolicy"]),
        (&json!("None"), &json!("Cluster"), &json!("Cluster"))
    );
    let mut stored = service.clone();
    stored.member_mut("spec").extend([
        ("clusterIP".to_owned(), json!("10.0.0.7")),
        ("clusterIPs".to_owned(), json!(["10.0.0.7"])),
        ("ipFamilies".to_owned(), json!(["IPv4"])),
    ]);
    stored.value_mut()["spec"]["ports"][0]["nodePort"] = 30_000.into();
    let apply = |change: &dyn Fn(&mut Value)| {
        update("", "v1", "services", &stored, Part::Whole, |s| {
            s["spec"] = service.value()["spec"].clone();
            change(s);
        })
    };
    let (kept, errors) = apply(&|_| {});
    assert_eq!(
        (&kept.value()["spec"]["clusterIP"], &kept.value()["spec"]["ports"][0]["nodePort"], errors.len()),
        (&json!("10.0.0.7"), &json!(30_000), 0)
    );
    let (inner, errors) = update("", "v1", "services", &stored, Part::Whole, |s| s["spec"]["type"] = "ClusterIP".into());
    assert!(
        errors.is_empty()
            && inner.value()["spec"]["ports"][0].get("nodePort").is_none()
            && inner.value()["spec"].get("externalTrafficPolicy").is_none(),
        "{errors:?}"
    );
    let (_, errors) = apply(&|s| s["spec"]["clusterIP"] = "10.0.0.8".into());
    assert_eq!(errors, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set"]);
}

#[test]
fn ports_of_a_service_need_distinct_names() {
    let ports = json!([{"port": 80}, {"port": 80, "name": "a"}, {"port": 0, "name": "a", "targetPort": "-"}]);
    let (_, errors) = create("", "v1", "services", json!({"metadata": {"name": "a"}, "spec": {"ports": ports}}));
    let heads: Vec<&str> = errors.iter().map(|e| e.split(": ").next().unwrap()).collect();
    assert_eq!(
        heads,
        [
            "spec.ports[0].name",
            "spec.ports[2].name",
            "spec.ports[2].port",
            "spec.ports[2].targetPort",
            "spec.ports[2].targetPort",
            "spec.ports[1]"
        ]
    );
}

#[test]
fn a_namespace_has_its_label_finalizer_and_phase() {
    let namespace = fine("", "v1", "namespaces", json!({"metadata": {"name": "a"}}));
    assert_eq!(namespace.label("kubernetes.io/metadata.name"), Some("a"));
    assert_eq!(namespace.value()["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace.value()["status"]["phase"], "Active");
    let (kept, _) = update("", "v1", "namespaces", &namespace, Part::Whole, |n| n["spec"] = json!({}));
    assert_eq!(kept.value()["spec"]["finalizers"], json!(["kubernetes"]));
    let (gone, errors) = update("", "v1", "namespaces", &namespace, Part::Other("finalize"), |n| n["spec"] = json!({"finalizers": []}));
    assert!(errors.is_empty() && gone.value()["spec"].get("finalizers").is_none());
    let (_, errors) = update("", "v1", "namespaces", &namespace, Part::Status, |n| n["status"]["phase"] = "Terminating".into());
    assert_eq!(errors, ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]);
}

#[test]
fn a_secrets_plain_text_is_folded_into_its_data() {
    let secret =
        fine("", "v1", "secrets", json!({"metadata": {"name": "a"}, "data": {"x": "YQ=="}, "stringData": {"y": "hello", "x": "b"}}));
    assert_eq!(secret.value()["data"], json!({"x": "Yg==", "y": "aGVsbG8="}));
    assert_eq!((secret.value().get("stringData"), &secret.value()["type"]), (None, &json!("Opaque")));
    let (_, errors) = create("", "v1", "secrets", json!({"metadata": {"name": "a"}, "type": "kubernetes.io/tls", "data": {"a/b": "YQ=="}}));
    assert!(errors[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must consist of"));
    assert_eq!(errors[1..], ["data[tls.crt]: Required value", "data[tls.key]: Required value"]);
}

#[test]
fn a_certificate_request_says_who_made_it_whatever_its_maker_says() {
    let spec = json!({"request": "YQ==", "signerName": "example.com/s", "usages": ["client auth"], "username": "root", "uid": "0"});
    let mut request = decoded("certificates.k8s.io", "v1", "certificatesigningrequests", json!({"metadata": {"name": "a"}, "spec": spec}));
    let rules = rules_for("certificates.k8s.io", "certificatesigningrequests");
    rules.note_creator(&mut request, &User::new("ann", &["devs"]));
    let spec = &request.value()["spec"];
    assert_eq!((&spec["username"], &spec["groups"]), (&json!("ann"), &json!(["devs", "system:authenticated"])));
    assert!(spec.get("uid").is_none());
}

#[test]
fn what_is_immutable_stays() {
    let map = fine("", "v1", "configmaps", json!({"metadata": {"name": "a"}, "data": {"a": "1"}, "immutable": true}));
    let (_, errors) = update("", "v1", "configmaps", &map, Part::Whole, |m| m["data"]["a"] = "2".into());
    assert_eq!(errors, ["data: Forbidden: field is immutable when `immutable` is set"]);
    let binding = fine(
        "rbac.authorization.k8s.io",
        "v1",
        "rolebindings",
        json!({"metadata": {"name": "a"}, "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}]}),
    );
    assert_eq!(binding.value()["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    let (_, errors) =
        update("rbac.authorization.k8s.io", "v1", "rolebindings", &binding, Part::Whole, |b| b["roleRef"]["name"] = "s".into());
    assert!(errors[0].starts_with("roleRef: Invalid value: ") && errors[0].ends_with(": field is immutable"), "{errors:?}");
}

#[test]
fn a_claim_may_grow_once_it_is_bound_and_not_change_otherwise() {
    let mut given = minimal("", "v1", "persistentvolumeclaims");
    given["metadata"]["name"] = "a".into();
    let mut claim = fine("", "v1", "persistentvolumeclaims", given);
    let grow = |claim: &Object| {
        update("", "v1", "persistentvolumeclaims", claim, Part::Whole, |c| c["spec"]["resources"]["requests"]["storage"] = "2Gi".into()).1
    };
    assert_eq!(grow(&claim).len(), 1);
    claim.value_mut()["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    assert!(grow(&claim).is_empty());
    let (_, errors) =
        update("", "v1", "persistentvolumeclaims", &claim, Part::Whole, |c| c["spec"]["accessModes"] = json!(["ReadOnlyMany"]));
    assert!(errors[0].starts_with("spec: Forbidden: spec is immutable after creation except resources.requests"));
}

#[test]
fn an_autoscalers_defaults_follow_its_version() {
    let spec = json!({"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}});
    let v2 = fine("autoscaling", "v2", "horizontalpodautoscalers", json!({"metadata": {"name": "a"}, "spec": spec}));
    assert_eq!(v2.value()["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    let v1 = fine("autoscaling", "v1", "horizontalpodautoscalers", json!({"metadata": {"name": "a"}, "spec": spec}));
    assert_eq!(v1.value()["spec"]["targetCPUUtilizationPercentage"], 80);
    let (_, errors) = create(
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        json!({"metadata": {"name": "a"}, "spec": {"minReplicas": 3, "maxReplicas": 2,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}}}),
    );
    assert_eq!(errors, ["spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`"]);
}

#[test]
fn both_views_of_an_event_are_selected_alike() {
    let about = json!({"namespace": "default", "kind": "Pod", "name": "p"});
    let core = json!({"apiVersion": "v1", "involvedObject": about, "reason": "R", "reportingComponent": "c"});
    let group = json!({"apiVersion": "events.k8s.io/v1", "regarding": about, "reason": "R", "reportingController": "c"});
    let rules = rules_for("", "events");
    assert_eq!(rules.selectable(&core), rules.selectable(&group));
    assert!(rules.selectable(&core).contains(&("source", "c".to_owned())));
    let lasting = |seconds| super::events(std::time::Duration::from_secs(seconds)).policy().ttl_seconds;
    assert_eq!((rules.policy().ttl_seconds, lasting(90), lasting(0)), (Some(3600), Some(90), None));
}

#[test]
fn a_definition_remembers_the_version_it_is_stored_in() {
    let crd =
        fine("apiextensions.k8s.io", "v1", "customresourcedefinitions", minimal("apiextensions.k8s.io", "v1", "customresourcedefinitions"));
    assert_eq!(crd.value()["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(
        (&crd.value()["spec"]["names"]["singular"], &crd.value()["spec"]["names"]["listKind"]),
        (&json!("thing"), &json!("ThingList"))
    );
    assert_eq!(crd.value()["spec"]["conversion"], json!({"strategy": "None"}));
    let (_, errors) = create(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        json!({"metadata": {"name": "x"}, "spec": {"group": "nodot",
        "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}, "versions": []}}),
    );
    assert_eq!(
        errors,
        [
            "spec.group: Invalid value: \"nodot\": should be a domain with at least one dot",
            "spec.versions: Invalid value: []: must have exactly one version marked as storage version",
            "status.storedVersions: Invalid value: null: must have at least one stored version",
        ]
    );
}
