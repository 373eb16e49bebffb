//! URLs as Go reads them (`net/url`; apiserver `pkg/cel/library/urls.go`).

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{EvalError, quoted};

/// A URL in its parts.
#[derive(Clone, Debug)]
pub struct Url {
    pub(crate) scheme: String,
    /// What follows the scheme where that is no path: `mailto:x`.
    opaque: String,
    /// Whether two slashes stand before the host, though it may be empty.
    has_authority: bool,
    user: Option<String>,
    pub(crate) host: String,
    /// As it was written, escapes and all.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// How a text is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    /// As the target of a request: absolute, and without a fragment; what looks like one belongs to what stands before it.
    Request,
    /// As a reference, its fragment set aside.
    Reference,
}

/// What is wrong with a text that is to be a URL, in Go's words.
fn wrong(text: &str, why: &str) -> String {
    format!("parse {}: {why}", quoted(text))
}

impl Url {
    /// Parses an absolute URL or an absolute path: what is one as a request and as a reference.
    pub(crate) fn parse(text: &str) -> Result<Url, EvalError> {
        request_fault(text)
            .map_or_else(|| Url::reference(text), Err)
            .map_err(|why| EvalError::new(format!("URL parse error during conversion from string: {why}")))
    }

    /// Parses a reference, which may be relative; or what is wrong with it, in Go's words (`url.Parse`).
    pub fn reference(text: &str) -> Result<Url, String> {
        let (reference, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = read(reference, As::Reference).map_err(|why| wrong(reference, &why))?;
        escapes(fragment).map_err(|why| wrong(text, &why))?;
        url.fragment = Some(fragment.to_owned()).filter(|fragment| !fragment.is_empty());
        Ok(url)
    }

    /// The scheme in small letters, or nothing.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host and its port, or nothing.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Who asks, as it is written, with a password if there is one.
    pub fn user(&self) -> Option<String> {
        let user = self.user.as_ref()?;
        let parts: Vec<String> = user.splitn(2, ':').map(|part| escape(&unescape(part, false), PLAIN_USER)).collect();
        Some(parts.join(":"))
    }

    /// The parameters as they were written.
    pub fn raw_query(&self) -> &str {
        self.query.as_deref().unwrap_or_default()
    }

    /// The fragment without escapes.
    pub fn fragment(&self) -> String {
        decode(self.fragment.as_deref().unwrap_or_default(), false)
    }

    /// The host without its port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        let (host, _) = self.split_host();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, or nothing.
    pub(crate) fn port(&self) -> &str {
        self.split_host().1
    }

    fn split_host(&self) -> (&str, &str) {
        match self.host.rfind(':') {
            Some(at) if self.host[at + 1..].bytes().all(|b| b.is_ascii_digit()) => (&self.host[..at], &self.host[at + 1..]),
            _ => (&self.host, ""),
        }
    }

    /// The path with its escapes: as it was written, or escaped anew if it should not have been written so.
    pub(crate) fn escaped_path(&self) -> String {
        rewritten(&self.path, PLAIN_PATH)
    }

    /// The parameters: each name with its values, in order. What is malformed is left out.
    pub(crate) fn query(&self) -> Vec<(String, Vec<String>)> {
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for pair in self.query.as_deref().unwrap_or_default().split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !well_escaped(key) || !well_escaped(value) {
                continue;
            }
            let (key, value) = (decode(key, true), decode(value, true));
            match all.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) => values.push(value),
                None => all.push((key, vec![value])),
            }
        }
        all
    }
}

/// What keeps a text from being the target of a request, in Go's words (`url.ParseRequestURI`).
pub fn request_fault(text: &str) -> Option<String> {
    read(text, As::Request).err().map(|why| wrong(text, &why))
}

/// What a part may have beside letters and digits without being escaped.
const PLAIN_PATH: &str = "-_.~$&+,/:;=@";
const PLAIN_USER: &str = "-_.~$&+,;=";
const PLAIN_FRAGMENT: &str = "-_.~$&+,/:;=@?!()*";
/// What is left as it is in a path or fragment that was written with it.
const TOLERATED: &str = "!'()*[]%";

fn read(text: &str, how: As) -> Result<Url, String> {
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && how == As::Request {
        return Err("empty url".to_owned());
    }
    let mut url = Url {
        scheme: String::new(),
        opaque: String::new(),
        has_authority: false,
        user: None,
        host: String::new(),
        path: String::new(),
        query: None,
        fragment: None,
    };
    if text == "*" {
        url.path = "*".to_owned();
        return Ok(url);
    }
    let (scheme, rest) = scheme(text)?;
    url.scheme = scheme;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query.to_owned())));
    url.query = query;
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            url.opaque = rest.to_owned();
            return Ok(url);
        }
        if how == As::Request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    url.path = rest.to_owned();
    let has_authority = !url.scheme.is_empty() || how == As::Reference && !rest.starts_with("///");
    if let Some(authority) = rest.strip_prefix("//").filter(|_| has_authority) {
        let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
        url.path = path.to_owned();
        url.has_authority = true;
        url.authority(authority)?;
    }
    escapes(&url.path)?;
    Ok(url)
}

impl Url {
    fn authority(&mut self, authority: &str) -> Result<(), String> {
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        self.host = host_of(&self.scheme, host)?;
        if let Some(user) = user {
            if user.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c))) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            escapes(user)?;
            self.user = Some(user.to_owned());
        }
        Ok(())
    }
}

/// A host with its port, unescaped (`parseHost` of `net/url`).
fn host_of(scheme: &str, host: &str) -> Result<String, String> {
    match host.rfind('[') {
        Some(0) => return literal_of(host),
        Some(_) => return Err("invalid IP-literal".to_owned()),
        None => {}
    }
    // A list of hosts, as databases write it, has several ports; the web knows one.
    let port = if matches!(scheme, "http" | "https") { host.find(':') } else { host.rfind(':') };
    port_fault(port.map_or("", |at| &host[at..]))?;
    host_text(host, |byte| !byte.is_ascii())
}

/// An IPv6 address in brackets, maybe with a zone, and its port.
fn literal_of(host: &str) -> Result<String, String> {
    let (address, port) = host[1..].rsplit_once(']').ok_or("missing ']' in host")?;
    port_fault(port)?;
    let (address, zone) = address.split_at(address.find("%25").unwrap_or(address.len()));
    let address = host_text(address, |byte| !byte.is_ascii())?;
    // What a zone may not have as it is, it may not have by an escape; but Windows puts spaces there.
    let zone = host_text(zone, |byte| byte == b' ' || in_host(char::from(byte)))?;
    if zone == "%" || address.parse::<Ipv6Addr>().is_err() {
        let why = if address.parse::<Ipv4Addr>().is_ok() { "invalid IP-literal" } else { "invalid host" };
        return Err(why.to_owned());
    }
    Ok(format!("[{address}{zone}]{port}"))
}

fn port_fault(port: &str) -> Result<(), String> {
    let fits = port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if fits { Ok(()) } else { Err(format!("invalid port {} after host", quoted(port))) }
}

/// A host, or a part of one, unescaped: only the bytes that `hides` names, and `%` itself, may be escaped in it.
fn host_text(host: &str, hides: fn(u8) -> bool) -> Result<String, String> {
    let mut rest = host;
    while let Some(at) = rest.find(|c: char| c.is_ascii() && !in_host(c)) {
        let escape = rest[at..].get(..3).unwrap_or(&rest[at..]);
        if !escape.starts_with('%') {
            return Err(format!("invalid character {} in host name", quoted(&escape[..1])));
        }
        escapes(escape)?;
        if !u8::from_str_radix(&escape[1..], 16).is_ok_and(|byte| byte == b'%' || hides(byte)) {
            return Err(format!("invalid URL escape {}", quoted(escape)));
        }
        rest = &rest[at + 3..];
    }
    Ok(String::from_utf8_lossy(&unescape(host, false)).into_owned())
}

/// Whether a host may have a character as it is; those that are not ASCII aside.
fn in_host(c: char) -> bool {
    c.is_ascii_alphanumeric() || HOST.contains(c)
}

/// What a host may have beside letters and digits.
const HOST: &str = "-._~!$&'()*+,;=:[]<>\"";

fn scheme(text: &str) -> Result<(String, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((text[..at].to_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn well_escaped(text: &str) -> bool {
    escapes(text).is_ok()
}

/// Whether two hexadecimal digits follow each `%`.
fn escapes(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let digits = &text.as_bytes()[at + 1..];
        if !digits.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            let shown: String = text[at..].chars().take(3).collect();
            return Err(format!("invalid URL escape {}", quoted(&shown)));
        }
    }
    Ok(())
}

/// A part as it was written, or, if it should not have been written so, escaped anew.
fn rewritten(part: &str, plain: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || plain.contains(c) || TOLERATED.contains(c);
    if part.chars().all(fits) { part.to_owned() } else { escape(&unescape(part, false), plain) }
}

fn escape(bytes: &[u8], plain: &str) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Nothing fails that writes to a text.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn decode(text: &str, plus: bool) -> String {
    String::from_utf8_lossy(&unescape(text, plus)).into_owned()
}

fn unescape(text: &str, plus: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, hex) {
            (b'%', Some(code)) => {
                out.push(code);
                rest = &after[2..];
                continue;
            }
            (b'+', _) if plus => out.push(b' '),
            _ => out.push(*byte),
        }
        rest = after;
    }
    out
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(out, "{}:", self.scheme)?;
        }
        out.write_str(&self.opaque)?;
        if self.has_authority && (!self.host.is_empty() || self.user.is_some() || !self.scheme.is_empty() && !self.path.is_empty()) {
            out.write_str("//")?;
        }
        if let Some(user) = self.user() {
            write!(out, "{user}@")?;
        }
        out.write_str(&escape(self.host.as_bytes(), HOST))?;
        out.write_str(&self.escaped_path())?;
        if let Some(query) = &self.query {
            write!(out, "?{query}")?;
        }
        self.fragment.as_ref().map_or(Ok(()), |fragment| write!(out, "#{}", rewritten(fragment, PLAIN_FRAGMENT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_falls_into_its_parts() {
        let url = Url::parse("https://user:pw@Example.com:80/a%20b/c d?k=1&k=2&x=a+b#frag").unwrap();
        assert_eq!((url.scheme.as_str(), url.host.as_str(), url.hostname(), url.port()), ("https", "Example.com:80", "Example.com", "80"));
        assert_eq!(url.escaped_path(), "/a%20b/c%20d");
        assert_eq!(url.query(), [("k".into(), vec!["1".into(), "2".into()]), ("x".into(), vec!["a b".into()])]);
        assert_eq!(Url::parse("https://[::1]:80/").unwrap().hostname(), "::1");
        assert!(Url::parse("/path").is_ok());
        for wrong in ["", "path", "../x", "http://a b/", "http://a:x/", "/%zz", ":x", "http://a:1:2/", "http://[1.2.3.4]/", "http://%41/"] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_looks_like_a_fragment_belongs_to_the_host_of_a_request() {
        for wrong in ["https://a:80#b", "https://a#b", "/a#%zz"] {
            assert!(request_fault(wrong).is_some() && Url::parse(wrong).is_err(), "{wrong}");
        }
        let why = Url::parse("https://a:80#b").err().map(|error| error.message().to_string());
        assert_eq!(
            why.as_deref(),
            Some("URL parse error during conversion from string: parse \"https://a:80#b\": invalid port \":80#b\" after host")
        );
        assert!(request_fault("/a?b#%zz").is_none() && Url::parse("/a?b#%zz").is_err(), "it may not be a fragment all the same");
    }

    #[test]
    fn a_zone_hides_nothing_that_it_may_not_show() {
        for (text, host) in [
            ("https://[fe80::1%25en0]/", "[fe80::1%en0]"),
            ("https://[fe80::1%25a%20b]:80/", "[fe80::1%a b]:80"),
            ("https://[fe80::1%25%65n%3A0%25]/", "[fe80::1%en:0%]"),
            ("https://[fe80::1%25é]/", "[fe80::1%é]"),
        ] {
            assert_eq!(Url::parse(text).unwrap().host, host, "{text}");
        }
        for (text, why) in [
            ("https://[fe80::1%25%0a]/", "invalid URL escape \"%0a\""),
            ("https://[fe80::1%25%C3%A9]/", "invalid URL escape \"%C3\""),
            ("https://[fe80::1%25%zz]/", "invalid URL escape \"%zz\""),
            ("https://[fe80::1%25a b]/", "invalid character \" \" in host name"),
        ] {
            assert_eq!(request_fault(text), Some(format!("parse \"{text}\": {why}")));
        }
    }

    #[test]
    fn what_is_wrong_is_quoted_in_gos_way() {
        for (text, expected) in [
            ("/a\u{1}", r#"parse "/a\x01": net/url: invalid control character in URL"#),
            ("/\0", r#"parse "/\x00": net/url: invalid control character in URL"#),
            ("http://a:\u{a0}/", r#"parse "http://a:\u00a0/": invalid port ":\u00a0" after host"#),
        ] {
            assert_eq!(request_fault(text).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_url_is_written_as_it_was_but_for_what_needs_escapes() {
        for (text, written) in [
            ("https://a/b#c", "https://a/b#c"),
            ("https://u!:p@a/b?c d#e f", "https://u%21:p@a/b?c d#e%20f"),
            ("https://%C3%A9", "https://%C3%A9"),
            ("mailto:a@b?c", "mailto:a@b?c"),
            ("file:///x", "file:///x"),
            ("file:/x?", "file:/x?"),
            ("//a/b#", "//a/b"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), written);
        }
    }

    #[test]
    fn a_path_that_should_have_been_escaped_is_escaped_wholly() {
        let escaped = |text| Url::parse(text).unwrap().escaped_path();
        assert_eq!(escaped("/a%2Fb(c)"), "/a%2Fb(c)");
        assert_eq!(escaped("/a%2Fb(c) d"), "/a/b%28c%29%20d");
        assert_eq!((Url::parse("//a/b").unwrap().hostname(), escaped("//a/b").as_str()), ("a", "/b"));
    }
}
