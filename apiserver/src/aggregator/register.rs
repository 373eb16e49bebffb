//! The `APIService` objects of what is served here: of built-in versions made at the start (`bootstrap`), of custom ones while they come and
//! go (kube-aggregator `controllers/autoregister`, kube-apiserver `controlplane/controller/crdregistration`).

use std::{collections::BTreeMap, sync::Arc};

use coracle_schema::discovery::CUSTOM_PRIORITY;
use coracle_tree::{Value, json};
use futures::{StreamExt, stream};

use super::{
    AUTOMANAGED, SERVICES,
    availability::Verdict,
    remote::{ApiService, Spec},
};
use crate::{
    registry::{Catalog, Writer, meta, writer::failed},
    verbs::{Api, delete},
    wire::Status,
};

/// Writes that run at once.
const AT_ONCE: usize = 16;

/// What the objects of one name should be like.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// Of a custom version: always there as it is.
    Custom(Spec),
    /// Of a built-in version: made at the start, and left alone then.
    BuiltIn,
}

/// What is to be done to an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create(Value),
    Update(Value),
    Delete,
    /// Say that it is served here.
    Local(Value),
}

/// The custom versions of a catalog, by the names of their objects. A version that is built in, too, is that.
pub(super) fn wanted(catalog: &Catalog) -> BTreeMap<String, Wanted> {
    let name = |group: &str, version: &str| format!("{version}.{group}");
    let custom = catalog.custom().flat_map(|served| &served.kinds).map(|kind| {
        let (group, version) = (kind.gvk.group.to_string(), kind.gvk.version.to_string());
        let (group_priority_minimum, version_priority) = CUSTOM_PRIORITY;
        (name(&group, &version), Wanted::Custom(Spec { group, version, group_priority_minimum, version_priority, ..Spec::default() }))
    });
    let built_in = catalog.kinds().iter().map(|kind| (name(&kind.gvk.group, &kind.gvk.version), Wanted::BuiltIn));
    custom.chain(built_in).collect()
}

/// What to do about the object of one name, as far as it is kept by this server.
pub(super) fn step(wanted: Option<&Wanted>, now: Option<(&ApiService, &Value)>) -> Option<Step> {
    match (wanted, now) {
        (Some(Wanted::Custom(spec)), None) => Some(Step::Create(object(spec))),
        (_, None) => None,
        (wanted, Some((read, value))) => {
            let managed = read.metadata.labels.get(AUTOMANAGED).map(String::as_str);
            match (wanted, managed) {
                (None, Some("true")) => return Some(Step::Delete),
                (Some(Wanted::Custom(spec)), Some("true" | "onstart")) if *spec != read.spec => {
                    let mut next = value.clone();
                    next["spec"] = object(spec)["spec"].clone();
                    return Some(Step::Update(next));
                }
                _ => {}
            }
            let local = read.spec.service.is_none() && !Verdict::local().is_said(read);
            local.then(|| Step::Local(value.clone()))
        }
    }
}

fn object(spec: &Spec) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{}.{}", spec.version, spec.group), "labels": {AUTOMANAGED: "true"}},
        "spec": {
            "group": spec.group, "version": spec.version,
            "groupPriorityMinimum": spec.group_priority_minimum, "versionPriority": spec.version_priority,
        },
    })
}

/// Does it; the names of what has to be looked at again, because it could not be done.
pub(super) async fn run(api: &Arc<Api>, writer: &dyn Writer, steps: Vec<(String, Step)>) -> Vec<String> {
    let done = stream::iter(steps).map(|(name, step)| async move {
        let done = carry_out(api, writer, &name, step).await;
        failed("an APIService", &name, done).then_some(name)
    });
    done.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn carry_out(api: &Arc<Api>, writer: &dyn Writer, name: &str, step: Step) -> Result<(), Status> {
    let (_, resource) = SERVICES;
    match step {
        Step::Create(object) => {
            let made = writer.create(resource, "", object).await?;
            say(api, writer, made, &Verdict::local()).await
        }
        Step::Update(object) => writer.update(resource, "", "", object).await.map(|_| ()),
        Step::Local(object) => say(api, writer, object, &Verdict::local()).await,
        Step::Delete => {
            let catalog = api.storage.catalog();
            let kind = catalog.stored(SERVICES.0, resource).ok_or_else(Status::no_such_path)?;
            delete::discard(api, kind, "", name).await
        }
    }
}

/// Writes the condition of an object.
pub(super) async fn say(api: &Api, writer: &dyn Writer, mut object: Value, verdict: &Verdict) -> Result<(), Status> {
    (object["apiVersion"], object["kind"]) = ("apiregistration.k8s.io/v1".into(), "APIService".into());
    verdict.write(&mut object, &meta::time_text(api.now()));
    writer.update(SERVICES.1, "status", "", object).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let (group_priority_minimum, version_priority) = CUSTOM_PRIORITY;
        Spec { group: "g.io".into(), version: "v1".into(), group_priority_minimum, version_priority, ..Spec::default() }
    }

    fn of(wanted: Option<&Wanted>, value: &Value) -> Option<Step> {
        step(wanted, Some((&ApiService::read(value.to_string().as_bytes()).unwrap(), value)))
    }

    #[test]
    fn custom_versions_have_objects_as_long_as_they_are_served() {
        let custom = Wanted::Custom(spec());
        let Some(Step::Create(mut made)) = step(Some(&custom), None) else { panic!("nothing made") };
        assert_eq!((&made["metadata"]["name"], &made["spec"]["versionPriority"]), (&json!("v1.g.io"), &json!(100)));
        assert_eq!(of(Some(&custom), &made), Some(Step::Local(made.clone())));
        Verdict::local().write(&mut made, "t");
        assert_eq!(of(Some(&custom), &made), None);
        let mut spoiled = made.clone();
        spoiled["spec"]["versionPriority"] = 7.into();
        assert_eq!(of(Some(&custom), &spoiled), Some(Step::Update(made.clone())));
        spoiled["metadata"]["labels"] = json!({});
        assert_eq!(of(Some(&custom), &spoiled), None, "somebody keeps it by hand");
        assert_eq!(of(None, &made), Some(Step::Delete));
        assert_eq!(of(None, &spoiled), None);
    }

    #[test]
    fn built_in_versions_and_other_servers_are_left_to_those_who_made_their_objects() {
        assert_eq!(step(Some(&Wanted::BuiltIn), None), None);
        let spec = json!({"group": "m.io", "version": "v1", "service": {"namespace": "n", "name": "s"}});
        assert_eq!(of(None, &json!({"metadata": {"name": "v1.m.io"}, "spec": spec})), None);
    }
}
