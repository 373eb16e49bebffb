//! Checks of one container: ports, environment, mounts, handlers (upstream `validateContainerCommon` and what it calls).

use std::collections::HashSet;

use coracle_schema::{FieldErrors, name};
use coracle_tree::Value;

use super::{Context, claims, field_ref, profile, windows};
use crate::kinds::{capabilities, resources, view};

/// What every kind of container obeys.
pub(super) fn common(container: &Value, context: &Context<'_>, path: view::At<'_>, errors: &mut FieldErrors) {
    let name = view::text(container, "name");
    if name.is_empty() {
        errors.required(format_args!("{path}.name"), "");
    } else {
        errors.invalid_each(&format_args!("{path}.name"), name, name::label(name));
    }
    let image = view::text(container, "image");
    if image.is_empty() {
        errors.required(format_args!("{path}.image"), "");
    } else if context.is_pod && image.trim() != image {
        errors.invalid(format_args!("{path}.image"), view::quoted(image), "must not have leading or trailing whitespace");
    }
    ports(container, &format_args!("{path}.ports"), errors);
    environment(container, &format_args!("{path}.env"), errors);
    environment_from(container, &format_args!("{path}.envFrom"), errors);
    mounts(container, context, &format_args!("{path}.volumeMounts"), errors);
    devices(container, context, &format_args!("{path}.volumeDevices"), errors);
    resources::requirements(view::member(container, "resources"), false, &format_args!("{path}.resources"), errors);
    claims::of_resources(view::member(container, "resources"), &context.claims, &format_args!("{path}.resources"), errors);
    resize_policy(container, context, &format_args!("{path}.resizePolicy"), errors);
    security(container, context, &format_args!("{path}.securityContext"), errors);
}

fn ports(container: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (at, port) in view::list(container, "ports").iter().enumerate() {
        let path = format_args!("{path}[{at}]");
        let name = view::text(port, "name");
        if !name.is_empty() {
            let wrong = name::port_name(name);
            if wrong.is_empty() && !names.insert(name) {
                errors.duplicate(format_args!("{path}.name"), view::quoted(name));
            }
            errors.invalid_each(&format_args!("{path}.name"), name, wrong);
        }
        match view::int(port, "containerPort").unwrap_or_default() {
            0 => errors.required(format_args!("{path}.containerPort"), ""),
            number => number_errors(number, &format_args!("{path}.containerPort"), errors),
        }
        let host = view::int(port, "hostPort").unwrap_or_default();
        if host != 0 {
            number_errors(host, &format_args!("{path}.hostPort"), errors);
        }
    }
}

fn number_errors(port: i64, path: view::At<'_>, errors: &mut FieldErrors) {
    for message in name::port_number(port) {
        errors.invalid(path, port, &message);
    }
}

/// A port's number or name.
pub(crate) fn port_or_name(port: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    match port {
        Value::String(name) => errors.invalid_each(path, name, name::port_name(name)),
        other => number_errors(other.as_i64().unwrap_or_default(), path, errors),
    }
}

fn environment(container: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    for (at, variable) in view::list(container, "env").iter().enumerate() {
        let path = format_args!("{path}[{at}]");
        let name = view::text(variable, "name");
        if name.is_empty() {
            errors.required(format_args!("{path}.name"), "");
        } else {
            errors.invalid_each(&format_args!("{path}.name"), name, name::env_name(name));
        }
        if let Some(source) = view::get(variable, "valueFrom") {
            value_from(source, !view::text(variable, "value").is_empty(), &format_args!("{path}.valueFrom"), errors);
        }
    }
}

fn value_from(source: &Value, has_value: bool, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut sources = 0;
    if let Some(field) = view::get(source, "fieldRef") {
        sources += 1;
        field_ref::field(field, field_ref::ENVIRONMENT, &format_args!("{path}.fieldRef"), errors);
    }
    if let Some(resource) = view::get(source, "resourceFieldRef") {
        sources += 1;
        field_ref::resource(resource, false, &format_args!("{path}.resourceFieldRef"), errors);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(key) = view::get(source, kind) {
            sources += 1;
            key_selector(key, &format_args!("{path}.{kind}"), errors);
        }
    }
    if let Some(key) = view::get(source, "fileKeyRef") {
        sources += 1;
        file_key(key, &format_args!("{path}.fileKeyRef"), errors);
    }
    let detail = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.invalid(path, "\"\"", detail);
}

/// A variable of a file in a volume (`validateFileKeySelector`).
fn file_key(selector: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut need = |field: &str, rule: fn(&str) -> Vec<String>| match view::text(selector, field) {
        "" => errors.required(format_args!("{path}.{field}"), ""),
        text => errors.invalid_each(&format_args!("{path}.{field}"), text, rule(text)),
    };
    need("key", name::env_name);
    need("volumeName", name::label);
    match view::text(selector, "path") {
        "" => errors.required(format_args!("{path}.path"), ""),
        file => no_backsteps(file, &format_args!("{path}.path"), errors),
    }
}

fn key_selector(selector: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    let (name, key) = (view::text(selector, "name"), view::text(selector, "key"));
    errors.invalid_each(&format_args!("{path}.name"), name, name::subdomain(name));
    if key.is_empty() {
        errors.required(format_args!("{path}.key"), "");
    } else {
        errors.invalid_each(&format_args!("{path}.key"), key, name::config_key(key));
    }
}

fn environment_from(container: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    for (at, source) in view::list(container, "envFrom").iter().enumerate() {
        let item = format_args!("{path}[{at}]");
        let prefix = view::text(source, "prefix");
        if !prefix.is_empty() {
            errors.invalid_each(&format_args!("{item}.prefix"), prefix, name::env_name(prefix));
        }
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            let Some(reference) = view::get(source, kind) else { continue };
            sources += 1;
            match view::text(reference, "name") {
                "" => errors.required(format_args!("{item}.{kind}.name"), ""),
                // Checked as prefixes of generated names are, as upstream does.
                name => errors.invalid_each(&format_args!("{item}.{kind}.name"), name, name::subdomain(&name::with_suffix(name))),
            }
        }
        match sources {
            0 => errors.invalid(path, "\"\"", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "\"\"", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(container: &Value, context: &Context<'_>, path: view::At<'_>, errors: &mut FieldErrors) {
    let devices = view::list(container, "volumeDevices");
    let mut points = HashSet::new();
    for (at, mount) in view::list(container, "volumeMounts").iter().enumerate() {
        let item = format_args!("{path}[{at}]");
        let (name, point) = (view::text(mount, "name"), view::text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(format_args!("{item}.name"), "");
        }
        if context.volume(name).is_none() {
            errors.not_found(format_args!("{item}.name"), view::quoted(name));
        }
        if point.is_empty() {
            errors.required(format_args!("{item}.mountPath"), "");
        }
        if !points.insert(point) {
            errors.invalid(format_args!("{item}.mountPath"), view::quoted(point), "must be unique");
        }
        if devices.iter().any(|d| view::text(d, "name") == name) {
            errors.invalid(format_args!("{item}.name"), view::quoted(name), "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| view::text(d, "devicePath") == point) {
            errors.invalid(format_args!("{item}.mountPath"), view::quoted(point), "must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (view::text(mount, "subPath"), view::text(mount, "subPathExpr"));
        if !sub.is_empty() {
            descending(sub, &format_args!("{path}.subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.invalid(
                    format_args!("{item}.subPathExpr"),
                    view::quoted(expression),
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            descending(expression, &format_args!("{path}.subPathExpr"), errors);
        }
        // The path of the list, not of its item, is upstream's.
        if let Some(propagation) = view::get(mount, "mountPropagation").and_then(Value::as_str)
            && !["Bidirectional", "HostToContainer", "None"].contains(&propagation)
        {
            let modes = ["Bidirectional", "HostToContainer", "None"];
            errors.not_supported(format_args!("{path}.mountPropagation"), view::quoted(propagation), &modes);
        }
        let privileged = view::flag(view::member(container, "securityContext"), "privileged");
        if view::text(mount, "mountPropagation") == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(format_args!("{path}.mountPropagation"), detail);
        }
        recursive(mount, &format_args!("{path}.recursiveReadOnly"), errors);
    }
}

/// A mount that is read-only down to its last submount is so itself, and is not passed on.
fn recursive(mount: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    match view::get(mount, "recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !view::flag(mount, "readOnly") {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if view::get(mount, "mountPropagation").is_some_and(|propagation| propagation != "None") {
                errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => errors.not_supported(path, view::quoted(other), &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(container: &Value, context: &Context<'_>, path: view::At<'_>, errors: &mut FieldErrors) {
    let (mut names, mut points) = (HashSet::new(), HashSet::new());
    for (at, device) in view::list(container, "volumeDevices").iter().enumerate() {
        let item = format_args!("{path}[{at}]");
        let (name, point) = (view::text(device, "name"), view::text(device, "devicePath"));
        if name.is_empty() {
            errors.required(format_args!("{item}.name"), "");
        }
        if !names.insert(name) {
            errors.invalid(format_args!("{item}.name"), view::quoted(name), "must be unique");
        }
        match context.volume(name) {
            Some(volume) if view::get(volume, "persistentVolumeClaim").or(view::get(volume, "ephemeral")).is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(format_args!("{item}.name"), view::quoted(name), detail);
            }
            Some(_) => {}
            None => errors.not_found(format_args!("{item}.name"), view::quoted(name)),
        }
        if point.is_empty() {
            errors.required(format_args!("{item}.devicePath"), "");
        }
        if !points.insert(point) {
            errors.invalid(format_args!("{item}.devicePath"), view::quoted(point), "must be unique");
        }
        if point.split('/').any(|part| part == "..") {
            errors.invalid(format_args!("{item}.devicePath"), view::quoted(point), "can not contain backsteps ('..')");
        }
    }
}

/// A path below something: relative, and never upwards.
pub(super) fn descending(path_text: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    if path_text.starts_with('/') {
        errors.invalid(path, view::quoted(path_text), "must be a relative path");
    }
    no_backsteps(path_text, path, errors);
}

/// No `..` in a path.
pub(super) fn no_backsteps(path_text: &str, path: view::At<'_>, errors: &mut FieldErrors) {
    if path_text.split('/').any(|part| part == "..") {
        errors.invalid(path, view::quoted(path_text), "must not contain '..'");
    }
}

fn resize_policy(container: &Value, context: &Context<'_>, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (at, policy) in view::list(container, "resizePolicy").iter().enumerate() {
        let (resource, restart) = (view::text(policy, "resourceName"), view::text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.duplicate(format_args!("{path}[{at}]"), view::quoted(resource));
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, view::quoted(other), &["cpu", "memory"]),
        }
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, view::quoted(other), &["NotRequired", "RestartContainer"]),
        }
        if context.restart_policy == "Never" && restart != "NotRequired" {
            errors.invalid(path, view::quoted(restart), "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

fn security(container: &Value, context: &Context<'_>, path: view::At<'_>, errors: &mut FieldErrors) {
    let Some(security) = view::get(container, "securityContext") else { return };
    if view::flag(security, "privileged") && !capabilities::get().allow_privileged {
        errors.forbidden(format_args!("{path}.privileged"), "disallowed by cluster policy");
    }
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = view::int(security, field) {
            for message in name::in_range(id, 0, i64::from(i32::MAX)) {
                errors.invalid(format_args!("{path}.{field}"), id, &message);
            }
        }
    }
    if context.host_users && view::text(security, "procMount") == "Unmasked" {
        errors.invalid(format_args!("{path}.procMount"), view::quoted("Unmasked"), "`hostUsers` must be false to use `Unmasked`");
    }
    profile::check(security, path, errors);
    if security.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if view::flag(security, "privileged") {
            errors.invalid(path, security, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        for _ in view::texts(view::member(security, "capabilities"), "add").filter(|added| *added == "CAP_SYS_ADMIN") {
            errors.invalid(path, security, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows::check(security, path, errors);
}

/// The three probes of a container.
pub(super) fn probes(container: &Value, grace: Option<i64>, path: view::At<'_>, errors: &mut FieldErrors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = view::get(container, kind) else { continue };
        let path = format_args!("{path}.{kind}");
        handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, &path, errors);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
            let value = view::int(probe, field).unwrap_or_default();
            if value < 0 {
                errors.invalid(format_args!("{path}.{field}"), value, "must be greater than or equal to 0");
            }
        }
        let own_grace = view::int(probe, "terminationGracePeriodSeconds");
        if let Some(seconds) = own_grace.filter(|s| *s <= 0) {
            errors.invalid(format_args!("{path}.terminationGracePeriodSeconds"), seconds, "must be greater than 0");
        }
        let successes = view::int(probe, "successThreshold").unwrap_or_default();
        if kind == "readinessProbe" {
            if let Some(seconds) = own_grace {
                errors.invalid(format_args!("{path}.terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes");
            }
        } else if successes != 1 {
            errors.invalid(format_args!("{path}.successThreshold"), successes, "must be 1");
        }
    }
}

/// The hooks of a container.
pub(super) fn lifecycle(container: &Value, grace: Option<i64>, has_os: bool, path: view::At<'_>, errors: &mut FieldErrors) {
    let Some(lifecycle) = view::get(container, "lifecycle") else { return };
    for hook in ["postStart", "preStop"] {
        if let Some(action) = view::get(lifecycle, hook) {
            handler(action, &["exec", "httpGet", "tcpSocket", "sleep"], grace, &format_args!("{path}.lifecycle.{hook}"), errors);
        }
    }
    if view::get(lifecycle, "stopSignal").is_some() && !has_os {
        errors.forbidden(format_args!("{path}.lifecycle.stopSignal"), "may not be set for containers with empty `spec.os.name`");
    }
}

fn handler(handler: &Value, kinds: &[&str], grace: Option<i64>, path: view::At<'_>, errors: &mut FieldErrors) {
    let mut found = 0;
    for kind in kinds {
        let Some(action) = view::get(handler, kind) else { continue };
        let path = format_args!("{path}.{kind}");
        found += 1;
        if found > 1 {
            errors.forbidden(path, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if view::list(action, "command").is_empty() => errors.required(format_args!("{path}.command"), ""),
            "httpGet" => http_get(action, &path, errors),
            "tcpSocket" | "grpc" => port_or_name(view::member(action, "port"), &format_args!("{path}.port"), errors),
            "sleep" => {
                let seconds = view::int(action, "seconds").unwrap_or_default();
                if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.invalid(path, seconds, &detail);
                }
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(action: &Value, path: view::At<'_>, errors: &mut FieldErrors) {
    if view::text(action, "path").is_empty() {
        errors.required(format_args!("{path}.path"), "");
    }
    port_or_name(view::member(action, "port"), &format_args!("{path}.port"), errors);
    for header in view::list(action, "httpHeaders") {
        let name = view::text(header, "name");
        errors.invalid_each(&format_args!("{path}.httpHeaders"), name, name::header_name(name));
    }
}
