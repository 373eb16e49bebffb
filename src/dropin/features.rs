//! `--feature-gates` and `--runtime-config`: what upstream knows is taken, what it does not know is refused as it refuses it.

use anyhow::{Result, bail};

/// `name on|off stage [locked]` a line.
const GATES: &str = coracle_apiserver::FEATURE_GATES;

/// Checks the settings of `--feature-gates` (`Name=true`, `kube:Name=false`); what differs from our fixed behaviour comes back as warnings.
pub(crate) fn check_gates(settings: &[&str]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for setting in settings {
        let Some((name, value)) = setting.split_once('=') else { bail!("--feature-gates: missing bool value for {setting}") };
        let name = name.trim().trim_start_matches("kube:");
        let on = match value.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => true,
            "false" | "f" | "0" => false,
            other => bail!("--feature-gates: invalid value of {name}={other}, must be true or false"),
        };
        if ["AllAlpha", "AllBeta"].contains(&name) {
            warnings.push(format!("feature gate {name}={on} is taken and changes nothing: each feature is fixed at its default"));
            continue;
        }
        let Some(mut known) = GATES.lines().map(|line| line.split(' ')).find(|words| words.clone().next() == Some(name)) else {
            bail!("unrecognized feature gate: {name}")
        };
        let default = known.nth(1) == Some("on");
        if default == on {
            continue;
        }
        if known.any(|word| word == "locked") {
            bail!("cannot set feature gate {name} to {on}, feature is locked to {default}");
        }
        warnings.push(format!("feature gate {name}={on} is taken and changes nothing: it is {} here", if default { "on" } else { "off" }));
    }
    Ok(warnings)
}

/// Checks the settings of `--runtime-config`: `api/all`, `api/ga`, `api/beta`, `api/alpha`, `api/legacy`, `GROUP/VERSION[/RESOURCE]` with an
/// optional `=true|false`.
pub(crate) fn check_versions(settings: &[&str]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for setting in settings {
        let (name, value) = setting.split_once('=').unwrap_or((setting, "true"));
        if !["true", "false"].contains(&value) {
            bail!("--runtime-config: invalid value {name}={value}, must be true or false");
        }
        if !name.contains('/') && name != "v1" {
            bail!("--runtime-config: {name:?} is neither api/all, api/ga, api/beta, api/alpha nor GROUP/VERSION");
        }
        let finished =
            ["api/all", "api/ga", "api/legacy", "api/v1", "v1"].contains(&name) || !name.contains("alpha") && !name.contains("beta");
        match (finished, value == "true") {
            (true, true) | (false, false) => {}
            (true, false) => warnings.push(format!("--runtime-config={setting}: what is served cannot be switched off here")),
            (false, true) => warnings.push(format!("--runtime-config={setting}: alpha and beta versions are not served here")),
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(setting: &str) -> Result<usize, String> {
        check_gates(&[setting]).map(|warnings| warnings.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn gates_are_taken_warned_of_or_refused_as_upstream_does() {
        assert_eq!(gate("APIResponseCompression=true"), Ok(0));
        assert_eq!(gate("kube:CBORServingAndStorage=true"), Ok(1));
        assert_eq!(gate("PodAffinityNamespaceSelector=true"), Err("unrecognized feature gate: PodAffinityNamespaceSelector".into()));
        // Finished long ago, but upstream still takes it: test environments of operators set it.
        assert_eq!(gate("DynamicResourceAllocation=true"), Ok(0));
        let locked = "cannot set feature gate CPUManagerPolicyOptions to false, feature is locked to true";
        assert_eq!(gate("CPUManagerPolicyOptions=false"), Err(locked.into()));
        assert!(gate("APIResponseCompression").unwrap_err().contains("missing bool value"));
        assert!(gate("APIResponseCompression=maybe").unwrap_err().contains("true or false"));
    }

    #[test]
    fn every_gate_has_a_default_and_a_stage() {
        for line in GATES.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(["on", "off"].contains(&words[1]) && words.len() <= 4, "{line}");
            assert!(["Alpha", "Beta", "GA", "Deprecated"].contains(&words[2]), "{line}");
        }
    }

    #[test]
    fn versions_that_are_not_served_are_warned_of() {
        let warnings = |setting: &str| check_versions(&[setting]).map(|w| w.len()).map_err(|e| e.to_string());
        assert_eq!(warnings("api/all=true"), Ok(0));
        assert_eq!(warnings("apps/v1"), Ok(0));
        assert_eq!(warnings("admissionregistration.k8s.io/v1beta1=true"), Ok(1));
        assert_eq!(warnings("apps/v1=false"), Ok(1));
        assert!(warnings("apps=true").is_err() && warnings("apps/v1=1").is_err());
    }
}
