use std::sync::Arc;

use coracle_schema::{SchemaRef, Tables};
use coracle_tree::{Value, json};

use super::{
    Engine, MutatingAdmissionWebhook, ValidatingAdmissionWebhook, Webhooks,
    answer::{self, Answer, Invalid},
};
use crate::{
    admission::{Operation, bench::Bench},
    authz,
    wire::Status,
};

fn schema() -> SchemaRef {
    Tables::load().unwrap().message("admission.AdmissionReview").unwrap()
}

fn read(value: &Value, mutating: bool) -> Result<Answer, Invalid> {
    answer::read(value.to_string().as_bytes(), &schema(), "admission.k8s.io/v1", "u", mutating)
}

fn review(response: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn unfit(response: &Value, mutating: bool) -> String {
    match read(&review(response), mutating) {
        Err(Invalid::Unfit(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_of_v1_must_be_one_to_the_question() {
    assert!(read(&review(&json!({"uid": "u", "allowed": true})), true).unwrap().allowed);
    assert_eq!(unfit(&json!({"uid": "v", "allowed": true}), true), "expected response.uid=\"u\", got \"v\"");
    assert_eq!(unfit(&Value::Null, true), "webhook response was absent");
    let untyped = json!({"response": {"uid": "u", "allowed": true}});
    let expected = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=".to_owned();
    assert_eq!(read(&untyped, true).unwrap_err(), Invalid::Unfit(expected));
    let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": "u"}});
    let expected = "converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion".to_owned();
    assert_eq!(read(&old, true).unwrap_err(), Invalid::Undecodable(expected));
}

#[test]
fn an_answer_of_v1beta1_need_not_say_what_it_is() {
    let said = json!({"response": {"allowed": true, "patch": "W10="}}).to_string();
    let answer = answer::read(said.as_bytes(), &schema(), "admission.k8s.io/v1beta1", "u", true).unwrap();
    assert_eq!((answer.allowed, answer.patch.as_slice(), answer.patch_type.as_str()), (true, b"[]".as_slice(), "JSONPatch"));
}

#[test]
fn a_patch_and_its_type_come_together_and_from_mutating_webhooks_only() {
    let with = |patch: Value, of: Value| json!({"uid": "u", "allowed": true, "patch": patch, "patchType": of});
    assert_eq!(unfit(&with(json!("W10="), Value::Null), true), "webhook returned response.patch but not response.patchType");
    assert_eq!(unfit(&with(Value::Null, json!("JSONPatch")), true), "webhook returned response.patchType but not response.patch");
    assert_eq!(unfit(&with(json!("W10="), json!("")), true), "webhook returned invalid response.patchType of \"\"");
    assert_eq!(unfit(&with(json!("W10="), Value::Null), false), "validating webhook may not return response.patch");
    assert_eq!(unfit(&with(Value::Null, json!("JSONPatch")), false), "validating webhook may not return response.patchType");
}

#[test]
fn yaml_is_an_answer_too_and_wrong_types_are_told_in_gos_words() {
    let yaml = b"apiVersion: admission.k8s.io/v1\nkind: AdmissionReview\nresponse:\n  uid: u\n  allowed: true\n";
    assert!(answer::read(yaml, &schema(), "admission.k8s.io/v1", "u", false).unwrap().allowed);
    let wrong = read(&review(&json!({"uid": "u", "allowed": "yes"})), false).unwrap_err();
    let expected = "json: cannot unmarshal string into Go struct field AdmissionResponse.response.allowed of type bool";
    assert_eq!(wrong, Invalid::Undecodable(expected.to_owned()));
}

#[test]
fn a_refusal_never_looks_like_a_success() {
    let refused = |result: Value| answer::refusal("h", result).to_value();
    assert_eq!(refused(Value::Null)["message"], "admission webhook \"h\" denied the request without explanation");
    let value = refused(json!({"status": "Success", "code": 200, "message": "x", "details": {"name": "n"}}));
    assert_eq!((&value["status"], &value["code"]), (&json!("Failure"), &json!(400)));
    assert_eq!((&value["message"], &value["details"]), (&json!("admission webhook \"h\" denied the request: x"), &json!({"name": "n"})));
    assert_eq!(refused(json!({"reason": "Odd"}))["message"], "admission webhook \"h\" denied the request: Odd");
}

struct World {
    bench: Bench,
}

impl World {
    fn new() -> Self {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live", "labels": {"tier": "gold"}}}));
        Self { bench }
    }

    async fn engine(&self, resource: &str, more: &Value) -> Engine {
        let mut webhook = json!({
            "name": "h.example.com", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}],
        });
        for (name, value) in more.as_object().unwrap() {
            webhook[name] = value.clone();
        }
        let configuration = json!({"metadata": {"name": "c"}, "webhooks": [webhook]});
        self.bench.reader.put("admissionregistration.k8s.io", resource, configuration);
        let webhooks = Arc::new(Webhooks::default());
        let reader: Arc<dyn crate::registry::Reader> = self.bench.reader.clone();
        webhooks.load(&reader).await;
        Engine { webhooks, reader, authorizer: authz::Chain::default(), equivalents: Arc::new(|_| Vec::new()), review: schema() }
    }

    /// Whether a webhook without an address is asked: the write is refused then.
    async fn is_asked(&self, more: &Value, operation: Operation, at: &str, object: Value) -> bool {
        let plugin = ValidatingAdmissionWebhook(self.engine("validatingwebhookconfigurations", more).await);
        let (new, old) = if operation == Operation::Delete { (None, Some(object)) } else { (Some(object), None) };
        let asked: Result<Value, Status> = self.bench.run(&plugin, operation, at, new, old).await;
        match asked {
            Ok(_) => false,
            Err(status) => {
                let why = "could not get REST client: webhook configuration must have either service or URL";
                assert_eq!(status.message, format!("Internal error occurred: failed calling webhook \"h.example.com\": {why}"));
                true
            }
        }
    }
}

#[tokio::test]
async fn rules_name_groups_versions_resources_operations_and_scope() {
    let world = World::new();
    let pods = async |rule: Value| {
        let mut whole = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        for (name, value) in rule.as_object().unwrap() {
            whole[name] = value.clone();
        }
        world.is_asked(&json!({"rules": [whole]}), Operation::Create, "pods live web", json!({"metadata": {"name": "web"}})).await
    };
    assert!(pods(json!({})).await);
    assert!(!pods(json!({"operations": ["UPDATE", "DELETE"]})).await);
    assert!(!pods(json!({"apiGroups": ["apps"]})).await);
    assert!(!pods(json!({"apiVersions": ["v2"]})).await);
    assert!(!pods(json!({"resources": ["pods/status", "nodes"]})).await);
    assert!(pods(json!({"resources": ["*"]})).await && pods(json!({"resources": ["pods/*"]})).await);
    assert!(pods(json!({"scope": "Namespaced"})).await && !pods(json!({"scope": "Cluster"})).await);
}

#[tokio::test]
async fn namespaces_are_selected_by_their_own_labels_and_hold_nothing_of_the_cluster_back() {
    let world = World::new();
    let selector = |tier: &str| json!({"namespaceSelector": {"matchLabels": {"tier": tier}}});
    let create = Operation::Create;
    assert!(world.is_asked(&selector("gold"), create, "pods live web", json!({"metadata": {}})).await);
    assert!(!world.is_asked(&selector("tin"), create, "pods live web", json!({"metadata": {}})).await);
    assert!(world.is_asked(&selector("tin"), create, "nodes - n", json!({"metadata": {}})).await);
    let labelled = json!({"metadata": {"name": "n", "labels": {"tier": "tin"}}});
    assert!(world.is_asked(&selector("tin"), create, "namespaces - n", labelled.clone()).await);
    assert!(world.is_asked(&selector("tin"), Operation::Delete, "namespaces n n", labelled).await);
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_told_as_such() {
    let world = World::new();
    let selector = json!({"namespaceSelector": {"matchLabels": {"tier": "gold"}}});
    let plugin = ValidatingAdmissionWebhook(world.engine("validatingwebhookconfigurations", &selector).await);
    let status = world.bench.create(&plugin, "pods gone web", json!({"metadata": {}})).await.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (404, "namespaces \"gone\" not found"));
}

#[tokio::test]
async fn configurations_cannot_lock_themselves_in() {
    let world = World::new();
    let at = "validatingwebhookconfigurations.admissionregistration.k8s.io - c";
    assert!(!world.is_asked(&json!({}), Operation::Delete, at, json!({})).await);
    let plugin = MutatingAdmissionWebhook(world.engine("mutatingwebhookconfigurations", &json!({"failurePolicy": "Ignore"})).await);
    world.bench.create(&plugin, "pods live web", json!({"metadata": {}})).await.unwrap();
}
