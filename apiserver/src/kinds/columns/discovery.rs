//! `discovery.k8s.io`

use coracle_tree::Value;

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{self, items, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "endpointslices" => &SLICES,
        _ => &PLAIN,
    }
}

static SLICES: Columns = Columns::new(
    &[
        NAME,
        Column::text("AddressType", "What kind of addresses the slice holds."),
        Column::text("Ports", "Ports of every endpoint."),
        Column::text("Endpoints", "Addresses of the endpoints."),
        AGE,
    ],
    |s| {
        let ports: Vec<String> = items(s.object, "ports").iter().map(port).collect();
        let addresses = items(s.object, "endpoints").iter().flat_map(|e| items(e, "addresses"));
        let addresses: Vec<String> = addresses.map(cell::scalar).collect();
        vec![
            s.name(),
            text(s.object, "addressType").into(),
            cell::first_of(&ports, 3).into(),
            cell::first_of(&addresses, 3).into(),
            s.age(),
        ]
    },
);

fn port(port: &Value) -> String {
    there(port, "port").or_else(|| there(port, "name")).map_or_else(|| "*".to_owned(), cell::scalar)
}
