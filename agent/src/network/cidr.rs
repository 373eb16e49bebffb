//! IPv4 networks in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, for example `10.42.0.0/24`. Host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Net {
    network: u32,
    prefix: u8,
}

impl Ipv4Net {
    /// Everything.
    pub const ALL: Self = Self { network: 0, prefix: 0 };

    /// A network; host bits of the address are dropped. A prefix above 32 counts as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = mask(prefix);
        Self { network: u32::from(address) & mask, prefix }
    }

    /// A single address.
    pub fn host(address: Ipv4Addr) -> Self {
        Self::new(address, 32)
    }

    /// Its first address.
    pub fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// Bits of the network part.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The mask as an address.
    pub fn mask(self) -> Ipv4Addr {
        mask(self.prefix).into()
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.network
    }

    /// How many addresses it has.
    pub fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address at an offset, if it is inside.
    pub fn at(self, offset: u64) -> Option<Ipv4Addr> {
        (offset < self.size()).then(|| (u64::from(self.network) + offset) as u32).map(Into::into)
    }

    /// How far an address of it is from the first.
    pub fn offset(self, address: Ipv4Addr) -> Option<u64> {
        self.contains(address).then(|| u64::from(u32::from(address) - self.network))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('/').and_then(|(a, p)| Some((a.parse::<Ipv4Addr>().ok()?, p.parse::<u8>().ok().filter(|p| *p <= 32)?)));
        let (address, prefix) = parsed.ok_or_else(|| format!("{text:?} is not an IPv4 network such as 10.42.0.0/24"))?;
        Ok(Self::new(address, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_knows_its_addresses() {
        let net: Ipv4Net = "10.42.3.7/24".parse().unwrap();
        assert_eq!(net.to_string(), "10.42.3.0/24");
        assert_eq!(net.at(255), Some(Ipv4Addr::new(10, 42, 3, 255)));
        assert_eq!(net.at(256), None);
        assert_eq!(net.offset(Ipv4Addr::new(10, 42, 3, 9)), Some(9));
        assert!(!net.contains(Ipv4Addr::new(10, 42, 4, 0)));
        assert!(Ipv4Net::ALL.contains(Ipv4Addr::BROADCAST));
        assert_eq!(Ipv4Net::host(Ipv4Addr::LOCALHOST).mask(), Ipv4Addr::BROADCAST);
        for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/64", "x/8"] {
            assert!(bad.parse::<Ipv4Net>().is_err(), "{bad}");
        }
    }
}
