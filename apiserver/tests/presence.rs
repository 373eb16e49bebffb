//! What servers say of themselves in the service `kubernetes`.

use std::{net::IpAddr, sync::Arc};

use coracle_apiserver::{Options, bootstrap::Facts, presence};
use coracle_store::{Store, embedded};
use coracle_tree::{Value, json};
use http::StatusCode;

use crate::house::House;

const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

/// A server among others, under this address.
async fn house(store: &Arc<dyn Store>, address: &str) -> House {
    let options = House::options(store.clone());
    let facts = Facts { advertise_address: address.parse::<IpAddr>().unwrap(), ..options.facts };
    House::of(Options { facts, presence: Some(presence::Options { host: address.to_owned(), leads: true }), ..options }).await
}

/// Asks until the slice is there as wanted; the server's own tasks get their turns in between.
async fn slice(house: &House, address: &str) -> Value {
    for _ in 0..20_000 {
        let found = house.get(SLICE).await;
        if found.code == StatusCode::OK && found.json()["endpoints"][0]["addresses"] == json!([address]) {
            return found.json();
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?}", house.get(SLICE).await);
}

#[tokio::test]
async fn the_slice_of_the_service_kubernetes_follows_its_servers_into_the_other_family() {
    let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let first = house(&store, "10.0.0.1").await;
    assert_eq!(slice(&first, "10.0.0.1").await["addressType"], "IPv4");
    first.server.leave().await;
    first.server.close().await;
    let second = house(&store, "fd00::1").await;
    assert_eq!(slice(&second, "fd00::1").await["addressType"], "IPv6");
    second.server.leave().await;
    let left = second.get(SLICE).await.ok();
    assert_eq!((&left["addressType"], left["endpoints"].as_array().map_or(0, Vec::len)), (&json!("IPv6"), 0));
}

#[tokio::test]
async fn who_leaves_makes_nothing_that_is_not_there() {
    let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let house = house(&store, "10.0.0.1").await;
    slice(&house, "10.0.0.1").await;
    // From here on nobody else writes them.
    house.server.leave().await;
    house.delete(ENDPOINTS).await.ok();
    house.delete(SLICE).await.ok();
    house.server.leave().await;
    for path in [ENDPOINTS, SLICE] {
        assert_eq!(house.get(path).await.code, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn who_is_not_led_to_still_has_its_lease() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let store: Arc<dyn Store> = Arc::new(embedded::Embedded::open(&embedded::Options::memory()).unwrap());
    let presence = Some(presence::Options { host: "quiet".to_owned(), leads: false });
    let house = House::of(Options { presence, ..House::options(store) }).await;
    let leases = async || house.get(LEASES).await.ok()["items"].as_array().cloned().unwrap_or_default();
    for _ in 0..20_000 {
        if !leases().await.is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(leases().await[0]["metadata"]["labels"]["kubernetes.io/hostname"], "quiet");
    for path in [ENDPOINTS, SLICE] {
        assert_eq!(house.get(path).await.code, StatusCode::NOT_FOUND, "{path}");
    }
    house.server.leave().await;
    assert!(leases().await.is_empty());
}
