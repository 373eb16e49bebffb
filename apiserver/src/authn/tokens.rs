//! Verifies service-account tokens: signature, issuer, audience, time, and that what they are bound to is still there
//! (`pkg/serviceaccount/jwt.go` and `claims.go`).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    CREDENTIAL_ID, User,
    claims::{self, Binding, Claims, FormError, Reference},
    external::Signer,
    keys::VerifyingKey,
    legacy,
};
use crate::{
    metrics::tokens as series,
    registry::{Reader, Writer},
    wire::Status,
};

/// Clocks of issuer and verifier may differ by this much.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// For how many seconds keys of files are said to be good.
const KEYS_KEPT: u64 = 3600;

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
    /// It says to be of a time to come.
    #[error("service account token is issued in the future")]
    Future,
    /// The account is gone.
    #[error("serviceaccounts {0:?} not found")]
    NoAccount(String),
    /// The account is as good as gone.
    #[error("service account {0} has been deleted")]
    Deleted(String),
    /// The subject and the claims name different accounts.
    #[error("sub claim does not match the service account of the token")]
    Subject,
    /// An object it is bound to is gone.
    #[error("service account token has been invalidated")]
    Invalidated,
    /// An object of the same name is another one now.
    #[error("{kind} UID ({now}) does not match {claim} ({claimed})")]
    Uid {
        /// `service account`, `pod`, …
        kind: &'static str,
        /// What the token calls it.
        claim: &'static str,
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
    /// What is to be told whenever it is used.
    pub remarks: Option<Arc<Remarks>>,
}

/// What is to be told of a token's use: to the audit trail, and to whoever uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// For the trail.
    pub annotations: Vec<(&'static str, String)>,
    /// For the client.
    pub warnings: Vec<String>,
}

impl Remarks {
    /// One more for the trail.
    pub(super) fn annotate(&mut self, key: &'static str, value: &str) {
        self.annotations.push((key, value.to_owned()));
    }

    /// Something to be told, if there is anything.
    fn told(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

impl Verified {
    /// A token of nobody knows what end.
    pub fn new(user: User, audiences: Vec<String>) -> Self {
        Self { user: Arc::new(user), audiences: audiences.into(), until: None, remarks: None }
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
    keys: Arc<[VerifyingKey]>,
    /// Who signs elsewhere, and tells the keys.
    signer: Option<Arc<Signer>>,
    /// Those of a token that names none: the API server's.
    implicit: Vec<String>,
    reader: Arc<dyn Reader>,
    /// What marks secrets whose tokens are used; they are not marked without.
    writer: Option<Arc<dyn Writer>>,
}

impl Verifier {
    /// A verifier over these issuers and keys; `implicit` are the audiences of old tokens, which name none.
    pub fn new(issuers: Vec<String>, keys: Vec<VerifyingKey>, implicit: Vec<String>, reader: Arc<dyn Reader>) -> Self {
        Self { issuers, keys: keys.into(), signer: None, implicit, reader, writer: None }
    }

    /// The same, marking secrets whose tokens are used.
    #[must_use]
    pub fn marking(self, writer: Option<Arc<dyn Writer>>) -> Self {
        Self { writer, ..self }
    }

    /// The same, with the keys of somebody who signs elsewhere.
    #[must_use]
    pub fn asking(self, signer: Option<Arc<Signer>>) -> Self {
        Self { signer, ..self }
    }

    /// The keys tokens are verified with, and for how many seconds they are good.
    pub fn keys(&self) -> (Arc<[VerifyingKey]>, u64) {
        self.signer.as_ref().map_or_else(|| (Arc::clone(&self.keys), KEYS_KEPT), |signer| signer.keys())
    }

    /// Those a token may be signed with.
    async fn keys_of(&self, token: &str) -> Vec<VerifyingKey> {
        match &self.signer {
            Some(signer) => signer.keys_of(&claims::key_id(token).unwrap_or_default()).await,
            None => self.keys.to_vec(),
        }
    }

    /// Whose token it is, when it is good for one of the `wanted` audiences; `None` when it is of none of our issuers.
    pub async fn verify(&self, token: &str, wanted: &[String], now: Timestamp) -> Result<Option<Verified>, TokenError> {
        let Some(issuer) = claims::issuer(token).filter(|_| self.signer.is_some() || !self.keys.is_empty()) else { return Ok(None) };
        if issuer == legacy::ISSUER {
            return self.verify_legacy(token, wanted, now).await.map(Some);
        }
        if !self.issuers.contains(&issuer) {
            return Ok(None);
        }
        let claims: Claims = claims::open(token, &self.keys_of(token).await)?;
        if claims.iss != issuer {
            return Err(TokenError::Issuer(claims.iss));
        }
        let mut remarks = Remarks::default();
        let met = meet(User::default(), &claims.aud, wanted)?;
        let expires = check_time(&claims, now)?;
        self.check_bound(&claims.kubernetes, now).await?;
        let user = Arc::new(user(&claims)?);
        stale(&claims, now, &mut remarks);
        Ok(Some(Verified { user, until: Some(after(expires, LEEWAY)), remarks: remarks.told(), ..met }))
    }

    async fn verify_legacy(&self, token: &str, wanted: &[String], now: Timestamp) -> Result<Verified, TokenError> {
        let claims: legacy::Claims = claims::open(token, &self.keys_of(token).await)?;
        if claims.iss != legacy::ISSUER {
            return Err(TokenError::Issuer(claims.iss));
        }
        let mut remarks = Remarks::default();
        let mut audiences = &claims.aud;
        if audiences.is_empty() {
            series::WITHOUT_AUDIENCE.inc([]);
            remarks.annotate("authentication.k8s.io/legacy-token", &claims.sub);
            audiences = &self.implicit;
        }
        let met = meet(User::default(), audiences, wanted)?;
        let user = legacy::user(&claims, token, (&*self.reader, self.writer.as_deref()), now, &mut remarks).await?;
        Ok(Verified { user: Arc::new(user), remarks: remarks.told(), ..met })
    }

    async fn check_bound(&self, bound: &Binding, now: Timestamp) -> Result<(), TokenError> {
        let (namespace, account) = (&bound.namespace, &bound.serviceaccount);
        let is_gone = match self.look("serviceaccounts", namespace, account).await? {
            None => return Err(TokenError::NoAccount(account.name.clone())),
            Some(found) => found.check(("service account", "claim"), account, now)?,
        };
        if is_gone {
            return Err(TokenError::Deleted(format!("{namespace}/{}", account.name)));
        }
        if let Some(secret) = &bound.secret {
            self.check(("secret", "service account secret ref claim"), "secrets", namespace, secret, now).await?;
        }
        if let Some(pod) = &bound.pod {
            self.check(("pod", "service account pod ref claim"), "pods", namespace, pod, now).await?;
        } else if let Some(node) = &bound.node {
            // Beside a pod the node is information only: the pod dies with it.
            self.check(("node", "service account node ref claim"), "nodes", "", node, now).await?;
        }
        Ok(())
    }

    async fn look(&self, resource: &str, namespace: &str, bound: &Reference) -> Result<Option<Named>, TokenError> {
        let found = self.reader.get("", resource, namespace, &bound.name).await.map_err(TokenError::Lookup)?;
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// That the object is there, is the same, and was not deleted longer ago than the leeway.
    async fn check(
        &self,
        names: (&'static str, &'static str),
        resource: &str,
        namespace: &str,
        bound: &Reference,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let found = self.look(resource, namespace, bound).await?.ok_or(TokenError::Invalidated)?;
        if found.check(names, bound, now)? { Err(TokenError::Invalidated) } else { Ok(()) }
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

impl Named {
    /// That it is the same; then whether it was deleted longer ago than the leeway.
    fn check(self, (kind, claim): (&'static str, &'static str), bound: &Reference, now: Timestamp) -> Result<bool, TokenError> {
        if self.metadata.uid != bound.uid {
            return Err(TokenError::Uid { kind, claim, now: self.metadata.uid, claimed: bound.uid.clone() });
        }
        let deleted = self.metadata.deletion_timestamp.and_then(|t| t.parse::<Timestamp>().ok());
        Ok(deleted.is_some_and(|at| after(at, LEEWAY) < now))
    }
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
    if at(claims.nbf) > after(now, LEEWAY) {
        return Err(TokenError::NotYet);
    }
    if after(expires, LEEWAY) < now {
        return Err(TokenError::Expired);
    }
    if at(claims.iat) > after(now, LEEWAY) {
        return Err(TokenError::Future);
    }
    Ok(expires)
}

/// Remarks on a token that was prolonged for clients which never read it again, and is used by one.
fn stale(claims: &Claims, now: Timestamp, remarks: &mut Remarks) {
    let Some(from) = claims.kubernetes.warnafter.filter(|at| *at != 0) else { return };
    let late = now.as_second() - from;
    if now > Timestamp::from_second(from).unwrap_or(Timestamp::MAX) {
        series::STALE_USES.inc([]);
        let said = format!("subject: {}, seconds after warning threshold: {late}", claims.sub);
        remarks.annotate("authentication.k8s.io/stale-token", &said);
    } else {
        series::FRESH_USES.inc([]);
    }
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
    use coracle_tree::json;

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
        let cases: [Case; 9] = [
            (|c| c.iss = "x".into(), "not ours"),
            (|c| c.aud = vec!["other".into()], "invalid for the target audiences"),
            (|c| c.exp -= 661, "expired"),
            (|c| c.nbf += 61, "not valid yet"),
            (|c| c.sub = "system:serviceaccount:ns:b".into(), "sub claim"),
            (|c| c.iat += 61, "issued in the future"),
            (|c| c.kubernetes.serviceaccount.uid = "sa-0".into(), "service account UID (sa-1) does not match claim (sa-0)"),
            (
                |c| c.kubernetes.pod = Some(Reference { name: "p".into(), uid: "p".into() }),
                "pod UID (pod-1) does not match service account pod ref claim (p)",
            ),
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
        let good = of_secret();
        let outcome = async |claims: &legacy::Claims, labels: coracle_tree::Value, stored: Option<&str>| {
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

    /// The token of the secret `ns/s`.
    fn of_secret() -> legacy::Claims {
        legacy::Claims {
            iss: legacy::ISSUER.into(),
            sub: "system:serviceaccount:ns:a".into(),
            namespace: "ns".into(),
            secret: "s".into(),
            account: "a".into(),
            uid: "sa-1".into(),
            ..legacy::Claims::default()
        }
    }

    #[tokio::test]
    async fn a_token_used_late_or_out_of_a_secret_is_remarked_upon() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let f = fixture();
        let late = async |from: i64| {
            let change = |c: &mut Claims| c.kubernetes.warnafter = Some(from);
            let mut claims = claims(f.now);
            change(&mut claims);
            let token = claims::seal(&claims, &f.key).unwrap();
            f.verifier.verify(&token, &["api".to_owned()], f.now).await.unwrap().unwrap().remarks
        };
        assert_eq!(late(f.now.as_second()).await, None);
        let said = "subject: system:serviceaccount:ns:a, seconds after warning threshold: 5".to_owned();
        assert_eq!(late(f.now.as_second() - 5).await.unwrap().annotations, [("authentication.k8s.io/stale-token", said)]);

        let token = claims::seal(&of_secret(), &f.key).unwrap();
        let data = json!({"token": STANDARD.encode(&token)});
        f.reader.put("", "secrets", json!({"metadata": {"name": "s", "namespace": "ns"}, "data": data}));
        let issuers = vec!["https://issuer".into()];
        let verifier = Verifier::new(issuers, vec![f.key.public().clone()], vec!["api".into()], f.reader.clone());
        let verifier = verifier.marking(Some(f.reader.clone()));
        let used = async || verifier.verify(&token, &["api".to_owned()], f.now).await.unwrap().unwrap().remarks.unwrap();
        let keys = |remarks: &Remarks| remarks.annotations.iter().map(|(key, _)| key.rsplit('/').next().unwrap()).collect::<Vec<_>>();
        let manual = used().await;
        assert_eq!((keys(&manual), manual.warnings.len()), (vec!["legacy-token", "legacy-token-manual-secret"], 0));
        let labels = f.reader.look("", "secrets", "ns", "s").unwrap()["metadata"]["labels"].clone();
        assert_eq!(labels, json!({"kubernetes.io/legacy-token-last-used": "2026-11-21"}));
        let account = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "sa-1"}, "secrets": [{"name": "s"}]});
        f.reader.put("", "serviceaccounts", account);
        let automatic = used().await;
        assert_eq!(keys(&automatic), ["legacy-token", "legacy-token-autogenerated-secret"]);
        assert!(automatic.warnings[0].starts_with("Use tokens from the TokenRequest API"));
    }

    #[tokio::test]
    async fn a_deleted_but_lingering_pod_ends_the_token_after_the_leeway() {
        let f = fixture();
        let deleted = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pod-1", "deletionTimestamp": "2026-11-21T11:58:59Z"}});
        f.reader.put("", "pods", deleted);
        assert!(verify(&f, |_| {}, f.now).await.unwrap_err().contains("invalidated"));
    }
}
