//! Tokens in secrets of type `kubernetes.io/service-account-token`: filled in when a secret asks for one, gone with their account
//! (`pkg/controller/serviceaccount/tokens_controller.go`). It stands here, not among the controllers, because it signs with the server's key.

use std::{collections::BTreeMap, time::Duration};

use coracle_apiserver::authn::{claims, keys::SigningKey, legacy};
use futures::{StreamExt, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    runtime::watcher::{self, Event},
};
use tokio_util::sync::CancellationToken;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// A watch that broke off is begun again after this long.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the tokens.
pub(crate) struct Tokens {
    pub(crate) client: Client,
    pub(crate) key: SigningKey,
    /// PEM, for `ca.crt`.
    pub(crate) root_ca: String,
}

/// What happened.
enum Change {
    Secret(Box<Secret>),
    /// An account is gone: its namespace.
    Gone(String),
}

/// What is to be done about a secret.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Delete,
    Write(Box<Secret>),
}

impl Tokens {
    /// Until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let of = watcher::Config::default().fields(&format!("type={TYPE}"));
        let secrets = watcher::watcher(Api::<Secret>::all(self.client.clone()), of).filter_map(async |event| match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => Some(Some(Change::Secret(Box::new(secret)))),
            Ok(_) => None,
            Err(error) => broken(&error),
        });
        let accounts = watcher::watcher(Api::<ServiceAccount>::all(self.client.clone()), watcher::Config::default());
        let accounts = accounts.filter_map(async |event| match event {
            Ok(Event::Delete(account)) => Some(Some(Change::Gone(account.namespace().unwrap_or_default()))),
            Ok(_) => None,
            Err(error) => broken(&error),
        });
        let mut changes = stream::select(secrets.boxed(), accounts.boxed());
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => return,
                change = changes.next() => change,
            };
            let settled = match change {
                None => return,
                Some(None) => {
                    tokio::time::sleep(PAUSE).await;
                    Ok(())
                }
                Some(Some(Change::Secret(secret))) => self.settle(*secret).await,
                Some(Some(Change::Gone(namespace))) => self.sweep(&namespace).await,
            };
            if let Err(error) = settled {
                tracing::warn!(%error, "a token secret is not settled");
            }
        }
    }

    /// Looks again at all token secrets of a namespace.
    async fn sweep(&self, namespace: &str) -> kube::Result<()> {
        let of = ListParams::default().fields(&format!("type={TYPE}"));
        for secret in Api::<Secret>::namespaced(self.client.clone(), namespace).list(&of).await? {
            self.settle(secret).await?;
        }
        Ok(())
    }

    async fn settle(&self, secret: Secret) -> kube::Result<()> {
        let namespace = secret.namespace().unwrap_or_default();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let Some(account) = secret.annotations().get(ACCOUNT).filter(|name| !name.is_empty()) else { return Ok(()) };
        let account = accounts.get_opt(account).await?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let (name, preconditions) = (secret.name_any(), Preconditions { uid: secret.uid(), resource_version: None });
        let done = match plan(secret, account.as_ref(), &self.key, &self.root_ca) {
            Step::Nothing => Ok(()),
            Step::Delete => {
                let of = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                secrets.delete(&name, &of).await.map(|_| ())
            }
            Step::Write(secret) => secrets.replace(&name, &PostParams::default(), &secret).await.map(|_| ()),
        };
        match done {
            // Somebody else changed it: that comes as a change of its own.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            done => done,
        }
    }
}

fn broken(error: &watcher::Error) -> Option<Option<Change>> {
    tracing::debug!(%error, "the watch of token secrets broke off");
    Some(None)
}

/// Decides over a secret, given the account its annotation names.
fn plan(mut secret: Secret, account: Option<&ServiceAccount>, key: &SigningKey, root_ca: &str) -> Step {
    let annotations = secret.annotations();
    let name = annotations.get(ACCOUNT).cloned().unwrap_or_default();
    if secret.type_.as_deref() != Some(TYPE) || name.is_empty() || secret.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    let uid = account.and_then(ResourceExt::uid);
    let Some(uid) = uid.filter(|uid| annotations.get(UID).is_none_or(|wanted| wanted.is_empty() || wanted == uid)) else {
        return Step::Delete;
    };
    let namespace = secret.namespace().unwrap_or_default();
    let before = secret.clone();
    let claims = legacy::Claims {
        iss: legacy::ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        namespace: namespace.clone(),
        secret: secret.name_any(),
        account: name,
        uid: uid.clone(),
        ..legacy::Claims::default()
    };
    let data = secret.data.get_or_insert_with(BTreeMap::new);
    if data.get("token").is_none_or(|token| token.0.is_empty()) {
        let Some(token) = claims::seal(&claims, key) else { return Step::Nothing };
        data.insert("token".to_owned(), ByteString(token.into_bytes()));
    }
    if data.get("namespace").is_none_or(|namespace| namespace.0.is_empty()) {
        data.insert("namespace".to_owned(), ByteString(namespace.into_bytes()));
    }
    data.insert("ca.crt".to_owned(), ByteString(root_ca.as_bytes().to_vec()));
    secret.annotations_mut().insert(UID.to_owned(), uid);
    if secret == before { Step::Nothing } else { Step::Write(Box::new(secret)) }
}

/// In a room of its own, as `system:kube-controller-manager`, which upstream's is, too.
pub(crate) fn start(client: Client, key: SigningKey, root_ca: String, tasks: &tokio_util::task::TaskTracker, stop: &CancellationToken) {
    tasks.spawn(Tokens { client, key, root_ca }.run(stop.clone()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
    }

    fn secret(annotations: &serde_json::Value) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns", "annotations": annotations}, "type": TYPE})).unwrap()
    }

    fn account() -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}})).unwrap()
    }

    #[test]
    fn a_secret_that_asks_for_a_token_gets_one_and_is_left_alone_then() {
        let key = key();
        let Step::Write(made) = plan(secret(&json!({ACCOUNT: "a"})), Some(&account()), &key, "PEM") else { panic!("written") };
        let text = |field: &str| String::from_utf8(made.data.as_ref().unwrap()[field].0.clone()).unwrap();
        assert_eq!((text("namespace"), text("ca.crt"), made.annotations()[UID].as_str()), ("ns".into(), "PEM".into(), "u"));
        let claims: legacy::Claims = claims::open(&text("token"), &[key.public().clone()]).unwrap();
        assert_eq!((claims.sub.as_str(), claims.secret.as_str(), claims.uid.as_str()), ("system:serviceaccount:ns:a", "s", "u"));
        assert_eq!(plan(*made, Some(&account()), &key, "PEM"), Step::Nothing);
    }

    #[test]
    fn a_secret_of_no_account_goes_and_other_secrets_are_not_touched() {
        let key = key();
        assert_eq!(plan(secret(&json!({ACCOUNT: "a"})), None, &key, "PEM"), Step::Delete);
        assert_eq!(plan(secret(&json!({ACCOUNT: "a", UID: "other"})), Some(&account()), &key, "PEM"), Step::Delete);
        assert_eq!(plan(secret(&json!({})), None, &key, "PEM"), Step::Nothing);
        let opaque = Secret { type_: Some("Opaque".to_owned()), ..secret(&json!({ACCOUNT: "a"})) };
        assert_eq!(plan(opaque, None, &key, "PEM"), Step::Nothing);
    }
}
