//! Verifies service-account tokens: signature, issuer, audience, time, and that what they are bound to is still there
//! (`pkg/serviceaccount/jwt.go` and `claims.go`).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    CREDENTIAL_ID, User,
    claims::{self, Binding, Claims, FormError, Reference},
    keys::VerifyingKey,
    legacy,
};
use crate::{registry::Reader, wire::Status};

/// Clocks of issuer and verifier may differ by this much.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Why a token is not good.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// Malformed, or not signed by us.
    #[error(transparent)]
    Form(#[from] FormError),
    /// Signed by us but in another name.
    #[error("unknown issuer {0:?}")]
    Issuer(String),
    /// For somebody else.
    #[error("token audiences {token:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// What the token says.
        token: Vec<String>,
        /// What was asked for.
        wanted: Vec<String>,
    },
    /// Its time is over.
    #[error("service account token has expired")]
    Expired,
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYet,
    /// The account is gone.
    #[error("serviceaccounts {0:?} not found")]
    NoAccount(String),
    /// The subject and the claims name different accounts.
    #[error("sub claim does not match the service account of the token")]
    Subject,
    /// An object it is bound to is gone.
    #[error("service account token has been invalidated")]
    Invalidated,
    /// An object of the same name is another one now.
    #[error("{kind} UID ({now}) does not match claim ({claimed})")]
    Uid {
        /// `service account`, `pod`, …
        kind: &'static str,
        /// The object's.
        now: String,
        /// The token's.
        claimed: String,
    },
    /// The lookup failed.
    #[error("cannot check the token now: {0}")]
    Lookup(Status),
    /// What others said of it who are asked: issuers, the webhook.
    #[error("{0}")]
    Other(String),
}

/// A good token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The account.
    pub user: Arc<User>,
    /// Those of the audiences asked for that the token is for.
    pub audiences: Arc<[String]>,
    /// When it ends, if that is known: nobody believes it longer.
    pub until: Option<Timestamp>,
}

impl Verified {
    /// A token of nobody knows what end.
    pub fn new(user: User, audiences: Vec<String>) -> Self {
        Self { user: Arc::new(user), audiences: audiences.into(), until: None }
    }
}

/// Why nobody knows a token: what those said whose token it could have been, none when it is nobody's.
#[derive(Clone, Debug, Default)]
pub struct Refusal(pub Vec<TokenError>);

impl Refusal {
    /// What was found, if anything; an error is kept.
    pub(super) fn unless<T>(&mut self, found: Result<Option<T>, TokenError>) -> Option<T> {
        found.unwrap_or_else(|error| {
            self.0.push(error);
            None
        })
    }
}

/// What is said of a token that nobody knows; of one that is known but not good, the reasons follow.
const INVALID: &str = "invalid bearer token";

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str(INVALID);
        }
        write!(f, "[{INVALID}")?;
        self.0.iter().try_for_each(|error| write!(f, ", {error}"))?;
        f.write_str("]")
    }
}

/// Verifies tokens of this cluster's issuers.
pub struct Verifier {
    /// Accepted `iss` values, the current one first.
    issuers: Vec<String>,
    keys: Vec<VerifyingKey>,
    /// Those of a token that names none: the API server's.
    implicit: Vec<String>,
    reader: Arc<dyn Reader>,
}

impl Verifier {
    /// A verifier over these issuers and keys; `implicit` are the audiences of old tokens, which name none.
    pub fn new(issuers: Vec<String>, keys: Vec<VerifyingKey>, implicit: Vec<String>, reader: Arc<dyn Reader>) -> Self {
        Self { issuers, keys, implicit, reader }
    }

    /// The keys tokens are verified with.
    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// Whose token it is, when it is good for one of the `wanted` audiences; `None` when it is of none of our issuers.
    pub async fn verify(&self, token: &str, wanted: &[String], now: Timestamp) -> Result<Option<Verified>, TokenError> {
        let Some(issuer) = claims::issuer(token).filter(|_| !self.keys.is_empty()) else { return Ok(None) };
        if issuer == legacy::ISSUER {
            return self.verify_legacy(token, wanted).await.map(Some);
        }
        if !self.issuers.contains(&issuer) {
            return Ok(None);
        }
        let claims: Claims = claims::open(token, &self.keys)?;
        if claims.iss != issuer {
            return Err(TokenError::Issuer(claims.iss));
        }
        let expires = check_time(&claims, now)?;
        self.check_bound(&claims.kubernetes, now).await?;
        let verified = meet(user(&claims)?, &claims.aud, wanted)?;
        Ok(Some(Verified { until: Some(after(expires, LEEWAY)), ..verified }))
    }

    async fn verify_legacy(&self, token: &str, wanted: &[String]) -> Result<Verified, TokenError> {
        let claims: legacy::Claims = claims::open(token, &self.keys)?;
        if claims.iss != legacy::ISSUER {
            return Err(TokenError::Issuer(claims.iss));
        }
        let audiences = if claims.aud.is_empty() { &self.implicit } else { &claims.aud };
        let verified = meet(User::default(), audiences, wanted)?;
        let user = legacy::user(&claims, token, &*self.reader).await?;
        Ok(Verified { user: Arc::new(user), ..verified })
    }

    async fn check_bound(&self, bound: &Binding, now: Timestamp) -> Result<(), TokenError> {
        let namespace = &bound.namespace;
        let account = &bound.serviceaccount;
        match self.check("service account", "serviceaccounts", namespace, account, now).await {
            Err(TokenError::Invalidated) => return Err(TokenError::NoAccount(account.name.clone())),
            other => other?,
        }
        if let Some(secret) = &bound.secret {
            self.check("secret", "secrets", namespace, secret, now).await?;
        }
        if let Some(pod) = &bound.pod {
            self.check("pod", "pods", namespace, pod, now).await?;
        } else if let Some(node) = &bound.node {
            // Beside a pod the node is information only: the pod dies with it.
            self.check("node", "nodes", "", node, now).await?;
        }
        Ok(())
    }

    /// That the object is there, is the same, and was not deleted longer ago than the leeway.
    async fn check(
        &self,
        kind: &'static str,
        resource: &str,
        namespace: &str,
        bound: &Reference,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let found = self.reader.get("", resource, namespace, &bound.name).await.map_err(TokenError::Lookup)?;
        let found: Named = found.and_then(|b| serde_json::from_slice(&b).ok()).ok_or(TokenError::Invalidated)?;
        let deleted = found.metadata.deletion_timestamp.and_then(|t| t.parse::<Timestamp>().ok());
        if deleted.is_some_and(|at| after(at, LEEWAY) < now) {
            return Err(TokenError::Invalidated);
        }
        if found.metadata.uid != bound.uid {
            return Err(TokenError::Uid { kind, now: found.metadata.uid, claimed: bound.uid.clone() });
        }
        Ok(())
    }
}

/// The little of an object that a bound token needs.
#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    deletion_timestamp: Option<String>,
}

/// Compares in a time that does not tell where the difference is.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// `time + span`, at the end of time when that is later.
fn after(time: Timestamp, span: SignedDuration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// When the token expires, if it is valid now.
fn check_time(claims: &Claims, now: Timestamp) -> Result<Timestamp, TokenError> {
    let end = |seconds: i64| if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(end(seconds));
    let expires = at(claims.exp);
    if after(expires, LEEWAY) < now {
        return Err(TokenError::Expired);
    }
    if at(claims.nbf) > after(now, LEEWAY) || at(claims.iat) > after(now, LEEWAY) {
        return Err(TokenError::NotYet);
    }
    Ok(expires)
}

/// The account as a user, with the groups of all accounts and the facts about the bound objects.
fn user(claims: &Claims) -> Result<User, TokenError> {
    let bound = &claims.kubernetes;
    let name = format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name);
    if claims.sub != name {
        return Err(TokenError::Subject);
    }
    let of_namespace = format!("system:serviceaccounts:{}", bound.namespace);
    let mut user = User::new(&name, &["system:serviceaccounts", &of_namespace]);
    user.uid = bound.serviceaccount.uid.as_str().into();
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        extra(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    }
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            extra(&format!("authentication.kubernetes.io/{kind}-name"), &reference.name);
            extra(&format!("authentication.kubernetes.io/{kind}-uid"), &reference.uid);
        }
    }
    Ok(user)
}

/// The audiences wanted that the token is for; there must be one.
fn meet(user: User, audiences: &[String], wanted: &[String]) -> Result<Verified, TokenError> {
    let both: Vec<String> = wanted.iter().filter(|w| audiences.contains(w)).cloned().collect();
    if both.is_empty() {
        return Err(TokenError::Audience { token: audiences.to_vec(), wanted: wanted.to_vec() });
    }
    Ok(Verified::new(user, both))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{authn::keys::SigningKey, registry::fake::FakeReader};

    struct Fixture {
        key: SigningKey,
        reader: Arc<FakeReader>,
        verifier: Verifier,
        now: Timestamp,
    }

    fn fixture() -> Fixture {
        let key = SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        let reader = Arc::new(FakeReader::default());
        reader.put("", "serviceaccounts", json!({"metadata": {"name": "a", "namespace": "ns", "uid": "sa-1"}}));
        reader.put("", "pods", json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pod-1"}}));
        let verifier = Verifier::new(vec!["https://issuer".into()], vec![key.public().clone()], vec!["api".into()], reader.clone());
        Fixture { key, reader, verifier, now: "2026-11-21T12:00:00Z".parse().unwrap() }
    }

    fn claims(now: Timestamp) -> Claims {
        let reference = |name: &str, uid: &str| Reference { name: name.into(), uid: uid.into() };
        Claims {
            aud: vec!["api".into(), "vault".into()],
            exp: now.as_second() + 600,
            iat: now.as_second(),
            iss: "https://issuer".into(),
            jti: "j".into(),
            kubernetes: Binding {
                namespace: "ns".into(),
                serviceaccount: reference("a", "sa-1"),
                pod: Some(reference("p", "pod-1")),
                node: Some(reference("n", "node-1")),
                ..Binding::default()
            },
            nbf: now.as_second(),
            sub: "system:serviceaccount:ns:a".into(),
        }
    }

    async fn verify(f: &Fixture, change: impl Fn(&mut Claims), now: Timestamp) -> Result<Verified, String> {
        let mut claims = claims(f.now);
        change(&mut claims);
        let token = claims::seal(&claims, &f.key).unwrap();
        let verified = f.verifier.verify(&token, &["api".into()], now).await.map_err(|e| e.to_string())?;
        verified.ok_or_else(|| "not ours".to_owned())
    }

    #[tokio::test]
    async fn a_good_token_is_the_account_with_its_groups_and_extras() {
        let f = fixture();
        let verified = verify(&f, |_| {}, f.now).await.unwrap();
        assert_eq!(&*verified.user.name, "system:serviceaccount:ns:a");
        assert_eq!(&*verified.user.uid, "sa-1");
        assert_eq!(*verified.audiences, ["api".to_owned()]);
        for group in ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"] {
            assert!(verified.user.in_group(group), "{group}");
        }
        let extra = |key: &str| verified.user.extra[&format!("authentication.kubernetes.io/{key}")][0].as_str();
        assert_eq!([extra("pod-name"), extra("pod-uid"), extra("node-name"), extra("credential-id")], ["p", "pod-1", "n", "JTI=j"]);
    }

    #[tokio::test]
    async fn each_wrong_claim_is_refused_with_its_reason() {
        let f = fixture();
        type Case = (fn(&mut Claims), &'static str);
        let cases: [Case; 7] = [
            (|c| c.iss = "x".into(), "not ours"),
            (|c| c.aud = vec!["other".into()], "invalid for the target audiences"),
            (|c| c.exp -= 661, "expired"),
            (|c| c.nbf += 61, "not valid yet"),
            (|c| c.sub = "system:serviceaccount:ns:b".into(), "sub claim"),
            (|c| c.kubernetes.serviceaccount.uid = "sa-0".into(), "service account UID (sa-1) does not match"),
            (|c| c.kubernetes.secret = Some(Reference { name: "s".into(), uid: "s".into() }), "invalidated"),
        ];
        for (change, reason) in cases {
            let error = verify(&f, change, f.now).await.unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[tokio::test]
    async fn a_token_dies_with_its_pod() {
        let f = fixture();
        let token = claims::seal(&claims(f.now), &f.key).unwrap();
        let wanted = ["api".to_owned()];
        assert!(f.verifier.verify(&token, &wanted, f.now).await.unwrap().is_some());
        f.reader.remove("", "pods", "ns", "p");
        assert!(matches!(f.verifier.verify(&token, &wanted, f.now).await, Err(TokenError::Invalidated)));
    }

    #[tokio::test]
    async fn a_token_of_a_secret_dies_with_it_and_with_its_account() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let f = fixture();
        let good = legacy::Claims {
            iss: legacy::ISSUER.into(),
            sub: "system:serviceaccount:ns:a".into(),
            namespace: "ns".into(),
            secret: "s".into(),
            account: "a".into(),
            uid: "sa-1".into(),
            ..legacy::Claims::default()
        };
        let outcome = async |claims: &legacy::Claims, labels: serde_json::Value, stored: Option<&str>| {
            let token = claims::seal(claims, &f.key).unwrap();
            let data = json!({"token": STANDARD.encode(stored.unwrap_or(&token))});
            f.reader.put("", "secrets", json!({"metadata": {"name": "s", "namespace": "ns", "labels": labels}, "data": data}));
            let verified = f.verifier.verify(&token, &["api".into()], f.now).await.map_err(|e| e.to_string())?;
            verified.map(|v| v.user.name.to_string()).ok_or_else(|| "not ours".to_owned())
        };
        assert_eq!(outcome(&good, json!({}), None).await, Ok("system:serviceaccount:ns:a".into()));
        type Case = (fn(&mut legacy::Claims), &'static str);
        let cases: [Case; 5] = [
            (|c| c.uid = "sa-0".into(), "ServiceAccount UID (sa-1) does not match claim (sa-0)"),
            (|c| c.sub = "system:serviceaccount:ns:b".into(), "sub claim is invalid"),
            (|c| c.secret = "other".into(), "Token has been invalidated"),
            (|c| c.aud = vec!["else".into()], "is invalid for the target audiences"),
            (|c| c.secret.clear(), "secretName claim is missing"),
        ];
        for (change, expected) in cases {
            let mut claims = good.clone();
            change(&mut claims);
            let refused = outcome(&claims, json!({}), None).await.unwrap_err();
            assert!(refused.contains(expected), "{expected}: {refused}");
        }
        assert_eq!(outcome(&good, json!({}), Some("other")).await, Err("Token does not match server's copy".into()));
        let marked = outcome(&good, json!({"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}), None).await.unwrap_err();
        assert!(marked.contains("has been marked invalid"), "{marked}");
        f.reader.remove("", "serviceaccounts", "ns", "a");
        assert_eq!(outcome(&good, json!({}), None).await, Err("serviceaccounts \"a\" not found".into()));
    }

    #[tokio::test]
    async fn a_deleted_but_lingering_pod_ends_the_token_after_the_leeway() {
        let f = fixture();
        let deleted = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pod-1", "deletionTimestamp": "2026-11-21T11:58:59Z"}});
        f.reader.put("", "pods", deleted);
        assert!(verify(&f, |_| {}, f.now).await.unwrap_err().contains("invalidated"));
    }
}
