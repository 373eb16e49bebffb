//! The path grammar, parsed once at the door; every later layer reads [`RequestInfo`] and never the path.

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
    /// Plural resource.
    pub resource: String,
    /// Subresource, empty for none.
    pub subresource: String,
    /// Object name, empty for collections.
    pub name: String,
    /// Path segments after the subresource (proxy).
    pub rest: Vec<String>,
}
