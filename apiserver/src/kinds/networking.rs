//! Ingresses, their classes, and network policies (upstream `apis/networking/validation`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::{Value, json};

use super::{address, load_balancer, view};
use crate::registry::{Object, Part, Rules, names::sloppy_ip};

/// Rules of `ingresses`.
pub(super) struct Ingress;
/// Rules of `ingressclasses`.
pub(super) struct IngressClass;
/// Rules of `networkpolicies`.
pub(super) struct NetworkPolicy;

impl Rules for Ingress {
    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            load_balancer::of_ingress(new, &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let (backend, rules) = (view::get(spec, "defaultBackend"), view::list(spec, "rules"));
        if rules.is_empty() && backend.is_none() {
            errors.invalid("spec", view::member(spec, "rules"), "either `defaultBackend` or `rules` must be specified");
        }
        if let Some(backend) = backend {
            ingress_backend(backend, "spec.defaultBackend", &mut errors);
        }
        for (at, rule) in rules.iter().enumerate() {
            ingress_rule(rule, &format!("spec.rules[{at}]"), &mut errors);
        }
        for (at, tls) in view::list(spec, "tls").iter().enumerate() {
            for (host_at, host) in view::texts(tls, "hosts").enumerate() {
                ingress_host(host, &format!("spec.tls[{at}].hosts[{host_at}]"), &mut errors);
            }
            let secret = view::text(tls, "secretName");
            if !secret.is_empty() {
                errors.invalid_each(&format!("spec.tls[{at}].secretName"), secret, name::subdomain(secret));
            }
        }
        let class = view::get(spec, "ingressClassName").and_then(Value::as_str);
        if let Some(class) = class {
            errors.invalid_each("spec.ingressClassName", class, name::subdomain(class));
        }
        let annotation = new.annotation("kubernetes.io/ingress.class");
        if let (Some(class), Some(annotation), None) = (class, annotation, old)
            && class != annotation
        {
            let detail = "must match `ingressClassName` when both are specified";
            errors.invalid("annotations.kubernetes.io/ingress.class", view::quoted(annotation), detail);
        }
        errors
    }
}

fn ingress_host(host: &str, path: &str, errors: &mut FieldErrors) {
    let wrong = if host.contains('*') { name::wildcard_subdomain(host) } else { name::subdomain(host) };
    errors.invalid_each(path, host, wrong);
}

fn ingress_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    let host = view::text(rule, "host");
    if host.parse::<std::net::IpAddr>().is_ok() || sloppy_ip(host).is_some() {
        errors.invalid(format!("{path}.host"), view::quoted(host), "must be a DNS name, not an IP address");
    }
    if !host.is_empty() {
        ingress_host(host, &format!("{path}.host"), errors);
    }
    let Some(http) = view::get(rule, "http") else { return };
    let paths = view::list(http, "paths");
    if paths.is_empty() {
        errors.required(format!("{path}.http.paths"), "");
    }
    for (at, one) in paths.iter().enumerate() {
        let path = format!("{path}.http.paths[{at}]");
        ingress_path(one, &path, errors);
        // Of a path without a type upstream looks at nothing else.
        if view::get(one, "pathType").is_some() {
            ingress_backend(view::member(one, "backend"), &format!("{path}.backend"), errors);
        }
    }
}

fn ingress_path(one: &Value, path: &str, errors: &mut FieldErrors) {
    let text = view::text(one, "path");
    let at = format!("{path}.path");
    match view::text(one, "pathType") {
        "" if view::get(one, "pathType").is_none() => errors.required(format!("{path}.pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&at, view::quoted(text), "must be an absolute path");
            }
            for wrong in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|wrong| text.contains(**wrong)) {
                errors.invalid(&at, view::quoted(text), &format!("must not contain '{wrong}'"));
            }
            for wrong in ["/..", "/."].iter().filter(|wrong| text.ends_with(**wrong)) {
                errors.invalid(&at, view::quoted(text), &format!("cannot end with '{wrong}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&at, view::quoted(text), "must be an absolute path");
            }
        }
        other => {
            let allowed = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.not_supported(format!("{path}.pathType"), view::quoted(other), &allowed);
        }
    }
}

fn ingress_backend(backend: &Value, path: &str, errors: &mut FieldErrors) {
    match (view::get(backend, "resource"), view::get(backend, "service")) {
        (Some(_), Some(_)) => errors.invalid(path, "\"\"", "cannot set both resource and service backends"),
        (Some(resource), None) => reference(resource, &format!("{path}.resource"), errors),
        (None, Some(service)) => {
            let service_name = view::text(service, "name");
            if service_name.is_empty() {
                errors.required(format!("{path}.service.name"), "");
            } else {
                errors.invalid_each(&format!("{path}.service.name"), service_name, name::label(service_name));
            }
            let port = view::member(service, "port");
            match (view::text(port, "name"), view::int(port, "number").unwrap_or_default()) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => {
                    for message in name::port_number(number) {
                        errors.invalid(format!("{path}.service.port.number"), number, &message);
                    }
                }
                (text, 0) => errors.invalid_each(&format!("{path}.service.port.name"), text, name::port_name(text)),
                _ => errors.invalid(path, "\"\"", "cannot set both port name & port number"),
            }
        }
        (None, None) => errors.invalid(path, "\"\"", "resource or service backend is required"),
    }
}

/// An object of any kind, by name.
fn reference(given: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(group) = view::get(given, "apiGroup").and_then(Value::as_str) {
        errors.invalid_each(&format!("{path}.apiGroup"), group, name::subdomain(group));
    }
    for field in ["kind", "name"] {
        match view::text(given, field) {
            "" => errors.required(format!("{path}.{field}"), ""),
            text => errors.invalid_each(&format!("{path}.{field}"), text, name::path_segment(text)),
        }
    }
}

const CONTROLLER_MAX: usize = 250;

/// `example.com/controller` (apimachinery `IsDomainPrefixedPath`).
fn controller_name(controller: &str, path: &str, errors: &mut FieldErrors) {
    if controller.len() > CONTROLLER_MAX {
        errors.too_long(path, CONTROLLER_MAX as u64, "byte");
    }
    match controller.split_once('/') {
        _ if controller.is_empty() => errors.required(path, ""),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.invalid_each(path, domain, name::subdomain(domain));
            let fits = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
            if !rest.chars().all(fits) {
                let form = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
                errors.invalid(path, view::quoted(rest), &format!("Invalid path (regex used for validation is '{form}')"));
            }
        }
        _ => errors.invalid(path, view::quoted(controller), "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

impl Rules for IngressClass {
    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        let controller = view::text(spec, "controller");
        if let Some(old) = old
            && view::text(view::member(old.value(), "spec"), "controller") != controller
        {
            errors.invalid("spec.controller", view::quoted(controller), "field is immutable");
        }
        controller_name(controller, "spec.controller", &mut errors);
        if let Some(parameters) = view::get(spec, "parameters") {
            reference(parameters, "spec.parameters", &mut errors);
            let namespace = view::get(parameters, "namespace").and_then(Value::as_str);
            match (view::text(parameters, "scope"), namespace) {
                ("Namespace", None) => errors.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'"),
                ("Namespace", Some(namespace)) => {
                    errors.invalid_each("spec.parameters.namespace", namespace, name::label(namespace));
                }
                ("Cluster", Some(_)) => errors.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'"),
                ("Cluster", None) => {}
                (other, _) => errors.not_supported("spec.parameters.scope", view::quoted(other), &["Cluster", "Namespace"]),
            }
        }
        errors
    }
}

impl Rules for NetworkPolicy {
    fn default(&self, object: &mut Object) {
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        if view::list(spec, "policyTypes").is_empty() {
            let egress = !view::list(spec, "egress").is_empty();
            spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        let known = old.map_or_else(Vec::new, |old| blocks(view::member(old.value(), "spec")));
        selector::validate_object(view::member(spec, "podSelector"), "spec.podSelector", &mut errors);
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (at, rule) in view::list(spec, direction).iter().enumerate() {
                let path = format!("spec.{direction}[{at}]");
                for (at, port) in view::list(rule, "ports").iter().enumerate() {
                    policy_port(port, &format!("{path}.ports[{at}]"), &mut errors);
                }
                for (at, peer) in view::list(rule, peers).iter().enumerate() {
                    policy_peer(peer, &known, &format!("{path}.{peers}[{at}]"), &mut errors);
                }
            }
        }
        let types: Vec<&str> = view::texts(spec, "policyTypes").collect();
        if types.len() > 2 {
            errors.invalid("spec.policyTypes", view::member(spec, "policyTypes"), "may not specify more than two policyTypes");
            return errors;
        }
        for (at, kind) in types.iter().enumerate().filter(|(_, kind)| !["Ingress", "Egress"].contains(kind)) {
            errors.not_supported(format!("spec.policyTypes[{at}]"), view::quoted(kind), &["Ingress", "Egress"]);
        }
        errors
    }
}

fn policy_port(port: &Value, path: &str, errors: &mut FieldErrors) {
    let end = view::int(port, "endPort");
    match view::get(port, "port") {
        None => {
            if let Some(end) = end {
                errors.invalid(format!("{path}.endPort"), end, "may not be specified when `port` is not specified");
            }
        }
        Some(Value::String(text)) => {
            if let Some(end) = end {
                errors.invalid(format!("{path}.endPort"), end, "may not be specified when `port` is non-numeric");
            }
            errors.invalid_each(&format!("{path}.port"), text, name::port_name(text));
        }
        Some(number) => {
            let number = number.as_i64().unwrap_or_default();
            for message in name::port_number(number) {
                errors.invalid(format!("{path}.port"), number, &message);
            }
            if let Some(end) = end.filter(|end| *end < number) {
                errors.invalid(format!("{path}.endPort"), end, "must be greater than or equal to `port`");
            }
            for message in end.map(name::port_number).unwrap_or_default() {
                errors.invalid(format!("{path}.endPort"), end.unwrap_or_default(), &message);
            }
        }
    }
}

/// All ranges that a policy names.
fn blocks(spec: &Value) -> Vec<&str> {
    let rules = [("ingress", "from"), ("egress", "to")].into_iter();
    let peers = rules.flat_map(|(direction, peers)| view::list(spec, direction).iter().flat_map(move |rule| view::list(rule, peers)));
    let blocks = peers.map(|peer| view::member(peer, "ipBlock"));
    blocks.flat_map(|block| view::texts(block, "except").chain([view::text(block, "cidr")])).filter(|range| !range.is_empty()).collect()
}

fn policy_peer(peer: &Value, known: &[&str], path: &str, errors: &mut FieldErrors) {
    let mut found = HashSet::new();
    for kind in ["podSelector", "namespaceSelector"] {
        if let Some(given) = view::get(peer, kind) {
            found.insert(kind);
            selector::validate_object(given, &format!("{path}.{kind}"), errors);
        }
    }
    if let Some(block) = view::get(peer, "ipBlock") {
        if !found.is_empty() {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        found.insert("ipBlock");
        let range = view::text(block, "cidr");
        if range.is_empty() {
            errors.required(format!("{path}.ipBlock.cidr"), "");
        } else {
            address::cidr(range, known, &format!("{path}.ipBlock.cidr"), errors);
        }
        let outer = address::parse_cidr(range);
        for (at, except) in view::texts(block, "except").enumerate() {
            let path = format!("{path}.ipBlock.except[{at}]");
            address::cidr(except, known, &path, errors);
            let inside = outer.zip(address::parse_cidr(except)).is_none_or(|(outer, inner)| address::strictly_contains(outer, inner));
            if !inside {
                errors.invalid(path, view::quoted(except), "must be a strict subset of `cidr`");
            }
        }
    }
    if found.is_empty() {
        errors.required(path, "must specify a peer");
    }
}
