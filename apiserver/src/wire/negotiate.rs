//! Content types: what a body is written in, what a client wants back. Texts of apiserver's `endpoints/handlers/negotiation`.

use bytes::Bytes;
use coracle_schema::{SchemaRef, proto};
use http::{HeaderMap, header};
use serde_json::Value;

use super::Status;

/// How an answer is written. Protobuf will be the third.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Encoding {
    Json,
    Yaml,
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
    /// `meta.k8s.io/v1 Table`
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`, or its list.
    Metadata,
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`
    Discovery,
}

/// The outcome of negotiation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Wanted {
    pub encoding: Encoding,
    pub form: Form,
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

const ACCEPTED: &str = "application/json, application/yaml";
const READ: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const PATCHES: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

impl Encoding {
    /// The `Content-Type` of an answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

impl Wanted {
    /// JSON objects: what errors and small answers use.
    pub const PLAIN: Self = Self { encoding: Encoding::Json, form: Form::Object };
}

/// One entry of an Accept header.
struct Range<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let params: Vec<_> = parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
        let quality = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
        Self { media, params, quality }
    }

    fn param(&self, name: &str) -> &'a str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| *v)
    }

    fn wanted(&self) -> Option<Wanted> {
        let encoding = match self.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => return None,
        };
        let form = match (self.param("as"), self.param("g"), self.param("v")) {
            ("", ..) => Form::Object,
            ("Table", "meta.k8s.io", "v1") => Form::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Form::Metadata,
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Form::Discovery,
            _ => return None,
        };
        Some(Wanted { encoding, form })
    }
}

/// Chooses what to answer with; the first acceptable entry of the highest quality wins. 406 when none is.
pub fn accept(headers: &HeaderMap) -> Result<Wanted, Status> {
    let mut ranges: Vec<Range<'_>> = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        let text = value.to_str().unwrap_or_default();
        ranges.extend(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(Range::parse));
    }
    if ranges.is_empty() {
        return Ok(Wanted::PLAIN);
    }
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let refused = || Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {ACCEPTED}"));
    ranges.iter().find_map(Range::wanted).ok_or_else(refused)
}

/// The bare media type of the request's body; empty when not named.
fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

fn unsupported(accepted: &str) -> Status {
    let text = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Status::new(415, "UnsupportedMediaType", text)
}

/// The encoding of a request's body. 415 for what we do not read; no type is JSON.
pub fn body_encoding(headers: &HeaderMap) -> Result<BodyEncoding, Status> {
    match content_type(headers) {
        "" | "application/json" => Ok(BodyEncoding::Json),
        "application/yaml" => Ok(BodyEncoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyEncoding::Protobuf),
        _ => Err(unsupported(READ)),
    }
}

/// The type of a patch.
pub fn patch_type(headers: &HeaderMap) -> Result<PatchType, Status> {
    match content_type(headers) {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(unsupported(PATCHES)),
    }
}

/// Parses a body as the message of a schema (which only protobuf needs to know).
pub fn parse(headers: &HeaderMap, body: &[u8], schema: &SchemaRef) -> Result<Value, Status> {
    match body_encoding(headers)? {
        BodyEncoding::Json => serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("json parse error: {e}"))),
        BodyEncoding::Yaml => parse_yaml(body).map_err(Status::bad_request),
        BodyEncoding::Protobuf => proto::decode(body, schema).map_err(|e| Status::bad_request(e.to_string())),
    }
}

/// Parses YAML; JSON, its subset, is tried first because it is what clients send most.
pub fn parse_yaml(body: &[u8]) -> Result<Value, String> {
    if body.first().is_some_and(|b| *b == b'{')
        && let Ok(value) = serde_json::from_slice(body)
    {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    serde_saphyr::from_str(text).map_err(|e| format!("error converting YAML to JSON: {e}"))
}

/// Writes a value.
pub fn render(encoding: Encoding, value: &Value) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Json => {
            let mut text = serde_json::to_vec(value).map_err(|e| Status::internal(e.to_string()))?;
            text.push(b'\n');
            Ok(text.into())
        }
        Encoding::Yaml => serde_saphyr::to_string(value).map(Bytes::from).map_err(|e| Status::internal(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<Wanted, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        accept(&headers).map_err(|s| s.code)
    }

    #[test]
    fn the_first_form_we_can_serve_wins() {
        let json = |form| Ok(Wanted { encoding: Encoding::Json, form });
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, expected) in [
            ("application/vnd.kubernetes.protobuf,application/json", json(Form::Object)),
            ("*/*", json(Form::Object)),
            ("application/json;stream=watch", json(Form::Object)),
            (table, json(Form::Table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", json(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json", json(Form::Metadata)),
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", json(Form::Discovery)),
            ("application/yaml", Ok(Wanted { encoding: Encoding::Yaml, form: Form::Object })),
            ("application/json;q=0.1,application/yaml", Ok(Wanted { encoding: Encoding::Yaml, form: Form::Object })),
            ("application/vnd.kubernetes.protobuf", Err(406)),
            ("text/html", Err(406)),
        ] {
            assert_eq!(wanted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn bodies_may_be_json_yaml_or_protobuf() {
        let of =
            |text: &'static str| body_encoding(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())])).map_err(|s| s.code);
        assert_eq!(of("application/json; charset=utf-8"), Ok(BodyEncoding::Json));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Ok(BodyEncoding::Protobuf));
        assert_eq!(of("text/plain"), Err(415));
    }

    #[test]
    fn yaml_bodies_become_the_same_values_as_json() {
        let yaml = b"a: 1\nb:\n- x\n- true\nc: \"7\"\n";
        assert_eq!(parse_yaml(yaml).unwrap(), serde_json::json!({"a": 1, "b": ["x", true], "c": "7"}));
        assert!(parse_yaml(b"a: [").is_err());
    }
}
