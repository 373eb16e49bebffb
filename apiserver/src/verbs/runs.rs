//! Runs of neighbours in large lists, compressed together and kept: who lists again is sent what is there, but for the runs in which
//! something changed. Neighbours are much alike, so that a run is a small part of what its objects would be one by one.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use coracle_schema::proto::envelope;
use coracle_store::{Key, cache::Cached};
use flate2::CompressError;
use parking_lot::Mutex;

use super::render;
use crate::{
    registry::{Kind, items::Facts},
    wire::{
        Status,
        parts::{Deflate, Part},
    },
};

/// A run begins with every key whose checksum is a multiple of this, so that the others stay as they are when one gets longer: about as
/// many objects are in it.
const LENGTH: u32 = 32;
/// And where it would hold more objects than this, or more bytes.
const MOST: usize = 128;
const MOST_BYTES: usize = 512 << 10;
/// Bytes that are kept at most, for all kinds.
const KEPT: usize = 64 << 20;

type Object = Arc<Cached<Facts>>;

/// Lists of what, in which encoding. The runs of lists with a selector are others than those of all.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// What is listed.
    pub kind: &'a Kind,
    /// In protobuf, else in JSON.
    pub protobuf: bool,
    /// The type that stands in JSON where objects are kept, and that lists tell once for all.
    pub head: Option<&'a [u8]>,
    /// A number for the selectors.
    pub selection: u32,
}

/// Where a run is kept.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    first: Key,
    protobuf: bool,
    selection: u32,
}

/// What a run was made of. Another version of an object is another allocation, and that of one which is still named here is not used again.
struct Made {
    of: Box<[Weak<Cached<Facts>>]>,
    part: Part,
}

/// The runs that are kept. Those that are asked for move to the young ones; when these are many, and now and then, they become the old ones,
/// and what was old goes.
#[derive(Default)]
pub struct Runs(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Place, Made>,
    old: HashMap<Place, Made>,
    /// Bytes of the young ones.
    bytes: usize,
}

impl Runs {
    /// The parts of a list of these objects. Makes way for others after each that has to be made.
    pub async fn parts(&self, of: Run<'_>, objects: &[Object]) -> Result<Vec<Part>, Status> {
        let runs = split(objects);
        let mut parts: Vec<Option<Part>> = {
            let mut kept = self.0.lock();
            runs.iter().map(|run| kept.find(&Place::of(of, run)?, run)).collect()
        };
        let mut deflate = None;
        for (slot, run) in parts.iter_mut().zip(&runs).filter(|(slot, _)| slot.is_none()) {
            let part = compress(of, run, deflate.get_or_insert_default())?;
            if let Some(place) = Place::of(of, run) {
                self.0.lock().keep(place, run, part.clone());
            }
            *slot = Some(part);
            tokio::task::yield_now().await;
        }
        Ok(parts.into_iter().flatten().collect())
    }

    /// Gives up what nobody asked for since the last but one time that this was called.
    pub fn age(&self) {
        self.0.lock().turn();
    }
}

impl Place {
    fn of(of: Run<'_>, run: &[Object]) -> Option<Self> {
        Some(Self { first: run.first()?.key.clone(), protobuf: of.protobuf, selection: of.selection })
    }
}

impl Generations {
    fn find(&mut self, place: &Place, run: &[Object]) -> Option<Part> {
        if let Some(made) = self.young.get(place) {
            return made.is_of(run).then(|| made.part.clone());
        }
        let made = self.old.remove(place).filter(|made| made.is_of(run))?;
        let part = made.part.clone();
        self.bytes += part.compressed_len();
        self.young.insert(place.clone(), made);
        Some(part)
    }

    fn keep(&mut self, place: Place, run: &[Object], part: Part) {
        self.bytes += part.compressed_len();
        let made = Made { of: run.iter().map(Arc::downgrade).collect(), part };
        if let Some(before) = self.young.insert(place, made) {
            self.bytes -= before.part.compressed_len();
        }
        if self.bytes > KEPT / 2 {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.bytes = 0;
    }
}

impl Made {
    fn is_of(&self, run: &[Object]) -> bool {
        self.of.len() == run.len() && self.of.iter().zip(run).all(|(made, object)| std::ptr::eq(made.as_ptr(), Arc::as_ptr(object)))
    }
}

/// A list in runs.
fn split(objects: &[Object]) -> Vec<&[Object]> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, object) in objects.iter().enumerate() {
        let begins = crc32fast::hash(object.key.as_str().as_bytes()).is_multiple_of(LENGTH);
        if at > start && (begins || at - start == MOST || bytes > MOST_BYTES) {
            runs.push(&objects[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += object.wire().len();
    }
    runs.extend(Some(&objects[start..]).filter(|rest| !rest.is_empty()));
    runs
}

fn compress(of: Run<'_>, run: &[Object], deflate: &mut Deflate) -> Result<Part, Status> {
    let failed = |error: CompressError| Status::internal(error.to_string());
    for (at, object) in run.iter().enumerate() {
        if of.protobuf {
            let message = render::message_of(of.kind, object)?;
            let mut head = Vec::new();
            envelope::item_head(&mut head, message.len());
            deflate.add(&head).and_then(|()| deflate.add(&message)).map_err(failed)?;
            continue;
        }
        let wire = object.wire();
        let (open, rest) = match of.head.and_then(|head| wire.strip_prefix(head)) {
            Some(rest) => (",{", rest),
            None => (",", &wire[..]),
        };
        deflate.add(&open.as_bytes()[usize::from(at == 0)..]).and_then(|()| deflate.add(rest)).map_err(failed)?;
    }
    deflate.end().map_err(failed)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_store::{Entry, Revision, cache::Decoded};

    use super::*;

    fn object(name: usize, text: &str) -> Object {
        let key = Key::from(format!("/registry/things/{name:05}").as_str());
        let entry = Entry { key, value: Bytes::new(), revision: Revision(1), created: Revision(1) };
        Arc::new(Cached::new(&entry, Decoded { wire: text.to_owned().into(), facts: Facts::default() }))
    }

    fn place(run: &[Object], selection: u32) -> Place {
        Place { first: run[0].key.clone(), protobuf: false, selection }
    }

    fn part(text: &[u8]) -> Part {
        let mut deflate = Deflate::default();
        deflate.add(text).unwrap();
        deflate.end().unwrap()
    }

    #[test]
    fn an_object_more_or_less_changes_its_own_run() {
        let mut objects: Vec<Object> = (0..2_000).map(|n| object(n, "{}")).collect();
        let of = |objects: &[Object]| split(objects).iter().map(|run| (run[0].key.clone(), run.len())).collect::<Vec<_>>();
        let before = of(&objects);
        assert!(before.len() > 2_000 / 128 && before.len() < 2_000 / 8, "{}", before.len());
        assert_eq!(before.iter().map(|(_, length)| length).sum::<usize>(), 2_000);
        objects.remove(1_000);
        let after = of(&objects);
        assert!(after.iter().filter(|run| !before.contains(run)).count() <= 2);
        assert_eq!(of(&[]), []);
        let large: Vec<Object> = (0..5).map(|n| object(n, &"x".repeat(MOST_BYTES))).collect();
        assert!(split(&large).iter().all(|run| run.len() <= 2));
    }

    #[test]
    fn a_run_is_found_as_long_as_it_is_of_the_same_versions_in_the_same_lists() {
        let mut objects: Vec<Object> = (0..3).map(|n| object(n, "{}")).collect();
        let mut kept = Generations::default();
        kept.keep(place(&objects, 0), &objects, part(b"all"));
        assert!(kept.find(&place(&objects, 0), &objects).is_some());
        assert!(kept.find(&place(&objects, 7), &objects).is_none());
        assert!(kept.find(&place(&objects, 0), &objects[..2]).is_none());
        kept.turn();
        assert!(kept.find(&place(&objects, 0), &objects).is_some(), "old ones are there");
        kept.turn();
        assert!(kept.find(&place(&objects, 0), &objects).is_some(), "what is asked for stays");
        assert_eq!(kept.bytes, part(b"all").compressed_len());
        objects[1] = object(1, "{}");
        assert!(kept.find(&place(&objects, 0), &objects).is_none(), "the same bytes, another version");
        kept.turn();
        kept.turn();
        assert!(kept.young.is_empty() && kept.old.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Generations::default();
        let noise: Vec<u8> = (0..KEPT as u64 / 8).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as u8).collect();
        let part = part(&noise);
        for n in 0..20 {
            let run = [object(n, "{}")];
            kept.keep(place(&run, 0), &run, part.clone());
            let all: usize = kept.young.values().chain(kept.old.values()).map(|made| made.part.compressed_len()).sum();
            assert!(all <= KEPT + part.compressed_len() && kept.bytes <= KEPT / 2, "{all}");
        }
    }
}
