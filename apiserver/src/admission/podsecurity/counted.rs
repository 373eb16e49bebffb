//! What is counted of it (`pod-security-admission/metrics`).

use std::borrow::Cow;

use super::standard::{Level, LevelVersion};
use crate::{
    admission::{Attempt, Operation},
    metrics::admission::{POD_SECURITY_ERRORS, POD_SECURITY_EVALUATIONS, POD_SECURITY_EXEMPTIONS},
    request::paths::MINOR,
};

/// A pod, or what makes pods, was held against a level; a `mode` other than `enforce` counts only what breaks it.
pub(super) fn evaluated(attempt: &Attempt<'_>, of: LevelVersion, mode: &str, allowed: bool) {
    let version = match of.version.minor().filter(|_| of.level != Level::Privileged) {
        None => Cow::Borrowed("latest"),
        Some(minor) if minor > MINOR => Cow::Borrowed("future"),
        Some(minor) => Cow::Owned(format!("v1.{minor}")),
    };
    let [operation, resource, subresource] = labels(attempt);
    let decision = if allowed { "allow" } else { "deny" };
    POD_SECURITY_EVALUATIONS.inc([decision, of.level.text(), &version, mode, operation, resource, subresource]);
}

/// Who or what is exempt was let through.
pub(super) fn exempted(attempt: &Attempt<'_>) {
    POD_SECURITY_EXEMPTIONS.inc(labels(attempt));
}

/// Something was not evaluated, or (not `fatal`) by another level than was meant.
pub(super) fn failed(attempt: &Attempt<'_>, fatal: bool) {
    let [operation, resource, subresource] = labels(attempt);
    POD_SECURITY_ERRORS.inc([if fatal { "true" } else { "false" }, operation, resource, subresource]);
}

fn labels<'a>(attempt: &'a Attempt<'_>) -> [&'a str; 3] {
    let operation = match attempt.operation {
        Operation::Create => "create",
        _ => "update",
    };
    let resource = match attempt.request.resource.as_str() {
        "pods" => "pod",
        "namespaces" => "namespace",
        _ => "controller",
    };
    [operation, resource, &attempt.request.subresource]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use coracle_tree::{Value, json};

    use crate::{
        admission::{
            bench::{Bench, pod},
            podsecurity::PodSecurity,
        },
        metrics::{admission::*, series::Counters},
    };

    fn counted<const N: usize>(of: &'static Counters<N>, labels: [&str; N]) -> u64 {
        of.of(labels).unwrap().load(Ordering::Relaxed)
    }

    async fn tried(labels: &Value) {
        let bench = Bench::new();
        bench.reader.put("", "namespaces", json!({"metadata": {"name": "live", "labels": labels}}));
        let exempt = json!({
            "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "exemptions": {"runtimeClasses": ["vm"]},
        });
        let plugin = PodSecurity::new(bench.reader.clone(), Some(exempt.to_string().as_bytes())).unwrap();
        let mut bad = pod();
        bad["spec"]["hostPID"] = true.into();
        let _ = bench.create(&plugin, "pods live web", bad.clone()).await;
        let _ = bench.create(&plugin, "pods live web", pod()).await;
        bad["spec"]["runtimeClassName"] = "vm".into();
        let _ = bench.create(&plugin, "pods live web", bad).await;
        let _ = bench.create(&plugin, "pods gone web", pod()).await;
    }

    /// Levels no other test asks for: the counters are the process's.
    #[tokio::test]
    async fn what_was_evaluated_exempted_or_not_possible_is_counted() {
        let label = |mode: &str| format!("pod-security.kubernetes.io/{mode}");
        let (errors, exemptions) =
            (counted(&POD_SECURITY_ERRORS, ["true", "create", "pod", ""]), counted(&POD_SECURITY_EXEMPTIONS, ["create", "pod", ""]));
        tried(&json!({
            (label("enforce")): "baseline", (label("enforce-version")): "v1.11",
            (label("audit")): "restricted", (label("audit-version")): "v1.99",
        }))
        .await;
        let evaluated = |decision: &str, level: &str, version: &str, mode: &str| {
            counted(&POD_SECURITY_EVALUATIONS, [decision, level, version, mode, "create", "pod", ""])
        };
        assert_eq!((evaluated("deny", "baseline", "v1.11", "enforce"), evaluated("allow", "baseline", "v1.11", "enforce")), (1, 1));
        assert_eq!((evaluated("deny", "restricted", "future", "audit"), evaluated("deny", "baseline", "v1.11", "warn")), (2, 0));
        assert!(counted(&POD_SECURITY_EXEMPTIONS, ["create", "pod", ""]) > exemptions);
        assert!(counted(&POD_SECURITY_ERRORS, ["true", "create", "pod", ""]) > errors);
        let errors = counted(&POD_SECURITY_ERRORS, ["false", "create", "pod", ""]);
        tried(&json!({(label("warn")): "strict"})).await;
        assert!(counted(&POD_SECURITY_ERRORS, ["false", "create", "pod", ""]) > errors);
    }
}
