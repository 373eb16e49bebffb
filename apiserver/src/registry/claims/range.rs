//! A network of service addresses and its two bands (`registry/core/service/ipallocator`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `IPv4`
    Four,
    /// `IPv6`
    Six,
}

/// A network that services get addresses of: `10.96.0.0/12`, `2001:db8::/108`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    family: Family,
    base: u128,
    bits: u8,
}

/// Networks of IPv6 with a shorter prefix are too large to give addresses of.
const SHORTEST_OF_SIX: u8 = 64;

impl Family {
    /// As the API calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Four => "IPv4",
            Self::Six => "IPv6",
        }
    }

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Four } else { Self::Six }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Four, Self::Six].into_iter().find(|family| family.name() == name)
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Four => Self::Six,
            Self::Six => Self::Four,
        }
    }

    /// Bits of an address.
    fn width(self) -> u8 {
        match self {
            Self::Four => 32,
            Self::Six => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.bits)
    }
}

impl FromStr for Network {
    type Err = String;

    /// Bits beyond the prefix do not count.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network such as 10.96.0.0/12 or 2001:db8::/108");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        Self::new(address, bits).ok_or_else(wrong)
    }
}

impl Network {
    /// The network an address is in; `None` when its prefix is longer than the address.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let family = Family::of(address);
        let host = family.width().checked_sub(bits)?;
        let mask = u128::MAX.checked_shl(u32::from(host)).unwrap_or(0);
        Some(Self { family, base: number(address) & mask, bits })
    }

    /// The IPv4 network an address is in.
    pub fn of_four(address: Ipv4Addr, bits: u8) -> Self {
        let bits = bits.min(32);
        let mask = u32::MAX.checked_shl(u32::from(32 - bits)).unwrap_or(0);
        Self { family: Family::Four, base: (address.to_bits() & mask).into(), bits }
    }

    /// Its family.
    pub fn family(self) -> Family {
        self.family
    }

    /// How long its prefix is.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The network's own address: what a dry run gets instead of one that is free.
    pub fn address(self) -> IpAddr {
        self.at(0)
    }

    /// The first address that may be somebody's.
    pub fn first(self) -> IpAddr {
        self.at(1)
    }

    /// Whether addresses can be given of it at all.
    pub(super) fn is_usable(self) -> bool {
        self.family == Family::Four || self.bits >= SHORTEST_OF_SIX
    }

    /// All numbers in it, but for IPv6's largest, which has no number.
    fn span(self) -> u128 {
        1u128.checked_shl(u32::from(self.family.width() - self.bits)).unwrap_or(u128::MAX)
    }

    /// Without the network's own address, and in IPv4 the broadcast address, which are nobody's.
    fn size(self) -> u128 {
        self.span().saturating_sub(if self.family == Family::Four { 2 } else { 1 })
    }

    /// How many addresses there are, as far as that can be said.
    pub fn span_at_most(self, most: u128) -> u128 {
        self.span().min(most)
    }

    fn at(self, n: u128) -> IpAddr {
        let number = self.base.wrapping_add(n);
        match self.family {
            Family::Four => Ipv4Addr::from_bits(u32::try_from(number & u128::from(u32::MAX)).unwrap_or_default()).into(),
            Family::Six => Ipv6Addr::from_bits(number).into(),
        }
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        let within = number(address).checked_sub(self.base).and_then(|n| n.checked_sub(1));
        Family::of(address) == self.family && within.is_some_and(|n| n < self.size())
    }

    /// How many addresses at the start are left for people who choose (KEP-3070): a sixteenth, between 16 and 256.
    fn offset(self) -> u128 {
        let span = self.span();
        if span <= 16 { 0 } else { (span / 16).clamp(16, 256) }
    }

    /// All addresses, each once, in the order they are tried: the upper band from a random place on, then the lower.
    pub(super) fn candidates(self, random: u64) -> impl Iterator<Item = IpAddr> {
        let (offset, random) = (self.offset().min(self.size()), u128::from(random));
        let scan = move |from: u128, count: u128| (0..count).map(move |i| self.at(1 + from + (random % count + i) % count));
        scan(offset, self.size() - offset).chain(scan(0, offset))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_bits().into(),
        IpAddr::V6(six) => six.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn is_in(text: &str, address: &str) -> bool {
        network(text).contains(address.parse().unwrap())
    }

    #[test]
    fn network_and_broadcast_addresses_are_nobodys() {
        let small = network("10.0.0.0/29");
        let mut all: Vec<String> = small.candidates(3).map(|a| a.to_string()).collect();
        all.sort();
        assert_eq!(all, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(!is_in("10.0.0.0/29", "10.0.0.0") && !is_in("10.0.0.0/29", "10.0.0.7"));
        assert!(is_in("10.0.0.0/29", "10.0.0.6") && !is_in("10.0.0.0/29", "9.255.255.255"));
        assert_eq!(network("10.0.0.0/32").candidates(9).count() + network("10.0.0.0/31").candidates(9).count(), 0);
        for wrong in ["10.0.0.0/33", "fd00::/129", "10.0.0.0", "x/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        assert_eq!(network("10.96.7.1/12"), network("10.96.0.0/12"));
    }

    #[test]
    fn in_ipv6_the_last_address_may_be_somebodys() {
        let small = network("2001:db8::8/125");
        let all: Vec<String> = small.candidates(0).map(|a| a.to_string()).collect();
        assert_eq!((all.len(), &*all[0], &*all[6]), (7, "2001:db8::9", "2001:db8::f"));
        assert!(is_in("2001:db8::/64", "2001:db8::ffff:ffff:ffff:ffff") && !is_in("2001:db8::/64", "2001:db8::"));
        assert!(!is_in("2001:db8::/64", "10.0.0.1") && !is_in("::/96", "0.0.0.1"), "of the other family");
        assert_eq!((network("::/0").first().to_string(), network("2001:DB8::1/64").to_string()), ("::1".into(), "2001:db8::/64".into()));
        assert!(network("2001:db8::/64").is_usable() && !network("2001:db8::/63").is_usable());
    }

    #[test]
    fn addresses_people_choose_are_given_away_last() {
        let order: Vec<IpAddr> = network("10.0.0.0/24").candidates(u64::MAX).collect();
        let first_low = order.iter().position(|a| *a <= "10.0.0.16".parse::<IpAddr>().unwrap()).unwrap();
        assert_eq!((order.len(), first_low), (254, 254 - 16));
        let last_chosen: IpAddr = "10.96.1.0".parse().unwrap();
        assert!(network("10.96.0.0/12").candidates(12345).take(1000).all(|a| a > last_chosen));
        assert_eq!((network("10.96.0.0/12").offset(), network("2001:db8::/64").offset()), (256, 256));
        let some: Vec<IpAddr> = network("2001:db8::/64").candidates(u64::MAX).take(3).collect();
        assert!(some.iter().all(|address| network("2001:db8::/64").contains(*address)), "{some:?}");
    }
}
