//! The claims of a service-account token, exactly as upstream writes them (`pkg/serviceaccount/claims.go`), and the compact JWT form.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::keys::{SigningKey, VerifyingKey};

/// What a service-account token says. Times are seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom the token is.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// Not valid at or after.
    #[serde(default)]
    pub exp: i64,
    /// Issued at.
    #[serde(default)]
    pub iat: i64,
    /// Who issued it.
    #[serde(default)]
    pub iss: String,
    /// Unique id of the token; empty in old ones.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Binding,
    /// Not valid before.
    #[serde(default)]
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`
    #[serde(default)]
    pub sub: String,
}

/// The objects a token lives and dies with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Namespace of the account and of the pod or secret.
    #[serde(default)]
    pub namespace: String,
    /// The node the pod runs on, or the node bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The account.
    #[serde(default)]
    pub serviceaccount: Reference,
    /// Use after this time is remarked upon: the token was prolonged for clients that never reread it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Why a token was refused before anything was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Not three base64url parts with JSON in the first two, or not a token of an account.
    #[error("not a service account token")]
    NotAToken,
    /// No key of ours made its signature.
    #[error("invalid signature")]
    Signature,
}

/// The signed, compact form; `None` only when the system has no randomness to sign with.
pub fn seal(claims: &impl Serialize, key: &SigningKey) -> Option<String> {
    let header = Header { alg: key.public().algorithm.name().to_owned(), kid: key.public().id.clone() };
    let encode = |json: serde_json::Result<Vec<u8>>| json.ok().map(|j| URL_SAFE_NO_PAD.encode(j));
    let mut token = encode(serde_json::to_vec(&header))?;
    token.push('.');
    token.push_str(&encode(serde_json::to_vec(claims))?);
    let signature = URL_SAFE_NO_PAD.encode(key.sign(token.as_bytes())?);
    token.push('.');
    token.push_str(&signature);
    Some(token)
}

/// Who says to have issued a token, before anything of it is verified.
pub fn issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issued {
        #[serde(default)]
        iss: String,
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return None };
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Issued>(&payload).ok().map(|issued| issued.iss)
}

/// The key a token says to be signed with, before anything of it is verified.
pub(super) fn key_id(token: &str) -> Option<String> {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    serde_json::from_slice::<Header>(&header).ok().map(|header| header.kid)
}

/// The claims of a token whose signature one of `keys` made: the one its key id names, or any when it names none of them.
pub fn open<T: serde::de::DeserializeOwned>(token: &str, keys: &[VerifyingKey]) -> Result<T, FormError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(FormError::NotAToken)?;
    let (header, payload) = signed.split_once('.').ok_or(FormError::NotAToken)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| FormError::NotAToken);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| FormError::NotAToken)?;
    let claims: T = serde_json::from_slice(&decode(payload)?).map_err(|_| FormError::NotAToken)?;
    let signature = decode(signature)?;
    let named = keys.iter().any(|k| k.id == header.kid);
    let fits = |k: &&VerifyingKey| k.algorithm.name() == header.alg && (!named || k.id == header.kid);
    let verified = keys.iter().filter(fits).any(|k| k.verifies(signed.as_bytes(), &signature));
    if verified { Ok(claims) } else { Err(FormError::Signature) }
}

/// `aud` is a text or a list of texts (RFC 7519).
pub(super) fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec!["api".into()],
            exp: 2,
            iat: 1,
            iss: "https://issuer".into(),
            jti: "id".into(),
            kubernetes: Binding { namespace: "default".into(), ..Binding::default() },
            nbf: 1,
            sub: "system:serviceaccount:default:a".into(),
        }
    }

    #[test]
    fn a_token_opens_with_its_key_among_others_and_with_no_other() {
        let (mine, other) = (key(), key());
        let token = seal(&claims(), &mine).unwrap();
        assert_eq!(open(&token, &[other.public().clone(), mine.public().clone()]), Ok(claims()));
        assert_eq!(open::<Claims>(&token, &[other.public().clone()]), Err(FormError::Signature));
    }

    #[test]
    fn changed_claims_and_unsigned_tokens_are_refused() {
        let key = key();
        let token = seal(&claims(), &key).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let mut forged = claims();
        forged.sub = "system:serviceaccount:kube-system:root".into();
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&forged).unwrap());
        let keys = [key.public().clone()];
        assert_eq!(open::<Claims>(&format!("{}.{body}.{}", parts[0], parts[2]), &keys), Err(FormError::Signature));
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#);
        assert_eq!(open::<Claims>(&format!("{none}.{body}."), &keys), Err(FormError::Signature));
        assert_eq!(open::<Claims>("abc", &keys), Err(FormError::NotAToken));
    }

    #[test]
    fn a_single_audience_may_be_a_plain_text() {
        let read: Claims = serde_json::from_str(r#"{"aud":"api","kubernetes.io":{}}"#).unwrap();
        assert_eq!(read.aud, ["api"]);
    }
}
