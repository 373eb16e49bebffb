//! Asking a policy's expressions about a write (apiserver `admission/plugin/cel/{activation,composition,condition}.go`).

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use coracle_cel::{Activation, Authorizer, Decision, EvalError, Fields, Host, ResourceCheck, ServiceAccount, Val, limits};
use serde_json::Value;

use super::{
    compile::{Expression, Policy},
    environment::{NAMESPACE, OBJECT, OLD_OBJECT, PARAMS, REQUEST, VARIABLES},
};
use crate::{
    admission::Attempt,
    authn::User,
    authz::{self, Authorizer as _},
    request::RequestInfo,
};

/// Answers what expressions ask of `authorizer`.
pub(in crate::admission) struct Asked<'a> {
    pub(in crate::admission) chain: &'a authz::Chain,
    pub(in crate::admission) user: &'a User,
}

impl Asked<'_> {
    fn decide(&self, account: Option<&ServiceAccount>, request: &RequestInfo) -> Decision {
        let other = account.map(|ServiceAccount { namespace, name }| {
            let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            User::new(&format!("system:serviceaccount:{namespace}:{name}"), &groups.each_ref().map(String::as_str))
        });
        let user = other.as_ref().unwrap_or(self.user);
        let (allowed, reason) = match self.chain.decide(user, request) {
            authz::Decision::Allow => (true, self.chain.grounds(user, request)),
            authz::Decision::Deny(reason) | authz::Decision::NoOpinion(reason) => (false, reason),
        };
        Decision { allowed, reason, error: None }
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
}

/// The budget is used up, or nothing more can be evaluated.
pub(super) const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// Evaluations that share their variables.
pub(super) struct Evaluation<'a> {
    scene: &'a Scene<'a>,
    known: RefCell<HashMap<String, Result<Val<'a>, EvalError>>>,
    /// What variables cost since it was last counted.
    cost: Cell<u64>,
    pub(super) budget: Cell<u64>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(scene: &'a Scene<'a>, budget: u64) -> Self {
        Self { scene, known: RefCell::default(), cost: Cell::new(0), budget: Cell::new(budget) }
    }

    fn activation(&self, expression: &Expression) -> Activation<'a> {
        let scene = self.scene;
        let mut activation = Activation::new()
            .json(OBJECT, scene.object)
            .json(OLD_OBJECT, scene.old)
            .json(NAMESPACE, scene.namespace)
            .json(REQUEST, scene.request);
        if expression.declared.params {
            activation = activation.json(PARAMS, scene.params);
        }
        if expression.declared.authorizer {
            let place = expression.declared.authorizer_place();
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

    /// Evaluates. The outer error is that no more can be evaluated; the inner one is the expression's.
    pub(super) fn run(&self, expression: &'a Expression) -> Result<Result<Val<'a>, String>, String> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let (result, cost) = program.eval_with(&self.activation(expression), (VARIABLES, self), limits::PER_CALL);
        let cost = cost.saturating_add(self.cost.take());
        let left = self.budget.get().checked_sub(cost).ok_or_else(|| OUT_OF_BUDGET.to_owned())?;
        self.budget.set(left);
        Ok(result.map_err(|error| format!("expression '{}' resulted in error: {error}", expression.text)))
    }
}

impl<'a> Fields<'a> for Evaluation<'a> {
    fn field(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        if let Some(known) = self.known.borrow().get(name) {
            return Some(known.clone());
        }
        let (_, expression) = self.scene.policy.variables.iter().find(|(known, _)| known == name)?;
        let result = match &expression.program {
            Err(why) => Err(EvalError::new(format!("composited variable {name:?} fails to compile: {why}"))),
            Ok(program) => {
                let (result, cost) = program.eval_with(&self.activation(expression), (VARIABLES, self), limits::PER_CALL);
                self.cost.set(self.cost.get().saturating_add(cost));
                result.map_err(|error| EvalError::new(format!("composited variable {name:?} fails to evaluate: {error}")))
            }
        };
        self.known.borrow_mut().insert(name.to_owned(), result.clone());
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
    match errors.len() {
        0 => Ok(true),
        _ if !super::fails_closed(&policy.spec) => Ok(false),
        1 => Err(errors.swap_remove(0)),
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}
