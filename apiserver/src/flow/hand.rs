//! Which queues a flow may use (upstream `shufflesharding`): a hand of queues dealt from a hash, so that two flows seldom share all of theirs.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Queues in a hand at most: more do not fit into the hash.
pub(super) const LARGEST: usize = 15;

/// What the hashes of all flows of a schema begin with.
pub(super) fn begun(schema: &str) -> DefaultHasher {
    let mut hasher = DefaultHasher::new();
    schema.hash(&mut hasher);
    hasher
}

/// The hash of a flow.
pub(super) fn hash(begun: &DefaultHasher, distinguisher: &str) -> u64 {
    let mut hasher = begun.clone();
    distinguisher.hash(&mut hasher);
    hasher.finish()
}

/// Deals a hand of `size` different numbers below `deck`.
pub(super) fn deal(mut hash: u64, deck: usize, size: usize, hand: &mut [usize; LARGEST]) -> usize {
    let size = size.min(LARGEST).min(deck);
    let mut remainders = [0; LARGEST];
    for (at, remainder) in remainders.iter_mut().enumerate().take(size) {
        let left = (deck - at) as u64;
        *remainder = (hash % left) as usize;
        hash /= left;
    }
    for at in 0..size {
        let mut card = remainders[at];
        for before in remainders[..at].iter().rev() {
            if card >= *before {
                card += 1;
            }
        }
        hand[at] = card;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_has_different_cards_of_the_deck() {
        for flow in 0..1000 {
            let mut hand = [0; LARGEST];
            let size = deal(hash(&begun("schema"), &flow.to_string()), 64, 6, &mut hand);
            let mut dealt = hand[..size].to_vec();
            dealt.sort_unstable();
            dealt.dedup();
            assert_eq!(dealt.len(), 6);
            assert!(dealt[5] < 64);
        }
    }

    #[test]
    fn hands_are_upstreams() {
        // `DealIntoHand(82, 128, 3)` of upstream: 82 % 128, 0 % 127 and 0 % 126, made different.
        let mut hand = [0; LARGEST];
        assert_eq!((deal(82, 128, 3, &mut hand), &hand[..3]), (3, &[82, 0, 1][..]));
        assert_eq!((deal(9, 1, 1, &mut hand), hand[0]), (1, 0));
    }
}
