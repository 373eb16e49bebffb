//! `pods/binding`: the scheduler's word on which node a pod runs (kube-apiserver `core/pod/storage/storage.go`).

use std::sync::Arc;

use coracle_schema::{FieldErrors, name};
use coracle_store::{Expect, StoreError, cache::Freshness};
use coracle_tree::{Value, json};
use http::StatusCode;

use super::{Api, Call, delete::success, render, reviews, write::Writing};
use crate::{
    admission::{self, Attempt, Given, Operation},
    registry::{Kind, Object, meta, storage::WriteError},
    request::query::WriteOptions,
    wire::{
        Answer, Status, answer,
        status::{Subject, refused},
    },
};

const RETRIES: usize = 30;

/// Sets the node of a pod and its PodScheduled condition in one write.
pub async fn bind(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let mut warnings = Vec::new();
    let made = bound(api, call, kind, &mut warnings).await;
    answer::warned(made, warnings)
}

async fn bound(api: &Api, call: &Call, kind: &Arc<Kind>, warnings: &mut Vec<String>) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, call.user_agent(), "CreateOptions")?;
    let wanted = render::wanted(call, kind)?;
    let schema = api.message("core.Binding")?;
    let catalog = api.storage.catalog();
    let bindings = catalog.get("", "v1", "bindings").ok_or_else(Status::no_such_path)?;
    let mut writing = Writing::new(api, call, bindings, options.clone());
    let mut binding = writing.decode_body()?;
    warnings.append(&mut writing.warnings);
    if !call.info.name.is_empty() {
        named(call, &binding)?;
    }
    reviews::placed(api, call, &schema, &mut binding)?;
    check(&binding)?;
    let name = named(call, &binding)?;
    let addressed = if call.info.subresource.is_empty() { bindings } else { kind };
    let mut attempt =
        Attempt { dry_run: options.dry_run, options: Given::Query(&call.query), ..call.attempt(Operation::Create, addressed) };
    admission::pass(&api.admission, &mut attempt, Some(&mut binding), warnings).await?;
    let key = kind.key(&call.info.namespace, &name).ok_or_else(Status::no_such_path)?;
    for _ in 0..RETRIES {
        let found = api.storage.read(kind, &call.info.namespace, &name, Freshness::Latest).await?;
        let old = found.ok_or_else(|| Status::not_found(kind.subject(&name)))?;
        let mut pod = old.object;
        assign(&mut pod, &binding, api.now())
            .map_err(|why| Status::conflict(Subject { group: "", resource: "pods/binding", name: &name }, &why))?;
        if options.dry_run {
            break;
        }
        match api.storage.put(kind, &key, Expect::At(old.revision), pod, None).await {
            Ok(_) => break,
            Err(WriteError::Store(StoreError::Moved { .. } | StoreError::Absent)) => {}
            Err(error) => return Err(error.into_status()),
        }
    }
    let mut status = success(None);
    status["code"] = 201.into();
    Ok(render::value(api, StatusCode::CREATED, wanted.encoding, &status))
}

/// The pod's name: the path's, which the binding has to repeat, or the binding's own where the path has none.
fn named(call: &Call, binding: &Object) -> Result<String, Status> {
    let (path, own) = (&call.info.name, binding.name());
    if !path.is_empty() {
        let mismatch = || Status::bad_request("name in URL does not match name in Binding object");
        return if path == own { Ok(own.to_owned()) } else { Err(mismatch()) };
    }
    if own.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    match name::path_segment(own).first() {
        Some(why) => Err(Status::bad_request(format!("Name parameter invalid: {own:?}: {why}"))),
        None => Ok(own.to_owned()),
    }
}

/// kube-apiserver's `ValidatePodBinding`, whose errors it returns as they are: without a reason, as if the server had failed.
fn check(binding: &Object) -> Result<(), Status> {
    let mut errors = FieldErrors::none();
    let (kind, node) = (binding.text("/target/kind"), binding.text("/target/name"));
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported("target.kind", format!("{kind:?}"), &["Node", "<empty>"]);
    }
    if node.is_empty() {
        errors.required("target.name", "");
    } else if kind.is_empty() || kind == "Node" {
        errors.invalid_each("target.name", node, name::subdomain(node));
    }
    refused(&errors).map_err(|all| Status::new(500, "", all))
}

/// Gives the pod its node; `Err` says why it cannot have it.
fn assign(pod: &mut Object, binding: &Object, now: jiff::Timestamp) -> Result<(), String> {
    let name = pod.name().to_owned();
    for (what, wanted) in [("uid", binding.uid()), ("resourceVersion", binding.resource_version())] {
        let found = pod.text(&format!("/metadata/{what}"));
        if !wanted.is_empty() && wanted != found {
            let label = if what == "uid" { "UID" } else { "ResourceVersion" };
            return Err(format!("Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"));
        }
    }
    if pod.is_deleting() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = pod.text("/spec/nodeName");
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod.value().pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let node = binding.text("/target/name").to_owned();
    pod.member_mut("spec").insert("nodeName", node.into());
    for map in ["annotations", "labels"] {
        let added = binding.value().pointer(&format!("/metadata/{map}")).and_then(Value::as_object).cloned().unwrap_or_default();
        if added.is_empty() {
            continue;
        }
        let mut all = pod.value().pointer(&format!("/metadata/{map}")).and_then(Value::as_object).cloned().unwrap_or_default();
        all.extend(added);
        pod.set_metadata(map, all);
    }
    set_scheduled(pod, now);
    Ok(())
}

fn set_scheduled(pod: &mut Object, now: jiff::Timestamp) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::time_text(now)});
    let status = pod.member_mut("status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = list.as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(old) if old["status"] == "True" => {}
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &Value) -> Object {
        Object::new(
            json!({"metadata": {"name": "p"}, "spec": spec, "status": {"conditions": [{"type": "PodScheduled", "status": "False"}]}}),
        )
        .unwrap()
    }

    fn binding() -> Object {
        Object::new(json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}})).unwrap()
    }

    #[test]
    fn a_bound_pod_has_its_node_and_is_scheduled() {
        let mut pod = pod(&json!({}));
        assign(&mut pod, &binding(), jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((pod.text("/spec/nodeName"), pod.annotation("a")), ("n", Some("b")));
        assert_eq!(pod.text("/status/conditions/0/status"), "True");
    }

    #[test]
    fn a_pod_is_bound_once_and_not_while_it_goes_or_waits() {
        let bind = |mut pod: Object| assign(&mut pod, &binding(), jiff::Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(bind(pod(&json!({"nodeName": "m"}))), "pod p is already assigned to node \"m\"");
        assert!(bind(pod(&json!({"schedulingGates": [{"name": "x"}]}))).contains("schedulingGates"));
        let mut going = pod(&json!({}));
        going.set_metadata("deletionTimestamp", "t");
        assert!(bind(going).contains("is being deleted"));
    }
}
