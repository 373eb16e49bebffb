//! The functions that expressions may call: the standard ones, and those that Kubernetes adds (apiserver `pkg/cel/environment/base.go`).

pub(crate) mod format;
mod host;
pub(crate) mod lists;
pub(crate) mod net;
pub(crate) mod quantity;
pub(crate) mod semver;
mod standard;
mod strings;
pub(crate) mod text_format;
pub(crate) mod url;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::types::{Kind, Param, Type};
use crate::value::{List, Map, Val};
use crate::{EvalError, host as values};

/// How a function is computed.
pub(crate) type Native = for<'a> fn(&[Val<'a>]) -> Result<Val<'a>, EvalError>;

/// One way to call a function.
pub(crate) struct Overload {
    pub(crate) id: String,
    pub(crate) method: bool,
    /// Of a method, the first is what it is called on.
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) params: Vec<Param>,
    /// Operators have none: the evaluator knows them.
    pub(crate) run: Option<Native>,
    pub(crate) scope: Scope,
}

/// Which expressions may call an overload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    /// Those that are stored already: what this version introduced must not be written while the version before may have to read it.
    Stored,
    /// Those that make patches.
    Mutation,
}

impl Overload {
    /// Whether values fit the types, as far as values tell.
    pub(crate) fn fits(&self, args: &[Val<'_>]) -> bool {
        self.args.len() == args.len() && self.args.iter().zip(args).all(|(ty, value)| fits(ty, value))
    }
}

fn fits(ty: &Type, value: &Val<'_>) -> bool {
    match (ty.kind(), value) {
        (Kind::Dyn | Kind::Param, _) => true,
        (Kind::List, Val::List(list)) => match (ty.element(), list) {
            (Some(element), List::Json(..)) if matches!(element.kind(), Kind::Dyn | Kind::Param) => true,
            (Some(element), list) => list.get(0).is_none_or(|first| first.is_ok_and(|first| fits(element, &first))),
            (None, _) => true,
        },
        (Kind::Map, Val::Map(map)) => match (ty, map) {
            (Type::Map(entry), Map::Shared(table)) => {
                table.entries().first().is_none_or(|(key, value)| fits(&entry.0, key) && fits(&entry.1, value))
            }
            _ => true,
        },
        (Kind::Opaque | Kind::Object, _) => ty.name() == value.ty().name(),
        (kind, _) => kind == value.kind(),
    }
}

/// All functions by name, with their overloads in the order in which they are tried.
pub(crate) static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    let tables: [&[Row]; 4] = [standard::OPERATORS, standard::FUNCTIONS, LIBRARY, host::FUNCTIONS];
    for (id, signature, run) in tables.into_iter().flatten() {
        let (name, overload) = declared((*id).to_string(), signature, *run);
        functions.entry(name).or_default().push(overload);
    }
    for (name, id, signature) in standard::comparisons() {
        functions.entry(name).or_default().push(declared(id, &signature, None).1);
    }
    for (name, id, signature, run) in of_each_kind() {
        functions.entry(name).or_default().push(declared(id, &signature, Some(run)).1);
    }
    functions
});

/// The name of an overload, how it is called, and what computes it.
pub(crate) type Row = (&'static str, &'static str, Option<Native>);

/// Reads `string : charAt(int) -> string`; what stands before the colon is what a method is called on.
fn declared(id: String, signature: &str, run: Option<Native>) -> (&str, Overload) {
    let (call, result) = signature.split_once(" -> ").unwrap_or((signature, "dyn"));
    let (target, call) = call.split_once(" : ").map_or((None, call), |(target, call)| (Some(target), call));
    let (name, args) = call.split_once('(').unwrap_or((call, ")"));
    let args = args.strip_suffix(')').unwrap_or(args);
    let mut params = Vec::new();
    let args: Vec<Type> = target.into_iter().chain(parts(args)).map(|text| read(text, &mut params)).collect();
    let result = read(result, &mut params);
    let scope = match name {
        "includes" => Scope::Stored,
        "jsonpatch.escapeKey" => Scope::Mutation,
        _ => Scope::All,
    };
    (name, Overload { id, method: target.is_some(), args, result, params, run, scope })
}

/// Splits at commas outside of parentheses.
fn parts(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.is_empty() {
        out.push(text[start..].trim());
    }
    out
}

fn read(text: &str, params: &mut Vec<Param>) -> Type {
    if let Some((outer, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let mut inner = parts(inner).into_iter().map(|text| read(text, params));
        let first = inner.next().unwrap_or(Type::Dyn);
        return match outer {
            "list" => Type::list(first),
            "map" => Type::map(first, inner.next().unwrap_or(Type::Dyn)),
            "optional" => Type::optional(first),
            _ => Type::Meta(Some(first.into())),
        };
    }
    if let (1, Some(name)) = (text.len(), text.chars().next()) {
        let param = Param::Declared(name);
        if !params.contains(&param) {
            params.push(param);
        }
        return Type::Param(param);
    }
    match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "null" => Type::Null,
        _ => values::ty(text).unwrap_or(Type::Dyn),
    }
}

const LIBRARY: &[Row] = &[
    ("string_char_at_int", "string : charAt(int) -> string", Some(strings::char_at)),
    ("string_index_of_string", "string : indexOf(string) -> int", Some(strings::index_of)),
    ("string_index_of_string_int", "string : indexOf(string, int) -> int", Some(strings::index_of)),
    ("list_a_index_of_int", "list(A) : indexOf(A) -> int", Some(lists::index_of)),
    ("string_last_index_of_string", "string : lastIndexOf(string) -> int", Some(strings::last_index_of)),
    ("string_last_index_of_string_int", "string : lastIndexOf(string, int) -> int", Some(strings::last_index_of)),
    ("list_a_last_index_of_int", "list(A) : lastIndexOf(A) -> int", Some(lists::last_index_of)),
    ("string_lower_ascii", "string : lowerAscii() -> string", Some(strings::lower_ascii)),
    ("string_upper_ascii", "string : upperAscii() -> string", Some(strings::upper_ascii)),
    ("string_replace_string_string", "string : replace(string, string) -> string", Some(strings::replace)),
    ("string_replace_string_string_int", "string : replace(string, string, int) -> string", Some(strings::replace)),
    ("string_split_string", "string : split(string) -> list(string)", Some(strings::split)),
    ("string_split_string_int", "string : split(string, int) -> list(string)", Some(strings::split)),
    ("string_substring_int", "string : substring(int) -> string", Some(strings::substring)),
    ("string_substring_int_int", "string : substring(int, int) -> string", Some(strings::substring)),
    ("string_trim", "string : trim() -> string", Some(strings::trim)),
    ("string_format", "string : format(list(dyn)) -> string", Some(text_format::format)),
    ("strings_quote", "strings.quote(string) -> string", Some(strings::quote)),
    ("list_join", "list(string) : join() -> string", Some(strings::join)),
    ("list_join_string", "list(string) : join(string) -> string", Some(strings::join)),
    ("string_find_string", "string : find(string) -> string", Some(strings::find)),
    ("string_find_all_string", "string : findAll(string) -> list(string)", Some(strings::find_all)),
    ("string_find_all_string_int", "string : findAll(string, int) -> list(string)", Some(strings::find_all)),
    ("string_jsonpatch_escapeKey_string", "jsonpatch.escapeKey(string) -> string", Some(strings::escape_key)),
    ("list_includes_dyn_dyn", "dyn : includes(dyn) -> bool", Some(lists::includes)),
    ("list_slice", "list(T) : slice(int, int) -> list(T)", Some(lists::slice)),
    ("list_flatten", "list(list(T)) : flatten() -> list(T)", Some(lists::flatten)),
    ("list_flatten_int", "list(dyn) : flatten(int) -> list(dyn)", Some(lists::flatten)),
    ("lists_range", "lists.range(int) -> list(int)", Some(lists::range)),
    ("list_reverse", "list(T) : reverse() -> list(T)", Some(lists::reverse)),
    ("list_distinct", "list(T) : distinct() -> list(T)", Some(lists::distinct)),
    ("list_sets_contains_list", "sets.contains(list(T), list(T)) -> bool", Some(lists::sets_contains)),
    ("list_sets_equivalent_list", "sets.equivalent(list(T), list(T)) -> bool", Some(lists::sets_equivalent)),
    ("list_sets_intersects_list", "sets.intersects(list(T), list(T)) -> bool", Some(lists::sets_intersects)),
    ("list_last", "list(V) : last() -> optional(V)", Some(lists::last)),
    ("list_first", "list(V) : first() -> optional(V)", Some(lists::first)),
    ("optional_unwrap", "optional.unwrap(list(optional(V))) -> list(V)", Some(lists::unwrap_optionals)),
    ("optional_unwrapOpt", "list(optional(V)) : unwrapOpt() -> list(V)", Some(lists::unwrap_optionals)),
];

/// Functions that are declared for each kind of element, in upstream's order: the name, the overload, its signature.
fn of_each_kind() -> Vec<(&'static str, String, String, Native)> {
    let comparable = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
    let mut rows: Vec<(&'static str, String, String, Native)> = Vec::new();
    for kind in comparable {
        rows.push(("isSorted", format!("list_{kind}_is_sorted_bool"), format!("list({kind}) : isSorted() -> bool"), lists::is_sorted));
        rows.push(("max", format!("list_{kind}_max_{kind}"), format!("list({kind}) : max() -> {kind}"), lists::max));
        rows.push(("min", format!("list_{kind}_min_{kind}"), format!("list({kind}) : min() -> {kind}"), lists::min));
        rows.push(("sort", format!("list_{kind}_sort"), format!("list({kind}) : sort() -> list({kind})"), lists::sort));
        let by_keys = format!("list(T) : @sortByAssociatedKeys(list({kind})) -> list(T)");
        rows.push(("@sortByAssociatedKeys", format!("list_{kind}_sortByAssociatedKeys"), by_keys, lists::sort_by_keys));
    }
    let sums: [(&str, Native); 4] =
        [("int", lists::sum_int), ("uint", lists::sum_uint), ("double", lists::sum_double), ("duration", lists::sum_duration)];
    for (kind, run) in sums {
        rows.push(("sum", format!("list_{kind}_sum_{kind}"), format!("list({kind}) : sum() -> {kind}"), run));
    }
    rows
}
