//! Which checks make a level, in which version of Kubernetes (`pod-security-admission/policy/registry.go`).

use super::{
    baseline,
    pod::{Pod, Violation},
    restricted,
    standard::{Level, LevelVersion},
};

type CheckPod = fn(&Pod<'_>) -> Option<Violation>;

/// A check: what it asks since which minor version, the newest last.
struct Check {
    since: &'static [(u32, CheckPod)],
    /// The baseline check whose place it takes, by its position there.
    instead_of: Option<usize>,
}

/// The newest version that says anything new.
const NEWEST: u32 = 37;

const fn check(since: &'static [(u32, CheckPod)]) -> Check {
    Check { since, instead_of: None }
}

const fn instead_of(baseline: usize, since: &'static [(u32, CheckPod)]) -> Check {
    Check { since, instead_of: Some(baseline) }
}

const CAPABILITIES: usize = 1;
const HOST_PATHS: usize = 3;
const PROC_MOUNT: usize = 7;
const SECCOMP: usize = 9;

/// In the order in which they are told.
static BASELINE: [Check; 12] = [
    check(&[(0, baseline::app_armor_profile)]),
    check(&[(0, baseline::capabilities)]),
    check(&[(0, baseline::host_namespaces)]),
    check(&[(0, baseline::host_path_volumes)]),
    check(&[(0, baseline::host_ports)]),
    check(&[(34, baseline::probe_hosts)]),
    check(&[(0, baseline::privileged)]),
    check(&[(0, baseline::proc_mount), (35, baseline::proc_mount_unless_own_users)]),
    check(&[(0, baseline::selinux_options), (31, baseline::selinux_options_with_engine)]),
    check(&[(0, baseline::seccomp_annotations), (19, baseline::seccomp_profile)]),
    check(&[
        (0, baseline::sysctls::<0>),
        (27, baseline::sysctls::<27>),
        (29, baseline::sysctls::<29>),
        (32, baseline::sysctls::<32>),
        (37, baseline::sysctls::<37>),
    ]),
    check(&[(0, baseline::windows_host_process)]),
];

static RESTRICTED: [Check; 7] = [
    check(&[(8, restricted::privilege_escalation), (25, restricted::privilege_escalation_unless_windows)]),
    instead_of(CAPABILITIES, &[(22, restricted::capabilities), (25, restricted::capabilities_unless_windows)]),
    instead_of(PROC_MOUNT, &[(35, baseline::proc_mount)]),
    instead_of(HOST_PATHS, &[(0, restricted::volume_types)]),
    check(&[(0, restricted::run_as_non_root), (35, restricted::run_as_non_root_unless_own_users)]),
    check(&[(23, restricted::run_as_user), (35, restricted::run_as_user_unless_own_users)]),
    instead_of(SECCOMP, &[(19, restricted::seccomp_profile), (25, restricted::seccomp_profile_unless_windows)]),
];

impl Check {
    fn at(&self, minor: u32) -> Option<CheckPod> {
        self.since.iter().rev().find(|(since, _)| *since <= minor).map(|(_, check)| *check)
    }
}

/// What a pod breaks of a level, in the order in which it is told.
pub(super) fn evaluate(of: LevelVersion, pod: &Pod<'_>) -> Vec<Violation> {
    let minor = of.version.minor().unwrap_or(NEWEST).min(NEWEST);
    let restricted: &[Check] = match of.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => &[],
        Level::Restricted => &RESTRICTED,
    };
    let replaced = |place| restricted.iter().any(|c| c.instead_of == Some(place) && c.at(minor).is_some());
    let baseline = BASELINE.iter().enumerate().filter(|(place, _)| !replaced(*place)).map(|(_, check)| check);
    baseline.chain(restricted).filter_map(|check| check.at(minor)?(pod)).collect()
}

/// The reasons alone: what many pods have in common.
pub(super) fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason).collect::<Vec<_>>().join(", ")
}

/// Reasons with their details.
pub(super) fn details(violations: &[Violation]) -> String {
    violations.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use coracle_tree::{Value, json};

    use super::*;

    fn told(level: &str, spec: Value) -> String {
        told_of(level, json!({}), spec)
    }

    fn told_of(level: &str, annotations: Value, spec: Value) -> String {
        let (level, version) = level.split_once(':').unwrap_or((level, "latest"));
        let of = LevelVersion { level: level.parse().unwrap(), version: version.parse().unwrap() };
        details(&evaluate(of, &Pod { metadata: &json!({"annotations": annotations}), spec: &spec }))
    }

    fn container(context: Value) -> Value {
        json!({"containers": [{"name": "a", "securityContext": context}]})
    }

    #[test]
    fn a_plain_pod_is_baseline_and_lacks_four_things_to_be_restricted() {
        let pod = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(told("baseline", pod.clone()), "");
        assert_eq!(told("privileged", container(json!({"privileged": true}))), "");
        assert_eq!(
            told("restricted", pod),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn a_confined_pod_is_restricted_in_every_version() {
        let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"}});
        for version in ["v1.0", "v1.8", "v1.19", "v1.25", "v1.37", "latest", "v1.99"] {
            assert_eq!(told(&format!("restricted:{version}"), container(context.clone())), "", "{version}");
        }
    }

    #[test]
    fn what_baseline_forbids_is_told_with_its_place() {
        let cases = [
            (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
            (json!({"volumes": [{"name": "v", "hostPath": {}}]}), "hostPath volumes (volume \"v\")"),
            (container(json!({"privileged": true})), "privileged (container \"a\" must not set securityContext.privileged=true)"),
            (
                container(json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "BPF"]}})),
                "non-default capabilities (container \"a\" must not include \"BPF\", \"NET_RAW\" in securityContext.capabilities.add)",
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 0}]}, {"name": "b", "ports": [{"hostPort": 81}]}]}),
                "hostPort (containers \"a\", \"b\" use hostPorts 80, 81)",
            ),
            (
                json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
            ),
            (
                json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}}),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}), "forbidden sysctls (kernel.msgmax)"),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                container(json!({"procMount": "Unmasked"})),
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(told("baseline", spec), expected);
        }
        let annotations = json!({"container.apparmor.security.beta.kubernetes.io/a": "unconfined"});
        assert_eq!(
            told_of("baseline", annotations, json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}})),
            "forbidden AppArmor profiles (pod and annotation must not set AppArmor profile type to \
             \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")"
        );
    }

    #[test]
    fn versions_differ() {
        let engine = json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}});
        assert_ne!(told("baseline:v1.30", engine.clone()), "");
        assert_eq!(told("baseline:v1.31", engine), "");
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert_ne!(told("baseline:v1.31", sysctl.clone()), "");
        assert_eq!(told("baseline:v1.32", sysctl), "");
        let unconfined = json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}});
        assert_eq!(told("baseline:v1.18", unconfined), "");
        let annotated = json!({"seccomp.security.alpha.kubernetes.io/pod": "unconfined"});
        assert_eq!(
            told_of("baseline:v1.18", annotated, json!({})),
            "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
        );
        let own = json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked", "runAsUser": 0}}]});
        assert_eq!(told("baseline", own.clone()), "");
        assert!(told("restricted", own.clone()).contains("procMount") && !told("restricted", own.clone()).contains("runAs"));
        assert!(told("restricted:v1.34", own).contains("runAsUser=0"));
    }

    #[test]
    fn windows_need_not_set_what_it_cannot() {
        let pod = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]});
        assert_eq!(told("restricted", pod.clone()), "");
        assert_ne!(told("restricted:v1.24", pod), "");
    }

    #[test]
    fn restricted_volumes_are_told_instead_of_host_paths() {
        let volumes = json!([{"name": "v", "hostPath": {}}, {"name": "w", "nfs": {}}, {"name": "x", "emptyDir": {}}, {"name": "y"}]);
        let said = told("restricted", json!({ "volumes": volumes }));
        assert_eq!(
            said,
            "restricted volume types (volumes \"v\", \"w\", \"y\" use restricted volume types \"hostPath\", \"nfs\", \"unknown\")"
        );
    }
}
