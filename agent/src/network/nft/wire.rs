//! nf_tables messages (`linux/netfilter/nf_tables.h`): one function a message, one match arm a step.

use std::net::Ipv4Addr;

use super::super::cidr::Ipv4Net;
use super::super::netlink::{APPEND, CREATE, Message};
use super::{Chain, Element, Field, Set, Step, Value};

const NEWTABLE: u16 = 0xa00;
const DELTABLE: u16 = 0xa02;
const NEWCHAIN: u16 = 0xa03;
const DELCHAIN: u16 = 0xa05;
const NEWRULE: u16 = 0xa06;
const DELRULE: u16 = 0xa08;
const NEWSET: u16 = 0xa09;
const DELSET: u16 = 0xa0b;
const NEWSETELEM: u16 = 0xa0c;
const DELSETELEM: u16 = 0xa0e;
/// nfgenmsg: family IPv4, version 0, no resource.
const FAMILY: [u8; 4] = [2, 0, 0, 0];
const LIST_ELEM: u16 = 1;
/// Elements in one message: an attribute has at most 64 KiB.
const CHUNK: usize = 400;

const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
/// `NFT_DATA_VERDICT` as a type.
const TYPE_VERDICT: u32 = 0xffff_ff00;
/// Types of `nft`, for its listings; the kernel does not look at them.
const TYPE_INTEGER: u32 = 4;
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
/// Sources remembered by one set.
const MAX_REMEMBERED: u32 = 65536;

const VERDICT_REGISTER: u32 = 0;
/// The first of sixteen registers of four bytes.
const R0: u32 = 8;
const R1: u32 = 9;

const DROP: u32 = 0;
const GOTO: u32 = -4_i32 as u32;

fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags).raw(&FAMILY)
}

/// Makes a table.
pub(super) fn new_table(name: &str) -> Message {
    let mut m = message(NEWTABLE, CREATE);
    m.text(1, name).be32(2, 0);
    m
}

/// Removes a table with all that is in it.
pub(super) fn delete_table(name: &str) -> Message {
    let mut m = message(DELTABLE, 0);
    m.text(1, name);
    m
}

/// Makes a chain.
pub(super) fn new_chain(table: &str, name: &str, chain: &Chain) -> Message {
    let mut m = message(NEWCHAIN, CREATE);
    m.text(1, table).text(3, name);
    if let Some(hook) = chain.hook {
        m.nest(4, |m| {
            m.be32(1, hook.point as u32).attr(2, &hook.priority.to_be_bytes());
        });
        m.be32(5, 1).text(7, if hook.nat { "nat" } else { "filter" });
    }
    m
}

/// Removes an unused chain.
pub(super) fn delete_chain(table: &str, name: &str) -> Message {
    let mut m = message(DELCHAIN, 0);
    m.text(1, table).text(3, name);
    m
}

/// Removes all rules of a chain.
pub(super) fn flush_chain(table: &str, chain: &str) -> Message {
    let mut m = message(DELRULE, 0);
    m.text(1, table).text(2, chain);
    m
}

/// Makes a set or map.
pub(super) fn new_set(table: &str, name: &str, set: &Set, id: u32) -> Message {
    let mut flags = 0;
    if set.value != Value::None {
        flags |= SET_MAP;
    }
    if set.timeout.is_some() {
        flags |= SET_TIMEOUT | SET_EVAL;
    }
    let key_type = set.key.iter().fold(0, |acc, field| (acc << 6) | type_of(*field));
    let mut m = set_message(table, name, flags, key_type, set.key.len(), set.value, id);
    if let Some(timeout) = set.timeout {
        m.nest(9, |m| {
            m.be32(1, MAX_REMEMBERED);
        });
        m.attr(11, &u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
    }
    m
}

fn set_message(table: &str, name: &str, flags: u32, key_type: u32, fields: usize, value: Value, id: u32) -> Message {
    let mut m = message(NEWSET, CREATE);
    // A key of one small field is as long as the field; of several, each has four bytes.
    let key_length = match (fields, key_type) {
        (1, TYPE_PROTOCOL) => 1,
        (1, TYPE_SERVICE) => 2,
        (n, _) => u32::try_from(n * 4).unwrap_or(4),
    };
    m.text(1, table).text(2, name).be32(3, flags).be32(4, key_type).be32(5, key_length);
    match value {
        Value::None => {}
        Value::Verdict => {
            m.be32(6, TYPE_VERDICT).be32(7, 16);
        }
        Value::Endpoint => {
            m.be32(6, (TYPE_ADDRESS << 6) | TYPE_SERVICE).be32(7, 8);
        }
    }
    m.be32(10, id);
    if key_type == TYPE_INTEGER {
        // A note for `nft`, which would list the keys in the wrong byte order: type 0 (order of the key), 4 bytes, 1 (the machine's).
        m.attr(13, &[&[0, 4][..], &1_u32.to_ne_bytes()].concat());
    }
    m
}

/// Removes an unused set.
pub(super) fn delete_set(table: &str, name: &str) -> Message {
    let mut m = message(DELSET, 0);
    m.text(1, table).text(2, name);
    m
}

/// Adds elements.
pub(super) fn new_elements(table: &str, set: &str, elements: &[(&[u8], &Element)]) -> Vec<Message> {
    elements.chunks(CHUNK).map(|chunk| element_message(NEWSETELEM, CREATE, table, set, None, chunk)).collect()
}

/// Removes elements.
pub(super) fn delete_elements(table: &str, set: &str, elements: &[(&[u8], &Element)]) -> Vec<Message> {
    elements.chunks(CHUNK).map(|chunk| element_message(DELSETELEM, 0, table, set, None, chunk)).collect()
}

fn element_message(kind: u16, flags: u16, table: &str, set: &str, id: Option<u32>, elements: &[(&[u8], &Element)]) -> Message {
    let mut m = message(kind, flags);
    m.text(1, table).text(2, set);
    if let Some(id) = id {
        m.be32(4, id);
    }
    m.nest(3, |m| {
        for (key, element) in elements {
            m.nest(LIST_ELEM, |m| {
                m.nest(1, |m| {
                    m.attr(1, key);
                });
                match element {
                    Element::Member => {}
                    Element::Goto(chain) => {
                        m.nest(2, |m| verdict(m, GOTO, Some(chain)));
                    }
                    Element::Endpoint(address, port) => {
                        m.nest(2, |m| {
                            m.attr(1, &endpoint(*address, *port));
                        });
                    }
                }
            });
        }
    });
    m
}

fn endpoint(address: Ipv4Addr, port: u16) -> [u8; 8] {
    let (a, p) = (address.octets(), port.to_be_bytes());
    [a[0], a[1], a[2], a[3], p[0], p[1], 0, 0]
}

fn verdict(m: &mut Message, code: u32, chain: Option<&str>) {
    m.nest(2, |m| {
        m.be32(1, code);
        if let Some(chain) = chain {
            m.text(2, chain);
        }
    });
}

fn type_of(field: Field) -> u32 {
    match field {
        Field::Saddr | Field::Daddr => TYPE_ADDRESS,
        Field::Protocol => TYPE_PROTOCOL,
        Field::Dport => TYPE_SERVICE,
    }
}

/// Appends a rule to a chain; maps that only it uses come before it.
pub(super) fn new_rule(table: &str, chain: &str, steps: &[Step], next_id: &mut u32) -> Vec<Message> {
    let mut out = Vec::new();
    let mut rule = message(NEWRULE, CREATE | APPEND);
    rule.text(1, table).text(2, chain);
    let mut maps = Vec::new();
    for step in steps {
        if let Some((value, elements)) = choices(step) {
            let id = *next_id;
            *next_id += 1;
            out.push(set_message(table, ANONYMOUS, SET_ANONYMOUS | SET_CONSTANT | SET_MAP, TYPE_INTEGER, 1, value, id));
            let keys: Vec<[u8; 4]> = (0..elements.len()).map(|i| u32::try_from(i).unwrap_or(0).to_ne_bytes()).collect();
            let pairs: Vec<(&[u8], &Element)> = keys.iter().map(<[u8; 4]>::as_slice).zip(&elements).collect();
            out.extend(pairs.chunks(CHUNK).map(|chunk| element_message(NEWSETELEM, CREATE, table, ANONYMOUS, Some(id), chunk)));
            maps.push(id);
        }
    }
    let mut maps = maps.into_iter();
    rule.nest(4, |m| {
        for step in steps {
            encode(m, step, || maps.next().unwrap_or(0));
        }
    });
    out.push(rule);
    out
}

/// The kernel gives anonymous maps a number in place of `%d`.
const ANONYMOUS: &str = "__map%d";

/// What a random choice is among, when there is more than one.
fn choices(step: &Step) -> Option<(Value, Vec<Element>)> {
    match step {
        Step::Balance(to) if to.len() > 1 => {
            Some((Value::Endpoint, to.iter().map(|(address, port)| Element::Endpoint(*address, *port)).collect()))
        }
        Step::BalanceChains(to) if to.len() > 1 => Some((Value::Verdict, to.iter().cloned().map(Element::Goto).collect())),
        _ => None,
    }
}

fn encode(m: &mut Message, step: &Step, map: impl FnOnce() -> u32) {
    match step {
        Step::Saddr(net) => compare_net(m, Field::Saddr, *net, true),
        Step::NotSaddr(net) => compare_net(m, Field::Saddr, *net, false),
        Step::Daddr(net) => compare_net(m, Field::Daddr, *net, true),
        Step::NotDaddr(net) => compare_net(m, Field::Daddr, *net, false),
        Step::Out(name) => compare_out(m, name, true),
        Step::NotOut(name) => compare_out(m, name, false),
        Step::LocalDestination => {
            // fib: the type of the destination address, into R0.
            expression(m, "fib", |m| {
                m.be32(1, R0).be32(2, 3).be32(3, 2);
            });
            compare(m, R0, true, &2_u32.to_ne_bytes());
        }
        Step::NewConnection => {
            expression(m, "ct", |m| {
                m.be32(1, R0).be32(2, 0);
            });
            bitwise(m, R0, 8_u32.to_ne_bytes(), [0; 4]);
            compare(m, R0, false, &[0; 4]);
        }
        Step::Marked(bits) => {
            mark(m, true);
            bitwise(m, R0, bits.to_ne_bytes(), [0; 4]);
            compare(m, R0, true, &bits.to_ne_bytes());
        }
        Step::Mark(bits) => {
            mark(m, true);
            bitwise(m, R0, (!bits).to_ne_bytes(), bits.to_ne_bytes());
            mark(m, false);
        }
        Step::Unmark(bits) => {
            mark(m, true);
            bitwise(m, R0, (!bits).to_ne_bytes(), [0; 4]);
            mark(m, false);
        }
        Step::In(fields, set) => {
            load_key(m, fields);
            lookup(m, set, None, None);
        }
        Step::Vmap(fields, set) => {
            load_key(m, fields);
            lookup(m, set, Some(VERDICT_REGISTER), None);
        }
        Step::DnatMap(fields, set) => {
            load_key(m, fields);
            lookup(m, set, Some(R0), None);
            dnat(m);
        }
        Step::Balance(to) => balance(m, to, map),
        Step::BalanceChains(to) => balance_chains(m, to, map),
        Step::Remember(set) => {
            load(m, Field::Saddr, R0);
            // Operation 1: add, or restart the timeout of what is there.
            expression(m, "dynset", |m| {
                m.text(1, set).be32(3, 1).be32(4, R0);
            });
        }
        Step::Masquerade => expression(m, "masq", |_| {}),
        Step::Reject => expression(m, "reject", |m| {
            m.be32(1, 0).attr(2, &[3]);
        }),
        Step::Goto(chain) => go(m, GOTO, Some(chain)),
    }
}

fn expression(m: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    m.nest(LIST_ELEM, |m| {
        m.text(1, name).nest(2, fill);
    });
}

fn load(m: &mut Message, field: Field, register: u32) {
    let (base, offset, length) = match field {
        Field::Saddr => (1, 12, 4),
        Field::Daddr => (1, 16, 4),
        Field::Dport => (2, 2, 2),
        Field::Protocol => {
            return expression(m, "meta", |m| {
                m.be32(1, register).be32(2, 16);
            });
        }
    };
    expression(m, "payload", |m| {
        m.be32(1, register).be32(2, base).be32(3, offset).be32(4, length);
    });
}

fn load_key(m: &mut Message, fields: &[Field]) {
    for (register, field) in (R0..).zip(fields) {
        load(m, *field, register);
    }
}

fn compare(m: &mut Message, register: u32, equal: bool, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.be32(1, register).be32(2, u32::from(!equal)).nest(3, |m| {
            m.attr(1, value);
        });
    });
}

fn bitwise(m: &mut Message, register: u32, mask: [u8; 4], xor: [u8; 4]) {
    expression(m, "bitwise", |m| {
        m.be32(1, register).be32(2, register).be32(3, 4);
        m.nest(4, |m| {
            m.attr(1, &mask);
        });
        m.nest(5, |m| {
            m.attr(1, &xor);
        });
    });
}

fn compare_net(m: &mut Message, field: Field, net: Ipv4Net, equal: bool) {
    load(m, field, R0);
    if net.prefix() < 32 {
        bitwise(m, R0, net.mask().octets(), [0; 4]);
    }
    compare(m, R0, equal, &net.network().octets());
}

fn compare_out(m: &mut Message, name: &str, equal: bool) {
    expression(m, "meta", |m| {
        m.be32(1, R0).be32(2, 7);
    });
    let mut padded = [0; 16];
    let length = name.len().min(15);
    padded[..length].copy_from_slice(&name.as_bytes()[..length]);
    compare(m, R0, equal, &padded);
}

/// Loads the packet's mark into R0, or stores it from there.
fn mark(m: &mut Message, read: bool) {
    expression(m, "meta", |m| {
        m.be32(2, 3).be32(if read { 1 } else { 3 }, R0);
    });
}

fn lookup(m: &mut Message, set: &str, to: Option<u32>, id: Option<u32>) {
    expression(m, "lookup", |m| {
        m.text(1, set).be32(2, R0);
        if let Some(to) = to {
            m.be32(3, to);
        }
        if let Some(id) = id {
            m.be32(4, id);
        }
    });
}

/// Translates the destination to the address in R0 and the port in R1.
fn dnat(m: &mut Message) {
    expression(m, "nat", |m| {
        m.be32(1, 1).be32(2, 2).be32(3, R0).be32(5, R1);
    });
}

fn balance(m: &mut Message, to: &[(Ipv4Addr, u16)], map: impl FnOnce() -> u32) {
    match to {
        [] => go(m, DROP, None),
        [(address, port)] => {
            immediate(m, R0, &address.octets());
            immediate(m, R1, &port.to_be_bytes());
            dnat(m);
        }
        many => {
            random(m, many.len());
            lookup(m, ANONYMOUS, Some(R0), Some(map()));
            dnat(m);
        }
    }
}

fn balance_chains(m: &mut Message, to: &[String], map: impl FnOnce() -> u32) {
    match to {
        [] => go(m, DROP, None),
        [one] => go(m, GOTO, Some(one)),
        many => {
            random(m, many.len());
            lookup(m, ANONYMOUS, Some(VERDICT_REGISTER), Some(map()));
        }
    }
}

fn random(m: &mut Message, below: usize) {
    expression(m, "numgen", |m| {
        m.be32(1, R0).be32(2, u32::try_from(below).unwrap_or(1)).be32(3, 1).be32(4, 0);
    });
}

fn immediate(m: &mut Message, register: u32, value: &[u8]) {
    expression(m, "immediate", |m| {
        m.be32(1, register).nest(2, |m| {
            m.attr(1, value);
        });
    });
}

fn go(m: &mut Message, code: u32, chain: Option<&str>) {
    expression(m, "immediate", |m| {
        m.be32(1, VERDICT_REGISTER).nest(2, |m| verdict(m, code, chain));
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::netlink::attributes;
    use super::*;

    fn names(rule: &Message) -> Vec<String> {
        let attrs: Vec<_> = attributes(&rule.payload()[4..]).collect();
        let list = attrs.iter().find(|(kind, _)| *kind == 4).unwrap().1;
        let name = |expression: &[u8]| attributes(expression).find(|(k, _)| *k == 1).map(|(_, v)| v.to_vec()).unwrap();
        attributes(list).map(|(_, e)| String::from_utf8(name(e)).unwrap().trim_end_matches('\0').to_owned()).collect()
    }

    #[test]
    fn a_choice_among_many_brings_its_map_and_one_alone_needs_none() {
        let one = new_rule("t", "c", &[Step::Balance(vec![(Ipv4Addr::LOCALHOST, 80)])], &mut 1);
        assert_eq!(one.len(), 1);
        assert_eq!(names(&one[0]), ["immediate", "immediate", "nat"]);
        let mut id = 7;
        let many = new_rule("t", "c", &[Step::Balance(vec![(Ipv4Addr::LOCALHOST, 80), (Ipv4Addr::LOCALHOST, 81)])], &mut id);
        assert_eq!((many.len(), id), (3, 8));
        assert_eq!(names(&many[2]), ["numgen", "lookup", "nat"]);
    }

    #[test]
    fn whole_addresses_are_compared_without_a_mask() {
        let rule = |net: &str| names(new_rule("t", "c", &[Step::Daddr(net.parse().unwrap())], &mut 1).last().unwrap());
        assert_eq!(rule("10.0.0.1/32"), ["payload", "cmp"]);
        assert_eq!(rule("10.0.0.0/8"), ["payload", "bitwise", "cmp"]);
    }
}
