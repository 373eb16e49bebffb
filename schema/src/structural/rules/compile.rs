//! Rules made ready (apiextensions-apiserver `apiserver/schema/cel/compilation.go`).

use coracle_cel::{Decl, Env, Program, Type, display};
use coracle_tree::Value;

use crate::structural::Node;

/// Where `self` and `oldSelf` stand among the variables.
pub(super) const SELF: usize = 0;
pub(super) const OLD_SELF: usize = 1;

/// A rule of `x-kubernetes-validations`.
#[derive(Debug)]
pub(super) struct Rule {
    /// The expression; none if it is blank; what is wrong with it if it cannot be compiled.
    pub(super) program: Option<Result<Program, String>>,
    /// The expression that makes the message.
    pub(super) message_program: Option<Result<Program, String>>,
    pub(super) text: Box<str>,
    pub(super) message: Box<str>,
    pub(super) message_expression: Box<str>,
    pub(super) reason: Box<str>,
    pub(super) field_path: Box<str>,
    /// `optionalOldSelf`, if it is set.
    pub(super) optional_old_self: Option<bool>,
}

/// Which expressions were there before: they may use what new ones may not.
pub(super) type Stored<'a> = &'a dyn Fn(&str) -> bool;

impl Rule {
    /// Compiles a rule for data of `decl`.
    pub(super) fn of(rule: &Value, decl: &Decl, stored: Stored<'_>) -> Rule {
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default();
        let optional_old_self = rule.get("optionalOldSelf").and_then(Value::as_bool);
        let env = environment(decl, optional_old_self == Some(true));
        let compile = |expression: &str, wanted: &Type, what: &str, kind: &str| {
            let env = if stored(expression) { env.clone().stored() } else { env.clone() };
            let program = env.compile(expression).map_err(|issues| format!("{what}{}", failure(&display(&issues))))?;
            if program.result() == wanted { Ok(program) } else { Err(kind.to_owned()) }
        };
        let blank = text("rule").trim().is_empty();
        let program = (!blank).then(|| compile(text("rule"), &Type::Bool, "", "cel expression must evaluate to a bool"));
        let wants_message = !text("messageExpression").is_empty() && matches!(program, Some(Ok(_)));
        let message_program = wants_message.then(|| {
            compile(text("messageExpression"), &Type::String, "messageExpression ", "messageExpression must evaluate to a string")
        });
        Rule {
            program,
            message_program,
            text: text("rule").into(),
            message: text("message").into(),
            message_expression: text("messageExpression").into(),
            reason: text("reason").into(),
            field_path: text("fieldPath").into(),
            optional_old_self,
        }
    }

    /// Whether the expression looks at what was there before.
    pub(super) fn uses_old_self(&self) -> bool {
        matches!(&self.program, Some(Ok(program)) if program.uses(OLD_SELF))
    }
}

/// A program that cannot be made says so itself.
fn failure(shown: &str) -> String {
    match shown.strip_prefix("program ") {
        Some(rest) => format!("program {rest}"),
        None => format!("compilation failed: {shown}"),
    }
}

fn environment(decl: &Decl, optional: bool) -> Env {
    let old = if optional { decl.clone().optional() } else { decl.clone() };
    Env::new().variable("self", decl.clone()).variable("oldSelf", old)
}

/// The rules of a schema and of all below.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) decl: Option<Decl>,
    pub(super) rules: Vec<Rule>,
    pub(super) properties: Vec<(Box<str>, Level)>,
    pub(super) items: Option<Box<Level>>,
    pub(super) additional: Option<Box<Level>>,
}

impl Level {
    /// Compiles the rules of `node`; none if there are none.
    pub(super) fn of(node: &Node, root: bool, stored: Stored<'_>) -> Option<Level> {
        if !node.has_rules() {
            return None;
        }
        // The types of a level are those of the rules' own schema, so each level with rules has its own.
        let decl = node.rules.as_ref().and_then(|_| super::decl::of(node, root, "selfType"));
        let rules = node.rules.iter().flatten();
        let rules = decl.as_ref().map_or_else(Vec::new, |decl| rules.map(|rule| Rule::of(rule, decl, stored)).collect());
        let below = |node: &Node| Level::of(node, node.embedded, stored);
        Some(Level {
            decl,
            rules,
            properties: node.properties.iter().filter_map(|(name, node)| Some((name.clone(), below(node)?))).collect(),
            items: node.items.as_deref().and_then(below).map(Box::new),
            additional: node.additional.schema().and_then(below).map(Box::new),
        })
    }
}
