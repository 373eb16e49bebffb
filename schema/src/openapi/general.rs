//! Documents of what belongs to no version of a group: which versions and groups there are, what each group is, the server's version and the
//! keys of its tokens (`endpoints/discovery`, `server/routes/{version,openidmetadata}.go`).

use coracle_tree::{Map, Value, json};

use super::{
    definitions::Definitions,
    descriptions,
    paths::{BUILT_IN, capital, content, responses, short_group},
    short_version, whole,
};
use crate::tables::Tables;

const INFO: &str = "io.k8s.apimachinery.pkg.version.Info";
/// What `/version` always tells, and what it may.
const ALWAYS: [&str; 9] = ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
const PERHAPS: [&str; 4] = ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];

/// Where these documents are below `/openapi/v3/`: `apis`, `apis/apps`. Groups of custom resources have none.
pub fn paths(tables: &Tables) -> Vec<String> {
    let mut groups: Vec<&str> = tables.resources.iter().map(|row| row.group).filter(|group| !group.is_empty()).collect();
    groups.dedup();
    let fixed = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"].map(str::to_owned);
    fixed.into_iter().chain(groups.into_iter().map(|group| format!("apis/{group}"))).collect()
}

/// The documents at all of [`paths`] that are `wanted`; `server` is the version in `info`, `v1.37.1`.
pub fn documents(tables: &Tables, wanted: impl Fn(&str) -> bool, server: &str) -> Vec<Value> {
    let mut paths = paths(tables);
    paths.retain(|path| wanted(path));
    if paths.is_empty() {
        return Vec::new();
    }
    // What takes longest, whatever the number of documents.
    let texts = descriptions::unpack();
    let words = descriptions::Descriptions::read(&texts);
    paths.iter().map(|path| document(tables, &words, path, server)).collect()
}

fn document(tables: &Tables, words: &descriptions::Descriptions<'_>, path: &str, server: &str) -> Value {
    let mut definitions = Definitions::new(tables, words, ("", ""));
    let mut message = |name: &str| content(&definitions.named(name).unwrap_or_default(), &BUILT_IN);
    let text = |content_type: &str| json!({content_type: {"schema": {"type": "string"}}});
    let (tag, id, what, answer) = match path {
        "api" => ("core".to_owned(), "getCoreAPIVersions".to_owned(), "get available API versions", message("meta.APIVersions")),
        "apis" => ("apis".to_owned(), "getAPIVersions".to_owned(), "get available API versions", message("meta.APIGroupList")),
        "version" => {
            let info = content(&json!({"$ref": format!("#/components/schemas/{INFO}")}), &["application/json"]);
            ("version".to_owned(), "getCodeVersion".to_owned(), "get the version of this server", info)
        }
        "openid/v1/jwks" => {
            let id = "getServiceAccountIssuerOpenIDKeyset".to_owned();
            (
                "openid".to_owned(),
                id,
                "get the public keys that tokens of service accounts are verified with",
                text("application/jwk-set+json"),
            )
        }
        ".well-known/openid-configuration" => {
            let id = "getServiceAccountIssuerOpenIDConfiguration".to_owned();
            ("WellKnown".to_owned(), id, "get the OpenID configuration of the issuer of service accounts' tokens", text("application/json"))
        }
        group => {
            let short = short_group(group.strip_prefix("apis/").unwrap_or(group));
            let id = format!("get{}APIGroup", capital(&short));
            (short, id, "get information of a group", message("meta.APIGroup"))
        }
    };
    let get = json!({"description": what, "operationId": id, "responses": responses(&answer, &["200"]), "tags": [tag]});
    let mut schemas = definitions.finish();
    if path == "version" {
        schemas.insert(INFO, info(words));
    }
    whole(Map::from_iter([(format!("/{path}/"), json!({"get": get}))]), schemas, short_version(server))
}

/// What `/version` answers.
fn info(words: &descriptions::Descriptions<'_>) -> Value {
    let message = words.message(INFO);
    let field = |name: &str, always: bool| {
        let mut made = if always { json!({"type": "string", "default": ""}) } else { json!({"type": "string"}) };
        if let Some(words) = message.and_then(|message| message.field(name)).filter(|words| !words.is_empty()) {
            made["description"] = words.into();
        }
        (name.to_owned(), made)
    };
    let properties: Map = ALWAYS.map(|name| field(name, true)).into_iter().chain(PERHAPS.map(|name| field(name, false))).collect();
    let words = message.map(descriptions::Message::words).unwrap_or_default();
    json!({"description": words, "type": "object", "required": ALWAYS, "properties": properties})
}
