//! `apps`: deployments and what stands beside them.

use coracle_schema::selector::LabelSelector;
use coracle_tree::Value;

use super::{
    AGE, CONTAINERS, Columns, IMAGES, NAME, PLAIN, SELECTOR,
    cell::{self, Subject, int, items, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "deployments" => &DEPLOYMENTS,
        "replicasets" => &REPLICA_SETS,
        "statefulsets" => &STATEFUL_SETS,
        "daemonsets" => &DAEMON_SETS,
        "controllerrevisions" => &REVISIONS,
        _ => &PLAIN,
    }
}

static DEPLOYMENTS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Ready", "Pods that are ready, of those wanted."),
        Column::text("Up-to-date", "Pods made from the current template."),
        Column::text("Available", "Pods that have been ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |s| {
        let status = s.status();
        let selector = match LabelSelector::from_object(there(s.spec(), "selector")) {
            Ok(selector) => selector.to_string(),
            Err(_) => "<invalid>".to_owned(),
        };
        let [names, images] = template_containers(s);
        vec![
            s.name(),
            ready(s).into(),
            int(status, "updatedReplicas").into(),
            int(status, "availableReplicas").into(),
            s.age(),
            names,
            images,
            selector.into(),
        ]
    },
);

/// `2/3`
fn ready(s: Subject<'_>) -> String {
    format!("{}/{}", int(s.status(), "readyReplicas"), int(s.spec(), "replicas"))
}

fn template_containers(s: Subject<'_>) -> [Value; 2] {
    cell::containers(s.at("/spec/template/spec"))
}

static REPLICA_SETS: Columns = Columns::new(
    &[
        NAME,
        Column::integer("Desired", "Number of pods wanted."),
        Column::integer("Current", "Number of pods there."),
        Column::integer("Ready", "Number of pods that are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |s| {
        let [names, images] = template_containers(s);
        vec![
            s.name(),
            int(s.spec(), "replicas").into(),
            int(s.status(), "replicas").into(),
            int(s.status(), "readyReplicas").into(),
            s.age(),
            names,
            images,
            cell::selector(s.spec().get("selector")).into(),
        ]
    },
);

static STATEFUL_SETS: Columns =
    Columns::new(&[NAME, Column::text("Ready", "Pods that are ready, of those wanted."), AGE, CONTAINERS, IMAGES], |s| {
        let [names, images] = template_containers(s);
        vec![s.name(), ready(s).into(), s.age(), names, images]
    });

static DAEMON_SETS: Columns = Columns::new(
    &[
        NAME,
        Column::integer("Desired", "Nodes that should run a pod."),
        Column::integer("Current", "Nodes that run a pod and should."),
        Column::integer("Ready", "Nodes whose pod is ready."),
        Column::integer("Up-to-date", "Nodes whose pod is made from the current template."),
        Column::integer("Available", "Nodes whose pod has been ready for long enough."),
        Column::text("Node Selector", "Labels of the nodes that should run a pod."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    |s| {
        let status = s.status();
        let numbers = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"];
        let [names, images] = template_containers(s);
        let mut cells = vec![s.name()];
        cells.extend(numbers.map(|name| Value::from(int(status, name))));
        cells.push(cell::labels(Some(s.at("/spec/template/spec/nodeSelector"))).into());
        cells.extend([s.age(), names, images, cell::selector(s.spec().get("selector")).into()]);
        cells
    },
);

static REVISIONS: Columns =
    Columns::new(&[NAME, Column::text("Controller", "Who keeps the revision."), Column::text("Revision", "Its number."), AGE], |s| {
        vec![s.name(), controller(s).into(), int(s.object, "revision").into(), s.age()]
    });

/// `statefulset.apps/web`
fn controller(s: Subject<'_>) -> String {
    let controls = |owner: &&Value| owner.get("controller").and_then(Value::as_bool).unwrap_or_default();
    let Some(owner) = items(s.metadata(), "ownerReferences").iter().find(controls) else { return "<none>".to_owned() };
    let kind = text(owner, "kind").to_lowercase();
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "name")),
        None => format!("{kind}/{}", text(owner, "name")),
    }
}
