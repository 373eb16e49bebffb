//! ServiceAccount: every pod runs as an account of its namespace and gets its token
//! (`plugin/pkg/admission/serviceaccount/admission.go`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use coracle_schema::name;
use coracle_tree::{Value, json};
use futures::StreamExt;
use serde::Deserialize;

use super::{
    Admission, Attempt, Operation,
    look::{self, CONTAINERS, list, list_mut, text},
};
use crate::{
    authn::issuer::WARN_SECONDS,
    registry::{Object, Reader},
    wire::{Status, status::Subject},
};

/// Where the token is mounted.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What names of token volumes begin with.
const VOLUME_PREFIX: &str = "kube-api-access-";

/// How long a pod waits for the account `default` of a new namespace, which a controller makes.
const WAIT: Duration = Duration::from_secs(2);

/// Marks pods that stand for a kubelet's files.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The plugin.
pub struct ServiceAccount {
    /// Where accounts are looked up.
    pub reader: Arc<dyn Reader>,
}

/// What the plugin looks at of an account.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    metadata: Metadata,
    automount_service_account_token: Option<bool>,
    secrets: Option<Vec<Value>>,
    image_pull_secrets: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/enforce-mountable-secrets")]
    enforce_mountable_secrets: Option<String>,
}

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && look::is(attempt, "", "pods")
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        if pod.annotation(MIRROR).is_some() {
            return check_mirror(pod).map_err(|why| look::forbidden(attempt, Some(pod), why));
        }
        let name = match (pod.text("/spec/serviceAccountName"), pod.text("/spec/serviceAccount")) {
            ("", "") => "default",
            ("", old_field) => old_field,
            (name, _) => name,
        };
        let name = name.to_owned();
        let account = self.account(&attempt.request.namespace, &name).await.map_err(|status| {
            let why = format!("error looking up service account {}/{name}: {}", attempt.request.namespace, status.message);
            look::forbidden(attempt, Some(pod), &why)
        })?;
        let spec = pod.member_mut("spec");
        spec.insert("serviceAccountName", name.clone().into());
        spec.insert("serviceAccount", name.into());
        let pod_wants = pod.value().pointer("/spec/automountServiceAccountToken").and_then(Value::as_bool);
        if pod_wants.or(account.automount_service_account_token).unwrap_or(true) {
            mount(&mut pod.value_mut()["spec"], &volume_name());
        }
        let secrets = account.image_pull_secrets.unwrap_or_default();
        if list(pod.value(), "/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
            pod.member_mut("spec").insert("imagePullSecrets", secrets.into());
        }
        Ok(())
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        let refuse = |why: &str| look::forbidden(attempt, Some(pod), why);
        if pod.annotation(MIRROR).is_some() {
            return check_mirror(pod).map_err(refuse);
        }
        let (namespace, name) = (&attempt.request.namespace, pod.text("/spec/serviceAccountName"));
        if name.is_empty() {
            return Err(refuse(&format!("no service account specified for pod {namespace}/{}", pod.name())));
        }
        let account = self.account(namespace, name).await;
        let account = account.map_err(|s| refuse(&format!("error looking up service account {namespace}/{name}: {}", s.message)))?;
        let enforced = account.metadata.annotations.enforce_mountable_secrets.as_deref();
        if enforced.is_some_and(|e| matches!(e, "true" | "True" | "TRUE" | "t" | "T" | "1")) {
            limit_references(&account, pod.value()).map_err(|why| refuse(&why))?;
        }
        Ok(())
    }
}

impl ServiceAccount {
    /// The account; that of the name `default` is waited for, because a new namespace has it only in a moment.
    async fn account(&self, namespace: &str, name: &str) -> Result<Account, Status> {
        // No name that could be looked up (client-go `rest.Request.Name`).
        let wrong = name::path_segment(name);
        if !wrong.is_empty() {
            return Err(Status::bad_request(format!("invalid resource name {name:?}: [{}]", wrong.join(" "))));
        }
        if let Some(account) = look::one(&*self.reader, "", "serviceaccounts", namespace, name).await? {
            return Ok(account);
        }
        let missing = || Status::not_found(Subject { group: "", resource: "serviceaccount", name });
        if name != "default" {
            return Err(missing());
        }
        let mut changes = self.reader.follow("", "serviceaccounts");
        let appears = async {
            while let Some(change) = changes.next().await {
                if change.namespace == namespace && change.name == name && change.object.is_some() {
                    return change.object;
                }
            }
            None
        };
        let found = tokio::time::timeout(WAIT, appears).await.ok().flatten().ok_or_else(missing)?;
        serde_json::from_slice(&found).map_err(|e| Status::internal(format!("service account {namespace}/{name} cannot be read: {e}")))
    }
}

/// A fresh name for a token volume.
fn volume_name() -> String {
    /// The alphabet of generated names: no vowels, so that no words come out, and nothing that looks alike.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    let suffix = random.as_bytes()[..5].iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]));
    VOLUME_PREFIX.chars().chain(suffix).collect()
}

/// Adds the token volume and mounts it in every container that mounts nothing there.
fn mount(spec: &mut Value, fresh_name: &str) {
    let there = list(spec, "/volumes").iter().map(|v| text(v, "name")).find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let name = there.clone().unwrap_or_else(|| fresh_name.to_owned());
    let mut mounted = false;
    for containers in CONTAINERS {
        for container in spec.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            if list(container, "/volumeMounts").iter().any(|m| text(m, "mountPath") == MOUNT_PATH) {
                continue;
            }
            if let Some(mounts) = list_mut(container, "volumeMounts") {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                mounted = true;
            }
        }
    }
    if mounted
        && there.is_none()
        && let Some(volumes) = list_mut(spec, "volumes")
    {
        volumes.push(volume(&name));
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": WARN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// A mirror pod is a node's word only: it may not open anything.
fn check_mirror(pod: &Object) -> Result<(), &'static str> {
    if !pod.text("/spec/serviceAccountName").is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if !secret_names(pod.value()).is_empty() {
        return Err("a mirror pod may not reference secrets");
    }
    let projections = list(pod.value(), "/spec/volumes").iter().flat_map(|v| list(v, "/projected/sources"));
    if projections.into_iter().any(|s| s.get("serviceAccountToken").is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Names of the secrets a pod refers to in volumes, environment and pull secrets.
fn secret_names(pod: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = list(pod, "/spec/imagePullSecrets").iter().map(|s| text(s, "name")).collect();
    for volume in list(pod, "/spec/volumes") {
        names.extend(volume.pointer("/secret/secretName").and_then(Value::as_str));
        names.extend(list(volume, "/projected/sources").iter().filter_map(|s| s.pointer("/secret/name")?.as_str()));
    }
    for container in ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|c| list(pod, &format!("/spec/{c}"))) {
        names.extend(list(container, "/env").iter().filter_map(|e| e.pointer("/valueFrom/secretKeyRef/name")?.as_str()));
        names.extend(list(container, "/envFrom").iter().filter_map(|e| e.pointer("/secretRef/name")?.as_str()));
    }
    names
}

/// Under `enforce-mountable-secrets`, only secrets the account names may be used.
fn limit_references(account: &Account, pod: &Value) -> Result<(), String> {
    let name = &account.metadata.name;
    let allowed: Vec<&str> = account.secrets.iter().flatten().map(|s| text(s, "name")).collect();
    for secret in list(pod, "/spec/volumes").iter().filter_map(|v| v.pointer("/secret/secretName")?.as_str()) {
        if !allowed.contains(&secret) {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for container in CONTAINERS.iter().flat_map(|c| list(pod, &format!("/spec/{c}"))) {
        let of = text(container, "name");
        for env in list(container, "/env") {
            let secret = env.pointer("/valueFrom/secretKeyRef/name").and_then(Value::as_str);
            if let Some(secret) = secret.filter(|s| !allowed.contains(s)) {
                let var = text(env, "name");
                return Err(format!(
                    "container {of} with envVar {var} referencing secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
                ));
            }
        }
    }
    let pull: Vec<&str> = account.image_pull_secrets.iter().flatten().map(|s| text(s, "name")).collect();
    for (i, secret) in list(pod, "/spec/imagePullSecrets").iter().map(|s| text(s, "name")).enumerate() {
        if !pull.contains(&secret) {
            return Err(format!(
                "imagePullSecrets[{i}].name={secret:?} is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn bench(account: Value) -> (Bench, ServiceAccount) {
        let bench = Bench::new();
        bench.reader.put("", "serviceaccounts", account);
        let plugin = ServiceAccount { reader: bench.reader.clone() };
        (bench, plugin)
    }

    fn account() -> Value {
        json!({"metadata": {"name": "default", "namespace": "live"}})
    }

    #[tokio::test]
    async fn a_pod_gets_the_default_account_and_its_token() {
        let (b, plugin) = bench(account());
        let mut new = pod();
        new["spec"]["initContainers"] = json!([{"name": "i", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]);
        let pod = b.create(&plugin, "pods live web", new).await.unwrap();
        assert_eq!(
            (pod["spec"]["serviceAccountName"].as_str(), pod["spec"]["serviceAccount"].as_str()),
            (Some("default"), Some("default"))
        );
        let volume = &pod["spec"]["volumes"][0];
        let name = volume["name"].as_str().unwrap();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5, "{name}");
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"], json!({"expirationSeconds": 3607, "path": "token"}));
        assert_eq!(volume["projected"]["defaultMode"], 420);
        let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_pods_word_on_mounting_goes_before_the_accounts() {
        for (of_account, of_pod, mounted) in [(Some(false), None, false), (Some(false), Some(true), true), (None, Some(false), false)] {
            let mut account = account();
            if let Some(wants) = of_account {
                account["automountServiceAccountToken"] = wants.into();
            }
            let (b, plugin) = bench(account);
            let mut new = pod();
            if let Some(wants) = of_pod {
                new["spec"]["automountServiceAccountToken"] = wants.into();
            }
            let pod = b.create(&plugin, "pods live web", new).await.unwrap();
            assert_eq!(pod["spec"].get("volumes").is_some(), mounted);
        }
    }

    #[tokio::test]
    async fn pull_secrets_of_the_account_are_used_when_the_pod_has_none() {
        let mut account = account();
        account["imagePullSecrets"] = json!([{"name": "pull"}]);
        let (b, plugin) = bench(account);
        let plain = b.create(&plugin, "pods live web", pod()).await.unwrap();
        assert_eq!(plain["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
        let mut own = pod();
        own["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
        assert_eq!(b.create(&plugin, "pods live web", own).await.unwrap()["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));
    }

    #[tokio::test]
    async fn a_missing_account_is_named() {
        let (b, plugin) = bench(account());
        let mut new = pod();
        new["spec"]["serviceAccountName"] = "robot".into();
        let refused = b.create(&plugin, "pods live web", new).await.unwrap_err();
        assert_eq!(
            refused.message,
            r#"pods "web" is forbidden: error looking up service account live/robot: serviceaccount "robot" not found"#
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_account_of_a_new_namespace_is_waited_for() {
        let b = Bench::new();
        let plugin = ServiceAccount { reader: b.reader.clone() };
        let reader = b.reader.clone();
        let later = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            reader.put("", "serviceaccounts", account());
        });
        assert!(b.create(&plugin, "pods live web", pod()).await.is_ok());
        later.await.unwrap();
        assert_eq!(b.create(&plugin, "pods other web", pod()).await.unwrap_err().code, 403);
    }

    #[tokio::test]
    async fn mirror_pods_open_nothing() {
        let (b, plugin) = bench(account());
        let mut mirror = pod();
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        let untouched = b.create(&plugin, "pods live web", mirror.clone()).await.unwrap();
        assert_eq!(untouched, mirror);
        mirror["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]);
        let refused = b.create(&plugin, "pods live web", mirror).await.unwrap_err();
        assert!(refused.message.ends_with("a mirror pod may not reference secrets"));
    }

    #[tokio::test]
    async fn an_enforcing_account_limits_secrets() {
        let mut account = account();
        account["metadata"]["annotations"] = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
        account["secrets"] = json!([{"name": "known"}]);
        let (b, plugin) = bench(account);
        let with = |secret: &str| {
            let mut new = pod();
            new["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": secret}}]);
            new
        };
        assert!(b.create(&plugin, "pods live web", with("known")).await.is_ok());
        let refused = b.create(&plugin, "pods live web", with("other")).await.unwrap_err();
        assert!(refused.message.contains("service account default does not reference that secret"), "{}", refused.message);
    }
}
