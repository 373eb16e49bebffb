//! Gives each node its share of the pod network (upstream `pkg/controller/nodeipam`, the range allocator).

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    caches::Caches,
    change::{Change, Note, PatchKind, Plan, Tolerate},
    object::{Key, Object},
    run::{BuildError, Controller, Named, Wake},
};

/// Bits a node's prefix may be longer than the cluster's: at most 65,536 shares, as upstream.
const MOST_BITS: u8 = 16;

/// The controller.
pub(crate) struct NodeIpam {
    caches: Arc<Caches>,
    range: Range,
    /// Shares given to nodes whose caches do not show it yet.
    given: Arc<Mutex<HashMap<String, u32>>>,
}

impl NodeIpam {
    /// Cuts shares of prefix length `mask` out of `cidr`.
    pub(crate) fn new(caches: Arc<Caches>, cidr: (IpAddr, u8), mask: u8) -> Result<Self, BuildError> {
        let range = Range::new(cidr.0, cidr.1, mask).ok_or(BuildError::Mask { mask, range: cidr.1 })?;
        Ok(Self { caches, range, given: Arc::default() })
    }
}

/// A range of addresses, cut into equal shares.
struct Range {
    base: u128,
    v6: bool,
    mask: u8,
    shares: u32,
}

impl Range {
    fn new(base: IpAddr, length: u8, mask: u8) -> Option<Self> {
        let (base, v6, bits) = match base {
            IpAddr::V4(address) => (u128::from(u32::from(address)), false, 32),
            IpAddr::V6(address) => (u128::from(address), true, 128),
        };
        let spread = mask.checked_sub(length).filter(|spread| *spread <= MOST_BITS && mask <= bits)?;
        let host_bits = u32::from(bits - length);
        let base = if host_bits == 128 { 0 } else { base >> host_bits << host_bits };
        Some(Self { base, v6, mask, shares: 1 << spread })
    }

    fn step(&self) -> u128 {
        let bits: u8 = if self.v6 { 128 } else { 32 };
        1u128 << (bits - self.mask)
    }

    /// The share's own prefix.
    fn share(&self, index: u32) -> String {
        let base = self.base + u128::from(index) * self.step();
        let address =
            if self.v6 { IpAddr::V6(Ipv6Addr::from(base)) } else { IpAddr::V4(Ipv4Addr::from(u32::try_from(base).unwrap_or_default())) };
        format!("{address}/{}", self.mask)
    }

    /// Which share a prefix is, or lies in.
    fn index(&self, prefix: &str) -> Option<u32> {
        let (address, _) = prefix.split_once('/')?;
        let address = match (address.parse().ok()?, self.v6) {
            (IpAddr::V4(address), false) => u128::from(u32::from(address)),
            (IpAddr::V6(address), true) => u128::from(address),
            _ => return None,
        };
        u32::try_from(address.checked_sub(self.base)? / self.step()).ok().filter(|index| *index < self.shares)
    }
}

fn prefixes(node: &Node) -> impl Iterator<Item = &String> {
    node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr))
}

impl Named for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }
    fn identity(&self) -> &'static str {
        "node-controller"
    }
    fn reads(&self, wake: &Wake) {
        let (given, caches) = (self.given.clone(), self.caches.clone());
        wake.on(&self.caches.nodes, move |delta, wake| match (delta.old, delta.new) {
            (_, Some(node)) if prefixes(node).next().is_none() => wake(Key::of(node.as_ref())),
            (Some(old), None) => {
                given.lock().remove(old.name());
                // A share is free again: somebody may wait for it.
                caches.nodes.list("").iter().filter(|node| prefixes(node).next().is_none()).for_each(|node| wake(Key::of(node.as_ref())));
            }
            _ => {}
        });
    }
    fn workers(&self) -> Option<usize> {
        // Two workers could give two nodes the same share.
        Some(1)
    }
}

impl Controller for NodeIpam {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let nodes = self.caches.nodes.list("");
        let Some(node) = nodes.iter().find(|node| node.name() == key.name.as_ref()) else { return Plan::nothing() };
        if node.deleted().is_some() || prefixes(node).next().is_some() {
            return Plan::nothing();
        }
        let mut given = self.given.lock();
        let mut used: BTreeSet<u32> = nodes.iter().flat_map(|node| prefixes(node)).filter_map(|prefix| self.range.index(prefix)).collect();
        used.extend(given.iter().filter(|(name, _)| name.as_str() != key.name.as_ref()).map(|(_, index)| *index));
        let free = given.get(key.name.as_ref()).copied().filter(|index| !used.contains(index));
        let Some(index) = free.or_else(|| (0..self.range.shares).find(|index| !used.contains(index))) else {
            let mut plan = Plan::nothing();
            plan.tell(Note::normal(node.as_ref(), "CIDRNotAvailable", format!("Node {} status is now: CIDRNotAvailable", node.name())));
            return plan;
        };
        given.insert(key.name.to_string(), index);
        let share = self.range.share(index);
        let body = json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": share, "podCIDRs": [share]}});
        Change::patch::<Node>(Key::of(node.as_ref()), PatchKind::Strategic, body).tolerate(Tolerate::NotFound).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Verb;

    fn node(name: &str, cidr: Option<&str>) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDR": cidr}})).unwrap()
    }

    fn share(controller: &NodeIpam, name: &str) -> Option<String> {
        let plan = controller.plan(&Key::new("", name), Timestamp::UNIX_EPOCH);
        let change = plan.changes().next()?.clone();
        let Verb::Patch { body, .. } = change.verb else { panic!("not a patch") };
        Some(body["spec"]["podCIDR"].as_str().unwrap().to_owned())
    }

    #[test]
    fn each_node_gets_the_first_free_share_and_none_gets_anothers() {
        let caches = Arc::new(Caches::default());
        for node in [node("a", Some("10.42.0.0/24")), node("b", None), node("c", None), node("d", Some("10.42.2.0/24"))] {
            caches.nodes.put(node);
        }
        let controller = NodeIpam::new(caches, ("10.42.0.0".parse().unwrap(), 16), 24).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(share(&controller, "b").as_deref(), Some("10.42.1.0/24"));
        assert_eq!(share(&controller, "c").as_deref(), Some("10.42.3.0/24"), "b's share is not shown yet");
        assert_eq!(share(&controller, "b").as_deref(), Some("10.42.1.0/24"), "a retry keeps the share");
        assert_eq!(share(&controller, "a"), None);
    }

    #[test]
    fn a_range_that_is_used_up_says_so() {
        let caches = Arc::new(Caches::default());
        caches.nodes.put(node("a", Some("10.42.0.0/24")));
        caches.nodes.put(node("b", None));
        let controller = NodeIpam::new(caches, ("10.42.0.0".parse().unwrap(), 24), 24).unwrap_or_else(|error| panic!("{error}"));
        let plan = controller.plan(&Key::new("", "b"), Timestamp::UNIX_EPOCH);
        assert!(matches!(&plan.steps[..], [crate::change::Step::Tell(note)] if note.reason == "CIDRNotAvailable"));
    }

    #[test]
    fn masks_that_do_not_fit_are_refused() {
        assert!(Range::new("10.42.0.0".parse().unwrap(), 16, 8).is_none());
        assert!(Range::new("10.0.0.0".parse().unwrap(), 7, 24).is_none());
        let range = Range::new("fd00::".parse().unwrap(), 48, 64).unwrap();
        assert_eq!((range.share(1).as_str(), range.index("fd00:0:0:1::/64")), ("fd00:0:0:1::/64", Some(1)));
    }
}
