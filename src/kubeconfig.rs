//! The administrator's kubeconfig: absolute and complete in itself, so that it can be copied anywhere.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::certs::Pair;

/// What a kubeconfig made by [`render`] says.
pub(crate) struct Access {
    /// The server's address, `https://host:port`.
    pub(crate) server: String,
    /// The authority that signed the server's certificate, PEM.
    pub(crate) authority: String,
    /// The user's certificate.
    pub(crate) client: Pair,
}

/// A kubeconfig for one server and one client certificate.
pub(crate) fn render(server: &str, authority: &str, client: &Pair) -> String {
    let [authority, certificate, key] = [authority, &client.certificate, &client.key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
current-context: coracle
clusters:
- name: coracle
  cluster:
    server: {server}
    certificate-authority-data: {authority}
contexts:
- name: coracle
  context:
    cluster: coracle
    user: admin
users:
- name: admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
"
    )
}

/// Reads what [`render`] wrote: the first cluster and user, their certificates embedded.
pub(crate) fn parse(text: &str) -> Result<Access> {
    let file: Value = serde_saphyr::from_str(text).context("is not valid YAML")?;
    let text = |at: &str| file.pointer(at).and_then(Value::as_str).with_context(|| format!("{at} is missing"));
    let pem = |at: &str| -> Result<String> {
        let bytes = STANDARD.decode(text(at)?).with_context(|| format!("{at} is not base64"))?;
        String::from_utf8(bytes).with_context(|| format!("{at} is not PEM"))
    };
    Ok(Access {
        server: text("/clusters/0/cluster/server")?.to_owned(),
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
        let access = parse(&render("https://127.0.0.1:6443", "an authority", &client)).unwrap();
        assert_eq!((access.server.as_str(), access.authority.as_str()), ("https://127.0.0.1:6443", "an authority"));
        assert_eq!((access.client.certificate.as_str(), access.client.key.as_str()), ("a certificate", "a key"));
        assert!(parse("clusters: []").is_err_and(|e| e.to_string() == "/clusters/0/cluster/server is missing"));
    }
}
