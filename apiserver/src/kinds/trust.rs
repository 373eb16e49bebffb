//! Certificates that pods trust, and certificates for pods (upstream `ValidateClusterTrustBundle`, `ValidatePodCertificateRequestCreate`).

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_schema::{FieldErrors, name};
use coracle_tree::{Text, Value};
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer, public_key::PublicKey,
};

use super::{certificates, fields, podcertificate, view};
use crate::registry::{NameRule, Object, Part, Policy, Rules, names};

/// Rules of `clustertrustbundles`.
pub(super) struct ClusterTrustBundle;
/// Rules of `podcertificaterequests`.
pub(super) struct PodCertificateRequest;

const BUNDLE_MAX: usize = 1024 * 1024;
const REQUEST_MAX: usize = 10 * 1024;
const UID_MAX: usize = 128;
const OMITTED: &str = "\"<value omitted>\"";
/// Seconds a certificate may be good for: the least, the most, and the most of Kubernetes' own signers.
const LIFETIME: (i64, i64, i64) = (3600, 91 * 86_400, 86_400);

impl Rules for ClusterTrustBundle {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.trustBundle"]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let (signer, bundle) = (new.text("/spec/signerName"), new.text("/spec/trustBundle"));
        if !signer.is_empty() {
            certificates::signer_name(signer, "spec.signerName", &mut errors);
        }
        // What is stored was fine when it came.
        if old.is_none_or(|old| old.text("/spec/trustBundle") != bundle) {
            anchors(bundle, &mut errors);
        }
        errors
    }

    fn name_faults(&self, new: &Object, _old: Option<&Object>, given: &str, prefix: bool) -> Option<Vec<String>> {
        Some(bundle_name(given, new.text("/spec/signerName"), prefix))
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if new.text("/spec/signerName") != old.text("/spec/signerName") {
            errors.invalid("spec.signerName", view::quoted(new.text("/spec/signerName")), "field is immutable");
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        fields::CLUSTER_TRUST_BUNDLE.selectable(object)
    }
}

/// What is wrong with the name of a bundle: that of a signer is named after it, `example.com:signer:name`.
fn bundle_name(given: &str, signer: &str, prefix: bool) -> Vec<String> {
    let subdomain = |name: &str| names::object_name(NameRule::Subdomain, name, prefix);
    if signer.is_empty() {
        let of_signer = given.contains(':');
        return if of_signer {
            vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()]
        } else {
            subdomain(given)
        };
    }
    let start = format!("{}:", signer.replace('/', ":"));
    match given.strip_prefix(&start) {
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {start}")],
        Some(rest) => subdomain(rest),
    }
}

/// PEM blocks of certificates of authorities, each once.
fn anchors(bundle: &str, errors: &mut FieldErrors) {
    const PATH: &str = "spec.trustBundle";
    if bundle.len() > BUNDLE_MAX {
        return errors.too_long(PATH, BUNDLE_MAX as u64, "byte");
    }
    let mut found: Vec<(Vec<u8>, Vec<usize>)> = Vec::new();
    let mut wrong = false;
    for (at, pem) in Pem::iter_from_buffer(bundle.as_bytes()).map_while(Result::ok).enumerate() {
        let why = if pem.label != "CERTIFICATE" {
            format!("has bad block type: {}", pem.label)
        } else {
            match X509Certificate::from_der(&pem.contents) {
                Err(_) => "does not parse as X.509".to_owned(),
                Ok((_, certificate)) if !certificate.is_ca() => "does not have the CA bit set".to_owned(),
                Ok(_) => String::new(),
            }
        };
        if !why.is_empty() {
            errors.invalid(PATH, OMITTED, &format!("entry {at} {why}"));
            wrong = true;
        } else if let Some((_, places)) = found.iter_mut().find(|(known, _)| *known == pem.contents) {
            places.push(at);
        } else {
            found.push((pem.contents, vec![at]));
        }
    }
    if wrong {
        return;
    }
    if found.is_empty() {
        errors.invalid(PATH, OMITTED, "at least one trust anchor must be provided");
    }
    for (_, places) in found.iter().filter(|(_, places)| places.len() > 1) {
        let places: Vec<String> = places.iter().map(ToString::to_string).collect();
        errors.invalid(PATH, OMITTED, &format!("duplicate trust anchor (indices [{}])", places.join(" ")));
    }
}

impl Rules for PodCertificateRequest {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn passed_over(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        vec!["spec".to_owned()]
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            podcertificate::status(new.value(), old.map_or(&Value::Null, Object::value), &mut errors);
            return errors;
        }
        if old.is_none() {
            request(view::member(new.value(), "spec"), &mut errors);
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = |object: &Object| view::member(object.value(), "spec").clone();
        if part == Part::Whole && spec(new) != spec(old) {
            errors.invalid("spec", spec(new), "field is immutable");
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        fields::POD_CERTIFICATE_REQUEST.selectable(object)
    }
}

fn request(spec: &Value, errors: &mut FieldErrors) {
    let text = |field| view::text(spec, field);
    certificates::signer_name(text("signerName"), "spec.signerName", errors);
    for key in view::map(spec, "unverifiedUserAnnotations").keys().map(Text::to_lowercase) {
        let path = "spec.unverifiedUserAnnotations";
        let faults = name::qualified(&key);
        if key.is_empty() {
            errors.required(path, "");
        } else if faults.is_empty() && !key.contains('/') {
            errors.invalid(path, view::quoted(&key), "must be a domain-prefixed key (such as \"acme.io/foo\")");
        } else {
            errors.invalid_each(path, &key, faults);
        }
    }
    for (name, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
        errors.invalid_each(&format!("spec.{name}"), text(name), name::subdomain(text(name)));
        if text(uid).is_empty() {
            errors.invalid(format!("spec.{uid}"), "\"\"", "must not be empty");
        }
        if text(uid).len() > UID_MAX {
            errors.too_long(format!("spec.{uid}"), UID_MAX as u64, "byte");
        }
    }
    let path = "spec.maxExpirationSeconds";
    let Some(seconds) = view::int(spec, "maxExpirationSeconds") else { return errors.required(path, "must be set") };
    let (least, most, own) = LIFETIME;
    let most = if certificates::is_kubernetes_signer(text("signerName")) { own } else { most };
    if !(least..=most).contains(&seconds) {
        errors.invalid(path, seconds, &format!("must be in the range [{least}, {most}]"));
    }
    for own in ["pkixPublicKey", "proofOfPossession"].into_iter().filter(|own| !text(own).is_empty()) {
        // Of v1beta1 only.
        errors.forbidden(format!("spec.{own}"), "is not supported by this server; send stubPKCS10Request");
    }
    if text("stubPKCS10Request").is_empty() {
        let detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        return errors.invalid_unshown("spec", detail);
    }
    if let Err(why) = stub(&STANDARD.decode(text("stubPKCS10Request")).unwrap_or_default()) {
        errors.push(coracle_schema::ErrorKind::Invalid, "spec.stubPKCS10Request", why);
    }
}

/// A request that is only there for its key, by which it is signed; what is wrong with it, as the cause says it.
fn stub(bytes: &[u8]) -> Result<(), String> {
    let invalid = |detail: &str| format!("Invalid value: {detail}");
    if bytes.len() > REQUEST_MAX {
        return Err(format!("Too long: may not be more than {REQUEST_MAX} bytes"));
    }
    let (_, request) = X509CertificationRequest::from_der(bytes).map_err(|_| invalid("must be a valid PKCS#10 CSR"))?;
    let key = &request.certification_request_info.subject_pki;
    let ed25519 = key.algorithm.algorithm.to_id_string() == "1.3.101.112";
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if ![3072, 4096].contains(&rsa.key_size()) => {
            let detail = "RSA keys must have modulus size 3072 or 4096";
            return Err(format!("Invalid value: \"{}-bit modulus\": {detail}", rsa.key_size()));
        }
        Ok(PublicKey::RSA(_) | PublicKey::EC(_)) => {}
        _ if ed25519 => {}
        _ => return Err(invalid("unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
    }
    request.verify_signature().map_err(|_| invalid("invalid signature"))
}

/// A bundle of one authority, for tests.
#[cfg(test)]
pub(super) fn sample_bundle() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

/// A request of a pod's kubelet, for tests.
#[cfg(test)]
pub(super) fn sample_stub() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    STANDARD.encode(rcgen::CertificateParams::default().serialize_request(&key).unwrap().der())
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn a_bundle_holds_authorities_and_is_named_after_its_signer() {
        let told = |name: &str, spec: Value| -> Vec<String> {
            let object = Object::new(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
            let names = ClusterTrustBundle.name_faults(&object, None, name, false).unwrap_or_default();
            let rest = ClusterTrustBundle.validate(&object, None, Part::Whole);
            names.into_iter().chain(rest.0.iter().map(|error| error.message.clone())).collect()
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let authority = sample_bundle();
        assert!(told("a", json!({"trustBundle": authority})).is_empty());
        assert!(told("example.com:s:a", json!({"signerName": "example.com/s", "trustBundle": authority})).is_empty());
        assert!(told("a", json!({"trustBundle": leaf}))[0].ends_with("entry 0 does not have the CA bit set"));
        assert!(told("a", json!({"trustBundle": "x"}))[0].ends_with("at least one trust anchor must be provided"));
        let twice = told("a", json!({"signerName": "example.com/s", "trustBundle": format!("{authority}{authority}")}));
        assert!(twice[0].ends_with("must be named with prefix example.com:s:") && twice[1].ends_with("(indices [0 1])"), "{twice:?}");
    }

    #[test]
    fn a_request_for_a_pod_is_signed_by_its_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        assert_eq!(stub(&der), Ok(()));
        let mut forged = der;
        if let Some(last) = forged.last_mut() {
            *last ^= 1;
        }
        assert_eq!(stub(&forged), Err("Invalid value: invalid signature".to_owned()));
        assert_eq!(stub(b"a"), Err("Invalid value: must be a valid PKCS#10 CSR".to_owned()));
    }
}
