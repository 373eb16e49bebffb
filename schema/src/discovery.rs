//! What the server says it serves: `/api`, `/apis`, the lists of resources, and aggregated discovery, all from one list of resources.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_tree::{Value, json};
use sha2::{Digest, Sha256};

use crate::tables::Tables;

/// Priority of the group and of the version of a custom resource, as the CRD registration controller gives them.
pub const CUSTOM_PRIORITY: (u32, u32) = (1000, 100);

/// A resource as discovery shows it, built-in or custom.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// `apps`; empty for the core group.
    pub group: String,
    /// `v1`
    pub version: String,
    /// Group and version priority, higher first.
    pub priority: (u32, u32),
    /// `deployments`
    pub plural: String,
    /// `deployment`
    pub singular: String,
    /// `Deployment`
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// `deploy`
    pub short_names: Vec<String>,
    /// `all`
    pub categories: Vec<String>,
    /// In alphabetical order, custom ones in upstream's.
    pub verbs: Vec<String>,
    /// Its subresources.
    pub subresources: Vec<SubEntry>,
    /// Group, version and kind under which objects are stored, if they are stored: what `storageVersionHash` is made of.
    pub stored_as: Option<(String, String, String)>,
    /// Moves with whatever else is published of a custom resource: its schema.
    pub revision: String,
}

/// A subresource as discovery shows it.
#[derive(Clone, Debug, Default)]
pub struct SubEntry {
    /// `scale`
    pub name: String,
    /// Group of its kind.
    pub group: String,
    /// Version of its kind.
    pub version: String,
    /// `Scale`
    pub kind: String,
    /// In alphabetical order.
    pub verbs: Vec<String>,
}

/// A version of a group that another server serves.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    /// `metrics.k8s.io`
    pub group: String,
    /// `v1beta1`
    pub version: String,
    /// Group and version priority, higher first.
    pub priority: (u32, u32),
    /// Its resources, as that server last showed them: a list of `APIResourceDiscovery`.
    pub resources: Arc<Value>,
    /// Whether that server could be asked when it was last tried.
    pub current: bool,
}

/// Every resource served, ready to be shown. When a CRD changes, only its group is made anew.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    groups: Vec<Arc<Group>>,
}

/// A group with its versions, and its part of the documents that show all groups, made when first asked for.
#[derive(Debug)]
pub struct Group {
    name: String,
    priority: u32,
    /// Preferred first.
    versions: Vec<Version>,
    aggregated: OnceLock<Box<str>>,
    summary: OnceLock<Box<str>>,
}

#[derive(Clone, Debug)]
struct Version {
    name: String,
    priority: u32,
    resources: Vec<Entry>,
    /// What another server shows, if one serves this version.
    foreign: Option<Foreign>,
}

/// The built-in resources.
pub fn built_in(tables: &Tables) -> Vec<Entry> {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let entry = |r: &crate::tables::Resource| Entry {
        group: r.group.to_owned(),
        version: r.version.to_owned(),
        priority: tables.groups.iter().find(|g| g.group == r.group && g.version == r.version).map(|g| g.priority).unwrap_or_default(),
        plural: r.plural.to_owned(),
        singular: r.singular.to_owned(),
        kind: r.kind.to_owned(),
        namespaced: r.namespaced,
        short_names: owned(&r.short_names),
        categories: owned(&r.categories),
        verbs: owned(&r.verbs),
        subresources: r
            .subresources
            .iter()
            .map(|s| SubEntry {
                name: s.name.to_owned(),
                group: s.group.to_owned(),
                version: s.version.to_owned(),
                kind: s.kind.to_owned(),
                verbs: owned(&s.verbs),
            })
            .collect(),
        stored_as: r.verbs.contains(&"watch").then(|| stored_as(r.group, r.version, r.kind)),
        revision: String::new(),
    };
    tables.resources.iter().map(entry).collect()
}

/// Built-in kinds that are stored in another group or version than they are served in.
fn stored_as(group: &str, version: &str, kind: &str) -> (String, String, String) {
    let (group, version) = match (group, kind) {
        ("events.k8s.io", "Event") => ("", "v1"),
        ("autoscaling", "HorizontalPodAutoscaler") => ("autoscaling", "v2"),
        // So that the release before can still read them.
        ("certificates.k8s.io", "ClusterTrustBundle" | "PodCertificateRequest") => (group, "v1beta1"),
        ("storagemigration.k8s.io", "StorageVersionMigration") => (group, "v1beta1"),
        ("resource.k8s.io", "DeviceTaintRule") => (group, "v1beta2"),
        _ if version.contains("beta") && kind != "LeaseCandidate" => (group, "v1"),
        _ => (group, version),
    };
    (group.to_owned(), version.to_owned(), kind.to_owned())
}

impl Discovery {
    /// Sorts resources into groups and versions, as kube-aggregator orders them.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let (mut groups, mut places): (Vec<Vec<Entry>>, HashMap<String, usize>) = (Vec::new(), HashMap::new());
        for entry in entries {
            let at = *places.entry(entry.group.clone()).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[at].push(entry);
        }
        Self::of(groups.into_iter().map(|entries| Arc::new(Group::new(entries))).collect())
    }

    /// Of these groups, each of another name.
    pub fn of(mut groups: Vec<Arc<Group>>) -> Self {
        groups.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)));
        Self { groups }
    }

    /// The groups, in discovery order.
    pub fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// The groups and versions served, core included, in discovery order.
    pub fn group_versions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.groups.iter().flat_map(|g| g.versions.iter().map(move |v| (g.name.as_str(), v.name.as_str())))
    }

    /// The resources of a group and version; `None` when it is not served here.
    pub fn entries(&self, group: &str, version: &str) -> Option<&[Entry]> {
        let group = self.groups.iter().find(|g| g.name == group)?;
        group.versions.iter().find(|v| v.name == version && v.foreign.is_none()).map(|v| v.resources.as_slice())
    }

    /// `/api`; `address` is the `host:port` clients reach the server at.
    pub fn core_versions(&self, address: &str) -> Value {
        let versions: Vec<&str> =
            self.groups.iter().filter(|g| g.name.is_empty()).flat_map(|g| &g.versions).map(|v| v.name.as_str()).collect();
        json!({
            "kind": "APIVersions",
            "versions": versions,
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        })
    }

    /// `/apis`
    pub fn group_list(&self) -> String {
        let groups = self.groups.iter().filter(|g| !g.name.is_empty());
        let summaries = groups.map(|g| &**g.summary.get_or_init(|| g.summary_value().to_string().into()));
        joined(r#"{"kind":"APIGroupList","apiVersion":"v1","groups":["#, summaries)
    }

    /// `/apis/GROUP`
    pub fn group(&self, name: &str) -> Option<Value> {
        let group = self.groups.iter().find(|g| g.name == name && !name.is_empty())?;
        let mut value = group.summary_value();
        value["kind"] = "APIGroup".into();
        value["apiVersion"] = "v1".into();
        Some(value)
    }

    /// `/api/v1`, `/apis/GROUP/VERSION`
    pub fn resources(&self, group: &str, version: &str) -> Option<Value> {
        let entries = self.entries(group, version)?;
        let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version(group, version)});
        if !group.is_empty() {
            list["apiVersion"] = "v1".into();
        }
        list["resources"] = entries.iter().flat_map(Entry::lines).collect();
        Some(list)
    }

    /// Aggregated discovery (`apidiscovery.k8s.io/v2`) of `/api` or of `/apis`.
    pub fn aggregated(&self, core: bool) -> String {
        let groups = self.groups.iter().filter(|g| g.name.is_empty() == core);
        let items = groups.map(|g| &**g.aggregated.get_or_init(|| g.aggregated_value().to_string().into()));
        joined(r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":["#, items)
    }
}

/// A document of a head and items, which ends a list and an object.
fn joined<'t>(head: &str, items: impl Iterator<Item = &'t str>) -> String {
    let mut text = head.to_owned();
    for (at, item) in items.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push_str("]}");
    text
}

impl Group {
    /// Of the entries of one group.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self::with(entries, Vec::new())
    }

    /// Of the entries of one group and the versions of it that others serve, each in place of an own one of that name.
    pub fn with(entries: Vec<Entry>, foreign: Vec<Foreign>) -> Self {
        let name = entries.first().map(|e| &e.group).or_else(|| foreign.first().map(|f| &f.group)).cloned().unwrap_or_default();
        let priorities = entries.iter().map(|e| e.priority.0).chain(foreign.iter().map(|f| f.priority.0));
        let priority = priorities.max().unwrap_or_default();
        let mut versions: Vec<Version> = Vec::new();
        for one in foreign {
            versions.push(Version { name: one.version.clone(), priority: one.priority.1, resources: Vec::new(), foreign: Some(one) });
        }
        for entry in entries {
            match versions.iter_mut().find(|v| v.name == entry.version) {
                Some(version) if version.foreign.is_some() => {}
                Some(version) => version.resources.push(entry),
                None => {
                    let (name, priority) = (entry.version.clone(), entry.priority.1);
                    versions.push(Version { name, priority, resources: vec![entry], foreign: None });
                }
            }
        }
        versions.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| compare_versions(&b.name, &a.name)));
        for version in &mut versions {
            version.resources.sort_by(|a, b| a.plural.cmp(&b.plural));
        }
        Self { name, priority, versions, aggregated: OnceLock::new(), summary: OnceLock::new() }
    }

    /// Its name, empty for the core group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its entries, in discovery order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.versions.iter().flat_map(|v| &v.resources)
    }

    /// Whether nobody serves anything in it.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    fn summary_value(&self) -> Value {
        let one = |v: &Version| json!({"groupVersion": group_version(&self.name, &v.name), "version": v.name});
        let versions: Vec<Value> = self.versions.iter().map(one).collect();
        let preferred = versions.first().cloned();
        json!({"name": self.name, "versions": versions, "preferredVersion": preferred})
    }

    fn aggregated_value(&self) -> Value {
        let metadata = if self.name.is_empty() { json!({}) } else { json!({"name": self.name}) };
        let one = |v: &Version| {
            if let Some(foreign) = &v.foreign {
                let freshness = if foreign.current { "Current" } else { "Stale" };
                let mut shown = json!({"version": v.name, "freshness": freshness});
                if foreign.resources.as_array().is_some_and(|all| !all.is_empty()) {
                    shown["resources"] = Value::clone(&foreign.resources);
                }
                return shown;
            }
            let resources: Vec<Value> = v.resources.iter().map(Entry::aggregated).collect();
            json!({"version": v.name, "resources": resources, "freshness": "Current"})
        };
        json!({"metadata": metadata, "versions": self.versions.iter().map(one).collect::<Vec<_>>()})
    }
}

impl Entry {
    /// The resource and its subresources, as lines of an `APIResourceList`.
    fn lines(&self) -> Vec<Value> {
        let mut line = json!({
            "name": self.plural, "singularName": self.singular, "namespaced": self.namespaced, "kind": self.kind, "verbs": self.verbs,
        });
        if !self.short_names.is_empty() {
            line["shortNames"] = json!(self.short_names);
        }
        if !self.categories.is_empty() {
            line["categories"] = json!(self.categories);
        }
        if let Some((group, version, kind)) = &self.stored_as {
            line["storageVersionHash"] = storage_version_hash(group, version, kind).into();
        }
        let mut lines = vec![line];
        for sub in &self.subresources {
            let name = format!("{}/{}", self.plural, sub.name);
            let mut line = json!({"name": name, "singularName": "", "namespaced": self.namespaced, "kind": sub.kind, "verbs": sub.verbs});
            if (&sub.group, &sub.version) != (&self.group, &self.version) {
                line["group"] = sub.group.as_str().into();
                line["version"] = sub.version.as_str().into();
            }
            lines.push(line);
        }
        lines
    }

    fn aggregated(&self) -> Value {
        let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
        let mut value = json!({
            "resource": self.plural,
            "responseKind": kind(&self.group, &self.version, &self.kind),
            "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": self.singular,
            "verbs": self.verbs,
        });
        if !self.short_names.is_empty() {
            value["shortNames"] = json!(self.short_names);
        }
        if !self.categories.is_empty() {
            value["categories"] = json!(self.categories);
        }
        if !self.subresources.is_empty() {
            let one = |s: &SubEntry| json!({"subresource": s.name, "responseKind": kind(&s.group, &s.version, &s.kind), "verbs": s.verbs});
            value["subresources"] = self.subresources.iter().map(one).collect();
        }
        value
    }
}

/// `apps/v1`, or `v1` in the core group.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Opaque to clients; equal hashes mean equal storage versions.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    STANDARD.encode(&Sha256::digest(format!("{group}/{version}/{kind}"))[..8])
}

/// Orders versions as Kubernetes does: GA above beta above alpha, then by number; what is none of these last, by name.
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => std::cmp::Ordering::Greater,
        (None, Some(_)) => std::cmp::Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// (stability, major, minor) of `v1`, `v1beta2`, `v2alpha1`.
fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    for (word, stability) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stability, number(major)?, number(minor)?));
        }
    }
    Some((2, number(rest)?, 0))
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery() -> Discovery {
        let mut entries = built_in(&Tables::load().unwrap());
        for (version, group) in [("v1beta1", "a.example.com"), ("v1", "a.example.com"), ("v1alpha1", "b.example.com")] {
            entries.push(Entry {
                group: group.into(),
                version: version.into(),
                priority: CUSTOM_PRIORITY,
                plural: "things".into(),
                kind: "Thing".into(),
                ..Entry::default()
            });
        }
        Discovery::new(entries)
    }

    #[test]
    fn groups_stand_in_upstreams_order_with_custom_ones_last() {
        let list: Value = serde_json::from_str(&discovery().group_list()).unwrap();
        let names: Vec<&str> = list["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(names[..5], ["apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io"]);
        assert_eq!(names[names.len() - 2..], ["a.example.com", "b.example.com"]);
    }

    #[test]
    fn the_stable_and_the_newer_version_is_preferred() {
        let discovery = discovery();
        assert_eq!(discovery.group("a.example.com").unwrap()["preferredVersion"]["version"], "v1");
        assert_eq!(discovery.group("autoscaling").unwrap()["preferredVersion"]["groupVersion"], "autoscaling/v2");
        assert_eq!(compare_versions("v10beta1", "v2alpha3"), std::cmp::Ordering::Greater);
        assert_eq!(compare_versions("foo1", "v1alpha1"), std::cmp::Ordering::Less);
    }

    #[test]
    fn a_subresource_of_another_group_says_so() {
        let list = discovery().resources("apps", "v1").unwrap();
        let lines = list["resources"].as_array().unwrap();
        let line = |name: &str| lines.iter().find(|l| l["name"] == name).unwrap();
        assert_eq!((&line("deployments/scale")["group"], &line("deployments/scale")["kind"]), (&json!("autoscaling"), &json!("Scale")));
        assert!(line("deployments/status").get("group").is_none());
        assert_eq!(line("deployments")["shortNames"], json!(["deploy"]));
        // As kube-apiserver prints it.
        assert_eq!(line("deployments")["storageVersionHash"], "8aSe+NMegvE=");
    }

    #[test]
    fn aggregated_discovery_keeps_core_and_groups_apart() {
        let discovery = discovery();
        let core: Value = serde_json::from_str(&discovery.aggregated(true)).unwrap();
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        let pods = core["items"][0]["versions"][0]["resources"].as_array().unwrap().iter().find(|r| r["resource"] == "pods").unwrap();
        assert_eq!(pods["responseKind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
        assert!(
            pods["subresources"]
                .as_array()
                .unwrap()
                .iter()
                .any(|s| s["subresource"] == "eviction" && s["responseKind"]["group"] == "policy")
        );
        let groups: Value = serde_json::from_str(&discovery.aggregated(false)).unwrap();
        assert!(groups["items"].as_array().unwrap().iter().all(|g| g["metadata"]["name"] != ""));
    }

    #[test]
    fn one_group_can_be_replaced_and_the_others_stay_as_they_are() {
        let before = discovery();
        let entry = |plural: &str| Entry { group: "a.example.com".into(), version: "v1".into(), plural: plural.into(), ..Entry::default() };
        let others = before.groups().iter().filter(|g| g.name() != "a.example.com").cloned();
        let after = Discovery::of(others.chain([Arc::new(Group::new(vec![entry("more"), entry("less")]))]).collect());
        let names: Vec<&str> = after.entries("a.example.com", "v1").unwrap().iter().map(|e| e.plural.as_str()).collect();
        assert_eq!((names, after.groups().len()), (vec!["less", "more"], before.groups().len()));
        assert!(Arc::ptr_eq(&before.groups()[0], &after.groups()[0]));
    }

    #[test]
    fn every_resource_of_the_tables_is_shown() {
        let tables = Tables::load().unwrap();
        let discovery = Discovery::new(built_in(&tables));
        for resource in &tables.resources {
            let list = discovery.resources(resource.group, resource.version).unwrap();
            assert!(list["resources"].as_array().unwrap().iter().any(|l| l["name"] == resource.plural), "{}", resource.plural);
        }
        assert!(discovery.resources("apps", "v9").is_none());
    }
}
