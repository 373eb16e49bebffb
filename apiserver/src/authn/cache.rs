//! What is known of tokens for a moment (apiserver `authentication/token/cache`): tokens themselves are not kept, only keyed
//! digests; but for the last one of a connection that is open.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    hint::black_box,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::hmac;

/// At most so many tokens are remembered; upstream keeps as many.
const LIMIT: usize = 32 << 10;

/// A token for these audiences, as it is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key([u8; 32]);

impl Hash for Key {
    /// A part of a digest is spread as well as the whole.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// The last good token of a connection, and the key it has here: most clients send the same with every request, and it is long.
#[derive(Default)]
pub struct Remembered(Mutex<Option<(Box<[u8]>, Key)>>);

impl Remembered {
    /// The key of this token, if it is the one. How long that takes says nothing of where the two differ: a connection may be shared.
    pub(crate) fn key(&self, token: &str) -> Option<Key> {
        let last = self.0.lock();
        let (known, key) = last.as_ref().filter(|(known, _)| known.len() == token.len())?;
        // No end before the last block: the black box is what the compiler cannot see through.
        let block = |(a, b): (&[u8], &[u8])| a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b));
        let blocks = known.chunks(256).zip(token.as_bytes().chunks(256)).map(block);
        let differing = blocks.fold(0, |differing, block| black_box(differing | block));
        (differing == 0).then_some(*key)
    }

    /// This is the last one.
    pub(crate) fn put(&self, token: &str, key: Key) {
        *self.0.lock() = Some((token.as_bytes().into(), key));
    }
}

/// Remembers a value for a token for a while.
pub(crate) struct Cache<V> {
    secret: hmac::Key,
    entries: Mutex<HashMap<Key, Entry<V>>>,
}

struct Entry<V> {
    value: V,
    from: Timestamp,
    until: Timestamp,
}

impl<V: Clone> Cache<V> {
    pub(crate) fn new() -> Self {
        let random = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        let random: Vec<u8> = random.iter().flat_map(|id| *id.as_bytes()).collect();
        Self { secret: hmac::Key::new(hmac::HMAC_SHA256, &random), entries: Mutex::default() }
    }

    /// The key of a token asked for with these audiences. Lengths keep `xy`, `z` and `x`, `yz` apart.
    pub(crate) fn key(&self, token: &str, audiences: &[String]) -> Key {
        let mut signing = hmac::Context::with_key(&self.secret);
        for part in std::iter::once(token).chain(audiences.iter().map(String::as_str)) {
            signing.update(&part.len().to_be_bytes());
            signing.update(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(signing.sign().as_ref());
        Key(key)
    }

    /// What was put, while it is good. A clock that was set back ends it, too.
    pub(crate) fn get(&self, key: &Key, now: Timestamp) -> Option<V> {
        let entries = self.entries.lock();
        let entry = entries.get(key).filter(|entry| entry.from <= now && now < entry.until)?;
        Some(entry.value.clone())
    }

    /// Remembers a value from now on for `span`, or until `end` if that is sooner.
    pub(crate) fn put(&self, key: Key, value: V, now: Timestamp, span: SignedDuration, end: Option<Timestamp>) {
        let until = now.checked_add(span).unwrap_or(Timestamp::MAX);
        let until = end.map_or(until, |end| end.min(until));
        if until <= now {
            return;
        }
        let mut entries = self.entries.lock();
        if entries.len() >= LIMIT {
            entries.retain(|_, entry| entry.from <= now && now < entry.until);
        }
        if entries.len() >= LIMIT {
            entries.clear();
        }
        entries.insert(key, Entry { value, from: now, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lives_its_time_for_its_token_and_audiences_only() {
        let cache = Cache::new();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let audiences = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let key = cache.key("token", &audiences(&["a"]));
        cache.put(key, 1, at(100), SignedDuration::from_secs(10), None);
        assert_eq!((cache.get(&key, at(109)), cache.get(&key, at(110)), cache.get(&key, at(99))), (Some(1), None, None));
        for (token, list) in [("token", &["b"][..]), ("token", &[]), ("tokena", &[]), ("toke", &["na"])] {
            assert_eq!(cache.get(&cache.key(token, &audiences(list)), at(100)), None, "{token} {list:?}");
        }
        cache.put(key, 2, at(100), SignedDuration::from_secs(10), Some(at(101)));
        assert_eq!((cache.get(&key, at(100)), cache.get(&key, at(101))), (Some(2), None));
    }

    #[test]
    fn a_connection_knows_the_key_of_its_last_token_only() {
        let (cache, last) = (Cache::<()>::new(), Remembered::default());
        assert_eq!(last.key("one"), None);
        let (one, two) = (cache.key("one", &[]), cache.key("two", &[]));
        last.put("one", one);
        assert_eq!((last.key("one"), last.key("onf"), last.key("on"), last.key("one ")), (Some(one), None, None, None));
        last.put("two", two);
        assert_eq!((last.key("one"), last.key("two")), (None, Some(two)));
    }

    #[test]
    fn many_tokens_take_no_more_than_their_place() {
        let cache = Cache::new();
        let now = Timestamp::UNIX_EPOCH;
        for n in 0..LIMIT + 10 {
            cache.put(cache.key(&n.to_string(), &[]), n, now, SignedDuration::from_secs(10), None);
        }
        assert!(cache.entries.lock().len() <= LIMIT);
    }
}
