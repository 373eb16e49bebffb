//! SelfSubjectRulesReview: what a user may do in a namespace, as far as the authorizers can tell.

use std::sync::Arc;

use coracle_tree::{Value, json};

use super::{Chain, policy::Rule};
use crate::{
    authn::User,
    registry::Object,
    wire::{Status, status::aggregate},
};

/// What authorizers allow a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The rules, as they are shared with the authorizer.
    pub rules: Vec<Arc<[Rule]>>,
    /// Whether more may be allowed than the rules tell.
    pub incomplete: bool,
    /// What went wrong in finding out.
    pub errors: Vec<String>,
}

impl Known {
    /// These rules are the whole truth.
    pub fn of(rules: impl IntoIterator<Item = Arc<[Rule]>>) -> Self {
        Self { rules: rules.into_iter().collect(), ..Self::default() }
    }

    /// Nothing is known, for this reason.
    pub fn untold(why: &str) -> Self {
        Self { incomplete: true, errors: vec![why.to_owned()], ..Self::default() }
    }

    /// Adds what another authorizer knows.
    pub fn extend(&mut self, more: Self) {
        self.rules.extend(more.rules);
        self.incomplete |= more.incomplete;
        self.errors.extend(more.errors);
    }
}

/// Fills the status of a SelfSubjectRulesReview.
pub fn self_subject_rules_review(chain: &Chain, user: &User, mut review: Object) -> Result<Object, Status> {
    let namespace = review.text("/spec/namespace").to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let known = chain.rules(user, &namespace);
    let all = || known.rules.iter().flat_map(|rules| rules.iter());
    let of_paths = all().filter(|rule| !rule.non_resource_urls.is_empty());
    let mut status = json!({
        "resourceRules": all().filter(|rule| !rule.resources.is_empty()).map(resource_rule).collect::<Vec<_>>(),
        "nonResourceRules": of_paths.map(|r| json!({"verbs": r.verbs, "nonResourceURLs": r.non_resource_urls})).collect::<Vec<_>>(),
        "incomplete": known.incomplete,
    });
    if let Some(error) = aggregate(known.errors) {
        status["evaluationError"] = error.into();
    }
    if let Some(root) = review.value_mut().as_object_mut() {
        // Nothing of the question is repeated.
        root.retain(|name, _| name == "apiVersion" || name == "kind");
        root.insert("metadata", json!({"creationTimestamp": null}));
        root.insert("spec", json!({}));
        root.insert("status", status);
    }
    Ok(review)
}

fn resource_rule(rule: &Rule) -> Value {
    let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
    if !rule.resource_names.is_empty() {
        value["resourceNames"] = json!(rule.resource_names);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authz::rbac::Rbac, registry::fake::FakeReader};

    #[tokio::test]
    async fn the_rules_bound_in_the_namespace_are_listed() {
        let reader = FakeReader::default();
        let group = crate::authz::rbac::GROUP;
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}, {"nonResourceURLs": ["/x"], "verbs": ["get"]}]);
        reader.put(group, "clusterroles", json!({"metadata": {"name": "r"}, "rules": rules}));
        let role = json!({"kind": "ClusterRole", "name": "r"});
        let binding =
            json!({"metadata": {"name": "b", "namespace": "dev"}, "roleRef": role, "subjects": [{"kind": "User", "name": "jane"}]});
        reader.put(group, "rolebindings", binding);
        let rbac = Arc::new(Rbac::default());
        rbac.load(&reader).await.unwrap();
        let chain = Chain::new(vec![rbac]);
        let jane = User::new("jane", &[]);
        let review = |namespace: &str| Object::new(json!({"spec": {"namespace": namespace}})).unwrap();
        let status = self_subject_rules_review(&chain, &jane, review("dev")).unwrap().into_value()["status"].take();
        assert_eq!(status["resourceRules"], json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
        assert_eq!(status["nonResourceRules"], json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}]));
        assert_eq!(status["incomplete"], false);
        let elsewhere = self_subject_rules_review(&chain, &jane, review("prod")).unwrap();
        assert_eq!(elsewhere.value()["status"]["resourceRules"], json!([]));
        assert_eq!(self_subject_rules_review(&chain, &jane, review("")).unwrap_err().code, 400);
    }
}
