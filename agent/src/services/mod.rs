//! The service proxy of a node: what kube-proxy does, with nf_tables, for IPv4.
//!
//! [`Proxy::run`] watches Services and EndpointSlices; `plan` turns them into one ruleset, purely; the ruleset is brought into the kernel as
//! one transaction. A packet finds its service by one lookup in a verdict map, however many services there are. The rules stay when the
//! agent ends, and are replaced as a whole when it is back and knows everything again, so connections work all the time.

mod conntrack;
mod plan;
mod view;
mod watch;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;

use crate::network::Ipv4Net;
use crate::network::nft::{self, Table};
use view::{Service, Slice};

/// How services are served on this node.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of this node, for endpoints that are local.
    pub node_name: String,
    /// Addresses of all pods of the cluster: their traffic keeps its source address.
    pub pod_cidr: Ipv4Net,
    /// Addresses of services: what is sent to one that does not exist is refused. `None`: only known services without endpoints refuse.
    pub service_cidr: Option<Ipv4Net>,
}

/// The service proxy.
pub struct Proxy {
    client: Client,
    rules: Arc<Rules>,
}

/// The kernel's side of it.
struct Rules {
    options: Options,
    table: Mutex<Table>,
}

/// All that rules are made of.
#[derive(Debug, Clone, Default)]
struct Known {
    /// By namespace and name.
    services: BTreeMap<(String, String), Service>,
    /// By namespace and name of the slice.
    slices: BTreeMap<(String, String), Slice>,
}

/// Bursts of changes become one transaction: after this long without a change…
const QUIET: Duration = Duration::from_millis(15);
/// …or this long after the first.
const AT_LATEST: Duration = Duration::from_millis(150);

impl Proxy {
    /// A proxy that watches through the client. Nothing happens before [`Proxy::run`].
    pub fn new(client: Client, options: Options) -> Self {
        Self { client, rules: Arc::new(Rules { options, table: Mutex::default() }) }
    }
}

impl Rules {
    /// Brings rules for what is known into the kernel. Blocks.
    fn apply(&self, known: &Known, before: &mut plan::UdpTargets) -> std::io::Result<()> {
        let (rules, targets) = plan::plan(&self.options, known);
        self.table.lock().apply(rules)?;
        // Datagrams of a flow would follow its old translation for ever.
        let gone = before.gone(&targets);
        if !gone.is_empty()
            && let Err(error) = conntrack::forget(&gone)
        {
            tracing::warn!(%error, "old UDP flows could not be ended");
        }
        *before = targets;
        Ok(())
    }
}

/// Removes all rules of services; none there is fine.
///
/// # Errors
/// What the kernel refused.
pub fn teardown() -> std::io::Result<()> {
    nft::remove_table(plan::TABLE)
}

/// An address and port that services are reached by.
type Address = (Ipv4Addr, u16);

#[cfg(test)]
mod tests;
