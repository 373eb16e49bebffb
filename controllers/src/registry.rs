//! The list of built-in controllers.

use std::sync::Arc;

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};

use crate::{
    caches::Caches,
    cronjob::CronJobs,
    daemonset::DaemonSets,
    deployment::Deployments,
    disruption::Budgets,
    endpoints::{Mirror, PlainEndpoints, Slices},
    garbage::Garbage,
    job::{Jobs, TtlAfterFinished},
    legacy_tokens::LegacyTokens,
    namespace::Namespaces,
    node::{NodeIpam, NodeLifecycle, PodGc, TaintEviction},
    protection::{AttributesProtection, ClaimProtection, VolumeProtection},
    quota::Quotas,
    replicaset::ReplicaSets,
    root_ca::RootCaPublisher,
    run::{BuildError, Clients, Options, Planned, Reconcile},
    service_account::ServiceAccounts,
    service_cidr::ServiceRanges,
    statefulset::StatefulSets,
};

/// Controllers that only run when an option gives them something to do; their names are always known.
pub(crate) const CONDITIONAL: [&str; 2] = ["node-ipam-controller", "root-ca-certificate-publisher-controller"];

/// All controllers, in the order in which they are wired. The collector of garbage is the last: it listens to the caches
/// that the others need.
pub(crate) fn all(caches: &Arc<Caches>, clients: &Clients, options: &Options) -> Result<Vec<Arc<dyn Reconcile>>, BuildError> {
    let mut all: Vec<Arc<dyn Reconcile>> = vec![
        Arc::new(Planned(Deployments::new(caches.clone()))),
        Arc::new(Planned(ReplicaSets::<ReplicaSet>::new(caches.clone()))),
        Arc::new(Planned(ReplicaSets::<ReplicationController>::new(caches.clone()))),
        Arc::new(Planned(ServiceAccounts::new(caches.clone()))),
        Arc::new(Namespaces::new(caches.clone())),
        Arc::new(Planned(PlainEndpoints::new(caches.clone()))),
        Arc::new(Planned(Slices::new(caches.clone()))),
        Arc::new(Planned(Mirror::new(caches.clone()))),
        Arc::new(Planned(NodeLifecycle::new(caches.clone(), options.node_grace))),
        Arc::new(Planned(TaintEviction::new(caches.clone()))),
        Arc::new(Planned(DaemonSets::new(caches.clone()))),
        Arc::new(Planned(StatefulSets::new(caches.clone()))),
        Arc::new(Planned(CronJobs::new(caches.clone()))),
        Arc::new(Planned(Budgets::new(caches.clone()))),
        Arc::new(Planned(ClaimProtection::new(caches.clone()))),
        Arc::new(Planned(VolumeProtection::new(caches.clone()))),
        Arc::new(Planned(AttributesProtection::new(caches.clone()))),
        Arc::new(Planned(ServiceRanges::new(caches.clone()))),
        Arc::new(Quotas::new(caches.clone())),
        Arc::new(Planned(Jobs::new(caches.clone()))),
        Arc::new(Planned(TtlAfterFinished::new(caches.clone()))),
        Arc::new(LegacyTokens::new(caches.clone(), clients.clone(), options.unused_tokens)),
        Arc::new(Planned(PodGc::new(caches.clone(), options.terminated_pods))),
    ];
    if let Some(cidr) = options.cluster_cidr {
        all.push(Arc::new(Planned(NodeIpam::new(caches.clone(), cidr, options.node_mask)?)));
    }
    if let Some(pem) = &options.root_ca {
        all.push(Arc::new(Planned(RootCaPublisher::new(caches.clone(), pem.clone()))));
    }
    all.push(Arc::new(Garbage::new(caches.clone())));
    Ok(all)
}
