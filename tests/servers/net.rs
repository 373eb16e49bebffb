//! Machines that are network namespaces on one bridge, and what can go wrong between them.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::cluster::etcd_program;

/// A network of machines `10.N.0.1`, `10.N.0.2`, …; this process reaches them all.
pub(crate) struct Net {
    name: String,
    number: u8,
}

/// Runs a command that must succeed.
fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether this machine can have such a network.
pub(crate) fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    // A whole path stands for itself.
    let there = |program: &OsStr| ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|folder| Path::new(folder).join(program).exists());
    let possible = root && there("ip".as_ref()) && there("nft".as_ref()) && there(&etcd_program());
    if !possible {
        println!("skipped: needs root, ip, nft and etcd");
    }
    possible
}

impl Net {
    /// A network of so many machines.
    pub(crate) fn new(machines: u8) -> Self {
        static NETS: AtomicU32 = AtomicU32::new(0);
        let number = NETS.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            name: format!("co{}-{number}", std::process::id()),
            // One that no other test process has, most likely.
            number: u8::try_from(200 + (std::process::id() + number) % 50).unwrap(),
        };
        run(&format!("ip netns add {}", net.switch()));
        run(&format!("ip -n {} link add br0 type bridge", net.switch()));
        run(&format!("ip -n {} link set br0 up", net.switch()));
        for machine in 1..=machines {
            let (space, peer) = (net.machine(machine), format!("m{machine}"));
            run(&format!("ip netns add {space}"));
            run(&format!("ip -n {} link add {peer} type veth peer name eth0 netns {space}", net.switch()));
            run(&format!("ip -n {} link set {peer} master br0 up", net.switch()));
            run(&format!("ip -n {space} addr add {}/24 dev eth0", net.address(machine)));
            run(&format!("ip -n {space} link set lo up"));
            run(&format!("ip -n {space} link set eth0 up"));
        }
        run(&format!("ip link add {} type veth peer name us netns {}", net.own(), net.switch()));
        run(&format!("ip -n {} link set us master br0 up", net.switch()));
        run(&format!("ip addr add {}/24 dev {}", net.address(254), net.own()));
        run(&format!("ip link set {} up", net.own()));
        net
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.name)
    }

    fn machine(&self, machine: u8) -> String {
        format!("{}-{machine}", self.name)
    }

    /// The interface of this process' own namespace; names of interfaces are short.
    fn own(&self) -> String {
        self.name.clone()
    }

    pub(crate) fn address(&self, machine: u8) -> String {
        format!("10.{}.0.{machine}", self.number)
    }

    /// A command that runs on a machine.
    pub(crate) fn command(&self, machine: u8, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.machine(machine)]).arg(program).stdin(Stdio::null());
        command
    }

    /// Pulls a machine's plug, or puts it back.
    pub(crate) fn cut(&self, machine: u8, cut: bool) {
        run(&format!("ip -n {} link set m{machine} {}", self.switch(), if cut { "down" } else { "up" }));
    }

    /// Loses so many of a hundred packets to each machine; 0: none.
    pub(crate) fn lose(&self, machines: u8, percent: u32) {
        for machine in 1..=machines {
            let nft = |line: &str| run(&format!("ip netns exec {} nft {line}", self.machine(machine)));
            if percent == 0 {
                nft("delete table inet loss");
            } else {
                nft("add table inet loss");
                nft("add chain inet loss in { type filter hook input priority 0 ; }");
                nft(&format!("add rule inet loss in numgen random mod 100 < {percent} drop"));
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.own()]).output();
        let spaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
        for line in String::from_utf8_lossy(&spaces.stdout).lines() {
            let space = line.split_whitespace().next().unwrap_or_default();
            if space.starts_with(&format!("{}-", self.name)) {
                let _ = Command::new("ip").args(["netns", "del", space]).output();
            }
        }
    }
}
