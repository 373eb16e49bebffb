//! `/livez`, `/readyz`, `/healthz` and one check of them (`/readyz/ping`), in upstream's names and format (`server/healthz/healthz.go`).

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::timeout;
use tracing::{debug, info};

use super::layers::Layers;
use crate::{
    metrics,
    verbs::Call,
    wire::{Answer, Body, answer},
};

/// What is done before the server is ready and stays done: system objects are there, and what follows changes has caught up.
const START: [&str; 13] = [
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/storage-readiness",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
];

/// The same, of flow control.
const FLOW: [&str; 2] = ["poststarthook/priority-and-fairness-config-consumer", "poststarthook/priority-and-fairness-filter"];

/// The same, of other API servers: their objects are followed, looked at and told of (kube-aggregator `apiserver/apiserver.go`).
const AGGREGATOR: [&str; 9] = [
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    // The objects of built-in versions are among what every start writes.
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];

/// The check of the services that keep keys.
const KEYS: &str = "kms-providers";
/// The store has this long to answer (etcd's health check upstream: `--etcd-healthcheck-timeout`).
const PATIENCE: Duration = Duration::from_secs(2);

/// One check and what it found.
struct Check {
    name: &'static str,
    /// The reason is for the log: whoever may ask for health need not know more.
    found: Result<(), String>,
}

impl Check {
    fn new(name: &'static str, passed: bool, why: &str) -> Self {
        Self { name, found: if passed { Ok(()) } else { Err(why.to_owned()) } }
    }
}

/// All checks of an endpoint, in upstream's order. Those that are not `wanted` are taken for good: nobody is asked.
async fn checks(layers: &Layers, endpoint: &str, wanted: impl Fn(&str) -> bool) -> Vec<Check> {
    let storage = &layers.api.storage;
    let alive = !["etcd", "etcd-readiness"].into_iter().any(&wanted) || timeout(PATIENCE, storage.is_alive()).await.unwrap_or(false);
    let (started, ready) = (layers.paths.is_started(), endpoint == "readyz");
    let store = |name| Check::new(name, alive, "the store does not answer");
    let mut checks = vec![Check::new("ping", true, ""), Check::new("log", true, ""), store("etcd")];
    if ready {
        // A store that answers and takes no writes: the log says why, and how to get out of it.
        let readiness = layers
            .api
            .storage
            .alarm()
            .filter(|_| alive)
            .map_or_else(|| store("etcd-readiness"), |why| Check { name: "etcd-readiness", found: Err(why) });
        checks.push(readiness);
        checks.push(Check::new("informer-sync", started, "informers not started yet"));
    }
    if endpoint != "livez"
        && let Some(rest) = storage.at_rest().filter(|rest| rest.has_health())
    {
        let found = if wanted(KEYS) { rest.health().await } else { Some(Ok(())) };
        checks.extend(found.map(|found| Check { name: KEYS, found }));
    }
    let done = |name| Check::new(name, started, "not finished");
    checks.extend(START.map(done));
    if layers.flow.is_some() {
        checks.extend(FLOW.map(done));
    }
    checks.extend(AGGREGATOR.map(done));
    if ready {
        checks.push(Check::new("shutdown", !layers.paths.is_stopping(), "process is shutting down"));
    }
    checks
}

/// The paths of all checks.
pub(super) async fn paths(layers: &Layers) -> Vec<String> {
    let mut paths = Vec::new();
    for endpoint in ["healthz", "livez", "readyz"] {
        let checks = checks(layers, endpoint, |_| false).await;
        paths.extend(checks.iter().map(|check| format!("/{endpoint}/{}", check.name)));
    }
    paths
}

/// Answers `segments`: the endpoint and perhaps the name of a check.
pub(super) async fn answer(layers: &Arc<Layers>, call: &Call, segments: &[&str]) -> Answer {
    let endpoint = segments[0];
    if let [_, only @ ..] = segments
        && !only.is_empty()
    {
        let only = only.join("/");
        return single(&checks(layers, endpoint, |name| name == only).await, &only);
    }
    let excluded: BTreeSet<&str> = call.query.all("exclude").collect();
    let checks = checks(layers, endpoint, |name| !excluded.contains(name)).await;
    let (text, failed) = whole(&checks, endpoint, &excluded);
    if failed {
        return answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{endpoint} check failed\n"));
    }
    match call.query.get("verbose") {
        Some(_) => answer::text(StatusCode::OK, format!("{text}{endpoint} check passed\n")),
        None => answer::text(StatusCode::OK, "ok"),
    }
}

/// What `/readyz/NAME` answers.
fn single(checks: &[Check], name: &str) -> Answer {
    match checks.iter().find(|check| check.name == name) {
        None => answer::not_found(),
        Some(Check { found: Ok(()), .. }) => answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", Body::full("ok")),
        Some(Check { found: Err(why), .. }) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
    }
}

/// A line for each check, and whether one failed that is not excluded.
fn whole(checks: &[Check], endpoint: &str, excluded: &BTreeSet<&str>) -> (String, bool) {
    let (mut text, mut failed) = (String::new(), false);
    for Check { name, found } in checks {
        // Writing to a String cannot fail.
        if excluded.contains(name) {
            let _ = writeln!(text, "[+]{name} excluded: ok");
            continue;
        }
        metrics::checked(name, endpoint, found.is_ok());
        match found {
            Ok(()) => {
                let _ = writeln!(text, "[+]{name} ok");
            }
            Err(why) => {
                info!(check = name, endpoint, "health check failed: {why}");
                failed = true;
                let _ = writeln!(text, "[-]{name} failed: reason withheld");
            }
        }
    }
    let unknown: Vec<String> =
        excluded.iter().filter(|name| checks.iter().all(|check| check.name != **name)).map(|name| format!("{name:?}")).collect();
    if !unknown.is_empty() {
        debug!(names = unknown.join(","), "no such health checks to exclude");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {}", unknown.join(","));
    }
    (text, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Vec<Check> {
        vec![Check::new("ping", true, ""), Check::new("etcd", false, "error getting data from etcd")]
    }

    #[test]
    fn a_failing_check_is_named_and_its_reason_kept_from_the_public() {
        let (text, failed) = whole(&found(), "livez", &BTreeSet::new());
        assert_eq!((&*text, failed), ("[+]ping ok\n[-]etcd failed: reason withheld\n", true));
        assert_eq!(single(&found(), "etcd").status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(single(&found(), "ping").status(), StatusCode::OK);
        assert_eq!(single(&found(), "nonsense").status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn excluded_checks_do_not_count_and_unknown_ones_are_told() {
        let (text, failed) = whole(&found(), "livez", &["etcd", "nonsense"].into());
        assert!(!failed);
        assert_eq!(text, "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"nonsense\"\n");
    }
}
