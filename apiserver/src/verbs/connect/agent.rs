//! Requests to node agents and to pods: one connection each.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_tree::{Value, json};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::{BodyStream, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig,
    client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName},
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::{
    registry::Object,
    webhook::{Bundle, Io, Way, words},
    wire::{Body, Status},
};

/// Time to reach an agent and shake hands.
const DIAL: Duration = Duration::from_secs(10);

/// The port of a node agent that does not tell its own.
const AGENT_PORT: u16 = 10250;

/// How node agents are reached, and pods.
pub struct Agents {
    verified: Option<Arc<ClientConfig>>,
    unverified: Option<Arc<ClientConfig>>,
    anyone: Option<Arc<ClientConfig>>,
    way: Way,
}

/// What is spoken to the other side, and whom it is believed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// HTTP.
    Plain,
    /// TLS with a node agent, which is verified and sees the server's client certificate.
    Agent,
    /// The same, but whoever asks does not care who the agent is.
    Unverified,
    /// TLS with a pod or a port of a node: nobody knows its certificate, and it sees none of ours.
    Anyone,
}

impl Over {
    /// As the scheme of an address says.
    pub fn of(scheme: &str) -> Self {
        if scheme == "https" { Self::Anyone } else { Self::Plain }
    }
}

/// TLS with node agents that one of these authorities signed, or, as upstream without `--kubelet-certificate-authority`, with anybody; with
/// the server's own certificate, if it has one.
pub fn agent_tls(
    authorities: Option<Vec<CertificateDer<'static>>>,
    own: Option<Arc<dyn ResolvesClientCert>>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let believe = Arc::new(match authorities {
        Some(authorities) => Bundle::new(authorities, provider.clone())?,
        None => Bundle::anyone(&provider),
    });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let config = config.dangerous().with_custom_certificate_verifier(believe);
    let mut config = match own {
        Some(own) => config.with_client_cert_resolver(own),
        None => config.with_no_client_auth(),
    };
    // A resumed session stands for the certificate it began with, which may have been replaced since.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What is spoken there.
    pub over: Over,
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
        Ok(Self { host: host.to_owned(), port, over: Over::Agent })
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
    /// With the TLS of the server's client side, by a way; without one no agent can be reached.
    pub(crate) fn new(verified: Option<Arc<ClientConfig>>, way: Way) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let believe: Arc<dyn ServerCertVerifier> = Arc::new(Bundle::anyone(&provider));
        let unverified = verified.as_ref().map(|verified| {
            let mut config = ClientConfig::clone(verified);
            config.dangerous().set_certificate_verifier(believe.clone());
            Arc::new(config)
        });
        let anyone = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok();
        let anyone = anyone.map(|config| Arc::new(config.dangerous().with_custom_certificate_verifier(believe).with_no_client_auth()));
        Self { verified, unverified, anyone, way }
    }

    /// Sends a request; the path and query of `uri` count, headers that are not for the other side are taken out.
    /// The error is what Go's transport says.
    pub async fn send(&self, target: &Target, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        for name in HOP {
            request.headers_mut().remove(name);
        }
        let others: Vec<HeaderName> = request.headers().keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
        for name in others {
            request.headers_mut().remove(name);
        }
        let authority = target.authority();
        let host = authority.parse().map_err(|_| format!("{authority:?} is no address"))?;
        request.headers_mut().insert(header::HOST, host);
        let late = || format!("dial tcp {authority}: i/o timeout");
        let dialled = timeout(DIAL, async { self.secure(self.way.dial(&target.host, target.port).await?, target).await });
        let io = dialled.await.unwrap_or_else(|_| Err(late()))?;
        exchange(io, request).await.map_err(|why| words::sending(&why))
    }

    async fn secure(&self, stream: Box<dyn Io>, target: &Target) -> Result<Box<dyn Io>, String> {
        let config = match target.over {
            Over::Plain => return Ok(stream),
            Over::Agent => self.verified.clone(),
            Over::Unverified => self.unverified.clone().or_else(|| self.anyone.clone()),
            Over::Anyone => self.anyone.clone(),
        };
        let config = config.ok_or("this server does not know the authority of node agents")?;
        let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| words::handshake(&e))?;
        Ok(Box::new(stream))
    }
}

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
const TEXT: usize = 50_000;

/// What an agent says went wrong with a part of a pod, as a status (`GenericHttpResponseChecker`).
pub(super) async fn failure(answer: Response<Incoming>, part: &str, pod: &str) -> Status {
    let code = answer.status().as_u16();
    let mut frames = BodyStream::new(answer.into_body());
    let mut text = Vec::new();
    while let Some(Ok(frame)) = frames.next().await
        && text.len() < TEXT
    {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    text.truncate(TEXT);
    refused(code, String::from_utf8_lossy(&text).into_owned(), part, pod)
}

fn refused(code: u16, text: String, part: &str, pod: &str) -> Status {
    match code {
        400 => Status::bad_request(text),
        500 => Status::internal(text),
        other => {
            let (reason, message) = words::generic(other, &text);
            let resource = format!("pods/{part}");
            let details = json!({"name": pod, "kind": resource});
            Status { details, ..Status::new(other, reason, format!("{message} ( {resource} {pod})")) }
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
    use coracle_tree::json;

    use super::*;

    #[test]
    fn an_agent_is_where_its_node_says() {
        let node = json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10255}},
        }});
        let target = Target::of_node(&Object::new(node).unwrap()).unwrap();
        assert_eq!(target, Target { host: "10.0.0.7".into(), port: 10255, over: Over::Agent });
        assert_eq!((Over::of("https"), Over::of("")), (Over::Anyone, Over::Plain));
        let bare = Object::new(json!({"metadata": {"name": "n"}})).unwrap();
        assert!(Target::of_node(&bare).unwrap_err().message.contains("no preferred addresses found for node \"n\""));
    }

    #[test]
    fn what_an_agent_refuses_is_told_as_upstream_tells_it() {
        for (code, reason, message) in [
            (400, "BadRequest", "what it said"),
            (401, "Unauthorized", "the server has asked for the client to provide credentials ( pods/log p)"),
            (403, "Forbidden", "what it said ( pods/log p)"),
            (404, "NotFound", "the server could not find the requested resource ( pods/log p)"),
            (418, "", "the server responded with the status code 418 but did not return more information ( pods/log p)"),
            (500, "InternalError", "Internal error occurred: what it said"),
            (502, "InternalError", "an error on the server (\"what it said\") has prevented the request from succeeding ( pods/log p)"),
        ] {
            let told = refused(code, "what it said".to_owned(), "log", "p");
            assert_eq!((told.code, told.reason, told.message.as_str()), (code, reason, message));
        }
    }
}
