//! `etcd`: the answers by which test environments see that it is well, on its client URLs, and nothing else.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use http::{Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio_util::task::TaskTracker;

use super::{flags::Flags, objects::OURS, run};
use crate::stop::Orders;

/// A client has this long to send a request's head.
const HEADERS: Duration = Duration::from_secs(10);
/// Connections served at once; more wait.
const CONNECTIONS: usize = 256;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers until it is told to stop.
pub(crate) async fn run(flags: &Flags) -> Result<()> {
    let mut urls = flags.list("listen-client-urls");
    if urls.is_empty() {
        urls.push("http://localhost:2379");
    }
    for name in ["listen-client-http-urls", "listen-metrics-urls"] {
        urls.extend(flags.list(name));
    }
    let tasks = TaskTracker::new();
    for url in urls {
        let address = address(url).await.with_context(|| format!("--listen-client-urls: {url}"))?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("--listen-client-urls: cannot listen on {url}"))?;
        tasks.spawn(serve(listener));
    }
    tracing::info!("well, and holding nothing: objects are in the memory of the kube-apiserver");
    run::until_told(&mut Orders::listen()?).await;
    Ok(())
}

async fn address(url: &str) -> Result<SocketAddr> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("only http:// URLs are answered; the API server does not ask over TLS either")
    };
    let found = lookup_host(rest.trim_end_matches('/')).await.context("must be http://HOST:PORT")?.next();
    found.context("the host has no address")
}

async fn serve(listener: TcpListener) {
    let connections = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    connection(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream) {
    let service = service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(answer(request.method(), request.uri().path())));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// What etcd 3.7 answers when it is well.
fn answer(method: &Method, path: &str) -> Response<String> {
    let (status, kind, body) = match path {
        _ if !matches!(*method, Method::GET | Method::HEAD) => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n".to_owned()),
        "/health" => (StatusCode::OK, JSON, r#"{"health":"true","reason":""}"#.to_owned()),
        "/version" => (StatusCode::OK, JSON, r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#.to_owned()),
        "/livez" | "/readyz" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics()),
        _ => (StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    // By this the API server knows that nothing is kept here.
    answer.headers_mut().insert(header::SERVER, header::HeaderValue::from_static(OURS));
    answer
}

/// The few metrics that are true of a store that holds nothing.
fn metrics() -> String {
    let gauges = [
        ("etcd_server_has_leader", "Whether a leader exists.", 1),
        ("etcd_server_is_leader", "Whether this member leads.", 1),
        ("etcd_mvcc_db_total_size_in_bytes", "Bytes of the database.", 0),
    ];
    gauges.iter().map(|(name, help, value)| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_answered_and_nothing_is_kept() {
        assert_eq!(answer(&Method::GET, "/health").body(), r#"{"health":"true","reason":""}"#);
        for path in ["/version", "/livez", "/readyz", "/metrics"] {
            assert_eq!(answer(&Method::GET, path).status(), StatusCode::OK, "{path}");
        }
        assert_eq!(answer(&Method::GET, "/v3/kv/range").status(), StatusCode::NOT_FOUND);
        assert_eq!(answer(&Method::POST, "/health").status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn only_plain_http_urls_are_taken() {
        assert_eq!(address("http://127.0.0.1:2379/").await.unwrap(), "127.0.0.1:2379".parse().unwrap());
        assert!(address("https://127.0.0.1:2379").await.is_err());
        assert!(address("http://127.0.0.1").await.is_err());
    }
}
