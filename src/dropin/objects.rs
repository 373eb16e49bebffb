//! Where this kube-apiserver's objects are: in the etcd that `--etcd-servers` names, or in its own memory when that is this binary's own
//! `etcd`, which holds nothing and says so.

use std::time::Duration;

use anyhow::{Result, bail};
use coracle_store::embedded;
use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::sole::Sole;
use crate::{etcd::EtcdFlags, store::Opened};

/// What our own `etcd` says it is.
pub(super) const OURS: &str = "coracle";
/// Objects are in memory, and there is no etcd beside.
const MEMORY: &str = "memory";
/// An answer may take so long, and so long it is waited for that anybody answers.
const ANSWER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);

/// Opens where objects are. `overrides` are those of `--etcd-servers-overrides`.
pub(super) async fn open(flags: &EtcdFlags, overrides: &[String]) -> Result<(Opened, Option<Sole>)> {
    let (servers, until) = (&flags.etcd_servers, Instant::now() + PATIENCE);
    if servers.is_empty() || servers.iter().all(|server| server == MEMORY) || are_ours(servers, until).await {
        let sole = servers.iter().any(|server| server != MEMORY).then(|| Sole::claim(&servers.join(",")));
        return Ok((Opened::embedded(&embedded::Options::memory(), "objects in memory")?, sole));
    }
    if let Some(given) = overrides.first() {
        bail!("--etcd-servers-overrides={given}: this kube-apiserver keeps all objects in one etcd; its objects would not be found");
    }
    let patience = until.saturating_duration_since(Instant::now());
    Ok((Opened::etcd(&coracle_store::etcd::Options { patience, ..flags.options()? }, flags.media()).await?, None))
}

/// Whether it is our own `etcd` that answers. While nobody does, one may be about to start.
async fn are_ours(servers: &[String], until: Instant) -> bool {
    let plain: Vec<&str> = servers.iter().filter_map(|server| server.strip_prefix("http://")).collect();
    if plain.len() < servers.len() {
        return false;
    }
    while Instant::now() < until {
        for server in &plain {
            if let Ok(Some(says)) = timeout(ANSWER, name(server.trim_end_matches('/'))).await {
                return says == OURS;
            }
        }
        sleep(AGAIN).await;
    }
    false
}

/// The name of the server at an address, empty when it has none; `None`: nobody is there.
async fn name(address: &str) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    let spoken = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let speaking = tokio::spawn(connection);
        let request = Request::get("/version").header(header::HOST, address).body(Empty::<Bytes>::new()).ok()?;
        let answer = sender.send_request(request).await.ok();
        speaking.abort();
        let named = answer?.headers().get(header::SERVER)?.to_str().ok()?.to_owned();
        Some(named)
    };
    Some(spoken.await.unwrap_or_default())
}
