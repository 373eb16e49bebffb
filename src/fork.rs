//! `coracle fork`: a second cluster that begins with everything a first one holds, for trying something out, and forgets it at the end.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use coracle_store::{Expect, Key, Page, Store, Write};
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use serde_json::{Value, json};

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
/// And whom for the conversion of custom resources.
const DEFINITIONS: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// Flags of `coracle fork`.
#[derive(Args, Debug)]
#[command(after_help = "\
The copy is made beside the running server, which neither waits for it nor
learns of it. The fork has a port and a kubeconfig of its own; whoever could
sign in before can sign in to it with the same certificate or token, at its
address. It runs no containers and reaches no node agent: pods are objects in
it, `kubectl exec` and `logs` lead nowhere. Webhooks and aggregated API
servers are left out, so that nothing outside is called; custom resources
that a webhook converts are told in other versions as they are stored.
Everything in it is in memory and gone when it ends (Ctrl-C).

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
    /// Of an etcd's snapshot, the keys that are the cluster's (kube-apiserver's --etcd-prefix).
    #[arg(long, value_name = "PREFIX", default_value = "/registry", requires = "snapshot")]
    pub(crate) etcd_prefix: String,
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
            snapshot::unpack(&folder.path, file, &options.etcd_prefix)?;
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
        let wrong = || format!("cannot create {}", path.display());
        fs::create_dir_all(&forks).with_context(wrong)?;
        // Not one that is there: it would be somebody else's, of another process namespace.
        fs::create_dir(&path).with_context(wrong)?;
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

/// Removes what forks that were killed left behind. One that has only just begun has no lock yet: its process lives.
fn sweep(forks: &Path) {
    let Ok(entries) = fs::read_dir(forks) else { return };
    for entry in entries.flatten() {
        if !lives(&entry.file_name()) && lock::is_free(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the process that a fork's folder is named after is there, and is not this one, which has none yet.
fn lives(name: &OsStr) -> bool {
    let process = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
    // Somebody else's process cannot be tested, but it is there.
    process.is_some_and(|process| process != rustix::process::getpid() && test_kill_process(process) != Err(Errno::SRCH))
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
    let (mut changed, mut unreadable) = (0, 0);
    for entry in store.range(DEFINITIONS, Page::default()).await?.value {
        match unconverted(&entry.value) {
            Some(Some(definition)) => {
                store.commit(&entry.key, Expect::At(entry.revision), Write::put(definition)).await?;
                changed += 1;
            }
            Some(None) => {}
            None => unreadable += 1,
        }
    }
    if changed > 0 {
        say(format_args!("{changed} custom resources are not converted by their webhooks (--keep-webhooks has them called)"))?;
    }
    if unreadable > 0 {
        say(format_args!("{unreadable} definitions of custom resources are encrypted: if a webhook converts them, the fork calls it"))?;
    }
    Ok(())
}

/// A definition without the webhook that converts its objects; `Some(None)` when it has none, `None` when that cannot be told.
fn unconverted(definition: &[u8]) -> Option<Option<Vec<u8>>> {
    let mut definition: Value = serde_json::from_slice(definition).ok()?;
    let Some(conversion) = definition.pointer_mut("/spec/conversion").filter(|conversion| conversion["strategy"] == "Webhook") else {
        return Some(None);
    };
    *conversion = json!({"strategy": "None"});
    serde_json::to_vec(&definition).ok().map(Some)
}

/// Whether the object has the server call somebody: all webhooks do, API services do that name a service. One that cannot be read may; the
/// server makes those of its own groups anew.
fn calls(key: &Key, object: &[u8]) -> bool {
    if !key.as_str().starts_with(CALLED[2]) {
        return true;
    }
    let object: Result<Value, _> = serde_json::from_slice(object);
    object.map_or(true, |object| object.pointer("/spec/service").is_some_and(|service| !service.is_null()))
}

#[cfg(test)]
mod tests {
    use coracle_store::embedded::{self, Embedded};

    use super::*;

    const CALLING: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/a.x";
    const QUIET: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/b.x";

    #[test]
    fn a_fork_that_has_only_begun_keeps_its_folder_and_a_dead_one_does_not() {
        let data = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, other) =
            (data.path().join(FORKS).join(std::process::id().to_string()), data.path().join(FORKS).join(child.id().to_string()));
        for folder in [&own, &other] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(own.join("of a process that had this number"), "").unwrap();
        let folder = Folder::make(data.path()).unwrap();
        assert_eq!((&folder.path, fs::read_dir(&own).unwrap().count(), other.exists()), (&own, 0, true));
        drop(folder);
        assert!(!own.exists() && other.exists());
        child.kill().unwrap();
        child.wait().unwrap();
        drop(Folder::make(data.path()).unwrap());
        assert!(!other.exists());
    }

    #[tokio::test]
    async fn a_fork_calls_nobody_unless_told() {
        let store = Embedded::open(&embedded::Options::memory()).unwrap();
        let objects = [
            ("/registry/mutatingwebhookconfigurations/m", "{}"),
            ("/registry/validatingwebhookconfigurations/v", "{}"),
            ("/registry/apiregistration.k8s.io/apiservices/v1.apps", r#"{"spec":{"group":"apps"}}"#),
            ("/registry/apiregistration.k8s.io/apiservices/v1.x", r#"{"spec":{"service":{"name":"x"}}}"#),
            ("/registry/apiregistration.k8s.io/apiservices/v1.y", "k8s:enc:secretbox:v1:k:who knows"),
            (CALLING, r#"{"spec":{"conversion":{"strategy":"Webhook","webhook":{"clientConfig":{}}},"group":"x"}}"#),
            (QUIET, r#"{"spec":{"conversion":{"strategy":"None"}}}"#),
        ];
        for (key, value) in objects {
            store.commit(&key.into(), Expect::Absent, Write::put(value)).await.unwrap();
        }
        let fork = |keep_webhooks| Fork { of: "x".into(), keep_webhooks, lifetime: None };
        isolate(&store, &fork(true)).await.unwrap();
        assert_eq!(store.count("/").await.unwrap(), 7);
        let quiet = store.get(&QUIET.into()).await.unwrap().value;
        isolate(&store, &fork(false)).await.unwrap();
        let left = store.range("/", Page::default()).await.unwrap().value;
        assert_eq!(
            left.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(),
            [CALLING, QUIET, "/registry/apiregistration.k8s.io/apiservices/v1.apps"]
        );
        let calling = store.get(&CALLING.into()).await.unwrap().value.unwrap();
        assert_eq!(&calling.value[..], br#"{"spec":{"conversion":{"strategy":"None"},"group":"x"}}"#);
        assert_eq!(store.get(&QUIET.into()).await.unwrap().value, quiet, "what calls nobody stays as it is");
    }
}
