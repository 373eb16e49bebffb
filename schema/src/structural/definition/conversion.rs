//! How a definition converts between its versions.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Options, flag, list, member, text_of};
use crate::{field::FieldErrors, name, structural::text};

const FORM: &str = "desired format: https://host[/path]";

pub(super) fn check(spec: &Value, options: &Options<'_>, errors: &mut FieldErrors) {
    let conversion = member(spec, "conversion");
    let strategy = text_of(conversion, "strategy");
    if conversion.is_null() {
        return;
    }
    if strategy != "None" && flag(spec, "preserveUnknownFields") {
        errors.invalid("spec.conversion.strategy", text::quoted(strategy), "must be None if spec.preserveUnknownFields is true");
    }
    match strategy {
        "" => errors.required("spec.conversion.strategy", ""),
        "None" | "Webhook" => {}
        other => errors.not_supported("spec.conversion.strategy", text::quoted(other), &["None", "Webhook"]),
    }
    let webhook = member(conversion, "webhook");
    let (config, versions) = (member(webhook, "clientConfig"), list(webhook, "conversionReviewVersions"));
    let path = "spec.conversion.webhookClientConfig";
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if !config.is_null() {
            errors.forbidden(path, detail);
        }
        if !versions.is_empty() {
            errors.forbidden("spec.conversion.conversionReviewVersions", detail);
        }
        return;
    }
    if config.is_null() {
        errors.required(path, "required when strategy is set to Webhook");
    } else {
        client(config, path, errors);
        if !options.bad_bundle && has_bad_bundle(spec) {
            let detail = "unable to load root certificates: unable to parse bytes as PEM block";
            errors.invalid(format!("{path}.caBundle"), text::quoted(text_of(config, "caBundle")), detail);
        }
    }
    review_versions(versions, options, errors);
}

/// Whether the webhook's bundle holds no certificate.
pub(super) fn has_bad_bundle(spec: &Value) -> bool {
    let bundle = text_of(member(member(member(spec, "conversion"), "webhook"), "clientConfig"), "caBundle");
    let decoded = STANDARD.decode(bundle).unwrap_or_default();
    let holds = |mark: &str| decoded.windows(mark.len()).any(|window| window == mark.as_bytes());
    let certificate = holds("-----BEGIN CERTIFICATE-----") && holds("-----END CERTIFICATE-----");
    !bundle.is_empty() && !certificate
}

fn client(config: &Value, path: &str, errors: &mut FieldErrors) {
    match (member(config, "url").as_str(), member(config, "service")) {
        (Some(url), Value::Null) => check_url(url, &format!("{path}.url"), errors),
        (None, service) if !service.is_null() => check_service(service, &format!("{path}.service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn check_url(url: &str, path: &str, errors: &mut FieldErrors) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if url.contains("://") { rest.split('/').next().unwrap_or_default() } else { "" };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        errors.invalid(path, text::quoted(scheme), &format!("'https' is the only allowed URL scheme; {FORM}"));
    }
    if host.is_empty() {
        errors.invalid(path, text::quoted(host), &format!("host must be specified; {FORM}"));
    }
    for (part, detail) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.invalid(path, text::quoted(part), detail);
        }
    }
}

/// Upstream hands over name and namespace in the wrong order, so a missing name is reported as a missing namespace.
fn check_service(service: &Value, path: &str, errors: &mut FieldErrors) {
    for (reported, field) in [("name", "namespace"), ("namespace", "name")] {
        if text_of(service, field).is_empty() {
            errors.required(format!("{path}.{reported}"), "");
        }
    }
    let port = member(service, "port").as_i64().unwrap_or(443);
    let wrong = name::port_number(port);
    if !wrong.is_empty() {
        errors.invalid(format!("{path}.port"), port, &format!("port is not valid: {}", wrong.join(", ")));
    }
    let (given, path) = (text_of(service, "path"), format!("{path}.path"));
    let quoted = text::quoted(given);
    if matches!(given, "" | "/") {
        return;
    }
    if given == "//" {
        return errors.invalid(path, quoted, "segment[0] may not be empty");
    }
    if !given.starts_with('/') {
        errors.invalid(&path, &quoted, "must start with a '/'");
    }
    let mut rest = given.chars();
    rest.next();
    let rest = rest.as_str();
    for (at, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&path, &quoted, &format!("segment[{at}] may not be empty"));
            continue;
        }
        for wrong in name::subdomain(step) {
            errors.invalid(&path, &quoted, &format!("segment[{at}]: {wrong}"));
        }
    }
}

fn review_versions(versions: &[Value], options: &Options<'_>, errors: &mut FieldErrors) {
    let path = "spec.conversion.conversionReviewVersions";
    if versions.is_empty() {
        return errors.required(path, "");
    }
    let texts: Vec<&str> = versions.iter().filter_map(Value::as_str).collect();
    for (at, version) in texts.iter().enumerate() {
        if texts[..at].contains(version) {
            errors.invalid(format!("{path}[{at}]"), text::quoted(version), "duplicate version");
            continue;
        }
        errors.invalid_each(&format!("{path}[{at}]"), version, name::label_1035(version));
    }
    if options.recognized_review && !texts.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        errors.invalid(path, Value::Array(versions.to_vec()), "must include at least one of v1, v1beta1");
    }
}
