//! Checks of a pod spec, in pods and templates (upstream `ValidatePodSpec`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::Value;

use super::{Context, claims, container, profile, resources as whole, volumes, windows};
use crate::kinds::{address, resources, scheduling, view};

/// What may be set in an ephemeral container, beyond its target.
const EPHEMERAL: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// Checks a spec. `name` is the pod's, empty for templates.
pub(crate) fn check(spec: &Value, name: &str, is_pod: bool, path: view::At<'_>, errors: &mut FieldErrors) {
    let grace = view::int(spec, "terminationGracePeriodSeconds");
    let volumes = volumes::check(spec, name, &format_args!("{path}.volumes"), errors);
    claims::of_pod(spec, &format_args!("{path}.resourceClaims"), errors);
    let restart_policy = view::text(spec, "restartPolicy");
    let shares_users = view::get(spec, "hostUsers") != Some(&Value::Bool(false));
    let context = Context { volumes, claims: claims::names(spec), restart_policy, is_pod, host_users: shares_users };
    containers(spec, &context, grace, path, errors);
    if let Some(own) = view::get(spec, "resources") {
        let path = format_args!("{path}.resources");
        if view::text(view::member(spec, "os"), "name") == "windows" {
            errors.forbidden(path, "may not be set for a windows pod");
        } else {
            if !view::list(own, "claims").is_empty() {
                errors.forbidden(format_args!("{path}.claims"), "claims may not be set for Resources at pod-level");
            }
            resources::requirements(own, true, &path, errors);
            claims::of_resources(own, &context.claims, &path, errors);
            whole::covers_containers(spec, &path, errors);
        }
    }
    host_network(spec, is_pod, path, errors);
    selector::validate_labels(view::map(spec, "nodeSelector"), &format_args!("{path}.nodeSelector"), errors);
    security(spec, path, errors);
    if let Some(given) = view::get(spec, "affinity") {
        scheduling::affinity(given, &format_args!("{path}.affinity"), errors);
    }
    dns(spec, &format_args!("{path}.dnsConfig"), errors);
    gates(spec, path, errors);
    scheduling::spreading(view::list(spec, "topologySpreadConstraints"), &format_args!("{path}.topologySpreadConstraints"), errors);
    windows::host_processes(spec, path, errors);
    own_users(spec, path, errors);
    hostname_override(spec, &format_args!("{path}.hostnameOverride"), errors);
    names(spec, &["serviceAccountName", "nodeName"], name::subdomain, path, errors);
    if let Some(seconds) = view::int(spec, "activeDeadlineSeconds") {
        for message in name::in_range(seconds, 1, i64::from(i32::MAX)) {
            errors.invalid(format_args!("{path}.activeDeadlineSeconds"), seconds, &message);
        }
    }
    names(spec, &["hostname", "subdomain"], name::label, path, errors);
    scheduling::tolerations(view::list(spec, "tolerations"), &format_args!("{path}.tolerations"), errors);
    for (at, alias) in view::list(spec, "hostAliases").iter().enumerate() {
        let path = format_args!("{path}.hostAliases[{at}]");
        address::ip(view::text(alias, "ip"), &format!("{path}.ip"), errors);
        for (at, host) in view::texts(alias, "hostnames").enumerate() {
            errors.invalid_each(&format_args!("{path}.hostnames[{at}]"), host, name::subdomain(host));
        }
    }
    names(spec, &["priorityClassName"], name::subdomain, path, errors);
    if let Some(class) = view::get(spec, "runtimeClassName").and_then(Value::as_str) {
        errors.invalid_each(&format_args!("{path}.runtimeClassName"), class, name::subdomain(class));
    }
    if view::get(spec, "preemptionPolicy").is_some_and(|policy| policy == "") {
        errors.required(format_args!("{path}.preemptionPolicy"), "");
    }
    if let Some(overhead) = view::get(spec, "overhead") {
        resources::requirements(&coracle_tree::json!({"limits": overhead}), false, &format_args!("{path}.overhead"), errors);
    }
    if let Some(os) = view::get(spec, "os") {
        match view::text(os, "name") {
            "" => errors.required(format_args!("{path}.os.name"), ""),
            "linux" => windows::without_windows(spec, path, errors),
            "windows" => windows::without_linux(spec, path, errors),
            other => errors.not_supported(format_args!("{path}.os"), view::quoted(other), &["linux", "windows"]),
        }
    }
    file_key_volumes(spec, path, errors);
}

/// A user namespace of the pod's own goes with no other namespace of the host, nor with devices of volumes.
fn own_users(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const OWN: &str = "when `hostUsers` is false";
    if view::get(spec, "hostUsers").and_then(Value::as_bool) != Some(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if view::flag(spec, field) {
            errors.forbidden(format_args!("{path}.{shown}"), OWN);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, _) in view::list(spec, list).iter().enumerate().filter(|(_, one)| !view::list(one, "volumeDevices").is_empty()) {
            errors.forbidden(format_args!("{path}.{list}[{at}].volumeDevices"), OWN);
        }
    }
}

fn hostname_override(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const LONGEST: usize = 64;
    let Some(hostname) = view::get(spec, "hostnameOverride").and_then(Value::as_str) else { return };
    for field in ["setHostnameAsFQDN", "hostNetwork"].into_iter().filter(|field| view::flag(spec, field)) {
        errors.forbidden(path, &format!("may not be specified when {field} is true"));
    }
    if hostname.len() > LONGEST {
        errors.too_long(path, LONGEST as u64, "byte");
    }
    errors.invalid_each(path, hostname, name::subdomain(hostname));
}

/// Files that hold variables lie in empty directories of the pod.
fn file_key_volumes(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let volumes = view::list(spec, "volumes");
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in view::list(spec, list).iter().enumerate() {
            for (variable_at, variable) in view::list(container, "env").iter().enumerate() {
                let Some(key) = view::get(view::member(variable, "valueFrom"), "fileKeyRef") else { continue };
                let name = view::text(key, "volumeName");
                let path = format_args!("{path}.{list}[{at}].env[{variable_at}].valueFrom.fileKeyRef.volumeName");
                match volumes.iter().find(|volume| view::text(volume, "name") == name) {
                    None => errors.not_found(path, view::quoted(name)),
                    Some(volume) if view::get(volume, "emptyDir").is_none() => {
                        errors.invalid(path, view::quoted(name), "referenced volume must be of type emptyDir");
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

fn containers(spec: &Value, context: &Context<'_>, grace: Option<i64>, path: view::At<'_>, errors: &mut FieldErrors) {
    let has_os = view::get(spec, "os").is_some();
    let (regular, init) = (view::list(spec, "containers"), view::list(spec, "initContainers"));
    if regular.is_empty() {
        errors.required(format_args!("{path}.containers"), "");
    }
    let mut names = HashSet::new();
    for (at, one) in regular.iter().enumerate() {
        let path = format_args!("{path}.containers[{at}]");
        container::common(one, context, &path, errors);
        unique_name(one, &mut names, &path, errors);
        container::lifecycle(one, grace, has_os, &path, errors);
        container::probes(one, grace, &path, errors);
        restart_policy(one, &path, errors);
    }
    host_port_conflicts(regular, &format_args!("{path}.containers"), errors);
    for (at, one) in init.iter().enumerate() {
        let path = format_args!("{path}.initContainers[{at}]");
        container::common(one, context, &path, errors);
        init_restart_policy(one, &path, errors);
        unique_name(one, &mut names, &path, errors);
        if view::text(one, "restartPolicy") == "Always" {
            container::lifecycle(one, grace, has_os, &path, errors);
            container::probes(one, grace, &path, errors);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if view::get(one, field).is_some() {
                    errors.forbidden(format_args!("{path}.{field}"), "may not be set for init containers without restartPolicy=Always");
                }
            }
            for (at, policy) in view::list(one, "resizePolicy").iter().enumerate() {
                if view::text(policy, "restartPolicy") == "RestartContainer" {
                    let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errors.invalid(format_args!("{path}.resizePolicy[{at}].restartPolicy"), view::quoted("RestartContainer"), detail);
                }
            }
        }
    }
    let others = names.clone();
    for (at, one) in view::list(spec, "ephemeralContainers").iter().enumerate() {
        let path = format_args!("{path}.ephemeralContainers[{at}]");
        container::common(one, context, &path, errors);
        unique_name(one, &mut names, &path, errors);
        let target = view::text(one, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(format_args!("{path}.targetContainerName"), view::quoted(target));
        }
        let extra = |v: &Value| !v.is_null() && v.as_object().is_none_or(|m| !m.is_empty()) && v.as_array().is_none_or(|l| !l.is_empty());
        for (field, _) in one.as_object().into_iter().flatten().filter(|(name, v)| !EPHEMERAL.contains(&name.as_str()) && extra(v)) {
            errors.forbidden(format_args!("{path}.{field}"), "cannot be set for an Ephemeral Container");
        }
    }
}

fn unique_name<'v>(container: &'v Value, names: &mut HashSet<&'v str>, path: view::At<'_>, errors: &mut FieldErrors) {
    let name = view::text(container, "name");
    if !name.is_empty() && !names.insert(name) {
        errors.duplicate(format_args!("{path}.name"), view::quoted(name));
    }
}

/// Of an init container rules are not looked at without a policy.
fn init_restart_policy(container: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    if view::get(container, "restartPolicy").is_some() {
        restart_policy(container, path, errors);
    } else if !view::list(container, "restartPolicyRules").is_empty() {
        errors.required(format_args!("{path}.restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
}

fn restart_policy(container: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let rules = view::list(container, "restartPolicyRules");
    match view::get(container, "restartPolicy").and_then(Value::as_str) {
        None if !rules.is_empty() => {
            errors.required(format_args!("{path}.restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        Some(policy) if !["Always", "Never", "OnFailure"].contains(&policy) => {
            errors.not_supported(format_args!("{path}.restartPolicy"), view::quoted(policy), &["Always", "Never", "OnFailure"]);
        }
        _ => {}
    }
    if rules.len() > 20 {
        errors.too_many(format_args!("{path}.restartPolicyRules"), rules.len(), 20);
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = format_args!("{path}.restartPolicyRules[{at}]");
        let action = view::text(rule, "action");
        if !["Restart", "RestartAllContainers"].contains(&action) {
            errors.not_supported(format_args!("{path}.action"), view::quoted(action), &["Restart", "RestartAllContainers"]);
        }
        match view::get(rule, "exitCodes") {
            None => errors.required(format_args!("{path}.exitCodes"), "must be specified"),
            Some(codes) => exit_codes(codes, &format_args!("{path}.exitCodes"), errors),
        }
    }
}

fn exit_codes(codes: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const MOST: usize = 255;
    let (operator, values) = (view::text(codes, "operator"), view::list(codes, "values"));
    if !["In", "NotIn"].contains(&operator) {
        errors.not_supported(format_args!("{path}.operator"), view::quoted(operator), &["In", "NotIn"]);
    }
    if values.len() > MOST {
        errors.too_many(format_args!("{path}.values"), values.len(), MOST as u64);
    }
}

/// Two containers of a pod cannot hold the same port of the host.
fn host_port_conflicts(containers: &[Value], path: view::At<'_>, errors: &mut FieldErrors) {
    let mut taken = HashSet::new();
    for (at, container) in containers.iter().enumerate() {
        for (port_at, port) in view::list(container, "ports").iter().enumerate() {
            let host = view::int(port, "hostPort").unwrap_or_default();
            let text = format!("{}/{}/{host}", view::text(port, "protocol"), view::text(port, "hostIP"));
            if host > 0 && !taken.insert(text.clone()) {
                errors.duplicate(format_args!("{path}[{at}].ports[{port_at}].hostPort"), view::quoted(&text));
            }
        }
    }
}

fn host_network(spec: &Value, is_pod: bool, path: view::At<'_>, errors: &mut FieldErrors) {
    if !view::flag(spec, "hostNetwork") {
        return;
    }
    for (at, container) in view::list(spec, "containers").iter().enumerate() {
        for (port_at, port) in view::list(container, "ports").iter().enumerate() {
            let host = view::int(port, "hostPort").unwrap_or_default();
            if (is_pod || host != 0) && host != view::int(port, "containerPort").unwrap_or_default() {
                let path = format_args!("{path}.containers[{at}].ports[{port_at}].hostPort");
                errors.invalid(path, host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn security(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let Some(security) = view::get(spec, "securityContext") else { return };
    let below = format_args!("{path}.securityContext");
    let in_range = |id: i64, path: view::At<'_>, errors: &mut FieldErrors| {
        for message in name::in_range(id, 0, i64::from(i32::MAX)) {
            errors.invalid(path, id, &message);
        }
    };
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        if let Some(id) = view::int(security, field) {
            in_range(id, &format_args!("{below}.{field}"), errors);
        }
    }
    for (at, id) in view::list(security, "supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        in_range(id, &format_args!("{below}.supplementalGroups[{at}]"), errors);
    }
    sysctls(spec, security, &format_args!("{below}.sysctls"), errors);
    if view::flag(spec, "shareProcessNamespace") && view::flag(spec, "hostPID") {
        errors.invalid(format_args!("{path}.shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    profile::check(security, &below, errors);
    windows::check(security, &below, errors);
    if let Some(policy) = view::get(security, "seLinuxChangePolicy").and_then(Value::as_str)
        && !["MountOption", "Recursive"].contains(&policy)
    {
        errors.not_supported(format_args!("{below}.seLinuxChangePolicy"), view::quoted(policy), &["MountOption", "Recursive"]);
    }
}

/// Kernel settings that belong to an IPC namespace, beside those below `fs.mqueue`.
const IPC_SYSCTLS: [&str; 10] = [
    "kernel.msg",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Kernel settings a pod asks for (upstream `validateSysctls`).
fn sysctls(spec: &Value, security: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, sysctl) in view::list(security, "sysctls").iter().enumerate() {
        let path = format_args!("{path}[{at}].name");
        let name = view::text(sysctl, "name");
        if name.is_empty() {
            errors.required(path, "");
        } else if !is_sysctl(name) {
            let detail =
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(path, view::quoted(name), detail);
        } else if !seen.insert(name) {
            errors.duplicate(path, view::quoted(name));
        }
        let dotted = name.replace('/', ".");
        let of_ipc = IPC_SYSCTLS.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.");
        if dotted.starts_with("net.") && view::flag(spec, "hostNetwork") {
            errors.invalid(path, view::quoted(name), "may not be specified when 'hostNetwork' is true");
        }
        if of_ipc && view::flag(spec, "hostIPC") {
            errors.invalid(path, view::quoted(name), "may not be specified when 'hostIPC' is true");
        }
    }
}

/// Segments parted by dots or slashes, each of lower case letters, digits, `-` and `_`, the last two not at an end.
fn is_sysctl(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    let segment = |s: &str| edge(s.chars().next()) && edge(s.chars().next_back()) && s.chars().all(inner);
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn dns(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let config = view::member(spec, "dnsConfig");
    let servers = view::list(config, "nameservers");
    if view::text(spec, "dnsPolicy") == "None" {
        if !config.is_object() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.is_empty() {
            errors.required(format_args!("{path}.nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > 3 {
        errors.invalid(format_args!("{path}.nameservers"), view::member(config, "nameservers"), "must not have more than 3 nameservers");
    }
    for (at, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        address::ip(server, &format!("{path}.nameservers[{at}]"), errors);
    }
    let searches: Vec<&str> = view::texts(config, "searches").collect();
    if searches.len() > 32 {
        errors.invalid(format_args!("{path}.searches"), view::member(config, "searches"), "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(format_args!("{path}.searches"), view::member(config, "searches"), detail);
    }
    for (at, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let domain = search.strip_suffix('.').unwrap_or(search);
        errors.invalid_each(&format_args!("{path}.searches[{at}]"), domain, name::subdomain_with_underscore(domain));
    }
    for (at, option) in view::list(config, "options").iter().enumerate() {
        if view::text(option, "name").is_empty() {
            errors.required(format_args!("{path}.options[{at}]"), "must not be empty");
        }
    }
}

fn gates(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    for (at, gate) in view::list(spec, "readinessGates").iter().enumerate() {
        let kind = view::text(gate, "conditionType");
        errors.invalid_each(&format_args!("{path}.readinessGates[{at}].conditionType"), kind, name::qualified(kind));
    }
    let mut seen = HashSet::new();
    for (at, gate) in view::list(spec, "schedulingGates").iter().enumerate() {
        let name = view::text(gate, "name");
        errors.invalid_each(&format_args!("{path}.schedulingGates[{at}]"), name, name::qualified(name));
        if !seen.insert(name) {
            errors.duplicate(format_args!("{path}.schedulingGates[{at}]"), view::quoted(name));
        }
    }
}

/// Names that may be left empty.
fn names(spec: &Value, fields: &[&str], rule: fn(&str) -> Vec<String>, path: view::At<'_>, errors: &mut FieldErrors) {
    for field in fields {
        let name = view::text(spec, field);
        if !name.is_empty() {
            errors.invalid_each(&format_args!("{path}.{field}"), name, rule(name));
        }
    }
}
