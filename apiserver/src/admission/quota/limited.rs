//! `ResourceQuotaConfiguration`: what nobody may use unless a quota covers it (apiserver `admission/plugin/resourcequota/apis`).

use std::collections::BTreeSet;

use coracle_schema::FieldErrors;
use coracle_tree::Value;
use serde::Deserialize;

use super::usage;
use crate::{
    admission::{
        Attempt,
        look::{self, list, text},
        resources,
    },
    registry::Object,
    wire::{Status, configuration::Format, status::refused},
};

const FIELDS: &[(&str, &[&str])] = &[
    ("", &["apiVersion", "kind", "limitedResources"]),
    ("limitedResources", &["apiGroup", "resource", "matchContains", "matchScopes"]),
    ("limitedResources.matchScopes", &["scopeName", "operator", "values"]),
];
const FORMAT: Format =
    Format { group: "apiserver.config.k8s.io", versions: &["v1"], kind: "ResourceQuotaConfiguration", others: &[], fields: FIELDS };
/// The names of old.
const LEGACY: Format =
    Format { group: "resourcequota.admission.k8s.io", versions: &["v1beta1", "v1alpha1"], kind: "Configuration", ..FORMAT };

/// What needs a quota.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Limited {
    limited_resources: Vec<Resource>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Resource {
    api_group: String,
    resource: String,
    match_contains: Vec<String>,
    match_scopes: Vec<Scope>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Scope {
    scope_name: String,
    operator: String,
    values: Vec<Value>,
}

impl Limited {
    /// Reads the file; the error says what is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let limited: Self = FORMAT.read_or(&LEGACY, bytes)?;
        let mut errors = FieldErrors::none();
        for at in (0..).zip(&limited.limited_resources).filter(|(_, one)| one.resource.is_empty()).map(|(at, _): (usize, _)| at) {
            errors.required(format!("limitedResources[{at}].resource"), "");
        }
        refused(&errors).map(|()| limited)
    }

    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.limited_resources.is_empty()
    }

    /// Refuses what uses more of something that needs a quota and has none among the namespace's (`CheckRequest`).
    pub(super) fn check(&self, attempt: &Attempt<'_>, new: &Object, quotas: &[Value]) -> Result<(), Status> {
        let request = attempt.request;
        let (group, resource) = (request.group.as_str(), request.resource.as_str());
        let uses = usage::of(group, resource, new.value());
        let before = attempt.old.map(|old| usage::of(group, resource, old.value())).unwrap_or_default();
        let is_more = |name: &String| uses.get(name).is_some_and(|now| before.get(name).map_or(!now.is_zero(), |then| now > then));
        if !uses.keys().any(is_more) {
            return Ok(());
        }
        let covering = quotas.iter().filter(|quota| usage::in_scope(quota, group, resource, new.value()));
        let covered: BTreeSet<String> = covering.flat_map(|quota| resources::of(quota.pointer("/spec/hard")).into_keys()).collect();
        let of_this = self.limited_resources.iter().filter(|limited| limited.api_group == group && limited.resource == resource);
        let parts: Vec<&str> = of_this.flat_map(|limited| &limited.match_contains).map(String::as_str).collect();
        let needs = |name: &&String| parts.iter().any(|part| name.contains(part)) && !uses[*name].is_zero() && !uses[*name].is_negative();
        let uncovered: Vec<&str> = uses.keys().filter(needs).filter(|name| !covered.contains(*name)).map(String::as_str).collect();
        if !uncovered.is_empty() {
            return Err(look::forbidden(attempt, Some(new), &format!("insufficient quota to consume: {}", uncovered.join(","))));
        }
        if group.is_empty() && resource == "pods" { self.check_scopes(new.value(), quotas) } else { Ok(()) }
    }

    /// Scopes are of pods.
    fn check_scopes(&self, pod: &Value, quotas: &[Value]) -> Result<(), Status> {
        let scopes = self.limited_resources.iter().flat_map(|limited| &limited.match_scopes);
        let fits = |scope: &&Scope| usage::scope_fits(&scope.scope_name, &scope.operator, &scope.values, pod);
        let covers = |scope: &Scope| {
            quotas.iter().any(|quota| {
                let named = list(quota, "/spec/scopeSelector/matchExpressions").iter();
                let mut selected = named.filter(|e| usage::scope_fits(text(e, "scopeName"), text(e, "operator"), list(e, "/values"), pod));
                let mut plain = list(quota, "/spec/scopes").iter().filter_map(Value::as_str);
                plain.any(|name| name == scope.scope_name && usage::scope_fits(name, "Exists", &[], pod))
                    || selected.any(|e| text(e, "scopeName") == scope.scope_name)
            })
        };
        let uncovered: Vec<String> = scopes.filter(fits).filter(|scope| !covers(scope)).map(Scope::shown).collect();
        if uncovered.is_empty() {
            return Ok(());
        }
        Err(Status::new(500, "", format!("insufficient quota to match these scopes: [{}]", uncovered.join(" "))))
    }
}

impl Scope {
    /// As Go prints it.
    fn shown(&self) -> String {
        let values: Vec<&str> = self.values.iter().filter_map(Value::as_str).collect();
        format!("{{{} {} [{}]}}", self.scope_name, self.operator, values.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_quota_has_a_name() {
        let read = |limited: &str| {
            let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\nlimitedResources: ";
            Limited::read(format!("{head}{limited}").as_bytes()).map(|limited| limited.limited_resources.len())
        };
        assert_eq!(read("[{resource: pods}]"), Ok(1));
        let refused = read("[{resource: pods}, {apiGroup: a}, {}]").unwrap_err();
        assert_eq!(refused, "[limitedResources[1].resource: Required value, limitedResources[2].resource: Required value]");
    }
}
