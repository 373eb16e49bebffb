//! Bootstrap tokens, with which new nodes join (`plugin/pkg/auth/authenticator/token/bootstrap`): secrets `bootstrap-token-ID` in kube-system.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Deserialize;

use super::{User, tokens::same};
use crate::{registry::Reader, wire::Status};

/// The group of everyone who has a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Id and secret of a text of a bootstrap token's form, `abcdef.0123456789abcdef`.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let allowed = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (allowed(id, 6) && allowed(secret, 16)).then_some((id, secret))
}

/// Who holds the token; `None` when it is not good.
pub async fn user(reader: &dyn Reader, token: &str, now: Timestamp) -> Result<Option<User>, Status> {
    let Some((id, secret)) = parse(token) else { return Ok(None) };
    let found = reader.get("", "secrets", "kube-system", &format!("bootstrap-token-{id}")).await?;
    let Some(stored) = found.and_then(|b| serde_json::from_slice::<Secret>(&b).ok()) else { return Ok(None) };
    let good = stored.kind == "bootstrap.kubernetes.io/token"
        && stored.metadata.deletion_timestamp.is_none()
        && stored.field("token-id").as_deref() == Some(id)
        && stored.field("token-secret").is_some_and(|s| same(s.as_bytes(), secret.as_bytes()))
        && stored.field("usage-bootstrap-authentication").as_deref() == Some("true")
        && stored.lives(now);
    if !good {
        return Ok(None);
    }
    let extra = stored.field("auth-extra-groups").unwrap_or_default();
    let mut groups = vec![BOOTSTRAPPERS];
    groups.extend(extra.split(',').map(str::trim).filter(|g| g.starts_with("system:bootstrappers:")));
    Ok(Some(User::new(&format!("system:bootstrap:{id}"), &groups)))
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default, rename = "type")]
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    data: std::collections::HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

impl Secret {
    fn field(&self, name: &str) -> Option<String> {
        String::from_utf8(STANDARD.decode(self.data.get(name)?).ok()?).ok()
    }

    /// Whether `expiration` is absent or ahead; one that cannot be read counts as passed.
    fn lives(&self, now: Timestamp) -> bool {
        match self.field("expiration").filter(|e| !e.is_empty()) {
            Some(at) => at.parse::<Timestamp>().is_ok_and(|at| now < at),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::registry::fake::FakeReader;

    fn store(change: impl Fn(&mut coracle_tree::Value)) -> FakeReader {
        let reader = FakeReader::default();
        let mut data = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "expiration": "2026-11-21T12:00:00Z", "auth-extra-groups": "system:bootstrappers:workers,system:masters",
        });
        change(&mut data);
        for value in data.as_object_mut().unwrap().values_mut() {
            *value = STANDARD.encode(value.as_str().unwrap()).into();
        }
        let metadata = json!({"name": "bootstrap-token-abcdef", "namespace": "kube-system"});
        reader.put("", "secrets", json!({"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "data": data}));
        reader
    }

    async fn name(reader: &FakeReader, token: &str, now: &str) -> Option<User> {
        user(reader, token, now.parse().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_good_token_is_a_bootstrapper_with_only_bootstrapper_groups() {
        let user = name(&store(|_| {}), "abcdef.0123456789abcdef", "2026-11-21T11:00:00Z").await.unwrap();
        assert_eq!(&*user.name, "system:bootstrap:abcdef");
        assert!(user.in_group("system:bootstrappers") && user.in_group("system:bootstrappers:workers"));
        assert!(!user.in_group("system:masters"));
    }

    #[tokio::test]
    async fn wrong_expired_or_unmarked_tokens_are_nobody() {
        let before = "2026-11-21T11:00:00Z";
        assert_eq!(name(&store(|_| {}), "abcdef.0123456789abcdee", before).await, None);
        assert_eq!(name(&store(|_| {}), "abcdef.0123456789abcdef", "2026-11-21T12:00:00Z").await, None);
        let unmarked = store(|d| d["usage-bootstrap-authentication"] = "false".into());
        assert_eq!(name(&unmarked, "abcdef.0123456789abcdef", before).await, None);
        assert_eq!(name(&store(|_| {}), "nonsense", before).await, None);
    }
}
