//! The revisions of stateful and daemon sets: every template a set ever had, as a `ControllerRevision`
//! (upstream `pkg/controller/history`).

use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use serde_json::json;

use crate::{
    caches::Caches,
    change::Change,
    hash,
    object::{Kind, Object, controller_reference, tree},
};

/// The label with a revision's hash; on pods of stateful sets with the revision's name.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// The revisions of one set.
pub(crate) struct History {
    /// All revisions, oldest first, the present one among them if it exists already.
    pub(crate) all: Vec<Arc<ControllerRevision>>,
    /// The name of the present template's revision.
    pub(crate) name: String,
    /// The hash of the present template's revision.
    pub(crate) hash: String,
    /// What makes the present template's revision the newest one.
    pub(crate) change: Option<Change>,
    /// Another object has the name we need: the hash must be salted.
    pub(crate) collided: bool,
}

/// The template a revision remembers.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    // Through text: decoding typed objects from trees, too, would double the code that decodes them.
    serde_json::from_str(&revision.data.0.pointer("/spec/template")?.to_string()).ok()
}

impl History {
    /// Reads the revisions of `owner`, whose present template is `present`.
    pub(crate) fn read<O: Kind>(owner: &O, present: &PodTemplateSpec, collisions: Option<i32>, caches: &Caches) -> Self {
        let mut all = caches.controller_revisions.owned_by(owner.uid());
        all.sort_by_key(|revision| (number(revision), revision.created(), revision.name().to_owned()));
        let newest = all.last().map(|revision| number(revision)).unwrap_or_default();
        let same = |revision: &&Arc<ControllerRevision>| template(revision).is_some_and(|found| hash::same_template(&found, present));
        if let Some(found) = all.iter().rev().find(same).cloned() {
            let (name, hash) = (found.name().to_owned(), hash_of(&found));
            let change = (number(&found) < newest).then(|| {
                let mut again = found.as_ref().clone();
                again.revision = Some(newest + 1);
                Change::update(&again)
            });
            return Self { all, name, hash, change, collided: false };
        }
        let hash = hash::word(present, collisions);
        let name = format!("{}-{hash}", owner.name());
        let collided = caches.controller_revisions.get(owner.namespace(), &name).is_some();
        let made = revision(owner, present, &name, &hash, newest + 1);
        Self { all, name, hash, change: (!collided).then(|| Change::create(&made)), collided }
    }

    /// Deletions of the oldest revisions above `limit` that nobody uses any more.
    pub(crate) fn surplus(&self, limit: usize, used: impl Fn(&ControllerRevision) -> bool) -> Vec<Change> {
        let unused: Vec<_> = self.all.iter().filter(|revision| revision.name() != self.name && !used(revision)).collect();
        let excess = unused.len().saturating_sub(limit);
        unused.into_iter().take(excess).map(|revision| Change::delete(revision.as_ref())).collect()
    }
}

fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or_default()
}

fn hash_of(revision: &ControllerRevision) -> String {
    revision.labels().get(HASH_LABEL).cloned().unwrap_or_default()
}

fn revision<O: Kind>(owner: &O, present: &PodTemplateSpec, name: &str, hash: &str, number: i64) -> ControllerRevision {
    let mut labels = present.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(owner.namespace().to_owned()),
        labels: Some(labels),
        annotations: Some(owner.annotations().clone()).filter(|map| !map.is_empty()),
        owner_references: Some(vec![controller_reference(owner)]),
        ..ObjectMeta::default()
    };
    // Undoing a rollout patches the set with this: the template must be replaced, not merged.
    let mut template = tree(present);
    template["$patch"] = "replace".into();
    ControllerRevision { metadata, data: RawExtension(json!({"spec": {"template": template}})), revision: Some(number) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{
        apps::v1::DaemonSet,
        core::v1::{Container, PodSpec},
    };

    use super::*;
    use crate::change::Verb;

    fn owner() -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "a", "uid": "d"}, "spec": {"selector": {}, "template": {}}}))
            .unwrap()
    }

    fn present(image: &str) -> PodTemplateSpec {
        let container = Container { name: "c".into(), image: Some(image.into()), ..Container::default() };
        PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }) }
    }

    fn store(caches: &Caches, image: &str, number: i64) -> String {
        let history = History::read(&owner(), &present(image), None, caches);
        let mut made = revision(&owner(), &present(image), &history.name, &history.hash, number);
        made.metadata.uid = Some(history.name.clone());
        caches.controller_revisions.put(made);
        history.name
    }

    #[test]
    fn a_new_template_is_a_new_revision_and_an_old_one_becomes_the_newest_again() {
        let caches = Caches::default();
        let first = store(&caches, "one", 1);
        let known = History::read(&owner(), &present("one"), None, &caches);
        assert_eq!((known.name.as_str(), known.change.is_none()), (first.as_str(), true));
        store(&caches, "two", 2);
        let back = History::read(&owner(), &present("one"), None, &caches);
        let Some(Verb::Update { object, .. }) = back.change.map(|change| change.verb) else { panic!("not an update") };
        assert_eq!((object["metadata"]["name"].as_str(), object["revision"].as_i64()), (Some(first.as_str()), Some(3)));
    }

    #[test]
    fn the_oldest_unused_revisions_go() {
        let caches = Caches::default();
        let names = [store(&caches, "one", 1), store(&caches, "two", 2), store(&caches, "three", 3)];
        let history = History::read(&owner(), &present("three"), None, &caches);
        let gone = |limit: usize, used: &str| {
            history.surplus(limit, |revision| revision.name() == used).iter().map(|change| change.key.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(gone(1, ""), [names[0].clone()]);
        assert_eq!(gone(0, &names[0]), [names[1].clone()]);
    }
}
