//! Tokens in secrets of type `kubernetes.io/service-account-token`: filled in when a secret asks for one, gone with their account
//! (`pkg/controller/serviceaccount/tokens_controller.go`). It stands here, not among the controllers, because it signs with the server's key.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coracle_apiserver::authn::{claims, keys::SigningKey, legacy};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    runtime::watcher::{self, Event},
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// A watch that broke off is begun again after this long, and what went wrong is tried again; then, as long as it goes wrong, ever more
/// rarely.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A secret may be made a moment before its account, by programs that make both at once: upstream's controller, which looks later, mostly
/// finds it by then.
const NEW: SignedDuration = SignedDuration::from_secs(3);

/// Keeps the tokens.
pub(crate) struct Tokens {
    pub(crate) client: Client,
    pub(crate) key: SigningKey,
    /// PEM, for `ca.crt`.
    pub(crate) root_ca: String,
}

/// What happened.
enum Change {
    Secret(Box<Secret>),
    /// An account is gone: its namespace.
    Gone(String),
    /// The watch of accounts has begun: some may be gone of which it told nothing.
    Begun,
    /// A watch broke off.
    Broken,
    /// It is time to try again what went wrong.
    Again,
}

/// Where something is left to do: namespaces, or [`ALL`].
struct Unsettled {
    places: BTreeSet<String>,
    pause: Duration,
    again: Instant,
}

/// Every namespace.
const ALL: &str = "";

/// What is to be done about a secret.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    /// Its account may come.
    Wait,
    Delete,
    Write(Box<Secret>),
}

impl Tokens {
    /// Until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let of = watcher::Config::default().fields(&format!("type={TYPE}"));
        let secrets = watcher::watcher(Api::<Secret>::all(self.client.clone()), of).filter_map(async |event| match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => Some(Change::Secret(Box::new(secret))),
            Ok(_) => None,
            Err(error) => Some(broken(&error)),
        });
        let accounts = watcher::watcher(Api::<ServiceAccount>::all(self.client.clone()), watcher::Config::default());
        let accounts = accounts.filter_map(async |event| match event {
            Ok(Event::Delete(account)) => Some(Change::Gone(account.namespace().unwrap_or_default())),
            Ok(Event::InitDone) => Some(Change::Begun),
            Ok(_) => None,
            Err(error) => Some(broken(&error)),
        });
        let mut changes = stream::select(secrets.boxed(), accounts.boxed());
        let mut unsettled = Unsettled { places: BTreeSet::new(), pause: PAUSE, again: Instant::now() };
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => return,
                change = changes.next() => change,
                () = sleep_until(unsettled.again), if !unsettled.places.is_empty() => Some(Change::Again),
            };
            match change {
                None => return,
                Some(Change::Broken) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(PAUSE) => {}
                },
                Some(Change::Secret(secret)) => {
                    let namespace = secret.namespace().unwrap_or_default();
                    let settled = self.settle(*secret).await;
                    unsettled.note(namespace, settled);
                }
                Some(Change::Gone(namespace)) => {
                    let settled = self.sweep(&namespace).await;
                    unsettled.note(namespace, settled);
                }
                Some(Change::Begun) => unsettled.note(ALL.to_owned(), self.sweep(ALL).await),
                Some(Change::Again) => {
                    for place in unsettled.take() {
                        let settled = self.sweep(&place).await;
                        unsettled.note(place, settled);
                    }
                    if unsettled.places.is_empty() {
                        unsettled.pause = PAUSE;
                    }
                }
            }
        }
    }

    /// Looks again at all token secrets of a namespace, or of [`ALL`]; whether nothing is left to do. The error is the first; the others are
    /// looked at nevertheless.
    async fn sweep(&self, namespace: &str) -> kube::Result<bool> {
        let of = ListParams::default().fields(&format!("type={TYPE}"));
        let secrets: Api<Secret> = match namespace {
            ALL => Api::all(self.client.clone()),
            namespace => Api::namespaced(self.client.clone(), namespace),
        };
        let mut all = Ok(true);
        for secret in secrets.list(&of).await? {
            let settled = self.settle(secret).await;
            all = all.and_then(|all| settled.map(|settled| all && settled));
        }
        all
    }

    /// Does what is to be done about a secret; whether nothing is left to do.
    async fn settle(&self, secret: Secret) -> kube::Result<bool> {
        let namespace = secret.namespace().unwrap_or_default();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let Some(account) = secret.annotations().get(ACCOUNT).filter(|name| !name.is_empty()) else { return Ok(true) };
        let account = accounts.get_opt(account).await?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let (name, preconditions) = (secret.name_any(), Preconditions { uid: secret.uid(), resource_version: None });
        let done = match plan(secret, account.as_ref(), &self.key, &self.root_ca, Timestamp::now()) {
            Step::Nothing => Ok(()),
            Step::Wait => return Ok(false),
            Step::Delete => {
                let of = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                secrets.delete(&name, &of).await.map(|_| ())
            }
            Step::Write(secret) => secrets.replace(&name, &PostParams::default(), &secret).await.map(|_| ()),
        };
        match done {
            // Somebody else changed it: that comes as a change of its own.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(true),
            done => done.map(|()| true),
        }
    }
}

impl Unsettled {
    fn note(&mut self, place: String, settled: kube::Result<bool>) {
        match settled {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a token secret is not settled; it is tried again"),
        }
        if self.places.is_empty() {
            self.again = Instant::now() + self.pause;
        }
        self.places.insert(place);
    }

    /// What is to be tried again now. If it goes wrong once more, the next pause is longer.
    fn take(&mut self) -> BTreeSet<String> {
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        std::mem::take(&mut self.places)
    }
}

fn broken(error: &watcher::Error) -> Change {
    tracing::debug!(%error, "the watch of token secrets broke off");
    Change::Broken
}

/// Decides over a secret, given the account its annotation names.
fn plan(mut secret: Secret, account: Option<&ServiceAccount>, key: &SigningKey, root_ca: &str, now: Timestamp) -> Step {
    let annotations = secret.annotations();
    let name = annotations.get(ACCOUNT).cloned().unwrap_or_default();
    if secret.type_.as_deref() != Some(TYPE) || name.is_empty() || secret.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    let uid = account.and_then(ResourceExt::uid);
    let Some(uid) = uid.filter(|uid| annotations.get(UID).is_none_or(|wanted| wanted.is_empty() || wanted == uid)) else {
        let age = secret.creation_timestamp().map(|made| now.duration_since(made.0));
        let is_new = age.is_some_and(|age| (SignedDuration::ZERO..NEW).contains(&age));
        let awaits = account.is_none() && is_new && annotations.get(UID).is_none_or(String::is_empty);
        return if awaits { Step::Wait } else { Step::Delete };
    };
    let namespace = secret.namespace().unwrap_or_default();
    let before = secret.clone();
    let claims = legacy::Claims {
        iss: legacy::ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        namespace: namespace.clone(),
        secret: secret.name_any(),
        account: name,
        uid: uid.clone(),
        ..legacy::Claims::default()
    };
    let data = secret.data.get_or_insert_with(BTreeMap::new);
    if data.get("token").is_none_or(|token| token.0.is_empty()) {
        let Some(token) = claims::seal(&claims, key) else { return Step::Nothing };
        data.insert("token".to_owned(), ByteString(token.into_bytes()));
    }
    if data.get("namespace").is_none_or(|namespace| namespace.0.is_empty()) {
        data.insert("namespace".to_owned(), ByteString(namespace.into_bytes()));
    }
    data.insert("ca.crt".to_owned(), ByteString(root_ca.as_bytes().to_vec()));
    secret.annotations_mut().insert(UID.to_owned(), uid);
    if secret == before { Step::Nothing } else { Step::Write(Box::new(secret)) }
}

/// In a room of its own, as `system:kube-controller-manager`, which upstream's is, too.
pub(crate) fn start(client: Client, key: SigningKey, root_ca: String, tasks: &tokio_util::task::TaskTracker, stop: &CancellationToken) {
    tasks.spawn(Tokens { client, key, root_ca }.run(stop.clone()));
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
    }

    fn secret(annotations: &serde_json::Value) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns", "annotations": annotations}, "type": TYPE})).unwrap()
    }

    /// An API server with two secrets of an account that is gone, which refuses the first deletion of the first. Deletions are told.
    fn stubborn(deleted: tokio::sync::mpsc::UnboundedSender<String>) -> Client {
        let refused = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let answer = move |request: http::Request<kube::client::Body>| {
            let (deleted, refused) = (deleted.clone(), refused.clone());
            async move {
                let (uri, path) = (request.uri().to_string(), request.uri().path().to_owned());
                if uri.contains("watch=") {
                    return std::future::pending().await;
                }
                let named = |name: &str| {
                    let mut secret = serde_json::to_value(secret(&json!({ACCOUNT: "a"}))).unwrap();
                    secret["metadata"]["name"] = name.into();
                    secret
                };
                let gone = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "gone", "code": 404});
                let (code, body) = match (request.method().as_str(), path.rsplit('/').next().unwrap()) {
                    ("GET", "secrets") => (
                        200,
                        json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [named("s"), named("t")]}),
                    ),
                    ("GET", "serviceaccounts") => {
                        (200, json!({"kind": "ServiceAccountList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}))
                    }
                    ("DELETE", "s") if !refused.swap(true, std::sync::atomic::Ordering::Relaxed) => {
                        (500, json!({"kind": "Status", "status": "Failure", "reason": "InternalError", "message": "later", "code": 500}))
                    }
                    ("DELETE", name) => {
                        deleted.send(name.to_owned()).unwrap();
                        (200, json!({"kind": "Status", "status": "Success"}))
                    }
                    _ => (404, gone),
                };
                let body = kube::client::Body::from(body.to_string().into_bytes());
                Ok::<_, std::io::Error>(http::Response::builder().status(code).body(body).unwrap())
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn what_goes_wrong_is_tried_again_and_keeps_nothing_else_from_being_settled() {
        let (tell, mut deleted) = tokio::sync::mpsc::unbounded_channel();
        let tokens = Tokens { client: stubborn(tell), key: key(), root_ca: "PEM".into() };
        assert!(tokens.sweep("ns").await.is_err());
        assert_eq!(deleted.try_recv().unwrap(), "t", "the second goes although the first does not");
        let (tell, mut deleted) = tokio::sync::mpsc::unbounded_channel();
        let tokens = Tokens { client: stubborn(tell), key: key(), root_ca: "PEM".into() };
        let stop = CancellationToken::new();
        let running = tokio::spawn(tokens.run(stop.clone()));
        while deleted.recv().await.unwrap() != "s" {}
        stop.cancel();
        running.await.unwrap();
    }

    fn account() -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}})).unwrap()
    }

    #[test]
    fn a_secret_that_asks_for_a_token_gets_one_and_is_left_alone_then() {
        let key = key();
        let asks = secret(&json!({ACCOUNT: "a"}));
        let Step::Write(made) = plan(asks, Some(&account()), &key, "PEM", Timestamp::now()) else { panic!("written") };
        let text = |field: &str| String::from_utf8(made.data.as_ref().unwrap()[field].0.clone()).unwrap();
        assert_eq!((text("namespace"), text("ca.crt"), made.annotations()[UID].as_str()), ("ns".into(), "PEM".into(), "u"));
        let claims: legacy::Claims = claims::open(&text("token"), &[key.public().clone()]).unwrap();
        assert_eq!((claims.sub.as_str(), claims.secret.as_str(), claims.uid.as_str()), ("system:serviceaccount:ns:a", "s", "u"));
        assert_eq!(plan(*made, Some(&account()), &key, "PEM", Timestamp::now()), Step::Nothing);
    }

    #[test]
    fn a_secret_of_no_account_goes_and_other_secrets_are_not_touched() {
        let key = key();
        let account = account();
        let plan = |secret, account| plan(secret, account, &key, "PEM", Timestamp::now());
        assert_eq!(plan(secret(&json!({ACCOUNT: "a"})), None), Step::Delete);
        assert_eq!(plan(secret(&json!({ACCOUNT: "a", UID: "other"})), Some(&account)), Step::Delete);
        assert_eq!(plan(secret(&json!({})), None), Step::Nothing);
        let opaque = Secret { type_: Some("Opaque".to_owned()), ..secret(&json!({ACCOUNT: "a"})) };
        assert_eq!(plan(opaque, None), Step::Nothing);
    }

    #[test]
    fn a_new_secret_waits_a_moment_for_its_account() {
        let key = key();
        let at = |annotations, seconds: i64| {
            let (mut secret, made) = (secret(&annotations), Timestamp::UNIX_EPOCH);
            secret.metadata.creation_timestamp = Some(Time(made));
            plan(secret, None, &key, "PEM", made + SignedDuration::from_secs(seconds))
        };
        let [early, late, before] = [2, 3, -1].map(|seconds| at(json!({ACCOUNT: "a"}), seconds));
        assert_eq!((early, late), (Step::Wait, Step::Delete));
        assert_eq!(before, Step::Delete, "a clock that was put back keeps no secret");
        assert_eq!(at(json!({ACCOUNT: "a", UID: "u"}), 2), Step::Delete, "the account it was made for is gone");
    }
}
