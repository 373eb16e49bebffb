//! Which names objects may have, by kind; the rules themselves are [`coracle_schema::name`].

use coracle_schema::name;
pub use coracle_schema::name::{label, label_value, qualified as qualified_name, subdomain};

use super::kind::NameRule;

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
    match text.parse::<std::net::IpAddr>() {
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        Ok(ip) if ip.to_string() != text => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Ok(_) => Vec::new(),
    }
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
}
