//! Providers in order: the first writes, all read (`storage/value/transformer.go`).

use std::{sync::Arc, time::Instant};

use super::{ciphers::Cipher, config, kms};
use crate::{metrics::atrest as metrics, wire::status::aggregate};

/// What a provider makes of a value.
pub(super) type Secret = Vec<u8>;

/// What a stored value is.
pub(super) struct Opened {
    /// The object's bytes.
    pub(super) plain: Vec<u8>,
    /// It should be written again: another provider or key would write it now.
    pub(super) stale: bool,
}

/// One provider and what its values begin with.
#[derive(Clone)]
pub(super) struct Provider {
    prefix: String,
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// Values are as they are; what is encrypted is not for it.
    Identity,
    /// By the name of the key, which stands before the data.
    Keys(Arc<Keys>),
    Service(Arc<kms::Service>),
}

struct Keys {
    keys: Vec<(String, Cipher)>,
    /// What is said of a value with no key that is known.
    unknown: &'static str,
}

/// The providers of a resource.
pub(super) struct Chain {
    providers: Vec<Provider>,
    unknown: &'static str,
}

/// What every encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";
const NO_AES_KEY: &str = "no matching key was found for the provided AES transformer";
const NO_BOX_KEY: &str = "no matching key was found for the provided Secretbox transformer";

impl Provider {
    pub(super) fn of(provider: &config::Provider) -> Result<Self, String> {
        let keys = |keys: &config::Keys, make: fn(&[u8]) -> Option<Cipher>, prefix: &str, unknown| {
            let ciphers = keys.keys.iter().map(|key| {
                let failed = || format!("error while creating cipher for named key {}", key.name);
                Ok((format!("{}:", key.name), make(&key.secret()).ok_or_else(failed)?))
            });
            let keys = Keys { keys: ciphers.collect::<Result<_, String>>()?, unknown };
            Ok(Self { prefix: prefix.to_owned(), way: Way::Keys(Arc::new(keys)) })
        };
        match provider {
            config::Provider { aesgcm: Some(given), .. } => keys(given, Cipher::gcm, "k8s:enc:aesgcm:v1:", NO_AES_KEY),
            config::Provider { aescbc: Some(given), .. } => keys(given, Cipher::cbc, "k8s:enc:aescbc:v1:", NO_AES_KEY),
            config::Provider { secretbox: Some(given), .. } => keys(given, Cipher::secretbox, "k8s:enc:secretbox:v1:", NO_BOX_KEY),
            config::Provider { kms: Some(given), .. } if given.api_version == "v1" => Err(
                "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature."
                    .to_owned(),
            ),
            config::Provider { kms: Some(given), .. } => {
                let service = kms::Service::new(given);
                Ok(Self { prefix: format!("k8s:enc:kms:v2:{}:", given.name), way: Way::Service(Arc::new(service)) })
            }
            _ => Ok(Self::identity()),
        }
    }

    fn identity() -> Self {
        Self { prefix: String::new(), way: Way::Identity }
    }

    /// The service that keeps its keys.
    pub(super) fn service(&self) -> Option<Arc<kms::Service>> {
        match &self.way {
            Way::Service(service) => Some(Arc::clone(service)),
            _ => None,
        }
    }

    async fn open(&self, data: &[u8], context: &[u8]) -> Result<Opened, String> {
        match &self.way {
            Way::Identity if data.starts_with(ENCRYPTED) => Err("identity transformer tried to read encrypted data".to_owned()),
            Way::Identity => Ok(Opened { plain: data.to_vec(), stale: false }),
            Way::Keys(keys) => keys.open(data, context),
            Way::Service(service) => service.open(data, context).await,
        }
    }

    fn seal(&self, data: &[u8], context: &[u8]) -> Result<Secret, String> {
        match &self.way {
            Way::Identity => Ok(data.to_vec()),
            Way::Keys(keys) => keys.seal(data, context),
            Way::Service(service) => service.seal(data, context),
        }
    }

    /// As the series of metrics name it.
    fn label(&self) -> &str {
        if self.prefix.is_empty() { "identity" } else { &self.prefix }
    }
}

impl Keys {
    fn open(&self, data: &[u8], context: &[u8]) -> Result<Opened, String> {
        let mut faults = Vec::new();
        for (at, (prefix, cipher)) in self.keys.iter().enumerate() {
            let Some(data) = data.strip_prefix(prefix.as_bytes()) else { continue };
            match cipher.open(data, context) {
                Ok(plain) => return Ok(Opened { plain, stale: at != 0 }),
                Err(why) => faults.push(why),
            }
        }
        Err(aggregate(faults).unwrap_or_else(|| self.unknown.to_owned()))
    }

    fn seal(&self, data: &[u8], context: &[u8]) -> Result<Secret, String> {
        let (prefix, cipher) = self.keys.first().ok_or_else(|| self.unknown.to_owned())?;
        Ok([prefix.as_bytes(), &cipher.seal(data, context)?].concat())
    }
}

impl Chain {
    pub(super) fn new(providers: Vec<Provider>, unknown: &'static str) -> Self {
        Self { providers, unknown }
    }

    /// Plaintext is read and written, and nothing else.
    pub(super) fn plain() -> Self {
        Self::new(vec![Provider::identity()], "identity transformer tried to read encrypted data")
    }

    /// Reads a value. Providers may share a prefix while keys are changed: all that fit are tried.
    pub(super) async fn open(&self, resource: &str, data: &[u8], context: &[u8]) -> Result<Opened, String> {
        let mut faults = Vec::new();
        for (at, provider) in self.providers.iter().enumerate() {
            let Some(rest) = data.strip_prefix(provider.prefix.as_bytes()) else { continue };
            let started = Instant::now();
            let opened = provider.open(rest, context).await;
            if opened.is_err() && provider.prefix.is_empty() {
                continue;
            }
            metrics::transformed(resource, "from_storage", provider.label(), opened.is_ok(), started.elapsed());
            match opened {
                Ok(opened) => return Ok(Opened { stale: opened.stale || at != 0, ..opened }),
                Err(why) => faults.push(why),
            }
        }
        Err(aggregate(faults).unwrap_or_else(|| self.unknown.to_owned()))
    }

    /// Writes a value with the first provider.
    pub(super) fn seal(&self, resource: &str, data: &[u8], context: &[u8]) -> Result<Secret, String> {
        let first = self.providers.first().ok_or_else(|| self.unknown.to_owned())?;
        let started = Instant::now();
        let sealed = first.seal(data, context);
        metrics::transformed(resource, "to_storage", first.label(), sealed.is_ok(), started.elapsed());
        Ok([first.prefix.as_bytes(), &sealed?].concat())
    }
}
