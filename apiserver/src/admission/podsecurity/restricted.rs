//! What a pod must give up to be confined as well as can be (the Restricted profile of the Pod Security Standards).

use coracle_tree::Value;

use super::{
    baseline::{adds_beyond, must_not_add, seccomp_profile as baseline_seccomp_profile, seccomp_type, volumes},
    pod::{Pod, Texts, Violation, contexts, named, plural, quoted, setters},
};

type Verdict = Option<Violation>;

fn violation(reason: &'static str, detail: String) -> Verdict {
    Some(Violation { reason, detail })
}

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Verdict {
    let containers = pod.containers_that(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if containers.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&containers));
    violation("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(pod: &Pod<'_>) -> Verdict {
    let drops_all = |c: &Value| {
        let dropped = c["securityContext"]["capabilities"]["drop"].as_array();
        dropped.is_some_and(|list| list.iter().any(|name| name == "ALL"))
    };
    let keeping = pod.containers_that(|c| !drops_all(c));
    let mut added = Texts::new();
    let adding = pod.containers_that(|c| adds_beyond(c, &["NET_BIND_SERVICE"], &mut added));
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        details.push(must_not_add(&adding, added));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

/// Volumes that hold nothing of the node.
const VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];
/// Volumes that checks know by name.
const OTHER_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(super) fn volume_types(pod: &Pod<'_>) -> Verdict {
    let is = |volume: &Value, kinds: &[&'static str]| kinds.iter().copied().find(|kind| volume[*kind].is_object());
    let (mut names, mut kinds) = (Vec::new(), Texts::new());
    for volume in volumes(pod).filter(|v| is(v, &VOLUMES).is_none()) {
        names.push(volume["name"].as_str().unwrap_or_default());
        kinds.insert(is(volume, &OTHER_VOLUMES).unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    let (what, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
    let of = plural("restricted volume type", "restricted volume types", kinds.len());
    violation("restricted volume types", format!("{what} {} {uses} {of} {}", quoted(names), quoted(kinds)))
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Verdict {
    const REASON: &str = "runAsNonRoot != true";
    let (whole, containers) = contexts(pod, |context| context["runAsNonRoot"] == false);
    if let Some(who) = setters(whole, &containers) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if pod.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let silent = pod.containers_that(|c| !c["securityContext"]["runAsNonRoot"].is_boolean());
    if silent.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)))
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Verdict {
    let (whole, containers) = contexts(pod, |context| context["runAsUser"] == 0);
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters(whole, &containers)?))
}

/// Since 1.35 root of a pod with users of its own is not root.
pub(super) fn run_as_non_root_unless_own_users(pod: &Pod<'_>) -> Verdict {
    if pod.has_own_users() { None } else { run_as_non_root(pod) }
}

/// As [`run_as_non_root_unless_own_users`].
pub(super) fn run_as_user_unless_own_users(pod: &Pod<'_>) -> Verdict {
    if pod.has_own_users() { None } else { run_as_user(pod) }
}

pub(super) fn seccomp_profile(pod: &Pod<'_>) -> Verdict {
    if let Some(explicit) = baseline_seccomp_profile(pod) {
        return Some(explicit);
    }
    if seccomp_type(&pod.spec["securityContext"]).is_some() {
        return None;
    }
    let silent = pod.containers_that(|c| seccomp_type(&c["securityContext"]).is_none());
    if silent.is_empty() {
        return None;
    }
    let must = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    violation("seccompProfile", format!("pod or {} {must}", named(&silent)))
}

/// Since 1.25 pods for Windows, which cannot set such fields, need not.
macro_rules! unless_windows {
    ($($name:ident = $check:ident;)*) => {$(
        pub(super) fn $name(pod: &Pod<'_>) -> Verdict {
            if pod.is_windows() { None } else { $check(pod) }
        }
    )*};
}

unless_windows! {
    privilege_escalation_unless_windows = privilege_escalation;
    capabilities_unless_windows = capabilities;
    seccomp_profile_unless_windows = seccomp_profile;
}
