//! Service-account tokens for pods: requested once, kept in memory, renewed at 80 % of their life or after a day (kubelet `token_manager.go`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccountTokenProjection;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

use crate::api;
use crate::clock::{after, until};
use crate::context::Context;
use crate::pods::object::BoundPod;

const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// Life asked for when the pod names none.
const LIFE_SECONDS: i64 = 3600;

/// A token and when to renew it.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) text: Bytes,
    pub(crate) refresh_at: Timestamp,
    expires: Timestamp,
}

/// Pod uid, audience and life: what makes two projections the same token.
type Key = (String, String, i64);

/// Tokens of one node's pods.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<Key, Token>>);

impl Tokens {
    /// Forgets a pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.0.lock().retain(|(owner, ..), _| owner != uid);
    }
}

#[derive(Deserialize)]
struct Answer {
    status: AnswerStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerStatus {
    token: String,
    expiration_timestamp: Timestamp,
}

/// The pod's token for that audience, a fresh one when it is due.
pub(crate) async fn get(ctx: &Arc<Context>, pod: &BoundPod, wanted: &ServiceAccountTokenProjection) -> Result<Token, String> {
    let audience = wanted.audience.clone().unwrap_or_default();
    let life = wanted.expiration_seconds.unwrap_or(LIFE_SECONDS);
    let key = (pod.metadata.uid.clone(), audience.clone(), life);
    let now = ctx.options.clock.now();
    let known = ctx.tokens.0.lock().get(&key).cloned();
    if let Some(token) = known.as_ref().filter(|t| t.refresh_at > now) {
        return Ok(token.clone());
    }
    match request(ctx, pod, &audience, life, now).await {
        Ok(token) => {
            ctx.tokens.0.lock().insert(key, token.clone());
            Ok(token)
        }
        // While the old one is valid it serves; the next try is soon.
        Err(error) => match known.filter(|t| t.expires > now) {
            Some(old) => {
                tracing::warn!(pod = pod.full_name(), error, "token not renewed, the present one is kept");
                Ok(Token { refresh_at: after(now, Duration::from_secs(30)), ..old })
            }
            None => Err(format!("failed to fetch token: {error}")),
        },
    }
}

async fn request(ctx: &Context, pod: &BoundPod, audience: &str, life: i64, now: Timestamp) -> Result<Token, String> {
    let meta = &pod.metadata;
    let account = pod.spec.service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let audiences: Vec<&str> = Some(audience).filter(|a| !a.is_empty()).into_iter().collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences, "expirationSeconds": life,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid},
        },
    });
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", meta.namespace);
    let bytes = api::create(&ctx.client, &path, &body).await.map_err(|e| e.to_string())?;
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|e| format!("the answer is not a TokenRequest: {e}"))?;
    let expires = answer.status.expiration_timestamp;
    let refresh_at = after(now, (until(now, expires) * 4 / 5).min(OLDEST).max(Duration::from_secs(1)));
    Ok(Token { text: answer.status.token.into(), refresh_at, expires })
}
