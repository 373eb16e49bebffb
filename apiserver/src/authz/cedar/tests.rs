use coracle_tree::json;

use super::*;
use crate::{
    admission::{Admission, bench::Bench},
    registry::selector::LabelSelector,
};

const POLICY: &str = r#"
    permit (principal is k8s::User, action in [k8s::Action::"get", k8s::Action::"list"], resource is k8s::Resource)
    when { principal.name == "jane" && resource.apiGroup == "" && resource.resource == "configmaps" };

    @id("labels")
    forbid (principal in k8s::Group::"requires-labels", action == k8s::Action::"list", resource is k8s::Resource)
    unless { resource has labelSelector && resource.labelSelector.contains({"key": "owner", "operator": "in", "values": ["jane"]}) };

    forbid (principal, action in [k8s::admission::Action::"create", k8s::admission::Action::"update"], resource is core::v1::Pod)
    when { resource.metadata has labels && resource.metadata.labels.contains({"key": "tier", "value": "prod"}) };
"#;

fn cedar() -> Cedar {
    let cedar = Cedar::new(Options::default()).unwrap();
    let policies = cedar.check("demo", POLICY, false).unwrap();
    cedar.put(Source::Object("demo".into()), policies);
    cedar
}

fn ask(verb: &str, resource: &str, labels: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: verb.into(),
        version: "v1".into(),
        namespace: "default".into(),
        resource: resource.into(),
        labels: LabelSelector::parse(labels).unwrap(),
        ..RequestInfo::default()
    }
}

#[test]
fn policies_permit_forbid_or_say_nothing_and_reasons_name_them() {
    let cedar = cedar();
    let jane = User::new("jane", &[]);
    assert_eq!(cedar.decide(&jane, &ask("get", "configmaps", "")), Decision::Allow);
    assert_eq!(cedar.explain(&jane, &ask("get", "configmaps", "")).grounds, r#"Cedar: permitted by policy "demo.0""#);
    assert_eq!(cedar.decide(&jane, &ask("get", "secrets", "")), Decision::NoOpinion(String::new()));
    assert_eq!(cedar.decide(&User::new("joe", &[]), &ask("get", "configmaps", "")), Decision::NoOpinion(String::new()));
    let bound = User::new("jane", &["requires-labels"]);
    let forbidden = Decision::Deny(r#"Cedar: forbidden by policy "demo.labels""#.into());
    assert_eq!(cedar.decide(&bound, &ask("list", "configmaps", "")), forbidden);
    assert_eq!(cedar.decide(&bound, &ask("list", "configmaps", "owner in (jane)")), Decision::Allow);
    let system = User::new("system:kube-scheduler", &["requires-labels"]);
    assert_eq!(cedar.decide(&system, &ask("list", "configmaps", "")), Decision::NoOpinion(String::new()));
    cedar.forget_objects();
    assert_eq!(cedar.decide(&jane, &ask("get", "configmaps", "")), Decision::NoOpinion(String::new()));
}

#[test]
fn bad_policies_are_refused_and_say_where() {
    let cedar = cedar();
    assert!(cedar.check("x", "permit (principal, action, resource) when { principal.", false).unwrap_err().contains("unexpected end"));
    let unknown =
        r#"permit (principal is k8s::User, action == k8s::Action::"get", resource is k8s::Resource) when { resource.color == "red" };"#;
    assert!(cedar.check("x", unknown, false).is_ok());
    assert!(cedar.check("x", unknown, true).unwrap_err().contains("`color`"));
    let good =
        r#"permit (principal is k8s::User, action == k8s::Action::"get", resource is k8s::Resource) when { resource.resource == "pods" };"#;
    assert!(cedar.check("x", good, true).is_ok());
    assert!(cedar.check("x", "permit (principal == ?principal, action, resource);", false).unwrap_err().contains("slots"));
}

#[test]
fn kinds_have_the_names_of_the_projects_schema() {
    assert_eq!(entities::type_of("", "v1", "Pod"), "core::v1::Pod");
    assert_eq!(entities::type_of("rbac.authorization.k8s.io", "v1", "Role"), "rbac::v1::Role");
    assert_eq!(entities::type_of("apps", "v1", "Deployment"), "apps::v1::Deployment");
    assert_eq!(entities::type_of("cedar.k8s.aws", "v1alpha1", "Policy"), "aws::k8s::cedar::v1alpha1::Policy");
    for group in ["1password.com", "example.in", "if.has-like.io", "a.b-c.io"] {
        assert!(entities::uid(&entities::type_of(group, "v1", "Thing"), "x").is_some(), "{group}");
    }
}

#[tokio::test]
async fn policies_over_admission_forbid_writes() {
    let plugin = CedarPolicies(Arc::new(cedar()));
    let bench = Bench::new();
    let pod = |tier: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "labels": {"tier": tier}}});
    assert!(bench.create(&plugin, "pods default p", pod("test")).await.is_ok());
    let refused = bench.create(&plugin, "pods default p", pod("prod")).await.unwrap_err();
    assert!(refused.message.ends_with(r#"is forbidden: Cedar: forbidden by policy "demo.2""#), "{}", refused.message);
    assert_eq!(plugin.name(), "CedarPolicies");
}
