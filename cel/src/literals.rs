//! Literals that would fail when evaluated are refused when compiled (cel-go `cel/validator.go`, `ext/formatting.go`).

use crate::ast::{Call, Expr, Literal, Node};
use crate::checker::{Checked, Meaning};
use crate::library::text_format;
use crate::parser::Parsed;
use crate::pattern;
use crate::source::Source;
use crate::time::{self, Timestamp};
use crate::types::Type;

/// Reports every literal that cannot be what it is used as.
pub(crate) fn check(parsed: &Parsed, checked: &Checked, source: &mut Source<'_>) {
    let mut found: Vec<(u32, String)> = Vec::new();
    parsed.root.visit(&mut |expr, around| match &expr.node {
        Node::Call(call) => {
            formatted(call, &mut found);
            template(expr, call, checked, &mut found);
        }
        Node::List(_) | Node::Map(_) if !around.contains(&"format") => homogeneous(expr, checked, &mut found),
        _ => {}
    });
    for (id, message) in found {
        source.report(parsed.offsets.get(id as usize).copied().unwrap_or_default(), message);
    }
}

/// `duration('x')`, `timestamp('x')`, `matches('(')`.
fn formatted(call: &Call, found: &mut Vec<(u32, String)>) {
    let Some(arg) = call.args.first() else { return };
    let fits = match (call.function.as_str(), arg.as_literal()) {
        ("duration", Some(Literal::String(text))) => time::duration(text).is_some(),
        ("timestamp", Some(Literal::String(text))) => Timestamp::parse(text).is_some(),
        ("timestamp", Some(Literal::Int(seconds))) => Timestamp::from_seconds(*seconds).is_ok(),
        ("matches", Some(Literal::String(text))) => pattern::check(text).is_ok(),
        _ => true,
    };
    if !fits {
        found.push((arg.id, format!("invalid {} argument", call.function)));
    }
}

/// `'%d'.format(['x'])`.
fn template(expr: &Expr, call: &Call, checked: &Checked, found: &mut Vec<(u32, String)>) {
    let (Some(target), "format", [args]) = (&call.target, call.function.as_str(), &call.args[..]) else { return };
    let (Some(Literal::String(text)), Node::List(args)) = (target.as_literal(), &args.node) else { return };
    if !matches!(checked.meaning(expr), Meaning::Call("format", ..)) {
        return;
    }
    let mut used = 0;
    let mut rest = text.as_str();
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some(arg) = args.get(used) else {
            found.push((expr.id, format!("index {used} out of range")));
            return;
        };
        if rest.is_empty() {
            found.push((expr.id, "unexpected end of string".to_string()));
            return;
        }
        let (clause, length) = match text_format::clause(rest) {
            Ok(read) => read,
            Err(error) => {
                found.push((expr.id, error));
                return;
            }
        };
        if let Some(complaint) = unfit(clause.letter, &arg.value, checked) {
            found.push((complaint.0, format!("error during formatting: {}", complaint.1)));
            return;
        }
        rest = &rest[length..];
        used += 1;
    }
    if args.len() > used {
        found.push((expr.id, format!("too many arguments supplied to string.format (expected {used}, got {})", args.len())));
    }
}

/// The part of an argument that does not fit its clause.
fn unfit(letter: char, arg: &Expr, checked: &Checked) -> Option<(u32, String)> {
    let ty = checked.ty(arg);
    if ty.is_dyn() || matches!(ty, Type::Error) {
        return None;
    }
    let spelled = matches!(arg.as_literal(), Some(Literal::String(text)) if matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity"));
    if spelled && matches!(letter, 'f' | 'e') {
        return None;
    }
    text_format::refused(letter, ty.name()).map(|complaint| (arg.id, complaint))
}

/// Lists and maps whose elements are not of one type.
fn homogeneous(expr: &Expr, checked: &Checked, found: &mut Vec<(u32, String)>) {
    let of = |value: &Expr, optional: bool| {
        let ty = checked.ty(value);
        if optional { ty.optional_of().unwrap_or(ty).clone() } else { ty.clone() }
    };
    let mut differ = |known: &mut Option<Type>, id: u32, ty: Type| match known {
        Some(known) if *known != ty => {
            found.push((id, format!("expected type '{known}' but found '{ty}'")));
            true
        }
        Some(_) => false,
        None => {
            *known = Some(ty);
            false
        }
    };
    match &expr.node {
        Node::List(elements) => {
            let mut known = None;
            for element in elements {
                if differ(&mut known, element.value.id, of(&element.value, element.optional)) {
                    return;
                }
            }
        }
        Node::Map(entries) => {
            let (mut keys, mut values) = (None, None);
            for entry in entries {
                differ(&mut keys, entry.key.id, of(&entry.key, false));
                differ(&mut values, entry.value.id, of(&entry.value, entry.optional));
            }
        }
        _ => {}
    }
}
