//! What the store and its cache cost: `cargo bench -p coracle-store`.
//!
//! Wall times wobble on shared machines and with the disk; CPU time of this process and the ratios are what to look at.
//! The database is made under the directory named as first argument, or the temporary directory.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

use std::{
    fs,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_store::{
    Expect, Key, Page, Revision, Store, Write,
    cache::{Cache, Cached, Collection, Decode, Decoded, Freshness},
    embedded::{Embedded, Options},
};

const VALUE: usize = 2048;
const KEYS: usize = 10_000;
const WATCHERS: usize = 1000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let place = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let dir = match place {
        Some(place) => tempfile::tempdir_in(place).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    if std::env::args().any(|arg| arg == "--memory") {
        return runtime.block_on(memory(dir.path()));
    }
    println!("{:<44} {:>12} {:>14}", "", "wall", "CPU");
    sync_of(dir.path());
    runtime.block_on(async {
        first_start(dir.path()).await;
        for writers in [1, 16, 64] {
            puts("disk", &Options::at(dir.path().join(format!("puts-{writers}"))), writers).await;
        }
        puts("memory", &Options::memory(), 16).await;
        open_and_list(&dir.path().join("list")).await;
        fan_out().await;
    });
}

/// Measures wall and CPU time of the whole process.
struct Meter {
    wall: Instant,
    cpu: Duration,
}

impl Meter {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn print(&self, what: &str, per: &str, count: usize) {
        let (wall, cpu) = (self.wall.elapsed(), cpu() - self.cpu);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        println!("{what:<44} {:>9.1} us {:>11.1} us   {per}  ({:.0}/s)", each(wall), each(cpu), count as f64 / wall.as_secs_f64());
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(usage.tv_sec).unwrap(), u32::try_from(usage.tv_nsec).unwrap())
}

/// What one sync costs on this disk: no single writer can be faster, and without this figure puts per second say nothing.
fn sync_of(dir: &Path) {
    let mut file = fs::File::create(dir.join("sync")).unwrap();
    let meter = Meter::start();
    for _ in 0..200 {
        file.write_all(&[1; 8192]).unwrap();
        file.sync_all().unwrap();
    }
    meter.print("this disk: append 8 KiB and sync", "each", 200);
}

/// Making a store, and the objects every cluster begins with, committed at once.
async fn first_start(dir: &Path) {
    let meter = Meter::start();
    let store = Embedded::open(&Options::at(dir.join("first"))).unwrap();
    meter.print("first open of an empty directory", "all", 1);
    let meter = Meter::start();
    let commit = |n: usize| {
        let store = &store;
        async move { store.commit(&key(n), Expect::Absent, put(n)).await.unwrap() }
    };
    futures::future::join_all((0..150).map(commit)).await;
    meter.print("150 creates at once", "all", 1);
    store.close().await;
    let meter = Meter::start();
    let store = Embedded::open(&Options::at(dir.join("first"))).unwrap();
    meter.print("open again, 150 keys", "all", 1);
    store.close().await;
}

/// Compare-and-swap puts over all keys by so many writers.
async fn puts(name: &str, options: &Options, writers: usize) {
    let store = Arc::new(Embedded::open(options).unwrap());
    let count = if writers == 1 { 2000 } else { 10_000 };
    let meter = Meter::start();
    let write = |store: Arc<Embedded>, writer: usize| async move {
        let mut known = vec![Expect::Absent; KEYS / writers];
        for n in 0..count / writers {
            let slot = n % known.len();
            let revision = store.commit(&key(slot * writers + writer), known[slot], put(n)).await.unwrap();
            known[slot] = Expect::At(revision);
        }
    };
    let tasks: Vec<_> = (0..writers).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    meter.print(&format!("{name}: puts of 2 KiB, {writers} writers"), "each", count / writers * writers);
    store.close().await;
}

/// What 100,000 pods of 3 KiB and 10,000 idle watchers take: `cargo bench -p coracle-store -- --memory`.
async fn memory(dir: &Path) {
    const PODS: usize = 100_000;
    const POD: usize = 3072;
    const IDLE: usize = 10_000;
    let value = |n: usize| Write::put((0..POD).map(|at| b'a' + u8::try_from((n * 7 + at) % 26).unwrap()).collect::<Vec<_>>());
    let store = Embedded::open(&Options::at(dir)).unwrap();
    for chunk in (0..PODS).collect::<Vec<_>>().chunks(500) {
        let commit = |n: &usize| {
            let (store, n) = (&store, *n);
            async move { store.commit(&key(n), Expect::Absent, value(n)).await.unwrap() }
        };
        futures::future::join_all(chunk.iter().map(commit)).await;
    }
    store.close().await;
    drop(store);
    let stored = PODS * POD / 1024;
    let say = |what: &str, since: usize| {
        let now = resident().saturating_sub(since);
        println!("{what:<56} {now:>9} KiB, {:.2} of the {stored} KiB stored", now as f64 / stored as f64);
    };
    let before = resident();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&Options::at(dir)).unwrap());
    say("the store's index, 100,000 pods", before);
    let cache = Cache::start(store.clone(), Arc::new(Plain));
    let pods = cache.collection("/registry/pods/");
    let mut all = pods.snapshot(Freshness::Any).await;
    while all.is_err() {
        all = pods.snapshot(Freshness::Any).await;
    }
    let objects = all.unwrap().len();
    assert_eq!(objects, PODS);
    say("with the watch cache, loaded at once", before);
    println!("{:<56} {:>9} KiB", "  its peak", peak().saturating_sub(before));
    for n in 0..50_000 {
        let found = pods.get(key(n).as_str(), Freshness::Latest).await.unwrap().value.unwrap();
        store.commit(&key(n), Expect::At(found.revision), value(n + 1)).await.unwrap();
    }
    say("after 50,000 updates, the ring full", before);
    let before_watchers = resident();
    let from = pods.snapshot(Freshness::Latest).await.unwrap().revision;
    let mut tasks = Vec::new();
    for _ in 0..IDLE {
        let mut watcher = pods.watch(from).await.unwrap();
        tasks.push(tokio::spawn(async move { watcher.next_batch().await.is_ok() }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("{:<56} {:>9} KiB", "10,000 idle watchers", resident().saturating_sub(before_watchers));
    for task in tasks {
        task.abort();
    }
}

/// Opening with many keys, loading the cache, reading from it.
async fn open_and_list(dir: &Path) {
    let store = Embedded::open(&Options::at(dir)).unwrap();
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(500) {
        futures::future::join_all(chunk.iter().map(|n| {
            let (store, n) = (&store, *n);
            async move { store.commit(&key(n), Expect::Absent, put(n)).await.unwrap() }
        }))
        .await;
    }
    store.close().await;
    let before = resident();
    let meter = Meter::start();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&Options::at(dir)).unwrap());
    meter.print("open, 10,000 keys of 2 KiB", "all", 1);
    let meter = Meter::start();
    let read = store.range("/registry/pods/", Page::default()).await.unwrap();
    meter.print("range of the store, 10,000 keys", "all", 1);
    drop(read);
    let meter = Meter::start();
    let cache = Cache::start(store.clone(), Arc::new(Plain));
    let pods = cache.collection("/registry/pods/");
    pods.snapshot(Freshness::Latest).await.unwrap();
    meter.print("load of the cache, 10,000 keys", "all", 1);
    println!("{:<44} {:>9} KiB", "resident since open", resident().saturating_sub(before));
    let meter = Meter::start();
    for n in 0..100_000 {
        pods.get(key(n % KEYS).as_str(), Freshness::Latest).await.unwrap();
    }
    meter.print("get of the latest", "each", 100_000);
    let meter = Meter::start();
    for _ in 0..100_000 {
        pods.snapshot(Freshness::Latest).await.unwrap();
    }
    meter.print("snapshot of the latest", "each", 100_000);
    let meter = Meter::start();
    for _ in 0..20 {
        let snapshot = pods.snapshot(Freshness::Latest).await.unwrap();
        let mut body = Vec::with_capacity(snapshot.len() * (VALUE + 1));
        for cached in snapshot.iter() {
            body.extend_from_slice(&cached.wire());
            body.push(b',');
        }
        std::hint::black_box(body);
    }
    meter.print("list of 10,000 into one buffer (20 MB)", "each", 20);
    let start = store.revision().await.unwrap();
    for n in 0..1000 {
        let found = store.get(&key(n)).await.unwrap().value.unwrap();
        store.commit(&key(n), Expect::At(found.revision), put(n)).await.unwrap();
    }
    pods.snapshot(Freshness::Latest).await.unwrap();
    let meter = Meter::start();
    for _ in 0..20 {
        std::hint::black_box(pods.snapshot(Freshness::Exact(start)).await.unwrap());
    }
    meter.print("snapshot of 1,000 changes ago", "each", 20);
}

/// One writer, a thousand watchers.
async fn fan_out() {
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&Options::memory()).unwrap());
    let cache = Cache::start(store.clone(), Arc::new(Plain));
    let pods = cache.collection("/registry/pods/");
    let events = 1000;
    let mut tasks = Vec::new();
    for _ in 0..WATCHERS {
        let pods = pods.clone();
        tasks.push(tokio::spawn(follow(pods, events)));
    }
    let quiet = cache.collection("/registry/nodes/");
    let _quiet = quiet.watch(Revision(1)).await.unwrap();
    let meter = Meter::start();
    for n in 0..events {
        store.commit(&key(n), Expect::Absent, put(n)).await.unwrap();
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), events);
    }
    meter.print("event to 1,000 watchers", "each event", events);
}

async fn follow(pods: Arc<Collection<()>>, events: usize) -> usize {
    let mut watcher = pods.watch(Revision(1)).await.unwrap();
    let mut seen = 0;
    while seen < events {
        for change in watcher.next_batch().await.unwrap().changes {
            let frame = change.frames.get_or_make(0, || change.after.as_ref().unwrap().wire());
            seen += usize::from(!frame.is_empty());
        }
    }
    seen
}

/// A decoder that costs one copy, as splicing a resource version does.
struct Plain;

impl Decode<()> for Plain {
    fn decode(&self, _key: &Key, stored: &Bytes, _revision: Revision) -> Decoded<()> {
        Decoded { wire: Bytes::copy_from_slice(stored), facts: () }
    }

    fn departed(&self, last: &Cached<()>, _revision: Revision) -> Bytes {
        last.wire()
    }
}

fn key(n: usize) -> Key {
    format!("/registry/pods/namespace-{}/pod-{n:06}", n % 20).into()
}

fn put(n: usize) -> Write {
    Write::put(vec![b'a' + u8::try_from(n % 26).unwrap(); VALUE])
}

/// Resident memory in KiB.
fn resident() -> usize {
    status("VmRSS:")
}

/// Its highest so far.
fn peak() -> usize {
    status("VmHWM:")
}

fn status(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}
