//! Secrets and config maps: keys, sizes, immutability, what a typed secret must hold (upstream `ValidateSecret`, `ValidateConfigMap`).

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_schema::{FieldErrors, go, name};
use coracle_tree::{Map, Value};

use super::view;
use crate::registry::{Object, Part, Rules};

/// Most bytes of data in a secret or config map.
const DATA_MAX: usize = 1024 * 1024;

/// Rules of `secrets`.
pub(super) struct Secret;
/// Rules of `configmaps`.
pub(super) struct ConfigMap;

/// Keys a typed secret must have.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

/// What upstream warns of in a pair of certificate and key: only what can be seen without reading them (`tls.X509KeyPair`).
fn pair_warnings(data: &Map) -> Vec<String> {
    let text = |key: &str| {
        let bytes = data.get(key).and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let of = [("tls.crt", "certificate"), ("tls.key", "key")];
    let without = of.iter().find(|(key, _)| !text(key).contains("-----BEGIN "));
    without.map(|(_, what)| format!("tls: failed to find any PEM data in {what} input")).into_iter().collect()
}

impl Rules for Secret {
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        if new.text("/type") == "kubernetes.io/tls" { pair_warnings(view::map(new.value(), "data")) } else { Vec::new() }
    }

    fn default(&self, object: &mut Object) {
        let Some(texts) = view::remove(object.value_mut(), "stringData") else { return };
        let Value::Object(texts) = texts else { return };
        for (key, value) in texts {
            let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
            object.member_mut("data").insert(key, encoded.into());
        }
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, _part: Part<'_>) {
        // Upstream keeps the type of a secret whose writer left it out.
        if let Some(kind) = old.map(|old| old.text("/type").to_owned())
            && new.text("/type").is_empty()
        {
            new.value_mut()["type"] = kind.into();
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let kind = new.text("/type");
        if let Some(old) = old {
            if old.text("/type") != kind {
                errors.invalid("type", view::quoted(kind), "field is immutable");
            }
            frozen(new.value(), old.value(), &["data"], &mut errors);
        }
        let data = view::map(new.value(), "data");
        keys(data, "data", &mut errors);
        if data.values().filter_map(Value::as_str).map(decoded_length).sum::<usize>() > DATA_MAX {
            errors.too_long("data", DATA_MAX as u64, "byte");
        }
        let required = SECRET_KEYS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| *keys);
        // Of these a key to log in with may not be empty either.
        let there = |key: &str| data.get(key).is_some_and(|value| kind != "kubernetes.io/ssh-auth" || value != "");
        for key in required.iter().filter(|key| !there(key)) {
            errors.required(format!("data[{key}]"), "");
        }
        match kind {
            "kubernetes.io/service-account-token"
                if new.annotation("kubernetes.io/service-account.name").unwrap_or_default().is_empty() =>
            {
                errors.required("metadata.annotations[kubernetes.io/service-account.name]", "");
            }
            "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
                errors.required("data[username]", "");
                errors.required("data[password]", "");
            }
            "kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson" => docker_config(data, required, &mut errors),
            _ => {}
        }
        errors
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", view::text(object, "type").to_owned())]
    }
}

fn docker_config(data: &Map, keys: &[&str], errors: &mut FieldErrors) {
    for key in keys {
        let Some(text) = data.get(key).and_then(Value::as_str) else { continue };
        let bytes = STANDARD.decode(text).unwrap_or_default();
        if let Some(why) = go::not_an_object(&bytes) {
            errors.invalid(format!("data[{key}]"), "\"<secret contents redacted>\"", &why);
        }
    }
}

impl Rules for ConfigMap {
    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if let Some(old) = old {
            frozen(new.value(), old.value(), &["data", "binaryData"], &mut errors);
        }
        let (data, binary) = (view::map(new.value(), "data"), view::map(new.value(), "binaryData"));
        keys(data, "data", &mut errors);
        keys(binary, "binaryData", &mut errors);
        for key in data.keys().filter(|key| binary.contains_key(key)) {
            errors.invalid(format!("data[{key}]"), view::quoted(key), "duplicate of key present in binaryData");
        }
        let text: usize = data.values().filter_map(Value::as_str).map(str::len).sum();
        let bytes: usize = binary.values().filter_map(Value::as_str).map(decoded_length).sum();
        if text + bytes > DATA_MAX {
            errors.too_long("", DATA_MAX as u64, "byte");
        }
        errors
    }
}

fn keys(data: &Map, path: &str, errors: &mut FieldErrors) {
    for key in data.keys() {
        errors.invalid_each(&format!("{path}[{key}]"), key, name::config_key(key));
    }
}

/// An immutable object stays so, with all its data.
fn frozen(new: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    if !view::flag(old, "immutable") {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !view::flag(new, "immutable") {
        errors.forbidden("immutable", detail);
    }
    for field in fields.iter().filter(|field| view::map(new, field) != view::map(old, field)) {
        errors.forbidden(*field, detail);
    }
}

/// Bytes that base64 text stands for.
fn decoded_length(text: &str) -> usize {
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}
