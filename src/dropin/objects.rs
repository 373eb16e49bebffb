//! Where this kube-apiserver's objects are: in the etcd that `--etcd-servers` names, or in its own memory when that is this binary's own
//! `etcd`, which holds nothing and says so.

use std::time::Duration;

use anyhow::{Context, Result};
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

/// Where objects are.
pub(super) struct Places {
    pub(super) main: Opened,
    /// That of group and resource is elsewhere.
    pub(super) elsewhere: Vec<(String, String, Opened)>,
    /// Held for as long as the memory is used.
    pub(super) sole: Option<Sole>,
}

/// What `--etcd-servers-overrides` says of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Override {
    group: String,
    resource: String,
    servers: Vec<String>,
}

impl Override {
    /// From `GROUP/RESOURCE#URL;URL`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wanted =
            "--etcd-servers-overrides invalid, must be of format: group/resource#servers, where servers are URLs, semicolon separated";
        let (of, servers) = text.split_once('#').filter(|(_, servers)| !servers.contains('#')).context(wanted)?;
        let (group, resource) = of.split_once('/').filter(|(_, resource)| !resource.contains('/')).context(wanted)?;
        let servers = servers.split(';').map(str::to_owned).collect();
        Ok(Self { group: group.to_owned(), resource: resource.to_owned(), servers })
    }
}

/// Opens where objects are. `overrides` are those of `--etcd-servers-overrides`.
pub(super) async fn open(flags: &EtcdFlags, overrides: &[Override]) -> Result<Places> {
    let (servers, until) = (&flags.etcd_servers, Instant::now() + PATIENCE);
    if servers.is_empty() || servers.iter().all(|server| server == MEMORY) || are_ours(servers, until).await {
        let sole = servers.iter().any(|server| server != MEMORY).then(|| Sole::claim(&servers.join(",")));
        let main = Opened::embedded(&embedded::Options::memory(), "objects in memory")?;
        if !overrides.is_empty() {
            tracing::warn!("--etcd-servers-overrides has no effect: objects stay in memory");
        }
        return Ok(Places { main, elsewhere: Vec::new(), sole });
    }
    let patience = until.saturating_duration_since(Instant::now());
    let options = coracle_store::etcd::Options { patience, ..flags.options()? };
    let mut elsewhere = Vec::with_capacity(overrides.len());
    for Override { group, resource, servers } in overrides.iter().cloned() {
        let there = coracle_store::etcd::Options { endpoints: servers, ..options.clone() };
        elsewhere.push((group, resource, Opened::etcd(&there, flags.media()).await.context("--etcd-servers-overrides")?));
    }
    Ok(Places { main: Opened::etcd(&options, flags.media()).await?, elsewhere, sole: None })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_name_a_resource_and_its_servers() {
        let events = Override::parse("/events#http://a:1;https://b:2").unwrap();
        assert_eq!((&*events.group, &*events.resource, events.servers.len()), ("", "events", 2));
        assert_eq!(Override::parse("apps/deployments#http://a:1").unwrap().group, "apps");
        for wrong in ["events#http://a:1", "/events", "a/b/c#http://a:1", "/events#http://a:1#http://b:1"] {
            assert!(Override::parse(wrong).unwrap_err().to_string().contains("must be of format: group/resource#servers"), "{wrong}");
        }
    }
}
