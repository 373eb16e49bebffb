//! A webhook of a configuration, made ready (apiserver `plugin/webhook/accessors.go`), and whether it is to be asked (`generic/webhook.go`).

use std::{sync::Arc, time::Duration};

use coracle_tree::{Value, json};

use super::{Engine, internal, versioned};
use crate::{
    admission::{
        Attempt,
        look::{list, text},
        matching::{Criteria, Matched, Subject},
        policy::{Asked, Policy, Scene, conditions},
        request::describe,
    },
    registry::Object,
    webhook::{ClientConfig, Webhook},
    wire::{Status, status},
};

/// `timeoutSeconds` where a configuration has none.
const TIMEOUT_SECONDS: u64 = 10;

/// A webhook.
pub(super) struct Hook {
    /// As messages name it.
    pub(super) name: String,
    /// Of which configuration.
    pub(super) configuration: String,
    /// What tells it from all others: names need not be unique within a configuration.
    pub(super) uid: String,
    /// Where it is; the error is what is wrong with its address.
    pub(super) webhook: Result<Arc<Webhook>, &'static str>,
    /// The version of the review it is asked in, the first it names that we know.
    pub(super) review: Option<&'static str>,
    pub(super) timeout: Duration,
    /// `failurePolicy: Ignore`
    pub(super) ignored: bool,
    /// `reinvocationPolicy: IfNeeded`
    pub(super) reinvoked: bool,
    /// Whether a dry run stays without effects; `None` where nothing is said.
    pub(super) takes_dry_run: Option<bool>,
    criteria: Criteria,
    /// Its match conditions.
    conditions: Option<Policy>,
}

/// Where webhooks stand, so that those at one place share connections.
pub(super) type Places<'a> = &'a mut dyn FnMut(&ClientConfig) -> Arc<Webhook>;

impl Hook {
    /// Makes ready the webhooks of a configuration; `origin` tells one of files from one of the same name.
    pub(super) fn all(configuration: &Value, origin: &str, places: Places<'_>) -> Vec<Arc<Self>> {
        let name = configuration.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let webhooks = list(configuration, "/webhooks");
        let hooks = webhooks.iter().enumerate().filter_map(|(at, one)| {
            let earlier = webhooks[..at].iter().filter(|other| text(other, "name") == text(one, "name")).count();
            Some(Arc::new(Self::of(name, origin, earlier, one, places)?))
        });
        hooks.collect()
    }

    fn of(configuration: &str, origin: &str, earlier: usize, one: &Value, places: Places<'_>) -> Option<Self> {
        let name = text(one, "name");
        let client: ClientConfig = one.get("clientConfig").and_then(|c| coracle_tree::from_value(c).ok()).unwrap_or_default();
        let reachable = client.url.is_some() || client.service.is_some();
        let reviews = list(one, "/admissionReviewVersions").iter().filter_map(Value::as_str);
        let known = |version| match version {
            "v1" => Some("admission.k8s.io/v1"),
            "v1beta1" => Some("admission.k8s.io/v1beta1"),
            _ => None,
        };
        let spec = json!({"matchConditions": one.get("matchConditions"), "failurePolicy": one.get("failurePolicy")});
        let conditional = !list(one, "/matchConditions").is_empty();
        Some(Self {
            name: name.to_owned(),
            configuration: configuration.to_owned(),
            uid: format!("{origin}{configuration}/{name}/{earlier}"),
            webhook: if reachable { Ok(places(&client)) } else { Err("webhook configuration must have either service or URL") },
            review: reviews.into_iter().find_map(known),
            timeout: Duration::from_secs(one.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(TIMEOUT_SECONDS)),
            ignored: text(one, "failurePolicy") == "Ignore",
            reinvoked: text(one, "reinvocationPolicy") == "IfNeeded",
            takes_dry_run: one.get("sideEffects").and_then(Value::as_str).map(|effects| matches!(effects, "None" | "NoneOnDryRun")),
            criteria: Criteria::of(Some(one), "/rules")?,
            conditions: conditional.then(|| Policy::of(&json!({"metadata": {"name": name}, "spec": spec}), false)),
        })
    }

    /// Whether the namespace of the object must be looked at.
    pub(super) fn asks_namespace(&self) -> bool {
        self.criteria.asks_namespace()
    }

    /// Whether the webhook is to be asked about the write, and in which version; the error refuses the write.
    pub(super) async fn concerns(
        &self,
        engine: &Engine,
        attempt: &Attempt<'_>,
        new: Option<&Object>,
        namespace: Option<&Value>,
    ) -> Result<Option<Matched>, Status> {
        let subject = Subject { attempt, new, namespace, equivalents: &engine.equivalents };
        let selected = self.criteria.namespace_matches(&subject);
        if selected == Some(false) || !self.criteria.object_matches(&subject) {
            return Ok(None);
        }
        let Some(matched) = self.criteria.rule_matches(&subject) else { return Ok(None) };
        if let Some(fault) = self.criteria.fault() {
            return Err(internal(fault));
        }
        if selected.is_none() {
            let name = attempt.namespace(new);
            return Err(Status::not_found(status::Subject { group: "", resource: "namespaces", name }));
        }
        let holds = self.conditions_hold(engine, attempt, new, &matched).await?;
        Ok(holds.then_some(matched))
    }

    async fn conditions_hold(
        &self,
        engine: &Engine,
        attempt: &Attempt<'_>,
        new: Option<&Object>,
        matched: &Matched,
    ) -> Result<bool, Status> {
        let Some(policy) = &self.conditions else { return Ok(true) };
        let object = match new {
            Some(new) => Some(versioned(attempt, matched, new).await?),
            None => None,
        };
        let old = match attempt.old {
            Some(old) => Some(versioned(attempt, matched, old).await?),
            None => None,
        };
        let null = Value::Null;
        let asked = Asked::new(&engine.authorizer, attempt.user);
        let request = describe(attempt, new, matched.as_deref());
        let scene = Scene {
            policy,
            attempt,
            object: object.as_ref().map_or(&null, |object| object.value()),
            old: old.as_ref().map_or(&null, |old| old.value()),
            namespace: &null,
            request: &request,
            params: &null,
            asked: &asked,
            shared: None,
        };
        match asked.until_known(|| conditions(&scene)).await {
            Ok(holds) => Ok(holds),
            Err(_) if self.ignored => Ok(false),
            Err(why) => {
                let request = attempt.request;
                let subject = status::Subject { group: &request.group, resource: &request.resource, name: attempt.name(new) };
                Err(Status::forbidden(subject, &why))
            }
        }
    }
}
