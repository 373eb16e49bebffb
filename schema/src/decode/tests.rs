use coracle_tree::{Value, json};

use super::*;
use crate::tables::Tables;

fn decode(message: &str, text: &str, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    let tables = Tables::load().unwrap();
    from_json(text.as_bytes(), &tables.message(message).unwrap(), mode)
}

fn value(message: &str, given: &Value) -> Value {
    decode(message, &given.to_string(), FieldValidation::Strict).unwrap().value
}

#[test]
fn go_names_a_type_where_it_is_declared() {
    let wrong = |kind: &str, body: &str| decode(kind, body, FieldValidation::Ignore).unwrap_err().to_string();
    let rule = |field: &str| format!(r#"{{"webhooks":[{{"rules":[{{{field}}}]}}]}}"#);
    assert!(
        wrong("admissionregistration.ValidatingWebhookConfiguration", &rule(r#""scope":7"#)).ends_with("Rule.scope of type v1.ScopeType")
    );
    let of = |field: &str| format!(r#"{{"spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{{{field}}}}}}}]}}}}"#);
    for (field, expected) in [
        (r#""enum":{}"#, "enum of type []v1.JSON"),
        (r#""definitions":"x""#, "definitions of type v1.JSONSchemaDefinitions"),
        (r#""dependencies":{"a":7}"#, "dependencies of type v1.JSONSchemaPropsOrStringArray"),
    ] {
        let found = wrong("apiextensions.CustomResourceDefinition", &of(field));
        assert!(found.ends_with(expected), "{found}");
    }
}

#[test]
fn unknown_and_duplicate_fields_are_reported_with_their_paths() {
    let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"1","a":"2"}},"spec":{"nodeName":"x","nodeName":"y",
        "containers":[{"name":"c"},{"name":"d","Image":"x"}],"foo":{"bar":[1]}}}"#;
    let reports = [
        "duplicate field \"metadata.labels.a\"",
        "duplicate field \"spec.nodeName\"",
        "unknown field \"spec.containers[1].Image\"",
        "unknown field \"spec.foo\"",
    ];
    let decoded = decode("core.Pod", text, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.reports, reports);
    assert_eq!(decoded.value["spec"]["nodeName"], "y");
    assert!(decoded.value["spec"].get("foo").is_none());
    assert_eq!(decode("core.Pod", text, FieldValidation::Ignore).unwrap().reports.len(), 0);
    let refused = decode("core.Pod", text, FieldValidation::Strict).unwrap_err();
    assert_eq!(
        refused.describe("Pod", "v1"),
        format!("Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: {}", reports.join(", "))
    );
}

#[test]
fn type_errors_are_worded_like_gos_decoder() {
    let wrong = |message, text| decode(message, text, FieldValidation::Ignore).unwrap_err().to_string();
    assert_eq!(
        wrong("apps.Deployment", r#"{"spec":{"replicas":"3"}}"#),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
    assert_eq!(
        wrong("apps.Deployment", r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}}}"#),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"
    );
    assert_eq!(
        wrong("apps.Deployment", r#"{"spec":{"replicas":9999999999}}"#),
        "json: cannot unmarshal number 9999999999 into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
    assert_eq!(
        wrong("core.Pod", r#"{"metadata":{"labels":{"a":1}}}"#),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"
    );
    // Maps have names as types; that of a map to lists is the name of its lists.
    assert!(wrong("resource.Device", r#"{"attributes":"x"}"#).ends_with("of type map[v1.QualifiedName]v1.DeviceAttribute"));
    assert!(wrong("certificates.CertificateSigningRequestSpec", r#"{"extra":"x"}"#).ends_with("of type map[string]v1.ExtraValue"));
    assert_eq!(wrong("core.Pod", "[]"), "json: cannot unmarshal array into Go value of type v1.Pod");
    assert!(wrong("core.Pod", r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#).starts_with("quantities must match"));
    assert!(wrong("core.Pod", "{").starts_with("couldn't get version/kind; json parse error: "));
    assert!(wrong("core.Pod", "{} x").starts_with("couldn't get version/kind; json parse error: "));
}

#[test]
fn empty_values_are_written_or_not_as_upstream_writes_them() {
    let pod = value(
        "core.Pod",
        &json!({"metadata": {"name": "a", "labels": {}, "creationTimestamp": null}, "spec": {
        "hostname": "", "hostNetwork": false, "priority": 0, "nodeName": null, "tolerations": [],
        "containers": [{"name": "c", "env": [{"name": "x", "value": ""}], "resources": {"limits": {"cpu": "1000m", "memory": 1024, "x": 0.0001}}}],
    }, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    assert_eq!(
        pod,
        json!({
            "metadata": {"name": "a"},
            "spec": {"priority": 0, "containers": [{"name": "c", "env": [{"name": "x"}], "resources": {"limits": {"cpu": "1", "memory": "1024", "x": "1m"}}}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}]},
        })
    );
    assert_eq!(value("rbac.Role", &json!({"rules": null})), json!({"metadata": {}, "rules": null}));
    assert_eq!(value("core.Node", &json!({}))["status"]["daemonEndpoints"], json!({"kubeletEndpoint": {"Port": 0}}));
    assert_eq!(value("apps.Deployment", &json!({"spec": {}}))["spec"]["selector"], Value::Null);
}

#[test]
fn lists_without_items_are_there_until_they_are_stored() {
    let mut role = value("rbac.ClusterRole", &json!({"rules": [], "aggregationRule": {"clusterRoleSelectors": []}}));
    assert_eq!((&role["rules"], &role["aggregationRule"]), (&json!([]), &json!({})));
    let schema = |message: &str| Tables::load().unwrap().message(message).unwrap();
    assert!(as_stored(&mut role, &schema("rbac.ClusterRole")));
    assert_eq!(role["rules"], Value::Null);
    assert!(!as_stored(&mut role, &schema("rbac.ClusterRole")), "it is as it was");
    let terms = json!([{"matchExpressions": [{"key": "a", "operator": "Exists", "values": []}]}]);
    let mut slice = value("discovery.EndpointSlice", &json!({"addressType": "IPv4", "endpoints": [{"addresses": []}], "ports": []}));
    let mut pod = value(
        "core.Pod",
        &json!({"spec": {"containers": [], "affinity":
        {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}}),
    );
    assert_eq!((&slice["endpoints"][0]["addresses"], &slice["ports"], &pod["spec"]["containers"]), (&json!([]), &json!([]), &json!([])));
    assert!(as_stored(&mut slice, &schema("discovery.EndpointSlice")));
    assert!(as_stored(&mut pod, &schema("core.Pod")));
    assert_eq!((&slice["endpoints"][0]["addresses"], &slice["ports"]), (&Value::Null, &Value::Null));
    assert_eq!(pod["spec"]["containers"], Value::Null);
}

#[test]
fn null_items_and_values_become_the_zero_value() {
    let map = value("core.ConfigMap", &json!({"data": {"a": null}, "metadata": {"finalizers": ["x", null]}}));
    assert_eq!(map, json!({"data": {"a": ""}, "metadata": {"finalizers": ["x", ""]}}));
    let pod = value("core.PodSpec", &json!({"containers": [null]}));
    assert_eq!(pod, json!({"containers": [{"name": "", "resources": {}}]}));
}

#[test]
fn json_schemas_of_definitions_are_followed_through_their_unions() {
    let given = json!({"type": "object", "additionalProperties": false, "default": {"a": null}, "enum": [null, 1], "maximum": 5.0,
        "items": [{"type": "string"}], "properties": {"x": {"additionalProperties": {"type": "string"}, "dependencies": {"y": ["z"]}}}});
    let mut expected = given.clone();
    expected["maximum"] = json!(5);
    assert_eq!(value("apiextensions.JSONSchemaProps", &given), expected);
    let wrong = decode("apiextensions.JSONSchemaProps", r#"{"items":{"tipe":"x"}}"#, FieldValidation::Strict).unwrap_err();
    assert_eq!(wrong, DecodeError::Strict(vec!["unknown field \"items.tipe\"".into()]));
}

#[test]
fn type_meta_is_known_where_objects_stand_and_nowhere_else() {
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim"}]}});
    let decoded = decode("apps.StatefulSet", &set.to_string(), FieldValidation::Strict).unwrap();
    assert_eq!(decoded.value["spec"]["volumeClaimTemplates"][0]["kind"], "PersistentVolumeClaim");
    let wrong = json!({"spec": {"template": {"kind": "Pod"}}});
    let refused = decode("apps.StatefulSet", &wrong.to_string(), FieldValidation::Strict).unwrap_err();
    assert_eq!(refused.to_string(), "strict decoding error: unknown field \"spec.template.kind\"");
}

#[test]
fn a_normalized_object_of_any_type_stays_as_it_is() {
    let tables = Tables::load().unwrap();
    for at in 0..tables.schema.types.len() {
        let schema = crate::types::SchemaRef { schema: tables.schema.clone(), root: crate::types::TypeId(at as u32) };
        let first = from_value(json!({}), &schema, FieldValidation::Strict).unwrap().value;
        let again = from_value(first.clone(), &schema, FieldValidation::Strict).unwrap().value;
        assert_eq!(first, again, "{}", schema.root());
    }
}

#[test]
fn bodies_too_large_or_too_deep_are_refused() {
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(MAX_BYTES));
    assert_eq!(decode("core.ConfigMap", &large, FieldValidation::Ignore).unwrap_err().code(), 413);
    let deep = format!("{}{}", "{\"not\":".repeat(200), "}".repeat(200));
    assert!(matches!(decode("apiextensions.JSONSchemaProps", &deep, FieldValidation::Ignore), Err(DecodeError::Syntax(_))));
}

/// A value of a shape: `next` chooses between something, nothing and null, seldom something of another type or with an unknown member.
fn sample(schema: &SchemaRef, shape: &Shape, depth: usize, next: &mut impl FnMut() -> u32) -> Value {
    let choice = next() % 4;
    match shape {
        Shape::String => ["", "text"][choice as usize % 2].into(),
        Shape::Duration => "5s".into(),
        Shape::Bool => choice.is_multiple_of(2).into(),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString => (choice % 2).into(),
        Shape::Float64 => [0.0, 1.0, 1.5, 2.5][choice as usize].into(),
        Shape::Bytes => ["", "YWJj"][choice as usize % 2].into(),
        Shape::Time => "2024-01-01T00:00:00Z".into(),
        Shape::MicroTime => "2024-01-01T00:00:00.000000Z".into(),
        Shape::Quantity => ["0", "1", "0.0001", "1500m"][choice as usize].into(),
        Shape::Object | Shape::Fields | Shape::Any => json!({"a": null}),
        Shape::List(of) => (0..choice % 3).map(|_| sample(schema, of, depth + 1, next)).collect(),
        Shape::Map(of) => (0..choice % 3).map(|key| (key.to_string(), sample(schema, of, depth + 1, next))).collect(),
        Shape::Message(_) if depth > 12 => Value::Null,
        Shape::Message(id) => {
            let of = schema.schema.get(*id);
            let of = of.union.map_or(of, |union| schema.schema.get(union.message));
            let mut members = coracle_tree::Map::new();
            for field in &of.fields {
                let value = match next() % 8 {
                    0..=2 => continue,
                    3 => Value::Null,
                    4 if next().is_multiple_of(24) => json!([true, 7, -1, 1.5, "text", [1], {"x": null}])[next() as usize % 7].clone(),
                    _ => sample(schema, &field.shape, depth + 1, next),
                };
                members.insert(field.name.to_string(), value);
            }
            if next().is_multiple_of(32) {
                members.insert("unheardOf", json!([{}]));
            }
            members.into()
        }
    }
}

#[test]
fn values_come_out_as_bodies_do() {
    let tables = Tables::load().unwrap();
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let (mut refused, mut reported) = (0, 0);
    for resource in &tables.resources {
        let schema = tables.kind(resource.group, resource.version, resource.kind).unwrap();
        for _ in 0..20 {
            let given = sample(&schema, &Shape::Message(schema.root), 0, &mut next);
            let wanted = from_json(given.to_string().as_bytes(), &schema, FieldValidation::Warn);
            let made = from_value(given.clone(), &schema, FieldValidation::Warn);
            assert_eq!(made, wanted, "{}: {given}", resource.kind);
            match made {
                Ok(decoded) => reported += usize::from(!decoded.reports.is_empty()),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100 && reported > 100, "{refused} refused, {reported} with reports");
    let broken = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}});
    let pod = tables.message("core.Pod").unwrap();
    let refused = from_value(broken, &pod, FieldValidation::Ignore).unwrap_err();
    assert!(matches!(refused, DecodeError::Mismatch(why) if why.starts_with("quantities must match")));
}

#[test]
fn what_is_no_text_is_refused_with_its_place() {
    let tables = Tables::load().unwrap();
    let schema = tables.message("core.ConfigMap").unwrap();
    let refused = from_json(b"{\"kind\":\"ConfigMap\",\n\"data\":{\"a\":\"\xff\"}}", &schema, FieldValidation::Ignore);
    assert!(matches!(&refused, Err(DecodeError::Syntax(text)) if text.contains("line 2 column")), "{:?}", refused.err());
}
