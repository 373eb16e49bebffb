//! Counters, gauges and histograms: written without a lock and, once a series is there, without allocating; read as a whole when somebody asks.
//!
//! A family is a `static`; its series are found by their labels in a table that only grows. A bound on it keeps what clients can make up
//! from filling the memory: series beyond it are not counted.

use std::{
    hash::Hasher,
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::page::{Page, Type};

/// Pages of a table; each is twice as large as the one before.
const PAGES: usize = 9;
/// Places of the first page.
const FIRST: usize = 32;
/// Places of a page that are looked at for one series: a full neighbourhood leads on to the next page.
const PROBES: usize = 8;

/// Series by the values of their `N` labels.
pub(super) struct Table<const N: usize, V> {
    pages: [OnceLock<Box<[Place<N, V>]>>; PAGES],
}

type Place<const N: usize, V> = OnceLock<Box<Series<N, V>>>;

struct Series<const N: usize, V> {
    labels: [Box<str>; N],
    value: V,
}

impl<const N: usize, V> Table<N, V> {
    pub(super) const fn new() -> Self {
        Self { pages: [const { OnceLock::new() }; PAGES] }
    }

    /// The series with these labels, made when it is not there; `None` when the table is full around it.
    pub(super) fn get(&self, labels: [&str; N], make: impl FnOnce() -> V) -> Option<&V> {
        let hash = hash(&labels);
        let mut make = Some(make);
        let mut made: Option<Box<Series<N, V>>> = None;
        for (at, page) in self.pages.iter().enumerate() {
            let size = FIRST << at;
            let places = page.get_or_init(|| std::iter::repeat_with(OnceLock::new).take(size).collect());
            for probe in 0..PROBES {
                let place = &places[(hash as usize).wrapping_add(probe) & (size - 1)];
                let there = match place.get() {
                    Some(there) => there,
                    None => {
                        let new = made.take().or_else(|| {
                            let value = make.take()?();
                            Some(Box::new(Series { labels: labels.map(Box::from), value }))
                        })?;
                        // Whoever was faster may have put the same series here.
                        made = place.set(new).err();
                        place.get()?
                    }
                };
                if there.labels.iter().zip(labels).all(|(a, b)| **a == *b) {
                    return Some(&there.value);
                }
            }
        }
        None
    }

    /// All series.
    pub(super) fn each(&self, mut see: impl FnMut(&[Box<str>; N], &V)) {
        let places = self.pages.iter().filter_map(OnceLock::get).flat_map(|page| page.iter());
        for series in places.filter_map(OnceLock::get) {
            see(&series.labels, &series.value);
        }
    }
}

/// Fowler-Noll-Vo would go byte by byte; labels are long.
fn hash(labels: &[&str]) -> u64 {
    let mut hasher = Folding(0);
    for label in labels {
        hasher.write(label.as_bytes());
        hasher.write_u64(label.len() as u64);
    }
    hasher.finish()
}

struct Folding(u64);

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in words.by_ref() {
            self.write_u64(u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.write_u64(u64::from_le_bytes(last));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// What a family is called, and what its labels are.
pub(crate) struct About<const N: usize> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: [&'static str; N],
}

/// What [`super::answer`] writes.
pub(crate) trait Family: Sync {
    /// Writes all series of it.
    fn write(&self, page: &mut Page);

    /// The names it writes, with what is said of each.
    #[cfg(test)]
    fn abouts(&self) -> Vec<(&'static str, &'static str)>;
}

/// What only rises.
pub(crate) struct Counters<const N: usize> {
    about: About<N>,
    table: Table<N, AtomicU64>,
}

impl<const N: usize> Counters<N> {
    /// `name` as upstream's; `help` begins with upstream's stability (`[STABLE] …`).
    pub(crate) const fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { about: About { name, help, labels }, table: Table::new() }
    }

    /// One more of what has these labels.
    pub(crate) fn inc(&self, labels: [&str; N]) {
        self.add(labels, 1);
    }

    /// So many more.
    pub(crate) fn add(&self, labels: [&str; N], more: u64) {
        if let Some(counter) = self.of(labels) {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// One series, for whoever counts in it often.
    pub(crate) fn of(&self, labels: [&str; N]) -> Option<&AtomicU64> {
        self.table.get(labels, AtomicU64::default)
    }
}

impl<const N: usize> Family for Counters<N> {
    #[cfg(test)]
    fn abouts(&self) -> Vec<(&'static str, &'static str)> {
        vec![(self.about.name, self.about.help)]
    }

    fn write(&self, page: &mut Page) {
        let mut family = page.family(self.about.name, Type::Counter, self.about.help);
        // A family without labels has its one series from the start.
        if N == 0 {
            self.add([""; N], 0);
        }
        self.table.each(|labels, count| family.value(&self.about.labels, labels, count.load(Ordering::Relaxed) as f64));
    }
}

/// What rises and falls.
pub(crate) struct Gauges<const N: usize> {
    about: About<N>,
    table: Table<N, AtomicI64>,
}

/// One more in a gauge until it is dropped.
pub(crate) struct Held(&'static AtomicI64);

impl<const N: usize> Gauges<N> {
    /// As [`Counters::new`].
    pub(crate) const fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { about: About { name, help, labels }, table: Table::new() }
    }

    /// It is this now.
    pub(crate) fn set(&self, labels: [&str; N], now: i64) {
        if let Some(gauge) = self.table.get(labels, AtomicI64::default) {
            gauge.store(now, Ordering::Relaxed);
        }
    }

    /// One more, until what is returned is dropped.
    pub(crate) fn hold(&'static self, labels: [&str; N]) -> Option<Held> {
        let gauge = self.table.get(labels, AtomicI64::default)?;
        gauge.fetch_add(1, Ordering::Relaxed);
        Some(Held(gauge))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<const N: usize> Family for Gauges<N> {
    #[cfg(test)]
    fn abouts(&self) -> Vec<(&'static str, &'static str)> {
        vec![(self.about.name, self.about.help)]
    }

    fn write(&self, page: &mut Page) {
        let mut family = page.family(self.about.name, Type::Gauge, self.about.help);
        self.table.each(|labels, now| family.value(&self.about.labels, labels, now.load(Ordering::Relaxed) as f64));
    }
}

/// How long or how large things were.
pub(crate) struct Histograms<const N: usize> {
    about: About<N>,
    bounds: &'static [f64],
    table: Table<N, Histogram>,
}

/// One series of a [`Histograms`], or of what a server counts by itself. Durations are in seconds, sizes in bytes, as the bounds are.
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// What fell between a bound and the one before; the last is over all bounds.
    counts: Box<[AtomicU64]>,
    /// Nanoseconds, or bytes.
    sum: AtomicU64,
    /// Of the sum, in one unit.
    parts: f64,
}

impl Histogram {
    /// Of times, by these bounds in seconds.
    pub(crate) fn of_seconds(bounds: &'static [f64]) -> Self {
        Self::new(bounds, 1e9)
    }

    /// Of sizes or numbers.
    pub(crate) fn of_bytes(bounds: &'static [f64]) -> Self {
        Self::new(bounds, 1.0)
    }

    fn new(bounds: &'static [f64], parts: f64) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, counts, sum: AtomicU64::default(), parts }
    }

    /// Something took so long.
    pub(crate) fn took(&self, time: Duration) {
        self.note(time.as_secs_f64(), u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Something was so large.
    pub(crate) fn bytes(&self, size: u64) {
        self.note(size as f64, size);
    }

    fn note(&self, value: f64, parts: u64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(parts, Ordering::Relaxed);
    }

    /// Its counts up to each bound, rising, the sum and the number of all.
    pub(super) fn read(&self) -> (Vec<(f64, u64)>, f64, u64) {
        let mut count = 0;
        let mut below = |counted: &AtomicU64| {
            count += counted.load(Ordering::Relaxed);
            count
        };
        let buckets = self.bounds.iter().zip(&self.counts).map(|(bound, counted)| (*bound, below(counted))).collect();
        let all = below(&self.counts[self.bounds.len()]);
        (buckets, self.sum.load(Ordering::Relaxed) as f64 / self.parts, all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

impl<const N: usize> Histograms<N> {
    /// As [`Counters::new`]; `bounds` are the upper bounds of its buckets, rising.
    pub(crate) const fn new(name: &'static str, help: &'static str, labels: [&'static str; N], bounds: &'static [f64]) -> Self {
        Self { about: About { name, help, labels }, bounds, table: Table::new() }
    }

    /// Something with these labels took so long.
    pub(crate) fn took(&self, labels: [&str; N], time: Duration) {
        if let Some(histogram) = self.table.get(labels, || Histogram::of_seconds(self.bounds)) {
            histogram.took(time);
        }
    }

    /// Something with these labels was so large.
    pub(crate) fn bytes(&self, labels: [&str; N], size: u64) {
        if let Some(histogram) = self.of_bytes(labels) {
            histogram.bytes(size);
        }
    }

    /// The series of sizes with these labels.
    pub(crate) fn of_bytes(&self, labels: [&str; N]) -> Option<&Histogram> {
        self.table.get(labels, || Histogram::of_bytes(self.bounds))
    }
}

impl<const N: usize> Family for Histograms<N> {
    #[cfg(test)]
    fn abouts(&self) -> Vec<(&'static str, &'static str)> {
        vec![(self.about.name, self.about.help)]
    }

    fn write(&self, page: &mut Page) {
        let mut family = page.family(self.about.name, Type::Histogram, self.about.help);
        self.table.each(|labels, histogram| family.histogram(&self.about.labels, labels, histogram));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_again_by_its_labels_and_the_number_of_series_is_bounded() {
        let counters: Counters<2> = Counters::new("c", "", ["a", "b"]);
        counters.inc(["x", "yz"]);
        counters.inc(["xy", "z"]);
        counters.inc(["x", "yz"]);
        assert_eq!(counters.of(["x", "yz"]).unwrap().load(Ordering::Relaxed), 2);
        let table: Table<1, ()> = Table::new();
        let kept = (0..100_000).filter(|n| table.get([&n.to_string()], || ()).is_some()).count();
        let mut seen = 0;
        table.each(|_, ()| seen += 1);
        assert_eq!(kept, seen);
        assert!((8_000..FIRST << PAGES).contains(&kept), "{kept}");
        assert!(table.get(["7"], || ()).is_some(), "what is there is found when the table is full");
    }

    #[test]
    fn threads_that_make_the_same_series_count_in_one() {
        static COUNTERS: Counters<1> = Counters::new("c", "", ["a"]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|n| COUNTERS.inc([&(n % 100).to_string()])));
            }
        });
        let mut all = Vec::new();
        COUNTERS.table.each(|_, count| all.push(count.load(Ordering::Relaxed)));
        assert_eq!(all, vec![80; 100]);
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let histogram = Histogram::of_seconds(&[0.1, 1.0]);
        for millis in [50, 100, 500, 5000] {
            histogram.took(Duration::from_millis(millis));
        }
        assert_eq!(histogram.read(), (vec![(0.1, 2), (1.0, 3)], 5.65, 4));
    }
}
