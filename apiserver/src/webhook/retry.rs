//! Asking again: what went wrong for a moment is tried a few times (apiserver `util/webhook/webhook.go`, `DefaultShouldRetry`).

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::{Said, Terms, Webhook, answered, words};

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
