//! Kubernetes' channels over WebSocket: each message begins with the number of its channel (`v4.channel.k8s.io`; `v5` adds closing one channel).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::{Answer, State, text};

/// Channel numbers of exec and attach.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;
/// `v5`: the payload is the number of the channel to close.
pub(crate) const CLOSE: u8 = 255;

/// An open connection.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Which protocol was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Channels can be closed one by one.
    V5,
    /// They cannot.
    V4,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }
}

/// Agrees on a protocol.
pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Version, String> {
    let contains = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(word))
    };
    if !contains(UPGRADE, "websocket") || !contains(CONNECTION, "upgrade") || !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return Err("you must use a WebSocket upgrade (SPDY is not offered by this node)".to_owned());
    }
    [Version::V5, Version::V4]
        .into_iter()
        .find(|version| contains(SEC_WEBSOCKET_PROTOCOL, version.name()))
        .ok_or_else(|| "none of the requested subprotocols is supported: v5.channel.k8s.io, v4.channel.k8s.io".to_owned())
}

/// Answers with the upgrade and runs `serve` on the open socket.
pub(crate) fn upgrade<F, Fut>(state: &Arc<State>, mut request: Request<Incoming>, serve: F) -> Answer
where
    F: FnOnce(Socket, Version) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let version = match negotiate(request.headers()) {
        Ok(version) => version,
        Err(words) => return text(StatusCode::BAD_REQUEST, words),
    };
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes())).unwrap_or_default();
    let upgraded = hyper::upgrade::on(&mut request);
    let stop = state.stop.clone();
    state.tasks.spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = serve(socket, version) => {}
                }
            }
            Err(error) => tracing::debug!(%error, "connection not upgraded"),
        }
    });
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(version.name()));
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    }
    answer
}

/// A message on a channel.
pub(crate) fn message(channel: u8, content: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(content.len() + 1);
    bytes.put_u8(channel);
    bytes.extend_from_slice(content);
    Message::Binary(bytes.freeze())
}

/// The next message as channel and content; `None` when the other side went away.
pub(crate) async fn receive<S>(socket: &mut S) -> Option<(u8, Bytes)>
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        let mut content = match socket.next().await?.ok()? {
            Message::Binary(bytes) => bytes,
            Message::Text(words) => Bytes::from(words),
            Message::Close(_) => return None,
            _ => continue,
        };
        if !content.is_empty() {
            let channel = content.split_to(1)[0];
            // Text frames may write the channel as a digit.
            return Some((if channel.is_ascii_digit() { channel - b'0' } else { channel }, content));
        }
    }
}

/// Ends the connection in order.
pub(crate) async fn close<S>(socket: &mut S)
where
    S: futures::Sink<Message> + Unpin,
{
    let _ = socket.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
    let _ = socket.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocols: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols).expect("ascii"));
        headers
    }

    #[test]
    fn the_newest_common_protocol_is_taken() {
        assert_eq!(negotiate(&headers("v4.channel.k8s.io, v5.channel.k8s.io")), Ok(Version::V5));
        assert_eq!(negotiate(&headers("v4.channel.k8s.io")), Ok(Version::V4));
        assert!(negotiate(&headers("v1.channel.k8s.io")).is_err());
        assert!(negotiate(&HeaderMap::new()).is_err());
    }
}
