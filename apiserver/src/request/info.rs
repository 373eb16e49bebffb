//! The path grammar, parsed once at the door; every later layer reads [`RequestInfo`] and never the path.
//!
//! The rules are those of apiserver's `pkg/endpoints/request/requestinfo.go`, over which RBAC, admission and audit are defined.

use http::Method;

use super::query::Query;
use crate::registry::selector::{FieldSelector, LabelSelector};

/// What a request asks for. Mirrors apiserver's `RequestInfo`, which RBAC and audit are defined over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether it addresses API objects (else only `verb` and `path` count).
    pub is_resource: bool,
    /// Whole path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method in lower case.
    pub verb: String,
    /// Group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Namespace, empty for none or all.
    pub namespace: String,
    /// Whether the resource stands below a namespace, be that one's name empty.
    pub in_namespace: bool,
    /// Whether `watch` or `proxy` stands before the resource.
    pub prefixed: bool,
    /// Plural resource.
    pub resource: String,
    /// Subresource, empty for none.
    pub subresource: String,
    /// Object name, empty for collections.
    pub name: String,
    /// Path segments after the subresource (proxy).
    pub rest: Vec<String>,
    /// Field selector of list, watch and deletecollection: what nodes may see depends on it.
    pub fields: FieldSelector,
    /// Label selector of list, watch and deletecollection: authorizers may look at it.
    pub labels: LabelSelector,
}

/// Prefixes that stand for the verb itself (deprecated, still served).
const SPECIAL_VERBS: [&str; 2] = ["proxy", "watch"];

/// What follows `namespaces/{name}` without being a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Parses method, (still escaped) path and query. `Err` holds the text for a 400.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Result<Self, String> {
        let path = unescape(path);
        let mut info = Self { verb: method.as_str().to_lowercase(), path, ..Self::default() };
        let text = info.path.clone();
        let all: Vec<&str> = segments(&text);
        let Some((group, version, parts)) = split_api(&all) else { return Ok(info) };
        info.is_resource = true;
        group.clone_into(&mut info.group);
        version.clone_into(&mut info.version);
        let special = SPECIAL_VERBS.contains(&parts[0]);
        info.prefixed = special;
        let parts = if special {
            if parts.len() < 2 {
                return Err(format!("unable to determine kind and namespace from url, {text}"));
            }
            parts[0].clone_into(&mut info.verb);
            &parts[1..]
        } else {
            verb_of(method).clone_into(&mut info.verb);
            parts
        };
        info.take_resource(parts, special);
        info.name_the_collection_verbs(query);
        // A watch by prefix does not take selectors consistently, so nothing rests on them.
        if !special {
            info.take_selectors(query);
        }
        Ok(info)
    }

    /// Namespace, resource, name, subresource and the rest, from the segments after the version.
    fn take_resource(&mut self, mut parts: &[&str], special: bool) {
        if parts[0] == "namespaces" && parts.len() > 1 {
            parts[1].clone_into(&mut self.namespace);
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts = &parts[2..];
                self.in_namespace = true;
            }
        }
        parts[0].clone_into(&mut self.resource);
        if let Some(name) = parts.get(1) {
            (*name).clone_into(&mut self.name);
        }
        if special {
            self.rest = parts.iter().skip(2).map(|s| (*s).to_owned()).collect();
        } else if let Some(subresource) = parts.get(2) {
            (*subresource).clone_into(&mut self.subresource);
            self.rest = parts[3..].iter().map(|s| (*s).to_owned()).collect();
        }
    }

    /// A get or delete without a name is a list, a watch or a deletecollection; `fieldSelector=metadata.name=x` names the object.
    fn name_the_collection_verbs(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_str() {
            "get" => {
                let verb = if query.flag("watch") { "watch" } else { "list" };
                verb.clone_into(&mut self.verb);
            }
            "delete" => {
                "deletecollection".clone_into(&mut self.verb);
            }
            _ => {}
        }
    }

    /// The selectors by which the collection verbs are authorized, and the name that a selector of fields may tell.
    /// What cannot be parsed selects nothing here; the verb refuses it.
    fn take_selectors(&mut self, query: &Query) {
        if !matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            return;
        }
        if let Some(Ok(fields)) = query.get("fieldSelector").map(FieldSelector::parse) {
            let named = fields.requires("metadata.name").filter(|name| is_path_segment(name));
            if let Some(name) = named.filter(|_| self.name.is_empty() && self.verb != "deletecollection") {
                name.clone_into(&mut self.name);
            }
            self.fields = fields;
        }
        if let Some(Ok(labels)) = query.get("labelSelector").map(LabelSelector::parse) {
            self.labels = labels;
        }
    }

    /// Whether the request may run for long, and no time limit applies: watches and streams.
    pub fn is_long_running(&self) -> bool {
        const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];
        self.is_resource && (matches!(self.verb.as_str(), "watch" | "proxy") || STREAMS.contains(&self.subresource.as_str()))
    }

    /// Whether the request only reads.
    pub fn is_read(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }
}

/// Group, version and the segments after them, if the path is one of a resource.
fn split_api<'a, 'b>(all: &'a [&'b str]) -> Option<(&'b str, &'b str, &'a [&'b str])> {
    if all.len() < 3 {
        return None;
    }
    match all[0] {
        "api" => Some(("", all[1], &all[2..])),
        "apis" if all.len() >= 4 => Some((all[1], all[2], &all[3..])),
        _ => None,
    }
}

fn verb_of(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

fn segments(path: &str) -> Vec<&str> {
    let path = path.trim_matches('/');
    if path.is_empty() { Vec::new() } else { path.split('/').collect() }
}

/// Percent-decodes a path; bytes that are not UTF-8 become replacement characters, which no name allows.
fn unescape(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// Whether a name can stand in a path (apimachinery `path.IsValidPathSegmentName`).
fn is_path_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%'])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// method, path with query, expected `verb|group/version|namespace|resource|subresource|name|rest`
    const RESOURCES: &[(&str, &str, &str)] = &[
        ("GET", "/api/v1/namespaces", "list|/v1||namespaces|||"),
        ("GET", "/api/v1/namespaces/other", "get|/v1|other|namespaces||other|"),
        ("PUT", "/api/v1/namespaces/other/finalize", "update|/v1|other|namespaces|finalize|other|"),
        ("PUT", "/api/v1/namespaces/other/status", "update|/v1|other|namespaces|status|other|"),
        ("GET", "/api/v1/namespaces/other/pods", "list|/v1|other|pods|||"),
        ("GET", "/api/v1/namespaces/other/pods/foo", "get|/v1|other|pods||foo|"),
        ("HEAD", "/api/v1/namespaces/other/pods/foo", "get|/v1|other|pods||foo|"),
        ("GET", "/api/v1/pods", "list|/v1||pods|||"),
        ("POST", "/api/v1/pods", "create|/v1||pods|||"),
        ("GET", "/api/v1/pods?watch=true", "watch|/v1||pods|||"),
        ("GET", "/api/v1/pods?watch=1", "watch|/v1||pods|||"),
        ("GET", "/api/v1/pods?watch=false", "list|/v1||pods|||"),
        ("GET", "/api/v1/watch/pods", "watch|/v1||pods|||"),
        ("GET", "/api/v1/watch/namespaces/other/pods/foo", "watch|/v1|other|pods||foo|"),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dfoo", "list|/v1||pods||foo|"),
        ("GET", "/api/v1/pods?watch=true&fieldSelector=metadata.name=foo", "watch|/v1||pods||foo|"),
        ("GET", "/api/v1/pods?fieldSelector=metadata.name!=foo", "list|/v1||pods|||"),
        ("DELETE", "/api/v1/namespaces/other/pods", "deletecollection|/v1|other|pods|||"),
        ("DELETE", "/api/v1/namespaces/other/pods/foo", "delete|/v1|other|pods||foo|"),
        ("GET", "/api/v1/namespaces/other/pods/foo/log", "get|/v1|other|pods|log|foo|"),
        ("POST", "/api/v1/namespaces/other/pods/foo/exec", "create|/v1|other|pods|exec|foo|"),
        ("GET", "/api/v1/nodes/n/proxy/a/b%20c", "get|/v1||nodes|proxy|n|a/b c"),
        ("GET", "/api/v1/proxy/nodes/n/x", "proxy|/v1||nodes||n|x"),
        ("PATCH", "/apis/apps/v1/namespaces/d/deployments/web/scale", "patch|apps/v1|d|deployments|scale|web|"),
        (
            "GET",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "get|rbac.authorization.k8s.io/v1||clusterroles||system:node|",
        ),
        ("GET", "/apis/apps/v1/deployments/", "list|apps/v1||deployments|||"),
        ("OPTIONS", "/api/v1/pods", "|/v1||pods|||"),
    ];

    #[test]
    fn every_form_of_a_resource_path_is_understood() {
        for (method, url, expected) in RESOURCES {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let method: Method = method.parse().unwrap();
            let info = RequestInfo::parse(&method, path, &Query::parse(query)).unwrap();
            assert!(info.is_resource, "{url}");
            let (v, g, n, r) = (&info.verb, &info.group, &info.namespace, &info.resource);
            let found = format!("{v}|{g}/{}|{n}|{r}|{}|{}|{}", info.version, info.subresource, info.name, info.rest.join("/"));
            assert_eq!(&found, expected, "{method} {url}");
        }
    }

    #[test]
    fn other_paths_keep_their_method_as_verb() {
        for path in ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/openapi/v3/apis/apps/v1", "/version"] {
            let info = RequestInfo::parse(&Method::GET, path, &Query::default()).unwrap();
            assert!(!info.is_resource, "{path}");
            assert_eq!((info.verb.as_str(), info.path.as_str()), ("get", path));
        }
    }

    #[test]
    fn a_watch_prefix_without_a_resource_is_refused() {
        let error = RequestInfo::parse(&Method::GET, "/api/v1/watch", &Query::default()).unwrap_err();
        assert!(error.starts_with("unable to determine kind and namespace from url"), "{error}");
    }

    #[test]
    fn streams_and_watches_are_long_running_and_lists_are_not() {
        let long = |path: &str, query: &str| RequestInfo::parse(&Method::GET, path, &Query::parse(query)).unwrap().is_long_running();
        assert!(long("/api/v1/pods", "watch=true"));
        assert!(long("/api/v1/namespaces/a/pods/b/log", ""));
        assert!(!long("/api/v1/pods", ""));
    }
}
