//! Paths and query options.

use coracle_apiserver::request::{
    Query, RequestInfo,
    query::{DeleteOptions, ListOptions, WriteOptions},
};
use http::Method;

/// Method, path and query: names are one segment whatever the escapes, only paths of the API name a resource, options are read or refused.
pub(crate) fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let query = Query::parse(query);
    for method in [Method::GET, Method::POST, Method::DELETE, Method::PATCH] {
        let Ok(info) = RequestInfo::parse(&method, path, &query) else { continue };
        assert!(info.is_resource || info.resource.is_empty(), "{path}: a path that is no resource names one");
        for part in [&info.group, &info.version, &info.resource, &info.subresource, &info.namespace, &info.name] {
            assert!(!part.contains('/'), "{path}: {part} is more than one segment");
        }
    }
    for watch in [false, true] {
        let _ = ListOptions::parse(&query, watch);
    }
    for apply in [false, true] {
        let _ = WriteOptions::parse_patch(&query, "agent/1", apply);
    }
    let _ = WriteOptions::parse(&query, "agent/1", "Pod");
    let _ = DeleteOptions::parse(&query, None);
}
