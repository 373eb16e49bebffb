//! Keeps a service account `default` in every namespace (upstream `pkg/controller/serviceaccount`).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ServiceAccount, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{
    caches::Caches,
    change::{Change, Plan, Tolerate},
    object::{Key, Object},
    run::{Controller, Named, Wake},
};

const NAME: &str = "default";

/// The controller.
pub(crate) struct ServiceAccounts {
    caches: Arc<Caches>,
}

impl ServiceAccounts {
    /// The controller over these caches.
    #[must_use]
    pub(crate) fn new(caches: Arc<Caches>) -> Self {
        Self { caches }
    }
}

impl Named for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }
    fn identity(&self) -> &'static str {
        "service-account-controller"
    }
    fn reads(&self, wake: &Wake) {
        wake.on_self(&self.caches.namespaces);
        wake.on(&self.caches.service_accounts, |delta, wake| {
            if let (Some(old), None) = (delta.old, delta.new) {
                wake(Key::new("", old.namespace()));
            }
        });
    }
}

impl Controller for ServiceAccounts {
    fn plan(&self, key: &Key, _now: Timestamp) -> Plan {
        let active = self.caches.namespaces.at(key).is_some_and(|namespace| namespace.deleted().is_none());
        if !active || self.caches.service_accounts.get(&key.name, NAME).is_some() {
            return Plan::nothing();
        }
        let metadata = ObjectMeta { name: Some(NAME.into()), namespace: Some(key.name.to_string()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        Change::create(&account).tolerate(Tolerate::AlreadyExists).into()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;

    use super::*;

    fn named(name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.into()), uid: Some(name.into()), ..ObjectMeta::default() }
    }

    #[test]
    fn every_active_namespace_gets_its_default_account_once() {
        let caches = Arc::new(Caches::default());
        let controller = ServiceAccounts::new(caches.clone());
        let (key, now) = (Key::new("", "a"), Timestamp::UNIX_EPOCH);
        assert_eq!(controller.plan(&key, now).changes().count(), 0, "no such namespace");
        caches.namespaces.put(Namespace { metadata: named("a"), ..Namespace::default() });
        assert_eq!(controller.plan(&key, now).changes().count(), 1);
        let metadata = ObjectMeta { namespace: Some("a".into()), ..named(NAME) };
        caches.service_accounts.put(ServiceAccount { metadata, ..ServiceAccount::default() });
        assert_eq!(controller.plan(&key, now).changes().count(), 0);
    }
}
