//! Who asks, and whether they may: client certificates, and the API server's word for those who are not known to be trusted.

use http::Method;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::State;
use crate::api;

/// The subject of a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Common name.
    pub user: String,
    /// Organizations.
    pub groups: Vec<String>,
}

impl Identity {
    /// Reads the subject; `None` when it has no common name.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
        let subject = parsed.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Self { user, groups })
    }
}

#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize)]
struct ReviewStatus {
    allowed: bool,
}

/// Which part of a node a path is about (kubelet `server/auth.go`).
#[must_use]
pub fn subresource(path: &str) -> &'static str {
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        "healthz" => "healthz",
        "pods" | "runningpods" => "pods",
        _ => "proxy",
    }
}

/// Whether the identity may do this on that node.
pub(crate) async fn allows(state: &State, identity: &Identity, method: &Method, path: &str, node: &str) -> bool {
    if identity.groups.iter().any(|g| g == "system:masters") || state.trusted_users.contains(&identity.user) {
        return true;
    }
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": identity.user, "groups": identity.groups,
            "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource(path), "name": node},
        },
    });
    match api::create(&state.client, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await {
        Ok(bytes) => serde_json::from_slice::<Review>(&bytes).is_ok_and(|review| review.status.allowed),
        Err(error) => {
            tracing::warn!(user = identity.user, %error, "access could not be reviewed, refused");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parts_of_a_node_as_upstream_names_them() {
        for (path, wanted) in
            [("/stats/summary", "stats"), ("/metrics/cadvisor", "metrics"), ("/exec/ns/p/c", "proxy"), ("/healthz", "healthz")]
        {
            assert_eq!(subresource(path), wanted, "{path}");
        }
    }
}
