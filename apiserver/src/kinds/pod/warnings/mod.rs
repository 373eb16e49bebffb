//! What works in a pod, but not as meant (`pkg/api/pod/warnings.go`).

mod labels;
mod ports;
mod volumes;

use coracle_schema::Quantity;
use coracle_tree::Value;

use super::profile;
use crate::kinds::{address, view};

pub(in crate::kinds) use volumes::claim_warnings as claim;

/// Texts for `Warning:` headers about a new pod, or about the pod template at `path`.
pub(in crate::kinds) fn of(pod: &Value, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (metadata, spec) = (view::member(pod, "metadata"), view::member(pod, "spec"));
    let at = if path.is_empty() { "spec".to_owned() } else { format!("{path}.spec") };
    let annotations = if path.is_empty() { "metadata.annotations".to_owned() } else { format!("{path}.metadata.annotations") };
    labels::of(spec, &at, &mut all);
    old_annotations(metadata, &annotations, &mut all);
    volumes::of(spec, &at, &mut all);
    named_twice(spec, &at, &mut all);
    fractions(view::member(spec, "overhead"), &format_args!("{at}.overhead"), &mut all);
    profiles(pod, &annotations, !path.is_empty(), &mut all);
    for (container, path) in containers(spec, &at) {
        for half in ["limits", "requests"] {
            let amounts = view::member(view::member(container, "resources"), half);
            fractions(amounts, &format_args!("{path}.resources.{half}"), &mut all);
        }
        hidden_variables(container, &path, &mut all);
    }
    ports::of(spec, &at, &mut all);
    if view::int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        all.push(format!("{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    labels::of_other_pods(spec, &at, &mut all);
    addresses(spec, &at, &mut all);
    all
}

/// Containers of every sort with their paths.
fn containers<'a>(spec: &'a Value, path: &str) -> impl Iterator<Item = (&'a Value, String)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| {
        view::list(spec, list).iter().enumerate().map(move |(at, container)| (container, format!("{path}.{list}[{at}]")))
    })
}

const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

fn old_annotations(metadata: &Value, path: &str, all: &mut Vec<String>) {
    let annotations = view::map(metadata, "annotations");
    let found = OLD_ANNOTATIONS.iter().filter(|(key, _)| annotations.contains_key(key));
    all.extend(found.map(|(key, text)| format!("{path}[{key}]: {text}")));
}

fn named_twice(spec: &Value, path: &str, all: &mut Vec<String>) {
    let aliases = view::list(spec, "hostAliases");
    for (at, alias) in aliases.iter().enumerate() {
        let ip = view::text(alias, "ip");
        if aliases[..at].iter().any(|other| view::text(other, "ip") == ip) {
            all.push(format!("{path}.hostAliases[{at}].ip: duplicate ip {}", view::quoted(ip)));
        }
    }
    let secrets = view::list(spec, "imagePullSecrets");
    for (at, secret) in secrets.iter().enumerate() {
        let name = view::text(secret, "name");
        if secrets[..at].iter().any(|other| view::text(other, "name") == name) {
            all.push(format!("{path}.imagePullSecrets[{at}].name: duplicate name {}", view::quoted(name)));
        }
    }
    for (at, _) in secrets.iter().enumerate().filter(|(_, secret)| view::text(secret, "name").is_empty()) {
        all.push(format!("{path}.imagePullSecrets[{at}].name: invalid empty name \"\""));
    }
}

/// There is no half a byte.
fn fractions(amounts: &Value, path: view::At<'_>, all: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        all.extend(fraction(view::member(amounts, name), &format_args!("{path}[{name}]")));
    }
}

fn fraction(amount: &Value, path: view::At<'_>) -> Option<String> {
    let amount: Quantity = view::quantity(amount).filter(|amount: &Quantity| !amount.is_whole())?;
    Some(format!("{path}: fractional byte value {} is invalid, must be an integer", view::quoted(&amount.to_string())))
}

/// Annotations that came before the fields for profiles. Those for AppArmor are copied into the fields of pods, but not of templates.
fn profiles(pod: &Value, path: &str, is_template: bool, all: &mut Vec<String>) {
    let annotations = view::map(view::member(pod, "metadata"), "annotations");
    let spec = view::member(pod, "spec");
    let context = |of| view::member(of, "securityContext");
    let lacks = |of, field| view::get(context(of), field).is_none();
    let mut seccomp = |key: &str| {
        if annotations.contains_key(key) {
            all.push(format!("{path}[{key}]: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
        }
    };
    if lacks(spec, "seccompProfile") {
        seccomp("seccomp.security.alpha.kubernetes.io/pod");
    }
    for (container, _) in containers(spec, "").filter(|(container, _)| lacks(container, "seccompProfile")) {
        seccomp(&format!("container.seccomp.security.alpha.kubernetes.io/{}", view::text(container, "name")));
    }
    for (container, _) in containers(spec, "").filter(|(container, _)| is_template && lacks(container, "appArmorProfile")) {
        let key = format!("{}{}", profile::APP_ARMOR, view::text(container, "name"));
        let Some(given) = annotations.get(&key).and_then(Value::as_str) else { continue };
        let of_pod = view::get(context(spec), "appArmorProfile");
        if of_pod.is_none() || of_pod != profile::of_annotation(given).as_ref() {
            all.push(format!("{path}[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        }
    }
}

/// The same variable twice, the later not building on the earlier: apply knows variables by name and keeps only one.
fn hidden_variables(container: &Value, path: &str, all: &mut Vec<String>) {
    let variables = view::list(container, "env");
    for (at, variable) in variables.iter().enumerate() {
        let (name, value) = (view::text(variable, "name"), view::text(variable, "value"));
        if !variables[..at].iter().any(|other| view::text(other, "name") == name) {
            continue;
        }
        let before = format!("$({name})");
        let builds_on_it = view::get(variable, "valueFrom").is_none() && value != before && value.contains(&before);
        if !builds_on_it {
            let name = view::quoted(name);
            all.push(format!("{path}.env[{at}]: hides previous definition of {name}, which may be dropped when using apply"));
        }
    }
}

fn addresses(spec: &Value, path: &str, all: &mut Vec<String>) {
    for (at, server) in view::list(view::member(spec, "dnsConfig"), "nameservers").iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        all.extend(address::warning(server, &format!("{path}.dnsConfig.nameservers[{at}]")));
    }
    for (at, alias) in view::list(spec, "hostAliases").iter().enumerate() {
        all.extend(address::warning(view::text(alias, "ip"), &format!("{path}.hostAliases[{at}].ip")));
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn what_is_given_twice_or_has_no_effect_is_warned_of() {
        let spec = json!({
            "hostAliases": [{"ip": "10.1.2.3"}, {"ip": "10.1.2.3"}],
            "imagePullSecrets": [{"name": "a"}, {}, {"name": "a"}],
            "containers": [{"name": "c", "resources": {"limits": {"memory": "1500m"}}, "env": [
                {"name": "X", "value": "1"}, {"name": "X", "value": "$(X)2"}, {"name": "X", "value": "3"},
            ]}],
            "overhead": {"ephemeral-storage": "1"},
        });
        let annotations = json!({"container.seccomp.security.alpha.kubernetes.io/c": "unconfined",
            "container.apparmor.security.beta.kubernetes.io/c": "unconfined", "security.alpha.kubernetes.io/sysctls": "x"});
        let pod = json!({"metadata": {"annotations": annotations}, "spec": spec});
        let expected = [
            "metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the \"sysctls\" field instead",
            "spec.hostAliases[1].ip: duplicate ip \"10.1.2.3\"",
            "spec.imagePullSecrets[2].name: duplicate name \"a\"",
            "spec.imagePullSecrets[1].name: invalid empty name \"\"",
            "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; \
             use the \"seccompProfile\" field instead",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            "spec.containers[0].env[2]: hides previous definition of \"X\", which may be dropped when using apply",
        ];
        assert_eq!(of(&pod, ""), expected);
        let of_template = of(&pod, "spec.template");
        assert_eq!(of_template[1], format!("spec.template.{}", expected[1]));
        assert!(
            of_template.contains(
                &"spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: \
              deprecated since v1.30; use the \"appArmorProfile\" field instead"
                    .to_owned()
            )
        );
    }

    #[test]
    fn addresses_are_best_written_as_the_standard_says() {
        let spec = json!({"dnsConfig": {"nameservers": ["010.0.0.1", "2001:DB8::1", "::ffff:1.2.3.4", "10.0.0.1"]}});
        assert_eq!(
            of(&json!({ "spec": spec }), ""),
            [
                "spec.dnsConfig.nameservers[0]: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\"",
                "spec.dnsConfig.nameservers[1]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
                "spec.dnsConfig.nameservers[2]: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"",
            ]
        );
    }
}
