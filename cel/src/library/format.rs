//! Named formats of text (apiserver `pkg/cel/library/format.go`, apimachinery `pkg/util/validation`).

use base64::Engine as _;

use crate::library::url::request_fault;
use crate::pattern;
use crate::time;

/// A format.
#[derive(Debug)]
pub struct Format {
    /// The name that expressions use.
    pub(crate) key: &'static str,
    /// Its own name, by which it is compared.
    pub(crate) name: &'static str,
    check: fn(&str) -> Vec<String>,
    /// The length of the pattern that costs are reckoned with.
    pub(crate) pattern: u64,
}

impl Format {
    /// The format that goes by `key`.
    pub(crate) fn named(key: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.key == key)
    }

    /// What is wrong with `text`.
    pub(crate) fn complaints(&self, text: &str) -> Vec<String> {
        (self.check)(text)
    }
}

static FORMATS: [Format; 13] = [
    Format { key: "dns1123Label", name: "DNS1123Label", check: label, pattern: 30 },
    Format { key: "dns1123Subdomain", name: "DNS1123Subdomain", check: subdomain, pattern: 60 },
    Format { key: "dns1035Label", name: "DNS1035Label", check: label_1035, pattern: 30 },
    Format { key: "qualifiedName", name: "QualifiedName", check: qualified, pattern: 60 },
    Format { key: "dns1123LabelPrefix", name: "DNS1123LabelPrefix", check: |text| label(&masked(text)), pattern: 30 },
    Format { key: "dns1123SubdomainPrefix", name: "DNS1123SubdomainPrefix", check: |text| subdomain(&masked(text)), pattern: 60 },
    Format { key: "dns1035LabelPrefix", name: "DNS1035LabelPrefix", check: |text| label_1035(&masked(text)), pattern: 30 },
    Format { key: "labelValue", name: "LabelValue", check: label_value, pattern: 40 },
    Format { key: "uri", name: "URI", check: uri, pattern: 1103 },
    Format { key: "uuid", name: "uuid", check: uuid, pattern: 70 },
    Format { key: "byte", name: "byte", check: byte, pattern: 84 },
    Format { key: "date", name: "date", check: date, pattern: 71 },
    Format { key: "datetime", name: "datetime", check: date_time, pattern: 71 },
];

/// A name to which something will be appended may end in a hyphen.
fn masked(text: &str) -> String {
    if text.len() > 1 && text.ends_with('-') { format!("{}a", text.get(..text.len() - 2).unwrap_or_default()) } else { text.to_string() }
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn matches(text: &str, expression: &str) -> bool {
    pattern::matches(&format!("^({expression})$"), text) == Ok(true)
}

fn rule(text: &str, most: usize, expression: &str, message: &str, examples: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.len() > most {
        complaints.push(format!("must be no more than {most} bytes"));
    }
    if !matches(text, expression) {
        let examples: Vec<String> = examples.iter().map(|example| format!("'{example}'")).collect();
        complaints.push(format!("{message} (e.g. {}, regex used for validation is '{expression}')", examples.join(",  or ")));
    }
    complaints
}

fn label(text: &str) -> Vec<String> {
    const MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
    rule(text, 63, LABEL, MESSAGE, &["my-name", "123-abc"])
}

fn subdomain(text: &str) -> Vec<String> {
    const MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
    rule(text, 253, &format!("{LABEL}(\\.{LABEL})*"), MESSAGE, &["example.com"])
}

fn label_1035(text: &str) -> Vec<String> {
    const MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
    rule(text, 63, LABEL_1035, MESSAGE, &["my-name", "abc-123"])
}

fn label_value(text: &str) -> Vec<String> {
    const MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    rule(text, 63, "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", MESSAGE, &["MyValue", "my_value", "12345"])
}

fn qualified(text: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if text.matches('/').count() > 1 {
        let message = format!("a valid label key {MESSAGE}");
        let wrong = rule("", 63, NAME, &message, &["MyName", "my.name", "123-abc"]);
        return wrong
            .into_iter()
            .map(|message| format!("{message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"))
            .collect();
    }
    let mut complaints = Vec::new();
    match prefix {
        Some("") => complaints.push("prefix part must be non-empty".to_string()),
        Some(prefix) => complaints.extend(subdomain(prefix).into_iter().map(|message| format!("prefix part {message}"))),
        None => {}
    }
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_string());
    }
    complaints
        .extend(rule(name, 63, NAME, MESSAGE, &["MyName", "my.name", "123-abc"]).into_iter().map(|message| format!("name part {message}")));
    complaints
}

fn uri(text: &str) -> Vec<String> {
    request_fault(text).into_iter().collect()
}

fn only(valid: bool, complaint: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![complaint.to_string()] }
}

fn uuid(text: &str) -> Vec<String> {
    only(matches(text, "(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"), "does not match the UUID format")
}

fn byte(text: &str) -> Vec<String> {
    only(!text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "invalid base64")
}

fn date(text: &str) -> Vec<String> {
    only(text.len() == 10 && time::Timestamp::parse(&format!("{text}T00:00:00Z")).is_some(), "invalid date")
}

fn date_time(text: &str) -> Vec<String> {
    only(text.len() >= 4 && time::Timestamp::parse(text).is_some(), "invalid datetime")
}
