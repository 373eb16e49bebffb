//! ResourceQuota: a namespace uses no more than it may (`apiserver/pkg/admission/plugin/resourcequota`).
//!
//! What is used stands in the quota's status, and every admitted write adds to it by compare-and-swap before it is committed, so that writes
//! at the same time cannot both take the last place. What is given back (deletes, writes that failed afterwards) is counted anew, from the
//! objects that are there and those admitted a moment ago, when a write would otherwise be refused.

mod limited;
mod usage;

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use coracle_tree::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use self::limited::Limited;
use super::{
    Admission, Attempt, Operation, look,
    resources::{self, List},
};
use crate::{
    registry::{Object, Reader, Writer},
    wire::Status,
};

/// How often a write that met another on the same quota tries again.
const RETRIES: usize = 8;

/// Writes of one namespace take turns; namespaces share so many locks.
const LOCKS: usize = 64;

/// A write that was admitted so long ago has been committed or has failed.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// At most so many admitted writes are remembered.
const PENDING_LIMIT: usize = 4096;

/// The plugin.
pub struct ResourceQuota {
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    locks: [Mutex<()>; LOCKS],
    pending: parking_lot::Mutex<VecDeque<Pending>>,
    limited: Limited,
}

/// A create that was admitted and may not be in the store yet.
struct Pending {
    quota: String,
    object: String,
    more: List,
    since: Instant,
}

impl ResourceQuota {
    /// Looks through `reader` and counts through `writer`. The error says what is wrong with the configuration.
    pub fn new(reader: Arc<dyn Reader>, writer: Arc<dyn Writer>, configuration: Option<&[u8]>) -> Result<Self, String> {
        let limited = configuration.map_or_else(|| Ok(Limited::default()), Limited::read)?;
        Ok(Self { reader, writer, locks: std::array::from_fn(|_| Mutex::new(())), pending: parking_lot::Mutex::default(), limited })
    }
}

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        if request.namespace.is_empty() || request.resource == "events" {
            return false;
        }
        let core = request.group.is_empty();
        match attempt.operation {
            Operation::Delete => request.subresource.is_empty() && !self.pending.lock().is_empty(),
            Operation::Create => request.subresource.is_empty() && request.resource != "namespaces",
            Operation::Update => match (request.resource.as_str(), request.subresource.as_str()) {
                ("services" | "persistentvolumeclaims", "") | ("pods", "resize") => core,
                _ => false,
            },
            _ => false,
        }
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(new) = new else {
            // What is deleted was in the store: it counts for as long as it is there.
            let gone = attempt.old.map(Object::uid).unwrap_or_default();
            self.pending.lock().retain(|p| p.object != gone);
            return Ok(());
        };
        let namespace = &attempt.request.namespace;
        if self.limited.is_empty() && self.reader.list("", "resourcequotas", namespace).await?.is_empty() {
            return Ok(());
        }
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        // The remainder is below LOCKS, so it fits whatever a usize is.
        let _turn = self.locks[usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or_default()].lock().await;
        let mut last = Status::internal("quota was not checked");
        for _ in 0..RETRIES {
            match self.charge(attempt, new).await {
                Err(status) if status.code == 409 => last = status,
                done => return done,
            }
        }
        Err(last)
    }
}

impl ResourceQuota {
    /// Adds what the write uses to every quota it is about; a conflict (409) means that it must be tried again.
    async fn charge(&self, attempt: &Attempt<'_>, new: &Object) -> Result<(), Status> {
        let request = attempt.request;
        let (group, resource) = (request.group.as_str(), request.resource.as_str());
        let quotas: Vec<Value> = look::all(&*self.reader, "", "resourcequotas", &request.namespace).await?;
        if !self.limited.is_empty() {
            self.limited.check(attempt, new, &quotas)?;
        }
        let mut charged = Vec::new();
        for mut quota in quotas {
            if !usage::in_scope(&quota, group, resource, new.value()) {
                continue;
            }
            let hard = resources::of(quota.pointer("/spec/hard"));
            let more = self.more(attempt, &quota, &hard, new)?;
            if more.is_empty() {
                continue;
            }
            let known = resources::of(quota.pointer("/status/hard")) == hard;
            let mut used = if known { resources::of(quota.pointer("/status/used")) } else { self.count(&quota, &hard).await? };
            if !exceeded(&used, &more, &hard).is_empty() && known {
                used = self.count(&quota, &hard).await?;
            }
            let over = exceeded(&used, &more, &hard);
            if !over.is_empty() {
                return Err(look::forbidden(attempt, Some(new), &refusal(&quota, &over, &more, &used, &hard)));
            }
            resources::add(&mut used, &more);
            quota["status"] = json!({"hard": resources::to_value(&hard), "used": resources::to_value(&used)});
            quota["apiVersion"] = "v1".into();
            quota["kind"] = "ResourceQuota".into();
            charged.push((quota, more));
        }
        // A dry run is measured, but takes no place.
        for (quota, more) in charged.into_iter().filter(|_| !attempt.dry_run) {
            let id = uid(&quota).to_owned();
            self.writer.update("resourcequotas", "status", &request.namespace, quota).await?;
            if attempt.operation == Operation::Create {
                self.remember(Pending { quota: id, object: new.uid().to_owned(), more, since: Instant::now() });
            }
        }
        Ok(())
    }

    fn remember(&self, entry: Pending) {
        let mut pending = self.pending.lock();
        while pending.front().is_some_and(|p| p.since.elapsed() > ON_ITS_WAY) || pending.len() >= PENDING_LIMIT {
            pending.pop_front();
        }
        pending.push_back(entry);
    }

    /// Adds what was admitted under the quota lately and is not among the objects `there`.
    fn add_pending(&self, used: &mut List, quota: &str, there: &HashSet<String>) {
        let pending = self.pending.lock();
        let on_its_way = |p: &&Pending| p.quota == quota && p.since.elapsed() <= ON_ITS_WAY && !there.contains(&p.object);
        pending.iter().filter(on_its_way).for_each(|p| resources::add(used, &p.more));
    }

    /// What the write uses more than before, of what the quota limits; without zeros.
    fn more(&self, attempt: &Attempt<'_>, quota: &Value, hard: &List, new: &Object) -> Result<List, Status> {
        let request = attempt.request;
        let (group, resource) = (request.group.as_str(), request.resource.as_str());
        if group.is_empty()
            && resource == "pods"
            && let Some(why) = usage::unsaid(hard, new.value())
        {
            let name = quota["metadata"]["name"].as_str().unwrap_or_default();
            return Err(look::forbidden(attempt, Some(new), &format!("failed quota: {name}: {why}")));
        }
        let mut more = usage::of(group, resource, new.value());
        more.retain(|name, _| hard.contains_key(name));
        if let Some(old) = attempt.old.filter(|o| usage::in_scope(quota, group, resource, o.value())) {
            for (name, before) in usage::of(group, resource, old.value()) {
                if let Some(now) = more.get_mut(&name) {
                    *now = *now - before;
                }
            }
        }
        more.retain(|_, q| !q.is_zero() && !q.is_negative());
        Ok(more)
    }

    /// What is used of the quota, counted from the objects that are there or on their way.
    async fn count(&self, quota: &Value, hard: &List) -> Result<List, Status> {
        let namespace = quota["metadata"]["namespace"].as_str().unwrap_or_default();
        let zero = coracle_schema::Quantity::new(0, coracle_schema::quantity::Format::DecimalSi);
        let mut used: List = hard.keys().map(|name| (name.clone(), zero)).collect();
        let mut there = HashSet::new();
        let sources: BTreeSet<(&str, &str)> = hard.keys().filter_map(|name| usage::source(name)).collect();
        for (group, resource) in sources {
            let objects: Vec<Value> = match look::all(&*self.reader, group, resource, namespace).await {
                Ok(objects) => objects,
                // A count of something that is not served.
                Err(status) if status.code == 404 => continue,
                Err(status) => return Err(status),
            };
            there.extend(objects.iter().map(|o| uid(o).to_owned()));
            for object in objects.iter().filter(|o| usage::in_scope(quota, group, resource, o)) {
                let mut one = usage::of(group, resource, object);
                one.retain(|name, _| hard.contains_key(name));
                resources::add(&mut used, &one);
            }
        }
        self.add_pending(&mut used, uid(quota), &there);
        Ok(used)
    }
}

fn uid(object: &Value) -> &str {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

/// The names of which there would be too much.
fn exceeded(used: &List, more: &List, hard: &List) -> Vec<String> {
    let too_much = |name: &&String| {
        let now = used.get(*name).copied();
        let sum = now.map_or(more[*name], |n| n + more[*name]);
        hard.get(*name).is_some_and(|limit| sum > *limit)
    };
    more.keys().filter(too_much).cloned().collect()
}

/// `exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2`
fn refusal(quota: &Value, over: &[String], more: &List, used: &List, hard: &List) -> String {
    let only = |list: &List| resources::print(&list.iter().filter(|(n, _)| over.contains(n)).map(|(n, q)| (n.clone(), *q)).collect());
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", only(more), only(used), only(hard))
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn bench(hard: Value) -> (Bench, ResourceQuota) {
        let bench = Bench::new();
        let metadata = json!({"name": "q", "namespace": "live", "uid": "quota"});
        let quota = json!({"apiVersion": "v1", "metadata": metadata, "spec": {"hard": hard}});
        bench.reader.put("", "resourcequotas", quota);
        let plugin = ResourceQuota::new(bench.reader.clone(), bench.reader.clone(), None).unwrap();
        (bench, plugin)
    }

    fn used(b: &Bench) -> Value {
        b.reader.look("", "resourcequotas", "live", "q").unwrap()["status"]["used"].clone()
    }

    #[tokio::test]
    async fn writes_are_counted_until_the_quota_is_full() {
        let (b, plugin) = bench(json!({"configmaps": "2"}));
        let create = async |name: &str| {
            let map = json!({"metadata": {"name": name, "namespace": "live", "uid": name}});
            let made = b.create(&plugin, &format!("configmaps live {name}"), map.clone()).await;
            made.inspect(|_| {
                b.reader.put("", "configmaps", map);
            })
        };
        create("a").await.unwrap();
        create("b").await.unwrap();
        assert_eq!(used(&b), json!({"configmaps": "2"}));
        let refused = create("c").await.unwrap_err();
        assert_eq!(
            refused.message,
            r#"configmaps "c" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"#
        );
        let old = b.reader.look("", "configmaps", "live", "a");
        b.run(&plugin, Operation::Delete, "configmaps live a", None, old).await.unwrap();
        b.reader.remove("", "configmaps", "live", "a");
        create("c").await.unwrap();
        assert_eq!(used(&b), json!({"configmaps": "2"}));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_admitted_counts_before_it_is_stored_until_it_must_have_failed() {
        let (b, plugin) = bench(json!({"configmaps": "1"}));
        let create = async |name: &str| b.create(&plugin, "configmaps live x", json!({"metadata": {"name": name, "uid": name}})).await;
        create("a").await.unwrap();
        assert!(create("b").await.is_err(), "the first is on its way");
        tokio::time::advance(ON_ITS_WAY + Duration::from_secs(1)).await;
        create("b").await.unwrap();
    }

    #[tokio::test]
    async fn pods_must_say_what_they_ask_for_under_a_compute_quota() {
        let (b, plugin) = bench(json!({"requests.cpu": "1"}));
        let refused = b.create(&plugin, "pods live web", pod()).await.unwrap_err();
        assert_eq!(refused.message, r#"pods "web" is forbidden: failed quota: q: must specify requests.cpu for: c"#);
        let mut asking = pod();
        asking["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "600m"}});
        b.create(&plugin, "pods live web", asking.clone()).await.unwrap();
        assert_eq!(used(&b), json!({"requests.cpu": "600m"}));
        b.reader.put("", "pods", asking.clone());
        assert!(b.create(&plugin, "pods live web", asking).await.is_err());
    }

    #[tokio::test]
    async fn updates_are_charged_by_the_difference() {
        let (b, plugin) = bench(json!({"services.nodeports": "3", "services": "1"}));
        let service = |ports: usize| json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": vec![json!({}); ports]}});
        b.create(&plugin, "services live s", service(1)).await.unwrap();
        b.update(&plugin, "services live s", service(1), service(3)).await.unwrap();
        assert_eq!(used(&b), json!({"services": "1", "services.nodeports": "3"}));
        b.update(&plugin, "services live s", service(3), service(2)).await.unwrap();
    }

    #[tokio::test]
    async fn other_namespaces_and_kinds_are_free() {
        let (b, plugin) = bench(json!({"pods": "0"}));
        assert!(b.create(&plugin, "pods elsewhere web", pod()).await.is_ok());
        assert!(b.create(&plugin, "secrets live s", json!({"metadata": {"name": "s"}})).await.is_ok());
        assert!(b.create(&plugin, "pods live web", pod()).await.is_err());
    }

    #[tokio::test]
    async fn what_is_limited_needs_a_quota_that_covers_it() {
        let configuration = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
            "limitedResources": [
                {"resource": "persistentvolumeclaims", "matchContains": ["gold.storageclass.storage.k8s.io/requests.storage"]},
                {"resource": "pods", "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high", "higher"]}]},
            ],
        });
        let b = Bench::new();
        let plugin = ResourceQuota::new(b.reader.clone(), b.reader.clone(), Some(configuration.to_string().as_bytes())).unwrap();
        let claim = |class: &str| {
            let spec = json!({"storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}});
            json!({"metadata": {"name": "c", "namespace": "live"}, "spec": spec})
        };
        let create = async |object: Value, at: &str| b.create(&plugin, at, object).await;
        create(claim("tin"), "persistentvolumeclaims live c").await.unwrap();
        assert_eq!(
            create(claim("gold"), "persistentvolumeclaims live c").await.unwrap_err().message,
            "persistentvolumeclaims \"c\" is forbidden: insufficient quota to consume: gold.storageclass.storage.k8s.io/requests.storage"
        );
        let mut high = pod();
        high["spec"]["priorityClassName"] = "high".into();
        create(pod(), "pods live web").await.unwrap();
        assert_eq!(
            create(high.clone(), "pods live web").await.unwrap_err().message,
            "insufficient quota to match these scopes: [{PriorityClass In [high higher]}]"
        );
        let scope = json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
        for (name, spec) in [
            ("p", json!({"hard": {"pods": "1"}, "scopeSelector": scope})),
            ("s", json!({"hard": {"gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}})),
        ] {
            b.reader.put("", "resourcequotas", json!({"apiVersion": "v1", "metadata": {"name": name, "namespace": "live"}, "spec": spec}));
        }
        create(high, "pods live web").await.unwrap();
        create(claim("gold"), "persistentvolumeclaims live c").await.unwrap();
        assert!(create(claim("gold"), "persistentvolumeclaims live c").await.unwrap_err().message.contains("exceeded quota: s"));
        assert!(ResourceQuota::new(b.reader.clone(), b.reader.clone(), Some(b"{kind: X}")).is_err());
    }
}
