//! From services and endpoints to a ruleset. Pure.
//!
//! ```text
//! prerouting, output:  ip daddr . meta l4proto . th dport vmap @service-ips      { 10.43.0.10 . tcp . 80 : goto svc-… }
//!                      fib daddr type local meta l4proto . th dport vmap @node-ports   { tcp . 30080 : goto ext-… }
//! ext-…:               from outside: mark for masquerading; goto svc-…
//! svc-…:               dnat to numgen random mod N map { 0 : 10.42.0.7 . 8080, … }
//! postrouting:         marked: masquerade; ip saddr . ip daddr @hairpin masquerade
//! forward, output, input:  ct state new ip daddr . … @no-endpoints reject
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

use super::view::{Endpoint, Port, Service};
use super::{Address, Known, Options};
use crate::network::nft::{Element, Field, Part, Point, Ruleset, Set, Step, Value};

/// Name of the table.
pub(super) const TABLE: &str = "coracle";
/// As kube-proxy marks it.
const MASQUERADE: u32 = 0x4000;
const DESTINATION_NAT: i32 = -100;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;
const UDP: u8 = 17;
const ADDRESS_PORT: [Field; 3] = [Field::Daddr, Field::Protocol, Field::Dport];
const PORT: [Field; 2] = [Field::Protocol, Field::Dport];
const SOURCE_DESTINATION: [Field; 2] = [Field::Saddr, Field::Daddr];
/// Longest name of a chain we make; the kernel takes 255.
const MAX_NAME: usize = 120;

/// Where UDP services lead: flows to what is gone must be forgotten.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct UdpTargets(BTreeMap<Address, BTreeSet<Address>>);

impl UdpTargets {
    /// Services with the endpoints they no longer lead to; all of them when it had none before (those flows were never translated).
    pub(super) fn gone(&self, now: &Self) -> BTreeMap<Address, BTreeSet<Address>> {
        let mut all = BTreeMap::new();
        for (service, before) in &self.0 {
            let after = now.0.get(service).cloned().unwrap_or_default();
            let gone: BTreeSet<Address> = before.difference(&after).copied().collect();
            if !gone.is_empty() {
                all.insert(*service, gone);
            }
        }
        let fresh = now.0.iter().filter(|(service, to)| !to.is_empty() && self.0.get(service).is_none_or(BTreeSet::is_empty));
        all.extend(fresh.map(|(service, _)| (*service, BTreeSet::new())));
        all
    }
}

/// The ruleset for everything known, and where UDP goes.
pub(super) fn plan(options: &Options, known: &Known) -> (Ruleset, UdpTargets) {
    let mut rules = frame(options);
    let mut targets = UdpTargets::default();
    let endpoints = by_service_port(known);
    for ((namespace, name), service) in &known.services {
        for port in &service.ports {
            let key = (namespace.as_str(), name.as_str(), port.name.as_str(), port.protocol);
            let found = endpoints.get(&key).map_or(&[][..], Vec::as_slice);
            let full_name = format!("{namespace}/{name}/{}", if port.name.is_empty() { port.port.to_string() } else { port.name.clone() });
            add_port(&mut rules, options, service, port, &full_name, found);
            if port.protocol == UDP {
                let to: BTreeSet<Address> = usable(found).iter().map(|(e, p)| (e.address, *p)).collect();
                for ip in service.cluster_ips.iter().chain(&service.external_ips) {
                    targets.0.insert((*ip, port.port), to.clone());
                }
            }
        }
    }
    (rules, targets)
}

/// Hooks, maps and sets without any service.
fn frame(options: &Options) -> Ruleset {
    let mut rules = Ruleset::new(TABLE);
    rules.set("service-ips", &ADDRESS_PORT, Value::Verdict);
    rules.set("node-ports", &PORT, Value::Verdict);
    rules.set("no-endpoints", &ADDRESS_PORT, Value::None);
    rules.set("hairpin", &SOURCE_DESTINATION, Value::None);
    for (chain, point) in [("prerouting", Point::Prerouting), ("output", Point::Output)] {
        rules.base(chain, true, point, DESTINATION_NAT);
        rules.rule(chain, vec![Step::Vmap(ADDRESS_PORT.to_vec(), "service-ips".to_owned())]);
        rules.rule(chain, vec![Step::LocalDestination, Step::Vmap(PORT.to_vec(), "node-ports".to_owned())]);
    }
    rules.base("postrouting", true, Point::Postrouting, SOURCE_NAT);
    rules.rule("postrouting", vec![Step::Marked(MASQUERADE), Step::Unmark(MASQUERADE), Step::Masquerade]);
    rules.rule("postrouting", vec![Step::In(SOURCE_DESTINATION.to_vec(), "hairpin".to_owned()), Step::Masquerade]);
    for (chain, point) in [("filter-input", Point::Input), ("filter-forward", Point::Forward), ("filter-output", Point::Output)] {
        rules.base(chain, false, point, FILTER);
        rules.rule(chain, vec![Step::NewConnection, Step::In(ADDRESS_PORT.to_vec(), "no-endpoints".to_owned()), Step::Reject]);
        if let Some(services) = options.service_cidr {
            rules.rule(chain, vec![Step::NewConnection, Step::Daddr(services), Step::Reject]);
        }
    }
    rules
}

type PortKey<'a> = (&'a str, &'a str, &'a str, u8);
type Found<'a> = Vec<(&'a Endpoint, u16)>;

/// Endpoints with their ports, by namespace, service, port name and protocol; each address once, in order.
fn by_service_port(known: &Known) -> BTreeMap<PortKey<'_>, Found<'_>> {
    let mut all: BTreeMap<PortKey<'_>, Found<'_>> = BTreeMap::new();
    for slice in known.slices.values() {
        for (name, protocol, port) in &slice.ports {
            let key = (slice.service.0.as_str(), slice.service.1.as_str(), name.as_str(), *protocol);
            all.entry(key).or_default().extend(slice.endpoints.iter().map(|endpoint| (endpoint, *port)));
        }
    }
    for found in all.values_mut() {
        // A ready entry wins over a draining one of the same address (two slices while one is moved).
        found.sort_by_key(|(e, port)| (e.address, *port, !e.ready));
        found.dedup_by_key(|(e, port)| (e.address, *port));
    }
    all
}

/// The ready ones, or when there are none those that still serve while they end (KEP-1669).
fn usable<'a>(found: &[(&'a Endpoint, u16)]) -> Found<'a> {
    let ready: Found<'_> = found.iter().filter(|(e, _)| e.ready).copied().collect();
    if ready.is_empty() { found.iter().filter(|(e, _)| e.draining).copied().collect() } else { ready }
}

fn on_node<'a>(found: &[(&'a Endpoint, u16)], node: &str) -> Found<'a> {
    usable(&found.iter().filter(|(e, _)| e.node == node).copied().collect::<Vec<_>>())
}

fn add_port(rules: &mut Ruleset, options: &Options, service: &Service, port: &Port, name: &str, found: &[(&Endpoint, u16)]) {
    let all = usable(found);
    let inside = if service.internal_local { on_node(found, &options.node_name) } else { all.clone() };
    let outside = if service.external_local { on_node(found, &options.node_name) } else { all.clone() };
    for (endpoint, _) in all.iter().filter(|(e, _)| e.node == options.node_name) {
        let address = Part::Address(endpoint.address);
        rules.element("hairpin", &[address, address], Element::Member);
    }
    let inner_chain = chain_name("svc", name, port.protocol);
    let has_outside = port.node_port != 0 || !service.external_ips.is_empty();
    // The chain that chooses among all endpoints is needed from outside too, unless only local ones count there.
    if !inside.is_empty() {
        choose(rules, service, &inner_chain, &inside);
    }
    let outer_chain = chain_name("ext", name, port.protocol);
    if has_outside && !all.is_empty() {
        add_outside(rules, options, service, &outer_chain, &inner_chain, &inside, &outside);
    }
    let mut point = |ip: Ipv4Addr, chain: &str, serves: bool| {
        let key = [Part::Address(ip), Part::Protocol(port.protocol), Part::Port(port.port)];
        if serves {
            rules.element("service-ips", &key, Element::Goto(chain.to_owned()));
        } else {
            rules.element("no-endpoints", &key, Element::Member);
        }
    };
    for ip in &service.cluster_ips {
        point(*ip, &inner_chain, !inside.is_empty());
    }
    for ip in &service.external_ips {
        point(*ip, &outer_chain, !all.is_empty());
    }
    if port.node_port != 0 && !all.is_empty() {
        rules.element("node-ports", &[Part::Protocol(port.protocol), Part::Port(port.node_port)], Element::Goto(outer_chain));
    }
}

/// Traffic that comes by a node port or an external address.
fn add_outside(
    rules: &mut Ruleset,
    options: &Options,
    service: &Service,
    chain: &str,
    inner: &str,
    inside: &[(&Endpoint, u16)],
    outside: &[(&Endpoint, u16)],
) {
    if service.external_local {
        // From pods it counts as inside; others meet only endpoints of this node and keep their address.
        if !inside.is_empty() {
            rules.rule(chain, vec![Step::Saddr(options.pod_cidr), Step::Goto(inner.to_owned())]);
        }
        rules.rule(chain, vec![Step::Balance(outside.iter().map(|(e, port)| (e.address, *port)).collect())]);
        return;
    }
    rules.rule(chain, vec![Step::NotSaddr(options.pod_cidr), Step::Mark(MASQUERADE)]);
    if service.internal_local {
        choose(rules, service, chain, outside);
    } else {
        rules.rule(chain, vec![Step::Goto(inner.to_owned())]);
    }
}

/// Rules that translate to one of the endpoints.
fn choose(rules: &mut Ruleset, service: &Service, chain: &str, to: &[(&Endpoint, u16)]) {
    let Some(timeout) = service.affinity else {
        rules.rule(chain, vec![Step::Balance(to.iter().map(|(e, port)| (e.address, *port)).collect())]);
        return;
    };
    let mut chains = Vec::new();
    for (endpoint, port) in to {
        // The hash in the service chain's name begins with its kind: unique, and the same for the same endpoint.
        let short = chain.split('-').nth(1).unwrap_or_default();
        let kind = chain.split('-').next().unwrap_or_default();
        let one = format!("ep-{kind}-{short}-{}/{port}", endpoint.address);
        let set = format!("af-{kind}-{short}-{}/{port}", endpoint.address);
        rules
            .sets
            .insert(set.clone(), Set { key: vec![Field::Saddr], value: Value::None, timeout: Some(timeout), elements: BTreeMap::new() });
        rules.rule(chain, vec![Step::In(vec![Field::Saddr], set.clone()), Step::Goto(one.clone())]);
        rules.rule(&one, vec![Step::Remember(set)]);
        rules.rule(&one, vec![Step::Balance(vec![(endpoint.address, *port)])]);
        chains.push(one);
    }
    rules.rule(chain, vec![Step::BalanceChains(chains)]);
}

/// A name that is unique by its hash and readable by its rest.
fn chain_name(kind: &str, name: &str, protocol: u8) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(format!("{name}/{protocol}"));
    let mut full = format!("{kind}-");
    for byte in &digest[..5] {
        let _ = write!(full, "{byte:02x}");
    }
    let _ = write!(full, "-{name}");
    full.truncate(MAX_NAME);
    full
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::nft::{pack, text};
    use crate::services::view::Slice;

    fn options() -> Options {
        Options {
            node_name: "here".to_owned(),
            pod_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: Some("10.43.0.0/16".parse().unwrap()),
        }
    }

    fn service(node_port: u16) -> Service {
        let port = Port { name: "http".to_owned(), protocol: 6, port: 80, node_port };
        Service { cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 9)], ports: vec![port], ..Service::default() }
    }

    fn endpoint(last: u8, node: &str, ready: bool) -> Endpoint {
        Endpoint { address: Ipv4Addr::new(10, 42, 0, last), ready, draining: !ready, node: node.to_owned() }
    }

    fn known(service: Service, endpoints: Vec<Endpoint>) -> Known {
        let name = ("default".to_owned(), "web".to_owned());
        let slice = Slice { service: name.clone(), ports: vec![("http".to_owned(), 6, 8080)], endpoints };
        Known { services: [(name, service)].into(), slices: [(("default".to_owned(), "web-1".to_owned()), slice)].into() }
    }

    /// Rules of all chains of a kind, without names that are hashes.
    fn rules_of(rules: &Ruleset, kind: &str) -> Vec<String> {
        let chains = rules.chains.iter().filter(|(name, _)| name.starts_with(kind));
        chains.flat_map(|(_, chain)| chain.rules.iter().map(|rule| text(rule))).collect()
    }

    fn goto(rules: &Ruleset, map: &str) -> Vec<String> {
        let names = rules.sets[map].elements.values().map(|element| match element {
            Element::Goto(chain) => chain.split('-').next().unwrap().to_owned(),
            other => format!("{other:?}"),
        });
        names.collect()
    }

    #[test]
    fn a_cluster_ip_leads_to_its_ready_endpoints() {
        let endpoints = vec![endpoint(7, "here", true), endpoint(8, "there", true), endpoint(9, "here", false)];
        let (rules, _) = plan(&options(), &known(service(0), endpoints));
        let key = pack(&[Part::Address(Ipv4Addr::new(10, 43, 0, 9)), Part::Protocol(6), Part::Port(80)]);
        assert!(matches!(&rules.sets["service-ips"].elements[&key], Element::Goto(chain) if chain.ends_with("-default/web/http")));
        assert_eq!(rules_of(&rules, "svc-"), ["dnat to one of { 10.42.0.7:8080, 10.42.0.8:8080 }"]);
        assert_eq!(rules.sets["hairpin"].elements.len(), 1, "only the endpoint on this node can talk to itself here");
        assert!(rules.sets["node-ports"].elements.is_empty() && rules_of(&rules, "ext-").is_empty());
    }

    #[test]
    fn without_endpoints_it_refuses_and_with_only_draining_ones_they_serve() {
        let (rules, _) = plan(&options(), &known(service(30080), vec![]));
        assert_eq!(rules.sets["no-endpoints"].elements.len(), 1);
        assert!(rules.sets["service-ips"].elements.is_empty() && rules.sets["node-ports"].elements.is_empty());
        let (rules, _) = plan(&options(), &known(service(0), vec![endpoint(9, "here", false)]));
        assert_eq!(rules_of(&rules, "svc-"), ["dnat to one of { 10.42.0.9:8080 }"]);
    }

    #[test]
    fn from_outside_it_is_masqueraded_unless_only_local_endpoints_count() {
        let endpoints = vec![endpoint(7, "here", true), endpoint(8, "there", true)];
        let (rules, _) = plan(&options(), &known(service(30080), endpoints.clone()));
        assert_eq!(goto(&rules, "node-ports"), ["ext"]);
        let outside = rules_of(&rules, "ext-");
        assert_eq!(outside[0], "ip saddr != 10.42.0.0/16 meta mark set meta mark | 0x4000");
        assert!(outside[1].starts_with("goto svc-"));
        let mut local = service(30080);
        local.external_local = true;
        let (rules, _) = plan(&options(), &known(local.clone(), endpoints));
        let outside = rules_of(&rules, "ext-");
        assert!(outside[0].starts_with("ip saddr 10.42.0.0/16 goto svc-"));
        assert_eq!(outside[1], "dnat to one of { 10.42.0.7:8080 }");
        let (rules, _) = plan(&options(), &known(local, vec![endpoint(8, "there", true)]));
        assert_eq!(rules_of(&rules, "ext-")[1], "dnat to one of {  }", "nothing local: dropped");
    }

    #[test]
    fn a_client_stays_with_its_endpoint_when_asked() {
        let mut sticky = service(0);
        sticky.affinity = Some(std::time::Duration::from_secs(60));
        let (rules, _) = plan(&options(), &known(sticky, vec![endpoint(7, "here", true), endpoint(8, "there", true)]));
        let choice = rules_of(&rules, "svc-");
        assert_eq!(choice.len(), 3);
        assert!(choice[0].starts_with("ip saddr @af-svc-") && choice[0].contains("goto ep-svc-"));
        assert_eq!(rules_of(&rules, "ep-").len(), 4);
        assert_eq!(rules.sets.values().filter(|set| set.timeout.is_some()).count(), 2);
    }

    #[test]
    fn the_rules_that_every_packet_meets_do_not_grow_with_the_services() {
        let few = plan(&options(), &Known::default()).0;
        let mut many = Known::default();
        for i in 0..100 {
            let mut one = known(service(0), vec![endpoint(7, "here", true)]);
            many.services.insert(("default".to_owned(), format!("s{i}")), one.services.pop_first().unwrap().1);
        }
        let many = plan(&options(), &many).0;
        for chain in ["prerouting", "output", "postrouting", "filter-forward"] {
            assert_eq!(few.chains[chain], many.chains[chain]);
        }
    }

    #[test]
    fn flows_to_udp_endpoints_that_are_gone_are_named() {
        let udp = |endpoints: Vec<Endpoint>| {
            let mut all = known(service(0), endpoints);
            all.services.values_mut().for_each(|s| s.ports[0].protocol = UDP);
            all.slices.values_mut().for_each(|s| s.ports[0].1 = UDP);
            plan(&options(), &all).1
        };
        let service = (Ipv4Addr::new(10, 43, 0, 9), 80);
        let (none, one, two) = (udp(vec![]), udp(vec![endpoint(7, "here", true)]), udp(vec![endpoint(8, "here", true)]));
        assert_eq!(one.gone(&two), [(service, [(Ipv4Addr::new(10, 42, 0, 7), 8080)].into())].into());
        assert_eq!(none.gone(&one), [(service, [].into())].into());
        assert!(one.gone(&one).is_empty());
    }
}
