//! Tokens that somebody else knows: `--authentication-token-webhook-config-file` (apiserver `plugin/pkg/authenticator/token/webhook`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_tree::json;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tracing::error;

use super::{
    User,
    cache::Cache,
    tokens::{TokenError, Verified},
};
use crate::webhook::{Backoff, Egress, Kubeconfig, Terms, Webhook, status};

/// What is asked and answered.
const KIND: &str = "TokenReview";
/// What a question may take; upstream knows no largest answer.
const TERMS: Terms = Terms {
    timeout: Duration::from_secs(30),
    late: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    largest: 4 << 20,
};

/// How the webhook is asked.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// Where it is.
    pub kubeconfig: Kubeconfig,
    /// `authentication.k8s.io/v1` or `…/v1beta1`: the TokenReview it takes (`--authentication-token-webhook-version`).
    pub version: Version,
    /// How long its answers are remembered, good ones and bad ones (`--authentication-token-webhook-cache-ttl`).
    pub cache: SignedDuration,
}

/// Versions of TokenReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Version {
    V1,
    V1beta1,
}

impl Version {
    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "authentication.k8s.io/v1",
            Self::V1beta1 => "authentication.k8s.io/v1beta1",
        }
    }
}

/// Asks the webhook whose tokens are.
pub(super) struct TokenWebhook {
    webhook: Webhook,
    version: Version,
    /// Those of a webhook that says nothing of audiences: the API server's own.
    implicit: Vec<String>,
    ttl: SignedDuration,
    cache: Cache<Option<Verified>>,
}

impl TokenWebhook {
    pub(super) fn new(options: WebhookOptions, egress: &Egress, implicit: Vec<String>) -> Self {
        let WebhookOptions { kubeconfig, version, cache: ttl } = options;
        Self { webhook: Webhook::at(kubeconfig).through(egress), version, implicit, ttl, cache: Cache::new() }
    }

    /// Whose token it is; `None` when the webhook does not know it. Errors are not remembered.
    pub(super) async fn authenticate(&self, token: &str, wanted: &[String], now: Timestamp) -> Result<Option<Verified>, TokenError> {
        let key = self.cache.key(token, wanted);
        if let Some(known) = self.cache.get(&key, now) {
            return Ok(known);
        }
        let found = self.ask(token, wanted).await?;
        self.cache.put(key, found.clone(), now, self.ttl, None);
        Ok(found)
    }

    async fn ask(&self, token: &str, wanted: &[String]) -> Result<Option<Verified>, TokenError> {
        let mut spec = json!({"token": token});
        if !wanted.is_empty() {
            spec["audiences"] = wanted.into();
        }
        let review = json!({
            "kind": KIND, "apiVersion": self.version.api_version(), "metadata": {"creationTimestamp": null},
            "spec": spec, "status": {"user": {}},
        });
        let answer = self.webhook.review(review.to_string().into(), TERMS, Backoff::REVIEWS).await;
        let status: Status = answer.and_then(|body| status(&body, self.version.api_version(), KIND)).map_err(|why| {
            error!(why, "Failed to make webhook authenticator request");
            TokenError::Other(why)
        })?;
        let known = if status.audiences.is_empty() { &self.implicit } else { &status.audiences };
        let audiences: Vec<String> = known.iter().filter(|known| wanted.contains(known)).cloned().collect();
        if !wanted.is_empty() && audiences.is_empty() {
            return Ok(None);
        }
        match (status.authenticated, status.error) {
            (false, error) if error.is_empty() => Ok(None),
            (false, error) => Err(TokenError::Other(error)),
            (true, _) => Ok(Some(Verified::new(status.user.into(), audiences))),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: UserInfo,
    audiences: Vec<String>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UserInfo {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl From<UserInfo> for User {
    fn from(info: UserInfo) -> Self {
        let groups = info.groups.into_iter().map(Arc::from).collect();
        Self { name: info.username.into(), uid: info.uid.into(), groups, extra: info.extra }.authenticated()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_webhook_says_is_read_and_null_is_nothing() {
        let read = |body: &str| status::<Status>(body.as_bytes(), Version::V1.api_version(), KIND);
        let said = r#"{"status": {"authenticated": true, "user": {"username": "a", "groups": null, "extra": null}, "audiences": null}}"#;
        let status = read(said).unwrap();
        assert!(status.authenticated && status.user.username == "a" && status.audiences.is_empty());
        assert!(read(r#"{"apiVersion": "authentication.k8s.io/v1beta1", "kind": "TokenReview", "status": {}}"#).is_err());
    }

    #[test]
    fn whom_the_webhook_names_is_authenticated_and_keeps_what_it_says() {
        let info = UserInfo { username: "a".into(), groups: vec!["g".into()], ..UserInfo::default() };
        let user = User::from(info);
        assert!(user.in_group("g") && user.in_group("system:authenticated") && !user.in_group("system:masters"));
    }
}
