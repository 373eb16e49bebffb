//! Who may approve, sign and ask for certificates (`plugin/pkg/admission/certificates`).

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_schema::FieldErrors;
use coracle_tree::Value;
use x509_parser::{certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer};

use super::{Admission, Attempt, Operation, look};
use crate::{
    authz::{Chain, MASTERS},
    registry::Object,
    request::RequestInfo,
    wire::Status,
};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// CertificateApproval: approving needs `approve` on the signer.
pub struct CertificateApproval {
    /// Who decides.
    pub authorizer: Chain,
}

/// CertificateSigning: filling in the certificate needs `sign` on the signer.
pub struct CertificateSigning {
    /// Who decides.
    pub authorizer: Chain,
}

/// What upstream checks where it stores pods' certificate requests: answering one needs `sign` on the signer. It cannot be switched off.
pub struct PodCertificateSigning {
    /// Who decides.
    pub authorizer: Chain,
}

/// ClusterTrustBundleAttest: writing a signer's bundle needs `attest` on the signer.
pub struct ClusterTrustBundleAttest {
    /// Who decides.
    pub authorizer: Chain,
}

/// CertificateSubjectRestriction: nobody asks to become a superuser.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Update && is_part(attempt, "approval")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let signer = attempt.old.map(|o| o.text("/spec/signerName")).unwrap_or_default();
        if may(&self.authorizer, attempt, "approve", signer).await {
            return Ok(());
        }
        Err(look::forbidden(attempt, new, &format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

#[async_trait]
impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Update && is_part(attempt, "status")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (new, attempt.old) else { return Ok(()) };
        let part = |o: &Object, name: &str| o.value().get("status").and_then(|s| s.get(name)).cloned().unwrap_or(Value::Null);
        if ["certificate", "conditions"].iter().all(|name| part(new, name) == part(old, name)) {
            return Ok(());
        }
        let signer = old.text("/spec/signerName");
        if may(&self.authorizer, attempt, "sign", signer).await {
            return Ok(());
        }
        Err(look::forbidden(attempt, Some(new), &format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

#[async_trait]
impl Admission for PodCertificateSigning {
    fn name(&self) -> &'static str {
        "PodCertificateSigning"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        let request = attempt.request;
        let addressed = (&*request.group, &*request.resource, &*request.subresource);
        attempt.operation == Operation::Update && addressed == (GROUP, "podcertificaterequests", "status")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (new, attempt.old) else { return Ok(()) };
        let signer = old.text("/spec/signerName");
        if new.value().get("status") == old.value().get("status") || may(&self.authorizer, attempt, "sign", signer).await {
            return Ok(());
        }
        let mut errors = FieldErrors::none();
        let user = &attempt.user.name;
        errors.forbidden("spec.signerName", &format!("User {user:?} is not permitted to \"sign\" for signer {signer:?}"));
        Err(Status::invalid(attempt.kind.kind_subject(new.name()), &errors))
    }
}

#[async_trait]
impl Admission for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update) && look::is(attempt, GROUP, "clustertrustbundles")
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let signer = new.map(|o| o.text("/spec/signerName")).unwrap_or_default();
        if signer.is_empty() || may(&self.authorizer, attempt, "attest", signer).await {
            return Ok(());
        }
        Err(look::forbidden(attempt, new, &format!("user not permitted to attest for signerName {signer:?}")))
    }
}

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        attempt.operation == Operation::Create && look::is(attempt, GROUP, REQUESTS)
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(request) = new.filter(|o| o.text("/spec/signerName") == CLIENT_SIGNER) else { return Ok(()) };
        let organizations = organizations(request.text("/spec/request"));
        let organizations = organizations.ok_or_else(|| look::forbidden(attempt, new, "failed to parse CSR"))?;
        if !organizations.iter().any(|o| o == MASTERS) {
            return Ok(());
        }
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        Err(look::forbidden(attempt, new, &why))
    }
}

fn is_part(attempt: &Attempt<'_>, part: &str) -> bool {
    let request = attempt.request;
    request.group == GROUP && request.resource == REQUESTS && request.subresource == part
}

/// Whether the user may `verb` the signer itself or all of its domain (`example.com/*`).
async fn may(authorizer: &Chain, attempt: &Attempt<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
    let names = std::iter::once(signer.to_owned()).chain(domain);
    let ask = |name: String| RequestInfo {
        is_resource: true,
        verb: verb.into(),
        group: GROUP.into(),
        version: "*".into(),
        resource: "signers".into(),
        name,
        ..RequestInfo::default()
    };
    for request in names.map(ask) {
        if authorizer.decide(attempt.user, &request).await.is_allowed() {
            return true;
        }
    }
    false
}

/// The organizations of a request: base64 of PEM of PKCS#10.
fn organizations(request: &str) -> Option<Vec<String>> {
    let pem = STANDARD.decode(request).ok()?;
    let block = Pem::iter_from_buffer(&pem).next()?.ok()?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    Some(subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_tree::json;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::{
        admission::bench::Bench,
        authn::User,
        authz::{Authorizer, Decision},
    };

    /// Allows `approve` on everything of example.com and `sign` on one signer.
    struct Rule;

    impl Authorizer for Rule {
        fn name(&self) -> &str {
            "rule"
        }

        fn decide(&self, _: &User, r: &RequestInfo) -> Decision {
            let allowed = matches!((r.verb.as_str(), r.name.as_str()), ("approve", "example.com/*") | ("sign", "example.com/one"));
            if allowed { Decision::Allow } else { Decision::NoOpinion(String::new()) }
        }
    }

    fn csr(signer: &str, certificate: &str) -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"signerName": signer}, "status": {"certificate": certificate}})
    }

    #[tokio::test]
    async fn approving_and_signing_need_the_right_on_the_signer() {
        let b = Bench::new();
        let authorizer = Chain::new(vec![Arc::new(Rule)]);
        let (approval, signing) = (CertificateApproval { authorizer: authorizer.clone() }, CertificateSigning { authorizer });
        let at = |part: &str| format!("certificatesigningrequests.certificates.k8s.io/{part} - r");
        for (signer, approves, signs) in [("example.com/one", true, true), ("example.com/two", true, false), ("other.com/x", false, false)]
        {
            let approved = b.update(&approval, &at("approval"), csr(signer, ""), csr(signer, "")).await;
            let signed = b.update(&signing, &at("status"), csr(signer, ""), csr(signer, "pem")).await;
            assert_eq!((approved.is_ok(), signed.is_ok()), (approves, signs), "{signer}");
        }
        assert!(b.update(&signing, &at("status"), csr("other.com/x", "pem"), csr("other.com/x", "pem")).await.is_ok());
    }

    #[tokio::test]
    async fn nobody_asks_for_the_superuser_group() {
        let b = Bench::new();
        let request = |organization: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::OrganizationName, organization);
            let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            json!({"metadata": {"name": "r"}, "spec": {"signerName": CLIENT_SIGNER, "request": STANDARD.encode(pem)}})
        };
        let at = "certificatesigningrequests.certificates.k8s.io - r";
        assert!(b.create(&CertificateSubjectRestriction, at, request("devs")).await.is_ok());
        let refused = b.create(&CertificateSubjectRestriction, at, request(MASTERS)).await.unwrap_err();
        assert!(refused.message.contains("with system:masters group is not allowed"));
    }
}
