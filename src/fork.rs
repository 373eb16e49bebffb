//! `coracle fork`: a second cluster that begins with everything a first one holds, for trying something out, and forgets it at the end.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use coracle_store::{Expect, Key, Page, Store, Write};
use serde_json::Value;

use crate::{
    commands::say,
    files, lock,
    options::{self, Part, ServerOptions, default_data_dir, store_dir},
    server,
    snapshot::{self, PKI},
};

/// Folder of the forks of a data directory, in it.
const FORKS: &str = "forks";
/// Where a cluster says whom its server calls.
const CALLED: [&str; 3] = [
    "/registry/mutatingwebhookconfigurations/",
    "/registry/validatingwebhookconfigurations/",
    "/registry/apiregistration.k8s.io/apiservices/",
];

/// Flags of `coracle fork`.
#[derive(Args, Debug)]
#[command(after_help = "\
The copy is made beside the running server, which neither waits for it nor
learns of it. The fork has a port and a kubeconfig of its own; whoever could
sign in before can sign in to it with the same certificate or token, at its
address. It runs no containers and reaches no node agent: pods are objects in
it, `kubectl exec` and `logs` lead nowhere. Webhooks and aggregated API
servers are left out, so that nothing outside is called. Everything in it is
in memory and gone when it ends (Ctrl-C).

  coracle fork
      then, elsewhere, with the KUBECONFIG it prints:
  kubectl apply -f upgrade.yaml
      what would the admission chain say?
  coracle fork --with controllers,scheduler
      what would the controllers do?
  coracle fork --snapshot FILE
      is this snapshot good?
  coracle fork -- --log info
      what stands behind -- is for the fork's server")]
pub(crate) struct ForkOptions {
    /// Folder of the cluster to be copied, as its server was started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,
    /// Begin with what this snapshot holds, of this program or of etcd, instead of a data directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// Address and port of the fork; port 0 picks a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: std::net::SocketAddr,
    /// Write the fork's kubeconfig here. Default: in a folder of the fork, which it prints.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Run these in the fork, too. Controllers see that nobody answers for the nodes: after a while these are not ready, and pods are evicted.
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    pub(crate) with: Vec<Part>,
    /// Keep webhooks and aggregated API servers: requests to the fork call those of the real cluster.
    #[arg(long)]
    pub(crate) keep_webhooks: bool,
    /// End after this many seconds. Default: when told to.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) seconds: Option<u64>,
    /// More flags of `coracle server`, behind `--`.
    #[arg(last = true, value_name = "FLAGS")]
    pub(crate) server: Vec<String>,
}

/// What a server has to know of being one.
#[derive(Clone, Debug)]
pub(crate) struct Fork {
    /// The store it begins with.
    pub(crate) of: PathBuf,
    pub(crate) keep_webhooks: bool,
    /// How long it goes on, if not until it is told to stop.
    pub(crate) lifetime: Option<Duration>,
}

/// `coracle fork`
pub(crate) fn run(options: &ForkOptions, started: Instant) -> Result<()> {
    let folder = match &options.snapshot {
        Some(file) => {
            let folder = Folder::make(&options.data_dir)?;
            snapshot::unpack(&folder.path, file)?;
            folder
        }
        None => {
            if !store_dir(&options.data_dir).join("state.db").exists() {
                bail!(
                    "{} holds no objects; is --data-dir the folder the server was started with? (one with --store=memory or etcd cannot be forked)",
                    options.data_dir.display()
                );
            }
            let folder = Folder::make(&options.data_dir)?;
            folder.copy_keys(&options.data_dir)?;
            folder
        }
    };
    let of = store_dir(if options.snapshot.is_some() { &folder.path } else { &options.data_dir });
    let server = server_options(options, &folder.path, of)?;
    server::main(&server, started)
}

fn server_options(options: &ForkOptions, folder: &Path, of: PathBuf) -> Result<ServerOptions> {
    let without: Vec<&str> = [(Part::Scheduler, "scheduler"), (Part::Controllers, "controllers")]
        .into_iter()
        .filter_map(|(part, name)| (!options.with.contains(&part)).then_some(name))
        .collect();
    let mut flags = vec!["--store=memory".to_owned(), "--agent=off".to_owned(), "--hollow-nodes=0".to_owned()];
    if !without.is_empty() {
        flags.push(format!("--without={}", without.join(",")));
    }
    flags.extend_from_slice(&options.server);
    let mut server = options::server_of(&flags)?;
    server.data_dir = folder.to_owned();
    server.listen = Some(options.listen);
    server.kubeconfig.clone_from(&options.kubeconfig);
    let lifetime = options.seconds.map(Duration::from_secs);
    server.fork = Some(Fork { of, keep_webhooks: options.keep_webhooks, lifetime });
    Ok(server)
}

/// The folder of a fork, gone with it: its certificates, its kubeconfig.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(data_dir: &Path) -> Result<Self> {
        let forks = data_dir.join(FORKS);
        sweep(&forks);
        let path = forks.join(std::process::id().to_string());
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// The certificates and keys of the cluster, so that whoever signs in there can sign in to the fork.
    fn copy_keys(&self, data_dir: &Path) -> Result<()> {
        let pki = data_dir.join(PKI);
        for entry in fs::read_dir(&pki).with_context(|| format!("cannot read {}", pki.display()))? {
            let entry = entry.with_context(|| format!("cannot read {}", pki.display()))?;
            if entry.file_type().is_ok_and(|of| of.is_file()) {
                let content = fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
                files::write_private(&self.path.join(PKI).join(entry.file_name()), &content)?;
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        // Only the last one takes the folder of all with it.
        if let Some(forks) = self.path.parent() {
            let _ = fs::remove_dir(forks);
        }
    }
}

/// Removes what forks that were killed left behind.
fn sweep(forks: &Path) {
    let Ok(entries) = fs::read_dir(forks) else { return };
    for entry in entries.flatten() {
        if lock::is_free(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes from a fork's store what would have its server call others. Says how many.
pub(crate) async fn isolate(store: &dyn Store, fork: &Fork) -> Result<()> {
    if fork.keep_webhooks {
        return Ok(());
    }
    let mut gone = 0;
    for prefix in CALLED {
        for entry in store.range(prefix, Page::default()).await?.value {
            if calls(&entry.key, &entry.value) {
                store.commit(&entry.key, Expect::At(entry.revision), Write::Delete).await?;
                gone += 1;
            }
        }
    }
    if gone > 0 {
        say(format_args!("left out: {gone} webhook configurations and aggregated API servers (--keep-webhooks keeps them)"))?;
    }
    Ok(())
}

/// Whether the object has the server call somebody: all webhooks do, API services do that name a service.
fn calls(key: &Key, object: &[u8]) -> bool {
    if !key.as_str().starts_with(CALLED[2]) {
        return true;
    }
    let object: Value = serde_json::from_slice(object).unwrap_or_default();
    object.pointer("/spec/service").is_some_and(|service| !service.is_null())
}

#[cfg(test)]
mod tests {
    use coracle_store::embedded::{self, Embedded};

    use super::*;

    #[tokio::test]
    async fn a_fork_calls_nobody_unless_told() {
        let store = Embedded::open(&embedded::Options::memory()).unwrap();
        let objects = [
            ("/registry/mutatingwebhookconfigurations/m", "{}"),
            ("/registry/validatingwebhookconfigurations/v", "{}"),
            ("/registry/apiregistration.k8s.io/apiservices/v1.apps", r#"{"spec":{"group":"apps"}}"#),
            ("/registry/apiregistration.k8s.io/apiservices/v1.x", r#"{"spec":{"service":{"name":"x"}}}"#),
        ];
        for (key, value) in objects {
            store.commit(&key.into(), Expect::Absent, Write::put(value)).await.unwrap();
        }
        let fork = |keep_webhooks| Fork { of: "x".into(), keep_webhooks, lifetime: None };
        isolate(&store, &fork(true)).await.unwrap();
        assert_eq!(store.count("/").await.unwrap(), 4);
        isolate(&store, &fork(false)).await.unwrap();
        let left = store.range("/", Page::default()).await.unwrap().value;
        assert_eq!(
            left.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(),
            ["/registry/apiregistration.k8s.io/apiservices/v1.apps"]
        );
    }
}
