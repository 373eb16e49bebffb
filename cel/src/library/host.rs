//! Functions of addresses, quantities, versions, URLs, formats and checks of access.

use std::sync::Arc;

use crate::EvalError;
use crate::host::{Decision, Host, ResourceCheck, ServiceAccount, Subject};
use crate::library::Row;
use crate::library::format::Format;
use crate::library::net::{Cidr, Ip};
use crate::library::quantity::Quantity;
use crate::library::semver::Semver;
use crate::library::url::{Url, request_fault};
use crate::value::{Table, Val};

type Eval<'a> = Result<Val<'a>, EvalError>;

pub(super) const FUNCTIONS: &[Row] = &[
    ("string_to_ip", "ip(string) -> ip", Some(|args| Ip::parse(text(args, 0)?).map(|ip| Val::Host(Host::Ip(ip))))),
    ("cidr_ip", "cidr : ip() -> ip", Some(|args| Ok(Val::Host(Host::Ip(cidr(args, 0)?.ip()))))),
    ("is_ip", "isIP(string) -> bool", Some(|args| Ok(Val::Bool(Ip::parse(text(args, 0)?).is_ok())))),
    (
        "ip_is_canonical",
        "ip.isCanonical(string) -> bool",
        Some(|args| {
            let written = text(args, 0)?;
            Ok(Val::Bool(Ip::parse(written)?.to_string() == written))
        }),
    ),
    ("ip_family", "ip : family() -> int", Some(|args| Ok(Val::Int(ip(args, 0)?.family())))),
    ("ip_is_unspecified", "ip : isUnspecified() -> bool", Some(|args| Ok(Val::Bool(ip(args, 0)?.0.is_unspecified())))),
    ("ip_is_loopback", "ip : isLoopback() -> bool", Some(|args| Ok(Val::Bool(ip(args, 0)?.0.is_loopback())))),
    (
        "ip_is_link_local_multicast",
        "ip : isLinkLocalMulticast() -> bool",
        Some(|args| Ok(Val::Bool(ip(args, 0)?.is_link_local_multicast()))),
    ),
    ("ip_is_link_local_unicast", "ip : isLinkLocalUnicast() -> bool", Some(|args| Ok(Val::Bool(ip(args, 0)?.is_link_local_unicast())))),
    ("ip_is_global_unicast", "ip : isGlobalUnicast() -> bool", Some(|args| Ok(Val::Bool(ip(args, 0)?.is_global_unicast())))),
    ("string_to_cidr", "cidr(string) -> cidr", Some(|args| Cidr::parse(text(args, 0)?).map(|cidr| Val::Host(Host::Cidr(cidr))))),
    ("is_cidr", "isCIDR(string) -> bool", Some(|args| Ok(Val::Bool(Cidr::parse(text(args, 0)?).is_ok())))),
    (
        "cidr_contains_ip_string",
        "cidr : containsIP(string) -> bool",
        Some(|args| Ok(Val::Bool(cidr(args, 0)?.contains(&Ip::parse(text(args, 1)?)?)))),
    ),
    ("cidr_contains_ip_ip", "cidr : containsIP(ip) -> bool", Some(|args| Ok(Val::Bool(cidr(args, 0)?.contains(ip(args, 1)?))))),
    (
        "cidr_contains_cidr_string",
        "cidr : containsCIDR(string) -> bool",
        Some(|args| Ok(Val::Bool(cidr(args, 0)?.contains_network(&Cidr::parse(text(args, 1)?)?)))),
    ),
    (
        "cidr_contains_cidr",
        "cidr : containsCIDR(cidr) -> bool",
        Some(|args| Ok(Val::Bool(cidr(args, 0)?.contains_network(cidr(args, 1)?)))),
    ),
    ("cidr_prefix_length", "cidr : prefixLength() -> int", Some(|args| Ok(Val::Int(cidr(args, 0)?.bits())))),
    ("cidr_masked", "cidr : masked() -> cidr", Some(|args| Ok(Val::Host(Host::Cidr(cidr(args, 0)?.masked()))))),
    ("string_to_url", "url(string) -> url", Some(|args| Url::parse(text(args, 0)?).map(|url| Val::Host(Host::Url(Arc::new(url)))))),
    ("is_url_string", "isURL(string) -> bool", Some(|args| Ok(Val::Bool(request_fault(text(args, 0)?).is_none())))),
    ("url_get_scheme", "url : getScheme() -> string", Some(|args| Ok(Val::from(url(args)?.scheme.clone())))),
    ("url_get_host", "url : getHost() -> string", Some(|args| Ok(Val::from(url(args)?.host.clone())))),
    ("url_get_hostname", "url : getHostname() -> string", Some(|args| Ok(Val::from(url(args)?.hostname().to_string())))),
    ("url_get_port", "url : getPort() -> string", Some(|args| Ok(Val::from(url(args)?.port().to_string())))),
    ("url_get_escaped_path", "url : getEscapedPath() -> string", Some(|args| Ok(Val::from(url(args)?.escaped_path())))),
    (
        "url_get_query",
        "url : getQuery() -> map(string, list(string))",
        Some(|args| {
            let query = url(args)?.query().into_iter();
            let entries = query.map(|(key, values)| (Val::from(key), Val::from(values.into_iter().map(Val::from).collect::<Vec<_>>())));
            Ok(Val::from(entries.collect::<Table<'_>>()))
        }),
    ),
    ("string_to_quantity", "quantity(string) -> quantity", Some(|args| Quantity::parse(text(args, 0)?).map(made))),
    ("is_quantity_string", "isQuantity(string) -> bool", Some(|args| Ok(Val::Bool(Quantity::parse(text(args, 0)?).is_ok())))),
    ("quantity_sign", "sign(quantity) -> int", Some(|args| Ok(Val::Int(quantity(args, 0)?.sign())))),
    (
        "quantity_is_greater_than",
        "quantity : isGreaterThan(quantity) -> bool",
        Some(|args| Ok(Val::Bool(quantity(args, 0)?.cmp(quantity(args, 1)?).is_gt()))),
    ),
    (
        "quantity_is_less_than",
        "quantity : isLessThan(quantity) -> bool",
        Some(|args| Ok(Val::Bool(quantity(args, 0)?.cmp(quantity(args, 1)?).is_lt()))),
    ),
    (
        "quantity_compare_to",
        "quantity : compareTo(quantity) -> int",
        Some(|args| Ok(Val::Int(quantity(args, 0)?.cmp(quantity(args, 1)?) as i64))),
    ),
    ("quantity_get_float", "quantity : asApproximateFloat() -> double", Some(|args| Ok(Val::Double(quantity(args, 0)?.approximate())))),
    (
        "quantity_get_int",
        "quantity : asInteger() -> int",
        Some(|args| quantity(args, 0)?.integer().map(Val::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))),
    ),
    ("quantity_is_integer", "quantity : isInteger() -> bool", Some(|args| Ok(Val::Bool(quantity(args, 0)?.integer().is_some())))),
    ("quantity_add", "quantity : add(quantity) -> quantity", Some(|args| sum(quantity(args, 0)?, quantity(args, 1)?))),
    ("quantity_add_int", "quantity : add(int) -> quantity", Some(|args| sum(quantity(args, 0)?, &Quantity::whole(int(args, 1)?)))),
    ("quantity_sub", "quantity : sub(quantity) -> quantity", Some(|args| sum(quantity(args, 0)?, &quantity(args, 1)?.negated()))),
    (
        "quantity_sub_int",
        "quantity : sub(int) -> quantity",
        Some(|args| sum(quantity(args, 0)?, &Quantity::whole(int(args, 1)?).negated())),
    ),
    ("string_to_semver", "semver(string) -> semver", Some(|args| version(text(args, 0)?, false))),
    ("string_bool_to_semver", "semver(string, bool) -> semver", Some(|args| version(text(args, 0)?, boolean(args, 1)?))),
    ("is_semver_string", "isSemver(string) -> bool", Some(|args| Ok(Val::Bool(Semver::parse(text(args, 0)?, false).is_ok())))),
    (
        "is_semver_string_bool",
        "isSemver(string, bool) -> bool",
        Some(|args| Ok(Val::Bool(Semver::parse(text(args, 0)?, boolean(args, 1)?).is_ok()))),
    ),
    (
        "semver_is_greater_than",
        "semver : isGreaterThan(semver) -> bool",
        Some(|args| Ok(Val::Bool(semver(args, 0)?.cmp(semver(args, 1)?).is_gt()))),
    ),
    (
        "semver_is_less_than",
        "semver : isLessThan(semver) -> bool",
        Some(|args| Ok(Val::Bool(semver(args, 0)?.cmp(semver(args, 1)?).is_lt()))),
    ),
    ("semver_compare_to", "semver : compareTo(semver) -> int", Some(|args| Ok(Val::Int(semver(args, 0)?.cmp(semver(args, 1)?) as i64)))),
    ("semver_major", "semver : major() -> int", Some(|args| Ok(Val::Int(semver(args, 0)?.major.cast_signed())))),
    ("semver_minor", "semver : minor() -> int", Some(|args| Ok(Val::Int(semver(args, 0)?.minor.cast_signed())))),
    ("semver_patch", "semver : patch() -> int", Some(|args| Ok(Val::Int(semver(args, 0)?.patch.cast_signed())))),
    ("format-validate", "format : validate(string) -> optional(list(string))", Some(validate)),
    (
        "format-named",
        "format.named(string) -> optional(format)",
        Some(|args| Ok(Val::Optional(Format::named(text(args, 0)?).map(|format| Arc::new(Val::Host(Host::Format(format))))))),
    ),
    ("format.dns1123Label", "format.dns1123Label() -> format", Some(|_| format("dns1123Label"))),
    ("format.dns1123Subdomain", "format.dns1123Subdomain() -> format", Some(|_| format("dns1123Subdomain"))),
    ("format.dns1035Label", "format.dns1035Label() -> format", Some(|_| format("dns1035Label"))),
    ("format.qualifiedName", "format.qualifiedName() -> format", Some(|_| format("qualifiedName"))),
    ("format.dns1123LabelPrefix", "format.dns1123LabelPrefix() -> format", Some(|_| format("dns1123LabelPrefix"))),
    ("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix() -> format", Some(|_| format("dns1123SubdomainPrefix"))),
    ("format.dns1035LabelPrefix", "format.dns1035LabelPrefix() -> format", Some(|_| format("dns1035LabelPrefix"))),
    ("format.labelValue", "format.labelValue() -> format", Some(|_| format("labelValue"))),
    ("format.uri", "format.uri() -> format", Some(|_| format("uri"))),
    ("format.uuid", "format.uuid() -> format", Some(|_| format("uuid"))),
    ("format.byte", "format.byte() -> format", Some(|_| format("byte"))),
    ("format.date", "format.date() -> format", Some(|_| format("date"))),
    ("format.datetime", "format.datetime() -> format", Some(|_| format("datetime"))),
    ("authorizer_path", "authorizer : path(string) -> path", Some(path)),
    (
        "authorizer_group",
        "authorizer : group(string) -> group",
        Some(|args| {
            let Val::Host(Host::Authorizer(subject)) = &args[0] else { return Err(EvalError::no_overload()) };
            Ok(Val::Host(Host::Group(subject.clone(), text(args, 1)?.into())))
        }),
    ),
    ("authorizer_serviceaccount", "authorizer : serviceAccount(string, string) -> authorizer", Some(service_account)),
    ("groupcheck_resource", "group : resource(string) -> resource", Some(resource)),
    (
        "resourcecheck_subresource",
        "resource : subresource(string) -> resource",
        Some(|args| refine(args, |check, text| check.subresource = text)),
    ),
    (
        "resourcecheck_namespace",
        "resource : namespace(string) -> resource",
        Some(|args| refine(args, |check, text| check.namespace = text)),
    ),
    ("resourcecheck_name", "resource : name(string) -> resource", Some(|args| refine(args, |check, text| check.name = text))),
    (
        "authorizer_fieldselector",
        "resource : fieldSelector(string) -> resource",
        Some(|args| refine(args, |check, text| check.field_selector = text)),
    ),
    (
        "authorizer_labelselector",
        "resource : labelSelector(string) -> resource",
        Some(|args| refine(args, |check, text| check.label_selector = text)),
    ),
    ("pathcheck_check", "path : check(string) -> decision", Some(check)),
    ("resourcecheck_check", "resource : check(string) -> decision", Some(check)),
    ("decision_errored", "decision : errored() -> bool", Some(|args| Ok(Val::Bool(decision(args)?.error.is_some())))),
    ("decision_error", "decision : error() -> string", Some(|args| Ok(Val::from(decision(args)?.error.clone().unwrap_or_default())))),
    ("decision_allowed", "decision : allowed() -> bool", Some(|args| Ok(Val::Bool(decision(args)?.allowed)))),
    ("decision_reason", "decision : reason() -> string", Some(|args| Ok(Val::from(decision(args)?.reason.clone())))),
];

fn text<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Val::as_str).ok_or_else(EvalError::no_overload)
}

fn boolean(args: &[Val<'_>], at: usize) -> Result<bool, EvalError> {
    args.get(at).and_then(Val::as_bool).ok_or_else(EvalError::no_overload)
}

fn int(args: &[Val<'_>], at: usize) -> Result<i64, EvalError> {
    match args.get(at) {
        Some(Val::Int(number)) => Ok(*number),
        _ => Err(EvalError::no_overload()),
    }
}

fn ip<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v Ip, EvalError> {
    match args.get(at) {
        Some(Val::Host(Host::Ip(ip))) => Ok(ip),
        _ => Err(EvalError::no_overload()),
    }
}

fn cidr<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v Cidr, EvalError> {
    match args.get(at) {
        Some(Val::Host(Host::Cidr(cidr))) => Ok(cidr),
        _ => Err(EvalError::no_overload()),
    }
}

fn url<'v>(args: &'v [Val<'_>]) -> Result<&'v Url, EvalError> {
    match args.first() {
        Some(Val::Host(Host::Url(url))) => Ok(url),
        _ => Err(EvalError::no_overload()),
    }
}

fn quantity<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v Quantity, EvalError> {
    match args.get(at) {
        Some(Val::Host(Host::Quantity(quantity))) => Ok(quantity),
        _ => Err(EvalError::no_overload()),
    }
}

fn semver<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v Semver, EvalError> {
    match args.get(at) {
        Some(Val::Host(Host::Semver(version))) => Ok(version),
        _ => Err(EvalError::no_overload()),
    }
}

fn decision<'v>(args: &'v [Val<'_>]) -> Result<&'v Decision, EvalError> {
    match args.first() {
        Some(Val::Host(Host::Decision(decision))) => Ok(decision),
        _ => Err(EvalError::no_overload()),
    }
}

fn made<'a>(quantity: Quantity) -> Val<'a> {
    Val::Host(Host::Quantity(quantity))
}

fn sum<'a>(one: &Quantity, other: &Quantity) -> Eval<'a> {
    one.add(other).map(made).ok_or_else(EvalError::memory)
}

fn version<'a>(text: &str, normalize: bool) -> Eval<'a> {
    Semver::parse(text, normalize).map(|version| Val::Host(Host::Semver(Arc::new(version))))
}

fn format<'a>(name: &str) -> Eval<'a> {
    Format::named(name).map(|format| Val::Host(Host::Format(format))).ok_or_else(EvalError::no_overload)
}

fn validate<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let Some(Val::Host(Host::Format(format))) = args.first() else { return Err(EvalError::no_overload()) };
    let complaints: Vec<Val<'a>> = format.complaints(text(args, 1)?).into_iter().map(Val::from).collect();
    Ok(if complaints.is_empty() { Val::Optional(None) } else { Val::some(Val::from(complaints)) })
}

fn path<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let Val::Host(Host::Authorizer(subject)) = &args[0] else { return Err(EvalError::no_overload()) };
    let path = text(args, 1)?;
    if path.trim().is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    Ok(Val::Host(Host::Path(subject.clone(), path.into())))
}

fn service_account<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let Val::Host(Host::Authorizer(subject)) = &args[0] else { return Err(EvalError::no_overload()) };
    let (namespace, name) = (text(args, 1)?, text(args, 2)?);
    let wrong = |format: &str, text: &str| Format::named(format).is_some_and(|format| !format.complaints(text).is_empty());
    if wrong("dns1123Subdomain", name) {
        return Err(EvalError::new("Invalid service account name"));
    }
    if wrong("dns1123Label", namespace) {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let account = ServiceAccount { namespace: namespace.to_string(), name: name.to_string() };
    Ok(Val::Host(Host::Authorizer(Subject { authorizer: subject.authorizer, account: Some(Arc::new(account)) })))
}

fn resource<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let Val::Host(Host::Group(subject, group)) = &args[0] else { return Err(EvalError::no_overload()) };
    let resource = text(args, 1)?;
    if resource.trim().is_empty() {
        return Err(EvalError::new("resource must not be empty"));
    }
    let check = ResourceCheck { group: group.to_string(), resource: resource.to_string(), ..ResourceCheck::default() };
    Ok(Val::Host(Host::Resource(subject.clone(), Arc::new(check))))
}

fn refine<'a>(args: &[Val<'a>], set: fn(&mut ResourceCheck, String)) -> Eval<'a> {
    let Val::Host(Host::Resource(subject, check)) = &args[0] else { return Err(EvalError::no_overload()) };
    let mut check = (**check).clone();
    set(&mut check, text(args, 1)?.to_string());
    Ok(Val::Host(Host::Resource(subject.clone(), Arc::new(check))))
}

fn check<'a>(args: &[Val<'a>]) -> Eval<'a> {
    let verb = text(args, 1)?;
    let decision = match &args[0] {
        Val::Host(Host::Path(subject, path)) => subject.authorizer.path(subject.account.as_deref(), path, verb),
        Val::Host(Host::Resource(subject, check)) => subject.authorizer.resource(subject.account.as_deref(), check, verb),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Val::Host(Host::Decision(Arc::new(decision))))
}
