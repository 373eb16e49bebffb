//! The scheduler and the controllers of this process: always, or while this server leads.

use std::sync::Arc;

use anyhow::{Context, Result};
use coracle_apiserver::authn::keys::SigningKey;
use coracle_controllers::Controllers;
use coracle_scheduler::Scheduler;
use futures::future::BoxFuture;
use kube::Api;
use ring::rand::{SecureRandom, SystemRandom};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    certs::Certificates,
    clients::InProcess,
    leadership::{self, Leadership, Times},
    options::ServerOptions,
    setup::Setup,
    tokens,
};

/// Upstream's users, who may write the leases of their programs' names.
const SCHEDULER: (&str, &str) = ("kube-scheduler", "system:kube-scheduler");
const CONTROLLERS: (&str, &str) = ("kube-controller-manager", "system:kube-controller-manager");

/// What runs over these clients until its token is cancelled.
type Room = Arc<dyn Fn(&InProcess, CancellationToken) -> Result<BoxFuture<'static, ()>> + Send + Sync>;

/// Starts the rooms the setup asks for. With `election`, each waits for its lease.
pub(crate) fn start(
    options: &ServerOptions,
    setup: &Setup,
    certificates: &Certificates,
    election: Option<Times>,
    clients: &InProcess,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let mut rooms: Vec<((&str, &str), Room)> = Vec::new();
    if setup.controllers {
        rooms.push((CONTROLLERS, controllers(options, certificates)?));
    }
    if setup.scheduler {
        rooms.push((
            SCHEDULER,
            Arc::new(|clients, stop| {
                let scheduler = Scheduler::build(clients.user(SCHEDULER.1, &[]), coracle_scheduler::Options::default());
                Ok(scheduler.run(stop))
            }),
        ));
    }
    let identity = identity(&setup.node_name)?;
    for ((name, user), room) in rooms {
        match election {
            None => drop(tasks.spawn(room(clients, stop.clone())?)),
            Some(times) => {
                let leases = Api::namespaced(clients.user(user, &[]), leadership::NAMESPACE);
                let clients = clients.clone();
                let room = Arc::new(move |fence: &_, stop| room(&clients.fenced(fence), stop));
                let leadership = Leadership { name, identity: identity.clone(), times, leases, room };
                drop(tasks.spawn(leadership.run(stop.clone())));
            }
        }
    }
    Ok(())
}

fn controllers(options: &ServerOptions, certificates: &Certificates) -> Result<Room> {
    let settings = coracle_controllers::Options {
        cluster_cidr: Some((options.cluster_cidr.base.into(), options.cluster_cidr.bits)),
        root_ca: Some(certificates.authority.clone()),
        ..Default::default()
    };
    let (pem, authority) = (certificates.token_key.clone(), certificates.authority.clone());
    SigningKey::from_pem(pem.as_bytes()).context("pki/token.key")?;
    Ok(Arc::new(move |clients, stop| {
        let key = SigningKey::from_pem(pem.as_bytes()).context("pki/token.key")?;
        let (tasks, user) = (TaskTracker::new(), clients.user(CONTROLLERS.1, &[]));
        tokens::start(user, key, authority.clone(), &tasks, &stop);
        let clients = clients.clone();
        let controllers = Controllers::build(&(Arc::new(move |name: &str| clients.controller(name)) as _), settings.clone())?;
        let controllers = controllers.run(stop);
        Ok(Box::pin(async move {
            controllers.await;
            tasks.close();
            tasks.wait().await;
        }))
    }))
}

/// Who this process is among those that want to lead: its machine and a number, as upstream's.
fn identity(host: &str) -> Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("this machine gives no random numbers"))?;
    let number: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{host}_{number}"))
}
