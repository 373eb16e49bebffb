//! Empties namespaces that are being deleted, and lets them go (upstream `pkg/controller/namespace/deletion`).
//!
//! Everything namespaced that discovery shows is deleted, pods first and alone (KEP 5080: what protects pods must outlive
//! them); then the finalizer `kubernetes` is taken off.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use kube::{
    Client,
    core::{
        Request,
        params::{DeleteParams, ListParams},
    },
};
use serde::Deserialize;

use crate::{
    apply::{Error, Executor, words},
    caches::Caches,
    change::{Change, Plan, Tolerate, Verb},
    discovery::{Served, discover},
    object::{Key, Kind, Meta, Object},
    pod::Pod,
    run::{Named, Reconcile, Wake},
    time,
};

const FINALIZER: &str = "kubernetes";
/// Collections worked on at once.
const AT_ONCE: usize = 16;
/// Looks again after a quarter of the time it took so far, within these bounds: what holds things up is mostly gone soon, or
/// stays for long. The end of a pod wakes us besides.
const SOON: Duration = Duration::from_millis(200);
const LATER: Duration = Duration::from_secs(15);

/// The controller.
pub(crate) struct Namespaces {
    caches: Arc<Caches>,
}

impl Namespaces {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }
    fn identity(&self) -> &'static str {
        "namespace-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.namespaces);
        let caches = self.caches.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
            if let (Some(pod), None) = (delta.old, delta.new)
                && caches.namespaces.get("", pod.namespace()).is_some_and(|namespace| namespace.deleted().is_some())
            {
                wake(Key::new("", pod.namespace()));
            }
        });
    }
    fn pace(&self) -> Duration {
        Duration::from_millis(50)
    }
}

#[async_trait]
impl Reconcile for Namespaces {
    async fn reconcile(&self, key: &Key, executor: &Executor, now: Timestamp) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.caches.namespaces.at(key).filter(|namespace| namespace.deleted().is_some()) else { return Ok(None) };
        if !finalizers(&namespace).iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(None);
        }
        let emptied = empty(executor.client(), &key.name).await;
        let done = emptied.is_done();
        let mut plan = Plan::nothing();
        // Someone who waits for the namespace to go does not read why it was not gone yet.
        if !done && let Some(updated) = with_status(&namespace, &emptied, now) {
            plan.push(Change::update_status(&updated).tolerate(Tolerate::Races));
        }
        if done {
            plan.push(finalize(&namespace));
        }
        executor.execute(key, plan).await?;
        let so_far = namespace.deleted().map(|since| time::between(since, now)).unwrap_or_default();
        Ok((!done).then_some((so_far / 4).clamp(SOON, LATER)))
    }
}

fn finalizers(namespace: &Namespace) -> &[String] {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default()
}

/// Takes our finalizer off, through the subresource made for it.
fn finalize(namespace: &Namespace) -> Change {
    let mut namespace = namespace.clone();
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let mut change = Change::update(&namespace).tolerate(Tolerate::NotFound);
    if let Verb::Update { subresource, .. } = &mut change.verb {
        *subresource = Some("finalize");
    }
    change
}

/// What one pass over a namespace found.
#[derive(Debug, Default, PartialEq)]
struct Emptied {
    /// Discovery failed, in whole or in part.
    discovery_error: Option<String>,
    /// Kinds that could not be listed or deleted.
    errors: Vec<String>,
    /// Objects left by `plural.group`.
    remaining: BTreeMap<String, usize>,
    /// Objects left by finalizer.
    finalizers: BTreeMap<String, usize>,
}

impl Emptied {
    fn is_done(&self) -> bool {
        self.discovery_error.is_none() && self.errors.is_empty() && self.remaining.is_empty()
    }
}

async fn empty(client: &Client, namespace: &str) -> Emptied {
    let mut emptied = Emptied::default();
    let served = match discover(client).await {
        Ok((served, stale)) => {
            emptied.discovery_error = stale.then(|| "unable to retrieve the complete list of server APIs".to_owned());
            served
        }
        Err(error) => {
            emptied.discovery_error = Some(words(&error));
            return emptied;
        }
    };
    let (pods, others): (Vec<Served>, Vec<Served>) = served
        .into_iter()
        .filter(|kind| kind.namespaced && kind.allows(&["list", "delete"]))
        .partition(|kind| kind.resource == Pod::RESOURCE);
    for kinds in [pods, others] {
        let mut results = stream::iter(kinds.into_iter().map(|kind| async move {
            let result = empty_kind(client, namespace, &kind).await;
            (kind, result)
        }))
        .buffer_unordered(AT_ONCE);
        while let Some((kind, result)) = results.next().await {
            match result {
                Ok(left) => emptied.note(&kind, &left),
                Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 405 => {}
                Err(error) => emptied.errors.push(format!("{}: {}", kind.resource.plural, words(&error))),
            }
        }
        drop(results);
        if !emptied.remaining.is_empty() || !emptied.errors.is_empty() {
            break;
        }
    }
    emptied.errors.sort();
    emptied
}

impl Emptied {
    fn note(&mut self, kind: &Served, left: &[Partial]) {
        if left.is_empty() {
            return;
        }
        self.remaining.insert(format!("{}.{}", kind.resource.plural, kind.resource.group), left.len());
        for finalizer in left.iter().flat_map(|object| &object.metadata.finalizers) {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
}

#[derive(Deserialize)]
struct Partials {
    items: Option<Vec<Partial>>,
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: Meta,
}

/// Deletes all objects of one kind; returns those that are still there.
async fn empty_kind(client: &Client, namespace: &str, kind: &Served) -> Result<Vec<Partial>, kube::Error> {
    let request = Request::new(kind.resource.path(namespace));
    let found = list(client, &request).await?;
    if found.is_empty() {
        return Ok(found);
    }
    let background = DeleteParams::background();
    if kind.allows(&["deletecollection"]) {
        let call = request.delete_collection(&background, &ListParams::default()).map_err(kube::Error::BuildRequest)?;
        client.request::<serde::de::IgnoredAny>(call).await?;
    } else {
        for object in found.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            let call = request.delete(&object.metadata.name, &background).map_err(kube::Error::BuildRequest)?;
            match client.request::<serde::de::IgnoredAny>(call).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => drop(other?),
            }
        }
    }
    list(client, &request).await
}

async fn list(client: &Client, request: &Request) -> Result<Vec<Partial>, kube::Error> {
    let call = request.list_metadata(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
    Ok(client.request::<Partials>(call).await?.items.unwrap_or_default())
}

/// The namespace with the five conditions of its deletion, if they say anything new.
fn with_status(namespace: &Namespace, emptied: &Emptied, now: Timestamp) -> Option<Namespace> {
    let counted = |counts: &BTreeMap<String, usize>, what: &str| {
        counts.iter().map(|(name, count)| format!("{name}{what}{count} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let remaining = format!("Some resources are remaining: {}", counted(&emptied.remaining, " has "));
    let finalizers = format!("Some content in the namespace has finalizers remaining: {}", counted(&emptied.finalizers, " in "));
    let failed = |message: String, bad: bool, reasons: (&'static str, &'static str), good: &str| {
        if bad { ("True", reasons.0, message) } else { ("False", reasons.1, good.to_owned()) }
    };
    let discovery = failed(
        format!("Discovery failed for some groups, 1 failing: {}", emptied.discovery_error.clone().unwrap_or_default()),
        emptied.discovery_error.is_some(),
        ("DiscoveryFailed", "ResourcesDiscovered"),
        "All resources successfully discovered",
    );
    let content = failed(
        format!("Failed to delete all resource types, {} remaining: {}", emptied.errors.len(), emptied.errors.join(", ")),
        !emptied.errors.is_empty(),
        ("ContentDeletionFailed", "ContentDeleted"),
        "All content successfully deleted, may be waiting on finalization",
    );
    let left =
        failed(remaining, !emptied.remaining.is_empty(), ("SomeResourcesRemain", "ContentRemoved"), "All content successfully removed");
    let held = failed(
        finalizers,
        !emptied.finalizers.is_empty(),
        ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
        "All content-preserving finalizers finished",
    );
    let parsed = ("False", "ParsedGroupVersions", "All legacy kube types successfully parsed".to_owned());
    let mut updated = namespace.clone();
    let status = updated.status.get_or_insert_default();
    status.phase = Some("Terminating".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    for (type_, (value, reason, message)) in [
        ("NamespaceDeletionDiscoveryFailure", discovery),
        ("NamespaceDeletionGroupVersionParsingFailure", parsed),
        ("NamespaceDeletionContentFailure", content),
        ("NamespaceContentRemaining", left),
        ("NamespaceFinalizersRemaining", held),
    ] {
        set_condition(conditions, type_, value, reason, message, now);
    }
    (updated.status != namespace.status).then_some(updated)
}

fn set_condition(conditions: &mut Vec<NamespaceCondition>, type_: &str, value: &str, reason: &str, message: String, now: Timestamp) {
    let old = conditions.iter_mut().find(|condition| condition.type_ == type_);
    let new = NamespaceCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(time::api(now)),
    };
    match old {
        None => conditions.push(new),
        Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {}
        Some(old) => {
            let since = if old.status == new.status { old.last_transition_time.take() } else { new.last_transition_time.clone() };
            *old = NamespaceCondition { last_transition_time: since, ..new };
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NamespaceSpec;

    use super::*;

    #[test]
    fn what_is_left_is_told_in_the_conditions_and_only_once() {
        let emptied = Emptied {
            remaining: [("pods.".to_owned(), 2), ("widgets.example.org".to_owned(), 1)].into(),
            finalizers: [("example.org/hold".to_owned(), 1)].into(),
            ..Emptied::default()
        };
        let updated = with_status(&Namespace::default(), &emptied, Timestamp::UNIX_EPOCH).unwrap();
        let status = updated.status.clone().unwrap();
        assert_eq!(status.phase.as_deref(), Some("Terminating"));
        let messages: Vec<String> = status
            .conditions
            .unwrap()
            .into_iter()
            .filter(|condition| condition.status == "True")
            .filter_map(|condition| condition.message)
            .collect();
        assert_eq!(
            messages,
            [
                "Some resources are remaining: pods. has 2 resource instances, widgets.example.org has 1 resource instances",
                "Some content in the namespace has finalizers remaining: example.org/hold in 1 resource instances",
            ]
        );
        assert!(with_status(&updated, &emptied, Timestamp::MAX).is_none());
    }

    #[test]
    fn only_our_own_finalizer_is_taken_off() {
        let finalizers = Some(vec!["kubernetes".to_owned(), "other".to_owned()]);
        let namespace = Namespace { spec: Some(NamespaceSpec { finalizers }), ..Namespace::default() };
        let Verb::Update { object, subresource } = finalize(&namespace).verb else { panic!("not an update") };
        assert_eq!((object["spec"]["finalizers"].to_string().as_str(), subresource), (r#"["other"]"#, Some("finalize")));
    }
}
