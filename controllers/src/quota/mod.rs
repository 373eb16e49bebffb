//! The use of resource quotas (upstream `pkg/controller/resourcequota`). Admission adds to a quota what it lets in; what is
//! given back, and what a new quota finds, is counted here.

mod amount;
mod usage;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Client,
    core::{Request, params::ListParams},
};
use parking_lot::Mutex;
use serde::{Deserialize, de::IgnoredAny};
use tokio::time::Instant;

use crate::{
    apply::{Error, Executor},
    caches::Caches,
    change::{Change, Tolerate},
    discovery::{Served, discover},
    object::{Key, Object, Resource},
    pod::Pod,
    run::{Named, Reconcile, Wake},
};

/// Admission raises the use before the object is there: so much time is given to it to show up.
const SETTLE: Duration = Duration::from_secs(2);
/// Kinds that the room does not cache are counted when one of their objects left, and this often in case nobody told.
const RECOUNT: Duration = Duration::from_secs(60);

/// The controller.
pub(crate) struct Quotas {
    caches: Arc<Caches>,
    raised: Arc<Raised>,
}

/// When the use of a quota was last seen to rise: what admission let in then may not be in the caches yet.
#[derive(Default)]
struct Raised(Mutex<HashMap<Key, Instant>>);

impl Raised {
    fn note(&self, key: &Key, old: Option<&ResourceQuota>, new: Option<&ResourceQuota>) {
        let used = |quota: Option<&ResourceQuota>| quota.and_then(|quota| quota.status.clone()).unwrap_or_default();
        match (old, new) {
            (_, None) => drop(self.0.lock().remove(key)),
            (Some(_), Some(_)) if lowers(&used(new), &used(old)) => drop(self.0.lock().insert(key.clone(), Instant::now())),
            _ => {}
        }
    }

    /// How long a lower count of this quota is not to be trusted yet.
    fn wait(&self, key: &Key) -> Option<Duration> {
        let since = self.0.lock().get(key)?.elapsed();
        SETTLE.checked_sub(since).filter(|left| !left.is_zero())
    }
}

/// Whether `after` says less of anything than `before` does.
fn lowers(before: &ResourceQuotaStatus, after: &ResourceQuotaStatus) -> bool {
    let now = after.used.clone().unwrap_or_default();
    before.used.iter().flatten().any(|(name, was)| now.get(name).is_some_and(|is| amount::parse(&is.0) < amount::parse(&was.0)))
}

impl Quotas {
    /// The controller over these caches.
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches, raised: Arc::default() }
    }
}

impl Named for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }
    fn identity(&self) -> &'static str {
        "resourcequota-controller"
    }
    fn reads(&self, wake: &Wake) {
        let (queue, raised) = (wake.queue(), self.raised.clone());
        wake.on(&self.caches.quotas, move |delta, wake| {
            let (old, new) = (delta.old.map(AsRef::as_ref), delta.new.map(AsRef::as_ref));
            delta.last().into_iter().for_each(|quota| raised.note(&Key::of(quota.as_ref()), old, new));
            let Some(quota) = delta.new else { return };
            let key = Key::of(quota.as_ref());
            let (spec, status) = (quota.spec.clone().unwrap_or_default(), quota.status.clone().unwrap_or_default());
            if spec.hard.unwrap_or_default() == status.hard.unwrap_or_default() { queue.add_after(key, SETTLE) } else { wake(key) }
        });
        let (caches, queue) = (self.caches.clone(), wake.queue());
        self.caches.departures.listen(move |resource, namespace| {
            let quotas = caches.quotas.list(namespace);
            quotas.iter().filter(|quota| counts(quota, resource)).for_each(|quota| queue.add(Key::of(quota.as_ref())));
        });
        let caches = self.caches.clone();
        let of_namespace = move |namespace: &str, wake: &mut dyn FnMut(Key)| {
            caches.quotas.list(namespace).iter().for_each(|quota| wake(Key::of(quota.as_ref())));
        };
        let quotas = of_namespace.clone();
        wake.on(&self.caches.pods, move |delta, wake| {
            let uses = |pod: Option<&Arc<Pod>>| pod.is_some_and(|pod| !pod.is_terminal());
            if let Some(old) = delta.old.filter(|_| uses(delta.old) && !uses(delta.new)) {
                quotas(old.namespace(), wake);
            }
        });
        let quotas = of_namespace.clone();
        wake.on(&self.caches.services, move |delta, wake| {
            let kind = |service: &Arc<k8s_openapi::api::core::v1::Service>| service.spec.as_ref().and_then(|spec| spec.type_.clone());
            if let Some(old) = delta.old.filter(|old| delta.new.is_none_or(|new| kind(new) != kind(old))) {
                quotas(old.namespace(), wake);
            }
        });
        wake.on(&self.caches.claims, move |delta, wake| {
            if let (Some(old), None) = (delta.old, delta.new) {
                of_namespace(old.namespace(), wake);
            }
        });
    }
    fn pace(&self) -> Duration {
        Duration::from_millis(500)
    }
}

#[async_trait]
impl Reconcile for Quotas {
    async fn reconcile(&self, key: &Key, executor: &Executor, _now: Timestamp) -> Result<Option<Duration>, Error> {
        let Some(quota) = self.caches.quotas.at(key).filter(|quota| quota.deleted().is_none()) else { return Ok(None) };
        let spec = quota.spec.clone().unwrap_or_default();
        let hard = spec.hard.clone().unwrap_or_default();
        let mut used: BTreeMap<String, i128> = BTreeMap::new();
        let mut others: Vec<String> = Vec::new();
        for name in hard.keys() {
            match self.cached(name, &key.namespace, &quota) {
                Some(amount) => drop(used.insert(name.clone(), amount)),
                None => others.push(name.clone()),
            }
        }
        if !others.is_empty() {
            self.count_others(&others, &key.namespace, executor.client(), &mut used).await;
        }
        let old = quota.status.clone().unwrap_or_default();
        let mut shown: BTreeMap<String, Quantity> =
            used.into_iter().map(|(name, amount)| (name.clone(), quantity(&name, amount))).collect();
        // What could not be counted is as it was.
        for name in hard.keys().filter(|name| !shown.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let before = old.used.as_ref().and_then(|used| used.get(&name)).cloned().unwrap_or(Quantity("0".to_owned()));
            shown.insert(name, before);
        }
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(shown) };
        if let Some(left) = self.raised.wait(key).filter(|_| lowers(&old, &status)) {
            return Ok(Some(left));
        }
        if !same(&old, &status) {
            let after = ResourceQuota { status: Some(status), ..quota.as_ref().clone() };
            executor.execute(key, Change::update_status(&after).tolerate(Tolerate::NotFound).into()).await?;
        }
        // A count from before the last rise has settled may have been too early.
        Ok(self.raised.wait(key).or((!others.is_empty()).then_some(RECOUNT)))
    }
}

impl Quotas {
    /// What the caches say of one name, if they can.
    fn cached(&self, name: &str, namespace: &str, quota: &ResourceQuota) -> Option<i128> {
        let spec = quota.spec.clone().unwrap_or_default();
        let mut pods = self.caches.pods.list(namespace);
        pods.retain(|pod| usage::in_scope(&spec, pod));
        usage::of_claims(name, &self.caches.claims.list(namespace))
            .or_else(|| usage::of_services(name, &self.caches.services.list(namespace)))
            .or_else(|| match name {
                "resourcequotas" | "count/resourcequotas" => Some(usage::count(self.caches.quotas.list(namespace).len())),
                _ => usage::of_pods(name, &pods),
            })
    }

    /// Counts the objects of kinds the room does not cache.
    async fn count_others(&self, names: &[String], namespace: &str, client: &Client, used: &mut BTreeMap<String, i128>) {
        let served = match discover(client).await {
            Ok((served, _)) => served,
            Err(error) => {
                tracing::warn!(%error, "cannot discover what quotas count");
                return;
            }
        };
        for name in names {
            let (plural, group) = counted(name);
            let found = served.iter().find(|kind| kind.namespaced && kind.resource.plural == plural && kind.resource.group == group);
            match found {
                None => drop(used.insert(name.clone(), 0)),
                Some(kind) => match count(client, kind, namespace).await {
                    Ok(number) => drop(used.insert(name.clone(), usage::count(number))),
                    Err(error) => tracing::debug!(%name, %namespace, %error, "cannot count"),
                },
            }
        }
    }
}

/// The collection and the group of what a quota's name counts.
fn counted(name: &str) -> (&str, &str) {
    let wanted = name.strip_prefix("count/").unwrap_or(name);
    wanted.split_once('.').unwrap_or((wanted, ""))
}

/// Whether a quota counts objects of this kind.
fn counts(quota: &ResourceQuota, resource: &Resource) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.is_some_and(|hard| hard.keys().any(|name| counted(name) == (&resource.plural, &resource.group)))
}

#[derive(Deserialize)]
struct Items {
    items: Option<Vec<IgnoredAny>>,
}

async fn count(client: &Client, kind: &Served, namespace: &str) -> Result<usize, kube::Error> {
    let request = Request::new(kind.resource.path(namespace));
    let call = request.list_metadata(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
    Ok(client.request::<Items>(call).await?.items.map_or(0, |items| items.len()))
}

fn quantity(name: &str, amount: i128) -> Quantity {
    let binary = ["memory", "storage", "hugepages-"].iter().any(|part| name.contains(part)) && !name.contains("persistentvolumeclaims");
    Quantity(amount::format(amount, binary))
}

/// Whether two statuses say the same, however they write it.
fn same(a: &ResourceQuotaStatus, b: &ResourceQuotaStatus) -> bool {
    let amounts = |list: &Option<BTreeMap<String, Quantity>>| -> BTreeMap<String, i128> {
        list.iter().flatten().map(|(name, quantity)| (name.clone(), amount::parse(&quantity.0))).collect()
    };
    amounts(&a.hard) == amounts(&b.hard) && amounts(&a.used) == amounts(&b.used)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(pods: &str) -> ResourceQuota {
        let spec = json!({"hard": {"pods": "5"}});
        let status = json!({"hard": {"pods": "5"}, "used": {"pods": pods}});
        serde_json::from_value(json!({"metadata": {"name": "q", "namespace": "a"}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn a_quota_counts_what_its_names_say() {
        let hard = json!({"configmaps": "1", "count/deployments.apps": "1", "requests.cpu": "1"});
        let quota: ResourceQuota = serde_json::from_value(json!({"metadata": {}, "spec": {"hard": hard}})).unwrap();
        let of = |group: &str, plural: &str| {
            let (group, plural) = (group.to_owned().into(), plural.to_owned().into());
            counts(&quota, &Resource { group, version: "v1".into(), plural, kind: "X".into() })
        };
        assert!(of("", "configmaps") && of("apps", "deployments"));
        assert!(!of("", "secrets") && !of("", "deployments") && !of("extensions", "deployments"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_left_wakes_the_quotas_that_count_it() {
        let caches = Arc::new(Caches::default());
        caches.quotas.put(quota("0"));
        let mut other = quota("0");
        other.metadata.name = Some("other".into());
        other.spec = serde_json::from_value(json!({"hard": {"secrets": "1"}})).unwrap();
        caches.quotas.put(other);
        let wake = Wake::new(caches.clone(), Arc::new(crate::queue::Queue::new(Duration::ZERO)));
        Quotas::new(caches.clone()).reads(&wake);
        caches.departures.tell(&Resource { group: "".into(), version: "v1".into(), plural: "secrets".into(), kind: "Secret".into() }, "a");
        assert_eq!(wake.queue().waiting(), 1);
        assert_eq!(wake.queue().take().await, Key::new("a", "other"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_count_is_not_trusted_right_after_the_use_rose() {
        let (raised, key) = (Raised::default(), Key::new("a", "q"));
        raised.note(&key, None, Some(&quota("0")));
        assert_eq!(raised.wait(&key), None);
        raised.note(&key, Some(&quota("0")), Some(&quota("1")));
        tokio::time::advance(SETTLE / 2).await;
        raised.note(&key, Some(&quota("1")), Some(&quota("0")));
        assert_eq!(raised.wait(&key), Some(SETTLE / 2), "what fell says nothing about what rose");
        tokio::time::advance(SETTLE).await;
        assert_eq!(raised.wait(&key), None);
        assert!(lowers(&quota("1").status.unwrap(), &quota("0").status.unwrap()));
    }
}
