//! Front proxies: who shows a certificate of theirs says in headers who asks (apiserver `authentication/request/headerrequest`).

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName};

use super::{User, authorities::Known};

/// What a front proxy may say, and which (`--requestheader-…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontProxy {
    /// Common names of certificates that are believed; any when empty.
    pub allowed_names: Vec<String>,
    /// Headers of the name: the first that says something.
    pub username_headers: Vec<String>,
    /// Headers of the uid: the first that says something.
    pub uid_headers: Vec<String>,
    /// Headers of groups: all that they say.
    pub group_headers: Vec<String>,
    /// Beginnings of the headers of extras.
    pub extra_prefixes: Vec<String>,
}

/// The headers every Kubernetes server knows: nobody behind authentication is to see them.
const STANDARD: [&str; 3] = ["x-remote-user", "x-remote-uid", "x-remote-group"];
const STANDARD_PREFIX: &str = "x-remote-extra-";

impl FrontProxy {
    /// The user that a front proxy names; `None` when it names nobody. The error says why it is not believed.
    pub(super) fn user<'k>(&self, known: &'k Known, headers: &HeaderMap) -> Result<Option<User>, Cow<'k, str>> {
        let name = match &known.proxy {
            None => return Ok(None),
            // Most clients are none: what is said of them is rarely told.
            Some(Err(why)) => return Err(why.into()),
            Some(Ok(name)) => name,
        };
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(name) {
            return Err(format!("x509: subject with cn={name} is not in the allowed list").into());
        }
        let Some(name) = first(headers, &self.username_headers)? else { return Ok(None) };
        let uid = first(headers, &self.uid_headers)?.unwrap_or_default();
        let mut groups: Vec<Arc<str>> = Vec::new();
        for header in &self.group_headers {
            for value in headers.get_all(header.as_str()) {
                let group = text(value)?;
                if !group.is_empty() {
                    groups.push(group.into());
                }
            }
        }
        let user = User { name: name.into(), uid: uid.into(), groups, extra: self.extra(headers)? };
        Ok(Some(user.authenticated()))
    }

    fn extra(&self, headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            for (name, value) in headers {
                if let Some(key) = begins(name, prefix) {
                    let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                    extra.entry(key).or_default().push(text(value)?.to_owned());
                }
            }
        }
        Ok(extra)
    }

    /// Takes the headers of front proxies away, those configured and the standard ones.
    pub fn clear(of: Option<&Self>, headers: &mut HeaderMap) {
        let is_ours = |name: &HeaderName| {
            let own = of.is_some_and(|of| {
                let mut plain = of.username_headers.iter().chain(&of.uid_headers).chain(&of.group_headers);
                plain.any(|header| header.eq_ignore_ascii_case(name.as_str()))
                    || of.extra_prefixes.iter().any(|prefix| begins(name, prefix).is_some())
            });
            own || STANDARD.contains(&name.as_str()) || name.as_str().starts_with(STANDARD_PREFIX)
        };
        let found: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
}

/// What follows the prefix in a header's name; header names are of lower case here.
fn begins<'h>(name: &'h HeaderName, prefix: &str) -> Option<&'h str> {
    let (start, rest) = name.as_str().split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn first<'h>(headers: &'h HeaderMap, names: &[String]) -> Result<Option<&'h str>, String> {
    for name in names {
        if let Some(value) = headers.get(name.as_str()) {
            let said = text(value)?;
            if !said.is_empty() {
                return Ok(Some(said));
            }
        }
    }
    Ok(None)
}

/// What is no text names nobody: it must not be passed over.
fn text(value: &http::HeaderValue) -> Result<&str, String> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| "a header of the front proxy is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> FrontProxy {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        FrontProxy {
            allowed_names: owned(&["front"]),
            username_headers: owned(&["X-Remote-User", "X-Other-User"]),
            uid_headers: owned(&["X-Remote-Uid"]),
            group_headers: owned(&["X-Remote-Group"]),
            extra_prefixes: owned(&["X-Remote-Extra-"]),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_believed_proxy_names_user_uid_groups_and_extras() {
        let known = Known::of_proxy(Some(Ok("front".into())));
        let said = headers(&[
            ("x-other-user", "jane"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.io%2fteam", "red"),
        ]);
        let user = proxy().user(&known, &said).unwrap().unwrap();
        assert_eq!((&*user.name, &*user.uid), ("jane", "7"));
        assert!(user.in_group("a") && user.in_group("b") && user.in_group("system:authenticated"));
        assert_eq!(user.extra["acme.io/team"], ["red"]);
        assert_eq!(proxy().user(&known, &headers(&[("x-remote-group", "system:masters")])), Ok(None), "groups of nobody");
    }

    #[test]
    fn others_are_not_believed() {
        let said = headers(&[("x-remote-user", "root")]);
        assert_eq!(proxy().user(&Known::of_proxy(None), &said), Ok(None));
        assert!(proxy().user(&Known::of_proxy(Some(Err("expired".into()))), &said).is_err());
        let jane = Known::of_proxy(Some(Ok("jane".into())));
        let other = proxy().user(&jane, &said).unwrap_err();
        assert_eq!(other, "x509: subject with cn=jane is not in the allowed list");
    }

    #[test]
    fn nobody_behind_sees_the_headers() {
        let mut said = headers(&[("x-remote-user", "a"), ("x-other-user", "b"), ("x-remote-extra-k", "c"), ("accept", "d")]);
        FrontProxy::clear(Some(&proxy()), &mut said);
        assert_eq!(said.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
        let mut said = headers(&[("x-remote-group", "a"), ("x-other-user", "b")]);
        FrontProxy::clear(None, &mut said);
        assert_eq!(said.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other-user"]);
    }
}
