//! Deployments, replica sets, stateful sets, daemon sets and replication controllers (upstream `apis/apps`).

use coracle_schema::{FieldErrors, name, selector, selector::LabelSelector};
use coracle_tree::{Value, json};

use super::{
    persistentvolumeclaim::{self, Groups},
    pod, template, view,
};
use crate::registry::{Object, Part, Rules};

/// Rules of `deployments`.
pub(super) struct Deployment;
/// Rules of `replicasets`.
pub(super) struct ReplicaSet;
/// Rules of `statefulsets`.
pub(super) struct StatefulSet;
/// Rules of `daemonsets`.
pub(super) struct DaemonSet;
/// Rules of `replicationcontrollers`.
pub(super) struct ReplicationController;
/// Rules of `podtemplates`.
pub(super) struct PodTemplate;

/// Rules of `controllerrevisions`.
pub(super) struct ControllerRevision;

type Bound = (&'static str, &'static str, &'static str);
const READY: Bound = ("readyReplicas", "replicas", "status.replicas");
const AVAILABLE: Bound = ("availableReplicas", "replicas", "status.replicas");
const AVAILABLE_READY: Bound = ("availableReplicas", "readyReplicas", "readyReplicas");
/// Counts in the status of replica sets and replication controllers.
const REPLICAS: &[&str] =
    &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration", "terminatingReplicas"];
const REPLICAS_BELOW: &[Bound] = &[("fullyLabeledReplicas", "replicas", "status.replicas"), READY, AVAILABLE, AVAILABLE_READY];

impl Rules for Deployment {
    fn default(&self, object: &mut Object) {
        template::default(object.value_mut());
        rolling(object.value_mut(), "strategy", |rolling| {
            view::set_absent(rolling, "maxUnavailable", "25%");
            view::set_absent(rolling, "maxSurge", "25%");
        });
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            let counts = [
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
                "collisionCount",
            ];
            let below = [("updatedReplicas", "replicas", "status.replicas"), READY, AVAILABLE, AVAILABLE_READY];
            template::counts(view::member(new.value(), "status"), &counts, &below, &mut errors);
            template::collisions(new.value(), old.map(Object::value), &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        template::check_selector(spec, "deployment", &mut errors);
        if template::has_selector(new) {
            template::check_lasting(view::member(spec, "template"), "ReplicaSet", "spec.template", &mut errors);
        }
        let counts = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
        template::not_negative(spec, &counts, "spec", &mut errors);
        deployment_strategy(view::member(spec, "strategy"), &mut errors);
        let ready = view::int(spec, "minReadySeconds").unwrap_or_default();
        if let Some(seconds) = view::int(spec, "progressDeadlineSeconds").filter(|s| *s <= ready) {
            errors.invalid("spec.progressDeadlineSeconds", seconds, "must be greater than minReadySeconds");
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, part: Part<'_>) -> FieldErrors {
        lasting(new, old, part, &["selector"])
    }

    fn passed_over(&self, new: &Object, _: Option<&Object>) -> Vec<String> {
        template::behind_selector(new)
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.strategy.type"]
    }

    fn order(&self) -> &'static [&'static str] {
        &[
            "metadata",
            "spec.replicas",
            "spec.minReadySeconds",
            "spec.selector.",
            "spec.template.metadata.labels",
            "spec.template",
            "spec.strategy",
        ]
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut all = template::name_warnings(new, old, template::POD_NAMES);
        all.extend(template::warnings(new, old, TEMPLATE));
        all
    }
}

fn deployment_strategy(strategy: &Value, errors: &mut FieldErrors) {
    let path = "spec.strategy.rollingUpdate";
    let rolling = view::get(strategy, "rollingUpdate");
    match (view::text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => errors.forbidden(path, "may not be specified when strategy `type` is 'Recreate'"),
        ("RollingUpdate", Some(rolling)) => {
            let (unavailable, surge) = (view::member(rolling, "maxUnavailable"), view::member(rolling, "maxSurge"));
            template::int_or_percent(unavailable, &format!("{path}.maxUnavailable"), errors);
            template::int_or_percent(surge, &format!("{path}.maxSurge"), errors);
            if template::amount(unavailable) == 0 && template::amount(surge) == 0 {
                errors.invalid(format!("{path}.maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0");
            }
            template::at_most_all(unavailable, &format!("{path}.maxUnavailable"), errors);
        }
        ("Recreate" | "RollingUpdate", _) => {}
        _ => errors.not_supported("spec.strategy", strategy, &["Recreate", "RollingUpdate"]),
    }
}

/// Fills in the parameters of a rolling update, where that is the strategy.
fn rolling(object: &mut Value, strategy: &str, fill: impl Fn(&mut Value)) {
    let strategy = view::message_mut(object, "spec").and_then(|spec| view::message_mut(spec, strategy));
    if let Some(strategy) = strategy.filter(|s| view::text(s, "type") == "RollingUpdate") {
        view::set_absent(strategy, "rollingUpdate", json!({}));
        fill(&mut strategy["rollingUpdate"]);
    }
}

impl Rules for ReplicaSet {
    fn default(&self, object: &mut Object) {
        template::default(object.value_mut());
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            template::counts(view::member(new.value(), "status"), REPLICAS, REPLICAS_BELOW, &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        template::not_negative(spec, &["replicas", "minReadySeconds"], "spec", &mut errors);
        // Upstream says "deployment" here as well.
        template::check_selector(spec, "deployment", &mut errors);
        if template::has_selector(new) {
            template::check_lasting(view::member(spec, "template"), "ReplicaSet", "spec.template", &mut errors);
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, part: Part<'_>) -> FieldErrors {
        lasting(new, old, part, &["selector"])
    }

    fn passed_over(&self, new: &Object, _: Option<&Object>) -> Vec<String> {
        template::behind_selector(new)
    }

    fn order(&self) -> &'static [&'static str] {
        &["metadata", "spec.replicas", "spec.minReadySeconds", "spec.selector.", "spec.template.metadata.labels", "spec.template"]
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut all = template::name_warnings(new, old, template::POD_NAMES);
        all.extend(template::warnings(new, old, TEMPLATE));
        all
    }
}

/// Fields of the spec that may not change.
fn lasting(new: &Object, old: &Object, part: Part<'_>, fields: &[&str]) -> FieldErrors {
    let mut errors = FieldErrors::none();
    if part != Part::Status {
        let (now, before) = (view::member(new.value(), "spec"), view::member(old.value(), "spec"));
        fields.iter().for_each(|field| template::immutable(now, before, field, "spec", &mut errors));
    }
    errors
}

fn replicas(object: &Value) -> Vec<(&'static str, String)> {
    vec![("status.replicas", view::int(view::member(object, "status"), "replicas").unwrap_or_default().to_string())]
}

const TEMPLATE: &str = "spec.template";

impl Rules for StatefulSet {
    fn default(&self, object: &mut Object) {
        template::default(object.value_mut());
        let Some(spec) = view::message_mut(object.value_mut(), "spec") else { return };
        for claim in view::items_mut(spec, "volumeClaimTemplates") {
            // Whatever the writer says they are.
            claim["apiVersion"] = "v1".into();
            claim["kind"] = "PersistentVolumeClaim".into();
        }
        view::set_absent(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        if view::text(strategy, "type").is_empty() {
            strategy["type"] = "RollingUpdate".into();
            view::set_absent(strategy, "rollingUpdate", json!({}));
        }
        if view::text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = view::message_mut(strategy, "rollingUpdate")
        {
            view::set_absent(rolling, "partition", 0);
            view::set_absent(rolling, "maxUnavailable", 1);
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            let counts = [
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
                "collisionCount",
            ];
            let below = [
                READY,
                ("currentReplicas", "replicas", "status.replicas"),
                ("updatedReplicas", "replicas", "status.replicas"),
                AVAILABLE,
                ("availableReplicas", "readyReplicas", "status.readyReplicas"),
            ];
            template::counts(view::member(new.value(), "status"), &counts, &below, &mut errors);
            template::collisions(new.value(), old.map(Object::value), &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        match view::text(spec, "podManagementPolicy") {
            "OrderedReady" | "Parallel" => {}
            "" => errors.required("spec.podManagementPolicy", ""),
            other => errors.invalid("spec.podManagementPolicy", view::quoted(other), "must be 'OrderedReady' or 'Parallel'"),
        }
        stateful_strategy(view::member(spec, "updateStrategy"), &mut errors);
        let retention = view::member(spec, "persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            let value = view::text(retention, field);
            if !["Retain", "Delete"].contains(&value) {
                let path = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
                errors.not_supported(path, view::quoted(value), &["Retain", "Delete"]);
            }
        }
        // They cannot change, so upstream looks at them once.
        let claims = if old.is_none() { view::list(spec, "volumeClaimTemplates") } else { &[] };
        for (at, claim) in claims.iter().enumerate() {
            let path = format!("spec.volumeClaimTemplates[{at}].spec");
            persistentvolumeclaim::spec(view::member(claim, "spec"), Groups::Valid, &path, &mut errors);
        }
        template::not_negative(spec, &["replicas", "minReadySeconds"], "spec", &mut errors);
        template::not_negative(view::member(spec, "ordinals"), &["start"], "spec.ordinals", &mut errors);
        let service = view::text(spec, "serviceName");
        if !service.is_empty() && old.is_none() {
            errors.invalid_each("spec.serviceName", service, name::label(service));
        }
        template::check_selector(spec, "statefulset", &mut errors);
        if template::has_selector(new) {
            template::check_lasting(&with_claims(spec), "StatefulSet", "spec.template", &mut errors);
        }
        errors
    }

    fn immutable(&self, new: &Object, old: &Object, part: Part<'_>) -> FieldErrors {
        lasting(new, old, part, &["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"])
    }

    fn passed_over(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut parts = template::behind_selector(new);
        parts.extend(old.map(|_| "spec.volumeClaimTemplates".to_owned()));
        parts
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.updateStrategy.type", "spec.revisionHistoryLimit"]
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut all = template::warnings(new, old, TEMPLATE);
        let spec = view::member(new.value(), "spec");
        for (at, claim) in view::list(spec, "volumeClaimTemplates").iter().enumerate() {
            // Upstream's path names a field of Go's when the set is updated.
            let field = if old.is_some() { ".Spec" } else { "" };
            all.extend(pod::warnings::claim(view::member(claim, "spec"), &format!("spec.volumeClaimTemplates[{at}]{field}")));
        }
        if view::int(spec, "revisionHistoryLimit").is_some_and(|limit| limit < 0) {
            let text = "a negative value retains all historical revisions; a value >= 0 is recommended";
            all.push(format!("spec.revisionHistoryLimit: {text}"));
        }
        all
    }
}

fn stateful_strategy(strategy: &Value, errors: &mut FieldErrors) {
    let rolling = view::get(strategy, "rollingUpdate");
    let path = "spec.updateStrategy.rollingUpdate";
    match (view::text(strategy, "type"), rolling) {
        ("OnDelete", Some(rolling)) => errors.invalid(path, rolling, "only allowed for updateStrategy 'RollingUpdate'"),
        ("RollingUpdate", Some(rolling)) => {
            template::not_negative(rolling, &["partition"], path, errors);
            let unavailable = view::member(rolling, "maxUnavailable");
            template::int_or_percent(unavailable, &format!("{path}.maxUnavailable"), errors);
            if !unavailable.is_null() && template::amount(unavailable) == 0 {
                errors.invalid(format!("{path}.maxUnavailable"), unavailable, "cannot be 0");
            }
            template::at_most_all(unavailable, &format!("{path}.maxUnavailable"), errors);
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        ("", _) => errors.required("spec.updateStrategy", ""),
        _ => errors.invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// The template as its pods will look: with a volume for each claim, and without the names that the controller sets.
fn with_claims(spec: &Value) -> Value {
    let mut template = view::member(spec, "template").clone();
    let Some(pod) = view::message_mut(&mut template, "spec") else { return template };
    view::remove(pod, "hostname");
    view::remove(pod, "subdomain");
    let claims = view::list(spec, "volumeClaimTemplates");
    if claims.is_empty() {
        return template;
    }
    let name = |claim: &Value| view::text(view::member(claim, "metadata"), "name").to_owned();
    let mut volumes: Vec<Value> = Vec::new();
    for claim in claims.iter().map(name) {
        if !volumes.iter().any(|volume| view::text(volume, "name") == claim) {
            volumes.push(json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
        }
    }
    let own = view::list(pod, "volumes").iter().filter(|v| !claims.iter().any(|c| name(c) == view::text(v, "name")));
    volumes.extend(own.cloned());
    pod["volumes"] = volumes.into();
    template
}

/// Where `apps/v1` keeps the count of template changes that the first versions of the API had a field for.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_count(set: &Object) -> Option<i64> {
    set.annotation(TEMPLATE_GENERATION).and_then(|text| text.parse().ok())
}

/// Writes down the count that `change` makes of the present one.
fn count_template(set: &mut Object, change: impl Fn(Option<i64>) -> i64) {
    let number = change(template_count(set));
    let annotations = set.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    annotations[TEMPLATE_GENERATION] = number.to_string().into();
}

impl Rules for DaemonSet {
    fn default(&self, object: &mut Object) {
        template::default(object.value_mut());
        // Part of what the writer owns: upstream converts a field of its internal type.
        count_template(object, std::option::Option::unwrap_or_default);
        rolling(object.value_mut(), "updateStrategy", |rolling| {
            view::set_absent(rolling, "maxUnavailable", 1);
            view::set_absent(rolling, "maxSurge", 0);
        });
    }

    fn prepare(&self, new: &mut Object, old: Option<&Object>, part: Part<'_>) {
        if part != Part::Whole {
            return;
        }
        let template = |o: &Object| view::member(view::member(o.value(), "spec"), "template").clone();
        let number = match old {
            None => 1,
            Some(old) => template_count(old).unwrap_or_default() + i64::from(template(new) != template(old)),
        };
        count_template(new, |_| number);
    }

    fn validate(&self, new: &Object, old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            let counts = [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ];
            template::counts(view::member(new.value(), "status"), &counts, &[], &mut errors);
            template::collisions(new.value(), old.map(Object::value), &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        if let Some(old) = old {
            // Of a daemon set upstream says this first.
            template::immutable(spec, view::member(old.value(), "spec"), "selector", "spec", &mut errors);
        }
        daemon_selector(spec, &mut errors);
        template::check_lasting(view::member(spec, "template"), "DaemonSet", "spec.template", &mut errors);
        template::not_negative(spec, &["minReadySeconds"], "spec", &mut errors);
        daemon_strategy(view::member(spec, "updateStrategy"), &mut errors);
        template::not_negative(spec, &["revisionHistoryLimit"], "spec", &mut errors);
        errors
    }

    fn unheard(&self) -> &'static [&'static str] {
        &["spec.selector", "spec.updateStrategy.type"]
    }

    fn order(&self) -> &'static [&'static str] {
        &["metadata", "spec.selector", "spec.template.metadata.labels", "spec.template", "spec.minReadySeconds", "spec.updateStrategy"]
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let same = old.is_some_and(|old| old.annotation(TEMPLATE_GENERATION) == new.annotation(TEMPLATE_GENERATION));
        if same { Vec::new() } else { template::warnings(new, None, TEMPLATE) }
    }
}

/// Unlike other workloads, a daemon set without a selector only hears that its template does not fit.
fn daemon_selector(spec: &Value, errors: &mut FieldErrors) {
    let given = view::get(spec, "selector");
    if let Some(given) = given {
        selector::validate_object(given, "spec.selector", errors);
    }
    let Ok(parsed) = LabelSelector::from_object(given) else { return };
    template::matches_template(&parsed, view::member(spec, "template"), errors);
    if parsed.is_everything()
        && let Some(given) = given
    {
        errors.invalid("spec.selector", given, "empty selector is invalid for daemonset");
    }
}

fn daemon_strategy(strategy: &Value, errors: &mut FieldErrors) {
    match view::text(strategy, "type") {
        "RollingUpdate" => {}
        "OnDelete" => return,
        _ => return errors.not_supported("spec.updateStrategy", strategy, &["RollingUpdate", "OnDelete"]),
    }
    let path = "spec.updateStrategy.rollingUpdate";
    let rolling = view::member(strategy, "rollingUpdate");
    let (unavailable, surge) = (view::member(rolling, "maxUnavailable"), view::member(rolling, "maxSurge"));
    for (value, field) in [(unavailable, "maxUnavailable"), (surge, "maxSurge")] {
        template::int_or_percent(value, &format!("{path}.{field}"), errors);
        template::at_most_all(value, &format!("{path}.{field}"), errors);
    }
    match (template::amount(unavailable) != 0, template::amount(surge) != 0) {
        (true, true) => errors.invalid(format!("{path}.maxSurge"), surge, "may not be set when maxUnavailable is non-zero"),
        (false, false) => errors.required(format!("{path}.maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

impl Rules for ReplicationController {
    fn default(&self, object: &mut Object) {
        template::default(object.value_mut());
        let labels = object.value().pointer("/spec/template/metadata/labels").cloned();
        let Some(labels) = labels.filter(|l| l.as_object().is_some_and(|m| !m.is_empty())) else { return };
        if view::map(view::member(object.value(), "spec"), "selector").is_empty() {
            object.member_mut("spec").insert("selector", labels.clone());
        }
        if view::map(view::member(object.value(), "metadata"), "labels").is_empty() {
            object.set_metadata("labels", labels);
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        if part == Part::Status {
            template::counts(view::member(new.value(), "status"), REPLICAS, REPLICAS_BELOW, &mut errors);
            return errors;
        }
        let spec = view::member(new.value(), "spec");
        template::not_negative(spec, &["minReadySeconds", "replicas"], "spec", &mut errors);
        let selector = view::map(spec, "selector");
        if selector.is_empty() {
            errors.required("spec.selector", "");
        }
        match view::get(spec, "template") {
            None => errors.required("spec.template", ""),
            Some(given) => {
                if !selector.is_empty() {
                    template::matches_template(&LabelSelector::from_map(selector), given, &mut errors);
                }
                template::check_lasting(given, "ReplicationController", "spec.template", &mut errors);
            }
        }
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut all = template::name_warnings(new, old, template::POD_NAMES);
        all.extend(template::warnings(new, old, TEMPLATE));
        all
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        replicas(object)
    }
}

impl Rules for ControllerRevision {
    fn validate(&self, new: &Object, old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        match view::get(new.value(), "data") {
            None if old.is_none() => errors.required("data", "data is mandatory"),
            None => {}
            Some(data) if !data.is_object() && old.is_none() => errors.required("data", "data must be a valid JSON object"),
            Some(_) => {}
        }
        if let Some(revision) = view::int(new.value(), "revision").filter(|revision| *revision < 0) {
            errors.invalid("revision", revision, "must be greater than or equal to 0");
        }
        if let Some(old) = old
            && view::get(new.value(), "data") != view::get(old.value(), "data")
        {
            errors.invalid("data", view::member(new.value(), "data"), "field is immutable");
        }
        errors
    }
}

impl Rules for PodTemplate {
    fn default(&self, object: &mut Object) {
        template::default_at(object.value_mut());
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _part: Part<'_>) -> FieldErrors {
        let mut errors = FieldErrors::none();
        template::check(view::member(new.value(), "template"), "template", &mut errors);
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template::warnings(new, old, "template")
    }
}
