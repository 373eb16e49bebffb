//! What the condition `Available` of an `APIService` should say (kube-aggregator `controllers/status`).

use coracle_tree::Value;

use super::remote::ApiService;
use crate::{
    registry::condition::{self, Condition},
    webhook::ServiceReference,
};

/// A condition in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    /// Of what is served here.
    pub(super) fn local() -> Self {
        Self { status: "True", reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    /// Of another server that answers.
    pub(super) fn passed() -> Self {
        Self { status: "True", reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// Of one that does not.
    pub(super) fn undiscovered(why: String) -> Self {
        Self::missing("FailedDiscoveryCheck", why)
    }

    /// Of one whose service or endpoints cannot be looked at.
    pub(super) fn unknown(reason: &'static str, of: &ServiceReference, why: &str) -> Self {
        let message = format!("service/{} in {:?} cannot be checked due to: {why}", of.name, of.namespace);
        Self { status: "Unknown", reason, message }
    }

    fn missing(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    pub(super) fn is_true(&self) -> bool {
        self.status == "True"
    }

    /// Whether an object says this already.
    pub(super) fn is_said(&self, object: &ApiService) -> bool {
        let same = |c: &Condition| c.status == self.status && c.reason == self.reason && c.message == self.message;
        object.available().is_some_and(same)
    }

    /// Writes it into an object; the time of the last transition moves only with the status.
    pub(super) fn write(&self, object: &mut Value, now: &str) {
        let (kind, status, reason) = ("Available".to_owned(), self.status.to_owned(), self.reason.to_owned());
        condition::set(object, &Condition { kind, status, reason, message: self.message.clone() }, now);
    }
}

/// What speaks against asking a service at all: it or its endpoints are not there.
pub(super) fn absent(of: &ServiceReference, service: Option<&Value>, slices: &[Value]) -> Option<Verdict> {
    let (name, namespace, port) = (&of.name, &of.namespace, of.port.unwrap_or(443));
    let Some(service) = service else {
        return Some(Verdict::missing("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if service["spec"]["type"].as_str().unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(found) = ports.iter().find(|p| p["port"] == port) else {
        return Some(Verdict::missing("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}")));
    };
    let port_name = found["name"].as_str().unwrap_or_default();
    if slices.is_empty() {
        return Some(Verdict::missing("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}")));
    }
    if !slices.iter().any(|slice| is_ready(slice, port_name)) {
        let message = format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
        return Some(Verdict::missing("MissingEndpoints", message));
    }
    None
}

/// Whether a slice has an endpoint that is ready, and this port.
fn is_ready(slice: &Value, port: &str) -> bool {
    let list = |member: &str| slice[member].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = list("endpoints").iter().any(|e| e["conditions"]["ready"] != false);
    ready && list("ports").iter().any(|p| p["name"].as_str() == Some(port) && p["port"].is_number())
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn of() -> ServiceReference {
        ServiceReference { namespace: "ns".into(), name: "api".into(), path: None, port: Some(443) }
    }

    fn reason(service: Option<&Value>, slices: &[Value]) -> (String, String) {
        absent(&of(), service, slices).map(|v| (v.reason.to_owned(), v.message)).unwrap_or_default()
    }

    #[test]
    fn a_service_must_be_there_with_its_port_and_a_ready_endpoint() {
        let service = |port: u16| Some(json!({"spec": {"type": "ClusterIP", "ports": [{"port": port, "name": "https"}]}}));
        let said = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
        assert_eq!(reason(None, &[]), said("ServiceNotFound", "service/api in \"ns\" is not present"));
        assert_eq!(reason(service(80).as_ref(), &[]), said("ServicePortError", "service/api in \"ns\" is not listening on port 443"));
        assert_eq!(reason(service(443).as_ref(), &[]), said("EndpointsNotFound", "cannot find endpointslices for service/api in \"ns\""));
        let slice = |ready: bool, name: &str| json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}], "ports": [{"name": name, "port": 8443}]});
        let missing = said("MissingEndpoints", "endpointslices for service/api in \"ns\" have no addresses with port name \"https\"");
        assert_eq!(reason(service(443).as_ref(), &[slice(false, "https")]), missing);
        assert_eq!(reason(service(443).as_ref(), &[slice(true, "http")]), missing);
        assert_eq!(reason(service(443).as_ref(), &[slice(false, "https"), slice(true, "https")]), said("", ""));
        assert_eq!(reason(Some(&json!({"spec": {"type": "ExternalName"}})), &[]), said("", ""));
    }

    #[test]
    fn the_time_of_a_condition_moves_only_with_its_status() {
        let mut object = json!({"metadata": {"name": "v1.g"}});
        Verdict::undiscovered("a".into()).write(&mut object, "t1");
        Verdict::undiscovered("b".into()).write(&mut object, "t2");
        let condition = &object["status"]["conditions"][0];
        assert_eq!((&condition["lastTransitionTime"], &condition["message"]), (&json!("t1"), &json!("b")));
        Verdict::passed().write(&mut object, "t3");
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "t3");
        assert_eq!(object["status"]["conditions"].as_array().map(Vec::len), Some(1));
        let read = ApiService::read(object.to_string().as_bytes()).unwrap();
        assert!(read.is_available() && Verdict::passed().is_said(&read) && !Verdict::local().is_said(&read));
    }
}
