//! What every request passes on its way in, in one list: see [`Layers::pass`].

use std::{io, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::time::{Instant, timeout};
use tracing::{debug, error};

use super::{
    Query, RequestInfo,
    impersonate::impersonate,
    limits::{self, Limits},
    metrics::Metrics,
    paths::Paths,
};
use crate::{
    authn::User,
    verbs::{self, Api, Call, render},
    wire::{Answer, Status, answer, negotiate},
};

/// A request's body, from a connection or from within.
type Incoming = UnsyncBoxBody<Bytes, io::Error>;

/// How a request came here.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Over a connection; with the user of its verified client certificate, if it has one.
    Network(Option<Arc<User>>),
    /// From a part of this process, as this user.
    Process(Arc<User>),
}

/// The way in.
pub struct Layers {
    /// What the verbs work with.
    pub api: Arc<Api>,
    /// Bounds.
    pub limits: Limits,
    /// Counts.
    pub metrics: Metrics,
    /// Everything that is not an API object.
    pub paths: Paths,
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
            Ok(info) => info,
            Err(text) => {
                let path = request.uri().path();
                let text = format!("Internal Server Error: {path:?}: failed to create RequestInfo: {text}\n");
                return answer::text(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        };
        let passing = AssertUnwindSafe(self.pass(origin, request, &info, query)).catch_unwind();
        let mut made = match passing.await {
            Ok(Ok(made)) => made,
            Ok(Err(status)) => render::error(tables, encoding, &status),
            Err(_) => {
                error!(verb = info.verb, path = info.path, "a request panicked");
                render::error(tables, encoding, &Status::internal("this request panicked; the server's log has the details"))
            }
        };
        let took = started.elapsed();
        self.metrics.observe(&info, made.status().as_u16(), took);
        let id = uuid::Uuid::new_v4().to_string();
        debug!(id, verb = info.verb, path = info.path, code = made.status().as_u16(), took_us = micros(took), "answered");
        if let Ok(id) = HeaderValue::from_str(&id) {
            made.headers_mut().insert("audit-id", id);
        }
        made
    }

    /// The layers, in order: limits, authentication, impersonation, authorization, (audit), body, dispatch.
    async fn pass(
        self: &Arc<Self>,
        origin: Origin,
        request: Request<Incoming>,
        info: &RequestInfo,
        query: Query,
    ) -> Result<Answer, Status> {
        let slot = match origin {
            Origin::Network(_) => self.limits.enter(info)?,
            Origin::Process(_) => self.limits.enter_anyway(info),
        };
        let work = async {
            let (mut parts, body) = request.into_parts();
            let user = match origin {
                Origin::Process(user) => user,
                Origin::Network(peer) => self.api.authenticator.authenticate(peer.as_ref(), &parts.headers, self.api.now()).await?,
            };
            let user = impersonate(user, &parts.headers, &self.api.authorizer)?;
            self.api.authorizer.authorize(&user, info)?;
            // Audit stands here: it sees who asks for what, and nothing was done yet.
            let call = Call {
                info: info.clone(),
                query,
                method: parts.method,
                uri: parts.uri,
                user,
                body: if takes_body(info) { limits::read_body(body).await? } else { Bytes::new() },
                upgrade: parts.extensions.remove(),
                headers: parts.headers,
                annotations: Arc::default(),
            };
            self.dispatch(call).await
        };
        if info.is_long_running() {
            // Its place is taken until its body ends.
            return Ok(work.await?.map(|body| body.holding(slot)));
        }
        let made = timeout(limits::TIMEOUT, work).await;
        made.unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout")))
    }

    async fn dispatch(self: &Arc<Self>, call: Call) -> Result<Answer, Status> {
        if call.info.is_resource {
            let gzip = answer::takes_gzip(&call.headers);
            return Ok(answer::compress(verbs::dispatch(&self.api, call).await?, gzip));
        }
        self.paths.answer(self, &call).await
    }
}

/// Whether anybody reads a request's body: what is not read is not waited for.
fn takes_body(info: &RequestInfo) -> bool {
    info.is_resource && (!info.is_read() || info.subresource == "proxy")
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
