//! Encryption at rest: what stands between the objects and the store that keeps them (`server/options/encryptionconfig`).
//!
//! | file | |
//! |---|---|
//! | `config` | the file that says what is encrypted with what, and what is wrong with it |
//! | `ciphers` | AES-GCM, AES-CBC and secretbox as upstream lays their values out |
//! | `chain` | providers in order: the first writes, all read |
//! | `kms`, `messages` | keys kept elsewhere (KMS v2) |
//! | `sealed` | the store as everybody above sees it: plaintext |
//! | `keeper` | reload, and what could not be read tried again |
//! | `rewrite` | everything written anew with the first provider |
//!
//! A value is `k8s:enc:PROVIDER:v1:KEY:` and what the provider makes of the object's bytes; the object's key in the store is authenticated
//! with it where the provider can (in etcd with `--etcd-prefix`, as upstream). An etcd that kube-apiserver wrote is read, and the other way
//! round. Without a configuration nothing of this is in the way.

mod chain;
mod ciphers;
mod config;
mod keeper;
mod kms;
mod messages;
mod rewrite;
mod sealed;

#[cfg(test)]
mod tests;

pub(crate) use keeper::follow;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coracle_store::{Key, Store};
use parking_lot::RwLock;

use self::{
    chain::{Chain, Opened, Secret},
    config::Configuration,
};
use crate::{
    registry::{Catalog, translated::Faults},
    wire::status::aggregate,
};

/// `--encryption-provider-config` and what belongs to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// An `EncryptionConfiguration`.
    pub file: PathBuf,
    /// Whether it is read again when it changes (`--encryption-provider-config-automatic-reload`).
    pub reload: bool,
}

/// What is encrypted, with what, and what could not be read.
pub(crate) struct AtRest {
    options: Options,
    places: Places,
    /// What is in force. Replaced as a whole.
    rules: RwLock<Arc<Rules>>,
    faults: Faults,
    /// Where the values are, as they are.
    store: Arc<dyn Store>,
}

/// The providers of each resource, by what the configuration says of it.
struct Rules {
    /// By group and resource, as the configuration names them.
    chains: HashMap<String, HashMap<String, Arc<Chain>>>,
    /// Those of the built-in kinds, by what their keys begin with.
    built_in: HashMap<Arc<str>, Named>,
    /// For what is not named: plaintext, and nothing else.
    plain: Arc<Chain>,
    /// Those with keys elsewhere, in the order of the file.
    services: Vec<Arc<kms::Service>>,
    /// Of the file they were made of.
    digest: [u8; 32],
}

/// The providers of a resource, and its name as series of metrics show it.
#[derive(Clone)]
struct Named {
    chain: Arc<Chain>,
    resource: Arc<str>,
}

/// Which built-in resource a key of the store belongs to, by what it begins with.
struct Places(HashMap<Arc<str>, Place>);

/// A resource and how its objects are kept.
struct Place {
    group: String,
    resource: String,
    ttl: Option<Duration>,
}

/// What was told of a value that is no configured provider's.
const NO_PREFIX: &str = "no matching prefix found";

impl AtRest {
    /// Reads the configuration and asks the services that keep keys once whether they are there. The error is upstream's, and names the file.
    pub(crate) async fn open(options: Options, store: Arc<dyn Store>, catalog: &Catalog) -> Result<Arc<Self>, String> {
        let places = Places::of(catalog);
        let rules = Rules::load(&options, &places).await?;
        Ok(Arc::new(Self { options, places, rules: RwLock::new(Arc::new(rules)), faults: Faults::default(), store }))
    }

    /// Whether an object should be written again although nothing of it changes: another provider or key writes now.
    pub(crate) async fn is_stale(&self, key: &Key) -> bool {
        if !self.names(key) {
            return false;
        }
        match self.store.get(key).await {
            Ok(found) => match found.value {
                Some(entry) => self.open_value(key, &entry.value).await.is_ok_and(|opened| opened.stale),
                None => false,
            },
            Err(_) => false,
        }
    }

    /// Whether there is anything to check of health.
    pub(crate) fn has_health(&self) -> bool {
        self.options.reload || !self.rules.read().services.is_empty()
    }

    /// Whether the services that keep keys answer, under upstream's name of the check; `None` when there is no such check.
    pub(crate) async fn health(&self) -> Option<Result<(), String>> {
        if !self.has_health() {
            return None;
        }
        let rules = Arc::clone(&self.rules.read());
        let mut faults = Vec::new();
        for (at, service) in rules.services.iter().enumerate() {
            if let Err(why) = service.check().await {
                faults.push(format!("kms-provider-{at}: {why}"));
            }
        }
        Some(aggregate(faults).map_or(Ok(()), Err))
    }

    /// Whether the configuration speaks of the objects of a key's resource.
    fn names(&self, key: &Key) -> bool {
        let rules = self.rules.read();
        !Arc::ptr_eq(&rules.named(key).chain, &rules.plain)
    }

    async fn open_value(&self, key: &Key, value: &[u8]) -> Result<Opened, String> {
        let Named { chain, resource } = self.rules.read().named(key);
        chain.open(&resource, value, &self.store.bound_to(key)).await
    }

    fn seal_value(&self, key: &Key, value: &[u8]) -> Result<Secret, String> {
        let Named { chain, resource } = self.rules.read().named(key);
        chain.seal(&resource, value, &self.store.bound_to(key))
    }
}

impl Rules {
    async fn load(options: &Options, places: &Places) -> Result<Self, String> {
        let file = config::read(&options.file).map_err(|why| format!("error while parsing file: {why}"))?;
        let digest = file.digest;
        let configuration =
            config::parse(&options.file, &file.text, options.reload).map_err(|why| format!("error while parsing file: {why}"))?;
        let mut rules = Self::build(&configuration, places).map_err(|why| format!("error while building transformers: {why}"))?;
        rules.digest = digest;
        for service in &rules.services {
            // One that is not there yet may come later: it is asked again.
            if let Err(error) = service.check().await {
                tracing::warn!(name = service.name(), error, "kms plugin failed health check probe");
            }
        }
        Ok(rules)
    }

    fn build(configuration: &Configuration, places: &Places) -> Result<Self, String> {
        let (mut chains, mut services) = (HashMap::<String, HashMap<String, Vec<chain::Provider>>>::new(), Vec::new());
        for rule in &configuration.resources {
            let mut providers = Vec::new();
            for provider in &rule.providers {
                let provider = chain::Provider::of(provider)?;
                services.extend(provider.service());
                providers.push(provider);
            }
            for name in &rule.resources {
                let (group, resource) = config::group_resource(name);
                for (earlier_group, shown) in [(group.as_str(), config::shown(&group, "*")), ("*", "*.*".to_owned())] {
                    if chains.get(earlier_group).is_some_and(|of| of.contains_key("*")) {
                        let name = config::shown(&group, &resource);
                        return Err(format!("resource {name:?} is masked by earlier rule {shown:?}"));
                    }
                }
                chains.entry(group).or_default().entry(resource).or_default().extend(providers.iter().cloned());
            }
        }
        let of_group = |of: HashMap<String, Vec<chain::Provider>>| {
            of.into_iter().map(|(resource, providers)| (resource, Arc::new(Chain::new(providers, NO_PREFIX)))).collect()
        };
        let mut rules = Self {
            chains: chains.into_iter().map(|(group, of)| (group, of_group(of))).collect(),
            built_in: HashMap::new(),
            plain: Arc::new(Chain::plain()),
            services,
            digest: [0; 32],
        };
        let built_in = places.0.iter().map(|(prefix, place)| (Arc::clone(prefix), rules.find(&place.group, &place.resource)));
        rules.built_in = built_in.collect();
        Ok(rules)
    }

    /// Who writes and reads a resource, the most exact rule first.
    fn find(&self, group: &str, resource: &str) -> Named {
        let patterns = [(group, resource), (group, "*"), ("*", "*")];
        let found = patterns.into_iter().find_map(|(group, resource)| self.chains.get(group)?.get(resource));
        Named { chain: Arc::clone(found.unwrap_or(&self.plain)), resource: config::shown(group, resource).into() }
    }

    /// Who writes and reads the values of a key.
    fn named(&self, key: &Key) -> Named {
        let key = key.as_str();
        if let Some(named) = key.match_indices('/').find_map(|(at, _)| self.built_in.get(&key[..=at])) {
            return named.clone();
        }
        match custom(key) {
            Some((group, resource)) => self.find(group, resource),
            None => Named { chain: Arc::clone(&self.plain), resource: Arc::default() },
        }
    }
}

/// Group and resource of the key of a custom resource, which are kept under both.
fn custom(key: &str) -> Option<(&str, &str)> {
    let mut parts = key.strip_prefix("/registry/")?.splitn(3, '/');
    let (group, resource, _) = (parts.next()?, parts.next()?, parts.next()?);
    group.contains('.').then_some((group, resource))
}

impl Places {
    fn of(catalog: &Catalog) -> Self {
        let stored = catalog.kinds().iter().filter(|kind| kind.conversion.is_none());
        let place = stored.filter_map(|kind| {
            let place = Place {
                group: kind.id.group.to_string(),
                resource: kind.id.resource.to_string(),
                ttl: kind.rules.policy().ttl_seconds.map(Duration::from_secs),
            };
            Some((kind.prefix.clone()?, place))
        });
        // What is stored without being served, under upstream's names.
        let unserved = [("/registry/ranges/", "servicenodeportallocations"), ("/registry/masterleases/", "apiServerIPInfo")];
        let unserved = unserved
            .map(|(prefix, resource)| (Arc::from(prefix), Place { group: String::new(), resource: resource.to_owned(), ttl: None }));
        Self(place.chain(unserved).collect())
    }

    /// What the keys of a key's resource begin with.
    fn prefix(&self, key: &str) -> Option<String> {
        let built_in = key.match_indices('/').map(|(at, _)| &key[..=at]).find(|prefix| self.0.contains_key(*prefix));
        built_in.map(str::to_owned).or_else(|| custom(key).map(|(group, resource)| format!("/registry/{group}/{resource}/")))
    }

    /// How long an object of a kind that expires is kept.
    fn time_to_live(&self, key: &str) -> Option<Duration> {
        key.match_indices('/').find_map(|(at, _)| self.0.get(&key[..=at]))?.ttl
    }
}

/// A file as errors name it.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
