//! NamespaceLifecycle: nothing is made in a namespace that is missing or going, and some namespaces stay
//! (`apiserver/pkg/admission/plugin/namespace/lifecycle`).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_tree::json;
use serde::Deserialize;

use super::{Admission, Attempt, Operation, look};
use crate::{
    registry::{Object, Reader},
    wire::{Status, status::Subject},
};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle {
    /// Where namespaces are looked up.
    pub reader: Arc<dyn Reader>,
}

/// The little of a namespace that matters here.
#[derive(Deserialize)]
struct Namespace {
    metadata: Metadata,
    #[serde(default)]
    status: Phase,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
struct Phase {
    #[serde(default)]
    phase: String,
}

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        if request.group.is_empty() && request.resource == "namespaces" {
            return attempt.operation == Operation::Delete;
        }
        let review = request.group == "authorization.k8s.io" && request.resource == "localsubjectaccessreviews";
        // Upstream looks at updates, too; but what is there to be updated was made in a namespace that was there.
        !request.namespace.is_empty() && attempt.operation == Operation::Create && !review
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let request = attempt.request;
        if attempt.operation == Operation::Delete {
            if IMMORTAL.contains(&request.name.as_str()) {
                let subject = Subject { group: "", resource: "namespaces", name: &request.name };
                return Err(Status::forbidden(subject, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let name = &request.namespace;
        let found: Option<Namespace> = look::one(&*self.reader, "", "namespaces", "", name).await?;
        let found = found.ok_or_else(|| Status::not_found(Subject { group: "", resource: "namespaces", name }))?;
        let going = found.status.phase == "Terminating" || found.metadata.deletion_timestamp.is_some();
        if !going {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut status = look::forbidden(attempt, new.as_deref(), &why);
        let text = format!("namespace {name} is being terminated");
        status.details["causes"] = json!([{"reason": "NamespaceTerminating", "message": text, "field": "metadata.namespace"}]);
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn bench() -> Bench {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live"}, "status": {"phase": "Active"}}));
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}}));
        bench
    }

    fn plugin(bench: &Bench) -> NamespaceLifecycle {
        NamespaceLifecycle { reader: bench.reader.clone() }
    }

    #[tokio::test]
    async fn creates_need_a_living_namespace() {
        let b = bench();
        let at = |namespace: &str| format!("pods {namespace} web");
        assert!(b.create(&plugin(&b), &at("live"), pod()).await.is_ok());
        let missing = b.create(&plugin(&b), &at("none"), pod()).await.unwrap_err();
        assert_eq!((missing.code, missing.message.as_str()), (404, r#"namespaces "none" not found"#));
        let going = b.create(&plugin(&b), &at("going"), pod()).await.unwrap_err();
        assert_eq!(going.code, 403);
        assert_eq!(
            going.message,
            r#"pods "web" is forbidden: unable to create new content in namespace going because it is being terminated"#
        );
        assert_eq!(going.details["causes"][0]["reason"], "NamespaceTerminating");
    }

    #[tokio::test]
    async fn a_going_namespace_still_takes_updates() {
        let b = bench();
        assert!(b.update(&plugin(&b), "pods going web", pod(), pod()).await.is_ok());
    }

    #[tokio::test]
    async fn some_namespaces_may_not_be_deleted() {
        let b = bench();
        let refused = b.delete(&plugin(&b), "namespaces - kube-system").await.unwrap_err();
        assert_eq!(refused.message, r#"namespaces "kube-system" is forbidden: this namespace may not be deleted"#);
        assert!(b.delete(&plugin(&b), "namespaces - live").await.is_ok());
    }
}
