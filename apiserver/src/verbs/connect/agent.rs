//! Requests to node agents and to pods: one connection each.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::{BodyExt, BodyStream, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::{
    registry::Object,
    wire::{Body, Status},
};

/// Time to reach an agent and shake hands.
const DIAL: Duration = Duration::from_secs(10);

/// The port of a node agent that does not tell its own.
const AGENT_PORT: u16 = 10250;

/// How node agents are reached.
pub struct Agents {
    tls: Option<Arc<ClientConfig>>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS with the server's client certificate.
    pub tls: bool,
}

/// Headers that are between us and one side only.
const HOP: [HeaderName; 6] =
    [header::AUTHORIZATION, header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::PROXY_AUTHORIZATION, header::TE];

impl Target {
    /// The agent of a node: its internal address and the port it tells.
    pub fn of_node(node: &Object) -> Result<Self, Status> {
        let addresses = node.value().pointer("/status/addresses").and_then(Value::as_array);
        let find = |of: &str| addresses.into_iter().flatten().find(|a| a["type"] == of).and_then(|a| a["address"].as_str());
        let host = ["InternalIP", "InternalDNS", "Hostname", "ExternalIP", "ExternalDNS"].into_iter().find_map(find);
        let host =
            host.ok_or_else(|| Status::internal(format!("no preferred addresses found for node {:?}; known addresses: []", node.name())))?;
        let port = node.value().pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
        let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(AGENT_PORT);
        Ok(Self { host: host.to_owned(), port, tls: true })
    }

    /// `host:port`, as in a URL.
    pub fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl Agents {
    /// With the TLS of the server's client side; without one no agent can be reached.
    pub fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        Self { tls }
    }

    /// Sends a request; the path and query of `uri` count, headers that are not for the other side are taken out.
    pub async fn send(&self, target: &Target, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Status> {
        for name in HOP {
            request.headers_mut().remove(name);
        }
        let others: Vec<HeaderName> = request.headers().keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
        for name in others {
            request.headers_mut().remove(name);
        }
        let authority = target.authority();
        let host = authority.parse().map_err(|_| Status::internal(format!("{authority:?} is no address")))?;
        request.headers_mut().insert(header::HOST, host);
        let failed = |why: &dyn std::fmt::Display| Status::internal(format!("error dialing backend: dial tcp {authority}: {why}"));
        match timeout(DIAL, self.dial(target)).await {
            Ok(Ok(io)) => exchange(io, request).await.map_err(|e| failed(&e)),
            Ok(Err(why)) => Err(failed(&why)),
            Err(_) => Err(failed(&"i/o timeout")),
        }
    }

    async fn dial(&self, target: &Target) -> Result<Box<dyn Io>, String> {
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|e| e.to_string())?;
        let _ = stream.set_nodelay(true);
        if !target.tls {
            return Ok(Box::new(stream));
        }
        let config = self.tls.clone().ok_or("this server has no client certificate for node agents")?;
        let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())?;
        Ok(Box::new(stream))
    }
}

/// A connection.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn exchange(io: Box<dyn Io>, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    // Ends with the answer's body, or with the tunnel.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "connection to an agent ended");
        }
    });
    sender.send_request(request).await
}

/// The body of another's answer as ours.
pub(super) fn passed_on(body: Incoming) -> Body {
    let frames = BodyStream::new(body).filter_map(|frame| async { frame.ok()?.into_data().ok() });
    Body::stream(frames.boxed())
}

/// At most so much of an agent's error text is read.
const TEXT: usize = 4096;

/// What an agent says went wrong, as a status (`GenericHttpResponseChecker`).
pub(super) async fn failure(answer: Response<Incoming>) -> Status {
    let code = answer.status().as_u16();
    let limited = http_body_util::Limited::new(answer.into_body(), TEXT);
    let text = limited.collect().await.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    match code {
        400 => Status::bad_request(text),
        404 => Status::new(404, "NotFound", format!("the server could not find the requested resource ( {text})")),
        500 => Status::internal(text),
        other => {
            Status::new(other, "InternalError", format!("an error on the server ({text:?}) has prevented the request from succeeding"))
        }
    }
}

/// Headers of another's answer that are for our client, too.
pub(super) fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in [header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::CONNECTION] {
        kept.remove(name);
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_is_where_its_node_says() {
        let node = json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10255}},
        }});
        let target = Target::of_node(&Object::new(node).unwrap()).unwrap();
        assert_eq!(target, Target { host: "10.0.0.7".into(), port: 10255, tls: true });
        let bare = Object::new(json!({"metadata": {"name": "n"}})).unwrap();
        assert!(Target::of_node(&bare).unwrap_err().message.contains("no preferred addresses found for node \"n\""));
    }
}
