//! Which capabilities a container gets: the set of Docker and containerd, what the pod adds and drops, and never more than this process has.

use std::collections::HashSet;

use caps::{CapSet, Capability};

use crate::runtime::SecurityContext;

const DEFAULT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// Computes the set.
///
/// # Errors
/// The name that is no capability.
pub(super) fn of(security: &SecurityContext, own: &HashSet<Capability>) -> Result<HashSet<Capability>, String> {
    if security.privileged {
        return Ok(own.clone());
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: HashSet<Capability> = DEFAULT.into();
    if security.add_capabilities.iter().any(is_all) {
        set.clone_from(own);
    }
    if security.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    for name in security.add_capabilities.iter().filter(|name| !is_all(name)) {
        set.insert(parse(name)?);
    }
    for name in security.drop_capabilities.iter().filter(|name| !is_all(name)) {
        let capability = parse(name)?;
        if !security.add_capabilities.iter().any(|added| parse(added) == Ok(capability)) {
            set.remove(&capability);
        }
    }
    Ok(set.intersection(own).copied().collect())
}

/// What this process could pass on.
pub(super) fn own() -> HashSet<Capability> {
    caps::read(None, CapSet::Bounding).unwrap_or_default()
}

/// Leaves this thread with exactly these, for itself and all it executes.
///
/// # Errors
/// What the kernel refused.
pub(super) fn keep(set: &HashSet<Capability>) -> Result<(), String> {
    let failed = |e: caps::errors::CapsError| format!("set capabilities: {e}");
    for capability in caps::read(None, CapSet::Bounding).map_err(failed)?.difference(set) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(failed)?;
    }
    caps::set(None, CapSet::Inheritable, &HashSet::new()).map_err(failed)?;
    caps::set(None, CapSet::Effective, set).map_err(failed)?;
    caps::set(None, CapSet::Permitted, set).map_err(failed)
}

fn parse(name: &str) -> Result<Capability, String> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    full.parse().map_err(|_| format!("unknown capability {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<String> {
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let security = SecurityContext { add_capabilities: strings(add), drop_capabilities: strings(drop), ..SecurityContext::default() };
        let mut names: Vec<String> = of(&security, &caps::all()).unwrap().iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn add_wins_over_drop_all() {
        assert_eq!(set(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(set(&[], &["ALL"]), Vec::<String>::new());
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]).len(), caps::all().len() - 1);
        assert_eq!(set(&["net_admin"], &["KILL"]).len(), 14);
    }

    #[test]
    fn an_unknown_name_is_refused_and_what_we_lack_is_not_given() {
        let bad = SecurityContext { add_capabilities: vec!["FLY".to_owned()], ..SecurityContext::default() };
        assert_eq!(of(&bad, &caps::all()).unwrap_err(), r#"unknown capability "FLY""#);
        let own = [Capability::CAP_CHOWN].into();
        assert_eq!(of(&SecurityContext::default(), &own).unwrap(), own);
    }
}
