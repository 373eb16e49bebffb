//! Who may have devices without a claim's usual limits, and who may say what of a claim (upstream `registry/resource`, which looks at
//! this where it stores claims: it cannot be switched off).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use coracle_schema::FieldErrors;
use coracle_tree::Value;

use super::{Admission, Attempt, Operation, look, look::list, look::text};
use crate::{
    authn::User,
    authz::Chain,
    registry::{Object, Reader},
    request::RequestInfo,
    wire::Status,
};

const GROUP: &str = "resource.k8s.io";
/// What a namespace says in whose claims devices may be looked at by administrators while others use them (KEP-5018).
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
/// Where a pod's token says which node it is for.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The check of claims and their templates.
pub struct DeviceAccess {
    /// Where namespaces are looked up.
    pub reader: Arc<dyn Reader>,
    /// Who decides about the parts of a status.
    pub authorizer: Chain,
}

#[async_trait]
impl Admission for DeviceAccess {
    fn name(&self) -> &'static str {
        "DeviceAccess"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        request.group == GROUP
            && match attempt.operation {
                Operation::Create => {
                    request.subresource.is_empty() && ["resourceclaims", "resourceclaimtemplates"].contains(&&*request.resource)
                }
                Operation::Update => request.resource == "resourceclaims" && request.subresource == "status",
                _ => false,
            }
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(new) = new else { return Ok(()) };
        let mut errors = FieldErrors::none();
        match attempt.old {
            None => {
                let inner = if attempt.request.resource == "resourceclaims" { "/spec" } else { "/spec/spec" };
                let asked = list(new.value(), &format!("{inner}/devices/requests")).iter();
                let wanted = asked.enumerate().find(|(_, request)| request.pointer("/exactly/adminAccess") == Some(&Value::Bool(true)));
                if let Some((at, _)) = wanted {
                    self.admin(attempt, &format!("spec.devices.requests[{at}].adminAccess"), &mut errors).await?;
                }
            }
            Some(old) => self.status(attempt, new.value(), old.value(), &mut errors).await?,
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid(attempt.kind.kind_subject(new.name()), &errors)) }
    }
}

impl DeviceAccess {
    async fn status(&self, attempt: &Attempt<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) -> Result<(), Status> {
        if granted(old).is_none()
            && let Some(at) = granted(new)
        {
            self.admin(attempt, &format!("status.allocation.devices.results[{at}].adminAccess"), errors).await?;
        }
        let part = |claim: &'_ Value, name: &str| claim.pointer(&format!("/status/{name}")).cloned().unwrap_or_default();
        if ["allocation", "reservedFor"].iter().any(|name| part(new, name) != part(old, name)) {
            let verb = &attempt.request.verb;
            if let Err(why) = self.may(attempt, verb, "binding", "", "").await {
                let detail = format!(
                    "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {why}"
                );
                errors.forbidden("status.allocation", &detail);
            }
        }
        if part(new, "allocation").is_object() {
            self.drivers(attempt, new, old, errors).await;
        }
        Ok(())
    }

    /// What a driver says of its devices is said by who may, for this node or for any.
    async fn drivers(&self, attempt: &Attempt<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let verb = &attempt.request.verb;
        let mut verbs = vec![format!("arbitrary-node:{verb}")];
        if is_of_node(attempt.user, new) {
            verbs.insert(0, format!("associated-node:{verb}"));
        }
        for driver in changed_drivers(new, old) {
            let mut refused = None;
            for verb in &verbs {
                match self.may(attempt, verb, "driver", &attempt.request.namespace, &driver).await {
                    Ok(()) => {
                        refused = None;
                        break;
                    }
                    Err(why) => refused = refused.or(Some(why)),
                }
            }
            if let Some(why) = refused {
                let verbs = verbs.join(" ");
                let detail =
                    format!("changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{verbs}]\" permission: {why}");
                errors.forbidden("status.devices", &detail);
            }
        }
    }

    async fn admin(&self, attempt: &Attempt<'_>, path: &str, errors: &mut FieldErrors) -> Result<(), Status> {
        let namespace: Option<Value> = look::one(&*self.reader, "", "namespaces", "", &attempt.request.namespace).await?;
        let label = namespace.as_ref().and_then(|n| n.pointer("/metadata/labels")).map_or("", |labels| text(labels, ADMIN_LABEL));
        if label != "true" {
            let detail = format!("admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace");
            errors.forbidden(path, &detail);
        }
        Ok(())
    }

    /// Whether the user may `verb` a part of claims that is there only to be asked for; why not.
    async fn may(&self, attempt: &Attempt<'_>, verb: &str, part: &str, namespace: &str, name: &str) -> Result<(), String> {
        let request = RequestInfo {
            verb: verb.into(),
            subresource: part.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..attempt.request.clone()
        };
        self.authorizer.authorize(attempt.user, &request).await.map(drop).map_err(|status| status.message)
    }
}

/// The first device that was given out with an administrator's access.
fn granted(claim: &Value) -> Option<usize> {
    list(claim, "/status/allocation/devices/results").iter().position(|result| result.get("adminAccess") == Some(&Value::Bool(true)))
}

/// Drivers of whose devices something else is said than before.
fn changed_drivers(new: &Value, old: &Value) -> BTreeSet<String> {
    let key = |device: &Value| ["driver", "pool", "device", "shareID"].map(|field| text(device, field).to_owned());
    let devices = |claim: &Value| -> BTreeMap<[String; 4], Value> {
        list(claim, "/status/devices").iter().map(|device| (key(device), device.clone())).collect()
    };
    let (now, before) = (devices(new), devices(old));
    let either = now.keys().chain(before.keys()).filter(|key| now.get(*key) != before.get(*key));
    either.map(|[driver, ..]| driver.clone()).collect()
}

/// Whether a service account's token is bound to the one node that the claim's devices are on.
fn is_of_node(user: &User, claim: &Value) -> bool {
    let terms = list(claim, "/status/allocation/nodeSelector/nodeSelectorTerms");
    let [term] = terms else { return false };
    let [field] = list(term, "/matchFields") else { return false };
    let named = text(field, "key") == "metadata.name" && text(field, "operator") == "In" && list(term, "/matchExpressions").is_empty();
    let [node] = list(field, "/values") else { return false };
    let told = user.extra.get(NODE_NAME).map_or(&[][..], Vec::as_slice);
    named && user.name.starts_with("system:serviceaccount:") && matches!(told, [one] if node == one)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::{
        admission::bench::Bench,
        authz::{Authorizer, Decision},
    };

    #[tokio::test]
    async fn administrators_access_is_for_namespaces_that_say_so_and_a_status_for_those_who_may() {
        let b = Bench::new();
        let plugin = DeviceAccess { reader: b.reader.clone(), authorizer: Chain::new(Vec::new()) };
        let claim = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"exactly": {"adminAccess": true}}]}}});
        let at = "resourceclaims.resource.k8s.io live c";
        let refused = b.create(&plugin, at, claim.clone()).await.unwrap_err();
        assert!(
            refused.message.contains("spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires"),
            "{refused:?}"
        );
        b.reader.put("", "namespaces", json!({"metadata": {"name": "live", "labels": {ADMIN_LABEL: "true"}}}));
        b.create(&plugin, at, claim).await.unwrap();
        let (old, new) =
            (json!({"metadata": {"name": "c"}}), json!({"metadata": {"name": "c"}, "status": {"reservedFor": [{"name": "p"}]}}));
        let refused = b.update(&plugin, "resourceclaims.resource.k8s.io/status live c", old, new).await.unwrap_err();
        assert!(refused.message.contains("resourceclaims/binding"), "{refused:?}");
    }

    /// Allows what drivers of this node may say of one driver's devices.
    struct OfDriver(&'static str);

    impl Authorizer for OfDriver {
        fn name(&self) -> &str {
            "of-driver"
        }

        fn decide(&self, _: &User, request: &RequestInfo) -> Decision {
            let asked = (request.verb.as_str(), request.subresource.as_str(), request.name.as_str());
            if asked == ("associated-node:update", "driver", self.0) { Decision::Allow } else { Decision::NoOpinion(String::new()) }
        }
    }

    #[tokio::test]
    async fn a_driver_on_the_claims_node_says_how_its_own_devices_are_and_no_others() {
        let mut b = Bench::new();
        b.user = User::new("system:serviceaccount:kube-system:driver", &[]);
        b.user.extra.insert(NODE_NAME.into(), vec!["n1".into()]);
        let plugin = DeviceAccess { reader: b.reader.clone(), authorizer: Chain::new(vec![Arc::new(OfDriver("a"))]) };
        let selector = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
        let claim = |devices: Value| {
            let status = json!({"allocation": {"nodeSelector": selector}, "devices": devices});
            json!({"metadata": {"name": "c"}, "status": status})
        };
        let device = |driver: &str| json!([{"driver": driver, "pool": "p", "device": "0"}]);
        let at = "resourceclaims.resource.k8s.io/status live c";
        b.update(&plugin, at, claim(json!([])), claim(device("a"))).await.unwrap();
        let refused = b.update(&plugin, at, claim(json!([])), claim(device("b"))).await.unwrap_err();
        assert!(refused.message.contains("verb=\"[associated-node:update arbitrary-node:update]\""), "{refused:?}");
        b.user.extra.clear();
        assert!(b.update(&plugin, at, claim(json!([])), claim(device("a"))).await.is_err());
    }

    #[test]
    fn a_driver_is_asked_for_when_a_device_of_it_comes_changes_or_goes() {
        let claim = |devices: Value| json!({"status": {"devices": devices}});
        let one = json!({"driver": "a", "pool": "p", "device": "0"});
        let other = json!({"driver": "b", "pool": "p", "device": "0"});
        let found = |new: Value, old: Value| changed_drivers(&claim(new), &claim(old)).into_iter().collect::<Vec<_>>();
        assert_eq!(found(json!([one, other]), json!([one])), ["b"]);
        assert_eq!(found(json!([]), json!([one])), ["a"]);
        assert_eq!(found(json!([one]), json!([one])), Vec::<String>::new());
    }

    #[test]
    fn a_token_of_the_claims_node_is_recognised() {
        let selector = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
        let claim = json!({"status": {"allocation": {"nodeSelector": selector}}});
        let mut user = User::new("system:serviceaccount:kube-system:driver", &[]);
        assert!(!is_of_node(&user, &claim));
        user.extra.insert(NODE_NAME.into(), vec!["n1".into()]);
        assert!(is_of_node(&user, &claim));
        user.extra.insert(NODE_NAME.into(), vec!["n2".into()]);
        assert!(!is_of_node(&user, &claim));
    }
}
