//! What is written down of a request at one moment of its life (`audit.k8s.io/v1` Event).

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use coracle_schema::go::quoted;
use coracle_tree::Value;
use jiff::Timestamp;

use super::{line::Written, policy::Level};
use crate::{authn::User, request::RequestInfo, wire::Status};

/// A moment in a request's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    const ALL: [Self; 4] = [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    /// A stage by its name in the API.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == text)
    }

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// An event. [`Event::line`] writes its fields in upstream's order.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) level: Level,
    pub(super) audit_id: String,
    pub(super) stage: Stage,
    pub(super) request_uri: String,
    /// What is asked for.
    pub(super) info: Arc<RequestInfo>,
    pub(super) user: Option<Arc<User>>,
    pub(super) impersonated_user: Option<Arc<User>>,
    /// The verb by which acting as somebody else was allowed, where not everything is that one may.
    pub(super) impersonation_constraint: Option<&'static str>,
    pub(super) source_ips: Vec<String>,
    pub(super) user_agent: String,
    pub(super) told: ObjectReference,
    pub(super) response_status: Option<Outcome>,
    pub(super) request_object: Option<Value>,
    pub(super) response_object: Option<Value>,
    pub(super) request_received_timestamp: Timestamp,
    pub(super) stage_timestamp: Timestamp,
    pub(super) annotations: BTreeMap<Cow<'static, str>, String>,
    /// What later lines share with this one.
    pub(super) written: Option<Written>,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// With this code, and nothing to say.
    Code(u16),
    /// With what a `Status` told.
    Told(Value),
}

/// What only the request's object tells of the object asked for; empty parts are not told, or known without it.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectReference {
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
}

/// Longer user agents are cut, in bytes.
const USER_AGENT: usize = 1024;

/// What is known of a request when it comes.
pub struct Received<'a> {
    /// The `Audit-ID` of the request, given or made.
    pub audit_id: &'a str,
    /// Path and query.
    pub uri: String,
    /// What it asks for.
    pub info: &'a Arc<RequestInfo>,
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
        Self {
            level,
            audit_id: audit_id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: uri,
            info: Arc::clone(info),
            user,
            impersonated_user: None,
            impersonation_constraint: None,
            source_ips,
            user_agent: shortened(user_agent),
            told: ObjectReference::default(),
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
        self.impersonation_constraint = (!constraint.is_empty()).then_some(constraint);
        self.ask_anew();
    }

    /// What only the request's object tells of the object asked for.
    pub(super) fn name_object(&mut self, object: &Value) {
        if !self.info.is_resource {
            return;
        }
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        let parts = [
            (&*self.info.namespace, &mut self.told.namespace, "namespace"),
            (&self.info.name, &mut self.told.name, "name"),
            ("", &mut self.told.uid, "uid"),
            ("", &mut self.told.resource_version, "resourceVersion"),
        ];
        let mut told = false;
        for (known, part, name) in parts {
            if known.is_empty() && part.is_empty() && !text(name).is_empty() {
                text(name).clone_into(part);
                told = true;
            }
        }
        if told {
            self.ask_anew();
        }
    }

    /// The object asked for: the names of its members as they stand behind one another, and what they are, empty where that is not known.
    pub(super) fn object_ref(&self) -> [(&'static str, &str); 8] {
        let Self { info, told, .. } = self;
        let namespace = if info.namespace.is_empty() { &told.namespace } else { &info.namespace };
        let name = if info.name.is_empty() { &told.name } else { &info.name };
        [
            (r#","resource":"#, &info.resource),
            (r#","namespace":"#, namespace),
            (r#","name":"#, name),
            (r#","uid":"#, &told.uid),
            (r#","apiGroup":"#, &info.group),
            (r#","apiVersion":"#, &info.version),
            (r#","resourceVersion":"#, &told.resource_version),
            (r#","subresource":"#, &info.subresource),
        ]
    }

    /// What was asked is another thing than what was written of it.
    fn ask_anew(&mut self) {
        if let Some(written) = &mut self.written {
            written.ask_anew();
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
        let [_, (_, namespace), ..] = self.object_ref();
        let response = self.response_status.as_ref().map_or_else(|| "<deferred>".to_owned(), Outcome::code);
        format!(
            "{} AUDIT: id={} stage=\"{:?}\" ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{response}\"\n",
            self.request_received_timestamp,
            quoted(&self.audit_id),
            self.stage,
            quoted(self.source_ips.first().map_or("<unknown>", |ip| ip)),
            quoted(&self.info.verb),
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
        let mut outcome = coracle_tree::json!({"metadata": {}});
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
        let mut outcome = coracle_tree::json!({"metadata": {}, "code": code, "status": "Failure", "message": status.message});
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

fn shortened(user_agent: &str) -> String {
    if user_agent.len() <= USER_AGENT {
        return user_agent.to_owned();
    }
    match user_agent.char_indices().take_while(|(at, c)| at + c.len_utf8() <= USER_AGENT).last() {
        Some((at, c)) if at + c.len_utf8() < user_agent.len() => format!("{}...TRUNCATED", &user_agent[..at + c.len_utf8()]),
        _ => user_agent.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_as_upstream_writes_it() {
        let info = Arc::new(RequestInfo {
            is_resource: true,
            verb: "get".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "live".into(),
            name: "web".into(),
            ..RequestInfo::default()
        });
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
            String::from_utf8(event.line().to_vec()).unwrap().trim_end(),
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id-1","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/live/pods/web?x=1","verb":"get","user":{"username":"jane","groups":["dev","system:authenticated"]},"sourceIPs":["127.0.0.1"],"userAgent":"kubectl/v1.36.0","objectRef":{"resource":"pods","namespace":"live","name":"web","apiVersion":"v1"},"responseStatus":{"code":200,"metadata":{}},"requestReceivedTimestamp":"2026-01-02T15:04:05.500000Z","stageTimestamp":"2026-01-02T15:04:05.500000Z","annotations":{"authorization.k8s.io/decision":"allow"}}"#
        );
    }

    #[test]
    fn a_later_line_is_the_one_it_would_be_without_an_earlier_one() {
        let info = Arc::new(RequestInfo { is_resource: true, verb: "create".into(), resource: "pods".into(), ..RequestInfo::default() });
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
            |event| event.name_object(&coracle_tree::json!({"metadata": {"name": "web", "uid": "1"}})),
            |event| event.end(201, None),
            |event| event.stage = Stage::ResponseComplete,
        ];
        let (mut event, mut seen) = (Event::new(Level::Metadata, received), Vec::new());
        for step in steps {
            step(&mut event);
            let line = event.line();
            assert_eq!(line, Event { written: None, ..event.clone() }.line());
            assert!(serde_json::from_slice::<Value>(&line).unwrap().is_object() && !seen.contains(&line));
            seen.push(line);
        }
    }

    #[test]
    fn an_event_without_objects_says_so_and_text_tells_the_most_important() {
        let info = Arc::new(RequestInfo { verb: "get".into(), path: "/x".into(), ..RequestInfo::default() });
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
        event.response_object = Some(coracle_tree::json!({"large": "x".repeat(1000)}));
        event.end(200, None);
        let mut cut = event.without_objects();
        assert!(cut.line().len() < 700 && cut.annotations["audit.k8s.io/truncated"] == "true");
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
