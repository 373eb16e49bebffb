//! From a CRD to the kinds it serves. Cheap: schemas are compiled when a kind is used.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use coracle_schema::{SchemaRef, Tables, discovery::compare_versions, structural};
use coracle_tree::{Value, json};
use parking_lot::Mutex;
use tracing::warn;

use super::{
    columns::Columns,
    definition::{Definition, Version},
    review::Webhook,
    versions::{All, Lately, Of, Versions},
};
use crate::{
    registry::{
        Conversion, Custom, Generation, GroupVersionKind, Kind, KindSchema, NameRule, ResourceId, Scope, Served, Shared, Subresource,
        Traits, Verb,
        custom::{Field, FieldPath, ScalePaths},
        kind::LazySchema,
    },
    wire::table::Printer,
};

/// Verbs of a custom resource, in the order discovery has them.
pub(super) const VERBS: [Verb; 8] =
    [Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Create, Verb::Update, Verb::Watch];

/// Verbs of its subresources.
const PART_VERBS: [Verb; 3] = [Verb::Get, Verb::Patch, Verb::Update];

/// What all kinds of a CRD have in common while they are made.
struct Making<'a> {
    definition: &'a Definition,
    source: &'a Bytes,
    tables: &'a Arc<Tables>,
    all_fields: Arc<[Field]>,
    stored: Of,
    all: All,
    webhook: Option<Arc<Webhook>>,
}

/// The kinds of a CRD, which must have a storage version. `before`: what was served of the same generation, whose compiled schemas are
/// taken over.
pub(super) fn kinds(
    definition: &Definition,
    source: &Bytes,
    tables: &Arc<Tables>,
    webhook: Option<Arc<Webhook>>,
    before: Option<&Served>,
) -> Option<Served> {
    let storage = definition.storage_version()?;
    let schema = |version: &Version| {
        let made = before.and_then(|b| b.kinds.iter().chain([&b.stored]).find(|k| *k.gvk.version == *version.name)).map(|k| &k.schema);
        match made {
            Some(KindSchema::Lazy(lazy)) if lazy.is_made() => KindSchema::Lazy(Arc::clone(lazy)),
            _ => lazy(source, version, tables),
        }
    };
    let all: Arc<[Of]> =
        definition.spec.versions.iter().map(|v| Of { version: api_version(definition, v).into(), schema: schema(v) }).collect();
    let stored = all.get(definition.spec.versions.iter().position(|v| v.storage)?)?.clone();
    let making = Making {
        definition,
        source,
        tables,
        all_fields: all_fields(definition),
        stored: stored.clone(),
        all: All(Arc::clone(&all)),
        webhook,
    };
    let stored = Arc::new(making.kind(storage, stored));
    let served = definition.spec.versions.iter().zip(&*all).filter(|(v, _)| v.served);
    let kinds = served.map(|(v, of)| if v.storage { Arc::clone(&stored) } else { Arc::new(making.kind(v, of.clone())) }).collect();
    Some(Served { kinds, stored })
}

fn lazy(source: &Bytes, version: &Version, tables: &Arc<Tables>) -> KindSchema {
    let (source, version, tables) = (source.clone(), version.name.clone(), Arc::clone(tables));
    let fallback = tables.message("meta.PartialObjectMetadata").unwrap_or_else(|| tables.schema_of(&tables.resources[0]));
    KindSchema::Lazy(Arc::new(LazySchema::new(fallback, move || compile(&source, &version, &tables))))
}

fn compile(source: &[u8], version: &str, tables: &Arc<Tables>) -> SchemaRef {
    let definition: Value = serde_json::from_slice(source).unwrap_or_default();
    let open = || structural::compile(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), &tables.schema, "", true);
    let made = structural::version(&definition, version, &tables.schema).or_else(|why| {
        warn!(version, ?why, "a schema is not structural; the kind is served without one");
        open()
    });
    made.map_or_else(|_| tables.schema_of(&tables.resources[0]), |structural| structural.schema)
}

/// The fields of all served versions, each once.
fn all_fields(definition: &Definition) -> Arc<[Field]> {
    let paths: BTreeSet<&str> =
        definition.spec.versions.iter().flat_map(|v| v.selectable_fields.iter().map(|f| f.json_path.as_str())).collect();
    paths.into_iter().map(Field::new).collect()
}

fn api_version(definition: &Definition, version: &Version) -> String {
    format!("{}/{}", definition.spec.group, version.name)
}

fn texts(texts: &[String]) -> Vec<Arc<str>> {
    texts.iter().map(|t| t.as_str().into()).collect()
}

impl Making<'_> {
    fn kind(&self, version: &Version, own: Of) -> Kind {
        let (spec, names) = (&self.definition.spec, &self.definition.status.accepted_names);
        let gvk =
            GroupVersionKind { group: spec.group.as_str().into(), version: version.name.as_str().into(), kind: names.kind.as_str().into() };
        let custom = Arc::new(self.custom(version));
        let printer: Arc<dyn Printer> = Arc::new(Columns::new(&version.additional_printer_columns));
        let schema = own.schema.clone();
        let (stored, all, webhook) = (self.stored.clone(), self.all.clone(), self.webhook.clone());
        let versions = Versions { own, stored, all, webhook, lately: Mutex::new(Lately::default()) };
        Kind {
            id: ResourceId { group: Arc::clone(&gvk.group), resource: names.plural.as_str().into() },
            singular: names.singular.as_str().into(),
            short_names: texts(&names.short_names),
            categories: texts(&names.categories),
            scope: if spec.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
            verbs: VERBS.to_vec(),
            prefix: Some(format!("/registry/{}/{}/", spec.group, names.plural).into()),
            conversion: Some(Conversion::Versions(Arc::new(versions))),
            schema,
            subresources: self.subresources(version, &gvk),
            naming: NameRule::Subdomain,
            generation: Generation::Body,
            traits: Traits::default(),
            // A new object has no status at all.
            empty_status: OnceLock::from(None),
            printer: Some(Shared::Made(printer)),
            rules: Shared::Made(custom.clone()),
            custom: Some(custom),
            gvk,
        }
    }

    fn custom(&self, version: &Version) -> Custom {
        let scale = version.subresources.as_ref().and_then(|s| s.scale.as_ref()).map(|scale| ScalePaths {
            spec: FieldPath::parse(&scale.spec_replicas_path),
            status: FieldPath::parse(&scale.status_replicas_path),
            selector: scale.label_selector_path.as_deref().filter(|p| !p.is_empty()).map(FieldPath::parse),
        });
        Custom {
            definition: self.definition.metadata.name.as_str().into(),
            source: self.source.clone(),
            uid: self.definition.metadata.uid.as_str().into(),
            generation: self.definition.metadata.generation,
            list_kind: self.definition.status.accepted_names.list_kind.as_str().into(),
            terminating: self.definition.is_terminating(),
            deprecation: deprecation(self.definition, version).map(Into::into),
            scale,
            fields: version.selectable_fields.iter().map(|f| Field::new(&f.json_path)).collect(),
            all_fields: Arc::clone(&self.all_fields),
            stored: Arc::clone(&self.stored.version),
        }
    }

    fn subresources(&self, version: &Version, gvk: &GroupVersionKind) -> Vec<Subresource> {
        let Some(of) = &version.subresources else { return Vec::new() };
        let status = of.status.as_ref().map(|_| Subresource {
            name: "status".into(),
            gvk: gvk.clone(),
            verbs: PART_VERBS.to_vec(),
            schema: None,
            printer: None,
        });
        let scale = of.scale.as_ref().map(|_| Subresource {
            name: "scale".into(),
            gvk: GroupVersionKind { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() },
            verbs: PART_VERBS.to_vec(),
            schema: self.tables.message("autoscaling.Scale"),
            printer: None,
        });
        status.into_iter().chain(scale).collect()
    }
}

/// What a deprecated version warns of: in the CRD's words, or in ours, with the version to use instead.
fn deprecation(definition: &Definition, version: &Version) -> Option<String> {
    if !version.deprecated {
        return None;
    }
    if let Some(given) = &version.deprecation_warning {
        return Some(given.clone());
    }
    let (group, kind) = (&definition.spec.group, &definition.spec.names.kind);
    let text = format!("{group}/{} {kind} is deprecated", version.name);
    let newer = definition.spec.versions.iter().filter(|v| v.served && !v.deprecated && compare_versions(&version.name, &v.name).is_lt());
    let best = newer.max_by(|a, b| compare_versions(&a.name, &b.name));
    Some(match best {
        Some(best) => format!("{text}; use {group}/{} {kind}", best.name),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> (Definition, Bytes) {
        let schema = |field: &str| json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {field: {"type": "string"}}}}}});
        let value = json!({
            "metadata": {"name": "widgets.example.com", "uid": "u", "generation": 1},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
                "versions": [
                    {"name": "v1alpha1", "served": false, "storage": false, "schema": schema("a")},
                    {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": schema("b"),
                     "selectableFields": [{"jsonPath": ".spec.b"}]},
                    {"name": "v1", "served": true, "storage": true, "schema": schema("c"), "selectableFields": [{"jsonPath": ".spec.c"}],
                     "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}}},
                ],
            },
            "status": {"acceptedNames": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}},
        });
        let bytes = Bytes::from(value.to_string());
        (Definition::read(&bytes).unwrap(), bytes)
    }

    #[test]
    fn each_served_version_becomes_a_kind_and_all_are_kept_as_one() {
        let (definition, source) = definition();
        let served = kinds(&definition, &source, &Arc::new(Tables::load().unwrap()), None, None).unwrap();
        let versions: Vec<&str> = served.kinds.iter().map(|k| &*k.gvk.version).collect();
        assert_eq!((versions, &*served.stored.gvk.version), (vec!["v1beta1", "v1"], "v1"));
        assert_eq!(served.stored.prefix.as_deref(), Some("/registry/example.com/widgets/"));
        assert_eq!(served.kinds[0].selectable(), [Arc::from("spec.b")]);
        let custom = served.kinds[0].custom.as_ref().unwrap();
        assert_eq!(custom.deprecation.as_deref(), Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget"));
        assert_eq!((custom.all_fields.len(), &*custom.stored), (2, "example.com/v1"));
        assert!(served.kinds[0].subresources.is_empty() && served.kinds[1].subresource("scale").is_some());
    }

    #[test]
    fn schemas_are_compiled_on_first_use_and_kept_when_the_definition_is_read_again() {
        let (definition, source) = definition();
        let tables = Arc::new(Tables::load().unwrap());
        let first = kinds(&definition, &source, &tables, None, None).unwrap();
        let KindSchema::Lazy(schema) = &first.stored.schema else { panic!("made at once") };
        assert!(!schema.is_made());
        let mut object = json!({"metadata": {"name": "w"}, "spec": {"c": "1", "x": 1}});
        coracle_schema::decode::refresh(&mut object, &first.stored.schema);
        assert_eq!(object["spec"], json!({"c": "1"}));
        let again = kinds(&definition, &source, &tables, None, Some(&first)).unwrap();
        let KindSchema::Lazy(kept) = &again.stored.schema else { panic!("made at once") };
        assert!(Arc::ptr_eq(schema, kept));
    }
}
