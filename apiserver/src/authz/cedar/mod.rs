//! Policies in Cedar beside roles, for authorization and for admission; entities, actions and the CRD are those of
//! cedar-access-control-for-k8s, so that its policies are good here. docs/CEDAR.md tells how to write them.
//!
//! | file | |
//! |---|---|
//! | `mod` | the policies there are, and the authorizer |
//! | `entities` | users, requests and objects as Cedar sees them |
//! | `admission` | policies are checked when they are written, and may forbid writes |
//! | `follow` | policies in files and in objects, as they change |

mod admission;
mod entities;
mod follow;

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, sync::Arc};

use cedar_policy::{
    Authorizer as Engine, Context, Decision as Word, Entities, EntityUid, Policy, PolicyId, PolicySet, Request, Response, Schema,
    ValidationMode, Validator,
};
use parking_lot::RwLock;
use tracing::warn;

pub(crate) use self::{admission::CedarPolicies, follow::follow};
use super::{Authorizer, Decision, Verdict, rules::Known};
use crate::{authn::User, request::RequestInfo};

/// Group and resource of policies that are objects.
pub(crate) const GROUP: &str = "cedar.k8s.aws";
/// The plural.
pub(crate) const POLICIES: &str = "policies";

/// Where policies are, beside the objects of kind `Policy`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A folder of `*.cedar` files, read again as they change (`--cedar-policy-dir`).
    pub folder: Option<PathBuf>,
}

/// Where a policy stands: in a file or in an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    File(String),
    Object(String),
}

/// All policies, and who decides by them.
pub(crate) struct Cedar {
    options: Options,
    sources: RwLock<BTreeMap<Source, Vec<Policy>>>,
    policies: RwLock<Arc<PolicySet>>,
    schema: Schema,
}

/// Parses what stands in one place; its policies are called `NAME.0`, `NAME.1`, …, or by their own `@id`.
fn parse(name: &str, text: &str) -> Result<Vec<Policy>, String> {
    let set = PolicySet::from_str(text).map_err(|error| describe(&error))?;
    if set.num_of_templates() > 0 {
        return Err("templates have no meaning here: write policies without slots".to_owned());
    }
    let mut found: Vec<&Policy> = set.policies().collect();
    // The parser calls them policy0, policy1, … in their order.
    found.sort_by_key(|policy| policy.id().to_string().trim_start_matches("policy").parse::<usize>().unwrap_or(usize::MAX));
    let named = found.iter().enumerate().map(|(at, policy)| {
        let own = policy.annotation("id").filter(|id| !id.is_empty()).map_or_else(|| at.to_string(), ToOwned::to_owned);
        policy.new_id(PolicyId::new(format!("{name}.{own}")))
    });
    Ok(named.collect())
}

/// An error with what it was caused by: Cedar tells where only there.
fn describe(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        said.push_str(": ");
        said.push_str(&inner.to_string());
        cause = inner.source();
    }
    said
}

impl Cedar {
    /// No policies yet; the error is of the built-in schema.
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let (schema, _) = Schema::from_cedarschema_str(include_str!("k8s.cedarschema")).map_err(|error| describe(&error))?;
        Ok(Self { options, sources: RwLock::default(), policies: RwLock::default(), schema })
    }

    /// Checks policies: their syntax, and when `strict`, that they speak only of what there is. The error names what is wrong.
    fn check(&self, name: &str, text: &str, strict: bool) -> Result<Vec<Policy>, String> {
        let policies = parse(name, text)?;
        if strict {
            let set = PolicySet::from_policies(policies.iter().cloned()).map_err(|error| describe(&error))?;
            let result = Validator::new(self.schema.clone()).validate(&set, ValidationMode::Strict);
            let errors: Vec<String> = result.validation_errors().map(ToString::to_string).collect();
            if !errors.is_empty() {
                return Err(errors.join("; "));
            }
        }
        Ok(policies)
    }

    /// Takes the policies of one place; none when there are none any more.
    fn put(&self, source: Source, policies: Vec<Policy>) {
        let mut sources = self.sources.write();
        if policies.is_empty() {
            sources.remove(&source);
        } else {
            sources.insert(source, policies);
        }
        let mut set = PolicySet::new();
        for policy in sources.values().flatten() {
            let (name, mut same, mut policy) = (policy.id().to_string(), 1, policy.clone());
            while set.policy(policy.id()).is_some() {
                same += 1;
                policy = policy.new_id(PolicyId::new(format!("{name}#{same}")));
            }
            if let Err(error) = set.add(policy) {
                warn!(policy = name, %error, "a Cedar policy is left out");
            }
        }
        *self.policies.write() = Arc::new(set);
    }

    /// Forgets all objects: their kind is not served any more.
    fn forget_objects(&self) {
        let gone: Vec<Source> = self.sources.read().keys().filter(|source| matches!(source, Source::Object(_))).cloned().collect();
        gone.into_iter().for_each(|source| self.put(source, Vec::new()));
    }

    /// Asks all policies; nothing when the question cannot be put, which is logged.
    fn ask(&self, principal: EntityUid, action: EntityUid, resource: EntityUid, entities: Vec<cedar_policy::Entity>) -> Option<Response> {
        let policies = self.policies.read().clone();
        if policies.is_empty() {
            return None;
        }
        let put = || -> Result<Response, String> {
            let entities = Entities::from_entities(entities, None).map_err(|error| describe(&error))?;
            let request = Request::new(principal, action, resource, Context::empty(), None).map_err(|error| describe(&error))?;
            Ok(Engine::new().is_authorized(&request, &policies, &entities))
        };
        match put() {
            Ok(response) => {
                for error in response.diagnostics().errors() {
                    warn!(%error, "a Cedar policy cannot be evaluated");
                }
                Some(response)
            }
            Err(error) => {
                warn!(error, "a request cannot be told to Cedar");
                None
            }
        }
    }

    /// Permitted or forbidden, and by which policies; nothing when none speaks of it.
    fn judge(&self, user: &User, request: &RequestInfo) -> Option<(bool, String)> {
        if is_internal(user) || self.policies.read().is_empty() {
            return None;
        }
        let (principal, mut all) = entities::user(user)?;
        let (resource, entity) = entities::request(request)?;
        // Whoever asks to act as themselves is already there, with their groups.
        if resource != principal {
            all.push(entity);
        }
        let action = entities::uid("k8s::Action", &request.verb)?;
        let response = self.ask(principal, action, resource, all)?;
        let by = named(&response);
        (!by.is_empty()).then(|| (response.decision() == Word::Allow, by))
    }
}

/// `policy "a.0"`, `policies "a.0", "b.1"`; empty when none decided.
fn named(response: &Response) -> String {
    let mut ids: Vec<String> = response.diagnostics().reason().map(|id| format!("{:?}", id.to_string())).collect();
    ids.sort();
    match ids.len() {
        0 => String::new(),
        1 => format!("policy {}", ids[0]),
        _ => format!("policies {}", ids.join(", ")),
    }
}

/// The system's own users are no matter of policies: a cluster must not lock itself out. Nodes, service accounts and who is nobody are none.
fn is_internal(user: &User) -> bool {
    const OTHERS: [&str; 2] = ["serviceaccount:", "node:"];
    let own = user.name.strip_prefix("system:").filter(|name| *name != "anonymous");
    own.is_some_and(|name| !OTHERS.iter().any(|other| name.starts_with(other)))
}

fn word(judged: Option<(bool, String)>) -> Decision {
    match judged {
        None => Decision::NoOpinion(String::new()),
        Some((true, _)) => Decision::Allow,
        Some((false, by)) => Decision::Deny(format!("Cedar: forbidden by {by}")),
    }
}

impl Authorizer for Cedar {
    fn name(&self) -> &str {
        "cedar"
    }

    fn decide(&self, user: &User, request: &RequestInfo) -> Decision {
        word(self.judge(user, request))
    }

    fn explain(&self, user: &User, request: &RequestInfo) -> Verdict {
        match self.judge(user, request) {
            Some((true, by)) => Verdict { grounds: format!("Cedar: permitted by {by}"), ..Verdict::allowed() },
            other => word(other).into(),
        }
    }

    fn rules(&self, _user: &User, _namespace: &str) -> Known {
        Known::untold("cedar authorizer does not support user rule resolution")
    }
}

#[cfg(test)]
mod tests;
