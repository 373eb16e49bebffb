//! What every request passes on its way in, in one list: see [`Layers::pass`].

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Method, Request, header, request::Parts};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{debug, error};

use super::{
    Query, RequestInfo, cors,
    impersonate::{Acting, Modes, impersonate},
    limits::{self, Limits, Slot},
    paths::Paths,
    serve::Connections,
    trail::{self, Track},
};
use crate::{
    aggregator::{Aggregator, Arrival},
    audit::{Audit, Stage},
    authn::{Peer, Recognised, Remembered, User},
    authz::{Decision, MASTERS, Verdict, forbidden},
    flow::{self, Flow, Registered, Seat},
    metrics::{
        access,
        requests::{self, Labels, Tracked, UnderWay},
    },
    trace::{self, Trace, Tracing},
    verbs::{self, Api, Call, render},
    wire::{Answer, Status, answer, negotiate},
};

/// A request's body, from a connection or from within.
type Incoming = UnsyncBoxBody<Bytes, io::Error>;

/// How a request came here.
#[derive(Clone)]
pub enum Origin {
    /// Over a connection.
    Network {
        /// The client certificate it came with, if it has one.
        peer: Option<Arc<Peer>>,
        /// Where the client is.
        address: Option<IpAddr>,
        /// The token it carried last.
        last: Arc<Remembered>,
    },
    /// From a part of this process, as this user.
    Process(Arc<User>),
}

/// Why a request does not get to its verb.
enum Barred {
    /// It may not.
    Forbidden(Status),
    /// Nobody could tell whether it may.
    Unknown(String),
}

impl Origin {
    /// Where the client is.
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Network { address, .. } => *address,
            Self::Process(_) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }
}

/// What a request takes while it is on its way.
struct Place {
    /// Of those shared by priority levels.
    seat: Option<Seat>,
    slot: Slot,
    /// That there is one more watch.
    watch: Option<Registered>,
}

/// Answers larger than this, in bytes, keep their place until they are sent: what waits in memory is bounded by those.
const LARGE: u64 = 64 * 1024;

/// The way in.
pub struct Layers {
    /// What other servers answer.
    pub aggregator: Arc<Aggregator>,
    /// What the verbs work with.
    pub api: Arc<Api>,
    /// What is written down of requests.
    pub audit: Option<Arc<Audit>>,
    /// How many requests at a time, and who goes first; `None`: whoever comes first.
    pub flow: Option<Arc<Flow>>,
    /// What connections are allowed and told.
    pub connections: Connections,
    /// Bounds.
    pub limits: Limits,
    /// How long a request may take that is neither a watch nor a stream.
    pub timeout: Duration,
    /// How callers were allowed to act as others.
    pub modes: Modes,
    /// Everything that is not an API object.
    pub paths: Paths,
    /// Families of metrics that nobody is told (`--disabled-metrics`).
    pub metrics_off: BTreeSet<String>,
    /// What sends spans of requests, if something does.
    pub(crate) tracer: Tracing,
}

impl Layers {
    /// Answers a request. Not generic below this, so that the way through the server is compiled once, here.
    pub fn serve<B>(self: &Arc<Self>, origin: Origin, request: Request<B>) -> BoxFuture<'static, Answer>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Arc::clone(self).answer(origin, request.map(|body| body.map_err(io::Error::other).boxed_unsync()))
    }

    fn answer(self: Arc<Self>, origin: Origin, request: Request<Incoming>) -> BoxFuture<'static, Answer> {
        Box::pin(async move { self.guard(origin, request).await })
    }

    /// The outermost layers: panic guard, trace and metrics.
    async fn guard(self: &Arc<Self>, origin: Origin, request: Request<Incoming>) -> Answer {
        let started = Instant::now();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let tables = &self.api.tables;
        let encoding = negotiate::for_errors(request.headers(), request.uri().query().unwrap_or_default());
        let info = match RequestInfo::parse(request.method(), request.uri().path(), &query) {
            Ok(info) => Arc::new(info),
            Err(text) => {
                let path = request.uri().path_and_query().map_or_else(|| request.uri().path(), |whole| whole.as_str());
                return answer::internal_error(path, &format!("failed to create RequestInfo: {text}"));
            }
        };
        let origin_of_page = self.connections.origins.of(request.headers());
        let track = Track::new(request.headers(), info.is_long_running());
        let labels = Labels::of(&info, request.method(), &query, request.headers());
        let (trace, method) = (Trace::taken(request.headers()), request.method().clone());
        // In a place of its own, as each of those around it would otherwise have room for it, and be moved with that.
        let passing = AssertUnwindSafe(Box::pin(self.pass(origin, request, &info, query, (&track, labels)))).catch_unwind();
        let (passed, Tracked { routed, waited, recording }) = requests::tracked(trace, labels, passing).await;
        let (made, status, stage) = match passed {
            Ok(Ok(made)) => (made, None, Stage::ResponseComplete),
            Ok(Err(status)) => (render::error(tables, encoding, &status), Some(status), Stage::ResponseComplete),
            Err(_) => {
                error!(verb = info.verb, path = info.path, "a request panicked");
                let status = Status::internal("this request panicked; the server's log has the details");
                (render::error(tables, encoding, &status), Some(status), Stage::Panic)
            }
        };
        let mut made = track.end(made, status.as_ref(), stage).await;
        let took = started.elapsed();
        if let Some(labels) = labels.filter(|_| routed) {
            made = counted(&labels, &info, made, started, waited);
        }
        let Track { id, ticket, remarks, .. } = track;
        if let Some(remarks) = remarks.into_inner() {
            answer::warn(&mut made, &remarks.warnings);
        }
        if let Some(ticket) = ticket.into_inner() {
            ticket.tell(made.headers_mut());
        }
        if let (Some(tracer), Some(recording)) = (&self.tracer, recording) {
            let code = made.status().as_u16();
            let attributes = vec![
                ("http.request.method", method.to_string()),
                ("url.path", info.path.clone()),
                ("http.response.status_code", code.to_string()),
                ("audit-id", id.clone()),
            ];
            tracer.end(recording, trace::name(&method, &info), attributes, code >= 500);
        }
        debug!(id, verb = info.verb, path = info.path, code = made.status().as_u16(), took_us = micros(took), "answered");
        if let Some(directives) = &self.connections.transport_security {
            made.headers_mut().entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| directives.clone());
        }
        if let Some(origin) = origin_of_page {
            cors::allow(made.headers_mut(), origin);
        }
        if let Ok(id) = HeaderValue::try_from(id) {
            made.headers_mut().insert("audit-id", id);
        }
        made
    }

    /// The layers, in order: what browsers ask beforehand, authentication, audit, impersonation, limits, authorization, body, dispatch.
    async fn pass(
        self: &Arc<Self>,
        origin: Origin,
        request: Request<Incoming>,
        info: &Arc<RequestInfo>,
        query: Query,
        (track, labels): (&Track, Option<Labels<'_>>),
    ) -> Result<Answer, Status> {
        let (address, limited) = (origin.address(), matches!(origin, Origin::Network { .. }));
        let allowed = if info.is_long_running() { self.timeout } else { query.timeout(self.timeout)? };
        let until = (!info.is_long_running()).then(|| Instant::now() + allowed);
        if request.method() == Method::OPTIONS && self.connections.origins.of(request.headers()).is_some() {
            return Ok(cors::preflight());
        }
        let work = async {
            let (mut parts, body) = request.into_parts();
            let user = self.recognise(origin, &parts, info, track).await?;
            self.api.authenticator.clear(&mut parts.headers);
            let acting = impersonate(Arc::clone(&user), &mut parts.headers, info, &self.api.authorizer, &self.modes).await?;
            let place = match self.let_in(limited, &acting.user, info, &query, track).await {
                Ok(place) => place,
                Err(refused) => {
                    given_up(labels, refused.status().as_u16());
                    return Ok((refused, None));
                }
            };
            let user = match self.authorize(&user, acting, info, track).await {
                Ok(user) => user,
                Err(Barred::Forbidden(status)) => return Err(status),
                // As upstream's filter says it: in plain words.
                Err(Barred::Unknown(why)) => {
                    let asked = parts.uri.path_and_query().map_or("/", |asked| asked.as_str());
                    return Ok((answer::internal_error(asked, &why), None));
                }
            };
            if let Some(remote) = self.aggregator.route(info) {
                requests::routed();
                let mut place = place;
                if info.verb == "watch" {
                    // Who answers says nothing of when it has begun: its seats are free as soon as it is passed on.
                    place.seat = None;
                }
                let (is_resource, drain) = (info.is_resource, self.api.drain.clone());
                let arrival = Arrival { parts, body, user: &user, audit_id: &track.id, address, is_resource, until, drain };
                return Ok((Box::pin(self.aggregator.forward(&remote, arrival)).await, Some(place)));
            }
            if info.path.starts_with("/api") && info.subresource != "proxy" && !self.api.gates.is_on("APIResponseCompression") {
                parts.headers.remove(header::ACCEPT_ENCODING);
            }
            let Place { seat, slot, watch } = place;
            let (seat, beginning) = if info.verb == "watch" { (None, seat) } else { (seat, None) };
            let call = Call {
                info: Arc::clone(info),
                query,
                method: parts.method,
                uri: parts.uri,
                user,
                body: if takes_body(info) { limits::read_body(body).await? } else { Bytes::new() },
                upgrade: parts.extensions.remove(),
                headers: parts.headers,
                annotations: Arc::default(),
                trail: track.trail().cloned(),
                until,
                beginning: Mutex::new(beginning),
            };
            if let Some(labels) = labels.filter(|_| !call.body.is_empty()) {
                labels.body(call.body.len());
            }
            let made = self.dispatch(call).await?;
            Ok((made, Some(Place { seat, slot, watch })))
        };
        let work = pin!(work);
        if info.is_long_running() {
            let (made, place) = work.await?;
            // Its place is taken until its body ends, but for the seats of one that has begun.
            let kept = place.map(|Place { slot, watch, .. }| (slot, watch));
            return Ok(made.map(|body| body.holding(kept)));
        }
        let (made, place) = match timeout(allowed, work).await {
            Ok(made) => made?,
            Err(_) => {
                given_up(labels, 504);
                return Ok(answer::late());
            }
        };
        let large = made.body().len().is_none_or(|length| length > LARGE);
        // What is not sent in time is no longer kept for a client that does not take it.
        Ok(match until.filter(|_| large) {
            Some(until) => made.map(|body| body.leased(until, place)),
            None => made,
        })
    }

    /// Takes a place for a request, by priority and fairness or among all in flight; else its refusal.
    async fn let_in(
        &self,
        limited: bool,
        user: &Arc<User>,
        info: &Arc<RequestInfo>,
        query: &Query,
        track: &Track,
    ) -> Result<Place, Answer> {
        let plain = |slot| Place { seat: None, slot, watch: None };
        let Some(flow) = self.flow.as_ref().filter(|_| limited) else {
            let slot = self.limits.enter(info).or_else(|| (!limited || user.in_group(MASTERS)).then(|| self.limits.enter_anyway(info)));
            return slot.map(plain).ok_or_else(|| flow::refusal(1));
        };
        if info.is_long_running() && info.verb != "watch" {
            return Ok(plain(self.limits.enter_anyway(info)));
        }
        let entered = flow.enter(&self.api.storage, user, info, query, || self.api.now().as_second()).await;
        let seat = entered.map_err(|flow::Refused { answer, ticket }| {
            let _ = track.ticket.set(ticket);
            answer
        })?;
        let _ = track.ticket.set(seat.ticket());
        let watch = if info.verb == "watch" { flow.register(info) } else { None };
        Ok(Place { seat: Some(seat), slot: self.limits.enter_anyway(info), watch })
    }

    /// Who asks. From here on the request is written down.
    async fn recognise(&self, origin: Origin, parts: &Parts, info: &Arc<RequestInfo>, track: &Track) -> Result<Arc<User>, Status> {
        let (now, started) = (self.api.now(), Instant::now());
        let (found, address, certificate) = match origin {
            Origin::Process(user) => (Ok(user), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), false),
            Origin::Network { peer, address, last } => {
                let shown = (peer.as_deref(), &*last);
                let found = self.api.authenticator.authenticate(shown, &parts.headers, parts.uri.path(), now).await;
                let found = found.map(|Recognised { user, remarks }| {
                    if let Some(remarks) = remarks {
                        let _ = track.remarks.set(remarks);
                    }
                    user
                });
                (found, address, peer.is_some())
            }
        };
        recognised(&found, started);
        if let (Some(tracer), Ok(user)) = (&self.tracer, &found) {
            let took = started.elapsed();
            requests::traced(|trace| {
                trace.decide(tracer, user, took);
                trace.note("Authentication", took, false, &[]);
            });
        }
        if let Some(audit) = &self.audit {
            track.begin(audit, &found, (parts, info), address, now).await?;
            if let (Some(trail), Err(status)) = (track.trail(), &found) {
                trail.end(status.code, Some(&Status { message: trail::attempted(&parts.headers, certificate), ..status.clone() }));
            }
        }
        found
    }

    /// Whether the user may, as whom it acts.
    async fn authorize(&self, user: &Arc<User>, acting: Acting, info: &RequestInfo, track: &Track) -> Result<Arc<User>, Barred> {
        let (started, Acting { user: acting, constraint }) = (Instant::now(), acting);
        let Some(trail) = track.trail() else {
            let verdict = self.api.authorizer.decide(&acting, info).await;
            decided(&verdict, started);
            return barred(&acting, info, verdict).map(|()| acting);
        };
        if !Arc::ptr_eq(user, &acting) {
            trail.impersonate(&acting, constraint);
        }
        let mut verdict = self.api.authorizer.judge(&acting, info).await;
        decided(&verdict, started);
        let (decision, reason) = match &mut verdict {
            Verdict { decision: Decision::Allow, grounds, .. } => (Some("allow"), std::mem::take(grounds)),
            unknown if unknown.error.is_some() => (None, "internal error".to_owned()),
            refused => (Some("forbid"), refused.reason().to_owned()),
        };
        if let Some(decision) = decision {
            trail.annotate("authorization.k8s.io/decision", decision);
        }
        trail.annotate("authorization.k8s.io/reason", reason);
        barred(&acting, info, verdict).map(|()| acting)
    }

    async fn dispatch(self: &Arc<Self>, call: Call) -> Result<Answer, Status> {
        if call.info.is_resource {
            let gzip = answer::takes_gzip(&call.headers);
            let (trail, annotations) = (call.trail.clone(), Arc::clone(&call.annotations));
            let mut made = verbs::dispatch(&self.api, call).await;
            if let Some(trail) = &trail {
                trail.admitted(&annotations);
                made = match made {
                    Ok(answer) => Ok(trail::shown(trail, &self.api.tables, answer).await),
                    Err(status) => {
                        if trail.takes_response() {
                            trail.response(status.to_value());
                        }
                        Err(status)
                    }
                };
            }
            return Ok(answer::compress(made?, gzip));
        }
        requests::routed();
        Box::pin(self.paths.answer(self, &call)).await
    }
}

/// What an authorizer meets on its way does not matter where it allows (`endpoints/filters/authorization.go`).
fn barred(user: &User, info: &RequestInfo, verdict: Verdict) -> Result<(), Barred> {
    match (verdict.decision, verdict.error) {
        (Decision::Allow, _) => Ok(()),
        (_, Some(why)) => Err(Barred::Unknown(why)),
        (Decision::Deny(reason) | Decision::NoOpinion(reason), None) => Err(Barred::Forbidden(forbidden(user, info, &reason))),
    }
}

/// Counts a decision.
fn decided(verdict: &Verdict, started: Instant) {
    let result = match (&verdict.decision, &verdict.error) {
        (Decision::Allow, _) => "allowed",
        (_, Some(_)) => "error",
        (Decision::Deny(_), None) => "denied",
        (Decision::NoOpinion(_), None) => "no-opinion",
    };
    access::AUTHORIZATIONS.inc([result]);
    let took = started.elapsed();
    access::AUTHORIZATION_TIMES.took([result], took);
    requests::traced(|trace| trace.note("Authorization", took, result == "error", &[("decision", result)]));
}

/// Counts who came in.
fn recognised(found: &Result<Arc<User>, Status>, started: Instant) {
    let result = if found.is_ok() { "success" } else { "error" };
    if let Ok(user) = found {
        access::USERS.inc([access::known(&user.name)]);
    }
    access::AUTHENTICATIONS.inc([result]);
    access::AUTHENTICATION_TIMES.took([result], started.elapsed());
}

/// Counts a request that was given up for the server's sake.
fn given_up(labels: Option<Labels<'_>>, code: u16) {
    if let Some(labels) = labels {
        labels.terminated(code);
        requests::routed();
    }
}

/// Counts a request that was answered: at once, or when its answer ends.
fn counted(labels: &Labels<'_>, info: &RequestInfo, made: Answer, started: Instant, waited: Duration) -> Answer {
    let (code, series) = (made.status().as_u16(), labels.series());
    if info.is_long_running() {
        let under_way = (labels.under_way(), UnderWay { series, code, started, waited });
        return made.map(|body| body.holding(under_way));
    }
    let Some(series) = series else { return made };
    series.count(code, started.elapsed(), waited);
    match series.sizes() {
        Some(sizes) => made.map(|body| body.measured(|size| sizes.bytes(size))),
        None => made,
    }
}

/// Whether anybody reads a request's body: what is not read is not waited for.
fn takes_body(info: &RequestInfo) -> bool {
    info.path.starts_with("/debug/flags/") || info.is_resource && (!info.is_read() || info.subresource == "proxy")
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
