//! Typed options of each verb, from the query and, for deletes, from the body; with apimachinery's checks and texts
//! (`apis/meta/v1/validation`, `apis/meta/internalversion/validation`).

use std::time::Duration;

use coracle_schema::{FieldErrors, decode::FieldValidation};
use coracle_tree::Value;

use crate::{
    registry::selector::{FieldSelector, LabelSelector},
    wire::{Status, status::Subject},
};

/// The decoded pairs of a query, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Which labels; everything when empty.
    pub labels: LabelSelector,
    /// Which fields; everything when empty.
    pub fields: FieldSelector,
    /// `resourceVersion`; `None` when absent or empty.
    pub resource_version: Option<u64>,
    /// `resourceVersionMatch`
    pub version_match: Option<VersionMatch>,
    /// Page size; 0: no limit.
    pub limit: usize,
    /// Continue token; empty: first page.
    pub token: String,
    /// Watch: send bookmarks.
    pub bookmarks: bool,
    /// Watch: `sendInitialEvents`.
    pub initial_events: Option<bool>,
    /// Watch: end after so many seconds; at once when they are negative.
    pub timeout_seconds: Option<i64>,
}

/// `resourceVersionMatch`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// Who owns the fields written; from the query or the User-Agent, may be empty.
    pub field_manager: String,
    /// What to do with unknown fields.
    pub field_validation: FieldValidation,
    /// Apply: take fields from other managers.
    pub force: bool,
}

/// Options of delete and deletecollection.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// Seconds an object may take to end; `None`: the kind's default.
    pub grace_seconds: Option<i64>,
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must have this resource version.
    pub resource_version: Option<String>,
    /// What happens to dependents; `None`: the kind's default.
    pub propagation: Option<Propagation>,
    /// The object is to go though, and only if, it cannot be read.
    pub unreadable: bool,
    /// The options as they were sent.
    pub given: Value,
}

/// Where options say that an object which cannot be read may go.
pub const UNREADABLE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// `propagationPolicy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Query {
    /// Decodes `a=b&c=d`; `+` is a space.
    pub fn parse(text: &str) -> Self {
        let decode = |s: &str| percent_encoding::percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pair = |p: &str| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (decode(k), decode(v))
        };
        Self(text.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value of a key; empty when absent.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean as apimachinery converts query strings: absent, `false` and `0` are false, anything else is true.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// How long a request may take: as long as its client says, but no longer than `most`, which is also what nothing and no time mean.
    pub fn timeout(&self, most: Duration) -> Result<Duration, Status> {
        let text = self.text("timeout");
        if text.is_empty() {
            return Ok(most);
        }
        let invalid = || Status::bad_request(format!("invalid timeout specified in the request URL - {}", no_duration(text)));
        let nanos = coracle_cel::duration(text).ok_or_else(invalid)?;
        let wanted = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
        Ok(wanted.map_or(most, |wanted| wanted.min(most)))
    }

    /// A whole number; `None` when absent or empty, 400 when it is none.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
            }
        }
    }
}

/// What Go's `time.ParseDuration` says of a text that is no duration.
fn no_duration(text: &str) -> String {
    const UNITS: [&str; 8] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
    let is_number = |c: char| c == '.' || c.is_ascii_digit();
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    while rest.starts_with(is_number) {
        rest = rest.trim_start_matches(is_number);
        let unit = &rest[..rest.find(is_number).unwrap_or(rest.len())];
        if unit.is_empty() {
            return format!("time: missing unit in duration {text:?}");
        }
        if !UNITS.contains(&unit) {
            return format!("time: unknown unit {unit:?} in duration {text:?}");
        }
        rest = &rest[unit.len()..];
    }
    format!("time: invalid duration {text:?}")
}

impl ListOptions {
    /// Reads and checks the options of a list (`watch` false) or a watch.
    pub fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        Self::parse_gated(query, watch, true)
    }

    /// The same; `watch_list`: a watch may begin with what is there (the gate `WatchList`).
    pub(crate) fn parse_gated(query: &Query, watch: bool, watch_list: bool) -> Result<Self, Status> {
        let options = Self {
            labels: LabelSelector::parse(query.text("labelSelector")).map_err(Status::bad_request)?,
            fields: FieldSelector::parse(query.text("fieldSelector")).map_err(Status::bad_request)?,
            resource_version: None,
            version_match: None,
            limit: usize::try_from(query.number("limit")?.unwrap_or_default()).unwrap_or_default(),
            token: query.text("continue").to_owned(),
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            timeout_seconds: query.number("timeoutSeconds")?,
        };
        let mut errors = FieldErrors::none();
        let at = query.text("resourceVersion");
        let version_match = options.check(at, query.text("resourceVersionMatch"), watch.then_some(watch_list), &mut errors);
        refuse("ListOptions", &errors)?;
        if !watch && !options.token.is_empty() {
            // What is wrong with a token is said before what is wrong with a version, and of that it does not matter what.
            return Ok(Self { resource_version: at.parse().map_or((!at.is_empty()).then_some(u64::MAX), Some), version_match, ..options });
        }
        Ok(Self { resource_version: version(at)?, version_match, ..options })
    }

    /// `watch`: it is one, and whether it may begin with what is there.
    fn check(&self, at: &str, text: &str, watch: Option<bool>, errors: &mut FieldErrors) -> Option<VersionMatch> {
        const FIELD: &str = "resourceVersionMatch";
        let found = match text {
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            _ => None,
        };
        if let Some(watch_list) = watch {
            if self.initial_events.is_some() && found != Some(VersionMatch::NotOlderThan) {
                errors.forbidden(FIELD, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            if self.initial_events.is_some() && !watch_list {
                errors.forbidden(
                    "sendInitialEvents",
                    "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                );
            }
            if !text.is_empty() {
                if self.initial_events.is_none() {
                    errors.forbidden(FIELD, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
                }
                if found != Some(VersionMatch::NotOlderThan) {
                    errors.not_supported(FIELD, format!("{text:?}"), &["NotOlderThan"]);
                }
                self.check_continue(errors);
            }
            return found;
        }
        if !text.is_empty() {
            if at.is_empty() {
                errors.forbidden(FIELD, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            self.check_continue(errors);
            if found.is_none() {
                errors.not_supported(FIELD, format!("{text:?}"), &["Exact", "NotOlderThan", ""]);
            }
            if found == Some(VersionMatch::Exact) && at == "0" {
                errors.forbidden(FIELD, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.initial_events.is_some() {
            errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        found
    }

    fn check_continue(&self, errors: &mut FieldErrors) {
        if !self.token.is_empty() {
            errors.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
        }
    }
}

impl WriteOptions {
    /// Reads and checks the options of a create or update; `kind` is `CreateOptions` or `UpdateOptions`.
    pub fn parse(query: &Query, user_agent: &str, kind: &str) -> Result<Self, Status> {
        let (options, errors) = Self::read(query, user_agent);
        refuse(kind, &errors)?;
        Ok(options)
    }

    /// Reads and checks the options of a patch; `apply` for server-side apply.
    pub fn parse_patch(query: &Query, user_agent: &str, apply: bool) -> Result<Self, Status> {
        let (mut options, mut errors) = Self::read(query, user_agent);
        options.force = query.flag("force");
        if apply && query.text("fieldManager").is_empty() {
            errors.required("fieldManager", "is required for apply patch");
        }
        if !apply && query.get("force").is_some() {
            errors.forbidden("force", "may not be specified for non-apply patch");
        }
        refuse("PatchOptions", &errors)?;
        Ok(options)
    }

    fn read(query: &Query, user_agent: &str) -> (Self, FieldErrors) {
        let mut errors = FieldErrors::none();
        let manager = query.text("fieldManager");
        if manager.chars().count() > 128 {
            errors.push(coracle_schema::ErrorKind::TooLong, "fieldManager", "Too long: may not be more than 128 bytes".into());
        } else if let Some(at) = manager.chars().position(char::is_control) {
            errors.invalid(
                "fieldManager",
                format!("{manager:?}"),
                &format!("should only contain printable characters. Character at {at} is not printable"),
            );
        }
        let field_validation = FieldValidation::parse(query.text("fieldValidation")).unwrap_or_else(|| {
            errors.not_supported("fieldValidation", format!("{:?}", query.text("fieldValidation")), &["", "Ignore", "Strict", "Warn"]);
            FieldValidation::Warn
        });
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_manager = if manager.is_empty() { manager_of(user_agent) } else { manager.to_owned() };
        (Self { dry_run, field_manager, field_validation, force: false }, errors)
    }
}

impl DeleteOptions {
    /// Reads the options from the decoded body if there is one, else from the query (upstream does not mix them), and checks them.
    pub fn parse(query: &Query, body: Option<&Value>) -> Result<Self, Status> {
        let mut errors = FieldErrors::none();
        let mut options = Self::default();
        let (mut orphan, policy);
        if let Some(body) = body {
            let dry: Vec<&str> = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            options.dry_run = dry_run(dry.into_iter(), &mut errors);
            options.grace_seconds = body["gracePeriodSeconds"].as_i64();
            options.uid = body.pointer("/preconditions/uid").and_then(Value::as_str).map(str::to_owned);
            options.resource_version = body.pointer("/preconditions/resourceVersion").and_then(Value::as_str).map(str::to_owned);
            options.unreadable = body[UNREADABLE].as_bool().unwrap_or_default();
            orphan = body["orphanDependents"].as_bool();
            policy = body["propagationPolicy"].as_str().map(str::to_owned);
            options.given = body.clone();
        } else {
            options.dry_run = dry_run(query.all("dryRun"), &mut errors);
            options.grace_seconds = query.number("gracePeriodSeconds")?;
            options.unreadable = query.flag(UNREADABLE);
            orphan = query.get("orphanDependents").map(|_| query.flag("orphanDependents"));
            policy = query.get("propagationPolicy").map(str::to_owned);
            options.given = given_in(query);
        }
        let both = [
            (".propagationPolicy", policy.is_some()),
            (".orphanDependents", orphan.is_some()),
            (".gracePeriodSeconds", options.grace_seconds.is_some()),
            (".preconditions", options.given["preconditions"].is_object()),
        ];
        if orphan.is_some() && policy.is_some() {
            errors.invalid(
                "propagationPolicy",
                format!("{:?}", policy.as_deref().unwrap_or_default()),
                "orphanDependents and deletionPropagation cannot be both set",
            );
            orphan = None;
        }
        options.propagation = match policy.as_deref() {
            None => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.not_supported("propagationPolicy", format!("{other:?}"), &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        };
        for (field, _) in both.iter().filter(|(_, given)| *given && options.unreadable) {
            errors.invalid(UNREADABLE, true, &format!("cannot be set together with {field}"));
        }
        refuse("DeleteOptions", &errors)?;
        Ok(options)
    }

    /// Refuses what is not for collections.
    pub fn check_collection(&self) -> Result<(), Status> {
        let mut errors = FieldErrors::none();
        if self.unreadable {
            errors.invalid(UNREADABLE, true, "is not allowed with DELETECOLLECTION, try again after removing the option");
        }
        refuse("DeleteOptions", &errors)
    }
}

/// The options of a query as the object they are in upstream, without its type.
pub fn given_in(query: &Query) -> Value {
    let mut given = coracle_tree::Map::new();
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    if !dry_run.is_empty() {
        given.insert("dryRun", dry_run.into());
    }
    for name in ["fieldManager", "fieldValidation", "propagationPolicy"] {
        if let Some(text) = query.get(name).filter(|text| !text.is_empty()) {
            given.insert(name, text.into());
        }
    }
    if let Ok(Some(seconds)) = query.number("gracePeriodSeconds") {
        given.insert("gracePeriodSeconds", seconds.into());
    }
    if query.get(UNREADABLE).is_some() {
        given.insert(UNREADABLE, query.flag(UNREADABLE).into());
    }
    if query.get("orphanDependents").is_some() {
        given.insert("orphanDependents", query.flag("orphanDependents").into());
    }
    Value::Object(given)
}

/// The manager's name when the request gives none: the User-Agent up to the first slash, printable, at most 128 bytes.
fn manager_of(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    if name.is_empty() { "unknown".into() } else { name }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut FieldErrors) -> bool {
    let values: Vec<&str> = values.filter(|v| !v.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        errors.not_supported("dryRun", coracle_tree::Value::from(values.as_slice()), &["All"]);
    }
    !values.is_empty()
}

/// A resource version of a request: decimal, or absent.
fn version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let mut errors = FieldErrors::none();
        errors.invalid("resourceVersion", format!("{text:?}"), &format!("strconv.ParseUint: parsing {text:?}: invalid syntax"));
        Status::bad_request(format!("invalid resource version: {}", errors.0[0]))
    })
}

fn refuse(kind: &str, errors: &FieldErrors) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(Subject { group: "meta.k8s.io", resource: kind, name: "" }, errors)) }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn list(text: &str) -> Result<ListOptions, Status> {
        ListOptions::parse(&Query::parse(text), false)
    }

    fn watch(text: &str) -> Result<ListOptions, Status> {
        ListOptions::parse(&Query::parse(text), true)
    }

    #[test]
    fn queries_are_decoded_and_plus_is_a_space() {
        let query = Query::parse("a=b%3Dc&a=2&labelSelector=app+in+(x)&flag");
        assert_eq!(query.get("a"), Some("b=c"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["b=c", "2"]);
        assert_eq!(query.text("labelSelector"), "app in (x)");
        assert!(query.flag("flag"));
    }

    #[test]
    fn a_version_match_needs_a_version() {
        let text = list("resourceVersionMatch=Exact").unwrap_err().message;
        assert_eq!(
            text,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
        assert_eq!(list("resourceVersionMatch=Exact&resourceVersion=5").unwrap().version_match, Some(VersionMatch::Exact));
        assert_eq!(list("resourceVersionMatch=Exact&resourceVersion=0").unwrap_err().code, 422);
    }

    #[test]
    fn initial_events_are_for_watches_with_not_older_than() {
        assert_eq!(list("sendInitialEvents=true").unwrap_err().code, 422);
        assert_eq!(watch("sendInitialEvents=true").unwrap_err().code, 422);
        let options = watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true").unwrap();
        assert_eq!((options.initial_events, options.bookmarks), (Some(true), true));
    }

    #[test]
    fn apply_needs_a_field_manager_and_only_apply_may_force() {
        let none = WriteOptions::parse_patch(&Query::default(), "kubectl/v1", true).unwrap_err();
        assert!(none.message.contains("fieldManager: Required value: is required for apply patch"), "{}", none.message);
        let force = WriteOptions::parse_patch(&Query::parse("force=true"), "kubectl/v1", false).unwrap_err();
        assert!(force.message.contains("force: Forbidden: may not be specified for non-apply patch"), "{}", force.message);
    }

    #[test]
    fn the_field_manager_comes_from_the_user_agent() {
        let options = WriteOptions::parse(&Query::default(), "kubectl/v1.37.1 (linux/amd64)", "CreateOptions").unwrap();
        assert_eq!(options.field_manager, "kubectl");
        assert_eq!(options.field_validation, FieldValidation::Warn);
    }

    #[test]
    fn a_client_may_want_less_time_and_not_more() {
        let of = |text: &str| Query::parse(text).timeout(Duration::from_secs(60));
        for (text, seconds) in
            [("", 60), ("timeout=", 60), ("timeout=0s", 60), ("timeout=10s", 10), ("timeout=2m", 60), ("timeout=-1s", 60)]
        {
            assert_eq!(of(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for (text, told) in [
            ("timeout=5", "time: missing unit in duration \"5\""),
            ("timeout=5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("timeout=soon", "time: invalid duration \"soon\""),
        ] {
            assert_eq!(of(text).unwrap_err().message, format!("invalid timeout specified in the request URL - {told}"));
        }
    }

    #[test]
    fn delete_options_come_from_the_body_when_there_is_one() {
        let body = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "propagationPolicy": "Foreground", "dryRun": ["All"]});
        let options = DeleteOptions::parse(&Query::parse("gracePeriodSeconds=7"), Some(&body)).unwrap();
        assert_eq!((options.grace_seconds, options.uid.as_deref(), options.dry_run), (Some(0), Some("u"), true));
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        let query = DeleteOptions::parse(&Query::parse("gracePeriodSeconds=7&orphanDependents=true"), None).unwrap();
        assert_eq!((query.grace_seconds, query.propagation), (Some(7), Some(Propagation::Orphan)));
    }
}
