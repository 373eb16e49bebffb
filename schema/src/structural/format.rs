//! The formats of texts that custom resources may ask for (kube-openapi `validation/strfmt`), as Go's parsers see them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::node::Kind;

/// Formats of texts, hyphens left out.
const TEXTS: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// Whether values of the type are checked against the format. Other formats are only published.
pub fn is_supported(kind: Kind, format: &str) -> bool {
    match kind {
        Kind::Any | Kind::String => TEXTS.contains(&&*format.replace('-', "")),
        Kind::Integer => matches!(format, "int32" | "int64"),
        Kind::Number => matches!(format, "float" | "double"),
        Kind::Object | Kind::Array | Kind::Boolean | Kind::Unknown => false,
    }
}

/// Whether the text has the format; `None` when no format of texts has this name.
pub fn fits(format: &str, text: &str) -> Option<bool> {
    Some(match &*format.replace('-', "") {
        "bsonobjectid" => text.len() == 24 && is_hex(text),
        "byte" => is_base64(text),
        "cidr" => is_cidr(text),
        "creditcard" => is_credit_card(text),
        "date" => is_date(text),
        "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "email" => is_email(text),
        "hexcolor" => matches!(text.trim_start_matches_once('#').len(), 3 | 6) && is_hex(text.trim_start_matches_once('#')),
        "hostname" => is_hostname(text),
        "ipv4" => sloppy_ip(text).is_some() && text.contains('.'),
        "ipv6" => strict_ip(text).is_some() && text.contains(':'),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "k8sshortname" => text.len() <= 63 && is_short_name(text),
        "k8slongname" => text.len() <= 253 && text.split('.').all(is_short_name),
        "mac" => is_mac(text),
        "password" => true,
        "rgbcolor" => is_rgb_color(text),
        "ssn" => is_ssn(text),
        "uri" => coracle_cel::request_fault(text).is_none(),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        _ => return None,
    })
}

trait TrimOnce {
    fn trim_start_matches_once(&self, c: char) -> &str;
}

impl TrimOnce for str {
    fn trim_start_matches_once(&self, c: char) -> &str {
        self.strip_prefix(c).unwrap_or(self)
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Standard base64 with padding; empty is none.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - body.len() <= 2
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

fn is_short_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edge = |b: Option<u8>| b.is_some_and(inner);
    edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(|b| inner(b) || b == b'-')
}

/// Parts of numbers may have leading zeros, as before Go 1.17.
fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return strict_ip(text);
    }
    sloppy_v4(text).map(IpAddr::V4)
}

fn sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = [0u8; 4];
    let mut found = text.split('.');
    for part in &mut parts {
        let text = found.next().filter(|t| digits(t) && t.trim_start_matches('0').len() <= 3)?;
        *part = text.parse::<u32>().ok().and_then(|n| u8::try_from(n).ok())?;
    }
    found.next().is_none().then(|| parts.into())
}

fn strict_ip(text: &str) -> Option<IpAddr> {
    // An IPv4 tail may stand in an IPv6 address; zones may not.
    text.parse::<Ipv4Addr>().map(IpAddr::V4).or_else(|_| text.parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match sloppy_ip(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    digits(length) && length.parse::<u32>().is_ok_and(|n| n <= most)
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|p| p.len() == width && is_hex(p))
    };
    let bare = matches!(text.len(), 12 | 16 | 40) && is_hex(text);
    bare || groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut rest = text;
    for (at, width) in [8usize, 4, 4, 4, 12].into_iter().enumerate() {
        if at > 0 {
            rest = rest.trim_start_matches_once('-');
        }
        let Some(part) = rest.get(..width).filter(|p| is_hex(p)) else { return false };
        let first = part.chars().next().unwrap_or_default().to_ascii_lowercase();
        let variant = at == 3 && matches!(version, Some('4' | '5')) && !matches!(first, '8' | '9' | 'a' | 'b');
        if (at == 2 && version.is_some_and(|v| v != first)) || variant {
            return false;
        }
        rest = &rest[width..];
    }
    rest.is_empty()
}

/// `2006-01-02`
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shaped =
        bytes.len() == 10 && bytes.iter().enumerate().all(|(at, b)| if matches!(at, 4 | 7) { *b == b'-' } else { b.is_ascii_digit() });
    let number = |from: usize, to: usize| text[from..to].parse::<i16>().unwrap_or_default();
    let narrow = |n: i16| i8::try_from(n).unwrap_or_default();
    shaped && jiff::civil::Date::new(number(0, 4), narrow(number(5, 7)), narrow(number(8, 10))).is_ok()
}

fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((date, time)) = lower.split_once('t') else { return false };
    let time = time.split('t').next().unwrap_or_default();
    if !text.is_ascii() || !is_date(date) || time.len() < 9 {
        return false;
    }
    let part = |from: usize, most: u32| time[from..from + 2].parse::<u32>().is_ok_and(|n| n <= most) && digits(&time[from..from + 2]);
    let clock = part(0, 23) && part(3, 59) && part(6, 59) && &time[2..3] == ":" && &time[5..6] == ":";
    // One character of any kind may stand where the fraction begins.
    let mut zone = &time[8..];
    let fraction = zone[1..].bytes().take_while(u8::is_ascii_digit).count();
    if fraction > 0 && is_zone(&zone[1 + fraction..]) {
        zone = &zone[1 + fraction..];
    }
    clock && is_zone(zone)
}

/// `z` or `+01:00`
fn is_zone(text: &str) -> bool {
    let offset = |t: &str| t.len() == 5 && t.as_bytes()[2] == b':' && digits(&t[..2]) && digits(&t[3..]);
    text == "z" || text.strip_prefix(['+', '-']).is_some_and(offset)
}

/// Go's `time.ParseDuration`, or numbers with units in words anywhere in the text (`2 days`).
fn is_duration(text: &str) -> bool {
    is_go_duration(text) || has_worded_duration(text)
}

fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut total = 0f64;
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let Ok(number) = number.parse::<f64>() else { return false };
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanos = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return false,
        };
        total += number * nanos;
        rest = after;
    }
    total < 9.223_372_036_854_776e18
}

fn has_worded_duration(text: &str) -> bool {
    const EXACT: &[&str] = &["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk"];
    const HEADS: &[&str] = &["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    let mut rest = text;
    let mut found = false;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let number = rest[start..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| start + n);
        let after = rest[number..].trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
        let end = after.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(after.len());
        let unit = after[..end].to_lowercase();
        if !unit.is_empty() {
            if rest[start..number].parse::<i64>().is_err() {
                return false;
            }
            found |= EXACT.contains(&&*unit) || HEADS.iter().any(|head| unit.starts_with(head));
        }
        rest = &after[end..];
    }
    found
}

/// `net/mail.ParseAddress`, without comments and encoded words.
fn is_email(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    if let Some((name, address)) = text.strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
        let name = name.trim();
        let quoted = name.len() >= 2 && name.starts_with('"') && name.ends_with('"');
        return (quoted || name.split_whitespace().all(|word| word.chars().all(|c| is_atom(c) || c == '.'))) && is_address(address);
    }
    is_address(text)
}

fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let dot_atom = |t: &str| !t.is_empty() && t.split('.').all(|part| !part.is_empty() && part.chars().all(is_atom));
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"') && !local[1..local.len() - 1].contains('"');
    let literal = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']'));
    let domain_fits = match literal {
        Some(address) => strict_ip(address.strip_prefix("IPv6:").unwrap_or(address)).is_some(),
        None => dot_atom(domain),
    };
    (quoted || dot_atom(local)) && domain_fits
}

fn is_atom(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
}

/// One label with at most one hyphen, behind its first letter; or labels and a top-level domain of letters.
fn is_hostname(text: &str) -> bool {
    let all = |pattern: &str, text: &str| crate::pattern::matches(pattern, text).unwrap_or(false);
    let plain = |text: &str| text.is_empty() || all(r"^[a-zA-Z0-9\p{S}\p{L}]+$", text);
    let single = |label: &str| {
        let mut rest = label.chars();
        let first = rest.next().is_some_and(|c| plain(c.encode_utf8(&mut [0; 4])));
        first && plain(rest.as_str().trim_start_matches_once('-')) && !label.ends_with('-')
    };
    let inner = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && plain(&label.replace('-', ""));
    let whole = match text.rsplit_once('.') {
        None => single(text),
        Some((labels, top)) => labels.split('.').all(inner) && top.chars().count() >= 2 && all(r"^[a-zA-Z\p{L}]+$", top),
    };
    whole && text.len() <= 255 && text.split('.').all(|label| label.len() <= 63)
}

fn is_isbn10(text: &str) -> bool {
    let bytes: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'-').collect();
    let shaped = bytes.len() == 10 && bytes[..9].iter().all(u8::is_ascii_digit) && (bytes[9] == b'X' || bytes[9].is_ascii_digit());
    let value = |b: u8| if b == b'X' { 10 } else { u32::from(b - b'0') };
    shaped && bytes.iter().zip(1u32..).map(|(b, weight)| weight * value(*b)).sum::<u32>().is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let bytes: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'-').collect();
    let sum = || bytes.iter().zip([1u32, 3].into_iter().cycle()).map(|(b, weight)| weight * u32::from(b - b'0')).sum::<u32>();
    bytes.len() == 13 && bytes.iter().all(u8::is_ascii_digit) && sum().is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    const PATTERN: &str = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$";
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn = |at: usize, b: u8| {
        let value = u32::from(b - b'0') << (at % 2);
        if value > 9 { value - 9 } else { value }
    };
    crate::pattern::matches(PATTERN, &digits).unwrap_or(false)
        && digits.bytes().rev().enumerate().map(|(at, b)| luhn(at, b)).sum::<u32>().is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    text.len() == 11 && crate::pattern::matches(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", text).unwrap_or(false)
}

fn is_rgb_color(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')) else { return false };
    let part = |t: &str| {
        let t = t.trim_matches([' ', '\t', '\n', '\r', '\x0c']);
        digits(t) && (t == "0" || !t.starts_with('0')) && t.parse::<u32>().is_ok_and(|n| n <= 255)
    };
    inner.split(',').count() == 3 && inner.split(',').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_takes_its_own_and_refuses_what_is_near() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("date", &["2024-02-29"], &["2023-02-29", "2024-2-9", ""]),
            (
                "date-time",
                &["2024-02-29T12:00:00Z", "2024-02-29t12:00:00.5+01:00"],
                &["2024-02-29 12:00:00Z", "2024-02-29T24:00:00Z", "2024-02-29T12:00:00"],
            ),
            ("duration", &["1h30m", "5 days", "0", "1.5s", "2 wk"], &["soon", "", "5 parsecs"]),
            ("byte", &["aGk=", "aGkh"], &["", "aGk", "a_k="]),
            ("uuid", &["550e8400-e29b-41d4-a716-446655440000", "550E8400e29b41d4a716446655440000"], &["550e8400", ""]),
            (
                "uuid4",
                &["550e8400-e29b-41d4-a716-446655440000"],
                &["550e8400-e29b-31d4-a716-446655440000", "550e8400-e29b-41d4-c716-446655440000"],
            ),
            ("ipv4", &["10.0.0.1", "010.0.0.1"], &["::1", "10.0.0", "10.0.0.256"]),
            ("ipv6", &["::1", "::ffff:10.0.0.1"], &["10.0.0.1", "::g"]),
            ("cidr", &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33"]),
            ("hostname", &["a", "example.com", "a1.b2.london"], &["-a", "a..com", "a_b.com", ""]),
            ("email", &["a@b.c", "Ann <ann@example.com>"], &["a", "a@", "a@b@", "a b@c.d"]),
            ("uri", &["https://example.com/a?b#c", "/path", "mailto:a@b"], &["example.com", "", "http://[::1", "http://a b/", "/a%zz"]),
            ("mac", &["01:23:45:67:89:ab", "0123.4567.89ab"], &["01:23:45", "01:23:45:67:89:xx"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
            ("creditcard", &["4111-1111-1111-1111"], &["4111-1111-1111-1112"]),
            ("ssn", &["111-11-1111"], &["111111111"]),
            ("hexcolor", &["#fff", "A0B1C2"], &["#ffff"]),
            ("rgbcolor", &["rgb(0, 255,7)"], &["rgb(256,0,0)", "rgb(0,0)"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
            ("k8s-short-name", &["a-1"], &["a.b", "A", "-a"]),
            ("k8s-long-name", &["a-1.b"], &["a..b"]),
            ("password", &["anything"], &[]),
        ];
        for (format, good, bad) in cases {
            for text in *good {
                assert_eq!(fits(format, text), Some(true), "{format} {text}");
            }
            for text in *bad {
                assert_eq!(fits(format, text), Some(false), "{format} {text}");
            }
        }
        assert_eq!(fits("int32", "1"), None);
    }

    /// `formats.jsonl` has, for each text, the formats that kube-apiserver 1.37.1 refused it for.
    #[test]
    fn every_format_agrees_with_upstream_on_every_text() {
        let mut differ = Vec::new();
        for line in include_str!("formats.jsonl").lines() {
            let case: coracle_tree::Value = serde_json::from_str(line).unwrap();
            let (text, refused) = (case["text"].as_str().unwrap(), case["refused"].as_array().unwrap());
            for format in TEXTS.iter().copied().chain(["k8s-short-name", "date-time"]).filter(|f| !f.starts_with("k8sshort")) {
                let known = match format {
                    "k8slongname" => "k8s-long-name",
                    other => other,
                };
                let fits = !refused.iter().any(|f| f == known);
                if super::fits(format, text) != Some(fits) {
                    differ.push(format!("{format} {text:?}: upstream {fits}"));
                }
            }
        }
        assert!(differ.is_empty(), "{differ:#?}");
    }

    #[test]
    fn a_format_counts_only_for_its_own_type() {
        assert!(is_supported(Kind::String, "date-time") && is_supported(Kind::Integer, "int32") && is_supported(Kind::Number, "double"));
        assert!(!is_supported(Kind::String, "int32") && !is_supported(Kind::Object, "date") && !is_supported(Kind::String, "ip"));
    }
}
