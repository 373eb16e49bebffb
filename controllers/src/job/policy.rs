//! What a pod's failure means for its job (KEP 3329, `spec.podFailurePolicy`).

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};

use crate::{object::Key, pod::Pod};

/// What to do about one failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Count it.
    Count,
    /// Do not count it.
    Ignore,
    /// The job has failed, for this reason.
    Fail(String),
}

/// Judges a failed pod by the first rule that matches it.
pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let rules =
        job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref()).map(|policy| policy.rules.as_slice()).unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailJob" => Verdict::Fail(format!("{why} matching {} rule at index {number}", rule.action)),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// Why a rule matches, in upstream's words.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        return by_exit_code(codes, pod);
    }
    let pattern = rule.on_pod_conditions.as_ref()?.iter().find(|pattern| {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        pod.condition(&pattern.type_).is_some_and(|condition| condition.status == wanted)
    })?;
    Some(format!("Pod {} has condition {}", Key::of(pod), pattern.type_))
}

fn by_exit_code(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let named = |name: &str| codes.container_name.as_deref().is_none_or(|wanted| wanted == name);
    let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    for status in statuses.filter(|status| named(&status.name)) {
        let Some(terminated) = status.state.terminated.as_ref().filter(|terminated| terminated.exit_code != 0) else { continue };
        let listed = codes.values.contains(&terminated.exit_code);
        if listed == (codes.operator == "In") {
            return Some(format!("Container {} for pod {} failed with exit code {}", status.name, Key::of(pod), terminated.exit_code));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let job: Job = serde_json::from_value(json!({"metadata": {}, "spec": {"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
        ]}}}))
        .unwrap();
        let pod = |name: &str, code: i32, disrupted: bool| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "a"}, "status": {
                "containerStatuses": [{"name": name, "state": {"terminated": {"exitCode": code}}}],
                "conditions": if disrupted { json!([{"type": "DisruptionTarget", "status": "True"}]) } else { json!([]) },
            }}))
            .unwrap()
        };
        assert_eq!(judge(&job, &pod("main", 1, false)), Verdict::Count);
        assert_eq!(judge(&job, &pod("main", 42, true)), Verdict::Ignore);
        let message = "Container main for pod a/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(judge(&job, &pod("main", 42, false)), Verdict::Fail(message.to_owned()));
        assert_eq!(judge(&job, &pod("side", 42, false)), Verdict::Count);
    }
}
