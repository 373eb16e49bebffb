//! The task that follows CRDs. Level-triggered: what a change brings is judged by what is there, so nothing is lost by missing one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use coracle_tree::Value;
use futures::{FutureExt, StreamExt, future::join_all, stream::BoxStream};
use tokio::{task::JoinSet, time::sleep};
use tracing::warn;

use super::{
    cleanup,
    conditions::{self, Structure, Verdict},
    definition::{self, Definition},
    names::Taken,
    review::Webhook,
    serve,
};
use crate::{
    registry::{Change, Reader, Writer, items, meta, storage::DEFINITIONS, writer::failed},
    verbs::Api,
    webhook,
    wire::Status,
};

/// Changes taken together at most.
const BATCH: usize = 256;
/// Pause before a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is logged of a CRD that nothing can be made of.
const NOT_SERVED: &str = "a CRD cannot be read and is not served";

/// Follows CRDs.
pub struct Follower {
    api: Arc<Api>,
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    taken: Taken,
    known: HashMap<String, Known>,
    /// Whose names are not all granted.
    refused: BTreeSet<String>,
    /// Whose status could not be written.
    again: BTreeSet<String>,
    cleanups: JoinSet<String>,
    cleaning: BTreeSet<String>,
}

/// What was made of a CRD.
struct Known {
    group: String,
    plural: String,
    uid: String,
    generation: i64,
    version: String,
}

/// A status to be written.
struct Write {
    name: String,
    source: Bytes,
    verdict: Verdict,
}

impl Follower {
    /// Serves what is defined already. Afterwards [`Follower::run`] is to be run with the changes returned.
    pub async fn start(
        api: Arc<Api>,
        reader: Arc<dyn Reader>,
        writer: Arc<dyn Writer>,
    ) -> Result<(Self, BoxStream<'static, Change>), Status> {
        // One that cannot be read keeps nobody from what the others define: its kind alone is missing, until it can be read.
        let (now, changes) = reader.begin_readable(DEFINITIONS.0, DEFINITIONS.1).await?;
        note_unreadable(&api);
        let mut follower = Self {
            api,
            reader,
            writer,
            taken: Taken::default(),
            known: HashMap::new(),
            refused: BTreeSet::new(),
            again: BTreeSet::new(),
            cleanups: JoinSet::new(),
            cleaning: BTreeSet::new(),
        };
        // Those that were served before come first: nobody takes their names.
        let read = |bytes: Bytes| match Definition::read(&bytes) {
            Some(definition) => Some((definition, bytes)),
            None => {
                let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                warn!(name = %value["metadata"]["name"], "{NOT_SERVED}");
                None
            }
        };
        let mut all: Vec<(Definition, Bytes)> = now.into_iter().filter_map(read).collect();
        all.iter().for_each(|(definition, _)| follower.taken.note(definition));
        all.sort_by_key(|(definition, _)| !definition.is_served());
        let all: Vec<_> = all.into_iter().map(|(definition, bytes)| (definition.metadata.name, Some(bytes))).collect();
        follower.take(all).await;
        Ok((follower, changes))
    }

    /// Follows until the server stops; run it as a task.
    pub async fn run(mut self, mut changes: BoxStream<'static, Change>) {
        loop {
            let pause = async { if self.again.is_empty() { std::future::pending().await } else { sleep(RETRY).await } };
            tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else { return };
                    let (batch, reached) = gather(change, &mut changes);
                    self.take(batch).await;
                    self.api.storage.note_served(reached);
                }
                Some(done) = self.cleanups.join_next() => {
                    if let Ok(name) = done {
                        self.cleaning.remove(&name);
                    }
                }
                () = pause => {
                    let names = std::mem::take(&mut self.again);
                    self.reconsider(names).await;
                }
            }
        }
    }

    /// Looks at CRDs again although they did not change.
    async fn reconsider(&mut self, names: BTreeSet<String>) {
        let mut batch = Vec::new();
        for name in names {
            if let Some(known) = self.known.get_mut(&name) {
                known.version.clear();
            }
            match self.reader.get(DEFINITIONS.0, DEFINITIONS.1, "", &name).await {
                Ok(found) => batch.push((name, found)),
                Err(_) => {
                    self.again.insert(name);
                }
            }
        }
        Box::pin(self.take(batch)).await;
    }

    /// Takes changes over: serves, then writes the statuses that say so.
    async fn take(&mut self, batch: Vec<(String, Option<Bytes>)>) {
        let mut writes = Vec::new();
        let mut freed = BTreeSet::new();
        for (name, object) in batch {
            match object {
                Some(bytes) => self.look(&name, bytes, &mut writes, &mut freed),
                None => freed.extend(self.forget(&name)),
            }
        }
        let (api, writer) = (&self.api, &self.writer);
        let written = join_all(writes.into_iter().map(|write| write.done(api, &**writer))).await;
        self.again.extend(written.into_iter().flatten());
        let candidates: BTreeSet<String> =
            freed.iter().flat_map(|group| self.taken.others(group, "")).filter(|name| self.refused.contains(*name)).cloned().collect();
        if !candidates.is_empty() {
            self.reconsider(candidates).await;
        }
    }

    /// Looks at one CRD as it is now.
    fn look(&mut self, name: &str, source: Bytes, writes: &mut Vec<Write>, freed: &mut BTreeSet<String>) {
        let Some(mut definition) = Definition::read(&source) else {
            warn!(name, "{NOT_SERVED}");
            return;
        };
        let version = definition.metadata.resource_version.clone();
        if self.known.get(name).is_some_and(|known| known.version == version) {
            return;
        }
        let had = definition.status.accepted_names.clone();
        self.taken.note(&definition);
        let verdict = conditions::judge(&definition, &self.taken, structure(&definition, &source), is_trusted(&definition));
        apply(&mut definition, &verdict);
        self.taken.note(&definition);
        if definition.status.accepted_names != had {
            freed.insert(definition.spec.group.clone());
        }
        if definition.is_true("NamesAccepted") {
            self.refused.remove(name);
        } else {
            self.refused.insert(name.to_owned());
        }
        self.serve(&definition, &source);
        if definition.awaits_cleanup() && self.cleaning.insert(name.to_owned()) {
            self.cleanups.spawn(cleanup::run(self.api.clone(), self.reader.clone(), self.writer.clone(), name.to_owned()));
        }
        self.known.insert(name.to_owned(), Known::of(&definition, version));
        if !verdict.is_empty() {
            writes.push(Write { name: name.to_owned(), source, verdict });
        }
    }

    /// Puts into the catalog what a CRD serves, or takes it out.
    fn serve(&self, definition: &Definition, source: &Bytes) {
        let storage = &self.api.storage;
        let (group, plural) = (&definition.spec.group, &definition.spec.names.plural);
        let catalog = storage.catalog();
        if catalog.is_built_in(group, plural) {
            return;
        }
        if !definition.is_served() {
            storage.withdraw(group, plural);
            return;
        }
        let before = catalog.of_crd(group, plural);
        let same = self.known.get(&definition.metadata.name).is_some_and(|known| known.means(definition));
        let webhook = definition.webhook().map(|of| Arc::new(Webhook::new(of, self.reader.clone(), &self.api.egress)));
        let made = serve::kinds(definition, source, &self.api.tables, webhook, before.filter(|_| same).map(|b| &**b));
        match made {
            Some(served) => storage.serve(served, before.is_some() && !same),
            None => storage.withdraw(group, plural),
        }
    }

    /// A CRD is gone; its group, whose other CRDs may want its names.
    fn forget(&mut self, name: &str) -> Option<String> {
        let known = self.known.remove(name)?;
        self.refused.remove(name);
        self.taken.forget(&known.group, name);
        if !self.api.storage.catalog().is_built_in(&known.group, &known.plural) {
            self.api.storage.withdraw(&known.group, &known.plural);
        }
        Some(known.group)
    }
}

impl Known {
    fn of(definition: &Definition, version: String) -> Self {
        Self {
            group: definition.spec.group.clone(),
            plural: definition.spec.names.plural.clone(),
            uid: definition.metadata.uid.clone(),
            generation: definition.metadata.generation,
            version,
        }
    }

    /// Whether a CRD still defines what it did when this was noted.
    fn means(&self, definition: &Definition) -> bool {
        self.uid == definition.metadata.uid && self.generation == definition.metadata.generation
    }
}

impl Write {
    /// Writes the status; the CRD's name when it has to be tried again.
    async fn done(self, api: &Api, writer: &dyn Writer) -> Option<String> {
        let mut value: Value = serde_json::from_slice(&self.source).ok()?;
        self.verdict.write(&mut value, &meta::time_text(api.now()));
        let done = writer.update(DEFINITIONS.1, "status", "", value).await;
        failed("a CRD", &self.name, done).then_some(self.name)
    }
}

/// Tells of the CRDs that are there and could not be read.
fn note_unreadable(api: &Api) {
    let catalog = api.storage.catalog();
    let Some(kind) = catalog.stored(DEFINITIONS.0, DEFINITIONS.1) else { return };
    for fault in api.storage.faults(&kind.list_prefix("")) {
        warn!(name = kind.split_key(fault.key.as_str()).1, "{NOT_SERVED}");
    }
}

/// A change and those that have come meanwhile, of which the last of each CRD counts; and the latest revision among them all.
fn gather(first: Change, changes: &mut BoxStream<'static, Change>) -> (Vec<(String, Option<Bytes>)>, u64) {
    let revision = |change: &Change| change.object.as_ref().map_or(0, |wire| items::revision_of(wire).0);
    let mut reached = revision(&first);
    let mut batch = BTreeMap::from([(first.name, first.object)]);
    while batch.len() < BATCH
        && let Some(Some(change)) = changes.next().now_or_never()
    {
        reached = reached.max(revision(&change));
        batch.insert(change.name, change.object);
    }
    (batch.into_iter().collect(), reached)
}

/// What keeps the schemas from being structural. Validation lets no such CRD in; only those that keep unknown fields, from before there
/// were structural schemas, are looked at.
fn structure(definition: &Definition, source: &Bytes) -> Structure {
    if !definition.spec.preserve_unknown_fields {
        return Structure::default();
    }
    let mut all = vec!["spec.preserveUnknownFields: Invalid value: true: must be false".to_owned()];
    for (at, version) in definition.spec.versions.iter().enumerate() {
        let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
        match coracle_schema::structural::violations(&definition::schema_of(source, &version.name), &path) {
            Ok(found) => all.extend(found),
            Err(why) => return Structure::unknown(&version.name, &why),
        }
    }
    Structure::violated(all)
}

/// Whether the certificates of the conversion webhook can be read, if it has any.
fn is_trusted(definition: &Definition) -> bool {
    let bundle = definition.webhook().and_then(|w| w.client_config.ca_bundle.as_deref()).filter(|b| !b.trim().is_empty());
    bundle.is_none_or(|bundle| webhook::certificates(bundle).is_ok())
}

/// The CRD as it will be once the verdict is written.
fn apply(definition: &mut Definition, verdict: &Verdict) {
    if let Some(names) = &verdict.names {
        definition.status.accepted_names.clone_from(names);
    }
    let all = &mut definition.status.conditions;
    all.retain(|c| !verdict.conditions.iter().any(|new| new.kind == c.kind));
    all.extend(verdict.conditions.iter().cloned());
}
