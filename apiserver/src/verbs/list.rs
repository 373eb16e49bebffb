//! GET of a collection: a header, the cached slices and commas.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use coracle_store::{
    Revision,
    cache::{Cached, Error, Freshness},
};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Api, Call, filter::Filter, render};
use crate::{
    registry::{Kind, Storage, items::Facts, storage::read_error},
    request::query::{ListOptions, VersionMatch},
    wire::{Answer, Body, Encoding, Form, Status, answer, negotiate},
};

/// Version of continue tokens (`storage/continue.go`).
const TOKEN: &str = "meta.k8s.io/v1";

/// One page of a collection.
pub struct Page {
    /// The objects.
    pub items: Vec<Arc<Cached<Facts>>>,
    /// The revision at which they were the whole truth.
    pub revision: Revision,
    /// Token of the next page; empty on the last.
    pub token: String,
    /// How many follow, if that is known.
    pub remaining: Option<usize>,
}

/// Where a continued list goes on.
struct Continue {
    /// `None`: inconsistent, at whatever is there now.
    revision: Option<Revision>,
    /// After this key (relative to the place).
    after: String,
}

/// Answers with the objects the request selects.
pub async fn list(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let wanted = negotiate::accept(&call.headers)?;
    let options = ListOptions::parse(&call.query, false)?;
    let page = page(api, call, kind, &options).await?;
    let slices = wires(kind, &page.items)?;
    if wanted.form == Form::Table
        && let Some(table) = render::table(api, call, kind, &slices, &page_meta(&page))?
    {
        return render::encoded(StatusCode::OK, wanted.encoding, table);
    }
    let kind_version = kind.api_version();
    let (head, slices) = match wanted.form {
        Form::Metadata => (("meta.k8s.io/v1", "PartialObjectMetadataList".to_owned()), slices.iter().map(render::partial).collect()),
        _ => ((kind_version.as_str(), format!("{}List", kind.gvk.kind)), slices),
    };
    respond(wanted.encoding, head.0, &head.1, &page_meta(&page), slices)
}

/// The page of a collection that a request asks for.
pub async fn page(api: &Api, call: &Call, kind: &Arc<Kind>, options: &ListOptions) -> Result<Page, Status> {
    let filter = Filter::new(kind, call, options)?;
    let token = if options.token.is_empty() { None } else { Some(Continue::decode(&options.token)?) };
    if token.is_some() && options.resource_version.is_some_and(|v| v > 0) {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let freshness = freshness(options, token.as_ref());
    let snapshot = api.storage.collection(kind)?.snapshot(freshness).await.map_err(|e| expired(e, token.as_ref()))?;
    let after = token.as_ref().map(|t| format!("{}{}", filter.prefix(), t.after));
    let mut found = filter.pick(&snapshot, after.as_deref());
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let items: Vec<_> = found.by_ref().take(limit).cloned().collect();
    let (mut token, mut remaining) = (String::new(), None);
    if items.len() == limit && found.next().is_some() {
        let last = items.last().map_or("", |c| c.key.as_str());
        let last = last.strip_prefix(filter.prefix()).unwrap_or(last);
        token = Continue { revision: Some(snapshot.revision), after: last.to_owned() }.encode();
        remaining = filter.is_open().then(|| found.count() + 1);
    }
    Ok(Page { items, revision: snapshot.revision, token, remaining })
}

/// The table of upstream's API concepts page ("Semantics for get and list").
fn freshness(options: &ListOptions, token: Option<&Continue>) -> Freshness {
    if let Some(token) = token {
        return token.revision.map_or(Freshness::Latest, Freshness::Exact);
    }
    match (options.resource_version, options.version_match) {
        (None, _) => Freshness::Latest,
        (Some(0), _) => Freshness::Any,
        (Some(at), Some(VersionMatch::Exact)) => Freshness::Exact(Revision(at)),
        (Some(at), None) if options.limit > 0 => Freshness::Exact(Revision(at)),
        (Some(at), _) => Freshness::NotOlderThan(Revision(at)),
    }
}

/// A page that is no longer kept: the client may go on with what is there now.
fn expired(error: Error, token: Option<&Continue>) -> Status {
    match (error, token) {
        (Error::Expired { .. }, Some(token)) => {
            let mut status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue \
                 parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided \
                 token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was \
                 returned and now may show up in the list.",
            );
            status.resume = Some(Continue { revision: None, after: token.after.clone() }.encode().into());
            status
        }
        (error, _) => read_error(error),
    }
}

impl Continue {
    fn encode(&self) -> String {
        let revision = self.revision.map_or(-1, |r| i64::try_from(r.0).unwrap_or(i64::MAX));
        // Upstream's keys are inclusive: the smallest key after the last one has a zero byte appended.
        URL_SAFE_NO_PAD.encode(json!({"v": TOKEN, "rv": revision, "start": format!("{}\0", self.after)}).to_string())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e.to_string()))?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        if token["v"] != TOKEN {
            return Err(bad("server does not recognize this encoded version"));
        }
        let revision = match token["rv"].as_i64() {
            Some(-1) => None,
            Some(at) if at > 0 => Some(Revision(at.unsigned_abs())),
            _ => return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        };
        let start = token["start"].as_str().unwrap_or_default();
        let Some(after) = start.strip_suffix('\0').filter(|a| !a.is_empty()) else {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        };
        Ok(Self { revision, after: after.to_owned() })
    }
}

/// The wire forms of cached objects, in the kind's version.
pub fn wires(kind: &Kind, items: &[Arc<Cached<Facts>>]) -> Result<Vec<Bytes>, Status> {
    items.iter().map(|cached| Storage::wire_of(kind, &cached.wire)).collect()
}

/// `metadata` of a list.
fn page_meta(page: &Page) -> Value {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if !page.token.is_empty() {
        meta["continue"] = page.token.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        meta["remainingItemCount"] = remaining.into();
    }
    meta
}

/// A list of ready items.
pub fn respond(encoding: Encoding, api_version: impl AsRef<str>, kind: &str, meta: &Value, items: Vec<Bytes>) -> Result<Answer, Status> {
    let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[", api_version.as_ref());
    match encoding {
        Encoding::Json => Ok(answer::bytes(StatusCode::OK, encoding.content_type(), Body::list(head, items, "]}\n"))),
        Encoding::Yaml => {
            let mut json = head.into_bytes();
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    json.push(b',');
                }
                json.extend_from_slice(item);
            }
            json.extend_from_slice(b"]}");
            render::encoded(StatusCode::OK, encoding, json.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_the_way_to_the_client_and_back() {
        let text = Continue { revision: Some(Revision(7)), after: "default/web-0".into() }.encode();
        let token = Continue::decode(&text).unwrap();
        assert_eq!((token.revision, token.after.as_str()), (Some(Revision(7)), "default/web-0"));
        assert_eq!(Continue::decode("bogus!").err().map(|s| s.code), Some(400));
    }
}
