//! AlwaysPullImages: nobody runs an image he may not pull (`plugin/pkg/admission/alwayspullimages`).

use std::collections::HashSet;

use async_trait::async_trait;
use coracle_tree::{Value, json};

use crate::{
    admission::{
        Admission, Attempt, Operation,
        look::{self, list, text},
    },
    registry::Object,
    wire::{Status, status::aggregate},
};

/// The plugin.
pub struct AlwaysPullImages;

/// Where containers are listed, in upstream's order.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

#[async_trait]
impl Admission for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        matches!(attempt.operation, Operation::Create | Operation::Update) && look::is(attempt, "", "pods")
    }

    async fn mutate(&self, attempt: &mut Attempt<'_>, new: Option<&mut Object>) -> Result<(), Status> {
        let Some(pod) = new.filter(|pod| has_new_image(attempt, pod)) else { return Ok(()) };
        let spec = &mut pod.value_mut()["spec"];
        for name in CONTAINERS {
            for container in spec.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
                container["imagePullPolicy"] = "Always".into();
            }
        }
        for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
                image["pullPolicy"] = "Always".into();
            }
        }
        Ok(())
    }

    async fn validate(&self, attempt: &mut Attempt<'_>, new: Option<&Object>) -> Result<(), Status> {
        let Some(pod) = new.filter(|pod| has_new_image(attempt, pod)) else { return Ok(()) };
        let mut wrong = Vec::new();
        let mut see = |path: String, policy: &str| {
            if policy != "Always" {
                wrong.push(
                    look::forbidden(attempt, new, &format!("{path}: Unsupported value: {policy:?}: supported values: \"Always\"")).message,
                );
            }
        };
        for name in CONTAINERS {
            for (at, container) in list(pod.value(), &format!("/spec/{name}")).iter().enumerate() {
                see(format!("spec.{name}[{at}].imagePullPolicy"), text(container, "imagePullPolicy"));
            }
        }
        for (at, volume) in list(pod.value(), "/spec/volumes").iter().enumerate() {
            if let Some(image) = volume.get("image").filter(|image| image.is_object()) {
                see(format!("spec.volumes[{at}].image.pullPolicy"), text(image, "pullPolicy"));
            }
        }
        aggregate(wrong).map_or(Ok(()), |all| Err(Status { details: json!({}), ..Status::new(500, "", all) }))
    }
}

/// Whether a pod is new, or an update brings an image that was not there.
fn has_new_image(attempt: &Attempt<'_>, pod: &Object) -> bool {
    let Some(old) = attempt.old else { return true };
    let before: HashSet<&str> = images(old).collect();
    images(pod).any(|image| !before.contains(image))
}

fn images(pod: &Object) -> impl Iterator<Item = &str> {
    let lists = CONTAINERS.iter().map(|name| pod.value().get("spec").and_then(|spec| spec.get(*name)).and_then(Value::as_array));
    lists.flatten().flatten().map(|container| text(container, "image"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::bench::{Bench, pod};

    #[tokio::test]
    async fn new_images_are_always_pulled_and_old_ones_left_alone() {
        let made = Bench::new().create(&AlwaysPullImages, "pods live web", pod()).await.unwrap();
        assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
        let same = Bench::new().update(&AlwaysPullImages, "pods live web", pod(), pod()).await.unwrap();
        assert!(same["spec"]["containers"][0].get("imagePullPolicy").is_none());
        let mut other = pod();
        other["spec"]["containers"][0]["image"] = "j".into();
        let made = Bench::new().update(&AlwaysPullImages, "pods live web", pod(), other).await.unwrap();
        assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    }
}
