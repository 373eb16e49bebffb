//! Discovery: which of the documents a client gets, and in which encoding. The rules are those of upstream's
//! `endpoints/discovery` and, for `/apis` and `/apis/GROUP`, of kube-aggregator, which asks no router.

use coracle_schema::Tables;
use http::Method;

use super::{
    documents::{Document, Key, Seen},
    layers::Layers,
    paths::Paths,
};
use crate::{
    verbs::{Call, render},
    wire::{Answer, Encoding, Form, Offer, Status, answer, negotiate},
};

impl Paths {
    /// Answers `/api`, `/apis` and what is below them down to a version.
    pub(super) fn discovery(&self, layers: &Layers, call: &Call, segments: &[&str]) -> Result<Answer, Status> {
        let tables = &layers.api.tables;
        if is_routed(tables, segments) {
            routed(call, negotiate::ACCEPTED)?;
        }
        let offer = if segments.len() == 1 { Offer::DISCOVERY } else { Offer::MESSAGE };
        let wanted = negotiate::negotiate(&call.headers, call.uri.query().unwrap_or_default(), offer);
        let aggregated = matches!(&wanted, Ok(wanted) if wanted.form == Form::Discovery);
        let key = Key {
            path: format!("/{}", segments.join("/")),
            variant: if aggregated { "aggregated" } else { "" },
            group: group_of(segments).map(str::to_owned),
        };
        let Some(document) = self.found(layers, key, |seen| text(seen, segments, aggregated, self.address()))? else {
            // The routers of the groups of the tables say so in an object.
            let group = group_of(segments).unwrap_or_default();
            let router = segments[0] == "api" || segments.len() > 2 && is_built_in(tables, group);
            return if router { Err(Status::no_such_path()) } else { Ok(answer::not_found()) };
        };
        let encoding = wanted?.encoding;
        let content_type = if aggregated { aggregated_type(encoding) } else { encoding.content_type() };
        if encoding == Encoding::Json {
            return document.answer(&call.headers, content_type);
        }
        let value = serde_json::from_slice(&document.text()?).map_err(|e| Status::internal(e.to_string()))?;
        let bytes = render::written(tables, encoding, &value)?;
        Document::new(bytes.into(), Some(&document))?.answer(&call.headers, content_type)
    }
}

/// Refuses what upstream's router refuses on paths that are no objects: methods other than GET, and clients that take none of these media types.
pub(super) fn routed(call: &Call, accepted: &str) -> Result<(), Status> {
    if call.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    negotiate::route(&call.headers, accepted, "")
}

/// Whether upstream has a route for it: built-in versions have, custom ones and the aggregator's documents have none.
fn is_routed(tables: &Tables, segments: &[&str]) -> bool {
    let built_in = |group: &str, version: &str| tables.groups.iter().any(|g| g.group == group && g.version == version && g.priority.0 > 0);
    match segments {
        ["api"] => true,
        ["api", version] => built_in("", version),
        ["apis", group, version] => built_in(group, version),
        _ => false,
    }
}

/// Whether a group is one of the tables.
fn is_built_in(tables: &Tables, group: &str) -> bool {
    tables.groups.iter().any(|g| g.group == group && g.priority.0 > 0)
}

/// The one group a document shows; `None`: all.
fn group_of<'a>(segments: &[&'a str]) -> Option<&'a str> {
    match segments {
        ["api", _] => Some(""),
        ["apis", group, ..] => Some(group),
        _ => None,
    }
}

/// The document as JSON; `None` when no such group or version is served.
fn text(seen: &Seen, segments: &[&str], aggregated: bool, address: &str) -> Option<String> {
    let discovery = &seen.discovery;
    match segments {
        [root] if aggregated => Some(discovery.aggregated(*root == "api")),
        ["api"] => Some(discovery.core_versions(address).to_string()),
        ["apis"] => Some(discovery.group_list()),
        ["api", version] => discovery.resources("", version).map(|v| v.to_string()),
        ["apis", group] => discovery.group(group).map(|v| v.to_string()),
        ["apis", group, version] => discovery.resources(group, version).map(|v| v.to_string()),
        _ => None,
    }
}

fn aggregated_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json | Encoding::Pretty => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Encoding::Yaml => "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    }
}
