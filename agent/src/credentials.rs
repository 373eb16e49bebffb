//! Registry credentials from `imagePullSecrets` (`pkg/credentialprovider`).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::context::Context;
use crate::objects::{Data, Source};
use crate::pods::object::BoundPod;
use crate::runtime::Credentials;

#[derive(Deserialize)]
struct Auths {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Credentials of the pod's pull secrets that match the image's registry; the most specific first. Missing secrets are told by an event.
pub(crate) async fn for_image(ctx: &Arc<Context>, pod: &Arc<BoundPod>, image: &str) -> Vec<Credentials> {
    let mut found = Vec::new();
    for reference in pod.spec.image_pull_secrets.iter().flatten() {
        let name = reference.name.as_str();
        match ctx.objects.get(&pod.metadata.uid, Source::Secret, &pod.metadata.namespace, name).await {
            Ok(Some(secret)) => found.extend(matching(&secret, image)),
            Ok(None) | Err(_) => {
                let message = format!("Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed.");
                ctx.recorder.warning(pod, None, "FailedToRetrieveImagePullSecret", message);
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

fn matching(secret: &Data, image: &str) -> Vec<(usize, Credentials)> {
    let auths = match secret.kind.as_str() {
        "kubernetes.io/dockerconfigjson" => {
            secret.entries.get(".dockerconfigjson").and_then(|bytes| serde_json::from_slice::<Auths>(bytes).ok()).map(|a| a.auths)
        }
        "kubernetes.io/dockercfg" => secret.entries.get(".dockercfg").and_then(|bytes| serde_json::from_slice(bytes).ok()),
        _ => None,
    };
    let target = normalized(image);
    let all = auths.into_iter().flatten();
    all.filter(|(registry, _)| covers(registry, &target)).map(|(registry, auth)| (registry.len(), read(auth))).collect()
}

/// `nginx` as `index.docker.io/library/nginx`: secrets name Docker Hub so.
fn normalized(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => {
            image.replacen("docker.io/", "index.docker.io/", usize::from(host == "docker.io"))
        }
        Some(_) => format!("index.docker.io/{image}"),
        None => format!("index.docker.io/library/{image}"),
    }
}

/// Whether a registry entry (`https://index.docker.io/v1/`, `host:5000`, `*.host/path`) is meant for the image.
fn covers(registry: &str, image: &str) -> bool {
    let entry = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let entry = entry.strip_suffix("/v1").or_else(|| entry.strip_suffix("/v2")).unwrap_or(entry);
    let entry = if entry == "docker.io" { "index.docker.io" } else { entry };
    let (host, path) = entry.split_once('/').unwrap_or((entry, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let same_host = host.split('.').count() == image_host.split('.').count()
        && host.split('.').zip(image_host.split('.')).all(|(pattern, part)| pattern == part || pattern == "*");
    same_host && (path.is_empty() || image_path.starts_with(path))
}

fn read(auth: Auth) -> Credentials {
    let decoded = STANDARD.decode(&auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    Credentials {
        username: if auth.username.is_empty() { pair.map(|(user, _)| user.to_owned()).unwrap_or_default() } else { auth.username },
        password: if auth.password.is_empty() { pair.map(|(_, word)| word.to_owned()).unwrap_or_default() } else { auth.password },
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_entries_cover_the_images_upstream_says_they_cover() {
        for (entry, image, wanted) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "library/nginx:1", true),
            ("host:5000", "host:5000/a/b:1", true),
            ("host:5000/a", "host:5000/a/b:1", true),
            ("host:5000/c", "host:5000/a/b:1", false),
            ("*.example.org", "x.example.org/a", true),
            ("*.example.org", "x.y.example.org/a", false),
            ("other", "host/a", false),
        ] {
            assert_eq!(covers(entry, &normalized(image)), wanted, "{entry} {image}");
        }
    }

    #[test]
    fn both_secret_formats_are_read() {
        let auth = STANDARD.encode("user:pass:word");
        let new = Data {
            kind: "kubernetes.io/dockerconfigjson".to_owned(),
            entries: BTreeMap::from([(".dockerconfigjson".to_owned(), format!(r#"{{"auths":{{"r.io":{{"auth":"{auth}"}}}}}}"#).into())]),
        };
        let old = Data {
            kind: "kubernetes.io/dockercfg".to_owned(),
            entries: BTreeMap::from([(".dockercfg".to_owned(), format!(r#"{{"r.io":{{"auth":"{auth}"}}}}"#).into())]),
        };
        for secret in [new, old] {
            let found = matching(&secret, "r.io/app:1");
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].1.username.as_str(), found[0].1.password.as_str()), ("user", "pass:word"));
        }
    }
}
