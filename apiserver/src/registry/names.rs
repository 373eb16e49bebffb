//! What names, labels and annotation keys may look like; texts of apimachinery's `util/validation`.

use super::kind::NameRule;

const LABEL_1123: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
     alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
     with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with \
     an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
     (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
     an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What is wrong with an object's name under a rule; nothing when it is allowed. A `prefix` (generateName) may end in a dash.
pub fn object_name(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    let trimmed = if prefix && name.len() > 1 && name.ends_with('-') { format!("{}a", &name[..name.len() - 2]) } else { name.to_owned() };
    match rule {
        NameRule::Subdomain => subdomain(&trimmed),
        NameRule::Label => label(&trimmed),
        NameRule::Label1035 => label_1035(&trimmed),
        NameRule::PathSegment => path_segment(name, prefix),
    }
}

/// RFC 1123 label.
pub fn label(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 63);
    if !dashed(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), |b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        errors.push(LABEL_1123.to_owned());
    }
    errors
}

/// RFC 1035 label.
pub fn label_1035(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 63);
    if !dashed(text, |b| b.is_ascii_lowercase(), |b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        errors.push(LABEL_1035.to_owned());
    }
    errors
}

/// RFC 1123 subdomain.
pub fn subdomain(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 253);
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !text.split('.').all(|part| dashed(part, alnum, alnum)) {
        errors.push(SUBDOMAIN.to_owned());
    }
    errors
}

/// `prefix/name` or `name`: keys of labels, annotations and finalizers.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((prefix, name)) if !name.contains('/') => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        Some(_) => {
            let text = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                 character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![text.to_owned()];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !words(name) {
        errors.push(QUALIFIED.to_owned());
    }
    errors
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = too_long(text, 63);
    if !text.is_empty() && !words(text) {
        errors.push(LABEL_VALUE.to_owned());
    }
    errors
}

/// What can stand in a path.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ['/', '%'].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

fn too_long(text: &str, limit: usize) -> Vec<String> {
    if text.len() > limit { vec![format!("must be no more than {limit} bytes")] } else { Vec::new() }
}

/// First byte as `first` says, last as `inner` says, all between `inner` or a dash.
fn dashed(text: &str, first: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(a), Some(z)) => first(*a) && inner(*z) && bytes.iter().all(|b| inner(*b) || *b == b'-'),
        _ => false,
    }
}

/// Alphanumeric at both ends; `-`, `_`, `.` also between.
fn words(text: &str) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(a), Some(z)) => {
            a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        }
        _ => false,
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
