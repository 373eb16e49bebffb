//! Addresses and ports of services: stored as upstream stores them, and safe with several servers over one store.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use coracle_apiserver::{Options, Ranges};
use coracle_store::{Expect, Key, Store, Write, embedded};
use coracle_tree::{Value, json};
use http::StatusCode;
use tokio::sync::Notify;

use super::{
    house::House,
    tapped::{Tap, Tapped},
};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const PORTS: &str = "/registry/ranges/servicenodeports";

fn memory() -> Arc<dyn Store> {
    Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap())
}

fn service(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn node_port(name: &str) -> Value {
    service(name, &json!({"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}))
}

/// The ports the bitmap says are taken.
async fn taken(store: &Arc<dyn Store>) -> HashSet<u64> {
    let entry = store.get(&Key::from(PORTS)).await.unwrap().value.unwrap();
    let object: Value = serde_json::from_slice(&entry.value).unwrap();
    assert_eq!((&object["kind"], &object["range"]), (&json!("RangeAllocation"), &json!("30000-32767")));
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, object["data"].as_str().unwrap()).unwrap();
    let bits =
        bytes.iter().rev().enumerate().flat_map(|(i, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| i * 8 + bit));
    bits.map(|bit| 30000 + bit as u64).collect()
}

#[tokio::test]
async fn an_address_is_an_object_that_names_its_service_and_goes_with_it() {
    let store = memory();
    let house = House::over(store.clone(), None).await;
    let made = house.post(SERVICES, &node_port("one")).await.ok();
    let (address, port) = (made["spec"]["clusterIP"].as_str().unwrap(), made["spec"]["ports"][0]["nodePort"].as_u64().unwrap());
    let object = house.get(&format!("{ADDRESSES}/{address}")).await.ok();
    assert_eq!(object["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "one"}));
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(object["metadata"]["labels"], labels);
    assert_eq!(taken(&store).await, HashSet::from([port]));

    let named = house.patch(&format!("{SERVICES}/one"), "application/merge-patch+json", &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert_eq!(named["spec"]["clusterIP"], address);
    assert_eq!(taken(&store).await, HashSet::new());
    house.delete(&format!("{SERVICES}/one")).await.ok();
    assert_eq!(house.get(&format!("{ADDRESSES}/{address}")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_refused_or_tried_service_leaves_nothing_behind() {
    let store = memory();
    let house = House::over(store.clone(), None).await;
    house.post(SERVICES, &node_port("one")).await.ok();
    let before = (house.get(ADDRESSES).await.ok()["items"].as_array().unwrap().len(), taken(&store).await);
    assert_eq!(house.post(SERVICES, &node_port("one")).await.code, StatusCode::CONFLICT);
    let wrong =
        service("two", &json!({"type": "NodePort", "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b", "nodePort": 1}]}));
    assert_eq!(house.post(SERVICES, &wrong).await.code, StatusCode::UNPROCESSABLE_ENTITY);
    let tried = house.post(&format!("{SERVICES}?dryRun=All"), &node_port("three")).await.ok();
    // Upstream's dry run makes addresses and ports up.
    assert_eq!((&tried["spec"]["clusterIP"], &tried["spec"]["ports"][0]["nodePort"]), (&json!("10.96.0.0"), &json!(32769)));
    assert_eq!((house.get(ADDRESSES).await.ok()["items"].as_array().unwrap().len(), taken(&store).await), before);
}

/// Of some services it is never said that they are written.
struct Silent(Notify);

#[async_trait]
impl Tap for Silent {
    async fn done(&self, key: &Key) {
        if key.as_str().starts_with("/registry/services/specs/default/slow") {
            self.0.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[tokio::test]
async fn what_a_service_took_stays_its_own_when_its_client_goes_before_the_answer() {
    let store = memory();
    let silent = Arc::new(Tapped { store: store.clone(), tap: Silent(Notify::new()) });
    let house = House::over(silent.clone(), None).await;
    let new = node_port("slow-new");
    let plain = service("slow-changed", &json!({"ports": [{"port": 80}], "selector": {"a": "b"}}));
    let node_ports = json!({"spec": {"type": "NodePort"}});
    tokio::select! {
        reply = house.post(SERVICES, &plain) => panic!("{reply:?}"),
        () = silent.tap.0.notified() => {}
    }
    tokio::select! {
        reply = house.post(SERVICES, &new) => panic!("{reply:?}"),
        () = silent.tap.0.notified() => {}
    }
    let path = format!("{SERVICES}/slow-changed");
    tokio::select! {
        reply = house.patch(&path, "application/merge-patch+json", &node_ports) => panic!("{reply:?}"),
        () = silent.tap.0.notified() => {}
    }
    // Whatever was to be given back is when this returns.
    house.server.close().await;
    let mut held = HashSet::new();
    for name in ["slow-changed", "slow-new"] {
        let entry = store.get(&Key::from(format!("/registry/services/specs/default/{name}"))).await.unwrap().value.unwrap();
        let service: Value = serde_json::from_slice(&entry.value).unwrap();
        held.insert(service["spec"]["ports"][0]["nodePort"].as_u64().unwrap());
        let address = Key::from(format!("/registry/ipaddresses/{}", service["spec"]["clusterIP"].as_str().unwrap()));
        assert!(store.get(&address).await.unwrap().value.is_some(), "{address}");
    }
    assert_eq!((held.len(), taken(&store).await), (2, held));
}

#[tokio::test]
async fn no_port_is_given_away_before_those_that_services_hold_are_counted() {
    let store = memory();
    let house = House::over(store.clone(), None).await;
    house.post(SERVICES, &node_port("one")).await.ok();
    let key = Key::from(PORTS);
    let entry = store.get(&key).await.unwrap().value.unwrap();
    store.commit(&key, Expect::At(entry.revision), Write::Delete).await.unwrap();
    // In the words of `allocator/storage` and `core/service/storage/alloc.go`.
    let why = "cannot allocate resources of type servicenodeportallocations at this time";
    let refused = house.post(SERVICES, &node_port("two")).await;
    assert_eq!(refused.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(refused.json()["message"], format!("Internal error occurred: failed to allocate a nodePort: {why}"));
    let asks = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let refused = house.post(SERVICES, &service("two", &asks)).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.json()["message"].as_str().unwrap().ends_with(&format!("Invalid value: 30080: {why}")), "{}", refused.json());
    house.delete(&format!("{SERVICES}/one")).await.ok();
    assert!(store.get(&key).await.unwrap().value.is_none());
}

#[tokio::test]
async fn three_servers_over_one_store_give_nothing_away_twice() {
    let store = memory();
    let houses = [House::over(store.clone(), None).await, House::over(store.clone(), None).await, House::over(store.clone(), None).await];
    let of = |server: usize| {
        let house = &houses[server];
        async move {
            let mut made = Vec::new();
            for n in 0..25 {
                let one = house.post(SERVICES, &node_port(&format!("s-{server}-{n}"))).await.ok();
                made.push((one["spec"]["clusterIP"].as_str().unwrap().to_owned(), one["spec"]["ports"][0]["nodePort"].as_u64().unwrap()));
            }
            made
        }
    };
    let (a, b, c) = tokio::join!(of(0), of(1), of(2));
    let all: Vec<(String, u64)> = [a, b, c].concat();
    let (addresses, ports): (HashSet<String>, HashSet<u64>) = all.iter().cloned().unzip();
    assert_eq!((addresses.len(), ports.len()), (75, 75));
    assert_eq!(taken(&store).await, ports);
    // One of them asks for what another gave away.
    let (address, port) = &all[0];
    let refused = houses[2].post(SERVICES, &service("x", &json!({"clusterIP": address, "ports": [{"port": 80}]}))).await;
    assert!(refused.json()["message"].as_str().unwrap().contains("provided IP is already allocated"), "{}", refused.json());
    let asks = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let refused = houses[1].post(SERVICES, &service("x", &asks)).await;
    assert!(refused.json()["message"].as_str().unwrap().contains("provided port is already allocated"), "{}", refused.json());
}

#[tokio::test]
async fn services_of_a_store_without_claims_get_them_at_the_start() {
    let store = memory();
    let made = {
        let house = House::over(store.clone(), None).await;
        let made = house.post(SERVICES, &node_port("one")).await.ok();
        house.server.close().await;
        made
    };
    let (address, port) = (made["spec"]["clusterIP"].as_str().unwrap(), made["spec"]["ports"][0]["nodePort"].as_u64().unwrap());
    for key in [format!("/registry/ipaddresses/{address}"), PORTS.to_owned()] {
        let key = Key::from(key);
        let entry = store.get(&key).await.unwrap().value.unwrap();
        store.commit(&key, Expect::At(entry.revision), Write::Delete).await.unwrap();
    }
    let house = House::over(store.clone(), None).await;
    assert_eq!(house.get(&format!("{ADDRESSES}/{address}")).await.ok()["spec"]["parentRef"]["name"], "one");
    assert_eq!(taken(&store).await, HashSet::from([port]));
}

#[tokio::test]
async fn a_service_gets_its_address_of_another_network_when_the_first_is_full() {
    let options = House::options(memory());
    let service_ranges = Ranges { addresses: "10.96.0.0/29".parse().unwrap(), ..options.service_ranges };
    let house = House::of(Options { service_ranges, ..options }).await;
    let plain = |n: usize| service(&format!("s-{n}"), &json!({"ports": [{"port": 80}], "selector": {"a": "b"}}));
    // Six addresses, of which the API's own service has one.
    for n in 0..5 {
        house.post(SERVICES, &plain(n)).await.ok();
    }
    let full = house.post(SERVICES, &plain(5)).await;
    assert_eq!(full.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(full.json()["message"].as_str().unwrap().ends_with("range is full"), "{}", full.json());
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/28"]}});
    house.post("/apis/networking.k8s.io/v1/servicecidrs", &more).await.ok();
    let address = house.post(SERVICES, &plain(6)).await.ok()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.97.0."), "{address}");
}

/// A server whose services have addresses of two networks.
async fn both(store: Arc<dyn Store>, first: &str, second: &str) -> House {
    let options = House::options(store);
    let service_ranges = Ranges { addresses: first.parse().unwrap(), second: Some(second.parse().unwrap()), ..options.service_ranges };
    let facts = coracle_apiserver::bootstrap::Facts { service_address: service_ranges.first(), ..options.facts };
    House::of(Options { service_ranges, facts, ..options }).await
}

fn two_of(name: &str, more: &Value) -> Value {
    let mut spec = json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    service(name, &spec)
}

#[tokio::test]
async fn a_service_of_both_families_has_an_address_of_each_and_gives_the_second_back() {
    let house = both(memory(), "2001:db8::/108", "10.96.0.0/24").await;
    let own = house.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!((&own["spec"]["clusterIP"], &own["spec"]["ipFamilies"]), (&json!("2001:db8::1"), &json!(["IPv6"])));
    let made = house.post(SERVICES, &two_of("two", &json!({}))).await.ok();
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    let addresses: Vec<&str> = made["spec"]["clusterIPs"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
    assert_eq!(
        (addresses[0], addresses[0].contains(':'), addresses[1].contains('.')),
        (made["spec"]["clusterIP"].as_str().unwrap(), true, true)
    );
    for (address, family) in [(addresses[0], "IPv6"), (addresses[1], "IPv4")] {
        let object = house.get(&format!("{ADDRESSES}/{address}")).await.ok();
        assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], family);
    }
    let path = format!("{SERVICES}/two");
    let change = async |policy: &str| {
        house.patch(&path, "application/merge-patch+json", &json!({"spec": {"ipFamilyPolicy": policy}})).await.ok()["spec"].clone()
    };
    let single = change("SingleStack").await;
    assert_eq!((&single["clusterIPs"], &single["ipFamilies"]), (&json!([addresses[0]]), &json!(["IPv6"])));
    assert_eq!(house.get(&format!("{ADDRESSES}/{}", addresses[1])).await.code, StatusCode::NOT_FOUND);
    let again = change("PreferDualStack").await;
    let second = again["clusterIPs"][1].as_str().unwrap().to_owned();
    assert_eq!((again["clusterIPs"][0].as_str(), second.contains('.')), (Some(addresses[0]), true));
    let named = json!({"spec": {"type": "ExternalName", "externalName": "a.example.com"}});
    let named = house.patch(&path, "application/merge-patch+json", &named).await.ok();
    assert!(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"].iter().all(|f| named["spec"].get(f).is_none()), "{named}");
    for address in [addresses[0], &second] {
        assert_eq!(house.get(&format!("{ADDRESSES}/{address}")).await.code, StatusCode::NOT_FOUND, "{address}");
    }
}

#[tokio::test]
async fn what_is_refused_of_two_addresses_leaves_neither() {
    let house = both(memory(), "10.96.0.0/24", "2001:db8::/108").await;
    let count = async || house.get(ADDRESSES).await.ok()["items"].as_array().unwrap().len();
    let before = count().await;
    // The first is had, the second is of no network.
    let wrong = two_of("x", &json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "2001:db8:1::9"]}));
    let refused = house.post(SERVICES, &wrong).await;
    let why = "spec.clusterIPs: Invalid value: [\"10.96.0.9\",\"2001:db8:1::9\"]: \
               failed to allocate IP 2001:db8:1::9: the provided network does not match the current range";
    assert!(refused.json()["message"].as_str().unwrap().ends_with(why), "{}", refused.json());
    // What validation finds is found when the addresses are had.
    let refused = house.post(SERVICES, &two_of("x", &json!({"ports": [{"port": 0}]}))).await;
    assert!(refused.json()["message"].as_str().unwrap().contains("spec.ports[0].port"), "{}", refused.json());
    let tried = house.post(&format!("{SERVICES}?dryRun=All"), &two_of("x", &json!({}))).await.ok();
    assert_eq!(tried["spec"]["clusterIPs"], json!(["10.96.0.0", "2001:db8::"]));
    assert_eq!(count().await, before);
    let taken = two_of("y", &json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "2001:DB8::9"]}));
    assert_eq!(house.post(SERVICES, &taken).await.ok()["spec"]["clusterIPs"], json!(["10.96.0.9", "2001:DB8::9"]));
    let again = house.post(SERVICES, &two_of("z", &json!({"clusterIP": "2001:db8::9", "clusterIPs": ["2001:db8::9"]}))).await;
    assert!(again.json()["message"].as_str().unwrap().contains("provided IP is already allocated"), "{}", again.json());
}

#[tokio::test]
async fn a_cluster_gets_a_second_family_and_its_services_when_they_ask() {
    const RANGE: &str = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let store = memory();
    {
        let house = House::over(store.clone(), None).await;
        let prefers = json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(house.post(SERVICES, &service("old", &prefers)).await.ok()["spec"]["ipFamilies"], json!(["IPv4"]));
        house.server.close().await;
    }
    let house = both(store, "10.96.0.0/12", "2001:db8::/64").await;
    let range = house.get(RANGE).await.ok();
    assert_eq!(
        (&range["spec"]["cidrs"], &range["status"]["conditions"][0]["status"]),
        (&json!(["10.96.0.0/12", "2001:db8::/64"]), &json!("True"))
    );
    let touched = json!({"metadata": {"labels": {"a": "b"}}});
    let old = house.patch(&format!("{SERVICES}/old"), "application/merge-patch+json", &touched).await.ok();
    assert_eq!(old["spec"]["clusterIPs"].as_array().unwrap().len(), 1);
    let asks = json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}});
    let asked = house.patch(&format!("{SERVICES}/old"), "application/merge-patch+json", &asks).await.ok();
    assert_eq!(asked["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    let mut gone = house.get(RANGE).await.ok();
    house.delete(RANGE).await.ok();
    // Nothing else would bring it back.
    for _ in 0..100 {
        gone = house.get(RANGE).await.json();
        if gone["kind"] == "ServiceCIDR" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(gone["spec"]["cidrs"], json!(["10.96.0.0/12", "2001:db8::/64"]));
}

#[tokio::test]
async fn two_servers_share_a_small_network_of_six_and_what_is_full_gives_the_other_family_back() {
    let store = memory();
    let houses = [both(store.clone(), "10.96.0.0/24", "2001:db8::/125").await, both(store.clone(), "10.96.0.0/24", "2001:db8::/125").await];
    let of = |server: usize, count: usize| {
        let house = &houses[server];
        async move {
            let mut made = Vec::new();
            for n in 0..count {
                let one = house.post(SERVICES, &two_of(&format!("s-{server}-{n}"), &json!({}))).await.ok();
                made.extend(one["spec"]["clusterIPs"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().to_owned()));
            }
            made
        }
    };
    // Of seven; in IPv6 the last address is one like any.
    let (a, b) = tokio::join!(of(0, 4), of(1, 3));
    let all: HashSet<String> = a.into_iter().chain(b).collect();
    assert_eq!((all.len(), all.iter().filter(|ip| ip.contains(':')).count(), all.contains("2001:db8::7")), (14, 7, true));
    let full = houses[1].post(SERVICES, &two_of("x", &json!({}))).await;
    assert_eq!(full.code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(full.json()["message"].as_str().unwrap().ends_with("range is full"), "{}", full.json());
    // Those of the services, and the API's own.
    assert_eq!(houses[0].get(ADDRESSES).await.ok()["items"].as_array().unwrap().len(), 15);
}

#[tokio::test]
async fn an_address_of_six_without_claim_is_claimed_at_the_start() {
    let store = memory();
    let address = {
        let house = both(store.clone(), "2001:db8::/64", "10.96.0.0/24").await;
        let made = house.post(SERVICES, &two_of("two", &json!({}))).await.ok();
        house.server.close().await;
        made["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let key = Key::from(format!("/registry/ipaddresses/{address}"));
    let entry = store.get(&key).await.unwrap().value.unwrap();
    store.commit(&key, Expect::At(entry.revision), Write::Delete).await.unwrap();
    let house = both(store, "2001:db8::/64", "10.96.0.0/24").await;
    assert_eq!(house.get(&format!("{ADDRESSES}/{address}")).await.ok()["spec"]["parentRef"]["name"], "two");
}

#[tokio::test]
async fn a_service_does_not_become_one_without_an_address() {
    let house = House::new().await;
    house.post(SERVICES, &service("s", &json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}))).await.ok();
    let headless = json!({"spec": {"clusterIP": "None"}});
    let refused = house.patch(&format!("{SERVICES}/s"), "application/merge-patch+json", &headless).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    let why = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(why.contains("spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"), "{why}");
}
