//! Links, addresses and routes over rtnetlink, in the network namespace of the calling thread.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cidr::Ipv4Net;
use super::netlink::{ACK, CREATE, EXCL, Message, REPLACE, Socket, attributes};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const BRPORT_HAIRPIN: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const TABLE_MAIN: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const ROUTE_UNICAST: u8 = 1;
const PROTOCOL_BOOT: u8 = 3;

/// Both ends of a pod's cable.
pub(super) struct Veth<'a> {
    /// Name on the host, at most 15 bytes.
    pub(super) host: &'a str,
    /// Name in the pod.
    pub(super) pod: &'a str,
    /// Index of the bridge.
    pub(super) bridge: u32,
    /// Largest packet.
    pub(super) mtu: u32,
    /// Hardware address in the pod.
    pub(super) mac: [u8; 6],
    /// The pod's network namespace.
    pub(super) netns: BorrowedFd<'a>,
}

/// A connection to rtnetlink.
pub(super) struct Links(Socket);

impl Links {
    /// Opens it in the namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Socket::route()?))
    }

    /// Index of a link, `None` when there is none of that name.
    pub(super) fn index(&mut self, name: &str) -> io::Result<Option<u32>> {
        let mut message = Message::new(GETLINK, 0).raw(&link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        match self.0.query(message) {
            Ok(found) => Ok(found.first().and_then(|link| Some(u32::from_ne_bytes(link.get(4..8)?.try_into().ok()?)))),
            Err(e) if e.raw_os_error() == Some(NO_DEVICE) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// MTU of a link.
    pub(super) fn mtu(&mut self, index: u32) -> io::Result<Option<u32>> {
        let found = self.0.query(Message::new(GETLINK, 0).raw(&link_header(0, index, 0)))?;
        let attribute = found.first().and_then(|link| attributes(link.get(16..)?).find(|(kind, _)| *kind == IFLA_MTU));
        Ok(attribute.and_then(|(_, value)| Some(u32::from_ne_bytes(value.try_into().ok()?))))
    }

    /// Makes a bridge.
    pub(super) fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
        let mut message = Message::new(NEWLINK, CREATE | EXCL).raw(&link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &mac).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "bridge");
        });
        self.0.request(message)
    }

    /// Makes a veth pair with one end on the bridge and the other in the pod.
    pub(super) fn add_veth(&mut self, veth: &Veth<'_>) -> io::Result<()> {
        let mut message = Message::new(NEWLINK, CREATE | EXCL).raw(&link_header(0, 0, IFF_UP));
        message.text(IFLA_IFNAME, veth.host).u32(IFLA_MTU, veth.mtu).u32(IFLA_MASTER, veth.bridge).nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    *m = m.clone().raw(&link_header(0, 0, 0));
                    m.text(IFLA_IFNAME, veth.pod).u32(IFLA_MTU, veth.mtu).attr(IFLA_ADDRESS, &veth.mac);
                    m.attr(IFLA_NET_NS_FD, &veth.netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.0.request(message)
    }

    /// Lets a bridge port send a packet back to where it came from.
    pub(super) fn hairpin(&mut self, index: u32) -> io::Result<()> {
        let mut message = Message::new(SETLINK, 0).raw(&link_header(AF_BRIDGE, index, 0));
        message.nest(IFLA_PROTINFO, |m| {
            m.attr(BRPORT_HAIRPIN, &[1]);
        });
        self.0.request(message)
    }

    /// Brings a link up.
    pub(super) fn up(&mut self, index: u32) -> io::Result<()> {
        self.0.request(Message::new(NEWLINK, 0).raw(&link_header(0, index, IFF_UP)))
    }

    /// Removes a link; absent is fine.
    pub(super) fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut message = Message::new(DELLINK, 0).raw(&link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        match self.0.request(message) {
            Err(e) if e.raw_os_error() != Some(NO_DEVICE) => Err(e),
            _ => Ok(()),
        }
    }

    /// Names of all links.
    pub(super) fn names(&mut self) -> io::Result<Vec<String>> {
        let found = self.0.query(Message::new(GETLINK, super::netlink::DUMP).raw(&link_header(0, 0, 0)))?;
        let name = |link: &Vec<u8>| {
            let (_, value) = attributes(link.get(16..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
            Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
        };
        Ok(found.iter().filter_map(name).collect())
    }

    /// Gives a link an address; having it already is fine.
    pub(super) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut header = [AF_INET, prefix, 0, SCOPE_UNIVERSE, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(NEWADDR, CREATE | REPLACE).raw(&header);
        message.attr(IFA_LOCAL, &address.octets()).attr(IFA_ADDRESS, &address.octets());
        self.0.request(message)
    }

    /// A route to a network that is directly on the link, or behind a gateway on it. Replaces one to the same network.
    pub(super) fn add_route(&mut self, to: Ipv4Net, index: u32, gateway: Option<Ipv4Addr>) -> io::Result<()> {
        self.0.request(route(NEWROUTE, CREATE | REPLACE | ACK, to, index, gateway))
    }

    /// Removes such a route; absent is fine.
    pub(super) fn delete_route(&mut self, to: Ipv4Net, index: u32) -> io::Result<()> {
        match self.0.request(route(DELROUTE, ACK, to, index, None)) {
            Err(e) if e.raw_os_error() != Some(NO_PROCESS) => Err(e),
            _ => Ok(()),
        }
    }

    /// The link of the default route.
    pub(super) fn default_route(&mut self) -> io::Result<Option<u32>> {
        let found = self.0.query(Message::new(GETROUTE, super::netlink::DUMP).raw(&[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))?;
        let link = |route: &Vec<u8>| {
            let (prefix, table, kind) = (*route.get(1)?, *route.get(4)?, *route.get(7)?);
            if prefix != 0 || table != TABLE_MAIN || kind != ROUTE_UNICAST {
                return None;
            }
            let (_, value) = attributes(route.get(12..)?).find(|(kind, _)| *kind == RTA_OIF)?;
            Some(u32::from_ne_bytes(value.try_into().ok()?))
        };
        Ok(found.iter().find_map(link))
    }
}

/// `ENODEV`.
const NO_DEVICE: i32 = 19;
/// `ESRCH`.
const NO_PROCESS: i32 = 3;

fn link_header(family: u8, index: u32, up: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&up.to_ne_bytes());
    header[12..16].copy_from_slice(&up.to_ne_bytes());
    header
}

fn route(kind: u16, flags: u16, to: Ipv4Net, index: u32, gateway: Option<Ipv4Addr>) -> Message {
    let scope = if gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
    let header = [AF_INET, to.prefix(), 0, 0, TABLE_MAIN, PROTOCOL_BOOT, scope, ROUTE_UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(kind, flags).raw(&header);
    if to.prefix() > 0 {
        message.attr(RTA_DST, &to.network().octets());
    }
    if let Some(gateway) = gateway {
        message.attr(RTA_GATEWAY, &gateway.octets());
    }
    message.u32(RTA_OIF, index);
    message
}
