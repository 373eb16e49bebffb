//! Who is woken by which change: of the many who watch a collection, most mean a few of its objects.
//!
//! The idea is that of upstream's watch cache (`cacher.go`, triggers): a kubelet watches the pods of one node and secrets one by one, and
//! a thousand of them are not to be woken for a pod of another.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Change, Limits};

/// What a watcher wants to be woken for. It is no filter: once awake, a watcher is given all changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interest {
    /// Every change.
    #[default]
    All,
    /// Changes of this key, or of those under this prefix, which ends in `/`.
    Place(String),
    /// Changes of objects that have this word, or had it ([`super::Decode::word`]).
    Word(String),
}

/// Those who slept through as many changes, or the share of the ring's bytes, are woken: nobody falls out of the ring asleep.
const BEHIND: usize = 1024;
const SHARE: usize = 16;

/// The ends by which watchers are woken.
pub(super) struct Wakes {
    all: watch::Sender<()>,
    narrow: Mutex<Narrow>,
}

/// The ends by what those at the other end are interested in.
type Ends = HashMap<Box<str>, watch::Sender<()>>;

/// Watchers of a few objects.
#[derive(Default)]
struct Narrow {
    places: Ends,
    words: Ends,
    /// Changes, and about how many bytes of them, that not everybody was told of.
    behind: (usize, usize),
}

impl Wakes {
    pub(super) fn new() -> Self {
        Self { all: watch::channel(()).0, narrow: Mutex::default() }
    }

    /// What is signalled after each change of interest.
    pub(super) fn subscribe(&self, interest: &Interest) -> watch::Receiver<()> {
        let mut narrow = self.narrow.lock();
        match narrow.of(interest) {
            None => self.all.subscribe(),
            Some((kept, what)) => match kept.get(what) {
                Some(sender) => sender.subscribe(),
                None => {
                    let (sender, receiver) = watch::channel(());
                    kept.insert(what.into(), sender);
                    receiver
                }
            },
        }
    }

    /// Who subscribed is about to drop its receiver: forgets what nobody else is interested in.
    pub(super) fn leave(&self, interest: &Interest) {
        let mut narrow = self.narrow.lock();
        if let Some((kept, what)) = narrow.of(interest)
            && kept.get(what).is_some_and(|sender| sender.receiver_count() <= 1)
        {
            kept.remove(what);
        }
    }

    /// Whether somebody is interested in less than everything.
    pub(super) fn are_narrow(&self) -> bool {
        !self.narrow.lock().is_empty()
    }

    /// Wakes those whom these changes of the collection `prefix` concern.
    pub(super) fn tell<F: 'static>(&self, changes: &[Arc<Change<F>>], prefix: &str, limits: &Limits) {
        let mut narrow = self.narrow.lock();
        for change in changes {
            narrow.tell(change, prefix);
        }
        if narrow.behind.0 >= BEHIND.min(limits.events / SHARE) || narrow.behind.1 >= limits.bytes / SHARE {
            narrow.rouse();
        }
        drop(narrow);
        self.all.send_replace(());
    }

    /// Wakes everybody.
    pub(super) fn tell_all(&self) {
        self.rouse();
        self.all.send_replace(());
    }

    /// Wakes those who may have slept through changes.
    pub(super) fn rouse(&self) {
        self.narrow.lock().rouse();
    }
}

impl Narrow {
    fn is_empty(&self) -> bool {
        self.places.is_empty() && self.words.is_empty()
    }

    fn of<'i>(&mut self, interest: &'i Interest) -> Option<(&mut Ends, &'i str)> {
        match interest {
            Interest::All => None,
            Interest::Place(place) => Some((&mut self.places, place)),
            Interest::Word(word) => Some((&mut self.words, word)),
        }
    }

    fn tell<F: 'static>(&mut self, change: &Change<F>, prefix: &str) {
        let sides = [change.before.as_ref(), change.after.as_ref()];
        self.behind.0 += 1;
        self.behind.1 += sides.iter().flatten().map(|cached| cached.held()).sum::<usize>();
        let key = change.key.as_str();
        if !self.places.is_empty() {
            let folders = key.match_indices('/').map(|(at, _)| &key[..=at]).filter(|folder| folder.len() > prefix.len());
            folders.chain([key]).filter_map(|place| self.places.get(place)).for_each(wake);
        }
        if !self.words.is_empty() {
            let words = sides.into_iter().flatten().map(|cached| change.decode.word(cached));
            words.filter_map(|word| self.words.get(word)).for_each(wake);
        }
    }

    /// Wakes all of them, and forgets those who left at the same time, each of whom took the others for some who stay.
    fn rouse(&mut self) {
        self.behind = (0, 0);
        for ends in [&mut self.places, &mut self.words] {
            ends.values().for_each(wake);
            ends.retain(|_, end| end.receiver_count() > 0);
        }
    }
}

fn wake(sender: &watch::Sender<()>) {
    sender.send_replace(());
}
