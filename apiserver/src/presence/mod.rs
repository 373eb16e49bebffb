//! Several servers on one store: each says that it is there, and all see to it that the service `kubernetes` leads to those that are
//! (`pkg/controlplane/reconcilers/lease.go`, `pkg/controlplane/controller/kubernetesservice`, `component-helpers/apimachinery/lease`).
//!
//! | file | what |
//! |---|---|
//! | `addresses` | `/registry/masterleases/ADDRESS`: gone 15 s after a server was killed, at once when it was stopped |
//! | `endpoints` | the service's endpoints as they should be, pure |
//! | `identity` | the Lease `kube-system/apiserver-…` of each server, and the removal of those of servers long gone |

mod addresses;
mod endpoints;
mod identity;

use std::{sync::Arc, time::Duration};

use coracle_store::Revision;
use coracle_tree::Value;
use futures::StreamExt;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use self::identity::name;
use self::{addresses::Addresses, identity::Identity};
use crate::{
    bootstrap::{Facts, objects},
    registry::{Reader, Storage, Writer, reader},
    verbs::Clock,
    wire::Status,
};

/// How a server is known to the others.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of its machine; no other server on the store may have it.
    pub host: String,
    /// Whether the service `kubernetes` leads to it; else it only has its Lease.
    pub leads: bool,
}

/// Time between two signs of life (`DefaultEndpointReconcilerInterval`, `IdentityLeaseRenewIntervalPeriod`).
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks for Leases of servers that are gone (`IdentityLeaseGCPeriod`).
const SWEEP: Duration = Duration::from_secs(3600);
/// A server without a sign of life for this long is gone (`DefaultEndpointReconcilerTTL`).
const LASTS: Duration = Duration::from_secs(15);
/// Before a broken watch begins again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a server that stops tries to say so.
const GOODBYE: Duration = Duration::from_secs(2);

/// This server among the others.
pub(crate) struct Presence {
    facts: Facts,
    leads: bool,
    addresses: Addresses,
    identity: Identity,
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    clock: Clock,
    /// One sign of life at a time, and none after the goodbye.
    leaving: CancellationToken,
    turn: Mutex<()>,
}

impl Presence {
    pub(crate) fn new(options: &Options, facts: Facts, storage: Arc<Storage>, writer: Arc<dyn Writer>, clock: Clock) -> Self {
        let reader: Arc<dyn Reader> = storage.clone();
        Self {
            addresses: Addresses::new(storage, facts.advertise_address, LASTS),
            identity: Identity::new(&options.host, reader.clone(), writer.clone()),
            facts,
            leads: options.leads,
            reader,
            writer,
            clock,
            leaving: CancellationToken::new(),
            turn: Mutex::default(),
        }
    }

    /// Gives signs of life and follows those of others, until [`Presence::leave`].
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut next, mut sweep) = (Instant::now(), Instant::now());
        let mut others = self.addresses.changes(Revision(0)).await;
        if let Err(status) = self.identity.begin().await {
            debug!(%status, "the lease of a former server of this name is still there");
        }
        while !self.leaving.is_cancelled() {
            let told = tokio::select! {
                () = self.leaving.cancelled() => return,
                () = sleep_until(next) => {
                    next = Instant::now() + INTERVAL;
                    self.sign().await
                }
                () = sleep_until(sweep) => {
                    sweep = Instant::now() + SWEEP;
                    self.sweep().await;
                    Ok(())
                }
                change = others.next() => match change {
                    Some(Ok(_)) => self.reconcile().await,
                    // Compacted, or the store is away.
                    _ => {
                        sleep(PAUSE).await;
                        others = self.addresses.changes(Revision(0)).await;
                        self.reconcile().await
                    }
                },
            };
            if let Err(status) = told {
                warn!(%status, "the service kubernetes may lead to servers that are gone, or not to this one");
            }
        }
    }

    /// Says that this server goes, so that nobody is led to it any more.
    pub(crate) async fn leave(&self) {
        self.leaving.cancel();
        let goodbye = async {
            let _turn = self.turn.lock().await;
            if self.leads {
                self.addresses.remove().await?;
                self.settle(true).await?;
            }
            self.identity.end().await
        };
        match timeout(GOODBYE, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => warn!(%status, "the service kubernetes leads here for {LASTS:?} more"),
            Err(_) => warn!("the service kubernetes leads here for {LASTS:?} more: the store does not answer"),
        }
    }

    async fn sign(&self) -> Result<(), Status> {
        let _turn = self.turn.lock().await;
        if self.leaving.is_cancelled() {
            return Ok(());
        }
        if self.leads {
            self.addresses.renew().await?;
        }
        self.settle(false).await?;
        self.identity.renew((self.clock)()).await
    }

    async fn sweep(&self) {
        let _turn = self.turn.lock().await;
        if !self.leaving.is_cancelled()
            && let Err(status) = self.identity.sweep((self.clock)()).await
        {
            debug!(%status, "leases of servers that are gone are still there");
        }
    }

    async fn reconcile(&self) -> Result<(), Status> {
        let _turn = self.turn.lock().await;
        if self.leaving.is_cancelled() { Ok(()) } else { self.settle(false).await }
    }

    /// Makes the service and its endpoints what the servers that are there say.
    async fn settle(&self, leaving: bool) -> Result<(), Status> {
        let there = if self.leads { self.addresses.list().await? } else { Vec::new() };
        // This server has just said that it is there: that nobody is cannot be.
        if self.leads && there.is_empty() && !leaving {
            return Err(Status::unavailable(
                "no API server IP addresses were listed in storage, refusing to erase all endpoints for the kubernetes Service",
            ));
        }
        let read = async |group: &str, resource: &str| reader::one::<Value>(&*self.reader, group, resource, "default", "kubernetes").await;
        let mut writes = Vec::new();
        if !leaving && read("", "services").await?.is_none() {
            let wanted = objects::service(&self.facts);
            writes.push((wanted.resource, None, wanted.object));
        }
        if self.leads {
            let now = read("", "endpoints").await?;
            if let Some(next) = endpoints::endpoints(now.as_ref(), &there, self.facts.secure_port, leaving) {
                writes.push(("endpoints", now, next));
            }
            let now = read("discovery.k8s.io", "endpointslices").await?;
            if let Some(next) = endpoints::slice(now.as_ref(), &there, self.facts.secure_port, leaving) {
                writes.push(("endpointslices", now, next));
            }
        }
        for (resource, now, next) in writes {
            let written = match now {
                // Nobody is led to who goes by what is not there.
                None if leaving => continue,
                None => self.writer.create(resource, "default", next).await,
                Some(now) if now["addressType"] != next["addressType"] => {
                    self.writer.clear(resource, "default", &now).await?;
                    self.writer.create(resource, "default", next).await
                }
                Some(_) => self.writer.update(resource, "", "default", next).await,
            };
            match written {
                // Another server was first, and will be told of what it wrote.
                Err(status) if status.code != 409 => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }
}
