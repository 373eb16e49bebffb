//! Where paths lead: which of them are routes of a kind, and what is said where none is (apiserver `endpoints/installer.go`).

use std::sync::Arc;

use coracle_schema::{FieldErrors, name};
use http::Method;

use super::{Api, Call, write::Writing};
use crate::{
    registry::{Kind, Verb, meta},
    request::{RequestInfo, query::WriteOptions},
    wire::{Answer, Status, answer},
};

/// Refuses names that cannot stand in a path (`registry/generic/registry/store.go`, `NamespaceKeyFunc`).
pub(super) fn may_be_named(kind: &Kind, info: &RequestInfo) -> Result<(), Status> {
    let stored = kind.prefix.is_some() && !matches!(info.verb.as_str(), "list" | "watch");
    let wrong = if stored { name::path_segment(&info.name) } else { Vec::new() };
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Status::bad_request(format!("Name parameter invalid: {:?}: {}", info.name, wrong.join(";"))))
}

/// The answer where no route leads: groups of the tables have a router that says so in an object, elsewhere it is plain text.
pub(super) fn nobody(api: &Api, info: &RequestInfo) -> Result<Answer, Status> {
    if api.tables.groups.iter().any(|g| g.group == info.group && g.priority.0 > 0) {
        Err(Status::no_such_path())
    } else {
        Ok(answer::not_found())
    }
}

/// Whether a path names an object that is in a namespace, but not the namespace. A list or watch has its name from a selector.
pub(super) fn lacks_namespace(kind: &Kind, info: &RequestInfo) -> bool {
    kind.is_namespaced() && info.namespace.is_empty() && !info.name.is_empty() && !matches!(info.verb.as_str(), "list" | "watch")
}

/// Whether a path of a built-in kind leads anywhere, with whatever method (the routes of apiserver `endpoints/installer.go`).
pub(super) fn is_routed(kind: &Kind, info: &RequestInfo) -> bool {
    let nowhere = kind.is_namespaced() && !info.in_namespace;
    if info.in_namespace && !kind.is_namespaced() {
        return false;
    }
    if info.prefixed {
        return info.rest.is_empty() && kind.has_verb(Verb::Watch) && (!nowhere || info.name.is_empty());
    }
    if !info.rest.is_empty() && info.subresource != "proxy" {
        return false;
    }
    // A list or watch has its name from a selector.
    let named = !info.name.is_empty() && !matches!(info.verb.as_str(), "list" | "watch");
    if !named && info.subresource.is_empty() {
        return !nowhere || kind.has_verb(Verb::List);
    }
    !nowhere && (!info.subresource.is_empty() || [Verb::Get, Verb::Update, Verb::Patch, Verb::Delete].iter().any(|v| kind.has_verb(*v)))
}

/// What is said where the name of a namespace is empty.
pub(super) const NO_NAMESPACE: &str = "Namespace parameter required.";

/// Whether a path leads into a namespace whose name is empty.
pub(super) fn lacks_name_of_namespace(kind: &Kind, info: &RequestInfo) -> bool {
    kind.prefix.is_some() && info.in_namespace && info.namespace.is_empty()
}

/// Refuses what the store has no key for: a namespace without a name, or one that is a step in a path.
pub(super) fn may_be_in_namespace(api: &Api, call: &Call, kind: &Arc<Kind>, verb: Verb) -> Result<(), Status> {
    let info = &call.info;
    match verb {
        Verb::List | Verb::DeleteCollection if matches!(info.namespace.as_str(), "." | "..") => {
            let place = kind.list_prefix(&info.namespace);
            let place = place.trim_start_matches("/registry").trim_end_matches('/');
            Err(Status::new(500, "", format!("invalid key: {place:?}")))
        }
        _ if !lacks_name_of_namespace(kind, info) => Ok(()),
        Verb::List | Verb::Watch => Ok(()),
        Verb::Create | Verb::Update => {
            let options = WriteOptions::parse(&call.query, call.user_agent(), "CreateOptions")?;
            let sent = Writing::new(api, call, kind, options).decode_body()?;
            if verb == Verb::Update {
                meta::match_name(&sent, &info.name)?;
                return Err(Status::bad_request(NO_NAMESPACE));
            }
            let mut errors = FieldErrors::none();
            errors.required("metadata.namespace", "");
            Err(Status::invalid(kind.kind_subject(sent.name()), &errors))
        }
        _ => Err(Status::bad_request(NO_NAMESPACE)),
    }
}

/// The verb of a method on one object.
pub(super) fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::POST => "create",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Whether a verb is served at this place: collections are created in, objects are changed by name, and all namespaces together can only
/// be listed and watched.
pub(super) fn is_served(kind: &Kind, info: &RequestInfo, verb: Verb) -> bool {
    let nowhere = kind.is_namespaced() && !info.in_namespace;
    match verb {
        Verb::List | Verb::Watch => true,
        Verb::Create | Verb::DeleteCollection => info.name.is_empty() && !nowhere,
        Verb::Get | Verb::Update | Verb::Patch | Verb::Delete => !info.name.is_empty() && !nowhere,
    }
}
