//! One version of an object as what differs from another: most changes touch a few bytes of it.
//!
//! A delta is pairs of literal bytes and of a piece of the other version: a length and that many bytes, then where the piece begins and how
//! long it is. Numbers are little-endian base 128.

use bytes::{Bytes, BytesMut};

/// Runs that are shorter are not worth their numbers; of this many bytes it is told where text goes on after a difference.
const RUN: usize = 16;
/// So far is looked for the same text one for one, as after a number that changed.
const NEAR: usize = 64;
/// So far is looked for text that moved, because something is longer than it was, or new, or gone.
const FAR: usize = 1024;

/// What makes `text` out of `base`; `None` where that is more than half as long as the text.
pub(super) fn diff(text: &[u8], base: &[u8]) -> Option<Box<[u8]>> {
    let most = text.len() / 2;
    let mut delta = Vec::with_capacity(256);
    // Up to where the text is told, how far it was looked at, and the same place in the base.
    let (mut told, mut at, mut from) = (0, 0, 0);
    while told < text.len() {
        let (run, literal) = (common(&text[at..], &base[from..]), &text[told..at]);
        if delta.len() + literal.len() > most {
            return None;
        }
        put(&mut delta, literal.len());
        delta.extend_from_slice(literal);
        put(&mut delta, from);
        put(&mut delta, run);
        told = at + run;
        (at, from) = (told, from + run);
        let (skip, skip_base) = again(&text[at..], &base[from..]).unwrap_or((text.len() - at, 0));
        (at, from) = (at + skip, from + skip_base);
    }
    delta.shrink_to_fit();
    Some(delta.into())
}

/// The text that a delta makes of the `base` it was made with.
pub(super) fn apply(mut delta: &[u8], base: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(base.len() + delta.len());
    let mut pair = || -> Option<()> {
        let literal = take(&mut delta)?;
        text.extend_from_slice(delta.split_off(..literal)?);
        let (from, run) = (take(&mut delta)?, take(&mut delta)?);
        text.extend_from_slice(base.get(from..)?.get(..run)?);
        Some(())
    };
    while pair().is_some() {}
    text.freeze()
}

/// How many bytes are the same from the beginning on.
fn common(one: &[u8], other: &[u8]) -> usize {
    const WIDE: usize = 32;
    let wide = one.chunks_exact(WIDE).zip(other.chunks_exact(WIDE)).take_while(|(one, other)| one == other).count() * WIDE;
    wide + one[wide..].iter().zip(&other[wide..]).take_while(|(one, other)| one == other).count()
}

/// How much of both is to be skipped until they go on alike.
fn again(text: &[u8], base: &[u8]) -> Option<(usize, usize)> {
    let near = (1..NEAR).find(|at| text.get(*at..at + RUN).is_some_and(|run| base.get(*at..at + RUN) == Some(run)));
    near.map(|at| (at, at)).or_else(|| moved(text, base, FAR / 8)).or_else(|| moved(text, base, FAR))
}

/// The same among the first bytes of both.
fn moved(text: &[u8], base: &[u8], far: usize) -> Option<(usize, usize)> {
    // Where each run of the base begins, by a small hash: an earlier one takes the place of a later one.
    let mut places = [u16::MAX; FAR];
    for (at, run) in base.windows(RUN).take(far).enumerate().rev() {
        places[hash(run)] = at as u16;
    }
    text.windows(RUN).take(far).enumerate().find_map(|(at, run)| {
        let place = usize::from(places[hash(run)]);
        (base.get(place..place + RUN) == Some(run)).then_some((at, place))
    })
}

/// Of a run: below [`FAR`].
fn hash(run: &[u8]) -> usize {
    let word = run.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

fn put(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(delta: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = *delta.split_off_first()?;
        number |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(revision: u32, label: &str, phase: &str) -> String {
        let env: String = (0..40).map(|n| format!("{{\"name\":\"VARIABLE_{n}\",\"value\":\"{}\"}},", n * 7_919)).collect();
        format!(
            "{{\"metadata\":{{\"resourceVersion\":\"{revision}\",\"labels\":{{\"a\":\"{label}\"}}}},\"spec\":[{env}],\"status\":\"{phase}\"}}"
        )
    }

    #[test]
    fn a_version_is_little_beside_another() {
        let base = pod(1_000, "b", "Running");
        for text in [pod(999, "b", "Running"), pod(9, "something longer", "Pending"), pod(1_000, "b", ""), base.clone()] {
            let delta = diff(text.as_bytes(), base.as_bytes()).unwrap();
            assert_eq!(apply(&delta, base.as_bytes()), text);
            assert!(delta.len() < 100, "{}", delta.len());
        }
    }

    #[test]
    fn what_has_little_in_common_stays_whole() {
        let base = pod(1, "b", "Running");
        assert_eq!(diff("x".repeat(5_000).as_bytes(), base.as_bytes()), None);
        assert_eq!(diff(b"short", b""), None);
        assert_eq!(diff(b"", b"anything").map(|delta| apply(&delta, b"anything")), Some(Bytes::new()));
    }

    #[test]
    fn any_text_comes_back() {
        let mut seed = 7_u64;
        let mut next = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..2_000 {
            let base: Vec<u8> = (0..next(3_000)).map(|_| b"ab{}\","[next(6)]).collect();
            let mut text = base.clone();
            for _ in 0..next(8) {
                let (at, length) = (next(text.len() + 1), next(100));
                match next(3) {
                    0 => drop(text.splice(at..at, (0..length).map(|n| n as u8))),
                    1 => drop(text.drain(at..(at + length).min(text.len()))),
                    _ => text.iter_mut().skip(at).take(length / 10).for_each(|byte| *byte ^= 1),
                }
            }
            if let Some(delta) = diff(&text, &base) {
                assert_eq!(apply(&delta, &base), text);
            }
        }
    }
}
