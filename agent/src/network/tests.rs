use std::process::Command;

use super::nft::{Element, Field, Part, Point, Ruleset, Step, Table, Value};
use super::*;
use crate::runtime::Protocol;

/// Runs a test on a thread in a network namespace of its own; says why when it cannot.
pub(crate) fn in_a_network_of_its_own(test: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: network namespaces need root");
    }
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                loopback_up().unwrap();
                test();
            })
            .join()
            .unwrap();
    });
}

/// A namespace for a pod, pinned to a file.
pub(crate) fn pod_namespace(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            loopback_up().unwrap();
            rustix::mount::mount_bind("/proc/thread-self/ns/net", &path).unwrap();
        });
    });
    path
}

fn ping(netns: &Path, to: Ipv4Addr) -> bool {
    let file = File::open(netns).unwrap();
    within(&file, || connect_tcp(to)).unwrap()
}

/// Whether a closed port answers: as good as a ping, and needs no program.
fn connect_tcp(to: Ipv4Addr) -> io::Result<bool> {
    let address = std::net::SocketAddr::from((to, 9));
    match std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(2)) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(e) => Err(e),
        Ok(_) => Ok(true),
    }
}

#[test]
fn pods_reach_one_another_and_the_host_and_leave_nothing_behind() {
    in_a_network_of_its_own(|| {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { service_cidr: Some("10.43.0.0/16".parse().unwrap()), ..Options::default() };
        let network = Network::new(options.clone());
        assert!(network.ready().is_err());
        network.set_pod_cidr("10.42.7.0/24".parse().unwrap()).unwrap();
        network.set_pod_cidr("10.42.7.0/24".parse().unwrap()).unwrap();
        assert!(network.ready().is_ok());
        let (a, b) = (pod_namespace(dir.path(), "a"), pod_namespace(dir.path(), "b"));
        let port = PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None };
        let first = network.attach("aaaaaaaaaaaaaaaa", &a, std::slice::from_ref(&port)).unwrap();
        let second = network.attach("bbbbbbbbbbbbbbbb", &b, &[]).unwrap();
        assert_eq!([first, second], [Ipv4Addr::new(10, 42, 7, 2), Ipv4Addr::new(10, 42, 7, 3)]);
        assert!(ping(&a, second) && ping(&b, first), "pods reach each other");
        assert!(ping(&a, Ipv4Addr::new(10, 42, 7, 1)), "pods reach the host");
        assert!(connect_tcp(first).unwrap(), "the host reaches pods");

        // A listener in the pod answers on the host port, from the host and from the other pod.
        let inside = File::open(&a).unwrap();
        let listener = within(&inside, || std::net::TcpListener::bind("0.0.0.0:80")).unwrap();
        for host in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 42, 7, 1)] {
            let to = std::net::SocketAddr::from((host, 8080));
            std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(2)).unwrap_or_else(|e| panic!("{to}: {e}"));
            listener.accept().unwrap();
        }
        let from_itself = within(&inside, || {
            let to = std::net::SocketAddr::from(([10, 42, 7, 1], 8080));
            std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(2))
        });
        assert!(from_itself.is_ok(), "a pod reaches itself through its host port");

        network.detach("aaaaaaaaaaaaaaaa").unwrap();
        network.detach("aaaaaaaaaaaaaaaa").unwrap();
        let again = Network::new(options.clone());
        again.restore("bbbbbbbbbbbbbbbb", second, &[]);
        again.set_pod_cidr("10.42.7.0/24".parse().unwrap()).unwrap();
        let c = pod_namespace(dir.path(), "c");
        assert_eq!(again.attach("cccccccccccccccc", &c, &[]).unwrap(), Ipv4Addr::new(10, 42, 7, 4), "the restored address is kept");

        Network::teardown(&options).unwrap();
        let left: Vec<_> = Links::open().unwrap().names().unwrap().into_iter().filter(|n| n != "lo").collect();
        assert!(left.iter().all(|name| !name.starts_with("cor")), "{left:?}");
        for path in [a, b, c] {
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    });
}

#[test]
fn the_kernel_has_the_rules_that_were_planned() {
    in_a_network_of_its_own(|| {
        let list =
            || Command::new("nft").args(["list", "table", "ip", "t"]).output().map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        if list().is_err() {
            return eprintln!("skipped: the program nft is not installed");
        }
        let mut rules = Ruleset::new("t");
        let key = [Field::Daddr, Field::Protocol, Field::Dport];
        rules.set("services", &key, Value::Verdict);
        let one = Ipv4Addr::new(10, 0, 0, 1);
        rules.rule("svc", vec![Step::Balance(vec![(one, 80), (Ipv4Addr::new(10, 0, 0, 2), 80)])]);
        rules.element("services", &[Part::Address(one), Part::Protocol(6), Part::Port(443)], Element::Goto("svc".to_owned()));
        rules.base("prerouting", true, Point::Prerouting, -100);
        rules.rule(
            "prerouting",
            vec![Step::NotSaddr("10.0.0.0/8".parse().unwrap()), Step::Mark(0x4000), Step::Vmap(key.to_vec(), "services".to_owned())],
        );
        rules.base("forward", false, Point::Forward, 0);
        rules.rule("forward", vec![Step::NewConnection, Step::Daddr("10.43.0.0/16".parse().unwrap()), Step::Reject]);
        let mut table = Table::default();
        table.apply(rules.clone()).unwrap();
        let text = list().unwrap();
        for wanted in [
            "10.0.0.1 . tcp . 443 : goto svc",
            "dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 80 }",
            "ip saddr != 10.0.0.0/8 meta mark set meta mark | 0x00004000 ip daddr . meta l4proto . th dport vmap @services",
            "ct state new ip daddr 10.43.0.0/16 reject",
            "type nat hook prerouting priority dstnat; policy accept;",
        ] {
            assert!(text.contains(wanted), "{wanted} not in\n{text}");
        }
        // From here to another ruleset in one transaction, chain and elements replaced.
        rules.chains.remove("svc");
        rules.rule("svc2", vec![Step::Balance(vec![(one, 81)])]);
        rules.element("services", &[Part::Address(one), Part::Protocol(6), Part::Port(443)], Element::Goto("svc2".to_owned()));
        table.apply(rules).unwrap();
        let text = list().unwrap();
        assert!(text.contains("goto svc2") && text.contains("dnat to 10.0.0.1:81") && !text.contains("chain svc {"), "{text}");
        nft::remove_table("t").unwrap();
        assert!(list().unwrap().is_empty());
    });
}
