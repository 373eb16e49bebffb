//! One question to one webhook, and what came of it (apiserver `plugin/webhook/{mutating,validating}/dispatcher.go`).

use std::time::Duration;

use coracle_tree::Value;
use tokio::time::Instant;

use super::{
    Engine,
    answer::{self, Answer, Invalid},
    hook::Hook,
    internal,
    review::{Objects, Review},
};
use crate::{
    admission::{Attempt, matching::Matched},
    audit::Level,
    metrics::{
        admission::{self as metrics, Outcome},
        requests::{Wait, traced, waited},
    },
    webhook::{Terms, answered},
    wire::Status,
};

/// Largest answer, in bytes: more than a patch of the largest object.
const LARGEST: usize = 16 << 20;

/// As what a question that was not answered is counted: 503.
const UNREACHED: u16 = 503;

/// Why a webhook did not let a write pass.
pub(super) enum Failure {
    /// It could not be asked, or its answer is none: its failure policy decides.
    Calling(String),
    /// It is refused.
    Refused(Status),
}

impl Failure {
    /// The status of a write that fails with it: `None` where the webhook's failure is to be ignored.
    pub(super) fn status(self, hook: &Hook) -> Option<Status> {
        match self {
            Self::Refused(status) => Some(status),
            Self::Calling(why) => {
                let why = format!("failed calling webhook {:?}: {why}", hook.name);
                if hook.ignored {
                    tracing::warn!(webhook = hook.name, "failing open: {why}");
                    return None;
                }
                tracing::warn!(webhook = hook.name, "failing closed: {why}");
                let mut status = internal(&why);
                // It was logged.
                status.log = None;
                Some(status)
            }
        }
    }
}

/// What is to be told of an answer: texts for `Warning:` headers.
pub(super) type Warnings = Vec<String>;

/// Asks; returns the answer and what the client is to be warned of, which it is even if the write is refused.
pub(super) async fn ask(
    engine: &Engine,
    hook: &Hook,
    attempt: &Attempt<'_>,
    matched: &Matched,
    objects: Objects<'_>,
    mutating: bool,
) -> (Result<Answer, Failure>, Warnings) {
    let started = Instant::now();
    let answer = put(engine, hook, attempt, matched, objects, mutating).await;
    note(hook, attempt, &answer, mutating, started.elapsed());
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return (Err(failure), Vec::new()),
    };
    for (key, value) in &answer.annotations {
        annotate(attempt, &format!("{}/{key}", hook.name), value.as_str().unwrap_or_default(), Level::Metadata);
    }
    // What cannot stand in a header is left out.
    let warnings = answer.warnings.iter().filter(|text| !text.is_empty() && !text.contains(char::is_control)).cloned().collect();
    if answer.allowed {
        return (Ok(answer), warnings);
    }
    (Err(Failure::Refused(answer::refusal(&hook.name, answer.result))), warnings)
}

/// Counts a question.
fn note(hook: &Hook, attempt: &Attempt<'_>, answer: &Result<Answer, Failure>, mutating: bool, took: Duration) {
    let outcome = match answer {
        Ok(answer) if answer.allowed => Outcome::Allowed,
        Ok(answer) => Outcome::Refused(answer::refusal(&hook.name, answer.result.clone()).code),
        Err(Failure::Refused(status)) => Outcome::Refused(status.code),
        Err(Failure::Calling(_)) if hook.ignored => Outcome::FailedOpen(UNREACHED),
        Err(Failure::Calling(_)) => Outcome::FailedClosed(UNREACHED),
    };
    let (step, wait) = if mutating { ("admit", Wait::Mutating) } else { ("validating", Wait::Validating) };
    metrics::asked(&hook.name, step, attempt.operation.name(), outcome, took);
    waited(wait, took);
    let called = if mutating { "Call mutating webhook" } else { "Call validating webhook" };
    let attributes = [("webhook", &*hook.name), ("configuration", &*hook.configuration), ("operation", attempt.operation.name())];
    traced(|trace| trace.note(called, took, answer.is_err(), &attributes));
}

async fn put(
    engine: &Engine,
    hook: &Hook,
    attempt: &Attempt<'_>,
    matched: &Matched,
    objects: Objects<'_>,
    mutating: bool,
) -> Result<Answer, Failure> {
    match hook.takes_dry_run {
        _ if !attempt.dry_run => {}
        Some(true) => {}
        Some(false) => {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Refused(Status::bad_request(why)));
        }
        None => return Err(Failure::Calling("Webhook SideEffects is nil".to_owned())),
    }
    let Some(version) = hook.review else {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Failure::Calling(why.to_owned()));
    };
    let webhook = match &hook.webhook {
        Ok(webhook) => webhook,
        Err(why) => return Err(Failure::Calling(format!("could not get REST client: {why}"))),
    };
    if let Some(why) = webhook.fault() {
        return Err(Failure::Calling(format!("could not get REST client: {why}")));
    }
    let review = Review::new(version, attempt, matched, objects);
    let terms = Terms { timeout: patience(hook.timeout, attempt.until), late: "context deadline exceeded", largest: LARGEST };
    let failed = |why: String| Failure::Calling(format!("failed to call webhook: {why}"));
    let body = webhook.post(review.body, terms).await.and_then(answered).map_err(failed)?;
    answer::read(&body, &engine.review, version, &review.uid, mutating).map_err(|invalid| match invalid {
        Invalid::Undecodable(why) => failed(why),
        Invalid::Unfit(why) => Failure::Calling(format!("received invalid webhook response: {why}")),
    })
}

/// How long a webhook has: no longer than what is left of the request, in whole seconds, as it is told. They are rounded up, so that a
/// request that ends meanwhile is what ended.
fn patience(own: Duration, until: Option<Instant>) -> Duration {
    let Some(left) = until.map(|until| until.saturating_duration_since(Instant::now())) else { return own };
    own.min(Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0)).max(Duration::from_secs(1)))
}

/// Tells the audit log; what it does not take is logged instead.
pub(super) fn annotate(attempt: &Attempt<'_>, key: &str, value: &str, level: Level) {
    if let Err(why) = attempt.annotations.add(key, value, level) {
        tracing::warn!("audit annotation of a webhook is left out: {why}");
    }
}

/// The namespace of the object, if a webhook asks for it.
pub(super) async fn namespace(engine: &Engine, hooks: &[std::sync::Arc<Hook>], attempt: &Attempt<'_>) -> Result<Option<Value>, Status> {
    if !hooks.iter().any(|hook| hook.asks_namespace()) {
        return Ok(None);
    }
    crate::admission::policy::namespace_of(&*engine.reader, attempt).await
}
