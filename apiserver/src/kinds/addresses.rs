//! Addresses of services as objects: ranges, and who has which (upstream `apis/networking/validation`).

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::{address, view};
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
        let ranges: Vec<&str> = view::texts(spec, "cidrs").collect();
        let Some(old) = old else {
            whole(spec, &ranges, &mut errors);
            return errors;
        };
        let before: Vec<&str> = view::texts(view::member(old.value(), "spec"), "cidrs").collect();
        let changed = ranges.iter().zip(&before).enumerate().filter(|(_, (now, then))| now != then);
        match (before.len(), ranges.len()) {
            // A second network may come.
            (1, 2) => {
                changed.for_each(|(at, (now, _))| immutable(at, now, &mut errors));
                whole(spec, &ranges, &mut errors);
            }
            (then, now) if then == now => changed.for_each(|(at, (now, _))| immutable(at, now, &mut errors)),
            _ => errors.invalid("spec.cidrs", view::member(spec, "cidrs"), "field is immutable"),
        }
        errors
    }
}

fn immutable(at: usize, range: &str, errors: &mut FieldErrors) {
    errors.invalid(format!("spec.cidrs[{at}]"), view::quoted(range), "field is immutable");
}

/// One network, or one of each family.
fn whole(spec: &Value, ranges: &[&str], errors: &mut FieldErrors) {
    if ranges.is_empty() {
        return errors.required("spec.cidrs", "at least one CIDR required");
    }
    if ranges.len() > 2 {
        // As upstream shows its internal type.
        let shown = coracle_tree::json!({"CIDRs": view::member(spec, "cidrs")});
        return errors.invalid("spec.cidrs", shown, "may only hold up to 2 values");
    }
    for (at, range) in ranges.iter().enumerate() {
        address::canonical_cidr(range, &format!("spec.cidrs[{at}]"), errors);
    }
    let families: Vec<Option<bool>> = ranges.iter().map(|range| address::parse_cidr(range).map(|(ip, _)| ip.is_ipv4())).collect();
    if let [Some(first), Some(second)] = families.as_slice()
        && first == second
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid("spec.cidrs", view::member(spec, "cidrs"), detail);
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

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
        for (wrong, why) in [
            (json!(["10.0.0.1/24"]), "must not have bits set beyond the prefix length"),
            (json!(["2001:DB8::/64"]), "must be in canonical form (\"2001:db8::/64\")"),
            (json!(["2001:db8::"]), "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            (json!(["10.0.0.0/8", "fd00::/64", "11.0.0.0/8"]), "may only hold up to 2 values"),
        ] {
            assert!(texts(&ranges(wrong.clone()), None)[0].ends_with(why), "{wrong}: {:?}", texts(&ranges(wrong.clone()), None));
        }
        let old = ranges(json!(["10.0.0.0/24"]));
        assert!(texts(&ranges(json!(["10.0.0.0/24", "fd00::/108"])), Some(&old)).is_empty(), "a second network may come");
        let both = ranges(json!(["10.0.0.0/24", "fd00::/108"]));
        assert_eq!(texts(&old, Some(&both)), ["spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable"]);
        assert_eq!(
            texts(&ranges(json!(["10.1.0.0/24"])), Some(&old)),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"]
        );
    }
}
