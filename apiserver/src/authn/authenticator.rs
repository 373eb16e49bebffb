//! From a connection's certificate and a request's headers to a user.

use std::{collections::HashMap, sync::Arc};

use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use tracing::debug;

use super::{
    User, WebhookOptions, bearer,
    cache::Cache,
    issuer::Issuer,
    join,
    keys::{SigningKey, VerifyingKey},
    tokens::{Refusal, TokenError, Verified, Verifier},
    webhook::TokenWebhook,
};
use crate::{registry::Reader, wire::Status};

/// A token that was good is believed for this long without another look (`TokenSuccessCacheTTL`).
const CACHED: SignedDuration = SignedDuration::from_secs(10);

/// How users are recognised.
#[derive(Default)]
pub struct Options {
    /// `--service-account-issuer`: accepted issuers; the first signs new tokens.
    pub issuers: Vec<String>,
    /// `--api-audiences`; the issuers when empty.
    pub audiences: Vec<String>,
    /// `--service-account-signing-key-file`; without it no tokens are issued.
    pub signing_key: Option<SigningKey>,
    /// `--service-account-key-file`; the signing key verifies, too.
    pub verifying_keys: Vec<VerifyingKey>,
    /// `--service-account-max-token-expiration`
    pub longest_token: Option<SignedDuration>,
    /// `--service-account-extend-token-expiration`
    pub extend_tokens: bool,
    /// `--anonymous-auth`
    pub anonymous: bool,
    /// `--enable-bootstrap-token-auth`
    pub bootstrap_tokens: bool,
    /// `--token-auth-file`, read by [`bearer::fixed_tokens`].
    pub fixed_tokens: HashMap<String, Arc<User>>,
    /// Who is asked of tokens that nobody here knows (`--authentication-token-webhook-config-file`).
    pub webhook: Option<WebhookOptions>,
}

/// Recognises users. Certificates first, then tokens, then nobody in particular.
pub struct Authenticator {
    anonymous: Option<Arc<User>>,
    bootstrap_tokens: bool,
    fixed_tokens: HashMap<String, Arc<User>>,
    audiences: Vec<String>,
    issuers: Vec<String>,
    verifier: Verifier,
    issuer: Option<Issuer>,
    webhook: Option<TokenWebhook>,
    recent: Cache<Verified>,
    reader: Arc<dyn Reader>,
}

impl Authenticator {
    /// Builds it; `reader` is where accounts, pods, nodes and secrets are looked up.
    pub fn new(options: Options, reader: Arc<dyn Reader>) -> Self {
        let Options { issuers, mut audiences, signing_key, mut verifying_keys, .. } = options;
        if audiences.is_empty() {
            audiences.clone_from(&issuers);
        }
        if let Some(key) = signing_key.as_ref().map(SigningKey::public).filter(|k| !verifying_keys.contains(k)) {
            verifying_keys.insert(0, key.clone());
        }
        let issuer = signing_key.zip(issuers.first()).map(|(key, name)| Issuer {
            name: name.clone(),
            key,
            audiences: audiences.clone(),
            longest: options.longest_token,
            extend: options.extend_tokens,
            reader: reader.clone(),
        });
        Self {
            anonymous: options.anonymous.then(|| Arc::new(User::anonymous())),
            bootstrap_tokens: options.bootstrap_tokens,
            fixed_tokens: options.fixed_tokens,
            webhook: options.webhook.map(|webhook| TokenWebhook::new(webhook, audiences.clone())),
            recent: Cache::new(),
            audiences,
            issuers: issuers.clone(),
            verifier: Verifier::new(issuers, verifying_keys, reader.clone()),
            issuer,
            reader,
        }
    }

    /// Who asks. `peer` is the user of the connection's verified certificate ([`super::certificates::user`], read once a connection).
    /// A credential that is not good is refused, not taken as anonymous.
    pub async fn authenticate(&self, peer: Option<&Arc<User>>, headers: &HeaderMap, now: Timestamp) -> Result<Arc<User>, Status> {
        if let Some(user) = peer {
            return Ok(user.clone());
        }
        match bearer::token(headers) {
            Some(token) => match self.token(&token, &self.audiences, now).await {
                Ok(verified) => Ok(verified.user),
                Err(error) => {
                    debug!(%error, "token refused");
                    Err(Status { log: Some(error.to_string()), ..Status::unauthorized() })
                }
            },
            None => self.anonymous.clone().ok_or_else(Status::unauthorized),
        }
    }

    /// Whose token it is, and for which of the `audiences`.
    pub async fn token(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Verified, Refusal> {
        let key = self.recent.key(token, audiences);
        if let Some(known) = self.recent.get(&key, now) {
            return Ok(known);
        }
        let found = self.look_up(token, audiences, now).await?;
        self.recent.put(key, found.clone(), now, CACHED, found.until);
        Ok(found)
    }

    /// Asks all who may know the token, in upstream's order; the first who does decides.
    async fn look_up(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Verified, Refusal> {
        let mut refusal = Refusal::default();
        // Tokens that know no audience are for the API server.
        let ours: Vec<String> = audiences.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        let is_ours = audiences.is_empty() || !ours.is_empty();
        if let Some(user) = self.fixed_tokens.get(token).filter(|_| is_ours) {
            return Ok(Verified { user: user.clone(), audiences: ours, until: None });
        }
        if let Some(verified) = refusal.unless(self.verifier.verify(token, audiences, now).await) {
            return Ok(verified);
        }
        if self.bootstrap_tokens && is_ours && join::parse(token).is_some() {
            let found = join::user(&*self.reader, token, now).await.map_err(TokenError::Lookup);
            if let Some(user) = refusal.unless(found) {
                return Ok(Verified::new(user, ours));
            }
        }
        if let Some(webhook) = &self.webhook
            && let Some(verified) = refusal.unless(webhook.authenticate(token, audiences, now).await)
        {
            return Ok(verified);
        }
        Err(refusal)
    }

    /// The API server's own audiences.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Issues tokens; `None` without a signing key.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// The key set document.
    pub fn key_set(&self) -> serde_json::Value {
        super::issuer::key_set(self.verifier.keys())
    }

    /// The OIDC discovery document; `None` when the issuer is no https URL, as upstream then serves none.
    pub fn discovery(&self, jwks_uri: &str) -> Option<serde_json::Value> {
        let issuer = self.issuers.first().filter(|i| i.starts_with("https://"))?;
        Some(super::issuer::discovery(issuer, jwks_uri, self.verifier.keys()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::FakeReader;

    fn authenticator(anonymous: bool) -> Authenticator {
        let fixed_tokens = bearer::fixed_tokens("secret,jane,u1").unwrap();
        let options = Options { anonymous, fixed_tokens, issuers: vec!["https://i".into()], ..Options::default() };
        Authenticator::new(options, Arc::new(FakeReader::default()))
    }

    fn headers(token: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        headers
    }

    #[tokio::test]
    async fn certificate_goes_before_token_and_token_before_nobody() {
        let a = authenticator(true);
        let peer = Arc::new(User::new("cert", &[]));
        let name = async |peer: Option<&Arc<User>>, token: Option<&str>| {
            a.authenticate(peer, &headers(token), Timestamp::UNIX_EPOCH).await.map(|u| u.name.to_string()).map_err(|s| s.code)
        };
        assert_eq!(name(Some(&peer), Some("secret")).await, Ok("cert".into()));
        assert_eq!(name(None, Some("secret")).await, Ok("jane".into()));
        assert_eq!(name(None, None).await, Ok("system:anonymous".into()));
        assert_eq!(name(None, Some("wrong")).await, Err(401));
    }

    #[tokio::test]
    async fn without_anonymous_a_bare_request_is_unauthorized() {
        let refused = authenticator(false).authenticate(None, &headers(None), Timestamp::UNIX_EPOCH).await;
        assert_eq!(refused.unwrap_err().code, 401);
    }
}
