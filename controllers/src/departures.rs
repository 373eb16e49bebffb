//! What left the cluster, of every kind: told by whoever watches everything (the collector of garbage), heard by whoever counts.

use parking_lot::RwLock;

use crate::object::Resource;

type Listener = Box<dyn Fn(&Resource, &str) + Send + Sync>;

/// The listeners.
#[derive(Default)]
pub struct Departures(RwLock<Vec<Listener>>);

impl Departures {
    /// Calls `listener` with the kind and the namespace of each object that is gone, from then on.
    pub fn listen(&self, listener: impl Fn(&Resource, &str) + Send + Sync + 'static) {
        self.0.write().push(Box::new(listener));
    }

    /// An object of this kind in this namespace is gone.
    pub fn tell(&self, resource: &Resource, namespace: &str) {
        self.0.read().iter().for_each(|listener| listener(resource, namespace));
    }
}
