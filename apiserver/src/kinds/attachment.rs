//! Volumes at nodes and what classes of them can: attachments, attributes, capacities (upstream `apis/storage/validation`).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, Quantity, name, selector};
use coracle_tree::{Text, Value};

use super::{persistentvolume, view};
use crate::registry::{Object, Part, Policy, Rules};

/// Rules of `volumeattachments`.
pub(super) struct VolumeAttachment;
/// Rules of `volumeattributesclasses`.
pub(super) struct VolumeAttributesClass;
/// Rules of `csistoragecapacities`.
pub(super) struct CsiStorageCapacity;
/// Rules of `csinodes`.
pub(super) struct CsiNode;

impl Rules for CsiNode {
    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            return errors;
        }
        let drivers = |object: &Object| view::list(view::member(object.value(), "spec"), "drivers").to_vec();
        let now = drivers(new);
        let mut names = HashSet::new();
        for (at, driver) in now.iter().enumerate() {
            csi_node_driver(driver, &mut names, &format!("spec.drivers[{at}]"), &mut errors);
        }
        let without_count = |mut driver: Value| {
            view::remove(&mut driver, "allocatable");
            driver
        };
        for before in old.map(drivers).unwrap_or_default() {
            let name = view::text(&before, "name");
            for driver in now.iter().filter(|driver| view::text(driver, "name") == name) {
                if without_count(driver.clone()) != without_count(before.clone()) {
                    errors.invalid("spec.drivers", driver, "field is immutable");
                }
            }
        }
        errors
    }
}

fn csi_node_driver<'v>(driver: &'v Value, names: &mut HashSet<&'v str>, path: &str, errors: &mut FieldErrors) {
    const NODE_ID: usize = 256;
    let (name, node) = (view::text(driver, "name"), view::text(driver, "nodeID"));
    if name.is_empty() {
        errors.required(format!("{path}.name"), "");
    } else {
        persistentvolume::csi_driver_name(name, &format!("{path}.name"), errors);
    }
    if node.is_empty() {
        errors.required(format!("{path}.nodeID"), "");
    } else if node.len() > NODE_ID {
        errors.invalid(format!("{path}.nodeID"), view::quoted(node), &format!("must be {NODE_ID} characters or less"));
    }
    if let Some(count) = view::int(view::member(driver, "allocatable"), "count").filter(|count| *count < 0) {
        errors.invalid(format!("{path}.allocatable.count"), count, "must be greater than or equal to 0");
    }
    if !names.insert(name) {
        errors.duplicate(format!("{path}.name"), view::quoted(name));
    }
    let mut keys = HashSet::new();
    for key in view::texts(driver, "topologyKeys") {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !keys.insert(key) {
            errors.duplicate(path, view::quoted(key));
        }
        errors.invalid_each(path, key, name::qualified(key));
    }
}

impl Rules for VolumeAttachment {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        attachment_status(view::member(new.value(), "status"), &mut errors);
        if part == Part::Status {
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let attacher = view::text(spec, "attacher");
        let changed = old.is_some_and(|old| view::get(old.value(), "spec") != view::get(new.value(), "spec"));
        if changed {
            // Upstream's declarations end with that, and what the code before them has to say of the name is heard.
            driver_of_old(attacher, &mut errors);
        }
        let source = view::member(spec, "source");
        let (inline, volume) = (view::get(source, "inlineVolumeSpec"), view::get(source, "persistentVolumeName").and_then(Value::as_str));
        match (inline, volume) {
            (None, None) => errors.required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            (Some(_), Some(_)) => {
                let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.forbidden("spec.source", detail);
            }
            (None, Some("")) => errors.required("spec.source.persistentVolumeName", "must specify non empty persistentVolumeName"),
            (None, Some(volume)) => errors.invalid_each("spec.source.persistentVolumeName", volume, name::subdomain(volume)),
            (Some(inline), None) => persistentvolume::check(inline, None, "spec.source.inlineVolumeSpec", &mut errors),
        }
        let node = view::text(spec, "nodeName");
        errors.invalid_each("spec.nodeName", node, name::subdomain(node));
        if volume == Some("") {
            // Once more, of any volume that is named.
            errors.invalid_each("spec.source.persistentVolumeName", "", name::subdomain(""));
        }
        if changed {
            errors.invalid("spec", Value::Null, "field is immutable");
        } else {
            driver(attacher, &mut errors);
        }
        errors
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.attacher"]
    }
}

/// The name of a driver as upstream's declarations see it (`LongNameCaseless`, `MaxLength`).
fn driver(name: &str, errors: &mut FieldErrors) {
    const PATH: &str = "spec.attacher";
    if name.is_empty() {
        return errors.required(PATH, "");
    }
    errors.invalid_each(PATH, name, name::in_bytes(name::subdomain_of_any_case(name)));
    if name.chars().count() > name::LABEL_MAX {
        errors.too_long(PATH, name::LABEL_MAX as u64, "character");
    }
}

/// The same as the code sees it (`ValidateCSIDriverName`).
fn driver_of_old(name: &str, errors: &mut FieldErrors) {
    const PATH: &str = "spec.attacher";
    if name.is_empty() {
        return errors.required(PATH, "");
    }
    if name.len() > name::LABEL_MAX {
        errors.too_long(PATH, name::LABEL_MAX as u64, "byte");
    }
    errors.invalid_each(PATH, name, name::subdomain(&name.to_lowercase()));
}

/// What is told of an attachment has a bound (`validateVolumeAttachmentStatus`).
fn attachment_status(status: &Value, errors: &mut FieldErrors) {
    const MESSAGE: usize = 1024;
    const METADATA: usize = 256 * 1024;
    let size = |(key, value): (&Text, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if view::map(status, "attachmentMetadata").iter().map(size).sum::<usize>() > METADATA {
        errors.too_long("status.attachmentMetadata", METADATA as u64, "byte");
    }
    for field in ["attachError", "detachError"] {
        let error = view::member(status, field);
        if view::text(error, "message").len() > MESSAGE {
            errors.too_long(format!("status.{field}.message"), MESSAGE as u64, "byte");
        }
        if let Some(code) = view::int(error, "errorCode").filter(|code| *code < 0) {
            for message in name::in_range(code, 0, i64::from(i32::MAX)) {
                errors.invalid(format!("status.{field}.errorCode"), code, &message);
            }
        }
    }
}

impl Rules for VolumeAttributesClass {
    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let class = new.value();
        for field in ["driverName", "parameters"] {
            if old.is_some_and(|old| view::get(old.value(), field) != view::get(class, field)) {
                errors.forbidden(field, &format!("updates to {field} are forbidden."));
            }
        }
        let driver = view::text(class, "driverName").to_lowercase();
        if driver.is_empty() {
            errors.required("driverName", "");
        } else {
            errors.invalid_each("driverName", &driver, name::qualified(&driver));
        }
        let parameters = view::map(class, "parameters");
        if parameters.keys().any(Text::is_empty) {
            errors.invalid("parameters", "\"\"", "field can not be empty.");
        }
        if parameters.is_empty() {
            errors.required("parameters", "must contain at least one key/value pair");
        }
        errors
    }

    fn order(&self) -> &'static [&'static str] {
        &["metadata", "driverName", "parameters"]
    }
}

impl Rules for CsiStorageCapacity {
    fn policy(&self) -> Policy {
        Policy::CONDITIONAL
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let capacity = new.value();
        let class = view::text(capacity, "storageClassName");
        errors.invalid_each("storageClassName", class, name::subdomain(class));
        if let Some(topology) = view::get(capacity, "nodeTopology") {
            selector::validate_object(topology, "nodeTopology", &mut errors);
        }
        // Of the largest volume upstream says nothing.
        if let Some(amount) = view::get(capacity, "capacity")
            && view::quantity(amount).is_some_and(|q| q < Quantity::ZERO)
        {
            errors.invalid("capacity", amount, "must be greater than or equal to 0");
        }
        if let Some(old) = old {
            for field in ["nodeTopology", "storageClassName"] {
                if view::get(old.value(), field) != view::get(capacity, field) {
                    errors.invalid(field, view::member(capacity, field), "field is immutable");
                }
            }
        }
        errors
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["storageClassName"]
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn an_attachment_names_one_source_and_stays() {
        let attachment = |source: Value| Object::new(json!({"spec": {"attacher": "a", "nodeName": "n", "source": source}})).unwrap();
        let good = attachment(json!({"persistentVolumeName": "v"}));
        assert!(VolumeAttachment.validate(&good, None, Part::Whole).is_empty());
        let texts = |errors: FieldErrors| errors.0.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(VolumeAttachment.validate(&attachment(json!({})), Some(&good), Part::Whole)),
            [
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                "spec: Invalid value: null: field is immutable",
            ]
        );
    }
}
