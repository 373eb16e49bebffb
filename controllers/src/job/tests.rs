use serde_json::{Value, json};

use super::*;
use crate::change::Verb;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn job(spec: &Value, status: &Value) -> Job {
    let mut spec = spec.clone();
    spec["selector"] = json!({"matchLabels": {"job": "j"}});
    spec["template"] = json!({"metadata": {"labels": {"job": "j"}}, "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}});
    serde_json::from_value(json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "j", "namespace": "a", "uid": "j"}, "spec": spec, "status": status}))
    .unwrap()
}

fn pod(name: &str, phase: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"job": "j"}, "finalizers": [TRACKING],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true}]},
        "status": {"phase": phase, "containerStatuses": [{"state": {"terminated": {"exitCode": 1, "finishedAt": "2020-01-01T00:00:00Z"}}}]},
    }))
    .unwrap()
}

fn indexed(name: &str, phase: &str, index: &str) -> Pod {
    let mut pod = pod(name, phase);
    pod.metadata.annotations.insert(indexes::INDEX.into(), index.into());
    pod
}

#[derive(Default, Debug)]
struct Told {
    created: Vec<Value>,
    deleted: Vec<String>,
    released: Vec<String>,
    status: Value,
    order: Vec<&'static str>,
}

fn run(job: &Job, pods: Vec<Pod>) -> (Told, Plan) {
    let caches = Arc::new(Caches::default());
    caches.jobs.put(job.clone());
    pods.into_iter().for_each(|pod| caches.pods.put(pod));
    let plan = Jobs::new(caches).plan(&Key::new("a", "j"), at(0));
    let mut told = Told::default();
    for change in plan.changes() {
        match &change.verb {
            Verb::Create(body) => {
                told.created.push(serde_json::from_slice(body).unwrap());
                told.order.push("create");
            }
            Verb::Delete { .. } => told.deleted.push(change.key.name.to_string()),
            Verb::Patch { .. } => {
                told.released.push(change.key.name.to_string());
                told.order.push("release");
            }
            Verb::Update { object, .. } => {
                told.status = object["status"].clone();
                told.order.push("status");
            }
        }
    }
    (told, plan)
}

fn conditions(status: &Value) -> Vec<String> {
    let list = status["conditions"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|c| format!("{}={} {}", c["type"].as_str().unwrap(), c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()))
        .collect()
}

#[test]
fn pods_are_made_up_to_parallelism_and_completions() {
    let cases = [
        (json!({"parallelism": 3, "completions": 5}), vec![], 3),
        (json!({"parallelism": 3, "completions": 2}), vec![], 2),
        (json!({"parallelism": 3}), vec![pod("x", "Running")], 2),
        (json!({"parallelism": 3}), vec![pod("x", "Succeeded"), pod("y", "Running")], 0),
        (json!({"parallelism": 2, "completions": 2, "suspend": true}), vec![], 0),
    ];
    for (spec, pods, expected) in cases {
        let (told, _) = run(&job(&spec, &json!({})), pods);
        assert_eq!(told.created.len(), expected, "{spec}");
        assert!(told.created.iter().all(|pod| pod["metadata"]["finalizers"] == json!([TRACKING])));
    }
}

#[test]
fn an_ended_pod_is_noted_then_released_then_counted() {
    let spec = json!({"parallelism": 1, "completions": 1});
    let (told, _) = run(&job(&spec, &json!({})), vec![pod("x", "Succeeded")]);
    assert_eq!(told.status["uncountedTerminatedPods"], json!({"succeeded": ["x"]}));
    assert_eq!((told.order, told.released), (vec!["status", "release"], vec!["x".to_owned()]));
    assert_eq!(conditions(&told.status), ["SuccessCriteriaMet=True CompletionsReached"]);
    let mut released = pod("x", "Succeeded");
    released.metadata.finalizers.clear();
    let (told, plan) = run(&job(&spec, &told.status), vec![released]);
    assert_eq!((told.status["succeeded"].as_i64(), &told.status["uncountedTerminatedPods"]), (Some(1), &json!({})));
    assert_eq!(conditions(&told.status), ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]);
    assert!(!told.status["completionTime"].is_null());
    assert!(plan.steps.iter().any(|step| matches!(step, crate::change::Step::Tell(note) if note.reason == "Completed")));
}

#[test]
fn too_many_failures_end_the_job_and_its_running_pods() {
    let spec = json!({"parallelism": 2, "completions": 2, "backoffLimit": 0});
    let (told, _) = run(&job(&spec, &json!({})), vec![pod("x", "Failed"), pod("y", "Running")]);
    assert_eq!(conditions(&told.status), ["FailureTarget=True BackoffLimitExceeded"]);
    assert_eq!((told.deleted, told.released), (vec!["y".to_owned()], vec!["x".to_owned()]));
}

#[test]
fn a_failed_pod_is_replaced_only_after_its_back_off() {
    let mut failed = pod("x", "Failed");
    failed.status.container_statuses[0].state.terminated.as_mut().unwrap().finished_at = Some(at(-4));
    let (told, plan) = run(&job(&json!({"completions": 1}), &json!({})), vec![failed]);
    assert_eq!((told.created.len(), plan.again.unwrap().as_secs()), (0, 6));
}

#[test]
fn the_deadline_ends_the_job() {
    let status = json!({"startTime": time_at(-61)});
    let (told, _) = run(&job(&json!({"activeDeadlineSeconds": 60}), &status), vec![pod("x", "Running")]);
    assert_eq!(conditions(&told.status), ["FailureTarget=True DeadlineExceeded"]);
    assert_eq!(told.deleted, ["x"]);
}

fn time_at(second: i64) -> Value {
    serde_json::to_value(crate::time::api(at(second))).unwrap()
}

#[test]
fn each_index_has_one_pod_until_it_is_done() {
    let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 5});
    let pods =
        vec![indexed("a", "Succeeded", "0"), indexed("b", "Running", "1"), indexed("c", "Running", "1"), indexed("d", "Failed", "3")];
    let (told, _) = run(&job(&spec, &json!({"completedIndexes": "4", "succeeded": 1})), pods.clone());
    assert_eq!(told.status["completedIndexes"], "0,4");
    assert_eq!((told.status["succeeded"].as_i64(), told.deleted), (Some(2), vec!["c".to_owned()]));
    let pods: Vec<Pod> = pods.into_iter().filter(|pod| pod.metadata.name != "c").collect();
    let (told, _) = run(&job(&spec, &json!({"completedIndexes": "4"})), pods);
    let created: Vec<&Value> = told.created.iter().map(|pod| &pod["metadata"]["annotations"][indexes::INDEX]).collect();
    assert_eq!(created, ["2", "3"]);
    assert_eq!(told.created[0]["spec"]["hostname"], "j-2");
    assert_eq!(told.created[0]["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
}

#[test]
fn suspending_deletes_the_pods_and_says_so() {
    let (told, _) = run(&job(&json!({"suspend": true, "parallelism": 1, "completions": 1}), &json!({})), vec![pod("x", "Running")]);
    assert_eq!((told.deleted, conditions(&told.status)), (vec!["x".to_owned()], vec!["Suspended=True JobSuspended".to_owned()]));
    assert!(told.status["startTime"].is_null());
}

#[test]
fn the_pods_of_a_job_that_is_gone_are_released() {
    let caches = Arc::new(Caches::default());
    caches.pods.put(pod("x", "Running"));
    let plan = Jobs::new(caches).plan(&Key::new("a", "j"), at(0));
    assert_eq!(plan.changes().count(), 1);
}

#[test]
fn a_finished_job_is_deleted_after_its_time_to_live() {
    let ended = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": time_at(-10)}]});
    let plan_for = |ttl: i64| {
        let caches = Arc::new(Caches::default());
        caches.jobs.put(job(&json!({"ttlSecondsAfterFinished": ttl}), &ended));
        TtlAfterFinished::new(caches).plan(&Key::new("a", "j"), at(0))
    };
    assert_eq!(plan_for(30).again.unwrap().as_secs(), 20);
    assert!(matches!(plan_for(5).changes().next().unwrap().verb, Verb::Delete { .. }));
}
