//! Policies and webhooks of files: in force from the first request on, asked before those of the API, and out of its reach
//! (`staticManifestsDir`, apiserver `admission/plugin/manifest`).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coracle_schema::{
    decode::{self, FieldValidation},
    default, name,
    validate::{self, Rigour},
};
use coracle_tree::Value;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tracing::{error, info};

use super::{
    look::{list, text},
    mirror::{self, GROUP},
    policy,
};
use crate::{
    metrics,
    registry::{
        Catalog, Kind, Object,
        names::OF_FILES,
        rules::{self, Part},
    },
    wire::yaml,
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The folder of one plugin.
pub(super) struct Manifests {
    plugin: &'static str,
    folder: PathBuf,
    kinds: Vec<Arc<Kind>>,
    /// What the server is known by, hashed.
    server: String,
    /// The hash of the files as they were last read, right or wrong, so that what is wrong is told once; empty for none, `None` before.
    read: Mutex<Option<String>>,
}

impl Manifests {
    /// A folder for objects of `resources`: of policies, policies and bindings in this order. The error says what is wrong with the folder.
    pub(super) fn open(
        plugin: &'static str,
        folder: &Path,
        resources: &[&str],
        catalog: &Catalog,
        server: Option<&str>,
    ) -> Result<Self, String> {
        let shown = || folder.display().to_string();
        let invalid = |why: &str| format!("staticManifestsDir: Invalid value: {:?}: {why}", shown());
        if !folder.is_absolute() {
            return Err(invalid("must be an absolute file path"));
        }
        let about = fs::metadata(folder).map_err(|why| invalid(&format!("unable to read: {why}")))?;
        if !about.is_dir() {
            return Err(invalid("must be a directory"));
        }
        let kind = |resource: &&str| catalog.get(GROUP, "v1", resource).cloned().ok_or_else(|| format!("no kind of {resource}.{GROUP}"));
        let kinds = resources.iter().map(kind).collect::<Result<_, _>>()?;
        let server = server.map(|id| hashed(&[id.as_bytes()], b"")).unwrap_or_default();
        Ok(Self { plugin, folder: folder.to_owned(), kinds, server, read: Mutex::default() })
    }

    /// The objects of the files, by name; `None` when they are as they were before. A new state that is wrong in itself is refused as a whole.
    pub(super) fn load(&self) -> Result<Option<Vec<Value>>, String> {
        let taken = self.take();
        match &taken {
            Ok(None) => {}
            Ok(Some(objects)) => {
                info!(plugin = self.plugin, objects = objects.len(), "took up the manifests of files");
                metrics::manifests::reloaded(&self.server, self.plugin, self.read.lock().as_deref());
            }
            Err(_) => metrics::manifests::reloaded(&self.server, self.plugin, None),
        }
        taken
    }

    fn take(&self) -> Result<Option<Vec<Value>>, String> {
        let files = files(&self.folder)?;
        let contents: Vec<&[u8]> = files.iter().map(|(_, bytes)| bytes.as_slice()).filter(|bytes| !bytes.is_empty()).collect();
        let hash = if contents.is_empty() { String::new() } else { hashed(&contents, &[0]) };
        if self.read.lock().replace(hash.clone()).as_ref() == Some(&hash) {
            return Ok(None);
        }
        let mut seen = BTreeMap::new();
        let mut objects = Vec::new();
        for (file, bytes) in &files {
            let failed = |why: String| format!("error loading {}: {why}", file.display());
            for document in yaml::documents(bytes).map_err(failed)? {
                self.accept(document, file, &mut seen, &mut objects).map_err(failed)?;
            }
        }
        if let [policies, bindings] = &self.kinds[..] {
            bound(&objects, policies, bindings)?;
        }
        objects.sort_by(|a, b| mirror::name(a).cmp(mirror::name(b)));
        Ok(Some(objects))
    }

    /// An object of a file, or those of a list.
    fn accept(
        &self,
        value: Value,
        file: &Path,
        seen: &mut BTreeMap<(String, String), PathBuf>,
        into: &mut Vec<Value>,
    ) -> Result<(), String> {
        let (version, kind) = (text(&value, "apiVersion").to_owned(), text(&value, "kind").to_owned());
        let ours = format!("{GROUP}/v1");
        let single = kind.strip_suffix("List").filter(|of| version == ours && self.kinds.iter().any(|known| &*known.gvk.kind == *of));
        if version == "v1" && kind == "List" || single.is_some() {
            for item in list(&value, "/items") {
                let mut item = item.clone();
                if let (Some(of), Some(members)) = (single, item.as_object_mut()) {
                    members.insert("apiVersion", version.as_str().into());
                    members.insert("kind", of.into());
                }
                self.accept(item, file, seen, into)?;
            }
            return Ok(());
        }
        let known = self.kinds.iter().find(|known| version == ours && *known.gvk.kind == *kind);
        let Some(known) = known else { return Err(format!("unsupported resource type {kind:?} of {version:?}")) };
        let object = checked(value, known)?;
        let name = object.name().to_owned();
        if name.is_empty() {
            return Err(format!("resource in file {:?} must have a name", file.display().to_string()));
        }
        if !name.ends_with(OF_FILES) {
            return Err(format!("{name:?} in file {:?} must have a name ending with {OF_FILES:?}", file.display().to_string()));
        }
        if let Some(before) = seen.insert((kind, name.clone()), file.to_owned()) {
            let (file, before) = (file.display().to_string(), before.display().to_string());
            return Err(format!("duplicate name {name:?} found in file {file:?} (previously seen in {before:?})"));
        }
        alone(object.value(), known, file)?;
        into.push(object.into_value());
        Ok(())
    }

    /// Looks at the files until the server stops, and hands over what changed; run it as a task.
    pub(super) async fn follow(self: Arc<Self>, mut take: impl FnMut(Vec<Value>)) {
        loop {
            tokio::time::sleep(LOOK).await;
            let this = self.clone();
            match tokio::task::spawn_blocking(move || this.load()).await {
                Ok(Ok(Some(objects))) => take(objects),
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(why)) => error!(plugin = self.plugin, why, "manifests of files stay as they were"),
            }
        }
    }
}

/// The manifests of a folder with what they hold, by name.
fn files(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let failed = |why| format!("failed to read manifest directory {:?}: {why}", folder.display().to_string());
    let is_manifest = |path: &PathBuf| {
        let ending = path.extension().map(std::ffi::OsStr::to_ascii_lowercase);
        ending.is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known)) && !path.is_dir()
    };
    let entries = fs::read_dir(folder).map_err(failed)?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.retain(is_manifest);
    paths.sort();
    let read = paths.into_iter().map(|path| match fs::read(&path) {
        Ok(bytes) => Ok((path, bytes)),
        Err(why) => Err(format!("failed to read file {:?}: {why}", path.display().to_string())),
    });
    read.collect()
}

/// `sha256:…` of parts, `after` behind each.
fn hashed(parts: &[&[u8]], after: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update(after);
    }
    format!("sha256:{:x}", hash.finalize())
}

/// An object as it would be created: decoded strictly, with its defaults, and without a fault.
fn checked(value: Value, kind: &Kind) -> Result<Object, String> {
    let decoded = decode::from_value(value, &kind.schema, FieldValidation::Strict).map_err(|why| why.to_string())?;
    let mut object = Object::new(decoded.value).ok_or("is no object")?;
    default::apply(object.value_mut(), &kind.schema);
    kind.rules.default(&mut object);
    let tables = validate::structure(object.value(), None, &kind.schema, Rigour::BuiltIn);
    let mut errors = rules::findings(tables, kind.rules.validate(&object, None, Part::Whole), &*kind.rules, &object, None);
    // The API's rule of names is that they are not like ours.
    errors.0.retain(|error| error.path != "metadata.name");
    errors.invalid_each("metadata.name", object.name(), name::subdomain(object.name()));
    errors.extend(policy::faults(kind, object.value()));
    let told: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    match told.as_slice() {
        [] => Ok(object),
        told => Err(format!("{} {:?}: {}", kind.gvk.kind, object.name(), told.join(", "))),
    }
}

/// Refuses what leads beyond the files: objects of the API may not be there.
fn alone(object: &Value, kind: &Kind, file: &Path) -> Result<(), String> {
    let (of, name, file) = (&*kind.gvk.kind, mirror::name(object), file.display().to_string());
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let said = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    for webhook in list(object, "/webhooks") {
        let place = |why: &str| format!("webhook {:?} in {name:?} (file {file:?}): clientConfig.{why}", text(webhook, "name"));
        if webhook.pointer("/clientConfig/service").is_some_and(|service| !service.is_null()) {
            return Err(place("service is not supported for static manifests; use clientConfig.url instead"));
        }
        if webhook.pointer("/clientConfig/url").and_then(Value::as_str).unwrap_or_default().is_empty() {
            return Err(place("url is required for static manifests"));
        }
    }
    if of.ends_with("PolicyBinding") {
        let policy = text(spec, "policyName");
        return match policy {
            "" => Err(format!("binding {name:?} must reference a policy (spec.policyName)")),
            other if !other.ends_with(OF_FILES) => Err(format!("binding {name:?}: spec.policyName {other:?} must end with {OF_FILES:?}")),
            _ if said("paramRef") => Err(format!("binding {name:?}: spec.paramRef is not supported for static manifests")),
            _ => Ok(()),
        };
    }
    if said("paramKind") { Err(format!("{of} {name:?}: spec.paramKind is not supported for static manifests")) } else { Ok(()) }
}

/// Refuses bindings of policies that are not there.
fn bound(objects: &[Value], policies: &Kind, bindings: &Kind) -> Result<(), String> {
    let is = |object: &Value, kind: &Kind| text(object, "kind") == &*kind.gvk.kind;
    for binding in objects.iter().filter(|object| is(object, bindings)) {
        let policy = text(binding.get("spec").unwrap_or(&Value::Null), "policyName");
        if !objects.iter().any(|known| is(known, policies) && mirror::name(known) == policy) {
            let name = mirror::name(binding);
            return Err(format!("binding {name:?} references policy {policy:?} which does not exist in the manifest directory"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use coracle_schema::Tables;
    use coracle_tree::json;

    use super::*;
    use crate::registry::catalog::{self, Odd};

    const WEBHOOKS: [&str; 1] = ["validatingwebhookconfigurations"];
    const POLICIES: [&str; 2] = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];

    fn open(folder: &Path, resources: &[&str]) -> Result<Manifests, String> {
        let odd = |group: &str, resource: &str| Odd { rules: crate::kinds::rules_for(group, resource), printer: None };
        let catalog = catalog::built_in(&Tables::load().unwrap(), odd);
        Manifests::open("Plugin", folder, resources, &catalog, Some("apiserver-x"))
    }

    fn policy(name: &str, expression: &str) -> Value {
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]});
        let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": expression}]});
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec})
    }

    fn binding(name: &str, policy: &str) -> Value {
        let spec = json!({"policyName": policy, "validationActions": ["Deny"]});
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": spec})
    }

    fn webhook(client: &Value) -> Value {
        let hook = json!({"name": "a.b.c", "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "w.static.k8s.io"},
            "webhooks": [hook]})
    }

    #[test]
    fn files_are_read_in_every_form_and_again_only_when_they_changed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        let manifests = open(folder.path(), &POLICIES).unwrap();
        assert_eq!(manifests.load(), Ok(Some(Vec::new())));
        assert_eq!(manifests.load(), Ok(None));
        write(
            "a.YAML",
            format!("---\n{}\n---\n{}\n---\n", binding("z.static.k8s.io", "p.static.k8s.io"), policy("p.static.k8s.io", "true")),
        );
        write("b.json", json!({"apiVersion": "v1", "kind": "List", "items": [policy("o.static.k8s.io", "true")]}).to_string());
        write("notes.txt", "no manifest".to_owned());
        let read = manifests.load().unwrap().unwrap();
        let names: Vec<&str> = read.iter().map(mirror::name).collect();
        assert_eq!(names, ["o.static.k8s.io", "p.static.k8s.io", "z.static.k8s.io"]);
        assert_eq!(read[0]["spec"]["failurePolicy"], "Fail", "defaults are there");
        assert_eq!(manifests.load(), Ok(None));
        fs::remove_file(folder.path().join("b.json")).unwrap();
        assert_eq!(manifests.load().unwrap().unwrap().len(), 2);
        write("b.json", "{".to_owned());
        assert!(manifests.load().unwrap_err().contains("b.json"));
    }

    #[test]
    fn what_cannot_be_a_manifest_is_refused_with_its_file() {
        let refused = |resources: &[&str], objects: &[Value]| {
            let folder = tempfile::tempdir().unwrap();
            let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
            fs::write(folder.path().join("a.yaml"), text).unwrap();
            open(folder.path(), resources).unwrap().load().unwrap_err()
        };
        let with = |mut object: Value, pointer: &str, name: &str, value: Value| {
            object.pointer_mut(pointer).unwrap()[name] = value;
            object
        };
        let right = || policy("p.static.k8s.io", "true");
        for (objects, why) in [
            (vec![policy("p", "true")], "must have a name ending with \".static.k8s.io\""),
            (vec![policy("P.static.k8s.io", "true")], "metadata.name"),
            (vec![right(), right()], "duplicate name \"p.static.k8s.io\" found in file"),
            (vec![policy("p.static.k8s.io", "nonsense(")], "compilation failed"),
            (vec![with(right(), "/spec", "unknown", json!(1))], "unknown field"),
            (vec![with(right(), "/spec", "paramKind", json!({"apiVersion": "v1", "kind": "Secret"}))], "spec.paramKind is not supported"),
            (vec![binding("b.static.k8s.io", "p")], "spec.policyName \"p\" must end with"),
            (vec![binding("b.static.k8s.io", "p.static.k8s.io")], "references policy \"p.static.k8s.io\" which does not exist"),
            (vec![webhook(&json!({"url": "https://a"}))], "unsupported resource type"),
        ] {
            let said = refused(&POLICIES, &objects);
            assert!(said.contains(why), "{said}");
        }
        let service = json!({"service": {"namespace": "a", "name": "b"}});
        assert!(refused(&WEBHOOKS, &[webhook(&service)]).contains("clientConfig.service is not supported for static manifests"));
        let nowhere = open(Path::new("/nowhere/at/all"), &WEBHOOKS).err().unwrap();
        assert!(nowhere.starts_with("staticManifestsDir: Invalid value: \"/nowhere/at/all\": unable to read"), "{nowhere}");
        assert!(open(Path::new("here"), &WEBHOOKS).err().unwrap().contains("must be an absolute file path"));
    }
}
