//! Publishes the certificates clients should trust as the config map `kube-root-ca.crt` of every namespace
//! (upstream `pkg/controller/certificates/rootcacertpublisher`).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;

use crate::{
    caches::Caches,
    change::{Change, Plan, Tolerate},
    object::{Key, Kind, Labels, Meta, Object, Resource, object_by_meta},
    run::{Controller, Named, Wake},
};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or \
     kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The config map as cached: only those of this name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootCa {
    /// Metadata.
    pub metadata: Meta,
    /// The files.
    pub data: Labels,
}

object_by_meta!(RootCa);

impl Kind for RootCa {
    const RESOURCE: Resource = Resource::known("", "v1", "configmaps", "ConfigMap");
    const FIELDS: Option<&'static str> = Some("metadata.name=kube-root-ca.crt");
}

/// The controller.
pub(crate) struct RootCaPublisher {
    caches: Arc<Caches>,
    pem: String,
}

impl RootCaPublisher {
    /// Publishes `pem`.
    #[must_use]
    pub(crate) fn new(caches: Arc<Caches>, pem: String) -> Self {
        Self { caches, pem }
    }
}

impl Named for RootCaPublisher {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }
    fn identity(&self) -> &'static str {
        "root-ca-cert-publisher"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.namespaces);
        wake.on(&self.caches.root_cas, |delta, wake| {
            delta.last().into_iter().for_each(|map| wake(Key::new("", map.namespace())));
        });
    }
}

impl Controller for RootCaPublisher {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let active = self.caches.namespaces.at(key).is_some_and(|namespace| namespace.deleted().is_none());
        if !active {
            return Plan::nothing();
        }
        publish(&key.name, self.caches.root_cas.get(&key.name, NAME).as_deref(), &self.pem)
    }
}

/// What to do in one namespace.
fn publish(namespace: &str, found: Option<&RootCa>, pem: &str) -> Plan {
    let wanted: Labels = [(FILE.to_owned(), pem.to_owned())].into();
    let described = [("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())];
    let mut metadata = ObjectMeta {
        name: Some(NAME.into()),
        namespace: Some(namespace.into()),
        annotations: Some(described.into()),
        ..ObjectMeta::default()
    };
    match found {
        None => {
            let map = ConfigMap { metadata, data: Some(wanted), ..ConfigMap::default() };
            Change::create(&map).tolerate(Tolerate::AlreadyExists).into()
        }
        Some(found) if found.data == wanted && found.metadata.annotations.contains_key("kubernetes.io/description") => Plan::nothing(),
        Some(found) => {
            metadata.annotations.get_or_insert_default().extend(found.metadata.annotations.clone());
            metadata.labels = Some(found.metadata.labels.clone());
            metadata.uid = Some(found.metadata.uid.clone());
            metadata.resource_version = Some(found.metadata.resource_version.clone());
            let map = ConfigMap { metadata, data: Some(wanted), ..ConfigMap::default() };
            Change::update(&map).tolerate(Tolerate::Races).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Verb;

    #[test]
    fn a_missing_map_is_created_a_wrong_one_put_right_and_a_right_one_left_alone() {
        let created = publish("a", None, "PEM");
        assert!(matches!(created.changes().next().unwrap().verb, Verb::Create(_)));
        let mut found = RootCa { data: [(FILE.to_owned(), "OTHER".to_owned())].into(), ..RootCa::default() };
        assert!(matches!(publish("a", Some(&found), "PEM").changes().next().unwrap().verb, Verb::Update { .. }));
        found.data = [(FILE.to_owned(), "PEM".to_owned())].into();
        found.metadata.annotations.insert("kubernetes.io/description".into(), "other words".into());
        assert_eq!(publish("a", Some(&found), "PEM").changes().count(), 0);
    }
}
