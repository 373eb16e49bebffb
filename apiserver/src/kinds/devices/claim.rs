//! What a claim asks for, and what it was given (`validateDeviceClaim`, `validateResourceClaimStatusUpdate`).

use std::collections::HashSet;

use coracle_schema::name;
use coracle_tree::Value;

use super::super::{address, conditions, scheduling, view};
use super::{
    binding,
    faults::{Faults, Set, Unique, itself, named},
    selector,
};

const REQUESTS: usize = 32;
const CHOICES: usize = 8;
const LISTED: usize = 32;
const USERS: usize = 256;
const CONDITIONS: usize = 8;
const ADDRESSES: usize = 16;
const INTERFACE: usize = 256;
const HARDWARE: usize = 128;
/// Bytes of parameters and of a device's data.
const RAW: usize = 10 * 1024;
const NO_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// The names by which the parts of a claim may be meant: `request`, `request/subrequest`.
fn request_names(devices: &Value) -> HashSet<String> {
    let mut names = HashSet::new();
    for request in view::list(devices, "requests") {
        names.insert(named(request));
        let choices = view::list(request, "firstAvailable").iter();
        names.extend(choices.map(|choice| format!("{}/{}", view::text(request, "name"), view::text(choice, "name"))));
    }
    names
}

/// Checks the devices of a claim's spec.
pub(super) fn spec(devices: &Value, path: &str, faults: &mut Faults) {
    let names = request_names(devices);
    let requests = Set { items: view::list(devices, "requests"), most: REQUESTS, unique: Unique::Declared, key: named };
    faults.each(&requests, &format!("{path}.requests"), request);
    let listed = |list| Set { items: view::list(devices, list), most: LISTED, unique: Unique::No, key: itself };
    faults.each(&listed("constraints"), &format!("{path}.constraints"), |faults, constraint, path| {
        references(constraint, &names, path, faults);
        let given = |field: &str| view::get(constraint, field).and_then(Value::as_str);
        if let Some(attribute) = given("matchAttribute") {
            faults.full_name(attribute, &format!("{path}.matchAttribute"));
        }
        if let Some(attribute) = given("distinctAttribute") {
            faults.full_name(attribute, &format!("{path}.distinctAttribute"));
        }
        if given("matchAttribute").or(given("distinctAttribute")).is_none() {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            faults.written.required(path, detail);
        }
    });
    faults.each(&listed("config"), &format!("{path}.config"), |faults, config, path| {
        references(config, &names, path, faults);
        configuration(config, path, false, faults);
    });
}

fn request(faults: &mut Faults, request: &Value, path: &str) {
    device_name(request, "name", path, faults);
    let choices = view::list(request, "firstAvailable");
    match (view::get(request, "exactly"), choices.is_empty()) {
        (None, true) => faults.written.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (Some(_), false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            faults.written.invalid(path, Value::Null, detail);
            // What the types declare is looked at all the same.
            faults.each(&choices_of(choices), &format!("{path}.firstAvailable"), |faults, choice, path| {
                declared_class(choice, path, faults);
            });
        }
        (Some(exactly), true) => {
            let path = format!("{path}.exactly");
            let class = view::text(exactly, "deviceClassName");
            match class {
                "" => faults.written.required(format!("{path}.deviceClassName"), ""),
                class => faults.written.invalid_each(&format!("{path}.deviceClassName"), class, name::subdomain(class)),
            }
            wanted(exactly, &path, faults);
        }
        (None, false) => {
            faults.each(&choices_of(choices), &format!("{path}.firstAvailable"), |faults, choice, path| {
                device_name(choice, "name", path, faults);
                declared_class(choice, path, faults);
                wanted(choice, path, faults);
            });
        }
    }
}

fn choices_of(items: &[Value]) -> Set<'_> {
    Set { items, most: CHOICES, unique: Unique::Declared, key: named }
}

fn device_name(of: &Value, field: &str, path: &str, faults: &mut Faults) {
    let text = view::text(of, field);
    faults.written.invalid_each(&format!("{path}.{field}"), text, name::label(text));
}

fn declared_class(choice: &Value, path: &str, faults: &mut Faults) {
    let path = format!("{path}.deviceClassName");
    match view::text(choice, "deviceClassName") {
        "" => faults.declared().required(path, ""),
        class => faults.declared().invalid_each(&path, class, name::in_bytes(name::subdomain(class))),
    }
}

/// What a request and a subrequest have in common.
fn wanted(request: &Value, path: &str, faults: &mut Faults) {
    let selectors = Set { items: view::list(request, "selectors"), most: LISTED, unique: Unique::No, key: itself };
    faults.each(&selectors, &format!("{path}.selectors"), |faults, given, path| selector::check(given, path, &mut faults.written));
    let count = view::int(request, "count").unwrap_or_default();
    match view::text(request, "allocationMode") {
        "All" if count != 0 => {
            faults.written.invalid(format!("{path}.count"), count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => faults.written.invalid(format!("{path}.count"), count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        other => faults.declared().not_supported(format!("{path}.allocationMode"), view::quoted(other), &["All", "ExactCount"]),
    }
    tolerations(request, path, faults);
}

fn tolerations(of: &Value, path: &str, faults: &mut Faults) {
    for (at, toleration) in view::list(of, "tolerations").iter().enumerate() {
        let path = format!("{path}.tolerations[{at}]");
        let text = |field| view::text(toleration, field);
        if !text("key").is_empty() {
            faults.declared().invalid_each(&format!("{path}.key"), text("key"), name::qualified(text("key")));
        }
        match text("operator") {
            "Exists" if !text("value").is_empty() => {
                faults.written.invalid(format!("{path}.value"), view::quoted(text("value")), "must be empty for operator `Exists`");
            }
            "Exists" => {}
            "Equal" => faults.written.invalid_each(&format!("{path}.value"), text("value"), name::label_value(text("value"))),
            "" => faults.declared().required(format!("{path}.operator"), ""),
            other => faults.declared().not_supported(format!("{path}.operator"), view::quoted(other), &["Equal", "Exists"]),
        }
        if !text("effect").is_empty() && !EFFECTS.contains(&text("effect")) {
            faults.declared().not_supported(format!("{path}.effect"), view::quoted(text("effect")), &EFFECTS);
        }
    }
}

/// Checks which requests something is about.
fn references(of: &Value, names: &HashSet<String>, path: &str, faults: &mut Faults) {
    let requests = Set { items: view::list(of, "requests"), most: REQUESTS, unique: Unique::Declared, key: itself };
    faults.each(&requests, &format!("{path}.requests"), |faults, request, path| {
        reference(request.as_str().unwrap_or_default(), names, path, faults);
    });
}

fn reference(request: &str, names: &HashSet<String>, path: &str, faults: &mut Faults) {
    let parts: Vec<&str> = request.split('/').collect();
    if parts.len() > 2 {
        return faults.written.invalid(path, view::quoted(request), NO_REQUEST);
    }
    for part in parts {
        faults.written.invalid_each(path, part, name::label(part));
    }
    if !names.contains(request) {
        faults.written.invalid(path, view::quoted(request), NO_REQUEST);
    }
}

/// Checks parameters for a driver; those that are `stored` may be longer than is allowed now.
pub(super) fn configuration(config: &Value, path: &str, stored: bool, faults: &mut Faults) {
    let path = format!("{path}.opaque");
    let Some(opaque) = view::get(config, "opaque") else { return faults.written.required(path, "") };
    faults.declared_driver(view::text(opaque, "driver"), &format!("{path}.driver"));
    raw(view::member(opaque, "parameters"), &format!("{path}.parameters"), stored, faults);
}

/// An object of a type that nobody here knows.
fn raw(value: &Value, path: &str, stored: bool, faults: &mut Faults) {
    if value.is_null() {
        faults.written.required(path, "");
    } else if !stored && value.to_string().len() > RAW {
        faults.written.too_long(path, RAW as u64, "byte");
    } else if !value.is_object() {
        faults.written.invalid(path, view::quoted("<value omitted>"), "must be a valid JSON object");
    }
}

/// Which device a result or a status is about.
fn device_id(of: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| view::text(of, field))
}

/// Takes the status of devices away that the claim no longer has (`dropDeallocatedStatusDevices`).
pub(super) fn forget_released(status: &mut Value, old: &Value) {
    let allocated = |status: &Value| -> HashSet<[String; 4]> {
        let results = status.pointer("/allocation/devices/results").and_then(Value::as_array).into_iter().flatten();
        results.map(|result| device_id(result).map(str::to_owned)).collect()
    };
    let (before, now) = (allocated(old), allocated(status));
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|device| {
            let id = device_id(device).map(str::to_owned);
            now.contains(&id) || !before.contains(&id)
        });
        if devices.is_empty() {
            view::remove(status, "devices");
        }
    }
}

/// Checks the status of a claim.
pub(super) fn status(new: &Value, old: Option<&Value>, faults: &mut Faults) {
    let (status, before) = (view::member(new, "status"), old.map(|old| view::member(old, "status")).unwrap_or(&Value::Null));
    let names = request_names(view::member(view::member(new, "spec"), "devices"));
    let users = view::list(status, "reservedFor");
    let set = Set { items: users, most: USERS, unique: Unique::Declared, key: |user| view::text(user, "uid").to_owned() };
    faults.each(&set, "status.reservedFor", |faults, user, path| {
        for field in ["resource", "name", "uid"].into_iter().filter(|field| view::text(user, field).is_empty()) {
            faults.written.required(format!("{path}.{field}"), "");
        }
    });
    let allocation = view::get(status, "allocation");
    let results = allocation.and_then(|given| given.pointer("/devices/results")).and_then(Value::as_array);
    let allocated: HashSet<[&str; 4]> = results.into_iter().flatten().map(device_id).collect();
    let key = |device: &Value| device_id(device).join("\0");
    let devices = Set { items: view::list(status, "devices"), most: usize::MAX, unique: Unique::Declared, key };
    faults.each(&devices, "status.devices", |faults, device, path| device_status(device, &allocated, path, faults));
    if !users.is_empty() && allocation.is_none() {
        faults.written.forbidden("status.reservedFor", "may not be specified when `allocated` is not set");
    } else if !users.is_empty() && view::get(view::member(new, "metadata"), "deletionTimestamp").is_some() {
        let had = view::list(before, "reservedFor");
        if users.iter().any(|user| !had.contains(user)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            faults.written.forbidden("status.reservedFor", detail);
        }
    }
    match (view::get(before, "allocation"), allocation) {
        (Some(then), Some(now)) if then != now => {
            faults.declared().invalid("status.allocation", Value::Null, "field cannot be modified once set");
        }
        (None, Some(now)) => allocated_result(now, &names, faults),
        _ => {}
    }
}

fn device_status(device: &Value, allocated: &HashSet<[&str; 4]>, path: &str, faults: &mut Faults) {
    let text = |field| view::text(device, field);
    faults.driver(text("driver"), &format!("{path}.driver"));
    faults.pool(text("pool"), &format!("{path}.pool"));
    device_name(device, "device", path, faults);
    if view::get(device, "shareID").is_some() {
        faults.uid(text("shareID"), &format!("{path}.shareID"));
    }
    let id = device_id(device);
    if !allocated.contains(&id) {
        let shown = coracle_tree::json!({"Driver": id[0], "Pool": id[1], "Device": id[2], "ShareID": id[3]});
        faults.written.invalid(path, shown, "must be an allocated device in the claim");
    }
    let all = view::list(device, "conditions");
    if all.len() > CONDITIONS {
        faults.written.too_many(format!("{path}.conditions"), all.len(), CONDITIONS as u64);
    }
    conditions::check(all, &format!("{path}.conditions"), &mut faults.written);
    if view::get(device, "data").is_some() {
        raw(view::member(device, "data"), &format!("{path}.data"), false, faults);
    }
    if let Some(network) = view::get(device, "networkData") {
        network_data(network, &format!("{path}.networkData"), faults);
    }
}

fn network_data(network: &Value, path: &str, faults: &mut Faults) {
    if view::text(network, "interfaceName").len() > INTERFACE {
        faults.declared().too_long(format!("{path}.interfaceName"), INTERFACE as u64, "byte");
    }
    let addresses = Set { items: view::list(network, "ips"), most: ADDRESSES, unique: Unique::Declared, key: itself };
    faults.each(&addresses, &format!("{path}.ips"), |faults, given, path| {
        address::interface(given.as_str().unwrap_or_default(), path, &mut faults.written);
    });
    if view::text(network, "hardwareAddress").len() > HARDWARE {
        faults.declared().too_long(format!("{path}.hardwareAddress"), HARDWARE as u64, "byte");
    }
}

/// Checks a new result: one that is stored is not looked at again.
fn allocated_result(allocation: &Value, names: &HashSet<String>, faults: &mut Faults) {
    let devices = view::member(allocation, "devices");
    let path = "status.allocation.devices";
    let results = Set { items: view::list(devices, "results"), most: REQUESTS, unique: Unique::No, key: itself };
    faults.each(&results, &format!("{path}.results"), |faults, result, path| {
        reference(view::text(result, "request"), names, &format!("{path}.request"), faults);
        faults.declared_driver(view::text(result, "driver"), &format!("{path}.driver"));
        faults.declared_pool(view::text(result, "pool"), &format!("{path}.pool"));
        device_name(result, "device", path, faults);
        binding(result, path, faults);
        tolerations(result, path, faults);
        if view::get(result, "shareID").is_some() {
            faults.uid(view::text(result, "shareID"), &format!("{path}.shareID"));
        }
    });
    let config = Set { items: view::list(devices, "config"), most: 2 * LISTED, unique: Unique::No, key: itself };
    faults.each(&config, &format!("{path}.config"), |faults, config, path| {
        match view::text(config, "source") {
            "" => faults.declared().required(format!("{path}.source"), ""),
            "FromClaim" | "FromClass" => {}
            other => faults.declared().not_supported(format!("{path}.source"), view::quoted(other), &["FromClaim", "FromClass"]),
        }
        references(config, names, path, faults);
        configuration(config, path, false, faults);
    });
    if let Some(selector) = view::get(allocation, "nodeSelector") {
        scheduling::node_selector(selector, &"status.allocation.nodeSelector", &mut faults.written);
    }
}
