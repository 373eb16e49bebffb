//! From values and errors to HTTP responses.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use super::{
    Status,
    body::Body,
    negotiate::{self, Encoding},
};

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

/// An answer of one value.
pub fn value(code: StatusCode, encoding: Encoding, value: &Value) -> Answer {
    match negotiate::render(encoding, value) {
        Ok(body) => bytes(code, encoding.content_type(), Body::full(body)),
        Err(status) => error(&status),
    }
}

/// The answer to a failed request; the log gets the cause.
pub fn error(status: &Status) -> Answer {
    if let Some(log) = &status.log {
        tracing::error!(code = status.code, reason = status.reason, "{log}");
    }
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = status.to_value().to_string();
    body.push('\n');
    let mut answer = bytes(code, "application/json", Body::full(body));
    if let Some(seconds) = status.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Adds `Warning: 299 - "text"` headers (RFC 7234), escaped and without line breaks.
pub fn warn(answer: &mut Answer, warnings: &[String]) {
    for text in warnings {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
}

/// The answer to a path nobody serves, as go-restful words it.
pub fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
