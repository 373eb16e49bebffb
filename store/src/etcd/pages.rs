//! How many objects a page of a long list has: as many as come in one answer and in time.

use super::faults;
use crate::grpc::Fault;

/// Objects of a page: at first, at least, at most. Pages grow until they are about [`BYTES`] large.
const FIRST: usize = 500;
const SMALLEST: usize = 8;
const LARGEST: usize = 10_000;
const BYTES: usize = 8 << 20;

/// The pages of one list.
pub(super) struct Pages {
    size: usize,
    /// What was too much is not tried again.
    largest: usize,
    /// The last page did not come in time.
    late: bool,
}

impl Default for Pages {
    fn default() -> Self {
        Self { size: FIRST, largest: LARGEST, late: false }
    }
}

impl Pages {
    /// Objects of the next page.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A page of so many bytes came.
    pub(super) fn was_read(&mut self, bytes: usize) {
        self.late = false;
        self.size = match bytes {
            _ if bytes > BYTES => (self.size / 2).max(SMALLEST),
            _ if bytes < BYTES / 2 => (self.size * 2).min(self.largest),
            _ => self.size,
        };
    }

    /// A page of `wanted` objects did not come: whether a smaller one may.
    pub(super) fn shrink(&mut self, wanted: usize, fault: &Fault) -> bool {
        let (over, late) = (faults::is_over(fault), faults::is_late(fault));
        // Late once: it may be the size. Late again: it is etcd.
        if wanted <= SMALLEST || !(over || late && !self.late) {
            return false;
        }
        self.size = (wanted / 4).max(SMALLEST);
        // Of what was late, half may come in time when etcd only paused.
        self.largest = if over { self.size } else { (wanted / 2).max(SMALLEST) };
        self.late = late;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over() -> Fault {
        Fault::new("ResourceExhausted", "received message larger than max (9 vs. 8)")
    }

    fn late() -> Fault {
        Fault::new("DeadlineExceeded", "context deadline exceeded")
    }

    #[test]
    fn pages_grow_until_they_are_large_enough() {
        let mut pages = Pages::default();
        pages.was_read(1);
        assert_eq!(pages.size(), 2 * FIRST);
        (0..9).for_each(|_| pages.was_read(1));
        assert_eq!(pages.size(), LARGEST);
        pages.was_read(BYTES);
        assert_eq!(pages.size(), LARGEST);
        pages.was_read(BYTES + 1);
        assert_eq!(pages.size(), LARGEST / 2);
    }

    #[test]
    fn an_answer_that_is_too_large_is_asked_for_in_pieces_down_to_the_smallest() {
        let mut pages = Pages::default();
        assert!(pages.shrink(500, &over()) && pages.shrink(125, &over()) && pages.shrink(31, &over()));
        assert_eq!(pages.size(), SMALLEST);
        assert!(!pages.shrink(SMALLEST, &over()));
        pages.was_read(1);
        assert_eq!(pages.size(), SMALLEST, "what was too large is not tried again");
    }

    #[test]
    fn an_etcd_that_is_late_twice_is_not_waited_for_a_third_time() {
        let mut pages = Pages::default();
        assert!(pages.shrink(500, &late()));
        assert_eq!(pages.size(), 125);
        assert!(!pages.shrink(125, &late()));
    }

    #[test]
    fn a_list_goes_on_after_a_pause_of_etcd_in_pages_half_as_large() {
        let mut pages = Pages::default();
        assert!(pages.shrink(500, &late()));
        pages.was_read(1);
        pages.was_read(1);
        assert_eq!(pages.size(), 250);
        assert!(pages.shrink(250, &late()), "that was another pause");
        assert!(!Pages::default().shrink(500, &Fault::new("Unavailable", "etcdserver: no leader")));
    }
}
