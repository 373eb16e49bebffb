//! The administrator's kubeconfig: absolute and complete in itself, so that it can be copied anywhere.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::certs::Pair;

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
