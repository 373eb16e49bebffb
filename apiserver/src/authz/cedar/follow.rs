//! Policies as they change: in files, looked at every few seconds, and in objects, once their kind is served.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use coracle_tree::Value;
use futures::{StreamExt, stream::BoxStream};
use tracing::{info, warn};

use super::{Cedar, GROUP, POLICIES, Source};
use crate::registry::{Change, Reader};

/// How often files are looked at, and whether the kind is served while its definition is new.
const LOOK: Duration = Duration::from_secs(5);
/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

impl Cedar {
    /// Reads the folder. At the start a bad file is an error; later it is told and what it held stays.
    pub(crate) fn read_files(&self) -> Result<(), String> {
        let Some(folder) = &self.options.folder else { return Ok(()) };
        for (name, text) in files(folder)? {
            let policies = self.check(&name, &text, false).map_err(|why| format!("--cedar-policy-dir: {name}.cedar: {why}"))?;
            self.put(Source::File(name), policies);
        }
        Ok(())
    }

    /// Takes the objects there are, if their kind is served: what they forbid is forbidden from the first request on.
    pub(crate) async fn read_objects(&self, reader: &dyn Reader) {
        let Ok(objects) = reader.list_readable(GROUP, POLICIES, "").await else { return };
        for object in objects {
            let parsed: Value = serde_json::from_slice(&object).unwrap_or_default();
            let name = parsed.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            self.take_object(&Change { namespace: String::new(), name, object: Some(object) });
        }
    }

    fn take_object(&self, change: &Change) {
        let source = Source::Object(change.name.clone());
        let Some(object) = &change.object else { return self.put(source, Vec::new()) };
        let object: Value = serde_json::from_slice(object).unwrap_or_default();
        let content = object.pointer("/spec/content").and_then(Value::as_str).unwrap_or_default();
        match self.check(&change.name, content, false) {
            Ok(policies) => self.put(source, policies),
            Err(why) => warn!(policy = change.name, why, "a Cedar policy cannot be read and changes nothing"),
        }
    }
}

/// Follows both until the server stops; run it as a task.
pub(crate) async fn follow(cedar: Arc<Cedar>, reader: Arc<dyn Reader>) {
    let mut definitions = reader.follow("apiextensions.k8s.io", "customresourcedefinitions");
    let mut policies: BoxStream<'static, Change> = futures::stream::pending().boxed();
    let (mut known, mut served) = (BTreeMap::new(), false);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(change) = policies.next() => cedar.take_object(&change),
            Some(change) = definitions.next() => {
                if change.name == format!("{POLICIES}.{GROUP}") && change.object.is_none() {
                    (policies, served) = (futures::stream::pending().boxed(), false);
                    cedar.forget_objects();
                }
            }
            _ = look.tick() => {
                if !served && reader.list_readable(GROUP, POLICIES, "").await.is_ok() {
                    (policies, served) = (reader.follow(GROUP, POLICIES), true);
                    info!("Cedar policies are followed");
                }
                reread(&cedar, &mut known).await;
            }
        }
    }
}

/// Takes what changed in the folder since it was looked at.
async fn reread(cedar: &Cedar, known: &mut BTreeMap<String, String>) {
    let Some(folder) = cedar.options.folder.clone() else { return };
    let now = match tokio::task::spawn_blocking(move || files(&folder)).await {
        Ok(Ok(now)) => now,
        Ok(Err(error)) => return warn!(error, "Cedar policies are not read again"),
        Err(_) => return,
    };
    for gone in known.keys().filter(|name| !now.contains_key(*name)) {
        cedar.put(Source::File(gone.clone()), Vec::new());
    }
    for (name, text) in now.iter().filter(|(name, text)| known.get(*name) != Some(text)) {
        match cedar.check(name, text, false) {
            Ok(policies) => cedar.put(Source::File(name.clone()), policies),
            Err(error) => warn!(file = format!("{name}.cedar"), error, "Cedar policies cannot be read; what they were stays"),
        }
    }
    *known = now;
}

/// The `*.cedar` files of a folder by name.
fn files(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let told = |error: std::io::Error| format!("--cedar-policy-dir: {}: {error}", folder.display());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let (Some(name), true) = (path.file_stem().and_then(|name| name.to_str()), path.extension().is_some_and(|end| end == "cedar"))
        else {
            continue;
        };
        if path.metadata().map_err(told)?.len() > LARGEST {
            return Err(format!("--cedar-policy-dir: {} is larger than {LARGEST} bytes", path.display()));
        }
        found.insert(name.to_owned(), std::fs::read_to_string(&path).map_err(told)?);
    }
    Ok(found)
}
