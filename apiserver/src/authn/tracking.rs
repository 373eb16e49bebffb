//! What is kept of the use of tokens that stand in secrets: a label with the day on each, and since when that is done, in a ConfigMap of
//! kube-system (`pkg/serviceaccount/legacy.go`, `controlplane/controller/legacytokentracking`). Whoever removes tokens that nobody uses
//! goes by both.

use std::{sync::Arc, time::Duration};

use coracle_tree::{Value, json};
use jiff::{SignedDuration, Timestamp, civil::Date, tz::Offset};
use tracing::warn;

use crate::{
    registry::{Reader, Writer},
    verbs::Clock,
    wire::Status,
};

/// The day a token was used last.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// So often a secret that others change is marked anew.
const ATTEMPTS: usize = 3;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";
/// How often the ConfigMap is looked after.
const LOOK: Duration = Duration::from_secs(10);
/// It is made anew no sooner than this: a server beside this one that keeps nothing of the use of tokens removes it.
const AGAIN: SignedDuration = SignedDuration::from_mins(30);

/// Marks a secret as used today, unless it is. That it fails keeps nobody from going on.
pub(super) async fn used((reader, writer): (&dyn Reader, &dyn Writer), secret: &Value, now: Timestamp) {
    let mut secret = secret.clone();
    let text = |secret: &Value, name: &str| secret["metadata"][name].as_str().unwrap_or_default().to_owned();
    let (namespace, name, uid) = (text(&secret, "namespace"), text(&secret, "name"), text(&secret, "uid"));
    let mut written = Ok(());
    for _ in 0..ATTEMPTS {
        if is_marked(&secret, now) {
            return;
        }
        secret["metadata"]["labels"][LAST_USED] = day(now).to_string().into();
        (secret["apiVersion"], secret["kind"]) = ("v1".into(), "Secret".into());
        written = writer.update("secrets", "", &namespace, secret.clone()).await.map(drop);
        if !written.as_ref().is_err_and(|status| status.code == 409) {
            break;
        }
        // Somebody else changed it, or marked it just now.
        let found = reader.get("", "secrets", &namespace, &name).await.ok().flatten();
        let found = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let Some(same) = found.filter(|found| text(found, "uid") == uid) else { return };
        secret = same;
    }
    if let Err(status) = written {
        warn!(%status, secret = format!("{namespace}/{name}"), "the use of its token is not marked");
    }
}

/// Whether it says of today that its token was used. Tomorrow counts: the clocks of servers differ.
fn is_marked(secret: &Value, now: Timestamp) -> bool {
    let today = day(now);
    let said = secret["metadata"]["labels"][LAST_USED].as_str();
    said.is_some_and(|said| said == today.to_string() || today.tomorrow().is_ok_and(|tomorrow| said == tomorrow.to_string()))
}

fn day(now: Timestamp) -> Date {
    Offset::UTC.to_datetime(now).date()
}

/// Keeps the ConfigMap.
pub(crate) struct Tracking {
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) writer: Arc<dyn Writer>,
}

impl Tracking {
    /// Looks after it for ever. `made`: when this server made it.
    pub(crate) async fn follow(self, mut made: Option<Timestamp>, clock: Clock) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look(made, clock()).await {
                Ok(now) => made = now,
                Err(status) => warn!(%status, "{NAMESPACE}/{NAME} is not up to date"),
            }
        }
    }

    /// Makes it if it is not there, and mends it if it does not name a day; then when it was made by this server last.
    pub(crate) async fn look(&self, made: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, Status> {
        let found = self.reader.get("", "configmaps", NAMESPACE, NAME).await?;
        let found = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let today = day(now).to_string();
        let written = match found {
            Some(map) if map["data"][SINCE].as_str().is_some_and(is_day) => return Ok(made),
            Some(mut map) => {
                map["data"][SINCE] = today.into();
                self.writer.update("configmaps", "", NAMESPACE, map).await.map(|_| made)
            }
            None if made.is_some_and(|made| now.duration_since(made) < AGAIN) => return Ok(made),
            None => {
                let metadata = json!({"name": NAME, "namespace": NAMESPACE});
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {SINCE: today}});
                self.writer.create("configmaps", NAMESPACE, map).await.map(|_| Some(now))
            }
        };
        match written {
            // Another server was quicker; the next look sees what it wrote.
            Err(status) if matches!(status.code, 404 | 409) => Ok(made),
            written => written,
        }
    }
}

/// Whether it is a day as upstream writes them, `2006-01-02`.
fn is_day(text: &str) -> bool {
    text.len() == 10 && text.parse::<Date>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::FakeReader;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn label(reader: &FakeReader) -> Value {
        reader.look("", "secrets", "ns", "s").unwrap()["metadata"]["labels"][LAST_USED].clone()
    }

    #[tokio::test]
    async fn a_secret_is_marked_once_a_day_though_others_change_it() {
        let reader = FakeReader::default();
        let secret = |labels: Value| json!({"metadata": {"name": "s", "namespace": "ns", "uid": "1", "labels": labels}});
        let old = reader.put("", "secrets", secret(json!({})));
        let now = at("2026-11-21T23:59:00Z");
        used((&reader, &reader), &old, now).await;
        assert_eq!(label(&reader), "2026-11-21");
        let writes = reader.writes();
        let marked = reader.look("", "secrets", "ns", "s").unwrap();
        used((&reader, &reader), &marked, now).await;
        used((&reader, &reader), &old, now).await;
        assert_eq!(reader.writes(), writes, "it is marked already");

        let stale = reader.look("", "secrets", "ns", "s").unwrap();
        reader.put("", "secrets", secret(json!({"mine": "x"})));
        let next = at("2026-11-22T00:00:00Z");
        used((&reader, &reader), &stale, next).await;
        assert_eq!(label(&reader), "2026-11-22");
        assert_eq!(reader.look("", "secrets", "ns", "s").unwrap()["metadata"]["labels"]["mine"], "x");
        let ahead = reader.look("", "secrets", "ns", "s").unwrap();
        used((&reader, &reader), &ahead, now).await;
        assert_eq!(label(&reader), "2026-11-22", "the clock of another server is ahead");
    }

    #[tokio::test]
    async fn another_secret_of_the_name_is_not_marked() {
        let reader = FakeReader::default();
        let secret = |uid: &str| json!({"metadata": {"name": "s", "namespace": "ns", "uid": uid}});
        let old = reader.put("", "secrets", secret("1"));
        reader.put("", "secrets", secret("2"));
        used((&reader, &reader), &old, at("2026-11-21T12:00:00Z")).await;
        assert_eq!(label(&reader), Value::Null);
    }

    #[tokio::test]
    async fn it_stands_in_the_map_since_when_use_is_kept() {
        let reader = Arc::new(FakeReader::default());
        let tracking = Tracking { reader: reader.clone(), writer: reader.clone() };
        let since = |reader: &FakeReader| reader.look("", "configmaps", NAMESPACE, NAME).map(|map| map["data"][SINCE].clone());
        let now = at("2026-11-21T12:00:00Z");
        let made = tracking.look(None, now).await.unwrap();
        assert_eq!((made, since(&reader)), (Some(now), Some("2026-11-21".into())));
        assert_eq!(tracking.look(made, at("2026-11-22T12:00:00Z")).await.unwrap(), made);
        assert_eq!(since(&reader), Some("2026-11-21".into()), "it stays");

        let mut map = reader.look("", "configmaps", NAMESPACE, NAME).unwrap();
        map["data"][SINCE] = "21 November".into();
        reader.put("", "configmaps", map);
        tracking.look(made, at("2026-11-22T12:00:00Z")).await.unwrap();
        assert_eq!(since(&reader), Some("2026-11-22".into()));

        reader.remove("", "configmaps", NAMESPACE, NAME);
        tracking.look(made, at("2026-11-21T12:29:00Z")).await.unwrap();
        assert_eq!(since(&reader), None, "another server may be without");
        tracking.look(made, at("2026-11-21T12:30:00Z")).await.unwrap();
        assert_eq!(since(&reader), Some("2026-11-21".into()));
    }
}
