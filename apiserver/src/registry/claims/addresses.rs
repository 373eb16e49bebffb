//! Cluster addresses: one object `IPAddress` for each that a service has (`core/service/ipallocator`). That there can be only one of a name is
//! what makes an address safe, however many servers give addresses away.

use std::{net::IpAddr, sync::Arc};

use coracle_store::cache::Freshness;
use coracle_tree::{Value, json};

use super::{
    random,
    range::{Family, Network},
};
use crate::{
    registry::{
        Kind, Writer,
        object::Object,
        storage::{self, Storage},
    },
    wire::Status,
};

/// Group of the two kinds.
pub(super) const GROUP: &str = "networking.k8s.io";
/// Who keeps the objects (`ipallocator.ControllerName`).
pub(super) const KEEPER: &str = "ipallocator.k8s.io";
pub(super) const LABEL_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
pub(super) const LABEL_KEEPER: &str = "ipaddress.kubernetes.io/managed-by";

/// Gives addresses away.
pub(super) struct Addresses {
    storage: Arc<Storage>,
    writer: Arc<dyn Writer>,
}

/// Why an address could not be had.
#[derive(Debug)]
pub(super) enum Refusal {
    /// In no network.
    Mismatched,
    /// Somebody has it.
    Taken,
    /// All are somebody's.
    Full,
    /// The object could not be written.
    Other(Status),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mismatched => f.write_str("the provided network does not match the current range"),
            Self::Taken => f.write_str("provided IP is already allocated"),
            Self::Full => f.write_str("range is full"),
            Self::Other(status) => f.write_str(&status.message),
        }
    }
}

impl Addresses {
    pub(super) fn new(storage: Arc<Storage>, writer: Arc<dyn Writer>) -> Self {
        Self { storage, writer }
    }

    /// Takes any address of a family for a service.
    pub(super) async fn take_next(&self, service: &Object, family: Family, dry_run: bool) -> Result<IpAddr, Refusal> {
        let mut networks = self.networks().await.map_err(Refusal::Other)?;
        networks.retain(|network| network.family() == family);
        if dry_run {
            return networks.first().map(|network| network.address()).ok_or(Refusal::Full);
        }
        let kind = self.kind("ipaddresses").map_err(Refusal::Other)?;
        let known = self.storage.collection(&kind).map_err(Refusal::Other)?;
        let known = known.snapshot(Freshness::Any).await.map_err(|error| Refusal::Other(storage::read_error(error)))?;
        let prefix = kind.list_prefix("");
        for network in networks {
            for address in network.candidates(random()) {
                // Most of those that are taken are known to be; the others are found out about by trying.
                if known.get(&format!("{prefix}{address}")).is_some() {
                    continue;
                }
                match self.create(service, address).await {
                    Err(Refusal::Taken) => {}
                    Err(refused) => return Err(refused),
                    Ok(()) => return Ok(address),
                }
            }
        }
        Err(Refusal::Full)
    }

    /// Takes this address for a service.
    pub(super) async fn take(&self, service: &Object, address: IpAddr, dry_run: bool) -> Result<(), Refusal> {
        let networks = self.networks().await.map_err(Refusal::Other)?;
        if !networks.iter().any(|network| network.contains(address)) {
            return Err(Refusal::Mismatched);
        }
        if dry_run { Ok(()) } else { self.create(service, address).await }
    }

    async fn create(&self, service: &Object, address: IpAddr) -> Result<(), Refusal> {
        match self.writer.create("ipaddresses", "", object(&address.to_string(), service.namespace(), service.name())).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Err(Refusal::Taken),
            Err(status) => Err(Refusal::Other(status)),
        }
    }

    /// Gives an address back, if it is still this service's.
    pub(super) async fn free(&self, namespace: &str, service: &str, address: &str) -> Result<(), Status> {
        let found = self.storage.read(&*self.kind("ipaddresses")?, "", address, Freshness::Latest).await?;
        let Some(found) = found.filter(|found| is_of(found.object.value(), namespace, service)) else { return Ok(()) };
        self.writer.clear("ipaddresses", "", found.object.value()).await
    }

    /// The networks addresses may be taken from; those of the default one first.
    async fn networks(&self) -> Result<Vec<Network>, Status> {
        let mut networks = self.networks_that(is_ready).await?;
        networks.retain(|network| network.is_usable());
        Ok(networks)
    }

    /// All networks, also those that are not ready or going away: services have addresses of them.
    pub(super) async fn all_networks(&self) -> Result<Vec<Network>, Status> {
        self.networks_that(|_| true).await
    }

    async fn networks_that(&self, count: impl Fn(&Value) -> bool) -> Result<Vec<Network>, Status> {
        let kind = self.kind("servicecidrs")?;
        for freshness in [Freshness::Any, Freshness::Latest] {
            let snapshot = self.storage.snapshot(&kind, freshness).await?;
            let objects = snapshot.iter().filter_map(|cached| serde_json::from_slice::<Value>(&cached.wire()).ok());
            let mut found: Vec<(bool, Network)> = objects
                .filter(&count)
                .flat_map(|object| {
                    let is_default = object["metadata"]["name"] == "kubernetes";
                    let texts = object["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
                    texts.into_iter().filter_map(move |text| Some((!is_default, text.as_str()?.parse().ok()?)))
                })
                .collect();
            if !found.is_empty() {
                found.sort_by_key(|(added, _)| *added);
                return Ok(found.into_iter().map(|(_, network)| network).collect());
            }
        }
        Ok(Vec::new())
    }

    pub(super) fn kind(&self, resource: &str) -> Result<Arc<Kind>, Status> {
        self.storage.catalog().stored(GROUP, resource).cloned().ok_or_else(Status::no_such_path)
    }
}

/// Whether addresses may be taken from a ServiceCIDR; without a condition they may, so that it works without controllers.
fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").is_none_or(|condition| condition["status"] == "True");
    ready && object["metadata"]["deletionTimestamp"].is_null()
}

/// The object that says that a service has an address.
pub(super) fn object(address: &str, namespace: &str, service: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "labels": {LABEL_FAMILY: family(address), LABEL_KEEPER: KEEPER}},
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    })
}

pub(super) fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// Whether an `IPAddress` says it is this service's.
pub(super) fn is_of(object: &Value, namespace: &str, service: &str) -> bool {
    let parent = &object["spec"]["parentRef"];
    let text = |name: &str| parent[name].as_str().unwrap_or_default();
    text("group").is_empty() && text("resource") == "services" && text("namespace") == namespace && text("name") == service
}
