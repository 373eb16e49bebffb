//! The agent's requests to the API server, as bytes: answers to writes are not decoded, because decoding is most of what a request costs.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;

/// Strategic merge patch.
pub const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";
/// JSON merge patch.
pub const MERGE: &str = "application/merge-patch+json";
/// Plain JSON.
pub const JSON: &str = "application/json";

/// A request the API server refused or that did not reach it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code; 0 when there was no answer.
    pub code: u16,
    /// `Status.reason`, may be empty.
    pub reason: String,
    /// `Status.message` or the transport's words.
    pub message: String,
}

impl ApiError {
    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether the object exists already, or is another one or another version than expected.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code == 409
    }

    fn transport(error: &dyn std::fmt::Display) -> Self {
        Self { code: 0, reason: String::new(), message: error.to_string() }
    }
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// The one thing read of the answer to a write.
#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    metadata: VersionedMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionedMeta<'a> {
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
}

/// Sends a request and returns the open response when it succeeded.
///
/// # Errors
/// When the API server refuses it or cannot be reached.
pub async fn open(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<http::Response<Body>, ApiError> {
    let mut request = Request::builder().method(method).uri(path).header(http::header::ACCEPT, JSON);
    if !body.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, content_type);
    }
    let request = request.body(Body::from(body)).map_err(|e| ApiError::transport(&e))?;
    let response = client.send(request).await.map_err(|e| ApiError::transport(&e))?;
    if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let status: Status = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = if status.message.is_empty() { format!("the server answered {code}") } else { status.message };
    Err(ApiError { code, reason: status.reason, message })
}

/// Sends a request and returns the body of a successful answer.
///
/// # Errors
/// As [`open`], and when the body breaks off.
pub async fn call(client: &Client, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Result<Bytes, ApiError> {
    let response = open(client, method, path, content_type, body).await?;
    response.into_body().collect().await.map(http_body_util::Collected::to_bytes).map_err(|e| ApiError::transport(&e))
}

/// Reads one object.
///
/// # Errors
/// As [`call`], and when the answer is not the type wanted.
pub async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, ApiError> {
    let bytes = call(client, Method::GET, path, JSON, Vec::new()).await?;
    serde_json::from_slice(&bytes).map_err(|e| ApiError::transport(&e))
}

/// Patches an object or its subresource.
///
/// # Errors
/// As [`call`].
pub async fn patch(client: &Client, path: &str, kind: &str, body: &impl serde::Serialize) -> Result<(), ApiError> {
    let bytes = serde_json::to_vec(body).map_err(|e| ApiError::transport(&e))?;
    call(client, Method::PATCH, path, kind, bytes).await.map(drop)
}

/// As [`patch`], and tells the version the object has then; 0 when the answer does not say.
///
/// # Errors
/// As [`call`].
pub async fn patch_for_version(client: &Client, path: &str, kind: &str, body: &impl serde::Serialize) -> Result<u64, ApiError> {
    let bytes = serde_json::to_vec(body).map_err(|e| ApiError::transport(&e))?;
    let answer = call(client, Method::PATCH, path, kind, bytes).await?;
    let version = serde_json::from_slice::<Versioned<'_>>(&answer).map(|object| object.metadata.resource_version.parse());
    Ok(version.ok().and_then(Result::ok).unwrap_or_default())
}

/// Creates an object under a collection and returns the answer.
///
/// # Errors
/// As [`call`].
pub async fn create(client: &Client, path: &str, body: &impl serde::Serialize) -> Result<Bytes, ApiError> {
    let bytes = serde_json::to_vec(body).map_err(|e| ApiError::transport(&e))?;
    call(client, Method::POST, path, JSON, bytes).await
}
