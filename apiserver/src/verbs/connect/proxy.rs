//! `proxy` of pods, services and nodes: the rest of the path is asked of the object itself.

use std::{net::IpAddr, sync::Arc, time::Duration};

use coracle_store::cache::{Freshness, Snapshot};
use coracle_tree::Value;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;

use super::agent::{Over, Target, kept, passed_on};
use crate::{
    registry::{
        Kind, Object,
        claims::Family,
        items::{self, Facts},
        names, storage,
    },
    verbs::{Api, Call},
    wire::{Answer, Body, Status, answer},
};

/// How long the name of a node's machine may take to be looked up.
const LOOKUP: Duration = Duration::from_secs(5);

/// `name`, `name:port` or `scheme:name:port` of a proxy request.
#[derive(Debug, PartialEq, Eq)]
struct Address<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

/// Passes the request on.
pub(super) async fn proxy(api: &Api, call: Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let rest = after_proxy(call.uri.path(), kind.is_namespaced());
    let address = Address::parse(&call.info.name)
        .ok_or_else(|| Status::bad_request(format!("invalid {} request {:?}", kind.singular, call.info.name)))?;
    let target = target(api, &call, kind, &address).await?;
    if rest.is_empty() && matches!(call.method, Method::GET | Method::HEAD) {
        return Ok(to_directory(&call));
    }
    let path = if rest.is_empty() { "/" } else { rest };
    let uri = call.uri.query().map_or_else(|| path.to_owned(), |q| format!("{path}?{q}"));
    let mut request = Request::builder().method(call.method.clone()).uri(uri);
    if let Some(headers) = request.headers_mut() {
        headers.clone_from(&call.headers);
        crate::authn::bearer::remove(headers);
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    let request = request.body(Full::new(call.body)).map_err(|e| Status::internal(e.to_string()))?;
    let said = api.agents.send(&target, request).await;
    let said = said.map_err(|why| Status::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}")))?;
    let (parts, body) = said.into_parts();
    let mut made = http::Response::new(passed_on(body));
    *made.status_mut() = parts.status;
    *made.headers_mut() = kept(&parts.headers);
    Ok(made)
}

/// What follows `/api/v1[/namespaces/NAMESPACE]/RESOURCE/NAME/proxy`, escaped as it came, with its slash.
fn after_proxy(path: &str, namespaced: bool) -> &str {
    let before = if namespaced { 7 } else { 5 };
    path.match_indices('/').nth(before).map_or("", |(at, _)| &path[at..])
}

/// Relative links of the page behind need a directory's address.
fn to_directory(call: &Call) -> Answer {
    let query = call.uri.query().map_or_else(String::new, |q| format!("?{q}"));
    let mut made = answer::bytes(StatusCode::MOVED_PERMANENTLY, "text/plain", Body::empty());
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", call.uri.path())) {
        made.headers_mut().insert(header::LOCATION, location);
    }
    made
}

impl<'a> Address<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] if matches!(*scheme, "" | "http" | "https") => (*scheme, *name, *port),
            _ => return None,
        };
        names::subdomain(name).is_empty().then_some(Self { scheme, name, port })
    }
}

async fn target(api: &Api, call: &Call, kind: &Arc<Kind>, address: &Address<'_>) -> Result<Target, Status> {
    let found = api.storage.read(kind, call.namespace_of(kind), address.name, Freshness::Latest).await?;
    let object = found.ok_or_else(|| Status::not_found(kind.subject(address.name)))?.object;
    match &*kind.id.resource {
        "nodes" => {
            let agent = Target::of_node(&object)?;
            check_host(&agent.host).await?;
            match address.port {
                "" => Ok(agent),
                port if port == agent.port.to_string() => Ok(agent),
                port => Ok(Target { host: agent.host, port: number(port)?, over: Over::of(address.scheme) }),
            }
        }
        "services" => of_service(api, &object, address).await,
        _ => of_pod(&object, address),
    }
}

/// What is said of places no proxy leads to.
const NOT_ALLOWED: &str = "address not allowed";

/// Whether a proxy may lead there: neither to this machine nor to its neighbours, whom nobody else reaches (Go's `IsGlobalUnicast`).
fn is_reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_broadcast() || v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()),
    }
}

/// Every address of a node's name must be one that proxies may lead to.
async fn check_host(host: &str) -> Result<(), Status> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let lookup = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host, 0))).await;
            let found = lookup.map_err(|_| Status::bad_request(format!("lookup {host}: i/o timeout")))?;
            found.map_err(|e| Status::bad_request(format!("lookup {host}: {e}")))?.map(|address| address.ip()).collect()
        }
    };
    match found.is_empty() {
        true => Err(Status::bad_request("no addresses for hostname")),
        false if found.into_iter().all(is_reachable) => Ok(()),
        false => Err(Status::bad_request(NOT_ALLOWED)),
    }
}

fn of_pod(pod: &Object, address: &Address<'_>) -> Result<Target, Status> {
    let host = pod.text("/status/podIP");
    if !host.parse().is_ok_and(is_reachable) {
        return Err(Status::bad_request(NOT_ALLOWED));
    }
    let containers = pod.value().pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let port = match address.port {
        "" => ports.find_map(|p| p["containerPort"].as_u64()).and_then(|p| u16::try_from(p).ok()).unwrap_or(80),
        text => match ports.find(|p| p["name"] == text).and_then(|p| p["containerPort"].as_u64()) {
            Some(port) => u16::try_from(port).unwrap_or(80),
            None => number(text)?,
        },
    };
    Ok(Target { host: host.to_owned(), port, over: Over::of(address.scheme) })
}

/// The pods there are, to know whose an address is.
struct Pods<'a> {
    kind: &'a Kind,
    snapshot: Snapshot<Facts>,
}

impl Pods<'_> {
    /// The endpoint's address, if it is one of the pod it names. Slices are written by people, too: other addresses lead to where nobody was
    /// let in (`isValidAddress` of `core/service/storage/storage.go`).
    fn address(&self, endpoint: &Value, namespace: &str) -> Option<String> {
        let (pod, address) = (&endpoint["targetRef"], endpoint["addresses"][0].as_str()?);
        if pod["namespace"] != namespace || !address.parse().is_ok_and(is_reachable) {
            return None;
        }
        let key = self.kind.key(namespace, pod["name"].as_str()?)?;
        let pod = storage::parse(self.kind, &self.snapshot.get(key.as_str())?.wire()).ok()?;
        let mut own = pod.value().pointer("/status/podIPs")?.as_array()?.iter();
        own.any(|own| own["ip"] == address).then(|| address.to_owned())
    }
}

/// A ready endpoint of the service's port.
async fn of_service(api: &Api, service: &Object, address: &Address<'_>) -> Result<Target, Status> {
    let none = || Status::unavailable(format!("no endpoints available for service {:?}", service.name()));
    let ports = service.value().pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let wanted = ports.iter().find(|p| match address.port {
        "" => true,
        text => p["name"] == text || p["port"].as_u64().map(|n| n.to_string()).as_deref() == Some(text),
    });
    let wanted =
        wanted.ok_or_else(|| Status::unavailable(format!("no service port {:?} found for service {:?}", address.port, service.name())))?;
    let name = wanted["name"].as_str().unwrap_or_default();
    let catalog = api.storage.catalog();
    let kind = catalog.get("discovery.k8s.io", "v1", "endpointslices").ok_or_else(none)?;
    let snapshot = api.storage.collection(kind)?.snapshot(Freshness::Latest).await.map_err(storage::read_error)?;
    let pods = catalog.get("", "v1", "pods").ok_or_else(none)?;
    let pods = Pods { kind: pods, snapshot: api.storage.collection(pods)?.snapshot(Freshness::Latest).await.map_err(storage::read_error)? };
    let mut found = Vec::new();
    for cached in snapshot.range(&kind.list_prefix(service.namespace()), None) {
        if items::label(cached, "kubernetes.io/service-name") != Some(service.name()) {
            continue;
        }
        let slice = storage::parse(kind, &cached.wire())?;
        let ports = slice.value()["ports"].as_array().into_iter().flatten();
        let Some(port) = ports.filter(|p| p["name"].as_str().unwrap_or_default() == name).find_map(|p| p["port"].as_u64()) else {
            continue;
        };
        let ready = slice.value()["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] != false);
        found.extend(ready.filter_map(|endpoint| pods.address(endpoint, service.namespace())).map(|host| (host, port)));
    }
    prefer(&mut found, api.claims.ranges().addresses.family());
    let pick = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % found.len().max(1);
    let (host, port) = found.into_iter().nth(pick).ok_or_else(none)?;
    Ok(Target { host, port: u16::try_from(port).map_err(|_| none())?, over: Over::of(address.scheme) })
}

/// Leaves the addresses of the cluster's first family, where there are any: this server is sure to have one of it, too.
fn prefer(found: &mut Vec<(String, u64)>, first: Family) {
    let is_of_first = |(host, _): &(String, u64)| host.parse().is_ok_and(|address| Family::of(address) == first);
    if found.iter().any(is_of_first) {
        found.retain(is_of_first);
    }
}

fn number(text: &str) -> Result<u16, Status> {
    text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_path_is_passed_on_whatever_the_names_are() {
        assert_eq!(after_proxy("/api/v1/namespaces/proxy/pods/proxy/proxy/a/b%2Fc", true), "/a/b%2Fc");
        assert_eq!(after_proxy("/api/v1/nodes/n/proxy/", false), "/");
        assert_eq!(after_proxy("/api/v1/nodes/n/proxy", false), "");
    }

    #[test]
    fn proxies_lead_neither_to_this_machine_nor_to_its_neighbours() {
        for no in [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_reachable(no.parse().unwrap()), "{no}");
        }
        for yes in ["10.42.0.7", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(is_reachable(yes.parse().unwrap()), "{yes}");
        }
    }

    #[test]
    fn a_service_is_reached_in_the_clusters_first_family_if_it_can_be() {
        let left = |first: Family, hosts: &[&str]| {
            let mut found: Vec<(String, u64)> = hosts.iter().map(|host| ((*host).to_owned(), 80)).collect();
            prefer(&mut found, first);
            found.into_iter().map(|(host, _)| host).collect::<Vec<_>>()
        };
        let both = ["10.1.0.1", "fd00::1", "10.1.0.2"];
        assert_eq!((left(Family::Six, &both), left(Family::Four, &both).len()), (vec!["fd00::1".to_owned()], 2));
        assert_eq!(left(Family::Six, &["10.1.0.1"]), ["10.1.0.1"]);
    }

    #[tokio::test]
    async fn a_node_whose_name_leads_to_this_machine_is_not_proxied() {
        assert_eq!(check_host("localhost").await.unwrap_err().message, NOT_ALLOWED);
        assert_eq!(check_host("127.0.0.1").await.unwrap_err().code, 400);
        assert!(check_host("192.0.2.1").await.is_ok());
    }

    #[test]
    fn the_name_may_carry_scheme_and_port() {
        let address = |scheme, name, port| Some(Address { scheme, name, port });
        assert_eq!(Address::parse("web"), address("", "web", ""));
        assert_eq!(Address::parse("web:http"), address("", "web", "http"));
        assert_eq!(Address::parse("https:web:443"), address("https", "web", "443"));
        assert_eq!(Address::parse("ftp:web:21"), None);
        assert_eq!(Address::parse("../x"), None);
    }
}
