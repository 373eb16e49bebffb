//! `coracle who-can VERB RESOURCE`: everybody the cluster knows of who may do something, and why, as the server's own authorizers say it.

use std::collections::BTreeSet;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    authorization::v1::{NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRoleBinding, RoleBinding, Subject},
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use tokio::task::JoinSet;

use crate::{commands::say, options::WhoCanOptions, remote};

/// Questions under way at once.
const AT_ONCE: usize = 16;

/// Somebody who may be asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    User(String),
    Group(String),
    /// Namespace and name.
    Account(String, String),
}

/// Prints a line for each who may: kind, name and reason.
pub(crate) fn run(options: &WhoCanOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let client = remote::administrator(&options.data_dir, &mut tasks).await?;
        let known = known(&client).await?;
        let reviews = stream::iter(known).map(|who| ask(&client, options, who)).buffered(AT_ONCE);
        let allowed: Vec<(Who, String)> = reviews.try_filter_map(async |said| Ok(said)).try_collect().await?;
        for (who, reason) in &allowed {
            say(format_args!("{}", line(who, reason)))?;
        }
        if allowed.is_empty() {
            say("nobody but members of system:masters")?;
        }
        Ok(())
    })
}

/// Whom bindings name, all service accounts, and whom policies in Cedar name.
async fn known(client: &Client) -> Result<BTreeSet<Who>> {
    let all = ListParams::default();
    let mut known = BTreeSet::new();
    for binding in Api::<ClusterRoleBinding>::all(client.clone()).list(&all).await? {
        known.extend(binding.subjects.unwrap_or_default().into_iter().filter_map(|subject| of(subject, "")));
    }
    for binding in Api::<RoleBinding>::all(client.clone()).list(&all).await? {
        let home = binding.metadata.namespace.unwrap_or_default();
        known.extend(binding.subjects.unwrap_or_default().into_iter().filter_map(|subject| of(subject, &home)));
    }
    for account in Api::<ServiceAccount>::all(client.clone()).list(&all).await? {
        known.insert(Who::Account(account.metadata.namespace.unwrap_or_default(), account.metadata.name.unwrap_or_default()));
    }
    let policies = ApiResource::from_gvk(&GroupVersionKind::gvk("cedar.k8s.aws", "v1alpha1", "Policy"));
    // Where the kind is not served there are none.
    if let Ok(policies) = Api::<DynamicObject>::all_with(client.clone(), &policies).list(&all).await {
        for policy in policies {
            known.extend(named(policy.data.pointer("/spec/content").and_then(serde_json::Value::as_str).unwrap_or_default()));
        }
    }
    Ok(known)
}

fn of(subject: Subject, home: &str) -> Option<Who> {
    Some(match subject.kind.as_str() {
        "User" => Who::User(subject.name),
        "Group" => Who::Group(subject.name),
        "ServiceAccount" => Who::Account(subject.namespace.unwrap_or_else(|| home.to_owned()), subject.name),
        _ => return None,
    })
}

/// The users and groups that a policy's text names.
fn named(policy: &str) -> Vec<Who> {
    const USER: fn(String) -> Who = Who::User;
    const GROUP: fn(String) -> Who = Who::Group;
    let mut found = Vec::new();
    for (before, make) in [("k8s::User::\"", USER), ("principal.name == \"", USER), ("k8s::Group::\"", GROUP)] {
        let names = policy.split(before).skip(1).filter_map(|rest| rest.split_once('"')).map(|(name, _)| name);
        found.extend(names.map(|name| make(name.to_owned())));
    }
    found
}

async fn ask(client: &Client, options: &WhoCanOptions, who: Who) -> Result<Option<(Who, String)>> {
    let authenticated = "system:authenticated".to_owned();
    let (user, groups) = match &who {
        Who::User(name) => (Some(name.clone()), vec![authenticated]),
        Who::Group(name) => (None, vec![name.clone()]),
        Who::Account(namespace, name) => (
            Some(format!("system:serviceaccount:{namespace}:{name}")),
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}"), authenticated],
        ),
    };
    let spec = SubjectAccessReviewSpec { user, groups: Some(groups), ..asked(options) };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let review = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    let status = review.status.filter(|status| status.allowed);
    Ok(status.map(|status| (who, status.reason.unwrap_or_default())))
}

/// `pods`, `deployments.apps/scale` or `/metrics`
fn asked(options: &WhoCanOptions) -> SubjectAccessReviewSpec {
    let verb = Some(options.verb.clone());
    if options.resource.starts_with('/') {
        let path = Some(options.resource.clone());
        return SubjectAccessReviewSpec { non_resource_attributes: Some(NonResourceAttributes { path, verb }), ..Default::default() };
    }
    let (resource, subresource) = options.resource.split_once('/').unwrap_or((&options.resource, ""));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let attributes = ResourceAttributes {
        verb,
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: Some(subresource.to_owned()),
        name: options.name.clone(),
        namespace: options.namespace.clone(),
        ..ResourceAttributes::default()
    };
    SubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() }
}

fn line(who: &Who, reason: &str) -> String {
    let (kind, name) = match who {
        Who::User(name) => ("User", name.clone()),
        Who::Group(name) => ("Group", name.clone()),
        Who::Account(namespace, name) => ("ServiceAccount", format!("{namespace}/{name}")),
    };
    format!("{kind}\t{name}\t{reason}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_tell_whom_they_name() {
        let text = r#"permit (principal in k8s::Group::"devs", action, resource) when { principal.name == "jane" }; forbid (principal == k8s::User::"joe", action, resource);"#;
        assert_eq!(named(text), [Who::User("joe".into()), Who::User("jane".into()), Who::Group("devs".into())]);
    }

    #[test]
    fn resources_have_groups_and_parts_and_paths_have_none() {
        let options = |resource: &str| WhoCanOptions {
            verb: "get".into(),
            resource: resource.into(),
            name: None,
            namespace: Some("dev".into()),
            data_dir: "x".into(),
        };
        let attributes = asked(&options("deployments.apps/scale")).resource_attributes.unwrap();
        let parts = [attributes.group, attributes.resource, attributes.subresource, attributes.namespace].map(Option::unwrap);
        assert_eq!(parts, ["apps", "deployments", "scale", "dev"]);
        assert_eq!(asked(&options("/metrics")).non_resource_attributes.unwrap().path.as_deref(), Some("/metrics"));
    }
}
