//! What is written down of a request at one moment of its life (`audit.k8s.io/v1` Event).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use coracle_schema::{go::quoted, time};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::policy::Level;
use crate::{authn::User, request::RequestInfo, wire::Status};

/// A moment in a request's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Stage {
    /// It is known who asks for what; nothing was done yet.
    RequestReceived,
    /// The head of the answer of a watch or a stream is sent.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// It was given up in the middle.
    Panic,
}

impl Stage {
    /// A stage by its name in the API.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [
            ("RequestReceived", Self::RequestReceived),
            ("ResponseStarted", Self::ResponseStarted),
            ("ResponseComplete", Self::ResponseComplete),
            ("Panic", Self::Panic),
        ];
        all.into_iter().find(|(name, _)| *name == text).map(|(_, stage)| stage)
    }
}

/// An event, in the order in which upstream writes its fields.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    kind: &'static str,
    api_version: &'static str,
    pub(super) level: Level,
    #[serde(rename = "auditID")]
    pub(super) audit_id: String,
    pub(super) stage: Stage,
    #[serde(rename = "requestURI")]
    pub(super) request_uri: String,
    pub(super) verb: String,
    #[serde(serialize_with = "user_info")]
    pub(super) user: Option<Arc<User>>,
    #[serde(serialize_with = "user_info", skip_serializing_if = "Option::is_none")]
    pub(super) impersonated_user: Option<Arc<User>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub(super) source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_object: Option<Value>,
    #[serde(serialize_with = "micros")]
    pub(super) request_received_timestamp: Timestamp,
    #[serde(serialize_with = "micros")]
    pub(super) stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// How somebody was recognised.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AuthenticationMetadata {
    /// The verb by which acting as somebody else was allowed.
    impersonation_constraint: &'static str,
}

/// The object asked for; empty parts are not known.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

/// Longer user agents are cut, in bytes.
const USER_AGENT: usize = 1024;
/// Bytes of most events without objects.
const USUAL: usize = 1024;

/// What is known of a request when it comes.
pub struct Received<'a> {
    /// The `Audit-ID` of the request, given or made.
    pub audit_id: &'a str,
    /// Path and query.
    pub uri: String,
    /// What it asks for.
    pub info: &'a RequestInfo,
    /// Who asks, before impersonation; `None` when nobody was recognised.
    pub user: Option<Arc<User>>,
    /// Where it came from, the client first.
    pub source_ips: Vec<String>,
    /// `User-Agent`
    pub user_agent: &'a str,
    /// When it came.
    pub at: Timestamp,
}

impl Event {
    pub(super) fn new(level: Level, received: Received<'_>) -> Self {
        let Received { audit_id, uri, info, user, source_ips, user_agent, at } = received;
        let object_ref = info.is_resource.then(|| ObjectReference {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..ObjectReference::default()
        });
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level,
            audit_id: audit_id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: uri,
            verb: info.verb.clone(),
            user,
            impersonated_user: None,
            authentication_metadata: None,
            source_ips,
            user_agent: shortened(user_agent),
            object_ref,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: at,
            stage_timestamp: at,
            annotations: BTreeMap::new(),
        }
    }

    /// The request acts as somebody else; `constraint` is empty where everything that one may is allowed.
    pub(super) fn impersonate(&mut self, user: &Arc<User>, constraint: &'static str) {
        self.impersonated_user = Some(Arc::clone(user));
        let metadata = AuthenticationMetadata { impersonation_constraint: constraint };
        self.authentication_metadata = (!constraint.is_empty()).then_some(metadata);
    }

    /// What only the request's object tells of the object asked for.
    pub(super) fn name_object(&mut self, object: &Value) {
        let Some(reference) = &mut self.object_ref else { return };
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        let parts = [
            (&mut reference.namespace, "namespace"),
            (&mut reference.name, "name"),
            (&mut reference.uid, "uid"),
            (&mut reference.resource_version, "resourceVersion"),
        ];
        for (part, name) in parts {
            if part.is_empty() {
                text(name).clone_into(part);
            }
        }
    }

    /// The event as a line of JSON.
    pub(super) fn line(&self) -> Option<Bytes> {
        let mut line = Vec::with_capacity(USUAL);
        serde_json::to_writer(&mut line, self).ok()?;
        line.push(b'\n');
        Some(line.into())
    }

    /// The same without the objects it holds, which says so (`plugin/pkg/audit/truncate`).
    pub(super) fn without_objects(&self) -> Self {
        let mut event = Self { request_object: None, response_object: None, ..self.clone() };
        event.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
        event
    }

    /// The most important of it as a line of text (`audit.EventString`).
    pub(super) fn text(&self) -> String {
        let list = |groups: &[Arc<str>]| groups.iter().map(|group| quoted(group)).collect::<Vec<_>>().join(",");
        let user = self.user.as_ref().filter(|user| !user.name.is_empty());
        let (name, mut groups) = user.map_or(("<none>", "<none>".to_owned()), |user| (&*user.name, list(&user.groups)));
        if groups.is_empty() {
            "<none>".clone_into(&mut groups);
        }
        let (acting, as_groups) =
            self.impersonated_user.as_ref().map_or(("<self>", "<lookup>".to_owned()), |user| (&*user.name, list(&user.groups)));
        let namespace = self.object_ref.as_ref().map_or("", |object| &object.namespace);
        let response = self.response_status.as_ref().map_or_else(|| "<deferred>".to_owned(), |status| status["code"].to_string());
        format!(
            "{} AUDIT: id={} stage=\"{:?}\" ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{response}\"\n",
            self.request_received_timestamp,
            quoted(&self.audit_id),
            self.stage,
            quoted(self.source_ips.first().map_or("<unknown>", |ip| ip)),
            quoted(&self.verb),
            quoted(name),
            quoted(&groups),
            quoted(acting),
            quoted(&as_groups),
            quoted(&self.user_agent),
            quoted(if namespace.is_empty() { "<none>" } else { namespace }),
            quoted(&self.request_uri),
        )
    }

    /// What a `Status` tells beyond its code.
    pub(super) fn take_status(&mut self, status: &Value) {
        let mut outcome = serde_json::json!({"metadata": {}});
        for name in ["status", "message", "reason", "details", "code"] {
            if let Some(value) = status.get(name) {
                outcome[name] = value.clone();
            }
        }
        self.response_status = Some(outcome);
    }

    /// The outcome: a bare code, or a whole Status when it failed.
    pub(super) fn end(&mut self, code: u16, status: Option<&Status>) {
        let mut outcome = serde_json::json!({"metadata": {}, "code": code});
        if let Some(status) = status {
            outcome["status"] = "Failure".into();
            outcome["message"] = status.message.clone().into();
            if !status.reason.is_empty() {
                outcome["reason"] = status.reason.into();
            }
            if !status.details.is_null() {
                outcome["details"] = status.details.clone();
            }
        }
        self.response_status = Some(outcome);
    }
}

fn shortened(user_agent: &str) -> String {
    match user_agent.char_indices().take_while(|(at, c)| at + c.len_utf8() <= USER_AGENT).last() {
        Some((at, c)) if at + c.len_utf8() < user_agent.len() => format!("{}...TRUNCATED", &user_agent[..at + c.len_utf8()]),
        _ => user_agent.to_owned(),
    }
}

/// `2026-01-02T15:04:05.000000Z`
fn micros<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time::micros(*at))
}

fn user_info<S: Serializer>(user: &Option<Arc<User>>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct UserInfo<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        username: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        uid: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        groups: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        extra: Option<&'a BTreeMap<String, Vec<String>>>,
    }
    let user = user.as_deref();
    let info = UserInfo {
        username: user.map_or("", |u| &u.name),
        uid: user.map_or("", |u| &u.uid),
        groups: user.map(|u| u.groups.iter().map(|g| &**g).collect()).unwrap_or_default(),
        extra: user.map(|u| &u.extra).filter(|extra| !extra.is_empty()),
    };
    info.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_as_upstream_writes_it() {
        let info = RequestInfo {
            is_resource: true,
            verb: "get".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "live".into(),
            name: "web".into(),
            ..RequestInfo::default()
        };
        let received = Received {
            audit_id: "id-1",
            uri: "/api/v1/namespaces/live/pods/web?x=1".into(),
            info: &info,
            user: Some(Arc::new(User::new("jane", &["dev"]))),
            source_ips: vec!["127.0.0.1".into()],
            user_agent: "kubectl/v1.36.0",
            at: "2026-01-02T15:04:05.5Z".parse().unwrap(),
        };
        let mut event = Event::new(Level::Metadata, received);
        event.stage = Stage::ResponseComplete;
        event.end(200, None);
        event.annotations.insert("authorization.k8s.io/decision".into(), "allow".into());
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id-1","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/live/pods/web?x=1","verb":"get","user":{"username":"jane","groups":["dev","system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"kubectl/v1.36.0","objectRef":{"resource":"pods","namespace":"live","name":"web","apiVersion":"v1"},"responseStatus":{"code":200,"metadata":{}},"requestReceivedTimestamp":"2026-01-02T15:04:05.500000Z","stageTimestamp":"2026-01-02T15:04:05.500000Z","annotations":{"authorization.k8s.io/decision":"allow"}}"#
        );
    }

    #[test]
    fn an_event_without_objects_says_so_and_text_tells_the_most_important() {
        let info = RequestInfo { verb: "get".into(), path: "/x".into(), ..RequestInfo::default() };
        let received = Received {
            audit_id: "id-1",
            uri: "/x".into(),
            info: &info,
            user: Some(Arc::new(User::new("jane", &["dev"]))),
            source_ips: vec!["127.0.0.1".into()],
            user_agent: "curl",
            at: "2026-01-02T15:04:05.5Z".parse().unwrap(),
        };
        let mut event = Event::new(Level::RequestResponse, received);
        event.response_object = Some(serde_json::json!({"large": "x".repeat(1000)}));
        event.end(200, None);
        let cut = event.without_objects();
        assert!(cut.line().unwrap().len() < 700 && cut.annotations["audit.k8s.io/truncated"] == "true");
        assert_eq!(
            event.text(),
            "2026-01-02T15:04:05.5Z AUDIT: id=\"id-1\" stage=\"RequestReceived\" ip=\"127.0.0.1\" method=\"get\" user=\"jane\" groups=\"\\\"dev\\\",\\\"system:authenticated\\\"\" as=\"<self>\" asgroups=\"<lookup>\" user-agent=\"curl\" namespace=\"<none>\" uri=\"/x\" response=\"200\"\n"
        );
    }

    #[test]
    fn long_user_agents_are_cut_between_characters() {
        assert_eq!(shortened("kubectl"), "kubectl");
        let cut = shortened(&"é".repeat(600));
        assert_eq!((cut.ends_with("é...TRUNCATED"), cut.len()), (true, 1024 + 12));
    }
}
