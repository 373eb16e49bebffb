//! What may pass: admission plugins, built in and outside, in one ordered list, over every write of every kind.

pub mod attempt;
pub mod certificates;
pub mod chain;
pub mod devices;
pub mod escalation;
pub mod ingress;
pub mod limits;
mod manifests;
pub mod matching;
pub mod namespace;
pub mod noderestriction;
pub mod optional;
pub mod podsecurity;
pub mod policy;
pub mod priority;
pub mod quota;
mod reach;
pub mod reinvocation;
pub mod resize;
pub mod runtimeclass;
pub mod serviceaccount;
pub mod settings;
pub mod storage;
pub mod taints;
pub mod tolerations;
pub mod topology;
pub mod webhook;

pub(crate) mod look;
mod mirror;
mod recent;
mod request;
mod resources;

#[cfg(test)]
pub(crate) mod bench;

use std::sync::Arc;

use async_trait::async_trait;
use coracle_tree::Value;

pub use attempt::{Annotations, Attempt, Given, Operation};
pub use chain::{Options, chain};
use coracle_schema::managed;
pub use settings::{Configuration, Settings};

use crate::{metrics::admission::Watch, registry::Object, wire::Status};

/// A plugin. Either method may be left out.
#[async_trait]
pub trait Admission: Send + Sync {
    /// The plugin's name as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// Whether the plugin has anything to do with this write. Asked for every write of every kind, so it must be a few comparisons.
    fn concerns(&self, _attempt: &Attempt<'_>) -> bool {
        true
    }

    /// Takes up what is configured as it is now. Called after each write of a policy or webhook configuration, before its answer.
    async fn refresh(&self) {}

    /// May change the object; `new` is absent on delete.
    async fn mutate(&self, _attempt: &mut Attempt<'_>, _new: Option<&mut Object>) -> Result<(), Status> {
        Ok(())
    }

    /// Sees the final object and may refuse it.
    async fn validate(&self, _attempt: &mut Attempt<'_>, _new: Option<&Object>) -> Result<(), Status> {
        Ok(())
    }
}

/// Lets every plugin change the object, in order, and once more if a policy or webhook did; the first refusal ends it.
pub async fn mutate(chain: &[Arc<dyn Admission>], attempt: &mut Attempt<'_>, mut new: Option<&mut Object>) -> Result<(), Status> {
    run(chain, attempt, new.as_deref_mut()).await?;
    if attempt.reinvocation.wanted {
        attempt.reinvocation.again = true;
        run(chain, attempt, new.as_deref_mut()).await?;
    }
    if let (Some(before), Some(object)) = (attempt.reinvocation.fields.take(), new) {
        keep_fields(attempt, before, object);
    }
    Ok(())
}

async fn run(chain: &[Arc<dyn Admission>], attempt: &mut Attempt<'_>, mut new: Option<&mut Object>) -> Result<(), Status> {
    let mut watch = Watch::start("admit", attempt.operation);
    for plugin in chain {
        if plugin.concerns(attempt) {
            watch.begin();
            let done = plugin.mutate(attempt, new.as_deref_mut()).await;
            watch.saw(plugin.name(), done.is_err());
            if done.is_err() {
                watch.end(true);
                return done;
            }
        }
    }
    watch.end(false);
    Ok(())
}

/// Puts back managed fields that somebody outside made invalid (apiserver `endpoints/handlers/fieldmanager/admission.go`).
fn keep_fields(attempt: &mut Attempt<'_>, before: Value, object: &mut Object) {
    let Some(why) = object.at("/metadata/managedFields").and_then(managed::fault) else { return };
    attempt.warnings.push(format!(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission \
         controller; please fix your requests: {why}"
    ));
    if before.is_null() {
        object.metadata_mut().remove("managedFields");
    } else {
        object.set_metadata("managedFields", before);
    }
}

/// Shows every plugin the final object, in order; the first refusal ends it.
pub async fn validate(chain: &[Arc<dyn Admission>], attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
    let mut watch = Watch::start("validate", attempt.operation);
    for plugin in chain {
        if plugin.concerns(attempt) {
            watch.begin();
            let done = plugin.validate(attempt, new).await;
            watch.saw(plugin.name(), done.is_err());
            if done.is_err() {
                watch.end(true);
                return done;
            }
        }
    }
    watch.end(false);
    Ok(())
}

/// Both, of what is written in one go: the warnings are added, or go with the refusal.
pub async fn pass(
    chain: &[Arc<dyn Admission>],
    attempt: &mut Attempt<'_>,
    mut new: Option<&mut Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let mut result = mutate(chain, attempt, new.as_deref_mut()).await;
    if result.is_ok() {
        result = validate(chain, attempt, new.as_deref()).await;
    }
    warnings.append(&mut attempt.warnings);
    result.map_err(|mut status| {
        status.warn(std::mem::take(warnings));
        status
    })
}
