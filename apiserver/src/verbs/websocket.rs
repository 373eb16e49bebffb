//! A watch over a WebSocket, one message an event: text for JSON, binary for protobuf (apiserver `endpoints/handlers/watch.go`, `HandleWS`).

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use tracing::debug;

use super::{Api, Call, watch::Frames};
use crate::wire::{Answer, Body, Encoding, Status};

/// Clients have nothing to say but that they are there, in bytes.
const HEARD: usize = 4096;

/// A request to speak WebSocket.
pub struct Socket {
    connection: OnUpgrade,
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
}

/// The request's wish to speak WebSocket, if it has one and its connection can. 400 for a handshake that is none.
pub fn asked_for(call: &Call) -> Result<Option<Socket>, Status> {
    if !has(&call.headers, &header::CONNECTION, "upgrade") || !has(&call.headers, &header::UPGRADE, "websocket") {
        return Ok(None);
    }
    let Some(connection) = call.upgrade.clone() else { return Ok(None) };
    if call.headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Status::bad_request("missing or bad WebSocket Version"));
    }
    let key = call.headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    let accept = key.and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
    Ok(Some(Socket {
        connection,
        accept: accept.ok_or_else(|| Status::bad_request("mismatch challenge/response"))?,
        protocol: call.headers.get(header::SEC_WEBSOCKET_PROTOCOL).filter(|p| !p.as_bytes().contains(&b',')).cloned(),
    }))
}

/// Whether a header of comma-separated tokens holds this one.
fn has(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let mut texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.any(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// Agrees to the upgrade, and sends the events once the connection has changed.
pub fn send(api: &Api, socket: Socket, encoding: Encoding, frames: Frames) -> Result<Answer, Status> {
    let drain = api.drain.clone();
    let Socket { connection, accept, protocol } = socket;
    let (body, beyond) = Body::leaving();
    tokio::spawn(async move {
        // The watch goes on for as long as this does.
        let _beyond = beyond;
        let upgraded = tokio::select! {
            upgraded = connection => upgraded,
            () = drain.cancelled() => return,
        };
        match upgraded {
            Ok(upgraded) => talk(TokioIo::new(upgraded), encoding, frames).await,
            Err(error) => debug!(%error, "a watch's connection did not become a WebSocket"),
        }
    });
    let mut made = Response::new(body);
    *made.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = made.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(made)
}

/// Sends events until they end or the client goes; what it says is not listened to.
async fn talk<S>(stream: S, encoding: Encoding, mut frames: Frames)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default().max_message_size(Some(HEARD)).max_frame_size(Some(HEARD));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    loop {
        tokio::select! {
            some = frames.next() => {
                let Some(some) = some else { break };
                for frame in some {
                    if socket.feed(message(encoding, frame)).await.is_err() {
                        return;
                    }
                }
                if socket.flush().await.is_err() {
                    return;
                }
            }
            heard = socket.next() => match heard {
                Some(Ok(message)) if !message.is_close() => {}
                _ => return,
            },
        }
    }
    if let Err(error) = socket.close(None).await {
        debug!(%error, "a watch's WebSocket did not close");
    }
}

/// An event as a message: text needs no frame, and neither does protobuf, whose length the WebSocket tells.
fn message(encoding: Encoding, frame: Bytes) -> Message {
    if encoding == Encoding::Protobuf {
        return Message::Binary(frame.slice(frame.len().min(LENGTH)..));
    }
    match frame.try_into() {
        Ok(text) => Message::Text(text),
        Err(_) => Message::Close(None),
    }
}

/// Bytes of the length before a protobuf event.
const LENGTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_event_is_a_message_and_the_socket_closes_after_the_last() {
        for (encoding, frame, expected) in [
            (Encoding::Json, &b"{\"type\":\"ADDED\"}\n"[..], Message::text("{\"type\":\"ADDED\"}\n")),
            (Encoding::Protobuf, &b"\0\0\0\x02ab"[..], Message::binary(&b"ab"[..])),
        ] {
            let (ours, theirs) = tokio::io::duplex(1024);
            let frames = futures::stream::iter([vec![Bytes::from_static(frame); 2], vec![Bytes::from_static(frame)]]).boxed();
            let talking = tokio::spawn(talk(ours, encoding, frames));
            let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
            for _ in 0..3 {
                assert_eq!(client.next().await.unwrap().unwrap(), expected);
            }
            assert!(client.next().await.unwrap().unwrap().is_close());
            drop(client);
            talking.await.unwrap();
        }
    }

    #[test]
    fn tokens_are_found_in_any_case_and_place() {
        let headers = HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"))]);
        assert!(has(&headers, &header::CONNECTION, "upgrade"));
        assert!(!has(&headers, &header::UPGRADE, "websocket"));
    }
}
