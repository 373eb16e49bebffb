//! What other servers tell of themselves: which resources they have, and their OpenAPI documents
//! (kube-aggregator `apiserver/handler_discovery.go`, `controllers/openapi`, `controllers/openapiv3`).

use std::{collections::BTreeMap, io::Read, io::Write, sync::Arc, time::Duration};

use coracle_schema::{
    discovery::{Foreign, group_version},
    openapi::v2,
};
use coracle_tree::{Value, json};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{StatusCode, header};
use sha2::{Digest, Sha256};
use tracing::debug;

use super::{Aggregator, remote::Remote};
use crate::{authn::User, authz::MASTERS, registry::Reader};

/// What a document may take, in time and bytes.
const DISCOVERY: (Duration, usize) = (Duration::from_secs(5), 16 << 20);
const OPENAPI: (Duration, usize) = (Duration::from_secs(60), 32 << 20);

/// What a client that knows aggregated discovery accepts (client-go `discovery.AcceptV2`).
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What one server told of a group and version.
#[derive(Clone, Default)]
pub(super) struct Told {
    /// For discovery.
    pub(super) shown: Arc<Foreign>,
    /// Of its OpenAPI v3 documents: path below `/openapi/v3/` and address.
    v3: BTreeMap<String, String>,
    /// It has none of version 3: what it tells in version 2 is told in version 3 for it.
    converted: bool,
    v2: Option<Arc<Kept>>,
}

/// A document of version 2, compressed, as it is wanted rarely.
struct Kept {
    etag: String,
    packed: Vec<u8>,
    /// Tells documents apart.
    hash: String,
}

/// Asks one server anew. Whether anything is told otherwise than before; the error says why it could not be asked.
pub(super) async fn refresh(remote: &Remote, reader: &dyn Reader) -> (bool, Result<(), String>) {
    let asked = if remote.is_available() { resources(remote, reader).await } else { Err("service unavailable".to_owned()) };
    let mut shown = Foreign::clone(&remote.shown());
    shown.current = asked.is_ok();
    let (resources, result) = match asked {
        Ok(resources) => (resources, Ok(())),
        Err(why) => (json!([]), Err(why)),
    };
    if *shown.resources != resources {
        shown.resources = Arc::new(resources);
    }
    let before = remote.shown();
    let moved = before.current != shown.current || !Arc::ptr_eq(&before.resources, &shown.resources);
    let documents = if result.is_ok() { documents(remote, reader).await } else { false };
    if moved || documents {
        remote.told.lock().shown = Arc::new(shown);
    }
    (moved || documents, result)
}

/// The resources of its group and version, as aggregated discovery shows them.
async fn resources(remote: &Remote, reader: &dyn Reader) -> Result<Value, String> {
    let user = User::new("system:kube-aggregator", &[MASTERS]);
    let said = remote.get(reader, ("/apis", &user), &[(header::ACCEPT, ACCEPT)], DISCOVERY).await?;
    let media = said.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if said.code == StatusCode::SERVICE_UNAVAILABLE {
        return Err(format!("service {} returned non-success response code: 503", remote.name));
    }
    if said.code == StatusCode::OK && ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"].iter().all(|p| has_parameter(media, p))
    {
        let list: Value = serde_json::from_slice(&said.body).map_err(|e| e.to_string())?;
        return Ok(of_aggregated(&list, &remote.group, &remote.version));
    }
    let path = remote.path();
    let said = remote.get(reader, (&path, &user), &[(header::ACCEPT, "application/json")], DISCOVERY).await?;
    if said.code != StatusCode::OK {
        return Err(format!("failed to download legacy discovery for {path}: {}", said.code));
    }
    let list: Value = serde_json::from_slice(&said.body).map_err(|e| e.to_string())?;
    Ok(of_plain(&list, &remote.group, &remote.version))
}

fn has_parameter(media: &str, wanted: &str) -> bool {
    media.split(';').any(|parameter| parameter.trim() == wanted)
}

/// The resources of one version in an aggregated document.
fn of_aggregated(list: &Value, group: &str, version: &str) -> Value {
    let items = |of: &Value, member: &str| of[member].as_array().cloned().unwrap_or_default();
    let groups = items(list, "items").into_iter().filter(|g| g["metadata"]["name"].as_str().unwrap_or_default() == group);
    let found = groups.flat_map(|g| items(&g, "versions")).find(|v| v["version"] == version);
    let mut resources = found.map(|v| items(&v, "resources")).unwrap_or_default();
    resources.retain(Value::is_object);
    resources.iter_mut().for_each(with_kind);
    resources.into()
}

/// A resource with a kind, and so its parts: old clients stumble over its absence. What is no object is taken out.
fn with_kind(of: &mut Value) {
    let Some(of) = of.as_object_mut() else { return };
    if of.get("responseKind").is_none_or(|kind| !kind.is_object()) {
        of.insert("responseKind", json!({"group": "", "version": "", "kind": ""}));
    }
    match of.get_mut("subresources") {
        Some(Value::Array(parts)) => {
            parts.retain(Value::is_object);
            parts.iter_mut().for_each(with_kind);
        }
        Some(_) => drop(of.remove("subresources")),
        None => {}
    }
}

/// The same from an `APIResourceList` (`ConvertGroupVersionIntoToDiscovery`).
fn of_plain(list: &Value, group: &str, version: &str) -> Value {
    let lines = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kind = |line: &Value| {
        let or = |member: &str, otherwise: &str| line[member].as_str().filter(|v| !v.is_empty()).unwrap_or(otherwise).to_owned();
        json!({"group": or("group", group), "version": or("version", version), "kind": line["kind"]})
    };
    let mut resources: Vec<Value> = Vec::new();
    for line in lines {
        let name = line["name"].as_str().unwrap_or_default();
        if let Some((parent, part)) = name.split_once('/') {
            let part = json!({"subresource": part, "responseKind": kind(line), "verbs": line["verbs"]});
            if let Some(resource) = resources.iter_mut().find(|r| r["resource"] == parent) {
                match resource["subresources"].as_array_mut() {
                    Some(parts) => parts.push(part),
                    None => resource["subresources"] = json!([part]),
                }
            }
            continue;
        }
        let scope = if line["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut resource = json!({
            "resource": name, "responseKind": kind(line), "scope": scope, "singularResource": line["singularName"], "verbs": line["verbs"],
        });
        for member in ["shortNames", "categories"] {
            if line[member].is_array() {
                resource[member] = line[member].clone();
            }
        }
        resources.push(resource);
    }
    resources.into()
}

/// Asks for its OpenAPI documents; whether they are others than before. A server without any is as good as others.
async fn documents(remote: &Remote, reader: &dyn Reader) -> bool {
    let user = User { name: "system:aggregator".into(), ..User::default() };
    let json = (header::ACCEPT, "application/json");
    let mut moved = false;
    match remote.get(reader, ("/openapi/v3", &user), std::slice::from_ref(&json), OPENAPI).await {
        Ok(said) if said.code == StatusCode::OK => {
            let index: Value = serde_json::from_slice(&said.body).unwrap_or_default();
            let found = index["paths"].as_object().into_iter().flatten();
            // Of what it serves for us, and of nothing else.
            let ours = [format!("apis/{}", remote.group), format!("apis/{}/{}", remote.group, remote.version)];
            let found = found.filter(|(path, _)| ours.iter().any(|our| our == path));
            let found: BTreeMap<String, String> =
                found.filter_map(|(path, of)| Some((path.to_string(), of["serverRelativeURL"].as_str()?.to_owned()))).collect();
            let mut told = remote.told.lock();
            moved |= told.v3 != found || told.converted;
            (told.v3, told.converted) = (found, false);
        }
        Ok(said) if said.code == StatusCode::NOT_FOUND => {
            let mut told = remote.told.lock();
            moved |= !told.converted;
            (told.v3, told.converted) = (BTreeMap::new(), true);
        }
        Ok(said) => debug!(name = remote.name, code = %said.code, "no OpenAPI v3 documents"),
        Err(why) => debug!(name = remote.name, why, "no OpenAPI v3 documents"),
    }
    let known = remote.told.lock().v2.as_ref().map(|kept| kept.etag.clone()).unwrap_or_default();
    let headers = [json, (header::IF_NONE_MATCH, known.as_str())];
    let headers = if known.is_empty() { &headers[..1] } else { &headers[..] };
    match remote.get(reader, ("/openapi/v2", &user), headers, OPENAPI).await {
        Ok(said) if said.code == StatusCode::OK => {
            let etag = said.headers.get(header::ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let prefix = format!("/apis/{}/", group_version(&remote.group, &remote.version));
            // What it says of others' groups is theirs to say.
            let packed = tokio::task::spawn_blocking(move || pack(&said.body, &prefix)).await.ok().flatten();
            let mut told = remote.told.lock();
            moved |= told.v2.as_ref().map(|kept| &kept.packed) != packed.as_ref();
            told.v2 = packed.map(|packed| Arc::new(Kept { etag, hash: hash(&packed), packed }));
        }
        Ok(said) => debug!(name = remote.name, code = %said.code, "its OpenAPI v2 document stays"),
        Err(why) => debug!(name = remote.name, why, "its OpenAPI v2 document stays"),
    }
    moved
}

fn pack(body: &[u8], prefix: &str) -> Option<Vec<u8>> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let kept = v2::filtered(document, prefix);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(kept.to_string().as_bytes()).ok()?;
    encoder.finish().ok()
}

fn hash(packed: &[u8]) -> String {
    Sha256::digest(packed).iter().map(|byte| format!("{byte:02X}")).collect()
}

impl Kept {
    fn document(&self) -> Option<Value> {
        let mut text = Vec::new();
        GzDecoder::new(&*self.packed).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

impl Aggregator {
    /// Adds the addresses of others' OpenAPI v3 documents to the index; what is told here stays.
    pub(crate) fn add_to_index(&self, index: &mut Value) {
        let Some(paths) = index["paths"].as_object_mut() else { return };
        for remote in self.remotes() {
            let told = remote.told.lock();
            for (path, url) in &told.v3 {
                paths.entry(path.clone()).or_insert_with(|| json!({"serverRelativeURL": url}));
            }
            if let Some(kept) = told.v2.as_ref().filter(|_| told.converted) {
                let path = format!("apis/{}", group_version(&remote.group, &remote.version));
                let url = format!("/openapi/v3/{path}?hash={}", kept.hash);
                paths.entry(path).or_insert_with(|| json!({"serverRelativeURL": url}));
            }
        }
    }

    /// Who has the OpenAPI v3 document of this path (`apis/GROUP/VERSION`).
    pub(super) fn documented(&self, path: &str) -> Option<Arc<Remote>> {
        self.remotes().into_iter().find(|remote| remote.told.lock().v3.contains_key(path))
    }

    /// The OpenAPI v3 document of another server that tells version 2 alone.
    pub(crate) fn converted(&self, group: &str, version: &str) -> Option<Value> {
        let remote = self.remote(group, version)?;
        let kept = {
            let told = remote.told.lock();
            told.v2.clone().filter(|_| told.converted)
        };
        kept?.document().map(v2::to_v3)
    }

    /// Adds what others say in version 2; a definition of the same name that means something else gets another name.
    pub(crate) fn add_to_v2(&self, document: &mut Value) {
        let mut remotes = self.remotes();
        remotes.sort_by(|a, b| (b.spec.group_priority_minimum, &a.name).cmp(&(a.spec.group_priority_minimum, &b.name)));
        for remote in remotes {
            let kept = remote.told.lock().v2.clone();
            if let Some(theirs) = kept.and_then(|kept| kept.document()) {
                v2::merge(document, theirs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_from_both_forms_of_discovery_alike() {
        let plain = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get", "update"]},
        ]});
        let kind = json!({"group": "g", "version": "v1", "kind": "Flunder"});
        let resources = json!([{
            "resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder", "verbs": ["get"],
            "shortNames": ["fl"], "subresources": [{"subresource": "status", "responseKind": kind, "verbs": ["get", "update"]}],
        }]);
        assert_eq!(of_plain(&plain, "g", "v1"), resources);
        let version = json!({"version": "v1", "resources": resources, "freshness": "Current"});
        let list = json!({"items": [{"metadata": {"name": "g"}, "versions": [version]}]});
        assert_eq!(of_aggregated(&list, "g", "v1"), resources);
        assert_eq!(of_aggregated(&list, "g", "v2"), Value::Array(Vec::new()));
    }

    #[test]
    fn a_media_type_is_known_by_all_its_parameters() {
        let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert!(has_parameter(media, "v=v2") && !has_parameter("application/json; v=v2beta1", "v=v2"));
    }
}
