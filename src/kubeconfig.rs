//! The administrator's kubeconfig: absolute and complete in itself, so that it can be copied anywhere. With several servers it has a cluster
//! and a context for each: this one first, the others by their addresses.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::certs::Pair;

/// What a kubeconfig made by [`render`] says.
pub(crate) struct Access {
    /// The servers' addresses, `https://host:port`, in the order they are tried.
    pub(crate) servers: Vec<String>,
    /// The authority that signed the servers' certificates, PEM.
    pub(crate) authority: String,
    /// The user's certificate.
    pub(crate) client: Pair,
}

/// A kubeconfig for servers of one cluster and one client certificate.
pub(crate) fn render(servers: &[String], authority: &str, client: &Pair) -> String {
    let [authority, certificate, key] = [authority, &client.certificate, &client.key].map(|pem| STANDARD.encode(pem));
    let (mut clusters, mut contexts) = (String::new(), String::new());
    for (at, server) in servers.iter().enumerate() {
        let name = if at == 0 { "coracle".to_owned() } else { format!("coracle-{}", host(server)) };
        clusters.push_str(&format!("- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n"));
        contexts.push_str(&format!("- name: {name}\n  context:\n    cluster: {name}\n    user: admin\n"));
    }
    format!(
        "apiVersion: v1
kind: Config
current-context: coracle
clusters:
{clusters}contexts:
{contexts}users:
- name: admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"
    )
}

/// The host and, if it is not the usual one, the port, as a name.
fn host(server: &str) -> String {
    let authority = server.split_once("://").map_or(server, |(_, rest)| rest).trim_end_matches('/');
    authority.trim_end_matches(":6443").chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// Reads what [`render`] wrote: the clusters in their order, and the first user, their certificates embedded.
pub(crate) fn parse(text: &str) -> Result<Access> {
    let file: Value = serde_saphyr::from_str(text).context("is not valid YAML")?;
    let text = |at: &str| file.pointer(at).and_then(Value::as_str).with_context(|| format!("{at} is missing"));
    let pem = |at: &str| -> Result<String> {
        let bytes = STANDARD.decode(text(at)?).with_context(|| format!("{at} is not base64"))?;
        String::from_utf8(bytes).with_context(|| format!("{at} is not PEM"))
    };
    let first = text("/clusters/0/cluster/server")?;
    let others =
        file["clusters"].as_array().into_iter().flatten().skip(1).filter_map(|cluster| cluster.pointer("/cluster/server")?.as_str());
    Ok(Access {
        servers: std::iter::once(first).chain(others).map(str::to_owned).collect(),
        authority: pem("/clusters/0/cluster/certificate-authority-data")?,
        client: Pair { certificate: pem("/users/0/user/client-certificate-data")?, key: pem("/users/0/user/client-key-data")? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_read_back() {
        let client = Pair { certificate: "a certificate".to_owned(), key: "a key".to_owned() };
        let servers = ["https://127.0.0.1:6443", "https://10.0.0.2:6443", "https://[fd00::1]:7443"].map(str::to_owned);
        let rendered = render(&servers, "an authority", &client);
        let access = parse(&rendered).unwrap();
        assert_eq!((access.servers.as_slice(), access.authority.as_str()), (servers.as_slice(), "an authority"));
        assert_eq!((access.client.certificate.as_str(), access.client.key.as_str()), ("a certificate", "a key"));
        assert!(rendered.contains("name: coracle-10.0.0.2\n") && rendered.contains("name: coracle--fd00--1--7443\n"), "{rendered}");
        assert!(parse("clusters: []").is_err_and(|e| e.to_string() == "/clusters/0/cluster/server is missing"));
    }
}
