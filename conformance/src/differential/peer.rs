//! kube-apiserver and etcd in a folder of their own.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::http::{Connection, Server};

/// How long upstream may take to be ready; it is slow on small machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is compared, and what it is compared with.
#[derive(Args)]
pub(crate) struct Programs {
    /// The binary under test.
    #[arg(long, value_name = "FILE", default_value = "target/release/coracle")]
    binary: PathBuf,
    /// kube-apiserver of the same version.
    #[arg(long, value_name = "FILE")]
    peer: PathBuf,
    /// etcd.
    #[arg(long, value_name = "FILE")]
    etcd: PathBuf,
}

impl Programs {
    /// The binary, kube-apiserver and etcd, if all are there.
    pub(crate) fn find(&self) -> Result<[PathBuf; 3]> {
        Ok([there("binary", &self.binary)?, there("peer", &self.peer)?, there("etcd", &self.etcd)?])
    }
}

/// The whole path of a file that a flag names.
pub(crate) fn there(flag: &str, file: &Path) -> Result<PathBuf> {
    file.canonicalize().with_context(|| format!("--{flag}: {} is not there", file.display()))
}

/// A running kube-apiserver with its etcd; both end when dropped.
pub(crate) struct Peer {
    folder: TempDir,
    /// etcd, then the API server.
    children: Vec<Child>,
    /// Of etcd.
    store: SocketAddr,
    address: SocketAddr,
    credentials: Credentials,
}

/// A client certificate of an administrator, and who vouches for it; all PEM.
struct Credentials {
    authority: String,
    chain: String,
    key: String,
}

impl Credentials {
    fn new(user: &str) -> Result<Self> {
        let own = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "differential");
        let authority = params.self_signed(&own)?.pem();
        let issuer = Issuer::new(params, own);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(Self { authority, chain: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
    }
}

impl Peer {
    /// Starts both; [`Peer::ready`] waits.
    pub(crate) fn start(apiserver: &Path, etcd: &Path, user: &str) -> Result<Self> {
        let mut peer = Self::with_etcd(etcd, user)?;
        peer.serve(apiserver)?;
        Ok(peer)
    }

    /// Starts the etcd alone.
    pub(crate) fn with_etcd(etcd: &Path, user: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = |name: &str| folder.path().join(name);
        let credentials = Credentials::new(user)?;
        std::fs::write(file("clients.crt"), &credentials.authority)?;
        let key = KeyPair::generate()?;
        std::fs::write(file("accounts.key"), key.serialize_pem())?;
        std::fs::write(file("accounts.pub"), key.public_key_pem())?;
        let [client, peers, secure] = [free()?, free()?, free()?];
        let mut peer = Self { store: client, address: secure, children: Vec::new(), folder, credentials };
        let dir = peer.folder.path().to_owned();
        let at = |name: &str| dir.join(name).display().to_string();
        peer.spawn(
            etcd,
            &[
                format!("--data-dir={}", at("etcd")),
                "--unsafe-no-fsync".into(),
                format!("--listen-client-urls=http://{client}"),
                format!("--advertise-client-urls=http://{client}"),
                format!("--listen-peer-urls=http://{peers}"),
                format!("--initial-advertise-peer-urls=http://{peers}"),
                format!("--initial-cluster=default=http://{peers}"),
            ],
        )?;
        Ok(peer)
    }

    /// Starts an API server on the etcd.
    pub(crate) fn serve(&mut self, apiserver: &Path) -> Result<()> {
        let dir = self.folder.path().to_owned();
        let at = |name: &str| dir.join(name).display().to_string();
        self.spawn(
            apiserver,
            &[
                format!("--etcd-servers=http://{}", self.store),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=192.0.2.1".into(),
                format!("--secure-port={}", self.address.port()),
                "--service-cluster-ip-range=10.43.0.0/16".into(),
                "--authorization-mode=Node,RBAC".into(),
                "--enable-admission-plugins=NodeRestriction".into(),
                "--allow-privileged=true".into(),
                format!("--cert-dir={}", at("certificates")),
                format!("--client-ca-file={}", at("clients.crt")),
                format!("--service-account-key-file={}", at("accounts.pub")),
                format!("--service-account-signing-key-file={}", at("accounts.key")),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            ],
        )
    }

    /// Ends the API server as a supervisor does, and leaves etcd; how it ended.
    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        // The first is etcd.
        let mut server = (self.children.len() > 1).then(|| self.children.pop()).flatten().context("no API server runs")?;
        Command::new("kill").args(["-TERM", &server.id().to_string()]).status().context("kill")?;
        let start = Instant::now();
        loop {
            if let Some(status) = server.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                server.kill()?;
                server.wait()?;
                bail!("the API server does not end");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn spawn(&mut self, program: &Path, flags: &[String]) -> Result<()> {
        let log = std::fs::File::create(self.folder.path().join(format!("{}.log", self.children.len())))?;
        let child = Command::new(program).args(flags).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.children.push(child.with_context(|| format!("cannot start {}", program.display()))?);
        Ok(())
    }

    /// Waits until it answers as ready.
    pub(crate) async fn ready(&mut self) -> Result<Arc<Server>> {
        let authority = self.folder.path().join("certificates/apiserver.crt");
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for (at, child) in self.children.iter_mut().enumerate() {
                if let Some(status) = child.try_wait()? {
                    let log = std::fs::read_to_string(self.folder.path().join(format!("{at}.log")))?;
                    bail!("the peer ended with {status}: {}", log.lines().last().unwrap_or_default());
                }
            }
            if authority.exists()
                && let Ok(server) =
                    Server::new(self.address, &std::fs::read(&authority)?, &self.credentials.chain, &self.credentials.key).map(Arc::new)
                && Connection::new(&server).get("/readyz").await.code == 200
            {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("the peer is not ready after {PATIENCE:?}")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
