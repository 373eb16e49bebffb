//! A network of service addresses and its two bands (`registry/core/service/ipallocator`).

use std::net::Ipv4Addr;

/// An IPv4 network that services get addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    base: u32,
    bits: u8,
}

impl Network {
    /// `10.96.0.0/12`; `None` for anything else, IPv6 included.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits) = (base.parse::<Ipv4Addr>().ok()?.to_bits(), bits.parse::<u8>().ok().filter(|bits| *bits <= 32)?);
        Some(Self { base: base & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0), bits })
    }

    /// Without network and broadcast address, which are nobody's.
    fn size(self) -> u64 {
        (1u64 << (32 - self.bits)).saturating_sub(2)
    }

    fn nth(self, n: u64) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.wrapping_add(1).wrapping_add(u32::try_from(n).unwrap_or_default()))
    }

    pub(super) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits().checked_sub(self.base).and_then(|n| n.checked_sub(1)).is_some_and(|n| u64::from(n) < self.size())
    }

    /// The network's own address: what a dry run gets instead of one that is free.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    /// How many addresses at the start are left for people who choose (KEP-3070): a sixteenth, between 16 and 256.
    fn offset(self) -> u64 {
        let size = 1u64 << (32 - self.bits);
        if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
    }

    /// All addresses, each once, in the order they are tried: the upper band from a random place on, then the lower.
    pub(super) fn candidates(self, random: u64) -> impl Iterator<Item = Ipv4Addr> {
        let offset = self.offset().min(self.size());
        let scan = move |from: u64, count: u64| (0..count).map(move |i| self.nth(from + (random % count + i) % count));
        scan(offset, self.size() - offset).chain(scan(0, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap()
    }

    #[test]
    fn network_and_broadcast_addresses_are_nobodys() {
        let small = network("10.0.0.0/29");
        let mut all: Vec<String> = small.candidates(3).map(|a| a.to_string()).collect();
        all.sort();
        assert_eq!(all, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(!small.contains("10.0.0.0".parse().unwrap()) && !small.contains("10.0.0.7".parse().unwrap()));
        assert!(small.contains("10.0.0.6".parse().unwrap()) && !small.contains("9.255.255.255".parse().unwrap()));
        assert_eq!(network("10.0.0.0/32").candidates(9).count() + network("10.0.0.0/31").candidates(9).count(), 0);
        assert_eq!((Network::parse("fd00::/108"), Network::parse("10.0.0.0/33")), (None, None));
        assert_eq!(network("10.96.7.1/12"), network("10.96.0.0/12"));
    }

    #[test]
    fn addresses_people_choose_are_given_away_last() {
        let order: Vec<Ipv4Addr> = network("10.0.0.0/24").candidates(u64::MAX).collect();
        let first_low = order.iter().position(|a| a.octets()[3] <= 16).unwrap();
        assert_eq!((order.len(), first_low), (254, 254 - 16));
        assert!(network("10.96.0.0/12").candidates(12345).take(1000).all(|a| a.octets() > [10, 96, 1, 0]));
        assert_eq!(network("10.96.0.0/12").offset(), 256);
    }
}
