//! `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`), read strictly and checked as upstream checks it
//! (`apis/apiserver/validation/validation_encryption.go`). No error holds a key.

use std::{collections::HashSet, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_tree::Value;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use super::quoted;
use crate::wire::status::aggregate;

/// What is encrypted with what.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct Configuration {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    pub(super) resources: Vec<Rule>,
}

/// Some resources and their providers.
#[derive(Deserialize, Debug)]
pub(super) struct Rule {
    #[serde(default)]
    pub(super) resources: Vec<String>,
    #[serde(default)]
    pub(super) providers: Vec<Provider>,
}

/// One provider: exactly one of them is set.
#[derive(Deserialize, Debug)]
pub(super) struct Provider {
    pub(super) aesgcm: Option<Keys>,
    pub(super) aescbc: Option<Keys>,
    pub(super) secretbox: Option<Keys>,
    pub(super) identity: Option<Identity>,
    pub(super) kms: Option<Kms>,
}

/// `identity: {}`
#[derive(Deserialize, Debug)]
pub(super) struct Identity {}

#[derive(Deserialize, Debug)]
pub(super) struct Keys {
    #[serde(default)]
    pub(super) keys: Vec<Key>,
}

/// A key by its name.
#[derive(Deserialize)]
pub(super) struct Key {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Key {
    /// Its bytes.
    pub(super) fn secret(&self) -> Vec<u8> {
        STANDARD.decode(&self.secret).unwrap_or_default()
    }
}

/// A service that keeps keys.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kms {
    #[serde(default = "first_version")]
    pub(super) api_version: String,
    #[serde(default)]
    pub(super) name: String,
    pub(super) cachesize: Option<i32>,
    #[serde(default)]
    pub(super) endpoint: String,
    #[serde(default = "patience", deserialize_with = "duration")]
    pub(super) timeout: Option<Duration>,
}

fn first_version() -> String {
    "v1".to_owned()
}

fn patience() -> Option<Duration> {
    Some(Duration::from_secs(3))
}

/// `3s`; `None` for what is not positive.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let nanos = coracle_cel::duration(&text).ok_or_else(|| serde::de::Error::custom(format!("time: invalid duration {text:?}")))?;
    Ok(u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos))
}

/// The file as it is.
pub(super) struct File {
    pub(super) text: String,
    pub(super) digest: [u8; 32],
}

/// Reads the file, without looking what it says.
pub(super) fn read(path: &Path) -> Result<File, String> {
    let name = quoted(path);
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("error while loading file: error reading encryption provider configuration file {name}: {e}"))?;
    if text.is_empty() {
        return Err(format!("error while loading file: encryption provider configuration file {name} is empty"));
    }
    Ok(File { digest: Sha256::digest(&text).into(), text })
}

/// Reads and checks a configuration.
pub(super) fn parse(path: &Path, text: &str, reload: bool) -> Result<Configuration, String> {
    let undecodable = |why: String| format!("error decoding encryption provider configuration file {}: {why}", quoted(path));
    // Where a line is shown with an error it may hold a key: the first line tells what is wrong.
    let first_line = |e: &dyn std::fmt::Display| e.to_string().lines().next().unwrap_or_default().to_owned();
    let value: Value = serde_saphyr::from_str(text).map_err(|e| undecodable(first_line(&e)))?;
    let mut unknown = Vec::new();
    unknown_fields(&value, &ROOT, "", &mut unknown);
    if !unknown.is_empty() {
        return Err(undecodable(format!("strict decoding error: {}", unknown.join(", "))));
    }
    let read: Configuration = coracle_tree::from_value(value).map_err(|e| undecodable(first_line(&e)))?;
    match (read.kind.as_str(), read.api_version.as_str()) {
        ("EncryptionConfiguration" | "EncryptionConfig", "apiserver.config.k8s.io/v1") | ("EncryptionConfig", "v1") => {}
        ("", _) => return Err(undecodable("Object 'Kind' is missing".to_owned())),
        (kind, version) => {
            let why = format!("no kind {kind:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\"");
            return Err(undecodable(why));
        }
    }
    aggregate(faults(&read, reload)).map_or(Ok(read), Err)
}

/// The fields of an object, and what is below them.
struct Fields(&'static [(&'static str, Option<&'static Fields>)]);

const ROOT: Fields = Fields(&[("apiVersion", None), ("kind", None), ("resources", Some(&RULE))]);
const RULE: Fields = Fields(&[("resources", None), ("providers", Some(&PROVIDER))]);
const PROVIDER: Fields =
    Fields(&[("aesgcm", Some(&KEYS)), ("aescbc", Some(&KEYS)), ("secretbox", Some(&KEYS)), ("identity", Some(&NONE)), ("kms", Some(&KMS))]);
const KEYS: Fields = Fields(&[("keys", Some(&KEY))]);
const KEY: Fields = Fields(&[("name", None), ("secret", None)]);
const KMS: Fields = Fields(&[("apiVersion", None), ("name", None), ("cachesize", None), ("endpoint", None), ("timeout", None)]);
const NONE: Fields = Fields(&[]);

/// Tells the fields nobody knows, by their paths.
fn unknown_fields(value: &Value, known: &Fields, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                unknown_fields(item, known, &format!("{path}[{at}]"), unknown);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                match known.0.iter().find(|(known, _)| known == name) {
                    None => unknown.push(format!("unknown field {path:?}")),
                    Some((_, Some(below))) => unknown_fields(member, below, &path, unknown),
                    Some((_, None)) => {}
                }
            }
        }
        _ => {}
    }
}

/// `deployments.apps`: the resource before the first dot, the group after it (`schema.ParseGroupResource`).
pub(super) fn group_resource(text: &str) -> (String, String) {
    match text.split_once('.') {
        Some((resource, group)) => (group.to_owned(), resource.to_owned()),
        None => (String::new(), text.to_owned()),
    }
}

/// A resource as the file writes it.
pub(super) fn shown(group: &str, resource: &str) -> String {
    match (group, resource) {
        ("", "*") => "*.".to_owned(),
        ("", _) => resource.to_owned(),
        _ => format!("{resource}.{group}"),
    }
}

fn faults(configuration: &Configuration, reload: bool) -> Vec<String> {
    let mut faults = Vec::new();
    if configuration.resources.is_empty() {
        return vec![required("resources", "at least one resources is required")];
    }
    let mut names = HashSet::new();
    for (at, rule) in configuration.resources.iter().enumerate() {
        let (resources, providers) = (format!("resources[{at}].resources"), format!("resources[{at}].providers"));
        if rule.resources.is_empty() {
            faults.push(required(&resources, &format!("at least one {resources} is required")));
        }
        overlap(&rule.resources, &resources, &mut faults);
        resource_names(&rule.resources, &resources, &mut faults);
        if rule.providers.is_empty() {
            faults.push(required(&providers, &format!("at least one {providers} is required")));
        }
        for (at, provider) in rule.providers.iter().enumerate() {
            provider_faults(provider, &format!("{providers}[{at}]"), reload, &mut names, &mut faults);
        }
    }
    faults
}

fn required(path: &str, why: &str) -> String {
    format!("{path}: Required value: {why}")
}

fn invalid(path: &str, value: impl std::fmt::Display, why: &str) -> String {
    format!("{path}: Invalid value: {value}: {why}")
}

/// A list of texts as errors show it.
fn list(texts: &[String]) -> String {
    serde_json::to_string(texts).unwrap_or_default()
}

fn overlap(names: &[String], path: &str, faults: &mut Vec<String>) {
    let all: Vec<_> = names.iter().map(|name| group_resource(name)).collect();
    let (mut doubled, mut overlaps) = (false, false);
    for (at, one) in all.iter().enumerate() {
        for (_, other) in all.iter().enumerate().filter(|(other, _)| *other != at) {
            let (any, same_group) = (one.0 == "*" && one.1 == "*", one.0 == other.0);
            if one == other && !doubled {
                doubled = true;
            } else if any || same_group && (one.1 == "*" || other.1 == "*") {
                overlaps = true;
            }
        }
    }
    if doubled {
        faults.push(invalid(path, list(names), "the same resource cannot be specified multiple times"));
    }
    if overlaps {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        faults.push(invalid(path, list(names), why));
    }
}

fn resource_names(names: &[String], path: &str, faults: &mut Vec<String>) {
    for (at, name) in names.iter().enumerate() {
        let (group, resource) = group_resource(name);
        let why = match (name.as_str(), group.as_str(), resource.as_str()) {
            (name, ..) if name.to_lowercase() != *name => "resource name should not contain capital letters",
            ("*", ..) => "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
            ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
                "resources which do not have REST API/s cannot be encrypted"
            }
            (_, "events.k8s.io", _) => {
                "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
            }
            (_, "extensions", _) => "'extensions' group has been removed and cannot be used for encryption",
            (_, "*", resource) if resource != "*" => "encrypting the same resource across groups is not supported",
            _ => continue,
        };
        faults.push(invalid(&format!("{path}[{at}]"), format!("{name:?}"), why));
    }
}

fn provider_faults(provider: &Provider, path: &str, reload: bool, names: &mut HashSet<String>, faults: &mut Vec<String>) {
    let Provider { aesgcm, aescbc, secretbox, identity, kms } = provider;
    let set = [aesgcm.is_some(), aescbc.is_some(), secretbox.is_some(), identity.is_some(), kms.is_some()];
    let set = set.into_iter().filter(|set| *set).count();
    if set == 0 {
        let why = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
        faults.push(invalid(path, r#"{"AESGCM":null,"AESCBC":null,"Secretbox":null,"Identity":null,"KMS":null}"#, why));
    }
    if set > 1 {
        let why = "more than one provider specified in a single element, should split into different list elements";
        faults.push(invalid(path, "REDACTED", why));
    }
    match provider {
        Provider { kms: Some(kms), .. } => {
            kms_faults(kms, &format!("{path}.kms"), reload, names, faults);
            names.insert(kms.name.clone());
        }
        Provider { aesgcm: Some(keys), .. } => keys_faults(keys, &format!("{path}.aesgcm.keys"), &[16, 24, 32], faults),
        Provider { aescbc: Some(keys), .. } => keys_faults(keys, &format!("{path}.aescbc.keys"), &[16, 24, 32], faults),
        Provider { secretbox: Some(keys), .. } => keys_faults(keys, &format!("{path}.secretbox.keys"), &[32], faults),
        _ => {}
    }
}

fn keys_faults(keys: &Keys, path: &str, sizes: &[usize], faults: &mut Vec<String>) {
    if keys.keys.is_empty() {
        faults.push(required(path, "at least one keys is required"));
    }
    for (at, key) in keys.keys.iter().enumerate() {
        let secret = format!("{path}[{at}].secret");
        if key.name.is_empty() {
            faults.push(required(&format!("{path}[{at}].name"), "name is a mandatory field for a key"));
        }
        if key.secret.is_empty() {
            faults.push(required(&secret, "secret is a mandatory field for a key"));
            continue;
        }
        match STANDARD.decode(&key.secret).map(|bytes| bytes.len()) {
            Err(_) => faults.push(invalid(&secret, "\"REDACTED\"", "secrets must be base64 encoded")),
            Ok(size) if !sizes.contains(&size) => {
                let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                let why = format!("secret is not of the expected length, got {size}, expected one of [{}]", sizes.join(" "));
                faults.push(invalid(&secret, "\"REDACTED\"", &why));
            }
            Ok(_) => {}
        }
    }
}

fn kms_faults(kms: &Kms, path: &str, reload: bool, names: &HashSet<String>, faults: &mut Vec<String>) {
    let Kms { api_version, name, cachesize, endpoint, timeout } = kms;
    let (first, name_path) = (api_version == "v1", format!("{path}.name"));
    if name.is_empty() {
        faults.push(required(&name_path, "name is a mandatory field for a provider"));
    }
    if !first && name.contains(':') {
        faults.push(invalid(&name_path, format!("{name:?}"), &format!("invalid KMS provider name {name}, must not contain ':'")));
    }
    if (reload || !first) && names.contains(name) {
        faults.push(invalid(&name_path, format!("{name:?}"), &format!("duplicate KMS provider name {name}, names must be unique")));
    }
    if timeout.is_none() {
        faults.push(invalid(&format!("{path}.timeout"), "\"0s\"", "timeout should be a positive value"));
    }
    let endpoint_path = format!("{path}.endpoint");
    match endpoint.split_once(':') {
        _ if endpoint.is_empty() => faults.push(invalid(&endpoint_path, "\"\"", "endpoint is a mandatory field for a kms")),
        Some(("unix", _)) => {}
        other => {
            let scheme = other.map(|(scheme, _)| scheme).unwrap_or_default();
            let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
            faults.push(invalid(&endpoint_path, format!("{endpoint:?}"), &why));
        }
    }
    match cachesize {
        Some(size) if !first => faults.push(invalid(&format!("{path}.cachesize"), size, "cachesize is not supported in v2")),
        Some(0) => faults.push(invalid(&format!("{path}.cachesize"), 0, "cachesize should be a positive value, or negative to disable")),
        _ => {}
    }
    if !["v1", "v2"].contains(&api_version.as_str()) {
        let why = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
        faults.push(invalid(&format!("{path}.apiVersion"), format!("{api_version:?}"), why));
    }
}
