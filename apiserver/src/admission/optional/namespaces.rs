//! NamespaceExists and NamespaceAutoProvision (`plugin/pkg/admission/namespace`): what is written needs its namespace, or gets one.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_tree::json;

use super::namespace;
use crate::{
    admission::{Admission, Attempt, Operation, look},
    registry::{Object, Reader, Writer},
    wire::Status,
};

/// Refuses writes to namespaces that are not there.
pub struct NamespaceExists {
    /// Where namespaces are looked up.
    pub reader: Arc<dyn Reader>,
}

/// Makes the namespace of whatever is created.
pub struct NamespaceAutoProvision {
    /// Where namespaces are looked up.
    pub reader: Arc<dyn Reader>,
    /// Who makes them.
    pub writer: Arc<dyn Writer>,
}

fn is_in_a_namespace(attempt: &Attempt<'_>) -> bool {
    !attempt.request.namespace.is_empty() && !attempt.is_namespace()
}

#[async_trait]
impl Admission for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation != Operation::Connect && is_in_a_namespace(attempt)
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, _new: Option<&Object>) -> Result<(), Status> {
        namespace(&*self.reader, &attempt.request.namespace).await.map(drop)
    }
}

#[async_trait]
impl Admission for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && !attempt.dry_run && is_in_a_namespace(attempt)
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let name = &attempt.request.namespace;
        if self.reader.get("", "namespaces", "", name).await?.is_some() {
            return Ok(());
        }
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        match self.writer.create("namespaces", "", object).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            Err(status) => Err(look::forbidden(attempt, new.as_deref(), &status.message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    #[tokio::test]
    async fn a_namespace_must_be_there_or_is_made() {
        let bench = Bench::new();
        let exists = NamespaceExists { reader: bench.reader.clone() };
        let status = bench.create(&exists, "pods live web", pod()).await.unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (404, "namespaces \"live\" not found"));
        let provision = NamespaceAutoProvision { reader: bench.reader.clone(), writer: bench.reader.clone() };
        bench.create(&provision, "pods live web", pod()).await.unwrap();
        assert!(bench.reader.look("", "namespaces", "", "live").is_some());
        bench.create(&exists, "pods live web", pod()).await.unwrap();
        bench.create(&exists, "nodes - n", json!({"metadata": {}})).await.unwrap();
    }
}
