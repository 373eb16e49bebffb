//! Values with functions of their own: addresses, quantities, versions, checks of access (apiserver `pkg/cel/library`).

use std::fmt;
use std::sync::Arc;

use crate::EvalError;
use crate::library::{
    format::Format,
    net::{Cidr, Ip},
    quantity::Quantity,
    semver::Semver,
    url::Url,
};
use crate::types::Type;

/// A value of a Kubernetes library.
#[derive(Clone, Debug)]
pub enum Host<'a> {
    /// `ip()`.
    Ip(Ip),
    /// `cidr()`.
    Cidr(Cidr),
    /// `url()`.
    Url(Arc<Url>),
    /// `quantity()`.
    Quantity(Quantity),
    /// `semver()`.
    Semver(Arc<Semver>),
    /// `format.dns1123Label()`.
    Format(&'static Format),
    /// Whose access is checked.
    Authorizer(Subject<'a>),
    /// `authorizer.path()`.
    Path(Subject<'a>, Arc<str>),
    /// `authorizer.group()`.
    Group(Subject<'a>, Arc<str>),
    /// `authorizer.group().resource()`.
    Resource(Subject<'a>, Arc<ResourceCheck>),
    /// What was decided.
    Decision(Arc<Decision>),
}

/// Asks whether someone may do something. The expression's user is known to who implements it.
pub trait Authorizer: Send + Sync {
    /// Whether `account` (the user of the request if none) may do it.
    fn resource(&self, account: Option<&ServiceAccount>, check: &ResourceCheck, verb: &str) -> Decision;
    /// Whether `account` (the user of the request if none) may use the path.
    fn path(&self, account: Option<&ServiceAccount>, path: &str, verb: &str) -> Decision;
}

/// An account other than the user of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What an authorizer said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// It may be done.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// The check itself failed.
    pub error: Option<String>,
}

/// A resource to which access is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceCheck {
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The name, or empty.
    pub name: String,
    /// A field selector, or empty.
    pub field_selector: String,
    /// A label selector, or empty.
    pub label_selector: String,
}

/// Whose access is checked.
#[derive(Clone)]
pub struct Subject<'a> {
    /// Who decides.
    pub authorizer: &'a dyn Authorizer,
    /// Another account than the user of the request.
    pub account: Option<Arc<ServiceAccount>>,
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Subject({:?})", self.account)
    }
}

impl<'a> Host<'a> {
    /// The variable `authorizer`.
    pub fn authorizer(authorizer: &'a dyn Authorizer) -> Host<'a> {
        Host::Authorizer(Subject { authorizer, account: None })
    }

    /// The variable `authorizer.requestResource`.
    pub fn request_resource(authorizer: &'a dyn Authorizer, check: ResourceCheck) -> Host<'a> {
        Host::Resource(Subject { authorizer, account: None }, Arc::new(check))
    }

    pub(crate) fn ty(&self) -> Type {
        ty(match self {
            Host::Ip(_) => "ip",
            Host::Cidr(_) => "cidr",
            Host::Url(_) => "url",
            Host::Quantity(_) => "quantity",
            Host::Semver(_) => "semver",
            Host::Format(_) => "format",
            Host::Authorizer(_) => "authorizer",
            Host::Path(..) => "path",
            Host::Group(..) => "group",
            Host::Resource(..) => "resource",
            Host::Decision(_) => "decision",
        })
        .unwrap_or(Type::Dyn)
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Host::Ip(ip) => ip.size(),
            Host::Cidr(cidr) => cidr.size(),
            _ => 1,
        }
    }

    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Host::Ip(ip) => Some(ip.to_string()),
            Host::Cidr(cidr) => Some(cidr.to_string()),
            _ => None,
        }
    }

    /// Equality costs the same whatever the values are.
    pub(crate) fn equal(&self, other: &Host<'_>) -> Result<bool, EvalError> {
        match (self, other) {
            (Host::Ip(a), Host::Ip(b)) => Ok(a == b),
            (Host::Cidr(a), Host::Cidr(b)) => Ok(a == b),
            (Host::Url(a), Host::Url(b)) => Ok(a.to_string() == b.to_string()),
            (Host::Quantity(a), Host::Quantity(b)) => Ok(a == b),
            (Host::Semver(a), Host::Semver(b)) => Ok(a == b),
            (Host::Format(a), Host::Format(b)) => Ok(a.name == b.name),
            _ => Err(EvalError::no_overload()),
        }
    }
}

/// The types of the Kubernetes libraries, by the short names of their declarations.
pub(crate) fn ty(short: &str) -> Option<Type> {
    Some(match short {
        "ip" => Type::Opaque("net.IP", [].into()),
        "cidr" => Type::Opaque("net.CIDR", [].into()),
        _ => Type::named(NAMED.iter().find(|(name, _)| *name == short)?.1),
    })
}

const NAMED: [(&str, &str); 9] = [
    ("url", "kubernetes.URL"),
    ("quantity", "kubernetes.Quantity"),
    ("semver", "kubernetes.Semver"),
    ("format", "kubernetes.NamedFormat"),
    ("authorizer", "kubernetes.authorization.Authorizer"),
    ("path", "kubernetes.authorization.PathCheck"),
    ("group", "kubernetes.authorization.GroupCheck"),
    ("resource", "kubernetes.authorization.ResourceCheck"),
    ("decision", "kubernetes.authorization.Decision"),
];

/// Whether comparing values of this named type costs one unit.
pub(crate) fn constant_equality(name: &str) -> bool {
    NAMED.iter().any(|(short, known)| *known == name && !matches!(*short, "url" | "format"))
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => out.write_str(&text),
            None => out.write_str(self.ty().name()),
        }
    }
}
