//! The queues of one priority level, and who is served next (upstream `fairqueuing/queueset`): fair queueing in virtual time, where every
//! queue that has anything to do gets the same share of seats.
//!
//! Pure: it is told the time, and says what to do. Virtual time is counted in nanoseconds of a seat.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    demand::{Integrator, Seen},
    estimate::Estimate,
    hand,
    level::Schema,
    metrics::Reason,
};
use crate::{authn::User, request::RequestInfo};

/// What a request is thought to take, until it is known, in nanoseconds.
const SERVICE: i128 = 3_000_000;

/// What happens to requests that find no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// There is always one.
    Exempt,
    /// They are refused.
    Reject,
    /// They wait in one of so many queues, in one of a hand of them, each of at most so many.
    Queue { queues: usize, hand: usize, length: usize },
}

/// The queues of one level.
pub(super) struct Queues {
    mode: Mode,
    limit: usize,
    queues: Vec<Queue>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// How far virtual time is, and at what time it was.
    progress: (i128, Instant),
    /// Where the last request was taken from.
    robin: usize,
    enqueued: usize,
    /// Queues that have anything to do.
    active: usize,
    pub(super) totals: Totals,
    demand: Integrator,
}

/// Sums over all queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub waiting: usize,
    pub executing: usize,
    pub seats_waiting: usize,
    pub seats_in_use: usize,
    pub dispatched: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<usize>,
    /// What those that wait will take.
    work: i128,
    seats_waiting: usize,
    executing: usize,
    seats_in_use: usize,
    /// When, in virtual time, its next request is served.
    next: i128,
}

/// A request that waits or is executed.
pub(super) struct Entry {
    pub queue: Option<usize>,
    pub schema: Arc<Schema>,
    pub user: Arc<User>,
    pub info: Arc<RequestInfo>,
    pub estimate: Estimate,
    pub arrived: Instant,
    pub started: Option<Instant>,
    arrival: i128,
    /// Tells that it may go.
    go: Option<oneshot::Sender<()>>,
}

/// What becomes of a request.
pub(super) enum Started {
    /// It is executed; its place is to be given back.
    Now(usize),
    /// It waits for this.
    Waiting(usize, oneshot::Receiver<()>),
    Refused(Reason),
}

/// One line of a dump of queues.
pub(super) struct Line<'a> {
    pub next: i128,
    pub waiting: Vec<&'a Entry>,
    pub executing: Vec<&'a Entry>,
    pub seats_in_use: usize,
    pub work: i128,
}

impl Entry {
    fn work(&self) -> i128 {
        self.estimate.initial as i128 * SERVICE + self.last_work()
    }

    fn last_work(&self) -> i128 {
        self.estimate.last as i128 * self.estimate.latency.as_nanos() as i128
    }

    fn seats(&self) -> usize {
        self.estimate.seats()
    }
}

impl Queues {
    pub(super) fn new(mode: Mode, limit: usize, now: Instant) -> Self {
        let mut made = Self {
            mode,
            limit,
            queues: Vec::new(),
            entries: Vec::new(),
            free: Vec::new(),
            progress: (0, now),
            robin: 0,
            enqueued: 0,
            active: 0,
            totals: Totals::default(),
            demand: Integrator::new(now),
        };
        made.configure(mode, limit, now);
        made
    }

    /// Changes what may be done. Those that wait stay where they are.
    pub(super) fn configure(&mut self, mode: Mode, limit: usize, now: Instant) {
        self.sync(now);
        (self.mode, self.limit) = (mode, limit);
        if let Mode::Queue { queues, .. } = mode
            && queues > self.queues.len()
        {
            self.queues.resize_with(queues, Queue::default);
        }
        self.trim();
        self.dispatch_all(now);
    }

    /// Whether nobody waits nor is executed.
    pub(super) fn is_idle(&self) -> bool {
        self.totals.waiting == 0 && self.totals.executing == 0
    }

    /// What was wanted since the last time this was asked.
    pub(super) fn demanded(&mut self, now: Instant) -> Seen {
        self.demand.reset(now)
    }

    /// A request comes.
    pub(super) fn start(
        &mut self,
        schema: &Arc<Schema>,
        of: (&Arc<User>, &Arc<RequestInfo>),
        estimate: Estimate,
        hash: u64,
        now: Instant,
    ) -> Started {
        self.sync(now);
        let mut entry = Entry {
            queue: None,
            schema: Arc::clone(schema),
            user: Arc::clone(of.0),
            info: Arc::clone(of.1),
            estimate,
            arrived: now,
            started: None,
            arrival: self.progress.0,
            go: None,
        };
        let Mode::Queue { hand, length, queues } = self.mode else {
            if self.mode == Mode::Reject && !self.has_room(entry.seats()) {
                self.totals.rejected += 1;
                return Started::Refused(Reason::ConcurrencyLimit);
            }
            entry.started = Some(now);
            self.note_executing(&entry, now);
            return Started::Now(self.put(entry));
        };
        let at = self.choose(hash, queues, hand);
        if self.totals.seats_in_use >= self.limit && self.queues[at].waiting.len() >= length {
            self.totals.rejected += 1;
            self.bound(at);
            return Started::Refused(Reason::QueueFull);
        }
        entry.queue = Some(at);
        let alone = self.totals.waiting == 0;
        let slot = self.enqueue(entry, at, now);
        self.bound(at);
        if alone && self.totals.seats_in_use < self.limit {
            // Nobody else is to be looked for.
            self.dispatch(at, slot, now);
        } else {
            self.dispatch_all(now);
        }
        let Some(Some(entry)) = self.entries.get_mut(slot) else { return Started::Now(slot) };
        if entry.started.is_some() {
            return Started::Now(slot);
        }
        let (go, going) = oneshot::channel();
        entry.go = Some(go);
        Started::Waiting(slot, going)
    }

    /// A request does not want to wait any more; whether it was still waiting. One that is executed has to be finished.
    pub(super) fn leave(&mut self, slot: usize, late: bool, now: Instant) -> bool {
        self.sync(now);
        let Some(Some(entry)) = self.entries.get(slot) else { return true };
        let Some(at) = entry.queue.filter(|_| entry.started.is_none()) else { return false };
        let (seats, work, schema) = (entry.seats(), entry.work(), Arc::clone(&entry.schema));
        let queue = &mut self.queues[at];
        queue.waiting.retain(|other| *other != slot);
        queue.work -= work;
        queue.seats_waiting -= seats;
        self.rest(at);
        self.totals.waiting -= 1;
        self.totals.seats_waiting -= seats;
        self.totals.rejected += 1;
        self.totals.cancelled += 1;
        self.totals.timed_out += u64::from(late);
        schema.counts.left_queue(seats);
        self.take_out(slot);
        self.bound(at);
        self.note_demand(now);
        true
    }

    /// A request was executed. What it still costs others takes this long, and [`Queues::release`] is due then.
    pub(super) fn finish(&mut self, slot: usize, now: Instant) -> Option<Duration> {
        self.sync(now);
        let Some(Some(entry)) = self.entries.get(slot) else { return None };
        let took = now.saturating_duration_since(entry.started.unwrap_or(now)).as_nanos() as i128;
        let (initial, latency, queue) = (entry.estimate.initial as i128, entry.estimate.latency, entry.queue);
        self.totals.executing -= 1;
        entry.schema.counts.executing_requests(-1);
        if let Some(at) = queue {
            let queue = &mut self.queues[at];
            queue.executing -= 1;
            queue.next -= initial * (SERVICE - took);
            self.rest(at);
            self.bound(at);
        }
        if latency.is_zero() {
            self.release(slot, now);
            return None;
        }
        self.dispatch_all(now);
        Some(latency)
    }

    /// The seats of a request are free again.
    pub(super) fn release(&mut self, slot: usize, now: Instant) {
        self.sync(now);
        let Some(entry) = self.take_out(slot) else { return };
        let seats = entry.seats();
        self.totals.seats_in_use -= seats;
        entry.schema.counts.executing_seats(-(seats as i64));
        if let Some(at) = entry.queue {
            self.queues[at].seats_in_use -= seats;
        }
        self.note_demand(now);
        self.trim();
        self.dispatch_all(now);
    }

    /// Virtual time goes on as fast as the queues are served.
    fn sync(&mut self, now: Instant) {
        let (progress, last) = self.progress;
        let passed = now.saturating_duration_since(last).as_nanos();
        if passed == 0 {
            return;
        }
        self.progress.1 = now;
        if self.active == 0 {
            return;
        }
        let (served, active) = ((self.totals.seats_in_use + self.totals.seats_waiting).min(self.limit) as u64, self.active as u64);
        // Wide numbers are slow to divide, and hardly ever needed.
        let gained = match u64::try_from(passed).ok().and_then(|passed| passed.checked_mul(served)) {
            Some(work) => i128::from(work / active),
            None => i128::try_from(passed).unwrap_or(i128::MAX).saturating_mul(i128::from(served)) / i128::from(active),
        };
        self.progress.0 = progress + gained;
    }

    fn has_room(&self, seats: usize) -> bool {
        if seats > self.limit {
            // It never fits: it is executed alone.
            return self.totals.executing == 0;
        }
        self.totals.seats_in_use + seats <= self.limit
    }

    /// Of a flow's hand, the queue with the least work.
    fn choose(&mut self, hash: u64, queues: usize, size: usize) -> usize {
        let mut dealt = [0; hand::LARGEST];
        let size = hand::deal(hash, queues, size, &mut dealt).max(1);
        let first = self.enqueued % size;
        self.enqueued = self.enqueued.wrapping_add(1);
        let hand = (0..size).map(|at| dealt[(first + at) % size]);
        hand.min_by_key(|at| self.queues[*at].work).unwrap_or_default()
    }

    fn enqueue(&mut self, entry: Entry, at: usize, now: Instant) -> usize {
        let (seats, work) = (entry.seats(), entry.work());
        entry.schema.counts.entered_queue(seats);
        let slot = self.put(entry);
        let progress = self.progress.0;
        let queue = &mut self.queues[at];
        if queue.waiting.is_empty() && queue.executing == 0 {
            queue.next = progress;
            self.active += 1;
        }
        queue.waiting.push_back(slot);
        queue.work += work;
        queue.seats_waiting += seats;
        self.totals.waiting += 1;
        self.totals.seats_waiting += seats;
        self.note_demand(now);
        slot
    }

    /// Starts as many as there are seats for.
    fn dispatch_all(&mut self, now: Instant) {
        while self.totals.waiting > 0
            && self.totals.seats_in_use < self.limit
            && self.next().is_some_and(|(at, slot)| self.dispatch(at, slot, now))
        {}
    }

    /// Starts the first request of a queue, if there are seats for it.
    fn dispatch(&mut self, at: usize, slot: usize, now: Instant) -> bool {
        let Some(Some(entry)) = self.entries.get_mut(slot) else { return false };
        let seats = entry.estimate.seats();
        if seats > self.limit && self.totals.executing > 0 || seats <= self.limit && self.totals.seats_in_use + seats > self.limit {
            entry.schema.counts.no_accommodation();
            return false;
        }
        let work = entry.work();
        let queue = &mut self.queues[at];
        queue.waiting.pop_front();
        queue.work -= work;
        queue.seats_waiting -= seats;
        queue.executing += 1;
        self.totals.waiting -= 1;
        self.totals.seats_waiting -= seats;
        entry.schema.counts.left_queue(seats);
        if entry.estimate.last > self.limit as u64 && self.limit > 0 {
            // The same work by fewer seats, for longer.
            let nanos = entry.last_work() / self.limit as i128;
            (entry.estimate.last, entry.estimate.latency) = (self.limit as u64, Duration::from_nanos(nanos as u64));
        }
        entry.started = Some(now);
        let (work, seats, go) = (entry.work(), entry.seats(), entry.go.take());
        queue.next += work;
        queue.seats_in_use += seats;
        entry.schema.counts.executing_requests(1);
        entry.schema.counts.executing_seats(seats as i64);
        self.robin = at;
        self.totals.executing += 1;
        self.totals.seats_in_use += seats;
        self.totals.dispatched += 1;
        self.bound(at);
        self.note_demand(now);
        if let Some(go) = go {
            // Whoever does not wait any more finishes it.
            let _ = go.send(());
        }
        true
    }

    /// The request that would be ready first in virtual time, and its queue.
    fn next(&self) -> Option<(usize, usize)> {
        let count = self.queues.len();
        let order = (1..=count).map(|step| (self.robin + step) % count);
        let head = |at: usize| {
            let slot = *self.queues[at].waiting.front()?;
            let entry = self.entries.get(slot)?.as_ref()?;
            Some((self.queues[at].next + entry.work(), at, slot))
        };
        order.filter_map(head).min_by_key(|(finish, ..)| *finish).map(|(_, at, slot)| (at, slot))
    }

    /// Nobody is served before it came: a queue that could not use its share does not save it up.
    fn bound(&mut self, at: usize) {
        let Some(slot) = self.queues[at].waiting.front() else { return };
        if let Some(Some(entry)) = self.entries.get(*slot) {
            self.queues[at].next = self.queues[at].next.max(entry.arrival);
        }
    }

    /// A queue may have nothing more to do.
    fn rest(&mut self, at: usize) {
        if self.queues[at].waiting.is_empty() && self.queues[at].executing == 0 {
            self.active -= 1;
        }
    }

    /// Gives up queues that are no longer wanted and empty.
    fn trim(&mut self) {
        let wanted = if let Mode::Queue { queues, .. } = self.mode { queues } else { 0 };
        let unused = |queue: &Queue| queue.waiting.is_empty() && queue.executing == 0 && queue.seats_in_use == 0;
        while self.queues.len() > wanted && self.queues.last().is_some_and(unused) {
            self.queues.pop();
        }
        self.robin = self.robin.min(self.queues.len());
    }

    fn note_executing(&mut self, entry: &Entry, now: Instant) {
        let seats = entry.seats();
        self.totals.executing += 1;
        self.totals.seats_in_use += seats;
        self.totals.dispatched += 1;
        entry.schema.counts.executing_requests(1);
        entry.schema.counts.executing_seats(seats as i64);
        self.note_demand(now);
    }

    fn note_demand(&mut self, now: Instant) {
        self.demand.set((self.totals.seats_in_use + self.totals.seats_waiting) as f64, now);
    }

    fn put(&mut self, entry: Entry) -> usize {
        if let Some(slot) = self.free.pop() {
            self.entries[slot] = Some(entry);
            return slot;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    fn take_out(&mut self, slot: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(entry)
    }

    /// How many wait in the queue of a request.
    pub(super) fn length_at(&self, slot: usize) -> usize {
        let queue = self.entries.get(slot).and_then(Option::as_ref).and_then(|entry| entry.queue);
        queue.map_or(0, |at| self.queues[at].waiting.len())
    }

    /// Queue by queue, for those who want to know.
    pub(super) fn lines(&self) -> Vec<Line<'_>> {
        let line = |at: usize| {
            let queue = &self.queues[at];
            let executing = self.entries.iter().flatten().filter(|entry| entry.queue == Some(at) && entry.started.is_some());
            Line {
                next: queue.next,
                waiting: queue.waiting.iter().filter_map(|slot| self.entries.get(*slot)?.as_ref()).collect(),
                executing: executing.collect(),
                seats_in_use: queue.seats_in_use,
                work: queue.work,
            }
        };
        (0..self.queues.len()).map(line).collect()
    }

    /// Those that are executed without having been in a queue.
    pub(super) fn direct(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten().filter(|entry| entry.queue.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::level::test_schema;

    const QUEUED: Mode = Mode::Queue { queues: 64, hand: 6, length: 50 };

    struct World {
        queues: Queues,
        schema: Arc<Schema>,
        of: (Arc<User>, Arc<RequestInfo>),
        now: Instant,
        waiting: Vec<(u64, usize, oneshot::Receiver<()>)>,
        /// Flow and slot.
        executing: Vec<(u64, usize)>,
    }

    impl World {
        fn new(mode: Mode, limit: usize) -> Self {
            let now = Instant::now();
            let of = (Arc::new(User::anonymous()), Arc::new(RequestInfo::default()));
            Self { queues: Queues::new(mode, limit, now), schema: test_schema(), of, now, waiting: Vec::new(), executing: Vec::new() }
        }

        /// What is refused is told.
        fn start(&mut self, flow: u64, estimate: Estimate) -> Option<Reason> {
            let hash = hand::hash(&hand::begun("schema"), &flow.to_string());
            match self.queues.start(&self.schema, (&self.of.0, &self.of.1), estimate, hash, self.now) {
                Started::Now(slot) => self.executing.push((flow, slot)),
                Started::Waiting(slot, going) => self.waiting.push((flow, slot, going)),
                Started::Refused(reason) => return Some(reason),
            }
            None
        }

        fn one(&mut self, flow: u64) -> Option<Reason> {
            self.start(flow, Estimate::ONE)
        }

        fn look(&mut self) {
            let waiting = std::mem::take(&mut self.waiting);
            for (flow, slot, mut going) in waiting {
                if going.try_recv().is_ok() {
                    self.executing.push((flow, slot));
                } else {
                    self.waiting.push((flow, slot, going));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_queues_what_finds_no_seat_is_refused_and_exempt_ones_always_do() {
        let mut world = World::new(Mode::Reject, 2);
        assert_eq!([world.one(1), world.one(1), world.one(1)], [None, None, Some(Reason::ConcurrencyLimit)]);
        let (_, slot) = world.executing.remove(0);
        assert_eq!(world.queues.finish(slot, world.now), None);
        assert_eq!(world.one(2), None);
        let mut world = World::new(Mode::Exempt, 0);
        assert!((0..100).all(|flow| world.one(flow).is_none()));
        assert_eq!((world.queues.totals.executing, world.queues.totals.seats_in_use), (100, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_flow_does_not_drown_a_quiet_one() {
        let mut world = World::new(QUEUED, 4);
        let (mut refused, mut served) = (0, [0_u32; 2]);
        for round in 0..2_000 {
            for _ in 0..8 {
                refused += u32::from(world.one(0).is_some());
            }
            if round % 2 == 0 {
                assert_eq!(world.one(1), None, "the quiet flow is never refused");
            }
            world.now += Duration::from_millis(10);
            for (flow, slot) in std::mem::take(&mut world.executing) {
                served[flow as usize] += 1;
                world.queues.finish(slot, world.now);
            }
            world.look();
        }
        assert!(refused > 1_000, "{refused}");
        assert!(served[1] >= 990 && served[0] > 5_000, "{served:?}");
        assert_eq!(world.queues.totals.executing, world.executing.len());
        assert_eq!(world.queues.totals.waiting, world.waiting.len());
    }

    #[tokio::test(start_paused = true)]
    async fn two_greedy_flows_get_the_same() {
        let mut world = World::new(QUEUED, 6);
        let mut served = [0_i64; 2];
        for _ in 0..3_000 {
            for _ in 0..6 {
                world.one(0);
                world.one(1);
                world.one(1);
            }
            world.now += Duration::from_millis(5);
            for (flow, slot) in std::mem::take(&mut world.executing) {
                served[flow as usize] += 1;
                world.queues.finish(slot, world.now);
            }
            world.look();
        }
        assert!((served[0] - served[1]).abs() * 20 < served[0] + served[1], "{served:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wide_request_takes_its_seats_and_what_it_costs_others_is_paid_after_it() {
        let mut world = World::new(QUEUED, 10);
        let wide = Estimate { initial: 1, last: 8, latency: Duration::from_millis(20) };
        assert_eq!(world.start(1, wide), None);
        assert_eq!((world.queues.totals.seats_in_use, world.executing.len()), (8, 1));
        assert_eq!([world.one(2), world.one(3), world.one(4)], [None; 3]);
        assert_eq!((world.executing.len(), world.waiting.len()), (3, 1));
        let (_, slot) = world.executing.remove(0);
        assert_eq!(world.queues.finish(slot, world.now), Some(wide.latency));
        world.look();
        assert_eq!(world.waiting.len(), 1, "its seats are still taken");
        world.queues.release(slot, world.now + wide.latency);
        world.look();
        assert_eq!((world.waiting.len(), world.queues.totals.seats_in_use), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_a_queue_leaves_nothing_behind() {
        let mut world = World::new(QUEUED, 1);
        for flow in 0..20 {
            world.one(flow);
        }
        let (_, running) = world.executing[0];
        assert!(!world.queues.leave(running, false, world.now), "it is executed");
        for (_, slot, _) in std::mem::take(&mut world.waiting) {
            assert!(world.queues.leave(slot, true, world.now));
        }
        let totals = world.queues.totals;
        assert_eq!((totals.waiting, totals.seats_waiting, totals.timed_out, totals.executing), (0, 0, 19, 1));
        world.queues.finish(running, world.now);
        assert!(world.queues.is_idle() && world.queues.active == 0 && world.queues.queues.iter().all(|q| q.work == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn fewer_queues_and_more_seats_lose_nobody() {
        let mut world = World::new(QUEUED, 1);
        for flow in 0..30 {
            world.one(flow);
        }
        world.queues.configure(Mode::Queue { queues: 2, hand: 1, length: 5 }, 4, world.now);
        world.look();
        assert_eq!((world.executing.len(), world.waiting.len()), (4, 26));
        while let Some((_, slot)) = world.executing.pop() {
            world.now += Duration::from_millis(1);
            world.queues.finish(slot, world.now);
            world.look();
        }
        assert!(world.queues.is_idle() && world.waiting.is_empty());
        assert_eq!(world.queues.queues.len(), 2);
    }
}
