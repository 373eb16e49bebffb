//! Where a request carries a bearer token, and the fixed tokens of a file.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};

use super::User;

/// Browsers cannot set headers on WebSockets, so the token may come as a protocol with this prefix, in base64url.
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The token of a request, from `Authorization: Bearer` or the WebSocket protocols.
pub fn token(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let found = headers.get(header::AUTHORIZATION).and_then(|v| match str::from_utf8(v.as_bytes()) {
        Ok(text) => after_bearer(text).map(Cow::Borrowed),
        // It is refused as a token, not passed over.
        Err(_) => after_bearer(&String::from_utf8_lossy(v.as_bytes())).map(|token| Cow::Owned(token.to_owned())),
    });
    if found.is_some() {
        return found;
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut all = protocols.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim);
    let encoded = all.find_map(|p| p.strip_prefix(PROTOCOL_PREFIX))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok().filter(|t| !t.is_empty()).map(Cow::Owned)
}

/// What stands behind one space after `Bearer`, up to the next.
fn after_bearer(authorization: &str) -> Option<&str> {
    let (scheme, rest) = authorization.trim().split_once(' ')?;
    let token = &rest[..memchr::memchr(b' ', rest.as_bytes()).unwrap_or(rest.len())];
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Takes the token out of a request's headers, before they are passed on to somebody else.
pub fn remove(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let kept: Vec<&str> = all.flat_map(|v| v.split(',')).map(str::trim).filter(|p| !p.starts_with(PROTOCOL_PREFIX)).collect();
    let kept = kept.join(", ");
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let (false, Ok(value)) = (kept.is_empty(), kept.parse()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// Reads a `--token-auth-file`: lines `token,user,uid` with an optional quoted, comma-separated list of groups. The error names the line.
pub fn fixed_tokens(text: &str) -> Result<HashMap<String, Arc<User>>, String> {
    let mut tokens = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
        let mut parts = line.splitn(4, ',').map(|p| p.trim().trim_matches('"'));
        let (Some(token), Some(name), Some(uid)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("line {}: must be token,user,uid[,\"group1,group2\"]", number + 1));
        };
        if token.is_empty() || name.is_empty() {
            return Err(format!("line {}: token and user must not be empty", number + 1));
        }
        let groups: Vec<&str> = parts.next().unwrap_or_default().split(',').map(str::trim).filter(|g| !g.is_empty()).collect();
        let user = User { uid: uid.into(), ..User::new(name, &groups) };
        tokens.insert(token.to_owned(), Arc::new(user));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: header::HeaderName, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        token(&headers).map(Cow::into_owned)
    }

    #[test]
    fn bearer_tokens_are_found_whatever_the_case_of_the_scheme() {
        assert_eq!(of(header::AUTHORIZATION, "bearer abc").as_deref(), Some("abc"));
        assert_eq!(of(header::AUTHORIZATION, "Bearer abc def").as_deref(), Some("abc"));
        assert_eq!(of(header::AUTHORIZATION, "Bearer  abc"), None, "as upstream");
        assert_eq!(of(header::AUTHORIZATION, "Basic abc"), None);
        assert_eq!(of(header::AUTHORIZATION, "Bearer "), None);
    }

    #[test]
    fn websocket_protocols_may_carry_the_token() {
        let value = format!("v5.channel.k8s.io, {PROTOCOL_PREFIX}{}", URL_SAFE_NO_PAD.encode("abc"));
        assert_eq!(of(header::SEC_WEBSOCKET_PROTOCOL, &value).as_deref(), Some("abc"));
        let mut both = HeaderMap::new();
        both.insert(header::AUTHORIZATION, "Basic YTpi".parse().unwrap());
        both.insert(header::SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
        assert_eq!(token(&both).as_deref(), Some("abc"));
    }

    #[test]
    fn a_token_file_names_users_with_groups_and_its_bad_line() {
        let read = fixed_tokens("t1,jane,u1,\"a,b\"\n\nt2,joe,u2\n").unwrap();
        assert!(read["t1"].in_group("b") && &*read["t2"].name == "joe");
        assert!(fixed_tokens("t1,jane\n").unwrap_err().starts_with("line 1"));
    }
}
