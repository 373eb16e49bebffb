//! What a driver offers (`validateResourceSliceSpec`).

use coracle_schema::{FieldErrors, Quantity, name};
use coracle_tree::Value;

use super::super::{scheduling, view};
use super::{
    binding,
    faults::{Faults, Set, Unique, named, qualified_name},
    taint,
};

const DEVICES: usize = 128;
/// Of devices with taints or counters.
const ADVANCED_DEVICES: usize = 64;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMED_SETS: usize = 2;
const ATTRIBUTES: usize = 32;
const VALUE: usize = 64;
const TAINTS: usize = 16;
const OPTIONS: usize = 10;

/// Checks the spec of a slice.
pub(super) fn spec(spec: &Value, old: Option<&Value>, faults: &mut Faults) {
    let pool = view::member(spec, "pool");
    faults.driver(view::text(spec, "driver"), "spec.driver");
    faults.pool(view::text(pool, "name"), "spec.pool.name");
    let count = view::int(pool, "resourceSliceCount").unwrap_or_default();
    if count <= 0 {
        faults.written.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero");
    }
    if let Some(generation) = view::int(pool, "generation").filter(|generation| *generation < 0) {
        faults.written.invalid("spec.pool.generation", generation, "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        unchanged(spec, old, &mut faults.written);
    }
    nodes(spec, &mut faults.written);
    let devices = view::list(spec, "devices");
    if view::get(spec, "sharedCounters").is_some() && view::get(spec, "devices").is_some() {
        faults.written.invalid("spec", "\"\"", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = devices.iter().any(|d| ["taints", "consumesCounters"].iter().any(|list| !view::list(d, list).is_empty()));
    let most = if advanced { ADVANCED_DEVICES } else { DEVICES };
    let before = old.map(|old| view::list(old, "devices")).unwrap_or_default();
    let by_node = view::flag(spec, "perDeviceNodeSelection");
    faults.each(&Set { items: devices, most, unique: Unique::Written, key: named }, "spec.devices", |faults, given, path| {
        let old = before.iter().find(|old| named(old) == named(given));
        device(given, old, by_node, path, faults);
    });
    let sets = Set { items: view::list(spec, "sharedCounters"), most: COUNTER_SETS, unique: Unique::Declared, key: named };
    faults.each(&sets, "spec.sharedCounters", |faults, set, path| counters(set, "name", path, faults));
}

fn unchanged(spec: &Value, old: &Value, errors: &mut FieldErrors) {
    for (pointer, path) in [("/pool/name", "spec.pool.name"), ("/driver", "spec.driver"), ("/nodeName", "spec.nodeName")] {
        let (now, then) = (spec.pointer(pointer), old.pointer(pointer));
        if now.and_then(Value::as_str) != then.and_then(Value::as_str) {
            // A name that must be there is empty when it is not.
            let absent = if pointer == "/nodeName" { Value::Null } else { "".into() };
            errors.invalid(path, now.unwrap_or(&absent), "field is immutable");
        }
    }
}

/// Which nodes have the devices: said in exactly one way.
fn nodes(spec: &Value, errors: &mut FieldErrors) {
    let mut ways = Vec::new();
    match view::get(spec, "nodeName").and_then(Value::as_str) {
        Some("") => errors.invalid("spec.nodeName", "\"\"", "must be either unset or set to a non-empty string"),
        Some(node) => {
            ways.push("`nodeName`");
            errors.invalid_each("spec.nodeName", node, name::subdomain(node));
        }
        None => {}
    }
    if let Some(selector) = view::get(spec, "nodeSelector") {
        ways.push("`nodeSelector`");
        scheduling::node_selector(selector, &"spec.nodeSelector", errors);
        let terms = view::member(selector, "nodeSelectorTerms");
        if terms.as_array().map_or(0, Vec::len) != 1 {
            errors.invalid("spec.nodeSelector.nodeSelectorTerms", terms, "must have exactly one node selector term");
        }
    }
    for (field, way) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match view::get(spec, field).and_then(Value::as_bool) {
            Some(true) => ways.push(way),
            Some(false) => errors.invalid(format!("spec.{field}"), false, "must be either unset or set to true"),
            None => {}
        }
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match ways.len() {
        0 => errors.required("spec", detail),
        1 => {}
        _ => errors.invalid("spec", set_of(&ways), &format!("{detail}, but multiple fields are set")),
    }
}

fn set_of(ways: &[&str]) -> String {
    view::quoted(&format!("{{{}}}", ways.join(", ")))
}

fn counters(of: &Value, field: &str, path: &str, faults: &mut Faults) {
    let set = view::text(of, field);
    match set {
        "" => faults.declared().required(format!("{path}.{field}"), ""),
        set => faults.declared().invalid_each(&format!("{path}.{field}"), set, name::in_bytes(name::label(set))),
    }
    let (counters, path) = (view::map(of, "counters"), format!("{path}.counters"));
    if counters.is_empty() {
        faults.declared().required(path, "");
    } else if counters.len() > COUNTERS {
        faults.written.too_many(path, counters.len(), COUNTERS as u64);
    } else {
        for counter in counters.keys() {
            faults.declared().invalid_each(&path, counter, name::in_bytes(name::label(counter)));
        }
    }
}

fn device(device: &Value, old: Option<&Value>, by_node: bool, path: &str, faults: &mut Faults) {
    let name = view::text(device, "name");
    faults.written.invalid_each(&format!("{path}.name"), name, name::label(name));
    let (attributes, capacity) = (view::map(device, "attributes"), view::map(device, "capacity"));
    let entries = attributes.len() + capacity.len();
    if entries > ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        faults.written.invalid(path, entries, &detail);
    }
    for (key, value) in attributes {
        let path = format!("{path}.attributes");
        qualified_name(key, &path, &mut faults.written);
        attribute(value, &format!("{path}[{}]", shortened(key)), faults);
    }
    let same = |field: &str| old.is_some_and(|old| view::get(old, field) == view::get(device, field));
    if !same("capacity") {
        let shared = view::flag(device, "allowMultipleAllocations");
        for (key, value) in capacity {
            let path = format!("{path}.capacity");
            qualified_name(key, &path, &mut faults.written);
            let Some(policy) = view::get(value, "requestPolicy") else { continue };
            let path = format!("{path}[{}].requestPolicy", shortened(key));
            if shared {
                let whole = view::quantity(view::member(value, "value")).unwrap_or_default();
                request_policy(policy, whole, &path, &mut faults.written);
            } else {
                faults.written.forbidden(path, "allowMultipleAllocations must be true");
            }
        }
    }
    if !same("taints") {
        let taints = Set { items: view::list(device, "taints"), most: TAINTS, unique: Unique::No, key: named };
        faults.each(&taints, &format!("{path}.taints"), |faults, given, path| taint(given, None, path, faults));
    }
    let key = |of: &Value| view::text(of, "counterSet").to_owned();
    let consumed = Set { items: view::list(device, "consumesCounters"), most: CONSUMED_SETS, unique: Unique::Declared, key };
    faults.each(&consumed, &format!("{path}.consumesCounters"), |faults, set, path| counters(set, "counterSet", path, faults));
    device_nodes(device, by_node, path, &mut faults.written);
    binding(device, path, faults);
}

fn device_nodes(device: &Value, by_node: bool, path: &str, errors: &mut FieldErrors) {
    let there = |field: &str| view::get(device, field).is_some();
    if !by_node {
        if there("nodeName") || there("nodeSelector") || there("allNodes") {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, detail);
        }
        return;
    }
    let mut ways = Vec::new();
    match view::get(device, "nodeName").and_then(Value::as_str) {
        Some("") => errors.invalid(format!("{path}.nodeName"), "\"\"", "must not be empty"),
        Some(node) => {
            ways.push("`nodeName`");
            errors.invalid_each(&format!("{path}.nodeName"), node, name::subdomain(node));
        }
        None => {}
    }
    if let Some(selector) = view::get(device, "nodeSelector") {
        ways.push("`nodeSelector`");
        scheduling::node_selector(selector, &format!("{path}.nodeSelector"), errors);
    }
    match view::get(device, "allNodes").and_then(Value::as_bool) {
        Some(true) => ways.push("`allNodes`"),
        Some(false) => errors.invalid(format!("{path}.allNodes"), false, "must be either unset or set to true"),
        None => {}
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match ways.len() {
        0 => errors.required(path, detail),
        1 => {}
        _ => errors.invalid(path, set_of(&ways), detail),
    }
}

/// A long key, cut in its middle.
fn shortened(key: &str) -> String {
    const MOST: usize = 63 + 1 + 32;
    if key.len() <= MOST || !key.is_ascii() {
        return key.to_owned();
    }
    let left = MOST - 3;
    format!("{}...{}", &key[..left.div_ceil(2)], &key[key.len() - left / 2..])
}

fn attribute(attribute: &Value, path: &str, faults: &mut Faults) {
    let values: Vec<&str> = ["bool", "int", "string", "version"].into_iter().filter(|v| view::get(attribute, v).is_some()).collect();
    for field in ["string", "version"].into_iter().filter(|field| values.contains(field)) {
        let (path, text) = (format!("{path}.{field}"), view::text(attribute, field));
        if field == "version" && !is_version(text) {
            faults.written.invalid(&path, view::quoted(text), "must be a string compatible with semver.org spec 2.0.0");
        }
        if text.len() > VALUE {
            faults.written.too_long(path, VALUE as u64, "byte");
        }
    }
    let members = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";
    match values.len() {
        0 => faults.declared().invalid(path, "\"\"", &format!("must specify one of: {members}")),
        1 => {}
        _ => {
            let set: Vec<&str> = ["int", "bool", "string", "version"].into_iter().filter(|v| values.contains(v)).collect();
            let detail = format!("must specify exactly one of: {members}");
            faults.declared().invalid(path, view::quoted(&format!("{{{}}}", set.join(", "))), &detail);
        }
    }
}

/// `1.2.3-pre.1+build.5`
fn is_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let named = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(named))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn request_policy(policy: &Value, whole: Quantity, path: &str, errors: &mut FieldErrors) {
    let values: Vec<Quantity> = view::list(policy, "validValues").iter().filter_map(view::quantity).collect();
    let range = view::get(policy, "validRange");
    let default = view::quantity(view::member(policy, "default"));
    match (values.is_empty(), range, default) {
        (false, Some(_), _) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.forbidden(path, detail);
        }
        (false, None, None) => errors.required(format!("{path}.default"), "required when validValues is defined"),
        (true, Some(_), None) => errors.required(format!("{path}.default"), "required when validRange is defined"),
        (false, None, Some(default)) => valid_values(&values, default, whole, &format!("{path}.validValues"), errors),
        (true, Some(range), Some(default)) => valid_range(range, default, whole, &format!("{path}.validRange"), errors),
        (true, None, _) => {}
    }
}

fn shown(quantity: Quantity) -> String {
    view::quoted(&quantity.to_string())
}

fn valid_values(values: &[Quantity], default: Quantity, whole: Quantity, path: &str, errors: &mut FieldErrors) {
    for (at, pair) in values.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        errors.invalid(format!("{path}[{}]", at + 1), shown(pair[1]), "values must be sorted in ascending order");
    }
    if values.len() > OPTIONS {
        errors.too_many(path, values.len(), OPTIONS as u64);
    } else {
        for (at, value) in values.iter().enumerate().filter(|(_, value)| **value > whole) {
            errors.invalid(format!("{path}[{at}]"), shown(*value), &format!("option is larger than capacity value: {whole}"));
        }
        for (at, value) in values.iter().enumerate().filter(|(at, value)| values[..*at].contains(value)) {
            errors.duplicate(format!("{path}[{at}]"), shown(*value));
        }
    }
    if values.len() > OPTIONS || !values.contains(&default) {
        errors.invalid(path, shown(default), "default value is not valid according to the requestPolicy");
    }
}

fn valid_range(range: &Value, default: Quantity, whole: Quantity, path: &str, errors: &mut FieldErrors) {
    let given = |field: &str| view::quantity(view::member(range, field));
    let Some(least) = given("min") else { return errors.required(format!("{path}.min"), "required when validRange is defined") };
    let most = given("max");
    let mut refuse = |field: &str, value: Quantity, detail: String| errors.invalid(format!("{path}.{field}"), shown(value), &detail);
    if least > whole {
        refuse("min", least, format!("min is larger than capacity value: {whole}"));
    }
    if default < least {
        refuse("default", default, format!("default is less than min: {least}"));
    }
    if let Some(most) = most {
        if least > most {
            refuse("max", least, format!("min is larger than max: {most}"));
        }
        if most > whole {
            refuse("max", most, format!("max is larger than capacity value: {whole}"));
        }
        if default > most {
            refuse("default", default, format!("default is more than max: {most}"));
        }
    }
    let step = given("step");
    let all = [("default", Some(default)), ("min", Some(least)), ("max", most), ("step", step)];
    let Some(step) = step else { return };
    if step <= Quantity::ZERO {
        return refuse("step", step, "must be greater than zero".to_owned());
    }
    if least + step > whole {
        refuse("step", step, format!("one step {} is larger than capacity value: {whole}", least + step));
    }
    let negative: Vec<_> = all.iter().filter(|(_, value)| value.is_some_and(Quantity::is_negative)).collect();
    for (field, value) in &negative {
        refuse(field, value.unwrap_or_default(), "must be greater than or equal to 0".to_owned());
    }
    if !negative.is_empty() {
        return;
    }
    // Fractions are behind a gate that is off: they are rounded up.
    for value in [Some(default), most].into_iter().flatten() {
        if value.value().wrapping_sub(least.value()).checked_rem(step.value()).is_some_and(|rest| rest != 0) {
            refuse("step", value, format!("value is not a multiple of a given step ({step}) from ({least})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    #[test]
    fn versions_are_those_of_semver() {
        for fine in ["1.2.3", "0.0.0-alpha.1+x.01", "1.0.0--x", "1.0.0-0a"] {
            assert!(is_version(fine), "{fine}");
        }
        for wrong in ["1.2", "01.2.3", "1.2.3-01", "1.2.3-", "v1.2.3", "1.2.3+", "x"] {
            assert!(!is_version(wrong), "{wrong}");
        }
    }

    #[test]
    fn requests_for_a_part_of_a_device_go_by_steps() {
        let texts = |policy: Value| {
            let mut errors = FieldErrors::none();
            request_policy(&policy, "8Gi".parse().unwrap(), "p", &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let range = |min: &str, step: &str| json!({"default": "1Gi", "validRange": {"min": min, "step": step}});
        assert!(texts(range("1Gi", "1Gi")).is_empty());
        assert_eq!(
            texts(range("2Gi", "8Gi")),
            [
                "p.validRange.default: Invalid value: \"1Gi\": default is less than min: 2Gi",
                "p.validRange.step: Invalid value: \"8Gi\": one step 10Gi is larger than capacity value: 8Gi",
                "p.validRange.step: Invalid value: \"1Gi\": value is not a multiple of a given step (8Gi) from (2Gi)",
            ]
        );
        assert_eq!(
            texts(json!({"default": "1", "validValues": ["2", "1", "16Gi"]})),
            [
                "p.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "p.validValues[2]: Invalid value: \"16Gi\": option is larger than capacity value: 8Gi",
            ]
        );
    }
}
