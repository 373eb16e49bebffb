//! `--feature-gates` and `--runtime-config`: what upstream knows is taken, what it does not know is refused as it refuses it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use coracle_apiserver::Gates;

use super::flags::truth;

/// `name on|off stage [locked]` a line.
const GATES: &str = coracle_apiserver::FEATURE_GATES;

/// Reads the settings of `--feature-gates` (`Name=true`, `kube:Name=false`); what differs from our fixed behaviour comes back as warnings.
pub(crate) fn gates(settings: &[&str]) -> Result<(Gates, Vec<String>)> {
    let (mut gates, mut warnings) = (Gates::default(), Vec::new());
    let (mut named, mut all_beta) = (Vec::new(), None);
    for setting in settings {
        let Some((name, value)) = setting.split_once('=') else { bail!("--feature-gates: missing bool value for {setting}") };
        let name = name.trim().trim_start_matches("kube:");
        let on = match value.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => true,
            "false" | "f" | "0" => false,
            other => bail!("--feature-gates: invalid value of {name}={other}, must be true or false"),
        };
        if ["AllAlpha", "AllBeta"].contains(&name) {
            if name == "AllBeta" {
                all_beta = Some(on);
            }
            warnings.push(format!(
                "feature gate {name}={on} changes only what may be switched here: each other feature is fixed at its default"
            ));
            continue;
        }
        named.push(name);
        let Some(mut known) = GATES.lines().map(|line| line.split(' ')).find(|words| words.clone().next() == Some(name)) else {
            bail!("unrecognized feature gate: {name}")
        };
        let default = known.nth(1) == Some("on");
        if gates.switch(name, on) || default == on {
            continue;
        }
        if known.any(|word| word == "locked") {
            bail!("cannot set feature gate {name} to {on}, feature is locked to {default}");
        }
        warnings.push(format!("feature gate {name}={on} is taken and changes nothing: it is {} here", if default { "on" } else { "off" }));
    }
    if let Some(on) = all_beta {
        gates.switch_others(on, &named);
    }
    Ok((gates, warnings))
}

/// What `--runtime-config` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// Groups and versions to serve beside the finished ones.
    pub(crate) served: BTreeSet<(String, String)>,
    /// What is asked for and cannot be.
    pub(crate) warnings: Vec<String>,
}

/// Groups and the versions of them that upstream knows, served or not.
const KNOWN: &[(&str, &[&str])] = &[
    ("", &["v1"]),
    ("admission.k8s.io", &["v1", "v1beta1"]),
    ("admissionregistration.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("apiextensions.k8s.io", &["v1", "v1beta1"]),
    ("apiregistration.k8s.io", &["v1", "v1beta1"]),
    ("apps", &["v1", "v1beta1", "v1beta2"]),
    ("authentication.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("authorization.k8s.io", &["v1", "v1beta1"]),
    ("autoscaling", &["v1", "v2"]),
    ("batch", &["v1", "v1beta1"]),
    ("certificates.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("coordination.k8s.io", &["v1", "v1alpha2", "v1beta1"]),
    ("discovery.k8s.io", &["v1", "v1beta1"]),
    ("events.k8s.io", &["v1", "v1beta1"]),
    ("extensions", &["v1beta1"]),
    ("flowcontrol.apiserver.k8s.io", &["v1", "v1beta1", "v1beta2", "v1beta3"]),
    ("imagepolicy.k8s.io", &["v1alpha1"]),
    ("internal.apiserver.k8s.io", &["v1alpha1"]),
    ("lifecycle.k8s.io", &["v1alpha1"]),
    ("networking.k8s.io", &["v1", "v1beta1"]),
    ("node.k8s.io", &["v1", "v1beta1"]),
    ("policy", &["v1", "v1beta1"]),
    ("rbac.authorization.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("resource.k8s.io", &["v1", "v1alpha3", "v1beta1", "v1beta2"]),
    ("scheduling.k8s.io", &["v1", "v1alpha3", "v1beta1"]),
    ("storage.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("storagemigration.k8s.io", &["v1", "v1beta1"]),
];

/// What upstream would serve of it, and we do not: its objects are of another shape than those of later versions.
const MISSING: [&str; 2] = ["resource.k8s.io", "v1beta1"];

/// Reads `--runtime-config`: `api/all`, `api/ga`, `api/beta`, `api/alpha`, then `GROUP/VERSION[/RESOURCE]`, each with an optional
/// `=true|false`; the narrower counts (`server/resourceconfig/helpers.go`).
pub(crate) fn versions(settings: &[&str]) -> Result<Versions> {
    let settings: BTreeMap<&str, &str> = settings.iter().map(|setting| setting.split_once('=').unwrap_or((setting, ""))).collect();
    check_groups(&settings)?;
    let mut made = Versions::default();
    let mut only_off = settings.len() == 1;
    for wide in ["api/all", "api/ga", "api/beta", "api/alpha"] {
        match settings.get(wide) {
            None => {}
            Some(&"true") => {
                if ["api/all", "api/beta"].contains(&wide) {
                    made.warn(wide, &format!("{} is not served here", MISSING.join("/")));
                    made.served.extend(coracle_apiserver::unfinished().map(|(group, version)| (group.to_owned(), version.to_owned())));
                }
                if ["api/all", "api/alpha"].contains(&wide) {
                    made.warn(wide, "alpha versions are not served here");
                }
                only_off = false;
            }
            Some(&"false") => {
                if ["api/all", "api/beta"].contains(&wide) {
                    made.served.clear();
                }
                if ["api/all", "api/ga"].contains(&wide) {
                    made.warn(&format!("{wide}=false"), "finished versions cannot be switched off here");
                }
                only_off &= wide == "api/all";
            }
            Some(other) => bail!("--runtime-config: invalid value {wide}={other}"),
        }
    }
    if only_off && settings.contains_key("api/all") {
        bail!("invalid runtime-config with only api/all=false");
    }
    // Of a version first all, then single resources.
    let mut narrow: Vec<_> = settings.iter().filter(|(name, _)| !name.starts_with("api/")).collect();
    narrow.sort_by_key(|(name, _)| name.matches('/').count());
    for (name, value) in narrow {
        made.set(name, value)?;
    }
    Ok(made)
}

/// All groups there are.
fn check_groups(settings: &BTreeMap<&str, &str>) -> Result<()> {
    let mut unknown = Vec::new();
    for name in settings.keys().filter(|name| !name.starts_with("api/") && **name != "v1") {
        let Some((group, version)) = parts(name) else { bail!("runtime-config invalid key {name}") };
        if !KNOWN.iter().any(|(known, _)| *known == group) {
            unknown.push(format!("{group}/{version}"));
        }
    }
    if unknown.is_empty() { Ok(()) } else { bail!("--runtime-config: unknown api groups {}", unknown.join(",")) }
}

/// Group and version of `GROUP/VERSION[/RESOURCE]`.
fn parts(name: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = name.split('/').collect();
    [2, 3].contains(&words.len()).then(|| (words[0], words[1]))
}

impl Versions {
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let on = match truth(value) {
            _ if value.is_empty() => true,
            Ok(on) => on,
            Err(why) => bail!("--runtime-config: invalid value of {name}: {value}, {why}"),
        };
        let Some((group, version)) = parts(name) else { return Ok(()) };
        let resource = name.split('/').nth(2);
        if !KNOWN.iter().any(|(known, versions)| *known == group && versions.contains(&version)) {
            bail!("--runtime-config: group version {group}/{version} that has not been registered");
        }
        if let Some(upper) = resource.filter(|resource| resource.to_lowercase() != **resource) {
            bail!("--runtime-config: invalid key {name}: group/version/resource and resource is always lowercase plural, not {upper:?}");
        }
        let of = (group.to_owned(), version.to_owned());
        match (coracle_apiserver::unfinished().any(|known| known == (group, version)), on, resource) {
            (true, true, None) => drop(self.served.insert(of)),
            (true, true, Some(_)) => {
                self.warn(name, "its version is served whole");
                self.served.insert(of);
            }
            (true, false, None) => drop(self.served.remove(&of)),
            // What is not served need not be switched off.
            (true, false, Some(_)) if !self.served.contains(&of) => {}
            (_, false, Some(_)) => self.warn(&format!("{name}=false"), "a resource cannot be switched off by itself here"),
            (false, false, None) if version.contains("alpha") || version.contains("beta") => {}
            (false, false, None) => self.warn(&format!("{name}=false"), "finished versions cannot be switched off here"),
            (false, true, _) if [group, version] == MISSING => self.warn(name, "it is not served here"),
            (false, true, _) if version.contains("alpha") => self.warn(name, "alpha versions are not served here"),
            (false, true, _) => {}
        }
        Ok(())
    }

    fn warn(&mut self, setting: &str, why: &str) {
        self.warnings.push(format!("--runtime-config={setting}: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(setting: &str) -> Result<usize, String> {
        gates(&[setting]).map(|(_, warnings)| warnings.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn gates_are_taken_warned_of_or_refused_as_upstream_does() {
        assert_eq!(gate("APIResponseCompression=true"), Ok(0));
        let (off, warnings) = gates(&["WatchList=false", "ComponentFlagz=false", "ComponentFlagz=true"]).unwrap();
        assert!(!off.is_on("WatchList") && off.is_on("ComponentFlagz") && warnings.is_empty());
        let (off, warnings) = gates(&["WatchList=true", "AllBeta=false"]).unwrap();
        assert!(off.is_on("WatchList") && !off.is_on("ComponentFlagz") && warnings.len() == 1, "{warnings:?}");
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

    fn asked(text: &str) -> Result<(Vec<String>, usize), String> {
        let made = versions(&text.split(',').collect::<Vec<_>>()).map_err(|error| error.to_string())?;
        Ok((made.served.iter().map(|(group, version)| format!("{group}/{version}")).collect(), made.warnings.len()))
    }

    #[test]
    fn versions_are_served_when_they_are_asked_for_and_the_narrower_counts() {
        let all = asked("api/beta=true").unwrap();
        assert!(all.0.contains(&"resource.k8s.io/v1beta2".to_owned()) && all.0.len() > 3 && all.1 == 1, "{all:?}");
        let bundles = "certificates.k8s.io/v1beta1";
        assert_eq!(asked(&format!("{bundles}=true")).unwrap(), (vec![bundles.to_owned()], 0));
        assert_eq!(asked(bundles).unwrap().0, [bundles]);
        assert_eq!(asked(&format!("{bundles}/clustertrustbundles=1")).unwrap(), (vec![bundles.to_owned()], 1));
        assert_eq!(asked(&format!("{bundles}=false,api/beta=true")).unwrap().0.len(), all.0.len() - 1);
        assert_eq!(asked(&format!("api/beta=false,{bundles}=true")).unwrap().0, [bundles]);
        // Upstream knows these and serves nothing of them, or serves them in any case.
        assert_eq!(asked("storage.k8s.io/v1beta1=true,apps/v1,v1=true,api/legacy=true,api/ga=true").unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn what_cannot_be_asked_for_is_warned_of_or_refused_in_upstreams_words() {
        for warned in [
            "api/alpha=true",
            "resource.k8s.io/v1beta1",
            "apps/v1=false",
            "resource.k8s.io/v1alpha3=true",
            "api/ga=false",
            "apps/v1/deployments=false",
        ] {
            assert_eq!(asked(warned), Ok((Vec::new(), 1)), "{warned}");
        }
        for (refused, why) in [
            ("example.com/v1=true,foo/v1=true", "unknown api groups example.com/v1,foo/v1"),
            ("apps/v9=true", "group version apps/v9 that has not been registered"),
            ("apps/v1=maybe", "invalid value of apps/v1: maybe"),
            ("api/beta=maybe", "invalid value api/beta=maybe"),
            ("apps/v1/Deployments=true", "always lowercase plural, not \"Deployments\""),
            ("a/b/c/d", "runtime-config invalid key a/b/c/d"),
            ("api/all=false", "invalid runtime-config with only api/all=false"),
        ] {
            let told = asked(refused).unwrap_err();
            assert!(told.contains(why), "{refused}: {told}");
        }
    }
}
