//! What names, labels, keys and ports may look like, with the messages of apimachinery's `util/validation`.
//!
//! Every check returns the messages of the rules that are broken: none when the value is fine.

/// Longest DNS label and label value.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORM: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// RFC 1123 label: `my-name`.
pub fn label(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_MAX, "characters");
    if !is_label(value) {
        errors.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            let text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            form(text, LABEL_FORM, &["my-name", "123-abc"])
        });
    }
    errors
}

/// RFC 1123 subdomain: `example.com`.
pub fn subdomain(value: &str) -> Vec<String> {
    let mut errors = too_long(value, SUBDOMAIN_MAX, "characters");
    if !is_subdomain(value) {
        errors.push(subdomain_message());
    }
    errors
}

/// RFC 1123 subdomain whose labels may have underscores: `_sip._tcp.example.com`, as search domains.
pub fn subdomain_with_underscore(value: &str) -> Vec<String> {
    const FORM: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    let mut errors = too_long(value, SUBDOMAIN_MAX, "characters");
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = |part: &str| {
        let bytes = part.strip_prefix('_').unwrap_or(part).as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(b);
        end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
    };
    if !value.split('.').all(fits) {
        let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        errors.push(form(text, FORM, &["example.com"]));
    }
    errors
}

/// RFC 1123 subdomain that may have capitals: `Example.com`.
pub fn subdomain_of_any_case(value: &str) -> Vec<String> {
    let mut errors = too_long(value, SUBDOMAIN_MAX, "characters");
    if !is_subdomain(&value.to_ascii_lowercase()) {
        let text = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(form(text, SUBDOMAIN_FORM, &["Example.com"]));
    }
    errors
}

/// An identifier as C has it: `my_name`. Says nothing of its length.
pub fn c_identifier(value: &str) -> Vec<String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !value.is_empty() && value.bytes().all(word) && !value.starts_with(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    let text = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![form(text, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// RFC 1035 label: `abc-123`, as service names.
pub fn label_1035(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_MAX, "characters");
    if !(value.starts_with(|c: char| c.is_ascii_lowercase()) && is_label(value)) {
        let text = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(form(text, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

/// `*.example.com`
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut errors = too_long(value, SUBDOMAIN_MAX, "characters");
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        let text = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        errors.push(form(text, &format!(r"\*\.{SUBDOMAIN_FORM}"), &["*.example.com"]));
    }
    errors
}

/// A label or annotation key: `app`, `example.com/app`.
pub fn qualified(value: &str) -> Vec<String> {
    let rule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                let mut wrong = too_long(prefix, SUBDOMAIN_MAX, "bytes");
                if !is_subdomain(prefix) {
                    wrong.push(subdomain_message());
                }
                errors.extend(wrong.iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            let text = form(rule, KEY_FORM, &examples);
            return vec![format!("a valid label key {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part must be no more than {LABEL_MAX} bytes"));
    }
    if !is_key(name) {
        errors.push(format!("name part {}", form(rule, KEY_FORM, &examples)));
    }
    errors
}

/// A label's value; may be empty.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_MAX, "bytes");
    if !value.is_empty() && !is_key(value) {
        let text = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(form(text, &format!("({KEY_FORM})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A name that is one segment of a path: RBAC kinds.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut errors = too_long(value, SUBDOMAIN_MAX, "characters");
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(form(text, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(climbs(value));
    errors
}

/// The name of an environment variable (the relaxed rule, the default since 1.34).
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// The name of a port of a container or service: IANA service name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 15, "characters");
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A port number.
pub fn port_number(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

/// A number between two bounds, both allowed.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![format!("must be between {low} and {high}, inclusive")] }
}

/// `25%`
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![form("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", &["1%", "93%"])]
}

/// The name of an HTTP header.
pub fn header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![form("a valid HTTP header must consist of alphanumeric characters or '-'", "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// Whether a name could be made from `generateName`: the suffix stands for what the server adds.
pub fn with_suffix(prefix: &str) -> String {
    // A trailing dash is allowed in a prefix because something follows it.
    match prefix.strip_suffix('-') {
        Some(head) if !head.is_empty() => format!("{head}a"),
        _ => prefix.to_owned(),
    }
}

/// Whether a value is an RFC 1123 label, its length aside.
pub fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(word) && bytes.last().is_some_and(word) && bytes.iter().all(|b| word(b) || *b == b'-')
}

/// Whether a value is an RFC 1123 subdomain, its length aside.
pub fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_key(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = |b: &u8| b.is_ascii_alphanumeric();
    bytes.first().is_some_and(ends) && bytes.last().is_some_and(ends) && bytes.iter().all(|b| ends(b) || b"-_.".contains(b))
}

fn subdomain_message() -> String {
    let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
    form(text, SUBDOMAIN_FORM, &["example.com"])
}

fn climbs(value: &str) -> Option<String> {
    match value {
        "." | ".." => Some(format!("must not be '{value}'")),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

fn too_long(value: &str, most: usize, unit: &str) -> Vec<String> {
    if value.len() > most { vec![format!("must be no more than {most} {unit}")] } else { Vec::new() }
}

fn form(text: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

/// Messages as rules that are declared word them: they count bytes where written ones count characters.
pub fn in_bytes(messages: Vec<String>) -> Vec<String> {
    let counted = |message: String| match message.strip_suffix(" characters") {
        Some(rest) if message.contains("must be no more than") => format!("{rest} bytes"),
        _ => message,
    };
    messages.into_iter().map(counted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_are_told_apart_with_upstreams_words() {
        assert!(label("a").is_empty() && label("0-a").is_empty() && subdomain("a.b-c.0").is_empty());
        assert_eq!(label("a.b"), ["must not contain dots"]);
        assert_eq!(
            label("-a"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            subdomain("A..b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(label_1035("0a").len() == 1 && label_1035("a0").is_empty());
    }

    #[test]
    fn a_label_key_may_have_one_prefix() {
        assert!(qualified("app").is_empty() && qualified("example.com/App_1.x").is_empty());
        assert_eq!(qualified("/x"), ["prefix part must be non-empty"]);
        assert!(qualified("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert_eq!(qualified("").len(), 2);
        assert!(qualified("a/").iter().any(|e| e == "name part must be non-empty"));
    }

    #[test]
    fn label_values_may_be_empty_but_not_end_in_a_dash() {
        assert!(label_value("").is_empty() && label_value("a_b.C-1").is_empty());
        assert!(label_value("a-")[0].starts_with("a valid label must be an empty string"));
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn keys_ports_and_percents_follow_their_own_rules() {
        assert!(config_key("a.b_C-1").is_empty());
        assert_eq!(config_key("..x"), ["must not start with '..'"]);
        assert!(port_name("http").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(percent("25%").is_empty() && percent("%").len() == 1);
        assert_eq!(path_segment(".."), ["may not be '..'"]);
        assert_eq!(path_segment("a/b%"), ["may not contain '/'", "may not contain '%'"]);
        assert!(path_segment("system:node").is_empty());
    }

    #[test]
    fn a_generated_names_prefix_may_end_in_a_dash() {
        assert!(label(&with_suffix("web-")).is_empty());
        assert!(!label(&with_suffix("-")).is_empty());
    }
}
