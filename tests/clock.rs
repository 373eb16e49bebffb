//! A clock that jumps under a running server: libfaketime tells it what time it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::cluster::Cluster;

fn library() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").ok()?.flatten().map(|place| place.path());
    places.chain(["/usr/lib".into()]).map(|place| place.join("faketime/libfaketime.so.1")).find(|file| file.exists())
}

/// What the library reads: how far the clock is off, for example `+40d`.
fn offset(folder: &Path) -> PathBuf {
    folder.join("offset")
}

#[test]
fn a_clock_that_jumps_moves_no_pod_and_stops_nothing() {
    let Some(library) = library() else {
        println!("skipped: libfaketime is not installed");
        return;
    };
    let environment = |folder: &Path| {
        fs::write(offset(folder), "+0").unwrap();
        vec![
            ("LD_PRELOAD", library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", offset(folder)),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    };
    let mut cluster = Cluster::start_in(environment, &["--agent=off", "--hollow-nodes=1", "--store=memory"]);
    cluster.ok(&["create", "deployment", "web", "--image=registry.example/web:1", "--replicas=2"]);
    cluster.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let mut pods = names(&cluster);
    for (replicas, jump) in ["+40d", "-400d", "+0"].into_iter().enumerate().map(|(at, jump)| (at + 3, jump)) {
        let before = heartbeat(&cluster);
        fs::write(offset(cluster.folder()), jump).unwrap();
        // The node controller has seen a node of another time when two heartbeats came.
        for _ in 0..2 {
            let last = heartbeat(&cluster);
            cluster.until("the next heartbeat", |cluster| heartbeat(cluster) != last);
        }
        assert_ne!(before[..7], heartbeat(&cluster)[..7], "the clock did not jump");
        cluster.ok(&["scale", "deployment/web", &format!("--replicas={replicas}")]);
        cluster.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        let now = names(&cluster);
        assert!(pods.iter().all(|pod| now.contains(pod)), "{jump}: {pods:?} became {now:?}");
        pods = now;
        let (token, review) = (cluster.ok(&["create", "token", "default"]), cluster.folder().join("review"));
        fs::write(
            &review,
            format!("{{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenReview\",\"spec\":{{\"token\":{token:?}}}}}"),
        )
        .unwrap();
        let reviewed = cluster.ok(&["create", "--raw=/apis/authentication.k8s.io/v1/tokenreviews", "-f", &review.to_string_lossy()]);
        assert!(reviewed.contains("\"authenticated\":true"), "{reviewed}");
    }
    assert!(cluster.stop().success());
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.ok(&["get", "pods", "-o", "name"]).lines().map(ToOwned::to_owned).collect()
}

/// When the node was last heard of, by its own clock.
fn heartbeat(cluster: &Cluster) -> String {
    cluster.ok(&["-n", "kube-node-lease", "get", "leases", "-o", "jsonpath={.items[0].spec.renewTime}"])
}
