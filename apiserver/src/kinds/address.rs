//! IP addresses, ranges and hosts in objects.

use std::net::IpAddr;

use coracle_schema::FieldErrors;

use super::view;
use crate::registry::names::{parse_ip, sloppy_ip};

/// Checks an address (`IsValidIPForLegacyField`).
pub(super) fn ip(text: &str, path: &str, errors: &mut FieldErrors) {
    if let Err(wrong) = parse_ip(text) {
        errors.invalid(path, view::quoted(text), wrong);
    }
}

/// What is odd about an address that has to be taken as it is (`GetWarningsForIP`): zeros before digits, IPv4 in IPv6, unusual spelling.
pub(super) fn warning(text: &str, path: &str) -> Option<String> {
    let better = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(six)) => match six.to_ipv4_mapped() {
            Some(four) => IpAddr::V4(four),
            None if six.to_string() == text => return None,
            None => {
                return Some(format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{six}\")"));
            }
        },
        Ok(IpAddr::V4(_)) => return None,
        Err(_) => sloppy_ip(text)?,
    };
    Some(format!("{path}: non-standard IP address {text:?} is invalid: use \"{better}\""))
}

/// Checks an address in the one way it may be written (`IsValidIP`).
pub(super) fn canonical_ip(text: &str, path: &str, errors: &mut FieldErrors) {
    match parse_ip(text) {
        Err(wrong) => errors.invalid(path, view::quoted(text), wrong),
        Ok(address) if address.to_string() != text => {
            errors.invalid(path, view::quoted(text), &format!("must be in canonical form ({:?})", address.to_string()));
        }
        Ok(_) => {}
    }
}

/// An address that traffic may be sent to: not unspecified, loopback or link-local (upstream `ValidateEndpointIP`), however it is written.
pub(super) fn endpoint(text: &str, path: &str, errors: &mut FieldErrors) {
    let Some(parsed) = text.parse().ok().or_else(|| sloppy_ip(text)) else {
        return errors.invalid(path, view::quoted(text), "must be a valid IP address");
    };
    let parsed = match parsed {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(parsed, IpAddr::V4),
        IpAddr::V4(_) => parsed,
    };
    if parsed.is_unspecified() {
        errors.invalid(path, view::quoted(text), &format!("may not be unspecified ({text})"));
    }
    let wrong = [
        (parsed.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (is_link_local(parsed), "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (is_link_local_multicast(parsed), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ];
    for (_, detail) in wrong.iter().filter(|(found, _)| *found) {
        errors.invalid(path, view::quoted(text), detail);
    }
}

/// Checks a range: `10.0.0.0/8`. What is `known`, because it was there before this was looked at so closely, may stay
/// (`IsValidCIDRForLegacyField`).
pub(super) fn cidr(text: &str, known: &[&str], path: &str, errors: &mut FieldErrors) {
    if known.contains(&text) {
        return;
    }
    let length = text.rsplit_once('/').map_or("", |(_, length)| length);
    let plain = length.len() < 2 || !length.starts_with(['0', '+']);
    let wrong = match parse_cidr(text).filter(|_| plain) {
        Some((IpAddr::V6(six), _)) if six.to_ipv4_mapped().is_some() => "must not have an IPv4-mapped IPv6 address",
        Some((address, length)) if has_bits_beyond(address, length) => "must not have bits set beyond the prefix length",
        Some(_) => return,
        None if parse_cidr(&without_zeros(text)).is_some() => "must not have leading 0s in IP or prefix length",
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
    };
    errors.invalid(path, view::quoted(text), wrong);
}

/// Checks a range that has to be written in the one way there is (`IsValidCIDR`).
pub(super) fn canonical_cidr(text: &str, path: &str, errors: &mut FieldErrors) {
    let mut wrong = FieldErrors::none();
    cidr(text, &[], path, &mut wrong);
    if let Some((address, length)) = parse_cidr(text).filter(|_| wrong.is_empty()) {
        let canonical = format!("{address}/{length}");
        if text != canonical {
            wrong.invalid(path, view::quoted(text), &format!("must be in canonical form ({canonical:?})"));
        }
    }
    errors.extend(wrong);
}

fn has_bits_beyond(address: IpAddr, length: u8) -> bool {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_shl(u32::from(length)).is_some_and(|rest| rest != 0),
        IpAddr::V6(v6) => v6.to_bits().checked_shl(u32::from(length)).is_some_and(|rest| rest != 0),
    }
}

/// A range of IPv4 whose numbers have no zeros before them, and the length of any prefix without such.
fn without_zeros(text: &str) -> String {
    let number = |part: &str| {
        let rest = part.trim_start_matches('0');
        if rest.is_empty() && !part.is_empty() { "0".to_owned() } else { rest.to_owned() }
    };
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address = if address.contains(':') { address.to_owned() } else { address.split('.').map(number).collect::<Vec<_>>().join(".") };
    format!("{address}/{}", number(length))
}

/// Checks an address with the length of its network's prefix: `10.9.8.7/24`, as a network interface has it (`IsValidInterfaceAddress`).
pub(super) fn interface(text: &str, path: &str, errors: &mut FieldErrors) {
    let Some((address, length)) = parse_cidr(text) else {
        return errors.invalid(path, view::quoted(text), "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)");
    };
    let canonical = format!("{address}/{length}");
    if text != canonical {
        errors.invalid(path, view::quoted(text), &format!("must be in canonical form ({canonical:?})"));
    }
}

/// The address and prefix length of a range.
pub(super) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// Whether the first range holds the second entirely, and more.
pub(super) fn strictly_contains(outer: (IpAddr, u8), inner: (IpAddr, u8)) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((a, width), (b, other)) = (bits(outer.0), bits(inner.0));
    let mask = if outer.1 == 0 { 0 } else { u128::MAX << (128 - u32::from(outer.1)) };
    width == other && outer.1 < inner.1 && a & mask == b & mask
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    }
}
