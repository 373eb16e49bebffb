//! nf_tables rulesets as data, and the one way they get into the kernel.
//!
//! A [`Ruleset`] is the whole content of one table of family `ip`. Whoever owns a table computes the ruleset it should have;
//! [`Table::apply`] finds what changed and sends that as one transaction, so that packets see the old rules or the new ones and
//! nothing between. The encoding is our own (kernel header `linux/netfilter/nf_tables.h`): no `nft` program is needed.

mod diff;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::cidr::Ipv4Net;
use super::netlink::Socket;

/// The content of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// Name of the table.
    pub(crate) table: String,
    /// Sets and maps by name.
    pub(crate) sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub(crate) chains: BTreeMap<String, Chain>,
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    /// What is looked up.
    pub(crate) key: Vec<Field>,
    /// What is found.
    pub(crate) value: Value,
    /// Filled by rules; an element goes away after this long unused.
    pub(crate) timeout: Option<Duration>,
    /// Elements by packed key.
    pub(crate) elements: BTreeMap<Vec<u8>, Element>,
}

/// What a set maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing: a set.
    None,
    /// A chain to go to.
    Verdict,
    /// An address and a port.
    Endpoint,
}

/// What one key maps to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Element {
    /// It is a member.
    Member,
    /// Go on in this chain.
    Goto(String),
    /// This address and port.
    Endpoint(Ipv4Addr, u16),
}

/// A part of a packet, as part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// Source address.
    Saddr,
    /// Destination address.
    Daddr,
    /// Transport protocol.
    Protocol,
    /// Destination port.
    Dport,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Where packets enter; `None`: only from other chains.
    pub(crate) hook: Option<Hook>,
    /// Rules in order.
    pub(crate) rules: Vec<Vec<Step>>,
}

/// A place in the path of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Address translation or filter.
    pub(crate) nat: bool,
    /// The place.
    pub(crate) point: Point,
    /// Order among chains at the same place; lower is earlier.
    pub(crate) priority: i32,
}

/// Netfilter hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Just received.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// For another host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// One condition or action of a rule. A condition that does not hold ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The source is in a network.
    Saddr(Ipv4Net),
    /// The source is not in it.
    NotSaddr(Ipv4Net),
    /// The destination is in a network.
    Daddr(Ipv4Net),
    /// The destination is not in it.
    NotDaddr(Ipv4Net),
    /// The packet leaves by this interface.
    Out(String),
    /// It leaves by another.
    NotOut(String),
    /// The destination is one of this host's addresses.
    LocalDestination,
    /// First packet of a connection.
    NewConnection,
    /// All bits of this mark are set.
    Marked(u32),
    /// Set bits of the mark.
    Mark(u32),
    /// Clear bits of the mark.
    Unmark(u32),
    /// The key is in a set.
    In(Vec<Field>, String),
    /// Go where a map leads; not found: next rule.
    Vmap(Vec<Field>, String),
    /// Translate the destination to what a map has; not found: next rule.
    DnatMap(Vec<Field>, String),
    /// Translate the destination to one of these, at random.
    Balance(Vec<(Ipv4Addr, u16)>),
    /// Go on in one of these chains, at random.
    BalanceChains(Vec<String>),
    /// Note the source address in a set with a timeout.
    Remember(String),
    /// Translate the source to the address of the outgoing interface.
    Masquerade,
    /// Refuse with ICMP port unreachable.
    Reject,
    /// Go on in a chain and do not come back.
    Goto(String),
}

impl Ruleset {
    /// An empty table.
    pub(crate) fn new(table: &str) -> Self {
        Self { table: table.to_owned(), ..Self::default() }
    }

    /// Adds a rule to a chain, making the chain.
    pub(crate) fn rule(&mut self, chain: &str, steps: Vec<Step>) {
        self.chains.entry(chain.to_owned()).or_default().rules.push(steps);
    }

    /// Makes a chain that packets enter at a hook.
    pub(crate) fn base(&mut self, chain: &str, nat: bool, point: Point, priority: i32) {
        self.chains.entry(chain.to_owned()).or_default().hook = Some(Hook { nat, point, priority });
    }

    /// Makes a set or map.
    pub(crate) fn set(&mut self, name: &str, key: &[Field], value: Value) {
        self.sets.insert(name.to_owned(), Set { key: key.to_vec(), value, timeout: None, elements: BTreeMap::new() });
    }

    /// Adds an element to a set made before.
    pub(crate) fn element(&mut self, set: &str, key: &[Part], element: Element) {
        if let Some(set) = self.sets.get_mut(set) {
            set.elements.insert(pack(key), element);
        }
    }
}

/// A value of one field in a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// An address.
    Address(Ipv4Addr),
    /// A protocol number.
    Protocol(u8),
    /// A port.
    Port(u16),
}

/// A key as the kernel compares it: several fields on four bytes each, one alone as it is.
pub(crate) fn pack(parts: &[Part]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parts.len() * 4);
    match parts {
        [Part::Protocol(p)] => return vec![*p],
        [Part::Port(p)] => return p.to_be_bytes().to_vec(),
        _ => {}
    }
    for part in parts {
        match part {
            Part::Address(a) => key.extend_from_slice(&a.octets()),
            Part::Protocol(p) => key.extend_from_slice(&[*p, 0, 0, 0]),
            Part::Port(p) => {
                key.extend_from_slice(&p.to_be_bytes());
                key.extend_from_slice(&[0, 0]);
            }
        }
    }
    key
}

/// A table in the kernel and what was last written there.
#[derive(Debug, Default)]
pub(crate) struct Table {
    applied: Option<Ruleset>,
}

impl Table {
    /// Makes the kernel's table equal to the ruleset, in one transaction. The first call, and one after a failure, replaces whatever is
    /// there. Blocks for microseconds.
    ///
    /// # Errors
    /// What the kernel said, with the rule it said it of.
    pub(crate) fn apply(&mut self, wanted: Ruleset) -> io::Result<()> {
        if self.applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let mut result = send(diff::changes(self.applied.as_ref(), &wanted));
        if result.is_err() && self.applied.is_some() {
            // Somebody else changed the table: write all of it.
            result = send(diff::changes(None, &wanted));
        }
        self.applied = result.is_ok().then_some(wanted);
        result
    }
}

/// Removes a table; absent is fine.
pub(crate) fn remove_table(name: &str) -> io::Result<()> {
    send(vec![diff::Change::new("table", wire::new_table(name)), diff::Change::new("table", wire::delete_table(name))])
}

fn send(changes: Vec<diff::Change>) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    let (names, messages): (Vec<_>, Vec<_>) = changes.into_iter().map(|change| (change.what, change.message)).unzip();
    socket.transaction(messages).map_err(|(index, error)| {
        let what = index.and_then(|i| names.get(i)).map_or("transaction", String::as_str);
        io::Error::new(error.kind(), format!("nf_tables refused {what}: {error}"))
    })
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Saddr => "ip saddr",
            Field::Daddr => "ip daddr",
            Field::Protocol => "meta l4proto",
            Field::Dport => "th dport",
        })
    }
}

/// Close to what `nft` prints; for messages and tests.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |fields: &[Field]| fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ");
        match self {
            Step::Saddr(net) => write!(f, "ip saddr {net}"),
            Step::NotSaddr(net) => write!(f, "ip saddr != {net}"),
            Step::Daddr(net) => write!(f, "ip daddr {net}"),
            Step::NotDaddr(net) => write!(f, "ip daddr != {net}"),
            Step::Out(name) => write!(f, "oifname {name:?}"),
            Step::NotOut(name) => write!(f, "oifname != {name:?}"),
            Step::LocalDestination => f.write_str("fib daddr type local"),
            Step::NewConnection => f.write_str("ct state new"),
            Step::Marked(bits) => write!(f, "meta mark & {bits:#x} == {bits:#x}"),
            Step::Mark(bits) => write!(f, "meta mark set meta mark | {bits:#x}"),
            Step::Unmark(bits) => write!(f, "meta mark set meta mark & ~{bits:#x}"),
            Step::In(fields, set) => write!(f, "{} @{set}", key(fields)),
            Step::Vmap(fields, map) => write!(f, "{} vmap @{map}", key(fields)),
            Step::DnatMap(fields, map) => write!(f, "dnat ip to {} map @{map}", key(fields)),
            Step::Balance(to) => {
                let to: Vec<_> = to.iter().map(|(a, p)| format!("{a}:{p}")).collect();
                write!(f, "dnat to one of {{ {} }}", to.join(", "))
            }
            Step::BalanceChains(to) => write!(f, "goto one of {{ {} }}", to.join(", ")),
            Step::Remember(set) => write!(f, "update @{set} {{ ip saddr }}"),
            Step::Masquerade => f.write_str("masquerade"),
            Step::Reject => f.write_str("reject"),
            Step::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// A rule as text.
pub(crate) fn text(rule: &[Step]) -> String {
    rule.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
