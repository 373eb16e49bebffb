//! Where a question goes: a URL, or a service (apiserver `util/webhook/client.go`, `util/proxy/proxy.go`).
//!
//! A service is reached at one of its ready endpoints: this server need not stand where cluster IPs lead anywhere. Only a service nobody
//! keeps endpoints of is called at its cluster IP. Either way it is recognised as `NAME.NAMESPACE.svc`.

use std::{net::IpAddr, time::Duration};

use coracle_tree::Value;
use http::Uri;

use super::{ClientConfig, ServiceReference, Way};
use crate::{registry::Reader, wire::Status};

/// Where a question goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `https://host:port`, as configured.
    origin: String,
    /// `host` or `host:port`, as the other side is named to itself.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
    /// The name in its certificate.
    pub(super) name: String,
    host: String,
    port: u16,
    /// Without TLS: only a kubeconfig may lead to such a place.
    pub(super) plain: bool,
    /// The way there.
    pub(super) way: Way,
}

/// An address to dial.
pub(crate) type Address = (String, u16);

/// The address as configured, without the timeout.
pub(super) fn url(config: &ClientConfig) -> String {
    match (&config.url, &config.service) {
        (Some(url), _) => url.clone(),
        (None, Some(service)) => {
            let (name, namespace, port) = (&service.name, &service.namespace, service.port.unwrap_or(443));
            format!("https://{name}.{namespace}.svc:{port}{}", clean(service.path.as_deref().unwrap_or_default()))
        }
        (None, None) => String::new(),
    }
}

/// Whether the webhook stands on this machine.
pub(super) fn is_local(config: &ClientConfig) -> bool {
    let Some(uri) = config.url.as_deref().and_then(|url| url.parse::<Uri>().ok()) else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The path without empty segments and dots (Go's `path.Join`).
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

/// `host:port`, with IPv6 in brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

impl Place {
    /// The place of a webhook, which is told how long it may take; without a time it is one to read at, as it stands in the configuration.
    pub(super) fn of(config: &ClientConfig, timeout: Option<Duration>) -> Result<Self, String> {
        let uri: Uri = url(config).parse().map_err(|e| format!("invalid URL: {e}"))?;
        let host = uri.host().unwrap_or_default();
        let given = uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = match timeout {
            Some(timeout) => format!("{}?timeout={}s", clean(uri.path()), timeout.as_secs()),
            None => uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned(),
        };
        let name = host.trim_matches(['[', ']']).to_owned();
        let plain = uri.scheme_str() == Some("http");
        let (scheme, port) = if plain { ("http", 80) } else { ("https", 443) };
        let port = uri.port_u16().unwrap_or(port);
        let (origin, way) = (format!("{scheme}://{given}"), Way::default());
        Ok(Self { origin, authority: given, path, host: name.clone(), name, port, plain, way })
    }

    /// A path (with its query) at a service.
    pub(super) fn at_service(service: &ServiceReference, path: &str) -> Self {
        let port = service.port.unwrap_or(443);
        let name = format!("{}.{}.svc", service.name, service.namespace);
        let authority = format!("{name}:{port}");
        let (origin, way) = (format!("https://{authority}"), Way::default());
        Self { origin, authority, path: path.to_owned(), host: name.clone(), name, port, plain: false, way }
    }

    /// The whole address, as messages show it.
    pub(super) fn url(&self) -> String {
        format!("{}{}", self.origin, self.path)
    }

    /// Where a redirect leads; the error says that it leads to somebody else.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, String> {
        let uri: Uri = location.parse().map_err(|_| format!("failed to parse Location header {location:?}"))?;
        if uri.authority().is_some_and(|other| *other != self.authority)
            || uri.scheme_str().is_some_and(|scheme| scheme != if self.plain { "http" } else { "https" })
        {
            return Err(format!("redirected to {location:?}: a webhook may not send questions to somebody else"));
        }
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            let folder = self.path.split('?').next().unwrap_or_default().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{path}")
        };
        Ok(Self { path, ..self.clone() })
    }

    /// Addresses to try, in order.
    pub(super) async fn addresses(&self, config: &ClientConfig, reader: Option<&dyn Reader>) -> Result<Vec<Address>, String> {
        match (&config.service, reader) {
            (Some(service), Some(reader)) if config.url.is_none() => endpoints(service, reader).await,
            _ => Ok(vec![(self.host.clone(), self.port)]),
        }
    }
}

/// Where the service's port is answered.
pub(super) async fn endpoints(of: &ServiceReference, reader: &dyn Reader) -> Result<Vec<Address>, String> {
    let found = reader.get("", "services", &of.namespace, &of.name).await.map_err(|s| s.message)?;
    let service: Value = match found {
        Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        None => return Err(format!("service {:?} not found", of.name)),
    };
    let number = of.port.unwrap_or(443);
    if let Some(name) = service.pointer("/spec/externalName").and_then(Value::as_str).filter(|name| !name.is_empty()) {
        return Ok(vec![(name.to_owned(), number)]);
    }
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let Some(port) = ports.into_iter().find(|p| p["port"].as_u64() == Some(u64::from(number))) else {
        return Err(format!("no service port {number} found for service {:?}", of.name));
    };
    let name = port["name"].as_str().unwrap_or_default();
    if let Some(ready) = ready(of, name, reader).await.map_err(|s| s.message)? {
        return if ready.is_empty() { Err(format!("no endpoints available for service {:?}", of.name)) } else { Ok(ready) };
    }
    match service.pointer("/spec/clusterIP").and_then(Value::as_str) {
        None | Some("") => Err(format!("no endpoints available for service {:?}", of.name)),
        Some("None") => Err("cannot route to service with ClusterIP \"None\"".to_owned()),
        Some(ip) => Ok(vec![(ip.to_owned(), number)]),
    }
}

/// The ready endpoints of a named port, from a chosen one on; `None` when nobody keeps any.
async fn ready(of: &ServiceReference, port: &str, reader: &dyn Reader) -> Result<Option<Vec<Address>>, Status> {
    let (mut found, mut kept) = (Vec::new(), false);
    for bytes in reader.list("discovery.k8s.io", "endpointslices", &of.namespace).await? {
        let slice: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != of.name.as_str() {
            continue;
        }
        kept = true;
        let ports = slice["ports"].as_array().into_iter().flatten();
        let number = ports.filter(|p| p["name"].as_str().unwrap_or_default() == port).find_map(|p| p["port"].as_u64());
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        let ready = slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] != false);
        found.extend(ready.filter_map(|e| Some((e["addresses"][0].as_str()?.to_owned(), number))));
    }
    let first = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % found.len().max(1);
    found.rotate_left(first);
    Ok(kept.then_some(found))
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::registry::fake::FakeReader;

    const SECONDS: Duration = Duration::from_secs(10);

    fn config(value: Value) -> ClientConfig {
        coracle_tree::from_value(value).unwrap()
    }

    fn world(endpoints: &Value) -> FakeReader {
        let reader = FakeReader::default();
        let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 9443, "name": "https"}]});
        reader.put("", "services", json!({"metadata": {"name": "hook", "namespace": "ns"}, "spec": spec}));
        if endpoints.is_array() {
            let metadata = json!({"name": "hook-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "hook"}});
            let ports = json!([{"name": "https", "port": 8443}]);
            reader.put("discovery.k8s.io", "endpointslices", json!({"metadata": metadata, "ports": ports, "endpoints": endpoints}));
        }
        reader
    }

    #[tokio::test]
    async fn a_service_is_reached_at_its_ready_endpoints() {
        let config = config(json!({"service": {"namespace": "ns", "name": "hook", "path": "/convert/", "port": 9443}}));
        let place = Place::of(&config, Some(SECONDS)).unwrap();
        assert_eq!(
            (place.name.as_str(), place.authority.as_str(), place.path.as_str()),
            ("hook.ns.svc", "hook.ns.svc:9443", "/convert?timeout=10s")
        );
        let at = async |endpoints: Value| place.addresses(&config, Some(&world(&endpoints) as &dyn Reader)).await;
        let two = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"], "conditions": {}}]);
        assert_eq!(at(two).await, Ok(vec![("10.0.0.2".to_owned(), 8443)]));
        assert_eq!(at(json!([])).await, Err("no endpoints available for service \"hook\"".to_owned()));
        assert_eq!(at(Value::Null).await, Ok(vec![("10.96.0.9".to_owned(), 9443)]));
    }

    #[test]
    fn a_url_keeps_its_host_and_loses_what_go_would_clean_away() {
        let place = Place::of(&config(json!({"url": "https://[::1]:8/a//b/../c/"})), Some(SECONDS)).unwrap();
        assert_eq!(place.url(), "https://[::1]:8/a/c?timeout=10s");
        assert_eq!((place.name.as_str(), place.port), ("::1", 8));
        assert!(is_local(&config(json!({"url": "https://localhost/x"}))) && !is_local(&config(json!({"url": "https://example.com/x"}))));
    }

    #[test]
    fn a_redirect_leads_to_another_path_only() {
        let place = Place::of(&config(json!({"url": "https://h:1/a/b"})), Some(SECONDS)).unwrap();
        assert_eq!(place.redirected("/c?d").unwrap().url(), "https://h:1/c?d");
        assert_eq!(place.redirected("https://h:1/c").unwrap().url(), "https://h:1/c");
        assert!(place.redirected("https://169.254.169.254/").is_err());
        assert!(place.redirected("http://h:1/c").is_err());
    }
}
