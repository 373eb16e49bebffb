//! Where a webhook is, of admission and of conversion (apiserver `pkg/util/webhook/validation.go`).

use coracle_cel::Url;
use coracle_tree::Value;

use crate::{field::FieldErrors, go::quoted, name};

/// What is wrong with a client configuration at `path`.
pub fn client(config: &Value, path: &str, errors: &mut FieldErrors) {
    let given = |name: &str| config.get(name).filter(|value| !value.is_null());
    match (given("url").and_then(Value::as_str), given("service")) {
        (Some(text), None) => url(text, &format!("{path}.url"), errors),
        (None, Some(of)) => service(of, &format!("{path}.service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

/// `https://host[/path]`
fn url(text: &str, path: &str, errors: &mut FieldErrors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let url = match Url::reference(text) {
        Ok(url) => url,
        Err(why) => return errors.required(path, &format!("url must be a valid URL: {why}{FORM}")),
    };
    if url.scheme() != "https" {
        errors.invalid(path, quoted(url.scheme()), &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host().is_empty() {
        errors.invalid(path, quoted(url.host()), &format!("host must be specified{FORM}"));
    }
    if let Some(user) = url.user() {
        errors.invalid(path, quoted(&user), "user information is not permitted in the URL");
    }
    if !url.fragment().is_empty() {
        errors.invalid(path, quoted(&url.fragment()), "fragments are not permitted in the URL");
    }
    if !url.raw_query().is_empty() {
        errors.invalid(path, quoted(url.raw_query()), "query parameters are not permitted in the URL");
    }
}

/// Upstream hands over name and namespace in the wrong order, so a missing name is reported as a missing namespace.
fn service(of: &Value, path: &str, errors: &mut FieldErrors) {
    for (reported, field) in [("name", "namespace"), ("namespace", "name")] {
        if text_of(of, field).is_empty() {
            errors.required(format!("{path}.{reported}"), "");
        }
    }
    let port = of.get("port").and_then(Value::as_i64).unwrap_or(443);
    let wrong = name::port_number(port);
    if !wrong.is_empty() {
        errors.invalid(format!("{path}.port"), port, &format!("port is not valid: {}", wrong.join(", ")));
    }
    let (given, path) = (text_of(of, "path"), format!("{path}.path"));
    let shown = quoted(given);
    if matches!(given, "" | "/") {
        return;
    }
    if given == "//" {
        return errors.invalid(path, shown, "segment[0] may not be empty");
    }
    if !given.starts_with('/') {
        errors.invalid(&path, &shown, "must start with a '/'");
    }
    let mut rest = given.chars();
    rest.next();
    let rest = rest.as_str();
    for (at, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&path, &shown, &format!("segment[{at}] may not be empty"));
            continue;
        }
        for wrong in name::subdomain(step) {
            errors.invalid(&path, &shown, &format!("segment[{at}]: {wrong}"));
        }
    }
}

fn text_of<'v>(of: &'v Value, name: &str) -> &'v str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn told(config: &Value) -> Vec<String> {
        let mut errors = FieldErrors::none();
        client(config, "c", &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_webhook_is_reached_by_one_way_that_can_be_gone() {
        assert_eq!(told(&json!({"url": "https://h:1/p"})), Vec::<String>::new());
        assert_eq!(told(&json!({"url": "https://h", "service": {}})), ["c: Required value: exactly one of url or service is required"]);
        assert_eq!(
            told(&json!({"url": "https://a b"})),
            ["c.url: Required value: url must be a valid URL: parse \"https://a b\": invalid character \" \" in host name; \
                 desired format: https://host[/path]"]
        );
        assert_eq!(
            told(&json!({"url": "HTTPS://u:p@h?q#f%20g"})),
            [
                "c.url: Invalid value: \"u:p\": user information is not permitted in the URL",
                "c.url: Invalid value: \"f g\": fragments are not permitted in the URL",
                "c.url: Invalid value: \"q\": query parameters are not permitted in the URL"
            ]
        );
        assert_eq!(
            told(&json!({"service": {"name": "s", "port": 0, "path": "a//b"}}))[..4],
            [
                "c.service.name: Required value",
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "c.service.path: Invalid value: \"a//b\": must start with a '/'",
                "c.service.path: Invalid value: \"a//b\": segment[0] may not be empty"
            ]
        );
    }
}
