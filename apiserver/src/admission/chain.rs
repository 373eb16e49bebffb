//! Which plugins run, in which order (`pkg/kubeapiserver/options/plugins.go`).

use std::{path::Path, sync::Arc};

use super::{
    Admission, Settings,
    certificates::{
        CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest, PodCertificateSigning,
    },
    devices::DeviceAccess,
    escalation::RoleEscalation,
    ingress::DefaultIngressClass,
    limits::LimitRanger,
    manifests::Manifests,
    namespace::NamespaceLifecycle,
    noderestriction::NodeRestriction,
    optional::{
        self, AlwaysAdmit, AlwaysDeny, AlwaysPullImages, DenyServiceExternalIPs, EventRateLimit, ExtendedResourceToleration,
        ImagePolicyWebhook, LimitPodHardAntiAffinityTopology, NamespaceAutoProvision, NamespaceExists,
        OwnerReferencesPermissionEnforcement, PodNodeSelector, PodTolerationRestriction,
    },
    podsecurity::PodSecurity,
    policy::{self, MutatingAdmissionPolicy, ValidatingAdmissionPolicy},
    priority::Priority,
    quota::ResourceQuota,
    resize::{NodeDeclaredFeatureValidator, PodResizeValidator},
    runtimeclass::RuntimeClass,
    serviceaccount::ServiceAccount,
    settings,
    storage::{DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection},
    taints::TaintNodesByCondition,
    tolerations::DefaultTolerationSeconds,
    topology::PodTopologyLabels,
    webhook::{self, Configured, MutatingAdmissionWebhook, ValidatingAdmissionWebhook},
};
use crate::{
    authz::{self, escalation::Escalation, rbac::Rbac},
    registry::{Catalog, Reader, Writer},
};

/// What plugins need, and which are wanted.
pub struct Options {
    /// Where plugins look at other objects.
    pub reader: Arc<dyn Reader>,
    /// Through which quotas are counted.
    pub writer: Arc<dyn Writer>,
    /// Who decides about signers and roles.
    pub authorizer: authz::Chain,
    /// The role index: roles are guarded against escalation, also where they do not count now.
    pub rbac: Arc<Rbac>,
    /// Policies in Cedar, if they count.
    #[cfg(feature = "cedar")]
    pub(crate) cedar: Option<Arc<crate::authz::cedar::Cedar>>,
    /// What policies are asked with.
    pub policies: policy::Engine,
    /// What webhooks are asked with.
    pub webhooks: webhook::Engine,
    /// Which are wanted, and what is configured of them.
    pub settings: Settings,
    /// The kinds there are at the start.
    pub catalog: Arc<Catalog>,
    /// What this server is known by, where there may be others.
    pub server: Option<String>,
}

/// Every plugin's name, in upstream's order.
const ORDER: [&str; 39] = [
    "AlwaysAdmit",
    "NamespaceAutoProvision",
    "NamespaceLifecycle",
    "NamespaceExists",
    "LimitPodHardAntiAffinityTopology",
    "LimitRanger",
    "ServiceAccount",
    "NodeRestriction",
    "TaintNodesByCondition",
    "AlwaysPullImages",
    "ImagePolicyWebhook",
    "PodSecurity",
    "PodNodeSelector",
    "Priority",
    "DefaultTolerationSeconds",
    "PodTolerationRestriction",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "PodGroupProtection",
    "OwnerReferencesPermissionEnforcement",
    "PersistentVolumeClaimResize",
    "RuntimeClass",
    "CertificateApproval",
    "CertificateSigning",
    "ClusterTrustBundleAttest",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "DenyServiceExternalIPs",
    "PodTopologyLabels",
    "NodeDeclaredFeatureValidator",
    "PodResizeValidator",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
    "AlwaysDeny",
];

/// The plugins in upstream's order. The error names an unknown one and what is known, or what is wrong with a configuration.
pub fn chain(options: &Options) -> Result<Vec<Arc<dyn Admission>>, String> {
    let settings = &options.settings;
    check(settings)?;
    let mut plugins = Vec::new();
    for name in ORDER.into_iter().filter(|name| wants(settings, name)) {
        let made = plugin(name, options).map_err(|why| format!("couldn't init admission plugin {name:?}: {why}"))?;
        plugins.extend(made);
    }
    plugins.push(Arc::new(PodCertificateSigning { authorizer: options.authorizer.clone() }));
    plugins.push(Arc::new(DeviceAccess { reader: options.reader.clone(), authorizer: options.authorizer.clone() }));
    #[cfg(feature = "cedar")]
    if let Some(cedar) = options.cedar.clone() {
        plugins.push(Arc::new(crate::authz::cedar::CedarPolicies(cedar)));
    }
    // Whoever decides now.
    let check = Escalation { rbac: options.rbac.clone(), chain: options.authorizer.clone() };
    plugins.push(Arc::new(RoleEscalation(check)));
    Ok(plugins)
}

/// Names must be known, and nobody can want and not want the same.
fn check(settings: &Settings) -> Result<(), String> {
    let none = Vec::new();
    let only = settings.only.as_ref();
    for (flag, names) in [
        ("admission-control", only.unwrap_or(&none)),
        ("enable-admission-plugins", &settings.enable),
        ("disable-admission-plugins", &settings.disable),
    ] {
        if let Some(name) = names.iter().find(|name| !ORDER.contains(&name.as_str())) {
            return Err(format!("{flag} plugin {name:?} is unknown; known: {}", ORDER.join(", ")));
        }
    }
    if only.is_some() && !(settings.enable.is_empty() && settings.disable.is_empty()) {
        return Err("admission-control and enable-admission-plugins/disable-admission-plugins flags are mutually exclusive".to_owned());
    }
    let mut both: Vec<&str> = settings.enable.iter().filter(|name| settings.disable.contains(name)).map(String::as_str).collect();
    both.sort_unstable();
    both.dedup();
    if both.is_empty() {
        return Ok(());
    }
    Err(format!("[{}] in enable-admission-plugins and disable-admission-plugins overlapped", both.join(" ")))
}

fn wants(settings: &Settings, name: &str) -> bool {
    let named = |list: &[String]| list.iter().any(|known| known == name);
    if settings.gated.contains(&name) {
        return false;
    }
    match &settings.only {
        Some(only) => named(only),
        None => !named(&settings.disable) && (!optional::NAMES.contains(&name) || named(&settings.enable)),
    }
}

/// One plugin; `None` where what it is for is behind a feature gate that is off.
fn plugin(name: &'static str, options: &Options) -> Result<Option<Arc<dyn Admission>>, String> {
    let reader = || options.reader.clone();
    let authorizer = || options.authorizer.clone();
    let writer = || options.writer.clone();
    let configuration = options.settings.configuration.of(name);
    let manifests = |folder: &Path, resources: &[&str]| {
        let open = || Manifests::open(name, folder, resources, &options.catalog, options.server.as_deref());
        (!folder.as_os_str().is_empty()).then(open).transpose()
    };
    let policies = |kind, set: &policy::Set| match configuration {
        Some(configuration) => match manifests(&settings::policies_of_files(kind, configuration)?, &set.resources())? {
            Some(manifests) => set.configure(manifests),
            None => Ok(()),
        },
        None => Ok(()),
    };
    let webhooks = |resource| -> Result<Configured, String> {
        let Some(configuration) = configuration else { return Ok(Configured::default()) };
        let (accounts, folder) = webhook::configuration::read(configuration)?;
        Ok(Configured { accounts, manifests: manifests(&folder, &[resource])? })
    };
    Ok(Some(match name {
        "NamespaceAutoProvision" => Arc::new(NamespaceAutoProvision { reader: reader(), writer: writer() }),
        "NamespaceLifecycle" => Arc::new(NamespaceLifecycle { reader: reader() }),
        "NamespaceExists" => Arc::new(NamespaceExists { reader: reader() }),
        "LimitPodHardAntiAffinityTopology" => Arc::new(LimitPodHardAntiAffinityTopology),
        "LimitRanger" => Arc::new(LimitRanger { reader: reader() }),
        "ServiceAccount" => Arc::new(ServiceAccount { reader: reader() }),
        "NodeRestriction" => Arc::new(NodeRestriction { reader: reader(), authorizer: authorizer() }),
        "TaintNodesByCondition" => Arc::new(TaintNodesByCondition),
        "AlwaysPullImages" => Arc::new(AlwaysPullImages),
        "ImagePolicyWebhook" => Arc::new(ImagePolicyWebhook::new(configuration)?),
        "PodSecurity" => Arc::new(PodSecurity::new(reader(), configuration)?),
        "PodNodeSelector" => Arc::new(PodNodeSelector::new(reader(), configuration)?),
        "Priority" => Arc::new(Priority { reader: reader() }),
        "DefaultTolerationSeconds" => match options.settings.toleration_seconds {
            Some(seconds) => Arc::new(DefaultTolerationSeconds { seconds }),
            None => Arc::new(DefaultTolerationSeconds::default()),
        },
        "PodTolerationRestriction" => Arc::new(PodTolerationRestriction::new(reader(), configuration)?),
        "EventRateLimit" => Arc::new(EventRateLimit::new(configuration)?),
        "ExtendedResourceToleration" => Arc::new(ExtendedResourceToleration),
        "DefaultStorageClass" => Arc::new(DefaultStorageClass { reader: reader() }),
        "StorageObjectInUseProtection" => Arc::new(StorageObjectInUseProtection),
        // Pod groups are not served: the gate GenericWorkload is off.
        "PodGroupProtection" => return Ok(None),
        "OwnerReferencesPermissionEnforcement" => {
            Arc::new(OwnerReferencesPermissionEnforcement { authorizer: authorizer(), resources: options.policies.resources.clone() })
        }
        "PersistentVolumeClaimResize" => Arc::new(PersistentVolumeClaimResize { reader: reader() }),
        "RuntimeClass" => Arc::new(RuntimeClass { reader: reader() }),
        "CertificateApproval" => Arc::new(CertificateApproval { authorizer: authorizer() }),
        "CertificateSigning" => Arc::new(CertificateSigning { authorizer: authorizer() }),
        "ClusterTrustBundleAttest" => Arc::new(ClusterTrustBundleAttest { authorizer: authorizer() }),
        "CertificateSubjectRestriction" => Arc::new(CertificateSubjectRestriction),
        "DefaultIngressClass" => Arc::new(DefaultIngressClass { reader: reader() }),
        "DenyServiceExternalIPs" => Arc::new(DenyServiceExternalIPs),
        "PodTopologyLabels" => Arc::new(PodTopologyLabels { reader: reader() }),
        "NodeDeclaredFeatureValidator" => Arc::new(NodeDeclaredFeatureValidator { reader: reader() }),
        "PodResizeValidator" => Arc::new(PodResizeValidator { reader: reader() }),
        "MutatingAdmissionPolicy" => {
            policies("MutatingAdmissionPolicyConfiguration", &options.policies.policies.mutating)?;
            Arc::new(MutatingAdmissionPolicy(options.policies.clone()))
        }
        "MutatingAdmissionWebhook" => {
            let configured = webhooks("mutatingwebhookconfigurations")?;
            Arc::new(MutatingAdmissionWebhook::new(options.webhooks.clone(), configured)?)
        }
        "ValidatingAdmissionPolicy" => {
            policies("ValidatingAdmissionPolicyConfiguration", &options.policies.policies.validating)?;
            Arc::new(ValidatingAdmissionPolicy(options.policies.clone()))
        }
        "ValidatingAdmissionWebhook" => {
            let configured = webhooks("validatingwebhookconfigurations")?;
            Arc::new(ValidatingAdmissionWebhook::new(options.webhooks.clone(), configured)?)
        }
        "ResourceQuota" => Arc::new(ResourceQuota::new(reader(), writer(), configuration)?),
        "AlwaysDeny" => Arc::new(AlwaysDeny),
        _ => Arc::new(AlwaysAdmit),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::FakeReader;

    fn names_of(settings: Settings) -> Result<Vec<&'static str>, String> {
        let reader = Arc::new(FakeReader::default());
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
            rbac: Arc::default(),
            #[cfg(feature = "cedar")]
            cedar: None,
            settings,
            catalog: Arc::new(Catalog::new(Vec::new())),
            server: None,
        };
        chain(&options).map(|plugins| plugins.iter().map(|p| p.name()).collect())
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    fn names(enable: &[&str], disable: &[&str]) -> Result<Vec<&'static str>, String> {
        names_of(Settings { enable: texts(enable), disable: texts(disable), ..Settings::default() })
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
        let mut known = ORDER.to_vec();
        known.sort_unstable();
        assert_eq!(known, UPSTREAM.split_whitespace().collect::<Vec<_>>());
        for name in known {
            assert!(names(&[], &[name]).is_ok(), "{name}");
            let made = names(&[name], &[]);
            match name {
                "EventRateLimit" | "ImagePolicyWebhook" => {
                    assert!(made.unwrap_err().starts_with("couldn't init admission plugin"), "{name}");
                }
                "PodGroupProtection" => assert!(made.is_ok()),
                _ => assert!(made.unwrap().contains(&name), "{name}"),
            }
        }
    }

    #[test]
    fn those_named_alone_run_alone() {
        let only = |only: &[&str], enable: &[&str]| {
            let settings = Settings { only: Some(texts(only)), enable: texts(enable), ..Settings::default() };
            names_of(settings).map(|names| names[..names.len() - 3].to_vec())
        };
        assert_eq!(only(&["ServiceAccount", "AlwaysAdmit"], &[]).unwrap(), ["AlwaysAdmit", "ServiceAccount"]);
        assert!(only(&["ServiceAccount"], &["Priority"]).unwrap_err().ends_with("are mutually exclusive"));
        assert!(only(&["X"], &[]).unwrap_err().starts_with("admission-control plugin \"X\" is unknown"));
    }

    #[test]
    fn a_configuration_that_is_not_understood_is_refused_by_the_plugins_name() {
        let with = |plugin: &str, text: &str| {
            names_of(Settings { configuration: settings::Configuration::only(plugin, text), ..Settings::default() })
        };
        assert!(with("PodSecurity", "{kind: X}").unwrap_err().starts_with("couldn't init admission plugin \"PodSecurity\": "));
        let hooks = "{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, staticManifestsDir: /a}";
        assert!(with("ValidatingAdmissionWebhook", hooks).unwrap_err().contains("staticManifestsDir"));
        // What is off is not configured.
        assert!(with("EventRateLimit", "x").is_ok());
    }

    #[test]
    fn unknown_and_contradictory_names_are_refused() {
        assert!(names(&["Nonsense"], &[]).unwrap_err().starts_with("enable-admission-plugins plugin \"Nonsense\" is unknown"));
        assert!(names(&["Priority"], &["Priority"]).unwrap_err().starts_with("[Priority] in enable-admission-plugins"));
    }
}
