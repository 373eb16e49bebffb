//! A set of small numbers as upstream stores it (`registry/core/service/allocator/bitmap.go`): the bytes of a big-endian integer, without
//! leading zeros, whose n-th bit says whether n is taken.

/// Which of `0..max` are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    /// Least significant first.
    bytes: Vec<u8>,
    max: usize,
}

impl Bitmap {
    /// Nothing is taken.
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: vec![0; max.div_ceil(8)], max }
    }

    /// Reads what [`Bitmap::stored`] made; what is beyond `max` is left out.
    pub(super) fn read(stored: &[u8], max: usize) -> Self {
        let mut bytes: Vec<u8> = stored.iter().rev().copied().collect();
        bytes.resize(max.div_ceil(8), 0);
        let mut map = Self { bytes, max };
        for beyond in max..map.bytes.len() * 8 {
            map.set(beyond, false);
        }
        map
    }

    /// The bytes that are stored.
    pub(super) fn stored(&self) -> Vec<u8> {
        self.bytes.iter().rev().copied().skip_while(|byte| *byte == 0).collect()
    }

    /// Whether a number is taken.
    pub(super) fn has(&self, n: usize) -> bool {
        self.bytes.get(n / 8).is_some_and(|byte| byte & (1 << (n % 8)) != 0)
    }

    /// Takes a number; whether it was free.
    pub(super) fn take(&mut self, n: usize) -> bool {
        let free = n < self.max && !self.has(n);
        if free {
            self.set(n, true);
        }
        free
    }

    /// Gives a number back.
    pub(super) fn free(&mut self, n: usize) {
        self.set(n, false);
    }

    /// Takes the next free number from a random place on: first of those from `offset` on, then of those below, which are for people who
    /// choose (KEP-3668).
    pub(super) fn take_next(&mut self, offset: usize, random: u64) -> Option<usize> {
        let random = usize::try_from(random >> 1).unwrap_or_default();
        let scan = |from: usize, count: usize| (0..count).map(move |i| from + (random % count + i) % count);
        let upper = scan(offset, self.max - offset);
        let next = upper.chain(scan(0, offset)).find(|n| !self.has(*n))?;
        self.set(next, true);
        Some(next)
    }

    /// The numbers that are taken, rising.
    pub(super) fn taken(&self) -> impl Iterator<Item = usize> {
        (0..self.max).filter(|n| self.has(*n))
    }

    fn set(&mut self, n: usize, taken: bool) {
        if let Some(byte) = self.bytes.get_mut(n / 8) {
            let bit = 1 << (n % 8);
            *byte = if taken { *byte | bit } else { *byte & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_the_integer_go_makes_of_the_bits() {
        let mut map = Bitmap::new(2768);
        assert_eq!(map.stored(), Vec::<u8>::new());
        assert!(map.take(0) && map.take(9) && !map.take(9) && !map.take(2768));
        // big.Int with bits 0 and 9: 0x0201.
        assert_eq!(map.stored(), [2, 1]);
        assert_eq!(Bitmap::read(&[2, 1], 2768), map);
        assert_eq!(map.taken().collect::<Vec<_>>(), [0, 9]);
        map.free(9);
        assert_eq!(map.stored(), [1]);
        assert_eq!(Bitmap::read(&[0xff, 0xff], 10).taken().count(), 10);
    }

    #[test]
    fn the_upper_band_goes_first_and_the_lower_one_last() {
        let mut map = Bitmap::new(40);
        let upper: Vec<usize> = (0..24).map(|i| map.take_next(16, i * 77).unwrap()).collect();
        assert!(upper.iter().all(|n| *n >= 16), "{upper:?}");
        let lower: Vec<usize> = (0..16).map(|i| map.take_next(16, i * 31).unwrap()).collect();
        assert!(lower.iter().all(|n| *n < 16), "{lower:?}");
        assert_eq!(map.take_next(16, 5), None);
        assert_eq!(Bitmap::new(3).take_next(0, u64::MAX), Some((usize::MAX >> 1) % 3));
    }
}
