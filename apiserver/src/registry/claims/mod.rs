//! What only one object may hold: cluster addresses and node ports of services (upstream's `ipallocator`, `portallocator` and
//! `core/service/storage/alloc.go`).
//!
//! Nothing is kept in memory that another server would have to know: an address is held by the `IPAddress` object of its name, a port by a
//! bit of a stored bitmap. Both are taken before the service is written and given back when it was not; what is left over when a server ends
//! in between is found by the [`repair`].

mod addresses;
mod bitmap;
mod families;
mod ports;
mod range;
pub(crate) mod repair;

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use coracle_schema::FieldErrors;
use coracle_tree::Value;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use self::range::{Family, Network};
use self::{addresses::Addresses, ports::Ports};
use super::{Writer, kind::Kind, object::Object, storage::Storage};
use crate::wire::Status;

/// The addresses and ports services may have.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// Where services have their addresses (`--service-cluster-ip-range`). Services that do not say are of this one's family.
    pub addresses: Network,
    /// The network of the other family; `None`: services have addresses of one family only.
    pub second: Option<Network>,
    /// `--service-node-port-range`
    pub ports: RangeInclusive<u16>,
}

/// Gives away what only one may have.
pub struct Claims {
    ranges: Ranges,
    addresses: Addresses,
    ports: Ports,
    /// What is given back when nobody waits for it.
    tasks: TaskTracker,
    /// Something was left for the repair to find.
    left: Notify,
}

/// What one write took. Say with [`Claim::sent`] when the write begins, and with [`Claim::keep`], [`Claim::give_back`] or [`Claim::leave`]
/// what became of it; dropped before it began (a client went away), what was taken is given back.
#[must_use = "what was taken is given back when this is dropped"]
pub struct Claim {
    claims: Option<Arc<Claims>>,
    owner: Owner,
    taken: Holdings,
    given_up: Holdings,
    /// The write may happen now, whoever waits for it.
    sent: bool,
}

#[derive(Clone, Default)]
struct Owner {
    namespace: String,
    name: String,
}

#[derive(Default, Clone, Debug, PartialEq, Eq)]
struct Holdings {
    addresses: Vec<String>,
    ports: Vec<u16>,
}

impl Default for Ranges {
    fn default() -> Self {
        Self { addresses: Network::of_four(Ipv4Addr::new(10, 96, 0, 0), 12), second: None, ports: 30000..=32767 }
    }
}

impl Ranges {
    /// The address of the `kubernetes` service: the first of the first network.
    pub fn first(&self) -> IpAddr {
        self.addresses.first()
    }

    /// The networks as the `ServiceCIDR` of the cluster lists them.
    pub fn texts(&self) -> Vec<String> {
        [Some(self.addresses), self.second].into_iter().flatten().map(|network| network.to_string()).collect()
    }

    /// The families services may have, that of those which do not say first.
    fn families(&self) -> Vec<Family> {
        [Some(self.addresses), self.second].into_iter().flatten().map(Network::family).collect()
    }
}

/// Any number.
fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

impl Claims {
    /// Gives nothing away by itself.
    pub fn new(ranges: Ranges, storage: Arc<Storage>, writer: Arc<dyn Writer>, tasks: TaskTracker) -> Arc<Self> {
        let (addresses, ports) = (Addresses::new(storage.clone(), writer), Ports::new(ranges.ports.clone(), storage));
        Arc::new(Self { ranges, addresses, ports, tasks, left: Notify::new() })
    }

    /// The ranges.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Takes what `new` needs and does not have yet, writing it into the object. 422 when it cannot be had.
    pub async fn take(self: &Arc<Self>, kind: &Kind, new: &mut Object, old: Option<&Object>, dry_run: bool) -> Result<Claim, Status> {
        if !kind.traits.claims {
            return Ok(Claim::none());
        }
        let owner = Owner { namespace: new.namespace().to_owned(), name: new.name().to_owned() };
        let mut claim = Claim::of((!dry_run).then(|| self.clone()), owner);
        if let Err(status) = self.take_both(kind, new, old, dry_run, &mut claim).await {
            claim.give_back().await;
            return Err(status);
        }
        Ok(claim)
    }

    /// Gives back what a removed object held.
    pub async fn release(&self, kind: &Kind, object: &Object) {
        if kind.traits.claims {
            let owner = Owner { namespace: object.namespace().to_owned(), name: object.name().to_owned() };
            self.give_back(&holdings(object), &owner).await;
        }
    }

    async fn take_both(&self, kind: &Kind, new: &mut Object, old: Option<&Object>, dry_run: bool, claim: &mut Claim) -> Result<(), Status> {
        kind.rules.begin(new, old);
        let families = self.ranges.families();
        let mut errors = families::settle(new, old, &families, |new| kind.rules.claimable(new, old));
        if errors.is_empty() {
            self.take_addresses(new, old, dry_run, claim, &mut errors).await?;
        }
        if errors.is_empty() && ports::needs(new, old) {
            self.take_ports(new, old, dry_run, claim, &mut errors).await?;
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid(kind.kind_subject(new.name()), &errors)) }
    }

    async fn take_addresses(
        &self,
        new: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
        claim: &mut Claim,
        errors: &mut FieldErrors,
    ) -> Result<(), Status> {
        // Of a service that is to have none any more, which validation refuses, families may be left that the cluster does not have.
        let families = self.ranges.families();
        let wanted: Vec<_> = families::wanted(new, old).into_iter().filter(|(_, family, _)| families.contains(family)).collect();
        let Some(last) = wanted.last().map(|(at, ..)| *at) else { return Ok(()) };
        let given = {
            let listed = new.member_mut("spec").entry("clusterIPs").or_insert_with(|| Value::Array(Vec::new()));
            if let Some(list) = listed.as_array_mut() {
                let all = list.len().max(last + 1);
                list.resize(all, "".into());
            }
            listed.clone()
        };
        let mut had = Vec::new();
        for (at, family, wanted) in wanted {
            let taken = if wanted.is_empty() {
                self.addresses.take_next(new, family, dry_run).await
            } else {
                // Validation has seen to it that it is one.
                match wanted.parse() {
                    Ok(address) => self.addresses.take(new, address, dry_run).await.map(|()| address),
                    Err(_) => Err(addresses::Refusal::Mismatched),
                }
            };
            let address = match taken {
                Ok(address) => address.to_string(),
                Err(addresses::Refusal::Full) => {
                    let why = format!("failed to allocate a serviceIP for Service {:?}: range is full", new.name());
                    return Err(Status::internal(why));
                }
                Err(refused) => {
                    let which = if wanted.is_empty() { String::new() } else { format!(" {wanted}") };
                    errors.invalid("spec.clusterIPs", given, &format!("failed to allocate IP{which}: {refused}"));
                    return Ok(());
                }
            };
            claim.taken.addresses.push(address.clone());
            // What a writer chose is written as it was.
            had.push((at, if wanted.is_empty() { address } else { wanted }));
        }
        let spec = new.member_mut("spec");
        for (at, address) in had {
            if at == 0 {
                spec.insert("clusterIP", address.clone().into());
            }
            if let Some(slot) = spec.get_mut("clusterIPs").and_then(|ips| ips.get_mut(at)) {
                *slot = address.into();
            }
        }
        Ok(())
    }

    async fn take_ports(
        &self,
        new: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
        claim: &mut Claim,
        errors: &mut FieldErrors,
    ) -> Result<(), Status> {
        let plan = match self.ports.take(new, old, dry_run).await? {
            Ok(plan) => plan,
            Err(ports::Refusal::Port(at, port, why)) => {
                errors.invalid(format!("spec.ports[{at}].nodePort"), port, &why);
                return Ok(());
            }
            Err(ports::Refusal::Internal(why)) => return Err(Status::internal(why)),
        };
        claim.taken.ports = plan.taken;
        let spec = new.member_mut("spec");
        if let Some(health) = plan.health {
            spec.insert("healthCheckNodePort", health.into());
        }
        let listed = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
        for (port, number) in listed.zip(plan.ports).filter(|(_, number)| *number != 0) {
            port["nodePort"] = number.into();
        }
        Ok(())
    }

    /// What cannot be given back now, the repair will.
    async fn give_back(&self, what: &Holdings, owner: &Owner) {
        for address in &what.addresses {
            if let Err(status) = self.addresses.free(&owner.namespace, &owner.name, address).await {
                warn!(address, %status, "a service's address is not given back yet");
            }
        }
        if let Err(status) = self.ports.free(&what.ports).await {
            warn!(ports = ?what.ports, %status, "a service's node ports are not given back yet");
        }
    }
}

impl Claim {
    /// Of nothing.
    pub fn none() -> Self {
        Self::of(None, Owner::default())
    }

    fn of(claims: Option<Arc<Claims>>, owner: Owner) -> Self {
        Self { claims, owner, taken: Holdings::default(), given_up: Holdings::default(), sent: false }
    }

    /// The write of `new` begins: from here on it may happen although nobody waits for it any more, and what is dropped is left.
    pub fn sent(&mut self, new: &Object, old: Option<&Object>) {
        self.sent = true;
        if let (Some(_), Some(old)) = (&self.claims, old) {
            let (now, before) = (holdings(new), holdings(old));
            self.given_up.addresses = before.addresses.into_iter().filter(|a| !now.addresses.contains(a)).collect();
            self.given_up.ports = before.ports.into_iter().filter(|p| !now.ports.contains(p)).collect();
        }
    }

    /// The write happened: what was taken stays taken, what the object no longer holds is free.
    pub async fn keep(mut self) {
        if let Some(claims) = self.claims.take() {
            claims.give_back(&self.given_up, &self.owner).await;
        }
    }

    /// The write did not happen.
    pub async fn give_back(mut self) {
        if let Some(claims) = self.claims.take() {
            claims.give_back(&self.taken, &self.owner).await;
        }
    }

    /// Whether the write happened is not known: better something nobody uses than something two use. The repair finds out.
    pub fn leave(mut self) {
        if let Some(claims) = self.claims.take() {
            claims.left.notify_one();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(claims) = self.claims.take() else { return };
        // Better something nobody uses until the repair than something two use. What the object gave up is left, too.
        if self.sent || tokio::runtime::Handle::try_current().is_err() {
            claims.left.notify_one();
            return;
        }
        if self.taken == Holdings::default() {
            return;
        }
        let (taken, owner) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.owner));
        let tasks = claims.tasks.clone();
        tasks.spawn(async move { claims.give_back(&taken, &owner).await });
    }
}

/// The cluster addresses of a service.
fn addresses_of(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return Vec::new();
    }
    let texts = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let single = spec["clusterIP"].as_str();
    let mut all: Vec<String> = Vec::new();
    for address in texts.chain(single).filter_map(|text| text.parse::<IpAddr>().ok()) {
        let address = address.to_string();
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// What a service holds.
fn holdings(service: &Object) -> Holdings {
    Holdings { addresses: addresses_of(service.value()), ports: ports::held(service) }
}
