//! The default roles and bindings, read from `rbac.txt`.

use coracle_tree::{Map, Value, json};

use crate::authz::aggregation::{self, Roles};

/// The table: see its head for the form.
const TABLE: &str = include_str!("rbac.txt");

const GROUP: &str = "rbac.authorization.k8s.io";

/// A role or binding of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `clusterroles`, `roles`, `clusterrolebindings`, `rolebindings`
    pub resource: &'static str,
    /// Empty for the cluster kinds.
    pub namespace: String,
    /// The object.
    pub object: Value,
}

/// All rows, aggregated roles with their rules filled in. The error names the line.
pub fn rows() -> Result<Vec<Row>, String> {
    let mut rows = parse(TABLE)?;
    let clusterroles = rows.iter().filter(|r| r.resource == "clusterroles");
    let mut roles: Roles = clusterroles.map(|r| (name(&r.object).to_owned(), r.object.clone())).collect();
    // What aggregates may itself be a part (view in edit in admin): settle from the inside out.
    loop {
        let changes: Vec<(String, Vec<Value>)> = aggregation::plan(&roles).into_iter().map(|(n, r)| (n.to_owned(), r)).collect();
        if changes.is_empty() {
            break;
        }
        for (name, rules) in changes {
            if let Some(role) = roles.get_mut(&name) {
                role["rules"] = rules.into();
            }
        }
    }
    for row in rows.iter_mut().filter(|r| r.resource == "clusterroles") {
        if let Some(role) = roles.remove(name(&row.object)) {
            row.object = role;
        }
    }
    Ok(rows)
}

/// The rules of a ClusterRole of the table; none when it is not there.
pub fn rules_of(rows: &[Row], role: &str) -> Vec<crate::authz::policy::Rule> {
    let found = rows.iter().find(|r| r.resource == "clusterroles" && name(&r.object) == role);
    found.and_then(|r| serde::Deserialize::deserialize(&r.object["rules"]).ok()).unwrap_or_default()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
        let wrong = |what: &str| format!("rbac.txt line {}: {what}: {line}", number + 1);
        if let Some(rule) = line.strip_prefix("  ") {
            let rule = parse_rule(rule).ok_or_else(|| wrong("not a rule"))?;
            let role = rows.last_mut().and_then(|r| r.object["rules"].as_array_mut()).ok_or_else(|| wrong("a rule without a role"))?;
            role.push(rule);
        } else {
            rows.push(parse_head(line).ok_or_else(|| wrong("neither role nor binding"))?);
        }
    }
    Ok(rows)
}

/// `apiGroups resources verbs [names=…]` or `url=paths verbs`
fn parse_rule(line: &str) -> Option<Value> {
    let list = |text: &str| text.split(',').map(|t| t.trim_matches('"').to_owned()).collect::<Vec<_>>();
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [urls, verbs] => Some(json!({"verbs": list(verbs), "nonResourceURLs": list(urls.strip_prefix("url=")?)})),
        [groups, resources, verbs] => Some(json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)})),
        [groups, resources, verbs, names] => {
            let names = list(names.strip_prefix("names=")?);
            Some(json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources), "resourceNames": names}))
        }
        _ => None,
    }
}

/// `Kind name [namespace=…] [labels=…] [aggregates=…]` or `Kind name [namespace=…] -> roleRef ; subjects`
fn parse_head(line: &str) -> Option<Row> {
    let (head, target) = line.split_once(" -> ").map_or((line, None), |(h, t)| (h, Some(t)));
    let mut words = head.split_whitespace();
    let (kind, name) = (words.next()?, words.next()?);
    let resource = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "RoleBinding" => "rolebindings",
        _ => return None,
    };
    let mut labels = Map::from_iter([("kubernetes.io/bootstrapping".to_owned(), Value::from("rbac-defaults"))]);
    let (mut namespace, mut selectors) = (String::new(), Vec::new());
    for (option, value) in words.map(|w| w.split_once('=').unwrap_or((w, ""))) {
        let pairs = || value.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), Value::from(v)));
        match option {
            "namespace" => value.clone_into(&mut namespace),
            "labels" => labels.extend(pairs()),
            "aggregates" => selectors.extend(pairs().map(|pair| json!({"matchLabels": Map::from_iter([pair])}))),
            _ => return None,
        }
    }
    let annotations = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.as_str().into();
    }
    match target {
        Some(target) => bind(&mut object, target)?,
        None => {
            object["rules"] = json!([]);
            if !selectors.is_empty() {
                object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
            }
        }
    }
    Some(Row { resource, namespace, object })
}

/// `ClusterRole/name ; Group:g User:u ServiceAccount:ns/name`
fn bind(object: &mut Value, target: &str) -> Option<()> {
    let (role, subjects) = target.split_once(';')?;
    let (kind, name) = role.trim().split_once('/')?;
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": name});
    let subjects = subjects.split_whitespace().map(|subject| {
        let (kind, name) = subject.split_once(':')?;
        Some(match kind {
            "ServiceAccount" => {
                let (namespace, name) = name.split_once('/')?;
                json!({"kind": kind, "name": name, "namespace": namespace})
            }
            _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
        })
    });
    let subjects: Vec<Value> = subjects.collect::<Option<_>>()?;
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rows: &[Row], resource: &str) -> usize {
        rows.iter().filter(|r| r.resource == resource).count()
    }

    #[test]
    fn every_default_role_and_binding_is_read() {
        let rows = rows().unwrap();
        let lines = |start: &str| TABLE.lines().filter(|l| l.starts_with(start)).count();
        assert_eq!(count(&rows, "clusterroles"), lines("ClusterRole "));
        assert_eq!(count(&rows, "roles"), lines("Role "));
        assert_eq!(count(&rows, "clusterrolebindings"), lines("ClusterRoleBinding "));
        assert_eq!(count(&rows, "rolebindings"), lines("RoleBinding "));
        assert!(count(&rows, "clusterroles") > 60 && count(&rows, "clusterrolebindings") > 50);
    }

    #[test]
    fn roles_that_aggregate_have_their_rules_at_once() {
        let rows = rows().unwrap();
        let rules = |name: &str| rules_of(&rows, name);
        let allows = |name: &str, resource: &str, verb: &str| {
            rules(name).iter().any(|r| r.resources.contains(&resource.to_owned()) && r.verbs.contains(&verb.to_owned()))
        };
        assert!(allows("view", "pods", "list") && !allows("view", "secrets", "list") && !allows("view", "pods", "create"));
        assert!(allows("edit", "pods", "create") && allows("edit", "services", "list") && !allows("edit", "rolebindings", "create"));
        assert!(allows("admin", "rolebindings", "create") && allows("admin", "pods", "create"));
    }

    #[test]
    fn a_row_reads_as_the_object_upstream_serves() {
        let rows = rows().unwrap();
        let find = |resource: &str, wanted: &str| rows.iter().find(|r| r.resource == resource && name(&r.object) == wanted).unwrap();
        let masters = find("clusterrolebindings", "cluster-admin");
        assert_eq!(masters.object["subjects"], json!([{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}]));
        assert_eq!(masters.object["roleRef"], json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"}));
        let admin = find("clusterroles", "cluster-admin");
        assert_eq!(
            admin.object["rules"],
            json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}])
        );
        let signer = find("rolebindings", "system:controller:token-cleaner");
        assert_eq!(signer.namespace, "kube-system");
        assert_eq!(signer.object["subjects"], json!([{"kind": "ServiceAccount", "name": "token-cleaner", "namespace": "kube-system"}]));
        let node = find("clusterroles", "system:node");
        assert!(
            node.object["rules"]
                .as_array()
                .unwrap()
                .contains(&json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["services"]}))
        );
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert!(parse("ClusterRole a\n  x\n").unwrap_err().starts_with("rbac.txt line 2"));
        assert!(parse("  \"\" pods get\n").unwrap_err().contains("without a role"));
        assert!(parse("Thing a\n").unwrap_err().contains("neither role nor binding"));
    }
}
