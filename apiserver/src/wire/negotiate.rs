//! Content types: what a body is written in, what a client wants back. Texts of apiserver's `endpoints/handlers/negotiation`.

use bytes::Bytes;
use coracle_schema::{SchemaRef, proto};
use coracle_tree::Value;
use http::{HeaderMap, header};

use super::{Status, yaml};

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// JSON in one line.
    Json,
    /// JSON for people: indented.
    Pretty,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

/// What a body is written in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BodyEncoding {
    Json,
    Yaml,
    Protobuf,
}

/// What an answer shows of the objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// `meta.k8s.io Table`
    Table,
    /// `meta.k8s.io PartialObjectMetadata`
    Metadata,
    /// `meta.k8s.io PartialObjectMetadataList`
    MetadataList,
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`
    Discovery,
}

/// The version of tables and of metadata alone. The two differ in name only; k9s is one of those that still ask for the older.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum MetaVersion {
    #[default]
    V1,
    V1Beta1,
}

impl MetaVersion {
    /// `meta.k8s.io/v1`
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The outcome of negotiation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Wanted {
    pub encoding: Encoding,
    pub form: Form,
    /// Of tables and metadata.
    pub meta: MetaVersion,
}

/// Media types of patches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// What an endpoint can answer with, beside JSON and YAML.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Protobuf of the objects themselves; custom resources have none.
    pub protobuf: bool,
    /// Tables.
    pub tables: bool,
    /// Objects' metadata alone; as protobuf, too, whatever the kind.
    pub metadata: bool,
    /// Aggregated discovery.
    pub discovery: bool,
}

/// What a page for people is answered as ([`page`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// Lines.
    Text,
    /// An object of `config.k8s.io`.
    Object {
        /// How it is written.
        encoding: Encoding,
        /// Its version.
        version: &'static str,
    },
}

/// The media types there are, in the order of preference when a client does not care.
const MEDIA: [(&str, Encoding); 3] = [("json", Encoding::Json), ("yaml", Encoding::Yaml), ("vnd.kubernetes.protobuf", Encoding::Protobuf)];
/// What bodies are read and answers written in, as errors name it.
pub const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// What pages are written in.
const PAGES: &str = "application/json, application/yaml, text/plain";
/// What watches are written in.
pub const STREAMED: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
/// What custom resources are patched with: nobody knows how to merge their lists.
const CUSTOM_PATCHES: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

impl Encoding {
    /// The `Content-Type` of an answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Pretty => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The `Content-Type` of a watch; 406 for what cannot be framed.
    pub fn stream_type(self) -> Result<&'static str, Status> {
        match self {
            Self::Json | Self::Pretty => Ok("application/json"),
            Self::Protobuf => Ok("application/vnd.kubernetes.protobuf;stream=watch"),
            Self::Yaml => Err(not_acceptable(STREAMED)),
        }
    }
}

impl Wanted {
    /// JSON objects: what errors and small answers use.
    pub const PLAIN: Self = Self::of(Encoding::Json, Form::Object);

    /// What is asked for in today's versions.
    pub const fn of(encoding: Encoding, form: Form) -> Self {
        Self { encoding, form, meta: MetaVersion::V1 }
    }
}

impl Offer {
    /// Errors, statuses, reviews: messages that every encoding has.
    pub const MESSAGE: Self = Self { protobuf: true, tables: false, metadata: false, discovery: false };
    /// Objects of a built-in kind.
    pub const BUILT_IN: Self = Self { protobuf: true, tables: true, metadata: true, discovery: false };
    /// Custom resources.
    pub const CUSTOM: Self = Self { protobuf: false, ..Self::BUILT_IN };
    /// Discovery documents.
    pub const DISCOVERY: Self = Self { discovery: true, ..Self::MESSAGE };
}

/// What a header says; what is no plain text is of no media type.
fn text<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"))
}

/// One clause of an Accept header.
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f64,
}

impl<'a> Clause<'a> {
    /// `None` for what is no media type: such clauses are passed over.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let (kind, subtype) = match parts.next()?.split_once('/') {
            None if text.trim() == "*" => ("*", "*"),
            None => return None,
            Some((_, subtype)) if subtype.contains('/') || subtype.is_empty() => return None,
            Some((kind, subtype)) => (kind.trim(), subtype.trim()),
        };
        let (mut params, mut quality) = (Vec::new(), 1.0);
        for (name, value) in parts.filter_map(|p| p.split_once('=')).filter(|(_, value)| !value.is_empty() && !value.contains('=')) {
            match name.trim() {
                "q" => quality = value.parse().unwrap_or_default(),
                name => params.push((name, value.trim())),
            }
        }
        Some(Self { kind, subtype, params, quality })
    }

    fn matches(&self, subtype: &str) -> bool {
        match self.kind {
            "application" => self.subtype == subtype || self.subtype == "*",
            "*" => self.subtype == "*",
            _ => false,
        }
    }

    fn param(&self, name: &str) -> &'a str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| *v)
    }

    /// The form asked for; `None` when this endpoint does not offer it.
    fn form(&self, encoding: Encoding, offer: Offer) -> Option<(Form, MetaVersion)> {
        if !matches!(self.param("stream"), "" | "watch") || !matches!(self.param("sv"), "" | "v1") {
            return None;
        }
        let protobuf = encoding == Encoding::Protobuf;
        let meta = if self.param("v") == "v1beta1" { MetaVersion::V1Beta1 } else { MetaVersion::V1 };
        let form = match (self.param("as"), self.param("g"), self.param("v")) {
            ("", "", "") if protobuf && !offer.protobuf => return None,
            ("", "", "") => Form::Object,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") if offer.tables && !protobuf => Form::Table,
            ("PartialObjectMetadata", "meta.k8s.io", "v1" | "v1beta1") if offer.metadata => Form::Metadata,
            ("PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") if offer.metadata => Form::MetadataList,
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if offer.discovery => Form::Discovery,
            _ => return None,
        };
        Some((form, meta))
    }
}

/// The clauses of a header, the most wanted first.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(Clause::parse).collect();
    let rank = |c: &Clause<'_>| (c.kind == "*", c.subtype == "*");
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(rank(a).cmp(&rank(b))));
    clauses
}

/// Chooses what to answer with: the first acceptable clause of the highest quality wins (`negotiation.NegotiateOutputMediaType`).
/// `query` is the request's, not yet decoded: it may ask for indented JSON. 406 when nothing on offer is acceptable.
pub fn negotiate(headers: &HeaderMap, query: &str, offer: Offer) -> Result<Wanted, Status> {
    // Upstream looks at the first header only.
    let text = text(headers, &header::ACCEPT);
    let mut wanted = if text.is_empty() { Some((Wanted::PLAIN, false)) } else { None };
    for clause in &clauses(text) {
        for (subtype, encoding) in MEDIA {
            if wanted.is_none()
                && clause.matches(subtype)
                && let Some((form, meta)) = clause.form(encoding, offer)
            {
                wanted = Some((Wanted { encoding, form, meta }, clause.param("pretty") == "1"));
            }
        }
    }
    let (mut wanted, pretty) = wanted.ok_or_else(|| not_acceptable(ACCEPTED))?;
    if wanted.encoding == Encoding::Json && (pretty || is_for_people(headers, query)) {
        wanted.encoding = Encoding::Pretty;
    }
    Ok(wanted)
}

/// Chooses what a page for people is answered as: lines, or the object `config.k8s.io/… kind` in JSON or YAML for who asks for just that
/// (`server/flagz/negotiate`). 406 for all else.
pub fn page(headers: &HeaderMap, query: &str, kind: &str) -> Result<Page, Status> {
    let text = text(headers, &header::ACCEPT);
    if text.trim().is_empty() {
        return Ok(Page::Text);
    }
    let version = |clause: &Clause<'_>| {
        let named = clause.param("as") == kind && clause.param("g") == "config.k8s.io";
        ["v1alpha1", "v1beta1"].into_iter().find(|version| named && clause.param("v") == *version)
    };
    let plain = |clause: &Clause<'_>| ["as", "g", "v"].iter().all(|name| clause.param(name).is_empty());
    for clause in &clauses(text) {
        for (subtype, encoding) in MEDIA.into_iter().filter(|(_, encoding)| *encoding != Encoding::Protobuf) {
            if let Some(version) = version(clause).filter(|_| clause.matches(subtype)) {
                let pretty = encoding == Encoding::Json && (clause.param("pretty") == "1" || is_for_people(headers, query));
                return Ok(Page::Object { encoding: if pretty { Encoding::Pretty } else { encoding }, version });
            }
        }
        if plain(clause) && matches!((clause.kind, clause.subtype), ("text", "plain" | "*") | ("*", "*")) {
            return Ok(Page::Text);
        }
    }
    Err(not_acceptable(PAGES))
}

/// The encoding of an error: what cannot be negotiated is JSON, indented, for the error itself must not be hidden.
pub fn for_errors(headers: &HeaderMap, query: &str) -> Encoding {
    negotiate(headers, query, Offer::MESSAGE).map_or(Encoding::Pretty, |wanted| wanted.encoding)
}

/// `?pretty=true`, or a tool that people use by hand.
fn is_for_people(headers: &HeaderMap, query: &str) -> bool {
    let asked = query.split('&').filter_map(|p| p.split_once('=')).find(|(name, _)| *name == "pretty").map(|(_, value)| value);
    match asked.filter(|value| !value.is_empty()) {
        Some(value) => matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => {
            let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool))
        }
    }
}

/// Refuses what upstream's router refuses: a client that names none of the media types routes have, whatever it says of them.
/// `accepted` lists the media types, `streams` more of them, in which only watches are written.
pub fn route(headers: &HeaderMap, accepted: &str, streams: &str) -> Result<(), Status> {
    let text = text(headers, &header::ACCEPT);
    let mut named = text.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim());
    if text.is_empty() || named.any(|media| media == "*/*" || accepted.split(", ").any(|known| known == media)) {
        return Ok(());
    }
    let comma = if streams.is_empty() { "" } else { ", " };
    let text = format!("406: Not Acceptable\n\nAvailable representations: {accepted}{comma}{streams}");
    Err(Status { details: coracle_tree::json!({}), ..Status::new(406, "NotAcceptable", text) })
}

fn not_acceptable(accepted: &str) -> Status {
    Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
}

/// The bare media type of the request's body; empty when not named.
fn content_type(headers: &HeaderMap) -> &str {
    let text = text(headers, &header::CONTENT_TYPE);
    text.split(';').next().unwrap_or_default().trim()
}

/// Whether the parameters of the content type are names with values.
fn is_well_formed(headers: &HeaderMap) -> bool {
    let text = text(headers, &header::CONTENT_TYPE);
    let (_, parameters) = text.split_once(';').unwrap_or_default();
    let parameters = parameters.trim();
    // One semicolon may stand at the end, where nothing follows.
    let named = parameters.strip_suffix(';').unwrap_or(parameters);
    parameters.is_empty() || named.split(';').all(|p| p.trim().split_once('=').is_some_and(|(name, _)| !name.is_empty()))
}

fn unsupported(accepted: &str) -> Status {
    let text = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Status::new(415, "UnsupportedMediaType", text)
}

/// The encoding of a request's body. 415 for what we do not read; no type is JSON.
pub fn body_encoding(headers: &HeaderMap) -> Result<BodyEncoding, Status> {
    if !is_well_formed(headers) {
        return Err(unsupported(ACCEPTED));
    }
    match content_type(headers) {
        "" | "application/json" => Ok(BodyEncoding::Json),
        "application/yaml" => Ok(BodyEncoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyEncoding::Protobuf),
        _ => Err(unsupported(ACCEPTED)),
    }
}

/// The type of a patch. 415 for what a kind is not patched with: of a built-in one in the words of upstream's router, which such a patch
/// never passes.
pub fn patch_type(headers: &HeaderMap, custom: bool) -> Result<PatchType, Status> {
    match content_type(headers) {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" if !custom => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ if custom => Err(unsupported(CUSTOM_PATCHES)),
        _ => Err(Status { details: coracle_tree::json!({}), ..Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type") }),
    }
}

/// Parses a body as the message of a schema (which only protobuf needs to know).
pub fn parse(headers: &HeaderMap, body: &[u8], schema: &SchemaRef) -> Result<Value, Status> {
    match body_encoding(headers)? {
        BodyEncoding::Json => serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("json parse error: {e}"))),
        BodyEncoding::Yaml => yaml::read(body).map(|read| read.value).map_err(|e| unrecognized(schema, &e, body)),
        BodyEncoding::Protobuf => proto::decode(body, schema).map_err(|e| unrecognized(schema, &e.to_string(), body)),
    }
}

/// A body that is no object (`transformDecodeError` of `endpoints/handlers/rest.go`).
pub fn unrecognized(schema: &SchemaRef, why: &str, body: &[u8]) -> Status {
    let kind = schema.root().short_name();
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({})", summary(body)))
}

/// The beginning of a body, as errors show it: text if it looks like JSON, else digits (`summarizeData`).
pub fn summary(body: &[u8]) -> String {
    let head = &body[..body.len().min(SUMMARY)];
    let shown = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if body.len() > SUMMARY { shown + " ..." } else { shown }
}

/// Bytes of a body that errors show.
const SUMMARY: usize = 30;

/// JSON bytes in another text encoding.
pub fn rewrite(encoding: Encoding, json: Bytes) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Pretty => Ok(super::pretty::indent(&json).into()),
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&json).map_err(|e| Status::internal(e.to_string()))?;
            serde_saphyr::to_string(&value).map(Bytes::from).map_err(|e| Status::internal(e.to_string()))
        }
        Encoding::Json | Encoding::Protobuf => Ok(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &str, offer: Offer) -> Result<Wanted, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        negotiate(&headers, "", offer).map_err(|s| s.code)
    }

    const BOTH: &str = "application/vnd.kubernetes.protobuf,application/json";

    #[test]
    fn the_first_form_we_can_serve_wins() {
        let json = |form| Ok(Wanted::of(Encoding::Json, form));
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let protobuf = |form| Ok(Wanted::of(Encoding::Protobuf, form));
        for (accept, expected) in [
            (BOTH, protobuf(Form::Object)),
            ("*/*", json(Form::Object)),
            ("*", json(Form::Object)),
            ("application/*", json(Form::Object)),
            ("text/html, */*;q=0.1", json(Form::Object)),
            ("*/*, application/vnd.kubernetes.protobuf", protobuf(Form::Object)),
            ("application/json;stream=watch", json(Form::Object)),
            ("application/json;stream=other", Err(406)),
            (table, json(Form::Table)),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json",
                Ok(Wanted { meta: MetaVersion::V1Beta1, ..Wanted::of(Encoding::Json, Form::Table) }),
            ),
            ("application/json;as=Table;v=v1alpha1;g=meta.k8s.io, application/json", json(Form::Object)),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", Err(406)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json", json(Form::MetadataList)),
            ("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", protobuf(Form::Metadata)),
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", json(Form::Object)),
            ("application/yaml", Ok(Wanted::of(Encoding::Yaml, Form::Object))),
            ("application/json;q=0.1,application/yaml", Ok(Wanted::of(Encoding::Yaml, Form::Object))),
            ("application/json;pretty=1", Ok(Wanted::of(Encoding::Pretty, Form::Object))),
            ("application/cbor", Err(406)),
            ("text/html", Err(406)),
            ("garbage", Err(406)),
        ] {
            assert_eq!(wanted(accept, Offer::BUILT_IN), expected, "{accept}");
        }
    }

    #[test]
    fn pages_are_lines_unless_their_object_is_asked_for_by_name() {
        let of = |accept: &str| page(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]), "", "Flagz").map_err(|s| s.code);
        let object = |encoding, version| Ok(Page::Object { encoding, version });
        for (accept, expected) in [
            ("", Ok(Page::Text)),
            ("*/*;q=0.1", Ok(Page::Text)),
            ("text/*", Ok(Page::Text)),
            ("application/json, text/plain", Ok(Page::Text)),
            ("application/json;as=Flagz;v=v1beta1;g=config.k8s.io", object(Encoding::Json, "v1beta1")),
            ("application/yaml;as=Flagz;v=v1alpha1;g=config.k8s.io", object(Encoding::Yaml, "v1alpha1")),
            ("application/json;as=Statusz;v=v1beta1;g=config.k8s.io", Err(406)),
            ("application/json;as=Flagz;v=v1;g=config.k8s.io", Err(406)),
            ("text/plain;as=Flagz;v=v1beta1;g=config.k8s.io", Err(406)),
            ("application/json", Err(406)),
            ("application/vnd.kubernetes.protobuf", Err(406)),
        ] {
            assert_eq!(of(accept), expected, "{accept}");
        }
    }

    #[test]
    fn custom_resources_have_no_protobuf_but_their_metadata_has() {
        let json = Ok(Wanted::of(Encoding::Json, Form::Object));
        assert_eq!(wanted(BOTH, Offer::CUSTOM), json);
        assert_eq!(wanted("application/vnd.kubernetes.protobuf", Offer::CUSTOM), Err(406));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(wanted(metadata, Offer::CUSTOM), Ok(Wanted::of(Encoding::Protobuf, Form::Metadata)));
    }

    #[test]
    fn people_get_indented_json_unless_they_say_no() {
        let mut headers = HeaderMap::new();
        let encoding = |headers: &HeaderMap, query| negotiate(headers, query, Offer::BUILT_IN).unwrap().encoding;
        assert_eq!(encoding(&headers, "pretty=true"), Encoding::Pretty);
        assert_eq!(encoding(&headers, "limit=1"), Encoding::Json);
        headers.insert(header::USER_AGENT, "curl/8.0".parse().unwrap());
        assert_eq!(encoding(&headers, ""), Encoding::Pretty);
        assert_eq!(encoding(&headers, "pretty=false"), Encoding::Json);
        headers.insert(header::ACCEPT, "application/yaml".parse().unwrap());
        assert_eq!(encoding(&headers, ""), Encoding::Yaml);
    }

    #[test]
    fn errors_are_never_hidden_behind_what_cannot_be_negotiated() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "text/html".parse().unwrap());
        assert_eq!(for_errors(&headers, ""), Encoding::Pretty);
        headers.insert(header::ACCEPT, BOTH.parse().unwrap());
        assert_eq!(for_errors(&headers, ""), Encoding::Protobuf);
    }

    #[test]
    fn bodies_may_be_json_yaml_or_protobuf() {
        let of = |text: &'static str| {
            let value = header::HeaderValue::from_bytes(text.as_bytes()).unwrap();
            body_encoding(&HeaderMap::from_iter([(header::CONTENT_TYPE, value)])).map_err(|s| s.code)
        };
        assert_eq!(of("application/json; charset=utf-8"), Ok(BodyEncoding::Json));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Ok(BodyEncoding::Protobuf));
        assert_eq!(of("text/plain"), Err(415));
        assert_eq!(of("application/jsön"), Err(415));
        assert_eq!(of("application/json;"), Ok(BodyEncoding::Json));
        assert_eq!(of("application/json; charset=utf-8;"), Ok(BodyEncoding::Json));
        for malformed in ["application/json; charset", "application/json;;;", "application/json;;", "application/json; =x"] {
            assert_eq!(of(malformed), Err(415), "{malformed}");
        }
    }

    #[test]
    fn routes_refuse_who_names_none_of_their_media_types() {
        let of = |accept: &'static str| {
            route(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]), ACCEPTED, STREAMED).map_err(|s| s.message)
        };
        for fine in ["*/*;q=0.1", "text/html, application/yaml", "application/json;as=Table"] {
            assert_eq!(of(fine), Ok(()));
        }
        assert_eq!(of("application/*").unwrap_err(), format!("406: Not Acceptable\n\nAvailable representations: {ACCEPTED}, {STREAMED}"));
        assert!(of("application/cbor").is_err());
    }
}
