//! What works in a pod, but not as meant (upstream `GetWarningsForPod`).

use serde_json::Value;

use crate::kinds::view;

/// Texts for `Warning:` headers about a new pod's spec.
pub(super) fn of(spec: &Value) -> Vec<String> {
    let mut all = Vec::new();
    aliases(spec, &mut all);
    ports(spec, &mut all);
    secrets(spec, &mut all);
    affinity(spec, &mut all);
    all
}

fn aliases(spec: &Value, all: &mut Vec<String>) {
    let aliases = view::list(spec, "hostAliases");
    for (at, alias) in aliases.iter().enumerate() {
        let ip = view::text(alias, "ip");
        if aliases[..at].iter().any(|other| view::text(other, "ip") == ip) {
            all.push(format!("spec.hostAliases[{at}].ip: duplicate ip {ip:?}"));
        }
    }
}

fn secrets(spec: &Value, all: &mut Vec<String>) {
    let secrets = view::list(spec, "imagePullSecrets");
    for (at, secret) in secrets.iter().enumerate() {
        let name = view::text(secret, "name");
        if name.is_empty() {
            all.push(format!("spec.imagePullSecrets[{at}].name: invalid empty name \"\""));
        } else if secrets[..at].iter().any(|other| view::text(other, "name") == name) {
            all.push(format!("spec.imagePullSecrets[{at}].name: duplicate name {name:?}"));
        }
    }
}

fn ports(spec: &Value, all: &mut Vec<String>) {
    for list in ["initContainers", "containers"] {
        for (at, container) in view::list(spec, list).iter().enumerate() {
            for (port_at, port) in view::list(container, "ports").iter().enumerate() {
                let (ip, host) = (view::text(port, "hostIP"), view::int(port, "hostPort").unwrap_or_default());
                if ip.is_empty() || host != 0 {
                    continue;
                }
                let (name, protocol) = (view::text(port, "name"), view::text(port, "protocol"));
                let number = view::int(port, "containerPort").unwrap_or_default();
                let shown = format!("{{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}");
                all.push(format!("spec.{list}[{at}].ports[{port_at}]: hostIP set without hostPort: {shown}"));
            }
        }
    }
}

fn affinity(spec: &Value, all: &mut Vec<String>) {
    const NONE: &str = "a null labelSelector results in matching no pod";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let terms = view::member(view::member(spec, "affinity"), kind);
        let lacks = |term: &Value| view::get(term, "labelSelector").is_none();
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (at, _) in view::list(terms, required).iter().enumerate().filter(|(_, term)| lacks(term)) {
            all.push(format!("spec.affinity.{kind}.{required}[{at}].labelSelector: {NONE}"));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let weighted = view::list(terms, preferred).iter().map(|term| view::member(term, "podAffinityTerm")).enumerate();
        for (at, _) in weighted.filter(|(_, term)| lacks(term)) {
            all.push(format!("spec.affinity.{kind}.{preferred}[{at}].podAffinityTerm.labelSelector: {NONE}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_given_twice_or_has_no_effect_is_warned_of() {
        let spec = json!({
            "hostAliases": [{"ip": "10.1.2.3"}, {"ip": "10.1.2.3"}],
            "imagePullSecrets": [{"name": "a"}, {}, {"name": "a"}],
            "containers": [{"ports": [{"containerPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}]}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}},
        });
        let port = "{Name: HostPort:0 ContainerPort:53 Protocol:UDP HostIP:127.0.0.1}";
        assert_eq!(
            of(&spec),
            [
                "spec.hostAliases[1].ip: duplicate ip \"10.1.2.3\"".to_owned(),
                format!("spec.containers[0].ports[0]: hostIP set without hostPort: {port}"),
                "spec.imagePullSecrets[1].name: invalid empty name \"\"".to_owned(),
                "spec.imagePullSecrets[2].name: duplicate name \"a\"".to_owned(),
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: \
                 a null labelSelector results in matching no pod"
                    .to_owned(),
            ]
        );
    }
}
