//! The administrator's kubeconfig: absolute and complete in itself, so that it can be copied anywhere. With several servers it has a cluster
//! and a context for each: this one first, the others by their addresses.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::KeyPair;
use serde_json::Value;
use x509_parser::{der_parser::parse_der, pem::parse_x509_pem};

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
    let key = named_by_curve(&client.key).unwrap_or_else(|| client.key.clone());
    let [authority, certificate, key] = [authority, &client.certificate, &key].map(|pem| STANDARD.encode(pem));
    let (mut clusters, mut contexts) = (String::new(), String::new());
    for (at, server) in servers.iter().enumerate() {
        let name = if at == 0 { "coracle".to_owned() } else { format!("coracle-{}", host(server)) };
        clusters.push_str(&format!("- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n"));
        contexts.push_str(&format!("- name: {name}\n  context:\n    cluster: {name}\n    namespace: default\n    user: admin\n"));
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

/// A P-256 key as `EC PRIVATE KEY` (RFC 5915), the curve named in it. Clients in Java take every key whose label does not say EC for one of RSA.
fn named_by_curve(pem: &str) -> Option<String> {
    const P256: &str = "1.2.840.10045.3.1.7";
    /// Version 1 and 32 bytes to come; the curve's name; a point to come, uncompressed.
    const PARTS: [&[u8]; 3] = [
        &[0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20],
        &[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        &[0xa1, 0x44, 0x03, 0x42, 0x00],
    ];
    let (_, pkcs8) = parse_x509_pem(pem.as_bytes()).ok().filter(|(_, pem)| pem.label == "PRIVATE KEY")?;
    let (_, outer) = parse_der(&pkcs8.contents).ok()?;
    let [_, algorithm, inner, ..] = outer.as_sequence().ok()?.as_slice() else { return None };
    if algorithm.as_sequence().ok()?.get(1)?.as_oid().ok()?.to_id_string() != P256 {
        return None;
    }
    let (_, inner) = parse_der(inner.as_slice().ok()?).ok()?;
    let secret = inner.as_sequence().ok()?.get(1)?.as_slice().ok().filter(|secret| secret.len() == 32)?;
    let point = KeyPair::from_pem(pem).ok()?.public_key_raw().to_vec();
    let der = [PARTS[0], secret, PARTS[1], PARTS[2], &point].concat();
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Some(format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", lines.join("\n")))
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
    use rustls::pki_types::pem::PemObject;

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

    #[test]
    fn a_key_says_on_which_curve_it_is() {
        let made = KeyPair::generate().unwrap();
        let pem = named_by_curve(&made.serialize_pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert!(matches!(key, rustls::pki_types::PrivateKeyDer::Sec1(_)), "{pem}");
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&key).unwrap();
        assert!(signing.public_key().unwrap().as_ref().ends_with(made.public_key_raw()));
        assert!(pem.lines().all(|line| line.len() <= 64) && named_by_curve(&pem).is_none(), "{pem}");
    }
}
