//! Pods of Windows: options of their security contexts, host processes, and what such pods cannot have (upstream `validateWindows…`).

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use crate::kinds::{capabilities, view};

/// Longest specification of a group managed account.
const CREDENTIAL_SPEC_KIB: usize = 64;
/// A domain is shorter than this.
const DOMAIN: usize = 256;
/// A user is no longer than this.
const USER: usize = 104;

/// Fields of a pod's security context that only Linux knows.
const POD_SECURITY: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
/// Fields of a pod that only Linux knows.
const POD: [&str; 4] = ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];
/// Fields of a container's security context that only Linux knows.
const CONTAINER_SECURITY: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Every container of a pod with its path, in the order upstream visits them.
fn containers<'s>(spec: &'s Value, path: view::At<'_>) -> impl Iterator<Item = (String, &'s Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |list| view::list(spec, list).iter().enumerate().map(move |(at, one)| (format!("{path}.{list}[{at}]"), one)))
}

fn security(holder: &Value) -> &Value {
    view::member(holder, "securityContext")
}

fn options(holder: &Value) -> &Value {
    view::member(security(holder), "windowsOptions")
}

/// What a pod that says it is of Windows cannot have.
pub(super) fn without_linux(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const CANNOT: &str = "cannot be set for a windows pod";
    let set = |value: &Value, field: &str| match (field, view::get(value, field)) {
        ("hostPID" | "hostIPC", Some(value)) => value == true,
        ("sysctls", Some(list)) => list.as_array().is_some_and(|list| !list.is_empty()),
        (_, value) => value.is_some(),
    };
    for field in POD_SECURITY.into_iter().filter(|field| set(security(spec), field)) {
        known(security(spec), field, &format_args!("{path}.securityContext"), errors);
        errors.forbidden(format_args!("{path}.securityContext.{field}"), CANNOT);
    }
    for field in POD.into_iter().filter(|field| set(spec, field)) {
        errors.forbidden(format_args!("{path}.{field}"), CANNOT);
    }
    for (path, container) in containers(spec, path) {
        for field in CONTAINER_SECURITY.into_iter().filter(|field| set(security(container), field)) {
            known(security(container), field, &format_args!("{path}.securityContext"), errors);
            errors.forbidden(format_args!("{path}.securityContext.{field}"), CANNOT);
        }
    }
}

/// What no pod has is refused for that, too.
fn known(security: &Value, field: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    const VALUES: [(&str, [&str; 2]); 3] = [
        ("procMount", ["Default", "Unmasked"]),
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
    ];
    let allowed = VALUES.iter().find(|(known, _)| *known == field).map(|(_, allowed)| allowed);
    if let (Some(allowed), Some(value)) = (allowed, view::get(security, field).and_then(Value::as_str))
        && !allowed.contains(&value)
    {
        errors.not_supported(format_args!("{path}.{field}"), view::quoted(value), allowed);
    }
}

/// What a pod that says it is of Linux cannot have.
pub(super) fn without_windows(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    const ONLY: &str = "windows options cannot be set for a linux pod";
    let has = |holder: &Value| view::get(security(holder), "windowsOptions").is_some();
    if has(spec) {
        errors.forbidden(format_args!("{path}.securityContext.windowsOptions"), ONLY);
    }
    for (path, _) in containers(spec, path).filter(|(_, container)| has(container)) {
        errors.forbidden(format_args!("{path}.securityContext.windowsOptions"), ONLY);
    }
}

/// A pod's containers are all processes of the host, or none is (`validateWindowsHostProcessPod`).
pub(super) fn host_processes(spec: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let wanted = |holder: &Value| view::get(options(holder), "hostProcess").and_then(Value::as_bool);
    let of_pod = wanted(spec);
    let (mut all, mut of_host) = (0, 0);
    for (path, container) in containers(spec, path) {
        let own = wanted(container);
        all += 1;
        of_host += usize::from(own.or(of_pod) == Some(true));
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid(format_args!("{path}.securityContext.windowsOptions.hostProcess"), own, &detail);
        }
    }
    if of_host == 0 {
        return;
    }
    if of_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, view::quoted(""), detail);
    }
    if !view::flag(spec, "hostNetwork") {
        errors.invalid(format_args!("{path}.hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers");
    }
    if !capabilities::get().allow_privileged {
        errors.forbidden(path, "hostProcess containers are disallowed by cluster policy");
    }
}

/// The options of one security context (`validateWindowsSecurityContextOptions`).
pub(super) fn check(security: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let Some(options) = view::get(security, "windowsOptions") else { return };
    let text = |field: &str| view::get(options, field).and_then(Value::as_str);
    let path = format_args!("{path}.windowsOptions");
    if let Some(name) = text("gmsaCredentialSpecName") {
        errors.invalid_each(&format_args!("{path}.gmsaCredentialSpecName"), name, name::subdomain(name));
    }
    if let Some(given) = text("gmsaCredentialSpec") {
        let path = format_args!("{path}.gmsaCredentialSpec");
        if given.is_empty() {
            errors.invalid(path, view::quoted(given), "gmsaCredentialSpec cannot be an empty string");
        } else if given.len() > CREDENTIAL_SPEC_KIB * 1024 {
            errors.invalid(path, view::quoted(given), &format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB} KiB"));
        }
    }
    if let Some(user) = text("runAsUserName") {
        for wrong in user_faults(user) {
            errors.invalid(format_args!("{path}.runAsUserName"), view::quoted(user), &format!("runAsUserName{wrong}"));
        }
    }
}

/// What is wrong with `DOMAIN\USER`, or `USER`.
fn user_faults(name: &str) -> Vec<String> {
    let one = |fault: &str| vec![fault.to_owned()];
    if name.is_empty() {
        return one(" cannot be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return one(" cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, user)) if user.contains('\\') => return one(" cannot contain more than one backslash"),
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut faults = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN {
            faults.push(format!("'s Domain length must be under {DOMAIN} characters"));
        }
        if !is_netbios(domain) && !is_dns(domain) {
            faults.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        faults.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER {
        faults.push(format!("'s User length must not be longer than {USER} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        faults.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        faults.push("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned());
    }
    faults
}

/// One to fifteen characters, no dot first.
fn is_netbios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count) && !domain.starts_with('.') && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        label.len() <= 63 && ends(label.chars().next()) && ends(label.chars().next_back()) && label.chars().all(inner)
    })
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn faults(of: impl Fn(&mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::none();
        of(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_of_users_are_checked_part_by_part() {
        for good in ["admin", "NT AUTHORITY\\SYSTEM", "corp.example.com\\jane", "a b"] {
            assert_eq!(user_faults(good), Vec::<String>::new(), "{good}");
        }
        assert_eq!(user_faults("a\\b\\c"), [" cannot contain more than one backslash"]);
        assert_eq!(user_faults("..\\jane"), ["'s Domain doesn't match the NetBios nor the DNS format"]);
        assert_eq!(user_faults("corp\\"), ["'s User cannot be empty"]);
        assert_eq!(user_faults(". ."), ["'s User cannot contain only periods or spaces"]);
        assert_eq!(user_faults("a\tb"), [" cannot contain control characters"]);
        assert_eq!(user_faults(&"u".repeat(105)).len(), 1);
    }

    #[test]
    fn containers_are_processes_of_the_host_together_and_on_its_network() {
        let host = json!({"windowsOptions": {"hostProcess": true}});
        let spec = json!({"containers": [{"securityContext": host}, {}]});
        let told = faults(|errors| host_processes(&spec, &"spec", errors));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("all containers must be HostProcess containers"), "{told:?}");
        let spec = json!({"hostNetwork": true, "securityContext": host, "containers": [{}, {}]});
        assert_eq!(faults(|errors| host_processes(&spec, &"spec", errors)), Vec::<String>::new());
    }

    #[test]
    fn a_windows_pod_has_nothing_of_linux() {
        let spec = json!({"hostPID": false, "securityContext": {"fsGroup": 1}, "containers": [{"securityContext": {"privileged": false}}]});
        let told = faults(|errors| without_linux(&spec, &"spec", errors));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("spec.securityContext.fsGroup") && told[1].starts_with("spec.containers[0].securityContext.privileged")
        );
    }
}
