//! The webhooks there are (apiserver `admission/configuration`), by the names of their configurations.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::Mutex;

use super::hook::Hook;
use crate::{
    admission::{
        look,
        mirror::{self, Changes, GROUP},
    },
    registry::Reader,
    webhook::{Accounts, ClientConfig, Webhook},
    wire::Status,
};

/// All webhooks.
pub struct Webhooks {
    pub(super) mutating: Set,
    pub(super) validating: Set,
}

/// The webhooks of one kind of configuration.
pub(super) struct Set {
    resource: &'static str,
    hooks: RwLock<Arc<[Arc<Hook>]>>,
    /// There is one: else nothing need be looked up.
    any: AtomicBool,
    /// What they were made of; whoever reads holds it, so that nobody puts back what was before.
    known: Mutex<Vec<Configuration>>,
    /// As whom they are asked; said before they are read.
    accounts: OnceLock<Accounts>,
}

struct Configuration {
    name: String,
    version: String,
    hooks: Vec<Arc<Hook>>,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self { mutating: Set::new("mutatingwebhookconfigurations"), validating: Set::new("validatingwebhookconfigurations") }
    }
}

impl Webhooks {
    /// Reads all configurations. [`Webhooks::follow`] keeps them as they are.
    pub async fn load(&self, reader: &Arc<dyn Reader>) -> Result<Changes, Status> {
        let changes = Changes::begin(&**reader, &[self.mutating.resource, self.validating.resource]).await?;
        self.mutating.read(reader).await?;
        self.validating.read(reader).await?;
        Ok(changes)
    }

    /// Takes up changes until the server stops; run it as a task.
    pub async fn follow(self: Arc<Self>, reader: Arc<dyn Reader>, mut changes: Changes) {
        while let Some(resource) = changes.next().await {
            let set = if resource == self.mutating.resource { &self.mutating } else { &self.validating };
            set.refresh(&reader).await;
        }
    }
}

impl Set {
    fn new(resource: &'static str) -> Self {
        Self { resource, hooks: RwLock::new(Arc::new([])), any: AtomicBool::new(false), known: Mutex::default(), accounts: OnceLock::new() }
    }

    /// Reads as whom they are asked from what is configured of their plugin. The error says what is wrong.
    pub(super) fn configure(&self, configuration: Option<&[u8]>) -> Result<(), String> {
        if let Some(accounts) = configuration.map(super::configuration::read).transpose()?.flatten() {
            // Nobody else says it.
            let _ = self.accounts.set(accounts);
        }
        Ok(())
    }

    /// Whether there is nobody to ask.
    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// The webhooks, in the order in which they are asked.
    pub(super) fn hooks(&self) -> Arc<[Arc<Hook>]> {
        self.hooks.read().clone()
    }

    /// Reads the configurations as they are now; should that fail, those known stay in force.
    pub(super) async fn refresh(&self, reader: &Arc<dyn Reader>) {
        mirror::told(self.resource, self.read(reader).await);
    }

    /// Reads the configurations. What did not change keeps its connections and compiled conditions.
    async fn read(&self, reader: &Arc<dyn Reader>) -> Result<(), Status> {
        let mut known = self.known.lock().await;
        let all: Vec<Value> = look::all(&**reader, GROUP, self.resource, "").await?;
        let reached = known.iter().flat_map(|configuration| &configuration.hooks).filter_map(|hook| hook.webhook.as_ref().ok());
        let mut places: HashMap<ClientConfig, Arc<Webhook>> = reached.map(|webhook| (webhook.config().clone(), webhook.clone())).collect();
        let mut place = |config: &ClientConfig| {
            let account = self.accounts.get().and_then(|accounts| accounts.of(config));
            let made = || Arc::new(Webhook::new(config.clone(), reader.clone()).by(account.cloned()));
            places.entry(config.clone()).or_insert_with(made).clone()
        };
        let mut before: HashMap<String, Configuration> = known.drain(..).map(|one| (one.name.clone(), one)).collect();
        for object in &all {
            let (name, version) = (mirror::name(object), mirror::version(object));
            let kept = before.remove(name).filter(|one| one.version == version);
            known.push(kept.unwrap_or_else(|| Configuration {
                name: name.to_owned(),
                version: version.to_owned(),
                hooks: Hook::all(object, &mut place),
            }));
        }
        known.sort_by(|a, b| a.name.cmp(&b.name));
        let hooks: Arc<[Arc<Hook>]> = known.iter().flat_map(|configuration| configuration.hooks.iter().cloned()).collect();
        self.any.store(!hooks.is_empty(), Ordering::Relaxed);
        *self.hooks.write() = hooks;
        Ok(())
    }
}
