//! Clients of the API server inside its own process: no socket, no TLS, but the same authentication identity, authorization and
//! admission as anyone.

use std::sync::Arc;

use coracle_apiserver::{Service, authn::User};
use http::Request;
use kube::{Client, client::Body};
use tower::{BoxError, ServiceExt};

use crate::leadership::Fence;

/// Makes clients with identities.
#[derive(Clone)]
pub(crate) struct InProcess {
    service: Service,
    /// Lets writes pass only while this server leads.
    fence: Option<Fence>,
}

impl InProcess {
    pub(crate) fn new(service: Service) -> Self {
        Self { service, fence: None }
    }

    /// The same, whose writes pass only while the fence is open.
    pub(crate) fn fenced(&self, fence: &Fence) -> Self {
        Self { fence: Some(fence.clone()), ..self.clone() }
    }

    /// A client that is this user.
    pub(crate) fn user(&self, name: &str, groups: &[&str]) -> Client {
        let user = Arc::new(User::new(name, groups));
        let service = self.service.clone().map_request(move |mut request: Request<Body>| {
            request.extensions_mut().insert(user.clone());
            request
        });
        match &self.fence {
            Some(fence) => Client::new(fenced(service, fence.clone()), "default"),
            None => Client::new(service, "default"),
        }
    }

    /// A client that is a service account of `kube-system`, as upstream's controllers are.
    pub(crate) fn controller(&self, name: &str) -> Client {
        if name == coracle_controllers::run::ROOM {
            return self.user("system:kube-controller-manager", &[]);
        }
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        self.user(&format!("system:serviceaccount:kube-system:{name}"), &groups)
    }

    /// A client that is a node.
    pub(crate) fn node(&self, name: &str) -> Client {
        self.user(&format!("system:node:{name}"), &["system:nodes"])
    }
}

/// Lets reads pass, and writes while the fence is open. Of one that is under way when it closes the answer is not waited for, since what has
/// not been written by then must not be.
fn fenced<S>(
    service: S,
    fence: Fence,
) -> impl tower::Service<Request<Body>, Response = S::Response, Error = BoxError, Future: Send> + Clone + Send + 'static
where
    S: tower::Service<Request<Body>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
{
    tower::service_fn(move |request: Request<Body>| {
        let (fence, is_safe) = (fence.clone(), request.method().is_safe());
        // Begins when it is polled first.
        let answer = service.clone().oneshot(request);
        async move {
            if is_safe {
                return answer.await.map_err(Into::into);
            }
            tokio::select! {
                biased;
                () = fence.closed() => Err("this server leads no more".into()),
                answer = answer => answer.map_err(Into::into),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use http::Method;
    use tokio::{sync::Notify, time::Instant};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn request(method: Method) -> Request<Body> {
        Request::builder().method(method).uri("/api/v1/namespaces").body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn behind_a_closed_fence_nothing_is_written_and_everything_is_read() {
        let reached = Arc::new(AtomicUsize::new(0));
        let counting = tower::service_fn({
            let reached = reached.clone();
            move |_: Request<Body>| {
                reached.fetch_add(1, Ordering::Relaxed);
                async { Ok::<_, Infallible>("answer") }
            }
        });
        let fence = Fence::new();
        let service = fenced(counting, fence.clone());
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let error = service.clone().oneshot(request(method.clone())).await.unwrap_err();
            assert!(error.to_string().contains("leads no more"), "{method}: {error}");
        }
        assert_eq!(reached.load(Ordering::Relaxed), 0);
        assert_eq!(service.clone().oneshot(request(Method::GET)).await.unwrap(), "answer");
        fence.open_until(Instant::now() + HOUR);
        assert_eq!(service.oneshot(request(Method::POST)).await.unwrap(), "answer");
        assert_eq!(reached.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_write_that_is_under_way_when_the_fence_closes_is_given_up() {
        let (begun, fence) = (Arc::new(Notify::new()), Fence::new());
        let stuck = tower::service_fn({
            let begun = begun.clone();
            move |_: Request<Body>| {
                begun.notify_one();
                std::future::pending::<Result<&str, Infallible>>()
            }
        });
        fence.open_until(Instant::now() + HOUR);
        let service = fenced(stuck, fence.clone());
        let write = tokio::spawn(service.clone().oneshot(request(Method::POST)));
        begun.notified().await;
        let read = tokio::spawn(service.oneshot(request(Method::GET)));
        begun.notified().await;
        fence.close();
        assert!(write.await.unwrap().is_err());
        assert!(!read.is_finished());
        read.abort();
    }
}
