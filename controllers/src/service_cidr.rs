//! Keeps networks of service addresses from being removed under the services that have addresses of them, and says when they may be used
//! (upstream `pkg/controller/servicecidrs`).

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::networking::v1::ServiceCIDR,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use serde::Deserialize;

use crate::{
    caches::Caches,
    change::{Change, Note, Plan, Tolerate},
    object::{Key, Kind, Meta, Object, Resource, object_by_meta},
    run::{Controller, Named, Wake},
};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const KEEPER: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// All servers know by then that the network goes, and give no more addresses of it.
const GRACE: Duration = Duration::from_secs(10);

/// An address of a service as cached: nothing but its name and who keeps it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceAddress {
    /// Metadata.
    pub metadata: Meta,
}

object_by_meta!(ServiceAddress);

impl Kind for ServiceAddress {
    const RESOURCE: Resource = Resource::known("networking.k8s.io", "v1", "ipaddresses", "IPAddress");
}

/// The controller.
pub(crate) struct ServiceRanges {
    caches: Arc<Caches>,
}

/// A network: `10.96.0.0/12`.
#[derive(Clone, Copy)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        Some(Self { address: address.parse().ok()?, bits: bits.parse().ok()? })
    }

    fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The number an address has in the network; `None`: it is in another.
    fn place(self, address: IpAddr) -> Option<u128> {
        let number = |address: IpAddr| match address {
            IpAddr::V4(four) => u128::from(four.to_bits()),
            IpAddr::V6(six) => six.to_bits(),
        };
        let hosts = self.hosts();
        let same = self.address.is_ipv4() == address.is_ipv4() && number(self.address) & !hosts == number(address) & !hosts;
        same.then(|| number(address) & hosts)
    }

    /// The bits beyond the prefix.
    fn hosts(self) -> u128 {
        let beyond = self.width().saturating_sub(self.bits);
        1u128.checked_shl(u32::from(beyond)).map_or(u128::MAX, |span| span - 1)
    }

    /// Whether services may have the address of it: not the network's own, nor in IPv4 the broadcast address.
    fn gives(self, address: IpAddr) -> bool {
        self.place(address).is_some_and(|place| place != 0 && !(address.is_ipv4() && place == self.hosts()))
    }

    /// Whether all of `inner` is in it.
    fn holds(self, inner: Self) -> bool {
        self.bits <= inner.bits && self.place(inner.address).is_some()
    }

    fn overlaps(self, other: Self) -> bool {
        self.holds(other) || other.holds(self)
    }
}

fn networks(range: &ServiceCIDR) -> impl Iterator<Item = Network> + '_ {
    range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|text| Network::parse(text))
}

fn is_ours(address: &ServiceAddress) -> bool {
    address.metadata.labels.get(KEEPER).is_some_and(|keeper| keeper == ALLOCATOR)
}

impl ServiceRanges {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }

    /// Whether nobody's address would be in no network any more.
    fn may_go(&self, range: &ServiceCIDR) -> bool {
        let others = self.caches.service_cidrs.all();
        let others: Vec<Network> = others.iter().filter(|other| other.name() != range.name()).flat_map(|other| networks(other)).collect();
        if networks(range).all(|network| others.iter().any(|other| other.holds(network))) {
            return true;
        }
        let orphaned =
            |address: IpAddr| networks(range).any(|network| network.gives(address)) && !others.iter().any(|other| other.gives(address));
        let addresses = self.caches.service_addresses.all();
        !addresses.iter().any(|address| is_ours(address) && address.name().parse().is_ok_and(orphaned))
    }
}

impl Named for ServiceRanges {
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }
    fn identity(&self) -> &'static str {
        "service-cidrs-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.service_cidrs);
        let caches = self.caches.clone();
        wake.on(&self.caches.service_cidrs, move |delta, wake| {
            // One that comes or goes lets others go, or keeps them.
            let Some(range) = delta.last() else { return };
            for other in caches.service_cidrs.all().iter().filter(|other| other.deleted().is_some()) {
                if networks(range).any(|network| networks(other).any(|theirs| theirs.overlaps(network))) {
                    wake(Key::of(other.as_ref()));
                }
            }
        });
        let caches = self.caches.clone();
        wake.on(&self.caches.service_addresses, move |delta, wake| {
            if delta.old.is_some() && delta.new.is_some() {
                return;
            }
            let Some(address) = delta.last().filter(|address| is_ours(address)).and_then(|address| address.name().parse().ok()) else {
                return;
            };
            // Only what goes waits for addresses.
            for range in caches.service_cidrs.all().iter().filter(|range| range.deleted().is_some()) {
                if networks(range).any(|network| network.gives(address)) {
                    wake(Key::of(range.as_ref()));
                }
            }
        });
    }
}

impl Controller for ServiceRanges {
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(range) = self.caches.service_cidrs.at(key) else { return Plan::nothing() };
        let kept = range.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let mut after = range.as_ref().clone();
        let finalizers = after.metadata.finalizers.get_or_insert_default();
        let Some(deleted) = range.deleted() else {
            if kept {
                return ready(&range, "True", "", "Kubernetes Service CIDR is ready", now);
            }
            finalizers.push(FINALIZER.to_owned());
            // The write wakes the key again, and then the condition is seen to.
            return Change::update(&after).tolerate(Tolerate::Races).into();
        };
        if !self.may_go(&range) {
            let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            return ready(&range, "False", "Terminating", why, now);
        }
        let until = deleted.checked_add(GRACE).unwrap_or(Timestamp::MAX);
        let mut plan = Plan::nothing();
        if now < until {
            plan.again_at(until, now);
        } else if kept {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            plan.push(Change::update(&after).tolerate(Tolerate::Races));
        }
        plan
    }
}

/// Says whether addresses may be taken of a network, if that is not said yet.
fn ready(range: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Plan {
    let mut after = range.clone();
    let conditions = after.status.get_or_insert_default().conditions.get_or_insert_default();
    let told = conditions.iter().find(|condition| condition.type_ == "Ready");
    if told.is_some_and(|told| (&*told.status, &*told.reason, &*told.message) == (status, reason, message)) {
        return Plan::nothing();
    }
    conditions.retain(|condition| condition.type_ != "Ready");
    conditions.push(Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: None,
    });
    let change = Change::update_status(&after).tolerate(Tolerate::Races);
    if status != "True" {
        return change.into();
    }
    change.on_failure(Note::warning(range, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=True")).into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::change::Verb;

    const DELETED: &str = "2026-01-01T00:00:00Z";

    /// What is written of the range `a` of `cidrs`, beside others, with addresses in use.
    fn told(deleted: bool, cidrs: &[&str], others: &[&str], addresses: &[&str], now: &str) -> Option<Value> {
        let caches = Arc::new(Caches::default());
        let mut metadata = json!({"name": "a", "finalizers": [FINALIZER, "other"]});
        if deleted {
            metadata["deletionTimestamp"] = DELETED.into();
        }
        let range = json!({"metadata": metadata, "spec": {"cidrs": cidrs}});
        caches.service_cidrs.put(serde_json::from_value(range).unwrap());
        for (at, other) in others.iter().enumerate() {
            let range = json!({"metadata": {"name": format!("b{at}")}, "spec": {"cidrs": [other]}});
            caches.service_cidrs.put(serde_json::from_value(range).unwrap());
        }
        for address in addresses {
            let address = json!({"metadata": {"name": address, "labels": {KEEPER: ALLOCATOR}}});
            caches.service_addresses.put(serde_json::from_value(address).unwrap());
        }
        let plan = ServiceRanges::new(caches).plan(&Key::new("", "a"), now.parse().unwrap());
        let change = plan.changes().next()?.clone();
        let Verb::Update { object, .. } = change.verb else { panic!("{change:?}") };
        Some(object)
    }

    fn is_blocked(cidrs: &[&str], others: &[&str], addresses: &[&str]) -> bool {
        let object = told(true, cidrs, others, addresses, "2026-01-01T00:01:00Z").unwrap();
        let blocked = object["status"]["conditions"][0]["status"] == "False";
        assert_eq!(object["metadata"]["finalizers"], if blocked { json!([FINALIZER, "other"]) } else { json!(["other"]) });
        blocked
    }

    #[test]
    fn a_range_goes_when_no_address_would_be_left_without_one() {
        assert!(is_blocked(&["10.0.0.0/24"], &[], &["10.0.0.7"]));
        assert!(is_blocked(&["10.0.0.0/24", "fd00::/64"], &["10.0.0.0/8"], &["fd00::7"]));
        assert!(!is_blocked(&["10.0.0.0/24", "fd00::/64"], &["10.0.0.0/8"], &["10.0.0.7"]), "in another network, too");
        assert!(!is_blocked(&["10.0.0.0/24"], &["10.0.0.0/24"], &["10.0.0.7"]));
        assert!(!is_blocked(&["10.0.0.0/24"], &[], &["10.0.1.7", "fd00::7"]), "of other networks");
        assert!(is_blocked(&["10.0.0.0/24"], &["10.0.0.0/29"], &["10.0.0.7"]), "a broadcast address is in no network");
        assert!(!is_blocked(&["fd00::/125"], &["fd00::/120"], &["fd00::7"]));
    }

    #[test]
    fn a_range_is_ready_while_it_stays_and_waits_before_it_goes() {
        let ready = told(false, &["10.0.0.0/24"], &[], &[], DELETED).unwrap();
        assert_eq!(ready["status"]["conditions"][0]["status"], "True");
        assert_eq!(told(true, &["10.0.0.0/24"], &[], &[], "2026-01-01T00:00:09Z"), None);
        let gone = told(true, &["10.0.0.0/24"], &[], &[], "2026-01-01T00:00:11Z").unwrap();
        assert_eq!(gone["metadata"]["finalizers"], json!(["other"]));
    }
}
