//! ClusterRoles whose rules are those of others (`pkg/controller/clusterroleaggregation`): recomputed whenever a ClusterRole changes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use coracle_tree::Value;
use futures::StreamExt;
use tokio::time::sleep;
use tracing::warn;

use super::{mirror, rbac::GROUP};
use crate::registry::{Reader, Writer, writer::failed};

/// Pause before roles that cannot be read are read again.
const RETRY: Duration = Duration::from_secs(5);

/// All ClusterRoles by name.
pub type Roles = BTreeMap<String, Value>;

/// The aggregating roles whose rules are not what they should be, with what they should be. Pure.
pub fn plan(roles: &Roles) -> Vec<(&str, Vec<Value>)> {
    let mut changes = Vec::new();
    for (name, role) in roles {
        let Some(selectors) = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array) else { continue };
        let rules = aggregate(roles, name, selectors);
        let now = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if now != rules {
            changes.push((name.as_str(), rules));
        }
    }
    changes
}

/// The rules of all other roles that any selector picks, in the order of their names, each once.
fn aggregate(roles: &Roles, own: &str, selectors: &[Value]) -> Vec<Value> {
    let mut seen = HashSet::new();
    let mut rules = Vec::new();
    for (_, role) in roles.iter().filter(|(name, _)| *name != own) {
        if !selectors.iter().any(|s| selects(s, role.pointer("/metadata/labels").unwrap_or(&Value::Null))) {
            continue;
        }
        for rule in role.get("rules").and_then(Value::as_array).into_iter().flatten() {
            if seen.insert(rule.to_string()) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

/// Whether a `metav1.LabelSelector` picks these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let matches = selector.get("matchLabels").and_then(Value::as_object);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let text = |e: &Value, name: &str| e.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    matches.is_none_or(|m| m.iter().all(|(k, v)| label(k).is_some() && label(k) == v.as_str()))
        && expressions.is_none_or(|all| {
            all.iter().all(|e| {
                let found = label(&text(e, "key"));
                let listed = || found.is_some_and(|f| e["values"].as_array().is_some_and(|v| v.iter().any(|v| v == f)));
                match text(e, "operator").as_str() {
                    "In" => listed(),
                    "NotIn" => !listed(),
                    "Exists" => found.is_some(),
                    "DoesNotExist" => found.is_none(),
                    _ => false,
                }
            })
        })
}

/// Keeps aggregating roles right until the server stops; run it as a task.
pub async fn follow(reader: Arc<dyn Reader>, writer: Arc<dyn Writer>) {
    // A role that cannot be read may be one whose rules others have.
    let (now, mut changes) = loop {
        match mirror::begin(&*reader, GROUP, "clusterroles").await {
            Ok(begun) => break begun,
            Err(status) => warn!(%status, "roles are not aggregated yet"),
        }
        sleep(RETRY).await;
    };
    let mut roles = Roles::new();
    for role in now.iter().filter_map(|b| serde_json::from_slice::<Value>(b).ok()) {
        roles.insert(name_of(&role), role);
    }
    write(&*writer, &roles).await;
    while let Some(first) = changes.next().await {
        let mut next = Some(first);
        // What has come meanwhile is taken together.
        while let Some(change) = next {
            match change.object.and_then(|b| serde_json::from_slice(&b).ok()) {
                Some(role) => roles.insert(change.name, role),
                None => roles.remove(&change.name),
            };
            next = match futures::poll!(changes.next()) {
                std::task::Poll::Ready(change) => change,
                std::task::Poll::Pending => None,
            };
        }
        write(&*writer, &roles).await;
    }
}

/// Writes what [`plan`] wants.
async fn write(writer: &dyn Writer, roles: &Roles) {
    for (name, rules) in plan(roles) {
        let Some(mut role) = roles.get(name).cloned() else { continue };
        role["rules"] = rules.into();
        role["apiVersion"] = format!("{GROUP}/v1").into();
        role["kind"] = "ClusterRole".into();
        // Any change of a role tries again.
        failed("an aggregated cluster role", name, writer.update("clusterroles", "", "", role).await);
    }
}

fn name_of(role: &Value) -> String {
    role.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::registry::fake::FakeReader;

    fn part(name: &str, label: &str, resource: &str) -> Value {
        let rules = json!([{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]);
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name, "labels": {"to": label}}, "rules": rules})
    }

    fn view() -> Value {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "view"}, "rules": null,
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]},
        })
    }

    #[test]
    fn rules_of_selected_roles_are_put_together_once_each() {
        let all =
            [part("b", "view", "pods"), part("a", "view", "services"), part("c", "edit", "secrets"), part("d", "view", "pods"), view()];
        let roles: Roles = all.into_iter().map(|r| (name_of(&r), r)).collect();
        let planned = plan(&roles);
        assert_eq!(planned.len(), 1);
        let resources: Vec<&str> = planned[0].1.iter().map(|r| r["resources"][0].as_str().unwrap()).collect();
        assert_eq!((planned[0].0, resources), ("view", vec!["services", "pods"]));
        let mut settled = roles.clone();
        settled.get_mut("view").unwrap()["rules"] = planned[0].1.clone().into();
        assert!(plan(&settled).is_empty());
    }

    #[test]
    fn selectors_understand_expressions() {
        let labels = json!({"a": "1"});
        for (operator, values, expected) in
            [("In", json!(["1"]), true), ("NotIn", json!(["1"]), false), ("Exists", json!([]), true), ("DoesNotExist", json!([]), false)]
        {
            let selector = json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
            assert_eq!(selects(&selector, &labels), expected, "{operator}");
        }
        assert!(selects(&json!({}), &labels));
    }

    #[tokio::test]
    async fn a_new_part_flows_into_the_whole() {
        let reader = Arc::new(FakeReader::default());
        reader.put(GROUP, "clusterroles", view());
        let task = tokio::spawn(follow(reader.clone(), reader.clone()));
        tokio::task::yield_now().await;
        reader.put(GROUP, "clusterroles", part("a", "view", "pods"));
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let view = reader.look(GROUP, "clusterroles", "", "view").unwrap();
        assert_eq!(view["rules"][0]["resources"], json!(["pods"]));
        task.abort();
    }
}
