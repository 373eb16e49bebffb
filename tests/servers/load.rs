//! Clients that keep account: what was acknowledged must be there, and watchers must see all of it, once and in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::client::Client;
use crate::cluster::PATIENCE;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Whoever is refused tries again after this long.
const PAUSE: Duration = Duration::from_millis(50);

/// A writer and watchers, running.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<Vec<(u64, String, String)>>>,
    account: Arc<Mutex<Account>>,
    client: Client,
    addresses: Vec<String>,
}

/// What was acknowledged.
#[derive(Default)]
struct Account {
    /// Name and the value that was acknowledged last.
    values: BTreeMap<String, u64>,
    /// The longest time in which nothing was acknowledged.
    gap: Duration,
    last: Option<Instant>,
    refused: u64,
}

impl Load {
    /// Starts writers and one watcher for each address, of objects whose names begin with `prefix`.
    pub(crate) fn start(client: &Client, addresses: &[String], prefix: &str) -> Self {
        let (stop, account) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Account::default())));
        let list = client.ask(&addresses[0], "GET", MAPS, None).unwrap();
        let from = resource_version(&list.body);
        let watchers = (0..addresses.len()).map(|at| {
            let (client, addresses, stop, prefix) = (client.clone(), addresses.to_vec(), stop.clone(), prefix.to_owned());
            std::thread::spawn(move || watch(&client, &addresses, at, from, &prefix, &stop))
        });
        let watchers = watchers.collect();
        let writers = (0..2).map(|at| {
            let (client, addresses, stop, account) = (client.clone(), addresses.to_vec(), stop.clone(), account.clone());
            let prefix = format!("{prefix}{at}-");
            std::thread::spawn(move || write(&client, &addresses, at, &prefix, &stop, &account))
        });
        let writers = writers.collect();
        Self { stop, writers, watchers, account, client: client.clone(), addresses: addresses.to_vec() }
    }

    /// Waits until so many more writes were acknowledged.
    pub(crate) fn until_more(&self, more: usize) {
        let count = || self.account.lock().unwrap().values.values().map(|value| usize::try_from(*value).unwrap() + 1).sum::<usize>();
        let (target, start) = (count() + more, Instant::now());
        while count() < target {
            assert!(start.elapsed() < PATIENCE, "no {more} writes within {PATIENCE:?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the load and checks the account; what came of it, for people.
    pub(crate) fn settle(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().unwrap();
        }
        let account = self.account.lock().unwrap();
        // Every server says the same, and it is what was acknowledged or what was tried right after.
        for address in &self.addresses {
            let list = self.client.ask(address, "GET", MAPS, None).unwrap();
            let there: BTreeMap<&str, u64> = list.body["items"].as_array().unwrap().iter().map(|map| (name(map), value(map))).collect();
            for (name, acknowledged) in &account.values {
                let found = there.get(name.as_str());
                assert!(
                    found.is_some_and(|found| (*acknowledged..=acknowledged + 1).contains(found)),
                    "{address}: {name} is {found:?}, acknowledged was {acknowledged}"
                );
            }
        }
        let mut events = 0;
        for watcher in self.watchers {
            let seen = watcher.join().unwrap();
            events += seen.len();
            assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "events came twice or out of order");
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            for (_, kind, object) in &seen {
                let (name, number) = object.rsplit_once('=').unwrap();
                let number: u64 = number.parse().unwrap();
                match last.insert(name, number) {
                    None => assert_eq!((kind.as_str(), number), ("ADDED", 0), "{name}"),
                    // Each value comes after the one before it: none is missing.
                    Some(before) => assert_eq!((kind.as_str(), number), ("MODIFIED", before + 1), "{name}"),
                }
            }
            for (name, acknowledged) in &account.values {
                let seen = last.get(name.as_str());
                assert!(seen.is_some_and(|seen| seen >= acknowledged), "a watcher saw {seen:?} of {name}, acknowledged was {acknowledged}");
            }
        }
        let acknowledged: usize = account.values.values().map(|value| usize::try_from(*value).unwrap() + 1).sum();
        let Account { refused, gap, .. } = &*account;
        format!("{acknowledged} acknowledged writes, {events} events, {refused} tries refused or without answer, longest gap {gap:?}")
    }
}

fn name(map: &Value) -> &str {
    map["metadata"]["name"].as_str().unwrap()
}

fn resource_version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn value(map: &Value) -> u64 {
    map["data"]["n"].as_str().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Creates an object, counts it up some times, and goes on with the next. Every write expects what is there.
fn write(client: &Client, addresses: &[String], first: usize, prefix: &str, stop: &AtomicBool, account: &Mutex<Account>) {
    let mut at = first;
    for object in 0.. {
        let name = format!("{prefix}{object}");
        for n in 0..10u64 {
            let mut version: Option<String> = None;
            loop {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let address = &addresses[at % addresses.len()];
                match attempt(client, address, &name, n, &mut version) {
                    Some(()) => break,
                    None => {
                        account.lock().unwrap().refused += 1;
                        at += 1;
                        std::thread::sleep(PAUSE);
                    }
                }
            }
            let mut account = account.lock().unwrap();
            account.values.insert(name.clone(), n);
            let now = Instant::now();
            if let Some(last) = account.last.replace(now) {
                account.gap = account.gap.max(now - last);
            }
        }
        // The next one through another server.
        at += 1;
    }
}

/// One try to make `name` have the value `n`; `Some` when a server said that it has.
fn attempt(client: &Client, address: &str, name: &str, n: u64, version: &mut Option<String>) -> Option<()> {
    let path = format!("{MAPS}/{name}");
    let map = |version: Option<&String>| {
        let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": n.to_string()}});
        if let Some(version) = version {
            map["metadata"]["resourceVersion"] = version.as_str().into();
        }
        map
    };
    if n == 0 {
        let answer = client.ask(address, "POST", MAPS, Some(&map(None))).ok()?;
        // 409: an earlier try had happened.
        return matches!(answer.code, 201 | 409).then_some(());
    }
    if version.is_none() {
        let found = client.ask(address, "GET", &path, None).ok().filter(|answer| answer.code == 200)?;
        if value(&found.body) == n {
            return Some(());
        }
        assert_eq!(value(&found.body), n - 1, "{name} lost an acknowledged write");
        *version = found.body["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    }
    let answer = client.ask(address, "PUT", &path, Some(&map(version.as_ref())));
    // Whatever it was, the next try looks again.
    *version = None;
    (answer.ok()?.code == 200).then_some(())
}

/// Follows objects from server to server; what was seen: resource version, event and object.
fn watch(client: &Client, addresses: &[String], first: usize, from: u64, prefix: &str, stop: &AtomicBool) -> Vec<(u64, String, String)> {
    let (mut at, mut version, mut seen, mut progress) = (first, from, Vec::new(), Instant::now());
    // After the writers end, until a whole second brought nothing.
    let mut quiet: BTreeSet<u64> = BTreeSet::new();
    loop {
        let address = &addresses[at % addresses.len()];
        let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=20&resourceVersion={version}");
        if let Ok(mut watch) = client.watch(address, &path) {
            while let Ok(Some(event)) = watch.next() {
                let (kind, object) = (event["type"].as_str().unwrap(), &event["object"]);
                if kind == "ERROR" {
                    // A server that has just started knows no history; another does.
                    assert_eq!(object["code"], 410, "{event}");
                    break;
                }
                (version, progress) = (resource_version(object), Instant::now());
                if kind != "BOOKMARK" && name(object).starts_with(prefix) {
                    seen.push((version, kind.to_owned(), format!("{}={}", name(object), value(object))));
                }
                // From time to time it goes on elsewhere though nothing is wrong.
                if seen.len() % 97 == 96 {
                    break;
                }
            }
        }
        at += 1;
        assert!(stop.load(Ordering::Relaxed) || progress.elapsed() < PATIENCE, "no server goes on at {version}");
        if stop.load(Ordering::Relaxed) && !quiet.insert(version) {
            return seen;
        }
        if !stop.load(Ordering::Relaxed) {
            quiet.clear();
            std::thread::sleep(PAUSE);
        }
    }
}
