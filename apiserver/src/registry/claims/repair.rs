//! What was taken and is nobody's, and what somebody has without having taken it: found and mended by every server, at its start and from
//! then on (`ipallocator/controller/repairip.go`, `portallocator/controller/repair.go`). It also makes the claims of stores that were written
//! before there were any.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use coracle_schema::time;
use coracle_tree::{Value, json};
use futures::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::{
    Claims,
    addresses::{self, GROUP, KEEPER, LABEL_FAMILY, LABEL_KEEPER, is_of},
    addresses_of,
    bitmap::Bitmap,
    ports::{Taker, counted, text_of},
    range::Network,
};
use crate::{
    registry::{Change, Object, Reader, Writer, reader},
    wire::Status,
};

/// A service may take this long to be written after its address was taken.
const GRACE: i64 = 60;
/// The same where the service is there and its write may be undone.
const SHORT_GRACE: i64 = 5;
/// How often all is looked at again, if something was touched.
const INTERVAL: Duration = Duration::from_secs(180);
/// How soon it is when the ports could not be counted: without a bitmap nobody gets one.
const AGAIN: Duration = Duration::from_secs(10);
/// How often a port is seen without an owner before it is free.
const LEAKS: u8 = 3;
/// Lost races before the next round tries again.
const RETRIES: usize = 5;
/// Addresses that wait to be looked at again; more are found by the next round.
const WAITING: usize = 10_000;

/// Mends claims.
pub(crate) struct Repair {
    claims: Arc<Claims>,
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Ports without an owner, and how often they may still be seen so.
    leaks: HashMap<u16, u8>,
    /// Until everything is looked at again.
    pause: Duration,
}

/// The ports as services say.
struct Rebuilt {
    bitmap: Bitmap,
    leaks: HashMap<u16, u8>,
    /// Services with a port they should not have: reason and note.
    wrong: Vec<(Value, &'static str, String)>,
}

/// What is to be done about the address of a service.
#[derive(Debug, PartialEq, Eq)]
enum ForService {
    Nothing,
    /// It has none: made, and told why.
    Create,
    /// It says something else than it should.
    Recreate(&'static str),
    /// Another service has it, too.
    Doubled(String, String),
}

/// What is to be done about an address.
#[derive(Debug, PartialEq, Eq)]
enum ForAddress {
    Nothing,
    /// So many seconds later it is looked at again.
    Later(i64),
    /// Removed, for this reason.
    Delete(&'static str, String),
}

impl Repair {
    /// Of what `claims` gave away.
    pub(crate) fn new(
        claims: Arc<Claims>,
        reader: Arc<dyn Reader>,
        writer: Arc<dyn Writer>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        Self { claims, reader, writer, clock, leaks: HashMap::new(), pause: AGAIN }
    }

    /// Looks at everything once. What cannot be mended does not keep the rest from it; the first error is told.
    pub(crate) async fn once(&mut self) -> Result<(), Status> {
        let addresses = self.addresses().await;
        let ports = self.ports().await;
        self.pause = if ports.is_ok() { INTERVAL } else { AGAIN };
        addresses.and(ports)
    }

    async fn addresses(&self) -> Result<(), Status> {
        let services: Vec<Value> = reader::all(&*self.reader, "", "services", "").await?;
        let known: Vec<Value> = reader::all(&*self.reader, GROUP, "ipaddresses", "").await?;
        let networks = self.claims.addresses.all_networks().await?;
        let known: HashMap<&str, &Value> =
            known.iter().filter_map(|address| Some((address["metadata"]["name"].as_str()?, address))).collect();
        let parents: HashMap<(&str, &str), &Value> = services.iter().map(|service| (place_of(service), service)).collect();
        let mut mended = Ok(());
        for service in &services {
            for address in addresses_of(service) {
                let found = known.get(address.as_str()).copied();
                let parent = found.map(parent_of).and_then(|place| parents.get(&place).copied());
                mended = mended.and(self.settle_service(&networks, service, &address, found, parent).await);
            }
        }
        for address in known.values() {
            if let ForAddress::Delete(reason, note) = for_address(address, parents.get(&parent_of(address)).copied(), (self.clock)()) {
                mended = mended.and(self.delete(address, reason, &note).await);
            }
        }
        mended
    }

    /// Follows services and addresses, for ever, after a first look at everything.
    pub(crate) async fn run(mut self) {
        let claims = self.claims.clone();
        let mut services = self.reader.follow("", "services");
        let mut addresses = self.reader.follow(GROUP, "ipaddresses");
        let mut waiting: BTreeMap<String, Instant> = BTreeMap::new();
        let (mut touched, mut round) = (true, Instant::now() + self.pause);
        loop {
            let due = waiting.values().min().copied().unwrap_or(round).min(round);
            let settled = tokio::select! {
                change = next(&mut services) => {
                    touched = true;
                    self.service_changed(change).await
                }
                change = next(&mut addresses) => match change {
                    Change { object: Some(object), name, .. } => self.look_at(&name, &object, &mut waiting).await,
                    Change { object: None, name, .. } => {
                        touched = true;
                        waiting.remove(&name);
                        Ok(())
                    }
                },
                () = claims.left.notified() => {
                    touched = true;
                    Ok(())
                }
                () = sleep_until(due), if touched || !waiting.is_empty() || !self.leaks.is_empty() => {
                    let now = Instant::now();
                    if now >= round {
                        touched = false;
                        let mended = self.once().await;
                        round = Instant::now() + self.pause;
                        mended
                    } else {
                        self.look_again(&mut waiting, now).await
                    }
                }
            };
            if let Err(status) = settled {
                touched = true;
                warn!(%status, "addresses and ports of services are not mended yet");
            }
        }
    }

    async fn service_changed(&self, change: Change) -> Result<(), Status> {
        let Some(service) = change.object.and_then(|object| serde_json::from_slice::<Value>(&object).ok()) else { return Ok(()) };
        for address in addresses_of(&service) {
            let networks = || self.claims.addresses.all_networks();
            let Some(found) = self.get(GROUP, "ipaddresses", "", &address).await? else {
                // A service that has gone meanwhile has given its address back.
                let (namespace, name) = place_of(&service);
                let now = self.get("", "services", namespace, name).await?;
                if let Some(now) = now.filter(|now| addresses_of(now).contains(&address)) {
                    self.settle_service(&networks().await?, &now, &address, None, None).await?;
                }
                continue;
            };
            // The one case there nearly always is, without another look.
            if is_of(&found, place_of(&service).0, place_of(&service).1) && is_labelled(&found) {
                continue;
            }
            let (namespace, name) = parent_of(&found);
            let parent = self.get("", "services", namespace, name).await?;
            self.settle_service(&networks().await?, &service, &address, Some(&found), parent.as_ref()).await?;
        }
        Ok(())
    }

    async fn look_at(&self, name: &str, object: &[u8], waiting: &mut BTreeMap<String, Instant>) -> Result<(), Status> {
        let Ok(address) = serde_json::from_slice::<Value>(object) else { return Ok(()) };
        if address["metadata"]["labels"][LABEL_KEEPER] != KEEPER {
            return Ok(());
        }
        let (namespace, parent) = parent_of(&address);
        let parent = if parent.is_empty() { None } else { self.get("", "services", namespace, parent).await? };
        match for_address(&address, parent.as_ref(), (self.clock)()) {
            ForAddress::Nothing => {
                waiting.remove(name);
                Ok(())
            }
            ForAddress::Later(seconds) => {
                if waiting.len() < WAITING {
                    let pause = Duration::from_secs(u64::try_from(seconds).unwrap_or_default().max(1));
                    waiting.insert(name.to_owned(), Instant::now() + pause);
                }
                Ok(())
            }
            ForAddress::Delete(reason, note) => self.delete(&address, reason, &note).await,
        }
    }

    async fn look_again(&self, waiting: &mut BTreeMap<String, Instant>, now: Instant) -> Result<(), Status> {
        let due: Vec<String> = waiting.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            waiting.remove(&name);
            if let Some(object) = self.reader.get(GROUP, "ipaddresses", "", &name).await? {
                self.look_at(&name, &object, waiting).await?;
            }
        }
        Ok(())
    }

    async fn settle_service(
        &self,
        networks: &[Network],
        service: &Value,
        address: &str,
        found: Option<&Value>,
        parent: Option<&Value>,
    ) -> Result<(), Status> {
        let (namespace, name) = place_of(service);
        let family = addresses::family(address);
        let in_range = match address.parse() {
            Ok(address) => networks.iter().any(|network| network.contains(address)),
            // Validation sees to it that it is one.
            Err(_) => return Ok(()),
        };
        if !in_range {
            let note = format!("Cluster IP [{family}]: {address} is not within any configured Service CIDR; please recreate service");
            self.tell(service, "ClusterIPOutOfRange", "ClusterIPAllocation", &note).await;
            return Ok(());
        }
        let step = for_service(service, address, found, parent);
        let note = match &step {
            ForService::Nothing => return Ok(()),
            ForService::Create => format!("Cluster IP [{family}]: {address} is not allocated; repairing"),
            ForService::Recreate(why) => format!("the ClusterIP [{family}]: {address} for Service {namespace}/{name} has {why}; repairing"),
            ForService::Doubled(..) => {
                format!("Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service")
            }
        };
        let reason = if matches!(step, ForService::Doubled(..)) { "ClusterIPAlreadyAllocated" } else { "ClusterIPNotAllocated" };
        self.tell(service, reason, "ClusterIPAllocation", &note).await;
        if matches!(step, ForService::Doubled(..)) {
            return Ok(());
        }
        if let (ForService::Recreate(_), Some(found)) = (&step, found) {
            self.writer.clear("ipaddresses", "", found).await?;
        }
        match self.writer.create("ipaddresses", "", addresses::object(address, namespace, name)).await {
            // Another server mends, too.
            Err(status) if status.code != 409 => Err(status),
            _ => Ok(()),
        }
    }

    async fn delete(&self, address: &Value, reason: &str, note: &str) -> Result<(), Status> {
        self.tell(address, reason, "IPAddressAllocation", note).await;
        self.writer.clear("ipaddresses", "", address).await
    }

    /// Makes the bitmap of ports what services say, but for those taken a moment ago.
    async fn ports(&mut self) -> Result<(), Status> {
        for _ in 0..RETRIES {
            // The bitmap first: what happens between the two reads changes it, and then it is not replaced.
            let seen = self.claims.ports.read().await?;
            let services = reader::all(&*self.reader, "", "services", "").await?;
            let stored = seen.taken.clone();
            let Rebuilt { bitmap, leaks, wrong } = self.rebuild(stored.clone(), services);
            if stored.as_ref() == Some(&bitmap) || self.claims.ports.replace(&seen, bitmap).await? {
                self.leaks = leaks;
                for (service, reason, note) in wrong {
                    self.tell(&service, reason, "PortAllocation", &note).await;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// The bitmap as it should be, what has leaked, and what is wrong with which services.
    fn rebuild(&self, stored: Option<Bitmap>, services: Vec<Value>) -> Rebuilt {
        let ports = &self.claims.ports;
        let (range, first) = (ports.range(), *ports.range().start());
        let is_new = stored.is_none();
        let mut left = stored.unwrap_or_else(|| ports.nothing());
        let (mut rebuilt, mut leaks, mut told) = (ports.nothing(), self.leaks.clone(), Vec::new());
        for service in services.into_iter().filter_map(Object::new) {
            for port in counted(&service) {
                leaks.remove(&port);
                let at = usize::from(port.saturating_sub(first));
                if !range.contains(&port) {
                    let note = format!("Port {port} is not within the port range {}; please recreate service", text_of(range));
                    told.push((service.value().clone(), "PortOutOfRange", note));
                } else if !rebuilt.take(at) {
                    let note = format!("Port {port} was assigned to multiple services; please recreate service");
                    told.push((service.value().clone(), "PortAlreadyAllocated", note));
                } else if left.has(at) {
                    left.free(at);
                } else if !is_new {
                    told.push((service.value().clone(), "PortNotAllocated", format!("Port {port} is not allocated; repairing")));
                }
            }
        }
        let mut still = HashMap::new();
        for at in left.taken() {
            let Some(port) = u16::try_from(at).ok().and_then(|at| at.checked_add(first)) else { continue };
            match leaks.get(&port).copied().unwrap_or(LEAKS - 1) {
                0 => warn!(port, "a node port appears to have leaked: cleaning up"),
                count => {
                    still.insert(port, count - 1);
                    let _ = ports.taking(&mut rebuilt).take(port.into());
                }
            }
        }
        Rebuilt { bitmap: rebuilt, leaks: still, wrong: told }
    }

    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        reader::one(&*self.reader, group, resource, namespace, name).await
    }

    /// Writes a warning for people; nothing depends on it.
    async fn tell(&self, about: &Value, reason: &str, action: &str, note: &str) {
        warn!(reason, "{note}");
        let event = event(about, reason, action, note, (self.clock)());
        let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        if let Err(status) = self.writer.create("events", &namespace, event).await {
            warn!(%status, "an event is lost");
        }
    }
}

async fn next(changes: &mut BoxStream<'static, Change>) -> Change {
    match changes.next().await {
        Some(change) => change,
        // It does not end.
        None => std::future::pending().await,
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn place_of(object: &Value) -> (&str, &str) {
    (text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

fn parent_of(address: &Value) -> (&str, &str) {
    (text(address, "/spec/parentRef/namespace"), text(address, "/spec/parentRef/name"))
}

fn is_labelled(address: &Value) -> bool {
    let labels = &address["metadata"]["labels"];
    labels[LABEL_KEEPER] == KEEPER && labels[LABEL_FAMILY] == addresses::family(text(address, "/metadata/name"))
}

/// `parent` is the service that the address `found` names.
fn for_service(service: &Value, address: &str, found: Option<&Value>, parent: Option<&Value>) -> ForService {
    let Some(found) = found else { return ForService::Create };
    let (namespace, name) = place_of(service);
    if is_of(found, namespace, name) {
        return if is_labelled(found) { ForService::Nothing } else { ForService::Recreate("wrong labels") };
    }
    let of_a_service = text(found, "/spec/parentRef/group").is_empty() && text(found, "/spec/parentRef/resource") == "services";
    match parent.filter(|parent| of_a_service && addresses_of(parent).iter().any(|theirs| theirs == address)) {
        Some(parent) => ForService::Doubled(place_of(parent).0.to_owned(), place_of(parent).1.to_owned()),
        None => ForService::Recreate("a wrong reference"),
    }
}

/// `parent` is the service that the address names.
fn for_address(address: &Value, parent: Option<&Value>, now: Timestamp) -> ForAddress {
    if address["metadata"]["labels"][LABEL_KEEPER] != KEEPER {
        return ForAddress::Nothing;
    }
    let name = text(address, "/metadata/name");
    if !text(address, "/spec/parentRef/group").is_empty() || text(address, "/spec/parentRef/resource") != "services" {
        let note = format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up");
        return ForAddress::Delete("IPAddressNotAllocated", note);
    }
    let made = |object: &Value| text(object, "/metadata/creationTimestamp").parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH);
    let age = now.as_second() - made(address).as_second();
    let (namespace, service) = parent_of(address);
    let Some(parent) = parent else {
        if age <= GRACE {
            return ForAddress::Later(GRACE - age + 1);
        }
        let note = format!("IPAddress: {name} for Service {namespace}/{service} appears to have leaked: cleaning up");
        return ForAddress::Delete("IPAddressNotAllocated", note);
    };
    if addresses_of(parent).iter().any(|theirs| theirs == name) {
        return ForAddress::Nothing;
    }
    // A mere name becomes a service with an address: the address comes first.
    if text(parent, "/spec/type") == "ExternalName" && age < GRACE {
        return ForAddress::Later(GRACE - age);
    }
    // Somebody may be creating it a second time, and be about to find out.
    if made(address) > made(parent) && age < SHORT_GRACE {
        return ForAddress::Later(SHORT_GRACE);
    }
    ForAddress::Delete(
        "IPAddressWrongReference",
        format!("IPAddress: {name} for Service {namespace}/{service} has a wrong reference; cleaning up"),
    )
}

/// An event in the form of `events.k8s.io`.
fn event(about: &Value, reason: &str, action: &str, note: &str, now: Timestamp) -> Value {
    let (namespace, name) = place_of(about);
    let is_service = !namespace.is_empty();
    let controller = match action {
        "PortAllocation" => "portallocator-repair-controller",
        _ => "ipallocator-repair-controller",
    };
    let (version, kind) = if is_service { ("v1", "Service") } else { ("networking.k8s.io/v1", "IPAddress") };
    let namespace = if is_service { namespace } else { "default" };
    let mut regarding = json!({"apiVersion": version, "kind": kind, "name": name, "uid": text(about, "/metadata/uid")});
    if is_service {
        regarding["namespace"] = namespace.into();
    }
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "eventTime": time::micros(now),
        "reportingController": controller, "reportingInstance": format!("{controller}-{}", std::process::id()),
        "action": action, "reason": reason, "type": "Warning", "note": note, "regarding": regarding,
    })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use coracle_schema::Tables;
    use coracle_store::{Expect, Store, Write, embedded};
    use futures::FutureExt;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::registry::{
        Storage,
        catalog::{self, Odd},
        claims::{Claim, Owner},
        fake::FakeReader,
    };

    fn service(name: &str, address: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": name, "creationTimestamp": "2026-11-21T12:00:00Z"},
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]}})
    }

    fn address(of: &str, made: &str) -> Value {
        let mut address = addresses::object("10.96.0.7", "n", of);
        address["metadata"]["creationTimestamp"] = made.into();
        address
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Writes all but one address.
    struct Refusing(Arc<FakeReader>, &'static str);

    #[async_trait]
    impl Writer for Refusing {
        async fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Value, Status> {
            if resource == "ipaddresses" && object["metadata"]["name"] == self.1 {
                return Err(Status::internal("no"));
            }
            self.0.create(resource, namespace, object).await
        }

        async fn update(&self, resource: &str, subresource: &str, namespace: &str, object: Value) -> Result<Value, Status> {
            self.0.update(resource, subresource, namespace, object).await
        }

        async fn delete(&self, resource: &str, namespace: &str, object: &Value) -> Result<(), Status> {
            self.0.delete(resource, namespace, object).await
        }
    }

    #[tokio::test]
    async fn what_cannot_be_mended_does_not_keep_the_rest_from_it() {
        let odd = |group: &str, resource: &str| Odd { rules: crate::kinds::rules_for(group, resource), printer: None };
        let catalog = catalog::built_in(&Tables::load().unwrap(), odd);
        let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
        // One that gives no addresses away any more still has those it gave.
        let network = r#"{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/12"]},"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#;
        store.commit(&"/registry/servicecidrs/kubernetes".into(), Expect::Absent, Write::put(network)).await.unwrap();
        let reader = Arc::new(FakeReader::default());
        for (name, address) in [("first", "10.96.0.7"), ("second", "10.96.0.8"), ("third", "10.0.0.1")] {
            let mut service = service(name, address);
            service["spec"]["ports"] = json!([{"port": 80, "nodePort": 30001}]);
            reader.put("", "services", service);
        }
        let gone = json!({"apiVersion": "networking.k8s.io/v1", "metadata": {"name": "10.96.0.9", "labels": {LABEL_KEEPER: KEEPER}}, "spec": {"parentRef": {"resource": "pods"}}});
        reader.put(GROUP, "ipaddresses", gone);
        let writer: Arc<dyn Writer> = Arc::new(Refusing(reader.clone(), "10.96.0.7"));
        let storage = Storage::start(store, catalog);
        let claims = Claims::new(super::super::Ranges::default(), storage, writer.clone(), TaskTracker::new());
        let clock = Arc::new(|| Timestamp::UNIX_EPOCH);
        let mut repair = Repair::new(claims.clone(), reader.clone(), writer, clock);
        assert_eq!(repair.once().await.unwrap_err().message, Status::internal("no").message, "the first error is told");
        let address = |name: &str| reader.look(GROUP, "ipaddresses", "", name);
        assert_eq!(address("10.96.0.8").unwrap()["spec"]["parentRef"]["name"], "second");
        assert_eq!((address("10.96.0.7"), address("10.96.0.9"), address("10.0.0.1")), (None, None, None));
        assert_eq!(claims.ports.read().await.unwrap().taken.unwrap().taken().collect::<Vec<_>>(), [1]);
        assert_eq!(repair.pause, INTERVAL, "a port that has leaked is free after as many rounds, and they are as long");
    }

    #[tokio::test]
    async fn a_write_whose_end_nobody_saw_is_told_to_the_repair() {
        let odd = |group: &str, resource: &str| Odd { rules: crate::kinds::rules_for(group, resource), printer: None };
        let catalog = catalog::built_in(&Tables::load().unwrap(), odd);
        let store = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
        let reader = Arc::new(FakeReader::default());
        let claims = Claims::new(super::super::Ranges::default(), Storage::start(store, catalog), reader, TaskTracker::new());
        let is_told = || claims.left.notified().now_or_never().is_some();
        let begun = || {
            let mut claim = Claim::of(Some(claims.clone()), Owner::default());
            claim.sent(&Object::new(json!({})).unwrap(), None);
            claim
        };
        begun().keep().await;
        begun().give_back().await;
        assert!(!is_told());
        begun().leave();
        assert!(is_told());
        drop(begun());
        assert!(is_told());
    }

    #[test]
    fn an_address_without_claim_is_claimed_and_a_wrong_claim_made_right() {
        let one = service("one", "10.96.0.7");
        let of = |found: Option<&Value>, parent: Option<&Value>| for_service(&one, "10.96.0.7", found, parent);
        assert_eq!(of(None, None), ForService::Create);
        assert_eq!(of(Some(&address("one", "")), Some(&one)), ForService::Nothing);
        assert_eq!(of(Some(&address("gone", "")), None), ForService::Recreate("a wrong reference"));
        let two = service("two", "10.96.0.7");
        assert_eq!(of(Some(&address("two", "")), Some(&two)), ForService::Doubled("n".into(), "two".into()));
        assert_eq!(of(Some(&address("two", "")), Some(&service("two", "10.96.0.8"))), ForService::Recreate("a wrong reference"));
        let mut gateway = address("one", "");
        gateway["spec"]["parentRef"]["group"] = "gateway.networking.k8s.io".into();
        assert_eq!(of(Some(&gateway), None), ForService::Recreate("a wrong reference"));
        let mut unlabelled = address("one", "");
        unlabelled["metadata"]["labels"] = json!({});
        assert_eq!(of(Some(&unlabelled), Some(&one)), ForService::Recreate("wrong labels"));
    }

    #[test]
    fn a_claim_without_service_goes_after_its_grace() {
        let made = "2026-11-21T12:00:00Z";
        let of = |parent: Option<&Value>, now: &str| for_address(&address("one", made), parent, at(now));
        assert_eq!(of(None, "2026-11-21T12:00:10Z"), ForAddress::Later(51));
        assert!(matches!(of(None, "2026-11-21T12:01:01Z"), ForAddress::Delete("IPAddressNotAllocated", _)));
        assert_eq!(of(Some(&service("one", "10.96.0.7")), "2026-11-21T13:00:00Z"), ForAddress::Nothing);
        let other = service("one", "10.96.0.8");
        assert!(matches!(of(Some(&other), "2026-11-21T12:00:01Z"), ForAddress::Delete("IPAddressWrongReference", _)));
        let fresh = address("one", "2026-11-21T12:00:02Z");
        assert_eq!(for_address(&fresh, Some(&other), at("2026-11-21T12:00:03Z")), ForAddress::Later(SHORT_GRACE));
        let mut theirs = address("one", made);
        theirs["metadata"]["labels"] = json!({});
        assert_eq!(for_address(&theirs, None, at("2026-11-21T13:00:00Z")), ForAddress::Nothing);
    }
}
