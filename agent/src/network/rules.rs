//! The pod network's nf_tables rules: masquerading and host ports. Pure: from pods to a ruleset.

use std::net::{IpAddr, Ipv4Addr};

use super::nft::{Element, Field, Part, Point, Ruleset, Step, Value};
use super::{Ipv4Net, Options};
use crate::runtime::{PortMapping, Protocol};

/// Name of the table.
pub(super) const TABLE: &str = "coracle-pods";
/// Before services (-100) see the packet.
const BEFORE_SERVICES: i32 = -105;
const SOURCE_NAT: i32 = 100;
const PORT: [Field; 2] = [Field::Protocol, Field::Dport];
const ADDRESS_PORT: [Field; 3] = [Field::Daddr, Field::Protocol, Field::Dport];

/// The number of a transport protocol.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The table for a node's pods with their host ports.
pub(super) fn ruleset(options: &Options, range: Ipv4Net, pods: &[(Ipv4Addr, &[PortMapping])]) -> Ruleset {
    let mut rules = Ruleset::new(TABLE);
    let inside = options.cluster_cidr.unwrap_or(range);
    let bridge = &options.bridge;
    rules.base("postrouting", true, Point::Postrouting, SOURCE_NAT);
    rules.rule("postrouting", vec![Step::Saddr(range), Step::NotDaddr(inside), Step::NotOut(bridge.clone()), Step::Masquerade]);
    // From 127.0.0.1 through a host port: a pod could not answer that address.
    let loopback = Ipv4Net::new(Ipv4Addr::LOCALHOST, 8);
    rules.rule("postrouting", vec![Step::Saddr(loopback), Step::Out(bridge.clone()), Step::Masquerade]);
    rules.set("hairpin", &[Field::Saddr, Field::Daddr], Value::None);
    rules.rule("postrouting", vec![Step::In(vec![Field::Saddr, Field::Daddr], "hairpin".to_owned()), Step::Masquerade]);

    rules.set("host-ports", &PORT, Value::Endpoint);
    rules.set("host-address-ports", &ADDRESS_PORT, Value::Endpoint);
    for (address, mapping) in pods.iter().flat_map(|(address, ports)| ports.iter().map(move |mapping| (*address, mapping))) {
        let to = Element::Endpoint(address, mapping.container_port);
        let port = [Part::Protocol(number(mapping.protocol)), Part::Port(mapping.host_port)];
        match mapping.host_ip {
            Some(IpAddr::V4(host)) if !host.is_unspecified() => {
                rules.element("host-address-ports", &[Part::Address(host), port[0], port[1]], to);
            }
            // An IPv6 address to listen on has no IPv4 packets.
            Some(IpAddr::V6(host)) if !host.is_unspecified() => continue,
            _ => rules.element("host-ports", &port, to),
        }
        rules.element("hairpin", &[Part::Address(address), Part::Address(address)], Element::Member);
    }
    for (chain, point) in [("prerouting", Point::Prerouting), ("output", Point::Output)] {
        rules.base(chain, true, point, BEFORE_SERVICES);
        rules.rule(chain, vec![Step::DnatMap(ADDRESS_PORT.to_vec(), "host-address-ports".to_owned())]);
        rules.rule(chain, vec![Step::LocalDestination, Step::DnatMap(PORT.to_vec(), "host-ports".to_owned())]);
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::super::nft::{pack, text};
    use super::*;

    #[test]
    fn what_leaves_the_pods_is_masqueraded_unless_it_goes_to_other_pods() {
        let options = Options { cluster_cidr: Some("10.42.0.0/16".parse().unwrap()), ..Options::default() };
        let rules = ruleset(&options, "10.42.3.0/24".parse().unwrap(), &[]);
        assert_eq!(
            text(&rules.chains["postrouting"].rules[0]),
            r#"ip saddr 10.42.3.0/24 ip daddr != 10.42.0.0/16 oifname != "coracle0" masquerade"#
        );
    }

    #[test]
    fn host_ports_go_to_the_pod_on_all_addresses_or_on_one() {
        let pod = Ipv4Addr::new(10, 42, 0, 5);
        let port = |host_port, host_ip| PortMapping { protocol: Protocol::Udp, container_port: 53, host_port, host_ip };
        let one = Ipv4Addr::new(192, 0, 2, 1);
        let ports = [port(5353, None), port(53, Some(one.into())), port(54, Some("::1".parse().unwrap()))];
        let rules = ruleset(&Options::default(), "10.42.0.0/24".parse().unwrap(), &[(pod, &ports)]);
        let all = &rules.sets["host-ports"].elements;
        assert_eq!(all.iter().collect::<Vec<_>>(), [(&pack(&[Part::Protocol(17), Part::Port(5353)]), &Element::Endpoint(pod, 53))]);
        let on_one = pack(&[Part::Address(one), Part::Protocol(17), Part::Port(53)]);
        assert_eq!(rules.sets["host-address-ports"].elements.keys().collect::<Vec<_>>(), [&on_one]);
        assert_eq!(rules.sets["hairpin"].elements.len(), 1);
    }
}
