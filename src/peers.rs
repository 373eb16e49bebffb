//! The other servers of the cluster, as the service `kubernetes` leads to them: the kubeconfig names them all.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, runtime::watcher};
use tokio_util::sync::CancellationToken;

use crate::renewal::Renewal;

/// A watch that broke off is begun again after this long.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the kubeconfig up to date until `stop`. `own`: this server as the others are led to it.
pub(crate) async fn follow(client: Client, own: String, renewal: Arc<Renewal>, stop: CancellationToken) {
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let mut changes = std::pin::pin!(watcher::watch_object(slices, "kubernetes"));
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => change,
        };
        match change {
            Some(Ok(Some(slice))) => {
                let (others, renewal) = (others(&slice, &own), renewal.clone());
                let written = tokio::task::spawn_blocking(move || renewal.know(others, jiff::Timestamp::now().as_second())).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!("the kubeconfig does not name the other servers yet: {error:#}");
                }
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "the watch of the other servers broke off");
                tokio::time::sleep(PAUSE).await;
            }
            None => return,
        }
    }
}

/// The addresses of the other servers.
fn others(slice: &EndpointSlice, own: &str) -> Vec<String> {
    let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(443);
    let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
    let url =
        |address: &String| if address.contains(':') { format!("https://[{address}]:{port}") } else { format!("https://{address}:{port}") };
    addresses.map(url).filter(|server| server != own).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_others_are_those_the_service_leads_to_but_this_one() {
        let slice = json!({"addressType": "IPv4", "ports": [{"port": 6443}], "metadata": {},
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["fd00::3"]}]});
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        assert_eq!(others(&slice, "https://10.0.0.1:6443"), ["https://10.0.0.2:6443", "https://[fd00::3]:6443"]);
    }
}
