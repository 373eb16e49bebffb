//! Certificates that a node asks for: of itself, and of its pods (KEP-4317).

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_tree::Value;
use x509_parser::{certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer};

use super::{MIRROR, NodeRestriction, Refusal, told};
use crate::{
    admission::{
        Attempt, Operation,
        look::{list, text},
    },
    registry::Object,
    wire::Status,
};

/// Signers whose certificates are a node's own.
const OWN: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// A node asks for certificates of a node in its own name only.
pub(super) fn own(attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), String> {
    let Some(request) = new.filter(|o| attempt.operation == Operation::Create && OWN.contains(&o.text("/spec/signerName"))) else {
        return Ok(());
    };
    let name = common_name(request.text("/spec/request")).map_err(|why| format!("unable to parse csr: {why}"))?;
    if name == format!("system:node:{node}") { Ok(()) } else { Err(format!("can only create a node CSR with CN=system:node:{node}")) }
}

fn common_name(request: &str) -> Result<String, String> {
    let bytes = STANDARD.decode(request).map_err(|e| e.to_string())?;
    let pem = Pem::iter_from_buffer(&bytes).next().and_then(Result::ok).filter(|pem| pem.label == "CERTIFICATE REQUEST");
    let pem = pem.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|e| format!("x509: malformed certificate request: {e}"))?;
    let name = request.certification_request_info.subject.iter_common_name().last().and_then(|name| name.as_str().ok()).unwrap_or_default();
    Ok(name.to_owned())
}

/// What may become right: what is known here may be old.
fn not_yet(why: String) -> Refusal {
    Status::new(500, "", why).into()
}

impl NodeRestriction {
    /// A node asks for certificates of pods that run on it, as the accounts they run as.
    pub(super) async fn pod_certificate(&self, attempt: &Attempt<'_>, node: &str, new: Option<&Object>) -> Result<(), Refusal> {
        let Some(request) = new.filter(|_| attempt.operation == Operation::Create) else {
            return Err(format!("unexpected operation {}", told(attempt)).into());
        };
        let spec = |field: &str| request.text(field);
        let namespace = &attempt.request.namespace;
        let (of, pod_name) = (spec("/spec/nodeName"), spec("/spec/podName"));
        if of != node {
            return Err(format!("PodCertificateRequest.Spec.NodeName={of:?}, which is not the requesting node {node:?}").into());
        }
        let known = self.found("nodes", "", node).await;
        let known =
            known.map_err(|s| not_yet(format!("while retrieving node {of:?} named in the PodCertificateRequest: {}", s.message)))?;
        let full = format!("{namespace}/{pod_name}");
        if known.uid() != spec("/spec/nodeUID") {
            let (uid, now) = (spec("/spec/nodeUID"), known.uid());
            let why =
                format!("PodCertificateRequest for pod {full:?} names node UID {uid:?}, inconsistent with the running node ({now:?})");
            return Err(not_yet(why));
        }
        let pod = self.found("pods", namespace, pod_name).await;
        let pod = pod.map_err(|s| not_yet(format!("while retrieving pod {full:?} named in the PodCertificateRequest: {}", s.message)))?;
        if pod.uid() != spec("/spec/podUID") {
            let (uid, now) = (spec("/spec/podUID"), pod.uid());
            let why = format!("PodCertificateRequest for pod {full:?} contains pod UID ({uid:?}) which differs from running pod {now:?}");
            return Err(not_yet(why));
        }
        if pod.text("/spec/nodeName") != of {
            return Err(format!("pod {full:?} is not running on node {of:?} named in the PodCertificateRequest").into());
        }
        if pod.annotation(MIRROR).is_some() {
            return Err(format!("pod {full:?} is a mirror pod").into());
        }
        self.account(request, &pod, namespace).await?;
        self.signer(attempt, request, &pod).await
    }

    async fn account(&self, request: &Object, pod: &Object, namespace: &str) -> Result<(), Refusal> {
        let (asked, runs) = (request.text("/spec/serviceAccountName"), pod.text("/spec/serviceAccountName"));
        if asked != runs {
            let full = format!("{namespace}/{}", pod.name());
            return Err(format!(
                "PodCertificateRequest for pod {full:?} contains serviceAccountName ({asked:?}) that differs from running pod ({runs:?})"
            )
            .into());
        }
        let full = format!("{namespace}/{asked}");
        let account = self
            .found("serviceaccounts", namespace, asked)
            .await
            .map_err(|s| not_yet(format!("while retrieving service account {full:?} named in the PodCertificateRequest: {}", s.message)))?;
        let (uid, now) = (request.text("/spec/serviceAccountUID"), account.uid());
        if uid != now {
            let pod = format!("{namespace}/{}", pod.name());
            return Err(not_yet(format!(
                "PodCertificateRequest for pod {pod:?} names service account UID {uid:?}, which differs from the running service account ({now:?})"
            )));
        }
        Ok(())
    }

    /// The pod asks for it, or the node may ask for itself.
    async fn signer(&self, attempt: &Attempt<'_>, request: &Object, pod: &Object) -> Result<(), Refusal> {
        let signer = request.text("/spec/signerName");
        let sources = list(pod.value(), "/spec/volumes").iter().flat_map(|volume| list(volume, "/projected/sources"));
        let mut certificates = sources.filter_map(|source| source.get("podCertificate")).filter(|c: &&Value| !c.is_null());
        if certificates.any(|certificate| text(certificate, "signerName") == signer) {
            return Ok(());
        }
        // Names of resources have no slashes.
        let resource = signer.replace('/', ":");
        let account = request.text("/spec/serviceAccountName");
        let user = &attempt.user.name;
        match self.may(attempt, "request-serviceaccounts-podcertificate-signer", &resource, account).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let full = format!("{}/{}", attempt.request.namespace, request.text("/spec/podName"));
                Err(format!("pod {full:?} does not mount a podCertificate projected volume for signer {signer:?}").into())
            }
            Err(why) => Err(format!("error authorizing {user} to request podcertificaterequests for signer {signer:?}: {why}").into()),
        }
    }
}
