//! The priority levels and flow schemas of a first start (`apiserver/pkg/apis/flowcontrol/bootstrap`): the mandatory and the suggested ones.

use coracle_tree::{Value, json};

use super::settle::{Care, Wanted};

/// How many queues, how many of them a flow is dealt, and how long each may be.
type Queues = (u32, u32, u32);

/// Shares of concurrency, percent of it lent, and where requests wait, for each limited level.
const LEVELS: [(&str, u32, u32, Option<Queues>); 7] = [
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

const EVERYONE: &[Subject] = &[Subject::Group("system:unauthenticated"), Subject::Group("system:authenticated")];
const NODES: &[Subject] = &[Subject::Group("system:nodes")];
const SCHEDULER: &[Subject] = &[Subject::User("system:kube-scheduler")];
const CONTROLLERS: &[Subject] = &[Subject::User("system:kube-controller-manager")];

/// The schemas in the order of their precedence.
const SCHEMAS: [Schema; 11] = [
    Schema("exempt", "exempt", 1, "", &[Subject::Group("system:masters")], Matches::Everything),
    Schema("probes", "exempt", 2, "", EVERYONE, Matches::Probes),
    Schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &[Subject::User("system:kube-controller-manager"), Subject::User("system:kube-scheduler"), Subject::SystemAccounts],
        Matches::Resources(&[(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false)]),
    ),
    Schema(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        NODES,
        Matches::Resources(&[(&["*"], "", &["nodes", "nodes/status"], true), (&["*"], "coordination.k8s.io", &["leases"], false)]),
    ),
    Schema("system-nodes", "system", 500, "ByUser", NODES, Matches::Everything),
    Schema("kube-controller-manager", "workload-high", 800, "ByNamespace", CONTROLLERS, Matches::Everything),
    Schema("kube-scheduler", "workload-high", 800, "ByNamespace", SCHEDULER, Matches::Everything),
    Schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &[Subject::SystemAccounts], Matches::Everything),
    Schema("service-accounts", "workload-low", 9000, "ByUser", &[Subject::Group("system:serviceaccounts")], Matches::Everything),
    Schema("global-default", "global-default", 9900, "ByUser", EVERYONE, Matches::Everything),
    Schema("catch-all", "catch-all", 10_000, "ByUser", EVERYONE, Matches::Everything),
];

/// Name, level, precedence, what tells flows apart, whose requests, which requests.
struct Schema(&'static str, &'static str, u32, &'static str, &'static [Subject], Matches);

enum Subject {
    Group(&'static str),
    User(&'static str),
    /// Every service account of kube-system.
    SystemAccounts,
}

/// Verbs, group, resources, and whether cluster-wide requests count.
type ResourceRule = (&'static [&'static str], &'static str, &'static [&'static str], bool);

enum Matches {
    Everything,
    Probes,
    Resources(&'static [ResourceRule]),
}

/// All levels, then all schemas; each schema's status says that its level is there.
pub fn all(time: &str) -> Vec<Wanted> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut all = vec![wanted("prioritylevelconfigurations", "PriorityLevelConfiguration", "exempt", &exempt)];
    all.extend(LEVELS.iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand, length)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
            }
        };
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        wanted("prioritylevelconfigurations", "PriorityLevelConfiguration", name, &json!({"type": "Limited", "limited": limited}))
    }));
    all.extend(SCHEMAS.iter().map(|schema| {
        let Schema(name, level, ..) = schema;
        let condition = json!({
            "type": "Dangling", "status": "False", "reason": "Found", "lastTransitionTime": time,
            "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"),
        });
        let wanted = wanted("flowschemas", "FlowSchema", name, &schema.spec());
        Wanted { status: json!({"conditions": [condition]}), ..wanted }
    }));
    all
}

fn wanted(resource: &'static str, kind: &str, name: &str, spec: &Value) -> Wanted {
    let metadata = json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}});
    let object = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec});
    Wanted { resource, namespace: String::new(), object, status: Value::Null, care: Care::Keep }
}

impl Schema {
    fn spec(&self) -> Value {
        let Self(_, level, precedence, method, subjects, matches) = self;
        let subjects: Vec<Value> = subjects.iter().map(Subject::value).collect();
        let mut rule = matches.rules();
        rule["subjects"] = subjects.into();
        let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
        if !method.is_empty() {
            spec["distinguisherMethod"] = json!({"type": method});
        }
        spec
    }
}

impl Subject {
    fn value(&self) -> Value {
        match self {
            Self::Group(name) => json!({"kind": "Group", "group": {"name": name}}),
            Self::User(name) => json!({"kind": "User", "user": {"name": name}}),
            Self::SystemAccounts => json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}}),
        }
    }
}

impl Matches {
    fn rules(&self) -> Value {
        let resources = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
            let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
            if cluster {
                rule["clusterScope"] = true.into();
            }
            rule
        };
        match self {
            Self::Everything => json!({
                "resourceRules": [resources(&["*"], "*", &["*"], true)],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }),
            Self::Probes => json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}),
            Self::Resources(rules) => {
                let rules: Vec<Value> = rules.iter().map(|(verbs, group, of, cluster)| resources(verbs, group, of, *cluster)).collect();
                json!({"resourceRules": rules})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_names_a_level_that_is_there() {
        let all = all("2026-01-01T00:00:00Z");
        let names = |resource: &str| -> Vec<&str> {
            all.iter().filter(|w| w.resource == resource).filter_map(|w| w.object["metadata"]["name"].as_str()).collect()
        };
        let levels = names("prioritylevelconfigurations");
        assert_eq!((levels.len(), names("flowschemas").len()), (8, 11));
        for schema in all.iter().filter(|w| w.resource == "flowschemas") {
            let level = schema.object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap();
            assert!(levels.contains(&level), "{level}");
        }
    }
}
