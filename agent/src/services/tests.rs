//! Services in a real kernel: pods in network namespaces, rules from the planner, connections.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::view::{Endpoint, Port};
use super::*;
use crate::network::{self, Network, in_a_network_of_its_own, pod_namespace, within};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

struct Pods {
    dir: tempfile::TempDir,
    network: Network,
    pods: Vec<(PathBuf, Ipv4Addr)>,
}

impl Pods {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = network::Options { service_cidr: Some("10.43.0.0/16".parse().unwrap()), ..network::Options::default() };
        let network = Network::new(options);
        network.set_pod_cidr("10.42.0.0/24".parse().unwrap()).unwrap();
        let mut all = Self { dir, network, pods: Vec::new() };
        for i in 0..count {
            let netns = pod_namespace(all.dir.path(), &format!("pod{i}"));
            let address = all.network.attach(&format!("{i}aaaaaaaaaaaaaaa"), &netns, &[]).unwrap();
            all.pods.push((netns, address));
        }
        all
    }

    /// A server in a pod that says its number to whoever connects.
    fn serve(&self, index: usize) {
        let listener = inside(&self.pods[index].0, || TcpListener::bind("0.0.0.0:8080")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let _ = stream.write_all(index.to_string().as_bytes());
            }
        });
    }

    fn endpoint(&self, index: usize) -> Endpoint {
        Endpoint { address: self.pods[index].1, ready: true, draining: false, node: "here".to_owned() }
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for (path, _) in &self.pods {
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    within(&File::open(netns)?, work)
}

fn ask(ip: Ipv4Addr, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn rules() -> Rules {
    let options = Options {
        node_name: "here".to_owned(),
        pod_cidr: "10.42.0.0/24".parse().unwrap(),
        service_cidr: Some("10.43.0.0/16".parse().unwrap()),
    };
    Rules { options, table: Mutex::default() }
}

fn known(protocol: u8, affinity: Option<Duration>, endpoints: Vec<Endpoint>) -> Known {
    let port = Port { name: String::new(), protocol, port: 80, node_port: 30080 };
    let service = Service { cluster_ips: vec![SERVICE], ports: vec![port], affinity, ..Service::default() };
    let name = ("default".to_owned(), "web".to_owned());
    let slice = Slice { service: name.clone(), ports: vec![(String::new(), protocol, 8080)], endpoints };
    Known { services: [(name.clone(), service)].into(), slices: [(name, slice)].into() }
}

#[test]
fn a_service_is_reached_from_pods_host_and_node_port_and_follows_its_endpoints() {
    in_a_network_of_its_own(|| {
        let pods = Pods::new(3);
        pods.serve(0);
        pods.serve(1);
        let (rules, mut targets) = (rules(), plan::UdpTargets::default());
        rules.apply(&known(6, None, vec![pods.endpoint(0), pods.endpoint(1)]), &mut targets).unwrap();
        let client = &pods.pods[2].0;
        let mut seen: Vec<String> = (0..40).map(|_| inside(client, || ask(SERVICE, 80)).unwrap()).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["0", "1"], "both endpoints are used");
        assert!(["0", "1"].contains(&ask(SERVICE, 80).unwrap().as_str()), "from the host");
        for host in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 42, 0, 1)] {
            ask(host, 30080).unwrap_or_else(|e| panic!("node port on {host}: {e}"));
        }

        rules.apply(&known(6, None, vec![pods.endpoint(0)]), &mut targets).unwrap();
        assert!((0..10).all(|_| inside(client, || ask(SERVICE, 80)).unwrap() == "0"));
        assert_eq!(inside(&pods.pods[0].0, || ask(SERVICE, 80)).unwrap(), "0", "a pod reaches itself through its service");

        rules.apply(&known(6, None, vec![]), &mut targets).unwrap();
        let refused = |result: io::Result<String>| result.unwrap_err().kind() == io::ErrorKind::ConnectionRefused;
        assert!(refused(ask(SERVICE, 80)) && refused(inside(client, || ask(SERVICE, 80))), "without endpoints it refuses at once");
        assert!(refused(inside(client, || ask(Ipv4Addr::new(10, 43, 9, 9), 80))), "so does a service that does not exist");
        teardown().unwrap();
        teardown().unwrap();
    });
}

#[test]
fn a_client_stays_with_its_endpoint() {
    in_a_network_of_its_own(|| {
        let pods = Pods::new(4);
        (0..3).for_each(|i| pods.serve(i));
        let (rules, mut targets) = (rules(), plan::UdpTargets::default());
        let all: Vec<_> = (0..3).map(|i| pods.endpoint(i)).collect();
        rules.apply(&known(6, Some(Duration::from_secs(60)), all.clone()), &mut targets).unwrap();
        let client = &pods.pods[3].0;
        let first = inside(client, || ask(SERVICE, 80)).unwrap();
        assert!((0..20).all(|_| inside(client, || ask(SERVICE, 80)).unwrap() == first));
        let rest: Vec<_> = all.into_iter().filter(|e| e.address != pods.pods[first.parse::<usize>().unwrap()].1).collect();
        rules.apply(&known(6, Some(Duration::from_secs(60)), rest), &mut targets).unwrap();
        let second = inside(client, || ask(SERVICE, 80)).unwrap();
        assert_ne!(first, second);
        assert!((0..20).all(|_| inside(client, || ask(SERVICE, 80)).unwrap() == second));
    });
}

#[test]
fn a_udp_flow_goes_to_the_new_endpoint_when_the_old_one_is_gone() {
    in_a_network_of_its_own(|| {
        let pods = Pods::new(3);
        let servers: Vec<UdpSocket> = (0..2).map(|i| inside(&pods.pods[i].0, || UdpSocket::bind("0.0.0.0:8080")).unwrap()).collect();
        servers.iter().for_each(|s| s.set_read_timeout(Some(Duration::from_secs(2))).unwrap());
        let (rules, mut targets) = (rules(), plan::UdpTargets::default());
        rules.apply(&known(17, None, vec![pods.endpoint(0)]), &mut targets).unwrap();
        let client = inside(&pods.pods[2].0, || UdpSocket::bind("0.0.0.0:5555")).unwrap();
        let mut buffer = [0; 8];
        client.send_to(b"one", (SERVICE, 80)).unwrap();
        assert_eq!(servers[0].recv(&mut buffer).unwrap(), 3);
        rules.apply(&known(17, None, vec![pods.endpoint(1)]), &mut targets).unwrap();
        client.send_to(b"three", (SERVICE, 80)).unwrap();
        assert_eq!(servers[1].recv(&mut buffer).unwrap(), 5, "the same flow, from the same port");
    });
}
