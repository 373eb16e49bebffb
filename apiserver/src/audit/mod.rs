//! Who did what and when, written down beside the request (`apiserver/pkg/audit`).
//!
//! A request gets a [`Trail`] once it is known who asks. Layers and verbs add to it what they know; at each stage the policy asks for,
//! the event as it is then goes to every sink. Without a policy there are no trails and nothing of this costs anything.

mod batch;
mod event;
mod hook;
mod line;
mod log;
mod policy;

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use bytes::Bytes;
use coracle_tree::Value;
use jiff::Timestamp;
use parking_lot::Mutex;
use tracing::warn;

pub use self::{
    batch::Batch,
    event::{Received, Stage},
    hook::HookOptions,
    log::{Format, LogOptions, Mode},
    policy::Level,
};
use self::{
    event::{Event, Outcome},
    hook::Hook,
    log::Log,
    policy::Policy,
};
use crate::{
    admission::Annotations,
    authn::{User, tokens::Remarks},
    metrics::access::{AUDIT_ERRORS, AUDIT_EVENTS, AUDIT_LEVELS, AUDIT_REFUSALS},
    webhook::Egress,
    wire::Status,
};

/// What is written down, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--audit-policy-file`: without one nothing is written.
    pub policy: Option<PathBuf>,
    /// `--audit-log-path` and what belongs to it.
    pub log: Option<LogOptions>,
    /// `--audit-webhook-config-file` and what belongs to it.
    pub webhook: Option<HookOptions>,
}

/// What is done with large events (`--audit-*-truncate-*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Larger ones lose their objects, in bytes; those that are still larger are lost.
    pub event: usize,
}

/// Policy and sinks.
pub struct Audit {
    policy: Policy,
    log: Option<Log>,
    webhook: Option<Hook>,
}

/// What is known of one request.
pub struct Trail {
    audit: Arc<Audit>,
    level: Level,
    omit_stages: Arc<[Stage]>,
    omit_managed_fields: bool,
    /// It does nothing but read: that it came may be written with its end, which comes before its answer.
    only_reads: bool,
    event: Mutex<Event>,
}

impl Audit {
    /// Reads the policy and opens the sinks; `None` when there is no policy or nowhere to write. The error names the file. Must be called
    /// within a runtime.
    pub fn open(options: &Options, egress: &Egress) -> Result<Option<Arc<Self>>, String> {
        let Options { policy, log, webhook } = options;
        let somewhere = log.is_some() || webhook.is_some();
        let Some(policy) = policy else {
            if somewhere {
                warn!("--audit-log-path or --audit-webhook-config-file without --audit-policy-file: no request is written down");
            }
            return Ok(None);
        };
        if !somewhere {
            warn!("--audit-policy-file without --audit-log-path and --audit-webhook-config-file: requests are written down nowhere");
            return Ok(None);
        }
        Ok(Some(Arc::new(Self {
            policy: Policy::load(policy)?,
            log: log.clone().map(Log::open).transpose()?,
            webhook: webhook.as_ref().map(|webhook| Hook::open(webhook, egress)).transpose()?,
        })))
    }

    /// Ends when what was written down is where it belongs.
    pub async fn close(&self) {
        if let Some(log) = &self.log {
            log.close().await;
        }
        if let Some(webhook) = &self.webhook {
            webhook.close().await;
        }
    }

    /// Begins the trail of a request; `None` when nothing of it is to be written.
    pub fn begin(self: &Arc<Self>, received: Received<'_>) -> Option<Arc<Trail>> {
        let verdict = self.policy.verdict(received.user.as_deref(), received.info);
        AUDIT_LEVELS.inc([verdict.as_ref().map_or("None", |verdict| verdict.level.name())]);
        let verdict = verdict?;
        // Without an end that is written there is nothing that could take the beginning with it.
        let ends = !verdict.omit_stages.contains(&Stage::ResponseComplete);
        let only_reads = ends && matches!(received.info.verb.as_str(), "get" | "list") && received.info.subresource.is_empty();
        Some(Arc::new(Trail {
            audit: Arc::clone(self),
            level: verdict.level,
            omit_stages: Arc::clone(verdict.omit_stages),
            omit_managed_fields: verdict.omit_managed_fields,
            only_reads,
            event: Mutex::new(Event::new(verdict.level, received)),
        }))
    }
}

impl Trail {
    /// The request acts as somebody else, by the verb of a constrained mode if there is one.
    pub fn impersonate(&self, user: &Arc<User>, constraint: &'static str) {
        self.event.lock().impersonate(user, constraint);
    }

    /// Adds a fact; the first of a key stays.
    pub fn annotate(&self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.event.lock().annotations.entry(key.into()).or_insert_with(|| value.into());
    }

    /// Adds what is to be told of a token's use.
    pub fn remark(&self, remarks: &Remarks) {
        remarks.annotations.iter().for_each(|(key, value)| self.annotate(*key, value));
    }

    /// Adds what admission has to tell.
    pub fn admitted(&self, annotations: &Annotations) {
        let told = annotations.up_to(self.level);
        for (key, value) in told.as_object().into_iter().flatten() {
            self.annotate(key.clone(), value.as_str().unwrap_or_default());
        }
    }

    /// Whether objects are written, of requests at least.
    pub fn takes_request(&self) -> bool {
        self.level >= Level::Request
    }

    /// Whether answers are written, too.
    pub fn takes_response(&self) -> bool {
        self.level >= Level::RequestResponse
    }

    /// The object or patch a request brings.
    pub fn request(&self, object: &Value) {
        let mut event = self.event.lock();
        event.name_object(object);
        if self.takes_request() {
            event.request_object = Some(self.shown(object.clone()));
        }
    }

    /// The patch a request brings.
    pub fn patch(&self, patch: Value) {
        self.event.lock().request_object = Some(patch);
    }

    /// Whether nobody was recognised.
    pub fn is_of_nobody(&self) -> bool {
        self.event.lock().user.is_none()
    }

    /// Whether the request is a removal.
    pub fn removes(&self) -> bool {
        self.event.lock().info.verb.starts_with("delete")
    }

    /// What an answer says that is a `Status`.
    pub fn outcome(&self, answer: &Value) {
        if answer["kind"] == "Status" && answer["apiVersion"] == "v1" {
            self.event.lock().take_status(answer);
        }
    }

    /// The object that is answered.
    pub fn response(&self, object: Value) {
        if self.takes_response() {
            self.event.lock().response_object = Some(self.shown(object));
        }
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.omit_managed_fields {
            drop_managed_fields(&mut object);
            for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                drop_managed_fields(item);
            }
        }
        object
    }

    /// How it ended: the code of the answer, and the error if it is one. What is told first stays.
    pub fn end(&self, code: u16, status: Option<&Status>) {
        let mut event = self.event.lock();
        match &mut event.response_status {
            None => event.end(code, status),
            Some(Outcome::Told(status)) if status["code"].is_null() => status["code"] = code.into(),
            Some(_) => {}
        }
    }

    /// Writes the event at a stage, if the policy asks for it. The error is for the client: it is told where its request must not go on
    /// unwritten.
    pub async fn write(&self, stage: Stage) -> Result<(), Status> {
        let (for_log, for_webhook) = self.lines(stage);
        let mut refused = false;
        if let (Some(log), Some(line)) = (&self.audit.log, for_log) {
            let held = self.only_reads && stage == Stage::RequestReceived && log.hold(&line);
            refused |= !held && !log.take(line).await && log.mode == Mode::BlockingStrict;
        }
        if let (Some(webhook), Some(line)) = (&self.audit.webhook, for_webhook) {
            refused |= !webhook.take(line).await && webhook.mode == Mode::BlockingStrict;
        }
        if !refused || stage != Stage::RequestReceived {
            return Ok(());
        }
        AUDIT_REFUSALS.inc([]);
        Err(Status::internal("failed to store audit event"))
    }

    /// Writes the end of a request that was given up before its answer was written down. `goes_on`: it was a watch or a stream. What became
    /// of it is not known: upstream, too, says of a write that its client did not wait for its outcome.
    pub(crate) fn abandon(&self, goes_on: bool) {
        let (answered, nobody) = {
            let event = self.event.lock();
            (event.response_status.is_some(), event.user.is_none())
        };
        if nobody {
            return self.leave(Stage::ResponseStarted);
        }
        match (answered, goes_on) {
            (true, _) => {}
            (false, false) => self.end(504, Some(&Status::timeout("request did not complete within requested timeout - context canceled"))),
            (false, true) => {
                let closed = coracle_tree::json!({"metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200});
                self.event.lock().response_status = Some(Outcome::Told(closed));
                self.leave(Stage::ResponseStarted);
            }
        }
        self.leave(Stage::ResponseComplete);
    }

    /// Writes the event of a request whose answer has left, so that nobody can wait for it.
    pub fn leave(&self, stage: Stage) {
        let (for_log, for_webhook) = self.lines(stage);
        if let (Some(log), Some(line)) = (&self.audit.log, for_log) {
            log.leave(line);
        }
        if let (Some(webhook), Some(line)) = (&self.audit.webhook, for_webhook) {
            webhook.leave(line);
        }
    }

    /// What log and webhook are to write at a stage.
    fn lines(&self, stage: Stage) -> (Option<Bytes>, Option<Bytes>) {
        if self.omit_stages.contains(&stage) {
            return (None, None);
        }
        let mut event = self.event.lock();
        event.stage = stage;
        event.stage_timestamp = match stage {
            Stage::RequestReceived => event.request_received_timestamp,
            _ => Timestamp::now().max(event.request_received_timestamp),
        };
        AUDIT_EVENTS.inc([]);
        let whole = event.line();
        let for_webhook = self.audit.webhook.as_ref().and_then(|webhook| cut(&event, whole.clone(), webhook.truncation));
        let for_log = self.audit.log.as_ref().and_then(|log| {
            let line = cut(&event, whole, log.truncation)?;
            Some(if log.format == Format::Legacy { event.text().into() } else { line })
        });
        (for_log, for_webhook)
    }
}

/// The line of an event, without its objects where it is too large; `None`, and counted as lost, where that does not help.
fn cut(event: &Event, whole: Bytes, truncation: Option<Truncation>) -> Option<Bytes> {
    let Some(Truncation { event: most }) = truncation else { return Some(whole) };
    if whole.len() <= most {
        return Some(whole);
    }
    let shorter = if event.level >= Level::Request { event.without_objects().line() } else { whole };
    let fits = Some(shorter).filter(|line| line.len() <= most);
    if fits.is_none() {
        AUDIT_ERRORS.inc(["truncate"]);
        warn!("an audit event was lost: event is too large even after truncating");
    }
    fits
}

fn drop_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Held by the body of an answer that goes on: when it ends, so does the request.
pub struct Completion(pub Arc<Trail>);

impl Drop for Completion {
    fn drop(&mut self) {
        self.0.leave(Stage::ResponseComplete);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::request::RequestInfo;

    /// What the file holds after a request came, and after it was answered.
    async fn written(folder: &Path, verb: &str, omitted: &str) -> [usize; 2] {
        let policy = folder.join("policy.yaml");
        fs::write(&policy, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [{omitted}]\nrules:\n- level: Metadata\n"))
            .unwrap();
        let options = LogOptions { path: folder.join(format!("{verb}{omitted}.log")), ..log::tests::options(folder) };
        let path = options.path.clone();
        let options = Options { policy: Some(policy), log: Some(options), webhook: None };
        let audit = Audit::open(&options, &Egress::default()).unwrap().unwrap();
        let info = Arc::new(RequestInfo { is_resource: true, verb: verb.into(), resource: "pods".into(), ..RequestInfo::default() });
        let user = Some(Arc::new(User::new("jane", &[])));
        let at = Timestamp::now();
        let received = Received { audit_id: "1", uri: "/x".into(), info: &info, user, source_ips: Vec::new(), user_agent: "", at };
        let trail = audit.begin(received).unwrap();
        let lines = || fs::read_to_string(&path).unwrap().lines().count();
        trail.write(Stage::RequestReceived).await.unwrap();
        let came = lines();
        trail.end(200, None);
        trail.write(Stage::ResponseComplete).await.unwrap();
        [came, lines()]
    }

    #[tokio::test]
    async fn before_its_answer_everything_of_a_request_is_written_and_of_what_does_more_than_read_before_that() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(written(folder.path(), "get", "").await, [0, 2]);
        assert_eq!(written(folder.path(), "create", "").await, [1, 2]);
        assert_eq!(written(folder.path(), "get", "ResponseComplete").await, [1, 1]);
        assert_eq!(written(folder.path(), "get", "RequestReceived").await, [0, 1]);
    }
}
