//! `ConversionReview`: what a webhook is asked, and what of its answer is taken (upstream's `conversion/webhook_converter.go`).

use std::{sync::Arc, time::Duration};

use coracle_schema::go;
use coracle_tree::{Map, Value, json};

use super::definition;
use crate::{
    registry::{Reader, names},
    webhook::{self, Egress, Terms},
    wire::Status,
};

/// Objects of one review at most; longer lists take several.
const BATCH: usize = 500;

/// What a conversion may take.
const TERMS: Terms = Terms {
    timeout: Duration::from_secs(30),
    late: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    largest: 64 << 20,
};

/// The webhook of a CRD.
pub(super) struct Webhook {
    /// Versions of the review it understands, preferred first.
    review_versions: Vec<String>,
    asked: webhook::Webhook,
}

impl Webhook {
    /// The webhook a CRD names; services are looked up through `reader`.
    pub(super) fn new(of: &definition::Webhook, reader: Arc<dyn Reader>, egress: &Egress) -> Self {
        let asked = webhook::Webhook::new(of.client_config.clone(), reader).through(egress);
        Self { review_versions: of.conversion_review_versions.clone(), asked }
    }
}

/// Asks the webhook for these objects in a version; they come back in order. Metadata other than labels and annotations stays as it was.
pub(super) async fn convert(hook: &Webhook, objects: Vec<Value>, version: &str) -> Result<Vec<Value>, Status> {
    let mut converted = Vec::with_capacity(objects.len());
    for batch in objects.chunks(BATCH) {
        let kind = kind_of(batch.first().unwrap_or(&Value::Null));
        let of = |why: String| Status::new(500, "", why);
        let failed = |why: String| of(format!("conversion webhook for {kind} failed: {why}"));
        let review = Review::new(&hook.review_versions, batch, version).map_err(of)?;
        let said = hook.asked.post(review.body.clone().into(), TERMS).await.and_then(webhook::answered).map_err(failed)?;
        let answer: Value = serde_json::from_slice(&said).map_err(|e| failed(e.to_string()))?;
        let objects = review.objects(answer).map_err(failed)?;
        if objects.len() != batch.len() {
            return Err(of(format!("conversion webhook for {kind} returned {} objects, expected {}", objects.len(), batch.len())));
        }
        for (at, (before, after)) in batch.iter().zip(objects).enumerate() {
            let taken =
                accept(before, after, version, at).map_err(|why| of(format!("conversion webhook for {kind} returned invalid {why}")))?;
            converted.push(taken);
        }
    }
    Ok(converted)
}

/// One question.
struct Review {
    uid: String,
    /// `apiextensions.k8s.io/v1`
    version: &'static str,
    body: Vec<u8>,
}

impl Review {
    /// In the first review version we know.
    fn new(versions: &[String], objects: &[Value], desired: &str) -> Result<Self, String> {
        let known = versions.iter().find_map(|version| match version.as_str() {
            "v1" => Some("apiextensions.k8s.io/v1"),
            "v1beta1" => Some("apiextensions.k8s.io/v1beta1"),
            _ => None,
        });
        let version = known.ok_or("no supported conversion review versions")?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({"uid": uid, "desiredAPIVersion": desired, "objects": objects});
        let body = json!({"kind": "ConversionReview", "apiVersion": version, "request": request}).to_string().into_bytes();
        Ok(Self { uid, version, body })
    }

    /// The converted objects of an answer that says it is one to this question.
    fn objects(&self, mut answer: Value) -> Result<Vec<Value>, String> {
        let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let strict = self.version.ends_with("/v1");
        if strict && (text(&answer, "/apiVersion"), text(&answer, "/kind")) != (self.version.to_owned(), "ConversionReview".to_owned()) {
            let (version, kind) = (text(&answer, "/apiVersion"), text(&answer, "/kind"));
            return Err(format!("expected webhook response of {}, Kind=ConversionReview, got {version}, Kind={kind}", self.version));
        }
        if !answer["response"].is_object() {
            return Err("no response provided".to_owned());
        }
        if strict && text(&answer, "/response/uid") != self.uid {
            return Err(format!("expected response.uid={:?}, got {:?}", self.uid, text(&answer, "/response/uid")));
        }
        let status = text(&answer, "/response/result/status");
        if status != "Success" {
            let message = text(&answer, "/response/result/message");
            return Err(if message.is_empty() { format!("response.result.status was '{status}', not 'Success'") } else { message });
        }
        match answer["response"]["convertedObjects"].take() {
            Value::Array(objects) => Ok(objects),
            _ => Ok(Vec::new()),
        }
    }
}

/// `example.com/v1, Kind=Widget`
fn kind_of(object: &Value) -> String {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// A converted object, when it is the same object in the version asked for; with the original's metadata. The error goes on from
/// `returned invalid `.
fn accept(before: &Value, mut after: Value, version: &str, at: usize) -> Result<Value, String> {
    let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = text(&after, "/apiVersion");
    if found != version {
        return Err(format!("object at index {at}: invalid groupVersion (expected {version}, received {found})"));
    }
    let (wanted, found) = (text(before, "/kind"), text(&after, "/kind"));
    if wanted != found {
        return Err(format!("object at index {at}: invalid kind (expected {wanted}, received {found})"));
    }
    for (name, pointer) in [("name", "/metadata/name"), ("namespace", "/metadata/namespace"), ("UID", "/metadata/uid")] {
        let (wanted, found) = (text(before, pointer), text(&after, pointer));
        if wanted != found {
            return Err(format!("object: must have the same {name}: {wanted} != {found}"));
        }
    }
    let metadata = metadata(before, after.get_mut("metadata").map(Value::take)).map_err(|why| format!("metadata: {why}"))?;
    after["metadata"] = Value::Object(metadata);
    Ok(after)
}

/// The original's metadata with the labels and annotations of the converted object.
fn metadata(before: &Value, after: Option<Value>) -> Result<Map, String> {
    let mut after = match after {
        None => return Err("missing metadata in converted object".to_owned()),
        Some(Value::Object(after)) => after,
        Some(other) => return Err(format!("invalid metadata of type {} in converted object", go::type_name(&other))),
    };
    let mut kept = before.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in ["labels", "annotations"] {
        match after.remove(name) {
            None | Some(Value::Null) => {
                kept.remove(name);
            }
            Some(Value::Object(given)) => {
                if kept.get(name).and_then(Value::as_object) != Some(&given) {
                    check(name, &given)?;
                }
                kept.insert(name, Value::Object(given));
            }
            Some(other) => return Err(format!("invalid metadata.{name} of type {} in converted object", go::type_name(&other))),
        }
    }
    Ok(kept)
}

/// Whether changed labels or annotations are allowed at all.
fn check(of: &str, given: &Map) -> Result<(), String> {
    for (key, value) in given {
        let Some(text) = value.as_str() else {
            return Err(format!("metadata.{of}[{key}] must be a string, but is {} in converted object", go::type_name(value)));
        };
        let mut wrong = names::qualified_name(&if of == "labels" { key.clone() } else { key.to_lowercase() });
        if of == "labels" {
            wrong.extend(names::label_value(text));
        }
        if let Some(why) = wrong.first() {
            return Err(format!("metadata.{of}: Invalid value: {key:?}: {why}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": version, "kind": "Widget", "metadata": {"name": "w", "uid": "u", "labels": {"a": "b"}, "generation": 3}, "spec": {}})
    }

    fn review(versions: &[&str]) -> Result<Review, String> {
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        Review::new(&versions, &[object("example.com/v1")], "example.com/v2")
    }

    #[test]
    fn the_first_known_review_version_is_spoken() {
        assert_eq!(review(&["v9", "v1beta1", "v1"]).unwrap().version, "apiextensions.k8s.io/v1beta1");
        assert_eq!(review(&["v9"]).err().unwrap(), "no supported conversion review versions");
    }

    #[test]
    fn an_answer_must_be_one_to_the_question_and_a_success() {
        let review = review(&["v1"]).unwrap();
        let answer = |uid: &str, result: Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {"uid": uid, "result": result, "convertedObjects": [{}]}});
        assert_eq!(review.objects(answer(&review.uid, json!({"status": "Success"}))).unwrap().len(), 1);
        assert!(review.objects(answer("other", json!({"status": "Success"}))).unwrap_err().starts_with("expected response.uid="));
        assert_eq!(review.objects(answer(&review.uid, json!({"status": "Failed", "message": "no"}))).unwrap_err(), "no");
        assert_eq!(review.objects(answer(&review.uid, json!({}))).unwrap_err(), "response.result.status was '', not 'Success'");
        assert_eq!(
            review.objects(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"})).unwrap_err(),
            "no response provided"
        );
        assert!(
            review
                .objects(json!({}))
                .unwrap_err()
                .starts_with("expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview")
        );
    }

    #[test]
    fn only_labels_and_annotations_of_metadata_are_taken_over() {
        let before = object("example.com/v1");
        let mut after = object("example.com/v2");
        after["metadata"] = json!({"name": "w", "uid": "u", "generation": 9, "finalizers": ["x"], "annotations": {"n": "1"}});
        let taken = accept(&before, after, "example.com/v2", 0).unwrap();
        assert_eq!(taken["metadata"], json!({"name": "w", "uid": "u", "generation": 3, "annotations": {"n": "1"}}));
    }

    #[test]
    fn another_object_is_refused_and_named() {
        let before = object("example.com/v1");
        let refuse = |change: fn(&mut Value)| {
            let mut after = object("example.com/v2");
            change(&mut after);
            accept(&before, after, "example.com/v2", 0).unwrap_err()
        };
        assert_eq!(refuse(|o| o["metadata"]["name"] = "x".into()), "object: must have the same name: w != x");
        assert!(refuse(|o| o["apiVersion"] = "example.com/v1".into()).starts_with("object at index 0: invalid groupVersion"));
        assert_eq!(
            refuse(|o| o["metadata"]["labels"] = json!({"a": 1})),
            "metadata: metadata.labels[a] must be a string, but is int64 in converted object"
        );
        assert_eq!(refuse(|o| o["metadata"] = Value::Null), "object: must have the same name: w != ");
    }
}
