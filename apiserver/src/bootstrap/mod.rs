//! What a first start creates and every start sees to: namespaces, default roles, the API's own service and other system objects.
//!
//! When everything is there it costs reads from memory and no write.

pub mod flow;
pub mod objects;
pub(crate) mod range;
pub mod settle;
pub mod table;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use coracle_schema::tables::GroupVersion;
use coracle_tree::Value;
use futures::{StreamExt, TryStreamExt, stream};
use tracing::{debug, info, warn};

pub use objects::Facts;
use settle::{Care, Step, Wanted, settle, status_differs};
use table::Row;
pub use writer::ApiWriter;

use crate::{
    registry::{Reader, Writer},
    wire::Status,
};

/// So many writes run at once; those that arrive during one fsync share the next.
const AT_ONCE: usize = 64;

/// So few objects of a kind are read one by one: the others of their kind may be many.
const FEW: usize = 8;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects that were not there.
    pub created: usize,
    /// Objects, or their status, that were not as they should be.
    pub updated: usize,
}

/// What is there: (resource, namespace, name) -> object.
type There = HashMap<(&'static str, String, String), Value>;

/// Creates what is missing and mends what is wrong. Namespaces and cluster objects come first, then what lives in namespaces.
/// `alone`: no other server works on the store, so the endpoints of the API's own service are this server's. `roles` are those of
/// [`table::rows`]. An object that cannot be written is told in the log and does not stop the others, save for
/// namespaces and roles.
pub async fn run(
    reader: &dyn Reader,
    writer: &dyn Writer,
    facts: &Facts,
    alone: bool,
    groups: &[GroupVersion],
    roles: Vec<Row>,
) -> Result<Report, Status> {
    let mut wanted = wanted(facts, groups, roles);
    if alone {
        wanted.extend(objects::endpoints(facts));
    }
    let there = look(reader, &wanted).await?;
    wanted.iter_mut().for_each(|w| inherit(w, &there));
    let (first, later): (Vec<&Wanted>, Vec<&Wanted>) = wanted.iter().partition(|w| w.namespace.is_empty());
    let mut report = Report::default();
    for stage in [first, later] {
        let done: Vec<Report> =
            stream::iter(stage).map(|w| write(writer, there.get(&key(w)), w)).buffer_unordered(AT_ONCE).try_collect().await?;
        report.created += done.iter().map(|r| r.created).sum::<usize>();
        report.updated += done.iter().map(|r| r.updated).sum::<usize>();
    }
    if report != Report::default() {
        info!(created = report.created, updated = report.updated, "system objects written");
    }
    Ok(report)
}

/// Everything that should be there.
fn wanted(facts: &Facts, groups: &[GroupVersion], roles: Vec<Row>) -> Vec<Wanted> {
    let mut wanted = objects::all(facts, groups);
    wanted.extend(roles.into_iter().map(|row| {
        let care = if row.resource.ends_with("bindings") { Care::Binding } else { Care::Role };
        Wanted { resource: row.resource, namespace: row.namespace, object: row.object, status: Value::Null, care }
    }));
    wanted
}

/// Who may read what is public was a part of who may discover, and inherits what was made of that, if it is not there
/// (`primeSplitClusterRoleBindings`).
fn inherit(wanted: &mut Wanted, there: &There) {
    const BINDINGS: &str = "clusterrolebindings";
    let at = |name: &str| (BINDINGS, String::new(), name.to_owned());
    let (part, whole) = ("system:public-info-viewer", "system:discovery");
    if wanted.resource != BINDINGS || name(&wanted.object) != part || there.contains_key(&at(part)) {
        return;
    }
    let Some(whole) = there.get(&at(whole)) else { return };
    wanted.object["subjects"] = whole["subjects"].clone();
    for of in ["labels", "annotations"] {
        wanted.object["metadata"][of] = whole["metadata"][of].clone();
    }
}

async fn look(reader: &dyn Reader, wanted: &[Wanted]) -> Result<There, Status> {
    let mut places: BTreeMap<(&str, &'static str, &str), BTreeSet<&str>> = BTreeMap::new();
    for w in wanted {
        places.entry((group(&w.object), w.resource, &w.namespace)).or_default().insert(name(&w.object));
    }
    let mut there = There::new();
    for ((group, resource, namespace), names) in places {
        let mut found = Vec::new();
        if names.len() > FEW {
            // Whoever's is broken, it does not keep the server from starting; what is broken of ours is not written over.
            found = reader.list_readable(group, resource, namespace).await?;
        } else {
            for name in &names {
                found.extend(reader.get(group, resource, namespace, name).await?);
            }
        }
        let found = found.iter().filter_map(|bytes| serde_json::from_slice::<Value>(bytes).ok());
        for object in found.filter(|o| names.contains(name(o))) {
            there.insert((resource, namespace.to_owned(), name(&object).to_owned()), object);
        }
    }
    Ok(there)
}

/// Writes one object if need be, then its status.
async fn write(writer: &dyn Writer, now: Option<&Value>, wanted: &Wanted) -> Result<Report, Status> {
    let mut report = Report::default();
    let written = match settle(now, wanted) {
        Step::Nothing => Ok(None),
        Step::Create => {
            report.created += 1;
            writer.create(wanted.resource, &wanted.namespace, wanted.object.clone()).await.map(Some)
        }
        Step::Recreate => {
            report.created += 1;
            recreate(writer, now, wanted).await.map(Some)
        }
        Step::Update(mut next) => {
            report.updated += 1;
            name_kind(&mut next, &wanted.object);
            writer.update(wanted.resource, "", &wanted.namespace, next).await.map(Some)
        }
    };
    let written = match written {
        Ok(written) => written,
        Err(status) => return refused(wanted, status),
    };
    if !status_differs(written.as_ref().or(now), wanted) {
        return Ok(report);
    }
    let Some(mut next) = written.or_else(|| now.cloned()) else { return Ok(report) };
    next["status"] = wanted.status.clone();
    name_kind(&mut next, &wanted.object);
    report.updated += 1;
    match writer.update(wanted.resource, "status", &wanted.namespace, next).await {
        Ok(_) => Ok(report),
        Err(status) => refused(wanted, status),
    }
}

async fn recreate(writer: &dyn Writer, now: Option<&Value>, wanted: &Wanted) -> Result<Value, Status> {
    if let Some(now) = now {
        writer.clear(wanted.resource, &wanted.namespace, now).await?;
    }
    writer.create(wanted.resource, &wanted.namespace, wanted.object.clone()).await
}

/// Another server was first, or the object cannot be written: only namespaces and roles are worth failing for.
fn refused(wanted: &Wanted, status: Status) -> Result<Report, Status> {
    let (resource, name) = (wanted.resource, name(&wanted.object));
    if status.code == 409 {
        debug!(resource, name, "written by another server meanwhile");
        return Ok(Report::default());
    }
    if wanted.resource == "namespaces" || matches!(wanted.care, Care::Role | Care::Binding) {
        return Err(status);
    }
    warn!(resource, name, %status, "system object cannot be written");
    Ok(Report::default())
}

/// Objects from lists may lack their kind.
fn name_kind(object: &mut Value, like: &Value) {
    for member in ["apiVersion", "kind"] {
        object[member] = like[member].clone();
    }
}

fn key(wanted: &Wanted) -> (&'static str, String, String) {
    (wanted.resource, wanted.namespace.clone(), name(&wanted.object).to_owned())
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn group(object: &Value) -> &str {
    object["apiVersion"].as_str().and_then(|v| v.split_once('/')).map(|(g, _)| g).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use coracle_schema::Tables;
    use coracle_tree::json;

    use super::*;
    use crate::registry::fake::FakeReader;

    fn facts() -> Facts {
        Facts {
            advertise_address: "192.0.2.7".parse().unwrap(),
            secure_port: 6443,
            service_address: "10.96.0.1".parse().unwrap(),
            now: "2026-11-21T12:00:00Z".parse().unwrap(),
        }
    }

    fn rows() -> Vec<Row> {
        table::rows().unwrap()
    }

    fn built_in() -> Vec<GroupVersion> {
        Tables::load().unwrap().groups
    }

    #[tokio::test]
    async fn a_server_that_moved_to_the_other_family_is_led_to() {
        let (reader, groups) = (FakeReader::default(), built_in());
        for (address, family) in [("192.0.2.7", "IPv4"), ("2001:db8::7", "IPv6")] {
            let facts = Facts { advertise_address: address.parse().unwrap(), ..facts() };
            run(&reader, &reader, &facts, true, &groups, Vec::new()).await.unwrap();
            let slice = reader.look("discovery.k8s.io", "endpointslices", "default", "kubernetes").unwrap();
            assert_eq!((&slice["addressType"], &slice["endpoints"][0]["addresses"][0]), (&family.into(), &address.into()));
        }
        let before = reader.look("discovery.k8s.io", "endpointslices", "default", "kubernetes").unwrap();
        let uid = |slice: &Value| slice["metadata"]["resourceVersion"].clone();
        run(&reader, &reader, &Facts { advertise_address: "2001:db8::7".parse().unwrap(), ..facts() }, true, &groups, Vec::new())
            .await
            .unwrap();
        let after = reader.look("discovery.k8s.io", "endpointslices", "default", "kubernetes").unwrap();
        assert_eq!(uid(&before), uid(&after), "and then it is left alone");
    }

    #[tokio::test]
    async fn who_may_read_what_is_public_is_who_might_discover() {
        let (reader, groups) = (FakeReader::default(), built_in());
        run(&reader, &reader, &facts(), true, &groups, rows()).await.unwrap();
        let bindings = ("rbac.authorization.k8s.io", "clusterrolebindings", "");
        let look = |name: &str| reader.look(bindings.0, bindings.1, bindings.2, name);
        let mut discovery = look("system:discovery").unwrap();
        discovery["subjects"] = json!([{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]);
        discovery["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
        reader.put(bindings.0, bindings.1, discovery.clone());
        run(&reader, &reader, &facts(), true, &groups, rows()).await.unwrap();
        assert_ne!(look("system:public-info-viewer").unwrap()["subjects"], discovery["subjects"], "one that is there stays");

        reader.remove(bindings.0, bindings.1, bindings.2, "system:public-info-viewer");
        run(&reader, &reader, &facts(), true, &groups, rows()).await.unwrap();
        let made = look("system:public-info-viewer").unwrap();
        assert_eq!((&made["subjects"], &made["metadata"]["annotations"]), (&discovery["subjects"], &discovery["metadata"]["annotations"]));
        assert_eq!(made["roleRef"]["name"], "system:public-info-viewer");
    }

    #[tokio::test]
    async fn a_first_start_makes_everything_and_a_second_writes_nothing() {
        let (reader, groups) = (FakeReader::default(), built_in());
        let report = run(&reader, &reader, &facts(), true, &groups, rows()).await.unwrap();
        assert_eq!(report.created, wanted(&facts(), &groups, rows()).len() + objects::endpoints(&facts()).len());
        for (group, resource, namespace, name) in [
            ("", "namespaces", "", "kube-node-lease"),
            ("", "services", "default", "kubernetes"),
            ("discovery.k8s.io", "endpointslices", "default", "kubernetes"),
            ("rbac.authorization.k8s.io", "clusterroles", "", "cluster-admin"),
            ("scheduling.k8s.io", "priorityclasses", "", "system-node-critical"),
            ("apiregistration.k8s.io", "apiservices", "", "v1.apps"),
            ("apiregistration.k8s.io", "apiservices", "", "v1."),
            ("flowcontrol.apiserver.k8s.io", "flowschemas", "", "catch-all"),
        ] {
            assert!(reader.look(group, resource, namespace, name).is_some(), "{resource} {name}");
        }
        let writes = reader.writes();
        let later = Facts { now: "2026-11-22T12:00:00Z".parse().unwrap(), ..facts() };
        assert_eq!(run(&reader, &reader, &later, true, &groups, rows()).await.unwrap(), Report::default());
        assert_eq!(reader.writes(), writes);
    }

    #[test]
    fn groups_are_registered_with_the_priorities_that_discovery_orders_them_by() {
        let tables = Tables::load().unwrap();
        let all = wanted(&facts(), &built_in(), rows());
        let mut registered = 0;
        for group in tables.groups.iter().filter(|group| group.priority != (0, 0) && group.group != "apiregistration.k8s.io") {
            let name = format!("{}.{}", group.version, group.group);
            let service = all.iter().find(|wanted| wanted.resource == "apiservices" && wanted.object["metadata"]["name"] == *name);
            let spec = &service.unwrap_or_else(|| panic!("{name} is not registered")).object["spec"];
            assert_eq!(
                (&spec["groupPriorityMinimum"], &spec["versionPriority"]),
                (&json!(group.priority.0), &json!(group.priority.1)),
                "{name}"
            );
            registered += 1;
        }
        assert_eq!(registered, all.iter().filter(|wanted| wanted.resource == "apiservices").count());
    }

    #[test]
    fn what_is_served_is_registered_with_its_priorities() {
        let all = wanted(&facts(), &built_in(), rows());
        let registered = |name: &str| {
            let service = all.iter().find(|wanted| wanted.resource == "apiservices" && wanted.object["metadata"]["name"] == *name)?;
            let spec = &service.object["spec"];
            Some((spec["groupPriorityMinimum"].as_u64().unwrap(), spec["versionPriority"].as_u64().unwrap()))
        };
        for (name, priorities) in [
            ("v1.", Some((18_000, 1))),
            ("v1.apps", Some((17_800, 15))),
            ("v2.autoscaling", Some((17_500, 30))),
            ("v1.resource.k8s.io", Some((16_200, 21))),
            ("v1.apiregistration.k8s.io", None),
            ("v1beta1.certificates.k8s.io", None),
            ("v1.admission.k8s.io", None),
        ] {
            assert_eq!(registered(name), priorities, "{name}");
        }
    }

    #[tokio::test]
    async fn a_new_address_is_told_and_a_spoiled_role_mended() {
        let (reader, groups) = (FakeReader::default(), built_in());
        run(&reader, &reader, &facts(), true, &groups, rows()).await.unwrap();
        let group = "rbac.authorization.k8s.io";
        let mut role = reader.look(group, "clusterroles", "", "system:node").unwrap();
        role["rules"] = json!([]);
        reader.put(group, "clusterroles", role);
        let moved = Facts { advertise_address: "192.0.2.8".parse().unwrap(), ..facts() };
        let report = run(&reader, &reader, &moved, true, &groups, rows()).await.unwrap();
        assert_eq!(report, Report { created: 0, updated: 3 });
        let endpoints = reader.look("", "endpoints", "default", "kubernetes").unwrap();
        assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.8");
        assert!(!reader.look(group, "clusterroles", "", "system:node").unwrap()["rules"].as_array().unwrap().is_empty());
    }
}
