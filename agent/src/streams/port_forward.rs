//! Port-forward over WebSocket: two channels for each port, data and error, each of which first names the port (`cri-streaming/portforward/websocket.go`).

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use http::{HeaderName, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::routes::Query;
use super::{Answer, State, text, websocket};
use crate::pods::registry::PodHandle;
use crate::runtime::{Connection, Runtime};

/// Ports in one request.
const PORTS: usize = 64;
const QUEUE: usize = 32;
const PIECE: usize = 32 * 1024;

/// Forwards the ports asked for.
pub(crate) fn answer(state: &Arc<State>, pod: &Arc<PodHandle>, query: &Query, request: Request<Incoming>) -> Answer {
    if speaks_spdy(&request) {
        return text(StatusCode::BAD_REQUEST, "port-forward over SPDY, as kubectl asks for it, is not in this version");
    }
    let named = query.all("port").into_iter().chain(query.all("ports"));
    let ports: Option<Vec<u16>> =
        named.flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>()).map(|p| p.parse().ok()).collect();
    let ports = match ports {
        Some(ports) if !ports.is_empty() && ports.len() <= PORTS && !ports.contains(&0) => ports,
        _ => return text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required: numbers from 1 to 65535, at most 64"),
    };
    let Some(sandbox) = pod.view().sandbox_id else {
        return text(StatusCode::BAD_REQUEST, "pod not found or not running");
    };
    let runtime = pod.context.runtime.clone();
    websocket::upgrade(state, request, move |socket, _| async move { serve(socket, runtime, sandbox, ports).await })
}

/// Whether the client wants SPDY streams, either as they are or inside a WebSocket.
fn speaks_spdy(request: &Request<Incoming>) -> bool {
    let says = |name: HeaderName| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
        values.iter().any(|value| value.to_ascii_uppercase().contains("SPDY/"))
    };
    says(header::UPGRADE) || says(header::SEC_WEBSOCKET_PROTOCOL)
}

async fn serve(socket: websocket::Socket, runtime: Arc<dyn Runtime>, sandbox: String, ports: Vec<u16>) {
    let (mut sink, mut source) = socket.split();
    let (tx, mut rx) = mpsc::channel::<Message>(QUEUE);
    let mut inputs = Vec::new();
    let mut forwards = Vec::new();
    for (number, port) in ports.into_iter().enumerate() {
        let data = u8::try_from(number * 2).unwrap_or(u8::MAX);
        let (input, output) = mpsc::channel(QUEUE);
        inputs.push(Some(input));
        forwards.push(forward(runtime.clone(), sandbox.clone(), port, data, output, tx.clone()));
    }
    drop(tx);
    let write = async {
        while let Some(message) = rx.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        websocket::close(&mut sink).await;
    };
    let read = async {
        while let Some((channel, content)) = websocket::receive(&mut source).await {
            if channel == websocket::CLOSE {
                if let Some(slot) = content.first().and_then(|c| inputs.get_mut(usize::from(c / 2))) {
                    *slot = None;
                }
            } else if channel % 2 == 0
                && let Some(Some(input)) = inputs.get(usize::from(channel / 2))
            {
                let _ = input.send(content).await;
            }
        }
    };
    tokio::select! {
        _ = futures::future::join(futures::future::join_all(forwards), write) => {}
        () = read => {}
    }
}

async fn forward(
    runtime: Arc<dyn Runtime>,
    sandbox: String,
    port: u16,
    data: u8,
    mut input: mpsc::Receiver<bytes::Bytes>,
    tx: mpsc::Sender<Message>,
) {
    for channel in [data, data + 1] {
        let _ = tx.send(websocket::message(channel, &port.to_le_bytes())).await;
    }
    let connection: Box<dyn Connection> = match runtime.port_forward(&sandbox, port).await {
        Ok(connection) => connection,
        Err(error) => {
            let words = format!("error forwarding port {port} to pod: {error}");
            let _ = tx.send(websocket::message(data + 1, words.as_bytes())).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let inward = async {
        while let Some(content) = input.recv().await {
            if to_pod.write_all(&content).await.is_err() {
                return;
            }
        }
        let _ = to_pod.shutdown().await;
    };
    let outward = async {
        let mut piece = vec![0; PIECE];
        while let Ok(read @ 1..) = from_pod.read(&mut piece).await {
            if tx.send(websocket::message(data, &piece[..read])).await.is_err() {
                return;
            }
        }
    };
    // The pod's end of the connection decides when it is over.
    let mut outward = std::pin::pin!(outward);
    tokio::select! {
        () = &mut outward => {}
        () = inward => outward.await,
    }
}
