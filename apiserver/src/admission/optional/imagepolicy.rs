//! ImagePolicyWebhook: somebody else says which images may run (`plugin/pkg/admission/imagepolicy`).

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use async_trait::async_trait;
use coracle_tree::{Value, json};
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    admission::{
        Admission, Attempt, Operation,
        look::{self, list, text},
        recent::Recent,
    },
    audit::Level,
    registry::Object,
    webhook::{Backoff, Kubeconfig, Terms, Webhook, status},
    wire::{Status, yaml},
};

/// Of what the audit log is told.
const PREFIX: &str = "imagepolicywebhook.image-policy.k8s.io/";
/// Annotations of pods that the webhook is told.
const TOLD: &str = ".image-policy.k8s.io/";
/// Of the question and its answer.
const VERSION: &str = "imagepolicy.k8s.io/v1alpha1";
/// Answers that are remembered.
const REMEMBERED: usize = 1024;
/// What a question may take; upstream knows no largest answer.
const TERMS: Terms = Terms {
    timeout: Duration::from_secs(30),
    late: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    largest: 4 << 20,
};

/// The plugin.
pub struct ImagePolicyWebhook {
    webhook: Webhook,
    backoff: Backoff,
    allow_ttl: Duration,
    deny_ttl: Duration,
    default_allow: bool,
    known: Mutex<Recent<[u8; 32], (Instant, Answer)>>,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "imagePolicy", default)]
    policy: Settings,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Settings {
    kube_config_file: PathBuf,
    /// Seconds.
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    /// Seconds.
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    /// Milliseconds.
    retry_backoff: i64,
    default_allow: bool,
}

/// `status` of an `ImageReview`.
#[derive(Clone, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    allowed: bool,
    reason: String,
    audit_annotations: Option<BTreeMap<String, String>>,
}

impl ImagePolicyWebhook {
    /// Reads its configuration and the kubeconfig that one names. The error is upstream's.
    pub fn new(configuration: Option<&[u8]>) -> Result<Self, String> {
        let bytes = configuration.ok_or("no config specified")?;
        let file: File = coracle_tree::from_value(yaml::read(bytes)?.value).map_err(|e| e.to_string())?;
        let settings = file.policy;
        let backoff = within(settings.retry_backoff, &BACKOFF)?;
        let (allow_ttl, deny_ttl) = (within(settings.allow_ttl, &ALLOWED)?, within(settings.deny_ttl, &DENIED)?);
        Ok(Self {
            webhook: Webhook::at(Kubeconfig::read(&settings.kube_config_file)?),
            backoff: Backoff { initial: backoff, ..Backoff::REVIEWS },
            allow_ttl,
            deny_ttl,
            default_allow: settings.default_allow,
            known: Mutex::new(Recent::new(REMEMBERED)),
        })
    }

    /// What is said of the images: by the webhook now, or a moment ago. The error is that of the question.
    async fn review(&self, spec: &Value) -> Result<Answer, String> {
        let key: [u8; 32] = Sha256::digest(spec.to_string().as_bytes()).into();
        if let Some((until, known)) = self.known.lock().get(&key)
            && Instant::now() < *until
        {
            return Ok(known.clone());
        }
        let review = json!({
            "kind": "ImageReview", "apiVersion": VERSION, "metadata": {"creationTimestamp": null},
            "spec": spec, "status": {"allowed": false},
        });
        let body = self.webhook.review(review.to_string().into(), TERMS, self.backoff).await?;
        let answer: Answer = status(&body, VERSION, "ImageReview")?;
        let ttl = if answer.allowed { self.allow_ttl } else { self.deny_ttl };
        if !ttl.is_zero() {
            self.known.lock().put(key, (Instant::now() + ttl, answer.clone()));
        }
        Ok(answer)
    }
}

/// A time that is configured as a number.
struct Span {
    unit: Duration,
    most: Duration,
    default: Duration,
    /// What is allowed, as Go prints it.
    shown: &'static str,
}

const BACKOFF: Span = Span {
    unit: Duration::from_millis(1),
    most: Duration::from_secs(300),
    default: Duration::from_millis(500),
    shown: "valid value is between 1ns and 5m0s",
};
const ALLOWED: Span = Span {
    unit: Duration::from_secs(1),
    most: Duration::from_secs(1800),
    default: Duration::from_secs(300),
    shown: "valid value is between 1s and 30m0s",
};
const DENIED: Span = Span { default: Duration::from_secs(30), ..ALLOWED };

/// -1 is nothing, 0 the default; others must lie between (`normalizeConfigDuration`).
fn within(value: i64, span: &Span) -> Result<Duration, String> {
    match value {
        -1 => return Ok(Duration::ZERO),
        0 => return Ok(span.default),
        _ => {}
    }
    let given = u32::try_from(value).ok().and_then(|count| span.unit.checked_mul(count));
    given.filter(|given| *given <= span.most).ok_or_else(|| format!("{}, got {value} times {:?}", span.shown, span.unit))
}

/// What the webhook is told of a pod: its images and some annotations.
fn spec_of(attempt: &Attempt<'_>, pod: &Object) -> Value {
    let places: &[&str] = match attempt.request.subresource.as_str() {
        "" => &["/spec/containers", "/spec/initContainers"],
        _ => &["/spec/ephemeralContainers"],
    };
    let containers = places.iter().flat_map(|place| list(pod.value(), place));
    let containers: Vec<Value> = containers
        .map(|container| match text(container, "image") {
            "" => json!({}),
            image => json!({"image": image}),
        })
        .collect();
    let given = pod.at("/metadata/annotations").and_then(Value::as_object).into_iter().flatten();
    let annotations: coracle_tree::Map =
        given.filter(|(key, _)| key.contains(TOLD)).map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut spec = json!({"containers": containers, "namespace": attempt.request.namespace});
    if !annotations.is_empty() {
        spec["annotations"] = annotations.into();
    }
    spec
}

#[async_trait]
impl Admission for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        matches!(attempt.operation, Operation::Create | Operation::Update)
            && request.group.is_empty()
            && request.resource == "pods"
            && matches!(request.subresource.as_str(), "" | "ephemeralcontainers")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new else { return Ok(()) };
        let tell = |key: &str, value: &str| {
            if let Err(why) = attempt.annotations.add(&format!("{PREFIX}{key}"), value, Level::Metadata) {
                warn!("audit annotation of an image policy is left out: {why}");
            }
        };
        let answer = match self.review(&spec_of(attempt, pod)).await {
            Ok(answer) => answer,
            Err(why) if self.default_allow => {
                debug!(why, "a pod is let in although the image policy webhook failed");
                tell("failed-open", "true");
                return Ok(());
            }
            Err(why) => return Err(look::forbidden(attempt, new, &why)),
        };
        for (key, value) in answer.audit_annotations.iter().flatten() {
            tell(key, value);
        }
        match (answer.allowed, answer.reason.as_str()) {
            (true, _) => Ok(()),
            (false, "") => Err(look::forbidden(attempt, new, "one or more images rejected by webhook backend")),
            (false, reason) => {
                let why = format!("image policy webhook backend denied one or more images: {reason}");
                Err(look::forbidden(attempt, new, &why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{Annotations, bench::Bench},
        registry::{catalog, rules::PLAIN},
    };

    fn plugin(settings: &Value, server: &str) -> Result<ImagePolicyWebhook, String> {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("k");
        let text = json!({
            "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c", "user": ""}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        let mut settings = settings.clone();
        settings["kubeConfigFile"] = kubeconfig.display().to_string().into();
        ImagePolicyWebhook::new(Some(json!({"imagePolicy": settings}).to_string().as_bytes()))
    }

    #[test]
    fn times_must_lie_within_their_limits() {
        assert_eq!(ImagePolicyWebhook::new(None).err().unwrap(), "no config specified");
        let good = plugin(&json!({"allowTTL": 30, "denyTTL": -1}), "https://h").unwrap();
        assert_eq!((good.allow_ttl.as_secs(), good.deny_ttl.as_secs(), good.backoff.initial.as_millis()), (30, 0, 500));
        let refused = plugin(&json!({"allowTTL": 1801}), "https://h").err().unwrap();
        assert!(refused.starts_with("valid value is between 1s and 30m0s, got"), "{refused}");
    }

    #[test]
    fn the_webhook_is_told_images_in_order_and_annotations_meant_for_it() {
        let kinds = catalog::built_in(&coracle_schema::Tables::load().unwrap(), |_, _| &PLAIN);
        let kind = kinds.get("", "v1", "pods").unwrap();
        let (user, annotations) = (crate::authn::User::new("jane", &[]), Annotations::default());
        let request = |subresource: &str| crate::request::RequestInfo {
            resource: "pods".into(),
            namespace: "live".into(),
            subresource: subresource.into(),
            ..Default::default()
        };
        let pod = Object::new(json!({
            "metadata": {"annotations": {"a.image-policy.k8s.io/x": "1", "b": "2"}},
            "spec": {"containers": [{"image": "one"}], "initContainers": [{"image": "two"}], "ephemeralContainers": [{"image": "three"}]},
        }))
        .unwrap();
        let told = |subresource: &str| {
            let request = request(subresource);
            spec_of(&Attempt::new(Operation::Create, &request, kind, &user, &annotations), &pod)
        };
        assert_eq!(
            told(""),
            json!({"containers": [{"image": "one"}, {"image": "two"}], "annotations": {"a.image-policy.k8s.io/x": "1"}, "namespace": "live"})
        );
        assert_eq!(told("ephemeralcontainers")["containers"], json!([{"image": "three"}]));
    }

    #[tokio::test]
    async fn a_webhook_out_of_reach_refuses_unless_told_otherwise() {
        // A port nobody listens on: bound and given back.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = format!("http://127.0.0.1:{port}/policy");
        let pod = crate::admission::bench::pod;
        let closed = plugin(&json!({}), &server).unwrap();
        let refused = Bench::new().create(&closed, "pods live web", pod()).await.unwrap_err();
        assert!(refused.code == 403 && refused.message.contains("connection refused"), "{}", refused.message);
        let open = plugin(&json!({"defaultAllow": true}), &server).unwrap();
        Bench::new().create(&open, "pods live web", pod()).await.unwrap();
    }

    #[test]
    fn an_answer_says_what_it_says_and_nothing_of_what_is_null() {
        let read = |body: &str| status::<Answer>(body.as_bytes(), VERSION, "ImageReview").map(|answer| (answer.allowed, answer.reason));
        let told = r#"{"apiVersion":"imagepolicy.k8s.io/v1alpha1","kind":"ImageReview","status":{"allowed":true,"reason":null}}"#;
        assert_eq!(read(told), Ok((true, String::new())));
        assert_eq!(read(r#"{"apiVersion":"","kind":"ImageReview"}"#), Ok((false, String::new())));
        assert!(read(r#"{"apiVersion":"v1","kind":"Status"}"#).is_err() && read("yes").is_err());
    }
}
