//! One version of one object. Of a version that others have overtaken only what differs from the next is held.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Decoded, Forms, OBJECT_FORMS, delta};
use crate::{Entry, Key, Revision};

/// Smaller texts are not worth the work.
const SMALL: usize = 1024;
/// So many versions in a row are folded, each upon the next, until one stays whole: so many steps take any of them back to its text.
const IN_A_ROW: u8 = 32;

/// One version of one object.
pub struct Cached<F> {
    /// Its key.
    pub key: Key,
    /// The revision of its last write.
    pub revision: Revision,
    /// The revision that created it.
    pub created: Revision,
    /// What filters need to know.
    pub facts: F,
    /// Other encodings of this version, made on first demand and kept as long as somebody asks for them.
    pub forms: Forms<OBJECT_FORMS>,
    text: RwLock<Text<F>>,
    /// How many versions before this one are folded in a row; [`IN_A_ROW`]: it stays whole.
    folded: AtomicU8,
}

enum Text<F> {
    Whole(Bytes),
    /// What makes it out of the next version's.
    Delta(Arc<Cached<F>>, Box<[u8]>),
}

impl<F> Cached<F> {
    /// The version that was written, as it was decoded.
    pub fn new(entry: &Entry, Decoded { wire, facts }: Decoded<F>) -> Self {
        Self {
            key: entry.key.clone(),
            revision: entry.revision,
            created: entry.created,
            facts,
            forms: Forms::default(),
            text: RwLock::new(Text::Whole(wire)),
            folded: AtomicU8::new(0),
        }
    }

    /// Exactly what goes on the wire, resource version included. Shared, unless the version was overtaken: then it is made each time.
    pub fn wire(&self) -> Bytes {
        match &*self.text.read() {
            Text::Whole(wire) => wire.clone(),
            Text::Delta(next, delta) => delta::apply(delta, &next.wire()),
        }
    }

    /// Bytes held for the text.
    pub(super) fn held(&self) -> usize {
        match &*self.text.read() {
            Text::Whole(wire) => wire.len(),
            Text::Delta(_, delta) => delta.len(),
        }
    }

    /// Holds from now on what differs from the version that came next, where that is less. To be called in the order of the versions, by one
    /// task.
    pub(super) fn fold(&self, next: &Arc<Self>) {
        let before = self.folded.load(Ordering::Relaxed);
        let whole = match &*self.text.read() {
            Text::Whole(wire) if wire.len() >= SMALL && before < IN_A_ROW => wire.clone(),
            _ => return,
        };
        match delta::diff(&whole, &next.wire()) {
            Some(delta) => {
                next.folded.store(before + 1, Ordering::Relaxed);
                *self.text.write() = Text::Delta(next.clone(), delta);
            }
            // Not to be tried again.
            None => self.folded.store(IN_A_ROW, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(revision: u64) -> Arc<Cached<()>> {
        let entry = Entry { key: "/a".into(), value: Bytes::new(), revision: Revision(revision), created: Revision(1) };
        let wire = format!("{{\"revision\":{revision},\"text\":\"{}\"}}", "x".repeat(2 * SMALL)).into();
        Arc::new(Cached::new(&entry, Decoded { wire, facts: () }))
    }

    #[test]
    fn versions_in_a_row_are_little_and_tell_what_they_told() {
        let versions: Vec<_> = (0..200).map(version).collect();
        let texts: Vec<_> = versions.iter().map(|version| version.wire()).collect();
        for two in versions.windows(2) {
            two[0].fold(&two[1]);
            two[0].fold(&two[1]);
        }
        assert_eq!(versions.iter().map(|version| version.wire()).collect::<Vec<_>>(), texts);
        let whole: Vec<_> = versions.iter().filter(|version| version.held() > SMALL).map(|version| version.revision.0).collect();
        assert_eq!(whole, [32, 65, 98, 131, 164, 197, 199]);
        assert!(versions.iter().map(|version| version.held()).sum::<usize>() < 10 * 2 * SMALL);
    }

    #[test]
    fn a_version_unlike_the_next_stays_whole_and_is_not_compared_again() {
        let (one, next) = (version(1), version(2));
        *next.text.write() = Text::Whole("y".repeat(2 * SMALL).into());
        one.fold(&next);
        assert!(one.held() > SMALL && one.folded.load(Ordering::Relaxed) == IN_A_ROW && next.folded.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn a_version_outlives_those_that_came_after_it() {
        let versions: Vec<_> = (0..10).map(version).collect();
        versions.windows(2).for_each(|two| two[0].fold(&two[1]));
        let (first, wire) = (versions[0].clone(), versions[0].wire());
        drop(versions);
        assert_eq!(first.wire(), wire);
    }
}
