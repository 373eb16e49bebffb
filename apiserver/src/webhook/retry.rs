//! Asking again: what went wrong for a moment is tried a few times (apiserver `util/webhook/webhook.go`, `DefaultShouldRetry`).

use std::time::Duration;

use bytes::Bytes;
use coracle_tree::Value;
use serde::de::DeserializeOwned;

use super::{Said, Terms, Webhook, answered, words};
use crate::wire::configuration::without_nulls;

/// How often and how far apart something is tried (apimachinery `wait.Backoff`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// Pause after the first attempt.
    pub initial: Duration,
    /// By which each pause is longer than the last.
    pub factor: f64,
    /// How much longer a pause may be by chance, as a part of it.
    pub jitter: f64,
    /// Attempts at most.
    pub steps: u32,
}

impl Backoff {
    /// What authentication and authorization wait (`DefaultAuthWebhookRetryBackoff`).
    pub(crate) const REVIEWS: Self = Self { initial: Duration::from_millis(500), factor: 1.5, jitter: 0.2, steps: 5 };

    /// The pause after an attempt, the first being 0; `chance` is between 0 and 1.
    fn pause(&self, attempt: u32, chance: f64) -> Duration {
        let pause = self.initial.mul_f64(self.factor.powi(i32::try_from(attempt).unwrap_or(i32::MAX)));
        pause + pause.mul_f64(self.jitter * chance)
    }
}

impl Webhook {
    /// Sends JSON and returns the body of a good answer. What may be better a moment later is asked again: inner errors, timeouts and too
    /// many requests of the webhook, connections that broke. The error is what upstream's client says.
    pub(crate) async fn review(&self, body: Bytes, terms: Terms, backoff: Backoff) -> Result<Bytes, String> {
        let mut attempt = 0;
        loop {
            let (answer, again) = match self.post(body.clone(), terms).await {
                Ok(said) => {
                    let again = is_passing(&said);
                    (answered(said), again)
                }
                Err(why) => {
                    let again = why.ends_with("connection reset by peer");
                    (Err(why), again)
                }
            };
            attempt += 1;
            if answer.is_ok() || !again || attempt >= backoff.steps {
                return answer;
            }
            let chance = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
            tokio::time::sleep(backoff.pause(attempt - 1, chance)).await;
        }
    }
}

/// The status of a review as a webhook answers it; `version` and `kind` are those asked for, and what an answer says of them must be the same.
/// What is `null` is as if it were not there.
pub(crate) fn status<S: DeserializeOwned + Default>(body: &[u8], version: &str, kind: &str) -> Result<S, String> {
    let mut review: Value = serde_json::from_slice(body).map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))?;
    without_nulls(&mut review);
    let said = |name: &str, expected: &str| match review.get(name) {
        None => Ok(expected.to_owned()),
        // As Go's decoder takes it (`gvkWithDefaults`).
        Some(Value::String(text)) if text.is_empty() => Ok(expected.to_owned()),
        Some(Value::String(text)) => Ok(text.to_string()),
        Some(other) => Err(format!("couldn't get version/kind; json parse error: {name} is {other}")),
    };
    let (said_version, said_kind) = (said("apiVersion", version)?, said("kind", kind)?);
    if (said_version.as_str(), said_kind.as_str()) != (version, kind) {
        return Err(format!("the answer is {said_version}, Kind={said_kind}, not {version}, Kind={kind}"));
    }
    match review.get_mut("status").map(Value::take) {
        Some(status) => coracle_tree::from_value(status).map_err(|e| format!("the answer's status is not that of a {kind}: {e}")),
        None if review.is_object() => Ok(S::default()),
        None => Err(format!("the answer is no {kind}")),
    }
}

/// Whether an answer may be another one when it is asked for again.
fn is_passing(said: &Said) -> bool {
    let code = said.code.as_u16();
    if (200..=206).contains(&code) {
        return false;
    }
    if words::retry_after(said).is_some() {
        return true;
    }
    match serde_json::from_slice::<Value>(&said.body) {
        Ok(status) if status["kind"] == "Status" && status["reason"].as_str().is_some_and(|reason| !reason.is_empty()) => {
            matches!(status["reason"].as_str(), Some("InternalError" | "Timeout" | "TooManyRequests"))
        }
        _ => code == 429 || (code >= 500 && code != 503),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn pauses_grow_by_half_and_a_little_chance() {
        let pause = |attempt, chance| Backoff::REVIEWS.pause(attempt, chance).as_millis();
        assert_eq!([pause(0, 0.0), pause(1, 0.0), pause(2, 0.0), pause(0, 1.0)], [500, 750, 1125, 600]);
    }

    #[derive(serde::Deserialize, Default, Debug, PartialEq)]
    #[serde(default)]
    struct Allowed {
        allowed: bool,
        reason: String,
    }

    #[test]
    fn a_status_is_read_from_an_answer_of_the_kind_asked_for() {
        let read = |body: &str| status::<Allowed>(body.as_bytes(), "g/v1", "Review").ok().map(|status| (status.allowed, status.reason));
        let yes = Some((true, String::new()));
        assert_eq!(read(r#"{"apiVersion": "g/v1", "kind": "Review", "status": {"allowed": true, "reason": null}}"#), yes);
        assert_eq!(read(r#"{"apiVersion": null, "status": {"allowed": true}}"#), yes);
        assert_eq!(read(r#"{"apiVersion": "", "kind": "", "status": {"allowed": true}}"#), yes);
        assert_eq!(read(r#"{"status": null}"#), Some((false, String::new())));
        for wrong in [
            r#"{"apiVersion": "g/v2", "status": {"allowed": true}}"#,
            r#"{"kind": "Status", "status": {"allowed": true}}"#,
            r#"{"kind": 1, "status": {"allowed": true}}"#,
            r#"{"status": {"allowed": "yes"}}"#,
            "[]",
            "yes",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_passes_is_asked_again() {
        let said =
            |code, body: &str| Said { code: StatusCode::from_u16(code).unwrap(), headers: HeaderMap::new(), body: body.to_owned().into() };
        for (code, body, again) in [
            (200, "", false),
            (400, "", false),
            (401, "", false),
            (429, "", true),
            (500, "boom", true),
            (502, "", true),
            (503, "", false),
            (504, "", true),
            (500, r#"{"kind":"Status","reason":"Forbidden"}"#, false),
            (409, r#"{"kind":"Status","reason":"Timeout"}"#, true),
        ] {
            assert_eq!(is_passing(&said(code, body)), again, "{code} {body}");
        }
    }
}
