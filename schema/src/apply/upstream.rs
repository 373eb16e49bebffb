//! Runs of upstream's own field manager, recorded step by step (random configurations and updates of built-in kinds, six managers): what
//! it answered must be what we answer.

use coracle_tree::Value;
use serde::Deserialize;

use super::apply;
use crate::{
    SchemaRef, Tables,
    decode::{FieldValidation, from_value},
    managed::{Who, record_update, reset_fields},
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scenario {
    group: String,
    version: String,
    kind: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Step {
    op: String,
    manager: String,
    sub: String,
    force: bool,
    input: Value,
    #[serde(default)]
    error: String,
    result: Option<Value>,
}

/// The object as it would be stored, without what the recording adds.
fn stored(schema: &SchemaRef, object: &Value) -> Value {
    let mut object = from_value(object.clone(), schema, FieldValidation::Ignore).unwrap().value;
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("uid");
    metadata.remove("managedFields");
    object
}

fn run(schema: &SchemaRef, scenario: &Scenario, number: usize, live: Option<&Value>, step: &Step) -> Result<Value, String> {
    let version = if scenario.group.is_empty() { scenario.version.clone() } else { format!("{}/{}", scenario.group, scenario.version) };
    let resource = format!("{}s", scenario.kind.to_lowercase());
    let has_status = scenario.kind != "ConfigMap";
    let who = Who {
        manager: &step.manager,
        api_version: &version,
        kind: &scenario.kind,
        subresource: &step.sub,
        now: &format!("2020-01-01T00:00:{number:02}Z"),
        reset: reset_fields(&scenario.group, &resource, &step.sub, has_status),
        versions: None,
    };
    if step.op == "apply" {
        return apply(schema, live, &step.input, &who, step.force).map_err(|e| e.to_string());
    }
    let mut new = step.input.clone();
    record_update(schema, live, &mut new, &who);
    Ok(new)
}

#[test]
fn every_recorded_step_of_upstream_is_ours_too() {
    let tables = Tables::load().unwrap();
    let scenarios: Vec<Scenario> = serde_json::from_str(include_str!("testdata/upstream.json")).unwrap();
    let mut checked = 0;
    for (at, scenario) in scenarios.iter().enumerate() {
        let schema = tables.kind(&scenario.group, &scenario.version, &scenario.kind).unwrap();
        let mut live: Option<Value> = None;
        for (number, step) in scenario.steps.iter().enumerate() {
            let place = format!("scenario {at} ({}), step {number}: {} by {} {}", scenario.kind, step.op, step.manager, step.sub);
            let ours = run(&schema, scenario, number, live.as_ref(), step);
            checked += 1;
            match (&step.result, ours) {
                (None, Ok(_)) => panic!("{place}: upstream fails with {}", step.error),
                (None, Err(error)) => assert_eq!(sorted(&error), sorted(&step.error), "{place}"),
                (Some(theirs), Ok(ours)) => {
                    // The recording leaves the first object of some scenarios without owners, as an old one would be.
                    let untracked = number == 0 && theirs["metadata"].get("managedFields").is_none();
                    if !untracked {
                        same(&ours["metadata"]["managedFields"], &theirs["metadata"]["managedFields"], &place);
                    }
                    if step.op == "apply" {
                        same(&stored(&schema, &ours), &stored(&schema, theirs), &place);
                    }
                    live = Some(theirs.clone());
                }
                (Some(_), Err(error)) => panic!("{place}: we fail with {error}"),
            }
        }
    }
    assert!(checked > 50, "{checked}");
}

fn same(ours: &Value, theirs: &Value, place: &str) {
    assert!(ours == theirs, "{place}\nours:   {ours}\ntheirs: {theirs}");
}

/// The lines of a message: upstream lists conflicts of several managers, and mistakes, in no particular order.
fn sorted(message: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = message.lines().map(str::trim).collect();
    lines.sort_unstable();
    lines
}
