//! EventRateLimit: so many events, and no more (`plugin/pkg/admission/eventratelimit`).

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    admission::{Admission, Attempt, Operation, look, recent::Recent},
    registry::Object,
    wire::{Status, configuration::Format, status::aggregate},
};

const FORMAT: Format = Format {
    group: "eventratelimit.admission.k8s.io",
    versions: &["v1alpha1"],
    kind: "Configuration",
    others: &[],
    // As upstream, other fields are not looked at.
    fields: &[],
};

/// So many are told apart where the configuration does not say how many.
const TOLD_APART: usize = 4096;

/// The plugin.
pub struct EventRateLimit(Vec<Enforcer>);

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    limits: Vec<Limit>,
}

/// One limit; `kind` says for what each.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Limit {
    #[serde(rename = "type")]
    kind: String,
    /// Events a second.
    qps: i32,
    /// Events at once.
    burst: i32,
    /// How many namespaces, users, … are told apart.
    cache_size: i32,
}

/// A limit and what is left of it.
struct Enforcer {
    limit: Limit,
    buckets: Mutex<Recent<String, Bucket>>,
}

/// Tokens of one namespace, user, … (`golang.org/x/time/rate`).
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl EventRateLimit {
    /// The error is upstream's.
    pub fn new(configuration: Option<&[u8]>) -> Result<Self, String> {
        let configuration: Configuration = match configuration {
            Some(bytes) => FORMAT.read(bytes)?,
            None => Configuration { limits: Vec::new() },
        };
        match aggregate(faults(&configuration.limits)) {
            None => Ok(Self(configuration.limits.into_iter().map(Enforcer::new).collect())),
            Some(faults) => Err(faults),
        }
    }
}

/// What is wrong with the limits (`validation.ValidateConfiguration`).
fn faults(limits: &[Limit]) -> Vec<String> {
    const TYPES: [&str; 4] = ["Namespace", "Server", "SourceAndObject", "User"];
    let mut faults = Vec::new();
    if limits.is_empty() {
        faults.push("limits: Invalid value: []: must not be empty".to_owned());
    }
    for (at, limit) in limits.iter().enumerate() {
        if !TYPES.contains(&limit.kind.as_str()) {
            let known = TYPES.map(|kind| format!("{kind:?}")).join(", ");
            faults.push(format!("limits[{at}].type: Unsupported value: {:?}: supported values: {known}", limit.kind));
        }
        for (field, value) in [("burst", limit.burst), ("qps", limit.qps)] {
            if value <= 0 {
                faults.push(format!("limits[{at}].{field}: Invalid value: {value}: must be positive"));
            }
        }
        if limit.kind != "Server" && limit.cache_size < 0 {
            faults.push(format!("limits[{at}].cacheSize: Invalid value: {}: must not be negative", limit.cache_size));
        }
    }
    faults
}

impl Enforcer {
    fn new(limit: Limit) -> Self {
        let most = match usize::try_from(limit.cache_size) {
            Ok(size) if size > 0 => size,
            _ => TOLD_APART,
        };
        Self { limit, buckets: Mutex::new(Recent::new(most)) }
    }

    /// Takes a token, if there is one.
    fn take(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        let (burst, qps) = (f64::from(self.limit.burst), f64::from(self.limit.qps));
        if buckets.get(key).is_none() {
            buckets.put(key.to_owned(), Bucket { tokens: burst, at: now });
        }
        let Some(bucket) = buckets.get(key) else { return true };
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * qps).min(burst);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// What it is counted under.
    fn key(&self, attempt: &Attempt<'_>, event: Option<&Object>) -> String {
        match self.limit.kind.as_str() {
            "Namespace" => attempt.request.namespace.clone(),
            "User" => attempt.user.name.to_string(),
            "SourceAndObject" => {
                let place = ["kind", "namespace", "name", "uid", "apiVersion"].map(|field| format!("/involvedObject/{field}"));
                let fields = ["/source/component", "/source/host"].into_iter().chain(place.iter().map(String::as_str));
                fields.map(|field| event.map(|event| event.text(field)).unwrap_or_default()).collect()
            }
            _ => String::new(),
        }
    }
}

#[async_trait]
impl Admission for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update) && !attempt.dry_run && look::is(attempt, "", "events")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let now = Instant::now();
        let mut refused: Vec<String> = Vec::new();
        for enforcer in &self.0 {
            let key = enforcer.key(attempt, new);
            if !enforcer.take(&key, now) {
                refused.push(format!("limit reached on type {} for key {key}", enforcer.limit.kind));
            }
        }
        match aggregate(refused) {
            None => Ok(()),
            Some(why) => Err(Status::new(429, "TooManyRequests", format!("Too many requests: {why}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coracle_tree::{Value, json};

    use super::*;
    use crate::{admission::bench::Bench, authn::User};

    fn plugin(limits: &Value) -> Result<EventRateLimit, String> {
        let file = json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration", "limits": limits});
        EventRateLimit::new(Some(file.to_string().as_bytes()))
    }

    async fn tell(bench: &Bench, plugin: &EventRateLimit, namespace: &str, component: &str) -> Result<Value, Status> {
        let event = json!({"metadata": {"name": "e"}, "source": {"component": component}, "involvedObject": {"kind": "Pod"}});
        bench.create(plugin, &format!("events {namespace} e"), event).await
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_refused_after_the_burst_until_time_has_passed() {
        let (bench, plugin) = (Bench::new(), plugin(&json!([{"type": "Server", "qps": 1, "burst": 3}])).unwrap());
        for namespace in ["a", "b", "c"] {
            tell(&bench, &plugin, namespace, "x").await.unwrap();
        }
        let refused = tell(&bench, &plugin, "d", "x").await.unwrap_err();
        assert_eq!((refused.code, refused.reason), (429, "TooManyRequests"));
        assert_eq!(refused.message, "Too many requests: limit reached on type Server for key ");
        // Other kinds are not counted.
        bench.create(&plugin, "configmaps d m", json!({"metadata": {"name": "m"}})).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        tell(&bench, &plugin, "d", "x").await.unwrap();
        assert!(tell(&bench, &plugin, "d", "x").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_users_and_sources_have_their_own_and_the_longest_unheard_is_forgotten() {
        let limited = |kind: &str| plugin(&json!([{"type": kind, "qps": 1, "burst": 1, "cacheSize": 2}])).unwrap();
        let (bench, by_namespace) = (Bench::new(), limited("Namespace"));
        tell(&bench, &by_namespace, "a", "x").await.unwrap();
        tell(&bench, &by_namespace, "b", "x").await.unwrap();
        assert!(tell(&bench, &by_namespace, "a", "x").await.is_err());
        tell(&bench, &by_namespace, "c", "x").await.unwrap();
        assert!(tell(&bench, &by_namespace, "a", "x").await.is_err(), "heard of more lately than b");
        tell(&bench, &by_namespace, "b", "x").await.unwrap();

        let by_source = limited("SourceAndObject");
        tell(&bench, &by_source, "a", "x").await.unwrap();
        assert!(tell(&bench, &by_source, "a", "x").await.unwrap_err().message.ends_with("for key xPod"));
        tell(&bench, &by_source, "a", "y").await.unwrap();

        let by_user = limited("User");
        tell(&bench, &by_user, "a", "x").await.unwrap();
        assert!(tell(&bench, &by_user, "b", "y").await.unwrap_err().message.ends_with("limit reached on type User for key jane"));
        tell(&Bench { user: User::new("joe", &[]), ..bench }, &by_user, "a", "x").await.unwrap();
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        assert_eq!(EventRateLimit::new(None).err().unwrap(), "limits: Invalid value: []: must not be empty");
        assert_eq!(
            plugin(&json!([{"type": "X", "qps": 0, "burst": 1}, {"type": "User", "qps": 1, "burst": 1, "cacheSize": -1}])).err().unwrap(),
            "[limits[0].type: Unsupported value: \"X\": supported values: \"Namespace\", \"Server\", \"SourceAndObject\", \"User\", \
             limits[0].qps: Invalid value: 0: must be positive, limits[1].cacheSize: Invalid value: -1: must not be negative]"
        );
        assert!(EventRateLimit::new(Some(b"{apiVersion: v1, kind: Configuration}")).err().unwrap().starts_with("no kind"));
    }
}
