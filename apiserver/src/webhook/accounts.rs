//! As whom admission webhooks are asked: `kubeConfigFile` of a `WebhookAdmissionConfiguration` names a user for each place
//! (apiserver `util/webhook/authentication.go`).

use std::{collections::HashMap, path::Path};

use http::HeaderValue;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

use super::{
    ClientConfig, Identity,
    kubeconfig::{self, Login, Source},
    pem_certificates,
};

/// The users of a kubeconfig, by the places they are for.
#[derive(Default)]
pub(crate) struct Accounts {
    users: HashMap<String, Account>,
    /// Of the current context: who asks where nobody is named.
    current: Option<String>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(super) client: Option<(Source, Source)>,
    pub(super) login: Login,
}

/// What it shows.
pub(super) struct Shown {
    pub(super) identity: Option<Identity>,
    pub(super) login: Option<HeaderValue>,
    /// Changes when the certificate or its key does.
    pub(super) stamp: [u8; 32],
}

impl Accounts {
    /// Reads a kubeconfig. The error names what is wrong.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let (users, current) = kubeconfig::accounts(file)?;
        let accounts = Self { users, current };
        for (name, account) in &accounts.users {
            account.shown().map_err(|why| format!("user {name:?}: {why}"))?;
        }
        Ok(accounts)
    }

    /// Who asks a webhook: whoever is named like its place, the most exactly, or `*`, or the current user.
    pub(crate) fn of(&self, webhook: &ClientConfig) -> Option<&Account> {
        let (host, port) = place(webhook)?;
        let whole = format!("{host}:{port}");
        let short = (port == 443).then_some(host.as_str());
        let found = [Some(whole.as_str()), short].into_iter().flatten().find_map(|target| self.named(target));
        found.or_else(|| self.users.get("*")).or_else(|| self.users.get(self.current.as_ref()?))
    }

    /// By the name itself, or with a star for its first parts.
    fn named(&self, target: &str) -> Option<&Account> {
        let starred = target.match_indices('.').map(|(at, _)| format!("*{}", &target[at..]));
        self.users.get(target).or_else(|| starred.into_iter().find_map(|name| self.users.get(&name)))
    }
}

/// Host and port of a webhook.
fn place(webhook: &ClientConfig) -> Option<(String, u16)> {
    if let Some(service) = &webhook.service {
        return Some((format!("{}.{}.svc", service.name, service.namespace), service.port.unwrap_or(443)));
    }
    let uri: http::Uri = webhook.url.as_deref()?.parse().ok()?;
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(443)))
}

impl Account {
    /// Reads what stands in files.
    pub(super) fn shown(&self) -> Result<Shown, String> {
        let mut digest = Sha256::new();
        let identity = match &self.client {
            None => None,
            Some((certificate, key)) => {
                let (certificate, key) = (certificate.read()?, key.read()?);
                for bytes in [&certificate, &key] {
                    digest.update(bytes.len().to_be_bytes());
                    digest.update(bytes);
                }
                let chain = pem_certificates(&certificate).map_err(|_| "tls: failed to find any PEM data in certificate input")?;
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| "tls: failed to find any PEM data in key input")?;
                Some(Identity { chain, key })
            }
        };
        Ok(Shown { identity, login: self.login.header()?, stamp: digest.finalize().into() })
    }

    /// Whether anything of it may change while we run.
    pub(super) fn has_files(&self) -> bool {
        self.login.has_file() || self.client.as_ref().is_some_and(|(certificate, key)| certificate.is_file() || key.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(names: &[&str], current: &str) -> Accounts {
        let users: Vec<String> = names.iter().map(|name| format!("{{name: '{name}', user: {{token: '{name}'}}}}")).collect();
        let contexts = if current.is_empty() { "[]".to_owned() } else { format!("[{{name: x, context: {{user: '{current}'}}}}]") };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k");
        std::fs::write(&file, format!("{{current-context: x, contexts: {contexts}, users: [{}]}}", users.join(", "))).unwrap();
        Accounts::read(&file).unwrap()
    }

    fn asked(accounts: &Accounts, url: &str) -> String {
        let webhook = match url.strip_prefix("service:") {
            Some(name) => {
                let service = super::super::ServiceReference { name: name.into(), namespace: "ns".into(), ..Default::default() };
                ClientConfig { service: Some(service), ..ClientConfig::default() }
            }
            None => ClientConfig { url: Some(url.into()), ..ClientConfig::default() },
        };
        let login = accounts.of(&webhook).and_then(|account| account.shown().unwrap().login);
        login.map(|value| value.to_str().unwrap().trim_start_matches("Bearer ").to_owned()).unwrap_or_default()
    }

    #[test]
    fn the_most_exact_name_of_a_place_is_who_asks() {
        let known = accounts(&["a.example.com:8443", "*.example.com", "*.ns.svc", "hook.ns.svc", "*"], "");
        for (url, expected) in [
            ("https://a.example.com:8443/x", "a.example.com:8443"),
            ("https://a.example.com/x", "*.example.com"),
            ("https://a.b.example.com", "*.example.com"),
            ("service:hook", "hook.ns.svc"),
            ("service:other", "*.ns.svc"),
            ("https://elsewhere.org", "*"),
        ] {
            assert_eq!(asked(&known, url), expected, "{url}");
        }
        assert_eq!(asked(&accounts(&["a"], "a"), "https://elsewhere.org"), "a");
        assert_eq!(asked(&accounts(&["a"], ""), "https://elsewhere.org"), "");
        // A port that is not the usual one is no part of what a name without one means.
        assert_eq!(asked(&accounts(&["a.example.com"], ""), "https://a.example.com:8443"), "");
    }

    #[test]
    fn users_that_cannot_be_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k");
        for (user, why) in
            [("{exec: {command: x}}", "\"exec\" is not supported"), ("{client-certificate: /nowhere, client-key: /no}", "/nowhere")]
        {
            std::fs::write(&file, format!("{{users: [{{name: a, user: {user}}}]}}")).unwrap();
            let refused = Accounts::read(&file).err().unwrap();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(Accounts::read(Path::new("/nowhere/k")).is_err());
    }
}
