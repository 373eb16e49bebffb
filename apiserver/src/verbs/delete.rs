//! DELETE of an object and of a collection (apiserver `registry/rest/delete.go`, `registry/generic/registry/store.go`).

use std::sync::Arc;

use coracle_store::{Expect, StoreError, cache::Freshness};
use coracle_tree::{Value, json};
use http::StatusCode;

use super::{Api, Call, list, render, unreadable};
use crate::{
    admission::{self, Attempt, Given, Operation},
    registry::{
        Kind, Object, items,
        meta::{self, FOREGROUND, ORPHAN},
        storage::{DEFINITIONS, Stored, WriteError, Written, bytes_of},
    },
    request::{
        RequestInfo,
        query::{DeleteOptions, ListOptions, Propagation},
    },
    wire::{Answer, Status, answer},
};

const RETRIES: usize = 30;

/// What became of the object.
pub enum Deleted {
    /// It is gone; its last state.
    Gone(bytes::Bytes, Object),
    /// It is on its way out.
    Leaving(bytes::Bytes),
}

/// Deletes the object, or marks it so when it takes time.
pub async fn delete(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    let options = options(api, call)?;
    if options.unreadable {
        return unreadable::delete(api, call, kind, &options).await;
    }
    let mut warnings = Vec::new();
    if kind.traits.orphans && &*kind.id.resource == "jobs" && options.propagation.is_none() {
        let text = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";
        warnings.push(text.to_owned());
    }
    let removed = remove(api, call, kind, &call.info.name, &options, Admitted::Now, &mut warnings).await;
    let deleted = warned(removed, &mut warnings)?;
    let mut made = match deleted {
        Deleted::Gone(_, object) if !kind.traits.returns_deleted => {
            let details = json!({"name": object.name(), "group": &*kind.id.group, "kind": &*kind.id.resource, "uid": object.uid()});
            render::value(api, StatusCode::OK, wanted.encoding, &success(Some(details)))
        }
        Deleted::Gone(wire, _) => render::shown(api, call, kind, wanted, StatusCode::OK, &wire)?,
        // Who asks in the old way for the dependents to go, too, is told that it takes time; others only ever saw 200.
        Deleted::Leaving(wire) => {
            let code = if options.given["orphanDependents"] == false { StatusCode::ACCEPTED } else { StatusCode::OK };
            render::shown(api, call, kind, wanted, code, &wire)?
        }
    };
    answer::warn(&mut made, &warnings);
    Ok(made)
}

/// Deletes what a list with the same options shows; answers with that list.
pub async fn delete_collection(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    let options = options(api, call)?;
    options.check_collection()?;
    let listing = ListOptions::parse(&call.query, false)?;
    let page = list::page(api, call, kind, &listing).await?;
    let mut warnings = Vec::new();
    for cached in &page.items {
        let (namespace, name) = kind.split_key(cached.key.as_str());
        let mut info = RequestInfo::clone(&call.info);
        name.clone_into(&mut info.name);
        if kind.is_namespaced() {
            namespace.clone_into(&mut info.namespace);
        }
        let one = Call { info: Arc::new(info), ..call.again() };
        match remove(api, &one, kind, name, &options, Admitted::Now, &mut warnings).await {
            Ok(_) => {}
            Err(status) if status.code == 404 => {}
            refused => warned(refused.map(drop), &mut warnings)?,
        }
    }
    let meta = json!({"resourceVersion": page.revision.to_string()});
    let mut made = list::show(api, call, kind, wanted, &meta, &page.items).await?;
    answer::warn(&mut made, &warnings);
    Ok(made)
}

/// A refusal tells the client, too, what it is warned of.
fn warned<T>(made: Result<T, Status>, warnings: &mut Vec<String>) -> Result<T, Status> {
    made.map_err(|mut status| {
        status.warn(std::mem::take(warnings));
        status
    })
}

/// A `Status` that says all went well.
pub fn success(details: Option<Value>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        let empty = |v: &Value| v.as_str().is_some_and(str::is_empty);
        let members = details.as_object().into_iter().flatten().filter(|(_, v)| !empty(v));
        status["details"] = Value::Object(members.map(|(k, v)| (k.clone(), v.clone())).collect());
    }
    status
}

fn options(api: &Api, call: &Call) -> Result<DeleteOptions, Status> {
    if call.body.is_empty() {
        return DeleteOptions::parse(&call.query, None);
    }
    let body = call.body_as(&api.message("meta.DeleteOptions")?).map_err(|refused| {
        // As Go words the most common mistake.
        let text = refused.message.strip_prefix("json parse error: EOF").map(|_| "unexpected end of JSON input");
        text.map_or(refused, |text| Status::bad_request(format!("couldn't get version/kind; json parse error: {text}")))
    })?;
    let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, of) = (text("apiVersion"), text("kind"));
    if !of.is_empty() && of != "DeleteOptions" {
        let scheme = super::write::SCHEME;
        return Err(Status::bad_request(format!("no kind {of:?} is registered for version {version:?} in scheme {scheme:?}")));
    }
    DeleteOptions::parse(&call.query, Some(&body))
}

/// Whether admission looks at a change: what happens to an evicted pod it saw as an eviction.
#[derive(Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Admitted {
    Now,
    Before,
}

/// Deletes one object with options at hand; for DELETE, collections and evictions.
pub async fn remove(
    api: &Api,
    call: &Call,
    kind: &Arc<Kind>,
    name: &str,
    options: &DeleteOptions,
    admitted: Admitted,
    warnings: &mut Vec<String>,
) -> Result<Deleted, Status> {
    for _ in 0..RETRIES {
        let found = api.storage.read(kind, call.namespace_of(kind), name, Freshness::Latest).await?;
        let old = found.ok_or_else(|| Status::not_found(kind.subject(name)))?;
        check_preconditions(kind, &old.object, options)?;
        if admitted == Admitted::Now {
            admit(api, call, kind, &old.object, options, warnings).await?;
        }
        let plan = plan(api, kind, &old.object, options);
        match carry_out(api, kind, &old, plan, options.dry_run).await {
            Ok(deleted) => return Ok(deleted),
            Err(WriteError::Store(StoreError::Moved { .. } | StoreError::Absent)) => {}
            Err(error) => return Err(error.into_status()),
        }
    }
    Err(Status::conflict(kind.subject(name), "the object is changed faster than it can be deleted; try again"))
}

/// Deletes one object as the server itself does it: without admission, in the background.
pub async fn discard(api: &Api, kind: &Arc<Kind>, namespace: &str, name: &str) -> Result<(), Status> {
    for _ in 0..RETRIES {
        let Some(old) = api.storage.read(kind, namespace, name, Freshness::Latest).await? else { return Ok(()) };
        let plan = plan(api, kind, &old.object, &DeleteOptions::default());
        match carry_out(api, kind, &old, plan, false).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Store(StoreError::Moved { .. } | StoreError::Absent)) => {}
            Err(error) => return Err(error.into_status()),
        }
    }
    Err(Status::conflict(kind.subject(name), "the object is changed faster than it can be deleted; try again"))
}

/// Refuses what is said of another object, or of another version of it.
pub(super) fn check_preconditions(kind: &Kind, old: &Object, options: &DeleteOptions) -> Result<(), Status> {
    if kind.traits.spec_finalizers {
        return check_early(kind, old, options, "Precondition");
    }
    if kind.id.is(DEFINITIONS) {
        return check_early(kind, old, options, "precondition");
    }
    // Named by kind: upstream refuses before it knows the resource (`BeforeDelete`).
    let subject = kind.kind_subject(old.name());
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != old.uid()) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.uid()
        );
        return Err(Status::conflict(subject, &why));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|v| *v != old.resource_version()) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            old.resource_version()
        );
        return Err(Status::conflict(subject, &why));
    }
    Ok(())
}

/// Namespaces and CRDs have storages of their own, which look before the others do, in other words (`core/namespace/storage`,
/// `customresourcedefinition/etcd.go`).
fn check_early(kind: &Kind, old: &Object, options: &DeleteOptions, spelt: &str) -> Result<(), Status> {
    let wanted = [("UID", &options.uid, old.uid()), ("ResourceVersion", &options.resource_version, old.resource_version())];
    for (what, wanted, found) in wanted {
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let why = format!("{spelt} failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            return Err(Status::conflict(kind.subject(old.name()), &why));
        }
    }
    Ok(())
}

async fn admit(
    api: &Api,
    call: &Call,
    kind: &Kind,
    old: &Object,
    options: &DeleteOptions,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let mut attempt =
        Attempt { old: Some(old), dry_run: options.dry_run, options: Given::Delete(options), ..call.attempt(Operation::Delete, kind) };
    admission::pass(&api.admission, &mut attempt, None, warnings).await
}

/// What a delete does to an object.
enum Plan {
    /// Take it out of the store; its last state, as the answer shows it.
    Remove(Object),
    /// Write it with marks.
    Mark(Object),
    /// It is on its way already.
    Leave,
}

fn plan(api: &Api, kind: &Kind, old: &Object, options: &DeleteOptions) -> Plan {
    let mut marked = old.clone();
    if !old.is_deleting() && kind.rules.mark_deleted(&mut marked, api.now()) {
        return Plan::Mark(marked);
    }
    let finalizers = finalizers(kind, old, options);
    let grace = grace(kind, old, options);
    let blocked = !finalizers.is_empty() || kind.spec_finalizers(old) > 0;
    let mut new = old.clone();
    meta::set_finalizers(&mut new, &finalizers);
    match (old.is_deleting(), grace) {
        (false, 0) if !blocked => {
            // What could have had grace says that it had none.
            if kind.rules.policy().graceful {
                meta::mark_deleted(&mut new, api.now(), 0);
            }
            return Plan::Remove(new);
        }
        (false, grace) => {
            meta::mark_deleted(&mut new, api.now(), grace);
            if kind.traits.spec_finalizers {
                new.member_mut("status").insert("phase", "Terminating".into());
                new.metadata_mut().remove("deletionGracePeriodSeconds");
            }
        }
        (true, wanted) => {
            let left = old.value().pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
            // A second delete may only shorten the grace.
            if wanted < left {
                new.set_metadata("deletionGracePeriodSeconds", wanted);
                let at = api.now().saturating_add(jiff::SignedDuration::from_secs(wanted)).unwrap_or_else(|_| api.now());
                new.set_metadata("deletionTimestamp", meta::time_text(at));
            }
            if wanted == 0 && !blocked {
                return Plan::Remove(new);
            }
        }
    }
    if new == *old { Plan::Leave } else { Plan::Mark(new) }
}

/// Seconds the object gets to end; 0 for kinds without grace.
fn grace(kind: &Kind, old: &Object, options: &DeleteOptions) -> i64 {
    if !kind.rules.policy().graceful {
        return 0;
    }
    let left = old.value().pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let asked = match options.grace_seconds {
        Some(seconds) => seconds,
        None => match left {
            Some(left) => return left,
            None => kind.rules.default_grace_seconds(old),
        },
    };
    if kind.rules.ends_at_once(old) {
        return 0;
    }
    // Negative means "at once, but gracefully".
    if asked < 0 { 1 } else { asked }
}

/// The finalizers the object has from now on: the propagation policy decides about the garbage collector's two.
fn finalizers(kind: &Kind, old: &Object, options: &DeleteOptions) -> Vec<String> {
    let has = |name: &str| old.finalizers().contains(&name);
    let (orphan, foreground) = match options.propagation {
        _ if !kind.rules.policy().dependents => (false, false),
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
        None => (kind.traits.orphans, false),
    };
    let others = old.finalizers().into_iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).map(str::to_owned);
    let ours = [(orphan, ORPHAN), (foreground, FOREGROUND)].into_iter().filter(|(on, _)| *on).map(|(_, name)| name.to_owned());
    others.chain(ours).collect()
}

async fn carry_out(api: &Api, kind: &Kind, old: &Stored, plan: Plan, dry_run: bool) -> Result<Deleted, WriteError> {
    let plain = |object: &Object| bytes_of(object).map_err(WriteError::Status);
    let key = kind.key(old.object.namespace(), old.object.name()).ok_or_else(|| WriteError::Status(Status::no_such_path()))?;
    match plan {
        Plan::Leave => Ok(Deleted::Leaving(items::splice(&plain(&old.object)?, old.revision))),
        Plan::Mark(object) if dry_run => Ok(Deleted::Leaving(items::splice(&plain(&object)?, old.revision))),
        Plan::Mark(object) => {
            let Written { wire, .. } = api.storage.put(kind, &key, Expect::At(old.revision), object, None).await?;
            Ok(Deleted::Leaving(wire))
        }
        Plan::Remove(last) if dry_run => Ok(Deleted::Gone(items::splice(&plain(&last)?, old.revision), last)),
        Plan::Remove(last) => {
            // Who watches sees the marks before the end (`updateForGracefulDeletionAndFinalizers`): controllers wait for a change that has a
            // `deletionTimestamp`, and read it from what the event of the removal shows.
            let at = match last == old.object {
                true => old.revision,
                false => match api.storage.put_last(kind, &key, old.revision, last.clone()).await {
                    // A full disk takes removals and nothing else. If the marks were written after all, the object is not at this revision.
                    Err(WriteError::Store(StoreError::Unavailable(_))) => old.revision,
                    marked => marked?.revision,
                },
            };
            let revision = api.storage.delete(kind, &key, at).await?;
            api.claims.release(kind, &old.object).await;
            Ok(Deleted::Gone(items::splice(&plain(&last)?, revision), last))
        }
    }
}
