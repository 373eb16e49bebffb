//! The layer that writes requests down: what it knows of them, before and after they are answered (`endpoints/filters/audit.go`).

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use coracle_schema::{
    Tables,
    decode::{self, FieldValidation},
    proto,
};
use coracle_tree::Value;
use http::{HeaderMap, HeaderName, header, request::Parts};
use http_body_util::{BodyExt, Collected};
use jiff::Timestamp;

use super::RequestInfo;
use crate::{
    audit::{Audit, Completion, Received, Stage, Trail},
    authn::{User, bearer, tokens::Remarks},
    flow::Ticket,
    wire::{Answer, Body, Status, negotiate::Encoding},
};

/// Answers larger than this are no bare Status, in bytes.
const STATUS: u64 = 4096;
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Whom proxies name, the client first.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Whom a proxy takes for the client.
const REAL: HeaderName = HeaderName::from_static("x-real-ip");

/// A request's id and, once it is known who asks, its trail.
pub(super) struct Track {
    /// The `Audit-ID` it came with, or a new one.
    pub(super) id: String,
    /// Whose the request is, for flow control.
    pub(super) ticket: OnceLock<Ticket>,
    /// What is to be told of the token it came with.
    pub(super) remarks: OnceLock<Arc<Remarks>>,
    written: Written,
}

/// What is written down of a request. When it is dropped before [`Track::end`] is through, as the client or the server has given up, the end
/// is written nevertheless: a commit may go on without anybody waiting for it.
struct Written {
    trail: OnceLock<Arc<Trail>>,
    /// It is a watch or a stream.
    goes_on: bool,
    /// How it ended is written, or will be when its body ends.
    ended: AtomicBool,
}

impl Track {
    /// `goes_on`: the request is a watch or a stream.
    pub(super) fn new(headers: &HeaderMap, goes_on: bool) -> Self {
        let given = headers.get(AUDIT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
        let id = given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        let written = Written { trail: OnceLock::new(), goes_on, ended: AtomicBool::new(false) };
        Self { id, ticket: OnceLock::new(), remarks: OnceLock::new(), written }
    }

    /// The trail, if the policy wants one.
    pub(super) fn trail(&self) -> Option<&Arc<Trail>> {
        self.written.trail.get()
    }

    /// Writes that the request has come. Of one from somebody who was not recognised only its end is written.
    pub(super) async fn begin(
        &self,
        audit: &Arc<Audit>,
        found: &Result<Arc<User>, Status>,
        (parts, info): (&Parts, &Arc<RequestInfo>),
        address: Option<IpAddr>,
        at: Timestamp,
    ) -> Result<(), Status> {
        let text = |name| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let uri = parts.uri.path_and_query().map(|asked| asked.as_str().to_owned()).unwrap_or_default();
        let source_ips = source_ips(&parts.headers, address);
        let user = found.as_ref().ok().cloned();
        let received = Received { audit_id: &self.id, uri, info, user, source_ips, user_agent: text(header::USER_AGENT), at };
        let Some(trail) = audit.begin(received) else { return Ok(()) };
        let trail = self.written.trail.get_or_init(|| trail);
        if let Some(remarks) = self.remarks.get() {
            trail.remark(remarks);
        }
        if found.is_ok() { trail.write(Stage::RequestReceived).await } else { Ok(()) }
    }

    /// Writes how it ended; of an answer that goes on, that it has begun. `stage` is how it ended.
    pub(super) async fn end(&self, answer: Answer, status: Option<&Status>, stage: Stage) -> Answer {
        let Some(trail) = self.written.trail.get() else { return answer };
        trail.end(answer.status().as_u16(), status);
        let begins = self.written.goes_on && stage == Stage::ResponseComplete;
        let stage = if begins || trail.is_of_nobody() { Stage::ResponseStarted } else { stage };
        // Only what has not begun may fail for want of its event.
        let _ = trail.write(stage).await;
        self.written.ended.store(true, Ordering::Relaxed);
        if begins && !trail.is_of_nobody() {
            return answer.map(|body| body.holding(Completion(Arc::clone(trail))));
        }
        answer
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // One that is given up while its end is being written may be written twice: rather than not at all.
        if let Some(trail) = self.trail.get().filter(|_| !*self.ended.get_mut()) {
            trail.abandon(self.goes_on);
        }
    }
}

/// The same answer, shown to the trail if it is at hand and the policy wants it.
pub(super) async fn shown(trail: &Trail, tables: &Tables, answer: Answer) -> Answer {
    // An answer that is a Status says how it went, at every level: that of a removal may be one.
    let tells = trail.takes_response() || trail.removes();
    if !tells || answer.body().len().is_none_or(|length| length == 0 || !trail.takes_response() && length > STATUS) {
        return answer;
    }
    let (parts, body) = answer.into_parts();
    // A body of a known length is at hand, and does not break off.
    let bytes = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let is = |encoding: Encoding| parts.headers.get(header::CONTENT_TYPE).is_some_and(|t| t == encoding.content_type());
    let object = if is(Encoding::Protobuf) { decoded(tables, &bytes) } else { serde_json::from_slice(&bytes).ok() };
    if let Some(object) = object {
        trail.outcome(&object);
        trail.response(object);
    }
    Answer::from_parts(parts, Body::full(bytes))
}

/// A protobuf answer of the built-in API.
fn decoded(tables: &Tables, body: &[u8]) -> Option<Value> {
    let (api_version, kind) = proto::type_of(body).ok()?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    let schema = tables.kind(group, version, &kind).or_else(|| tables.message(&format!("meta.{kind}")))?;
    let value = proto::decode(body, &schema).ok()?;
    // As JSON it is told without what is empty: a code of 0 is none.
    decode::from_value(value, &schema, FieldValidation::Ignore).ok().map(|decoded| decoded.value)
}

/// Where a request comes from: whom proxies name, then who is connected (`utilnet.SourceIPs`).
fn source_ips(headers: &HeaderMap, address: Option<IpAddr>) -> Vec<String> {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let address_of = |text: &str| text.trim().parse::<IpAddr>().ok();
    let (forwarded, real) = (text(FORWARDED), text(REAL));
    if forwarded.or(real).is_none() {
        return address.map(shown_address).into_iter().collect();
    }
    let mut all: Vec<IpAddr> = forwarded.into_iter().flat_map(|named| named.split(',')).filter_map(address_of).collect();
    if let Some(real) = real.and_then(address_of).filter(|ip| !all.contains(ip)) {
        all.push(real);
    }
    if let Some(peer) = address.filter(|ip| all.last() != Some(ip)) {
        all.push(peer);
    }
    all.into_iter().map(shown_address).collect()
}

/// An address as text, without the general formatter where it is one of those that most are.
fn shown_address(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let (mut text, mut end) = (*b"255.255.255.255.", 0);
    for part in address.octets() {
        for (digit, shown) in [(part / 100, part > 99), (part / 10 % 10, part > 9), (part % 10, true)] {
            text[end] = b'0' + digit;
            end += usize::from(shown);
        }
        text[end] = b'.';
        end += 1;
    }
    str::from_utf8(&text[..end - 1]).unwrap_or_default().to_owned()
}

/// What a client tried that nobody recognised.
pub(super) fn attempted(headers: &HeaderMap, has_certificate: bool) -> String {
    let basic = headers.get(header::AUTHORIZATION).is_some_and(|v| v.as_bytes().to_ascii_lowercase().starts_with(b"basic "));
    let tried = [(basic, "basic"), (bearer::token(headers).is_some(), "bearer"), (has_certificate, "x509")];
    let tried: Vec<&str> = tried.into_iter().filter_map(|(tried, name)| tried.then_some(name)).collect();
    if tried.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", tried.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_request_keeps_the_id_it_came_with() {
        assert_eq!(Track::new(&headers(&[("audit-id", "mine")]), false).id, "mine");
        assert_eq!(Track::new(&headers(&[]), false).id.len(), 36);
    }

    #[test]
    fn a_protobuf_answer_is_told_without_what_is_empty() {
        let body = b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Status\x12\x17\x0a\x06\x0a\0\x12\0\x1a\0\x12\x07Success\x1a\0\"\x000\0\x1a\0\"\0";
        let told = decoded(&Tables::load().unwrap(), body).unwrap();
        let code_and_status = (told.get("code"), &told["status"], told.get("message"));
        assert_eq!(code_and_status, (None, &Value::from("Success"), None), "{told}");
    }

    #[test]
    fn sources_are_the_client_its_proxies_and_the_peer() {
        let peer = Some(IpAddr::from([10, 0, 0, 9]));
        let forwarded = headers(&[("x-forwarded-for", "1.1.1.1, nonsense, 2.2.2.2"), ("x-real-ip", "3.3.3.3")]);
        assert_eq!(source_ips(&forwarded, peer), ["1.1.1.1", "2.2.2.2", "3.3.3.3", "10.0.0.9"]);
        assert_eq!(source_ips(&headers(&[("x-forwarded-for", "10.0.0.9")]), peer), ["10.0.0.9"]);
        assert!(source_ips(&headers(&[]), None).is_empty());
        for peer in ["0.0.0.0", "127.0.0.1", "10.20.109.255", "100.101.9.10", "fd00::1"] {
            assert_eq!(source_ips(&headers(&[]), peer.parse().ok()), [peer]);
        }
    }

    #[test]
    fn who_is_not_recognised_is_told_by_what_was_tried() {
        assert_eq!(attempted(&headers(&[]), false), "Authentication failed, no credentials provided");
        assert_eq!(attempted(&headers(&[("authorization", "Bearer x")]), true), "Authentication failed, attempted: bearer, x509");
    }
}
