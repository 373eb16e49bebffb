//! A request passed on to another server, and its answer (kube-aggregator `apiserver/handler_proxy.go`, apimachinery
//! `util/proxy/upgradeaware.go`, Go's `httputil.ReverseProxy`).

use std::{io, net::IpAddr, time::Duration};

use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts, response};
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Aggregator, Remote, identity};
use crate::{
    authn::{User, bearer},
    webhook::{
        Question,
        forward::{Frames, Link},
    },
    wire::{Answer, Body, answer, tunnel},
};

/// What clients find out first must not take long (`aggregatedDiscoveryTimeout`).
const DISCOVERY: Duration = Duration::from_secs(5);

/// Headers between two ends of one connection.
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a browser is allowed to do is told by this server alone.
const CORS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// A request that is to be passed on: it was authorized.
pub(crate) struct Arrival<'a> {
    pub parts: Parts,
    pub body: Question,
    /// As whom it acts.
    pub user: &'a User,
    pub audit_id: &'a str,
    /// Where the client is.
    pub address: Option<IpAddr>,
    /// Whether it asks for objects, not for what there is.
    pub is_resource: bool,
    /// When the last byte of the answer is to be there; `None`: it may go on until `drain`.
    pub until: Option<Instant>,
    /// The server stops.
    pub drain: CancellationToken,
}

impl Aggregator {
    /// Passes a request on. What goes wrong is told in plain text, as upstream's proxy tells it.
    pub(crate) async fn forward(&self, remote: &Remote, mut arrival: Arrival<'_>) -> Answer {
        if !remote.is_available() {
            return unavailable("service unavailable");
        }
        let link = match &remote.link {
            Ok(link) => link,
            Err(why) => return text(StatusCode::INTERNAL_SERVER_ERROR, why),
        };
        let Ok(addresses) = link.addresses(&*self.reader).await else { return unavailable("service unavailable") };
        let upgrade = is_upgrade(&arrival.parts.headers);
        let ours = arrival.parts.extensions.remove::<OnUpgrade>().filter(|_| upgrade);
        if let Err(why) = prepare(&mut arrival, remote, upgrade) {
            return text(StatusCode::INTERNAL_SERVER_ERROR, why);
        }
        let Arrival { parts, body, is_resource, until, drain, .. } = arrival;
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (parts.method, parts.uri, parts.headers);
        if upgrade {
            return upgraded(link, &addresses, request, ours, drain).await;
        }
        let sent = link.send(&addresses, request);
        let sent = if is_resource {
            sent.await
        } else {
            timeout(DISCOVERY, sent).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
        };
        match sent {
            Ok((parts, frames)) => self.answered(parts, bounded(frames, until, drain)),
            Err(why) => unavailable(&format!("error trying to reach service: {why}")),
        }
    }

    fn answered(&self, parts: response::Parts, frames: Frames) -> Answer {
        if self.reject_redirects && parts.status.is_redirection() && parts.headers.get(header::LOCATION).is_some_and(|to| !to.is_empty()) {
            let why = "the backend attempted to redirect this request, which is not permitted";
            return answer::bytes(StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", Body::full(why));
        }
        let mut made = Response::new(Body::foreign(frames));
        *made.status_mut() = parts.status;
        *made.headers_mut() = parts.headers;
        strip(made.headers_mut());
        for name in CORS {
            made.headers_mut().remove(name);
        }
        made
    }
}

/// `http.Error`
fn text(code: StatusCode, why: &str) -> Answer {
    answer::text(code, format!("{why}\n"))
}

fn unavailable(why: &str) -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Whether a client wants to leave HTTP.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Takes out what is between the client and this server, and puts in who asks and on whose behalf.
fn prepare(arrival: &mut Arrival<'_>, remote: &Remote, upgrade: bool) -> Result<(), &'static str> {
    let headers = &mut arrival.parts.headers;
    bearer::remove(headers);
    identity::tell(headers, arrival.user).ok_or("the user cannot be named in a header")?;
    if !upgrade {
        let trailers = headers.get_all(header::TE).iter().any(|v| v.to_str().is_ok_and(|v| v.contains("trailers")));
        strip(headers);
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| "the path cannot be told in a header");
        let service = &remote.service;
        let host = format!("{}.{}.svc:{}", service.name, service.namespace, service.port.unwrap_or(443));
        headers.insert("x-forwarded-uri", value(arrival.parts.uri.path())?);
        headers.insert("x-forwarded-host", value(&host)?);
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    }
    // hyper writes it from what is there.
    headers.remove(header::CONTENT_LENGTH);
    if let Ok(id) = HeaderValue::from_str(arrival.audit_id) {
        headers.insert("audit-id", id);
    }
    if let Some(address) = arrival.address {
        let before: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        let all = before.iter().map(|v| (*v).to_owned()).chain([address.to_string()]).collect::<Vec<_>>().join(", ");
        if let Ok(all) = HeaderValue::from_str(&all) {
            headers.insert("x-forwarded-for", all);
        }
    }
    Ok(())
}

/// Removes headers of one connection, those that `Connection` names among them.
fn strip(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let named: Vec<HeaderName> = named.filter_map(|name| name.trim().parse().ok()).collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
}

/// An answer that ends in time: one that is late breaks off, one that may go on ends when the server stops.
fn bounded(frames: Frames, until: Option<Instant>, drain: CancellationToken) -> Frames {
    let Some(until) = until else { return frames.take_until(drain.cancelled_owned()).boxed() };
    stream::unfold(Some(frames), move |frames| async move {
        let mut frames = frames?;
        match timeout_at(until, frames.next()).await {
            Ok(next) => next.map(|frame| (frame, Some(frames))),
            Err(_) => Some((Err(io::Error::from(io::ErrorKind::TimedOut)), None)),
        }
    })
    .boxed()
}

/// Passes an upgrade on, and then bytes both ways until one side ends.
async fn upgraded(
    link: &Link,
    addresses: &[(String, u16)],
    request: Request<Question>,
    ours: Option<OnUpgrade>,
    drain: CancellationToken,
) -> Answer {
    let Some(ours) = ours else { return unavailable("request connection cannot be hijacked") };
    let (parts, frames, theirs) = match link.upgrade(addresses, request).await {
        Ok(answered) => answered,
        Err(why) => return unavailable(&why),
    };
    let mut made = match parts.status {
        StatusCode::SWITCHING_PROTOCOLS => Response::new(tunnel::join(ours, theirs, drain, "another API server")),
        code if code.as_u16() < 400 => return unavailable(&format!("invalid upgrade response: status code {}", code.as_u16())),
        _ => Response::new(Body::foreign(frames)),
    };
    *made.status_mut() = parts.status;
    *made.headers_mut() = parts.headers;
    if made.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip(made.headers_mut());
    }
    made
}
