//! The contract, the cache in front, and what is etcd's own, against a real one.

use std::{fs, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{compactor::Turns, peer::Peer, *};
use crate::{
    Event,
    cache::{Cache, Cached, Decode, Decoded, Freshness},
    contract::{contract_tests, create, put, take},
};

contract_tests!(contract, peer::fresh().await);

const PATIENCE: Duration = Duration::from_secs(60);

async fn next(steps: &mut Steps) -> Step {
    timeout(PATIENCE, steps.next()).await.unwrap().unwrap().unwrap()
}

/// The next write, whatever is told of progress before it.
async fn write(steps: &mut Steps) -> Event {
    loop {
        match next(steps).await {
            Step::Write(event) => return event,
            Step::Reached(_) => {}
            other @ (Step::Writes(_) | Step::Unreadable(..)) => panic!("{other:?}"),
        }
    }
}

/// Values are text; the wire form is the same.
struct Plain;

impl Decode<()> for Plain {
    fn decode(&self, _key: &Key, stored: &Bytes, _revision: Revision) -> Decoded<()> {
        Decoded { wire: stored.clone(), facts: () }
    }

    fn departed(&self, last: &Cached<()>, _revision: Revision) -> Bytes {
        last.wire()
    }
}

fn cache(store: &Arc<Etcd>) -> Cache<()> {
    let store: Arc<dyn Store> = store.clone();
    Cache::start(store, Arc::new(Plain))
}

/// Somebody else's program on the same etcd.
async fn foreign_put(store: &Etcd, key: &[u8]) {
    store.shared.client.call(messages::PUT, &messages::put(key, b"x"), Effect::None).await.unwrap();
}

#[tokio::test]
async fn the_cache_reads_what_another_server_wrote_a_moment_ago() {
    let peer = Peer::start(&[]);
    let (ours, theirs) = (peer.open().await, peer.open().await);
    let cache = cache(&ours);
    let pods = cache.collection("/pods");
    for n in 0..50 {
        let written = create(&*theirs, &format!("/pods/{n}"), "x").await;
        let read = pods.get(&format!("/pods/{n}"), Freshness::Latest).await.unwrap();
        assert_eq!(read.value.unwrap().revision, written);
        assert!(read.revision >= written);
    }
    assert_eq!(pods.snapshot(Freshness::Latest).await.unwrap().len(), 50);
}

#[tokio::test]
async fn a_read_of_the_latest_does_not_wait_for_writes_that_are_none_of_ours() {
    let peer = Peer::start(&[]);
    let store = peer.open().await;
    let cache = cache(&store);
    let pods = cache.collection("/pods");
    create(&*store, "/pods/a", "x").await;
    for n in 0..3 {
        // The revision moves, and nothing of it is in our part of etcd.
        foreign_put(&store, format!("/elsewhere/{n}").as_bytes()).await;
        let latest = store.revision().await.unwrap();
        let read = timeout(Duration::from_secs(5), pods.get("/pods/a", Freshness::Latest)).await.expect("told how far etcd is").unwrap();
        assert!(read.revision >= latest && read.value.is_some());
    }
}

#[tokio::test]
async fn the_past_of_a_key_is_told_when_others_were_written_since() {
    let peer = Peer::start(&[]);
    let store = peer.open().await;
    let first = create(&*store, "/a", "1").await;
    create(&*store, "/b", "x").await;
    foreign_put(&store, b"/elsewhere").await;
    let told = async || -> Vec<Revision> {
        let past = timeout(PATIENCE, store.past(&"/a".into())).await.unwrap().unwrap();
        past.versions.iter().map(|version| version.revision).collect()
    };
    assert_eq!(told().await, [first]);
    let gone = store.commit(&"/a".into(), Expect::At(first), Write::Delete).await.unwrap();
    create(&*store, "/c", "x").await;
    foreign_put(&store, b"/elsewhere").await;
    assert_eq!(told().await, [first, gone]);
}

#[tokio::test]
async fn what_goes_with_one_lease_goes_at_one_revision_and_all_of_it_is_seen() {
    let peer = Peer::start(&[]);
    let store = peer.open().await;
    let cache = cache(&store);
    let events = cache.collection("/events");
    for n in 0..20 {
        store.commit(&format!("/events/{n}").into(), Expect::Absent, Write::put_for("e", Duration::from_secs(2))).await.unwrap();
    }
    assert_eq!(store.leases.len().await, 1, "objects written together have one lease");
    let (snapshot, mut watcher) = events.snapshot_and_watch(Freshness::Latest).await.unwrap();
    assert_eq!(snapshot.len(), 20);
    let mut gone = Vec::new();
    while gone.len() < 20 {
        let batch = timeout(PATIENCE, watcher.next_batch()).await.unwrap().unwrap();
        gone.extend(batch.changes.iter().map(|change| (change.key.clone(), change.revision)));
    }
    let revision = gone[0].1;
    assert!(gone.iter().all(|(_, at)| *at == revision), "one transaction deletes them: {gone:?}");
    assert_eq!(events.snapshot(Freshness::Latest).await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_object_whose_lease_was_revoked_is_written_with_another() {
    let peer = Peer::start(&[]);
    let store = peer.open().await;
    let write = |value: &'static str| Write::put_for(value, Duration::from_secs(600));
    store.commit(&"/e/a".into(), Expect::Absent, write("1")).await.unwrap();
    store.leases.spoil().await;
    let revision = store.commit(&"/e/b".into(), Expect::Absent, write("2")).await.unwrap();
    assert_eq!(store.get(&"/e/b".into()).await.unwrap().value.unwrap().revision, revision);
}

#[tokio::test]
async fn a_watch_goes_on_without_gap_or_double_when_etcd_is_killed_and_comes_back() {
    let mut peer = Peer::start(&[]);
    let store = peer.open().await;
    let mut steps = store.follow("/w/", store.revision().await.unwrap());
    let mut last = create(&*store, "/w/key", "0").await;
    let mut written = vec![last];
    for round in 1..=3 {
        peer.kill();
        peer.restart("data");
        for n in 0..20 {
            last = loop {
                match store.commit(&"/w/key".into(), Expect::At(last), put(format!("{round} {n}"))).await {
                    Ok(revision) => break revision,
                    // It may have been written: whoever wants to know reads again.
                    Err(StoreError::Unavailable(_)) => match store.get(&"/w/key".into()).await {
                        Ok(found) => {
                            let now = found.value.unwrap().revision;
                            if now != last {
                                written.push(now);
                                last = now;
                            }
                        }
                        Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
                    },
                    Err(error) => panic!("{error}"),
                }
            };
            written.push(last);
        }
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        seen.push(write(&mut steps).await.revision);
    }
    assert_eq!(seen, written, "each write once, in order");
    assert_eq!(take(&*store, "/w/", Revision(0), 1).await.len(), 1);
}

#[tokio::test]
async fn a_watch_of_what_was_compacted_meanwhile_ends_with_that() {
    let mut peer = Peer::start(&[]);
    let store = peer.open().await;
    let start = create(&*store, "/w/key", "0").await;
    let mut at = start;
    for n in 0..10 {
        at = store.commit(&"/w/key".into(), Expect::At(at), put(n.to_string())).await.unwrap();
    }
    let mut steps = store.follow("/w/", at);
    peer.kill();
    peer.restart("data");
    let last = loop {
        match store.commit(&"/w/key".into(), Expect::At(at), put("after")).await {
            Ok(revision) => break revision,
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(write(&mut steps).await.revision, last);
    store.compact(last).await.unwrap();
    let old = timeout(PATIENCE, store.follow("/w/", start).next()).await.unwrap().unwrap();
    assert_eq!(old, Err(StoreError::Compacted { oldest: last }));
}

#[tokio::test]
async fn an_etcd_that_was_put_back_to_older_data_is_noticed_and_read_again() {
    let mut peer = Peer::start(&[]);
    let store = peer.open().await;
    create(&*store, "/pods/old", "x").await;
    peer.kill();
    copy(&peer.folder.path().join("data"), &peer.folder.path().join("backup"));
    peer.restart("data");
    let cache = cache(&store);
    let pods = cache.collection("/pods");
    for n in 0..30 {
        while store
            .commit(&format!("/pods/{n}").into(), Expect::Absent, put("x"))
            .await
            .is_err_and(|e| e != StoreError::Absent && !matches!(e, StoreError::Exists { .. }))
        {}
    }
    let before = pods.snapshot(Freshness::Latest).await.unwrap();
    assert_eq!(before.len(), 31);
    peer.kill();
    peer.restart("backup");
    let began = Instant::now();
    let after = loop {
        assert!(began.elapsed() < PATIENCE, "what is no longer there is served");
        match pods.snapshot(Freshness::Latest).await {
            Ok(snapshot) if snapshot.len() == 1 => break snapshot,
            // What is there again is not the truth yet, or etcd is not there yet.
            _ => tokio::task::yield_now().await,
        }
    };
    assert!(after.revision < before.revision && after.get("/pods/old").is_some());
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

#[tokio::test]
async fn servers_take_turns_in_compacting_and_forget_what_is_old() {
    let peer = Peer::start(&[]);
    let (one, other) = (peer.open().await, peer.open().await);
    let (one, other) = (&one.shared.client, &other.shared.client);
    let store = peer.open().await;
    let first = create(&*store, "/c/key", "0").await;
    let (mut ours, mut theirs) = (Turns::default(), Turns::default());
    ours.take(one).await.unwrap();
    assert_eq!(ours.times, 1, "the first turn only notes where the store is");
    let revision = ours.revision;
    theirs.take(other).await.unwrap();
    assert_eq!(theirs.times, 1, "somebody else took the turn");
    let mut at = first;
    for n in 0..5 {
        at = store.commit(&"/c/key".into(), Expect::At(at), put(n.to_string())).await.unwrap();
    }
    ours.take(one).await.unwrap();
    assert_eq!(ours.times, 2);
    let old = timeout(PATIENCE, store.watch("/c/", Revision(first.0 - 1)).next()).await.unwrap().unwrap();
    assert_eq!(old, Err(StoreError::Compacted { oldest: Revision(revision) }));
    theirs.take(other).await.unwrap();
    assert_eq!(theirs.times, 2, "and does nothing when it was done meanwhile");
    // A compaction that fails is counted nevertheless: the next turn is taken, and not taken for another server's.
    let mut ahead = Turns { times: 2, revision: u64::from(u32::MAX) };
    assert!(ahead.take(one).await.is_err(), "a revision that is yet to come");
    assert_eq!(ahead.times, 3);
    assert!(ahead.revision < u64::from(u32::MAX));
    ahead.take(one).await.unwrap();
    assert_eq!(ahead.times, 4);
}

#[tokio::test]
async fn reads_that_wait_share_one_question() {
    let peer = Peer::start(&[]);
    let store = peer.open().await;
    create(&*store, "/a", "x").await;
    let asked = store.shared.asked.load(Ordering::Relaxed);
    let revisions = join_all((0..200).map(|_| store.revision())).await;
    assert!(revisions.windows(2).all(|pair| pair[0] == pair[1]));
    let asked = store.shared.asked.load(Ordering::Relaxed) - asked;
    assert!(asked <= 3, "{asked} questions for 200 reads");
}

#[tokio::test]
async fn long_lists_come_in_pages_of_one_revision() {
    let peer = Peer::start(&[]);
    let store = peer.open().await;
    let put_all = (0..1300).map(|n| {
        let store = store.clone();
        async move { create(&*store, &format!("/l/{n:04}"), "value").await }
    });
    let revisions: Vec<Revision> = futures::stream::iter(put_all).buffer_unordered(32).collect().await;
    let last = revisions.into_iter().max().unwrap();
    let all = store.range("/l/", Page::default()).await.unwrap();
    assert_eq!((all.value.len(), all.revision), (1300, last));
    assert!(all.value.windows(2).all(|pair| pair[0].key < pair[1].key));
    let page = store.range("/l/", Page { after: Some("/l/0009".into()), limit: Some(900) }).await.unwrap().value;
    assert_eq!((page.len(), page[0].key.as_str()), (900, "/l/0010"));
    assert_eq!(store.count("/l/").await.unwrap(), 1300);
}

#[tokio::test]
async fn pages_that_are_too_large_come_in_smaller_ones() {
    let peer = Peer::start(&[]);
    let store = peer.open().await;
    let value = "x".repeat(1000);
    let put_all = (0..600).map(|n| {
        let (store, value) = (store.clone(), value.clone());
        async move { store.commit(&format!("/l/{n:04}").into(), Expect::Absent, Write::put(value)).await.unwrap() }
    });
    let revisions: Vec<Revision> = futures::stream::iter(put_all).buffer_unordered(32).collect().await;
    let last = revisions.into_iter().max().unwrap();
    let limited = |answer_limit| Options { answer_limit, ..peer.options() };
    let narrow = Etcd::open(&limited(50_000)).await.unwrap();
    let all = narrow.range("/l/", Page::default()).await.unwrap();
    assert_eq!((all.value.len(), all.revision), (600, last));
    let told: Arc<Mutex<Vec<usize>>> = Arc::default();
    let into = told.clone();
    assert_eq!(narrow.scan("/l/", Arc::new(move |entries: &[Entry]| into.lock().push(entries.len()))).await.unwrap(), last);
    let told = std::mem::take(&mut *told.lock());
    let (pieces, count) = (told.len(), told.iter().sum::<usize>());
    assert!(count == 600 && pieces > 12, "{count} in {pieces} pieces");
    let narrowest = Etcd::open(&limited(2_000)).await.unwrap();
    let error = narrowest.range("/l/", Page::default()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("too large")), "{error}");
}

#[tokio::test]
async fn every_watch_notices_that_another_etcd_answers() {
    let mut peer = Peer::start(&["--initial-cluster-token=another"]);
    let store = peer.open().await;
    for n in 0..5 {
        create(&*store, &format!("/other/{n}"), "x").await;
    }
    drop(store);
    peer.kill();
    peer.more.clear();
    peer.restart("first");
    let store = peer.open().await;
    let mut watches = [(); 3].map(|()| store.follow("", Revision(1)));
    let at = create(&*store, "/first", "x").await;
    for watch in &mut watches {
        assert_eq!(write(watch).await.revision, at);
    }
    store.expedite(Revision(at.0 + 1_000_000));
    peer.kill();
    // It is not behind what was seen: nothing but its name gives it away.
    peer.restart("data");
    for watch in &mut watches {
        let told = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap_err().to_string();
        assert!(told.contains("another etcd"), "{told}");
    }
    assert_eq!(*store.shared.wanted.borrow(), Revision(0), "nobody waits for a revision of the one before");
    let mut watch = store.follow("/a/", store.revision().await.unwrap());
    let at = create(&*store, "/a/a", "x").await;
    assert_eq!(write(&mut watch).await.revision, at, "and the next is of the one that is there now");
}

#[tokio::test]
async fn a_connection_that_failed_takes_no_later_one_with_it() {
    let peer = Peer::start(&[]);
    assert!(peer.open().await.shared.client.fail_late().await);
}

#[tokio::test]
async fn a_user_is_none_to_an_etcd_without_users() {
    let peer = Peer::start(&[]);
    let user = Some(("coracle".to_owned(), "password".to_owned()));
    let store = Etcd::open(&Options { user, ..peer.options() }).await.unwrap();
    let mut steps = store.follow("/a", store.revision().await.unwrap());
    let at = create(&store, "/a", "x").await;
    assert_eq!(write(&mut steps).await.revision, at);
    assert_eq!(store.bound_to(&"/a".into()), b"/test/a");
}

#[tokio::test]
async fn a_member_that_is_gone_or_silent_is_left_for_another() {
    let peer = Peer::start(&[]);
    let address = peer.url.trim_start_matches("http://").to_owned();
    // Two ways to the same etcd, that can be cut.
    let (first, second) = (Way::to(&address).await, Way::to(&address).await);
    let refused = format!("http://127.0.0.1:{}", peer::free_ports().0);
    let options = Options { endpoints: vec![refused, first.url.clone(), second.url.clone()], ..peer.options() };
    let store = Arc::new(Etcd::open(&options).await.unwrap());
    let mut steps = store.follow("/w/", store.revision().await.unwrap());
    let mut at = create(&*store, "/w/key", "0").await;
    assert_eq!(write(&mut steps).await.revision, at);
    for cut in [&first, &second] {
        cut.cut();
        let read = store.get(&"/w/key".into()).await.unwrap();
        assert_eq!(read.value.unwrap().revision, at, "reads are asked of another");
        at = loop {
            match store.commit(&"/w/key".into(), Expect::At(at), put("x")).await {
                Ok(revision) => break revision,
                Err(StoreError::Moved { now }) => break now,
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        // Somebody waits for it: then it does not take until the connection is given up.
        store.expedite(at);
        let mut seen = write(&mut steps).await.revision;
        while seen < at {
            seen = write(&mut steps).await.revision;
        }
        cut.mend();
    }
}

/// A way to a server that can be cut: nothing passes any more, and nothing is said of it.
struct Way {
    url: String,
    open: Arc<watch::Sender<bool>>,
    _tasks: JoinSet<()>,
}

impl Way {
    async fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = Arc::new(watch::Sender::new(true));
        let (address, is_open) = (address.to_owned(), open.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let (address, mut is_open) = (address.clone(), is_open.subscribe());
                streams.spawn(async move {
                    let mut far = TcpStream::connect(address).await.unwrap();
                    let cut = async move {
                        // An error means that the test is over.
                        let _ = is_open.wait_for(|open| !*open).await.map(drop);
                    };
                    let ended = tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => true,
                        () = cut => false,
                    };
                    // Neither end is told anything.
                    if !ended {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { url, open, _tasks: tasks }
    }

    fn cut(&self) {
        self.open.send_replace(false);
    }

    fn mend(&self) {
        self.open.send_replace(true);
    }
}

/// An authority and what it signed, in files.
struct Papers {
    folder: TempDir,
}

impl Papers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let papers = Self { folder };
        papers.sign("client");
        papers
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A new authority, and a pair for the server and for a client of this name.
    fn sign(&self, client: &str) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        fs::write(self.path("ca.crt"), authority.pem()).unwrap();
        for (file, name) in [("server", "etcd"), ("client", client)] {
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(self.path(&format!("{file}.crt")), certificate.pem()).unwrap();
            fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        }
    }

    fn tls(&self) -> TlsFiles {
        let file = |name| Some(self.path(name));
        TlsFiles { authorities: file("ca.crt"), certificate: file("client.crt"), key: file("client.key") }
    }
}

#[tokio::test]
async fn tls_is_spoken_with_files_that_may_change_while_it_runs() {
    let papers = Papers::new();
    let flag = |name: &str, file: &str| format!("--{name}={}", papers.path(file).display());
    let flags = [
        flag("cert-file", "server.crt"),
        flag("key-file", "server.key"),
        flag("trusted-ca-file", "ca.crt"),
        "--client-cert-auth=true".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut peer = Peer::start(&flags);
    let options = Options { tls: papers.tls(), ..peer.options() };
    let store = Etcd::open(&options).await.unwrap();
    let at = create(&store, "/tls/a", "x").await;

    let stranger = Papers::new();
    let options = Options { tls: stranger.tls(), patience: Duration::ZERO, timeout: Duration::from_millis(500), ..peer.options() };
    let refused = Etcd::open(&options).await.err().unwrap().to_string();
    assert!(refused.contains("TLS") && refused.contains("does not answer"), "{refused}");

    let nowhere = TlsFiles { authorities: Some(papers.path("none.crt")), ..papers.tls() };
    let options = Options { tls: nowhere, patience: Duration::from_secs(3600), ..peer.options() };
    let refused = Etcd::open(&options).await.err().unwrap().to_string();
    assert!(refused.contains("none.crt"), "{refused}");

    // Another authority signs everything anew; no setting changes here.
    peer.kill();
    papers.sign("renewed");
    peer.restart("data");
    let read = loop {
        match store.get(&"/tls/a".into()).await {
            Ok(read) => break read,
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    };
    assert_eq!(read.value.unwrap().revision, at);
}

#[tokio::test]
async fn a_user_is_authenticated_and_told_what_it_may_not() {
    let peer = Peer::start(&[]);
    drop(peer.open().await);
    let etcdctl = |arguments: &[&str]| {
        let mut command = Command::new(peer::beside("etcdctl"));
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", peer.url)).args(arguments);
        let output = command.output().unwrap_or_else(|error| panic!("etcdctl (Debian package etcd-client) is needed: {error}"));
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    etcdctl(&["user", "add", "root:secret"]);
    etcdctl(&["user", "grant-role", "root", "root"]);
    etcdctl(&["role", "add", "part"]);
    etcdctl(&["role", "grant-permission", "--prefix=true", "part", "readwrite", "/test/mine"]);
    etcdctl(&["user", "add", "coracle:password"]);
    etcdctl(&["user", "grant-role", "coracle", "part"]);
    etcdctl(&["auth", "enable"]);

    let quick = |user: Option<(&str, &str)>| {
        let user = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Options { user, patience: Duration::ZERO, ..peer.options() }
    };
    let store = Etcd::open(&quick(Some(("coracle", "password")))).await.unwrap();
    create(&store, "/mine/a", "x").await;
    // A token that is no longer known is made anew.
    store.shared.client.spoil_token();
    assert_eq!(store.range("/mine", Page::default()).await.unwrap().value.len(), 1);
    let refused = store.commit(&"/theirs/a".into(), Expect::Absent, put("x")).await.unwrap_err().to_string();
    assert!(refused.contains("permission denied") && refused.contains("readwrite"), "{refused}");
    // Neither is waited for: it would not get better.
    let patient = |user| Options { patience: Duration::from_secs(3600), ..quick(user) };
    let wrong = Etcd::open(&patient(Some(("coracle", "wrong")))).await.err().unwrap().to_string();
    assert!(wrong.contains("authentication failed") && !wrong.contains("wrong;"), "{wrong}");
    // etcd 3.7 tells nobody its status either.
    let refused = match Etcd::open(&patient(None)).await {
        Ok(nobody) => nobody.get(&"/mine/a".into()).await.unwrap_err().to_string(),
        Err(refused) => refused.to_string(),
    };
    assert!(refused.contains("--etcd-username"), "{refused}");
    let fault = Turns::default().take(&store.shared.client).await.unwrap_err();
    assert_eq!(fault.code, "PermissionDenied", "the key of compactions is none under the prefix");
}

#[tokio::test]
async fn a_full_etcd_refuses_writes_and_says_how_to_get_out_of_it() {
    let peer = Peer::start(&["--quota-backend-bytes=2097152"]);
    let store = peer.open().await;
    let mut refused = None;
    for n in 0..200 {
        if let Err(error) = store.commit(&format!("/full/{n}").into(), Expect::Absent, put(vec![b'x'; 100_000])).await {
            refused = Some(error.to_string());
            break;
        }
    }
    let refused = refused.expect("two megabytes are full at some time");
    assert!(refused.contains("alarm disarm"), "{refused}");
    assert!(store.count("/full/").await.unwrap() > 5, "reads go on");
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named_with_what_was_tried() {
    let url = format!("http://127.0.0.1:{}", peer::free_ports().0);
    let options = Options { patience: Duration::ZERO, timeout: Duration::from_millis(300), ..Options::new(vec![url.clone()]) };
    let error = Etcd::open(&options).await.err().unwrap().to_string();
    assert!(error.contains(&url) && error.contains("refused"), "{error}");
    for (wrong, named) in [(Options::new(Vec::new()), "at least one"), (Options::new(vec!["https://a:1".into()]), "certificate authority")]
    {
        assert!(Etcd::open(&wrong).await.err().unwrap().to_string().contains(named));
    }
}
