//! Pages of other origins, which browsers let read answers only when these say so (apiserver `server/filters/cors.go`).

use std::sync::Arc;

use coracle_schema::pattern::{self, Pattern};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::wire::{Answer, Body};

const METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE, PATCH";
const HEADERS: &str = "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since";

/// The origins that may (`--cors-allowed-origins`): expressions, of which one is found in them.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<Arc<Pattern>>);

impl Origins {
    /// Refuses what is no expression, and what would match a host that merely contains the one that is meant.
    pub fn new(expressions: &[String]) -> Result<Self, String> {
        let read = |expression: &String| {
            if expression.is_empty() {
                return Err("empty value".to_owned());
            }
            let wrong = |why: &str| format!("has an invalid regular expression: {why}");
            let pattern = pattern::compiled(expression).map_err(|why| wrong(&why))?;
            let (begins, ends) = (["^", "//"], ["$", ":"]);
            if !begins.iter().any(|mark| expression.contains(mark)) || !ends.iter().any(|mark| expression.contains(mark)) {
                return Err(wrong("regular expression does not pin to start/end of host in the origin header"));
            }
            Ok(pattern)
        };
        expressions.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The origin of a request, if it is one of them.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok().filter(|text| !text.is_empty())?;
        self.0.iter().any(|pattern| pattern.is_match(text).unwrap_or(false)).then(|| origin.clone())
    }
}

/// Lets pages of an origin read an answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
}

/// What a browser is told that asks beforehand: nothing but that.
pub(super) fn preflight() -> Answer {
    let mut answer = Response::new(Body::full(""));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(expressions: &[&str]) -> Result<Origins, String> {
        Origins::new(&expressions.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_expression_has_to_say_where_a_host_begins_and_ends() {
        for good in ["^https://example\\.com$", "//example\\.com(:|$)", "://localhost:"] {
            of(&[good]).unwrap();
        }
        for loose in ["example.com", "^example.com", "example.com$"] {
            assert!(of(&["//a:", loose]).unwrap_err().contains("does not pin to start/end"), "{loose}");
        }
        assert!(of(&["//("]).unwrap_err().starts_with("has an invalid regular expression: error parsing regexp"));
        assert_eq!(of(&[""]).unwrap_err(), "empty value");
    }

    #[test]
    fn origins_are_found_by_any_expression() {
        let origins = of(&["//example\\.com(:|$)", "^https://other$"]).unwrap();
        let origin = |text: &str| {
            let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::try_from(text).unwrap())]);
            origins.of(&headers).is_some()
        };
        assert!(origin("https://example.com") && origin("http://example.com:8080") && origin("https://other"));
        assert!(!origin("https://example.com.evil") && !origin("https://other2") && !origin(""));
        assert!(origins.of(&HeaderMap::new()).is_none());
    }
}
