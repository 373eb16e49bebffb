//! What of a webhook's answer is taken (apiserver `plugin/webhook/request/admissionreview.go`, `plugin/webhook/errors/statuserror.go`).

use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_schema::{SchemaRef, decode, go};
use coracle_tree::{Map, Value, json};

use crate::wire::{Status, yaml};

/// What upstream's registry of types calls itself.
const SCHEME: &str = "pkg/runtime/scheme.go:111";
/// What upstream's decoder reads first of a body, as its errors name it.
const TYPE_META: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
const V1: &str = "admission.k8s.io/v1";

/// An answer that is one.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// JSON of a patch; empty when there is none.
    pub(super) patch: Vec<u8>,
    pub(super) patch_type: String,
    /// A `Status` that says why not.
    pub(super) result: Value,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Map,
}

/// Why an answer is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    /// It cannot be read.
    Undecodable(String),
    /// It can, and is not an answer to the question.
    Unfit(String),
}

/// Reads the body of an answer. `version` is that of the question, as is `uid`.
pub(super) fn read(body: &[u8], schema: &SchemaRef, version: &str, uid: &str, mutating: bool) -> Result<Answer, Invalid> {
    let value = decoded(body, schema, version).map_err(Invalid::Undecodable)?;
    let (found, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    let Some(response) = value.get("response").filter(|response| response.is_object()) else {
        return Err(Invalid::Unfit("webhook response was absent".to_owned()));
    };
    let strict = version == V1;
    let unfit = |why: String| Err(Invalid::Unfit(why));
    if strict {
        if text(response, "uid") != uid {
            return unfit(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
        }
        if (found, kind) != (V1, "AdmissionReview") {
            let found = if found.is_empty() { "/" } else { found };
            return unfit(format!("expected webhook response of {V1}, Kind=AdmissionReview, got {found}, Kind={kind}"));
        }
    }
    let patch = STANDARD.decode(text(response, "patch")).map_err(|e| Invalid::Undecodable(e.to_string()))?;
    let patch_type = response.get("patchType").and_then(Value::as_str);
    if let Some(why) = unfit_patch(strict, mutating, &patch, patch_type) {
        return unfit(why);
    }
    let patch = if mutating { patch } else { Vec::new() };
    let patch_type = if strict { patch_type.unwrap_or_default() } else { "JSONPatch" };
    let texts = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    Ok(Answer {
        allowed: response["allowed"] == true,
        patch,
        patch_type: patch_type.to_owned(),
        result: response.get("status").cloned().unwrap_or_default(),
        warnings: texts.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
        annotations: response.get("auditAnnotations").and_then(Value::as_object).cloned().unwrap_or_default(),
    })
}

/// What is wrong with a patch and its type. Only v1 is particular.
fn unfit_patch(strict: bool, mutating: bool, patch: &[u8], patch_type: Option<&str>) -> Option<String> {
    let why = match (mutating, patch.is_empty(), patch_type) {
        _ if !strict => return None,
        (true, false, None) => "webhook returned response.patch but not response.patchType",
        (true, true, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, false, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (false, false, _) => "validating webhook may not return response.patch",
        (false, true, Some(_)) => "validating webhook may not return response.patchType",
        _ => return None,
    };
    Some(why.to_owned())
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The review in a body: JSON, or YAML as upstream's decoder takes it, too. Its type may be left out.
fn decoded(body: &[u8], schema: &SchemaRef, version: &str) -> Result<Value, String> {
    let start = body.trim_ascii_start();
    let whole = if start.first() == Some(&b'{') {
        let read: Result<Value, _> = serde_json::from_slice(body);
        match read {
            Ok(value) => value,
            Err(error) => {
                let worded = decode::from_json(body, schema, decode::FieldValidation::Ignore);
                return Err(worded.err().map_or_else(|| error.to_string(), |error| error.to_string()));
            }
        }
    } else {
        yaml::read(body).map_err(|why| format!("couldn't get version/kind; json parse error: error converting YAML to JSON: {why}"))?.value
    };
    let whole = if whole.is_null() { json!({}) } else { whole };
    let Value::Object(mut members) = whole else {
        let found = go::json_name(&whole);
        return Err(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type {TYPE_META}"
        ));
    };
    let (found, kind) = (members.get("apiVersion").cloned(), members.get("kind").cloned());
    check_type(version, &found, &kind)?;
    // What a webhook sends back of the question is not looked at.
    let response = members.remove("response").unwrap_or_default();
    let response = Map::from_iter([("response", response)]);
    let read = decode::from_value(Value::Object(response), schema, decode::FieldValidation::Ignore).map_err(|error| error.to_string())?;
    let mut value = read.value;
    (value["apiVersion"], value["kind"]) = (found.unwrap_or_default(), kind.unwrap_or_default());
    Ok(value)
}

/// Whether the body says it is a review of this version, or says nothing.
fn check_type(version: &str, found: &Option<Value>, kind: &Option<Value>) -> Result<(), String> {
    let of = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    let (found, kind) = (of(found), of(kind));
    let short = |version: &str| version.rsplit('/').next().unwrap_or_default().to_owned();
    let known = ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"];
    match (found.as_str(), kind.as_str()) {
        ("" | "admission.k8s.io/v1" | "admission.k8s.io/v1beta1", "") | ("", "AdmissionReview") => Ok(()),
        (found, "AdmissionReview") if found == version => Ok(()),
        (found, "AdmissionReview") if known.contains(&found) => {
            let (from, to) = (short(found), short(version));
            Err(format!("converting ({from}.AdmissionReview) to ({to}.AdmissionReview): unknown conversion"))
        }
        ("v1", "Status") => Err(format!("converting (v1.Status) to ({}.AdmissionReview): unknown conversion", short(version))),
        (found, kind) => Err(format!("no kind {kind:?} is registered for version {found:?} in scheme {SCHEME:?}")),
    }
}

/// The refusal of a webhook, as it words it.
pub(super) fn refusal(name: &str, result: Value) -> Status {
    let mut given = if result.is_object() { result } else { json!({}) };
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (text(&given, "message"), text(&given, "reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code =
        given.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).filter(|code| (400..=599).contains(code));
    let code = code.unwrap_or(400);
    if matches!(text(&given, "status"), "" | "Success") {
        given["status"] = "Failure".into();
    }
    given["message"] = message.as_str().into();
    given["code"] = code.into();
    (given["kind"], given["apiVersion"]) = ("Status".into(), "v1".into());
    if !given["metadata"].is_object() {
        given["metadata"] = json!({});
    }
    let details = given.get("details").cloned().unwrap_or_default();
    let mut status = Status { details, ..Status::new(code, "", message) };
    status.answer_with(given);
    status
}
