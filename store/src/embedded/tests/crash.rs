//! Ends that nobody is asked about: kill -9, pauses, power cuts, a disk that is full or fails, files that are damaged. Each scenario takes a
//! seed; `make test` runs each a few times, `make soak` for as long as it is told to.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    ops::ControlFlow,
    path::PathBuf,
    process::Child,
    sync::atomic::AtomicI64,
    thread,
    time::Instant,
};

use super::*;
use crate::{Durability, contract::PATIENCE, faulty::Chance};

/// Compaction happens when a test wants it.
const NEVER: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(31_536_000);

/// All a child was told, from its own lips.
#[derive(Default)]
struct Told {
    /// By revision: key, value, and whether the write was strict.
    acknowledged: BTreeMap<u64, (String, String, bool)>,
    /// No revision up to here may come again.
    highest: u64,
    /// Up to here everything was found to be there.
    checked: u64,
    /// Acknowledged writes that were checked.
    writes: usize,
    /// Relaxed ones that were lost.
    lost: usize,
}

/// The child: writes from eight tasks, two of them in a relaxed way, under a clock that jumps, and says what was acknowledged. What one of
/// them writes has a time to live that no jump uses up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the crash tests"]
async fn crash_child() {
    static AHEAD: AtomicI64 = AtomicI64::new(0);
    fn jumping() -> SystemTime {
        let ahead = AHEAD.load(Ordering::Relaxed);
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }
    let Ok(dir) = std::env::var("STORE_CRASH_DIR") else { return };
    let seed: u64 = std::env::var("STORE_CRASH_SEED").unwrap().parse().unwrap();
    let interval = [Duration::from_millis(3), Duration::from_secs(3600)][usize::try_from(seed % 2).unwrap()];
    let options = Options { keep: NEVER, compact_every: NEVER, relaxed_interval: interval, clock: jumping, ..Options::at(dir) };
    let store = Arc::new(Embedded::open(&options).unwrap());
    let write = |store: Arc<Embedded>, writer: u64| async move {
        let mut dice = Chance(seed.wrapping_mul(8).wrapping_add(writer));
        let durability = if writer < 2 { Durability::Relaxed } else { Durability::Strict };
        // Strict writes take the relaxed ones along: in some rounds they soon end, so that there is something to lose.
        let rounds = if seed % 4 == 3 && writer >= 2 { 5 } else { u64::MAX };
        for round in 0..rounds {
            let key = Key::from(format!("/crash/{writer}/{}", dice.next() % 5));
            let found = store.get(&key).await.unwrap().value;
            let expect = found.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.revision));
            let delete = writer >= 2 && found.is_some() && dice.next().is_multiple_of(10);
            let size = usize::try_from(dice.next() % 6000).unwrap();
            let value = if delete { "-".to_owned() } else { format!("{seed}.{writer}.{round}.{}", "x".repeat(size)) };
            let ttl = (writer == 2).then_some(100 * YEAR);
            let write = if delete { Write::Delete } else { Write::Put { value: value.clone().into(), ttl, durability } };
            let revision = store.commit(&key, expect, write).await.unwrap();
            let (class, value) = (if writer < 2 { 'R' } else { 'S' }, value.split_once(".x").map_or(value.as_str(), |(head, _)| head));
            std::io::stdout().lock().write_all(format!("\nack {class} {key} {revision} {value}\n").as_bytes()).unwrap();
            if dice.next().is_multiple_of(50) {
                let years = i64::try_from(dice.next() % 41).unwrap() - 20;
                AHEAD.store(years * i64::try_from(YEAR.as_secs()).unwrap(), Ordering::Relaxed);
            }
            if durability == Durability::Relaxed {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    join_all((0..8).map(|writer| tokio::spawn(write(store.clone(), writer)))).await;
}

fn start(dir: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::crash::crash_child", "--ignored", "--nocapture"])
        .env("STORE_CRASH_DIR", dir)
        .env("STORE_CRASH_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What was said but not yet heard when the end came.
#[derive(PartialEq)]
enum LastWords {
    Count,
    /// The machine was off already: nothing the process did or said after that happened.
    NeverSaid,
}

/// Runs a child until it has acknowledged some writes, ends it in whatever way `end` does, and notes all it said.
fn run_and_end(dir: &Path, seed: u64, told: &mut Told, end: impl FnOnce(&mut Child, &mut Chance) -> LastWords) {
    let mut dice = Chance(seed);
    let mut child = start(dir, seed);
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    let acks = dice.next() % 80;
    let mut count = 0;
    while count < acks && said.read_line(&mut text).unwrap() > 0 {
        count += u64::from(text.lines().last().is_some_and(|line| line.starts_with("ack ")));
    }
    thread::sleep(Duration::from_micros(dice.next() % 3000));
    let last_words = end(&mut child, &mut dice);
    let _ = child.kill();
    child.wait().unwrap();
    if last_words == LastWords::Count {
        said.read_to_string(&mut text).unwrap();
    }
    let before = told.highest;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let mut words = line.split(' ');
        if let (Some("ack"), Some(class), Some(key), Some(revision), Some(value)) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        {
            let revision = revision.parse().unwrap();
            assert!(revision > before, "seed {seed}: revision {revision} was handed out before {before}, and comes again");
            told.highest = told.highest.max(revision);
            let twice = told.acknowledged.insert(revision, (key.to_owned(), value.to_owned(), class == "S"));
            assert_eq!(twice, None, "seed {seed}: revision {revision} was given to two writes");
        }
    }
}

/// Opens what a crash left and looks for everything that was acknowledged.
async fn check(dir: &Path, seed: u64, told: &mut Told) {
    let options = Options { keep: NEVER, compact_every: NEVER, ..Options::at(dir) };
    let store = Embedded::open(&options).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
    let head = store.revision().await.unwrap();
    assert!(head.0 >= told.highest, "seed {seed}: opened at {head}, {} was handed out", told.highest);
    let history = history(&store, Revision(told.checked.max(1))).await;
    let last_strict = told.acknowledged.iter().rev().find(|(_, (.., strict))| *strict).map_or(0, |(revision, _)| *revision);
    for (revision, (key, value, _)) in &told.acknowledged {
        let Some(event) = history.get(revision) else {
            assert!(*revision > last_strict, "seed {seed}: {key} at {revision} was lost, {last_strict} is the last strict one");
            told.lost += 1;
            continue;
        };
        assert_eq!(event.key.as_str(), key, "seed {seed}");
        match &event.after {
            Some(entry) => assert!(entry.value.starts_with(value.as_bytes()), "seed {seed}: {key} at {revision}"),
            None => assert_eq!(value, "-", "seed {seed}: {key} at {revision}"),
        }
    }
    told.writes += told.acknowledged.len();
    told.acknowledged.clear();
    told.checked = head.0;
    if seed.is_multiple_of(10) {
        store.compact(head).await.unwrap();
    }
    store.close().await;
}

/// Everything that was written after `from`.
async fn history(store: &Embedded, from: Revision) -> BTreeMap<u64, Event> {
    let (mut events, head) = (store.watch("", from), store.revision().await.unwrap());
    // Written last, so that the end is known.
    let end = store.commit(&format!("/end/{head}").into(), Expect::Absent, put("end")).await.unwrap();
    let mut seen = BTreeMap::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
        if event.revision == end {
            store.commit(&event.key, Expect::At(end), Write::Delete).await.unwrap();
            return seen;
        }
        seen.insert(event.revision.0, event);
    }
}

/// Sends a signal by its name.
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap().success());
}

/// Kill -9, sometimes after a pause, and while another process asks for the same directory.
async fn killed(dir: &Path, seed: u64, told: &mut Told) {
    run_and_end(dir, seed, told, |child, dice| {
        if dice.next().is_multiple_of(5) {
            signal(child, "STOP");
            thread::sleep(Duration::from_millis(dice.next() % 20));
            signal(child, "CONT");
            thread::sleep(Duration::from_millis(dice.next() % 5));
        }
        if dice.next().is_multiple_of(7) {
            // It may not have come so far as to open it, and then opens it in vain.
            match Embedded::open(&Options::at(dir)) {
                Err(OpenError::Locked { .. }) | Ok(_) => {}
                Err(err) => panic!("seed {seed}: {err}"),
            }
        }
        child.kill().unwrap();
        LastWords::Count
    });
    check(dir, seed, told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_minus_nine_loses_nothing_that_was_acknowledged_but_relaxed_writes_of_the_last_moment() {
    let (dir, mut told) = (tempdir().unwrap(), Told::default());
    for seed in 0..12 {
        killed(dir.path(), seed, &mut told).await;
    }
    assert!(told.writes > 200, "{} writes", told.writes);
}

/// A file system of its own on a loop device, in a folder that is lost with the mount namespace.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// `None` where nothing can be mounted.
    fn new(name: &str) -> Option<Self> {
        let place = PathBuf::from(std::env::var_os("STORE_LOOP_DIR")?);
        Self::within(&place, name)
    }

    fn within(place: &Path, name: &str) -> Option<Self> {
        let disk = Self { image: place.join(format!("{name}.img")), mount: place.join(name) };
        fs::create_dir(&disk.mount).unwrap();
        (disk.format() && disk.mount()).then_some(disk)
    }

    /// A new file system on an image that takes no room yet.
    fn format(&self) -> bool {
        File::create(&self.image).unwrap().set_len(48 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,nodiscard", "-J", "size=1", path(&self.image)])
    }

    /// Makes the device take one page at a time (or, with 0, as many as it likes again). Of more, a part may find room behind it, and then
    /// the driver says that all did.
    fn at_a_time(&self, kib: u32) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let of =
            |line: &str| line.split_once(' ').filter(|(_, rest)| rest.starts_with(path(&self.mount))).map(|(device, _)| device.to_owned());
        let device = mounts.lines().find_map(of).expect("it is mounted");
        let limit = format!("/sys/block/{}/queue/max_sectors_kb", device.trim_start_matches("/dev/"));
        fs::write(limit, kib.to_string()).unwrap();
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", path(&self.image), path(&self.mount)])
    }

    fn unmount(&self) {
        assert!(run("umount", &[path(&self.mount)]));
    }

    /// From now on nothing reaches the disk, neither data nor journal: FS_IOC_SHUTDOWN without flushing the log.
    fn cut(&self) {
        let ask = r#"open(my $at, "<", $ARGV[0]) or die; my $how = pack("L", 2); ioctl($at, 0x8004587d, $how) or die $!"#;
        assert!(run("perl", &["-e", ask, path(&self.mount)]));
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A power cut at any moment, then the journal's recovery, then ours.
async fn power_cut(disk: &Disk, seed: u64, told: &mut Told) {
    let dir = disk.mount.join("store");
    run_and_end(&dir, seed, told, |_, _| {
        disk.cut();
        LastWords::NeverSaid
    });
    disk.unmount();
    assert!(disk.mount(), "seed {seed}: the file system cannot be mounted again");
    check(&dir, seed, told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs loop devices, and a folder for them named by STORE_LOOP_DIR"]
async fn a_power_cut_loses_nothing_that_was_acknowledged_but_relaxed_writes_of_the_last_moment() {
    let Some(disk) = Disk::new("power") else { return skipped("loop devices") };
    let mut told = Told::default();
    for seed in 0..8 {
        power_cut(&disk, seed, &mut told).await;
    }
    assert!(told.writes > 100, "{} writes", told.writes);
    disk.unmount();
}

#[expect(clippy::print_stderr, reason = "what is not tested is to be seen")]
fn skipped(what: &str) {
    eprintln!("skipped: {what} cannot be had here");
}

/// A disk that takes no more: what stands behind the loop device is full, so writing back fails, and the sync says EIO.
async fn failing_sync(place: &Path, disk: &Disk, seed: u64, outcome: &mut Failing) {
    disk.unmount();
    assert!(disk.format() && disk.mount(), "seed {seed}");
    disk.at_a_time(4);
    let dir = disk.mount.join("store");
    let store = Embedded::open(&Options { keep: NEVER, ..Options::at(&dir) }).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
    let mut dice = Chance(seed);
    let mut acknowledged = Vec::new();
    // Early, a commit finds no room; after the write-ahead log was moved once and is written over, moving it is what finds none.
    let stop_at = dice.next() % 40 + if dice.next().is_multiple_of(2) { 130 } else { 0 };
    let filler = place.join("filler");
    let why = loop {
        if acknowledged.len() as u64 == stop_at {
            let mut file = File::create(&filler).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
        }
        let key = Key::from(format!("/eio/{seed}/{}", acknowledged.len()));
        match store.commit(&key, Expect::Absent, put(vec![7; 64 << 10])).await {
            Ok(revision) => acknowledged.push((key, revision)),
            Err(StoreError::Unavailable(why)) => break why,
            Err(err) => panic!("seed {seed}: {err}"),
        }
        assert!(acknowledged.len() < 2000, "seed {seed}: the disk never failed");
    };
    let stopped = why.contains("stopped, it must be opened anew");
    assert!(stopped || why.contains("no room on the disk"), "seed {seed}: {why}");
    if stopped {
        let refused = store.commit(&"/eio/later".into(), Expect::Absent, put("x")).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))) && store.health().is_err(), "seed {seed}: nothing is trusted after it");
    }
    store.close().await;
    drop(store);
    fs::remove_file(&filler).unwrap();
    disk.at_a_time(0);
    disk.unmount();
    // The journal holds what could not be written back.
    assert!(disk.mount(), "seed {seed}");
    let store = Embedded::open(&Options { keep: NEVER, ..Options::at(&dir) }).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
    for (key, revision) in &acknowledged {
        let found = store.get(key).await.unwrap().value.unwrap_or_else(|| panic!("seed {seed}: {key} at {revision} was lost: {why}"));
        assert_eq!((found.revision, &found.value[..]), (*revision, &[7; 64 << 10][..]), "seed {seed}");
        store.commit(key, Expect::At(*revision), Write::Delete).await.unwrap();
    }
    store.close().await;
    outcome.rounds += 1;
    outcome.stopped += usize::from(stopped);
    outcome.moving += usize::from(why.contains("checkpoint: "));
    outcome.writes += acknowledged.len();
}

/// What came of syncs that fail.
#[derive(Debug, Default)]
struct Failing {
    rounds: usize,
    stopped: usize,
    /// Of these, when the write-ahead log was moved into the database.
    moving: usize,
    /// Acknowledged writes that were looked for.
    writes: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs loop devices, and a folder for them named by STORE_LOOP_DIR"]
async fn a_sync_that_fails_stops_the_store_and_nothing_synced_before_is_lost() {
    let Some((place, disk)) = small_place() else { return skipped("loop devices") };
    let mut outcome = Failing::default();
    for seed in 0..3 {
        failing_sync(&place, &disk, seed, &mut outcome).await;
    }
    assert!(outcome.moving > 0 && outcome.stopped > outcome.moving, "the disk failed at both: {outcome:?}");
    disk.unmount();
}

/// A loop device whose image has less room than it says.
fn small_place() -> Option<(PathBuf, Disk)> {
    let place = PathBuf::from(std::env::var_os("STORE_LOOP_DIR")?).join("small");
    fs::create_dir(&place).unwrap();
    if !run("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", path(&place)]) {
        return None;
    }
    let disk = Disk::within(&place, "eio")?;
    Some((place, disk))
}

/// The disk becomes full when a workload has so many bytes left to write; later there is room again.
async fn full_after(place: &Path, bytes: u64, seed: u64) -> bool {
    let dir = tempfile::tempdir_in(place).unwrap();
    let options = Options { keep: NEVER, ballast: 1 << 20, ..Options::at(dir.path()) };
    let store = Embedded::open(&options).unwrap();
    create(&store, "/first", "f").await;
    let filler = dir.path().join("filler");
    let mut file = File::create(&filler).unwrap();
    let mut filled = 0u64;
    while file.write_all(&[1; 4096]).is_ok() {
        filled += 4096;
    }
    file.set_len(filled.saturating_sub(bytes)).unwrap();
    let mut dice = Chance(seed);
    let mut state: BTreeMap<Key, (Revision, Option<Vec<u8>>)> = BTreeMap::new();
    let mut refused = false;
    for step in 0..40u64 {
        let key = Key::from(format!("/full/{}", dice.next() % 12));
        let known = state.get(&key).filter(|(_, value)| value.is_some()).map(|(revision, _)| *revision);
        let delete = known.is_some() && dice.next().is_multiple_of(4);
        let value = (!delete).then(|| vec![u8::try_from(step).unwrap(); usize::try_from(dice.next() % 30_000).unwrap()]);
        let write = value.clone().map_or(Write::Delete, put);
        match store.commit(&key, known.map_or(Expect::Absent, Expect::At), write).await {
            Ok(revision) => drop(state.insert(key, (revision, value))),
            Err(StoreError::Unavailable(why)) => {
                assert!(why.contains("no room on the disk"), "seed {seed}, {bytes} bytes: {why}");
                refused = true;
            }
            Err(err) => panic!("seed {seed}, {bytes} bytes: {err}"),
        }
    }
    is_as_told(&store, &state).await;
    drop(file);
    fs::remove_file(&filler).unwrap();
    let again = async {
        while store.commit(&"/again".into(), Expect::Absent, put(vec![1; 30_000])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap_or_else(|_| panic!("seed {seed}, {bytes} bytes: writes are never taken again"));
    is_as_told(&store, &state).await;
    store.close().await;
    let store = Embedded::open(&options).unwrap();
    is_as_told(&store, &state).await;
    store.close().await;
    refused
}

async fn is_as_told(store: &Embedded, state: &BTreeMap<Key, (Revision, Option<Vec<u8>>)>) {
    let found = store.range("/full/", Page::default()).await.unwrap().value;
    let found: Vec<_> = found.iter().map(|entry| (&entry.key, entry.revision, &entry.value[..])).collect();
    let told = state.iter().filter_map(|(key, (revision, value))| Some((key, *revision, value.as_deref()?)));
    assert_eq!(found, told.collect::<Vec<_>>());
}

#[tokio::test]
#[ignore = "needs a small file system, named by STORE_SMALL_FS"]
async fn a_disk_that_is_full_at_any_write_loses_nothing_and_is_used_again() {
    let place = PathBuf::from(std::env::var("STORE_SMALL_FS").expect("STORE_SMALL_FS names a small file system"));
    let mut refused = 0;
    for (seed, bytes) in (0..600_000).step_by(60_000).enumerate() {
        refused += u32::from(full_after(&place, bytes, seed as u64).await);
    }
    assert!(refused >= 5, "{refused}");
}

/// A store that was closed, or that crashed, and all its history.
struct Sample {
    dir: TempDir,
    /// By revision: key and value.
    written: BTreeMap<u64, (Key, Option<bytes::Bytes>)>,
    history: Vec<Event>,
    entries: Vec<Entry>,
}

async fn sample(closed: bool) -> Sample {
    let dir = tempdir().unwrap();
    let store = Embedded::open(&Options { keep: NEVER, compact_every: NEVER, ..Options::at(dir.path()) }).unwrap();
    let mut dice = Chance(4);
    let mut known: BTreeMap<Key, Revision> = BTreeMap::new();
    let mut written = BTreeMap::new();
    for step in 0..400u64 {
        let key = Key::from(format!("/sample/{}", dice.next() % 60));
        let at = known.get(&key).copied();
        let delete = at.is_some() && dice.next().is_multiple_of(8);
        let value = format!("{step}:{}", "v".repeat(usize::try_from(dice.next() % 3000).unwrap()));
        let write = if delete { Write::Delete } else { put(value.clone()) };
        let revision = store.commit(&key, at.map_or(Expect::Absent, Expect::At), write).await.unwrap();
        written.insert(revision.0, (key.clone(), (!delete).then(|| value.into())));
        if delete {
            known.remove(&key)
        } else {
            known.insert(key, revision)
        };
        if step == 200 {
            store.compact(Revision(100)).await.unwrap();
        }
    }
    let history = contract::take(&store, "", Revision(100), 301).await;
    let entries = store.range("", Page::default()).await.unwrap().value;
    let copy = tempdir().unwrap();
    if closed {
        store.close().await;
    }
    for file in fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "state.db-shm" {
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    store.close().await;
    Sample { dir: copy, written, history, entries }
}

/// The write-ahead log ends somewhere, or with garbage: what is there is a beginning of history, and the rest is written anew.
async fn torn(sample: &Sample, seed: u64) {
    let dir = tempdir().unwrap();
    for file in ["state.db", "state.db-wal"] {
        fs::copy(sample.dir.path().join(file), dir.path().join(file)).unwrap();
    }
    let mut dice = Chance(seed);
    let mut wal = fs::OpenOptions::new().write(true).open(dir.path().join("state.db-wal")).unwrap();
    let length = wal.metadata().unwrap().len();
    let at = dice.next() % length;
    match dice.next() % 3 {
        0 => wal.set_len(at).unwrap(),
        1 => {
            // A page of which only a part was written.
            wal.seek(SeekFrom::Start(at)).unwrap();
            wal.write_all(&vec![0; usize::try_from((length - at).min(4096)).unwrap()]).unwrap();
            wal.set_len((at + 4096).min(length)).unwrap();
        }
        _ => {
            wal.seek(SeekFrom::Start(at)).unwrap();
            wal.write_all(&dice.next().to_le_bytes()).unwrap();
        }
    }
    drop(wal);
    let store = Embedded::open(&Options { keep: NEVER, ..Options::at(dir.path()) }).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
    let head = store.revision().await.unwrap();
    if head > Revision(100) {
        let found = history(&store, Revision(100)).await;
        let there: Vec<_> = sample.history.iter().take_while(|event| event.revision <= head).collect();
        assert!(found.values().eq(there), "seed {seed}: not a beginning of history, at {head}");
    }
    let mut state = BTreeMap::new();
    for (revision, (key, value)) in sample.written.range(..=head.0) {
        match value {
            Some(value) => state.insert(key, (*revision, value)),
            None => state.remove(key),
        };
    }
    let found = store.range("/sample/", Page::default()).await.unwrap().value;
    let found = found.iter().map(|entry| (&entry.key, (entry.revision.0, &entry.value)));
    assert!(found.eq(state), "seed {seed}: not the state at {head}");
    create(&store, "/after", "a").await;
    store.close().await;
}

#[tokio::test]
async fn a_torn_end_of_the_write_ahead_log_leaves_a_beginning_of_history() {
    let sample = sample(false).await;
    for seed in 0..25 {
        torn(&sample, seed).await;
    }
}

/// How a damaged database was met.
#[derive(Default, Debug)]
struct Damage {
    refused: usize,
    reported: usize,
    harmless: usize,
}

/// A bit is flipped, a page is gone, or the end is missing: whatever can still be read is right.
async fn damaged(sample: &Sample, seed: u64, damage: &mut Damage) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("state.db");
    for file in fs::read_dir(sample.dir.path()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let mut dice = Chance(seed);
    let mut bytes = fs::read(&path).unwrap();
    let at = usize::try_from(dice.next()).unwrap_or(usize::MAX) % bytes.len();
    match dice.next() % 8 {
        0 => bytes.truncate(at),
        1 => {
            let page = at / 8192 * 8192;
            bytes[page..page + 8192].fill(0);
        }
        _ => bytes[at] ^= 1 << (dice.next() % 8),
    }
    fs::write(&path, bytes).unwrap();
    let store = match Embedded::open(&Options { keep: NEVER, ..Options::at(dir.path()) }) {
        Ok(store) => store,
        Err(err) => {
            let text = err.to_string();
            assert!(text.contains("state.db"), "seed {seed}: {text}");
            damage.refused += 1;
            return;
        }
    };
    let mut reported = false;
    match store.range("", Page::default()).await {
        Ok(found) => assert!(found.value == sample.entries, "seed {seed}: what is served is not what was written"),
        Err(_) => reported = true,
    }
    for entry in &sample.entries {
        match store.get(&entry.key).await {
            Ok(found) => assert_eq!(found.value.as_ref(), Some(entry), "seed {seed}: {} is not what was written", entry.key),
            Err(StoreError::Corrupt(_) | StoreError::Unavailable(_)) => reported = true,
            Err(err) => panic!("seed {seed}: {err}"),
        }
    }
    let mut events = store.watch("", Revision(100));
    for expected in &sample.history {
        match events.next().await {
            Some(Ok(event)) => assert_eq!(event, *expected, "seed {seed}: history is not what happened"),
            _ => {
                reported = true;
                break;
            }
        }
    }
    damage.reported += usize::from(reported);
    damage.harmless += usize::from(!reported);
    store.close().await;
}

#[tokio::test]
async fn a_damaged_database_is_never_silently_wrong() {
    let sample = sample(true).await;
    let mut damage = Damage::default();
    for seed in 0..120 {
        damaged(&sample, seed, &mut damage).await;
    }
    assert!(damage.refused > 0 && damage.reported > 0, "{damage:?}");
}

/// `make soak`: everything here and the histories, in turn, until the time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by make soak, for SOAK_MINUTES"]
#[expect(clippy::print_stdout, reason = "the counts are what it is for")]
async fn soak() {
    let Ok(minutes) = std::env::var("SOAK_MINUTES") else { return };
    let end = Instant::now() + Duration::from_secs(60 * minutes.parse::<u64>().expect("SOAK_MINUTES is a number"));
    let seed = std::env::var("SOAK_SEED").map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
    println!("seed {seed}, {minutes} minutes (SOAK_SEED={seed} runs it again)");
    let mut soak = Soak::new(seed).await;
    while soak.step(Instant::now() < end).await.is_continue() {}
    soak.print();
}

struct Soak {
    seed: u64,
    kills: (TempDir, Told, usize),
    cuts: Option<(Disk, Told, usize)>,
    eio: Option<(PathBuf, Disk, Failing)>,
    full: Option<(PathBuf, usize, usize)>,
    torn: (Sample, usize),
    damage: (Sample, Damage),
    histories: (u64, u64),
    printed: Instant,
}

impl Soak {
    async fn new(seed: u64) -> Self {
        Self {
            seed,
            kills: (tempdir().unwrap(), Told::default(), 0),
            cuts: Disk::new("soak").map(|disk| (disk, Told::default(), 0)),
            eio: small_place().map(|(place, disk)| (place, disk, Failing::default())),
            full: std::env::var_os("STORE_SMALL_FS").map(|place| (place.into(), 0, 0)),
            torn: (sample(false).await, 0),
            damage: (sample(true).await, Damage::default()),
            histories: (0, 0),
            printed: Instant::now(),
        }
    }

    /// One turn of every scenario.
    async fn step(&mut self, goes_on: bool) -> ControlFlow<()> {
        for _ in 0..10 {
            self.seed += 1;
            killed(self.kills.0.path(), self.seed, &mut self.kills.1).await;
            self.kills.2 += 1;
            torn(&self.torn.0, self.seed).await;
            self.torn.1 += 1;
            for n in 0..5 {
                damaged(&self.damage.0, self.seed * 5 + n, &mut self.damage.1).await;
            }
        }
        // So that what goes by the seed's parity is not the same in each turn.
        self.seed += 1;
        if let Some((disk, told, count)) = &mut self.cuts {
            power_cut(disk, self.seed, told).await;
            *count += 1;
        }
        if let Some((place, disk, outcome)) = &mut self.eio {
            failing_sync(place, disk, self.seed, outcome).await;
        }
        if let Some((place, count, refused)) = &mut self.full {
            *refused += usize::from(full_after(place, self.seed * 8192 % 700_000, self.seed).await);
            *count += 1;
        }
        let from = self.seed * 1000;
        contract::histories_hold_under_faults(in_memory().0, from..from + 200).await;
        let (store, _dir) = on_disk();
        contract::histories_hold_under_faults(store, from..from + 20).await;
        self.histories.0 += 200;
        self.histories.1 += 20;
        if self.printed.elapsed() > Duration::from_secs(60) {
            self.print();
        }
        if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    #[expect(clippy::print_stdout, reason = "the counts are what it is for")]
    fn print(&mut self) {
        self.printed = Instant::now();
        let ends = |(told, count): (&Told, usize)| {
            format!("{count}, {} acknowledged writes checked, {} relaxed ones lost", told.writes, told.lost)
        };
        println!("kill -9:                 {}", ends((&self.kills.1, self.kills.2)));
        match &self.cuts {
            Some((_, told, count)) => println!("power cuts:              {}", ends((told, *count))),
            None => skipped("power cuts"),
        }
        match &self.eio {
            Some((_, _, Failing { rounds, stopped, moving, writes })) => {
                println!(
                    "syncs that fail:         {rounds}, the store stopped in {stopped}, {moving} of them at a checkpoint; {writes} acknowledged writes checked"
                );
            }
            None => skipped("syncs that fail"),
        }
        match &self.full {
            Some((_, count, refused)) => println!("full disks:              {count}, writes refused in {refused}"),
            None => skipped("full disks"),
        }
        println!("torn ends of the log:    {}", self.torn.1);
        let Damage { refused, reported, harmless } = &self.damage.1;
        println!("damaged databases:       {refused} refused, {reported} reported, {harmless} harmless");
        println!("histories under faults:  {} in memory, {} on disk", self.histories.0, self.histories.1);
    }
}
