//! Flags and the configuration file: the same names, the same meaning, one definition.
//!
//! A configuration file is turned into flags that stand before those of the command line, so the command line wins and every key of
//! the file is by construction a flag.

mod file;
mod range;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::{
    admission::AdmissionFlags,
    audit::AuditFlags,
    authn::AuthenticationFlags,
    authorization::AuthorizationFlags,
    db::DbOptions,
    dropin::flags,
    encryption::EncryptionFlags,
    etcd::EtcdFlags,
    fork::{Fork, ForkOptions},
    front::FrontFlags,
    history::HistoryOptions,
    leadership::LeadershipFlags,
    migrate::MigrateOptions,
    schedule::KeepingFlags,
    snapshot::SnapshotOptions,
    tls::TlsFlags,
};

pub(crate) use self::{
    file::nearest,
    range::{Cidr, PortRange},
};

/// A Kubernetes cluster in one small binary.
#[derive(Parser, Debug)]
#[command(name = "coracle", version, about, max_term_width = 110, args_override_self = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a cluster: API server, scheduler, controllers and the node agent, in this process.
    Server(Box<ServerOptions>),
    /// Run only a node agent and join it to a server (a later version; says so).
    Agent(AgentOptions),
    /// Stop a server that runs from a data directory; with --all also its containers, network and mounts.
    Stop(StopOptions),
    /// Manage the node's images.
    Image(ImageOptions),
    /// Print a kubeconfig for the administrator of a cluster that was started from a data directory.
    Kubeconfig(KubeconfigOptions),
    /// Print a token for a service account, valid for an hour unless told otherwise.
    Token(TokenOptions),
    /// Look after what is encrypted in the store.
    Secrets(SecretsOptions),
    /// Save everything the cluster keeps to a file, restore it, or look into such a file (also one of etcd).
    Snapshot(SnapshotOptions),
    /// Check, compact or export the database of the embedded store.
    Db(DbOptions),
    /// Move a cluster from the embedded store to etcd, or back.
    Migrate(Box<MigrateOptions>),
    /// Start a second, isolated copy of a running cluster's state, for trying something out.
    Fork(ForkOptions),
    /// Print what was changed of an object lately, when and by which field manager: coracle history deployment/web -n shop.
    History(HistoryOptions),
    /// Print who may do something, and why: coracle who-can get secrets -n default.
    WhoCan(WhoCanOptions),
    /// Print the version.
    Version,
}

/// Flags of `coracle server`; `coracle server --config FILE` reads the same names from YAML.
#[derive(Args, Debug, Clone)]
#[command(args_override_self = true)]
pub(crate) struct ServerOptions {
    /// YAML file with the same names as these flags; flags given here win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Folder of everything the cluster keeps: objects, certificates, images, containers.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,

    /// Address and port of the API server; port 0 picks a free one. Default: all addresses when the agent runs, else 127.0.0.1; port 6443.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Address under which pods and other machines reach the API server. Default: the node's address.
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise_address: Option<IpAddr>,

    /// Write the administrator's kubeconfig here, before the server says it is ready. Default: DIR/admin.kubeconfig.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// More names or addresses for the API server's certificate.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,

    /// Where objects are kept.
    #[arg(long, value_enum, default_value_t = StoreChoice::Embedded)]
    pub(crate) store: StoreChoice,

    #[command(flatten)]
    pub(crate) etcd: EtcdFlags,

    #[command(flatten)]
    pub(crate) keeping: KeepingFlags,

    /// Heartbeats of nodes (Leases in kube-node-lease) and Events wait so long at most until they are on disk, many at once; a power cut
    /// takes what waits, and nothing else. 0: they are on disk before they are answered, like everything else.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    pub(crate) relaxed_writes_interval: Duration,

    /// Run containers on this machine. Default: on as root, else off with one hollow node.
    #[arg(long, value_enum)]
    pub(crate) agent: Option<Switch>,

    /// Nodes without containers, run by the real agent code, for tests and scale.
    #[arg(long, value_name = "N")]
    pub(crate) hollow_nodes: Option<u32>,

    /// Parts not to run.
    #[arg(long, value_enum, value_name = "PART,…", value_delimiter = ',')]
    pub(crate) without: Vec<Part>,

    /// Name of this machine's node. Default: its host name.
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,

    /// Address of this machine's node. Default: the address of the default route's interface.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node_ip: Option<IpAddr>,

    /// Port of the node agent's server (logs, exec); 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub(crate) agent_port: u16,

    /// Addresses of Services.
    #[arg(long, value_name = "CIDR", default_value = "10.43.0.0/16")]
    pub(crate) service_cidr: Cidr,

    /// Addresses of pods; each node gets a /24 of it.
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub(crate) cluster_cidr: Cidr,

    /// Ports for Services of type NodePort.
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    pub(crate) node_port_range: PortRange,

    /// Folder of image archives read at every start. Default: DIR/images.
    #[arg(long, value_name = "DIR")]
    pub(crate) images_dir: Option<PathBuf>,

    /// Registries spoken to over plain HTTP (loopback ones always are).
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub(crate) insecure_registries: Vec<String>,

    #[command(flatten)]
    pub(crate) users: AuthenticationFlags,

    #[command(flatten)]
    pub(crate) tls: TlsFlags,

    #[command(flatten)]
    pub(crate) authorization: AuthorizationFlags,

    #[command(flatten)]
    pub(crate) admission: AdmissionFlags,

    #[command(flatten)]
    pub(crate) audit: AuditFlags,

    #[command(flatten)]
    pub(crate) encryption: EncryptionFlags,

    /// Where spans of requests are sent, over OTLP: an apiserver.config.k8s.io/v1 TracingConfiguration.
    #[arg(long, value_name = "FILE")]
    pub(crate) tracing_config_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) front: FrontFlags,

    #[command(flatten)]
    pub(crate) leadership: LeadershipFlags,

    /// Joins the servers that work on the same store, and is what they are joined with. Default: DIR/server-token, which the first one writes.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,

    /// The same, read from a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// What is logged: error, warn, info, debug, trace, or per part: `info,coracle_agent=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log: String,

    /// Set by `coracle fork`: begin with what another cluster holds.
    #[arg(skip)]
    pub(crate) fork: Option<Fork>,

    /// What holds of each flag, given or not.
    #[arg(skip)]
    pub(crate) flags: BTreeMap<String, String>,
}

/// Flags of `coracle agent`.
#[derive(Args, Debug)]
pub(crate) struct AgentOptions {
    /// The server to join: https://HOST:6443.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
}

/// Flags of `coracle stop`.
#[derive(Args, Debug)]
pub(crate) struct StopOptions {
    /// Folder the server was started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,
    /// Also stop the containers and remove their network and mounts.
    #[arg(long)]
    pub(crate) all: bool,
}

/// Flags of `coracle image`.
#[derive(Args, Debug)]
pub(crate) struct ImageOptions {
    /// Folder the server is started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir(), global = true)]
    pub(crate) data_dir: PathBuf,
    /// What to do with them.
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    /// Add the images of archives (OCI layout or docker-save, plain or gzip).
    Import {
        /// The archives.
        #[arg(required = true, value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// List the images.
    List,
    /// Remove an image by reference.
    Remove {
        /// As `coracle image list` prints it.
        reference: String,
    },
}

/// Flags of `coracle secrets`.
#[derive(Args, Debug)]
pub(crate) struct SecretsOptions {
    /// Folder the server was started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir(), global = true)]
    pub(crate) data_dir: PathBuf,
    /// What to do with it.
    #[command(subcommand)]
    pub(crate) command: SecretsCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum SecretsCommand {
    /// Write every object anew that the first provider of --encryption-provider-config did not write. Begun again, it goes on where it was.
    Reencrypt,
}

/// Flags of `coracle kubeconfig`.
#[derive(Args, Debug)]
pub(crate) struct KubeconfigOptions {
    /// Folder the server was started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,
    /// The server's address in it, or those of several. Default: the ones it knows.
    #[arg(long, value_name = "URL,…", value_delimiter = ',', num_args = 1)]
    pub(crate) server: Option<Vec<String>>,
}

/// Flags of `coracle token`.
#[derive(Args, Debug)]
pub(crate) struct TokenOptions {
    /// The service account.
    #[arg(value_name = "SERVICEACCOUNT", default_value = "default")]
    pub(crate) service_account: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// Seconds until the token expires (at least 600).
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(i64).range(600..=31_536_000))]
    pub(crate) expiration: i64,
    /// Folder the server was started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,
}

/// Flags of `coracle who-can`.
#[derive(Args, Debug)]
pub(crate) struct WhoCanOptions {
    /// What is done: get, list, create, … .
    #[arg(value_name = "VERB")]
    pub(crate) verb: String,
    /// To what: pods, deployments.apps/scale, or a path such as /metrics.
    #[arg(value_name = "RESOURCE")]
    pub(crate) resource: String,
    /// One object of this name. Default: any.
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where. Default: in all namespaces at once.
    #[arg(long, short)]
    pub(crate) namespace: Option<String>,
    /// Folder the server was started with.
    #[arg(long, value_name = "DIR", default_value_os_t = default_data_dir())]
    pub(crate) data_dir: PathBuf,
}

/// A duration as Go reads it, of an hour at most.
fn span(text: &str) -> Result<Duration, String> {
    let allowed = flags::span(text).ok().filter(|read| *read <= Duration::from_secs(3600));
    allowed.ok_or_else(|| format!("{text:?} is not a duration such as 5s or 500ms, from 0 to 1h"))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum StoreChoice {
    /// A file in the data directory; acknowledged means on disk.
    Embedded,
    /// Nothing is kept after the end.
    Memory,
    /// An etcd cluster, laid out as kube-apiserver lays it out: see --etcd-servers.
    Etcd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    Scheduler,
    Controllers,
}

/// Reads the command line and, if it names one, the configuration file.
pub(crate) fn parse() -> Result<Cli> {
    let arguments: Vec<String> = std::env::args().collect();
    let cli = read(&arguments);
    match &cli.command {
        Command::Server(options) => match &options.config {
            Some(file) => with_file(&arguments, file),
            None => Ok(cli),
        },
        _ => Ok(cli),
    }
}

/// Parses; ends the process with a word about what is wrong.
fn read(arguments: &[String]) -> Cli {
    let mut command = Cli::command();
    let found = command.clone().get_matches_from(arguments);
    // Tells the subcommands' own flags.
    command.build();
    let mut cli = Cli::from_arg_matches(&found).unwrap_or_else(|wrong| wrong.format(&mut command).exit());
    if let (Command::Server(options), Some((name, found))) = (&mut cli.command, found.subcommand()) {
        options.flags = command.find_subcommand(name).map(|server| in_effect(server, found)).unwrap_or_default();
    }
    cli
}

/// What holds of each flag of a command: as it was given, or its default; a secret only says that it is one (`/flagz`).
pub(crate) fn in_effect(command: &clap::Command, found: &ArgMatches) -> BTreeMap<String, String> {
    let flags = command.get_arguments().filter_map(|flag| Some((flag.get_long()?, flag.get_id().as_str())));
    let flags = flags.filter(|(name, _)| *name != "help").map(|(name, id)| {
        let values = found.try_get_raw(id).ok().flatten().into_iter().flatten();
        let value = values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
        let secret = SECRET.contains(&name) && !value.is_empty();
        (name.to_owned(), if secret { "CLASSIFIED".to_owned() } else { value })
    });
    flags.collect()
}

/// Flags whose values are secrets themselves.
const SECRET: [&str; 1] = ["token"];

/// Parses again, with the file's settings as flags before those of the command line.
fn with_file(arguments: &[String], file: &Path) -> Result<Cli> {
    let text = std::fs::read_to_string(file).with_context(|| format!("--config: cannot read {}", file.display()))?;
    let flags = file::flags_of_file(&text).with_context(|| format!("--config: {}", file.display()))?;
    let at = arguments.iter().position(|a| a == "server").map_or(arguments.len(), |at| at + 1);
    let mut all = arguments[..at].to_vec();
    all.extend(flags);
    all.extend_from_slice(&arguments[at..]);
    Ok(read(&all))
}

/// Options of a server, of its flags.
pub(crate) fn server_of(flags: &[String]) -> Result<ServerOptions> {
    let line = ["coracle", "server"].into_iter().map(str::to_owned).chain(flags.iter().cloned());
    match Cli::try_parse_from(line)?.command {
        Command::Server(options) => Ok(*options),
        _ => bail!("these are no flags of a server"),
    }
}

/// Options of a server that only lends its hollow nodes to another API server of this process.
pub(crate) fn for_hollow_nodes(count: u32, folder: &Path, listen: SocketAddr, service_cidr: Option<Cidr>) -> Result<ServerOptions> {
    let flags = ["--store=memory", "--agent=off", "--without=scheduler,controllers"].map(str::to_owned);
    let mut options = server_of(&flags).context("options of hollow nodes")?;
    options.hollow_nodes = Some(count);
    options.data_dir = folder.to_owned();
    options.listen = Some(listen);
    options.service_cidr = service_cidr.unwrap_or(options.service_cidr);
    Ok(options)
}

/// `/var/lib/coracle` for root, else `~/.local/share/coracle`.
pub(crate) fn default_data_dir() -> PathBuf {
    if is_root() {
        return "/var/lib/coracle".into();
    }
    let home = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    home.unwrap_or_else(|| ".".into()).join("coracle")
}

/// Where the embedded store is in a data directory.
pub(crate) fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// Whether this process may set up containers.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    #[test]
    fn what_holds_of_a_flag_is_told_but_for_secrets() {
        let line = ["coracle", "server", "--log=info", "--tls-san=a,b", "--token=of-all-servers"].map(String::from);
        let Command::Server(options) = read(&line).command else { panic!("server") };
        for (name, value) in [("log", "info"), ("tls-san", "a,b"), ("store", "embedded"), ("node-name", ""), ("token", "CLASSIFIED")] {
            assert_eq!(options.flags.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!options.flags.contains_key("help"));
    }

    #[test]
    fn what_is_true_or_false_may_be_set_in_the_file_by_every_name() {
        let cli = Cli::command();
        let server = cli.find_subcommand("server").unwrap();
        let is_truth = |flag: &&clap::Arg| flag.get_value_names().is_some_and(|names| names.iter().any(|name| name == "BOOL"));
        let names: Vec<&str> = server.get_arguments().filter(is_truth).filter_map(clap::Arg::get_long).collect();
        assert!(names.len() >= 11, "{names:?}");
        let flagged = server.get_arguments().filter(|flag| matches!(flag.get_action(), ArgAction::SetTrue)).count();
        assert_eq!(flagged, 0, "a lone flag cannot be set to false");
        let line: Vec<String> = ["coracle", "server"].map(String::from).into();
        let file = tempfile::NamedTempFile::new().unwrap();
        for value in ["true", "false"] {
            let text: String = names.iter().map(|name| format!("{name}: {value}\n")).collect();
            std::fs::write(file.path(), text).unwrap();
            let Command::Server(options) = with_file(&line, file.path()).unwrap().command else { panic!("server") };
            assert_eq!(options.front.enable_priority_and_fairness, value == "true");
            assert_eq!(options.encryption.encryption_provider_config_automatic_reload, value == "true");
        }
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let line: Vec<String> = ["coracle", "server", "--listen=127.0.0.1:1"].map(String::from).into();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "listen: 127.0.0.1:2\nlog: debug\n").unwrap();
        let Command::Server(options) = with_file(&line, file.path()).unwrap().command else { panic!("server") };
        assert_eq!(options.listen, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(options.log, "debug");
        let line: Vec<String> = ["coracle", "server", "--audit-log-compress", "--log=info"].map(String::from).into();
        assert!(with_file(&line, file.path()).is_ok());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
