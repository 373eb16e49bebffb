//! Addresses and networks (apiserver `pkg/cel/library/{ip,cidr}.go`; Go's `net/netip`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::EvalError;

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub(crate) IpAddr);

/// A network, or an address with the length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

fn octets(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn mask(bits: u8) -> u128 {
    if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits.min(128))) }
}

/// What Go's parser says of text that is no address.
fn complaint(text: &str) -> String {
    let reason = match text.find(['.', ':', '%']).map(|at| text.as_bytes()[at]) {
        Some(b'%') => "missing IPv6 address".to_string(),
        Some(b'.') => version_four(text),
        Some(_) if text.ends_with(':') && !text.ends_with("::") => "colon must be followed by more characters".to_string() + &at(":"),
        Some(_) if text.matches("::").count() > 1 => "multiple :: in address".into(),
        Some(_) => "unexpected character, want colon".into(),
        None => "unable to parse IP".into(),
    };
    format!("ParseAddr({text:?}): {reason}")
}

fn at(rest: &str) -> String {
    format!(" (at {rest:?})")
}

fn version_four(text: &str) -> String {
    let (mut value, mut digits, mut fields) = (0_u32, 0, 0);
    let bytes = text.as_bytes();
    for (place, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                if digits == 1 && value == 0 {
                    return "IPv4 field has octet with leading zero".into();
                }
                value = value * 10 + u32::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return "IPv4 field has value >255".into();
                }
            }
            b'.' => {
                if place == 0 || place == bytes.len() - 1 || bytes[place - 1] == b'.' {
                    return "IPv4 field must have at least one digit".to_string() + &at(&text[place..]);
                }
                if fields == 3 {
                    return "IPv4 address too long".into();
                }
                (value, digits, fields) = (0, 0, fields + 1);
            }
            _ => return "unexpected character".to_string() + &at(&text[place..]),
        }
    }
    "IPv4 address too short".into()
}

impl Ip {
    /// Parses an address; zones and IPv4 within IPv6 are refused.
    pub(crate) fn parse(text: &str) -> Result<Ip, EvalError> {
        let bare = text.split('%').next().unwrap_or(text);
        let address: IpAddr = bare
            .parse()
            .map_err(|_| EvalError::new(format!("IP Address {text:?} parse error during conversion from string: {}", complaint(text))))?;
        if bare.len() != text.len() {
            return Err(EvalError::new(format!("IP address {text:?} with zone value is not allowed")));
        }
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
        }
        Ok(Ip(address))
    }

    pub(crate) fn size(&self) -> u64 {
        if self.0.is_ipv4() { 4 } else { 16 }
    }

    pub(crate) fn family(&self) -> i64 {
        if self.0.is_ipv4() { 4 } else { 6 }
    }

    pub(crate) fn is_link_local_multicast(&self) -> bool {
        match self.0 {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        }
    }

    pub(crate) fn is_link_local_unicast(&self) -> bool {
        match self.0 {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
    }

    pub(crate) fn is_global_unicast(&self) -> bool {
        let special = self.0.is_unspecified() || self.0.is_loopback() || self.0.is_multicast() || self.is_link_local_unicast();
        !special && self.0 != IpAddr::V4(Ipv4Addr::BROADCAST)
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl Cidr {
    /// Parses `address/bits`.
    pub(crate) fn parse(text: &str) -> Result<Cidr, EvalError> {
        let wrap = |reason: String| {
            let once = format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {reason}");
            EvalError::new(format!("network address parse error during conversion from string: {once}"))
        };
        let (address, length) = text.rsplit_once('/').ok_or_else(|| wrap("no '/'".into()))?;
        let parsed: IpAddr = address.split('%').next().unwrap_or(address).parse().map_err(|_| wrap(complaint(address)))?;
        if address.contains('%') {
            return Err(wrap("IPv6 zones cannot be present in a prefix".into()));
        }
        let plain = length.bytes().all(|b| b.is_ascii_digit()) && (length.len() == 1 || !length.starts_with('0'));
        let bits: u32 = if plain { length.parse().ok() } else { None }.ok_or_else(|| wrap(format!("bad bits after slash: {length:?}")))?;
        let most = if parsed.is_ipv4() { 32 } else { 128 };
        let bits = u8::try_from(bits).ok().filter(|bits| *bits <= most).ok_or_else(|| wrap("prefix length out of range".into()))?;
        if matches!(parsed, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            let inner = format!("IPv4-mapped IPv6 address {text:?} is not allowed");
            return Err(EvalError::new(format!("network address parse error during conversion from string: {inner}")));
        }
        Ok(Cidr { address: parsed, bits })
    }

    pub(crate) fn size(&self) -> u64 {
        u64::from(self.bits).div_ceil(8)
    }

    pub(crate) fn bits(&self) -> i64 {
        self.bits.into()
    }

    pub(crate) fn ip(&self) -> Ip {
        Ip(self.address)
    }

    pub(crate) fn masked(&self) -> Cidr {
        let kept = octets(self.address) & mask(self.bits);
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(kept >> 96).unwrap_or_default())),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(kept)),
        };
        Cidr { address, bits: self.bits }
    }

    pub(crate) fn contains(&self, ip: &Ip) -> bool {
        self.address.is_ipv4() == ip.0.is_ipv4() && (octets(self.address) ^ octets(ip.0)) & mask(self.bits) == 0
    }

    /// Whether `other` is a part of this network.
    pub(crate) fn contains_network(&self, other: &Cidr) -> bool {
        self.bits <= other.bits && self.contains(&other.masked().ip())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_and_parts() {
        let net = Cidr::parse("10.1.2.3/16").unwrap();
        assert!(net.contains(&Ip::parse("10.1.200.1").unwrap()));
        assert!(!net.contains(&Ip::parse("10.2.0.1").unwrap()));
        assert!(!net.contains(&Ip::parse("::1").unwrap()));
        assert!(net.contains_network(&Cidr::parse("10.1.0.0/24").unwrap()));
        assert!(!net.contains_network(&Cidr::parse("10.1.0.0/8").unwrap()));
        assert_eq!(net.masked().to_string(), "10.1.0.0/16");
        assert!(Cidr::parse("::/0").unwrap().contains(&Ip::parse("ff::1").unwrap()));
    }
}
