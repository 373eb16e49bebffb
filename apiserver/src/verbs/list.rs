//! GET of a collection: a header, the cached slices and commas.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use coracle_schema::proto::envelope;
use coracle_store::{
    Revision,
    cache::{Cached, Error, Freshness, Snapshot},
};
use coracle_tree::{Value, json};
use http::StatusCode;
use http_body_util::{BodyExt, Collected};

use super::{Api, Call, filter::Filter, render, runs::Run, unreadable};
use crate::{
    metrics,
    registry::{Kind, Storage, items::Facts, storage::read_error},
    request::query::{ListOptions, VersionMatch},
    wire::{
        Answer, Body, Encoding, Form, Status, Wanted, answer, negotiate,
        parts::{Part, Pieces},
    },
};

/// Objects that are encoded without making way for other requests.
const AT_ONCE: usize = 128;

/// What a list in JSON ends with.
const JSON_TAIL: &[u8] = b"]}\n";

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
    let wanted = render::wanted(call, kind)?;
    let options = ListOptions::parse(&call.query, false)?;
    let page = page(api, call, kind, &options).await?;
    metrics::store::listed(&kind.id, page.items.len());
    show(api, call, kind, wanted, &page_meta(&page), &page.items).await
}

/// A list of cached objects in the form and encoding wanted; `meta` is its metadata.
pub async fn show(
    api: &Api,
    call: &Call,
    kind: &Kind,
    wanted: Wanted,
    meta: &Value,
    items: &[Arc<Cached<Facts>>],
) -> Result<Answer, Status> {
    let (api_version, list_kind) = match wanted.form {
        Form::MetadataList => (wanted.meta.name().to_owned(), "PartialObjectMetadataList".to_owned()),
        Form::Metadata => {
            let text = "you requested PartialObjectMetadata, but the requested object is a list";
            return Err(Status::new(406, "NotAcceptable", format!("{text} ({})", render::go_type(kind, true))));
        }
        _ => (kind.api_version(), kind.list_kind()),
    };
    if let Some(answer) = compressed(api, call, kind, wanted, meta, items).await? {
        return Ok(answer);
    }
    if wanted.encoding == Encoding::Protobuf {
        let messages = messages(api, kind, wanted.form, items).await?;
        let meta = render::message(meta.to_string().as_bytes(), &api.message("meta.ListMeta")?)?;
        let head =
            envelope::list_head(&api_version, &list_kind, &meta, messages.iter().map(|message| envelope::item_len(message.len())).sum());
        return Ok(answer::bytes(StatusCode::OK, wanted.encoding.content_type(), Body::messages(head, messages)));
    }
    let wires = wires(kind, items).await?;
    if wanted.form == Form::Table
        && let Some(table) = render::table(api, call, kind, wanted.meta, &wires, meta)?
    {
        let body = negotiate::rewrite(wanted.encoding, table)?;
        return Ok(answer::bytes(StatusCode::OK, wanted.encoding.content_type(), Body::full(body)));
    }
    let meta = &told(kind, wanted.form, meta);
    let slices =
        if wanted.form == Form::MetadataList { wires.iter().map(|wire| render::partial(wire, wanted.meta)).collect() } else { wires };
    // What upstream has Go types for comes without a type of its own.
    let typed = kind.is_custom() || wanted.form == Form::MetadataList;
    respond(wanted.encoding, &api_version, &list_kind, meta, slices, typed).await
}

/// A list's metadata as it is told in JSON.
fn told(kind: &Kind, form: Form, meta: &Value) -> Value {
    let mut meta = meta.clone();
    // Lists of custom resources are maps upstream, which know no empty member.
    if kind.is_custom() && form == Form::Object && meta.get("continue").is_none() {
        meta["continue"] = "".into();
    }
    meta
}

/// A large list for a client that takes gzip, of objects that are sent as they are kept: put together of runs that were compressed once.
/// `None`: it is another.
async fn compressed(
    api: &Api,
    call: &Call,
    kind: &Kind,
    wanted: Wanted,
    meta: &Value,
    items: &[Arc<Cached<Facts>>],
) -> Result<Option<Answer>, Status> {
    let audited = call.trail.as_ref().is_some_and(|trail| trail.takes_response());
    let text = matches!(wanted.encoding, Encoding::Json | Encoding::Protobuf) && wanted.form == Form::Object;
    if !text || audited || !answer::takes_gzip(&call.headers) {
        return Ok(None);
    }
    let large = answer::is_large(items.iter().map(|cached| cached.wire().len() as u64).sum());
    if !large || !items.iter().all(|cached| Storage::is_shared(kind, &cached.wire())) {
        return Ok(None);
    }
    let protobuf = wanted.encoding == Encoding::Protobuf;
    let head = (!kind.is_custom()).then(|| type_head(&kind.api_version(), &kind.gvk.kind));
    let selectors = ["labelSelector", "fieldSelector"].map(|name| call.query.text(name)).join("&");
    let run = Run { kind, protobuf, head: head.as_deref(), selection: crc32fast::hash(selectors.as_bytes()) };
    let parts = api.runs.parts(run, items).await?;
    let length: u64 = parts.iter().map(Part::plain_len).sum();
    // Messages are smaller than the JSON they are made of.
    if !answer::is_large(length) {
        return Ok(None);
    }
    let (api_version, list_kind) = (kind.api_version(), kind.list_kind());
    let pieces = if protobuf {
        let meta = render::message(meta.to_string().as_bytes(), &api.message("meta.ListMeta")?)?;
        Pieces::join(&envelope::list_head(&api_version, &list_kind, &meta, length as usize), &parts, false, envelope::TAIL)
    } else {
        let head = json_head(&api_version, &list_kind, &told(kind, wanted.form, meta));
        Pieces::join(head.as_bytes(), &parts, true, JSON_TAIL)
    };
    Ok(Some(answer::encoded(answer::bytes(StatusCode::OK, wanted.encoding.content_type(), Body::pieces(pieces)))))
}

/// The messages of a list's items. Makes way for others now and then: the first list after many writes has much to encode.
async fn messages(api: &Api, kind: &Kind, form: Form, items: &[Arc<Cached<Facts>>]) -> Result<Vec<Bytes>, Status> {
    let mut made = Vec::with_capacity(items.len());
    for cached in items {
        made.push(match form {
            Form::MetadataList => render::cached_metadata(api, kind, cached).await?,
            _ => render::cached_message(kind, cached).await?,
        });
        if made.len() % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(made)
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
    let converted = if filter.needs_wire() { Some(pick_converted(kind, &filter, &snapshot, after.as_deref()).await?) } else { None };
    let mut found: Box<dyn Iterator<Item = &Arc<Cached<Facts>>> + Send> = match &converted {
        Some(found) => Box::new(found.iter()),
        None => filter.pick(&snapshot, after.as_deref()),
    };
    // Who takes anything gets all of it at once, as from upstream's cache: informers ask in pages and need not.
    let all = options.limit == 0 || (freshness == Freshness::Any && token.is_none());
    let limit = if all { usize::MAX } else { options.limit };
    let items: Vec<_> = found.by_ref().take(limit).cloned().collect();
    let more = items.len() == limit && found.next().is_some();
    match freshness {
        // Upstream's cache is not there while it lacks something, and its store is asked by nobody else.
        Freshness::Any | Freshness::NotOlderThan(_) if options.limit == 0 || !filter.is_open() => api.storage.readable(kind)?,
        _ => unreadable::complete(api, kind, &filter, snapshot.revision, after.as_deref(), (&items, more))?,
    }
    let (mut token, mut remaining) = (String::new(), None);
    if more {
        let last = items.last().map_or("", |c| c.key.as_str());
        let last = last.strip_prefix(filter.prefix()).unwrap_or(last);
        token = Continue { revision: Some(snapshot.revision), after: last.to_owned() }.encode();
        remaining = filter.is_open().then(|| found.count() + 1);
    }
    Ok(Page { items, revision: snapshot.revision, token, remaining })
}

/// The objects meant by fields that only their converted forms have: all are converted, in one go.
async fn pick_converted(
    kind: &Kind,
    filter: &Filter,
    snapshot: &Snapshot<Facts>,
    after: Option<&str>,
) -> Result<Vec<Arc<Cached<Facts>>>, Status> {
    let near: Vec<Arc<Cached<Facts>>> = filter.pick(snapshot, after).cloned().collect();
    let converted = wires(kind, &near).await?;
    Ok(near.into_iter().zip(converted).filter(|(_, wire)| filter.selects_wire(wire)).map(|(cached, _)| cached).collect())
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
            status.resume_with(Continue { revision: None, after: token.after.clone() }.encode());
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
        let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
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
pub async fn wires(kind: &Kind, items: &[Arc<Cached<Facts>>]) -> Result<Vec<Bytes>, Status> {
    Storage::wires_of(kind, items.iter().map(|cached| cached.wire()).collect()).await
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

/// What an object of this type begins with where it is kept.
fn type_head(api_version: &str, kind: &str) -> Vec<u8> {
    format!("{{\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}\",").into()
}

/// A list in JSON up to its first item.
fn json_head(api_version: &str, list_kind: &str, meta: &Value) -> String {
    format!("{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[")
}

/// The items without `apiVersion` and `kind`, which the list tells, and without their opening brace; `None` if not all begin with them.
fn without_type(api_version: &str, list_kind: &str, items: &[Bytes]) -> Option<Vec<Bytes>> {
    let head = type_head(api_version, list_kind.strip_suffix("List")?);
    items.iter().map(|item| item.starts_with(&head).then(|| item.slice(head.len()..))).collect()
}

/// A list of ready items in one of the text encodings.
async fn respond(
    encoding: Encoding,
    api_version: &str,
    kind: &str,
    meta: &Value,
    items: Vec<Bytes>,
    typed: bool,
) -> Result<Answer, Status> {
    let head = json_head(api_version, kind, meta);
    let body = match without_type(api_version, kind, &items).filter(|_| !typed) {
        Some(items) => Body::objects(head, items, JSON_TAIL),
        None => Body::list(head, items, JSON_TAIL),
    };
    let body = match encoding {
        Encoding::Json => body,
        other => {
            let json = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            Body::full(negotiate::rewrite(other, json)?)
        }
    };
    Ok(answer::bytes(StatusCode::OK, encoding.content_type(), body))
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
