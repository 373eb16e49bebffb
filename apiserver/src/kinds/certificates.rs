//! Certificate requests (upstream `registry/certificates`, `apis/certificates/validation`).

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_schema::{FieldErrors, name};
use coracle_tree::{Value, json};
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest, error::X509Error, pem::Pem, prelude::FromDer,
};

use super::view;
use crate::{
    metrics::kinds::{DURATIONS_HONORED, DURATIONS_REQUESTED},
    registry::{Object, Part, Rules},
    user::User,
};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Conditions written through `approval` only.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// Rules of `certificatesigningrequests`.
pub(super) struct CertificateSigningRequest;

impl Rules for CertificateSigningRequest {
    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        let Some(old) = old else {
            new.value_mut()["status"] = json!({});
            return;
        };
        match part {
            Part::Other("approval") => {
                let conditions = new.value().pointer("/status/conditions").cloned();
                for member in ["spec", "status"] {
                    let before = view::member(old.value(), member).clone();
                    new.value_mut()[member] = before;
                }
                if let Some(conditions) = conditions {
                    new.value_mut()["status"]["conditions"] = conditions;
                }
            }
            Part::Status => keep_decisions(new.value_mut(), old.value()),
            // A request is what it was made as.
            _ => new.value_mut()["spec"] = view::member(old.value(), "spec").clone(),
        }
    }

    fn stamp(&self, new: &mut Object, old: Option<&Object>, now: &str) {
        let Some(status) = view::message_mut(new.value_mut(), "status") else { return };
        let before = old.map(|old| conditions(old.value())).unwrap_or_default();
        for condition in view::items_mut(status, "conditions") {
            view::set_absent(condition, "lastUpdateTime", now);
            let alike = |other: &&Value| ["type", "status"].iter().all(|of| view::text(other, of) == view::text(condition, of));
            let since = before.iter().find(alike).and_then(|other| view::get(other, "lastTransitionTime")).cloned();
            view::set_absent(condition, "lastTransitionTime", since.unwrap_or_else(|| now.into()));
        }
    }

    /// Signers trust these fields, so what the writer says in them is of no account.
    fn note_creator(&self, new: &mut Object, creator: &User) {
        let Some(spec) = new.value_mut().get_mut("spec").and_then(Value::as_object_mut) else { return };
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        spec.insert("username", json!(&*creator.name));
        if !creator.uid.is_empty() {
            spec.insert("uid", json!(&*creator.uid));
        }
        if !creator.groups.is_empty() {
            spec.insert("groups", creator.groups.iter().map(|group| Value::from(&**group)).collect());
        }
        if !creator.extra.is_empty() {
            spec.insert("extra", json!(creator.extra));
        }
    }

    /// Whether signers keep to the duration that was asked for (`storage/metrics.go`).
    fn counts(&self, new: &Object, old: &Object) -> Option<Box<dyn FnOnce() + Send>> {
        let certificate = |object: &'_ Object| view::text(view::member(object.value(), "status"), "certificate").to_owned();
        let issued = certificate(new);
        if issued.is_empty() || !certificate(old).is_empty() {
            return None;
        }
        let spec = view::member(old.value(), "spec");
        let wanted = view::int(spec, "expirationSeconds")?;
        let signer = view::text(spec, "signerName");
        let signer = if signer.starts_with("kubernetes.io/") { signer } else { "other" }.to_owned();
        Some(Box::new(move || {
            DURATIONS_REQUESTED.inc([&signer]);
            if lasts(&issued).is_some_and(|lasts| is_honored(wanted, lasts)) {
                DURATIONS_HONORED.inc([&signer]);
            }
        }))
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let spec = view::member(new.value(), "spec");
        let old = old.map(Object::value);
        request(view::text(spec, "request"), &mut errors);
        usages(spec, old.map(|old| view::member(old, "spec")), &mut errors);
        let signer = view::text(spec, "signerName");
        if signer == LEGACY_SIGNER && old.is_none() {
            errors.invalid("spec.signerName", view::quoted(signer), "the legacy signerName is not allowed via this API version");
        } else {
            signer_name(signer, "spec.signerName", &mut errors);
        }
        if let Some(seconds) = view::int(spec, "expirationSeconds").filter(|s| *s < 600) {
            errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 600 seconds (10 minutes)");
        }
        check_conditions(conditions(new.value()), old.map(conditions).unwrap_or_default(), &mut errors);
        let certificate = |object: &'_ Value| view::text(view::member(object, "status"), "certificate").to_owned();
        let (given, before) = (certificate(new.value()), old.map(certificate).unwrap_or_default());
        if given != before
            && let Err(why) = chain(&given)
        {
            errors.invalid("status.certificate", "\"<certificate data>\"", &why);
        }
        if let Some(old) = old {
            check_decisions(conditions(new.value()), conditions(old), part, &mut errors);
            if given != before && part != Part::Status {
                errors.forbidden("status.certificate", "updates may not set certificate content");
            } else if given != before && !before.is_empty() {
                errors.forbidden("status.certificate", "updates may not modify existing certificate content");
            }
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", view::text(view::member(object, "spec"), "signerName").to_owned())]
    }
}

fn conditions(object: &Value) -> &[Value] {
    view::list(view::member(object, "status"), "conditions")
}

fn of_type<'v>(conditions: &'v [Value], kind: &str) -> Vec<&'v Value> {
    conditions.iter().filter(|c| view::text(c, "type") == kind).collect()
}

/// Decisions as they were, at the places the writer gave them; one added or taken away stays so, and is refused later.
fn keep_decisions(new: &mut Value, old: &Value) {
    for kind in DECISIONS {
        let before: Vec<Value> = of_type(conditions(old), kind).into_iter().cloned().collect();
        if before.len() != of_type(conditions(new), kind).len() {
            continue;
        }
        let Some(status) = view::message_mut(new, "status") else { return };
        let places = view::items_mut(status, "conditions").filter(|c| view::text(c, "type") == kind);
        places.zip(before).for_each(|(place, condition)| *place = condition);
    }
}

fn check_conditions(new: &[Value], old: &[Value], errors: &mut FieldErrors) {
    let has = |list: &[Value], kind: &str| !of_type(list, kind).is_empty();
    let repeats = |list: &[Value]| (0..list.len()).any(|at| !of_type(&list[..at], view::text(&list[at], "type")).is_empty());
    let (had_both, had_repeats, had_empty) = (DECISIONS.iter().all(|kind| has(old, kind)), repeats(old), has(old, ""));
    let mut decided: Vec<&str> = Vec::new();
    for (at, condition) in new.iter().enumerate() {
        let path = format!("status.conditions[{at}]");
        let (kind, status) = (view::text(condition, "type"), view::text(condition, "status"));
        if kind.is_empty() && !had_empty {
            errors.required(format!("{path}.type"), "");
        }
        let allowed: &[&str] = if ["Approved", "Denied", "Failed"].contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.required(format!("{path}.status"), "");
        } else if !allowed.contains(&status) {
            errors.not_supported(format!("{path}.status"), view::quoted(status), allowed);
        }
        if DECISIONS.contains(&kind) && !had_both {
            if decided.iter().any(|other| *other != kind) {
                errors.invalid("status.conditions", view::quoted(kind), "Approved and Denied conditions are mutually exclusive");
            }
            decided.push(kind);
        }
        if !had_repeats && has(&new[..at], kind) {
            errors.duplicate(format!("{path}.type"), view::quoted(kind));
        }
    }
}

/// Conditions that decide are never taken back, and are made through `approval` alone.
fn check_decisions(new: &[Value], old: &[Value], part: Part<'_>, errors: &mut FieldErrors) {
    for kind in ["Approved", "Denied", "Failed"] {
        if of_type(new, kind).len() < of_type(old, kind).len() {
            errors.forbidden("status.conditions", &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    if part == Part::Other("approval") {
        return;
    }
    for kind in DECISIONS {
        let (given, before) = (of_type(new, kind), of_type(old, kind));
        if given.len() > before.len() {
            errors.forbidden("status.conditions", &format!("updates may not add a condition of type {kind:?}"));
        } else if given.len() == before.len() && given != before {
            errors.forbidden("status.conditions", &format!("updates may not modify a condition of type {kind:?}"));
        }
    }
}

fn usages(spec: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let unknown = |usage: &str| !USAGES.contains(&usage);
    let given: Vec<&str> = view::texts(spec, "usages").collect();
    let before: Vec<&str> = old.map(|old| view::texts(old, "usages").collect()).unwrap_or_default();
    let repeats = |list: &[&str]| (0..list.len()).any(|at| list[..at].contains(&list[at]));
    if given.is_empty() {
        errors.required("spec.usages", "");
    }
    if !before.iter().any(|usage| unknown(usage)) {
        for (at, usage) in given.iter().enumerate().filter(|(_, usage)| unknown(usage)) {
            errors.not_supported(format!("spec.usages[{at}]"), view::quoted(usage), &USAGES);
        }
    }
    if !repeats(&before) {
        for (at, usage) in given.iter().enumerate().filter(|(at, usage)| given[..*at].contains(usage)) {
            errors.duplicate(format!("spec.usages[{at}]"), view::quoted(usage));
        }
    }
}

/// The request must be one PEM block, well formed and signed by its own key.
fn request(text: &str, errors: &mut FieldErrors) {
    if let Err(why) = parse_request(text) {
        errors.invalid("spec.request", if text.is_empty() { "null".to_owned() } else { view::quoted(text) }, &why);
    }
}

fn parse_request(text: &str) -> Result<(), String> {
    let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
    let block = "PEM block type must be CERTIFICATE REQUEST";
    let pem = Pem::iter_from_buffer(&bytes).next().and_then(Result::ok).filter(|pem| pem.label == "CERTIFICATE REQUEST");
    let pem = pem.ok_or(block)?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|e| format!("x509: malformed certificate request: {e}"))?;
    match request.verify_signature() {
        Ok(()) => Ok(()),
        Err(X509Error::SignatureUnsupportedAlgorithm) => Err("x509: cannot verify signature: algorithm unimplemented".to_owned()),
        Err(_) => Err("x509: the signature of the request does not fit its key".to_owned()),
    }
}

/// A certificate of a status: nothing, or PEM blocks of certificates only.
fn chain(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
    let mut blocks = 0;
    for pem in Pem::iter_from_buffer(&bytes) {
        let Ok(pem) = pem else { break };
        if pem.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", pem.label));
        }
        X509Certificate::from_der(&pem.contents).map_err(|e| format!("x509: malformed certificate: {e}"))?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

/// How long the first certificate of a chain is valid, in seconds.
fn lasts(text: &str) -> Option<i64> {
    let bytes = STANDARD.decode(text).ok()?;
    let pem = Pem::iter_from_buffer(&bytes).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let validity = certificate.validity();
    Some(validity.not_after.timestamp() - validity.not_before.timestamp())
}

/// Signers may begin five minutes before now, and round by a twentieth.
fn is_honored(wanted: i64, lasts: i64) -> bool {
    // Twentieths of a second.
    (wanted - lasts).abs() * 20 < 300 * 20 + wanted
}

/// Checks `domain/path` (upstream `ValidateSignerName`).
pub(super) fn signer_name(text: &str, path: &str, errors: &mut FieldErrors) {
    if text.is_empty() {
        errors.required(path, "");
        return;
    }
    let [domain, rest] = text.split('/').collect::<Vec<_>>()[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(path, view::quoted(text), detail);
        return;
    };
    if domain.len() > 253 {
        errors.too_long(path, 253, "bytes");
    }
    let mut each = |segment: &str, rule: fn(&str) -> Vec<String>| {
        if let Some((label, wrong)) = segment.split('.').map(|label| (label, rule(label))).find(|(_, wrong)| !wrong.is_empty()) {
            for message in wrong {
                errors.invalid(path, view::quoted(segment), &format!("validating label {label:?}: {message}"));
            }
        }
    };
    each(domain, name::label);
    each(rest, name::subdomain);
    if !domain.contains('.') {
        errors.invalid(path, view::quoted(domain), "should be a domain with at least two segments separated by dots");
    }
    if text.len() > 571 {
        errors.too_long(path, 571, "bytes");
    }
}

/// Whether a signer is one of Kubernetes' own.
pub(super) fn is_kubernetes_signer(signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

/// A request as a client sends it, for tests.
#[cfg(test)]
pub(super) fn sample_request() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    STANDARD.encode(rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::series::Counters;

    fn sample() -> Value {
        let spec = json!({"request": sample_request(), "signerName": "example.com/s", "usages": ["client auth"]});
        json!({"metadata": {"name": "a"}, "spec": spec, "status": {}})
    }

    fn object(value: Value) -> Object {
        Object::new(value).unwrap()
    }

    #[test]
    fn a_duration_that_was_asked_for_is_counted_when_the_certificate_is_there() {
        let with = |certificate: &str, seconds: Option<i64>, signer: &str| {
            let mut all = sample();
            all["spec"]["signerName"] = signer.into();
            all["spec"]["expirationSeconds"] = seconds.into();
            all["status"]["certificate"] = certificate.into();
            object(all)
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2026, 1, 2);
        let day = STANDARD.encode(parameters.self_signed(&key).unwrap().pem());
        let of = |counters: &'static Counters<1>, signer| counters.of([signer]).unwrap().load(std::sync::atomic::Ordering::Relaxed);
        let counted = |signer| (of(&DURATIONS_REQUESTED, signer), of(&DURATIONS_HONORED, signer));
        let change = |from: &Object, to: &Object| CertificateSigningRequest.counts(to, from).map(|count| count()).is_some();
        let ours = "kubernetes.io/of-this-test";
        for (seconds, signer) in [(86_400, ours), (7200, ours), (90_000, "example.com/of-this-test")] {
            assert!(change(&with("", Some(seconds), signer), &with(&day, Some(seconds), signer)));
        }
        assert_eq!((counted(ours), counted("other"), counted("example.com/of-this-test")), ((2, 1), (1, 1), (0, 0)));
        assert!(!change(&with("", None, ours), &with(&day, None, ours)), "no duration was asked for");
        assert!(!change(&with(&day, Some(7200), ours), &with(&day, Some(7200), ours)), "it was there before");
        assert!(!change(&with("", Some(7200), ours), &with("", Some(7200), ours)), "it is not there yet");
        // Five minutes and a twentieth.
        assert!(is_honored(6000, 6599) && !is_honored(6000, 6600) && is_honored(6000, 5401) && !is_honored(6000, 5400));
    }

    fn told(new: &Value, old: Option<&Value>, part: Part<'_>) -> Vec<String> {
        let old = old.cloned().map(object);
        CertificateSigningRequest.validate(&object(new.clone()), old.as_ref(), part).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_must_be_signed_by_its_own_key() {
        let mut csr = sample();
        assert!(told(&csr, None, Part::Whole).is_empty());
        csr["spec"]["request"] = "YQ==".into();
        assert!(told(&csr, None, Part::Whole)[0].contains("\"YQ==\": PEM block type must be CERTIFICATE REQUEST"));
        let mut forged = STANDARD.decode(sample()["spec"]["request"].as_str().unwrap()).unwrap();
        let at = forged.len() - 60;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        csr["spec"]["request"] = STANDARD.encode(forged).into();
        assert_eq!(told(&csr, None, Part::Whole).len(), 1);
    }

    #[test]
    fn decisions_stay_where_they_stand_when_the_status_is_written() {
        let mut old = sample();
        old["status"]["conditions"] = json!([{"type": "First", "status": "True"}, {"type": "Approved", "status": "True", "reason": "r"}]);
        let mut new = object(old.clone());
        new.value_mut()["status"]["conditions"][1]["reason"] = "forged".into();
        let more = json!({"type": "More", "status": "True"});
        new.value_mut()["status"]["conditions"].as_array_mut().unwrap().push(more);
        CertificateSigningRequest.prepare(&mut new, Some(&object(old.clone())), Part::Status);
        let kinds: Vec<&str> = conditions(new.value()).iter().map(|c| view::text(c, "type")).collect();
        assert_eq!(kinds, ["First", "Approved", "More"]);
        assert_eq!(conditions(new.value())[1]["reason"], "r");
        assert!(told(new.value(), Some(&old), Part::Status).is_empty());
    }

    #[test]
    fn only_approval_may_approve_and_nothing_takes_it_back() {
        let (old, mut new) = (sample(), sample());
        new["spec"] = old["spec"].clone();
        new["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
        assert!(told(&new, Some(&old), Part::Status)[0].contains("updates may not add a condition of type \"Approved\""));
        assert!(told(&new, Some(&old), Part::Other("approval")).is_empty());
        assert!(told(&old, Some(&new), Part::Other("approval"))[0].contains("may not remove"));
    }

    #[test]
    fn conditions_are_stamped_and_keep_the_time_of_their_last_change() {
        let mut old = sample();
        old["status"]["conditions"] = json!([{"type": "A", "status": "True", "lastTransitionTime": "1"}]);
        let mut new = object(old.clone());
        new.value_mut()["status"]["conditions"] = json!([{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]);
        CertificateSigningRequest.stamp(&mut new, Some(&object(old)), "2");
        let times: Vec<(&str, &str)> =
            conditions(new.value()).iter().map(|c| (view::text(c, "lastUpdateTime"), view::text(c, "lastTransitionTime"))).collect();
        assert_eq!(times, [("2", "1"), ("2", "2")]);
    }

    #[test]
    fn a_signer_is_a_domain_and_a_path() {
        let told = |text: &str| {
            let mut errors = FieldErrors::none();
            signer_name(text, "p", &mut errors);
            errors.0.len()
        };
        assert_eq!((told("example.com/a.b"), told("example/a"), told("Example.com/a"), told("example.com/a/b")), (0, 1, 1, 1));
        assert!(is_kubernetes_signer("kubernetes.io/x") && !is_kubernetes_signer("akubernetes.io/x"));
    }
}
