//! What a signer may answer to a pod's certificate request (upstream `ValidatePodCertificateRequestStatusUpdate`, KEP-4317). That a certificate
//! begins within five minutes of now is not checked: rules of kinds know no clock.

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_schema::FieldErrors;
use coracle_tree::{Value, json};
use jiff::Timestamp;
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest, extensions::GeneralName, pem::Pem, prelude::FromDer,
};

use super::{conditions, view};

const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];
const CHAIN_MAX: usize = 100 * 1024;
const CHAIN: &str = "status.certificateChain";
/// Least seconds a certificate is good for, and between its ends and its renewal.
const LEAST_LIFETIME: i64 = 3600;
const MARGIN: i64 = 600;

/// Checks a status that is about to be written.
pub(super) fn status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (now, before) = (view::member(new, "status"), view::member(old, "status"));
    let list = view::list(now, "conditions");
    ends(list, errors);
    conditions::check(list, "status.conditions", errors);
    if !errors.is_empty() {
        return;
    }
    let is = |status: &Value, kind: &str| view::list(status, "conditions").iter().any(|c| view::text(c, "type") == kind);
    let nothing = |status: &Value| status.as_object().is_none_or(coracle_tree::Map::is_empty);
    let same = now == before || (nothing(now) && nothing(before));
    if ENDS.iter().any(|kind| is(before, kind)) {
        if !same {
            errors.invalid_unshown("status", "immutable after PodCertificateRequest is issued, denied, or failed");
        }
    } else if is(now, "Denied") || is(now, "Failed") {
        if *now != json!({"conditions": list}) {
            errors.invalid_unshown("status", "non-condition status fields must be empty when denying or failing the PodCertificateRequest");
        }
    } else if is(now, "Issued") {
        if let Err((path, detail)) = issued(view::member(new, "spec"), now, errors) {
            errors.invalid(path, view::quoted(view::text(now, path.trim_start_matches("status."))), &detail);
        }
    } else if !same {
        errors.invalid_unshown("status", r#"status is immutable unless transitioning to "Issued", "Denied", or "Failed""#);
    }
}

/// One of the three ends at most, and it is true.
fn ends(list: &[Value], errors: &mut FieldErrors) {
    let mut known = 0;
    for (at, condition) in list.iter().enumerate() {
        // The dot before the index is upstream's.
        let path = |field: &str| format!("status.conditions.[{at}].{field}");
        let (kind, status) = (view::text(condition, "type"), view::text(condition, "status"));
        if !ENDS.contains(&kind) {
            errors.not_supported(path("type"), view::quoted(kind), &ENDS);
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = r#"There may be at most one condition with type "Issued", "Denied", or "Failed""#;
            errors.invalid(path("type"), view::quoted(kind), detail);
        }
        if status != "True" {
            errors.not_supported(path("status"), view::quoted(status), &["True"]);
        }
    }
}

/// A path and what is wrong there.
type Fault = (&'static str, String);

/// The chain that was issued and the times that go with it: the first thing that is wrong; times that are missing are told all.
fn issued(spec: &Value, status: &Value, errors: &mut FieldErrors) -> Result<(), Fault> {
    let fault = |detail: &str| (CHAIN, detail.to_owned());
    let chain = view::text(status, "certificateChain");
    if chain.len() > CHAIN_MAX {
        errors.too_long(CHAIN, CHAIN_MAX as u64, "byte");
        return Ok(());
    }
    let blocks: Vec<Pem> = Pem::iter_from_buffer(chain.as_bytes()).flatten().collect();
    let leaf = blocks.first().ok_or_else(|| fault("issued certificate chain must contain at least one certificate"))?;
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        return Err(fault("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
    }
    let (_, leaf) = X509Certificate::from_der(&leaf.contents).map_err(|_| fault("leaf certificate does not parse as valid X.509"))?;
    let stub = STANDARD.decode(view::text(spec, "stubPKCS10Request")).unwrap_or_default();
    let key = X509CertificationRequest::from_der(&stub).map(|(_, request)| request.certification_request_info.subject_pki.raw.to_vec());
    if key.is_ok_and(|key| key != leaf.public_key().raw) {
        return Err(fault("leaf certificate was not issued to the requested public key"));
    }
    names(&leaf, errors);
    times(spec, status, &leaf, errors)?;
    let others_parse = blocks.iter().skip(1).all(|block| X509Certificate::from_der(&block.contents).is_ok());
    if others_parse { Ok(()) } else { Err(fault("intermediate certificate does not parse as valid X.509")) }
}

/// The alternative names of a leaf: every one that cannot be a name.
fn names(leaf: &X509Certificate<'_>, errors: &mut FieldErrors) {
    let names = leaf.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName("") => {
                errors.invalid(CHAIN, view::quoted(""), "leaf certificate should not contain empty DNSName");
            }
            GeneralName::DNSName(name) => {
                if name.contains("..") {
                    errors.invalid(CHAIN, view::quoted(name), "leaf certificate's DNSName should not contain '..'");
                }
                if name.starts_with('.') || name.ends_with('.') {
                    errors.invalid(CHAIN, view::quoted(name), "leaf certificate's DNSName should not start or end with '.'");
                }
            }
            GeneralName::RFC822Name(name) if !is_address(name) => {
                errors.invalid(CHAIN, view::quoted(name), "leaf certificate should not contain invalid EmailAddress");
            }
            _ => {}
        }
    }
}

/// Whether a text is an address of mail as certificates have them: `local@domain` (RFC 5280, 4.2.1.6).
fn is_address(name: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control() || "<>()[],;:\\\"@".contains(c));
    name.rsplit_once('@').is_some_and(|(local, domain)| plain(local) && plain(domain) && !domain.starts_with('.') && !domain.ends_with('.'))
}

fn times(spec: &Value, status: &Value, leaf: &X509Certificate<'_>, errors: &mut FieldErrors) -> Result<(), Fault> {
    const NEEDED: [(&str, &str); 3] = [
        ("notBefore", "must be present and consistent with the issued certificate"),
        ("notAfter", "must be present and consistent with the issued certificate"),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ];
    let seconds = |field: &str| view::text(status, field).parse::<Timestamp>().ok().map(Timestamp::as_second);
    for (field, detail) in NEEDED.into_iter().filter(|(field, _)| seconds(field).is_none()) {
        errors.required(format!("status.{field}"), detail);
    }
    let (Some(from), Some(to), Some(refresh)) = (seconds("notBefore"), seconds("notAfter"), seconds("beginRefreshAt")) else {
        return Ok(());
    };
    let (begins, ends) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let most = view::int(spec, "maxExpirationSeconds").unwrap_or(i64::MAX);
    let rules: [(bool, Fault); 6] = [
        (from == begins, ("status.notBefore", "must be set to the NotBefore time encoded in the leaf certificate".into())),
        (to == ends, ("status.notAfter", "must be set to the NotAfter time encoded in the leaf certificate".into())),
        (ends - begins >= LEAST_LIFETIME, (CHAIN, "leaf certificate lifetime must be >= 1 hour".into())),
        (ends - begins <= most, (CHAIN, format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})"))),
        (refresh >= from + MARGIN, ("status.beginRefreshAt", "must be at least 10 minutes after status.notBefore".into())),
        (refresh <= to - MARGIN, ("status.beginRefreshAt", "must be at least 10 minutes before status.notAfter".into())),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, fault)| Err(fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::trust::sample_stub;

    fn condition(kind: &str) -> Value {
        json!([{"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z"}])
    }

    fn told(before: Value, now: Value) -> Vec<String> {
        let request =
            |status: Value| json!({"spec": {"stubPKCS10Request": sample_stub(), "maxExpirationSeconds": 86400}, "status": status});
        let mut errors = FieldErrors::none();
        status(&request(now), &request(before), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_status_moves_once_and_in_one_way() {
        assert_eq!(told(json!({}), json!({})), Vec::<String>::new());
        assert_eq!(told(json!({}), json!({"conditions": condition("Denied")})), Vec::<String>::new());
        let moved = told(json!({"conditions": condition("Denied")}), json!({"conditions": condition("Failed")}));
        assert!(moved[0].contains("immutable after PodCertificateRequest is issued"), "{moved:?}");
        let lonely = told(json!({}), json!({"notAfter": "2020-01-01T00:00:00Z"}));
        assert!(lonely[0].contains("unless transitioning"), "{lonely:?}");
        let odd = told(json!({}), json!({"conditions": condition("Odd")}));
        assert!(odd[0].contains("Unsupported value: \"Odd\""), "{odd:?}");
    }

    #[test]
    fn names_in_a_leaf_are_names() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let dns = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());
        let mail = |name: &str| rcgen::SanType::Rfc822Name(name.try_into().unwrap());
        params.subject_alt_names = vec![dns("a.b"), dns("a..b"), dns(".c"), dns("d."), mail("jane@example.org"), mail("jane"), mail("@x")];
        let leaf = params.self_signed(&key).unwrap();
        let (_, leaf) = X509Certificate::from_der(leaf.der()).unwrap();
        let mut errors = FieldErrors::none();
        names(&leaf, &mut errors);
        let told: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let named = |name: &str| told.iter().filter(|error| error.contains(&format!("Invalid value: {name:?}"))).count();
        assert_eq!(["a.b", "a..b", ".c", "d.", "jane@example.org", "jane", "@x"].map(named), [0, 1, 1, 1, 0, 1, 1], "{told:?}");
    }

    #[test]
    fn a_chain_is_for_the_key_that_was_asked_with() {
        let key = rcgen::KeyPair::generate().unwrap();
        let other = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let found = told(json!({}), json!({"conditions": condition("Issued"), "certificateChain": other}));
        assert!(found[0].contains("was not issued to the requested public key"), "{found:?}");
        let found = told(json!({}), json!({"conditions": condition("Issued")}));
        assert!(found[0].contains("must contain at least one certificate"), "{found:?}");
    }
}
