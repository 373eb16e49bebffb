//! What a load balancer's controller writes into the status of services and ingresses (upstream `ValidateLoadBalancerStatus`,
//! `ValidateIngressLoadBalancerStatus`).

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::{address, view};
use crate::registry::Object;

const PATH: &str = "status.loadBalancer.ingress";

fn points(object: &Object) -> &[Value] {
    view::list(view::member(view::member(object.value(), "status"), "loadBalancer"), "ingress")
}

/// Checks the status of a service: only a load balancer has points of entry.
pub(super) fn of_service(service: &Object, errors: &mut FieldErrors) {
    let all = points(service);
    if service.text("/spec/type") != "LoadBalancer" {
        if !all.is_empty() {
            errors.forbidden(PATH, "may only be used when `spec.type` is 'LoadBalancer'");
        }
        return;
    }
    for (at, point) in all.iter().enumerate() {
        let path = format!("{PATH}[{at}]");
        check_ip(point, &path, errors);
        mode(point, &format!("{path}.ipMode"), errors);
        host(point, &path, errors);
    }
}

/// Checks the status of an ingress.
pub(super) fn of_ingress(ingress: &Object, errors: &mut FieldErrors) {
    for (at, point) in points(ingress).iter().enumerate() {
        let path = format!("{PATH}[{at}]");
        check_ip(point, &path, errors);
        host(point, &path, errors);
    }
}

fn check_ip(point: &Value, path: &str, errors: &mut FieldErrors) {
    let ip = view::text(point, "ip");
    if !ip.is_empty() {
        address::ip(ip, &format!("{path}.ip"), errors);
    }
}

fn mode(point: &Value, path: &str, errors: &mut FieldErrors) {
    let has_ip = !view::text(point, "ip").is_empty();
    match view::get(point, "ipMode").and_then(Value::as_str) {
        None if has_ip => errors.required(path, "must be specified when `ip` is set"),
        None => {}
        Some(_) if !has_ip => errors.forbidden(path, "may not be specified when `ip` is not set"),
        Some("Proxy" | "VIP") => {}
        Some(other) => errors.not_supported(path, view::quoted(other), &["Proxy", "VIP"]),
    }
}

fn host(point: &Value, path: &str, errors: &mut FieldErrors) {
    let host = view::text(point, "hostname");
    if host.is_empty() {
        return;
    }
    let path = format!("{path}.hostname");
    errors.invalid_each(&path, host, name::subdomain(host));
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, view::quoted(host), "must be a DNS name, not an IP address");
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn faults(kind: &str, ingress: &Value) -> Vec<String> {
        let object = Object::new(json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": ingress}}})).unwrap();
        let mut errors = FieldErrors::none();
        of_service(&object, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_a_load_balancer_has_points_of_entry() {
        let said = faults("ClusterIP", &json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
        assert_eq!(said, ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]);
        assert!(faults("LoadBalancer", &json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "lb.example.com"}])).is_empty());
    }

    #[test]
    fn a_mode_belongs_to_an_address() {
        assert_eq!(
            faults("LoadBalancer", &json!([{"ip": "192.0.2.1"}, {"ipMode": "VIP"}, {"hostname": "192.0.2.1"}])),
            [
                "status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set",
                "status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not set",
                "status.loadBalancer.ingress[2].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
            ]
        );
    }
}
