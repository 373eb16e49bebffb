//! The odd rules of single kinds, a file for each or for a family of them.
//!
//! Everything here is pure: an object in, an object or its faults out. What most kinds share (metadata, table defaults, structure) is
//! done by the generic path; see [`crate::registry::Rules`].

pub mod capabilities;
pub mod columns;

mod access;
mod address;
mod addresses;
mod attachment;
mod autoscaler;
mod candidate;
mod certificates;
mod conditions;
mod devices;
mod endpoints;
mod event;
mod extension;
mod fields;
mod flow;
mod job;
mod job_policy;
mod job_status;
mod load_balancer;
mod migration;
mod namespace;
mod networking;
mod node;
mod persistentvolume;
mod persistentvolumeclaim;
mod pod;
mod podcertificate;
mod policy;
mod registration;
mod resources;
mod schedule;
mod scheduling;
mod secret;
mod service;
mod serviceaccount;
mod storageclass;
mod template;
mod trust;
mod view;
mod volume_source;
mod workloads;

#[cfg(test)]
mod core_tests;
#[cfg(test)]
mod tests;

pub(crate) use scheduling::tolerations;

use std::time::Duration;

use crate::registry::{Rules, rules::PLAIN};

/// The rules of services where those that do not say are of IPv6.
pub static SERVICES_OF_SIX: &dyn Rules = &service::Service { families: ["IPv6", "IPv4"] };

/// The rules of events that last so long (`--event-ttl`). Rules are there for as long as the process.
pub fn events(ttl: Duration) -> &'static dyn Rules {
    Box::leak(Box::new(event::Event::lasting(ttl)))
}

/// The rules of a built-in resource, whatever its version; [`PLAIN`] for most.
pub fn rules_for(group: &str, resource: &str) -> &'static dyn Rules {
    match (group, resource) {
        ("", "pods") => &pod::Pod,
        ("", "serviceaccounts") => &serviceaccount::ServiceAccount,
        ("apps", "controllerrevisions") => &workloads::ControllerRevision,
        ("", "services") => &service::Service { families: ["IPv4", "IPv6"] },
        ("", "endpoints") => &endpoints::Endpoints,
        ("discovery.k8s.io", "endpointslices") => &endpoints::EndpointSlice,
        ("", "namespaces") => &namespace::Namespace,
        ("", "nodes") => &node::Node,
        ("node.k8s.io", "runtimeclasses") => &node::RuntimeClass,
        ("", "secrets") => &secret::Secret,
        ("", "configmaps") => &secret::ConfigMap,
        ("" | "events.k8s.io", "events") => &event::EVENT,
        ("", "persistentvolumeclaims") => &persistentvolumeclaim::PersistentVolumeClaim,
        ("", "persistentvolumes") => &persistentvolume::PersistentVolume,
        ("storage.k8s.io", "storageclasses") => &storageclass::StorageClass,
        ("", "replicationcontrollers") => &workloads::ReplicationController,
        ("", "podtemplates") => &workloads::PodTemplate,
        ("apps", "deployments") => &workloads::Deployment,
        ("apps", "replicasets") => &workloads::ReplicaSet,
        ("apps", "statefulsets") => &workloads::StatefulSet,
        ("apps", "daemonsets") => &workloads::DaemonSet,
        ("batch", "jobs") => &job::Job,
        ("batch", "cronjobs") => &job::CronJob,
        ("", "resourcequotas") => &policy::ResourceQuota,
        ("", "limitranges") => &policy::LimitRange,
        ("policy", "poddisruptionbudgets") => &policy::PodDisruptionBudget,
        ("scheduling.k8s.io", "priorityclasses") => &policy::PriorityClass,
        ("coordination.k8s.io", "leases") => &policy::Lease,
        ("coordination.k8s.io", "leasecandidates") => &candidate::LeaseCandidate,
        ("autoscaling", "horizontalpodautoscalers") => &autoscaler::HorizontalPodAutoscaler,
        ("networking.k8s.io", "ingresses") => &networking::Ingress,
        ("networking.k8s.io", "ingressclasses") => &networking::IngressClass,
        ("networking.k8s.io", "networkpolicies") => &networking::NetworkPolicy,
        ("rbac.authorization.k8s.io", "roles") => &access::Role { namespaced: true },
        ("rbac.authorization.k8s.io", "clusterroles") => &access::Role { namespaced: false },
        ("rbac.authorization.k8s.io", "rolebindings") => &access::RoleBinding { namespaced: true },
        ("rbac.authorization.k8s.io", "clusterrolebindings") => &access::RoleBinding { namespaced: false },
        ("certificates.k8s.io", "certificatesigningrequests") => &certificates::CertificateSigningRequest,
        ("apiextensions.k8s.io", "customresourcedefinitions") => &extension::CustomResourceDefinition,
        ("apiregistration.k8s.io", "apiservices") => &extension::ApiService,
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations" | "mutatingwebhookconfigurations") => {
            &registration::WebhookConfiguration
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &registration::Policy { mutating: false },
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => &registration::Policy { mutating: true },
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => &registration::Binding { mutating: false },
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => &registration::Binding { mutating: true },
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &flow::FlowSchema,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &flow::PriorityLevelConfiguration,
        ("resource.k8s.io", "devicetaintrules") => &devices::DeviceTaintRule,
        ("storagemigration.k8s.io", "storageversionmigrations") => &migration::StorageVersionMigration,
        ("storage.k8s.io", "csidrivers") => &storageclass::CsiDriver,
        ("storage.k8s.io", "volumeattachments") => &attachment::VolumeAttachment,
        ("storage.k8s.io", "volumeattributesclasses") => &attachment::VolumeAttributesClass,
        ("storage.k8s.io", "csistoragecapacities") => &attachment::CsiStorageCapacity,
        ("storage.k8s.io", "csinodes") => &attachment::CsiNode,
        ("networking.k8s.io", "ipaddresses") => &addresses::IpAddress,
        ("networking.k8s.io", "servicecidrs") => &addresses::ServiceCidr,
        ("resource.k8s.io", "resourceclaims") => &devices::ResourceClaim { spec: "/spec" },
        ("resource.k8s.io", "resourceclaimtemplates") => &devices::ResourceClaim { spec: "/spec/spec" },
        ("certificates.k8s.io", "clustertrustbundles") => &trust::ClusterTrustBundle,
        ("certificates.k8s.io", "podcertificaterequests") => &trust::PodCertificateRequest,
        ("resource.k8s.io", "resourceslices") => &devices::ResourceSlice,
        ("resource.k8s.io", "deviceclasses") => &devices::DeviceClass,
        _ => &PLAIN,
    }
}
