//! Flags of the store in etcd, under upstream's names.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use coracle_apiserver::StorageMediaType;
use coracle_store::etcd::{Options, TlsFiles};

use crate::dropin::flags::span;

/// How etcd is reached and what is kept there.
#[derive(Args, Debug, Clone)]
pub(crate) struct EtcdFlags {
    /// URLs of etcd's members, for --store=etcd.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub(crate) etcd_servers: Vec<String>,

    /// What keys begin with in etcd.
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    pub(crate) etcd_prefix: String,

    /// Certificates of the authority that signs etcd's; read again for each connection, as the next two.
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_cafile: Option<PathBuf>,

    /// Client certificate shown to etcd.
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_certfile: Option<PathBuf>,

    /// Its key.
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_keyfile: Option<PathBuf>,

    /// User of etcd, where it has users; needs --etcd-password-file.
    #[arg(long, value_name = "NAME")]
    pub(crate) etcd_username: Option<String>,

    /// File with the user's password.
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_password_file: Option<PathBuf>,

    /// How often versions older than that are forgotten; 0: not by this server.
    #[arg(long, value_name = "DURATION", default_value = "5m0s", value_parser = span)]
    pub(crate) etcd_compaction_interval: Duration,

    /// Form in which built-in kinds are written to etcd; both are read.
    #[arg(long, value_enum, value_name = "TYPE", default_value = "application/vnd.kubernetes.protobuf")]
    pub(crate) storage_media_type: Media,
}

/// `--storage-media-type`
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Media {
    /// As kube-apiserver writes them.
    #[value(name = "application/vnd.kubernetes.protobuf")]
    Protobuf,
    /// Readable, and larger.
    #[value(name = "application/json")]
    Json,
}

impl EtcdFlags {
    /// As the store takes them.
    pub(crate) fn options(&self) -> Result<Options> {
        if self.etcd_servers.is_empty() {
            bail!("--store=etcd needs --etcd-servers, such as --etcd-servers=http://127.0.0.1:2379");
        }
        if self.etcd_certfile.is_some() != self.etcd_keyfile.is_some() {
            bail!("--etcd-certfile and --etcd-keyfile must be given together");
        }
        let user = match (&self.etcd_username, &self.etcd_password_file) {
            (None, None) => None,
            (Some(user), Some(file)) => Some((user.clone(), password(file)?)),
            _ => bail!("--etcd-username and --etcd-password-file must be given together"),
        };
        Ok(Options {
            tls: TlsFiles {
                authorities: self.etcd_cafile.clone(),
                certificate: self.etcd_certfile.clone(),
                key: self.etcd_keyfile.clone(),
            },
            user,
            prefix: self.etcd_prefix.clone(),
            compact_every: self.etcd_compaction_interval,
            ..Options::new(self.etcd_servers.clone())
        })
    }

    /// In which form built-in kinds are written.
    pub(crate) fn media(&self) -> StorageMediaType {
        match self.storage_media_type {
            Media::Protobuf => StorageMediaType::Protobuf,
            Media::Json => StorageMediaType::Json,
        }
    }
}

fn password(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("--etcd-password-file: cannot read {}", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::flags::group;

    fn of<'a>(given: impl Fn(&str) -> Option<&'a str>, servers: &[&'a str]) -> Result<EtcdFlags> {
        group(|name| if name == "etcd-servers" { servers.to_vec() } else { given(name).into_iter().collect() })
    }

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let given = |name: &str| match name {
            "etcd-prefix" => Some("/other"),
            "etcd-compaction-interval" => Some("0"),
            "storage-media-type" => Some("application/json"),
            "etcd-cafile" => Some("/ca"),
            _ => None,
        };
        let flags = of(given, &["https://a:1", "https://b:1"]).unwrap();
        let options = flags.options().unwrap();
        assert_eq!((options.prefix.as_str(), options.endpoints.len(), options.compact_every), ("/other", 2, Duration::ZERO));
        assert_eq!((flags.media(), options.tls.authorities), (StorageMediaType::Json, Some("/ca".into())));
        let standard = of(|_| None, &["http://a:1"]).unwrap();
        assert_eq!(standard.options().unwrap().compact_every, Duration::from_secs(300));
        assert_eq!(standard.media(), StorageMediaType::Protobuf);
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_flags_name() {
        let refused = |name: &'static str, value: &'static str| {
            let flags = of(move |n| (n == name).then_some(value), &["http://a:1"]);
            flags.and_then(|flags| flags.options()).unwrap_err().to_string()
        };
        assert!(refused("etcd-certfile", "/c").contains("--etcd-keyfile"));
        assert!(refused("etcd-username", "root").contains("--etcd-password-file"));
        assert!(refused("etcd-compaction-interval", "often").contains("--etcd-compaction-interval"));
        assert!(refused("storage-media-type", "application/yaml").contains("--storage-media-type"));
        assert!(of(|_| None, &[]).unwrap().options().unwrap_err().to_string().contains("--etcd-servers"));
    }
}
