//! A webhook that a kubeconfig file names, as the flags of kube-apiserver take them for authentication, authorization and audit
//! (apiserver `util/webhook/webhook.go`, client-go `tools/clientcmd`).

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use rustls::{
    ClientConfig as Tls,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Identity, Trust, accounts::Account, client, pem_certificates};

/// A kubeconfig's current context: where the webhook is, whom we believe there, and as whom we ask.
///
/// Certificates, keys and tokens that stand in files are read again when they change.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    /// `https://host:port/path`
    pub(super) server: String,
    /// `tls-server-name`: the name in its certificate, when it is not the host's.
    pub(super) name: Option<String>,
    insecure: bool,
    authority: Option<Source>,
    client: Option<(Source, Source)>,
    login: Login,
}

/// Where something secret or trusted stands.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Data(Secret),
    File(PathBuf),
}

/// Bytes that are not shown.
#[derive(Clone)]
pub(super) struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// What a request says of who asks, beside the client certificate.
#[derive(Clone, Debug)]
pub(super) enum Login {
    None,
    Bearer(Source),
    Basic(Secret),
}

/// What the files of a kubeconfig held when they were last read.
pub(super) struct Credentials {
    pub(super) tls: Arc<Tls>,
    /// Value of `Authorization`.
    pub(super) login: Option<HeaderValue>,
    /// Changes when the files that matter to connections do.
    pub(super) stamp: [u8; 32],
}

impl Kubeconfig {
    /// Reads a file. The error is clientcmd's, and names what is wrong.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => format!("stat {}: no such file or directory", file.display()),
            _ => format!("error loading config file {:?}: {e}", file.display().to_string()),
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|why| match why {
            Refusal::File(why) => format!("error loading config file {:?}: {why}", file.display().to_string()),
            Refusal::Content(why) => why,
        })
    }

    /// The cluster this process runs in as a pod, as its service account (client-go `rest.InClusterConfig`).
    pub fn in_cluster() -> Result<Self, String> {
        const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
        let (host, port) = (std::env::var("KUBERNETES_SERVICE_HOST"), std::env::var("KUBERNETES_SERVICE_PORT"));
        let (Ok(host), Ok(port)) = (host, port) else {
            return Err(
                "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined".into()
            );
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let text = coracle_tree::json!({
            "current-context": "pod",
            "clusters": [{"name": "pod", "cluster": {"server": format!("https://{host}:{port}"), "certificate-authority": "ca.crt"}}],
            "users": [{"name": "pod", "user": {"tokenFile": "token"}}],
            "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod"}}],
        });
        Self::parse(&text.to_string(), Path::new(ACCOUNT)).map_err(|why| match why {
            Refusal::File(why) | Refusal::Content(why) => why,
        })
    }

    /// The address it leads to.
    pub fn server(&self) -> &str {
        &self.server
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, Refusal> {
        let file: File = match text.trim() {
            "" => File::default(),
            _ => serde_saphyr::from_str(text).map_err(|e| Refusal::File(e.to_string()))?,
        };
        let empty = || Refusal::invalid(&[EMPTY.to_owned()]);
        let content = |why: String| Refusal::Content(why);
        let name = file.current_context.as_str();
        let context = match (name, file.contexts.iter().find(|c| c.name == name)) {
            ("", _) => return Err(empty()),
            (_, None) => return Err(content(format!("context was not found for specified context: {name}"))),
            (_, Some(context)) => context.context.clone().unwrap_or_default(),
        };
        let user = file.users.iter().find(|u| u.name == context.user).map(|u| u.user.clone().unwrap_or_default());
        let cluster = file.clusters.iter().find(|c| c.name == context.cluster).and_then(|c| c.cluster.clone());
        let mut faults = user.as_ref().map(|user| user.faults(&context.user, folder)).unwrap_or_default();
        match &cluster {
            None if faults.is_empty() => return Err(empty()),
            None => faults.push("cluster has no server defined".to_owned()),
            Some(cluster) => faults.extend(cluster.faults(&context.cluster, folder)),
        }
        if !faults.is_empty() {
            return Err(Refusal::invalid(&faults));
        }
        if user.is_none() && !context.user.is_empty() {
            return Err(content(format!("auth info {:?} does not exist", context.user)));
        }
        let (user, cluster) = (user.unwrap_or_default(), cluster.unwrap_or_default());
        user.unsupported(&context.user).map_err(content)?;
        let kubeconfig = Self {
            server: String::new(),
            name: (!cluster.tls_server_name.is_empty()).then(|| cluster.tls_server_name.clone()),
            insecure: cluster.insecure_skip_tls_verify,
            authority: source("certificate-authority-data", &cluster.certificate_authority_data, &cluster.certificate_authority, folder)?,
            client: user.client(folder)?,
            login: user.login(folder)?,
        };
        if kubeconfig.insecure && kubeconfig.authority.is_some() {
            return Err(content("specifying a root certificates file with the insecure flag is not allowed".to_owned()));
        }
        let server = kubeconfig.address(&cluster.server).map_err(content)?;
        let kubeconfig = Self { server, ..kubeconfig };
        kubeconfig.load().map_err(content)?;
        Ok(kubeconfig)
    }

    /// An address without a scheme is one of HTTPS when there is something to secure it with (client-go `DefaultServerURL`).
    fn address(&self, given: &str) -> Result<String, String> {
        let secured = self.authority.is_some() || self.client.is_some() || self.insecure;
        let address = match given.split_once("://") {
            Some(_) => given.to_owned(),
            None => format!("{}://{given}", if secured { "https" } else { "http" }),
        };
        let uri: http::Uri = address.parse().map_err(|e| format!("server {given:?} is not an address: {e}"))?;
        match uri.scheme_str() {
            Some("https" | "http") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(address),
            _ => Err(format!("server {given:?} is not an address such as https://host:port/path")),
        }
    }

    /// Reads what stands in files, and makes of it what connections need.
    pub(super) fn load(&self) -> Result<Credentials, String> {
        let mut digest = Sha256::new();
        let mut read = |source: &Source| -> Result<Vec<u8>, String> {
            let bytes = source.read()?;
            digest.update(bytes.len().to_be_bytes());
            digest.update(&bytes);
            Ok(bytes)
        };
        let authority = self.authority.as_ref().filter(|_| !self.insecure);
        let bundle = authority.map(|authority| pem_certificates(&read(authority)?)).transpose()?;
        let identity = match &self.client {
            Some((certificate, key)) => {
                let chain = pem_certificates(&read(certificate)?).map_err(|_| "tls: failed to find any PEM data in certificate input")?;
                let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| "tls: failed to find any PEM data in key input")?;
                Some(Identity { chain, key })
            }
            None => None,
        };
        let trust = Trust { bundle, insecure: self.insecure, identity: identity.as_ref(), protocols: &["h2", "http/1.1"] };
        Ok(Credentials { tls: client(trust)?, login: self.login.header()?, stamp: digest.finalize().into() })
    }

    /// Whether anything may change while we run.
    pub(super) fn has_files(&self) -> bool {
        self.authority.as_ref().is_some_and(Source::is_file)
            || self.client.as_ref().is_some_and(|(certificate, key)| certificate.is_file() || key.is_file())
            || self.login.has_file()
    }
}

/// The users of a kubeconfig by name, and that of the current context.
pub(super) fn accounts(file: &Path) -> Result<(HashMap<String, Account>, Option<String>), String> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| format!("error loading config file {shown:?}: {e}"))?;
    let read: File = serde_saphyr::from_str(&text).map_err(|e| format!("error loading config file {shown:?}: {e}"))?;
    let (folder, mut users) = (file.parent().unwrap_or(Path::new("")), HashMap::new());
    for NamedUser { name, user } in &read.users {
        let user = user.clone().unwrap_or_default();
        user.unsupported(name)?;
        if let Some(fault) = user.faults(name, folder).first() {
            return Err(format!("invalid configuration: {fault}"));
        }
        let said = |refusal| match refusal {
            Refusal::File(why) | Refusal::Content(why) => why,
        };
        let account = Account { client: user.client(folder).map_err(said)?, login: user.login(folder).map_err(said)? };
        users.insert(name.clone(), account);
    }
    let current = read.contexts.iter().find(|context| context.name == read.current_context);
    let current = current.and_then(|context| context.context.as_ref()).map(|context| context.user.clone());
    Ok((users, current.filter(|user| !user.is_empty())))
}

impl Login {
    /// The value of `Authorization`.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, String> {
        let text = match self {
            Self::None => return Ok(None),
            Self::Bearer(source) => {
                let token = String::from_utf8(source.read()?).map_err(|_| "the token is no text")?;
                match token.trim() {
                    "" => return Err("the token is empty".to_owned()),
                    token => format!("Bearer {token}"),
                }
            }
            Self::Basic(pair) => format!("Basic {}", STANDARD.encode(&pair.0)),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| "the token or password holds characters no header may have")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Whether it stands in a file.
    pub(super) fn has_file(&self) -> bool {
        matches!(self, Self::Bearer(source) if source.is_file())
    }
}

impl Source {
    /// Whether it stands in a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Data(data) => Ok(data.0.clone()),
            Self::File(path) => std::fs::read(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => format!("open {}: no such file or directory", path.display()),
                _ => format!("open {}: {e}", path.display()),
            }),
        }
    }
}

/// What clientcmd says of a file that names nothing.
const EMPTY: &str = "no configuration has been provided, try setting KUBERNETES_MASTER environment variable";

/// Why a file is not taken: it cannot be read, or what it says makes no sense.
enum Refusal {
    File(String),
    Content(String),
}

impl Refusal {
    /// As Go's aggregates print.
    fn invalid(faults: &[String]) -> Self {
        let mut seen = HashSet::new();
        let faults: Vec<&str> = faults.iter().map(String::as_str).filter(|fault| seen.insert(*fault)).collect();
        let list = faults.join(", ");
        Self::Content(if faults.len() == 1 { format!("invalid configuration: {list}") } else { format!("invalid configuration: [{list}]") })
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Option<Context>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: Option<User>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
    certificate_authority: String,
    certificate_authority_data: String,
    proxy_url: String,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    #[serde(rename = "as")]
    acts_as: String,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

impl Cluster {
    /// What clientcmd finds wrong (`validateClusterInfo`).
    fn faults(&self, name: &str, folder: &Path) -> Vec<String> {
        let mut faults = Vec::new();
        if self.server.is_empty() {
            faults.push(format!("no server found for cluster {name:?}"));
        }
        if !self.proxy_url.is_empty() {
            faults.push(format!("'proxy-url' of cluster {name:?} is not supported: webhooks are called directly"));
        }
        if !self.certificate_authority.is_empty() && !self.certificate_authority_data.is_empty() {
            faults.push(format!(
                "certificate-authority-data and certificate-authority are both specified for {name}. certificate-authority-data will override."
            ));
        }
        faults.extend(unreadable("certificate-authority", &self.certificate_authority, name, folder));
        faults
    }
}

impl User {
    /// What clientcmd finds wrong (`validateAuthInfo`).
    fn faults(&self, name: &str, folder: &Path) -> Vec<String> {
        let (mut faults, mut methods) = (Vec::new(), Vec::new());
        if !self.token.is_empty() {
            methods.push("token");
        }
        if !self.username.is_empty() || !self.password.is_empty() {
            methods.push("basicAuth");
        }
        if !self.client_certificate.is_empty() || !self.client_certificate_data.is_empty() {
            if !self.client_certificate.is_empty() && !self.client_certificate_data.is_empty() {
                faults.push(format!("client-cert-data and client-cert are both specified for {name}. client-cert-data will override."));
            }
            if !self.client_key.is_empty() && !self.client_key_data.is_empty() {
                faults.push(format!("client-key-data and client-key are both specified for {name}; client-key-data will override"));
            }
            if self.client_key.is_empty() && self.client_key_data.is_empty() {
                faults.push(format!(
                    "client-key-data or client-key must be specified for {name} to use the clientCert authentication method."
                ));
            }
            faults.extend(unreadable("client-cert", &self.client_certificate, name, folder));
            faults.extend(unreadable("client-key", &self.client_key, name, folder));
        }
        if methods.len() > 1 {
            faults
                .push(format!("more than one authentication method found for {name}; found [{}], only one is allowed", methods.join(" ")));
        }
        faults
    }

    /// What clientcmd takes and we do not.
    fn unsupported(&self, name: &str) -> Result<(), String> {
        let what = match self {
            Self { exec: Some(_), .. } => "exec",
            Self { auth_provider: Some(_), .. } => "auth-provider",
            Self { acts_as, .. } if !acts_as.is_empty() => "as",
            _ => return Ok(()),
        };
        Err(format!("user {name:?}: {what:?} is not supported here; allowed: client-certificate, token, tokenFile, username and password"))
    }

    fn client(&self, folder: &Path) -> Result<Option<(Source, Source)>, Refusal> {
        let certificate = source("client-certificate-data", &self.client_certificate_data, &self.client_certificate, folder)?;
        Ok(certificate.zip(source("client-key-data", &self.client_key_data, &self.client_key, folder)?))
    }

    /// A token in a file is read from there, as it may be renewed; one that stands here is what is left when there is no file.
    fn login(&self, folder: &Path) -> Result<Login, Refusal> {
        Ok(if !self.token_file.is_empty() {
            Login::Bearer(Source::File(folder.join(&self.token_file)))
        } else if !self.token.is_empty() {
            Login::Bearer(Source::Data(Secret(self.token.clone().into_bytes())))
        } else if !self.username.is_empty() || !self.password.is_empty() {
            Login::Basic(Secret(format!("{}:{}", self.username, self.password).into_bytes()))
        } else {
            Login::None
        })
    }
}

/// Data goes before a file.
fn source(field: &str, data: &str, file: &str, folder: &Path) -> Result<Option<Source>, Refusal> {
    if !data.is_empty() {
        let joined: String = data.split_whitespace().collect();
        let bytes = STANDARD.decode(joined).map_err(|e| Refusal::File(format!("{field}: illegal base64 data: {e}")))?;
        return Ok(Some(Source::Data(Secret(bytes))));
    }
    Ok((!file.is_empty()).then(|| Source::File(folder.join(file))))
}

fn unreadable(field: &str, file: &str, name: &str, folder: &Path) -> Option<String> {
    if file.is_empty() {
        return None;
    }
    let path = folder.join(file);
    let error = std::fs::File::open(&path).err()?;
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Some(format!("unable to read {field} {path} for {name} due to open {path}: {why}", path = path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1/authn?x=y', insecure-skip-tls-verify: true}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
users: [{name: u, user: {token: secret}}]
";

    fn parse(text: &str) -> Result<Kubeconfig, String> {
        Kubeconfig::parse(text, Path::new("/nowhere")).map_err(|why| match why {
            Refusal::File(why) | Refusal::Content(why) => why,
        })
    }

    #[test]
    fn a_context_says_where_and_as_whom() {
        let read = parse(WHOLE).unwrap();
        assert_eq!(read.server(), "https://127.0.0.1:1/authn?x=y");
        let login = read.load().unwrap().login.unwrap();
        assert_eq!(login, "Bearer secret");
        assert!(!format!("{read:?} {login:?}").contains("secret"));
        let basic = parse(&WHOLE.replace("token: secret", "username: a, password: b")).unwrap();
        assert_eq!(basic.load().unwrap().login.unwrap(), "Basic YTpi");
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_clientcmds_words() {
        let cases = [
            (
                WHOLE.replace("current-context: x", ""),
                "invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER",
            ),
            (WHOLE.replace("current-context: x", "current-context: y"), "context was not found for specified context: y"),
            (WHOLE.replace("server: 'https://127.0.0.1:1/authn?x=y', ", ""), "invalid configuration: no server found for cluster \"c\""),
            (WHOLE.replace("user: u}}", "user: v}}"), "auth info \"v\" does not exist"),
            (WHOLE.replace("token: secret", "token: secret, username: a"), "found [token basicAuth], only one is allowed"),
            (
                WHOLE.replace("token: secret", "client-certificate-data: YQ=="),
                "client-key-data or client-key must be specified for u to use",
            ),
            (
                WHOLE.replace("token: secret", "client-certificate: a.crt, client-key: b"),
                "unable to read client-cert /nowhere/a.crt for u due to",
            ),
            (
                WHOLE.replace("insecure-skip-tls-verify: true", "certificate-authority: ca.crt"),
                "unable to read certificate-authority /nowhere/ca.crt",
            ),
            (
                WHOLE.replace("insecure-skip-tls-verify: true", "certificate-authority-data: '!'"),
                "certificate-authority-data: illegal base64",
            ),
            (WHOLE.replace("insecure-skip-tls-verify: true", "certificate-authority-data: YQ=="), "unable to parse bytes as PEM block"),
            (WHOLE.replace("token: secret", "exec: {command: x}"), "\"exec\" is not supported"),
            (WHOLE.replace("token: secret", "tokenFile: t"), "open /nowhere/t: no such file or directory"),
            (WHOLE.replace("insecure-skip-tls-verify: true", "proxy-url: 'http://p'"), "'proxy-url' of cluster \"c\" is not supported"),
            (WHOLE.replace("https://127", "ftp://127"), "is not an address such as https://"),
        ];
        for (text, expected) in cases {
            let refused = parse(&text).unwrap_err();
            assert!(refused.contains(expected), "{expected}: {refused}");
        }
        assert!(Kubeconfig::read(Path::new("/nowhere/k")).unwrap_err().starts_with("stat /nowhere/k: no such file"));
    }
}
