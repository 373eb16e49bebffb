//! Addresses of services as objects: ranges, and who has which (upstream `apis/networking/validation`).

use std::net::IpAddr;

use coracle_schema::{FieldErrors, name};
use serde_json::Value;

use super::view;
use crate::registry::{Object, Part, Rules};

/// Rules of `ipaddresses`.
pub(super) struct IpAddress;
/// Rules of `servicecidrs`.
pub(super) struct ServiceCidr;

impl Rules for IpAddress {
    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let parent = view::member(view::member(new.value(), "spec"), "parentRef");
        let group = view::text(parent, "group");
        if !group.is_empty() {
            errors.invalid_each("spec.parentRef.group", group, name::subdomain(group));
        }
        for (field, needed) in [("resource", true), ("name", true), ("namespace", false)] {
            let (path, text) = (format!("spec.parentRef.{field}"), view::text(parent, field));
            if !text.is_empty() {
                errors.invalid_each(&path, text, name::path_segment(text));
            } else if needed && !parent.is_null() {
                errors.required(path, "");
            }
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        let parent = |object: &Object| view::member(view::member(object.value(), "spec"), "parentRef").clone();
        if parent(old) != parent(new) {
            errors.invalid("spec.parentRef", Value::Null, "field is immutable");
        }
        errors
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "spec.parentRef.group",
            "spec.parentRef.resource",
            "spec.parentRef.name",
            "spec.parentRef.namespace",
            "spec.parentRef",
        ]
    }
}

impl Rules for ServiceCidr {
    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            // Upstream looks at no condition here: its own, of the default range, has no reason.
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        let shown = view::member(spec, "cidrs");
        let ranges: Vec<&str> = view::texts(spec, "cidrs").collect();
        if let Some(old) = old {
            let before: Vec<&str> = view::texts(view::member(old.value(), "spec"), "cidrs").collect();
            if ranges.len() < before.len() {
                errors.invalid("spec.cidrs", shown, "field is immutable");
                return errors;
            }
            for (at, (range, _)) in ranges.iter().zip(&before).enumerate().filter(|(_, (range, before))| range != before) {
                errors.invalid(format!("spec.cidrs[{at}]"), view::quoted(range), "field is immutable");
            }
            if ranges.len() == before.len() {
                return errors;
            }
        }
        if ranges.is_empty() {
            errors.required("spec.cidrs", "at least one CIDR required");
            return errors;
        }
        let families: Vec<Option<bool>> = ranges.iter().map(|range| is_range(range)).collect();
        if ranges.len() > 2 {
            errors.invalid("spec.cidrs", shown, "may only hold up to 2 values");
        } else if ranges.len() == 2 && families[0] == families[1] && families[0].is_some() {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.invalid("spec.cidrs", shown, detail);
        }
        for (at, range) in ranges.iter().enumerate().filter(|(at, _)| families[*at].is_none()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(format!("spec.cidrs[{at}]"), view::quoted(range), detail);
        }
        errors
    }
}

/// Whether a range is of IPv4; `None` when it is none.
fn is_range(text: &str) -> Option<bool> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.parse::<u8>().ok().filter(|bits| *bits <= most).map(|_| address.is_ipv4())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_of_services_are_one_a_family_and_stay() {
        let ranges = |cidrs: Value| Object::new(json!({"spec": {"cidrs": cidrs}})).unwrap();
        let texts = |new: &Object, old: Option<&Object>| {
            ServiceCidr.validate(new, old, Part::Whole).0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(texts(&ranges(json!(["10.0.0.0/24", "2001:db8::/64"])), None).is_empty());
        assert_eq!(texts(&ranges(json!([])), None), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert!(texts(&ranges(json!(["10.0.0.0/24", "10.1.0.0/24"])), None)[0].contains("no more than one IP for each IP family"));
        let old = ranges(json!(["10.0.0.0/24"]));
        assert_eq!(
            texts(&ranges(json!(["10.1.0.0/24"])), Some(&old)),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"]
        );
    }
}
