use std::sync::Arc;

use coracle_schema::Tables;
use coracle_tree::{Value, json};

use super::{Engine, MutatingAdmissionPolicy, Policies, ValidatingAdmissionPolicy};
use crate::{
    admission::{Admission, Annotations, Attempt, Operation},
    audit::Level,
    authn::User,
    authz,
    registry::{Kind, Object, catalog, fake::FakeReader},
    request::RequestInfo,
    wire::Status,
};

const GROUP: &str = "admissionregistration.k8s.io";

struct World {
    reader: Arc<FakeReader>,
    kind: Arc<Kind>,
}

impl World {
    fn new() -> Self {
        let tables = Tables::load().unwrap();
        let kinds = catalog::built_in(&tables, |_, _| catalog::Odd { rules: &crate::registry::rules::PLAIN, printer: None });
        let kind = kinds.get("apps", "v1", "deployments").unwrap().clone();
        let reader = Arc::new(FakeReader::default());
        reader.put("", "namespaces", json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}));
        Self { reader, kind }
    }

    fn put(&self, resource: &str, name: &str, spec: &Value) -> &Self {
        self.reader.put(GROUP, resource, json!({"metadata": {"name": name}, "spec": spec}));
        self
    }

    fn validating(&self, spec: Value, binding: &Value) -> &Self {
        self.put("validatingadmissionpolicies", "p", &matching(spec)).put("validatingadmissionpolicybindings", "b", binding)
    }

    fn mutating(&self, spec: Value) -> &Self {
        self.put("mutatingadmissionpolicies", "p", &matching(spec)).put("mutatingadmissionpolicybindings", "b", &json!({"policyName": "p"}))
    }

    async fn engine(&self) -> Engine {
        let policies = Arc::new(Policies::default());
        policies.load(&*self.reader).await;
        Engine {
            policies,
            reader: self.reader.clone(),
            authorizer: authz::Chain::default(),
            resources: Arc::new(|version, kind| (version == "v1" && kind == "ConfigMap").then(|| ("configmaps".to_owned(), true))),
            equivalents: Arc::new(|_| Vec::new()),
        }
    }

    async fn ask(&self, object: Value) -> (Result<(), Status>, Vec<String>) {
        let plugin = ValidatingAdmissionPolicy(self.engine().await);
        let (request, user) = (request(), User::new("jane", &[]));
        let mut attempt = attempt(&request, &self.kind, &user);
        assert!(plugin.concerns(&attempt));
        let result = plugin.validate(&mut attempt, Object::new(object).as_ref()).await;
        (result, attempt.warnings)
    }

    async fn change(&self, object: Value) -> Result<Value, Status> {
        let plugin = MutatingAdmissionPolicy(self.engine().await);
        let (request, user) = (request(), User::new("jane", &[]));
        let mut attempt = attempt(&request, &self.kind, &user);
        let mut object = Object::new(object).unwrap();
        plugin.mutate(&mut attempt, Some(&mut object)).await?;
        Ok(object.into_value())
    }
}

fn matching(mut spec: Value) -> Value {
    spec["matchConstraints"] = json!({"resourceRules": [
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}]});
    spec
}

fn request() -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "create".into(),
        group: "apps".into(),
        version: "v1".into(),
        namespace: "shop".into(),
        resource: "deployments".into(),
        ..RequestInfo::default()
    }
}

fn attempt<'a>(request: &'a RequestInfo, kind: &'a Kind, user: &'a User) -> Attempt<'a> {
    static ANNOTATIONS: std::sync::LazyLock<crate::admission::Annotations> = std::sync::LazyLock::new(Default::default);
    Attempt::new(Operation::Create, request, kind, user, &ANNOTATIONS)
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": replicas}})
}

fn deny() -> Value {
    json!({"policyName": "p", "validationActions": ["Deny"]})
}

#[tokio::test]
async fn a_validation_that_fails_refuses_with_upstreams_words() {
    let world = World::new();
    world.validating(json!({"validations": [{"expression": "object.spec.replicas > 1"}]}), &deny());
    assert!(world.ask(deployment(2)).await.0.is_ok());
    let status = world.ask(deployment(1)).await.0.unwrap_err();
    let why = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: object.spec.replicas > 1";
    assert_eq!((status.code, status.reason), (422, "Invalid"));
    assert_eq!(status.message, format!("deployments.apps \"web\" is forbidden: {why}"));
    assert_eq!(status.details["causes"], json!([{"message": why}]));
}

#[tokio::test]
async fn variables_build_on_one_another_and_make_messages() {
    let world = World::new();
    let variables = json!([
        {"name": "replicas", "expression": "object.spec.replicas"},
        {"name": "odd", "expression": "variables.replicas % 2 == 1"},
        {"name": "broken", "expression": "object.spec.nothing"}
    ]);
    let validations = json!([{"expression": "variables.replicas > 100 || variables.odd", "reason": "Forbidden",
        "messageExpression": "'only odd replicas, not ' + string(variables.replicas) + ' in ' + namespaceObject.metadata.labels.team"}]);
    world.validating(json!({"variables": variables, "validations": validations}), &deny());
    assert!(world.ask(deployment(3)).await.0.is_ok());
    let status = world.ask(deployment(4)).await.0.unwrap_err();
    assert_eq!(status.code, 403);
    assert!(status.message.ends_with("denied request: only odd replicas, not 4 in a"), "{}", status.message);
}

#[tokio::test]
async fn each_of_several_policies_sees_what_it_reads_and_is_heard_in_order() {
    let world = World::new();
    let expressions = [
        "object.spec.replicas > 9",
        "request.operation == 'UPDATE'",
        "namespaceObject.metadata.labels.team == 'b'",
        "authorizer.path('/x').check('get').allowed()",
        "has(oldObject.x)",
        "object.spec.replicas == 1 && request.namespace == 'shop' && namespaceObject.metadata.name == 'shop' && oldObject == null",
    ];
    for (at, expression) in expressions.iter().enumerate() {
        let name = format!("p{at}");
        let binding = json!({"policyName": name, "validationActions": ["Warn"]});
        world.put("validatingadmissionpolicies", &name, &matching(json!({"validations": [{"expression": expression}]})));
        world.put("validatingadmissionpolicybindings", &name, &binding);
    }
    let failed = |at: usize| {
        let why = format!("failed expression: {}", expressions[at]);
        format!("Validation failed for ValidatingAdmissionPolicy 'p{at}' with binding 'p{at}': {why}")
    };
    let (result, warnings) = world.ask(deployment(1)).await;
    assert!(result.is_ok());
    assert_eq!(warnings, [0, 1, 2, 3, 4].map(failed));
}

#[tokio::test]
async fn bindings_may_only_warn() {
    let world = World::new();
    let binding = json!({"policyName": "p", "validationActions": ["Warn", "Audit"]});
    world.validating(json!({"validations": [{"expression": "false", "message": " mind "}]}), &binding);
    let (result, warnings) = world.ask(deployment(1)).await;
    assert!(result.is_ok());
    assert_eq!(warnings, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': mind"]);
}

#[tokio::test]
async fn what_a_policy_says_is_noted_in_the_audit_log() {
    let world = World::new();
    let annotations =
        json!([{"key": "replicas", "valueExpression": "' ' + string(object.spec.replicas)"}, {"key": "none", "valueExpression": "null"}]);
    let validations = json!([{"expression": "true"}, {"expression": "object.spec.replicas > 1", "message": "<few>"}]);
    let binding = json!({"policyName": "p", "validationActions": ["Warn", "Audit"]});
    world.validating(json!({"validations": validations, "auditAnnotations": annotations}), &binding);
    let plugin = ValidatingAdmissionPolicy(world.engine().await);
    let (request, user, noted) = (request(), User::new("jane", &[]), Annotations::default());
    let mut attempt = Attempt::new(Operation::Create, &request, &world.kind, &user, &noted);
    plugin.validate(&mut attempt, Object::new(deployment(1)).as_ref()).await.unwrap();
    let failure = "[{\"message\":\"\\u003cfew\\u003e\",\"policy\":\"p\",\"binding\":\"b\",\"expressionIndex\":1,\"validationActions\":[\"Warn\",\"Audit\"]}]";
    let expected = json!({"p/replicas": "1", "validation.policy.admission.k8s.io/validation_failure": failure});
    assert_eq!(noted.up_to(Level::Metadata), expected);
}

#[tokio::test]
async fn what_cannot_be_noted_refuses_although_the_binding_only_warns() {
    let world = World::new();
    let annotations = json!([{"key": "k", "valueExpression": "object.spec.nothing"}]);
    world.validating(json!({"auditAnnotations": annotations}), &json!({"policyName": "p", "validationActions": ["Warn"]}));
    assert_eq!(world.ask(deployment(1)).await.0.unwrap_err().code, 422);
}

#[tokio::test]
async fn match_conditions_and_selectors_exempt() {
    let world = World::new();
    let conditions = json!([{"name": "n", "expression": "object.metadata.name != 'web'"}]);
    world.validating(json!({"matchConditions": conditions, "validations": [{"expression": "false"}]}), &deny());
    assert!(world.ask(deployment(1)).await.0.is_ok());
    let binding = |team: &str| json!({"policyName": "p", "validationActions": ["Deny"], "matchResources": {"namespaceSelector": {"matchLabels": {"team": team}}}});
    world.validating(json!({"validations": [{"expression": "false"}]}), &binding("b"));
    assert!(world.ask(deployment(1)).await.0.is_ok());
    world.validating(json!({"validations": [{"expression": "false"}]}), &binding("a"));
    assert!(world.ask(deployment(1)).await.0.is_err());
}

#[tokio::test]
async fn errors_refuse_unless_they_are_to_be_ignored() {
    let world = World::new();
    let validations = json!([{"expression": "object.spec.nothing == 1"}]);
    world.validating(json!({"validations": validations}), &deny());
    let status = world.ask(deployment(1)).await.0.unwrap_err();
    assert!(
        status.message.ends_with("expression 'object.spec.nothing == 1' resulted in error: no such key: nothing"),
        "{}",
        status.message
    );
    world.validating(json!({"validations": validations, "failurePolicy": "Ignore"}), &deny());
    assert!(world.ask(deployment(1)).await.0.is_ok());
}

#[tokio::test]
async fn parameters_come_from_the_binding() {
    let world = World::new();
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.most)"}]});
    let reference = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
    world.validating(spec, &json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": reference}));
    let status = world.ask(deployment(1)).await.0.unwrap_err();
    assert!(
        status.message.ends_with("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction")
    );
    world.reader.put("", "configmaps", json!({"metadata": {"name": "limits", "namespace": "shop"}, "data": {"most": "3"}}));
    assert!(world.ask(deployment(3)).await.0.is_ok());
    assert!(world.ask(deployment(4)).await.0.is_err());
}

#[tokio::test]
async fn the_request_and_the_asker_are_seen() {
    let world = World::new();
    let expression = "request.userInfo.username == 'jane' && request.operation == 'CREATE' && request.kind.kind == 'Deployment' \
                      && !authorizer.group('').resource('pods').check('delete').allowed() && !authorizer.requestResource.check('x').allowed() \
                      && oldObject == null && namespaceObject.metadata.name == request.namespace";
    world.validating(json!({"validations": [{"expression": expression}]}), &deny());
    world.ask(deployment(1)).await.0.unwrap();
}

#[tokio::test]
async fn configurations_are_merged_in() {
    let world = World::new();
    let expression = "Object{metadata: Object.metadata{annotations: {'by': request.userInfo.username}}, spec: Object.spec{replicas: 1337}}";
    world.mutating(json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]}));
    let changed = world.change(deployment(1)).await.unwrap();
    assert_eq!(changed["spec"]["replicas"], 1337);
    assert_eq!(changed["metadata"]["annotations"], json!({"by": "jane"}));
    assert_eq!(changed["metadata"]["name"], "web");
}

#[tokio::test]
async fn json_patches_are_applied_unless_a_test_fails() {
    let world = World::new();
    let patched = |test: i64| {
        format!(
            "[JSONPatch{{op: 'test', path: '/spec/replicas', value: {test}}}, JSONPatch{{op: 'add', path: '/metadata/labels', value: {{}}}}, \
             JSONPatch{{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}}]"
        )
    };
    world.mutating(json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patched(1)}}]}));
    assert_eq!(world.change(deployment(1)).await.unwrap()["metadata"]["labels"], json!({"a/b": "c"}));
    world.mutating(json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patched(2)}}]}));
    assert!(world.change(deployment(1)).await.unwrap()["metadata"].get("labels").is_none());
}

#[tokio::test]
async fn mutations_that_make_no_sense_refuse() {
    let world = World::new();
    let spec =
        |expression: &str| json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    world.mutating(spec("Object{spec: Object.status{replicas: 1}}"));
    let status = world.change(deployment(1)).await.unwrap_err();
    assert_eq!(
        status.message,
        "policy 'p' with binding 'b' denied request: type mismatch: unexpected type name \"Object.status\", expected \"Object.spec\", \
         which matches field name path from root Object type"
    );
    world.mutating(spec("Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{dnsConfig: 1}}}}"));
    assert!(world.change(deployment(1)).await.unwrap_err().message.contains("error applying patch"));
}
