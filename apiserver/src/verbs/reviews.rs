//! Kinds that are answered and never stored: reviews, token requests, bindings by name, component statuses.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_schema::{
    decode::{self, FieldValidation},
    managed::{self, Who},
};
use coracle_tree::json;
use http::StatusCode;

use super::{Api, Call, binding, filter::Filter, list, render, write::Writing};
use crate::{
    admission::{self, Attempt, Given, Operation},
    authn, authz,
    registry::{Kind, Object, Subresource, meta},
    request::query::{ListOptions, WriteOptions},
    wire::{Answer, Status, answer, status::Subject},
};

/// Answers a request for a kind without storage.
pub async fn answer(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let user = &*call.user;
    if &*kind.gvk.kind == "Binding" {
        let catalog = api.storage.catalog();
        let pods = catalog.get("", "v1", "pods").cloned().ok_or_else(Status::no_such_path)?;
        return binding::bind(api, call, &pods).await;
    }
    if &*kind.gvk.kind == "ComponentStatus" {
        return component_statuses(api, call, kind).await;
    }
    let options = WriteOptions::parse(&call.query, call.user_agent(), "CreateOptions")?;
    let mut writing = Writing::new(api, call, kind, options);
    let mut review = writing.decode_body()?;
    meta::wipe(&mut review);
    meta::match_request(&mut review, kind, &call.info.namespace, "")?;
    let sent = review.clone();
    let made = match &*kind.gvk.kind {
        "TokenReview" => {
            let (made, remarks) = authn::reviews::token_review(&api.authenticator, review, api.now()).await?;
            if let Some(remarks) = remarks {
                if let Some(trail) = &call.trail {
                    trail.remark(&remarks);
                }
                writing.warnings.extend(remarks.warnings.iter().cloned());
            }
            made
        }
        "SelfSubjectReview" => authn::reviews::self_subject_review(user, review, api.now()),
        "SubjectAccessReview" => authz::reviews::subject_access_review(&api.authorizer, review).await?,
        "LocalSubjectAccessReview" => authz::reviews::local_subject_access_review(&api.authorizer, review).await?,
        "SelfSubjectAccessReview" => authz::reviews::self_subject_access_review(&api.authorizer, user, review).await?,
        "SelfSubjectRulesReview" => authz::reviews::self_subject_rules_review(&api.authorizer, user, review)?,
        _ => return Err(Status::method_not_allowed()),
    };
    let mut made = made;
    // These two are answered by objects of their own.
    if &*kind.gvk.kind == "SelfSubjectRulesReview" {
        made.metadata_mut().remove("creationTimestamp");
    } else if &*kind.gvk.kind != "SelfSubjectReview" {
        own(api, &writing.options, kind, sent, &mut made);
    }
    let wanted = render::wanted(call, kind)?;
    let mut answer = render::value(api, StatusCode::CREATED, wanted.encoding, made.value());
    answer::warn(&mut answer, &writing.warnings);
    Ok(answer)
}

/// Notes who asked: upstream does, though nobody will ever read it again. `sent` is the question as it came.
fn own(api: &Api, options: &WriteOptions, kind: &Kind, mut sent: Object, answer: &mut Object) {
    let (api_version, now) = (kind.api_version(), meta::time_text(api.now()));
    let manager = options.field_manager.as_str();
    let who = Who { manager, api_version: &api_version, kind: &kind.gvk.kind, subresource: "", now: &now, reset: &[], versions: None };
    if let Some(members) = sent.value_mut().as_object_mut() {
        members.remove("status");
    }
    managed::record_update(&kind.schema, None, sent.value_mut(), &who);
    if let Some(fields) = sent.value().get("metadata").and_then(|metadata| metadata.get("managedFields")) {
        answer.set_metadata("managedFields", fields.clone());
    }
}

/// Makes an object that is sent to a subresource one of the request's namespace, its fields owned by who sent it: as such admission sees it.
pub(super) fn placed(api: &Api, call: &Call, schema: &coracle_schema::SchemaRef, object: &mut Object) -> Result<(), Status> {
    let options = WriteOptions::parse(&call.query, call.user_agent(), "CreateOptions")?;
    meta::match_namespace(object, &call.info.namespace)?;
    let (api_version, kind) = (object.text("/apiVersion").to_owned(), object.text("/kind").to_owned());
    let (manager, now, subresource) = (options.field_manager.as_str(), meta::time_text(api.now()), call.info.subresource.as_str());
    let who = Who { manager, api_version: &api_version, kind: &kind, subresource, now: &now, reset: &[], versions: None };
    managed::record_update(schema, None, object.value_mut(), &who);
    Ok(())
}

/// `serviceaccounts/token`: a new token for the account.
pub async fn token(api: &Api, call: &Call, kind: &Kind, part: &Subresource) -> Result<Answer, Status> {
    let mut warnings = Vec::new();
    let made = issued(api, call, kind, part, &mut warnings).await;
    answer::warned(made, warnings)
}

async fn issued(api: &Api, call: &Call, kind: &Kind, part: &Subresource, warnings: &mut Vec<String>) -> Result<Answer, Status> {
    let schema = part.schema.as_ref().ok_or_else(Status::no_such_path)?;
    let mode = WriteOptions::parse(&call.query, call.user_agent(), "CreateOptions")?.field_validation;
    let mut request = decoded_as(call, schema, &part.gvk.kind, &part.gvk.version, &part.gvk.api_version(), mode, warnings)?;
    let issuer = api.authenticator.issuer().ok_or_else(Status::no_such_path)?;
    placed(api, call, schema, &mut request)?;
    let catalog = api.storage.catalog();
    let accounts = catalog.get("", "v1", "serviceaccounts").ok_or_else(Status::no_such_path)?;
    let mut attempt = Attempt { options: Given::Query(&call.query), ..call.attempt(Operation::Create, accounts) };
    admission::pass(&api.admission, &mut attempt, Some(&mut request), warnings).await?;
    let made = issuer.issue(&call.info.namespace, &call.info.name, request, api.now(), warnings).await?;
    if let (Some(trail), Some(id)) = (&call.trail, made.text("/status/token").split('.').nth(1).and_then(credential_id)) {
        trail.annotate("authentication.kubernetes.io/issued-credential-id", id);
    }
    let wanted = render::wanted(call, kind)?;
    Ok(render::value(api, StatusCode::CREATED, wanted.encoding, made.value()))
}

/// What tells a token from all others, of its claims.
fn credential_id(claims: &str) -> Option<String> {
    let claims: coracle_tree::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(format!("JTI={}", claims["jti"].as_str()?))
}

/// The body as an object of a kind that is answered and not stored; `warnings` get what it has that the kind has not.
pub(super) fn decoded_as(
    call: &Call,
    schema: &coracle_schema::SchemaRef,
    kind: &str,
    version: &str,
    api_version: &str,
    mode: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Object, Status> {
    let body = call.body_as(schema)?;
    check_type(&body, kind, api_version)?;
    let made = decode::from_value(body, schema, mode).map_err(|e| Status::bad_request(e.describe(kind, version)))?;
    if mode == FieldValidation::Warn {
        warnings.extend(made.reports);
    }
    let mut object = Object::new(made.value).ok_or_else(|| Status::bad_request("the body is not an object"))?;
    coracle_schema::default::apply(object.value_mut(), schema);
    object.value_mut()["apiVersion"] = api_version.into();
    object.value_mut()["kind"] = kind.into();
    Ok(object)
}

/// Refuses a kind of this name in a version that has none; of evictions an older version is known.
fn check_type(body: &coracle_tree::Value, kind: &str, api_version: &str) -> Result<(), Status> {
    let said = |name: &str| body.get(name).and_then(coracle_tree::Value::as_str).unwrap_or_default();
    let version = said("apiVersion");
    let known = version.is_empty() || version == api_version || (kind == "Eviction" && version == "policy/v1beta1");
    if known || said("kind") != kind {
        return Ok(());
    }
    let (short, scheme) = (version.rsplit('/').next().unwrap_or_default(), super::write::SCHEME);
    let why = format!("no kind {kind:?} is registered for version {version:?} in scheme {scheme:?}");
    Err(Status::bad_request(format!("{kind} in version {short:?} cannot be handled as a {kind}: {why}")))
}

/// Deprecated upstream since 1.19; here the parts are one process and its health is `/readyz`.
async fn component_statuses(api: &Api, call: &Call, kind: &Arc<Kind>) -> Result<Answer, Status> {
    let wanted = render::wanted(call, kind)?;
    if call.info.verb == "get" {
        return Err(Status::not_found(Subject { resource: "componentstatus", ..kind.subject(&call.info.name) }));
    }
    Filter::new(kind, call, &ListOptions::parse(&call.query, false)?)?;
    list::show(api, call, kind, wanted, &json!({}), &[]).await
}
