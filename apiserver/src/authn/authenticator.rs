//! From a connection's certificate and a request's headers to a user.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::debug;

use super::{
    Authorities, FrontProxy, Peer, User, WebhookOptions, bearer,
    cache::{Cache, Key, Remembered},
    external::Signer,
    issuer::{Issuer, Signing},
    join,
    jwt::{JwtOptions, Reload},
    keys::{SigningKey, VerifyingKey},
    tokens::{Refusal, Remarks, TokenError, Verified, Verifier},
    webhook::TokenWebhook,
};
use crate::{
    metrics::tokens as series,
    registry::{Reader, Writer},
    webhook::Egress,
    wire::Status,
};

/// A token that was good is believed for this long without another look (`TokenSuccessCacheTTL`).
const CACHED: SignedDuration = SignedDuration::from_secs(10);

/// How users are recognised.
#[derive(Default)]
pub struct Options {
    /// `--service-account-issuer`: accepted issuers; the first signs new tokens.
    pub issuers: Vec<String>,
    /// `--service-account-jwks-uri`: where the keys of tokens are read, if not here.
    pub jwks_uri: Option<String>,
    /// `--api-audiences`; the issuers when empty.
    pub audiences: Vec<String>,
    /// `--service-account-signing-key-file`; without it no tokens are issued.
    pub signing_key: Option<SigningKey>,
    /// Who signs instead of a key of ours (`--service-account-signing-endpoint`), a path or `@name`.
    pub signing_endpoint: Option<String>,
    /// What that is when it was found; made of `signing_endpoint` at the start.
    pub signer: Option<Arc<Signer>>,
    /// `--service-account-key-file`; the signing key verifies, too.
    pub verifying_keys: Vec<VerifyingKey>,
    /// `--service-account-max-token-expiration`
    pub longest_token: Option<SignedDuration>,
    /// `--service-account-extend-token-expiration`
    pub extend_tokens: bool,
    /// Whose certificates count; what serves the network keeps them current.
    pub authorities: Arc<Authorities>,
    /// What front proxies may say; none are believed without.
    pub front_proxy: Option<FrontProxy>,
    /// Where nobody in particular may ask.
    pub anonymous: Anonymous,
    /// `--enable-bootstrap-token-auth`
    pub bootstrap_tokens: bool,
    /// `--token-auth-file`, read by [`bearer::fixed_tokens`].
    pub fixed_tokens: HashMap<String, Arc<User>>,
    /// Issuers of JSON web tokens (`--authentication-config`, `--oidc-…`).
    pub jwt: Option<JwtOptions>,
    /// Who is asked of tokens that nobody here knows (`--authentication-token-webhook-config-file`).
    pub webhook: Option<WebhookOptions>,
    /// By which way that one is reached.
    pub egress: Egress,
    /// What marks secrets whose tokens are used; they are not marked without.
    pub writer: Option<Arc<dyn Writer>>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Recognised {
    /// The user.
    pub user: Arc<User>,
    /// What is to be told of the token that was used.
    pub remarks: Option<Arc<Remarks>>,
}

impl From<Arc<User>> for Recognised {
    fn from(user: Arc<User>) -> Self {
        Self { user, remarks: None }
    }
}

/// Where requests without credentials are those of `system:anonymous` (`--anonymous-auth`, or `anonymous` of the configuration file).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nowhere.
    #[default]
    Off,
    /// Everywhere.
    On,
    /// At these paths only.
    Paths(Vec<String>),
}

/// Recognises users. Front proxies first, then certificates, then tokens, then nobody in particular.
pub struct Authenticator {
    authorities: Arc<Authorities>,
    front_proxy: Option<FrontProxy>,
    anonymous: Anonymous,
    nobody: Arc<User>,
    bootstrap_tokens: bool,
    fixed_tokens: HashMap<String, Arc<User>>,
    audiences: Vec<String>,
    issuers: Vec<String>,
    jwks_uri: Option<String>,
    verifier: Verifier,
    issuer: Option<Issuer>,
    jwt: Option<Reload>,
    webhook: Option<TokenWebhook>,
    recent: Cache<Verified>,
    reader: Arc<dyn Reader>,
}

impl Authenticator {
    /// Builds it; `reader` is where accounts, pods, nodes and secrets are looked up. The error is of the configuration of issuers.
    pub fn new(options: Options, reader: Arc<dyn Reader>) -> Result<Self, String> {
        let Options { issuers, mut audiences, signing_key, mut verifying_keys, .. } = options;
        if audiences.is_empty() {
            audiences.clone_from(&issuers);
        }
        if let Some(key) = signing_key.as_ref().map(SigningKey::public).filter(|k| !verifying_keys.contains(k)) {
            verifying_keys.insert(0, key.clone());
        }
        let signing = signing_key.map(Signing::Here).or_else(|| options.signer.clone().map(Signing::Elsewhere));
        let issuer = signing.zip(issuers.first()).map(|(signing, name)| Issuer {
            name: name.clone(),
            signing,
            audiences: audiences.clone(),
            longest: options.longest_token,
            extend: options.extend_tokens,
            reader: reader.clone(),
        });
        Ok(Self {
            authorities: options.authorities,
            front_proxy: options.front_proxy,
            anonymous: options.anonymous,
            nobody: Arc::new(User::anonymous()),
            bootstrap_tokens: options.bootstrap_tokens,
            fixed_tokens: options.fixed_tokens,
            webhook: options.webhook.map(|webhook| TokenWebhook::new(webhook, &options.egress, audiences.clone())),
            recent: Cache::new(),
            jwt: options.jwt.map(|jwt| Reload::new(jwt, &issuers)).transpose()?,
            issuers: issuers.clone(),
            jwks_uri: options.jwks_uri.clone(),
            verifier: Verifier::new(issuers, verifying_keys, audiences.clone(), reader.clone())
                .marking(options.writer)
                .asking(options.signer),
            audiences,
            issuer,
            reader,
        })
    }

    /// Follows the configuration of issuers for ever.
    pub async fn follow(&self) {
        if let Some(jwt) = &self.jwt {
            jwt.follow().await;
        }
    }

    /// Who asks for a path. `peer` is what the connection showed of certificates, `last` what is known of the token it carried last.
    /// A credential that is not good is refused, not taken as anonymous; one that is good goes before any that is not.
    pub async fn authenticate(
        &self,
        (peer, last): (Option<&Peer>, &Remembered),
        headers: &HeaderMap,
        path: &str,
        now: Timestamp,
    ) -> Result<Recognised, Status> {
        let mut refused: Vec<String> = Vec::new();
        if let Some(peer) = peer {
            let known = peer.known(&self.authorities, now.as_second());
            let proxied = self.front_proxy.as_ref().map_or(Ok(None), |proxy| proxy.user(&known, headers));
            if let Ok(Some(user)) = proxied {
                return Ok(Arc::new(user).into());
            }
            if let Some(Ok(user)) = &known.user {
                return Ok(user.clone().into());
            }
            refused.extend(proxied.err().map(Cow::into_owned));
            refused.extend(known.user.as_ref().and_then(|user| user.as_ref().err().cloned()));
        }
        if let Some(token) = bearer::token(headers) {
            let known = last.key(&token);
            let key = known.unwrap_or_else(|| self.recent.key(&token, &self.audiences));
            match self.verified(&token, key, &self.audiences, now).await {
                Ok(verified) => {
                    if known.is_none() {
                        last.put(&token, key);
                    }
                    return Ok(Recognised { user: verified.user, remarks: verified.remarks });
                }
                Err(refusal) => refused.push(refusal.to_string()),
            }
        }
        if refused.is_empty() {
            return self.nobody(path).map(Recognised::from).ok_or_else(Status::unauthorized);
        }
        let why = refused.join(", ");
        debug!(why, "credentials refused");
        Err(Status { log: Some(why), ..Status::unauthorized() })
    }

    /// Who asks without any credentials, where that is allowed.
    fn nobody(&self, path: &str) -> Option<Arc<User>> {
        let allowed = match &self.anonymous {
            Anonymous::Off => false,
            Anonymous::On => true,
            Anonymous::Paths(paths) => paths.iter().any(|allowed| allowed == path),
        };
        allowed.then(|| self.nobody.clone())
    }

    /// Takes what a front proxy may have said out of a request's headers: nobody behind is to see it.
    pub fn clear(&self, headers: &mut HeaderMap) {
        FrontProxy::clear(self.front_proxy.as_ref(), headers);
    }

    /// What front proxies may say.
    pub fn front_proxy(&self) -> Option<&FrontProxy> {
        self.front_proxy.as_ref()
    }

    /// Whose certificates count.
    pub fn authorities(&self) -> &Arc<Authorities> {
        &self.authorities
    }

    /// Whose token it is, and for which of the `audiences`.
    pub async fn token(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Verified, Refusal> {
        self.verified(token, self.recent.key(token, audiences), audiences, now).await
    }

    /// The same of a token with this key.
    async fn verified(&self, token: &str, key: Key, audiences: &[String], now: Timestamp) -> Result<Verified, Refusal> {
        let started = Instant::now();
        let told = |status: &str| {
            series::REQUESTS.inc([status]);
            series::REQUEST_TIMES.took([status], started.elapsed());
        };
        if let Some(known) = self.recent.get(&key, now) {
            told("hit");
            return Ok(known);
        }
        let fetching = series::FETCHING.hold(["in_flight"]);
        let found = self.look_up(token, audiences, now).await;
        drop(fetching);
        series::FETCHES.inc([if found.is_ok() { "ok" } else { "error" }]);
        told("miss");
        let found = found?;
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
            return Ok(Verified { user: user.clone(), audiences: ours.into(), until: None, remarks: None });
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
        // After service accounts: an issuer may have to be asked for its keys first.
        if let Some(jwt) = self.jwt.as_ref().filter(|_| is_ours)
            && let Some(verified) = refusal.unless(jwt.authenticate(token, &ours, now).await)
        {
            return Ok(verified);
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

    /// The key set document, and for how many seconds it is good.
    pub fn key_set(&self) -> (coracle_tree::Value, u64) {
        let (keys, seconds) = self.verifier.keys();
        (super::issuer::key_set(&keys), seconds)
    }

    /// The OIDC discovery document; `own` is where this server tells the keys. `None` when the issuer is no https URL, as upstream then
    /// serves none.
    pub fn discovery(&self, own: &str) -> Option<(coracle_tree::Value, u64)> {
        let issuer = self.issuers.first().filter(|i| i.starts_with("https://"))?;
        let (keys, seconds) = self.verifier.keys();
        Some((super::issuer::discovery(issuer, self.jwks_uri.as_deref().unwrap_or(own), &keys), seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::FakeReader;

    fn authenticator(anonymous: Anonymous) -> Authenticator {
        let fixed_tokens = bearer::fixed_tokens("secret,jane,u1").unwrap();
        let options = Options { anonymous, fixed_tokens, issuers: vec!["https://i".into()], ..Options::default() };
        Authenticator::new(options, Arc::new(FakeReader::default())).unwrap()
    }

    fn headers(token: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        headers
    }

    /// Authenticator, a certificate of one of its authorities and one of nobody.
    fn certificates() -> (Authenticator, Peer, Peer) {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let a = authenticator(Anonymous::On);
        let make = || {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let authority = params.self_signed(&key).unwrap().pem();
            let issuer = Issuer::new(params, key);
            let mut leaf = CertificateParams::new(Vec::new()).unwrap();
            leaf.distinguished_name.push(DnType::CommonName, "cert");
            leaf.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
            (authority, Peer::new(&[leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()]).unwrap())
        };
        let (known, good) = make();
        a.authorities.replace(&known, "").unwrap();
        (a, good, make().1)
    }

    #[tokio::test]
    async fn certificate_goes_before_token_and_token_before_nobody() {
        let (a, good, stranger) = certificates();
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let last = Remembered::default();
        let name = async |peer: Option<&Peer>, token: Option<&str>| {
            a.authenticate((peer, &last), &headers(token), "/api", now).await.map(|found| found.user.name.to_string()).map_err(|s| s.code)
        };
        assert_eq!(name(Some(&good), Some("secret")).await, Ok("cert".into()));
        assert_eq!(name(Some(&good), Some("wrong")).await, Ok("cert".into()));
        assert_eq!(name(None, Some("secret")).await, Ok("jane".into()));
        assert_eq!(name(None, None).await, Ok("system:anonymous".into()));
        assert_eq!(name(None, Some("wrong")).await, Err(401));
        assert_eq!(name(Some(&stranger), None).await, Err(401), "a certificate of nobody is not nothing");
        assert_eq!(name(Some(&stranger), Some("secret")).await, Ok("jane".into()));
    }

    #[tokio::test]
    async fn without_credentials_one_is_nobody_where_that_is_allowed() {
        let code = async |anonymous: Anonymous, path: &str| {
            let asked = authenticator(anonymous);
            asked
                .authenticate((None, &Remembered::default()), &headers(None), path, Timestamp::UNIX_EPOCH)
                .await
                .map(|_| 200)
                .unwrap_or_else(|s| s.code)
        };
        let paths = || Anonymous::Paths(vec!["/livez".into()]);
        assert_eq!(code(Anonymous::Off, "/livez").await, 401);
        assert_eq!(code(paths(), "/livez").await, 200);
        assert_eq!(code(paths(), "/livez/ping").await, 401);
    }

    #[tokio::test]
    async fn a_token_is_believed_for_ten_seconds_whatever_becomes_of_its_account() {
        use coracle_tree::json;
        let reader = Arc::new(FakeReader::default());
        reader.put("", "serviceaccounts", json!({"metadata": {"name": "a", "namespace": "ns", "uid": "1"}}));
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let signing_key = Some(SigningKey::from_pem(pem.as_bytes()).unwrap());
        let options = Options { signing_key, issuers: vec!["https://i".into()], ..Options::default() };
        let a = Authenticator::new(options, reader.clone()).unwrap();
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let request = crate::registry::Object::new(json!({"spec": {}})).unwrap();
        let issued = a.issuer().unwrap().issue("ns", "a", request, now, &mut Vec::new()).await.unwrap();
        let token = issued.text("/status/token").to_owned();
        let (last, headers) = (Remembered::default(), headers(Some(&token)));
        let good = async |second: i64| {
            let at = now.checked_add(SignedDuration::from_secs(second)).unwrap();
            let asked = a.authenticate((None, &last), &headers, "/api", at).await.is_ok();
            assert_eq!(asked, a.token(&token, a.audiences(), at).await.is_ok());
            asked
        };
        assert!(good(0).await);
        reader.remove("", "serviceaccounts", "ns", "a");
        assert!(good(9).await);
        assert!(!good(10).await);
    }
}
