//! Rules of a definition that is written: they must compile, and may not be estimated to cost too much (apiextensions-apiserver
//! `apis/apiextensions/validation/{validation,cel_validation}.go`).

use std::collections::HashSet;

use coracle_cel::{MAX_REQUEST_BYTES, limits};
use coracle_tree::{Value, json};

use super::compile::{Level, Rule};
use crate::field::{ErrorKind, FieldErrors};
use crate::structural::{Kind, Node};
use crate::types::ListKind;

/// Expressions of the definition that is replaced.
#[derive(Default)]
pub(crate) struct Known {
    expressions: HashSet<String>,
}

impl Known {
    /// All expressions of a definition.
    pub(crate) fn of(definition: Option<&Value>) -> Known {
        let mut known = Known::default();
        let versions = definition.and_then(|definition| definition.pointer("/spec/versions")).and_then(Value::as_array);
        for schema in versions.into_iter().flatten().filter_map(|version| version.pointer("/schema/openAPIV3Schema")) {
            known.collect(schema);
        }
        known
    }

    fn collect(&mut self, schema: &Value) {
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let texts = ["rule", "messageExpression"].into_iter().filter_map(|name| rule.get(name).and_then(Value::as_str));
            self.expressions.extend(texts.map(str::to_owned));
        }
        let below = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(coracle_tree::Map::values);
        let single = ["items", "additionalProperties"].into_iter().filter_map(|name| schema.get(name));
        below.chain(single).for_each(|schema| self.collect(schema));
    }
}

/// Checks the rules of a schema that is structural; `path` is where it stands. `unchanged`: rules that are there already may be expensive.
pub(crate) fn check(root: &Node, path: &str, known: &Known, unchanged: bool, errors: &mut FieldErrors) {
    if !root.has_rules() {
        return;
    }
    let stored = |expression: &str| known.expressions.contains(expression);
    let mut checker = Checker { unchanged, total: 0, expensive: Vec::new(), errors };
    if let Some(level) = Level::of(root, true, &stored) {
        checker.level(root, &level, path, Some(1), None);
    }
    let Checker { total, expensive, errors, .. } = checker;
    if total > limits::ESTIMATED_CRD {
        for (path, _) in expensive {
            errors.forbidden(path, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema");
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, &too_expensive(what, total, limits::ESTIMATED_CRD));
    }
}

struct Checker<'e> {
    unchanged: bool,
    total: u64,
    /// The most expensive, dearest first.
    expensive: Vec<(String, u64)>,
    errors: &'e mut FieldErrors,
}

impl Checker<'_> {
    /// `count`: how many such values an object has at most, if that is bounded; `apart`: the list whose items cannot be told apart.
    fn level(&mut self, node: &Node, level: &Level, path: &str, count: Option<u64>, apart: Option<&str>) {
        self.rules(node, level, path, count, apart);
        let inside = count.and_then(|count| Some(count.saturating_mul(most(node)?)));
        for (name, below) in &level.properties {
            if let Some(node) = node.property(name) {
                self.level(node, below, &format!("{path}.properties[{name}]"), inside, apart);
            }
        }
        if let (Some(node), Some(below)) = (node.additional.schema(), &level.additional) {
            self.level(node, below, &format!("{path}.additionalProperties"), inside, apart);
        }
        if let (Some(items), Some(below)) = (node.items.as_deref(), &level.items) {
            let apart = apart.or_else(|| (!matches!(node.list, ListKind::Map(_))).then_some(path));
            self.level(items, below, &format!("{path}.items"), inside, apart);
        }
    }

    fn rules(&mut self, node: &Node, level: &Level, path: &str, count: Option<u64>, apart: Option<&str>) {
        if node.rules.is_none() {
            return;
        }
        let path = format!("{path}.x-kubernetes-validations");
        let Some(decl) = &level.decl else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: \
                       unable to convert structural schema to CEL declarations";
            self.errors.push(ErrorKind::Internal, path, format!("Internal error: {why}"));
            return;
        };
        let count = count.unwrap_or(MAX_REQUEST_BYTES / (decl.min_bytes() + 1));
        for (at, rule) in level.rules.iter().enumerate() {
            self.rule(rule, &format!("{path}[{at}]"), count, apart);
        }
    }

    fn rule(&mut self, rule: &Rule, path: &str, count: u64, apart: Option<&str>) {
        let at = format!("{path}.rule");
        match &rule.program {
            None => return,
            Some(Err(why)) => self.errors.invalid(&at, shown(rule), why),
            Some(Ok(program)) => self.cost("estimated rule cost", &at, program.estimate().max.saturating_mul(count)),
        }
        let message = format!("{path}.messageExpression");
        match &rule.message_program {
            None => {}
            Some(Err(why)) => self.errors.invalid(message, shown(rule), why),
            Some(Ok(program)) => self.cost("estimated messageExpression cost", &message, program.estimate().max),
        }
        if rule.uses_old_self() {
            if let Some(apart) = apart {
                let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {apart}");
                self.errors.invalid(at, json!(&*rule.text), &detail);
            }
        } else if let Some(set) = rule.optional_old_self {
            self.errors.invalid(format!("{path}.optionalOldSelf"), set, "may not be set if oldSelf is not used in rule");
        }
    }

    fn cost(&mut self, what: &str, path: &str, cost: u64) {
        if !self.unchanged && cost > limits::ESTIMATED {
            self.errors.forbidden(path, &too_expensive(what, cost, limits::ESTIMATED));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= limits::ESTIMATED_CRD / 100 {
            self.expensive.push((path.to_owned(), cost));
            self.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.expensive.truncate(4);
        }
    }
}

/// How many values stand directly below one of `node`, if that is bounded.
fn most(node: &Node) -> Option<u64> {
    let checks = node.checks.as_deref();
    let bound = |limit: Option<i64>| limit.map(|limit| u64::try_from(limit).unwrap_or(0));
    match node.kind {
        Kind::Object if node.additional.is_set() => bound(checks.and_then(|checks| checks.max_properties)),
        Kind::Array => bound(checks.and_then(|checks| checks.max_items)),
        _ => Some(1),
    }
}

/// The rule as upstream's internal type prints.
fn shown(rule: &Rule) -> String {
    let text = |text: &str| json!(text).to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let reason = if rule.reason.is_empty() { "null".to_owned() } else { text(&rule.reason) };
    let optional = rule.optional_old_self.map_or_else(|| "null".to_owned(), |set| set.to_string());
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{reason},\"FieldPath\":{},\"OptionalOldSelf\":{optional}}}",
        text(&rule.text),
        text(&rule.message),
        text(&rule.message_expression),
        text(&rule.field_path),
    )
}

#[expect(clippy::cast_precision_loss, reason = "a factor is told")]
fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        _ if factor > 100.0 => "more than 100x".to_owned(),
        _ if factor < 1.5 => format!("{factor:.6}x"),
        _ => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength \
         where arrays, maps, and strings are declared)"
    )
}
