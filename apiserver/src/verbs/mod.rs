//! The verbs, one file each, over any kind. [`dispatch`] is the only place that maps a request to one of them.

pub mod apply;
pub mod binding;
pub mod connect;
pub mod create;
pub mod delete;
mod elsewhere;
pub mod events;
pub mod eviction;
pub mod filter;
pub mod get;
pub mod history;
pub mod list;
pub mod patch;
pub mod render;
pub mod reviews;
mod routes;
pub mod runs;
pub mod scale;
mod unreadable;
pub mod update;
mod versions;
pub mod watch;
pub mod websocket;
pub mod write;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_schema::{SchemaRef, Tables};
use coracle_tree::Value;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Uri, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{Admission, Annotations, Attempt, Operation},
    audit::Trail,
    authn::{Authenticator, User},
    authz,
    flow::Seat,
    gates::Gates,
    metrics::requests::{DEPRECATED as DEPRECATED_APIS, routed},
    registry::{Kind, Storage, Subresource, Verb, claims::Claims, storage::DEFINITIONS},
    request::{Query, RequestInfo},
    webhook::Egress,
    wire::{Answer, Status, answer, negotiate, yaml},
};

use self::routes::{
    NO_NAMESPACE, is_routed, is_served, lacks_name_of_namespace, lacks_namespace, may_be_in_namespace, may_be_named, nobody, verb_of,
};
use self::versions::Outdated;

/// The time, so that tests may choose it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the verbs work with.
pub struct Api {
    /// Objects.
    pub storage: Arc<Storage>,
    /// The built-in API.
    pub tables: Arc<Tables>,
    /// Admission plugins, in order.
    pub admission: Vec<Arc<dyn Admission>>,
    /// Recognises users; issues tokens.
    pub authenticator: Arc<Authenticator>,
    /// How node agents are reached.
    pub agents: connect::Agents,
    /// Feature gates that are switched off.
    pub gates: Gates,
    /// By which way webhooks are.
    pub egress: Egress,
    /// What only one object may hold.
    pub claims: Arc<Claims>,
    /// Decides who may; answers access reviews.
    pub authorizer: authz::Chain,
    /// What compressed lists are put together of.
    pub runs: runs::Runs,
    /// The time.
    pub clock: Clock,
    /// How long a watch lasts at least that does not say so.
    pub watches_last: Duration,
    /// Ends watches when the server drains.
    pub drain: CancellationToken,
}

/// A request past the layers: authorized, its body read.
pub struct Call {
    /// What it asks for.
    pub info: Arc<RequestInfo>,
    /// Its options.
    pub query: Query,
    /// HTTP method.
    pub method: Method,
    /// Whole URI.
    pub uri: Uri,
    /// Headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub user: Arc<User>,
    /// Body.
    pub body: Bytes,
    /// The connection, for streams that leave HTTP.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// What admission tells the audit log.
    pub annotations: Arc<Annotations>,
    /// What is written down of it; `None` when nothing is.
    pub trail: Option<Arc<Trail>>,
    /// When it ends, answered or not; `None`: when the client wants.
    pub until: Option<Instant>,
    /// The seats of a watch until it has begun.
    pub(crate) beginning: Mutex<Option<Seat>>,
}

/// Encodings that nobody asks for in this time are given up.
const ENCODINGS_KEPT: Duration = Duration::from_secs(300);

impl Api {
    /// Gives up encodings that nobody asks for, as long as this is polled.
    pub async fn forget_encodings(self: Arc<Self>) {
        loop {
            sleep(ENCODINGS_KEPT).await;
            self.runs.age();
            self.storage.age_forms();
        }
    }

    /// A message of the built-in API (`meta.DeleteOptions`).
    pub fn message(&self, name: &str) -> Result<SchemaRef, Status> {
        self.tables.message(name).ok_or_else(|| Status::internal(format!("no message {name} in the tables")))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// Who the server is to itself.
const SERVER: &str = "system:apiserver";

impl Call {
    /// A request of the server's own parts, without a body.
    pub fn of_server(verb: &str, kind: &Kind, namespace: &str, name: &str, subresource: &str) -> Self {
        let info = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: kind.gvk.group.to_string(),
            version: kind.gvk.version.to_string(),
            namespace: namespace.to_owned(),
            resource: kind.id.resource.to_string(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        Self {
            info: Arc::new(info),
            query: Query::default(),
            method: match verb {
                "create" => Method::POST,
                "delete" => Method::DELETE,
                _ => Method::PUT,
            },
            uri: Uri::default(),
            headers: HeaderMap::new(),
            user: Arc::new(User::new(SERVER, &[authz::MASTERS])),
            body: Bytes::new(),
            upgrade: None,
            annotations: Arc::default(),
            trail: None,
            until: None,
            beginning: Mutex::default(),
        }
    }

    /// What admission is asked about: the request, without an old object and without options.
    pub(crate) fn attempt<'a>(&'a self, operation: Operation, kind: &'a Kind) -> Attempt<'a> {
        Attempt { until: self.until, ..Attempt::new(operation, &self.info, kind, &self.user, &self.annotations) }
    }

    /// The body as a message of `schema`, not yet checked against it.
    pub fn body_as(&self, schema: &SchemaRef) -> Result<Value, Status> {
        let body = negotiate::parse(&self.headers, &self.body, schema)?;
        self.note(&body);
        Ok(body)
    }

    /// Notes what the request brings in its trail.
    pub fn note(&self, body: &Value) {
        if let Some(trail) = &self.trail {
            trail.request(body);
        }
    }

    /// Notes a patch, which names no object, in its trail.
    fn note_patch(&self) {
        let trail = self.trail.as_ref().filter(|trail| trail.takes_request());
        if let (Some(trail), Ok(patch)) = (trail, yaml::read(&self.body)) {
            trail.patch(patch.value);
        }
    }

    /// The same request without its body and connection, to be aimed at another object.
    pub fn again(&self) -> Self {
        Self {
            info: Arc::clone(&self.info),
            query: self.query.clone(),
            method: self.method.clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            user: Arc::clone(&self.user),
            body: Bytes::new(),
            upgrade: None,
            annotations: Arc::clone(&self.annotations),
            trail: None,
            until: self.until,
            beginning: Mutex::default(),
        }
    }

    /// The User-Agent; empty when there is none.
    pub fn user_agent(&self) -> &str {
        self.headers.get(header::USER_AGENT).and_then(|v| std::str::from_utf8(v.as_bytes()).ok()).unwrap_or_default()
    }

    /// The namespace objects of `kind` are in: that of the path, or none for cluster kinds.
    pub fn namespace_of(&self, kind: &Kind) -> &str {
        if kind.is_namespaced() { &self.info.namespace } else { "" }
    }
}

/// Resources of the core group that are served on, with what upstream says of them (`APILifecycleDeprecated`).
const DEPRECATED: [(&str, &str); 2] = [
    ("endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ("componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
];

/// Answers a request for API objects.
pub async fn dispatch(api: &Arc<Api>, call: Call) -> Result<Answer, Status> {
    let info = &call.info;
    let catalog = api.storage.catalog();
    let Some(kind) = catalog.get(&info.group, &info.version, &info.resource).cloned() else {
        return nobody(api, info);
    };
    if !kind.is_namespaced() && !info.namespace.is_empty() && &*kind.id.resource != "namespaces" {
        return nobody(api, info);
    }
    let nowhere = if kind.is_custom() { lacks_namespace(&kind, info) } else { !is_routed(&kind, info) };
    if nowhere {
        return nobody(api, info);
    }
    let verb = Verb::parse(&info.verb);
    if verb == Some(Verb::Patch) {
        call.note_patch();
    }
    if !info.subresource.is_empty() {
        let Some(subresource) = kind.subresource(&info.subresource) else {
            return if kind.is_custom() { Err(Status::not_found(kind.subject(&info.name))) } else { nobody(api, info) };
        };
        let verb = if info.name.is_empty() { Verb::parse(verb_of(&call.method)) } else { verb };
        let verb = verb.filter(|verb| subresource.verbs.contains(verb)).or((&*subresource.name == "proxy").then_some(Verb::Get));
        let Some(verb) = verb else { return Err(Status::method_not_allowed()) };
        if info.name.is_empty() {
            return Err(Status::bad_request("name must be provided"));
        }
        if lacks_name_of_namespace(&kind, info) {
            return Err(Status::bad_request(NO_NAMESPACE));
        }
        may_be_named(&kind, info)?;
        routed();
        if connect::leads_out(subresource) {
            return Box::pin(connect::connect(api, call, &kind)).await;
        }
        may_be_answered(&call, &kind)?;
        let mut made = part(api, &call, &kind, subresource, verb)?.await?;
        if let Some(Outdated { text, removed }) = versions::outdated(&kind.gvk) {
            outdated(&call, &mut made, &text, removed);
        }
        return Ok(made);
    }
    if info.verb == "proxy" {
        return nobody(api, info);
    }
    if info.prefixed && call.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    let verb = verb.ok_or_else(Status::method_not_allowed)?;
    if kind.is_custom() && kind.is_namespaced() && info.namespace.is_empty() && !matches!(verb, Verb::List | Verb::Watch) {
        return Ok(answer::not_found());
    }
    if !kind.has_verb(verb) || !is_served(&kind, info, verb) {
        return Err(Status::method_not_allowed());
    }
    may_be_answered(&call, &kind)?;
    routed();
    if verb != Verb::Update {
        may_be_named(&kind, info)?;
    }
    may_be_in_namespace(api, &call, &kind, verb)?;
    let made = if kind.prefix.is_none() { Box::pin(reviews::answer(api, &call, &kind)) } else { on_object(api, &call, &kind, verb) };
    let mut made = made.await?;
    if kind.id.is(DEFINITIONS) && !info.is_read() {
        // Whoever defines a kind may use it at once.
        api.storage.catch_up().await;
    }
    if &*kind.id.group == "admissionregistration.k8s.io" && !info.is_read() {
        // Whoever sets up a policy or webhook may rely on it at once.
        for plugin in &api.admission {
            plugin.refresh().await;
        }
    }
    if let Some(text) =
        DEPRECATED.iter().find(|(resource, _)| kind.gvk.group.is_empty() && *resource == &*kind.id.resource).map(|(_, text)| *text)
    {
        outdated(&call, &mut made, text, "");
    }
    if let Some(Outdated { text, removed }) = versions::outdated(&kind.gvk) {
        outdated(&call, &mut made, &text, removed);
    }
    if let Some(deprecation) = kind.custom.as_ref().and_then(|custom| custom.deprecation.as_deref()) {
        outdated(&call, &mut made, deprecation, "");
    }
    Ok(made)
}

/// Tells the client, the audit log and whoever counts that what was asked for is on its way out, and from which release on it is gone, if
/// that is known.
fn outdated(call: &Call, made: &mut Answer, text: &str, removed: &str) {
    let info = &call.info;
    DEPRECATED_APIS.set([&info.group, &info.version, &info.resource, &info.subresource, removed], 1);
    if let Some(trail) = &call.trail {
        trail.annotate("k8s.io/deprecated", "true");
        if !removed.is_empty() {
            trail.annotate("k8s.io/removed-release", removed);
        }
    }
    answer::warn(made, &[text.to_owned()]);
}

/// A verb at work. Each has a place of its own: in one place for all, every request would take, and move, what the largest of them needs.
type Working<'a> = BoxFuture<'a, Result<Answer, Status>>;

fn on_object<'a>(api: &'a Arc<Api>, call: &'a Call, kind: &'a Arc<Kind>, verb: Verb) -> Working<'a> {
    match verb {
        Verb::Get => Box::pin(get::get(api, call, kind)),
        Verb::List => Box::pin(list::list(api, call, kind)),
        Verb::Watch => Box::pin(watch::watch(api, call, kind)),
        Verb::Create => Box::pin(create::create(api, call, kind)),
        Verb::Update => Box::pin(update::update(api, call, kind)),
        Verb::Patch => Box::pin(patch::patch(api, call, kind)),
        Verb::Delete => Box::pin(delete::delete(api, call, kind)),
        Verb::DeleteCollection => Box::pin(delete::delete_collection(api, call, kind)),
    }
}

/// Refuses what could not be answered before anything is done: patches of a type there is not, clients that take none of the encodings
/// there are, and HEAD, which no route of an object has.
fn may_be_answered(call: &Call, kind: &Kind) -> Result<(), Status> {
    if call.method == Method::HEAD {
        return Err(Status::method_not_allowed());
    }
    if call.method == Method::PATCH {
        negotiate::patch_type(&call.headers, kind.is_custom())?;
    }
    if !kind.is_custom() {
        let streams = if matches!(call.info.verb.as_str(), "list" | "watch") { negotiate::STREAMED } else { "" };
        negotiate::route(&call.headers, negotiate::ACCEPTED, streams)?;
    }
    render::wanted(call, kind).map(|_| ())
}

/// Answers a request for a subresource: of its own kind (scale, binding, …), a stream, or a part of the object itself.
fn part<'a>(
    api: &'a Arc<Api>,
    call: &'a Call,
    kind: &'a Arc<Kind>,
    subresource: &'a Subresource,
    verb: Verb,
) -> Result<Working<'a>, Status> {
    Ok(match &*subresource.gvk.kind {
        "Scale" => Box::pin(scale::scale(api, call, kind, subresource, verb)),
        "Binding" => Box::pin(binding::bind(api, call, kind)),
        "Eviction" => Box::pin(eviction::evict(api, call, kind)),
        "TokenRequest" => Box::pin(reviews::token(api, call, kind, subresource)),
        _ if matches!(verb, Verb::Get | Verb::Update | Verb::Patch) => on_object(api, call, kind, verb),
        _ => return Err(Status::method_not_allowed()),
    })
}
