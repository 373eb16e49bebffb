//! From values and errors to HTTP responses.

use std::collections::BTreeSet;

use bytes::Bytes;
use coracle_tree::Value;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{Status, body::Body, negotiate::Encoding};

/// Answers larger than this are compressed, in bytes.
const COMPRESSED: u64 = 128 * 1024;

/// What every verb returns.
pub type Answer = Response<Body>;

/// An answer of ready bytes.
pub fn bytes(code: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer in plain text.
pub fn text(code: StatusCode, text: impl Into<bytes::Bytes>) -> Answer {
    let mut answer = bytes(code, "text/plain; charset=utf-8", Body::full(text));
    answer.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// What cannot be answered because a layer before the verbs broke (`endpoints/handlers/responsewriters/errors.go`); `asked` is path and query.
pub fn internal_error(asked: &str, why: &str) -> Answer {
    let text = format!("Internal Server Error: {asked:?}: {why}").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    self::text(StatusCode::INTERNAL_SERVER_ERROR, text + "\n")
}

/// The answer to a request that was not done in time: a status that does not say it is one, which clients take for no answer at all
/// (`server/filters/timeout.go`).
pub fn late() -> Answer {
    let status = Status::timeout("request did not complete within the allotted timeout");
    let members = [
        ("metadata", "{}".to_owned()),
        ("status", "\"Failure\"".to_owned()),
        ("message", format!("{:?}", status.message)),
        ("reason", format!("{:?}", status.reason)),
        ("details", "{}".to_owned()),
        ("code", status.code.to_string()),
    ];
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
    let body = Body::full(format!("{{{}}}\n", members.join(",")));
    bytes(StatusCode::GATEWAY_TIMEOUT, "text/plain; charset=utf-8", body)
}

/// An answer of one value in JSON.
pub fn value(code: StatusCode, value: &Value) -> Answer {
    let mut body = value.to_string();
    body.push('\n');
    bytes(code, Encoding::Json.content_type(), Body::full(body))
}

/// The answer to a failed request, its body written by `write` in this encoding; the log gets the cause.
pub fn error(status: &Status, encoding: Encoding, write: impl FnOnce(&Value) -> Option<Bytes>) -> Answer {
    if let Some(log) = &status.log {
        tracing::error!(code = status.code, reason = status.reason, "{log}");
    }
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let object = status.to_value();
    let mut answer = match write(&object) {
        Some(body) => bytes(code, encoding.content_type(), Body::full(body)),
        None => value(code, &object),
    };
    if let Some(seconds) = status.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    warn(&mut answer, status.warnings());
    answer
}

/// Whether an answer of so many bytes is compressed for a client that takes it (`responsewriters.SerializeObject`).
pub fn is_large(length: u64) -> bool {
    length > COMPRESSED
}

/// Compresses a large answer for a client that takes it.
pub fn compress(answer: Answer, gzip: bool) -> Answer {
    let large = answer.body().len().is_some_and(is_large);
    if !large || answer.headers().contains_key(header::CONTENT_ENCODING) || !gzip {
        return answer;
    }
    encoded(answer.map(Body::gzipped))
}

/// An answer whose body is a gzip text already.
pub fn encoded(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    answer
}

/// Whether a client takes gzip; quality values do not count, as upstream.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let text = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(',').any(|token| token.trim() == "gzip")
}

/// Code points of warnings that are sent whole; of more than that each is cut, and those that no longer fit are left out
/// (`endpoints/filters/warning.go`).
const WARNINGS: usize = 4 * 1024;
/// What is then left of one.
const WARNING: usize = 256;

/// Adds `Warning: 299 - "text"` headers (RFC 7234), escaped and without line breaks, each text once.
pub fn warn(answer: &mut Answer, warnings: &[String]) {
    let mut told = BTreeSet::new();
    let warnings: Vec<&String> = warnings.iter().filter(|text| told.insert(*text)).collect();
    let cut = warnings.iter().map(|text| text.chars().count()).sum::<usize>() > WARNINGS;
    let mut sent = 0;
    for text in warnings {
        if sent >= WARNINGS {
            break;
        }
        let most = if cut { WARNING } else { WARNINGS };
        let clean: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
        sent += clean.chars().count();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
}

/// An answer with warnings; a refusal warns, too.
pub fn warned(made: Result<Answer, Status>, warnings: Vec<String>) -> Result<Answer, Status> {
    match made {
        Ok(mut made) => {
            warn(&mut made, &warnings);
            Ok(made)
        }
        Err(mut status) => {
            status.warn(warnings);
            Err(status)
        }
    }
}

/// The answer to a path nobody serves, as go-restful words it.
pub fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(texts: &[String]) -> Vec<String> {
        let mut answer = text(StatusCode::OK, "");
        warn(&mut answer, texts);
        answer.headers().get_all(header::WARNING).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_warning_is_told_once_and_escaped() {
        let twice = ["a \"b\"".to_owned(), "a \"b\"".to_owned()];
        assert_eq!(warned(&twice), ["299 - \"a \\\"b\\\"\""]);
    }

    #[test]
    fn warnings_too_long_for_headers_are_cut_and_too_many_are_left_out() {
        let long = warned(&["k".repeat(100_000), "short".to_owned()]);
        assert_eq!(long, [format!("299 - \"{}\"", "k".repeat(256)), "299 - \"short\"".to_owned()]);
        let many: Vec<String> = (0..1000).map(|n| format!("{n:0300}")).collect();
        assert_eq!(warned(&many).len(), 16);
        assert_eq!(warned(&["k".repeat(4096)])[0].len(), 4096 + 8);
    }
}
