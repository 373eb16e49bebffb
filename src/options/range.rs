//! Ranges that flags name: of addresses and of ports.

/// A range of IPv4 addresses: `10.42.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cidr {
    pub(crate) base: std::net::Ipv4Addr,
    pub(crate) bits: u8,
}

/// Ports, both ends included: `30000-32767`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "an IPv4 range such as 10.42.0.0/16, between /8 and /24";
        let (base, bits) = text.split_once('/').ok_or_else(|| format!("is not {wanted}"))?;
        let base: std::net::Ipv4Addr = base.parse().map_err(|_| format!("is not {wanted}"))?;
        let bits: u8 = bits.parse().map_err(|_| format!("is not {wanted}"))?;
        if !(8..=24).contains(&bits) {
            return Err(format!("is not {wanted}"));
        }
        let network = base.to_bits() & (u32::MAX << (32 - u32::from(bits)));
        if network != base.to_bits() {
            return Err(format!("has bits set beyond /{bits}; did you mean {}/{bits}?", std::net::Ipv4Addr::from_bits(network)));
        }
        Ok(Self { base, bits })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl Cidr {
    /// The n-th address of the range.
    pub(crate) fn nth(self, n: u32) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from_bits(self.base.to_bits() + n)
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "is not a range such as 30000-32767";
        let (first, last) = text.split_once('-').ok_or(wanted)?;
        let range = Self { first: first.parse().map_err(|_| wanted)?, last: last.parse().map_err(|_| wanted)? };
        if range.first == 0 || range.first > range.last { Err(wanted.into()) } else { Ok(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_with_host_bits_is_refused_with_the_network_it_lies_in() {
        assert_eq!("10.42.0.0/16".parse::<Cidr>().unwrap().nth(1).to_string(), "10.42.0.1");
        assert!("10.42.1.0/16".parse::<Cidr>().unwrap_err().contains("10.42.0.0/16"));
        assert!("10.42.0.0".parse::<Cidr>().is_err());
    }
}
