//! OwnerReferencesPermissionEnforcement: who makes an object wait for another must be allowed to (`plugin/pkg/admission/gc`).

use async_trait::async_trait;
use coracle_tree::Value;

use crate::{
    admission::{
        Admission, Attempt, Operation,
        look::{self, list, text},
        policy::Resources,
    },
    authz,
    registry::Object,
    request::RequestInfo,
    wire::Status,
};

/// The plugin.
pub struct OwnerReferencesPermissionEnforcement {
    /// Who decides.
    pub authorizer: authz::Chain,
    /// The resource of an owner's kind.
    pub resources: Resources,
}

#[async_trait]
impl Admission for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        let status_of_pod = request.group.is_empty() && request.resource == "pods" && request.subresource == "status";
        matches!(attempt.operation, Operation::Create | Operation::Update) && !status_of_pod
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(object) = new else { return Ok(()) };
        let owners = list(object.value(), "/metadata/ownerReferences");
        let before = attempt.old.map(|old| list(old.value(), "/metadata/ownerReferences")).unwrap_or_default();
        if owners == before {
            return Ok(());
        }
        let refuse = |why: &str| Err(look::forbidden(attempt, new, why));
        if attempt.operation != Operation::Create {
            let request = RequestInfo { verb: "delete".to_owned(), ..attempt.request.clone() };
            if let Err(reason) = self.may(attempt, &request).await {
                return refuse(&format!("cannot set an ownerRef on a resource you can't delete: {reason}, <nil>"));
            }
        }
        let blocking: Vec<&Value> = owners.iter().filter(|owner| blocks(owner) && !blocked_before(owner, before)).collect();
        if blocking.is_empty() || self.may(attempt, &finalizers("*", "*", "*", "", "*")).await.is_ok() {
            return Ok(());
        }
        for owner in blocking {
            let (version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
            let Some((resource, namespaced)) = (self.resources)(version, kind) else {
                let why = format!("no matches for kind {kind:?} in version {version:?}");
                let head = "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion";
                return refuse(&format!("{head} {version} Kind {kind}: {why}"));
            };
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let namespace = if namespaced { attempt.request.namespace.as_str() } else { "" };
            if let Err(reason) = self.may(attempt, &finalizers(group, version, &resource, namespace, text(owner, "name"))).await {
                let head = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
                return refuse(&format!("{head}: {reason}, <nil>"));
            }
        }
        Ok(())
    }
}

impl OwnerReferencesPermissionEnforcement {
    /// Whether the user may; the error is why not.
    async fn may(&self, attempt: &Attempt<'_>, request: &RequestInfo) -> Result<(), String> {
        let verdict = self.authorizer.decide(attempt.user, request).await;
        if verdict.is_allowed() { Ok(()) } else { Err(verdict.reason().to_owned()) }
    }
}

fn finalizers(group: &str, version: &str, resource: &str, namespace: &str, name: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "update".to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: "finalizers".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

fn blocks(owner: &Value) -> bool {
    owner.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or_default()
}

fn blocked_before(owner: &Value, before: &[Value]) -> bool {
    before.iter().any(|old| text(old, "uid") == text(owner, "uid") && blocks(old))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_tree::json;

    use super::*;
    use crate::{
        admission::bench::{Bench, pod},
        authn::User,
        authz::{Authorizer, Decision},
    };

    /// Lets jane update finalizers of one config map.
    struct Some;

    impl Authorizer for Some {
        fn name(&self) -> &str {
            "some"
        }

        fn decide(&self, _user: &User, request: &RequestInfo) -> Decision {
            let fits =
                (request.resource.as_str(), request.subresource.as_str(), request.name.as_str()) == ("configmaps", "finalizers", "mine");
            if fits { Decision::Allow } else { Decision::NoOpinion("no".to_owned()) }
        }
    }

    #[tokio::test]
    async fn who_blocks_the_deletion_of_an_owner_must_be_allowed_to_finalize_it() {
        let plugin = OwnerReferencesPermissionEnforcement {
            authorizer: authz::Chain::new(vec![Arc::new(Some)]),
            resources: Arc::new(|_, kind| (kind == "ConfigMap").then(|| ("configmaps".to_owned(), true))),
        };
        let owned = |kind: &str, name: &str, block: bool| {
            let mut pod = pod();
            let owner = json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "blockOwnerDeletion": block});
            pod["metadata"]["ownerReferences"] = json!([owner]);
            pod
        };
        let create = async |object: Value| Bench::new().create(&plugin, "pods live web", object).await;
        assert!(create(owned("ConfigMap", "other", false)).await.is_ok());
        assert!(create(owned("ConfigMap", "mine", true)).await.is_ok());
        assert!(
            create(owned("ConfigMap", "other", true)).await.unwrap_err().message.contains("you can't set finalizers on: some: no, <nil>")
        );
        assert!(
            create(owned("Nothing", "n", true))
                .await
                .unwrap_err()
                .message
                .contains("cannot find RESTMapping for APIVersion v1 Kind Nothing")
        );
        let changed = Bench::new().update(&plugin, "pods live web", pod(), owned("ConfigMap", "mine", false)).await;
        assert!(changed.unwrap_err().message.ends_with("cannot set an ownerRef on a resource you can't delete: some: no, <nil>"));
    }
}
