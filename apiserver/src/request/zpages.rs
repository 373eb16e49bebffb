//! `/flagz` and `/statusz`: the flags a server runs with, and since when it runs what (KEP-4828, KEP-4827; upstream `server/flagz`,
//! `server/statusz`). Lines for people, or an object of `config.k8s.io` for those that ask for it by name.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;
use coracle_tree::{Map, json};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;

use super::{
    layers::Layers,
    paths::{API_VERSION, GIT_VERSION},
};
use crate::{
    metrics,
    verbs::Call,
    wire::{
        Answer, Body, Status, answer,
        negotiate::{self, Page},
    },
};

/// What upstream's API server calls itself on these pages.
const COMPONENT: &str = "apiserver";
/// Programs that look whether they got lines look for the beginning of this one.
const HEADING: &str = "Warning: This endpoint is not meant to be machine parseable: its form may change at any time.";
/// Where the rest of what operators look at is found.
const LISTED: [&str; 7] = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

/// The flags of this process, by name, as [`crate::Options::flags`] has them.
pub type Flags = BTreeMap<String, String>;

/// Answers `/flagz`.
pub(super) fn flags(layers: &Layers, call: &Call) -> Result<Answer, Status> {
    let flags = layers.paths.flags();
    let mut lines = String::new();
    for (name, value) in flags {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{name}: {value}");
    }
    page(call, "Flagz", &lines, || Map::from_iter([("flags".to_owned(), json!(flags))]))
}

/// Answers `/statusz`.
pub(super) fn status(layers: &Layers, call: &Call) -> Result<Answer, Status> {
    let now = layers.api.now();
    let started = metrics::process_started().unwrap_or(now);
    let seconds = (now.as_second() - started.as_second()).max(0);
    let language = &layers.paths.build.language;
    let version = GIT_VERSION.trim_start_matches('v');
    let up = format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let lines = format!(
        "\nStarted: {}\nUp: {up}\nGo version: {language}\nBinary version: {version}\nEmulation version: {API_VERSION}\nPaths: {}\n",
        started.strftime("%a %b %e %H:%M:%S UTC %Y"),
        LISTED.join(" "),
    );
    page(call, "Statusz", &lines, || {
        let whole = Timestamp::from_second(started.as_second()).unwrap_or(started);
        let members = [
            ("startTime", json!(whole.to_string())),
            ("uptimeSeconds", json!(seconds)),
            ("goVersion", json!(language)),
            ("binaryVersion", json!(version)),
            ("emulationVersion", json!(API_VERSION)),
            ("paths", json!(LISTED)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    })
}

/// A page: `lines` below the heading, or an object of this kind with what `members` tells.
fn page(call: &Call, kind: &str, lines: &str, members: impl FnOnce() -> Map) -> Result<Answer, Status> {
    let called = kind.to_ascii_lowercase();
    let Page::Object { encoding, version } = negotiate::page(&call.headers, call.uri.query().unwrap_or_default(), kind)? else {
        return Ok(answer::bytes(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            Body::full(format!("\n{COMPONENT} {called}\n{HEADING}\n{lines}")),
        ));
    };
    let mut object = json!({"kind": kind, "apiVersion": format!("config.k8s.io/{version}"), "metadata": {"name": COMPONENT}});
    if let Some(object) = object.as_object_mut() {
        object.extend(members());
    }
    let body = negotiate::rewrite(encoding, Bytes::from(format!("{object}\n")))?;
    let mut made = answer::bytes(StatusCode::OK, encoding.content_type(), Body::full(body));
    let form = format!("{};g=config.k8s.io;v={version};as={kind}", encoding.content_type());
    made.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_str(&form).map_err(|e| Status::internal(e.to_string()))?);
    if version == "v1alpha1" {
        answer::warn(&mut made, &[format!("This version of the {called} endpoint is deprecated. Please use a newer version.")]);
    }
    Ok(made)
}
