//! Services: types, ports, addresses that stay (upstream `apis/core/validation`, `registry/core/service`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name, selector};
use coracle_tree::{Value, json};

use super::{address, load_balancer, pod, view};
use crate::registry::{Object, Part, Policy, Rules};

/// Longest session affinity: a day.
const AFFINITY_SECONDS: i64 = 86_400;
const AFFINITY_DEFAULT: i64 = 10_800;

/// Rules of `services`.
pub(super) struct Service {
    /// The family of services that do not say, and then the other.
    pub(super) families: [&'static str; 2],
}

impl Rules for Service {
    fn policy(&self) -> Policy {
        Policy::CREATING
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.ipFamilies", "spec.ipFamilyPolicy"]
    }

    fn default(&self, object: &mut Object) {
        let is_balancer = object.text("/spec/type") == "LoadBalancer";
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        match view::text(spec, "sessionAffinity") {
            "None" => drop(view::remove(spec, "sessionAffinityConfig")),
            "ClientIP" if spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").is_none_or(Value::is_null) => {
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": AFFINITY_DEFAULT}});
            }
            _ => {}
        }
        for port in view::items_mut(spec, "ports") {
            let target = view::member(port, "targetPort");
            if (target.is_null() || target == 0 || target == "") && port.is_object() {
                port["targetPort"] = view::member(port, "port").clone();
            }
        }
        if is_external(spec) && view::text(spec, "externalTrafficPolicy").is_empty() {
            spec["externalTrafficPolicy"] = "Cluster".into();
        }
        if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&view::text(spec, "type")) {
            view::set_absent(spec, "internalTrafficPolicy", "Cluster");
        }
        if is_balancer {
            view::set_absent(spec, "allocateLoadBalancerNodePorts", true);
        }
        if let Some(balancer) = view::message_mut(object.value_mut(), "status").and_then(|s| view::message_mut(s, "loadBalancer")) {
            for ingress in view::items_mut(balancer, "ingress").filter(|i| is_balancer && !view::text(i, "ip").is_empty()) {
                view::set_absent(ingress, "ipMode", "VIP");
            }
        }
    }

    fn begin(&self, new: &mut Object, old: Option<&Object>) {
        let before = old.map(|old| view::member(old.value(), "spec"));
        let Some(spec) = view::message_mut(new.value_mut(), "spec") else { return };
        // What is left out is filled in first, so that a change of one of the two address fields is told from silence.
        if let Some(before) = before {
            keep_allocated(spec, before);
        }
        agree_cluster_ips(spec, before);
    }

    fn claimable(&self, new: &Object, old: Option<&Object>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let before = old.map(|old| view::member(old.value(), "spec"));
        addresses(view::member(new.value(), "spec"), before, &mut errors);
        errors
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        if part != Part::Whole {
            return;
        }
        let drops_status = new.text("/spec/type") != "LoadBalancer" && old.is_some();
        let Some(spec) = view::message_mut(new.value_mut(), "spec") else { return };
        if let Some(old) = old {
            drop_unneeded(spec, view::member(old.value(), "spec"));
        }
        // Upstream keeps the policy of an old default and never tells it; one that does not exist is still refused.
        if !needs_cluster_ip(spec) && ["Cluster", "Local"].contains(&view::text(spec, "internalTrafficPolicy")) {
            view::remove(spec, "internalTrafficPolicy");
        }
        if drops_status && let Some(status) = view::message_mut(new.value_mut(), "status") {
            status["loadBalancer"] = json!({});
        }
    }

    fn complete_old(&self, object: &mut Object) {
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        if !needs_cluster_ip(spec) {
            view::remove(spec, "internalTrafficPolicy");
            return;
        }
        agree_cluster_ips(spec, None);
        if !view::list(spec, "ipFamilies").is_empty() {
            return;
        }
        let headless = view::text(spec, "clusterIP") == "None";
        // Without selector nobody knows of which family the endpoints are.
        let families: Vec<&str> = match headless {
            true if view::map(spec, "selector").is_empty() => self.families.to_vec(),
            true => vec![self.families[0]],
            false => view::texts(spec, "clusterIPs").map(|ip| if ip.contains(':') { "IPv6" } else { "IPv4" }).collect(),
        };
        if !families.is_empty() {
            let policy = if families.len() == 1 { "SingleStack" } else { "RequireDualStack" };
            spec["ipFamilies"] = families.into();
            spec["ipFamilyPolicy"] = policy.into();
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            load_balancer::of_service(new, &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let before = old.map(|old| view::member(old.value(), "spec"));
        topology(new, &mut errors);
        let mut clusters = FieldErrors::none();
        addresses(spec, before, &mut clusters);
        if let Some(before) = before {
            stays(spec, before, &mut errors);
        }
        by_type(spec, &mut errors);
        ports(spec, &mut errors);
        selector::validate_labels(view::map(spec, "selector"), "spec.selector", &mut errors);
        affinity(spec, &mut errors);
        errors.extend(clusters);
        for (at, ip) in view::texts(spec, "externalIPs").enumerate() {
            let (path, mut wrong) = (format!("spec.externalIPs[{at}]"), FieldErrors::none());
            if !before.is_some_and(|before| view::texts(before, "externalIPs").any(|known| known == ip)) {
                address::ip(ip, &path, &mut wrong);
            }
            if wrong.is_empty() {
                address::endpoint(ip, &path, &mut wrong);
            }
            errors.extend(wrong);
        }
        kind(spec, &mut errors);
        repeated_ports(spec, old.is_none(), &mut errors);
        balancer(new, old, &mut errors);
        traffic(spec, &mut errors);
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        warnings(new)
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = view::member(object, "spec");
        vec![("spec.clusterIP", view::text(spec, "clusterIP").to_owned()), ("spec.type", view::text(spec, "type").to_owned())]
    }
}

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// What works, but not for long or not as meant (`GetWarningsForService`).
fn warnings(service: &Object) -> Vec<String> {
    let spec = view::member(service.value(), "spec");
    let named = view::text(spec, "type") == "ExternalName";
    let headless = is_headless(spec);
    let external = !view::list(spec, "externalIPs").is_empty();
    let name = !view::text(spec, "externalName").is_empty();
    let affinity = !matches!(view::text(spec, "sessionAffinity"), "" | "None");
    let close = view::text(spec, "trafficDistribution") == "PreferClose";
    let all = [
        (
            service.annotation(HINTS).is_some(),
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
        ),
        (headless && !view::text(spec, "loadBalancerIP").is_empty(), "spec.loadBalancerIP is ignored for headless services"),
        (headless && external, "spec.externalIPs is ignored for headless services"),
        (headless && affinity, "spec.SessionAffinity is ignored for headless services"),
        (external && !headless && !named, "spec.externalIPs is deprecated and may no longer be implemented in some clusters"),
        (named && external, "spec.externalIPs is ignored when spec.type is \"ExternalName\""),
        (!named && name, "spec.externalName is ignored when spec.type is not \"ExternalName\""),
        (close, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""),
    ];
    all.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text.to_owned()).collect()
}

fn needs_cluster_ip(spec: &Value) -> bool {
    view::text(spec, "type") != "ExternalName"
}

/// Whether ports of nodes may lead to the service: what it has of them stays its own.
fn needs_node_ports(spec: &Value) -> bool {
    ["NodePort", "LoadBalancer"].contains(&view::text(spec, "type"))
}

/// Whether ports of nodes are chosen for it.
fn is_given_node_ports(spec: &Value) -> bool {
    needs_node_ports(spec) && spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false)
}

fn needs_health_port(spec: &Value) -> bool {
    view::text(spec, "type") == "LoadBalancer" && view::text(spec, "externalTrafficPolicy") == "Local"
}

/// Reachable from outside the cluster.
fn is_external(spec: &Value) -> bool {
    ["NodePort", "LoadBalancer"].contains(&view::text(spec, "type"))
        || (view::text(spec, "type") == "ClusterIP" && !view::list(spec, "externalIPs").is_empty())
}

fn is_headless(spec: &Value) -> bool {
    view::texts(spec, "clusterIPs").eq(["None"]) || view::text(spec, "clusterIP") == "None"
}

/// `clusterIP` is the first of `clusterIPs`; a writer who knows only one of them means both (upstream `NormalizeClusterIPs`).
fn agree_cluster_ips(spec: &mut Value, before: Option<&Value>) {
    let (one, all) = (view::text(spec, "clusterIP").to_owned(), view::member(spec, "clusterIPs").clone());
    let is_empty = all.as_array().is_none_or(Vec::is_empty);
    match before {
        None if !one.is_empty() && is_empty => spec["clusterIPs"] = json!([one]),
        None => {}
        // A writer that knows only the first address and leaves it as it is leaves the others, too.
        Some(before) if one == view::text(before, "clusterIP") && is_empty => copy(spec, before, "clusterIPs"),
        Some(before) if one != view::text(before, "clusterIP") && &all == view::member(before, "clusterIPs") => {
            if one.is_empty() {
                view::remove(spec, "clusterIPs");
            } else {
                spec["clusterIPs"] = json!([one]);
            }
        }
        Some(_) => {}
    }
}

/// What was allocated stays when the writer leaves it out (upstream `patchAllocatedValues`).
fn keep_allocated(spec: &mut Value, before: &Value) {
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        for field in ["clusterIP", "clusterIPs"] {
            let empty = view::text(spec, field).is_empty() && view::list(spec, field).is_empty();
            if let Some(value) = view::get(before, field).filter(|_| empty) {
                spec[field] = value.clone();
            }
        }
    }
    if is_given_node_ports(before) && is_given_node_ports(spec) {
        let ports = |spec: &Value| view::list(spec, "ports").iter().filter_map(|p| view::int(p, "nodePort")).collect::<HashSet<_>>();
        let both: HashSet<i64> = ports(before).intersection(&ports(spec)).copied().collect();
        for port in view::items_mut(spec, "ports").filter(|p| view::int(p, "nodePort").unwrap_or_default() == 0) {
            let same = view::list(before, "ports").iter().find(|p| view::text(p, "name") == view::text(port, "name"));
            if let Some(number) = same.and_then(|p| view::int(p, "nodePort")).filter(|n| *n != 0 && !both.contains(n)) {
                port["nodePort"] = number.into();
            }
        }
    }
    if needs_health_port(before) && needs_health_port(spec) && view::int(spec, "healthCheckNodePort").unwrap_or_default() == 0 {
        copy(spec, before, "healthCheckNodePort");
    }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    if let Some(value) = view::get(from, field) {
        to[field] = value.clone();
    }
}

/// What no longer applies after a change of type goes, unless the writer changed it as well (upstream `dropTypeDependentFields`).
fn drop_unneeded(spec: &mut Value, before: &Value) {
    let drop_same = |spec: &mut Value, fields: &[&str]| {
        if fields.iter().all(|field| view::get(spec, field) == view::get(before, field)) {
            fields.iter().for_each(|field| drop(view::remove(spec, field)));
        }
    };
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        drop_same(spec, &["clusterIP", "clusterIPs"]);
        drop_same(spec, &["ipFamilies"]);
        drop_same(spec, &["ipFamilyPolicy"]);
    }
    if needs_node_ports(before) && !needs_node_ports(spec) {
        let numbers = |spec: &Value| view::list(spec, "ports").iter().filter_map(|p| view::int(p, "nodePort")).collect::<HashSet<_>>();
        // Ports may come and go, as long as none asks for a new number.
        if numbers(spec).is_subset(&numbers(before)) {
            view::items_mut(spec, "ports").for_each(|port| drop(view::remove(port, "nodePort")));
        }
    }
    if needs_health_port(before) && !needs_health_port(spec) {
        drop_same(spec, &["healthCheckNodePort"]);
    }
    if view::text(before, "type") == "LoadBalancer" && view::text(spec, "type") != "LoadBalancer" {
        drop_same(spec, &["allocateLoadBalancerNodePorts"]);
        drop_same(spec, &["loadBalancerClass"]);
    }
    if is_external(before) && !is_external(spec) {
        drop_same(spec, &["externalTrafficPolicy"]);
    }
}

fn by_type(spec: &Value, errors: &mut FieldErrors) {
    let kind = view::text(spec, "type");
    if view::list(spec, "ports").is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            errors.invalid("spec.clusterIPs[0]", "\"None\"", &format!("may not be set to 'None' for {kind} services"));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies"] {
                if !view::list(spec, field).is_empty() {
                    errors.forbidden(format!("spec.{field}"), "may not be set for ExternalName services");
                }
            }
            if view::get(spec, "ipFamilyPolicy").is_some() {
                errors.forbidden("spec.ipFamilyPolicy", "may not be set for ExternalName services");
            }
            match view::text(spec, "externalName").trim_end_matches('.') {
                "" => errors.required("spec.externalName", ""),
                host => errors.invalid_each("spec.externalName", host, name::subdomain(host)),
            }
        }
        _ => {}
    }
}

fn ports(spec: &Value, errors: &mut FieldErrors) {
    let list = view::list(spec, "ports");
    let mut names = HashSet::new();
    for (at, port) in list.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        let name = view::text(port, "name");
        if name.is_empty() && list.len() > 1 {
            errors.required(format!("{path}.name"), "");
        } else if !name.is_empty() {
            errors.invalid_each(&format!("{path}.name"), name, name::label(name));
            if !names.insert(name) {
                errors.duplicate(format!("{path}.name"), view::quoted(name));
            }
        }
        let number = view::int(port, "port").unwrap_or_default();
        for message in name::port_number(number) {
            errors.invalid(format!("{path}.port"), number, &message);
        }
        pod::port_or_name(view::member(port, "targetPort"), &format!("{path}.targetPort"), errors);
        if let Some(application) = view::get(port, "appProtocol").and_then(Value::as_str) {
            errors.invalid_each(&format!("{path}.appProtocol"), application, name::qualified(application));
        }
    }
}

fn kind(spec: &Value, errors: &mut FieldErrors) {
    const KINDS: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    let kind = view::text(spec, "type");
    if !KINDS.contains(&kind) {
        errors.not_supported("spec.type", view::quoted(kind), &KINDS);
    }
}

/// Numbers that two ports have; those of nodes come with the number of another port (`initNodePorts`) when the service `is_new`.
fn repeated_ports(spec: &Value, is_new: bool, errors: &mut FieldErrors) {
    let list = view::list(spec, "ports");
    let (of_node, number) =
        (|p: &Value| view::int(p, "nodePort").unwrap_or_default(), |p: &Value| view::int(p, "port").unwrap_or_default());
    let is_inner = view::text(spec, "type") == "ClusterIP";
    for (at, _) in list.iter().enumerate().filter(|(_, port)| is_inner && of_node(port) != 0) {
        errors.forbidden(format!("spec.ports[{at}].nodePort"), "may not be used when `type` is 'ClusterIP'");
    }
    let shared = |port: &Value| match of_node(port) {
        0 if is_new && is_given_node_ports(spec) => list.iter().find(|p| number(p) == number(port) && of_node(p) != 0).map_or(0, of_node),
        node => node,
    };
    let (mut node_ports, mut pairs) = (HashSet::new(), HashSet::new());
    for (at, port) in list.iter().enumerate() {
        let node = shared(port);
        if node != 0 && !node_ports.insert((view::text(port, "protocol"), node)) {
            errors.duplicate(format!("spec.ports[{at}].nodePort"), node);
        }
    }
    for (at, port) in list.iter().enumerate() {
        let (protocol, number) = (view::text(port, "protocol"), number(port));
        if !pairs.insert((protocol, number)) {
            // As upstream prints its internal type.
            let shown = format!(r#"{{"Name":"","Protocol":{protocol:?},"AppProtocol":null,"Port":{number},"TargetPort":0,"NodePort":0}}"#);
            errors.duplicate(format!("spec.ports[{at}]"), shown);
        }
    }
}

fn affinity(spec: &Value, errors: &mut FieldErrors) {
    let config = view::get(spec, "sessionAffinityConfig");
    let seconds = config.and_then(|c| c.pointer("/clientIP/timeoutSeconds")).and_then(Value::as_i64);
    match (view::text(spec, "sessionAffinity"), config) {
        ("None", Some(_)) => errors.forbidden("spec.sessionAffinityConfig", "must not be set when session affinity is None"),
        ("ClientIP", _) => {
            if let Some(seconds) = seconds.filter(|s| !(1..=AFFINITY_SECONDS).contains(s)) {
                let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS}");
                errors.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, &detail);
            }
        }
        _ => {}
    }
}

/// The service's own addresses and their families (`ValidateServiceClusterIPsRelatedFields`).
fn addresses(spec: &Value, before: Option<&Value>, errors: &mut FieldErrors) {
    const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if !needs_cluster_ip(spec) {
        return;
    }
    let (one, all): (&str, Vec<&str>) = (view::text(spec, "clusterIP"), view::texts(spec, "clusterIPs").collect());
    let shown = view::member(spec, "clusterIPs");
    match (one, all.first()) {
        ("", Some(_)) => errors.invalid("spec.clusterIPs", shown, "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required("spec.clusterIPs", ""),
        (one, Some(first)) if one != *first => errors.invalid("spec.clusterIPs", shown, "first value must match `clusterIP`"),
        _ => {}
    }
    let mut seen = HashSet::new();
    for (at, family) in view::texts(spec, "ipFamilies").enumerate() {
        if !FAMILIES.contains(&family) {
            errors.not_supported(format!("spec.ipFamilies[{at}]"), view::quoted(family), &FAMILIES);
        }
        if !seen.insert(family) {
            errors.duplicate(format!("spec.ipFamilies[{at}]"), view::quoted(family));
        }
    }
    if let Some(policy) = view::get(spec, "ipFamilyPolicy").and_then(Value::as_str).filter(|policy| !POLICIES.contains(policy)) {
        errors.not_supported("spec.ipFamilyPolicy", view::quoted(policy), &POLICIES);
    }
    let had: Vec<&str> = before.into_iter().flat_map(|before| view::texts(before, "clusterIPs")).collect();
    let mut wrong = FieldErrors::none();
    for (at, ip) in all.iter().enumerate() {
        if at == 0 && *ip == "None" {
            if all.len() > 1 {
                wrong.invalid("spec.clusterIPs", shown, "'None' must be the first and only value");
            }
        } else if !had.contains(ip) {
            address::ip(ip, &format!("spec.clusterIPs[{at}]"), &mut wrong);
        }
    }
    let stop = !wrong.is_empty();
    errors.extend(wrong);
    if all.len() > 2 {
        errors.invalid("spec.clusterIPs", shown, "may only hold up to 2 values");
    }
    if stop {
        return;
    }
    if all.len() > 1 && (all.iter().any(|ip| ip.contains(':')) == all.iter().all(|ip| ip.contains(':'))) {
        errors.invalid("spec.clusterIPs", shown, "may specify no more than one IP for each IP family");
    }
    for (at, family) in view::texts(spec, "ipFamilies").enumerate().filter(|(_, family)| FAMILIES.contains(family)) {
        if let Some(ip) = all.get(at).filter(|ip| **ip != "None" && ip.contains(':') != (family == "IPv6")) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
            errors.invalid(format!("spec.clusterIPs[{at}]"), view::quoted(ip), &detail);
        }
    }
}

/// What only load balancers have.
/// The older of two annotations may say nothing else than the newer.
fn topology(service: &Object, errors: &mut FieldErrors) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    if let (Some(mode), Some(hints)) = (service.annotation(MODE), service.annotation(HINTS))
        && mode != hints
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(format!("metadata.annotations[{MODE}]"), view::quoted(mode), &detail);
    }
}

/// Who may use a load balancer: a field, or where that is empty an annotation.
fn source_ranges(service: &Object, old: Option<&Object>, errors: &mut FieldErrors) {
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let spec = view::member(service.value(), "spec");
    let is_balancer = view::text(spec, "type") == "LoadBalancer";
    if !view::list(spec, "loadBalancerSourceRanges").is_empty() {
        if !is_balancer {
            errors.forbidden("spec.LoadBalancerSourceRanges", ONLY);
        }
        let before = old.map(|old| view::member(old.value(), "spec"));
        let known: Vec<&str> = before.into_iter().flat_map(|spec| view::texts(spec, "loadBalancerSourceRanges")).map(str::trim).collect();
        for (at, range) in view::texts(spec, "loadBalancerSourceRanges").enumerate() {
            address::cidr(range.trim(), &known, &format!("spec.LoadBalancerSourceRanges[{at}]"), errors);
        }
    } else if let Some(ranges) = service.annotation(RANGES) {
        let path = format!("metadata.annotations[{RANGES}]");
        if !is_balancer {
            errors.forbidden(path.clone(), ONLY);
        }
        if old.and_then(|old| old.annotation(RANGES)) != Some(ranges) && !ranges.trim().is_empty() {
            for range in ranges.trim().split(',') {
                address::cidr(range.trim(), &[], &path, errors);
            }
        }
    }
}

fn balancer(service: &Object, old: Option<&Object>, errors: &mut FieldErrors) {
    let spec = view::member(service.value(), "spec");
    let is_balancer = view::text(spec, "type") == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    source_ranges(service, old, errors);
    if is_balancer {
        if let Some(class) = view::get(spec, "loadBalancerClass").and_then(Value::as_str) {
            errors.invalid_each("spec.loadBalancerClass", class, name::qualified(class));
        }
        return;
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if view::get(spec, field).is_some() {
            errors.forbidden(format!("spec.{field}"), only);
        }
    }
}

fn traffic(spec: &Value, errors: &mut FieldErrors) {
    let policy = view::text(spec, "externalTrafficPolicy");
    if !is_external(spec) && !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid("spec.externalTrafficPolicy", view::quoted(policy), detail);
    }
    let health = view::int(spec, "healthCheckNodePort").unwrap_or_default();
    if needs_health_port(spec) && health != 0 {
        for message in name::port_number(health) {
            errors.invalid("spec.healthCheckNodePort", health, &message);
        }
    } else if health != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid("spec.healthCheckNodePort", health, detail);
    }
    if let Some(distribution) = view::get(spec, "trafficDistribution").and_then(Value::as_str) {
        let allowed = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        if !allowed.contains(&distribution) {
            errors.not_supported("spec.trafficDistribution", view::quoted(distribution), &allowed);
        }
    }
}

/// What may not change once it is set.
fn stays(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        addresses_stay(spec, before, errors);
        families_stay(spec, before, errors);
    }
    if view::text(before, "type") == "LoadBalancer" && view::text(spec, "type") == "LoadBalancer" {
        let (now, then) = (view::get(spec, "loadBalancerClass"), view::get(before, "loadBalancerClass"));
        if now != then {
            errors.invalid("spec.loadBalancerClass", now.unwrap_or(&Value::Null), "may not change once set");
        }
    }
    if needs_health_port(before) && needs_health_port(spec) {
        let number = |spec: &Value| view::int(spec, "healthCheckNodePort").unwrap_or_default();
        if number(before) != number(spec) {
            errors.forbidden("spec.healthCheckNodePort", "field is immutable");
        }
    }
}

/// A second address may come and go, the first stays (`validateUpgradeDowngradeClusterIPs`).
fn addresses_stay(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    if is_headless(spec) && is_headless(before) {
        return;
    }
    let shown = view::member(spec, "clusterIPs");
    let (now, then): (Vec<&str>, Vec<&str>) = (view::texts(spec, "clusterIPs").collect(), view::texts(before, "clusterIPs").collect());
    let changed = now.iter().zip(&then).enumerate().filter(|(_, (now, then))| now != then).map(|(at, _)| at);
    for at in changed.filter(|at| *at == 0 || now.len() == then.len()) {
        errors.invalid(format!("spec.clusterIPs[{at}]"), shown, "may not change once set");
    }
    if now.len() >= then.len() {
        return;
    }
    if now.is_empty() {
        errors.invalid("spec.clusterIPs[0]", shown, "primary clusterIP can not be unset");
    }
    released_alone(spec, now.len(), "clusterIP", errors);
}

/// The same of families (`validateUpgradeDowngradeIPFamilies`).
fn families_stay(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    if is_headless(spec) || is_headless(before) {
        return;
    }
    let (now, then): (Vec<&str>, Vec<&str>) = (view::texts(spec, "ipFamilies").collect(), view::texts(before, "ipFamilies").collect());
    // Of families that are not as many as before, upstream shows the addresses.
    let shown = view::member(spec, if now.len() == then.len() { "ipFamilies" } else { "clusterIPs" });
    let changed = now.iter().zip(&then).enumerate().filter(|(_, (now, then))| now != then);
    for _ in changed.filter(|(at, _)| *at == 0 || now.len() == then.len()) {
        errors.invalid("spec.ipFamilies[0]", shown, "may not change once set");
    }
    if now.len() >= then.len() {
        return;
    }
    if view::list(spec, "clusterIPs").is_empty() {
        errors.invalid("spec.ipFamilies[0]", view::member(spec, "ipFamilies"), "primary ipFamily can not be unset");
    }
    released_alone(spec, now.len(), "ipFamily", errors);
}

fn released_alone(spec: &Value, left: usize, what: &str, errors: &mut FieldErrors) {
    if left == 1 && view::text(spec, "ipFamilyPolicy") != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        errors.invalid("spec.ipFamilyPolicy", view::member(spec, "ipFamilyPolicy"), &detail);
    }
}
