//! Pods: what state the containers add up to.

use coracle_tree::{Value, json};
use jiff::Timestamp;

use super::{
    AGE, Columns, NAME,
    cell::{self, Subject, int, items, or, text, there},
};
use crate::wire::table::Column;

pub(super) static PODS: Columns = Columns {
    columns: &[
        NAME,
        Column::text("Ready", "Containers that are ready, of all that should be."),
        Column::text("Status", "What the states of the containers add up to."),
        Column::text("Restarts", "How often containers were restarted, and when last."),
        AGE,
        Column::wide("IP", "Address of the pod."),
        Column::wide("Node", "Node that runs the pod."),
        Column::wide("Nominated Node", "Node on which room is being made for the pod."),
        Column::wide("Readiness Gates", "Readiness gates that are open, of all."),
    ],
    cells,
    conditions,
    arrange: None,
};

/// What a pod's row says.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn cells(s: Subject<'_>) -> Vec<Value> {
    let summary = summary(s);
    let restarts = match summary.last_restart {
        Some(then) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, cell::human(cell::between(then, s.now))),
        _ => summary.restarts.to_string(),
    };
    let address = items(s.status(), "podIPs").first().map_or("", |ip| text(ip, "ip"));
    vec![
        s.name(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        s.age(),
        or(address, "<none>").into(),
        or(text(s.spec(), "nodeName"), "<none>").into(),
        or(text(s.status(), "nominatedNodeName"), "<none>").into(),
        readiness_gates(s).into(),
    ]
}

fn conditions(object: &Value) -> Value {
    let message = match object.pointer("/status/phase").and_then(Value::as_str) {
        Some("Succeeded") => "The pod has completed successfully.",
        Some("Failed") => "The pod failed.",
        _ => return Value::Null,
    };
    json!([{"type": "Completed", "status": "True", "reason": object["status"]["phase"], "message": message}])
}

fn readiness_gates(s: Subject<'_>) -> String {
    let gates = items(s.spec(), "readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| cell::condition(s.status(), text(gate, "conditionType")) == Some(true)).count();
    format!("{open}/{}", gates.len())
}

fn summary(s: Subject<'_>) -> Summary {
    let (spec, status) = (s.spec(), s.status());
    let phase = text(status, "phase");
    let gated = items(status, "conditions").iter().any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated");
    let sidecars = items(spec, "initContainers").iter().filter(|c| is_sidecar(c)).count();
    let mut summary = Summary {
        ready: 0,
        total: items(spec, "containers").len() + sidecars,
        reason: if gated { "SchedulingGated" } else { or(text(status, "reason"), phase) }.to_owned(),
        restarts: 0,
        last_restart: None,
    };
    let of_sidecars = count_init(s, &mut summary);
    let initialized = cell::condition(status, "Initialized") == Some(true);
    if let Some((restarts, last)) = of_sidecars.filter(|of| !of.2 || initialized).map(|of| (of.0, of.1)) {
        (summary.restarts, summary.last_restart) = (restarts, last);
        count_main(status, &mut summary);
    }
    if s.is_deleting() {
        if text(status, "reason") == "NodeLost" {
            "Unknown".clone_into(&mut summary.reason);
        } else if phase != "Succeeded" && phase != "Failed" {
            "Terminating".clone_into(&mut summary.reason);
        }
    }
    summary
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// When a container's previous run ended.
fn previous_end(status: &Value) -> Option<Timestamp> {
    cell::time(there(status.get("lastState")?, "terminated")?, "finishedAt")
}

fn state<'v>(status: &'v Value, name: &str) -> Option<&'v Value> {
    there(status.get("state")?, name)
}

/// `Signal:9` or `ExitCode:1`, for a run that ended without a reason.
fn exit(terminated: &Value) -> String {
    match int(terminated, "signal") {
        0 => format!("ExitCode:{}", int(terminated, "exitCode")),
        signal => format!("Signal:{signal}"),
    }
}

/// Goes through the init containers up to the one that holds the pod up. Answers restarts and last restart of the sidecars among them, and
/// whether one holds the pod up.
fn count_init(s: Subject<'_>, summary: &mut Summary) -> Option<(i64, Option<Timestamp>, bool)> {
    let specs = items(s.spec(), "initContainers");
    let (mut restarts, mut last) = (0, None);
    for (at, status) in items(s.status(), "initContainerStatuses").iter().enumerate() {
        let sidecar = specs.iter().find(|c| text(c, "name") == text(status, "name")).is_some_and(is_sidecar);
        summary.restarts += int(status, "restartCount");
        summary.last_restart = summary.last_restart.max(previous_end(status));
        if sidecar {
            restarts += int(status, "restartCount");
            last = last.max(previous_end(status));
        }
        let started = status.get("started").and_then(Value::as_bool).unwrap_or_default();
        let waiting = state(status, "waiting").map_or("", |w| text(w, "reason"));
        match state(status, "terminated") {
            Some(ended) if int(ended, "exitCode") == 0 => continue,
            _ if sidecar && started => {
                summary.ready += usize::from(is_ready(status));
                continue;
            }
            Some(ended) => {
                let reason = text(ended, "reason");
                summary.reason = if reason.is_empty() { format!("Init:{}", exit(ended)) } else { format!("Init:{reason}") };
            }
            None if !waiting.is_empty() && waiting != "PodInitializing" => summary.reason = format!("Init:{waiting}"),
            None => summary.reason = format!("Init:{at}/{}", specs.len()),
        }
        return Some((restarts, last, true));
    }
    Some((restarts, last, false))
}

fn is_ready(status: &Value) -> bool {
    status.get("ready").and_then(Value::as_bool).unwrap_or_default()
}

/// Goes through the containers, the last first: the first one that has something to say wins.
fn count_main(status: &Value, summary: &mut Summary) {
    let mut running = false;
    let mut failure = None;
    for container in items(status, "containerStatuses").iter().rev() {
        summary.restarts += int(container, "restartCount");
        summary.last_restart = summary.last_restart.max(previous_end(container));
        let waiting = state(container, "waiting").map_or("", |w| text(w, "reason"));
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if let Some(ended) = state(container, "terminated") {
            let reason = text(ended, "reason");
            summary.reason = if reason.is_empty() { exit(ended) } else { reason.to_owned() };
            if int(ended, "exitCode") != 0 {
                failure = Some(summary.reason.clone());
            }
        } else if is_ready(container) && state(container, "running").is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        // Some containers are done, others may go on.
        if running && cell::condition(status, "Ready") == Some(true) {
            "Running".clone_into(&mut summary.reason);
        } else if let Some(failure) = failure {
            summary.reason = failure;
        } else if running {
            "NotReady".clone_into(&mut summary.reason);
        }
    }
}
