//! The room's caches: one watch and one copy per kind, shared by all its controllers. A kind nobody reads is not watched.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{
        Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController, ResourceQuota, Service, ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
    policy::v1::PodDisruptionBudget,
    storage::v1::VolumeAttributesClass,
};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    departures::Departures,
    lease::NodeLease,
    legacy_tokens::TokenSecret,
    object::{Kind, Object, Resource},
    pod::Pod,
    reflector,
    root_ca::RootCa,
    service_cidr::ServiceAddress,
    store::{AnyStore, Store},
};

/// Is told of every change: the kind, the object before and after.
pub type AnyListener = dyn Fn(&Resource, Option<&dyn Object>, Option<&dyn Object>) + Send + Sync;

macro_rules! caches {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// One [`Store`] per kind.
        #[derive(Default)]
        pub struct Caches {
            $($(#[$doc])* pub $field: Arc<Store<$kind>>,)*
            /// What left the cluster, of these kinds and all others.
            pub departures: Departures,
        }

        impl Caches {
            /// Every store, without its type.
            #[must_use]
            pub fn stores(&self) -> Vec<Arc<dyn AnyStore>> {
                vec![$(self.$field.clone(),)*]
            }

            /// The reflectors of the stores that somebody reads.
            pub fn reflectors(&self, client: &Client, stop: &CancellationToken) -> Vec<(Resource, BoxFuture<'static, ()>)> {
                let mut all: Vec<(Resource, BoxFuture<'static, ()>)> = Vec::new();
                $(
                    if self.$field.is_needed() {
                        let collection = reflector::Collection::of::<$kind>();
                        let run = reflector::run::<$kind, _>(collection, self.$field.clone(), client.clone(), stop.clone());
                        all.push((self.$field.resource(), Box::pin(run)));
                    }
                )*
                all
            }

            /// Calls `listener` for every change of every kind that is watched anyway, as metadata.
            /// Returns the kinds so covered: those of which the whole collection is cached.
            pub fn listen_all(&self, listener: &Arc<AnyListener>) -> Vec<Resource> {
                let mut covered = Vec::new();
                $(
                    if self.$field.is_needed() && <$kind as Kind>::FIELDS.is_none() {
                        let (listener, resource) = (listener.clone(), self.$field.resource());
                        covered.push(resource.clone());
                        self.$field.listen(move |delta| {
                            let old = delta.old.map(|object| object.as_ref() as &dyn Object);
                            let new = delta.new.map(|object| object.as_ref() as &dyn Object);
                            listener(&resource, old, new);
                        });
                    }
                )*
                covered
            }
        }
    };
}

caches! {
    /// Pods, in the slim form.
    pods: Pod,
    /// Replica sets.
    replica_sets: ReplicaSet,
    /// Deployments.
    deployments: Deployment,
    /// Stateful sets.
    stateful_sets: StatefulSet,
    /// Daemon sets.
    daemon_sets: DaemonSet,
    /// Revisions of stateful and daemon sets.
    controller_revisions: ControllerRevision,
    /// Replication controllers.
    replication_controllers: ReplicationController,
    /// Jobs.
    jobs: Job,
    /// Cron jobs.
    cron_jobs: CronJob,
    /// Services.
    services: Service,
    /// Endpoints.
    endpoints: Endpoints,
    /// Endpoint slices.
    endpoint_slices: EndpointSlice,
    /// Namespaces.
    namespaces: Namespace,
    /// Service accounts.
    service_accounts: ServiceAccount,
    /// The `kube-root-ca.crt` config maps, and no others.
    root_cas: RootCa,
    /// Nodes.
    nodes: Node,
    /// Leases of nodes.
    leases: NodeLease,
    /// Resource quotas.
    quotas: ResourceQuota,
    /// Pod disruption budgets.
    budgets: PodDisruptionBudget,
    /// Persistent volume claims.
    claims: PersistentVolumeClaim,
    /// Persistent volumes.
    volumes: PersistentVolume,
    /// Classes of volume attributes.
    attributes_classes: VolumeAttributesClass,
    /// Networks of service addresses.
    service_cidrs: ServiceCIDR,
    /// Addresses of services.
    service_addresses: ServiceAddress,
    /// Secrets with tokens of service accounts, without the tokens, and no others.
    token_secrets: TokenSecret,
}

impl Caches {
    /// The store of a kind, if the kind is watched.
    #[must_use]
    pub fn find(&self, resource: &Resource) -> Option<Arc<dyn AnyStore>> {
        self.stores().into_iter().find(|store| store.is_needed() && store.resource() == *resource)
    }
}
