//! Servers under measurement: the finished binary, and kube-apiserver with etcd where `LAB` names a folder with them in `bin/`.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Access, Client};

/// The longest wait for a server to become ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// The finished binary.
pub const CORACLE: &str = env!("CARGO_BIN_EXE_coracle");

/// What is started.
#[derive(Clone)]
pub enum Program {
    /// This project's binary with these flags.
    Own(Vec<String>),
    /// kube-apiserver, with these flags more, and etcd from this folder.
    Peer(PathBuf, Vec<String>),
}

/// A running server in a folder of its own.
pub struct Server {
    folder: TempDir,
    program: Program,
    processes: Vec<Child>,
    pub access: Access,
    pub ready_after: Duration,
}

/// The folder of the peers' binaries, if they are there.
pub fn peers() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("LAB")?).join("bin");
    ["etcd", "kube-apiserver"].iter().all(|name| folder.join(name).is_file()).then_some(folder)
}

impl Server {
    pub async fn start(program: Program) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let access = match &program {
            Program::Own(_) => {
                Access { address: free_address()?, authority: String::new(), certificate: String::new(), key: String::new() }
            }
            Program::Peer(..) => certificates(folder.path())?,
        };
        let mut server = Self { folder, program, processes: Vec::new(), access, ready_after: Duration::ZERO };
        server.spawn().await?;
        Ok(server)
    }

    /// Ends it and starts it again on what it left.
    pub async fn restart(&mut self) -> Result<()> {
        self.end();
        self.spawn().await
    }

    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.access).await
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn spawn(&mut self) -> Result<()> {
        let folder = self.folder.path().to_owned();
        let start = Instant::now();
        match self.program.clone() {
            Program::Own(flags) => {
                let kubeconfig = folder.join("admin.kubeconfig");
                let _ = std::fs::remove_file(&kubeconfig);
                let mut command = Command::new(CORACLE);
                command.arg("server").arg("--data-dir").arg(&folder).arg(format!("--listen={}", self.access.address)).args(flags);
                self.run(command)?;
                while !kubeconfig.exists() {
                    patience(start).await?;
                }
                self.access = read_kubeconfig(&kubeconfig, self.access.address)?;
            }
            Program::Peer(binaries, flags) => {
                let etcd = free_address()?;
                self.run(etcd_command(&binaries, &folder, etcd)?)?;
                let mut apiserver = apiserver_command(&binaries, &folder, etcd, self.access.address);
                apiserver.args(&flags);
                self.run(apiserver)?;
            }
        }
        loop {
            let ready = async { self.client().await?.get("/readyz").await };
            if ready.await.is_ok_and(|text| &*text == b"ok") {
                break;
            }
            patience(start).await?;
        }
        self.ready_after = start.elapsed();
        Ok(())
    }

    fn run(&mut self, mut command: Command) -> Result<()> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.processes.push(child.with_context(|| format!("{}", command.get_program().display()))?);
        Ok(())
    }

    /// CPU seconds used so far.
    pub fn cpu(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for process in &self.processes {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
            ticks += number(11) + number(12);
        }
        Ok(ticks / 100.0)
    }

    /// Of all memory that is mapped.
    pub fn resident_mib(&self) -> Result<f64> {
        self.sum("status", "VmRSS", 1024.0)
    }

    /// What of memory is its own, and its part of what it shares.
    pub fn pss_mib(&self) -> Result<f64> {
        self.sum("smaps_rollup", "Pss", 1024.0)
    }

    /// KiB that were written to disk so far.
    pub fn written_kib(&self) -> Result<f64> {
        self.sum("io", "write_bytes", 1024.0)
    }

    /// A figure of all processes, divided.
    fn sum(&self, file: &str, name: &str, by: f64) -> Result<f64> {
        self.processes.iter().map(|process| Ok(figure(process.id(), file, name)? / by)).sum()
    }

    /// The last one started first, so that nobody loses what it stands on.
    fn end(&mut self) {
        for mut process in self.processes.drain(..).rev() {
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// `name: 123` in a file of a process.
pub fn figure(pid: u32, file: &str, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()).with_context(|| format!("no {name}"))?;
    Ok(number.parse()?)
}

async fn patience(since: Instant) -> Result<()> {
    if since.elapsed() > PATIENCE {
        bail!("the server is not ready after {PATIENCE:?}");
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn read_kubeconfig(file: &Path, address: SocketAddr) -> Result<Access> {
    let config: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    let pem = |at: &str| -> Result<String> {
        let text = config.pointer(at).and_then(Value::as_str).with_context(|| format!("the kubeconfig lacks {at}"))?;
        Ok(String::from_utf8(STANDARD.decode(text)?)?)
    };
    Ok(Access {
        address,
        authority: pem("/clusters/0/cluster/certificate-authority-data")?,
        certificate: pem("/users/0/user/client-certificate-data")?,
        key: pem("/users/0/user/client-key-data")?,
    })
}

/// What kube-apiserver needs to be asked over TLS as an administrator, in files of `folder`.
fn certificates(folder: &Path) -> Result<Access> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "bench");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let issue = |name: &str, group: &str, usage: ExtendedKeyUsagePurpose| -> Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &authority)?.pem(), key.serialize_pem()))
    };
    let (served, served_key) = issue("kube-apiserver", "bench", ExtendedKeyUsagePurpose::ServerAuth)?;
    let (certificate, key) = issue("admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth)?;
    let accounts = KeyPair::generate()?;
    for (name, text) in [
        ("ca.crt", authority.pem()),
        ("serving.crt", served),
        ("serving.key", served_key),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
    ] {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(Access { address: free_address()?, authority: authority.pem(), certificate, key })
}

fn etcd_command(binaries: &Path, folder: &Path, listen: SocketAddr) -> Result<Command> {
    let (url, peer) = (format!("http://{listen}"), format!("http://{}", free_address()?));
    let mut command = Command::new(binaries.join("etcd"));
    command.arg("--data-dir").arg(folder.join("etcd")).args(["--name=a", &format!("--initial-cluster=a={peer}")]);
    command.args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")]);
    command.args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")]);
    Ok(command)
}

fn apiserver_command(binaries: &Path, folder: &Path, etcd: SocketAddr, listen: SocketAddr) -> Command {
    let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
    let mut command = Command::new(binaries.join("kube-apiserver"));
    command.args([
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", listen.ip()),
        format!("--secure-port={}", listen.port()),
        file("client-ca-file", "ca.crt"),
        file("tls-cert-file", "serving.crt"),
        file("tls-private-key-file", "serving.key"),
        file("service-account-key-file", "accounts.pub"),
        file("service-account-signing-key-file", "accounts.key"),
    ]);
    command.args([
        "--advertise-address=192.0.2.1",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
    ]);
    command
}
