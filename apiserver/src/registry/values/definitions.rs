//! CustomResourceDefinitions as they are kept: in v1beta1, where what all versions have in common stands once (apiextensions
//! `apis/apiextensions/v1/conversion.go`). Both directions in place, on JSON values.

use coracle_tree::{Map, Value, json};

/// `apiVersion` of what is kept.
pub(super) const KEPT: &str = "apiextensions.k8s.io/v1beta1";

/// What may stand once for all versions: the name beside the versions, and the one in each.
const SHARED: &[(&str, &str)] = &[
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// From what is kept to v1.
pub(super) fn from_v1beta1(definition: &mut Value) {
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let version = spec.remove("version");
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    if let (Some(name), Some(versions)) = (version, versions.as_array_mut().filter(|versions| versions.is_empty())) {
        versions.push(json!({"name": name, "served": true, "storage": true}));
    }
    for (above, within) in SHARED {
        let Some(shared) = spec.remove(above).filter(|shared| !shared.is_null()) else { continue };
        for version in members(spec.get_mut("versions")) {
            version.insert((*within).to_owned(), shared.clone());
        }
    }
    columns(spec, "JSONPath", "jsonPath");
    // Of old definitions, which kept what no schema speaks of unless they said otherwise.
    if spec.get("preserveUnknownFields").is_none_or(Value::is_null) {
        spec.insert("preserveUnknownFields", true.into());
    }
    let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) else { return };
    let (client, reviews) = (conversion.remove("webhookClientConfig"), conversion.remove("conversionReviewVersions"));
    if client.is_none() && reviews.is_none() {
        return;
    }
    let mut webhook = Map::new();
    webhook.extend(client.map(|client| ("clientConfig".to_owned(), client)));
    webhook.insert("conversionReviewVersions", reviews.unwrap_or(Value::Null));
    conversion.insert("webhook", webhook.into());
}

/// From v1 to what is kept.
pub(super) fn to_v1beta1(definition: &mut Value) {
    definition["apiVersion"] = KEPT.into();
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    columns(spec, "jsonPath", "JSONPath");
    let first = spec.get("versions").and_then(|versions| versions.get(0)).cloned();
    if let Some(first) = first {
        spec.insert("version", first["name"].clone());
        for (above, within) in SHARED {
            let differs = members(spec.get_mut("versions")).any(|version| version.get(within) != first.get(within));
            let Some(shared) = first.get(*within).filter(|_| !differs) else { continue };
            members(spec.get_mut("versions")).for_each(|version| drop(version.remove(within)));
            spec.insert((*above).to_owned(), shared.clone());
        }
    }
    spec.entry("preserveUnknownFields").or_insert(Value::Bool(false));
    let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) else { return };
    let Some(Value::Object(mut webhook)) = conversion.remove("webhook") else { return };
    let parts = [("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")];
    for (kept, served) in parts {
        conversion.extend(webhook.remove(served).map(|part| (kept.to_owned(), part)));
    }
}

/// The versions, as far as they are objects.
fn members(versions: Option<&mut Value>) -> impl Iterator<Item = &mut Map> {
    versions.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Renames the path in every column.
fn columns(spec: &mut Map, from: &str, to: &str) {
    for version in members(spec.get_mut("versions")) {
        for column in members(version.get_mut("additionalPrinterColumns")) {
            if let Some(path) = column.remove(from) {
                column.insert(to, path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_versions_have_in_common_stands_once() {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let columns = json!([{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
        let served = json!({"apiVersion": "apiextensions.k8s.io/v1", "spec": {
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]}},
            "versions": [
                {"name": "v2", "served": true, "storage": true, "schema": schema, "additionalPrinterColumns": columns, "subresources": {}},
                {"name": "v1", "served": true, "storage": false, "schema": schema, "additionalPrinterColumns": columns},
            ],
        }});
        let mut kept = served.clone();
        to_v1beta1(&mut kept);
        assert_eq!(
            kept,
            json!({"apiVersion": KEPT, "spec": {
                "version": "v2",
                "validation": schema,
                "additionalPrinterColumns": [{"name": "Age", "type": "date", "JSONPath": ".metadata.creationTimestamp"}],
                "preserveUnknownFields": false,
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]},
                "versions": [
                    {"name": "v2", "served": true, "storage": true, "subresources": {}},
                    {"name": "v1", "served": true, "storage": false},
                ],
            }})
        );
        from_v1beta1(&mut kept);
        let mut expected = served;
        (expected["apiVersion"], expected["spec"]["preserveUnknownFields"]) = (KEPT.into(), false.into());
        assert_eq!(kept, expected);
    }

    #[test]
    fn the_oldest_definitions_name_one_version_and_keep_what_is_unknown() {
        let mut old = json!({"spec": {"version": "v1", "validation": {"openAPIV3Schema": {}}}});
        from_v1beta1(&mut old);
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {}}});
        assert_eq!(old, json!({"spec": {"versions": [version], "preserveUnknownFields": true}}));
    }
}
