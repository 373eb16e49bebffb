//! How a definition converts between its versions.

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_tree::Value;

use super::{Options, flag, list, member, text_of};
use crate::{field::FieldErrors, name, structural::text, webhook};

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
        webhook::client(config, path, errors);
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
