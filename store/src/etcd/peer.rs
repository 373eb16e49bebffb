//! A real etcd for tests: the program in `$ETCD`, or `etcd` of the path. One that is not there is a failure, for what is not tested is
//! not known to work.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

use super::{Etcd, Options};
use crate::Store;

/// A running etcd of one member. Ends with this value.
pub(crate) struct Peer {
    process: Child,
    pub(crate) folder: TempDir,
    pub(crate) url: String,
    peer_port: u16,
    pub(crate) more: Vec<String>,
}

impl Peer {
    /// Starts one; `more` are flags beside those that say where it listens and keeps its data.
    pub(crate) fn start(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (client, peer) = free_ports();
        let scheme = if more.iter().any(|flag| flag.starts_with("--cert-file")) { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{client}");
        let more: Vec<String> = more.iter().map(|flag| (*flag).to_owned()).collect();
        Self { process: run(&folder.path().join("data"), &url, peer, &more), folder, url, peer_port: peer, more }
    }

    /// Kills it as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on what it has, or on other data.
    pub(crate) fn restart(&mut self, data: &str) {
        self.process = run(&self.folder.path().join(data), &self.url, self.peer_port, &self.more);
    }

    /// How to reach it: each test has all of it, without compaction that nobody asked for.
    pub(crate) fn options(&self) -> Options {
        Options {
            root: String::new(),
            prefix: "/test".to_owned(),
            compact_every: Duration::ZERO,
            patience: Duration::from_secs(60),
            ..Options::new(vec![self.url.clone()])
        }
    }

    pub(crate) async fn open(&self) -> Arc<Etcd> {
        Arc::new(Etcd::open(&self.options()).await.unwrap())
    }
}

/// A store over an etcd of its own.
pub(crate) async fn fresh() -> (Arc<dyn Store>, Peer) {
    // Values as large as the store takes them, and what surrounds them.
    let peer = Peer::start(&["--max-request-bytes=4194304"]);
    (peer.open().await, peer)
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Two ports nobody has at the moment.
pub(crate) fn free_ports() -> (u16, u16) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [client, peer] = listeners.map(|listener| listener.local_addr().unwrap().port());
    (client, peer)
}

fn program() -> PathBuf {
    std::env::var_os("ETCD").map_or_else(|| "etcd".into(), PathBuf::from)
}

/// Another program of the same folder: etcdctl.
pub(crate) fn beside(name: &str) -> PathBuf {
    program().parent().filter(|folder| folder.join(name).exists()).map_or_else(|| name.into(), |folder| folder.join(name))
}

fn run(data: &Path, url: &str, peer: u16, more: &[String]) -> Child {
    let peer = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new(program());
    command.args([format!("--data-dir={}", data.display()), "--name=test".to_owned(), "--logger=zap".to_owned()]);
    command.args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")]);
    command.args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")]);
    command.arg(format!("--initial-cluster=test={peer}")).args(more);
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    started.unwrap_or_else(|error| {
        let hint = "install the Debian package etcd-server (`deploy/needs.sh etcd-server:etcd`) or name a program in $ETCD";
        panic!("the tests of the etcd store need etcd, and {} cannot be started ({error}): {hint}", program().display())
    })
}
