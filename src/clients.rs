//! Clients of the API server inside its own process: no socket, no TLS, but the same authentication identity, authorization and
//! admission as anyone.

use std::sync::Arc;

use coracle_apiserver::{Service, authn::User};
use kube::{Client, client::Body};
use tokio::time::Instant;
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
        let service = self.service.clone().map_request(move |mut request: http::Request<Body>| {
            request.extensions_mut().insert(user.clone());
            request
        });
        let Some(fence) = self.fence.clone() else { return Client::new(service, "default") };
        let fenced = tower::service_fn(move |request: http::Request<Body>| {
            let passes = request.method().is_safe() || fence.is_open(Instant::now());
            let answer = passes.then(|| service.clone().oneshot(request));
            async move {
                match answer {
                    Some(answer) => answer.await.map_err(BoxError::from),
                    None => Err("this server leads no more".into()),
                }
            }
        });
        Client::new(fenced, "default")
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
