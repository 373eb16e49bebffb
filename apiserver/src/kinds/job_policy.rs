//! When a job fails and when it has succeeded: its policies (upstream `apis/batch/validation`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::{template, view};

const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const INDEXES_MAX: u64 = 64 * 1024;

/// Checks `podFailurePolicy`; `job` is the job's spec.
pub(super) fn failure(job: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(policy) = view::get(job, "podFailurePolicy") else { return };
    let path = format!("{path}.podFailurePolicy.rules");
    let rules = view::list(policy, "rules");
    if rules.len() > RULES_MAX {
        errors.too_many(&path, rules.len(), RULES_MAX as u64);
    }
    let pod = view::member(view::member(job, "template"), "spec");
    let containers: HashSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|list| view::list(pod, list)).map(|c| view::text(c, "name")).collect();
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{at}]");
        action(job, rule, &path, errors);
        let (codes, conditions) = (view::get(rule, "onExitCodes"), view::list(rule, "onPodConditions"));
        if let Some(codes) = codes {
            exit_codes(codes, &containers, &format!("{path}.onExitCodes"), errors);
        }
        pod_conditions(conditions, &format!("{path}.onPodConditions"), errors);
        match (codes, conditions.is_empty()) {
            (Some(_), false) => errors.invalid_unshown(path, "specifying both OnExitCodes and OnPodConditions is not supported"),
            (None, true) => errors.invalid_unshown(path, "specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn action(job: &Value, rule: &Value, path: &str, errors: &mut FieldErrors) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let path = format!("{path}.action");
    match view::text(rule, "action") {
        "" => errors.required(path, &format!("valid values: {}", go_list(&ACTIONS))),
        "FailIndex" if view::int(job, "backoffLimitPerIndex").is_none() => {
            errors.invalid(path, "\"FailIndex\"", "requires the backoffLimitPerIndex to be set");
        }
        known if ACTIONS.contains(&known) => {}
        other => errors.not_supported(path, view::quoted(other), &ACTIONS),
    }
}

/// `["a" "b"]`, as Go prints a list of quoted texts.
fn go_list(texts: &[&str]) -> String {
    format!("[{}]", texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "))
}

fn exit_codes(codes: &Value, containers: &HashSet<&str>, path: &str, errors: &mut FieldErrors) {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let operator = view::text(codes, "operator");
    match operator {
        "" => errors.required(format!("{path}.operator"), &format!("valid values: {}", go_list(&OPERATORS))),
        known if OPERATORS.contains(&known) => {}
        other => errors.not_supported(format!("{path}.operator"), view::quoted(other), &OPERATORS),
    }
    if let Some(name) = view::get(codes, "containerName").and_then(Value::as_str)
        && !containers.contains(name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(format!("{path}.containerName"), view::quoted(name), detail);
    }
    let values: Vec<i64> = view::list(codes, "values").iter().filter_map(Value::as_i64).collect();
    let shown = view::member(codes, "values");
    let path = format!("{path}.values");
    if values.is_empty() {
        errors.invalid(&path, shown, "at least one value is required");
    } else if values.len() > CODES_MAX {
        errors.too_many(&path, values.len(), CODES_MAX as u64);
    }
    let mut seen = HashSet::new();
    for (at, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.invalid(format!("{path}[{at}]"), value, "must not be 0 for the In operator");
        }
        if !seen.insert(value) {
            errors.duplicate(format!("{path}[{at}]"), value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(path, shown, "must be ordered");
    }
}

fn pod_conditions(patterns: &[Value], path: &str, errors: &mut FieldErrors) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    if patterns.len() > PATTERNS_MAX {
        errors.too_many(path, patterns.len(), PATTERNS_MAX as u64);
    }
    for (at, pattern) in patterns.iter().enumerate() {
        let (kind, status) = (view::text(pattern, "type"), view::text(pattern, "status"));
        errors.invalid_each(&format!("{path}[{at}].type"), kind, name::qualified(kind));
        match status {
            "" => errors.required(format!("{path}[{at}].status"), &format!("valid values: {}", go_list(&STATUSES))),
            known if STATUSES.contains(&known) => {}
            other => errors.not_supported(format!("{path}[{at}].status"), view::quoted(other), &STATUSES),
        }
    }
}

/// Checks `successPolicy` of an indexed job.
pub(super) fn success(job: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(policy) = view::get(job, "successPolicy") else { return };
    let path = format!("{path}.successPolicy.rules");
    let rules = view::list(policy, "rules");
    if rules.is_empty() {
        errors.required(&path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        errors.too_many(&path, rules.len(), RULES_MAX as u64);
    }
    // Without completions upstream has nothing to compare with; that they are missing is said elsewhere.
    let Some(completions) = view::int(job, "completions") else { return };
    for (at, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &format!("{path}[{at}]"), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, path: &str, errors: &mut FieldErrors) {
    let (indexes, count) = (view::get(rule, "succeededIndexes").and_then(Value::as_str), view::int(rule, "succeededCount"));
    if indexes.is_none() && count.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(text) = indexes {
        let path = format!("{path}.succeededIndexes");
        if text.len() as u64 > INDEXES_MAX {
            errors.too_long(&path, INDEXES_MAX, "byte");
        }
        match count_indexes(text, completions) {
            Ok(found) => total = found,
            Err(why) => errors.invalid(path, view::quoted(text), &format!("error parsing succeededIndexes: {why}")),
        }
    }
    let Some(count) = count else { return };
    template::not_negative(rule, &["succeededCount"], path, errors);
    let path = format!("{path}.succeededCount");
    if count > completions {
        errors.invalid(&path, count, &format!("must be less than or equal to {completions} (the number of specified completions)"));
    }
    if indexes.is_some() && count > total {
        let detail = format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)");
        errors.invalid(path, count, &detail);
    }
}

/// How many indexes a text such as `1,3-5,7` names; ascending, below `completions` (`validateIndexesFormat`).
pub(super) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut last: Option<i64> = None;
    let mut total = 0;
    for interval in text.split(',') {
        let limits: Vec<&str> = interval.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let number = |limit: &str| {
            let number = limit.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {limit:?}"))?;
            if number >= completions { Err(format!("too large index: {limit:?}")) } else { Ok(number) }
        };
        let first = number(limits[0])?;
        if last.is_some_and(|last| last >= first) {
            return Err(format!("non-increasing order, previous: {}, current: {first}", last.unwrap_or_default()));
        }
        let end = match limits.get(1) {
            Some(limit) => {
                let end = number(limit)?;
                if first >= end {
                    return Err(format!("non-increasing order, previous: {first}, current: {end}"));
                }
                end
            }
            None => first,
        };
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn indexes_ascend_and_stay_below_the_completions() {
        assert_eq!(count_indexes("0-1,3", 4), Ok(3));
        assert_eq!(count_indexes("4", 4), Err("too large index: \"4\"".into()));
        assert_eq!(count_indexes("2,1", 4), Err("non-increasing order, previous: 2, current: 1".into()));
        assert!(count_indexes("x", 4).is_err());
    }

    #[test]
    fn a_failure_rule_has_one_kind_of_condition_and_names_a_container_that_is_there() {
        let mut errors = FieldErrors::none();
        let rules =
            json!([{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 0], "containerName": "x"}}, {"action": ""}]);
        failure(&json!({"podFailurePolicy": {"rules": rules}}), "spec", &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0]: must be ordered",
                "spec.podFailurePolicy.rules[1].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
                "spec.podFailurePolicy.rules[1]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ]
        );
    }
}
