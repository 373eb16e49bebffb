//! The question: an `AdmissionReview` (apiserver `plugin/webhook/request/admissionreview.go`). Objects are written into it as they are.

use bytes::Bytes;
use serde_json::Value;

use crate::{
    admission::{Attempt, matching::Matched, request::describe},
    registry::Object,
    wire::Status,
};

/// A question to a webhook.
pub(super) struct Review {
    /// What the answer must repeat.
    pub(super) uid: String,
    pub(super) body: Bytes,
}

/// The objects a question is about, in the version the webhook asked for.
#[derive(Clone, Copy)]
pub(super) struct Objects<'a> {
    pub(super) new: Option<&'a Object>,
    pub(super) old: Option<&'a Object>,
}

impl Review {
    /// The question in this version of the review.
    pub(super) fn new(version: &str, attempt: &Attempt<'_>, matched: &Matched, objects: Objects<'_>) -> Result<Self, Status> {
        let uid = uuid::Uuid::new_v4().to_string();
        let mut request = describe(attempt, objects.new, matched.as_deref());
        request["uid"] = uid.as_str().into();
        let body = written(version, &request, objects).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Self { uid, body: body.into() })
    }
}

fn written(version: &str, request: &Value, Objects { new, old }: Objects<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(2048);
    out.extend_from_slice(b"{\"kind\":\"AdmissionReview\",\"apiVersion\":\"");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"request\":");
    serde_json::to_writer(&mut out, request)?;
    // The objects follow the members that are there already.
    out.pop();
    for (name, object) in [("object", new), ("oldObject", old)] {
        out.extend_from_slice(format!(",\"{name}\":").as_bytes());
        match object {
            Some(object) => serde_json::to_writer(&mut out, object.value())?,
            None => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b"}}");
    Ok(out)
}
