//! The core group, but for pods, nodes, events and volumes.

use coracle_tree::Value;

use super::{
    AGE, CONTAINERS, Columns, IMAGES, NAME, NAME_AND_AGE, PLAIN, SELECTOR,
    cell::{self, Subject, int, items, or, text, there},
    event, node, pod, volume,
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "pods" => &pod::PODS,
        "nodes" => &node::NODES,
        "events" => &event::EVENTS,
        "persistentvolumes" => &volume::VOLUMES,
        "persistentvolumeclaims" => &volume::CLAIMS,
        "services" => &SERVICES,
        "endpoints" => &ENDPOINTS,
        "namespaces" => &NAMESPACES,
        "secrets" => &SECRETS,
        "configmaps" => &CONFIG_MAPS,
        "serviceaccounts" => &NAME_AND_AGE,
        "replicationcontrollers" => &REPLICATION_CONTROLLERS,
        "resourcequotas" => &QUOTAS,
        "podtemplates" => &POD_TEMPLATES,
        "componentstatuses" => &COMPONENT_STATUSES,
        _ => &PLAIN,
    }
}

static SERVICES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Type", "How the service is exposed."),
        Column::text("Cluster-IP", "Address of the service inside the cluster."),
        Column::text("External-IP", "Addresses outside the cluster that lead to the service."),
        Column::text("Port(s)", "Ports of the service, with node ports."),
        AGE,
        SELECTOR,
    ],
    |s| {
        let spec = s.spec();
        let ports: Vec<String> = items(spec, "ports").iter().map(service_port).collect();
        let address = items(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
        vec![
            s.name(),
            text(spec, "type").into(),
            address.into(),
            external_address(s).into(),
            or(&ports.join(","), "<none>").into(),
            s.age(),
            cell::labels(spec.get("selector")).into(),
        ]
    },
);

/// `80/TCP`, `80:30080/TCP`
fn service_port(port: &Value) -> String {
    let (number, protocol) = (int(port, "port"), text(port, "protocol"));
    match int(port, "nodePort") {
        node @ 1.. => format!("{number}:{node}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

fn external_address(s: Subject<'_>) -> String {
    let spec = s.spec();
    let given = cell::joined(spec, "externalIPs");
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => or(&given, "<none>").to_owned(),
        "LoadBalancer" => {
            let balancer = ingress_points(s);
            let all: Vec<&str> = [balancer.as_str(), given.as_str()].into_iter().filter(|t| !t.is_empty()).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses or names of a load balancer, sorted.
pub(super) fn ingress_points(s: Subject<'_>) -> String {
    let points = s.at("/status/loadBalancer");
    let mut found: Vec<&str> =
        items(points, "ingress").iter().map(|i| or(text(i, "ip"), text(i, "hostname"))).filter(|t| !t.is_empty()).collect();
    found.sort_unstable();
    found.dedup();
    found.join(",")
}

static ENDPOINTS: Columns = Columns::new(&[NAME, Column::text("Endpoints", "Addresses and ports behind the service."), AGE], |s| {
    vec![s.name(), endpoints(s.object).into(), s.age()]
});

fn endpoints(object: &Value) -> String {
    let subsets = items(object, "subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = items(subset, "addresses").iter().map(|a| text(a, "ip"));
        let ports = items(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses.clone().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses.clone().map(|ip| join_port(ip, int(port, "port"))));
        }
    }
    if all.is_empty() { String::new() } else { cell::first_of(&all, 3) }
}

fn join_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

static NAMESPACES: Columns = Columns::new(&[NAME, Column::text("Status", "Phase of the namespace."), AGE], |s| {
    vec![s.name(), text(s.status(), "phase").into(), s.age()]
});

static SECRETS: Columns =
    Columns::new(&[NAME, Column::text("Type", "What the secret is for."), Column::text("Data", "Number of entries."), AGE], |s| {
        vec![s.name(), text(s.object, "type").into(), count(s.get("data")).into(), s.age()]
    });

static CONFIG_MAPS: Columns = Columns::new(&[NAME, Column::text("Data", "Number of entries."), AGE], |s| {
    vec![s.name(), (count(s.get("data")) + count(s.get("binaryData"))).into(), s.age()]
});

fn count(map: &Value) -> usize {
    map.as_object().map_or(0, coracle_tree::Map::len)
}

static REPLICATION_CONTROLLERS: Columns = Columns::new(
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
        let (spec, status) = (s.spec(), s.status());
        let [names, images] = cell::containers(s.at("/spec/template/spec"));
        let numbers = [int(spec, "replicas"), int(status, "replicas"), int(status, "readyReplicas")];
        let mut cells = vec![s.name()];
        cells.extend(numbers.map(Value::from));
        cells.extend([s.age(), names, images, cell::labels(spec.get("selector")).into()]);
        cells
    },
);

static QUOTAS: Columns = Columns::new(
    &[
        NAME,
        Column::text("Request", "Used and allowed amounts of what is requested or counted."),
        Column::text("Limit", "Used and allowed amounts of limits."),
        AGE,
    ],
    |s| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in s.at("/status/hard").as_object().into_iter().flatten() {
            let used = there(s.at("/status/used"), resource).map_or_else(|| "0".to_owned(), cell::scalar);
            let into = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
            into.push(format!("{resource}: {used}/{}", cell::scalar(hard)));
        }
        vec![s.name(), requests.join(", ").into(), limits.join(", ").into(), s.age()]
    },
);

static POD_TEMPLATES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Containers", "Names of the containers in the template."),
        Column::text("Images", "Images of the containers in the template."),
        Column::text("Pod Labels", "Labels of the pods made from the template."),
    ],
    |s| {
        let [names, images] = cell::containers(s.at("/template/spec"));
        vec![s.name(), names, images, cell::labels(Some(s.at("/template/metadata/labels"))).into()]
    },
);

static COMPONENT_STATUSES: Columns = Columns::new(
    &[
        NAME,
        Column::text("Status", "Whether the component is healthy."),
        Column::text("Message", "What the component says of itself."),
        Column::text("Error", "What is wrong with the component."),
    ],
    |s| {
        let health = items(s.object, "conditions").iter().find(|c| text(c, "type") == "Healthy");
        let status = health.map_or("Unknown", |c| if text(c, "status") == "True" { "Healthy" } else { "Unhealthy" });
        let said = |name| health.map_or("", |c| text(c, name));
        vec![s.name(), status.into(), said("message").into(), said("error").into()]
    },
);
