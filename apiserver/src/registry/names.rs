//! Which names objects may have, by kind; the rules themselves are [`coracle_schema::name`].

use std::net::IpAddr;

use coracle_schema::name;
pub use coracle_schema::name::{label, label_value, qualified as qualified_name, subdomain};

use super::kind::NameRule;

/// What the names of webhooks and policies of files end with (`staticManifestsDir`): the API has none so called.
pub const OF_FILES: &str = ".static.k8s.io";

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// What is wrong with an object's name under a rule; nothing when it is allowed. A `prefix` (generateName) may end in a dash.
pub fn object_name(rule: NameRule, text: &str, prefix: bool) -> Vec<String> {
    let trimmed = if prefix && text.len() > 1 && text.ends_with('-') { format!("{}a", &text[..text.len() - 2]) } else { text.to_owned() };
    match rule {
        NameRule::Subdomain => name::subdomain(&trimmed),
        NameRule::LongName if prefix => Vec::new(),
        NameRule::LongName => name::in_bytes(name::subdomain(text)),
        NameRule::Label => name::label(&trimmed),
        NameRule::Label1035 => name::label_1035(&trimmed),
        NameRule::PathSegment if prefix => name::path_segment(text).into_iter().filter(|why| !why.starts_with("may not be")).collect(),
        NameRule::PathSegment => name::path_segment(text),
        NameRule::Address => address(text),
    }
}

/// Faults of an address as a name (upstream `IsValidIP`).
fn address(text: &str) -> Vec<String> {
    match parse_ip(text) {
        Err(wrong) => vec![wrong.to_owned()],
        Ok(ip) if ip.to_string() != text => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Ok(_) => Vec::new(),
    }
}

/// An address in the one way it may be written, but for capitals and zeros of IPv6; or what is wrong (upstream `parseIP`).
pub fn parse_ip(text: &str) -> Result<IpAddr, &'static str> {
    match text.parse() {
        Ok(IpAddr::V6(six)) if six.to_ipv4_mapped().is_some() => Err("must not be an IPv4-mapped IPv6 address"),
        Ok(address) => Ok(address),
        Err(_) if sloppy_ip(text).is_some() => Err("must not have leading 0s"),
        Err(_) => Err(NO_ADDRESS),
    }
}

/// An address of IPv4 that may have zeros before its numbers.
pub fn sloppy_ip(text: &str) -> Option<IpAddr> {
    let octet = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => Some(0),
        rest if rest.bytes().all(|byte| byte.is_ascii_digit()) => rest.parse().ok(),
        _ => None,
    };
    let octets: Vec<u8> = text.split('.').map(octet).collect::<Option<_>>()?;
    octets.try_into().map(|octets: [u8; 4]| IpAddr::from(octets)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_allows_what_upstream_allows() {
        use NameRule::{Label, Label1035, PathSegment, Subdomain};
        let allowed = [(Subdomain, "a.b-c.1"), (Subdomain, "0"), (Label, "1-a"), (Label1035, "a-1"), (PathSegment, "system:node")];
        for (rule, name) in allowed {
            assert!(object_name(rule, name, false).is_empty(), "{rule:?} {name}");
        }
        let refused = [
            (Subdomain, "A"),
            (Subdomain, "a..b"),
            (Subdomain, "-a"),
            (Subdomain, ""),
            (Label, "a.b"),
            (Label1035, "1a"),
            (PathSegment, "a/b"),
            (PathSegment, ".."),
        ];
        for (rule, name) in refused {
            assert!(!object_name(rule, name, false).is_empty(), "{rule:?} {name}");
        }
    }

    #[test]
    fn a_generated_name_may_end_in_a_dash() {
        assert!(object_name(NameRule::Subdomain, "web-", true).is_empty());
        assert!(!object_name(NameRule::Subdomain, "web-", false).is_empty());
    }

    #[test]
    fn qualified_names_have_at_most_one_prefix() {
        for good in ["app", "example.com/App_1", "kubernetes.io/metadata.name"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.com/x", "a b"] {
            assert!(!qualified_name(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_written_without_zeros_before_numbers_and_in_its_own_family() {
        for (text, expected) in [
            ("10.0.0.1", Ok("10.0.0.1")),
            ("2001:DB8::1", Ok("2001:db8::1")),
            ("010.0.0.1", Err("must not have leading 0s")),
            ("10.0.0.1x", Err(NO_ADDRESS)),
            ("10.0..1", Err(NO_ADDRESS)),
            ("10.0.0.+1", Err(NO_ADDRESS)),
            ("::ffff:1.2.3.4", Err("must not be an IPv4-mapped IPv6 address")),
        ] {
            assert_eq!(parse_ip(text).map(|ip| ip.to_string()), expected.map(str::to_owned), "{text}");
        }
    }
}
