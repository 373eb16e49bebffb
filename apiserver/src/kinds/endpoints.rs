//! Where traffic of services goes: endpoints and endpoint slices (upstream `ValidateEndpoints`, `apis/discovery/validation`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::Value;

use super::{address, view};
use crate::registry::{Object, Part, Policy, Rules};

/// Most endpoints of a slice, addresses of an endpoint and ports of a slice.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;

/// Rules of `endpoints`.
pub(super) struct Endpoints;

impl Rules for Endpoints {
    fn policy(&self) -> Policy {
        Policy::CREATING
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if old.is_some_and(|old| view::get(old.value(), "subsets") == view::get(new.value(), "subsets")) {
            return errors;
        }
        for (at, subset) in view::list(new.value(), "subsets").iter().enumerate() {
            let path = format!("subsets[{at}]");
            if view::list(subset, "addresses").is_empty() && view::list(subset, "notReadyAddresses").is_empty() {
                errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
            }
            for list in ["addresses", "notReadyAddresses"] {
                for (at, given) in view::list(subset, list).iter().enumerate() {
                    endpoint_address(given, &format!("{path}.{list}[{at}]"), &mut errors);
                }
            }
            let ports = view::list(subset, "ports");
            for (at, port) in ports.iter().enumerate() {
                endpoint_port(port, ports.len() > 1, &format!("{path}.ports[{at}]"), &mut errors);
            }
        }
        errors
    }
}

fn endpoint_address(given: &Value, path: &str, errors: &mut FieldErrors) {
    let ip = view::text(given, "ip");
    address::ip(ip, &format!("{path}.ip"), errors);
    let host = view::text(given, "hostname");
    if !host.is_empty() {
        errors.invalid_each(&format!("{path}.hostname"), host, name::label(host));
    }
    if let Some(node) = view::get(given, "nodeName").and_then(Value::as_str) {
        errors.invalid_each(&format!("{path}.nodeName"), node, name::subdomain(node));
    }
    // Upstream asks twice, in two voices.
    address::endpoint(ip, &format!("{path}.ip"), errors);
}

fn endpoint_port(port: &Value, needs_name: bool, path: &str, errors: &mut FieldErrors) {
    let name = view::text(port, "name");
    if name.is_empty() && needs_name {
        errors.required(format!("{path}.name"), "");
    } else if !name.is_empty() {
        errors.invalid_each(&format!("{path}.name"), name, name::label(name));
    }
    let number = view::int(port, "port").unwrap_or_default();
    for message in name::port_number(number) {
        errors.invalid(format!("{path}.port"), number, &message);
    }
    if let Some(protocol) = view::get(port, "appProtocol").and_then(Value::as_str) {
        errors.invalid_each(&format!("{path}.appProtocol"), protocol, name::qualified(protocol));
    }
}

/// Rules of `endpointslices`.
pub(super) struct EndpointSlice;

/// Names of zones and nodes an endpoint is meant for.
const HINTS_MAX: usize = 8;

impl Rules for EndpointSlice {
    fn prepare(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>) {
        if old.is_some_and(|old| view::get(old.value(), "endpoints") == view::get(new.value(), "endpoints")) {
            return;
        }
        // What v1beta1 had for a topology is read and not written (`dropTopologyOnV1`).
        let mut dropped = false;
        for endpoint in view::items_mut(new.value_mut(), "endpoints") {
            dropped |= view::get(endpoint, "deprecatedTopology").is_some();
            view::remove(endpoint, "deprecatedTopology");
        }
        // Upstream looks for what changed before it drops that.
        if let Some(old) = old.filter(|_| dropped) {
            new.set_metadata("generation", old.generation() + 1);
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let named = old.is_none() && view::text(new.value(), "addressType") == "FQDN";
        if named { vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()] } else { Vec::new() }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let slice = new.value();
        let kind = view::text(slice, "addressType");
        if kind.is_empty() {
            errors.required("addressType", "");
        } else if !["FQDN", "IPv4", "IPv6"].contains(&kind) {
            errors.not_supported("addressType", view::quoted(kind), &["FQDN", "IPv4", "IPv6"]);
        }
        slice_ports(view::list(slice, "ports"), &mut errors);
        let endpoints = view::list(slice, "endpoints");
        if endpoints.len() > ENDPOINTS_MAX {
            errors.too_many("endpoints", endpoints.len(), ENDPOINTS_MAX as u64);
        } else if old.is_none_or(|old| view::get(old.value(), "endpoints") != view::get(slice, "endpoints")) {
            for (at, endpoint) in endpoints.iter().enumerate() {
                slice_endpoint(endpoint, kind, &format!("endpoints[{at}]"), &mut errors);
            }
        }
        if let Some(old) = old
            && view::text(old.value(), "addressType") != kind
        {
            errors.invalid("addressType", Value::Null, "field is immutable");
        }
        errors
    }
}

fn slice_ports(ports: &[Value], errors: &mut FieldErrors) {
    if ports.len() > PORTS_MAX {
        return errors.too_many("ports", ports.len(), PORTS_MAX as u64);
    }
    let mut names = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let name = view::text(port, "name");
        if !name.is_empty() {
            errors.invalid_each(&format!("ports[{at}].name"), name, name::label(name));
        }
        if !names.insert(name) {
            errors.duplicate(format!("ports[{at}].name"), view::quoted(name));
        }
        if let Some(protocol) = view::get(port, "appProtocol").and_then(Value::as_str) {
            errors.invalid_each(&format!("ports[{at}].appProtocol"), protocol, name::qualified(protocol));
        }
    }
}

/// A domain name of at least two segments, with or without the last dot (upstream `IsFullyQualifiedDomainName`).
fn domain(given: &str, path: &str, errors: &mut FieldErrors) {
    let name = given.strip_suffix('.').unwrap_or(given);
    if given.is_empty() {
        return errors.required(path, "");
    }
    let wrong = name::subdomain(name);
    if !wrong.is_empty() {
        return errors.invalid(path, view::quoted(name), &wrong.join(","));
    }
    if !name.contains('.') {
        return errors.invalid(path, view::quoted(name), "should be a domain with at least two segments separated by dots");
    }
    if let Some((label, wrong)) = name.split('.').map(|label| (label, name::label(label))).find(|(_, wrong)| !wrong.is_empty()) {
        errors.invalid(path, view::quoted(label), &wrong.join(","));
    }
}

fn slice_endpoint(endpoint: &Value, kind: &str, path: &str, errors: &mut FieldErrors) {
    let addresses: Vec<&str> = view::texts(endpoint, "addresses").collect();
    if addresses.len() > ADDRESSES_MAX {
        errors.too_many(format!("{path}.addresses"), addresses.len(), ADDRESSES_MAX as u64);
    }
    for (at, given) in addresses.iter().enumerate() {
        let (list, path) = (format!("{path}.addresses"), format!("{path}.addresses[{at}]"));
        let mut wrong = FieldErrors::none();
        match kind {
            "IPv4" => address::ip(given, &path, &mut wrong),
            // Of IPv4 there is only one way to write an address.
            "IPv6" => address::canonical_ip(given, &path, &mut wrong),
            "FQDN" => domain(given, &path, &mut wrong),
            _ => {}
        }
        if wrong.is_empty() && ["IPv4", "IPv6"].contains(&kind) {
            if given.contains(':') != (kind == "IPv6") {
                wrong.invalid(list, view::quoted(given), &format!("must be an {kind} address"));
            }
            address::endpoint(given, &path, &mut wrong);
        }
        errors.extend(wrong);
    }
    let given = |field| view::get(endpoint, field).and_then(Value::as_str);
    if let Some(node) = given("nodeName") {
        errors.invalid_each(&format!("{path}.nodeName"), node, name::subdomain(node));
    }
    selector::validate_labels(view::map(endpoint, "deprecatedTopology"), &format!("{path}.deprecatedTopology"), errors);
    if let Some(host) = given("hostname") {
        errors.invalid_each(&format!("{path}.hostname"), host, name::label(host));
    }
    for (list, rule) in [("forZones", name::label_value as fn(&str) -> Vec<String>), ("forNodes", name::subdomain)] {
        let path = format!("{path}.hints.{list}");
        let hints = view::list(view::member(endpoint, "hints"), list);
        if hints.len() > HINTS_MAX {
            return errors.too_many(path, hints.len(), HINTS_MAX as u64);
        }
        let mut seen = HashSet::new();
        for (at, hint) in hints.iter().enumerate() {
            let name = view::text(hint, "name");
            if !seen.insert(name) {
                errors.duplicate(format!("{path}[{at}].name"), view::quoted(name));
            }
            errors.invalid_each(&format!("{path}[{at}].name"), name, rule(name));
        }
    }
}
