//! The hash that names the replica set of a template, and the revisions of stateful and daemon sets.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Serialize;
use serde_json::Value;

use crate::object;

/// The letters upstream's `SafeEncodeString` leaves: no vowels and no look-alikes, so that no word appears by chance.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a over 32 bits.
fn fnv(bytes: &[u8], seed: u32) -> u32 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A short word for a value; `collisions` makes another word of the same value. Upstream hashes a printed Go struct, which
/// nobody else can reproduce; all that is promised is that equal values give equal words.
pub(crate) fn word<T: Serialize>(value: &T, collisions: Option<i32>) -> String {
    let mut tree = object::tree(value);
    prune(&mut tree);
    let mut hash = fnv(tree.to_string().as_bytes(), 0x811c_9dc5);
    if let Some(count) = collisions {
        hash = fnv(&count.to_le_bytes(), hash);
    }
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// Whether two templates are the same but for the label of the hash (upstream's `EqualIgnoreHash`).
#[must_use]
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let tree = |template: &PodTemplateSpec| {
        let mut tree = object::tree(template);
        if let Some(labels) = tree.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(super::deployment::HASH_LABEL);
        }
        prune(&mut tree);
        tree
    };
    // Mostly they are the same to the letter, which is seen without writing them out.
    let strip = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(super::deployment::HASH_LABEL);
        }
        template
    };
    strip(a) == strip(b) || tree(a) == tree(b)
}

/// Drops what the API takes for absent: nulls, empty lists, and the maps that are empty by accident.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for value in map.values_mut() {
                prune(value);
            }
            map.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(inner) => {
                    !(inner.is_empty()
                        && matches!(key.as_str(), "metadata" | "labels" | "annotations" | "nodeSelector" | "requests" | "limits"))
                }
                _ => true,
            });
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn template(labels: &[(&str, &str)]) -> PodTemplateSpec {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        PodTemplateSpec { metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }), spec: None }
    }

    #[test]
    fn equal_templates_have_equal_words_and_collisions_change_them() {
        let (a, b) = (template(&[("a", "b")]), template(&[("a", "c")]));
        assert_eq!(word(&a, None), word(&a.clone(), None));
        assert_ne!(word(&a, None), word(&b, None));
        assert_ne!(word(&a, None), word(&a, Some(1)));
        assert!(word(&a, None).bytes().all(|letter| LETTERS.contains(&letter)));
    }

    #[test]
    fn the_hash_label_and_empty_lists_do_not_tell_templates_apart() {
        let mut hashed = template(&[("a", "b"), ("pod-template-hash", "x")]);
        hashed.metadata.get_or_insert_default().annotations = Some(std::collections::BTreeMap::new());
        assert!(same_template(&template(&[("a", "b")]), &hashed));
        assert!(!same_template(&template(&[("a", "c")]), &hashed));
    }
}
