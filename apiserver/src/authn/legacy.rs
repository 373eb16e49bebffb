//! Tokens that stand in secrets of type `kubernetes.io/service-account-token`: they never end, but die with their secret
//! (`pkg/serviceaccount/legacy.go`).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    User,
    tokens::{TokenError, same},
};
use crate::registry::Reader;

/// The `iss` of all of them.
pub const ISSUER: &str = "kubernetes/serviceaccount";

/// What such a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    #[serde(deserialize_with = "super::claims::one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

/// Marks a secret whose token was not used for long.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// The account of a token whose signature is good, if its secret still holds it and the account is the same.
pub(super) async fn user(claims: &Claims, token: &str, reader: &dyn Reader) -> Result<User, TokenError> {
    let Claims { namespace, secret, account, uid, sub, .. } = claims;
    let named =
        [("sub", sub), ("namespace", namespace), ("secretName", secret), ("serviceAccountName", account), ("serviceAccountUID", uid)];
    let refused = |why: String| Err(TokenError::Other(why));
    if let Some((name, _)) = named.iter().find(|(_, value)| value.is_empty()) {
        return refused(format!("{name} claim is missing"));
    }
    if *sub != format!("system:serviceaccount:{namespace}:{account}") {
        return refused("sub claim is invalid".to_owned());
    }
    let look = async |resource: &str, name: &str| {
        let found = reader.get("", resource, namespace, name).await.map_err(TokenError::Lookup)?;
        Ok::<_, TokenError>(found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()))
    };
    let Some(stored) = look("secrets", secret).await?.filter(|s| s["metadata"]["deletionTimestamp"].is_null()) else {
        return refused("Token has been invalidated".to_owned());
    };
    let kept = stored["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    if !same(&kept, token.as_bytes()) {
        return refused("Token does not match server's copy".to_owned());
    }
    let Some(found) = look("serviceaccounts", account).await? else {
        return refused(format!("serviceaccounts {account:?} not found"));
    };
    if !found["metadata"]["deletionTimestamp"].is_null() {
        return refused(format!("ServiceAccount {namespace}/{account} has been deleted"));
    }
    let now = found["metadata"]["uid"].as_str().unwrap_or_default();
    if now != uid {
        return refused(format!("ServiceAccount UID ({now}) does not match claim ({uid})"));
    }
    if stored["metadata"]["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
        return refused(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    let of_namespace = format!("system:serviceaccounts:{namespace}");
    let mut user = User::new(sub, &["system:serviceaccounts", &of_namespace]);
    user.uid = uid.as_str().into();
    Ok(user)
}
