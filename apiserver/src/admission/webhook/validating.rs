//! ValidatingAdmissionWebhook (apiserver `plugin/webhook/validating/dispatcher.go`): all at once.

use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};

use super::{
    Configured, Engine,
    call::{self, annotate, ask},
    review::Objects,
    versioned,
};
use crate::{
    admission::{Admission, Attempt, look::unready},
    audit::Level,
    registry::Object,
    wire::Status,
};

/// The plugin.
pub struct ValidatingAdmissionWebhook(pub(super) Engine);

impl ValidatingAdmissionWebhook {
    /// Asks with `engine`, as its configuration says.
    pub(in crate::admission) fn new(engine: Engine, configuration: Configured) -> Result<Self, String> {
        engine.webhooks.validating.configure(configuration, &engine.reader)?;
        Ok(Self(engine))
    }
}

#[async_trait]
impl Admission for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        self.0.webhooks.validating.any(|| super::reach(attempt))
    }

    async fn refresh(&self) {
        self.0.webhooks.validating.refresh(&self.0.reader).await;
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let engine = &self.0;
        let hooks = engine.webhooks.validating.hooks(super::reach(attempt)).ok_or_else(|| unready(attempt, new))?;
        let namespace = call::namespace(engine, &hooks, attempt).await?;
        let seen: &Attempt<'_> = attempt;
        let mut relevant = Vec::new();
        for hook in hooks.iter() {
            if let Some(matched) = hook.concerns(engine, seen, new, namespace.as_ref()).await? {
                relevant.push((hook, matched));
            }
        }
        let mut asked: FuturesUnordered<_> = relevant
            .iter()
            .enumerate()
            .map(|(at, (hook, matched))| async move {
                let new = match new {
                    Some(new) => Some(versioned(seen, matched, new).await?),
                    None => None,
                };
                let old = match seen.old {
                    Some(old) => Some(versioned(seen, matched, old).await?),
                    None => None,
                };
                let objects = Objects { new: new.as_deref(), old: old.as_deref() };
                let (answer, warnings) = ask(engine, hook, seen, matched, objects, false).await;
                let Err(failure) = answer else { return Ok((warnings, None)) };
                let refused = failure.status(hook);
                if refused.is_none() {
                    let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{at}");
                    annotate(seen, &key, &hook.name, Level::Metadata);
                }
                Ok::<_, Status>((warnings, refused))
            })
            .collect();
        // The first refusal counts; all are heard.
        let (mut told, mut refused) = (Vec::new(), None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok((warnings, refusal)) => {
                    told.extend(warnings);
                    refused = refused.or(refusal);
                }
                Err(status) => refused = refused.or(Some(status)),
            }
        }
        drop(asked);
        attempt.warnings.extend(told);
        refused.map_or(Ok(()), Err)
    }
}
