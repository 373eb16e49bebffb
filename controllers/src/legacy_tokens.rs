//! Gives up tokens in secrets that nobody uses: made by a server, referred to by their account, mounted by no pod and not used for a year,
//! such a secret is first labelled as invalid, which ends the token, and after as long again removed
//! (upstream `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use http::Request;
use jiff::{
    SignedDuration, Timestamp,
    civil::Date,
    tz::{Offset, TimeZone},
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Client, api::ListParams};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    apply::{Error, Executor},
    caches::Caches,
    change::{Change, PatchKind, Plan, Tolerate, Verb},
    object::{Key, Kind, Meta, Object, Resource, object_by_meta},
    run::{Clients, Named, ROOM, Reconcile, Wake},
    time::between,
};

/// Days on which a token was last used and since when it is not valid, of the API server and of this controller.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Whose token it is.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Where the API server says since when it notes uses.
const TRACKED: &str = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
/// Nobody tells when a pod or an account stops to refer to a secret: what was spared is looked at again after this long, as upstream does.
const AGAIN: Duration = Duration::from_secs(24 * 3600);

/// What pods of a namespace use is known for so long, about as old as what a watch tells may be on a bad day: many of its secrets may have to
/// be looked at, one after the other.
const KNOWN: Duration = Duration::from_secs(5);
/// Pods asked for at a time.
const PAGE: u32 = 500;

/// A secret with a token, without the token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenSecret {
    /// Metadata.
    pub metadata: Meta,
}

object_by_meta!(TokenSecret);

impl Kind for TokenSecret {
    const RESOURCE: Resource = Resource::known("", "v1", "secrets", "Secret");
    const FIELDS: Option<&'static str> = Some("type=kubernetes.io/service-account-token");
}

/// The controller.
pub(crate) struct LegacyTokens {
    caches: Arc<Caches>,
    /// As whom pods are looked at: the controller itself may not.
    clients: Clients,
    /// After so long without use.
    unused: Duration,
    /// By namespace.
    used: Mutex<HashMap<Arc<str>, Used>>,
}

/// The names of secrets that pods of a namespace use.
struct Used {
    seen: Instant,
    names: BTreeSet<String>,
}

/// What becomes of a secret, if no pod mounts it.
#[derive(Debug, PartialEq)]
enum Fate {
    /// It stays for so long at least.
    Stays(Duration),
    /// Its token ends.
    Ends,
    /// It goes.
    Goes,
}

impl LegacyTokens {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>, clients: Clients, unused: Duration) -> Self {
        Self { caches, clients, unused, used: Mutex::default() }
    }

    /// Whether a pod of the namespace uses a secret. One namespace is asked for at a time.
    async fn mounts(&self, secret: &Key) -> Result<bool, kube::Error> {
        let mut used = self.used.lock().await;
        used.retain(|_, of| of.seen.elapsed() < KNOWN);
        if let Some(of) = used.get(&secret.namespace) {
            return Ok(of.names.contains(&*secret.name));
        }
        let names = used_in(&(self.clients)(ROOM), &secret.namespace).await?;
        let mounts = names.contains(&*secret.name);
        used.insert(secret.namespace.clone(), Used { seen: Instant::now(), names });
        Ok(mounts)
    }
}

impl Named for LegacyTokens {
    fn name(&self) -> &'static str {
        "legacy-serviceaccount-token-cleaner-controller"
    }
    fn identity(&self) -> &'static str {
        "legacy-service-account-token-cleaner"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.token_secrets);
        self.caches.service_accounts.need();
    }
}

#[async_trait]
impl Reconcile for LegacyTokens {
    async fn reconcile(&self, key: &Key, executor: &Executor, now: Timestamp) -> Result<Option<Duration>, Error> {
        let Some(secret) = self.caches.token_secrets.at(key).filter(|secret| secret.deleted().is_none()) else { return Ok(None) };
        let fate = match fate(&secret, now, self.unused) {
            Fate::Stays(left) => return Ok(Some(left.min(AGAIN))),
            fate => fate,
        };
        let account = secret.metadata.annotations.get(ACCOUNT).and_then(|name| self.caches.service_accounts.get(&key.namespace, name));
        if !account.is_some_and(|account| refers(&account, &secret)) {
            return Ok(Some(AGAIN));
        }
        if let Some(left) = tracked_for(executor.client(), now, self.unused).await {
            return Ok(Some(left.min(AGAIN)));
        }
        match self.mounts(key).await {
            Ok(false) => {}
            Ok(true) => return Ok(Some(AGAIN)),
            Err(error) => {
                tracing::warn!(%key, %error, "cannot see whether pods mount a token");
                return Ok(Some(AGAIN));
            }
        }
        executor.execute(key, carried_out(&secret, &fate, now)).await?;
        Ok(Some(AGAIN))
    }
}

/// What is done to a secret.
fn carried_out(secret: &TokenSecret, fate: &Fate, now: Timestamp) -> Plan {
    let mut change = match fate {
        Fate::Stays(_) => return Plan::nothing(),
        Fate::Ends => {
            let body = json!({"metadata": {"uid": secret.uid(), "labels": {INVALID_SINCE: day(now).to_string()}}});
            Change::patch::<TokenSecret>(Key::of(secret), PatchKind::Merge, body)
        }
        Fate::Goes => Change::delete(secret),
    };
    if let Verb::Delete { version, .. } = &mut change.verb {
        *version = Some(secret.resource_version().to_owned());
    }
    change.tolerate(Tolerate::Races).into()
}

/// What a secret says of itself. Of days only the day is known, so that of the last use counts whole.
fn fate(secret: &TokenSecret, now: Timestamp, unused: Duration) -> Fate {
    let made = secret.metadata.creation_timestamp.unwrap_or(now);
    let young = left(now, plus(made, unused));
    if !young.is_zero() {
        return Fate::Stays(young);
    }
    let until = |label: &str| secret.metadata.labels.get(label).map(|text| text.parse().map(|day: Date| after(day, unused)));
    match until(LAST_USED) {
        // Nobody can tell when it was.
        Some(Err(_)) => return Fate::Stays(AGAIN),
        Some(Ok(until)) if until > now => return Fate::Stays(left(now, until)),
        _ => {}
    }
    match until(INVALID_SINCE) {
        Some(Ok(until)) if until > now => Fate::Stays(left(now, until)),
        Some(Ok(_)) => Fate::Goes,
        _ => Fate::Ends,
    }
}

/// Whether an account names the secret of its token, as servers did that made them: of others nobody knows who else uses them.
fn refers(account: &ServiceAccount, secret: &TokenSecret) -> bool {
    let meant = secret.metadata.annotations.get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
    let names = |reference: &&k8s_openapi::api::core::v1::ObjectReference| reference.name.as_deref() == Some(secret.name());
    meant.is_none_or(|uid| *uid == account.uid()) && account.secrets.iter().flatten().any(|reference| names(&reference))
}

/// How long uses have to be noted still until it is known that there were none; `None`: long enough.
async fn tracked_for(client: &Client, now: Timestamp, unused: Duration) -> Option<Duration> {
    let since = match get(client, TRACKED).await {
        Ok(map) => map["data"]["since"].as_str().and_then(|text| text.parse::<Date>().ok()),
        Err(error) => {
            tracing::warn!(%error, "cannot see since when uses of tokens are noted");
            None
        }
    };
    let Some(since) = since else { return Some(AGAIN) };
    Some(left(now, after(since, unused))).filter(|left| !left.is_zero())
}

/// The names of secrets that pods of a namespace use.
async fn used_in(room: &Client, namespace: &str) -> Result<BTreeSet<String>, kube::Error> {
    let (mut used, mut params) = (BTreeSet::new(), ListParams::default().limit(PAGE));
    loop {
        let page = kube::core::Request::new(format!("/api/v1/namespaces/{namespace}/pods")).list(&params);
        let page: Value = room.request(page.map_err(kube::Error::BuildRequest)?).await?;
        for pod in page["items"].as_array().into_iter().flatten() {
            names(&pod["spec"], &mut used);
        }
        match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token.to_owned()),
            None => return Ok(used),
        }
    }
}

async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let request = Request::get(path).body(Vec::new());
    client.request(request.map_err(|error| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error)))?).await
}

fn add(name: &Value, into: &mut BTreeSet<String>) {
    into.extend(name.as_str().map(str::to_owned));
}

/// The names of secrets that a pod's spec refers to, wherever such references stand.
fn names(spec: &Value, into: &mut BTreeSet<String>) {
    match spec {
        Value::Object(members) => {
            for (member, value) in members {
                match member.as_str() {
                    "secretName" => add(value, into),
                    "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => add(&value["name"], into),
                    "imagePullSecrets" => value.as_array().into_iter().flatten().for_each(|reference| add(&reference["name"], into)),
                    "secret" => {
                        add(&value["name"], into);
                        names(value, into);
                    }
                    _ => names(value, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, into)),
        _ => {}
    }
}

/// When a day, and so long, are over.
fn after(day: Date, unused: Duration) -> Timestamp {
    let next = day.tomorrow().and_then(|next| next.to_zoned(TimeZone::UTC)).map(|next| next.timestamp());
    plus(next.unwrap_or(Timestamp::MAX), unused)
}

fn day(of: Timestamp) -> Date {
    Offset::UTC.to_datetime(of).date()
}

fn plus(time: Timestamp, more: Duration) -> Timestamp {
    SignedDuration::try_from(more).ok().and_then(|more| time.checked_add(more).ok()).unwrap_or(Timestamp::MAX)
}

fn left(now: Timestamp, until: Timestamp) -> Duration {
    between(now, until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn secret(made: &str, labels: &[(&str, &str)]) -> TokenSecret {
        let mut secret = TokenSecret::default();
        secret.metadata.name = "t".into();
        secret.metadata.uid = "u".into();
        secret.metadata.resource_version = "7".into();
        secret.metadata.creation_timestamp = Some(made.parse().unwrap());
        secret.metadata.labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        secret
    }

    fn on(day: &str, secret: &TokenSecret) -> Fate {
        fate(secret, format!("{day}T12:00:00Z").parse().unwrap(), YEAR)
    }

    #[test]
    fn a_token_ends_after_a_year_without_use_and_goes_after_another() {
        let made = "2024-01-01T12:00:00Z";
        let hours = |of: u64| Fate::Stays(Duration::from_secs(of * 3600));
        assert_eq!(on("2024-12-30", &secret(made, &[])), hours(24), "it is not a year old");
        assert_eq!(on("2024-12-31", &secret(made, &[])), Fate::Ends);
        let used = secret(made, &[(LAST_USED, "2025-03-01")]);
        assert_eq!((on("2026-03-01", &used), on("2026-03-02", &used)), (hours(12), Fate::Ends), "the day of the last use counts whole");
        assert_eq!(on("2030-01-01", &secret(made, &[(LAST_USED, "yesterday")])), Fate::Stays(AGAIN), "nobody can tell");
        let ended = secret(made, &[(INVALID_SINCE, "2026-03-02")]);
        assert_eq!((on("2027-03-02", &ended), on("2027-03-03", &ended)), (hours(12), Fate::Goes));
        assert_eq!(on("2027-03-02", &secret(made, &[(INVALID_SINCE, "x")])), Fate::Ends, "what makes no sense is written anew");
        let both = secret(made, &[(INVALID_SINCE, "2026-03-02"), (LAST_USED, "2027-01-01")]);
        assert!(matches!(on("2027-03-03", &both), Fate::Stays(_)), "it was used since");
    }

    #[test]
    fn what_is_done_names_the_secret_as_it_was_seen() {
        let (secret, now) = (secret("2024-01-01T12:00:00Z", &[]), "2026-03-02T12:00:00Z".parse().unwrap());
        let verb = |fate| carried_out(&secret, &fate, now).changes().next().unwrap().verb.clone();
        match verb(Fate::Ends) {
            Verb::Patch { body, .. } => assert_eq!(body["metadata"], json!({"uid": "u", "labels": {INVALID_SINCE: "2026-03-02"}})),
            other => panic!("{other:?}"),
        }
        assert!(matches!(verb(Fate::Goes), Verb::Delete { uid: Some(uid), version: Some(version), .. } if uid == "u" && version == "7"));
    }

    #[test]
    fn only_secrets_their_account_names_are_looked_at() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "a", "uid": "x"}, "secrets": [{"name": "t"}]})).unwrap();
        let mut token = secret("2024-01-01T12:00:00Z", &[]);
        assert!(refers(&account, &token));
        token.metadata.annotations.insert(ACCOUNT_UID.into(), "y".into());
        assert!(!refers(&account, &token), "it is of an account that is gone");
        token.metadata.annotations.insert(ACCOUNT_UID.into(), "x".into());
        assert!(refers(&account, &token));
        token.metadata.name = "other".into();
        assert!(!refers(&account, &token));
    }

    #[test]
    fn pods_use_secrets_in_many_places() {
        for spec in [
            json!({"volumes": [{"name": "v", "secret": {"secretName": "t"}}]}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "t"}}]}}]}),
            json!({"volumes": [{"name": "v", "csi": {"nodePublishSecretRef": {"name": "t"}}}]}),
            json!({"imagePullSecrets": [{"name": "t"}]}),
            json!({"initContainers": [{"env": [{"name": "e", "valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}}]}]}),
            json!({"containers": [{"envFrom": [{"secretRef": {"name": "t"}}]}]}),
        ] {
            let mut used = BTreeSet::new();
            names(&spec, &mut used);
            assert_eq!(used, BTreeSet::from(["t".to_owned()]), "{spec}");
        }
    }
}
