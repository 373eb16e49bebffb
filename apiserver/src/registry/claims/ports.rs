//! Node ports: which a service needs (pure), and the bitmap that says which are taken (`core/service/portallocator`,
//! `core/service/allocator/storage`), changed by compare-and-swap alone, so that any number of servers may.

use std::{ops::RangeInclusive, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coracle_store::{Expect, Key, Revision, StoreError, Write};
use coracle_tree::{Value, json};
use parking_lot::Mutex;

use super::{bitmap::Bitmap, random};
use crate::{
    registry::{
        items,
        object::Object,
        storage::{Storage, store_error},
    },
    wire::Status,
};

/// Where the bitmap is, as upstream keeps it: an object that is not served.
const KEY: &str = "/registry/ranges/servicenodeports";
/// Changes by others that one of ours may lose against before it gives up.
const RETRIES: usize = 100;

/// The ports of nodes that services may have, and which are taken.
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    storage: Arc<Storage>,
    /// One change of this server at a time: against each other they would only lose races.
    turn: tokio::sync::Mutex<()>,
    /// The bitmap as this server last saw it: what a change is tried on first.
    seen: Mutex<Option<Seen>>,
}

/// A bitmap and when it was read.
#[derive(Clone)]
pub(super) struct Seen {
    revision: Option<Revision>,
    /// `None` where nothing is stored yet.
    pub(super) taken: Option<Bitmap>,
}

/// Why a service cannot have the ports it needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The port at this place of `spec.ports` cannot be had.
    Port(usize, i64, String),
    /// None is left, or the one for health checks cannot be had.
    Internal(String),
}

/// The ports of a service as they are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The node port of each port; 0: none.
    pub(super) ports: Vec<i64>,
    /// The port for health checks, if it is to have one.
    pub(super) health: Option<i64>,
    /// What is taken for it.
    pub(super) taken: Vec<u16>,
}

/// Takes ports, for good or for a dry run.
pub(super) trait Taker {
    /// This very port.
    fn take(&mut self, port: i64) -> Result<(), String>;
    /// Any that is free.
    fn take_next(&mut self) -> Result<i64, String>;
}

/// A bitmap with the numbers of its range.
pub(super) struct Taking<'b> {
    range: RangeInclusive<u16>,
    bitmap: &'b mut Bitmap,
    pub(super) taken: Vec<u16>,
}

/// Nothing can be had before there is a bitmap.
struct Uncounted;

/// Upstream's dry run: what is taken is refused, but what would be given is made up (`portallocator/operation.go`).
struct Trying<'b> {
    range: RangeInclusive<u16>,
    bitmap: &'b Bitmap,
    taken: Vec<i64>,
}

/// Which number of the bitmap a port is.
fn offset_of(range: &RangeInclusive<u16>, port: u16) -> Option<usize> {
    range.contains(&port).then(|| usize::from(port - range.start()))
}

/// Before the repair has counted what services hold, nobody knows what is free (`allocator/storage`).
const UNCOUNTED: &str = "cannot allocate resources of type servicenodeportallocations at this time";
const TAKEN: &str = "provided port is already allocated";
const FULL: &str = "range is full";

impl Taker for Taking<'_> {
    fn take(&mut self, port: i64) -> Result<(), String> {
        let Some((port, at)) = u16::try_from(port).ok().and_then(|port| Some((port, offset_of(&self.range, port)?))) else {
            return Err(format!("provided port is not in the valid range. The range of valid ports is {}", text_of(&self.range)));
        };
        if !self.bitmap.take(at) {
            return Err(TAKEN.to_owned());
        }
        self.taken.push(port);
        Ok(())
    }

    fn take_next(&mut self) -> Result<i64, String> {
        let next = self.bitmap.take_next(band(&self.range), random()).and_then(|at| u16::try_from(at).ok());
        let port = next.ok_or(FULL)? + self.range.start();
        self.taken.push(port);
        Ok(port.into())
    }
}

impl Taker for Uncounted {
    fn take(&mut self, _: i64) -> Result<(), String> {
        Err(UNCOUNTED.to_owned())
    }

    fn take_next(&mut self) -> Result<i64, String> {
        Err(UNCOUNTED.to_owned())
    }
}

impl Taker for Trying<'_> {
    fn take(&mut self, port: i64) -> Result<(), String> {
        let at = u16::try_from(port).ok().and_then(|port| offset_of(&self.range, port));
        if self.taken.contains(&port) || at.is_some_and(|at| self.bitmap.has(at)) {
            return Err(TAKEN.to_owned());
        }
        self.taken.push(port);
        Ok(())
    }

    fn take_next(&mut self) -> Result<i64, String> {
        let next = self.taken.iter().max().map_or(32768, |last| *last.max(&0)).saturating_add(1);
        self.taken.push(next);
        Ok(next)
    }
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>, storage: Arc<Storage>) -> Self {
        Self { range, storage, turn: tokio::sync::Mutex::default(), seen: Mutex::default() }
    }

    pub(super) fn range(&self) -> &RangeInclusive<u16> {
        &self.range
    }

    /// Takes what the service needs and `old` did not have.
    pub(super) async fn take(&self, new: &Object, old: Option<&Object>, dry_run: bool) -> Result<Result<Plan, Refusal>, Status> {
        if dry_run {
            let bitmap = self.read().await?.taken.unwrap_or_else(|| self.nothing());
            let mut trying = Trying { range: self.range.clone(), bitmap: &bitmap, taken: Vec::new() };
            return Ok(plan(new, old, &mut trying));
        }
        let mut planned = Ok(Plan::default());
        let known = self.change(|bitmap| {
            let mut taking = Taking { range: self.range.clone(), bitmap, taken: Vec::new() };
            planned = plan(new, old, &mut taking);
            if let Ok(plan) = &mut planned {
                plan.taken = taking.taken;
            }
            planned.is_ok()
        });
        if known.await? { Ok(planned) } else { Ok(plan(new, old, &mut Uncounted)) }
    }

    /// Gives ports back; where nothing was counted yet, nothing has to be.
    pub(super) async fn free(&self, ports: &[u16]) -> Result<(), Status> {
        let all: Vec<usize> = ports.iter().filter_map(|port| offset_of(&self.range, *port)).collect();
        if all.is_empty() {
            return Ok(());
        }
        self.change(|bitmap| {
            all.iter().for_each(|at| bitmap.free(*at));
            true
        })
        .await
        .map(drop)
    }

    /// Lets `change` have the bitmap until what it made of it is stored; not stored is what it says no to. It is first tried on what was
    /// seen last: a refusal counts only when it is about what is there now. `false`: there is no bitmap, only the repair makes one.
    async fn change(&self, mut change: impl FnMut(&mut Bitmap) -> bool) -> Result<bool, Status> {
        let _turn = self.turn.lock().await;
        let mut fresh = false;
        for _ in 0..RETRIES {
            let remembered = if fresh { None } else { self.seen.lock().clone() };
            let (seen, is_new) = match remembered {
                Some(seen) => (seen, false),
                None => (self.read().await?, true),
            };
            let Some(mut bitmap) = seen.taken.clone() else { return Ok(false) };
            let made = change(&mut bitmap);
            let unchanged = seen.taken.as_ref() == Some(&bitmap);
            if is_new && (!made || unchanged) {
                return Ok(true);
            }
            fresh = true;
            if !made || unchanged {
                continue;
            }
            if self.replace(&seen, bitmap).await? {
                return Ok(true);
            }
        }
        Err(Status::too_many_requests("the allocation of node ports changes faster than it can be written", 1))
    }

    /// Stores another bitmap if the one that was read is still there; whether it was.
    pub(super) async fn replace(&self, seen: &Seen, bitmap: Bitmap) -> Result<bool, Status> {
        let expect = seen.revision.map_or(Expect::Absent, Expect::At);
        let write = Write::put(self.value(&bitmap)?);
        match self.storage.store().commit(&Key::from(KEY), expect, write).await {
            Ok(revision) => {
                *self.seen.lock() = Some(Seen { revision: Some(revision), taken: Some(bitmap) });
                Ok(true)
            }
            Err(StoreError::Moved { .. } | StoreError::Exists { .. } | StoreError::Absent) => Ok(false),
            Err(error) => {
                *self.seen.lock() = None;
                Err(store_error(&error))
            }
        }
    }

    /// The bitmap as it is stored now.
    pub(super) async fn read(&self) -> Result<Seen, Status> {
        let found = self.storage.store().get(&Key::from(KEY)).await.map_err(|error| store_error(&error))?;
        let Some(entry) = found.value else { return Ok(Seen { revision: None, taken: None }) };
        let object: Value = serde_json::from_slice(&entry.value).map_err(|e| Status::internal(format!("{KEY} cannot be read: {e}")))?;
        let data = object["data"].as_str().unwrap_or_default();
        let data = STANDARD.decode(data).map_err(|e| Status::internal(format!("{KEY} cannot be read: {e}")))?;
        let range = object["range"].as_str().unwrap_or_default();
        // Written under another --service-node-port-range: the ports of both stay what they are.
        let moved = |range: RangeInclusive<u16>| {
            let theirs = Bitmap::read(&data, usize::from(range.end() - range.start()) + 1);
            let mut ours = self.nothing();
            for port in theirs.taken().filter_map(|at| u16::try_from(at).ok()?.checked_add(*range.start())) {
                offset_of(&self.range, port).map(|at| ours.take(at));
            }
            ours
        };
        let taken = match parse(range) {
            Some(theirs) if theirs != self.range => moved(theirs),
            _ => Bitmap::read(&data, self.size()),
        };
        let seen = Seen { revision: Some(entry.revision), taken: Some(taken) };
        *self.seen.lock() = Some(seen.clone());
        Ok(seen)
    }

    pub(super) fn nothing(&self) -> Bitmap {
        Bitmap::new(self.size())
    }

    pub(super) fn taking<'b>(&self, bitmap: &'b mut Bitmap) -> Taking<'b> {
        Taking { range: self.range.clone(), bitmap, taken: Vec::new() }
    }

    fn size(&self) -> usize {
        usize::from(self.range.end().saturating_sub(*self.range.start())) + 1
    }

    fn value(&self, bitmap: &Bitmap) -> Result<Bytes, Status> {
        let object = Object::new(json!({
            "apiVersion": "v1", "kind": "RangeAllocation", "metadata": {},
            "range": text_of(&self.range), "data": STANDARD.encode(bitmap.stored()),
        }));
        let stored = object.as_ref().map_or_else(|| Ok(Bytes::new()), items::stored_bytes);
        stored.map_err(|error| Status::internal(error.to_string()))
    }
}

pub(super) fn text_of(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let range = first.parse().ok()?..=last.parse().ok()?;
    (range.start() <= range.end()).then_some(range)
}

/// The lower ports, left for people who choose (KEP-3668): a thirty-second of the range, between 16 and 128.
fn band(range: &RangeInclusive<u16>) -> usize {
    let size = usize::from(range.end() - range.start()) + 1;
    if size <= 16 { 0 } else { (size / 32).clamp(16, 128) }
}

/// Whether ports have to be taken for a change of `old` to `new`.
pub(super) fn needs(new: &Object, old: Option<&Object>) -> bool {
    let before = old.map(held).unwrap_or_default();
    let open = has_ports(new)
        && of_ports(new).any(|(number, _)| match number {
            0 => wants_ports(new),
            number => u16::try_from(number).map_or(true, |number| !before.contains(&number)),
        });
    open || (checks_health(new) && !old.is_some_and(|old| checks_health(old) && health(old) != 0))
}

/// The ports a service gets, given what it had (`initNodePorts`, `updateNodePorts` and `updateHealthCheckNodePort` of
/// `core/service/storage/alloc.go`).
fn plan(new: &Object, old: Option<&Object>, taker: &mut impl Taker) -> Result<Plan, Refusal> {
    let mut plan = Plan { ports: of_ports(new).map(|(number, _)| number).collect(), ..Plan::default() };
    if has_ports(new) {
        match old {
            None => plan.ports = first_ports(new, taker)?,
            Some(old) => plan.ports = changed_ports(new, old, taker)?,
        }
    }
    if checks_health(new) {
        let kept = old.filter(|old| checks_health(old)).map(health).filter(|port| *port != 0);
        let asked = Some(health(new)).filter(|port| *port != 0);
        let refused = |why: String| Refusal::Internal(why);
        plan.health = Some(match (kept, asked) {
            (Some(kept), _) => kept,
            (None, Some(asked)) => {
                let taken = taker.take(asked);
                taken.map_err(|why| refused(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}")))?;
                asked
            }
            (None, None) => taker.take_next().map_err(|why| refused(format!("failed to allocate a HealthCheck NodePort 0: {why}")))?,
        });
    }
    Ok(plan)
}

/// Ports of the same number, in different protocols, share a node port.
fn first_ports(new: &Object, taker: &mut impl Taker) -> Result<Vec<i64>, Refusal> {
    let ports: Vec<(i64, i64)> = of_ports(new).collect();
    let mut of_number: Vec<(i64, i64)> = Vec::new();
    let mut made = Vec::with_capacity(ports.len());
    for (i, (asked, number)) in ports.iter().copied().enumerate() {
        if asked == 0 && !wants_ports(new) {
            made.push(0);
            continue;
        }
        let refused = |port: i64| move |why: String| Refusal::Port(i, port, why);
        let shared = of_number.iter().find(|(of, _)| *of == number).map(|(_, port)| *port);
        let port = match shared {
            None => {
                // What another port of this number asks for goes for all of them.
                let wished = ports.iter().find(|(wished, of)| *of == number && *wished != 0).map(|(wished, _)| *wished);
                let port = match wished {
                    Some(wished) => {
                        taker.take(wished).map_err(refused(wished))?;
                        wished
                    }
                    None => taker.take_next().map_err(|why| Refusal::Internal(format!("failed to allocate a nodePort: {why}")))?,
                };
                of_number.push((number, port));
                port
            }
            Some(shared) if asked == 0 || asked == shared => shared,
            Some(_) => {
                taker.take(asked).map_err(refused(asked))?;
                asked
            }
        };
        made.push(port);
    }
    Ok(made)
}

fn changed_ports(new: &Object, old: &Object, taker: &mut impl Taker) -> Result<Vec<i64>, Refusal> {
    let mut known: Vec<i64> = of_ports(old).map(|(port, _)| port).filter(|port| *port != 0).collect();
    let mut made = Vec::new();
    for (i, (asked, _)) in of_ports(new).enumerate() {
        let port = match asked {
            0 if !wants_ports(new) => 0,
            0 => taker.take_next().map_err(|why| Refusal::Internal(format!("failed to allocate a nodePort: {why}")))?,
            asked if known.contains(&asked) => asked,
            asked => {
                taker.take(asked).map_err(|why| Refusal::Port(i, asked, why))?;
                known.push(asked);
                asked
            }
        };
        made.push(port);
    }
    Ok(made)
}

/// Node port and number of each port.
fn of_ports(service: &Object) -> impl Iterator<Item = (i64, i64)> {
    let list = service.value().pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    list.map(|port| (port["nodePort"].as_i64().unwrap_or_default(), port["port"].as_i64().unwrap_or_default()))
}

fn health(service: &Object) -> i64 {
    service.value().pointer("/spec/healthCheckNodePort").and_then(Value::as_i64).unwrap_or_default()
}

fn has_ports(service: &Object) -> bool {
    matches!(service.text("/spec/type"), "NodePort" | "LoadBalancer")
}

fn wants_ports(service: &Object) -> bool {
    let left_out = service.value().pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    service.text("/spec/type") == "NodePort" || (service.text("/spec/type") == "LoadBalancer" && !left_out)
}

/// Where traffic stays on the nodes that have endpoints, balancers ask every node about that at one port.
fn checks_health(service: &Object) -> bool {
    service.text("/spec/type") == "LoadBalancer" && service.text("/spec/externalTrafficPolicy") == "Local"
}

/// The ports a service holds, each once.
pub(super) fn held(service: &Object) -> Vec<u16> {
    let all = of_ports(service).map(|(port, _)| port).chain([health(service)]);
    let mut all: Vec<u16> = all.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The ports a service holds as the repair counts them: one that is there twice in the same protocol is there twice (`collectServiceNodePorts`
/// of `portallocator/controller`).
pub(super) fn counted(service: &Object) -> Vec<u16> {
    let list = service.value().pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let mut seen: Vec<(u16, String)> = Vec::new();
    let mut all = Vec::new();
    let mut count = |port: u16, protocol: &str| {
        if port == 0 {
            return;
        }
        let known = seen.iter().any(|(of, _)| *of == port);
        let doubled = seen.iter().any(|(of, in_protocol)| *of == port && in_protocol == protocol);
        if !known || doubled {
            all.push(port);
        }
        seen.push((port, protocol.to_owned()));
    };
    for port in list {
        count(
            port["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default(),
            port["protocol"].as_str().unwrap_or("TCP"),
        );
    }
    count(u16::try_from(health(service)).unwrap_or_default(), "TCP");
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> Object {
        Object::new(json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn planned(new: &Object, old: Option<&Object>, held: &[u16]) -> Result<Plan, Refusal> {
        let range = 30000..=30099;
        let mut bitmap = Bitmap::new(100);
        for port in held {
            bitmap.take(offset_of(&range, *port).unwrap());
        }
        let mut taking = Taking { range, bitmap: &mut bitmap, taken: Vec::new() };
        let plan = plan(new, old, &mut taking)?;
        Ok(Plan { taken: taking.taken, ..plan })
    }

    #[test]
    fn ports_of_one_number_share_a_node_port_and_others_do_not() {
        let new = service(&json!({"type": "NodePort", "ports": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 80}]}));
        let made = planned(&new, None, &[]).unwrap();
        assert_eq!((made.ports[0], made.ports[1], made.taken.len()), (30053, 30053, 2));
        assert!((30016..=30099).contains(&made.ports[2]), "{made:?}");
        assert!(needs(&new, None) && !needs(&service(&json!({"type": "ClusterIP", "ports": [{"port": 1}]})), None));
    }

    #[test]
    fn what_is_taken_or_outside_is_refused_at_its_place() {
        let asks = |port: i64| service(&json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]}));
        assert_eq!(planned(&asks(30001), None, &[30001]), Err(Refusal::Port(0, 30001, TAKEN.to_owned())));
        let Err(Refusal::Port(0, 80, why)) = planned(&asks(80), None, &[]) else { panic!("refused") };
        assert!(why.ends_with("The range of valid ports is 30000-30099"), "{why}");
        assert!(matches!(planned(&asks(-1), None, &[]), Err(Refusal::Port(0, -1, _))), "no other port is given instead");
        assert!(matches!(planned(&asks(95_536), None, &[]), Err(Refusal::Port(0, 95_536, _))));
        let all: Vec<u16> = (30000..=30099).collect();
        let any = service(&json!({"type": "NodePort", "ports": [{"port": 1}]}));
        assert_eq!(planned(&any, None, &all), Err(Refusal::Internal("failed to allocate a nodePort: range is full".to_owned())));
    }

    #[test]
    fn a_change_keeps_its_ports_and_takes_only_new_ones() {
        let old = service(&json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
        let same = service(&json!({"type": "NodePort", "ports": [{"port": 81, "nodePort": 30080}]}));
        assert!(!needs(&same, Some(&old)));
        let more = service(&json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}, {"port": 443, "nodePort": 30043}]}));
        let made = planned(&more, Some(&old), &[30080]).unwrap();
        assert_eq!((made.ports, made.taken), (vec![30080, 30043], vec![30043]));
    }

    #[test]
    fn local_balancers_have_a_port_for_health_checks() {
        let new = service(&json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false,
            "ports": [{"port": 80}]}));
        let made = planned(&new, None, &[]).unwrap();
        assert_eq!((made.ports.clone(), made.taken.clone()), (vec![0], vec![u16::try_from(made.health.unwrap()).unwrap()]));
        let mut old = new.clone();
        old.member_mut("spec").insert("healthCheckNodePort", 30007.into());
        assert!(needs(&new, None) && !needs(&new, Some(&old)));
        assert_eq!(held(&old), [30007]);
    }

    #[test]
    fn a_port_that_stands_twice_in_one_protocol_is_counted_twice() {
        let port = |number: u16, protocol: &str| json!({"port": number, "protocol": protocol, "nodePort": 30001});
        let two = |a: &str, b: &str| service(&json!({"ports": [port(1, a), port(2, b)]}));
        assert_eq!((counted(&two("TCP", "UDP")).len(), counted(&two("TCP", "TCP")).len()), (1, 2));
    }
}
