//! `certificates.k8s.io`

use super::{
    AGE, Columns, NAME, PLAIN,
    cell::{self, Subject, items, or, text, there},
};
use crate::wire::table::Column;

pub(super) fn columns(resource: &str) -> &'static Columns {
    match resource {
        "certificatesigningrequests" => &REQUESTS,
        "clustertrustbundles" => &BUNDLES,
        "podcertificaterequests" => &POD_REQUESTS,
        _ => &PLAIN,
    }
}

static REQUESTS: Columns = Columns::new(
    &[
        NAME,
        AGE,
        Column::text("SignerName", "Who is asked to sign."),
        Column::text("Requestor", "Who asks."),
        Column::text("RequestedDuration", "For how long the certificate should be valid."),
        Column::text("Condition", "What has become of the request."),
    ],
    |s| {
        let spec = s.spec();
        let duration = there(spec, "expirationSeconds").and_then(coracle_tree::Value::as_i64).map(cell::human);
        vec![
            s.name(),
            s.age(),
            or(text(spec, "signerName"), "<none>").into(),
            text(spec, "username").into(),
            duration.unwrap_or_else(|| "<none>".to_owned()).into(),
            condition(s).into(),
        ]
    },
);

fn condition(s: Subject<'_>) -> String {
    let has = |kind: &str| items(s.status(), "conditions").iter().any(|c| text(c, "type") == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(s.status(), "certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

static BUNDLES: Columns = Columns::new(&[NAME, Column::text("SignerName", "Whose signatures the bundle vouches for.")], |s| {
    vec![s.name(), or(text(s.spec(), "signerName"), "<none>").into()]
});

static POD_REQUESTS: Columns = Columns::new(
    &[
        NAME,
        Column::text("PodName", "Pod the certificate is for."),
        Column::text("ServiceAccountName", "Service account of the pod."),
        Column::text("NodeName", "Node of the pod."),
        Column::text("SignerName", "Who is asked to sign."),
        Column::text("State", "Pending, Issued, Denied or Failed."),
        Column::text("UnverifiedUserAnnotations", "What the pod's author tells the signer."),
    ],
    |s| {
        let spec = s.spec();
        let decided = items(s.status(), "conditions").iter().rev().map(|c| text(c, "type"));
        let state = decided.into_iter().find(|kind| ["Issued", "Denied", "Failed"].contains(kind)).unwrap_or("Pending");
        let mut cells = vec![s.name()];
        cells.extend(["podName", "serviceAccountName", "nodeName", "signerName"].map(|name| text(spec, name).into()));
        cells.extend([state.into(), cell::labels(spec.get("unverifiedUserAnnotations")).into()]);
        cells
    },
);
