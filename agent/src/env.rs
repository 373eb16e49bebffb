//! A container's environment (kubelet `makeEnvironmentVariables`, `third_party/forked/golang/expansion`, `envvars/envvars.go`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, EnvVarSource};

use crate::context::Context;
use crate::downward;
use crate::objects::{Data, Source};
use crate::pods::object::BoundPod;

/// Builds the environment in the order upstream gives it: service variables first (later ones win), then `envFrom`, then `env`.
///
/// # Errors
/// With kubelet's words when something referred to does not exist.
pub async fn variables(
    ctx: &Arc<Context>,
    pod: &BoundPod,
    container: &ContainerSpec,
    addresses: &[IpAddr],
) -> Result<Vec<(String, String)>, String> {
    let mut env = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (source, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => (Source::ConfigMap, map.name.as_str(), map.optional == Some(true)),
            (_, Some(secret)) => (Source::Secret, secret.name.as_str(), secret.optional == Some(true)),
            _ => continue,
        };
        match object(ctx, pod, source, name).await? {
            Some(data) => {
                for (key, value) in &data.entries {
                    env.set(&format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
                }
            }
            None if optional => {}
            None => return Err(source.not_found(name)),
        }
    }
    let services = ctx.objects.service_variables(&pod.metadata.namespace, pod.spec.enable_service_links != Some(false)).await?;
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => {
                Some(expand_with(text, |name| env.get(name).or_else(|| services.get(name).map(String::as_str))))
            }
            (_, Some(from)) => from_source(ctx, pod, container, addresses, from).await?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    let mut out: Vec<(String, String)> = services.into_iter().filter(|(name, _)| env.get(name).is_none()).collect();
    out.extend(env.ordered);
    Ok(out)
}

/// Variables in the order they were first named.
#[derive(Default)]
struct Environment {
    ordered: Vec<(String, String)>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.ordered.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.ordered.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.ordered.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

async fn object(ctx: &Arc<Context>, pod: &BoundPod, source: Source, name: &str) -> Result<Option<Arc<Data>>, String> {
    ctx.objects.get(&pod.metadata.uid, source, &pod.metadata.namespace, name).await
}

/// The value of a reference; `None` when it is optional and missing.
async fn from_source(
    ctx: &Arc<Context>,
    pod: &BoundPod,
    container: &ContainerSpec,
    addresses: &[IpAddr],
    from: &EnvVarSource,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return downward::field(ctx, pod, addresses, &field.field_path).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        let node = ctx.node.read().allocatable;
        return downward::resource(pod, Some(container), resource, node).map(Some);
    }
    let (source, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => (Source::ConfigMap, r.name.as_str(), r.key.as_str(), r.optional == Some(true)),
        (_, Some(r)) => (Source::Secret, r.name.as_str(), r.key.as_str(), r.optional == Some(true)),
        _ => return Err("env valueFrom names no source that is supported (fileKeyRef is not yet)".to_owned()),
    };
    let Some(data) = object(ctx, pod, source, name).await? else {
        return if optional { Ok(None) } else { Err(source.not_found(name)) };
    };
    match data.entries.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {} {}/{name}", source.kind(), pod.metadata.namespace)),
    }
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign; unknown names stay as they are.
#[must_use]
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    expand_with(text, |name| env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str()))
}

fn expand_with<'a>(text: &str, get: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// A service as its variables need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceAddress {
    /// Name.
    pub name: String,
    /// Cluster IP.
    pub ip: String,
    /// Ports: name, number, protocol.
    pub ports: Vec<(String, i32, String)>,
}

/// The Docker-style variables of one service.
pub fn service_variables(service: &ServiceAddress, out: &mut BTreeMap<String, String>) {
    let Some((_, first_port, first_protocol)) = service.ports.first() else { return };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(&service.name);
    let host = if service.ip.contains(':') { format!("[{}]", service.ip) } else { service.ip.clone() };
    out.insert(format!("{prefix}_SERVICE_HOST"), service.ip.clone());
    out.insert(format!("{prefix}_SERVICE_PORT"), first_port.to_string());
    for (name, port, _) in service.ports.iter().filter(|(name, ..)| !name.is_empty()) {
        out.insert(format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.to_string());
    }
    out.insert(format!("{prefix}_PORT"), format!("{}://{host}:{first_port}", first_protocol.to_lowercase()));
    for (_, port, protocol) in &service.ports {
        let one = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        out.insert(one.clone(), format!("{}://{host}:{port}", protocol.to_lowercase()));
        out.insert(format!("{one}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{one}_PORT"), port.to_string());
        out.insert(format!("{one}_ADDR"), service.ip.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_upstream_expands_them() {
        let env = vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        for (text, wanted) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("end$", "end$"),
            ("$(B)", "$(A)"),
        ] {
            assert_eq!(expand(text, &env), wanted, "{text}");
        }
    }

    #[test]
    fn a_service_gives_the_variables_docker_links_gave() {
        let service = ServiceAddress {
            name: "my-db".to_owned(),
            ip: "10.0.0.5".to_owned(),
            ports: vec![("sql".to_owned(), 5432, "TCP".to_owned()), ("dns".to_owned(), 53, "UDP".to_owned())],
        };
        let mut out = BTreeMap::new();
        service_variables(&service, &mut out);
        let wanted = [
            ("MY_DB_PORT", "tcp://10.0.0.5:5432"),
            ("MY_DB_PORT_53_UDP", "udp://10.0.0.5:53"),
            ("MY_DB_PORT_53_UDP_ADDR", "10.0.0.5"),
            ("MY_DB_PORT_53_UDP_PORT", "53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_5432_TCP", "tcp://10.0.0.5:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.0.0.5"),
            ("MY_DB_PORT_5432_TCP_PORT", "5432"),
            ("MY_DB_PORT_5432_TCP_PROTO", "tcp"),
            ("MY_DB_SERVICE_HOST", "10.0.0.5"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_DNS", "53"),
            ("MY_DB_SERVICE_PORT_SQL", "5432"),
        ];
        assert_eq!(out.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), wanted);
    }
}
