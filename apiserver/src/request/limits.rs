//! Bounds on what is in flight (`--max-requests-inflight`, `--max-mutating-requests-inflight`), on bodies and on time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::RequestInfo;
use crate::wire::Status;

/// Largest body that is read, in bytes.
pub const MAX_BODY: usize = coracle_schema::decode::MAX_BYTES;
/// How long the body of a watch or stream may take to come; that of other requests has to come within their time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Counts what is in flight, and refuses what is too much.
#[derive(Debug)]
pub struct Limits {
    reads: Gauge,
    writes: Gauge,
    long: Gauge,
}

#[derive(Debug)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: usize,
}

/// A place in flight; free again on drop.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

impl Limits {
    /// At most so many reads and writes at a time, 0 for any number; watches and streams do not count.
    pub fn new(reads: usize, writes: usize) -> Self {
        Self { reads: Gauge::new(reads), writes: Gauge::new(writes), long: Gauge::new(usize::MAX) }
    }

    /// Takes a place, if there is one.
    pub fn enter(&self, info: &RequestInfo) -> Option<Slot> {
        self.gauge(info).enter()
    }

    /// Takes a place whatever the bounds: the parts of this process are bounded by themselves.
    pub fn enter_anyway(&self, info: &RequestInfo) -> Slot {
        let gauge = self.gauge(info);
        gauge.now.fetch_add(1, Ordering::Relaxed);
        Slot(Arc::clone(&gauge.now))
    }

    fn gauge(&self, info: &RequestInfo) -> &Gauge {
        match (info.is_long_running(), info.is_read()) {
            (true, _) => &self.long,
            (false, true) => &self.reads,
            (false, false) => &self.writes,
        }
    }

    /// How many reads, writes, and watches and streams there are.
    pub fn in_flight(&self) -> (usize, usize, usize) {
        let now = |g: &Gauge| g.now.load(Ordering::Relaxed);
        (now(&self.reads), now(&self.writes), now(&self.long))
    }
}

impl Gauge {
    fn new(most: usize) -> Self {
        Self { now: Arc::default(), most: if most == 0 { usize::MAX } else { most } }
    }

    fn enter(&self) -> Option<Slot> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(Arc::clone(&self.now));
        (before < self.most).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads a body; 413 when it is too large, 400 when it breaks off, 504 when it takes too long to come.
pub async fn read_body<B>(body: B) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = tokio::time::timeout(TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    match read.map_err(|_| Status::timeout("the body of the request did not come within the allotted timeout"))? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {MAX_BODY}")))
        }
        Err(error) => Err(Status::bad_request(format!("unable to read the body: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn the_limit_of_writes_does_not_touch_reads_and_is_free_again_after() {
        let limits = Limits::new(1, 1);
        let write = RequestInfo { is_resource: true, verb: "create".into(), ..RequestInfo::default() };
        let read = RequestInfo { is_resource: true, verb: "list".into(), ..RequestInfo::default() };
        let watch = RequestInfo { is_resource: true, verb: "watch".into(), ..RequestInfo::default() };
        let slot = limits.enter(&write).unwrap();
        assert!(limits.enter(&write).is_none());
        assert!(limits.enter(&read).is_some());
        let _watches = [limits.enter(&watch).unwrap(), limits.enter(&watch).unwrap()];
        drop(slot);
        assert!(limits.enter(&write).is_some());
        assert_eq!(limits.in_flight(), (0, 0, 2));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let body = |size: usize| Full::new(Bytes::from(vec![b' '; size]));
        assert_eq!(read_body(body(MAX_BODY)).await.unwrap().len(), MAX_BODY);
        assert_eq!(read_body(body(MAX_BODY + 1)).await.unwrap_err().code, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
        let never = http_body_util::StreamBody::new(futures::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>());
        assert_eq!(read_body(never).await.unwrap_err().code, 504);
    }
}
