//! The cluster's certificates while it runs: looked at every minute, made anew before they end, and shown without a restart.

use std::{
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use coracle_apiserver::{CertificateAndKey, Material, Protocol, Serving, authn::Authorities};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use crate::{
    authn::{AuthenticationFlags, read},
    certs::{self, Certificates, Pair},
    files::write_private,
    kubeconfig,
    options::ServerOptions,
    server::chain,
    setup::Setup,
};

/// How often certificates are looked at: a clock that is set right after the start may end them all at once.
const LOOK: Duration = Duration::from_secs(60);

/// Keeps the certificates of a folder.
pub(crate) struct Renewal {
    folder: PathBuf,
    kubeconfig: PathBuf,
    url: String,
    /// The other servers.
    others: RwLock<Vec<String>>,
    names: certs::Names,
    /// What kubeconfigs hold now.
    admin: RwLock<String>,
    to_agents: Arc<Shown>,
    of_agents: Arc<Shown>,
    agent_client: Arc<ClientConfig>,
    agent_server: Arc<ServerConfig>,
}

impl Renewal {
    /// Begins with what [`certs::load_or_make`] found.
    pub(crate) fn new(options: &ServerOptions, setup: &Setup, certificates: &Certificates) -> Result<Self> {
        let to_agents = Arc::new(Shown::new(&certificates.agent_client).context("pki/agent-client.crt")?);
        let of_agents = Arc::new(Shown::new(&certificates.agent_server).context("pki/agent-server.crt")?);
        let mut roots = RootCertStore::empty();
        for authority in chain(&certificates.authority)? {
            roots.add(authority).context("pki/ca.crt")?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
        let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().context("TLS")?;
        let client = client.with_root_certificates(roots.clone()).with_client_cert_resolver(to_agents.clone());
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).allow_unauthenticated().build();
        let serving = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("TLS")?;
        let mut serving = serving.with_client_cert_verifier(clients.context("pki/ca.crt")?).with_cert_resolver(of_agents.clone());
        serving.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            folder: options.data_dir.join("pki"),
            kubeconfig: setup.kubeconfig.clone(),
            url: setup.url(),
            others: RwLock::default(),
            names: setup.names(&options.tls_san),
            admin: RwLock::default(),
            to_agents,
            of_agents,
            agent_client: Arc::new(client),
            agent_server: Arc::new(serving),
        })
    }

    /// TLS with which the API server speaks to node agents.
    pub(crate) fn agent_client(&self) -> Arc<ClientConfig> {
        self.agent_client.clone()
    }

    /// TLS of the node agent's server.
    pub(crate) fn agent_server(&self) -> Arc<ServerConfig> {
        self.agent_server.clone()
    }

    /// TLS of the API server, by the folder's files and those of the flags.
    pub(crate) fn serving(&self, flags: &AuthenticationFlags, protocol: Protocol, authorities: Arc<Authorities>) -> Result<Arc<Serving>> {
        let (folder, flags) = (self.folder.clone(), flags.clone());
        let load = move || -> Result<Material> {
            let own = |name: &str| read("data-dir", &folder.join(name));
            let mut material = Material {
                serving: CertificateAndKey { certificate: own("server.crt")?, key: own("server.key")?, names: Vec::new() },
                others: flags.named_certificates()?,
                client_authorities: own("ca.crt")?,
                proxy_authorities: own("front-proxy-ca.crt")?,
            };
            if let Some(file) = &flags.client_ca_file {
                material.client_authorities.push_str(&read("client-ca-file", file)?);
            }
            if let Some(file) = &flags.requestheader_client_ca_file {
                material.proxy_authorities.push_str(&read("requestheader-client-ca-file", file)?);
            }
            Ok(material)
        };
        Serving::new(Box::new(move || load().map_err(|error| format!("{error:#}"))), protocol, authorities).map_err(|why| anyhow!(why))
    }

    /// Writes the administrator's kubeconfig, if its certificates are others than those written.
    pub(crate) fn write_kubeconfig(&self, certificates: &Certificates) -> Result<()> {
        let mut servers = vec![self.url.clone()];
        servers.extend(self.others.read().unwrap_or_else(std::sync::PoisonError::into_inner).iter().cloned());
        let rendered = kubeconfig::render(&servers, &certificates.authority, &certificates.admin);
        if *self.admin.read().unwrap_or_else(std::sync::PoisonError::into_inner) == rendered {
            return Ok(());
        }
        write_private(&self.kubeconfig, rendered.as_bytes()).context("--kubeconfig")?;
        *self.admin.write().unwrap_or_else(std::sync::PoisonError::into_inner) = rendered;
        Ok(())
    }

    /// Names these servers, too, from now on. `now`: Unix seconds.
    pub(crate) fn know(&self, others: Vec<String>, now: i64) -> Result<()> {
        *self.others.write().unwrap_or_else(std::sync::PoisonError::into_inner) = others;
        self.look(now)
    }

    /// Looks at the certificates until `stop`. The API server's own are files that it looks at itself.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let renewal = self.clone();
            let looked = tokio::task::spawn_blocking(move || renewal.look(jiff::Timestamp::now().as_second())).await;
            if let Ok(Err(error)) = looked {
                tracing::warn!("certificates cannot be renewed: {error:#}");
            }
        }
    }

    /// Makes anew what is near its end, and shows it. `now`: Unix seconds.
    fn look(&self, now: i64) -> Result<()> {
        let certificates = certs::load_or_make(&self.folder, &self.names, now)?;
        self.to_agents.replace(&certificates.agent_client).context("pki/agent-client.crt")?;
        self.of_agents.replace(&certificates.agent_server).context("pki/agent-server.crt")?;
        if self.admin.read().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty() {
            // Nobody was given a kubeconfig: these certificates serve only nodes of this process.
            return Ok(());
        }
        self.write_kubeconfig(&certificates)
    }
}

/// The certificate shown now, by a server or a client.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<(String, Arc<CertifiedKey>)>);

impl Shown {
    pub(crate) fn new(pair: &Pair) -> Result<Self> {
        Ok(Self(RwLock::new((pair.certificate.clone(), certified(pair)?))))
    }

    pub(crate) fn replace(&self, pair: &Pair) -> Result<()> {
        let mut shown = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if shown.0 != pair.certificate {
            *shown = (pair.certificate.clone(), certified(pair)?);
        }
        Ok(())
    }

    fn now(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).1.clone()
    }
}

fn certified(pair: &Pair) -> Result<Arc<CertifiedKey>> {
    let pair = CertificateAndKey { certificate: pair.certificate.clone(), key: pair.key.clone(), names: Vec::new() };
    coracle_apiserver::certified(&pair, &rustls::crypto::ring::default_provider()).map(Arc::new).map_err(|why| anyhow!(why))
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{self, Cidr};

    #[test]
    fn certificates_near_their_end_are_renewed_and_shown_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let range: Cidr = "10.43.0.0/16".parse().unwrap();
        let options = options::for_hollow_nodes(1, folder.path(), "127.0.0.1:6443".parse().unwrap(), Some(range)).unwrap();
        let setup = Setup::new(&options).unwrap();
        let start = 1_800_000_000;
        let made = certs::load_or_make(&folder.path().join("pki"), &setup.names(&[]), start).unwrap();
        let renewal = Renewal::new(&options, &setup, &made).unwrap();
        renewal.write_kubeconfig(&made).unwrap();
        let authorities = Arc::<Authorities>::default();
        renewal.serving(&AuthenticationFlags::default(), Protocol::default(), authorities).unwrap();
        let seen = || (renewal.to_agents.now().cert[0].clone(), renewal.of_agents.now().cert[0].clone());
        let kubeconfig = || std::fs::read_to_string(&setup.kubeconfig).unwrap();
        let (first, file) = (seen(), kubeconfig());
        renewal.look(start + 3600).unwrap();
        assert_eq!((seen(), kubeconfig()), (first.clone(), file.clone()));
        renewal.look(start + 300 * 24 * 3600).unwrap();
        let now = seen();
        assert!(now.0 != first.0 && now.1 != first.1 && kubeconfig() != file);
    }
}
