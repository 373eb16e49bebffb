//! What the call of one overload costs, and how large its result is.

use crate::ast::{Expr, Literal};
use crate::cost::{Coster, Known, LIST, PATTERN, Path, Range, TRAVERSAL, scaled};
use crate::host;
use crate::types::{Kind, Type};

/// An argument.
pub(crate) struct Arg<'a> {
    pub(crate) expr: &'a Expr,
    pub(crate) ty: &'a Type,
    pub(crate) known: &'a Known,
}

impl Arg<'_> {
    fn size(&self) -> Range {
        self.known.size.unwrap_or(Range::UNKNOWN)
    }

    /// The value of a literal that is no negative integer.
    fn number(&self, default: u64) -> u64 {
        match self.expr.as_literal() {
            Some(Literal::Int(number)) => u64::try_from(*number).unwrap_or(0),
            _ => default,
        }
    }
}

/// The cost, and the size of the result if it is known.
type Call = (Range, Option<Range>);

/// What a call costs, its arguments included; the target is counted by the caller.
pub(crate) fn call(coster: &Coster<'_>, function: &str, overload: &str, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Call {
    let arguments = args.iter().fold(Range::ZERO, |sum, arg| sum.add(arg.known.cost));
    if let Some((cost, size)) = extension(overload, target, args)
        .or_else(|| library(coster, function, overload, target, args))
        .or_else(|| standard(overload, target, args))
    {
        return (cost.add(arguments), size);
    }
    match overload {
        "logical_or" | "logical_and" => {
            let (one, other) = (args[0].known.cost, args[1].known.cost);
            (Range { min: one.min, max: one.max.saturating_add(other.max) }, None)
        }
        "conditional" => {
            let branches = args[1].known.cost.union(args[2].known.cost);
            (args[0].known.cost.add(branches), Some(args[1].size().union(args[2].size())))
        }
        _ => (arguments.add(Range::exactly(1)), None),
    }
}

/// Functions of lists and sets (cel-go `ext/{lists,sets}.go`).
fn extension(overload: &str, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Call> {
    let made = |factor: f64, size: Range| Some((size.times(factor).add(Range::exactly(1 + LIST)), Some(size)));
    let squared = |size: Range| size.multiply(size);
    match overload {
        "list_slice" => {
            let (start, end) = (args.first()?.number(0), args.get(1)?.number(target?.size().max));
            made(1.0, Range::exactly(end.wrapping_sub(start)))
        }
        "list_flatten" => made(1.0, target?.size()),
        #[allow(clippy::cast_precision_loss)]
        "list_flatten_int" => made(args.first()?.number(u64::MAX) as f64, target?.size()),
        "lists_range" => made(1.0, Range::exactly(args.first()?.number(u64::MAX))),
        "list_reverse" => made(1.0, target?.size()),
        "list_distinct" => made(2.0, squared(target?.size())),
        "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
            let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
            let cost = args.first()?.size().multiply(args.get(1)?.size()).times(factor);
            Some((cost.add(Range::exactly(1)), None))
        }
        _ => {
            let kind = overload.strip_prefix("list_")?;
            let (kind, by) = match kind.strip_suffix("_sort") {
                Some(kind) => (kind, false),
                None => (kind.strip_suffix("_sortByAssociatedKeys")?, true),
            };
            let factor = if matches!(kind, "string" | "bytes") { 2.0 + TRAVERSAL } else { 2.0 };
            made(factor, squared(if by { args.first()?.size() } else { target?.size() }))
        }
    }
}

/// Functions that Kubernetes reckons (apiserver `pkg/cel/library/cost.go`).
fn library(coster: &Coster<'_>, function: &str, overload: &str, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Call> {
    let one = Some((Range::exactly(1), None));
    let walk = |size: Range| Some((size.times(TRAVERSAL), None));
    match function {
        "check" => Some((Range::exactly(350_000), None)),
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed" | "reason" | "error"
        | "errored" => one,
        "fieldSelector" | "labelSelector" => Some((selector(args.first()?.size()), None)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => elements(coster, function, target?),
        "url" | "jsonpatch.escapeKey" => Some((args.first()?.size().times(TRAVERSAL), Some(args.first()?.size()))),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => Some((target?.size().times(TRAVERSAL), Some(target?.size()))),
        "replace" => {
            let size = target?.size();
            let made = replaced(size, args.first()?.size(), args.get(1)?.size());
            Some((size.times(2.0 * TRAVERSAL), Some(made)))
        }
        "split" => {
            let size = target?.size();
            let most = args.get(1).map_or(size.max, |arg| match arg.expr.as_literal() {
                Some(Literal::Int(number)) => number.cast_unsigned(),
                _ => size.max,
            });
            Some((size.times(2.0 * TRAVERSAL), Some(Range { min: 0, max: most })))
        }
        "join" => {
            let size = joined(coster, target?, args);
            Some((size.times(TRAVERSAL), Some(size)))
        }
        "find" | "findAll" => {
            let size = target?.size();
            Some((matched(size, args.first()?.size()), Some(Range { min: 0, max: size.max })))
        }
        "ip" if overload == "cidr_ip" => one,
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => walk(args.first()?.size()),
        "ip.isCanonical" => Some((args.first()?.size().times(2.0 * TRAVERSAL), None)),
        "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => one,
        "containsIP" | "containsCIDR" => Some((contained(function, overload, args.first()?), None)),
        "validate" => Some((args.first()?.size().times(TRAVERSAL).times(128.0 * PATTERN), None)),
        "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan" | "compareTo"
        | "add" | "sub" | "major" | "minor" | "patch" | "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath"
        | "getQuery" => one,
        "_==_" => equality(args),
        _ => None,
    }
}

/// Equality of values of the libraries.
fn equality(args: &[Arg<'_>]) -> Option<Call> {
    let [one, other] = args else { return None };
    if one.ty != other.ty {
        return None;
    }
    match one.ty {
        Type::Opaque("net.IP" | "net.CIDR", _) => Some((Range::exactly(1), None)),
        Type::Object(object) if host::constant_equality(object.name()) => Some((Range::exactly(1), None)),
        Type::Object(object) if object.name() == "kubernetes.NamedFormat" => Some((Range { min: 1, max: 64 }.times(TRAVERSAL), None)),
        Type::Object(object) if object.name() == "kubernetes.URL" => {
            let max = other.known.size.map_or(1, |size| size.max);
            Some((Range { min: 1, max }.times(TRAVERSAL), None))
        }
        _ => None,
    }
}

fn selector(length: Range) -> Range {
    let requirements = length.times(0.5);
    Range::exactly(LIST).add(length.times(TRAVERSAL)).add(requirements.times(50.0))
}

/// The type and, if the declarations tell, the size of the elements of a list.
fn element<'a>(coster: &Coster<'_>, list: &Arg<'a>) -> Option<(&'a Type, Range)> {
    let ty = match list.ty {
        Type::List(element) => &**element,
        Type::Map(entry) => &entry.0,
        Type::Opaque(_, of) => of.first()?,
        _ => return None,
    };
    let path = list.known.path.as_ref().map(|path| {
        let mut steps = path.as_ref().clone();
        steps.push("@items".to_string());
        Path::new(steps)
    });
    Some((ty, coster.declared(path.as_ref()).unwrap_or(Range::UNKNOWN)))
}

fn elements(coster: &Coster<'_>, function: &str, target: &Arg<'_>) -> Option<Call> {
    let cost = match element(coster, target) {
        Some((ty, size)) => {
            let walk = matches!(ty.kind(), Kind::String | Kind::Bytes);
            let each = Range::exactly(1).add(if walk { size.times(TRAVERSAL) } else { Range::ZERO });
            target.size().multiply(each)
        }
        None if function == "includes" => target.size(),
        None => target.size().times(TRAVERSAL),
    };
    Some((cost, None))
}

/// The size of a text in which parts are exchanged.
fn replaced(size: Range, from: Range, to: Range) -> Range {
    let (max_count, max_kept) = if from.min == 0 {
        (size.max.saturating_add(1), size.max)
    } else if to.max <= from.min {
        (0, size.max)
    } else {
        (quotient(size.max, from.min), 0)
    };
    let (min_count, min_kept) = if from.max == 0 {
        (size.min.saturating_add(1), size.min)
    } else if from.max <= to.min {
        (0, size.min)
    } else {
        (quotient(size.min, from.max), 0)
    };
    Range { min: min_count, max: max_count }.multiply(to).add(Range { min: min_kept, max: max_kept })
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn quotient(whole: u64, part: u64) -> u64 {
    (whole as f64 / part as f64).ceil() as u64
}

fn joined(coster: &Coster<'_>, target: &Arg<'_>, args: &[Arg<'_>]) -> Range {
    let count = target.size();
    let mut size = element(coster, target).map_or(Range::ZERO, |(_, each)| count.multiply(each));
    if let Some(separator) = args.first() {
        let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
        size = size.add(separator.size().multiply(between));
    }
    size
}

fn matched(text: Range, pattern: Range) -> Range {
    text.add(Range::exactly(1)).times(TRAVERSAL).multiply(pattern.times(PATTERN))
}

fn contained(function: &str, overload: &str, other: &Arg<'_>) -> Range {
    let size = Range { min: 4, max: 16 };
    let mut cost = size.add(size).times(TRAVERSAL);
    if function == "containsCIDR" {
        cost = cost.add(size.times(TRAVERSAL)).add(Range::exactly(1));
    }
    if matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
        cost = cost.add(other.size().times(TRAVERSAL));
    }
    cost
}

/// The functions of the language itself.
fn standard(overload: &str, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Call> {
    let walk = |size: Range| size.times(TRAVERSAL);
    match overload {
        "string_format" => Some((walk(target?.size()), None)),
        "string_to_bytes" => {
            let size = args.first()?.size();
            Some((walk(size), Some(Range { min: size.min, max: size.max.wrapping_mul(4) })))
        }
        "bytes_to_string" => {
            let size = args.first()?.size();
            Some((walk(size), Some(Range { min: size.min / 4, max: size.max })))
        }
        "strings_quote" => {
            let size = args.first()?.size();
            let made = Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
            Some((walk(size), Some(made)))
        }
        "starts_with_string" | "ends_with_string" => Some((walk(args.first()?.size()), None)),
        "in_list" => Some((args.get(1)?.size(), None)),
        "matches_string" => Some((matched(target?.size(), args.first()?.size()), None)),
        "matches" => Some((matched(args.first()?.size(), args.get(1)?.size()), None)),
        "contains_string" => Some((walk(target?.size()).multiply(walk(args.first()?.size())), None)),
        "add_list" => Some((Range::exactly(1), Some(args.first()?.size().add(args.get(1)?.size())))),
        "add_string" | "add_bytes" => {
            let size = args.first()?.size().add(args.get(1)?.size());
            Some((walk(size), Some(size)))
        }
        "equals" | "not_equals" => Some((compared(args)?, None)),
        _ if ["less_", "greater_"].iter().any(|prefix| overload.starts_with(prefix))
            && (overload.ends_with("_string") || overload.ends_with("_bytes")) =>
        {
            Some((compared(args)?, None))
        }
        _ => None,
    }
}

fn compared(args: &[Arg<'_>]) -> Option<Range> {
    let smaller = args.first()?.size().max.min(args.get(1)?.size().max);
    Some(Range { min: scaled(u64::from(smaller > 0), TRAVERSAL), max: scaled(smaller, TRAVERSAL) })
}
