//! The one error clients see: `v1.Status`, with the codes, reasons and wording of apimachinery's `api/errors`.

use std::collections::HashSet;

use coracle_schema::{FieldErrors, go};
use coracle_tree::{Value, json};

/// A failed request. `log` is for our log only and never sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason (`NotFound`).
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it was about; `Null` if nothing more is known.
    pub details: Value,
    /// What few have.
    pub more: Option<Box<More>>,
    /// The cause, for the log.
    pub log: Option<String>,
}

/// What few errors have.
#[derive(Clone, Debug, Default)]
pub struct More {
    /// Of an expired list: a continue token for the rest, as it is now.
    resume: Option<String>,
    /// Somebody else's `Status`, sent as it is.
    given: Option<Value>,
    /// Texts for `Warning:` headers.
    warnings: Vec<String>,
}

/// The object an error speaks of: resource (or kind, for `Invalid`), group and name.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// API group, empty for core.
    pub group: &'a str,
    /// Plural resource (`pods`), or the kind for [`Status::invalid`].
    pub resource: &'a str,
    /// Object name; may be empty.
    pub name: &'a str,
}

impl Subject<'_> {
    /// `deployments.apps "web"`
    fn quoted(&self) -> String {
        format!("{} {}", self.qualified(), go::quoted(self.name))
    }

    /// `deployments.apps`
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.resource.to_owned() } else { format!("{}.{}", self.resource, self.group) }
    }

    fn details(&self) -> Value {
        let mut details = json!({});
        for (key, value) in [("name", self.name), ("group", self.group), ("kind", self.resource)] {
            if !value.is_empty() {
                details[key] = value.into();
            }
        }
        details
    }
}

impl Status {
    /// Any code and reason.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, more: None, log: None }
    }

    /// 404 of an object.
    pub fn not_found(subject: Subject<'_>) -> Self {
        Self { details: subject.details(), ..Self::new(404, "NotFound", format!("{} not found", subject.quoted())) }
    }

    /// 404 of a path.
    pub fn no_such_path() -> Self {
        Self { details: json!({}), ..Self::new(404, "NotFound", "the server could not find the requested resource") }
    }

    /// 409 of a create.
    pub fn already_exists(subject: Subject<'_>) -> Self {
        Self { details: subject.details(), ..Self::new(409, "AlreadyExists", format!("{} already exists", subject.quoted())) }
    }

    /// 409 of an update.
    pub fn conflict(subject: Subject<'_>, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {}: {why}", subject.quoted());
        Self { details: subject.details(), ..Self::new(409, "Conflict", message) }
    }

    /// 422 with a cause for each refused field. `subject.resource` is the kind.
    pub fn invalid(subject: Subject<'_>, errors: &FieldErrors) -> Self {
        let text = aggregate(errors.0.iter().map(ToString::to_string)).unwrap_or_default();
        let mut details = subject.details();
        let cause = |e: &coracle_schema::FieldError| json!({"reason": e.kind.reason(), "message": e.message, "field": e.path});
        details["causes"] = errors.0.iter().map(cause).collect();
        Self { details, ..Self::new(422, "Invalid", format!("{} is invalid: {text}", subject.quoted())) }
    }

    /// 403 of admission or authorization.
    pub fn forbidden(subject: Subject<'_>, why: &str) -> Self {
        let what = if subject.name.is_empty() { subject.qualified() } else { subject.quoted() };
        let head = if subject.resource.is_empty() { "forbidden".to_owned() } else { format!("{what} is forbidden") };
        Self { details: subject.details(), ..Self::new(403, "Forbidden", format!("{head}: {why}")) }
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self { details: json!({}), ..Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource") }
    }

    /// 410: the revision is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500; `log` says what happened.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { log: Some(message.clone()), ..Self::new(500, "InternalError", format!("Internal error occurred: {message}")) }
    }

    /// 500 of a list: what is there of it and cannot be read, each with its key (`aggregatedStorageError` of
    /// `storage/etcd3/corrupt_obj_deleter.go`). Whoever has too many is told of the first ones.
    pub(crate) fn unread(resource: Subject<'_>, faults: &[(String, String)]) -> Self {
        let told = &faults[..faults.len().min(MOST_UNREAD)];
        let cause = |(key, why): &(String, String)| json!({"reason": "UnexpectedServerResponse", "message": why, "field": key});
        let mut causes: Vec<Value> = told.iter().map(cause).collect();
        if told.len() == MOST_UNREAD {
            causes.push(json!({"reason": "FieldValueTooMany", "message": "too many errors, the list is truncated"}));
        }
        let mut details = Subject { name: "list", ..resource }.details();
        details["causes"] = causes.into();
        let message = unread(resource, told.first().map_or("", |(_, why)| why), told.len().saturating_sub(1));
        Self { details, ..Self::new(500, "StorageReadError", message) }
    }

    /// 429 of who waits for all objects of a resource to be in memory while some cannot be read.
    pub(crate) fn initializing(resource: Subject<'_>, first: &str, more: usize) -> Self {
        let why = unread(resource, first, more.min(MOST_UNREAD - 1));
        Self::too_many_requests(format!("storage is (re)initializing: failed to list <unspecified>: {why}"), 1)
    }

    /// 429: try again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u64) -> Self {
        let details = if retry_after_seconds > 0 { json!({"retryAfterSeconds": retry_after_seconds}) } else { json!({}) };
        Self { details, ..Self::new(429, "TooManyRequests", message) }
    }

    /// 504: it took too long (`NewTimeoutError`).
    pub fn timeout(message: &str) -> Self {
        Self { details: json!({}), ..Self::new(504, "Timeout", format!("Timeout: {message}")) }
    }

    /// 503: nothing was done, try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// Whether somebody else was faster than a write: what it was to change is gone, or is another.
    pub fn is_lost(&self) -> bool {
        matches!(self.code, 404 | 409)
    }

    /// Lets the client go on with a list at a continue token.
    pub fn resume_with(&mut self, token: String) {
        self.more.get_or_insert_default().resume = Some(token);
    }

    /// Answers with a `Status` that somebody else made: a webhook may refuse for reasons of its own.
    pub fn answer_with(&mut self, given: Value) {
        self.more.get_or_insert_default().given = Some(given);
    }

    /// What the client is warned of although its request failed.
    pub fn warn(&mut self, warnings: Vec<String>) {
        if !warnings.is_empty() {
            self.more.get_or_insert_default().warnings.extend(warnings);
        }
    }

    /// Texts for `Warning:` headers.
    pub fn warnings(&self) -> &[String] {
        self.more.as_ref().map(|more| more.warnings.as_slice()).unwrap_or_default()
    }

    /// The `v1.Status` object.
    pub fn to_value(&self) -> Value {
        if let Some(given) = self.more.as_ref().and_then(|more| more.given.as_ref()) {
            return given.clone();
        }
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            value["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            value["details"] = self.details.clone();
        }
        if let Some(token) = self.more.as_ref().and_then(|more| more.resume.as_deref()) {
            value["metadata"]["continue"] = token.into();
        }
        value
    }
}

/// What cannot be read of a list is told of so many objects (`maxCorruptObjErrsToAggregate`).
const MOST_UNREAD: usize = 100;

fn unread(resource: Subject<'_>, first: &str, more: usize) -> String {
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    format!("failed to read one or more {} from the storage: {first}{more}", resource.qualified())
}

/// Several errors as one, each once; `None` when there are none (apimachinery `util/errors/errors.go`).
pub(crate) fn aggregate(errors: impl IntoIterator<Item = String>) -> Option<String> {
    let all: Vec<String> = errors.into_iter().collect();
    let mut told = HashSet::with_capacity(all.len());
    let once: Vec<&str> = all.iter().map(String::as_str).filter(|error| told.insert(*error)).collect();
    match once.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// What was refused of a file, if anything was (`field.ErrorList.ToAggregate`).
pub(crate) fn refused(errors: &FieldErrors) -> Result<(), String> {
    aggregate(errors.0.iter().map(ToString::to_string)).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_once_in_their_order_and_one_alone_without_brackets() {
        let told = |all: &[&str]| aggregate(all.iter().map(ToString::to_string));
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["a", "a"]).as_deref(), Some("a"));
        assert_eq!(told(&["b", "a", "b", "c", "a"]).as_deref(), Some("[b, a, c]"));
    }

    /// A body of the largest size may have more than a million.
    #[test]
    fn many_errors_are_told_without_comparing_each_with_each() {
        let told = aggregate((0..100_000).map(|n| n.to_string())).unwrap();
        assert!(told.starts_with("[0, 1, 2, ") && told.ends_with(", 99999]"));
    }
}
