//! What only one object may hold: cluster addresses and node ports of services (upstream's `ipallocator`, `portallocator` and
//! `core/service/storage/alloc.go`).
//!
//! Who holds what is kept in memory, read once from the stored services, and changed under one lock: taken before a write and given
//! back when the write did not happen.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use coracle_schema::FieldErrors;
use coracle_store::cache::Freshness;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    kind::Kind,
    object::Object,
    storage::{self, Storage},
};
use crate::wire::Status;

/// The addresses and ports services may have.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// Network and prefix length (`--service-cluster-ip-range`).
    pub addresses: (Ipv4Addr, u8),
    /// `--service-node-port-range`
    pub ports: RangeInclusive<u16>,
}

/// Who holds what.
pub struct Claims {
    ranges: Ranges,
    storage: Arc<Storage>,
    loaded: OnceCell<()>,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    addresses: HashMap<IpAddr, Owner>,
    ports: HashMap<(u16, Protocol), Owner>,
}

/// `namespace/name` of a service.
type Owner = Arc<str>;
/// `TCP`, `UDP`, `SCTP`
type Protocol = Arc<str>;

/// What one write took. Given back on drop unless [`Claim::keep`] was called.
#[must_use = "what was taken is given back when this is dropped"]
pub struct Claim {
    held: Option<Arc<Mutex<Held>>>,
    taken: Holdings,
    given_up: Holdings,
    owner: Owner,
}

#[derive(Default, Clone, Debug, PartialEq, Eq)]
struct Holdings {
    addresses: Vec<IpAddr>,
    ports: Vec<(u16, Protocol)>,
}

impl Default for Ranges {
    fn default() -> Self {
        Self { addresses: (Ipv4Addr::new(10, 96, 0, 0), 12), ports: 30000..=32767 }
    }
}

impl Ranges {
    fn size(&self) -> u32 {
        let bits = 32 - u32::from(self.addresses.1.min(30));
        // Network and broadcast address are nobody's.
        (1u32 << bits.min(20)) - 2
    }

    fn nth(&self, n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(u32::from(self.addresses.0) + 1 + n))
    }

    /// The address of the `kubernetes` service: the first of the range.
    pub fn first(&self) -> IpAddr {
        self.nth(0)
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => u32::from(v4).checked_sub(u32::from(self.addresses.0) + 1).is_some_and(|n| n < self.size()),
            IpAddr::V6(_) => false,
        }
    }

    fn text(&self) -> String {
        format!("{}/{}", self.addresses.0, self.addresses.1)
    }
}

impl Claims {
    /// Nothing is read before the first service is written.
    pub fn new(ranges: Ranges, storage: Arc<Storage>) -> Self {
        Self { ranges, storage, loaded: OnceCell::new(), held: Arc::default() }
    }

    /// The ranges.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Takes what `new` needs and does not have yet, writing it into the object. 422 when it cannot be had.
    pub async fn take(&self, kind: &Kind, new: &mut Object, old: Option<&Object>) -> Result<Claim, Status> {
        if !kind.traits.claims {
            return Ok(Claim::nothing());
        }
        self.loaded.get_or_try_init(|| self.load(kind)).await?;
        let owner: Owner = format!("{}/{}", new.namespace(), new.name()).into();
        let mut errors = FieldErrors::none();
        let mut claim = Claim { held: Some(Arc::clone(&self.held)), taken: Holdings::default(), given_up: Holdings::default(), owner };
        {
            let mut held = self.held.lock();
            self.take_addresses(new, &mut held, &mut claim, &mut errors);
            self.take_ports(new, old, &mut held, &mut claim, &mut errors);
            self.take_health_port(new, old, &mut held, &mut claim, &mut errors);
        }
        if !errors.is_empty() {
            return Err(Status::invalid(kind.kind_subject(new.name()), &errors));
        }
        let now = holdings(new);
        let before = old.map(holdings).unwrap_or_default();
        claim.given_up.addresses = before.addresses.into_iter().filter(|a| !now.addresses.contains(a)).collect();
        claim.given_up.ports = before.ports.into_iter().filter(|p| !now.ports.contains(p)).collect();
        Ok(claim)
    }

    /// Gives back what a removed object held.
    pub fn release(&self, kind: &Kind, object: &Object) {
        if kind.traits.claims {
            let owner: Owner = format!("{}/{}", object.namespace(), object.name()).into();
            self.held.lock().give_back(&holdings(object), &owner);
        }
    }

    async fn load(&self, kind: &Kind) -> Result<(), Status> {
        let snapshot = self.storage.collection(kind)?.snapshot(Freshness::Latest).await.map_err(storage::read_error)?;
        let mut held = self.held.lock();
        for cached in snapshot.iter() {
            let object = storage::parse(kind, &cached.wire)?;
            let owner: Owner = format!("{}/{}", object.namespace(), object.name()).into();
            let Holdings { addresses, ports } = holdings(&object);
            held.addresses.extend(addresses.into_iter().map(|a| (a, Arc::clone(&owner))));
            held.ports.extend(ports.into_iter().map(|p| (p, Arc::clone(&owner))));
        }
        Ok(())
    }

    fn take_addresses(&self, new: &mut Object, held: &mut Held, claim: &mut Claim, errors: &mut FieldErrors) {
        if new.text("/spec/type") == "ExternalName" {
            return;
        }
        families(new, errors);
        let wanted = match new.text("/spec/clusterIP") {
            "" => new.value().pointer("/spec/clusterIPs/0").and_then(Value::as_str).unwrap_or_default(),
            text => text,
        };
        if wanted == "None" {
            return;
        }
        let address = if wanted.is_empty() {
            match self.free_address(held) {
                Some(address) => address,
                None => {
                    errors.push(
                        coracle_schema::ErrorKind::Internal,
                        "spec.clusterIPs",
                        "Internal error: failed to allocate IP: range is full".into(),
                    );
                    return;
                }
            }
        } else {
            let Ok(address) = wanted.parse::<IpAddr>() else { return };
            address
        };
        match held.addresses.get(&address) {
            Some(owner) if *owner == claim.owner => {}
            Some(_) => {
                let value = serde_json::json!([wanted]);
                let why = format!("failed to allocate IP {wanted}: provided IP is already allocated");
                errors.invalid("spec.clusterIPs", value, &why);
                return;
            }
            None if !self.ranges.contains(address) => {
                let value = serde_json::json!([wanted]);
                let why = format!(
                    "failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {}",
                    self.ranges.text()
                );
                errors.invalid("spec.clusterIPs", value, &why);
                return;
            }
            None => {
                held.addresses.insert(address, Arc::clone(&claim.owner));
                claim.taken.addresses.push(address);
            }
        }
        let spec = new.member_mut("spec");
        spec.insert("clusterIP".into(), address.to_string().into());
        if spec.get("clusterIPs").and_then(Value::as_array).is_none_or(|a| a.len() < 2) {
            spec.insert("clusterIPs".into(), vec![Value::from(address.to_string())].into());
        }
    }

    /// Upper part of the range first, at a random place; the lower part is left for addresses people choose
    /// (`ServiceIPStaticSubrange`).
    fn free_address(&self, held: &Held) -> Option<IpAddr> {
        let size = self.ranges.size();
        let low = (size / 16).clamp(16, 256).min(size);
        let start = u32::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..4].try_into().unwrap_or_default());
        let free = |address: &IpAddr| !held.addresses.contains_key(address) && *address != self.ranges.first();
        let upper = size - low;
        let in_upper = (0..upper).map(|i| self.ranges.nth(low + (start.wrapping_add(i)) % upper.max(1))).find(free);
        in_upper.or_else(|| (0..low).map(|i| self.ranges.nth(i)).find(free))
    }

    fn take_ports(&self, new: &mut Object, old: Option<&Object>, held: &mut Held, claim: &mut Claim, errors: &mut FieldErrors) {
        let of_type = new.text("/spec/type").to_owned();
        let balanced = of_type == "LoadBalancer" && new.value().pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
        let wants = of_type == "NodePort" || balanced;
        if of_type != "NodePort" && of_type != "LoadBalancer" {
            return;
        }
        let before = old.map(|o| ports_of(o).collect::<Vec<_>>()).unwrap_or_default();
        let count = ports_of(new).count();
        for i in 0..count {
            let Some(port) = new.value_mut().pointer_mut(&format!("/spec/ports/{i}")) else { continue };
            let protocol: Protocol = port["protocol"].as_str().unwrap_or("TCP").into();
            let number = port["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default();
            let path = format!("spec.ports[{i}].nodePort");
            if number == 0 {
                if !wants {
                    continue;
                }
                // The same port in another protocol shares its number, and a port that had one keeps it.
                let kept = before
                    .iter()
                    .find(|(n, p, target)| *n != 0 && **p == *protocol && Some(target) == port.get("port").as_ref())
                    .map(|b| b.0);
                let Some(free) = kept.or_else(|| self.free_port(held, &protocol)) else {
                    errors.push(
                        coracle_schema::ErrorKind::Internal,
                        path,
                        "Internal error: failed to allocate a nodePort: range is full".into(),
                    );
                    return;
                };
                port["nodePort"] = free.into();
                claim.take_port(held, free, protocol);
                continue;
            }
            match held.ports.get(&(number, Arc::clone(&protocol))) {
                Some(owner) if *owner == claim.owner => {}
                Some(_) => errors.invalid(path, number, "provided port is already allocated"),
                None if !self.ranges.ports.contains(&number) => {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        self.ranges.ports.start(),
                        self.ranges.ports.end()
                    );
                    errors.invalid(path, number, &why);
                }
                None => claim.take_port(held, number, protocol),
            }
        }
    }

    /// Where traffic stays on the nodes that have endpoints, balancers ask every node about that at one port.
    fn take_health_port(&self, new: &mut Object, old: Option<&Object>, held: &mut Held, claim: &mut Claim, errors: &mut FieldErrors) {
        const POINTER: &str = "/spec/healthCheckNodePort";
        const PATH: &str = "spec.healthCheckNodePort";
        if new.text("/spec/type") != "LoadBalancer" || new.text("/spec/externalTrafficPolicy") != "Local" {
            return;
        }
        let port = |service: &Object| {
            let number = service.value().pointer(POINTER).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
            number.filter(|number| *number != 0)
        };
        let protocol: Protocol = "TCP".into();
        let wanted = port(new);
        match wanted.or_else(|| old.and_then(port)).or_else(|| self.free_port(held, &protocol)) {
            None => errors.push(
                coracle_schema::ErrorKind::Internal,
                PATH,
                "Internal error: failed to allocate a HealthCheck NodePort: range is full".into(),
            ),
            Some(number) => match held.ports.get(&(number, Arc::clone(&protocol))) {
                Some(owner) if *owner != claim.owner => {
                    let why = format!("failed to allocate requested HealthCheck NodePort {number}: provided port is already allocated");
                    errors.push(coracle_schema::ErrorKind::Internal, PATH, format!("Internal error: {why}"));
                }
                _ => {
                    new.member_mut("spec").insert("healthCheckNodePort".into(), number.into());
                    claim.take_port(held, number, protocol);
                }
            },
        }
    }

    fn free_port(&self, held: &Held, protocol: &Protocol) -> Option<u16> {
        let (first, last) = (*self.ranges.ports.start(), *self.ranges.ports.end());
        let count = u32::from(last.saturating_sub(first)) + 1;
        let start = u32::from(u16::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..2].try_into().unwrap_or_default()));
        let candidates = (0..count).filter_map(|i| u16::try_from(u32::from(first) + (start + i) % count).ok());
        candidates.into_iter().find(|port| !held.ports.contains_key(&(*port, Arc::clone(protocol))))
    }
}

impl Held {
    fn give_back(&mut self, what: &Holdings, owner: &Owner) {
        for address in &what.addresses {
            if self.addresses.get(address) == Some(owner) {
                self.addresses.remove(address);
            }
        }
        for port in &what.ports {
            if self.ports.get(port) == Some(owner) {
                self.ports.remove(port);
            }
        }
    }
}

impl Claim {
    fn nothing() -> Self {
        Self { held: None, taken: Holdings::default(), given_up: Holdings::default(), owner: "".into() }
    }

    fn take_port(&mut self, held: &mut Held, port: u16, protocol: Protocol) {
        held.ports.insert((port, Arc::clone(&protocol)), Arc::clone(&self.owner));
        self.taken.ports.push((port, protocol));
    }

    /// The write happened: what was taken stays taken, what the object no longer holds is free.
    pub fn keep(mut self) {
        if let Some(held) = self.held.take() {
            held.lock().give_back(&self.given_up, &self.owner);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.lock().give_back(&self.taken, &self.owner);
        }
    }
}

/// The address families of a service, which here can be IPv4 only; headless services without a selector may point at anything.
fn families(service: &mut Object, errors: &mut FieldErrors) {
    let headless = service.text("/spec/clusterIP") == "None";
    let selects = service.value().pointer("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    let anything = headless && !selects;
    let listed = service.value().pointer("/spec/ipFamilies").and_then(Value::as_array).cloned().unwrap_or_default();
    if !anything {
        if service.text("/spec/ipFamilyPolicy") == "RequireDualStack" {
            let why = "this cluster is not configured for dual-stack services";
            errors.invalid("spec.ipFamilyPolicy", "\"RequireDualStack\"", why);
        }
        for (i, family) in listed.iter().enumerate().filter(|(_, f)| **f != "IPv4") {
            errors.invalid(format!("spec.ipFamilies[{i}]"), family, "not configured on this cluster");
        }
    }
    let spec = service.member_mut("spec");
    if listed.is_empty() {
        let both = if anything { vec!["IPv4", "IPv6"] } else { vec!["IPv4"] };
        spec.insert("ipFamilies".into(), both.into());
    }
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        spec.insert("ipFamilyPolicy".into(), if anything { "RequireDualStack" } else { "SingleStack" }.into());
    }
}

/// Node port, protocol and port of each port.
fn ports_of(service: &Object) -> impl Iterator<Item = (u16, &str, &Value)> {
    let list = service.value().pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    list.map(|port| {
        let number = port["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default();
        (number, port["protocol"].as_str().unwrap_or("TCP"), &port["port"])
    })
}

/// What a service holds.
fn holdings(service: &Object) -> Holdings {
    let texts = service.value().pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let single = service.value().pointer("/spec/clusterIP").and_then(Value::as_str);
    let mut addresses: Vec<IpAddr> = texts.chain(single).filter_map(|t| t.parse().ok()).collect();
    addresses.dedup();
    let mut ports: Vec<(u16, Protocol)> = ports_of(service).filter(|(n, ..)| *n != 0).map(|(n, p, _)| (n, p.into())).collect();
    if let Some(health) = service.value().pointer("/spec/healthCheckNodePort").and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok()) {
        ports.push((health, "TCP".into()));
    }
    Holdings { addresses, ports }
}
