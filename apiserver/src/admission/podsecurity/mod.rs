//! PodSecurity: what pods may do, as the labels of their namespace say
//! (KEP-2579, `plugin/pkg/admission/security/podsecurity`, `pod-security-admission`).

mod baseline;
mod checks;
mod configuration;
mod counted;
mod namespace;
mod pod;
mod restricted;
mod standard;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use coracle_schema::FieldErrors;
use coracle_tree::Value;
use serde::Deserialize;

use self::{
    checks::{details, evaluate},
    configuration::Configuration,
    pod::Pod,
    standard::{LevelVersion, Policy},
};
use super::{Admission, Attempt, Operation, look};
use crate::{
    audit::Level,
    metrics::admission::begin_pod_security,
    registry::{Object, Reader},
    wire::{
        Status,
        status::{Subject, aggregate},
    },
};

/// Subresources of pods that change nothing of what is checked.
const HARMLESS: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// The plugin.
pub struct PodSecurity {
    reader: Arc<dyn Reader>,
    configuration: Configuration,
}

/// The little of a namespace that matters here.
#[derive(Deserialize)]
struct Namespace {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Where kinds that make pods keep their template, as JSON pointers.
fn template_of(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers") | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets") | ("batch", "jobs") => {
            Some("/spec/template")
        }
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        matches!(attempt.operation, Operation::Create | Operation::Update)
            && match (request.group.as_str(), request.resource.as_str()) {
                ("", "pods") => !HARMLESS.contains(&request.subresource.as_str()),
                ("", "namespaces") => request.subresource.is_empty(),
                (group, resource) => request.subresource.is_empty() && template_of(group, resource).is_some(),
            }
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(object) = new else { return Ok(()) };
        match attempt.request.resource.as_str() {
            "namespaces" => self.check_namespace(attempt, object).await,
            "pods" => self.check_pod(attempt, object).await,
            _ => self.check_template(attempt, object).await,
        }
    }
}

impl PodSecurity {
    /// Looks namespaces and their pods up through `reader`. The error says what is wrong with the configuration.
    pub fn new(reader: Arc<dyn Reader>, configuration: Option<&[u8]>) -> Result<Self, String> {
        let configuration = configuration.map_or_else(|| Ok(Configuration::default()), Configuration::read)?;
        begin_pod_security();
        Ok(Self { reader, configuration })
    }

    /// Whether the place or whoever asks is exempt, which the audit log is told.
    fn exempts(&self, attempt: &Attempt<'_>) -> bool {
        let exempt = &self.configuration.exempt;
        let why = if exempt.namespaces.contains(&attempt.request.namespace) {
            "namespace"
        } else if exempt.usernames.iter().any(|name| **name == *attempt.user.name) {
            "user"
        } else {
            return false;
        };
        annotate(attempt, "exempt", why);
        counted::exempted(attempt);
        true
    }

    /// Whether what the pod is run by is exempt.
    fn exempts_class(&self, attempt: &Attempt<'_>, pod: &Value) -> bool {
        let class = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str);
        let exempt = class.is_some_and(|class| self.configuration.exempt.runtime_classes.iter().any(|known| known == class));
        if exempt {
            annotate(attempt, "exempt", "runtimeClass");
            counted::exempted(attempt);
        }
        exempt
    }

    fn policy_of(&self, labels: &BTreeMap<String, String>) -> (Policy, FieldErrors) {
        Policy::of(labels, self.configuration.defaults)
    }

    /// What the namespace asks for, and what is wrong with its labels.
    async fn policy(&self, attempt: &Attempt<'_>) -> Result<(Policy, FieldErrors), Status> {
        let namespace = &attempt.request.namespace;
        let found: Result<Option<Namespace>, _> = look::one(&*self.reader, "", "namespaces", "", namespace).await;
        let found = found.and_then(|found| found.ok_or_else(|| Status::internal(format!("failed to lookup namespace {namespace:?}"))));
        let found = found.inspect_err(|_| counted::failed(attempt, true))?;
        Ok(self.policy_of(&found.metadata.labels.unwrap_or_default()))
    }

    async fn check_pod(&self, attempt: &mut Attempt<'_>, pod: &Object) -> Result<(), Status> {
        if self.exempts(attempt) {
            return Ok(());
        }
        let (policy, errors) = self.policy(attempt).await?;
        if errors.is_empty() && policy.is_privileged() {
            annotate(attempt, "enforce-policy", "privileged:latest");
            counted::evaluated(attempt, policy.enforce, "enforce", true);
            return Ok(());
        }
        if attempt.old.is_some_and(|old| !images_change(old.value(), pod.value())) {
            return Ok(());
        }
        if self.exempts_class(attempt, pod.value()) {
            return Ok(());
        }
        doubt(attempt, &errors);
        let pod_seen = Pod::of(pod.value());
        let violations = evaluate(policy.enforce, &pod_seen);
        annotate(attempt, "enforce-policy", &policy.enforce.to_string());
        counted::evaluated(attempt, policy.enforce, "enforce", violations.is_empty());
        // What keeps to the enforced level breaks none of the same.
        let keeps = |of: LevelVersion| of == policy.enforce && violations.is_empty();
        if !keeps(policy.audit) {
            note(attempt, policy.audit, &pod_seen);
        }
        if !violations.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&violations));
            return Err(look::forbidden(attempt, Some(pod), &why));
        }
        if !keeps(policy.warn) {
            warn(attempt, policy.warn, &pod_seen);
        }
        Ok(())
    }

    /// Kinds that make pods are never refused: whoever makes them is warned of what would happen to their pods.
    async fn check_template(&self, attempt: &mut Attempt<'_>, object: &Object) -> Result<(), Status> {
        if self.exempts(attempt) {
            return Ok(());
        }
        let (policy, errors) = match self.policy(attempt).await {
            Ok(found) => found,
            Err(why) => {
                let why = format!("failed to lookup namespace {:?}: {}", attempt.request.namespace, why.message);
                annotate(attempt, "error", &why);
                return Ok(());
            }
        };
        let checks = |of: LevelVersion| of.level != standard::Level::Privileged;
        if errors.is_empty() && !checks(policy.audit) && !checks(policy.warn) {
            return Ok(());
        }
        let place = template_of(&attempt.request.group, &attempt.request.resource);
        let Some(template) = place.and_then(|place| object.value().pointer(place)).filter(|t| t.is_object()) else { return Ok(()) };
        if self.exempts_class(attempt, template) {
            return Ok(());
        }
        doubt(attempt, &errors);
        note(attempt, policy.audit, &Pod::of(template));
        warn(attempt, policy.warn, &Pod::of(template));
        Ok(())
    }

    /// The labels must make sense, and whoever makes them stricter is told which pods would not be let in again.
    async fn check_namespace(&self, attempt: &mut Attempt<'_>, object: &Object) -> Result<(), Status> {
        let given = labels(object);
        let (policy, errors) = self.policy_of(&given);
        let before = attempt.old.map(|old| self.policy_of(&labels(old)));
        if !errors.is_empty() && before.as_ref().is_none_or(|(_, earlier)| earlier.0 != errors.0) {
            return Err(Status::invalid(Subject { group: "", resource: "Namespace", name: object.name() }, &errors));
        }
        let is_exempt = self.configuration.exempt.namespaces.iter().any(|name| name == attempt.namespace(Some(object)));
        let ignored = || self.ignored(object.name(), policy, &given);
        let Some((before, _)) = before else {
            attempt.warnings.extend(is_exempt.then(ignored).flatten());
            return Ok(());
        };
        let (now, then) = (policy.enforce, before.enforce);
        let relaxed = now.version == then.version && now.level <= then.level;
        if now == then || now.level == standard::Level::Privileged || relaxed {
            return Ok(());
        }
        if is_exempt {
            attempt.warnings.extend(ignored());
            return Ok(());
        }
        let (name, exempt) = (object.name().to_owned(), self.configuration.exempt.runtime_classes.clone());
        let told = match self.reader.list("", "pods", &name).await {
            // There may be very many: other requests go on meanwhile.
            Ok(pods) => tokio::task::spawn_blocking(move || namespace::warnings(&name, now, &pods, &exempt)).await.ok(),
            Err(_) => None,
        };
        let failed = || vec!["failed to list pods while checking new PodSecurity enforce level".to_owned()];
        attempt.warnings.extend(told.unwrap_or_else(failed));
        Ok(())
    }

    /// What whoever labels an exempt namespace is told.
    fn ignored(&self, namespace: &str, policy: Policy, labels: &BTreeMap<String, String>) -> Option<String> {
        if policy.is_privileged() || policy == self.configuration.defaults {
            return None;
        }
        let modes = [("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn)];
        let is_said = |mode: &str| ["", "-version"].iter().any(|end| labels.contains_key(&format!("{}{mode}{end}", standard::PREFIX)));
        let told = modes.iter().filter(|(mode, of)| of.level != standard::Level::Privileged && is_said(mode));
        let told: Vec<String> = told.map(|(mode, of)| format!("{mode}={of}")).collect();
        let told = told.join(", ");
        Some(format!("namespace {namespace:?} is exempt from Pod Security, and the policy ({told}) will be ignored"))
    }
}

/// Tells the audit that the labels of the namespace say something else than what was checked.
fn doubt(attempt: &Attempt<'_>, errors: &FieldErrors) {
    if let Some(why) = aggregate(errors.0.iter().map(ToString::to_string)) {
        annotate(attempt, "error", &format!("Failed to parse policy: {why}"));
        counted::failed(attempt, false);
    }
}

fn warning(of: LevelVersion, pod: &Pod<'_>) -> Option<String> {
    let violations = evaluate(of, pod);
    (!violations.is_empty()).then(|| format!("would violate PodSecurity \"{of}\": {}", details(&violations)))
}

/// Tells the audit what it asked to be told of.
fn note(attempt: &Attempt<'_>, of: LevelVersion, pod: &Pod<'_>) {
    if let Some(text) = warning(of, pod) {
        annotate(attempt, "audit-violations", &text);
        counted::evaluated(attempt, of, "audit", false);
    }
}

/// Tells the client what it asked to be told of.
fn warn(attempt: &mut Attempt<'_>, of: LevelVersion, pod: &Pod<'_>) {
    if let Some(text) = warning(of, pod) {
        attempt.warnings.push(text);
        counted::evaluated(attempt, of, "warn", false);
    }
}

fn annotate(attempt: &Attempt<'_>, name: &str, value: &str) {
    // Nobody else has these keys.
    let _ = attempt.annotations.add(&format!("{}{name}", standard::PREFIX), value, Level::Metadata);
}

fn labels(namespace: &Object) -> BTreeMap<String, String> {
    let labels = namespace.value()["metadata"]["labels"].as_object();
    labels.into_iter().flatten().filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned()))).collect()
}

/// Of what can be changed in a pod only its images matter, and ephemeral containers that are added.
fn images_change(old: &Value, new: &Value) -> bool {
    let fixed = ["/spec/containers", "/spec/initContainers"].into_iter().any(|place| {
        let (old, new) = (look::list(old, place), look::list(new, place));
        old.len() != new.len() || old.iter().zip(new).any(|(old, new)| old["image"] != new["image"])
    });
    let before = look::list(old, "/spec/ephemeralContainers");
    let differs = |new: &Value| before.iter().find(|old| old["name"] == new["name"]).is_none_or(|old| old["image"] != new["image"]);
    fixed || look::list(new, "/spec/ephemeralContainers").iter().any(differs)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn bench(labels: &Value) -> (Bench, PodSecurity) {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live", "labels": labels}}));
        let plugin = PodSecurity::new(bench.reader.clone(), None).unwrap();
        (bench, plugin)
    }

    #[tokio::test]
    async fn a_pod_that_breaks_what_is_enforced_is_refused() {
        let (b, plugin) = bench(&json!({"pod-security.kubernetes.io/enforce": "baseline"}));
        assert!(b.create(&plugin, "pods live web", pod()).await.is_ok());
        let mut bad = pod();
        bad["spec"]["hostPID"] = true.into();
        let refused = b.create(&plugin, "pods live web", bad.clone()).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (403, r#"pods "web" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)"#)
        );
        // What is there already may be labelled, but gets no other image.
        assert!(b.update(&plugin, "pods live web", bad.clone(), bad.clone()).await.is_ok());
        let mut other = bad.clone();
        other["spec"]["containers"][0]["image"] = "other".into();
        assert!(b.update(&plugin, "pods live web", bad, other).await.is_err());
    }

    #[tokio::test]
    async fn without_labels_everything_goes() {
        let (b, plugin) = bench(&json!({}));
        let mut any = pod();
        any["spec"]["hostPID"] = true.into();
        assert!(b.create(&plugin, "pods live web", any).await.is_ok());
    }

    async fn warned(bench: &Bench, plugin: &PodSecurity, operation: Operation, at: &str, new: Value, old: Option<Value>) -> Vec<String> {
        bench.warnings(plugin, operation, at, Some(new), old).await.unwrap()
    }

    #[tokio::test]
    async fn makers_of_pods_are_warned_of_what_is_enforced() {
        let (b, plugin) = bench(&json!({"pod-security.kubernetes.io/enforce": "baseline"}));
        let template = json!({"spec": {"hostIPC": true, "containers": []}});
        let job = json!({"metadata": {"name": "j"}, "spec": {"template": template.clone()}});
        let expected = [r#"would violate PodSecurity "baseline:latest": host namespaces (hostIPC=true)"#];
        assert_eq!(warned(&b, &plugin, Operation::Create, "jobs.batch live j", job, None).await, expected);
        let cron = json!({"metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": template}}}});
        assert_eq!(warned(&b, &plugin, Operation::Update, "cronjobs.batch live c", cron.clone(), Some(cron)).await, expected);
    }

    #[tokio::test]
    async fn a_namespace_needs_labels_that_make_sense_and_hears_of_pods_that_do_not_fit() {
        let (b, plugin) = bench(&json!({}));
        let with = |level: &str| json!({"metadata": {"name": "live", "labels": {"pod-security.kubernetes.io/enforce": level}}});
        let refused = b.create(&plugin, "namespaces - live", with("x")).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                422,
                r#"Namespace "live" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "x": must be one of privileged, baseline, restricted"#
            )
        );
        assert!(b.update(&plugin, "namespaces - live", with("x"), with("x")).await.is_ok());
        for (name, owner) in [("b", "one"), ("a", "two")] {
            let owner = json!([{"uid": owner, "controller": true}]);
            let metadata = json!({"name": name, "namespace": "live", "ownerReferences": owner});
            b.reader.put("", "pods", json!({"metadata": metadata, "spec": {"hostPID": true}}));
        }
        assert_eq!(
            warned(&b, &plugin, Operation::Update, "namespaces - live", with("baseline"), Some(json!({"metadata": {"name": "live"}})))
                .await,
            [
                r#"existing pods in namespace "live" violate the new PodSecurity enforce level "baseline:latest""#,
                "a (and 1 other pod): host namespaces"
            ]
        );
        let relaxed = warned(&b, &plugin, Operation::Update, "namespaces - live", with("baseline"), Some(with("restricted"))).await;
        assert!(relaxed.is_empty());
    }

    #[tokio::test]
    async fn what_is_configured_counts_where_a_namespace_says_nothing_and_who_is_exempt_passes() {
        let configuration = json!({
            "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "defaults": {"enforce": "baseline"},
            "exemptions": {"namespaces": ["free"], "usernames": ["root"], "runtimeClasses": ["vm"]},
        });
        let (mut b, _) = bench(&json!({}));
        b.reader.put("", "namespaces", json!({"metadata": {"name": "free"}}));
        let plugin = PodSecurity::new(b.reader.clone(), Some(configuration.to_string().as_bytes())).unwrap();
        let mut bad = pod();
        bad["spec"]["hostPID"] = true.into();
        let refused = b.create(&plugin, "pods live web", bad.clone()).await.unwrap_err();
        assert!(refused.message.contains(r#"violates PodSecurity "baseline:latest""#), "{}", refused.message);
        b.create(&plugin, "pods free web", bad.clone()).await.unwrap();
        let mut vm = bad.clone();
        vm["spec"]["runtimeClassName"] = "vm".into();
        b.create(&plugin, "pods live web", vm).await.unwrap();
        let label = |name: &str| json!({"metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        assert_eq!(
            warned(&b, &plugin, Operation::Create, "namespaces - free", label("free"), None).await,
            [r#"namespace "free" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored"#]
        );
        assert!(warned(&b, &plugin, Operation::Create, "namespaces - live", label("live"), None).await.is_empty());
        b.user = crate::authn::User::new("root", &[]);
        b.create(&plugin, "pods live web", bad).await.unwrap();
        assert!(PodSecurity::new(b.reader.clone(), Some(b"{}")).is_err());
    }
}
