//! Ending UDP flows whose translation is no longer right: connection tracking would send their datagrams to the old place for as long as
//! they keep coming.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use super::Address;
use crate::network::netlink::{DUMP, Message, Socket, attributes};

/// ctnetlink, message types get and delete.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const FAMILY: [u8; 4] = [2, 0, 0, 0];
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const UDP: u8 = 17;

/// Ends the flows to each service that lead to one of its endpoints; with none given, those that were not translated at all.
pub(super) fn forget(services: &BTreeMap<Address, BTreeSet<Address>>) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    let flows = socket.query(Message::new(GET, DUMP).raw(&FAMILY))?;
    for flow in flows {
        let Some(body) = flow.get(4..) else { continue };
        let part = |wanted: u16| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let (Some(original), Some(reply)) = (part(ORIGINAL), part(REPLY)) else { continue };
        let (Some((protocol, _, to)), Some((_, from, _))) = (tuple(original), tuple(reply)) else { continue };
        let Some(gone) = services.get(&to).filter(|_| protocol == UDP) else { continue };
        let stale = if gone.is_empty() { from == to } else { gone.contains(&from) };
        if stale {
            let mut message = Message::new(DELETE, 0).raw(&FAMILY);
            // The same bytes identify the flow.
            message.attr(ORIGINAL | 0x8000, original);
            match socket.request(message) {
                // It ended by itself.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Protocol, source and destination of one direction.
fn tuple(bytes: &[u8]) -> Option<(u8, Address, Address)> {
    let (_, ip) = attributes(bytes).find(|(kind, _)| *kind == 1)?;
    let (_, proto) = attributes(bytes).find(|(kind, _)| *kind == 2)?;
    let address = |wanted: u16| {
        let (_, value) = attributes(ip).find(|(kind, _)| *kind == wanted)?;
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?))
    };
    let port = |wanted: u16| {
        let (_, value) = attributes(proto).find(|(kind, _)| *kind == wanted)?;
        Some(u16::from_be_bytes(value.try_into().ok()?))
    };
    let (_, number) = attributes(proto).find(|(kind, _)| *kind == 1)?;
    Some((*number.first()?, (address(1)?, port(2)?), (address(2)?, port(3)?)))
}
