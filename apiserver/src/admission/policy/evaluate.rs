//! Asking a policy's expressions about a write (apiserver `admission/plugin/cel/{activation,composition,condition}.go`).

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
};

use coracle_cel::{Activation, Authorizer, Decision, EvalError, Fields, Host, ResourceCheck, ServiceAccount, Val, limits};
use coracle_tree::Value;
use parking_lot::Mutex;

use super::{
    compile::{Expression, Policy},
    environment::{NAMESPACE, OBJECT, OLD_OBJECT, PARAMS, REQUEST, VARIABLES},
};
use crate::{
    admission::Attempt,
    authn::User,
    authz::{self, Verdict},
    request::RequestInfo,
    wire::status::aggregate,
};

/// Answers what expressions ask of `authorizer`. Expressions cannot wait, authorizers may have to be waited for: what they have not said yet
/// is noted, and after they said it the expressions are evaluated anew ([`Asked::until_known`]).
pub(in crate::admission) struct Asked<'a> {
    chain: &'a authz::Chain,
    user: &'a User,
    heard: Mutex<Heard>,
}

/// What authorizers said that had to be waited for.
#[derive(Default)]
struct Heard {
    /// Who may what, `None` for the user of the request.
    known: Vec<(Option<User>, RequestInfo, Verdict)>,
    open: Option<(Option<User>, RequestInfo)>,
}

impl<'a> Asked<'a> {
    /// Asks `chain` about `user`.
    pub(in crate::admission) fn new(chain: &'a authz::Chain, user: &'a User) -> Self {
        Self { chain, user, heard: Mutex::default() }
    }

    /// What `evaluate` makes once it knows all it asks of the authorizer. What a single evaluation may ask is bounded by what it may cost.
    pub(in crate::admission) async fn until_known<T>(&self, mut evaluate: impl FnMut() -> T) -> T {
        loop {
            let made = evaluate();
            let Some((other, request)) = self.heard.lock().open.take() else { return made };
            drop(made);
            let verdict = self.chain.judge(other.as_ref().unwrap_or(self.user), &request).await;
            self.heard.lock().known.push((other, request, verdict));
        }
    }
}

impl Asked<'_> {
    fn decide(&self, account: Option<&ServiceAccount>, request: &RequestInfo) -> Decision {
        let other = account.map(|ServiceAccount { namespace, name }| {
            let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            User::new(&format!("system:serviceaccount:{namespace}:{name}"), &groups.each_ref().map(String::as_str))
        });
        let known = self.chain.judge_now(other.as_ref().unwrap_or(self.user), request);
        let verdict = known.or_else(|| self.heard.lock().say(other, request));
        let verdict = verdict.unwrap_or_else(|| authz::Decision::NoOpinion(String::new()).into());
        Decision { allowed: verdict.is_allowed(), reason: verdict.reason().to_owned(), error: verdict.error }
    }
}

impl Heard {
    /// What was said, or nothing yet: then it is noted as open.
    fn say(&mut self, other: Option<User>, request: &RequestInfo) -> Option<Verdict> {
        let found = self.known.iter().find(|(of, about, _)| *of == other && about == request);
        if found.is_none() && self.open.is_none() {
            self.open = Some((other, request.clone()));
        }
        found.map(|(.., verdict)| verdict.clone())
    }
}

impl Authorizer for Asked<'_> {
    fn resource(&self, account: Option<&ServiceAccount>, check: &ResourceCheck, verb: &str) -> Decision {
        let request = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: check.group.clone(),
            version: "*".to_owned(),
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            namespace: check.namespace.clone(),
            name: check.name.clone(),
            ..RequestInfo::default()
        };
        self.decide(account, &request)
    }

    fn path(&self, account: Option<&ServiceAccount>, path: &str, verb: &str) -> Decision {
        self.decide(account, &RequestInfo { verb: verb.to_owned(), path: path.to_owned(), ..RequestInfo::default() })
    }
}

/// What the expressions of one policy see.
pub(in crate::admission) struct Scene<'a> {
    pub(in crate::admission) policy: &'a Policy,
    pub(in crate::admission) attempt: &'a Attempt<'a>,
    pub(in crate::admission) object: &'a Value,
    pub(in crate::admission) old: &'a Value,
    pub(in crate::admission) namespace: &'a Value,
    pub(in crate::admission) request: &'a Value,
    pub(in crate::admission) params: &'a Value,
    pub(in crate::admission) asked: &'a Asked<'a>,
    /// The values of its variables, if others see the same.
    pub(in crate::admission) shared: Option<&'a Activation<'a>>,
}

/// The budget is used up, or nothing more can be evaluated.
pub(super) const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// Evaluations that share their variables.
pub(super) struct Evaluation<'a> {
    scene: &'a Scene<'a>,
    activation: Cow<'a, Activation<'a>>,
    /// Variables by their places, as far as they were asked for.
    known: RefCell<Vec<(usize, Result<Val<'a>, EvalError>)>>,
    /// What variables cost since it was last counted.
    cost: Cell<u64>,
    pub(super) budget: Cell<u64>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(scene: &'a Scene<'a>, budget: u64) -> Self {
        let activation = scene.shared.map_or_else(|| Cow::Owned(activation(scene)), Cow::Borrowed);
        Self { scene, activation, known: RefCell::default(), cost: Cell::new(0), budget: Cell::new(budget) }
    }

    /// Evaluates. The outer error is that no more can be evaluated; the inner one is the expression's.
    pub(super) fn run(&self, expression: &'a Expression) -> Result<Result<Val<'a>, String>, String> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let (result, cost) = program.eval_with(&self.activation, (VARIABLES, self), limits::PER_CALL);
        let cost = cost.saturating_add(self.cost.take());
        let left = self.budget.get().checked_sub(cost).ok_or_else(|| OUT_OF_BUDGET.to_owned())?;
        self.budget.set(left);
        Ok(result.map_err(|error| format!("expression '{}' resulted in error: {error}", expression.text)))
    }
}

/// The values of the variables that all policies have.
pub(super) fn common<'a>(object: &'a Value, old: &'a Value, namespace: &'a Value, request: &'a Value) -> Activation<'a> {
    Activation::new().json(OBJECT, object).json(OLD_OBJECT, old).json(NAMESPACE, namespace).json(REQUEST, request)
}

/// The values of the variables. They stand in the same places for all expressions of a policy, whichever of them it declares.
fn activation<'a>(scene: &'a Scene<'a>) -> Activation<'a> {
    let declared = scene.policy.declared;
    let mut activation = common(scene.object, scene.old, scene.namespace, scene.request);
    if declared.params {
        activation = activation.json(PARAMS, scene.params);
    }
    if scene.policy.asks_authorizer {
        let place = declared.authorizer_place();
        let request = scene.attempt.request;
        let check = ResourceCheck {
            group: request.group.clone(),
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            namespace: request.namespace.clone(),
            name: scene.request.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            ..ResourceCheck::default()
        };
        activation = activation
            .value(place, Val::Host(Host::authorizer(scene.asked)))
            .value(place + 1, Val::Host(Host::request_resource(scene.asked, check)));
    }
    activation
}

impl<'a> Fields<'a> for Evaluation<'a> {
    fn field(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        let (place, expression) =
            self.scene.policy.variables.iter().enumerate().find_map(|(place, (known, of))| (known == name).then_some((place, of)))?;
        if let Some((_, known)) = self.known.borrow().iter().find(|(known, _)| *known == place) {
            return Some(known.clone());
        }
        let result = match &expression.program {
            Err(why) => Err(EvalError::new(format!("composited variable {name:?} fails to compile: {why}"))),
            Ok(program) => {
                let (result, cost) = program.eval_with(&self.activation, (VARIABLES, self), limits::PER_CALL);
                self.cost.set(self.cost.get().saturating_add(cost));
                result.map_err(|error| EvalError::new(format!("composited variable {name:?} fails to evaluate: {error}")))
            }
        };
        self.known.borrow_mut().push((place, result.clone()));
        Some(result)
    }
}

/// Whether the policy's match conditions are met. The error is what they say together.
pub(in crate::admission) fn conditions(scene: &Scene<'_>) -> Result<bool, String> {
    let policy = scene.policy;
    if policy.conditions.is_empty() {
        return Ok(true);
    }
    let evaluation = Evaluation::new(scene, limits::MATCH_CONDITIONS_BUDGET);
    let mut errors = Vec::new();
    for condition in &policy.conditions {
        match evaluation.run(condition)? {
            Ok(Val::Bool(true)) => {}
            Ok(_) => return Ok(false),
            Err(error) => errors.push(error),
        }
    }
    match aggregate(errors) {
        None => Ok(true),
        Some(_) if !policy.fails_closed => Ok(false),
        Some(error) => Err(error),
    }
}
