//! The question: an `AdmissionReview` (apiserver `plugin/webhook/request/admissionreview.go`). Objects are written into it as they are.

use bytes::Bytes;

use crate::{
    admission::{Attempt, matching::Matched, request},
    registry::{Object, items},
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
    pub(super) fn new(version: &str, attempt: &Attempt<'_>, matched: &Matched, objects: Objects<'_>) -> Self {
        let uid = uuid::Uuid::new_v4().to_string();
        let body = written(version, &uid, attempt, matched, objects).into();
        Self { uid, body }
    }
}

/// What a question takes besides its objects, mostly.
const USUAL: usize = 2048;
/// What most objects take.
const OBJECT: usize = 8192;

fn written(version: &str, uid: &str, attempt: &Attempt<'_>, matched: &Matched, Objects { new, old }: Objects<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(USUAL + [new, old].into_iter().flatten().count() * OBJECT);
    out.extend_from_slice(b"{\"kind\":\"AdmissionReview\",\"apiVersion\":\"");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"request\":");
    request::append(attempt, new, matched.as_deref(), &mut out);
    // What is told of the request is followed by this question's own.
    out.pop();
    out.extend_from_slice(b",\"uid\":\"");
    out.extend_from_slice(uid.as_bytes());
    out.push(b'"');
    for (name, object) in [(&b",\"object\":"[..], new), (b",\"oldObject\":", old)] {
        out.extend_from_slice(name);
        match object {
            Some(object) => items::append(object, &mut out),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b"}}");
    out
}
