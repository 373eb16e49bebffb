//! Tokens of OpenID Connect providers and other issuers of JSON web tokens (apiserver `plugin/pkg/authenticator/token/oidc`).
//!
//! | file | |
//! |---|---|
//! | `configuration` | `AuthenticationConfiguration` as it is written |
//! | `validation` | what is wrong in it (apiserver `pkg/apis/apiserver/validation`) |
//! | `expressions` | its expressions, compiled and asked |
//! | `provider` | an issuer's keys: found, fetched, fetched again |
//! | `keys` | JSON web keys and signatures |
//! | `mapping` | from claims to a user |
//! | `reload` | the configuration when its file changes |
//!
//! Claims that stand elsewhere (`_claim_names`) are not fetched: a token whose groups are told so is refused.

mod configuration;
mod expressions;
mod keys;
mod mapping;
mod provider;
mod reload;
mod validation;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_schema::go;
use coracle_tree::Map;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use configuration::{
    AnonymousConfiguration, ClaimOrExpression, ClaimRule, Condition, Configuration, Extra, Issuer, JwtAuthenticator, Mappings, Prefixed,
    UserRule,
};
pub use keys::Algorithm;
pub(super) use reload::Reload;
pub(crate) use validation::domain_prefixed_path;

use self::{mapping::Mapping, provider::Provider};
use super::{
    certificates, claims,
    tokens::{TokenError, Verified},
};
use crate::metrics::tokens::JWT_TIMES;

/// What is asked of JSON web tokens of others.
#[derive(Clone, Default)]
pub struct JwtOptions {
    /// Whom to believe, and what to make of their claims.
    pub configuration: Configuration,
    /// Signatures that are taken.
    pub algorithms: Vec<Algorithm>,
    /// The file the configuration stands in, and what it held; it is read again when it changes.
    pub file: Option<(std::path::PathBuf, Vec<u8>)>,
}

/// Clocks of issuer and verifier may differ by this much where a token says when it begins.
const LEEWAY: SignedDuration = SignedDuration::from_mins(5);
/// Google's issuer as its older tokens name it.
const GOOGLE: [&str; 2] = ["accounts.google.com", "https://accounts.google.com"];

/// Recognises tokens of several issuers.
pub(super) struct Jwt {
    issuers: Vec<Arc<One>>,
    /// Ends what fetches keys.
    _stop: DropGuard,
}

/// Recognises tokens of one issuer.
struct One {
    issuer: Issuer,
    /// What series call it.
    hash: String,
    algorithms: Vec<Algorithm>,
    mapping: Mapping,
    provider: Provider,
}

impl Jwt {
    /// For the issuers of a configuration. The error is of what is wrong in it, in upstream's words.
    pub(super) fn new(configuration: &Configuration, algorithms: &[Algorithm], disallowed: &[String]) -> Result<Self, String> {
        let stop = CancellationToken::new();
        let mut issuers = Vec::new();
        for authenticator in &configuration.jwt {
            let mapping = validation::one(authenticator, disallowed)?;
            let provider = Provider::new(&authenticator.issuer)?;
            let hash = format!("sha256:{}", certificates::hex(&Sha256::digest(&authenticator.issuer.url)));
            issuers.push(Arc::new(One { issuer: authenticator.issuer.clone(), hash, algorithms: algorithms.to_vec(), mapping, provider }));
        }
        for one in &issuers {
            let (one, stop) = (one.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = one.provider.initialize() => {}
                }
            });
        }
        Ok(Self { issuers, _stop: stop.drop_guard() })
    }

    /// Whether all issuers have been reached; why not, if not.
    fn health(&self) -> Result<(), String> {
        let fault = |one: &Arc<One>| {
            let why = one.provider.health().err()?;
            Some(format!("oidc: authenticator for issuer {:?} is not healthy: {why}", one.issuer.url))
        };
        let faults: Vec<String> = self.issuers.iter().filter_map(fault).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join(", ")) }
    }

    /// Whose token it is; `None` when it is of none of the issuers. `audiences` are those of the API server it was asked with.
    pub(super) async fn authenticate(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Option<Verified>, TokenError> {
        let Some(mut issuer) = claims::issuer(token) else { return Ok(None) };
        if issuer == GOOGLE[0] {
            GOOGLE[1].clone_into(&mut issuer);
        }
        let Some(one) = self.issuers.iter().find(|one| one.issuer.url == issuer) else { return Ok(None) };
        let started = tokio::time::Instant::now();
        let verified = one.authenticate(token, now).await.map_err(TokenError::Other);
        JWT_TIMES.took([if verified.is_ok() { "success" } else { "failure" }, &one.hash], started.elapsed());
        let verified = verified?;
        Ok(Some(Verified { audiences: audiences.into(), ..verified }))
    }
}

/// What a token says of itself that everybody must say.
#[derive(Deserialize)]
struct Registered {
    #[serde(default)]
    iss: String,
    #[serde(default, deserialize_with = "claims::one_or_many")]
    aud: Vec<String>,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    /// What is read of it here is only its type, as go-oidc's `idToken` has it.
    #[serde(default, rename = "iat")]
    _iat: Option<f64>,
    #[serde(default, rename = "sub")]
    _sub: Option<String>,
    #[serde(default, rename = "nonce")]
    _nonce: Option<String>,
    #[serde(default, rename = "at_hash")]
    _at_hash: Option<String>,
}

impl One {
    async fn authenticate(&self, token: &str, now: Timestamp) -> Result<Verified, String> {
        let (claims, until) = self.verify(token, now).await?;
        if let Some(names) = claims.get("_claim_names") {
            self.mapping.refuse_distributed(&claims, names)?;
        }
        let user = self.mapping.user(&claims)?.authenticated();
        Ok(Verified { until: Some(until), ..Verified::new(user, Vec::new()) })
    }

    /// The claims of a token that is good now, and when it ends.
    async fn verify(&self, token: &str, now: Timestamp) -> Result<(Map, Timestamp), String> {
        self.provider.health().map_err(|_| "oidc: authenticator not initialized".to_owned())?;
        let failed = |why: &str| format!("oidc: verify token: {why}");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| failed("oidc: malformed jwt"))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| failed("oidc: malformed jwt"))?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| failed("oidc: malformed jwt"));
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header: keys::Header = serde_json::from_slice(&header).map_err(|_| failed("oidc: malformed jwt"))?;
        let registered: Registered = serde_json::from_slice(&payload).map_err(|_| failed("oidc: failed to unmarshal claims"))?;
        let until = self.check(&registered, now).map_err(|why| failed(&why))?;
        let algorithm = Algorithm::named(&header.alg).filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or_else(|| {
            let mut allowed: Vec<String> = self.algorithms.iter().map(|a| a.name().to_owned()).collect();
            allowed.sort_unstable();
            failed(&format!("oidc: id token signed with unsupported algorithm, expected {} got {:?}", quoted(&allowed), header.alg))
        })?;
        if header.crit.is_some() {
            return Err(failed("oidc: malformed jwt: unsupported crit header"));
        }
        let good = self.provider.verifies(algorithm, header.kid.as_deref(), signed.as_bytes(), &signature).await;
        good.map_err(|why| failed(&format!("failed to verify signature: {why}")))?;
        let claims = serde_json::from_slice(&payload).map_err(|why| format!("oidc: parse claims: {why}"))?;
        Ok((claims, until))
    }

    /// What go-oidc checks of every token; when it ends.
    fn check(&self, claims: &Registered, now: Timestamp) -> Result<Timestamp, String> {
        let issuer = &self.issuer.url;
        if claims.iss != *issuer && !(claims.iss == GOOGLE[0] && issuer == GOOGLE[1]) {
            return Err(format!("oidc: id token issued by a different provider, expected {issuer:?} got {:?}", claims.iss));
        }
        let audiences = &self.issuer.audiences;
        if !claims.aud.iter().any(|audience| audiences.contains(audience)) {
            return Err(match audiences.as_slice() {
                [one] => format!("oidc: expected audience {one:?} got {}", quoted(&claims.aud)),
                many => {
                    let mut many = many.to_vec();
                    many.sort_unstable();
                    format!("oidc: expected audience in {} got {}", quoted(&many), quoted(&claims.aud))
                }
            });
        }
        let at =
            |seconds: f64| Timestamp::from_second(seconds as i64).unwrap_or(if seconds < 0.0 { Timestamp::MIN } else { Timestamp::MAX });
        let until = claims.exp.map_or(Timestamp::MIN, at);
        if until < now {
            return Err(format!("oidc: token is expired (Token Expiry: {until})"));
        }
        if let Some(begins) = claims.nbf.map(at)
            && now.checked_add(LEEWAY).is_ok_and(|soon| soon < begins)
        {
            return Err(format!("oidc: current time {now} before the nbf (not before) time: {begins}"));
        }
        Ok(until)
    }
}

/// A list as Go's `%q` writes it.
fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| go::quoted(item)).collect();
    format!("[{}]", items.join(" "))
}

#[cfg(test)]
mod tests;
