//! Three servers on an etcd of three members, each on a machine of its own: clients lose nothing, whatever happens to one of them.

mod client;
mod load;
mod net;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::{client::Client, load::Load, net::Net};
use crate::cluster::{PATIENCE, etcd_program};

/// Machines 1 to 3 have an etcd, 4 to 6 a server.
const MEMBERS: u8 = 3;
const SERVERS: [u8; 3] = [4, 5, 6];
/// What others take over when a leader dies.
const LEASES: [&str; 2] = ["kube-scheduler", "kube-controller-manager"];
/// For so long all faults, one after the other; without it only the first two.
const SOAK: &str = "SOAK_MINUTES";

/// The machines and what runs on them.
struct Servers {
    net: Net,
    folder: TempDir,
    members: Vec<Child>,
    servers: Vec<Option<Child>>,
}

impl Servers {
    fn start() -> Self {
        let (net, folder) = (Net::new(MEMBERS + 3), tempfile::Builder::new().prefix("coracle-test-").tempdir().unwrap());
        let mut servers = Self { net, folder, members: Vec::new(), servers: vec![None, None, None] };
        for member in 1..=MEMBERS {
            let child = servers.run_member(member);
            servers.members.push(child);
        }
        for at in 0..SERVERS.len() {
            servers.run(at);
            // The others join with the token the first has made.
            if at == 0 {
                servers.until("the first server is ready", |servers| servers.ready(0));
            }
        }
        servers.until("all servers are ready", |servers| (0..SERVERS.len()).all(|at| servers.ready(at)));
        servers
    }

    fn run_member(&self, member: u8) -> Child {
        let (own, name) = (self.net.address(member), format!("m{member}"));
        let all: Vec<String> = (1..=MEMBERS).map(|member| format!("m{member}=http://{}:2380", self.net.address(member))).collect();
        let log = std::fs::File::create(self.folder.path().join(format!("{name}.log"))).unwrap();
        let mut command = self.net.command(member, etcd_program());
        command.args(["--name", &name, "--data-dir"]).arg(self.folder.path().join(&name));
        command.args(["--listen-client-urls", &format!("http://{own}:2379"), "--advertise-client-urls", &format!("http://{own}:2379")]);
        command.args(["--listen-peer-urls", &format!("http://{own}:2380"), "--initial-advertise-peer-urls", &format!("http://{own}:2380")]);
        command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn data_dir(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("s{at}"))
    }

    fn address(&self, at: usize) -> String {
        self.net.address(SERVERS[at])
    }

    fn addresses(&self) -> Vec<String> {
        (0..SERVERS.len()).map(|at| self.address(at)).collect()
    }

    fn run(&mut self, at: usize) {
        let (own, members) = (self.address(at), (1..=MEMBERS).map(|member| format!("http://{}:2379", self.net.address(member))));
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join(format!("s{at}.log"))).unwrap();
        let mut command = self.net.command(SERVERS[at], env!("CARGO_BIN_EXE_coracle"));
        command.args(["server", "--store=etcd", "--agent=off", "--log=info", "--data-dir"]).arg(self.data_dir(at));
        command.args(["--listen", &format!("{own}:6443"), "--node-name", &format!("server-{at}"), "--node-ip", &own]);
        command.arg(format!("--etcd-servers={}", members.collect::<Vec<_>>().join(",")));
        if at > 0 {
            command.arg("--token-file").arg(self.data_dir(0).join("server-token"));
        }
        self.servers[at] = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn client(&self) -> Client {
        Client::of(&self.data_dir(0).join("admin.kubeconfig"))
    }

    fn ready(&self, at: usize) -> bool {
        self.data_dir(at).join("admin.kubeconfig").exists()
            && self.client().ask(&self.address(at), "GET", "/api/v1/namespaces/default", None).is_ok_and(|answer| answer.code == 200)
    }

    fn until(&mut self, what: &str, condition: impl FnMut(&Self) -> bool) {
        self.until_of_others(SERVERS.len(), what, condition);
    }

    /// Waits for a condition; server `ending` may end meanwhile, no other.
    fn until_of_others(&mut self, ending: usize, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            for at in (0..SERVERS.len()).filter(|at| *at != ending) {
                if let Some(status) = self.servers[at].as_mut().and_then(|server| server.try_wait().unwrap()) {
                    panic!("server {at} ended with {status} before {what}\n{}", self.log(at));
                }
            }
            assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", (0..3).map(|at| self.log(at)).collect::<String>());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self, at: usize) -> String {
        let text = std::fs::read_to_string(self.folder.path().join(format!("s{at}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        format!("server {at}:\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// The process of a server. `ip netns exec` becomes the program it runs.
    fn signal(&self, at: usize, signal: &str) {
        let pid = self.servers[at].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Ends a server and waits for the end.
    fn end(&mut self, at: usize, signal: &str) {
        self.signal(at, signal);
        let status = self.servers[at].take().unwrap().wait().unwrap();
        assert!(signal == "-KILL" || status.success(), "{status}\n{}", self.log(at));
    }

    /// Who holds a lease, as server `through` says: the number of the server.
    fn holder(&self, through: usize, lease: &str) -> Option<usize> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{lease}");
        let answer = self.client().ask(&self.address(through), "GET", &path, None).ok()?;
        let holder = answer.body["spec"]["holderIdentity"].as_str()?.strip_prefix("server-")?.split('_').next()?.parse().ok()?;
        Some(holder)
    }

    fn leader(&mut self) -> usize {
        let mut found = None;
        self.until("somebody leads", |servers| {
            found = (0..3).find_map(|at| servers.holder(at, LEASES[1]));
            found.is_some()
        });
        found.unwrap()
    }

    /// How long it takes until others than `gone` hold both leases.
    fn taken_over(&mut self, gone: usize, start: Instant) -> Duration {
        let through = (gone + 1) % 3;
        self.until_of_others(gone, "another leads", |servers| {
            LEASES.iter().all(|lease| servers.holder(through, lease).is_some_and(|holder| holder != gone))
        });
        start.elapsed()
    }

    /// The addresses the service `kubernetes` leads to.
    fn endpoints(&self, through: usize) -> BTreeSet<String> {
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
        let Ok(answer) = self.client().ask(&self.address(through), "GET", path, None) else { return BTreeSet::new() };
        let endpoints = answer.body["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().filter_map(|endpoint| Some(endpoint["addresses"][0].as_str()?.to_owned())).collect()
    }

    /// Creates a deployment through one server and waits until its replica set is there: a controller works.
    fn works(&mut self, through: usize, name: &str) {
        let labels = json!({"app": name});
        let spec = json!({"replicas": 0, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec});
        let (client, address) = (self.client(), self.address(through));
        let sets = format!("/apis/apps/v1/namespaces/default/replicasets?labelSelector=app%3D{name}");
        self.until("a deployment is created", |_| {
            let made = client.ask(&address, "POST", "/apis/apps/v1/namespaces/default/deployments", Some(&deployment));
            made.is_ok_and(|answer| matches!(answer.code, 201 | 409))
        });
        self.until("its replica set is there", |_| {
            client
                .ask(&address, "GET", &sets, None)
                .is_ok_and(|answer| answer.body["items"].as_array().is_some_and(|items| !items.is_empty()))
        });
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().flatten().chain(&mut self.members) {
            let _ = Command::new("kill").args(["-CONT", &child.id().to_string()]).status();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn clients_of_several_servers_lose_nothing_whatever_happens_to_one() {
    if !net::possible() {
        return;
    }
    let mut servers = Servers::start();
    let client = servers.client();
    let all: BTreeSet<String> = servers.addresses().into_iter().collect();
    servers.until("the service leads to all", |servers| servers.endpoints(0) == all);
    servers.until("the kubeconfig names all", |servers| {
        let file = std::fs::read_to_string(servers.data_dir(1).join("admin.kubeconfig")).unwrap_or_default();
        all.iter().all(|address| file.contains(&format!("https://{address}:6443")))
    });
    services_are_given_away_once(&servers);

    let load = Load::start(&client, &servers.addresses(), "a-");
    load.until_more(20);
    killed(&mut servers, &load);
    let leader = servers.leader();
    stopped(&mut servers, &load, leader);
    println!("killed and stopped: {}", load.settle());

    let Some(end) = std::env::var(SOAK).ok().map(|minutes| Instant::now() + Duration::from_secs(60 * minutes.parse::<u64>().unwrap()))
    else {
        return;
    };
    for round in 0.. {
        let load = Load::start(&client, &servers.addresses(), &format!("r{round}-"));
        load.until_more(20);
        paused(&mut servers, &load, round);
        cut_off(&mut servers, &load, round);
        members_lost(&mut servers, &load, round);
        packets_lost(&mut servers, &load);
        killed(&mut servers, &load);
        // As an upgrade does it.
        for at in 0..3 {
            stopped(&mut servers, &load, at);
        }
        println!("round {round}: {}", load.settle());
        if Instant::now() > end {
            return;
        }
    }
}

fn services_are_given_away_once(servers: &Servers) {
    let client = servers.client();
    let threads: Vec<_> = (0..3)
        .map(|at| {
            let (client, address) = (client.clone(), servers.address(at));
            std::thread::spawn(move || {
                let made = (0..12).map(|n| {
                    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s-{at}-{n}")},
                        "spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}});
                    let answer = client.ask(&address, "POST", "/api/v1/namespaces/default/services", Some(&service)).unwrap();
                    assert_eq!(answer.code, 201, "{}", answer.body);
                    (answer.body["spec"]["clusterIP"].to_string(), answer.body["spec"]["ports"][0]["nodePort"].to_string())
                });
                made.collect::<Vec<_>>()
            })
        })
        .collect();
    let all: Vec<(String, String)> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let (addresses, ports): (BTreeSet<String>, BTreeSet<String>) = all.iter().cloned().unzip();
    assert_eq!((addresses.len(), ports.len()), (36, 36));
    // One object for each address, the API's own among them, and as many bits as there are ports.
    let objects = client.ask(&servers.address(2), "GET", "/apis/networking.k8s.io/v1/ipaddresses", None).unwrap();
    let named: BTreeSet<String> =
        objects.body["items"].as_array().unwrap().iter().map(|item: &Value| item["metadata"]["name"].to_string()).collect();
    assert!(addresses.is_subset(&named) && named.len() == 37, "{named:?}");
}

/// kill -9 of the leader.
fn killed(servers: &mut Servers, load: &Load) {
    let leader = servers.leader();
    let start = Instant::now();
    servers.end(leader, "-KILL");
    let taken = servers.taken_over(leader, start);
    println!("a killed leader is replaced after {taken:?}");
    load.until_more(20);
    let other = (leader + 1) % 3;
    servers.works(other, &format!("after-{:x}", start.elapsed().as_nanos()));
    let gone = servers.address(leader);
    servers.until("the service leads to the dead server no more", |servers| !servers.endpoints(other).contains(&gone));
    servers.run(leader);
    servers.until("it is back", |servers| servers.ready(leader) && servers.endpoints(leader).len() == 3);
}

/// A server is stopped, and started again, while clients go on.
fn stopped(servers: &mut Servers, load: &Load, at: usize) {
    let led = servers.leader() == at;
    let (start, gone, other) = (Instant::now(), servers.address(at), (at + 1) % 3);
    servers.signal(at, "-TERM");
    let taken = servers.taken_over(at, start);
    servers.until_of_others(at, "the service leads there no more", |servers| !servers.endpoints(other).contains(&gone));
    let after = start.elapsed();
    let status = servers.servers[at].take().unwrap().wait().unwrap();
    assert!(status.success(), "{status}\n{}", servers.log(at));
    println!("a server that is stopped ends after {:?}, no client is led there after {after:?}", start.elapsed());
    if led {
        println!("a stopped leader is replaced after {taken:?}");
    }
    load.until_more(10);
    servers.run(at);
    servers.until("it is back", |servers| servers.ready(at));
}

/// SIGSTOP of the leader for longer than its lease: another leads, and it does not when it wakes up.
fn paused(servers: &mut Servers, load: &Load, round: usize) {
    let leader = servers.leader();
    let start = Instant::now();
    servers.signal(leader, "-STOP");
    let taken = servers.taken_over(leader, start);
    println!("a paused leader is replaced after {taken:?}");
    let new = servers.holder((leader + 1) % 3, LEASES[1]).unwrap();
    load.until_more(20);
    servers.signal(leader, "-CONT");
    load.until_more(20);
    servers.until("it is back", |servers| servers.ready(leader));
    assert_eq!(servers.holder(new, LEASES[1]), Some(new), "the lease stays where it is");
    servers.works(leader, &format!("paused-{round}"));
}

/// The leader's plug is pulled: nobody reaches it, and it reaches no etcd.
fn cut_off(servers: &mut Servers, load: &Load, round: usize) {
    let leader = servers.leader();
    let start = Instant::now();
    servers.net.cut(SERVERS[leader], true);
    let taken = servers.taken_over(leader, start);
    println!("a leader that is cut off is replaced after {taken:?}");
    load.until_more(20);
    servers.net.cut(SERVERS[leader], false);
    servers.until("it is back", |servers| servers.ready(leader));
    servers.works(leader, &format!("cut-{round}"));
}

/// One member of etcd is cut off and comes back; then it is killed and started again.
fn members_lost(servers: &mut Servers, load: &Load, round: usize) {
    let member = u8::try_from(round % usize::from(MEMBERS)).unwrap() + 1;
    servers.net.cut(member, true);
    load.until_more(20);
    servers.net.cut(member, false);
    load.until_more(10);
    let child = &mut servers.members[usize::from(member) - 1];
    child.kill().unwrap();
    child.wait().unwrap();
    load.until_more(20);
    servers.members[usize::from(member) - 1] = servers.run_member(member);
    load.until_more(10);
    servers.until("all servers answer", |servers| (0..3).all(|at| servers.ready(at)));
}

/// A twentieth of all packets is lost on their way to each machine.
fn packets_lost(servers: &mut Servers, load: &Load) {
    servers.net.lose(MEMBERS + 3, 5);
    load.until_more(40);
    servers.net.lose(MEMBERS + 3, 0);
    servers.until("all servers answer", |servers| (0..3).all(|at| servers.ready(at)));
    servers.leader();
}
