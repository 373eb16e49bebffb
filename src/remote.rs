//! A client of an API server over the network, for commands that ask a running server something.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use http::{Request, header};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, sync::Mutex, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    kubeconfig::{self, Access},
    server,
};

/// How long the server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of the server that was started with a data directory, as its administrator; see [`client`].
pub(crate) async fn administrator(data_dir: &Path, tasks: &mut JoinSet<()>) -> Result<Client> {
    let file = data_dir.join("admin.kubeconfig");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}; is --data-dir the folder the server was started with?", file.display()))?;
    let access = kubeconfig::parse(&text).with_context(|| file.display().to_string())?;
    client(&access, tasks).await
}

/// A client over one connection, which lasts as long as `tasks`, to the first of the servers that takes it.
pub(crate) async fn client(access: &Access, tasks: &mut JoinSet<()>) -> Result<Client> {
    let mut refused = None;
    for server in &access.servers {
        match connect(access, server, tasks).await {
            Ok(client) => return Ok(client),
            Err(error) => refused = Some(refused.map_or_else(|| format!("{error:#}"), |before| format!("{before}; {error:#}"))),
        }
    }
    bail!(refused.unwrap_or_else(|| "no server is named".to_owned()))
}

async fn connect(access: &Access, server: &str, tasks: &mut JoinSet<()>) -> Result<Client> {
    let Access { authority, client, .. } = access;
    let address: http::Uri = server.parse().with_context(|| format!("{server} is not an address"))?;
    let host = address.host().context("the server's address names no host")?.trim_matches(['[', ']']);
    let tls = TlsConnector::from(Arc::new(server::client(authority, client)?));
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host} is no host name"))?;
    let connect = async {
        let stream = TcpStream::connect((host, address.port_u16().unwrap_or(443))).await?;
        tls.connect(name, stream).await
    };
    let stream = timeout(PATIENCE, connect).await.context("no answer").and_then(|stream| Ok(stream?));
    let stream = stream.with_context(|| format!("cannot connect to {server}"))?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection broke");
        }
    });
    let (sender, authority) =
        (Arc::new(Mutex::new(sender)), header::HeaderValue::try_from(address.authority().map_or(host, |a| a.as_str()))?);
    let service = tower::service_fn(move |mut request: Request<Body>| {
        request.headers_mut().insert(header::HOST, authority.clone());
        let sender = Arc::clone(&sender);
        async move { sender.lock().await.send_request(request).await }
    });
    Ok(Client::new(service, "default"))
}
