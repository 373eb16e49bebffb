//! DenyServiceExternalIPs: no service takes addresses that are not the cluster's (`plugin/pkg/admission/network/denyserviceexternalips`).

use async_trait::async_trait;

use crate::{
    admission::{Admission, Attempt, Operation, look},
    registry::Object,
    wire::Status,
};

/// The plugin.
pub struct DenyServiceExternalIPs;

#[async_trait]
impl Admission for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update) && look::is(attempt, "", "services")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(service) = new else { return Ok(()) };
        let had = attempt.old.map(|old| look::list(old.value(), "/spec/externalIPs")).unwrap_or_default();
        let added = look::list(service.value(), "/spec/externalIPs").iter().any(|ip| !had.contains(ip));
        if added { Err(look::forbidden(attempt, new, "Use of external IPs is denied by admission control")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::{Value, json};

    use super::*;
    use crate::admission::bench::Bench;

    #[tokio::test]
    async fn addresses_that_were_there_stay_and_may_go() {
        let service = |ips: Value| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}});
        let bench = Bench::new();
        let at = "services live s";
        assert!(bench.create(&DenyServiceExternalIPs, at, service(json!(["1.2.3.4"]))).await.is_err());
        assert!(bench.create(&DenyServiceExternalIPs, at, service(json!([]))).await.is_ok());
        let update = async |old: Value, new: Value| bench.update(&DenyServiceExternalIPs, at, service(old), service(new)).await;
        assert!(update(json!(["1.1.1.1", "2.2.2.2"]), json!(["2.2.2.2"])).await.is_ok());
        let status = update(json!(["1.1.1.1"]), json!(["2.2.2.2"])).await.unwrap_err();
        assert_eq!(status.message, "services \"s\" is forbidden: Use of external IPs is denied by admission control");
    }
}
