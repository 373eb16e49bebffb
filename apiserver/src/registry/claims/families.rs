//! Which address families a service has, by what it says and what the cluster has (`initIPFamilyFields` and `updateClusterIPs` of
//! `core/service/storage/alloc.go`). Pure.

use coracle_schema::FieldErrors;
use coracle_tree::{Value, json};

use super::range::Family;
use crate::registry::object::Object;

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// What a service says of its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    kind: String,
    one: String,
    ips: Vec<String>,
    families: Vec<String>,
    policy: Option<String>,
    selects: bool,
}

impl Said {
    fn by(service: &Object) -> Self {
        let spec = service.value().get("spec").unwrap_or(&Value::Null);
        let texts = |name: &str| spec[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let text = |name: &str| spec[name].as_str().unwrap_or_default().to_owned();
        Self {
            kind: text("type"),
            one: text("clusterIP"),
            ips: texts("clusterIPs"),
            families: texts("ipFamilies"),
            policy: spec["ipFamilyPolicy"].as_str().map(str::to_owned),
            selects: spec["selector"].as_object().is_some_and(|selector| !selector.is_empty()),
        }
    }

    fn is_name(&self) -> bool {
        self.kind == "ExternalName"
    }

    /// Without addresses of its own, and without a selector that says whose it shows.
    fn shows_anything(&self) -> bool {
        self.one == "None" && !self.selects
    }

    fn is_headless(&self) -> bool {
        self.ips.first().is_some_and(|ip| ip == "None")
    }
}

/// Fills in which families a service has. `cluster` has one or two, the first is that of services which do not say. `check` says what is
/// wrong with the addresses in themselves.
pub(super) fn settle(
    service: &mut Object,
    old: Option<&Object>,
    cluster: &[Family],
    check: impl FnOnce(&Object) -> FieldErrors,
) -> FieldErrors {
    let (mut new, before) = (Said::by(service), old.map(Said::by));
    if new.is_name() || before.as_ref().is_some_and(|before| stays_preferring(&new, before)) {
        return FieldErrors::none();
    }
    let policy = new.policy.get_or_insert_with(|| default_policy(service, before.as_ref())).clone();
    let mut errors = check(service);
    if !errors.is_empty() {
        return errors;
    }
    if let Some(before) = &before {
        reduce(&mut new, before, &policy, &mut errors);
    }
    infer(&mut new, &policy, cluster, &mut errors);
    if errors.is_empty() {
        choose(&mut new, &policy, cluster, &mut errors);
    }
    if errors.is_empty() {
        let spec = service.member_mut("spec");
        if !new.ips.is_empty() {
            spec.insert("clusterIPs", new.ips.into());
        }
        spec.insert("ipFamilies", new.families.into());
        spec.insert("ipFamilyPolicy", policy.into());
    }
    errors
}

/// The addresses a service gets with this write: at which place, and which one (empty: any).
pub(super) fn wanted(new: &Object, old: Option<&Object>) -> Vec<(usize, Family, String)> {
    let (new, old) = (Said::by(new), old.map(Said::by));
    let place = |at: usize| {
        let family = new.families.get(at).and_then(|name| Family::parse(name))?;
        Some((at, family, new.ips.get(at).cloned().unwrap_or_default()))
    };
    match old {
        _ if new.is_name() => Vec::new(),
        Some(old) if !old.is_name() => {
            let stays = stays_preferring(&new, &old) || old.is_headless();
            let grows = old.families.len() == 1 && new.families.len() == 2;
            if grows && !stays { place(1).into_iter().collect() } else { Vec::new() }
        }
        _ if new.is_headless() => Vec::new(),
        _ => (0..new.families.len()).filter_map(place).collect(),
    }
}

/// A service that would have two families where there are two is left as it was when the cluster gets a second, or loses one.
fn stays_preferring(new: &Said, old: &Said) -> bool {
    let prefers = |said: &Said| said.policy.as_deref() == Some(PREFER);
    let served = ["ClusterIP", "NodePort", "LoadBalancer"].contains(&&*new.kind);
    let same = new.kind == old.kind && new.ips == old.ips && new.families == old.families;
    served && same && prefers(new) && (old.policy.is_none() || prefers(old))
}

/// Never a dual stack that nobody asked for; a change without a policy is one under the policy from before.
fn default_policy(service: &Object, before: Option<&Said>) -> String {
    match before.and_then(|before| before.policy.clone()) {
        Some(policy) => policy,
        None if Said::by(service).shows_anything() => REQUIRE.to_owned(),
        None => SINGLE.to_owned(),
    }
}

/// The second address and family go when the policy says that there is to be one of each, and only then.
fn reduce(new: &mut Said, before: &Said, policy: &str, errors: &mut FieldErrors) {
    if policy == SINGLE {
        if new.ips == before.ips {
            new.ips.truncate(1);
        }
        if new.families == before.families {
            new.families.truncate(1);
        }
        return;
    }
    let is_less = |now: &[String], then: &[String]| !now.is_empty() && now.len() < then.len();
    for (less, what) in
        [(is_less(&new.ips, &before.ips), "secondary cluster IP"), (is_less(&new.families, &before.families), "secondary IP family")]
    {
        if less {
            errors.invalid("spec.ipFamilyPolicy", json!(policy), &format!("must be 'SingleStack' to release the {what}"));
        }
    }
}

/// Families follow from the addresses a writer chose.
fn infer(new: &mut Said, policy: &str, cluster: &[Family], errors: &mut FieldErrors) {
    if policy == SINGLE {
        for (count, what) in [(new.ips.len(), "cluster IPs"), (new.families.len(), "IP families")] {
            if count == 2 {
                let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                errors.invalid("spec.ipFamilyPolicy", json!(policy), &detail);
            }
        }
    }
    for (at, ip) in new.ips.iter().enumerate().take_while(|(_, ip)| *ip != "None") {
        let Some(family) = ip.parse().ok().map(Family::of).filter(|_| at >= new.families.len()) else { continue };
        if cluster.contains(&family) {
            new.families.push(family.name().to_owned());
        } else {
            errors.invalid(format!("spec.clusterIPs[{at}]"), json!(new.ips), &format!("{family} is not configured on this cluster"));
        }
    }
}

/// What is left open follows from the cluster.
fn choose(new: &mut Said, policy: &str, cluster: &[Family], errors: &mut FieldErrors) {
    let anything = new.shows_anything();
    if !anything {
        if policy == REQUIRE && cluster.len() < 2 {
            errors.invalid("spec.ipFamilyPolicy", json!(policy), "this cluster is not configured for dual-stack services");
        }
        let missing = |name: &str| !Family::parse(name).is_some_and(|family| cluster.contains(&family));
        for (at, family) in new.families.iter().enumerate().filter(|(_, family)| missing(family)) {
            errors.invalid(format!("spec.ipFamilies[{at}]"), json!(family), "not configured on this cluster");
        }
        if !errors.is_empty() {
            return;
        }
    }
    if new.families.is_empty() {
        new.families.extend(cluster.first().map(|family| family.name().to_owned()));
    }
    // What shows anything may show both, whatever the cluster's services have.
    if policy != SINGLE
        && (anything || cluster.len() == 2)
        && let [only] = new.families.as_slice()
        && let Some(family) = Family::parse(only)
    {
        new.families.push(family.other().name().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: &[Family] = &[Family::Four];
    const BOTH: &[Family] = &[Family::Four, Family::Six];
    const SIX_FIRST: &[Family] = &[Family::Six, Family::Four];

    fn service(spec: &Value) -> Object {
        let mut whole = json!({"type": "ClusterIP"});
        for (name, value) in spec.as_object().unwrap() {
            whole[name] = value.clone();
        }
        Object::new(json!({"metadata": {"name": "s"}, "spec": whole})).unwrap()
    }

    /// Families and policy, or what is wrong.
    fn settled(spec: &Value, old: Option<&Value>, cluster: &[Family]) -> Result<(String, String), String> {
        let (mut new, old) = (service(spec), old.map(service));
        let errors = settle(&mut new, old.as_ref(), cluster, |_| FieldErrors::none());
        if errors.is_empty() {
            let said = Said::by(&new);
            Ok((said.families.join(","), said.policy.unwrap()))
        } else {
            Err(errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
    }

    #[test]
    fn who_says_nothing_gets_one_of_the_first_family() {
        let of = |families: &str, policy: &str| Ok((families.to_owned(), policy.to_owned()));
        assert_eq!(settled(&json!({}), None, SIX_FIRST), of("IPv6", SINGLE));
        assert_eq!(settled(&json!({"ipFamilyPolicy": PREFER}), None, FOUR), of("IPv4", PREFER));
        assert_eq!(settled(&json!({"ipFamilyPolicy": PREFER}), None, SIX_FIRST), of("IPv6,IPv4", PREFER));
        assert_eq!(settled(&json!({"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6"]}), None, BOTH), of("IPv6,IPv4", REQUIRE));
        let ips = json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilyPolicy": REQUIRE});
        assert_eq!(settled(&ips, None, BOTH), of("IPv6,IPv4", REQUIRE));
    }

    #[test]
    fn what_shows_anything_may_show_both_and_what_selects_only_what_there_is() {
        let of = |families: &str, policy: &str| Ok((families.to_owned(), policy.to_owned()));
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
        assert_eq!(settled(&headless, None, FOUR), of("IPv4,IPv6", REQUIRE));
        assert_eq!(settled(&headless, None, SIX_FIRST), of("IPv6,IPv4", REQUIRE));
        let selecting = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}});
        assert_eq!(settled(&selecting, None, BOTH), of("IPv4", SINGLE));
    }

    #[test]
    fn what_the_cluster_does_not_have_is_refused_at_its_place() {
        let refused = |spec: Value, cluster: &[Family]| settled(&spec, None, cluster).unwrap_err();
        assert_eq!(
            refused(json!({"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv4", "IPv6"]}), FOUR),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services; \
             spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster"
        );
        assert_eq!(
            refused(json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}), FOUR),
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"
        );
        assert_eq!(
            refused(json!({"ipFamilies": ["IPv4", "IPv6"]}), BOTH),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
        );
    }

    #[test]
    fn a_second_address_comes_and_goes_by_the_policy() {
        let one = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": SINGLE});
        let two = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": REQUIRE});
        let with = |base: &Value, policy: &str| {
            let mut changed = base.clone();
            changed["ipFamilyPolicy"] = policy.into();
            changed
        };
        let (mut more, old) = (service(&with(&one, PREFER)), service(&one));
        assert!(settle(&mut more, Some(&old), BOTH, |_| FieldErrors::none()).is_empty());
        assert_eq!(wanted(&more, Some(&old)), [(1, Family::Six, String::new())]);
        let (mut less, old) = (service(&with(&two, SINGLE)), service(&two));
        assert!(settle(&mut less, Some(&old), BOTH, |_| FieldErrors::none()).is_empty());
        assert_eq!((Said::by(&less).ips, wanted(&less, Some(&old)).len()), (vec!["10.0.0.1".to_owned()], 0));
        let mut fewer = two.clone();
        fewer["clusterIPs"] = json!(["10.0.0.1"]);
        let why = settled(&fewer, Some(&two), BOTH).unwrap_err();
        assert!(why.ends_with("must be 'SingleStack' to release the secondary cluster IP"), "{why}");
        // A cluster that gets a second family does not give it to those who would have taken it.
        let preferring = with(&one, PREFER);
        assert_eq!(settled(&preferring, Some(&preferring), BOTH).unwrap().0, "IPv4");
        assert_eq!(settled(&with(&one, REQUIRE), Some(&preferring), BOTH).unwrap().0, "IPv4,IPv6");
    }
}
