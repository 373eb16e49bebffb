//! `pods/eviction`: a delete that asks the pod's disruption budget first (kube-apiserver `core/pod/storage/eviction.go`).

use std::sync::Arc;

use coracle_store::{Expect, StoreError, cache::Freshness};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Api, Call,
    delete::{Admitted, Deleted, remove, success},
    render, reviews,
};
use crate::{
    admission::{self, Attempt, Given, Operation},
    registry::{Kind, LabelSelector, Object, meta, storage::WriteError},
    request::{Query, query::DeleteOptions},
    wire::{Answer, Status, answer, status::Subject},
};

const RETRIES: usize = 30;
/// Evictions a budget may have that its controller has not seen yet.
const PENDING: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Deletes the pod if its budget allows; 429 if not now.
pub async fn evict(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    let schema = api.message("policy.Eviction")?;
    let mut eviction = reviews::decoded_as(call, &schema, "Eviction", "v1", "policy/v1")?;
    if !eviction.name().is_empty() && eviction.name() != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = DeleteOptions::parse(&Query::default(), eviction.value().get("deleteOptions"))?;
    options.dry_run |= call.query.text("dryRun") == "All";
    let mut warnings = Vec::new();
    reviews::placed(api, call, &schema, &mut eviction)?;
    let mut attempt = Attempt {
        dry_run: options.dry_run,
        options: Given::Query(&call.query),
        ..Attempt::new(Operation::Create, &call.info, kind, &call.user, &call.annotations)
    };
    admission::pass(&api.admission, &mut attempt, Some(&mut eviction), &mut warnings).await?;
    let name = &call.info.name;
    let found = api.storage.read(kind, &call.info.namespace, name, Freshness::Latest).await?;
    let pod = found.ok_or_else(|| Status::not_found(kind.subject(name)))?.object;
    if !needs_no_budget(&pod) {
        charge(api, call, &pod, options.dry_run).await?;
    }
    match remove(api, call, kind, name, &options, Admitted::Before, &mut warnings).await? {
        Deleted::Gone(..) | Deleted::Leaving(_) => {}
    }
    let mut status = success(None);
    status["code"] = 201.into();
    let mut made = render::value(api, StatusCode::CREATED, wanted.encoding, &status);
    answer::warn(&mut made, &warnings);
    Ok(made)
}

/// Pods that are over, not begun, or going may go without asking.
fn needs_no_budget(pod: &Object) -> bool {
    matches!(pod.text("/status/phase"), "Succeeded" | "Failed" | "Pending") || pod.is_deleting()
}

/// Takes one disruption from the pod's budget.
async fn charge(api: &Api, call: &Call, pod: &Object, dry_run: bool) -> Result<(), Status> {
    let catalog = api.storage.catalog();
    let Some(kind) = catalog.get("policy", "v1", "poddisruptionbudgets").cloned() else { return Ok(()) };
    for _ in 0..RETRIES {
        let snapshot = api.storage.snapshot(&kind, Freshness::Latest).await?;
        let prefix = kind.list_prefix(&call.info.namespace);
        let mut budgets = Vec::new();
        for cached in snapshot.range(&prefix, None) {
            let budget = crate::registry::storage::parse(&kind, &cached.wire())?;
            if covers(&budget, pod) {
                budgets.push((budget, cached.revision));
            }
        }
        let (mut budget, revision) = match budgets.len() {
            0 => return Ok(()),
            1 => budgets.remove(0),
            _ => {
                // A bare status upstream, without the reason and the words of other internal errors.
                let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, "", text));
            }
        };
        if is_free(&budget, pod) {
            return Ok(());
        }
        spend(&mut budget, pod, api)?;
        if dry_run {
            return Ok(());
        }
        let key = kind.key(budget.namespace(), budget.name()).ok_or_else(Status::no_such_path)?;
        match api.storage.put(&kind, &key, Expect::At(revision), budget, None).await {
            Ok(_) => return Ok(()),
            Err(WriteError::Store(StoreError::Moved { .. } | StoreError::Absent)) => {}
            Err(error) => return Err(error.into_status()),
        }
    }
    Err(Status::too_many_requests(REFUSED, 10))
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
fn spend(budget: &mut Object, pod: &Object, api: &Api) -> Result<(), Status> {
    refused(budget)?;
    let allowed = number(budget, "disruptionsAllowed") - 1;
    let time = meta::time_text(api.now());
    let status = budget.member_mut("status");
    status.insert("disruptionsAllowed".into(), allowed.into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    disrupted[pod.name()] = time.into();
    Ok(())
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
        return caused(
            Status::too_many_requests(REFUSED, 10),
            format!("The disruption budget {name} is still being processed by the server."),
        );
    }
    let not_now = format!("The disruption budget {name} does not allow evicting pods currently");
    let allowed = number(budget, "disruptionsAllowed");
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return caused(forbidden(why), format!("{not_now}: {why}"));
    }
    let pending = budget.value().pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, serde_json::Map::len);
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
