//! URLs as Go reads them (`net/url`; apiserver `pkg/cel/library/urls.go`).

use std::fmt;

use crate::EvalError;

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) scheme: String,
    user: Option<String>,
    pub(crate) host: String,
    /// As it was written, escapes and all.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

fn wrong(text: &str, why: &str) -> EvalError {
    EvalError::new(format!("URL parse error during conversion from string: parse {text:?}: {why}"))
}

impl Url {
    /// Parses an absolute URL or an absolute path.
    pub(crate) fn parse(text: &str) -> Result<Url, EvalError> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err(wrong(text, "net/url: invalid control character in URL"));
        }
        if text.is_empty() {
            return Err(wrong(text, "empty url"));
        }
        let (scheme, rest) = scheme(text)?;
        let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(rest, fragment)| (rest, Some(fragment.to_string())));
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query.to_string())));
        if !rest.starts_with('/') {
            if scheme.is_empty() {
                return Err(wrong(text, "invalid URI for request"));
            }
            // Opaque: `mailto:x`.
            return Ok(Url { scheme, user: None, host: String::new(), path: String::new(), query, fragment });
        }
        let mut url = Url { scheme, user: None, host: String::new(), path: rest.to_string(), query, fragment };
        if let Some(authority) = rest.strip_prefix("//").filter(|_| !url.scheme.is_empty() || !rest.starts_with("///")) {
            // A path that begins with two slashes has no host in a URL without a scheme.
            if !url.scheme.is_empty() {
                let end = authority.find('/').unwrap_or(authority.len());
                url.path = authority[end..].to_string();
                url.authority(text, &authority[..end])?;
            }
        }
        escapes(text, &url.path)?;
        Ok(url)
    }

    fn authority(&mut self, text: &str, authority: &str) -> Result<(), EvalError> {
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                if user.contains(|c: char| !(c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c))) {
                    return Err(wrong(text, "net/url: invalid userinfo"));
                }
                self.user = Some(user.to_string());
                host
            }
            None => authority,
        };
        let port = match host.strip_prefix('[') {
            Some(inner) => match inner.rsplit_once(']') {
                Some((_, port)) => port,
                None => return Err(wrong(text, "missing ']' in host")),
            },
            None => host.rfind(':').map_or("", |at| &host[at..]),
        };
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit())) {
            return Err(wrong(text, &format!("invalid port {port:?} after host")));
        }
        if let Some(c) = host.chars().find(|c| c.is_ascii() && !(c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]<>\"%".contains(*c))) {
            return Err(wrong(text, &format!("invalid character {:?} in host name", c.to_string())));
        }
        self.host = decode(host, false);
        Ok(())
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

    /// The path with its escapes.
    pub(crate) fn escaped_path(&self) -> String {
        self.path
            .chars()
            .map(|c| {
                if c.is_ascii() && !" \"<>\\^`{|}".contains(c) {
                    c.to_string()
                } else {
                    c.to_string().bytes().map(|b| format!("%{b:02X}")).collect()
                }
            })
            .collect()
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

fn scheme(text: &str) -> Result<(String, &str), EvalError> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err(wrong(text, "missing protocol scheme")),
            ':' => return Ok((text[..at].to_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn well_escaped(text: &str) -> bool {
    text.match_indices('%').all(|(at, _)| text.get(at + 1..at + 3).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())))
}

fn escapes(text: &str, part: &str) -> Result<(), EvalError> {
    for (at, _) in part.match_indices('%') {
        let hex = part.get(at + 1..at + 3);
        if !hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
            let shown = part.get(at..at + 3).unwrap_or(&part[at..]);
            return Err(wrong(text, &format!("invalid URL escape {shown:?}")));
        }
    }
    Ok(())
}

fn decode(text: &str, plus: bool) -> String {
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
    String::from_utf8_lossy(&out).into_owned()
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(out, "{}:", self.scheme)?;
        }
        if !self.host.is_empty() || self.user.is_some() {
            out.write_str("//")?;
            if let Some(user) = &self.user {
                write!(out, "{user}@")?;
            }
            out.write_str(&self.host)?;
        }
        out.write_str(&self.escaped_path())?;
        if let Some(query) = &self.query {
            write!(out, "?{query}")?;
        }
        self.fragment.as_ref().map_or(Ok(()), |fragment| write!(out, "#{fragment}"))
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
        for wrong in ["", "path", "../x", "http://a b/", "http://a:x/", "/%zz", ":x"] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }
}
