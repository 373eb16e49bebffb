//! LimitRanger: defaults, minimum and maximum of containers, pods and claims (`plugin/pkg/admission/limitranger`).

use std::sync::Arc;

use async_trait::async_trait;
use coracle_schema::Quantity;
use coracle_tree::Value;

use super::{
    Admission, Attempt, Operation,
    look::{self, CONTAINERS, list, text},
    resources::{self, Half, List},
};
use crate::{
    registry::{Object, Reader},
    wire::{Status, status::aggregate},
};

/// Tells which defaults were filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin.
pub struct LimitRanger {
    /// Where limit ranges are looked up.
    pub reader: Arc<dyn Reader>,
}

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        match attempt.operation {
            Operation::Create => look::is(attempt, "", "pods") || look::is(attempt, "", "persistentvolumeclaims"),
            // What pods ask for does not change by plain updates.
            Operation::Update => look::is(attempt, "", "persistentvolumeclaims"),
            _ => false,
        }
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new.filter(|_| attempt.request.resource == "pods") else { return Ok(()) };
        for range in self.ranges(attempt).await? {
            let (requests, limits) = defaults(&range);
            fill_pod(pod, &requests, &limits);
        }
        Ok(())
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(object) = new else { return Ok(()) };
        for range in self.ranges(attempt).await? {
            let limits = list(&range, "/spec/limits");
            let errors: Vec<String> = if attempt.request.resource == "pods" {
                limits.iter().flat_map(|l| pod_errors(l, object.value())).collect()
            } else {
                limits.iter().filter(|l| text(l, "type") == "PersistentVolumeClaim").flat_map(|l| claim_errors(l, object.value())).collect()
            };
            let Some(why) = aggregate(errors) else { continue };
            return Err(look::forbidden(attempt, new, &why));
        }
        Ok(())
    }
}

impl LimitRanger {
    async fn ranges(&self, attempt: &Attempt<'_>) -> Result<Vec<Value>, Status> {
        look::all(&*self.reader, "", "limitranges", &attempt.request.namespace).await
    }
}

/// Default requests and limits of containers. Limits default to the maximum, requests to the limits, then to the minimum.
fn defaults(range: &Value) -> (List, List) {
    let (mut requests, mut limits) = (List::new(), List::new());
    for item in list(range, "/spec/limits").iter().filter(|l| text(l, "type") == "Container") {
        let of = |name: &str| resources::of(item.get(name));
        let mut limit = of("max");
        limit.extend(of("default"));
        let mut request = of("min");
        request.extend(limit.clone());
        request.extend(of("defaultRequest"));
        limits.extend(limit);
        requests.extend(request);
    }
    (requests, limits)
}

fn fill_pod(pod: &mut Object, requests: &List, limits: &List) {
    let mut told = Vec::new();
    for (member, what) in CONTAINERS.iter().rev().zip(["container", "init container"]) {
        let containers = pod.value_mut().pointer_mut(&format!("/spec/{member}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = text(container, "name").to_owned();
            let set_limits = fill(container, Half::Limits, limits);
            for (set, half) in [(fill(container, Half::Requests, requests), "request"), (set_limits, "limit")] {
                if !set.is_empty() {
                    told.push(format!("{} {half} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let value = format!("LimitRanger plugin set: {}", told.join("; "));
        let annotations = pod.metadata_mut().entry("annotations").or_insert_with(|| Value::Object(Default::default()));
        annotations[ANNOTATION] = value.into();
    }
}

/// Sets what is not set; the names of it.
fn fill(container: &mut Value, half: Half, defaults: &List) -> Vec<String> {
    let mut now = resources::of_container(container, half);
    let set: Vec<String> = defaults.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
    if set.is_empty() {
        return set;
    }
    for name in &set {
        now.insert(name.clone(), defaults[name]);
    }
    if !container["resources"].is_object() {
        container["resources"] = Value::Object(Default::default());
    }
    container["resources"][half.name()] = resources::to_value(&now);
    set
}

fn pod_errors(item: &Value, pod: &Value) -> Vec<String> {
    let both = |of: &dyn Fn(Half) -> List| check(item, &of(Half::Requests), &of(Half::Limits));
    match text(item, "type") {
        "Container" => {
            let containers = CONTAINERS.iter().rev().flat_map(|c| list(pod, &format!("/spec/{c}")));
            containers.flat_map(|c| both(&|half| resources::of_container(c, half))).collect()
        }
        "Pod" => both(&|half| resources::of_pod(pod, half)),
        _ => Vec::new(),
    }
}

/// What of an item the requests and limits break.
fn check(item: &Value, requests: &List, limits: &List) -> Vec<String> {
    let kind = text(item, "type");
    let mut errors = Vec::new();
    for (name, enforced) in resources::of(item.get("min")) {
        errors.extend(too_little(kind, &name, enforced, requests.get(&name), limits.get(&name)));
    }
    for (name, enforced) in resources::of(item.get("max")) {
        errors.extend(too_much(kind, &name, enforced, requests.get(&name), limits.get(&name)));
    }
    for (name, enforced) in resources::of(item.get("maxLimitRequestRatio")) {
        errors.extend(too_wide(kind, &name, enforced, requests.get(&name), limits.get(&name)));
    }
    errors
}

fn too_little(kind: &str, name: &str, enforced: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let head = format!("minimum {name} usage per {kind} is {enforced}");
    match (request, limit) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(request), _) if *request < enforced => Some(format!("{head}, but request is {request}")),
        (_, Some(limit)) if *limit < enforced => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

fn too_much(kind: &str, name: &str, enforced: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {enforced}");
    match (request, limit) {
        (_, None) => Some(format!("{head}.  No limit is specified")),
        (_, Some(limit)) if *limit > enforced => Some(format!("{head}, but limit is {limit}")),
        (Some(request), _) if *request > enforced => Some(format!("{head}, but request is {request}")),
        _ => None,
    }
}

fn too_wide(kind: &str, name: &str, enforced: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {enforced}");
    let Some(request) = request.filter(|r| !r.is_zero()) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|l| !l.is_zero()) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    // Display only: the comparison is in whole thousandths.
    let ratio = limit.milli_value() as f64 / request.milli_value() as f64;
    let wide = i128::from(limit.milli_value()) * 1000 > i128::from(enforced.milli_value()) * i128::from(request.milli_value());
    wide.then(|| format!("{head}, but provided ratio is {ratio:.6}"))
}

fn claim_errors(item: &Value, claim: &Value) -> Vec<String> {
    let requests = resources::of(claim.pointer("/spec/resources/requests"));
    let mut errors = Vec::new();
    for (name, enforced) in resources::of(item.get("min")) {
        errors.extend(too_little("PersistentVolumeClaim", &name, enforced, requests.get(&name), None));
    }
    for (name, enforced) in resources::of(item.get("max")) {
        let head = format!("maximum {name} usage per PersistentVolumeClaim is {enforced}");
        match requests.get(&name) {
            None => errors.push(format!("{head}.  No request is specified")),
            Some(request) if *request > enforced => errors.push(format!("{head}, but request is {request}")),
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "literals are easier to read without borrows")]
mod tests {
    use coracle_tree::json;

    use super::*;
    use crate::admission::bench::{Bench, pod};

    fn bench(limits: Value) -> (Bench, LimitRanger) {
        let bench = Bench::new();
        bench.reader.put("", "limitranges", json!({"metadata": {"name": "l", "namespace": "live"}, "spec": {"limits": limits}}));
        let plugin = LimitRanger { reader: bench.reader.clone() };
        (bench, plugin)
    }

    fn asking(requests: Value, limits: Value) -> Value {
        let mut pod = pod();
        pod["spec"]["containers"][0]["resources"] = json!({"requests": requests, "limits": limits});
        pod
    }

    #[tokio::test]
    async fn containers_get_defaults_and_the_pod_is_told() {
        let item = json!({"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}});
        let (b, plugin) = bench(json!([item]));
        let pod = b.create(&plugin, "pods live web", asking(json!({"memory": "64Mi"}), json!({}))).await.unwrap();
        let expected = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "1Gi"}});
        assert_eq!(pod["spec"]["containers"][0]["resources"], expected);
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c"
        );
    }

    #[tokio::test]
    async fn what_is_out_of_range_is_refused_in_upstreams_words() {
        let cases = [
            (json!({"min": {"cpu": "200m"}}), "minimum cpu usage per Container is 200m, but request is 100m"),
            (json!({"max": {"cpu": "100m"}}), "maximum cpu usage per Container is 100m, but limit is 300m"),
            (json!({"max": {"memory": "1Gi"}, "default": {}}), ""),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
        ];
        for (mut item, expected) in cases {
            item["type"] = "Container".into();
            let (b, plugin) = bench(json!([item]));
            let new = asking(json!({"cpu": "100m", "memory": "1Gi"}), json!({"cpu": "300m", "memory": "1Gi"}));
            let result = b.create(&plugin, "pods live web", new).await;
            match expected {
                "" => assert!(result.is_ok()),
                text => assert_eq!(result.unwrap_err().message, format!(r#"pods "web" is forbidden: {text}"#)),
            }
        }
    }

    #[tokio::test]
    async fn pods_are_measured_as_a_whole_and_claims_by_their_size() {
        let (b, plugin) =
            bench(json!([{"type": "Pod", "max": {"cpu": "1"}}, {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]));
        let mut two = asking(json!({"cpu": "600m"}), json!({"cpu": "600m"}));
        let second = two["spec"]["containers"][0].clone();
        two["spec"]["containers"].as_array_mut().unwrap().push(second);
        let refused = b.create(&plugin, "pods live web", two).await.unwrap_err();
        assert!(refused.message.ends_with("maximum cpu usage per Pod is 1, but limit is 1200m"), "{}", refused.message);
        let claim = json!({"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let refused = b.create(&plugin, "persistentvolumeclaims live d", claim).await.unwrap_err();
        assert!(refused.message.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"));
    }
}
