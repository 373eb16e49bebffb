//! Policies made ready: every expression compiled once (apiserver `plugin/policy/{validating/plugin,mutating/compilation}.go`).

use coracle_cel::{Program, Type, display};
use coracle_tree::Value;

use super::environment::{Declared, NAMESPACE, REQUEST, environment};
use crate::admission::{
    look::{list, text},
    matching::Criteria,
    mirror,
};

/// A compiled expression, or why it cannot be compiled.
pub(super) type Compiled = Result<Program, String>;

/// An expression with its text.
pub(super) struct Expression {
    pub(super) text: String,
    pub(super) program: Compiled,
}

impl Expression {
    /// Whether it uses `authorizer`, or something of it.
    fn asks_authorizer(&self, declared: Declared) -> bool {
        let place = declared.authorizer_place();
        self.program.as_ref().is_ok_and(|program| program.uses(place) || program.uses(place + 1))
    }
}

/// A policy of either kind.
pub(in crate::admission) struct Policy {
    pub(super) name: String,
    /// `metadata.resourceVersion`
    pub(super) version: String,
    pub(super) spec: Value,
    /// It refuses where it fails, unless it says that it is to be ignored.
    pub(super) fails_closed: bool,
    /// What its expressions may name.
    pub(super) declared: Declared,
    /// Some expression uses `authorizer`.
    pub(super) asks_authorizer: bool,
    /// Some expression uses `request`, or what is told of it to the authorizer.
    pub(super) reads_request: bool,
    /// Some expression uses `namespaceObject`.
    pub(super) reads_namespace: bool,
    pub(super) criteria: Option<Criteria>,
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) conditions: Vec<Expression>,
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<Annotation>,
    pub(super) mutations: Vec<Mutation>,
}

/// What must be true.
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: String,
}

/// What is noted in the audit log.
pub(super) struct Annotation {
    pub(super) key: String,
    pub(super) value: Expression,
}

/// What is changed.
pub(super) struct Mutation {
    pub(super) expression: Expression,
    /// A list of operations, rather than a part of the object.
    pub(super) json_patch: bool,
}

/// Which types an expression may have.
enum Wanted {
    Any,
    Bool,
    Text,
    TextOrNull,
    Object,
    Patches,
}

impl Wanted {
    fn fits(&self, ty: &Type) -> bool {
        match self {
            Wanted::Any => true,
            Wanted::Bool => *ty == Type::Bool,
            Wanted::Text => *ty == Type::String,
            Wanted::TextOrNull => matches!(ty, Type::String | Type::Null),
            Wanted::Object => matches!(ty, Type::Object(object) if object.name() == "Object"),
            Wanted::Patches => *ty == Type::list(Type::named("JSONPatch")),
        }
    }

    fn names(&self) -> &'static str {
        match self {
            Wanted::Any => "",
            Wanted::Bool => "must evaluate to bool",
            Wanted::Text => "must evaluate to string",
            Wanted::TextOrNull => "must evaluate to one of [string null_type]",
            Wanted::Object => "must evaluate to Object",
            Wanted::Patches => "must evaluate to list(JSONPatch)",
        }
    }
}

struct Compiler {
    declared: Declared,
    variables: Vec<(String, Type)>,
}

impl Compiler {
    fn compile(&self, text: &str, wanted: &Wanted, authorizer: bool) -> Expression {
        let declared = Declared { authorizer, ..self.declared };
        let program = environment(declared, &self.variables)
            .compile(text)
            .map_err(|issues| match display(&issues) {
                failed if failed.starts_with("program instantiation failed") => failed,
                issues => format!("compilation failed: {issues}"),
            })
            .and_then(|program| match program.result() {
                result if wanted.fits(result) => Ok(program),
                result => Err(format!("{} but got {result}", wanted.names())),
            });
        Expression { text: text.to_owned(), program }
    }
}

impl Policy {
    /// Compiles a policy; `mutating` if it changes objects.
    pub(in crate::admission) fn of(object: &Value, mutating: bool) -> Policy {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let params = spec.get("paramKind").is_some_and(Value::is_object);
        let composed = !list(&spec, "/variables").is_empty();
        let mut compiler =
            Compiler { declared: Declared { params, variables: composed, authorizer: true, patches: mutating }, variables: Vec::new() };
        let mut variables = Vec::new();
        for variable in list(&spec, "/variables") {
            let expression = compiler.compile(text(variable, "expression"), &Wanted::Any, true);
            let ty = expression.program.as_ref().map_or(Type::Dyn, |program| program.result().clone());
            compiler.variables.push((text(variable, "name").to_owned(), ty));
            variables.push((text(variable, "name").to_owned(), expression));
        }
        let stateless = Compiler { declared: Declared { variables: false, patches: false, ..compiler.declared }, variables: Vec::new() };
        // Of conditions and mutations, and of nothing else, upstream sees and shows the text without the space around it.
        let condition = |one: &Value| stateless.compile(text(one, "expression").trim(), &Wanted::Bool, true);
        let annotation = |one| Annotation {
            key: text(one, "key").to_owned(),
            value: compiler.compile(text(one, "valueExpression"), &Wanted::TextOrNull, true),
        };
        let mut policy = Policy {
            name: mirror::name(object).to_owned(),
            version: mirror::version(object).to_owned(),
            fails_closed: text(&spec, "failurePolicy") != "Ignore",
            declared: compiler.declared,
            asks_authorizer: false,
            reads_request: false,
            reads_namespace: false,
            criteria: Criteria::of(spec.get("matchConstraints"), "/resourceRules"),
            variables,
            conditions: list(&spec, "/matchConditions").iter().map(condition).collect(),
            validations: list(&spec, "/validations").iter().map(|one| validation(&compiler, one)).collect(),
            annotations: list(&spec, "/auditAnnotations").iter().map(annotation).collect(),
            mutations: list(&spec, "/mutations").iter().map(|one| mutation(&compiler, one)).collect(),
            spec,
        };
        let asks = policy.expressions().any(|expression| expression.asks_authorizer(policy.declared));
        policy.asks_authorizer = asks;
        policy.reads_request = asks || policy.uses(REQUEST);
        policy.reads_namespace = policy.uses(NAMESPACE);
        policy
    }

    /// Whether it must see the namespace of what is written.
    pub(super) fn asks_namespace(&self) -> bool {
        self.reads_namespace || self.criteria.as_ref().is_some_and(Criteria::asks_namespace)
    }

    /// Whether some expression uses the variable at this place, which is the same for all.
    fn uses(&self, place: usize) -> bool {
        let messages = self.validations.iter().filter_map(|validation| validation.message_expression.as_ref());
        self.expressions().chain(messages).any(|expression| expression.program.as_ref().is_ok_and(|program| program.uses(place)))
    }

    /// All expressions that may use `authorizer`: messages may not.
    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let variables = self.variables.iter().map(|(_, expression)| expression);
        let validations = self.validations.iter().map(|validation| &validation.expression);
        let annotations = self.annotations.iter().map(|annotation| &annotation.value);
        let mutations = self.mutations.iter().map(|mutation| &mutation.expression);
        variables.chain(&self.conditions).chain(validations).chain(annotations).chain(mutations)
    }
}

fn validation(compiler: &Compiler, one: &Value) -> Validation {
    let message_expression = text(one, "messageExpression");
    Validation {
        expression: compiler.compile(text(one, "expression"), &Wanted::Bool, true),
        message: text(one, "message").to_owned(),
        message_expression: (!message_expression.is_empty()).then(|| compiler.compile(message_expression, &Wanted::Text, false)),
        reason: text(one, "reason").to_owned(),
    }
}

fn mutation(compiler: &Compiler, one: &Value) -> Mutation {
    let json_patch = text(one, "patchType") == "JSONPatch";
    let (field, wanted) = if json_patch { ("jsonPatch", Wanted::Patches) } else { ("applyConfiguration", Wanted::Object) };
    let expression = one.get(field).map(|one| text(one, "expression")).unwrap_or_default();
    Mutation { expression: compiler.compile(expression.trim(), &wanted, true), json_patch }
}
