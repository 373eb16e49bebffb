//! Rules asked about an object (apiextensions-apiserver `apiserver/schema/cel/validation.go`).

use coracle_cel::{Activation, Program, Val, limits};
use coracle_tree::Value;

use super::compile::{Level, OLD_SELF, Rule, SELF};
use crate::field::{ErrorKind, FieldErrors};
use crate::structural::{Correlated, Kind, Node};

/// How a value relates to what was there before, for errors that are not new.
#[derive(Clone, Copy, Default)]
struct Ratchet<'a> {
    current: Option<Correlated<'a>>,
    /// The nearest that relates to something, and its value now.
    parent: Option<(Correlated<'a>, &'a Value)>,
}

impl<'a> Ratchet<'a> {
    /// Whether nothing changed.
    fn holds(self, value: &Value) -> bool {
        match (self.current, self.parent) {
            (Some(current), _) => current.equals(value),
            (None, Some((parent, value))) => parent.equals(value),
            (None, None) => false,
        }
    }

    /// Of something below `value`, which was `before`.
    fn below(self, value: &'a Value, before: impl FnOnce(Correlated<'a>) -> Option<Correlated<'a>>) -> Self {
        match self.current {
            None => self,
            Some(current) => Ratchet { current: before(current), parent: Some((current, value)) },
        }
    }

    fn member(self, value: &'a Value, name: &str) -> Self {
        if self.current.is_some() && self.parent.is_none() && matches!(name, "apiVersion" | "kind") {
            return Ratchet::default();
        }
        self.below(value, |current| current.key(name))
    }
}

/// The budget is used up: nothing more is evaluated.
struct Exhausted;

/// Asks all rules.
pub(super) fn validate(level: &Level, node: &Node, new: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let ratchet = Ratchet { current: old.map(|old| Correlated { old, schema: node }), parent: None };
    let mut asking = Asking { budget: limits::RUNTIME_BUDGET, errors };
    // What is left once the budget is used up has been reported.
    let _ = asking.level(level, node, new, old, ratchet, "");
}

struct Asking<'e> {
    budget: u64,
    errors: &'e mut FieldErrors,
}

impl Asking<'_> {
    fn level<'a>(
        &mut self,
        level: &Level,
        node: &'a Node,
        value: &'a Value,
        old: Option<&'a Value>,
        ratchet: Ratchet<'a>,
        path: &str,
    ) -> Result<(), Exhausted> {
        if value.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        self.rules(level, node, value, old, ratchet, path)?;
        match value {
            Value::Array(items) => {
                let (Some(below), Some(schema)) = (&level.items, node.items.as_deref()) else { return Ok(()) };
                let known = old.and_then(|old| Correlated { old, schema: node }.items());
                let ratcheted = ratchet.current.and_then(Correlated::items);
                for (at, item) in items.iter().enumerate() {
                    let old = known.as_ref().and_then(|known| known.get(item)).map(|item| item.old);
                    let inside = ratchet.below(value, |_| ratcheted.as_ref().and_then(|items| items.get(item)));
                    self.level(below, schema, item, old, inside, &format!("{path}[{at}]"))?;
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let old = old.and_then(|old| old.get(name));
                    if let (Some(below), Some(schema)) = (&level.additional, node.additional.schema()) {
                        self.level(below, schema, member, old, ratchet.member(value, name), &format!("{path}[{name}]"))?;
                    }
                    let below = level.properties.binary_search_by(|(key, _)| (**key).cmp(name)).ok().map(|at| &level.properties[at].1);
                    if let (Some(below), Some(schema)) = (below, node.property(name)) {
                        self.level(below, schema, member, old, ratchet.member(value, name), &child(path, name))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(
        &mut self,
        level: &Level,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        ratchet: Ratchet<'_>,
        path: &str,
    ) -> Result<(), Exhausted> {
        if level.rules.is_empty() {
            return Ok(());
        }
        let at = if path.is_empty() { "<nil>" } else { path };
        let kind = if node.kind == Kind::Any { "" } else { node.kind.as_str() };
        let kind = format!("{kind:?}");
        if self.budget == 0 {
            self.errors.invalid(at, &kind, OUT_OF_BUDGET);
            return Err(Exhausted);
        }
        for rule in &level.rules {
            let program = match &rule.program {
                None => continue,
                Some(Err(why)) => {
                    self.errors.invalid(at, &kind, &format!("rule compile error: {why}"));
                    continue;
                }
                Some(Ok(program)) => program,
            };
            let optional = rule.optional_old_self == Some(true);
            if program.uses(OLD_SELF) && old.is_none() && !optional {
                continue;
            }
            let activation = activation(value, old, optional);
            let (result, cost) = program.eval(&activation, limits::PER_CALL);
            if cost > self.budget {
                self.errors.invalid(at, &kind, OUT_OF_BUDGET);
                return Err(Exhausted);
            }
            self.budget -= cost;
            match result {
                Ok(Val::Bool(true)) => {}
                Ok(_) => self.refuse(rule, node, value, &activation, ratchet.holds(value) && !program.uses(OLD_SELF), path)?,
                Err(error) => {
                    let message = error.message();
                    let name = name_of(rule);
                    if error.is_cancelled() {
                        let why =
                            format!("'{message}': no further validation rules will be run due to call cost exceeds limit for rule: {name}");
                        self.errors.invalid(at, &kind, &why);
                        return Err(Exhausted);
                    }
                    let why = if message.starts_with("no such overload") {
                        format!(
                            "'{message}': call arguments did not match a supported operator, function or macro signature for rule: {name}"
                        )
                    } else {
                        format!("{message} evaluating rule: {name}")
                    };
                    self.errors.invalid(at, &kind, &why);
                }
            }
        }
        Ok(())
    }

    /// Reports a rule that is not kept; not if it was not kept before and nothing changed.
    fn refuse<'a>(
        &mut self,
        rule: &'a Rule,
        node: &Node,
        value: &Value,
        activation: &Activation<'a>,
        ratcheted: bool,
        path: &str,
    ) -> Result<(), Exhausted> {
        let at = match &*rule.field_path {
            "" if path.is_empty() => "<nil>".to_owned(),
            "" => path.to_owned(),
            field => format!("{path}{}", normalized(field, node)).trim_start_matches('.').to_owned(),
        };
        let detail = match &rule.message_program {
            Some(Ok(program)) => match self.message(rule, program, activation) {
                Ok(message) => message,
                Err(why) => {
                    if !ratcheted {
                        self.errors.invalid(at, format!("{:?}", node.kind.as_str()), &why);
                    }
                    return Err(Exhausted);
                }
            },
            _ => None,
        };
        if ratcheted {
            return Ok(());
        }
        let detail = detail.unwrap_or_else(|| match rule.message.trim() {
            "" if rule.message.is_empty() => format!("failed rule: {}", name_of(rule)),
            message => message.to_owned(),
        });
        let shown = (!matches!(node.kind, Kind::Object | Kind::Array)).then(|| value.to_string());
        let shown = shown.map_or_else(String::new, |shown| format!(": {shown}"));
        match &*rule.reason {
            "FieldValueForbidden" => self.errors.forbidden(at, &detail),
            "FieldValueRequired" => self.errors.required(at, &detail),
            "FieldValueDuplicate" => self.errors.push(ErrorKind::Duplicate, at, format!("Duplicate value{shown}")),
            _ => self.errors.push(ErrorKind::Invalid, at, format!("Invalid value{shown}: {detail}")),
        }
        Ok(())
    }

    /// The message that an expression makes; none if it makes none that can be shown, an error if nothing more can be evaluated.
    fn message<'a>(&mut self, rule: &Rule, program: &'a Program, activation: &Activation<'a>) -> Result<Option<String>, String> {
        let (result, cost) = program.eval(activation, limits::PER_CALL);
        if cost > self.budget {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned()
            );
        }
        let text = match result {
            Ok(value) => value.as_str().map(|text| text.trim().to_owned()),
            Err(error) if error.is_cancelled() => {
                let expression = &rule.message_expression;
                return Err(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {expression:?}"
                ));
            }
            Err(_) => None,
        };
        self.budget -= cost;
        Ok(text.filter(|text| !text.is_empty() && text.len() <= limits::MESSAGE_BYTES && !text.contains('\n')))
    }
}

const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// What a rule is called in messages.
fn name_of(rule: &Rule) -> &str {
    let name = if rule.message.is_empty() { &rule.text } else { &rule.message };
    name.trim()
}

fn activation<'a>(value: &'a Value, old: Option<&'a Value>, optional: bool) -> Activation<'a> {
    let activation = Activation::new().json(SELF, value);
    match old {
        Some(old) => activation.json(OLD_SELF, old),
        None if optional => activation.value(OLD_SELF, Val::Optional(None)),
        None => activation,
    }
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `.a['b.c']` as paths of errors have it: members of objects follow dots, keys of maps stand in brackets.
fn normalized(field: &str, node: &Node) -> String {
    let (mut out, mut rest, mut at) = (String::new(), field.trim(), Some(node));
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix("['") {
            Some(quoted) => quoted.split_once("']").unwrap_or((quoted, "")),
            None => {
                let plain = rest.strip_prefix('.').unwrap_or(rest);
                plain.split_at(plain.find(['.', '[']).unwrap_or(plain.len()))
            }
        };
        let name = name.replace("\\'", "'").replace("\\\\", "\\");
        let named = at.is_none_or(|node| !node.properties.is_empty() || node.additional.schema().is_none());
        out.push_str(&if named { format!(".{name}") } else { format!("[{name}]") });
        at = at.and_then(|node| node.member(&name));
        rest = if after.len() < rest.len() { after } else { "" };
    }
    out
}
