//! What no pod needs that is not part of the node itself (the Baseline profile of the Pod Security Standards).

use coracle_schema::go;
use coracle_tree::Value;

use super::pod::{Pod, Texts, Violation, contexts, named, plural, quoted, setters};

type Verdict = Option<Violation>;

fn violation(reason: &'static str, detail: String) -> Verdict {
    Some(Violation { reason, detail })
}

pub(super) fn app_armor_profile(pod: &Pod<'_>) -> Verdict {
    let mut values = Texts::new();
    let (whole, containers) = contexts(pod, |context| {
        let profile = &context["appArmorProfile"];
        let kind = profile["type"].as_str().unwrap_or_default();
        let bad = profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind);
        }
        bad
    });
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let mut annotations: Vec<String> = pod
        .annotations()
        .filter(|(key, value)| key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed(value))
        .map(|(key, value)| format!("{key}={}", go::quoted(value)))
        .collect();
    annotations.sort();
    let mut who: Vec<String> = setters(whole, &containers).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let found: Vec<&str> = values.into_iter().chain(annotations.iter().map(String::as_str)).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", found.len());
    violation(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(found)))
}

/// What a runtime gives anyway.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn capabilities(pod: &Pod<'_>) -> Verdict {
    let mut added = Texts::new();
    let containers = pod.containers_that(|c| adds_beyond(c, &CAPABILITIES, &mut added));
    if containers.is_empty() {
        return None;
    }
    violation("non-default capabilities", must_not_add(&containers, added))
}

/// Whether a container adds capabilities that are not in `allowed`; which, goes to `added`.
pub(super) fn adds_beyond<'a>(container: &'a Value, allowed: &[&str], added: &mut Texts<'a>) -> bool {
    let mut bad = false;
    for name in texts(&container["securityContext"]["capabilities"]["add"]).filter(|name| !allowed.contains(name)) {
        bad = true;
        added.insert(name);
    }
    bad
}

pub(super) fn must_not_add(containers: &[&str], added: Texts<'_>) -> String {
    format!("{} must not include {} in securityContext.capabilities.add", named(containers), quoted(added))
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Verdict {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| pod.spec[*name] == true);
    let set: Vec<String> = set.map(|name| format!("{name}=true")).collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

pub(super) fn volumes<'a>(pod: &Pod<'a>) -> impl Iterator<Item = &'a Value> {
    pod.spec["volumes"].as_array().into_iter().flatten()
}

pub(super) fn host_path_volumes(pod: &Pod<'_>) -> Verdict {
    let found: Vec<&str> = volumes(pod).filter(|v| v["hostPath"].is_object()).filter_map(|v| v["name"].as_str()).collect();
    if found.is_empty() {
        return None;
    }
    let what = plural("volume", "volumes", found.len());
    violation("hostPath volumes", format!("{what} {}", quoted(found)))
}

pub(super) fn host_ports(pod: &Pod<'_>) -> Verdict {
    let mut ports = std::collections::BTreeSet::new();
    let containers = pod.containers_that(|container| {
        let mut bad = false;
        let set = container["ports"].as_array().into_iter().flatten().filter_map(|p| p["hostPort"].as_i64());
        for port in set.filter(|port| *port != 0) {
            bad = true;
            ports.insert(port.to_string());
        }
        bad
    });
    if containers.is_empty() {
        return None;
    }
    let (uses, what) = (plural("uses", "use", containers.len()), plural("hostPort", "hostPorts", ports.len()));
    let ports: Vec<String> = ports.into_iter().collect();
    violation("hostPort", format!("{} {uses} {what} {}", named(&containers), ports.join(", ")))
}

/// A probe or hook with a host of its own makes the kubelet ask anything in its reach.
pub(super) fn probe_hosts(pod: &Pod<'_>) -> Verdict {
    let mut hosts = Texts::new();
    let names = pod.containers_that(|container| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|name| &container[name]);
        let hooks = ["postStart", "preStop"].map(|name| &container["lifecycle"][name]);
        let asked = probes.into_iter().chain(hooks).flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]]);
        let mut bad = false;
        for host in asked.filter_map(Value::as_str).filter(|host| !host.is_empty()) {
            bad = true;
            hosts.insert(host);
        }
        bad
    });
    let names: Vec<&str> = Texts::from_iter(names).into_iter().collect();
    if names.is_empty() {
        return None;
    }
    let (uses, what) = (plural("uses", "use", names.len()), plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()));
    violation("probe or lifecycle host", format!("{} {uses} {what} {}", named(&names), quoted(hosts)))
}

pub(super) fn privileged(pod: &Pod<'_>) -> Verdict {
    let containers = pod.containers_that(|c| c["securityContext"]["privileged"] == true);
    if containers.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", named(&containers)))
}

pub(super) fn proc_mount(pod: &Pod<'_>) -> Verdict {
    let mut found = Texts::new();
    let containers = pod.containers_that(|container| {
        let mount = container["securityContext"]["procMount"].as_str();
        let bad = mount.is_some_and(|mount| mount != "Default");
        found.extend(mount.filter(|_| bad));
        bad
    });
    if containers.is_empty() {
        return None;
    }
    violation("procMount", format!("{} must not set securityContext.procMount to {}", named(&containers), quoted(found)))
}

/// Since 1.35 a pod with users of its own may see all of `/proc`.
pub(super) fn proc_mount_unless_own_users(pod: &Pod<'_>) -> Verdict {
    if pod.has_own_users() { None } else { proc_mount(pod) }
}

const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

pub(super) fn selinux_options(pod: &Pod<'_>) -> Verdict {
    selinux(pod, &SELINUX_TYPES[..4])
}

pub(super) fn selinux_options_with_engine(pod: &Pod<'_>) -> Verdict {
    selinux(pod, &SELINUX_TYPES)
}

fn selinux(pod: &Pod<'_>, allowed: &[&str]) -> Verdict {
    let (mut types, mut user, mut role) = (Texts::new(), false, false);
    let (whole, containers) = contexts(pod, |context| {
        let member = |name| context["seLinuxOptions"][name].as_str().unwrap_or_default();
        let kind = Some(member("type")).filter(|kind| !allowed.contains(kind));
        types.extend(kind);
        user |= !member("user").is_empty();
        role |= !member("role").is_empty();
        kind.is_some() || !member("user").is_empty() || !member("role").is_empty()
    });
    let who = setters(whole, &containers)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

/// Before 1.19 seccomp profiles were annotations.
pub(super) fn seccomp_annotations(pod: &Pod<'_>) -> Verdict {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let names: Vec<&str> = pod.containers_that(|_| true);
    let concerns = |key: &str| key == POD || key.strip_prefix(CONTAINER).is_some_and(|name| names.contains(&name));
    let allowed = |value: &str| value == "runtime/default" || value == "docker/default" || value.starts_with("localhost/");
    let mut found: Vec<String> = pod
        .annotations()
        .filter(|(key, value)| concerns(key) && !allowed(value))
        .map(|(key, value)| format!("{key}={}", go::quoted(value)))
        .collect();
    found.sort();
    if found.is_empty() {
        return None;
    }
    violation("seccompProfile", format!("forbidden {} {}", plural("annotation", "annotations", found.len()), found.join(", ")))
}

/// The type of a seccomp profile, and whether it confines; `None` without a profile.
pub(super) fn seccomp_type(context: &Value) -> Option<(&str, bool)> {
    let profile = &context["seccompProfile"];
    let kind = profile["type"].as_str().unwrap_or_default();
    profile.is_object().then_some((kind, matches!(kind, "Localhost" | "RuntimeDefault")))
}

pub(super) fn seccomp_profile(pod: &Pod<'_>) -> Verdict {
    let mut found = Texts::new();
    let (whole, containers) = contexts(pod, |context| {
        let bad = seccomp_type(context).filter(|(_, confines)| !confines);
        found.extend(bad.map(|(kind, _)| kind));
        bad.is_some()
    });
    let who = setters(whole, &containers)?;
    violation("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(found)))
}

/// Sysctls of a pod's own namespaces, and the minor version since which each is allowed.
const SYSCTLS: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

pub(super) fn sysctls<const MINOR: u32>(pod: &Pod<'_>) -> Verdict {
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && *since <= MINOR);
    let set = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let found: Vec<&str> = set.filter_map(|s| s["name"].as_str()).filter(|name| !allowed(name)).collect();
    if found.is_empty() { None } else { violation("forbidden sysctls", found.join(", ")) }
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Verdict {
    let (whole, containers) = contexts(pod, |context| context["windowsOptions"]["hostProcess"] == true);
    let who = setters(whole, &containers)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
