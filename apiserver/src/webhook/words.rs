//! What Go's clients say of what went wrong on the way to a webhook: people search for these texts.

use std::time::Duration;

use coracle_tree::Value;
use http::{Method, StatusCode, header};
use rustls::{CertificateError, Error, InvalidMessage, pki_types::UnixTime};

use super::Said;

/// What of a text is shown, in bytes.
const SHOWN: usize = 2048;

/// An error of the system while dialling.
pub(super) fn dial(address: &str, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ if error.raw_os_error().is_none() => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            return format!("dial tcp: lookup {host}: no such host");
        }
        _ => format!("connect: {error}"),
    };
    format!("dial tcp {address}: {why}")
}

/// An error of the TLS handshake.
pub(crate) fn handshake(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => format!("tls: failed to verify certificate: {}", certificate(why)),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
        Some(other) => format!("tls: {other}"),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "x509: certificate signed by unknown authority".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            let (now, then) = (instant(*time), instant(*not_after));
            format!("x509: certificate has expired or is not yet valid: current time {now} is after {then}")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (now, then) = (instant(*time), instant(*not_before));
            format!("x509: certificate has expired or is not yet valid: current time {now} is before {then}")
        }
        CertificateError::Expired | CertificateError::NotValidYet => "x509: certificate has expired or is not yet valid".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let expected = expected.to_str();
            if names.is_empty() {
                return format!("x509: certificate is not valid for any names, but wanted to match {expected}");
            }
            format!("x509: certificate is valid for {}, not {expected}", names.join(", "))
        }
        other => format!("x509: {other}"),
    }
}

/// `DnsName("a")` as `a`.
fn bare(name: &str) -> &str {
    name.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(name, |(inner, _)| inner)
}

fn instant(at: UnixTime) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|at| at.to_string()).unwrap_or_default()
}

/// An error of a request on its way.
pub(crate) fn sending(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() {
        return "EOF".to_owned();
    }
    if error.is_parse() {
        return format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response: {error}");
    }
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The body of an answer that was begun does not come.
pub(super) fn unread(why: &str) -> String {
    format!("unexpected error when reading response body. Please retry. Original error: {why}")
}

/// `Post`, as errors of Go's client begin.
pub(super) fn verb(method: &Method) -> &'static str {
    if *method == Method::GET { "Get" } else { "Post" }
}

/// Where an answer sends the question.
pub(super) fn location(said: &Said) -> Option<&str> {
    matches!(said.code.as_u16(), 301 | 302 | 303 | 307 | 308).then_some(())?;
    said.headers.get(header::LOCATION)?.to_str().ok()
}

/// When the question may be asked again, if the webhook says so.
pub(super) fn retry_after(said: &Said) -> Option<Duration> {
    if said.code != StatusCode::TOO_MANY_REQUESTS && !said.code.is_server_error() {
        return None;
    }
    let seconds = said.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The body of an answer that is one; the error is what upstream's client makes of any other (`NewGenericServerResponse`).
pub(crate) fn answered(said: Said) -> Result<bytes::Bytes, String> {
    let code = said.code.as_u16();
    let media = said.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if (200..=206).contains(&code) {
        if said.body.is_empty() {
            let shown = if media.is_empty() { "application/json" } else { media };
            return Err(format!("0-length response with status code: {code} and content type: {shown}"));
        }
        return Ok(said.body);
    }
    if let Some(message) = status(&said.body) {
        return Err(message);
    }
    let is_text = media.is_empty() || media.trim_start().starts_with("text/");
    let shown = String::from_utf8_lossy(&said.body[..said.body.len().min(SHOWN)]);
    let shown = if is_text { shown.trim() } else { "unknown" };
    Err(generic(code, shown).1)
}

/// Reason and message of an answer that is no status.
pub(crate) fn generic(code: u16, shown: &str) -> (&'static str, String) {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        code if code >= 500 => "InternalError",
        _ => "",
    };
    let message = match code {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 | 415 => shown.to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        406 if matches!(shown, "" | "unknown") => {
            "the server was unable to respond with a content type that the client supports".to_owned()
        }
        406 => shown.to_owned(),
        409 => "the server reported a conflict".to_owned(),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
        code if code >= 500 => format!("an error on the server ({shown:?}) has prevented the request from succeeding"),
        code => format!("the server responded with the status code {code} but did not return more information"),
    };
    (reason, message)
}

/// What a `Status` says went wrong.
fn status(body: &[u8]) -> Option<String> {
    let status: Value = serde_json::from_slice(body).ok()?;
    (status["kind"] == "Status" && status["status"] == "Failure").then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16, media: &str, body: &str) -> Result<bytes::Bytes, String> {
        let mut headers = http::HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
        answered(Said { code: StatusCode::from_u16(code).unwrap(), headers, body: body.to_owned().into() })
    }

    #[test]
    fn an_answer_that_is_none_is_told_as_client_go_tells_it() {
        assert_eq!(said(200, "text/plain", "x").unwrap(), "x");
        assert_eq!(
            said(500, "text/plain", "boom ").unwrap_err(),
            "an error on the server (\"boom\") has prevented the request from succeeding"
        );
        assert_eq!(
            said(500, "application/json", "{}").unwrap_err(),
            "an error on the server (\"unknown\") has prevented the request from succeeding"
        );
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"i am sick"}"#;
        assert_eq!(said(500, "application/json", status).unwrap_err(), "i am sick");
        assert_eq!(
            said(204, "application/json", "").unwrap_err(),
            "0-length response with status code: 204 and content type: application/json"
        );
        assert_eq!(
            said(418, "text/plain", "tea").unwrap_err(),
            "the server responded with the status code 418 but did not return more information"
        );
    }

    #[test]
    fn a_certificate_for_another_name_is_told_with_its_names() {
        let error = CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("hook.ns.svc").unwrap(),
            presented: vec!["DnsName(\"localhost\")".to_owned()],
        };
        assert_eq!(certificate(&error), "x509: certificate is valid for localhost, not hook.ns.svc");
    }
}
