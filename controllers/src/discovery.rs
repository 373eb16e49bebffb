//! Which kinds the server has right now, custom ones included.

use std::collections::BTreeSet;

use kube::{
    Client,
    client::{APIGroupDiscovery, APIResourceDiscovery},
};

use crate::object::Resource;

/// A kind the server serves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    /// How the API names it.
    pub(crate) resource: Resource,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    /// Whether all of these verbs work on it.
    pub(crate) fn allows(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|allowed| allowed == verb))
    }
}

/// What the server serves: each resource of each group once, in its preferred version. Whether something could not be
/// discovered (an aggregated API that does not answer) is the second part.
pub(crate) async fn discover(client: &Client) -> Result<(Vec<Served>, bool), kube::Error> {
    let core = client.list_core_api_versions_aggregated().await?;
    let groups = client.list_api_groups_aggregated().await?;
    if core.items.is_empty() {
        return plain(client).await;
    }
    let mut served = Vec::new();
    let mut stale = false;
    for group in core.items.iter().chain(&groups.items) {
        stale |= collect(group, &mut served);
    }
    Ok((served, stale))
}

/// Takes one group; whether part of it is stale.
fn collect(group: &APIGroupDiscovery, served: &mut Vec<Served>) -> bool {
    let name = group.metadata.as_ref().and_then(|meta| meta.name.clone()).unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut stale = false;
    for version in &group.versions {
        stale |= version.freshness.as_deref() == Some("Stale");
        for resource in &version.resources {
            if let Some(found) = one(&name, version.version.as_deref().unwrap_or_default(), resource)
                && seen.insert(found.resource.plural.to_string())
            {
                served.push(found);
            }
        }
    }
    stale
}

fn one(group: &str, version: &str, found: &APIResourceDiscovery) -> Option<Served> {
    let kind = found.response_kind.as_ref()?;
    Some(Served {
        resource: Resource {
            group: group.to_owned().into(),
            version: kind.version.clone().filter(|version| !version.is_empty()).unwrap_or_else(|| version.to_owned()).into(),
            plural: found.resource.clone()?.into(),
            kind: kind.kind.clone()?.into(),
        },
        namespaced: found.scope.as_deref() == Some("Namespaced"),
        verbs: found.verbs.clone(),
    })
}

/// The same from the one-document-per-version form, for servers without the aggregated one.
async fn plain(client: &Client) -> Result<(Vec<Served>, bool), kube::Error> {
    let mut served = Vec::new();
    let mut lists = Vec::new();
    for version in client.list_core_api_versions().await?.versions {
        lists.push((String::new(), version.clone(), client.list_core_api_resources(&version).await));
    }
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.as_ref().or(group.versions.first());
        for version in preferred.into_iter().chain(group.versions.iter().filter(|version| Some(*version) != preferred)) {
            lists.push((group.name.clone(), version.version.clone(), client.list_api_group_resources(&version.group_version).await));
        }
    }
    let (mut seen, mut stale) = (BTreeSet::new(), false);
    for (group, version, list) in lists {
        let Ok(list) = list else {
            stale = true;
            continue;
        };
        for found in list.resources.into_iter().filter(|found| !found.name.contains('/')) {
            if seen.insert((group.clone(), found.name.clone())) {
                let resource = Resource {
                    group: group.clone().into(),
                    version: version.clone().into(),
                    plural: found.name.into(),
                    kind: found.kind.into(),
                };
                served.push(Served { resource, namespaced: found.namespaced, verbs: found.verbs });
            }
        }
    }
    Ok((served, stale))
}
