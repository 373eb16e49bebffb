//! What may pass: built-in admission plugins, in one ordered list, over every write of every kind.

pub mod certificates;
pub mod chain;
pub mod escalation;
pub mod ingress;
pub mod limits;
pub mod namespace;
pub mod noderestriction;
pub mod podsecurity;
pub mod policy;
pub mod priority;
pub mod quota;
pub mod runtimeclass;
pub mod serviceaccount;
pub mod storage;
pub mod taints;
pub mod tolerations;
pub mod topology;

mod look;
mod resources;

#[cfg(test)]
mod bench;

use std::sync::Arc;

use async_trait::async_trait;

pub use chain::{Options, chain};

use crate::{
    authn::User,
    registry::{Kind, Object},
    request::RequestInfo,
    wire::Status,
};

/// The operations admission tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One write on its way to the store.
pub struct Attempt<'a> {
    /// Create, update, delete or connect.
    pub operation: Operation,
    /// Where it goes: resource, subresource, namespace, name.
    pub request: &'a RequestInfo,
    /// The kind addressed.
    pub kind: &'a Kind,
    /// Who asks.
    pub user: &'a User,
    /// The object as it was (update, delete).
    pub old: Option<&'a Object>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Texts for `Warning:` headers, to add to.
    pub warnings: Vec<String>,
}

/// A plugin. Either method may be left out.
#[async_trait]
pub trait Admission: Send + Sync {
    /// The plugin's name as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// Whether the plugin has anything to do with this write. Asked for every write of every kind, so it must be a few comparisons.
    fn concerns(&self, _attempt: &Attempt<'_>) -> bool {
        true
    }

    /// May change the object; `new` is absent on delete.
    async fn mutate(&self, _attempt: &mut Attempt<'_>, _new: Option<&mut Object>) -> Result<(), Status> {
        Ok(())
    }

    /// Sees the final object and may refuse it.
    async fn validate(&self, _attempt: &mut Attempt<'_>, _new: Option<&Object>) -> Result<(), Status> {
        Ok(())
    }
}

/// Lets every plugin change the object, in order; the first refusal ends it.
pub async fn mutate(chain: &[Arc<dyn Admission>], attempt: &mut Attempt<'_>, mut new: Option<&mut Object>) -> Result<(), Status> {
    for plugin in chain {
        if plugin.concerns(attempt) {
            plugin.mutate(attempt, new.as_deref_mut()).await?;
        }
    }
    Ok(())
}

/// Shows every plugin the final object, in order; the first refusal ends it.
pub async fn validate(chain: &[Arc<dyn Admission>], attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
    for plugin in chain {
        if plugin.concerns(attempt) {
            plugin.validate(attempt, new).await?;
        }
    }
    Ok(())
}
