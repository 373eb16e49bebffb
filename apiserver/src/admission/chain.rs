//! Which plugins run, in which order (`pkg/kubeapiserver/options/plugins.go`).

use std::sync::Arc;

use tracing::warn;

use super::{
    Admission,
    certificates::{
        CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest, PodCertificateSigning,
    },
    devices::DeviceAccess,
    escalation::RoleEscalation,
    ingress::DefaultIngressClass,
    limits::LimitRanger,
    namespace::NamespaceLifecycle,
    noderestriction::NodeRestriction,
    optional::{
        self, AlwaysAdmit, AlwaysDeny, AlwaysPullImages, DenyServiceExternalIPs, ExtendedResourceToleration,
        LimitPodHardAntiAffinityTopology, NamespaceAutoProvision, NamespaceExists, OwnerReferencesPermissionEnforcement, PodNodeSelector,
        PodTolerationRestriction,
    },
    podsecurity::PodSecurity,
    policy::{self, MutatingAdmissionPolicy, ValidatingAdmissionPolicy},
    priority::Priority,
    quota::ResourceQuota,
    runtimeclass::RuntimeClass,
    serviceaccount::ServiceAccount,
    storage::{DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection},
    taints::TaintNodesByCondition,
    tolerations::DefaultTolerationSeconds,
    topology::PodTopologyLabels,
    webhook::{self, MutatingAdmissionWebhook, ValidatingAdmissionWebhook},
};
use crate::{
    authz::{self, escalation::Escalation, rbac::Rbac},
    registry::{Reader, Writer},
};

/// What plugins need, and which are wanted.
pub struct Options {
    /// Where plugins look at other objects.
    pub reader: Arc<dyn Reader>,
    /// Through which quotas are counted.
    pub writer: Arc<dyn Writer>,
    /// Who decides about signers and roles.
    pub authorizer: authz::Chain,
    /// The role index, when RBAC is on: roles are then guarded against escalation.
    pub rbac: Option<Arc<Rbac>>,
    /// Policies in Cedar, if they count.
    #[cfg(feature = "cedar")]
    pub(crate) cedar: Option<Arc<crate::authz::cedar::Cedar>>,
    /// What policies are asked with.
    pub policies: policy::Engine,
    /// What webhooks are asked with.
    pub webhooks: webhook::Engine,
    /// `--enable-admission-plugins`: beyond those that are on anyway.
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`
    pub disable: Vec<String>,
}

/// Upstream's plugins that do not run here: asking for one is told in the log, so that start lines made for kube-apiserver work.
const ABSENT: &[&str] =
    &["EventRateLimit", "ImagePolicyWebhook", "NodeDeclaredFeatureValidator", "PodGroupProtection", "PodResizeValidator"];

/// The plugins in upstream's order. The error names an unknown one and what is known.
pub fn chain(options: &Options) -> Result<Vec<Arc<dyn Admission>>, String> {
    let mut plugins = built(options);
    let known: Vec<&str> = plugins.iter().map(|p| p.name()).collect();
    for (flag, names) in [("enable-admission-plugins", &options.enable), ("disable-admission-plugins", &options.disable)] {
        for name in names.iter().filter(|n| !known.contains(&n.as_str())) {
            if !ABSENT.contains(&name.as_str()) {
                return Err(format!("{flag} plugin {name:?} is unknown; known: {}", known.join(", ")));
            }
            if flag.starts_with("enable") {
                warn!(plugin = name, "admission plugin is not available here and does not run");
            }
        }
    }
    if let Some(both) = options.enable.iter().find(|n| options.disable.contains(n)) {
        return Err(format!("{both:?} is in both enable-admission-plugins and disable-admission-plugins"));
    }
    let named = |list: &[String], plugin: &dyn Admission| list.iter().any(|name| name == plugin.name());
    plugins.retain(|p| !named(&options.disable, &**p) && (!optional::NAMES.contains(&p.name()) || named(&options.enable, &**p)));
    plugins.push(Arc::new(policy::Expressions));
    plugins.push(Arc::new(PodCertificateSigning { authorizer: options.authorizer.clone() }));
    plugins.push(Arc::new(DeviceAccess { reader: options.reader.clone(), authorizer: options.authorizer.clone() }));
    #[cfg(feature = "cedar")]
    if let Some(cedar) = options.cedar.clone() {
        plugins.push(Arc::new(crate::authz::cedar::CedarPolicies(cedar)));
    }
    if let Some(rbac) = options.rbac.clone() {
        let check = Escalation { rbac, chain: options.authorizer.clone() };
        plugins.push(Arc::new(RoleEscalation(check)));
    }
    Ok(plugins)
}

fn built(options: &Options) -> Vec<Arc<dyn Admission>> {
    let reader = || options.reader.clone();
    let authorizer = || options.authorizer.clone();
    vec![
        Arc::new(AlwaysAdmit),
        Arc::new(NamespaceAutoProvision { reader: reader(), writer: options.writer.clone() }),
        Arc::new(NamespaceLifecycle { reader: reader() }),
        Arc::new(NamespaceExists { reader: reader() }),
        Arc::new(LimitPodHardAntiAffinityTopology),
        Arc::new(LimitRanger { reader: reader() }),
        Arc::new(ServiceAccount { reader: reader() }),
        Arc::new(NodeRestriction { reader: reader() }),
        Arc::new(TaintNodesByCondition),
        Arc::new(AlwaysPullImages),
        Arc::new(PodSecurity { reader: reader() }),
        Arc::new(PodNodeSelector { reader: reader() }),
        Arc::new(Priority { reader: reader() }),
        Arc::new(DefaultTolerationSeconds::default()),
        Arc::new(PodTolerationRestriction { reader: reader() }),
        Arc::new(ExtendedResourceToleration),
        Arc::new(DefaultStorageClass { reader: reader() }),
        Arc::new(StorageObjectInUseProtection),
        Arc::new(OwnerReferencesPermissionEnforcement { authorizer: authorizer(), resources: options.policies.resources.clone() }),
        Arc::new(PersistentVolumeClaimResize { reader: reader() }),
        Arc::new(RuntimeClass { reader: reader() }),
        Arc::new(CertificateApproval { authorizer: authorizer() }),
        Arc::new(CertificateSigning { authorizer: authorizer() }),
        Arc::new(ClusterTrustBundleAttest { authorizer: authorizer() }),
        Arc::new(CertificateSubjectRestriction),
        Arc::new(DefaultIngressClass { reader: reader() }),
        Arc::new(DenyServiceExternalIPs),
        Arc::new(PodTopologyLabels { reader: reader() }),
        Arc::new(MutatingAdmissionPolicy(options.policies.clone())),
        Arc::new(MutatingAdmissionWebhook(options.webhooks.clone())),
        Arc::new(ValidatingAdmissionPolicy(options.policies.clone())),
        Arc::new(ValidatingAdmissionWebhook(options.webhooks.clone())),
        Arc::new(ResourceQuota::new(reader(), options.writer.clone())),
        Arc::new(AlwaysDeny),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::FakeReader;

    fn names(enable: &[&str], disable: &[&str]) -> Result<Vec<&'static str>, String> {
        let reader = Arc::new(FakeReader::default());
        let texts = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        let policies = policy::Engine {
            policies: Arc::default(),
            reader: reader.clone(),
            authorizer: authz::Chain::default(),
            resources: Arc::new(|_, _| None),
            equivalents: Arc::new(|_| Vec::new()),
        };
        let webhooks = webhook::Engine {
            webhooks: Arc::default(),
            reader: reader.clone(),
            authorizer: authz::Chain::default(),
            equivalents: Arc::new(|_| Vec::new()),
            review: coracle_schema::Tables::load().unwrap().message("admission.AdmissionReview").unwrap(),
        };
        let options = Options {
            policies,
            webhooks,
            reader: reader.clone(),
            writer: reader,
            authorizer: authz::Chain::default(),
            rbac: Some(Arc::new(Rbac::default())),
            #[cfg(feature = "cedar")]
            cedar: None,
            enable: texts(enable),
            disable: texts(disable),
        };
        chain(&options).map(|plugins| plugins.iter().map(|p| p.name()).collect())
    }

    #[test]
    fn plugins_run_in_upstreams_order_with_quota_last_before_roles() {
        let names = names(&["AlwaysPullImages"], &["ServiceAccount"]).unwrap();
        assert_eq!(names[..5], ["NamespaceLifecycle", "LimitRanger", "NodeRestriction", "TaintNodesByCondition", "AlwaysPullImages"]);
        let last = [
            "MutatingAdmissionPolicy",
            "MutatingAdmissionWebhook",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionWebhook",
            "ResourceQuota",
            "Expressions",
            "PodCertificateSigning",
            "DeviceAccess",
            "RoleEscalation",
        ];
        assert_eq!(names[names.len() - last.len()..], last);
    }

    #[test]
    fn every_name_that_upstream_knows_is_taken() {
        // `kube-apiserver --help` of 1.37.
        const UPSTREAM: &str = "AlwaysAdmit AlwaysDeny AlwaysPullImages CertificateApproval CertificateSigning CertificateSubjectRestriction \
             ClusterTrustBundleAttest DefaultIngressClass DefaultStorageClass DefaultTolerationSeconds DenyServiceExternalIPs EventRateLimit \
             ExtendedResourceToleration ImagePolicyWebhook LimitPodHardAntiAffinityTopology LimitRanger MutatingAdmissionPolicy \
             MutatingAdmissionWebhook NamespaceAutoProvision NamespaceExists NamespaceLifecycle NodeDeclaredFeatureValidator NodeRestriction \
             OwnerReferencesPermissionEnforcement PersistentVolumeClaimResize PodGroupProtection PodNodeSelector PodResizeValidator PodSecurity \
             PodTolerationRestriction PodTopologyLabels Priority ResourceQuota RuntimeClass ServiceAccount StorageObjectInUseProtection \
             TaintNodesByCondition ValidatingAdmissionPolicy ValidatingAdmissionWebhook";
        for name in UPSTREAM.split_whitespace() {
            assert!(names(&[name], &[]).is_ok() && names(&[], &[name]).is_ok(), "{name}");
        }
    }

    #[test]
    fn unknown_and_contradictory_names_are_refused() {
        assert!(names(&["Nonsense"], &[]).unwrap_err().starts_with("enable-admission-plugins plugin \"Nonsense\" is unknown"));
        assert!(names(&["Priority"], &["Priority"]).unwrap_err().contains("both"));
    }
}
