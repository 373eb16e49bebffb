//! What calls cost when they are evaluated (cel-go `interpreter/runtimecost.go`, apiserver `pkg/cel/library/cost.go`). Costs that follow
//! from the arguments are charged before the call, so that what is too expensive is not begun.

use crate::cost::{LIST, PATTERN, TRAVERSAL, scaled};
use crate::host::Host;
use crate::library::Overload;
use crate::value::{Map, Val};

/// How the cost of a call is reckoned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Charge {
    /// Always the same.
    Fixed(u64),
    /// The size of an argument, times a factor.
    Walk(usize, f64),
    /// All that is in the first argument.
    Whole,
    /// A selector in the second argument.
    Selector,
    /// The size of the result, times a factor.
    Result(f64),
    /// A text and a pattern.
    Pattern,
    /// A text and what is looked for in it.
    Search,
    /// An address or network in a network; given as text?
    Network { network: bool, text: bool },
    /// A format and a text.
    Format,
    /// The shorter of two.
    Compare,
    /// As compare, but values of the libraries cost one.
    Equal,
    /// Both together.
    Join,
    /// The elements of a list that is looked through.
    Elements(usize),
    /// A list that is made.
    Made,
    /// A list that is flattened.
    Flatten,
    /// All elements of an argument with one another.
    Among(usize),
    /// Each element with each of another list, times a factor.
    Product(f64),
}

impl Charge {
    /// How calls of `function` are reckoned; the overload is known only if there is just one.
    pub(crate) fn of(function: &str, overloads: &[&'static Overload]) -> Charge {
        let overload = match overloads {
            [one] => one.id.as_str(),
            _ => "",
        };
        Charge::extension(overload).or_else(|| Charge::library(function, overload)).unwrap_or_else(|| Charge::standard(overload))
    }

    fn extension(overload: &str) -> Option<Charge> {
        Some(match overload {
            "list_slice" | "lists_range" | "list_reverse" => Charge::Made,
            "list_flatten" | "list_flatten_int" => Charge::Flatten,
            "list_distinct" => Charge::Among(0),
            "list_sets_contains_list" | "list_sets_intersects_list" => Charge::Product(1.0),
            "list_sets_equivalent_list" => Charge::Product(2.0),
            _ if overload.ends_with("_sortByAssociatedKeys") => Charge::Among(1),
            _ if overload.starts_with("list_") && overload.ends_with("_sort") => Charge::Among(0),
            _ => return None,
        })
    }

    fn library(function: &str, overload: &str) -> Option<Charge> {
        Some(match function {
            "check" => Charge::Fixed(350_000),
            "fieldSelector" | "labelSelector" => Charge::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => Charge::Whole,
            "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => Charge::Walk(0, TRAVERSAL),
            "replace" | "split" | "ip.isCanonical" => Charge::Walk(0, 2.0 * TRAVERSAL),
            "join" => Charge::Result(2.0 * TRAVERSAL),
            "find" | "findAll" => Charge::Pattern,
            "ip" if overload == "cidr_ip" => Charge::Fixed(1),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => Charge::Walk(0, TRAVERSAL),
            "containsIP" => Charge::Network { network: false, text: overload == "cidr_contains_ip_string" },
            "containsCIDR" => Charge::Network { network: true, text: overload == "cidr_contains_cidr_string" },
            "validate" => Charge::Format,
            "_==_" => Charge::Equal,
            _ => return None,
        })
    }

    fn standard(overload: &str) -> Charge {
        match overload {
            "starts_with_string" | "ends_with_string" => Charge::Walk(1, TRAVERSAL),
            "string_to_bytes" | "bytes_to_string" | "strings_quote" | "string_format" => Charge::Walk(0, TRAVERSAL),
            "in_list" => Charge::Elements(1),
            "not_equals" | "equals" => Charge::Compare,
            "add_string" | "add_bytes" => Charge::Join,
            "matches" | "matches_string" => Charge::Pattern,
            "contains_string" => Charge::Search,
            _ => {
                let ordering = overload.starts_with("less_") || overload.starts_with("greater_");
                if ordering && (overload.ends_with("_string") || overload.ends_with("_bytes")) { Charge::Compare } else { Charge::Fixed(1) }
            }
        }
    }

    /// What a call costs before it is made; `None` if that depends on the result.
    pub(crate) fn before(self, args: &[Val<'_>]) -> Option<u64> {
        let size = |at: usize| args.get(at).map_or(1, Val::size);
        let walk = |size: u64| scaled(size, TRAVERSAL);
        Some(match self {
            Charge::Fixed(cost) => cost,
            Charge::Walk(at, factor) => scaled(size(at), factor),
            Charge::Whole => args.first().map_or(0, whole),
            Charge::Selector => selector(size(1)),
            Charge::Result(_) | Charge::Made => return None,
            Charge::Pattern => walk(size(0).saturating_add(1)).saturating_mul(scaled(size(1), PATTERN)),
            Charge::Search => walk(size(0)).saturating_mul(walk(size(1))),
            Charge::Network { network, text } => {
                let inner = if network { walk(size(0)) + 1 } else { 0 };
                walk(size(0) * 2) + inner + if text { walk(size(1)) } else { 0 }
            }
            Charge::Format => {
                let pattern = match args.first() {
                    Some(Val::Host(Host::Format(format))) => format.pattern,
                    _ => 1,
                };
                walk(size(1).saturating_add(1)).saturating_mul(scaled(pattern, PATTERN))
            }
            Charge::Equal if matches!(args.first(), Some(Val::Host(_))) => 1,
            Charge::Compare | Charge::Equal => walk(size(0).min(size(1))),
            Charge::Join => walk(size(0).saturating_add(size(1))),
            Charge::Elements(at) => size(at),
            Charge::Flatten => {
                let depth = match args.get(1) {
                    Some(Val::Int(depth)) => *depth,
                    _ => 1,
                };
                size(0).saturating_mul(u64::try_from(depth).unwrap_or(1)).saturating_add(1 + LIST)
            }
            Charge::Among(at) => among(args.get(at)),
            Charge::Product(factor) => floored(size(0).saturating_mul(size(1)), factor).saturating_add(1),
        })
    }

    /// What a call costs once its result is known.
    pub(crate) fn after(self, result: &Val<'_>) -> u64 {
        match self {
            Charge::Result(factor) => scaled(result.size(), factor),
            Charge::Made => result.size().saturating_add(1 + LIST),
            _ => 0,
        }
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn floored(count: u64, factor: f64) -> u64 {
    (count as f64 * factor) as u64
}

fn selector(length: u64) -> u64 {
    LIST + scaled(length, TRAVERSAL) + scaled(scaled(length, 0.5), 50.0)
}

fn among(list: Option<&Val<'_>>) -> u64 {
    let Some(Val::List(list)) = list else { return 1 + LIST };
    let size = list.len() as u64;
    let factor = match list.get(0) {
        Some(Ok(Val::String(_) | Val::Bytes(_))) => 2.0 + TRAVERSAL,
        _ => 2.0,
    };
    floored(size.saturating_mul(size), factor).saturating_add(1 + LIST)
}

/// What it costs to walk over all of a value.
fn whole(value: &Val<'_>) -> u64 {
    match value {
        Val::String(text) => floored(text.as_str().len() as u64, TRAVERSAL),
        Val::Bytes(bytes) => floored(bytes.len() as u64, TRAVERSAL),
        Val::List(list) => list.iter().map(|item| item.map_or(1, |item| whole(&item))).sum(),
        Val::Map(Map::Shared(table)) => table.entries().iter().map(|(key, value)| whole(key) + whole(value)).sum(),
        Val::Map(map) => map.keys().map(|key| whole(&key) + map.find(&key).map_or(1, |value| value.map_or(1, |value| whole(&value)))).sum(),
        _ => 1,
    }
}
