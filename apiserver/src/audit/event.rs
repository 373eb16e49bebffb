//! What is written down of a request at one moment of its life (`audit.k8s.io/v1` Event).

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use coracle_schema::{go::quoted, time};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct};
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

/// An event. [`Event::line`] writes its fields in upstream's order.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) level: Level,
    pub(super) audit_id: String,
    pub(super) stage: Stage,
    pub(super) request_uri: String,
    pub(super) verb: String,
    pub(super) user: Option<Arc<User>>,
    pub(super) impersonated_user: Option<Arc<User>>,
    authentication_metadata: Option<AuthenticationMetadata>,
    pub(super) source_ips: Vec<String>,
    pub(super) user_agent: String,
    pub(super) object_ref: Option<ObjectReference>,
    pub(super) response_status: Option<Outcome>,
    pub(super) request_object: Option<Value>,
    pub(super) response_object: Option<Value>,
    pub(super) request_received_timestamp: Timestamp,
    pub(super) stage_timestamp: Timestamp,
    pub(super) annotations: BTreeMap<Cow<'static, str>, String>,
    /// What later lines share with this one.
    written: Option<Written>,
}

/// A line that was written, and where in it what the next one begins with ends.
#[derive(Clone, Debug)]
struct Written {
    line: Bytes,
    /// The head, up to the stage.
    head: usize,
    /// What was asked, if that is as it was.
    asked: Option<Range<usize>>,
    /// When it came.
    received: Range<usize>,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// With this code, and nothing to say.
    Code(u16),
    /// With what a `Status` told.
    Told(Value),
}

/// The members of an event up to its stage.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'e> {
    kind: &'static str,
    api_version: &'static str,
    level: Level,
    #[serde(rename = "auditID")]
    audit_id: &'e str,
}

/// Those between its stage and its outcome: what was asked, and by whom.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'e> {
    #[serde(rename = "requestURI")]
    request_uri: &'e str,
    verb: &'e str,
    #[serde(serialize_with = "user_info")]
    user: Option<&'e User>,
    #[serde(serialize_with = "user_info", skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<&'e User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
    source_ips: &'e [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<&'e ObjectReference>,
}

/// Those of its outcome. There may be none.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered<'e> {
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<&'e Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'e Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<&'e Value>,
}

/// The last ones.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tail<'e> {
    #[serde(serialize_with = "micros")]
    stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'e BTreeMap<Cow<'static, str>, String>,
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
/// Bytes by which the last event of a request is longer than its first one, mostly.
const MORE: usize = 320;

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
            written: None,
        }
    }

    /// The request acts as somebody else; `constraint` is empty where everything that one may is allowed.
    pub(super) fn impersonate(&mut self, user: &Arc<User>, constraint: &'static str) {
        self.impersonated_user = Some(Arc::clone(user));
        let metadata = AuthenticationMetadata { impersonation_constraint: constraint };
        self.authentication_metadata = (!constraint.is_empty()).then_some(metadata);
        self.ask_anew();
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
        let mut told = false;
        for (part, name) in parts {
            if part.is_empty() && !text(name).is_empty() {
                text(name).clone_into(part);
                told = true;
            }
        }
        if told {
            self.ask_anew();
        }
    }

    /// What was asked is another thing than what was written of it.
    fn ask_anew(&mut self) {
        if let Some(written) = &mut self.written {
            written.asked = None;
        }
    }

    /// The event as a line of JSON. What an earlier line of it held, and is as it was, is taken from there.
    pub(super) fn line(&mut self) -> Option<Bytes> {
        let before = self.written.as_ref();
        let mut line = Vec::with_capacity(before.map_or(USUAL, |before| before.line.len() + MORE));
        match before {
            Some(before) => line.extend_from_slice(&before.line[..before.head]),
            None => {
                let head = Head { kind: "Event", api_version: "audit.k8s.io/v1", level: self.level, audit_id: &self.audit_id };
                serde_json::to_writer(&mut line, &head).ok()?;
                line.pop();
                line.extend_from_slice(b",\"stage\":");
            }
        }
        let head = line.len();
        serde_json::to_writer(&mut line, &self.stage).ok()?;
        let asked = line.len();
        match before.and_then(|before| Some(&before.line[before.asked.clone()?])) {
            Some(before) => line.extend_from_slice(before),
            None => append(&mut line, &self.asked())?,
        }
        let asked = asked..line.len();
        let (response_status, request_object) = (self.response_status.as_ref(), self.request_object.as_ref());
        append(&mut line, &Answered { response_status, request_object, response_object: self.response_object.as_ref() })?;
        let received = line.len();
        match before {
            Some(before) => line.extend_from_slice(&before.line[before.received.clone()]),
            None => {
                line.extend_from_slice(b",\"requestReceivedTimestamp\":\"");
                line.extend_from_slice(time::micros(self.request_received_timestamp).as_bytes());
                line.push(b'"');
            }
        }
        let received = received..line.len();
        append(&mut line, &Tail { stage_timestamp: self.stage_timestamp, annotations: &self.annotations })?;
        line.extend_from_slice(b"}\n");
        let line = Bytes::from(line);
        // What comes after the others comes soon, or it is the end of a watch, which may last for days.
        let another = self.stage == Stage::RequestReceived;
        self.written = another.then(|| Written { line: line.clone(), head, asked: Some(asked), received });
        Some(line)
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            request_uri: &self.request_uri,
            verb: &self.verb,
            user: self.user.as_deref(),
            impersonated_user: self.impersonated_user.as_deref(),
            authentication_metadata: self.authentication_metadata,
            source_ips: &self.source_ips,
            user_agent: &self.user_agent,
            object_ref: self.object_ref.as_ref(),
        }
    }

    /// The same without the objects it holds, which says so (`plugin/pkg/audit/truncate`).
    pub(super) fn without_objects(&self) -> Self {
        let mut event = Self { request_object: None, response_object: None, ..self.clone() };
        event.annotations.insert("audit.k8s.io/truncated".into(), "true".to_owned());
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
        let response = self.response_status.as_ref().map_or_else(|| "<deferred>".to_owned(), Outcome::code);
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
        self.response_status = Some(Outcome::Told(outcome));
    }

    /// The outcome: a bare code, or a whole Status when it failed.
    pub(super) fn end(&mut self, code: u16, status: Option<&Status>) {
        let Some(status) = status else {
            self.response_status = Some(Outcome::Code(code));
            return;
        };
        let mut outcome = serde_json::json!({"metadata": {}, "code": code, "status": "Failure", "message": status.message});
        if !status.reason.is_empty() {
            outcome["reason"] = status.reason.into();
        }
        if !status.details.is_null() {
            outcome["details"] = status.details.clone();
        }
        self.response_status = Some(Outcome::Told(outcome));
    }
}

impl Outcome {
    /// Its code as text.
    fn code(&self) -> String {
        match self {
            Self::Code(code) => code.to_string(),
            Self::Told(status) => status["code"].to_string(),
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Code(code) => {
                let mut members = serializer.serialize_struct("Status", 2)?;
                members.serialize_field("code", code)?;
                members.serialize_field("metadata", &Nothing {})?;
                members.end()
            }
            Self::Told(status) => status.serialize(serializer),
        }
    }
}

/// `{}`
#[derive(Serialize)]
struct Nothing {}

/// Adds the members of an object to one that is not closed yet, which has some already.
fn append<T: Serialize>(line: &mut Vec<u8>, members: &T) -> Option<()> {
    let at = line.len();
    serde_json::to_writer(&mut *line, members).ok()?;
    line.pop();
    if line.len() == at + 1 {
        line.truncate(at);
    } else {
        line[at] = b',';
    }
    Some(())
}

fn shortened(user_agent: &str) -> String {
    if user_agent.len() <= USER_AGENT {
        return user_agent.to_owned();
    }
    match user_agent.char_indices().take_while(|(at, c)| at + c.len_utf8() <= USER_AGENT).last() {
        Some((at, c)) if at + c.len_utf8() < user_agent.len() => format!("{}...TRUNCATED", &user_agent[..at + c.len_utf8()]),
        _ => user_agent.to_owned(),
    }
}

/// `2026-01-02T15:04:05.000000Z`
fn micros<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time::micros(*at))
}

fn user_info<S: Serializer>(user: &Option<&User>, serializer: S) -> Result<S::Ok, S::Error> {
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
            String::from_utf8(event.line().unwrap().to_vec()).unwrap().trim_end(),
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id-1","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/live/pods/web?x=1","verb":"get","user":{"username":"jane","groups":["dev","system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"kubectl/v1.36.0","objectRef":{"resource":"pods","namespace":"live","name":"web","apiVersion":"v1"},"responseStatus":{"code":200,"metadata":{}},"requestReceivedTimestamp":"2026-01-02T15:04:05.500000Z","stageTimestamp":"2026-01-02T15:04:05.500000Z","annotations":{"authorization.k8s.io/decision":"allow"}}"#
        );
    }

    #[test]
    fn a_later_line_is_the_one_it_would_be_without_an_earlier_one() {
        let info = RequestInfo { is_resource: true, verb: "create".into(), resource: "pods".into(), ..RequestInfo::default() };
        let received = Received {
            audit_id: "id \"1\"",
            uri: "/x".into(),
            info: &info,
            user: Some(Arc::new(User::new("jane", &["dev"]))),
            source_ips: Vec::new(),
            user_agent: "curl",
            at: "2026-01-02T15:04:05.5Z".parse().unwrap(),
        };
        let steps: [fn(&mut Event); 5] = [
            |_| {},
            |event| event.impersonate(&Arc::new(User::new("joe", &[])), "impersonate:user-info"),
            |event| event.name_object(&serde_json::json!({"metadata": {"name": "web", "uid": "1"}})),
            |event| event.end(201, None),
            |event| event.stage = Stage::ResponseComplete,
        ];
        let (mut event, mut seen) = (Event::new(Level::Metadata, received), Vec::new());
        for step in steps {
            step(&mut event);
            let line = event.line().unwrap();
            assert_eq!(line, Event { written: None, ..event.clone() }.line().unwrap());
            assert!(serde_json::from_slice::<Value>(&line).unwrap().is_object() && !seen.contains(&line));
            seen.push(line);
        }
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
        let mut cut = event.without_objects();
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
