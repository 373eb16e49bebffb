//! The built-in API, read from `api/*.api` (embedded): message types, and the resources that serve them.
//!
//! A line of a table is a `group`, `version` or `alias` head, a `resource` or its `subresource`, a `type`, or a field of the last type:
//! `NUMBER name TYPE flags`. `type NAME like ALIAS` begins with the fields of another table's type of that name; what they refer to is of
//! this table where it has it. Errors name file and line.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use crate::{
    row,
    types::{Alternative, Field, Member, Schema, SchemaRef, Type, TypeId, Union},
};

/// One embedded file, with its place in group discovery.
struct File {
    name: &'static str,
    text: &'static str,
    /// Group and version priority, as kube-apiserver registers its own APIServices; 0 for files that serve nothing.
    priority: (u32, u32),
}

macro_rules! files {
    ($($name:literal $group:literal $version:literal,)*) => {
        &[$(File { name: concat!($name, ".api"), text: include_str!(concat!("../../api/", $name, ".api")), priority: ($group, $version) },)*]
    };
}

/// Every table, in the order groups appear in discovery. Priorities: upstream's `DefaultGenericAPIServicePriorities` and the
/// kube-apiserver's additions to it.
const FILES: &[File] = files! {
    "meta" 0 0,
    "core" 18000 1,
    "apiregistration" 20000 15,
    "apps" 17800 15,
    "events" 17750 15,
    "authentication" 17700 15,
    "authorization" 17600 15,
    "autoscalingv2" 17500 30,
    "autoscaling" 17500 15,
    "batch" 17400 15,
    "certificates" 17300 15,
    "networking" 17200 15,
    "policy" 17100 15,
    "rbac" 17000 15,
    "storage" 16800 15,
    "admissionregistration" 16700 15,
    "apiextensions" 16700 15,
    "scheduling" 16600 15,
    "coordination" 16500 15,
    "node" 16300 15,
    "discovery" 16200 15,
    "resource" 16200 21,
    "flowcontrol" 16100 21,
    "storagemigration" 15800 15,
    "certificatesv1beta1" 17300 9,
    "admissionregistrationv1beta1" 16700 12,
    "resourcev1beta2" 16200 15,
    "storagemigrationv1beta1" 15800 9,
    "coordinationv1beta1" 16500 13,
    "metrics" 0 0,
    "admission" 0 0,
    "apidiscovery" 0 0,
};

impl File {
    /// What stands behind a word of the head.
    fn head(&self, word: &str) -> Option<&'static str> {
        let mut rest = self.text.lines().filter_map(|line| line.split_once(' '));
        rest.find(|(first, _)| *first == word).map(|(_, rest)| rest.trim().trim_matches('"'))
    }

    /// Whether it is of a version that is served only if it is asked for, as those of most releases before they are finished.
    fn is_beta(&self) -> bool {
        self.priority != (0, 0) && self.head("version").is_some_and(|version| version.contains("beta"))
    }

    /// The lines of a type's fields.
    fn fields_of(&self, name: &str) -> impl Iterator<Item = &'static str> {
        let mut lines = self.text.lines();
        let head = format!("type {name}");
        let found = lines.find(|line| *line == head || line.strip_prefix(&head).is_some_and(|rest| rest.starts_with(' ')));
        let fields = found.map(|_| lines.take_while(|line| line.starts_with(' ')));
        fields.into_iter().flatten()
    }
}

/// A mistake in a table.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct TableError {
    /// File name.
    pub file: &'static str,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// What is wrong, and with which word.
    pub what: String,
}

/// The whole built-in API.
#[derive(Debug)]
pub struct Tables {
    /// All message types of all groups.
    pub schema: Arc<Schema>,
    /// What each file describes, in discovery order.
    pub groups: Vec<GroupVersion>,
    /// Every resource of every group, in table order within its group and version.
    pub resources: Vec<Resource>,
}

/// A group and version, from the head of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupVersion {
    /// `apps`; empty for the core group.
    pub group: &'static str,
    /// `v1`
    pub version: &'static str,
    /// The first part of its types' names: `apps.Deployment`.
    pub alias: &'static str,
    /// Group and version priority in discovery, higher first; (0, 0) if the group is served by nobody here.
    pub priority: (u32, u32),
}

/// A resource of the built-in API.
#[derive(Clone, Debug)]
pub struct Resource {
    /// `apps`; empty for the core group.
    pub group: &'static str,
    /// `v1`
    pub version: &'static str,
    /// `deployments`
    pub plural: &'static str,
    /// `deployment`
    pub singular: &'static str,
    /// `Deployment`
    pub kind: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// `deploy`
    pub short_names: Vec<&'static str>,
    /// `all`
    pub categories: Vec<&'static str>,
    /// In alphabetical order, as discovery prints them.
    pub verbs: Vec<&'static str>,
    /// In alphabetical order.
    pub subresources: Vec<Subresource>,
    /// The message of its objects.
    pub type_id: TypeId,
}

/// A subresource of a [`Resource`].
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `scale`
    pub name: &'static str,
    /// Group of its kind.
    pub group: &'static str,
    /// Version of its kind.
    pub version: &'static str,
    /// `Scale`
    pub kind: &'static str,
    /// In alphabetical order.
    pub verbs: Vec<&'static str>,
    /// The message of its body.
    pub type_id: TypeId,
}

impl Tables {
    /// Parses the embedded tables. Takes a few milliseconds: do it once and share the result.
    pub fn load() -> Result<Self, TableError> {
        Self::load_with(|_, _| false)
    }

    /// The same with those of [`betas`] that are to be served: `is_served(GROUP, VERSION)`.
    pub fn load_with(is_served: impl Fn(&str, &str) -> bool) -> Result<Self, TableError> {
        let of = |file: &File| is_served(file.head("group").unwrap_or_default(), file.head("version").unwrap_or_default());
        let files = || FILES.iter().filter(|file| !file.is_beta() || of(file));
        let mut builder = Builder::default();
        for file in files() {
            builder.declare(file)?;
        }
        for (at, file) in files().enumerate() {
            builder.read(file, at)?;
        }
        builder.finish()
    }

    /// The message of this name (`core.Pod`, `meta.ObjectMeta`), ready for the algorithms.
    pub fn message(&self, name: &str) -> Option<SchemaRef> {
        let root = *self.schema.by_name.get(name)?;
        Some(SchemaRef { schema: Arc::clone(&self.schema), root })
    }

    /// The message of a kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<SchemaRef> {
        let of = self.groups.iter().find(|g| g.group == group && g.version == version && g.alias != "meta")?;
        self.message(&format!("{}.{kind}", of.alias))
    }

    /// The schema of a resource's objects.
    pub fn schema_of(&self, resource: &Resource) -> SchemaRef {
        SchemaRef { schema: Arc::clone(&self.schema), root: resource.type_id }
    }

    /// The resource of this group, version and plural name.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
    }
}

/// Groups and versions that are served only if they are asked for (`--runtime-config`).
pub fn betas() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter(|file| file.is_beta()).filter_map(|file| Some((file.head("group")?, file.head("version")?)))
}

/// The type of metadata by itself, for those who have no tables at hand: read once, from the one file that has it.
pub fn metadata() -> Option<&'static SchemaRef> {
    static METADATA: LazyLock<Option<SchemaRef>> = LazyLock::new(|| {
        let file = FILES.iter().find(|file| file.name == "meta.api")?;
        let mut builder = Builder::default();
        builder.declare(file).ok()?;
        builder.read(file, 0).ok()?;
        builder.finish().ok()?.message("meta.ObjectMeta")
    });
    METADATA.as_ref()
}

/// A type whose inline members are not flattened yet.
struct Draft {
    name: Box<str>,
    file: &'static str,
    entries: Vec<Entry>,
}

enum Entry {
    Field(Field),
    Inline { number: u32, message: TypeId },
}

#[derive(Default)]
struct Builder {
    groups: Vec<GroupVersion>,
    by_name: HashMap<Box<str>, TypeId>,
    drafts: Vec<Draft>,
    resources: Vec<Resource>,
}

impl Builder {
    /// First pass: the head, and the names of the types, so that files may refer to one another in any order.
    fn declare(&mut self, file: &'static File) -> Result<(), TableError> {
        let (Some(group), Some(version), Some(alias)) = (file.head("group"), file.head("version"), file.head("alias")) else {
            return Err(TableError { file: file.name, line: 0, what: "the head must name group, version and alias".into() });
        };
        for line in file.text.lines() {
            let mut words = line.split(' ');
            let (Some("type"), Some(name)) = (words.next(), words.next()) else { continue };
            let name = format!("{alias}.{name}").into_boxed_str();
            let id = TypeId(self.drafts.len() as u32);
            self.drafts.push(Draft { name: name.clone(), file: file.name, entries: Vec::new() });
            if self.by_name.insert(name.clone(), id).is_some() {
                return Err(TableError { file: file.name, line: 0, what: format!("type {name} stands twice") });
            }
        }
        self.groups.push(GroupVersion { group, version, alias, priority: file.priority });
        Ok(())
    }

    /// Second pass: resources, and the fields of the types.
    fn read(&mut self, file: &'static File, at: usize) -> Result<(), TableError> {
        let of = self.groups[at];
        let mut current: Option<usize> = None;
        for (number, line) in file.text.lines().enumerate() {
            let fail = |what: String| TableError { file: file.name, line: number + 1, what };
            let mut words = line.split_ascii_whitespace();
            let Some(first) = words.next() else { continue };
            match first {
                "group" | "version" | "alias" => {}
                "resource" => self.resource(of, words).map_err(fail)?,
                "subresource" => self.subresource(of, words).map_err(fail)?,
                "type" => {
                    let short = words.next().unwrap_or_default();
                    current = self.by_name.get(format!("{}.{short}", of.alias).as_str()).map(|id| id.0 as usize);
                    if let (Some(draft), Some("like"), Some(other)) = (current, words.next(), words.next()) {
                        self.begin_like(draft, short, of.alias, other).map_err(fail)?;
                    }
                }
                _ => {
                    let draft = current.ok_or_else(|| fail(format!("{first:?} stands outside a type")))?;
                    let entry = self.entry(&[of.alias], line).map_err(fail)?;
                    self.drafts[draft].entries.push(entry);
                }
            }
        }
        Ok(())
    }

    /// Gives a type the fields of another table's type of the same name.
    fn begin_like(&mut self, draft: usize, name: &str, alias: &str, other: &str) -> Result<(), String> {
        let file = FILES.iter().find(|file| file.head("alias") == Some(other)).ok_or_else(|| format!("no table of {other}"))?;
        let before = self.drafts[draft].entries.len();
        for line in file.fields_of(name) {
            let entry = self.entry(&[alias, other], line)?;
            self.drafts[draft].entries.push(entry);
        }
        if self.drafts[draft].entries.len() == before { Err(format!("{other}.{name} has no fields")) } else { Ok(()) }
    }

    /// A field. Messages without a dot in their name are of the first of these tables that has them.
    fn entry(&self, aliases: &[&str], line: &str) -> Result<Entry, String> {
        match row::parse(line, |name| aliases.iter().find_map(|alias| self.lookup(alias, name)))? {
            row::Row::Field(field) => Ok(Entry::Field(*field)),
            row::Row::Inline { number, message } => Ok(Entry::Inline { number, message }),
        }
    }

    fn lookup(&self, alias: &str, name: &str) -> Option<TypeId> {
        if name.contains('.') { self.by_name.get(name).copied() } else { self.by_name.get(format!("{alias}.{name}").as_str()).copied() }
    }

    fn resource(&mut self, of: GroupVersion, mut words: std::str::SplitAsciiWhitespace<'static>) -> Result<(), String> {
        let (Some(plural), Some(kind), Some(scope)) = (words.next(), words.next(), words.next()) else {
            return Err("resource needs a plural, a kind and a scope".into());
        };
        let namespaced = match scope {
            "namespaced" => true,
            "cluster" => false,
            other => return Err(format!("scope {other:?} is neither namespaced nor cluster")),
        };
        let type_id = self.lookup(of.alias, kind).ok_or_else(|| format!("no type {kind}"))?;
        let mut made = Resource {
            group: of.group,
            version: of.version,
            plural,
            singular: "",
            kind,
            namespaced,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: Vec::new(),
            subresources: Vec::new(),
            type_id,
        };
        for word in words {
            match word.split_once('=') {
                Some(("singular", value)) => made.singular = value,
                Some(("short", value)) => made.short_names = value.split(',').collect(),
                Some(("categories", value)) => made.categories = value.split(',').collect(),
                Some(("verbs", value)) => made.verbs = value.split(',').collect(),
                _ => return Err(format!("unknown flag {word:?} of a resource")),
            }
        }
        self.resources.push(made);
        Ok(())
    }

    fn subresource(&mut self, of: GroupVersion, mut words: std::str::SplitAsciiWhitespace<'static>) -> Result<(), String> {
        let (Some(name), Some(path), Some(verbs)) = (words.next(), words.next(), words.next().and_then(|w| w.strip_prefix("verbs=")))
        else {
            return Err("subresource needs a name, a kind and verbs=".into());
        };
        let mut parts = path.rsplitn(3, '/');
        let (kind, version, group) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let (group, version) = match (group, version) {
            (Some(group), Some(version)) => (group, version),
            (None, None) => (of.group, of.version),
            _ => return Err(format!("kind {path:?} must be KIND or GROUP/VERSION/KIND")),
        };
        let served = |g: &&GroupVersion| g.group == group && g.version == version;
        let alias = self.groups.iter().find(served).map(|g| g.alias).ok_or_else(|| format!("no group {group}/{version}"))?;
        let type_id = self.lookup(alias, kind).ok_or_else(|| format!("no type {path}"))?;
        let parent = self.resources.last_mut().ok_or("subresource stands before any resource")?;
        parent.subresources.push(Subresource { name, group, version, kind, verbs: verbs.split(',').collect(), type_id });
        Ok(())
    }

    /// Third pass: inline members are flattened into the JSON view.
    fn finish(self) -> Result<Tables, TableError> {
        let mut types = Vec::with_capacity(self.drafts.len());
        for draft in &self.drafts {
            let mut fields = Vec::with_capacity(draft.entries.len());
            let mut members = Vec::with_capacity(draft.entries.len());
            for entry in &draft.entries {
                match entry {
                    Entry::Field(field) => {
                        members.push(Member::Field(fields.len() as u32));
                        fields.push(field.clone());
                    }
                    Entry::Inline { number, message } => {
                        members.push(Member::Inline { number: *number, message: *message });
                        self.flatten(*message, &mut fields);
                    }
                }
            }
            let mut made = Type::new(draft.name.clone(), fields, members);
            made.union = self.union(&draft.name);
            made.typed = is_typed(&made);
            if let Some(twice) = made.duplicate() {
                return Err(TableError { file: draft.file, line: 0, what: format!("field {twice} of {} stands twice", draft.name) });
            }
            types.push(made);
        }
        let schema = Arc::new(Schema::new(types, self.by_name));
        Ok(Tables { schema, groups: self.groups, resources: self.resources })
    }

    fn flatten(&self, message: TypeId, into: &mut Vec<Field>) {
        for entry in &self.drafts[message.0 as usize].entries {
            match entry {
                Entry::Field(field) => into.push(field.clone()),
                Entry::Inline { message, .. } => self.flatten(*message, into),
            }
        }
    }

    /// The three unions of `apiextensions.k8s.io/v1`: their tables have no fields, because their JSON is not that of a message.
    fn union(&self, name: &str) -> Option<Union> {
        let other = match name {
            "apiextensions.JSONSchemaPropsOrArray" => Alternative::List,
            "apiextensions.JSONSchemaPropsOrBool" => Alternative::Bool,
            "apiextensions.JSONSchemaPropsOrStringArray" => Alternative::Strings,
            _ => return None,
        };
        Some(Union { message: *self.by_name.get("apiextensions.JSONSchemaProps")?, other })
    }
}

/// Whether a message carries `apiVersion` and `kind`: whatever has metadata, but for the templates inside objects, and the options of requests.
fn is_typed(made: &Type) -> bool {
    let name = made.short_name();
    let options =
        name.ends_with("Options") && (made.name.starts_with("meta.") || ["Pod", "Node", "Service"].iter().any(|p| name.starts_with(p)));
    let template = ["PodTemplateSpec", "JobTemplateSpec", "PersistentVolumeClaimTemplate", "ResourceClaimTemplateSpec"].contains(&name);
    (made.field("metadata").is_some() && !template)
        || options
        || ["meta.APIResourceList", "meta.APIGroupList", "meta.APIGroup", "meta.APIVersions"].contains(&&*made.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ListKind, Presence, Shape};

    #[test]
    fn every_table_loads_and_every_resource_has_its_message_and_verbs() {
        let tables = Tables::load().unwrap();
        assert!(tables.resources.len() > 60, "{}", tables.resources.len());
        for resource in &tables.resources {
            assert!(!resource.verbs.is_empty() && !resource.singular.is_empty(), "{}", resource.plural);
            assert_eq!(tables.schema.get(resource.type_id).short_name(), resource.kind);
            assert!(tables.schema.get(resource.type_id).field("metadata").is_some(), "{}", resource.plural);
        }
    }

    #[test]
    fn versions_that_are_not_finished_are_there_when_they_are_asked_for() {
        let (plain, all) = (Tables::load().unwrap(), Tables::load_with(|_, _| true).unwrap());
        assert!(plain.groups.iter().all(|of| of.priority == (0, 0) || !of.version.contains("beta")));
        let one = Tables::load_with(|group, version| (group, version) == ("resource.k8s.io", "v1beta2")).unwrap();
        assert_eq!(one.groups.len(), plain.groups.len() + 1);
        for (group, version) in betas() {
            let of = |resource: &&Resource| resource.group == group && resource.version == version;
            assert!(!plain.resources.iter().any(|resource| of(&resource)) && all.resources.iter().any(|resource| of(&resource)));
            for resource in all.resources.iter().filter(of) {
                let Some(finished) = plain.resource(group, "v1", resource.plural) else {
                    assert_eq!(resource.plural, "leasecandidates", "the only one that is nowhere finished");
                    continue;
                };
                let names = |of: &Type| of.fields.iter().map(|field| field.name.to_string()).collect::<Vec<_>>();
                let spec = |id| &*all.schema.get(id).name;
                assert_ne!(spec(resource.type_id), &*plain.schema.get(finished.type_id).name);
                assert_eq!(names(all.schema.get(resource.type_id)), names(plain.schema.get(finished.type_id)));
            }
        }
        // What a type refers to is of its own table.
        let spec = all.message("resourcev1beta2.ResourceClaim").unwrap().root().field("spec").unwrap().shape.clone();
        assert_eq!(spec, Shape::Message(all.schema.by_name["resourcev1beta2.ResourceClaimSpec"]));
        let more = all.message("certificatesv1beta1.PodCertificateRequestSpec").unwrap();
        assert!(["signerName", "pkixPublicKey"].iter().all(|name| more.root().field(name).is_some()));
    }

    #[test]
    fn a_field_of_another_file_and_its_flags_are_understood() {
        let tables = Tables::load().unwrap();
        let spec = tables.message("apps.DeploymentSpec").unwrap();
        let template = spec.root().field("template").unwrap();
        assert_eq!(template.shape, Shape::Message(tables.schema.by_name["core.PodTemplateSpec"]));
        assert_eq!((template.presence, template.required), (Presence::Always, true));
        assert!(spec.root().field("strategy").unwrap().patch.retain_keys);
        let container = tables.message("core.Container").unwrap();
        let ports = container.root().field("ports").unwrap();
        assert_eq!(ports.list, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!((ports.patch.merge, ports.patch.key.as_deref()), (true, Some("containerPort")));
    }

    #[test]
    fn inline_members_stand_flat_in_json_and_nested_in_protobuf() {
        let tables = Tables::load().unwrap();
        let rule = tables.message("admissionregistration.NamedRuleWithOperations").unwrap();
        assert!(["resourceNames", "operations", "apiGroups", "scope"].iter().all(|name| rule.root().field(name).is_some()));
        assert!(matches!(rule.root().members[1], Member::Inline { number: 2, .. }));
    }

    #[test]
    fn subresources_know_the_group_of_their_kind() {
        let tables = Tables::load().unwrap();
        let deployments = tables.resource("apps", "v1", "deployments").unwrap();
        let scale = deployments.subresources.iter().find(|s| s.name == "scale").unwrap();
        assert_eq!((scale.group, scale.version, scale.kind), ("autoscaling", "v1", "Scale"));
    }
}
