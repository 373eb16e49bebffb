//! Who is asked about a write, of files and of the API (apiserver `webhook/generic/composite_webhook_source.go`,
//! `policy/generic/composite_policy_source.go`).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::RwLock;

/// Who may be asked about a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// Nobody: it asks who somebody is, or what he may.
    Nobody,
    /// Those of files: it changes those of the API, which could lock everyone out of mending them.
    Files,
    /// All.
    All,
}

/// Those that may be asked about writes: of files, and of the API.
pub(super) struct Hooks<T> {
    layers: RwLock<[Arc<[T]>; 2]>,
    /// Both, those of files first.
    all: RwLock<Arc<[T]>>,
    any: AtomicBool,
    /// Those of the API could not be read yet.
    unread: AtomicBool,
}

impl<T: Clone> Default for Hooks<T> {
    fn default() -> Self {
        let none = || Arc::from(Vec::new());
        Self {
            layers: RwLock::new([none(), none()]),
            all: RwLock::new(none()),
            any: AtomicBool::new(false),
            unread: AtomicBool::new(false),
        }
    }
}

impl<T: Clone> Hooks<T> {
    /// Whether there is somebody to ask about a write; how far it reaches is looked at only if there is anybody at all.
    pub(super) fn any(&self, reach: impl FnOnce() -> Reach) -> bool {
        self.any.load(Ordering::Relaxed)
            && match reach() {
                Reach::Nobody => false,
                Reach::Files => !self.layers.read()[0].is_empty(),
                Reach::All => true,
            }
    }

    /// Those to ask, in order; nothing while that is not known.
    pub(super) fn within(&self, reach: Reach) -> Option<Arc<[T]>> {
        match reach {
            Reach::Nobody => Some(Arc::from(Vec::new())),
            Reach::Files => Some(self.layers.read()[0].clone()),
            Reach::All if self.unread.load(Ordering::Relaxed) => None,
            Reach::All => Some(self.all.read().clone()),
        }
    }

    /// Those of the API could not be read: until they are, nobody knows who is to be asked.
    pub(super) fn await_api(&self) {
        self.unread.store(true, Ordering::Relaxed);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Those of files are these.
    pub(super) fn set_files(&self, these: Vec<T>) {
        self.set(0, these);
    }

    /// Those of the API are these.
    pub(super) fn set_api(&self, these: Vec<T>) {
        self.unread.store(false, Ordering::Relaxed);
        self.set(1, these);
    }

    fn set(&self, layer: usize, these: Vec<T>) {
        let mut layers = self.layers.write();
        layers[layer] = these.into();
        let all: Arc<[T]> = layers.iter().flat_map(|layer| layer.iter().cloned()).collect();
        self.any.store(!all.is_empty() || self.unread.load(Ordering::Relaxed), Ordering::Relaxed);
        *self.all.write() = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_it_is_not_known_who_is_asked_only_what_mends_that_passes() {
        let hooks: Hooks<u8> = Hooks::default();
        hooks.await_api();
        hooks.set_files(vec![1]);
        assert!(hooks.any(|| Reach::All) && hooks.within(Reach::All).is_none());
        assert_eq!(hooks.within(Reach::Files).as_deref(), Some(&[1][..]), "of files is known");
        hooks.set_files(Vec::new());
        assert!(hooks.any(|| Reach::All) && !hooks.any(|| Reach::Files) && !hooks.any(|| Reach::Nobody));
        hooks.set_api(Vec::new());
        assert!(!hooks.any(|| Reach::All));
        hooks.set_api(vec![2]);
        assert_eq!(hooks.within(Reach::All).as_deref(), Some(&[2][..]));
    }
}
