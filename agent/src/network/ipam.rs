//! Which pod has which address. The truth is with the pods (each sandbox keeps its own address on disk); this is the index over it, so
//! nothing leaks: what no sandbox has is free.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::Ipv4Addr;

use super::cidr::Ipv4Net;

/// Addresses of one node's pods. The first is the gateway's; network and broadcast addresses are not given out.
#[derive(Debug)]
pub(super) struct Pool {
    range: Ipv4Net,
    taken: BTreeMap<Ipv4Addr, String>,
    next: u64,
}

impl Pool {
    /// A pool of a range without any taken.
    pub(super) fn new(range: Ipv4Net) -> Self {
        Self { range, taken: BTreeMap::new(), next: 2 }
    }

    /// The gateway: the first usable address.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.range.at(1).unwrap_or(self.range.network())
    }

    /// The range.
    pub(super) fn range(&self) -> Ipv4Net {
        self.range
    }

    /// Notes an address that a sandbox has from before. An address outside of the range is of no interest.
    pub(super) fn restore(&mut self, owner: &str, address: Ipv4Addr) {
        if let Some(offset) = self.range.offset(address) {
            self.taken.insert(address, owner.to_owned());
            self.next = self.next.max(offset + 1);
        }
    }

    /// Takes the next free address, going round so that one just freed is not given to somebody else at once. `None` when all are taken.
    pub(super) fn take(&mut self, owner: &str) -> Option<Ipv4Addr> {
        let last = self.range.size().checked_sub(2)?;
        let count = last.checked_sub(1)?;
        for i in 0..count {
            let offset = 2 + (self.next.max(2) - 2 + i) % count;
            let address = self.range.at(offset)?;
            if let Entry::Vacant(free) = self.taken.entry(address) {
                free.insert(owner.to_owned());
                self.next = offset + 1;
                return Some(address);
            }
        }
        None
    }

    /// Frees whatever an owner has.
    pub(super) fn release(&mut self, owner: &str) {
        self.taken.retain(|_, holder| holder != owner);
    }

    /// How many are taken.
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_and_freed_ones_come_back_last() {
        let mut pool = Pool::new("10.0.0.0/29".parse().unwrap());
        assert_eq!(pool.gateway(), Ipv4Addr::new(10, 0, 0, 1));
        let mut given: Vec<u8> = (0..5).map(|i| pool.take(&format!("p{i}")).unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert_eq!(pool.take("full"), None);
        pool.release("p1");
        pool.release("p0");
        given = (5..7).map(|i| pool.take(&format!("p{i}")).unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3]);
    }

    #[test]
    fn restored_addresses_are_not_given_again() {
        let mut pool = Pool::new("10.0.0.0/24".parse().unwrap());
        pool.restore("a", Ipv4Addr::new(10, 0, 0, 2));
        pool.restore("elsewhere", Ipv4Addr::new(10, 9, 0, 2));
        assert_eq!(pool.take("b"), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn tiny_ranges_give_nothing_and_do_not_fail() {
        for range in ["10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30"] {
            let mut pool = Pool::new(range.parse().unwrap());
            let first = pool.take("a");
            assert_eq!(first.is_some(), range.ends_with("/30"), "{range}");
        }
    }
}
