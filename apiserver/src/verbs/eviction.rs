//! `pods/eviction`: a delete that asks the pod's disruption budget first (kube-apiserver `core/pod/storage/eviction.go`).

use std::sync::Arc;

use coracle_schema::FieldErrors;
use coracle_store::cache::Freshness;
use coracle_tree::{Value, json};
use http::StatusCode;

use super::{
    Api, Call,
    delete::{Admitted, check_preconditions, remove, success},
    render, reviews,
    write::{Made, Writing},
};
use crate::{
    admission::{self, Attempt, Given, Operation},
    registry::{Kind, LabelSelector, Object, meta, storage},
    request::{
        Query,
        query::{DeleteOptions, UNREADABLE, WriteOptions},
    },
    wire::{Answer, Status, answer, status::Subject},
};

/// How often a pod that changes meanwhile is looked at again.
const RETRIES: usize = 20;
/// Evictions a budget may have that its controller has not seen yet.
const PENDING: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Deletes the pod if its budget allows; 429 if not now.
pub async fn evict(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let mut warnings = Vec::new();
    let made = evicted(api, call, kind, &mut warnings).await;
    answer::warned(made, warnings)
}

async fn evicted(api: &Api, call: &Call, kind: &Arc<Kind>, warnings: &mut Vec<String>) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    let options = admitted(api, call, kind, warnings).await?;
    let eviction = Eviction { api, call, kind, options };
    if let Some(pod) = eviction.without_budget().await? {
        eviction.within_budget(&pod).await?;
    }
    let mut status = success(None);
    status["code"] = 201.into();
    Ok(render::value(api, StatusCode::CREATED, wanted.encoding, &status))
}

/// Reads the eviction and shows it to admission; how the pod is to be deleted.
async fn admitted(api: &Api, call: &Call, kind: &Arc<Kind>, warnings: &mut Vec<String>) -> Result<DeleteOptions, Status> {
    let created = WriteOptions::parse(&call.query, call.user_agent(), "CreateOptions")?;
    let schema = api.message("policy.Eviction")?;
    let mut eviction = reviews::decoded_as(call, &schema, "Eviction", "v1", "policy/v1", created.field_validation, warnings)?;
    reviews::placed(api, call, &schema, &mut eviction)?;
    let mut attempt = Attempt { dry_run: created.dry_run, options: Given::Query(&call.query), ..call.attempt(Operation::Create, kind) };
    let mutated = admission::mutate(&api.admission, &mut attempt, Some(&mut eviction)).await;
    warnings.append(&mut attempt.warnings);
    mutated?;
    if eviction.name() != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let body = eviction.value().get("deleteOptions").filter(|given| !given.is_null());
    check_safe(&call.info.name, body)?;
    let dry_run = tried_only(&call.query, body)?;
    let validated = admission::validate(&api.admission, &mut attempt, Some(&eviction)).await;
    warnings.append(&mut attempt.warnings);
    validated?;
    let found = api.storage.read(kind, &call.info.namespace, &call.info.name, Freshness::Latest).await?;
    found.ok_or_else(|| Status::not_found(kind.subject(&call.info.name)))?;
    let options = DeleteOptions::parse(&Query::default(), body)?;
    Ok(DeleteOptions { dry_run, ..options })
}

/// An eviction never deletes what cannot be read.
fn check_safe(name: &str, options: Option<&Value>) -> Result<(), Status> {
    if options.and_then(|options| options[UNREADABLE].as_bool()) != Some(true) {
        return Ok(());
    }
    let mut errors = FieldErrors::none();
    errors.invalid(format!("deleteOptions.{UNREADABLE}"), true, "can not be set for pod eviction, try after removing the option");
    Err(Status::invalid(Subject { group: "policy", resource: "Eviction", name }, &errors))
}

/// Whether the eviction is only tried: query and body may say so, but not in different words (`propagateDryRun`).
fn tried_only(query: &Query, options: Option<&Value>) -> Result<bool, Status> {
    let asked: Vec<&str> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
    let given: Vec<&str> =
        options.and_then(|options| options["dryRun"].as_array()).into_iter().flatten().filter_map(Value::as_str).collect();
    if !asked.is_empty() && !given.is_empty() && asked != given {
        let (asked, given) = (asked.join(" "), given.join(" "));
        return Err(Status::new(500, "", format!("Non-matching dry-run options in request and content: [{asked}] and [{given}]")));
    }
    Ok(!asked.is_empty() || !given.is_empty())
}

/// An eviction that admission has seen.
struct Eviction<'a> {
    api: &'a Api,
    call: &'a Call,
    kind: &'a Arc<Kind>,
    options: DeleteOptions,
}

impl Eviction<'_> {
    /// Lets a pod go that disturbs nobody; the pod if it is none of these.
    async fn without_budget(&self) -> Result<Option<Object>, Status> {
        let versioned = self.options.resource_version.is_some();
        let name = &self.call.info.name;
        for last in (0..RETRIES).rev() {
            let found = self.api.storage.read(self.kind, &self.call.info.namespace, name, Freshness::Latest).await?;
            let pod = found.ok_or_else(|| Status::not_found(self.kind.subject(name)))?.object;
            if !needs_no_budget(&pod) {
                return Ok(Some(pod));
            }
            let mut options = self.options.clone();
            if !versioned && may_begin(&pod) {
                options.resource_version = Some(pod.resource_version().to_owned());
            }
            match self.leave(options).await {
                Err(status) if status.code == 409 && !versioned && last > 0 => {}
                done => return done.map(|()| None),
            }
        }
        Ok(None)
    }

    /// Lets the pod go if its budget allows.
    async fn within_budget(&self, pod: &Object) -> Result<(), Status> {
        let mut options = self.options.clone();
        let free = charge(self.api, self.call, pod, options.dry_run).await?;
        if free.is_some() {
            // It may not become healthy from here on.
            options.resource_version = Some(pod.resource_version().to_owned());
        }
        match (self.leave(options).await, free) {
            // The client did not ask for a version, so it is to try again.
            (Err(status), Some(budget)) if status.code == 409 && self.options.resource_version.is_none() => Err(in_process(&budget)),
            (done, _) => done,
        }
    }

    /// Notes on the pod why it goes, and deletes it (`addConditionAndDeletePod`).
    async fn leave(&self, mut options: DeleteOptions) -> Result<(), Status> {
        let (api, kind, name) = (self.api, self.kind, self.call.info.name.as_str());
        if !options.dry_run {
            let call = Call::of_server("update", kind, &self.call.info.namespace, name, "status");
            let mut writing = Writing::of_server(api, &call, kind);
            writing.admitted = Admitted::Before;
            let change = writing.change(false, |_, old| {
                let mut pod = old.cloned().ok_or_else(|| Status::not_found(kind.subject(name)))?;
                check_preconditions(kind, &pod, &options)?;
                disrupt(&mut pod, api.now());
                Ok(Made { object: pod, owned: true })
            });
            let marked = change.await?.wire;
            if options.resource_version.is_some() {
                options.resource_version = Some(storage::parse(kind, &marked)?.resource_version().to_owned());
            }
        }
        remove(api, self.call, kind, name, &options, Admitted::Before, &mut Vec::new()).await.map(drop)
    }
}

/// Pods that are over, not begun, or going may go without asking.
fn needs_no_budget(pod: &Object) -> bool {
    matches!(pod.text("/status/phase"), "Succeeded" | "Failed" | "Pending") || pod.is_deleting()
}

/// Whether the pod may yet become one that a budget counts.
fn may_begin(pod: &Object) -> bool {
    !matches!(pod.text("/status/phase"), "Succeeded" | "Failed") && !pod.is_deleting()
}

/// The condition that says why the pod ends.
fn disrupt(pod: &mut Object, now: jiff::Timestamp) {
    let reason = json!({"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting", "lastProbeTime": null});
    set_condition(pod, "DisruptionTarget", "True", reason, now);
}

/// Puts a condition into the status; it keeps the time of its last change while it stays true, or false.
fn set_condition(object: &mut Object, kind: &str, status: &str, mut condition: Value, now: jiff::Timestamp) {
    condition["type"] = kind.into();
    condition["status"] = status.into();
    condition["lastTransitionTime"] = meta::time_text(now).into();
    let all = object.member_mut("status").entry("conditions").or_insert_with(|| json!([]));
    if all.is_null() {
        *all = json!([]);
    }
    let Some(all) = all.as_array_mut() else { return };
    let Some(old) = all.iter_mut().find(|old| old["type"] == kind) else {
        all.push(condition);
        return;
    };
    if old["status"] == status {
        condition["lastTransitionTime"] = old["lastTransitionTime"].take();
    }
    *old = condition;
}

/// Takes one disruption from the pod's budget; the budget's name if the pod goes without.
async fn charge(api: &Api, call: &Call, pod: &Object, dry_run: bool) -> Result<Option<String>, Status> {
    let catalog = api.storage.catalog();
    let Some(kind) = catalog.get("policy", "v1", "poddisruptionbudgets").cloned() else { return Ok(None) };
    let snapshot = api.storage.snapshot(&kind, Freshness::Latest).await?;
    let mut budgets = Vec::new();
    for cached in snapshot.range(&kind.list_prefix(&call.info.namespace), None) {
        let budget = storage::parse(&kind, &cached.wire())?;
        if covers(&budget, pod) {
            budgets.push(budget);
        }
    }
    let budget = match budgets.len() {
        0 => return Ok(None),
        1 => budgets.remove(0),
        _ => {
            // A bare status upstream, without the reason and the words of other internal errors.
            let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "", text));
        }
    };
    let name = budget.name();
    if is_free(&budget, pod) {
        return Ok(Some(name.to_owned()));
    }
    if dry_run {
        return refused(&budget).map(|()| None);
    }
    let call = Call::of_server("update", &kind, budget.namespace(), name, "status");
    let change = |_: &mut Writing<'_>, old: Option<&Object>| {
        let mut budget = old.cloned().ok_or_else(|| Status::not_found(kind.subject(name)))?;
        spend(&mut budget, pod.name(), api.now())?;
        Ok(Made { object: budget, owned: false })
    };
    Writing::of_server(api, &call, &kind).change(false, change).await?;
    Ok(None)
}

/// An unready pod goes freely if the budget says so, or if enough others are healthy.
fn is_free(budget: &Object, pod: &Object) -> bool {
    let conditions = pod.value().pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let ready = conditions.filter(|c| c["type"] == "Ready").any(|c| c["status"] == "True");
    let desired = number(budget, "desiredHealthy");
    let healthy = number(budget, "currentHealthy") >= desired && desired > 0;
    !ready && (budget.text("/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow" || healthy)
}

/// Takes a disruption from the budget, or says why there is none to take.
fn spend(budget: &mut Object, pod: &str, now: jiff::Timestamp) -> Result<(), Status> {
    refused(budget)?;
    let allowed = number(budget, "disruptionsAllowed") - 1;
    if allowed == 0 {
        let mut condition = json!({"reason": "InsufficientPods", "message": ""});
        if let Some(seen) = budget.at("/status/observedGeneration") {
            condition["observedGeneration"] = seen.clone();
        }
        set_condition(budget, "DisruptionAllowed", "False", condition, now);
    }
    let status = budget.member_mut("status");
    status.insert("disruptionsAllowed", allowed.into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    disrupted[pod] = meta::time_text(now).into();
    Ok(())
}

/// The budget's counts are not those of its spec, or not those of its pods, yet.
fn in_process(budget: &str) -> Status {
    let mut status = Status::too_many_requests(REFUSED, 10);
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    status.details["causes"] = json!([{"reason": "DisruptionBudget", "message": cause}]);
    status
}

/// Why the budget allows no disruption (`checkAndDecrement`).
fn refused(budget: &Object) -> Result<(), Status> {
    let name = budget.name();
    let caused = |mut status: Status, cause: String| {
        status.details["causes"] = json!([{"reason": "DisruptionBudget", "message": cause}]);
        Err(status)
    };
    let forbidden = |why| Status::forbidden(Subject { group: "policy", resource: "poddisruptionbudget", name }, why);
    if number(budget, "observedGeneration") < budget.generation() {
        return Err(in_process(name));
    }
    let not_now = format!("The disruption budget {name} does not allow evicting pods currently");
    let allowed = number(budget, "disruptionsAllowed");
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return caused(forbidden(why), format!("{not_now}: {why}"));
    }
    let pending = budget.value().pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, coracle_tree::Map::len);
    if pending > PENDING {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return caused(forbidden(why), format!("{not_now}: too many pending evictions not confirmed by PDB controller"));
    }
    if allowed > 0 {
        return Ok(());
    }
    let conditions = budget.value().pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let said = conditions.into_iter().find(|c| c["type"] == "DisruptionAllowed").filter(|c| c["status"] == "False");
    let text = |name: &str| said.and_then(|c| c[name].as_str()).unwrap_or_default();
    let (desired, current) = (number(budget, "desiredHealthy"), number(budget, "currentHealthy"));
    let cause = match (text("reason"), text("message")) {
        // Looked at first: after a failed sync the counts cannot be trusted.
        ("SyncFailed", message) if !message.is_empty() => format!("{not_now} because it failed sync: {message}"),
        _ if current <= desired => format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"),
        (reason, message) if !message.is_empty() => format!("{not_now} ({reason}): {message}"),
        _ => not_now,
    };
    caused(Status::too_many_requests(REFUSED, 0), cause)
}

/// A number of the budget's status.
fn number(budget: &Object, name: &str) -> i64 {
    budget.value().pointer(&format!("/status/{name}")).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether a budget speaks of the pod.
fn covers(budget: &Object, pod: &Object) -> bool {
    let Some(selector) = budget.value().pointer("/spec/selector") else { return false };
    LabelSelector::of_value(selector).is_some_and(|s| s.matches(|key| pod.label(key)))
}
