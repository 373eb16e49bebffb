//! Nobody may grant what he does not hold (`pkg/registry/rbac/*/policybased`): checks over new roles and bindings.

use std::sync::Arc;

use coracle_tree::Value;

use super::{
    Chain, MASTERS,
    policy::Rule,
    rbac::{GROUP, Rbac},
};
use crate::{
    authn::User,
    registry::Object,
    request::RequestInfo,
    wire::{Status, status::Subject},
};

/// Checks writes of roles and bindings.
pub struct Escalation {
    /// Where rights are looked up.
    pub rbac: Arc<Rbac>,
    /// Who may `escalate` and `bind`.
    pub chain: Chain,
}

impl Escalation {
    /// Whether a write to this resource grants anything.
    pub fn concerns(request: &RequestInfo) -> bool {
        request.group == GROUP && matches!(request.resource.as_str(), "roles" | "clusterroles" | "rolebindings" | "clusterrolebindings")
    }

    /// Refuses a create or update by which the user would hand out more than he holds.
    pub async fn check(&self, user: &User, request: &RequestInfo, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        if user.in_group(MASTERS) {
            return Ok(());
        }
        if request.resource.ends_with("bindings") {
            self.check_binding(user, request, new, old).await
        } else {
            self.check_role(user, request, new, old).await
        }
    }

    async fn check_role(&self, user: &User, request: &RequestInfo, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let cluster = request.resource == "clusterroles";
        let aggregation = new.value().get("aggregationRule").filter(|a| !a.is_null());
        let same = |o: &Object| rules(o) == rules(new) && o.value().get("aggregationRule") == new.value().get("aggregationRule");
        // A controller that only touches metadata (finalizers) grants nothing.
        if old.is_some_and(same) || self.may(user, "escalate", request, new.name()).await {
            return Ok(());
        }
        if cluster && aggregation.is_some() {
            // Any rule may flow in later, so the user must hold all.
            self.require(user, "", &[Rule::everything(), Rule::every_path()], request, new)
                .map_err(|_| refused(request, new.name(), "must have cluster-admin privileges to use the aggregationRule"))?;
        }
        self.require(user, &request.namespace, &rules(new), request, new)
    }

    async fn check_binding(&self, user: &User, request: &RequestInfo, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let part = |o: &Object, name: &str| o.value().get(name).cloned().unwrap_or(Value::Null);
        if old.is_some_and(|o| part(o, "roleRef") == part(new, "roleRef") && part(o, "subjects") == part(new, "subjects")) {
            return Ok(());
        }
        let (kind, name) = (new.text("/roleRef/kind"), new.text("/roleRef/name"));
        let of = if kind == "Role" { request.namespace.as_str() } else { "" };
        let resource = if kind == "Role" { "roles" } else { "clusterroles" };
        let bind = RequestInfo {
            is_resource: true,
            verb: "bind".into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: request.namespace.clone(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        if self.chain.decide(user, &bind).await.is_allowed() {
            return Ok(());
        }
        // Of the resource that is asked for, as upstream's storage of roles takes it from the request (`qualifiedResourceFromContext`).
        let missing = || Status::not_found(Subject { group: GROUP, resource: &request.resource, name });
        let granted = self.rbac.role(of, name).ok_or_else(missing)?;
        self.require(user, &request.namespace, &granted, request, new)
    }

    async fn may(&self, user: &User, verb: &str, request: &RequestInfo, name: &str) -> bool {
        let ask = RequestInfo { verb: verb.to_owned(), name: name.to_owned(), subresource: String::new(), ..request.clone() };
        self.chain.decide(user, &ask).await.is_allowed()
    }

    fn require(&self, user: &User, namespace: &str, asked: &[Rule], request: &RequestInfo, new: &Object) -> Result<(), Status> {
        let missing = self.rbac.not_held(user, namespace, asked);
        if missing.is_empty() {
            return Ok(());
        }
        let rules: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
        let why = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups.join(" "),
            rules.join("\n")
        );
        Err(refused(request, new.name(), &why))
    }
}

/// The rules of a role object.
fn rules(role: &Object) -> Vec<Rule> {
    let list = role.value().get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|r| serde::Deserialize::deserialize(r).ok()).collect()
}

fn refused(request: &RequestInfo, name: &str, why: &str) -> Status {
    Status::forbidden(Subject { group: GROUP, resource: &request.resource, name }, why)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::registry::fake::FakeReader;

    /// jane reads pods everywhere; bella may also bind the role `admin`; ed may escalate.
    async fn escalation() -> Escalation {
        let reader = FakeReader::default();
        let role = |name: &str, rule: Value| {
            reader.put(GROUP, "clusterroles", json!({"metadata": {"name": name}, "rules": [rule]}));
        };
        let bind = |user: &str, role: &str| {
            let subjects = json!([{"kind": "User", "name": user}]);
            let role = json!({"kind": "ClusterRole", "name": role});
            reader.put(GROUP, "clusterrolebindings", json!({"metadata": {"name": user}, "roleRef": role, "subjects": subjects}));
        };
        role("reader", json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}));
        role("admin", json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
        role("binder", json!({"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["admin"]}));
        role("escalator", json!({"apiGroups": [GROUP], "resources": ["roles"], "verbs": ["escalate"]}));
        bind("jane", "reader");
        bind("bella", "binder");
        bind("ed", "escalator");
        let rbac = Arc::new(Rbac::default());
        rbac.load(&reader).await.unwrap();
        Escalation { chain: Chain::new(vec![rbac.clone()]), rbac }
    }

    fn write(resource: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: "create".into(),
            group: GROUP.into(),
            resource: resource.into(),
            namespace: "ns".into(),
            ..RequestInfo::default()
        }
    }

    fn role(verb: &str) -> Object {
        Object::new(json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]})).unwrap()
    }

    fn binding(role: &str) -> Object {
        Object::new(json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}})).unwrap()
    }

    #[tokio::test]
    async fn roles_may_hold_only_what_their_writer_holds_unless_he_may_escalate() {
        let e = escalation().await;
        let (jane, ed) = (User::new("jane", &[]), User::new("ed", &[]));
        assert!(e.check(&jane, &write("roles"), &role("get"), None).await.is_ok());
        let refused = e.check(&jane, &write("roles"), &role("delete"), None).await.unwrap_err();
        assert_eq!(
            refused.message,
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant \
             RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
        assert!(e.check(&ed, &write("roles"), &role("delete"), None).await.is_ok());
        assert!(e.check(&jane, &write("roles"), &role("delete"), Some(&role("delete"))).await.is_ok());
        assert!(e.check(&User::new("root", &[MASTERS]), &write("roles"), &role("delete"), None).await.is_ok());
    }

    #[tokio::test]
    async fn bindings_may_hand_out_only_what_is_held_unless_the_role_may_be_bound() {
        let e = escalation().await;
        let (jane, bella) = (User::new("jane", &[]), User::new("bella", &[]));
        assert!(e.check(&jane, &write("rolebindings"), &binding("reader"), None).await.is_ok());
        assert_eq!(e.check(&jane, &write("rolebindings"), &binding("admin"), None).await.unwrap_err().code, 403);
        assert_eq!(e.check(&jane, &write("rolebindings"), &binding("absent"), None).await.unwrap_err().code, 404);
        assert!(e.check(&bella, &write("rolebindings"), &binding("admin"), None).await.is_ok());
        assert!(e.check(&bella, &write("rolebindings"), &binding("reader"), None).await.is_err());
    }
}
