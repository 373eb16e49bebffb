//! The webhooks there are (apiserver `admission/configuration`), by the names of their configurations.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use coracle_tree::Value;
use tokio::sync::Mutex;

use super::hook::Hook;
use crate::{
    admission::{
        look,
        manifests::Manifests,
        mirror::{self, Behind, Changes, GROUP},
        reach::{Hooks, Reach},
    },
    registry::Reader,
    webhook::{Accounts, ClientConfig, Egress, Webhook},
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
    hooks: Hooks<Arc<Hook>>,
    /// What they were made of; whoever reads holds it, so that nobody puts back what was before.
    known: Mutex<Vec<Configuration>>,
    behind: Behind,
    /// As whom they are asked; said before they are read.
    accounts: OnceLock<Accounts>,
    /// By which way they are reached; said before they are read.
    egress: OnceLock<Egress>,
    /// Those of files; said before any are read.
    manifests: OnceLock<Arc<Manifests>>,
}

/// What is configured of a plugin.
#[derive(Default)]
pub(in crate::admission) struct Configured {
    /// As whom webhooks are asked.
    pub(in crate::admission) accounts: Option<Accounts>,
    /// Webhooks of files.
    pub(in crate::admission) manifests: Option<Manifests>,
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
    /// By which way they are reached; to be said before any are read.
    pub fn reach_by(&self, egress: &Egress) {
        for set in self.sets() {
            let _ = set.egress.set(egress.clone());
        }
    }

    /// Reads all configurations; where that fails, writes are refused until it succeeds. [`Webhooks::follow`] keeps them as they are.
    pub async fn load(&self, reader: &Arc<dyn Reader>) -> Changes {
        let changes = Changes::begin(&**reader, &[self.mutating.resource, self.validating.resource]);
        for set in self.sets() {
            set.refresh(reader).await;
            if set.behind.is_so() {
                set.hooks.await_api();
            }
        }
        changes
    }

    /// Takes up changes of files until the server stops; run it as a task.
    pub async fn follow_files(self: Arc<Self>, reader: Arc<dyn Reader>) {
        tokio::join!(self.mutating.follow_files(&reader), self.validating.follow_files(&reader));
    }

    /// Takes up changes until the server stops; run it as a task.
    pub async fn follow(self: Arc<Self>, reader: Arc<dyn Reader>, mut changes: Changes) {
        loop {
            let behind = self.sets().iter().any(|set| set.behind.is_so());
            let Some(changed) = changes.next(behind).await else { return };
            for set in self.sets() {
                if changed.map_or(set.behind.is_so(), |resource| resource == set.resource) {
                    set.refresh(&reader).await;
                }
            }
        }
    }

    fn sets(&self) -> [&Set; 2] {
        [&self.mutating, &self.validating]
    }
}

impl Set {
    fn new(resource: &'static str) -> Self {
        let (hooks, known, behind) = (Hooks::default(), Mutex::default(), Behind::default());
        Self { resource, hooks, known, behind, accounts: OnceLock::new(), egress: OnceLock::new(), manifests: OnceLock::new() }
    }

    /// Goes by what is configured of their plugin, which nobody else says. The error says what is wrong with the webhooks of files.
    pub(super) fn configure(&self, configured: Configured, reader: &Arc<dyn Reader>) -> Result<(), String> {
        if let Some(accounts) = configured.accounts {
            let _ = self.accounts.set(accounts);
        }
        if let Some(manifests) = configured.manifests {
            self.take_files(&manifests.load()?.unwrap_or_default(), reader);
            let _ = self.manifests.set(Arc::new(manifests));
        }
        Ok(())
    }

    fn take_files(&self, objects: &[Value], reader: &Arc<dyn Reader>) {
        let mut places = HashMap::new();
        let mut place = |config: &ClientConfig| self.place(&mut places, config, reader);
        self.hooks.set_files(objects.iter().flat_map(|object| Hook::all(object, "manifest/", &mut place)).collect());
    }

    async fn follow_files(&self, reader: &Arc<dyn Reader>) {
        if let Some(manifests) = self.manifests.get().cloned() {
            manifests.follow(|objects| self.take_files(&objects, reader)).await;
        }
    }

    /// Where a webhook is asked: those at one place share connections.
    fn place(&self, places: &mut HashMap<ClientConfig, Arc<Webhook>>, config: &ClientConfig, reader: &Arc<dyn Reader>) -> Arc<Webhook> {
        let account = self.accounts.get().and_then(|accounts| accounts.of(config));
        let made = || {
            let webhook = Webhook::new(config.clone(), reader.clone()).by(account.cloned());
            Arc::new(match self.egress.get() {
                Some(egress) => webhook.through(egress),
                None => webhook,
            })
        };
        places.entry(config.clone()).or_insert_with(made).clone()
    }

    /// Whether there is somebody to ask about a write.
    pub(super) fn any(&self, reach: impl FnOnce() -> Reach) -> bool {
        self.hooks.any(reach)
    }

    /// The webhooks, in the order in which they are asked; nothing while they are not known.
    pub(super) fn hooks(&self, reach: Reach) -> Option<Arc<[Arc<Hook>]>> {
        self.hooks.within(reach)
    }

    /// Reads the configurations as they are now; should that fail, those known stay in force.
    pub(super) async fn refresh(&self, reader: &Arc<dyn Reader>) {
        // How it went is noted before anybody else reads.
        let mut known = self.known.lock().await;
        self.behind.note(self.resource, self.read(&mut known, reader).await);
    }

    /// Reads the configurations. What did not change keeps its connections and compiled conditions.
    async fn read(&self, known: &mut Vec<Configuration>, reader: &Arc<dyn Reader>) -> Result<(), Status> {
        let all: Vec<Value> = look::all(&**reader, GROUP, self.resource, "").await?;
        let reached = known.iter().flat_map(|configuration| &configuration.hooks).filter_map(|hook| hook.webhook.as_ref().ok());
        let mut places: HashMap<ClientConfig, Arc<Webhook>> = reached.map(|webhook| (webhook.config().clone(), webhook.clone())).collect();
        let mut place = |config: &ClientConfig| self.place(&mut places, config, reader);
        let mut before: HashMap<String, Configuration> = known.drain(..).map(|one| (one.name.clone(), one)).collect();
        for object in &all {
            let (name, version) = (mirror::name(object), mirror::version(object));
            let kept = before.remove(name).filter(|one| one.version == version);
            known.push(kept.unwrap_or_else(|| Configuration {
                name: name.to_owned(),
                version: version.to_owned(),
                hooks: Hook::all(object, "", &mut place),
            }));
        }
        known.sort_by(|a, b| a.name.cmp(&b.name));
        self.hooks.set_api(known.iter().flat_map(|configuration| configuration.hooks.iter().cloned()).collect());
        Ok(())
    }
}
