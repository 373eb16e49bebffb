//! A pod's `/etc/resolv.conf` and `/etc/hosts` (kubelet `network/dns/dns.go`, `kubelet_pods.go`).

use std::fmt::Write;
use std::net::IpAddr;

use crate::context::{Context, Options};
use crate::pods::launch;
use crate::pods::object::BoundPod;
use crate::runtime::DnsConfig;

/// Limits of a resolver configuration (validation's and glibc's).
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// The resolver configuration the pod's DNS policy asks for.
pub(crate) async fn config(options: &Options, pod: &BoundPod) -> DnsConfig {
    let policy = pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !pod.host_network(),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else {
        parse(&tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default())
    };
    if cluster && !options.cluster_dns.is_empty() {
        let domain = &options.cluster_domain;
        let own = [format!("{}.svc.{domain}", pod.metadata.namespace), format!("svc.{domain}"), domain.clone()];
        config.servers = options.cluster_dns.iter().map(ToString::to_string).collect();
        config.searches.splice(0..0, own);
        config.options = vec!["ndots:5".to_owned()];
    }
    if let Some(given) = &pod.spec.dns_config {
        config.servers.extend(given.nameservers.iter().flatten().cloned());
        config.searches.extend(given.searches.iter().flatten().cloned());
        for option in given.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|o| o.split(':').next() != Some(&name));
            config.options.push(option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    unique(&mut config.servers);
    unique(&mut config.searches);
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search") => config.searches = words.filter(|s| s != ".").collect(),
            Some("options") => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

/// The file's content.
#[must_use]
pub(crate) fn resolv_conf(config: &DnsConfig) -> String {
    let mut text = String::new();
    if !config.searches.is_empty() {
        let _ = writeln!(text, "search {}", config.searches.join(" "));
    }
    for server in &config.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !config.options.is_empty() {
        let _ = writeln!(text, "options {}", config.options.join(" "));
    }
    text
}

/// The pod's `/etc/hosts`: its own, or the node's with the network of the node, and `hostAliases`.
pub(crate) async fn hosts_file(ctx: &Context, pod: &BoundPod, addresses: &[IpAddr]) -> String {
    let mut text = if pod.host_network() {
        let own = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{own}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let host = launch::hostname(ctx, pod);
        let names = match launch::domain(ctx, pod) {
            Some(domain) if !host.contains('.') => format!("{host}.{domain}\t{host}"),
            _ => host,
        };
        for address in addresses {
            let _ = writeln!(text, "{address}\t{names}");
        }
        text
    };
    let aliases: Vec<_> = pod.spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn cluster_first_pods_search_their_namespace_first() {
        let mut options = Options::new("n", IpAddr::from([10, 0, 0, 1]), "/tmp".into());
        options.cluster_dns = vec![IpAddr::from([10, 96, 0, 10])];
        let pod = BoundPod::decode(
            br#"{"metadata":{"namespace":"ns"},"spec":{"containers":[],"dnsConfig":{"searches":["example.org"],"options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}}"#,
        )
        .expect("decodes");
        let config = config(&options, &pod).await;
        assert_eq!(config.servers, ["10.96.0.10"]);
        assert_eq!(config.searches[..3], ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!(config.searches.last().map(String::as_str), Some("example.org"));
        assert_eq!(config.options, ["ndots:2", "edns0"]);
    }

    #[tokio::test]
    async fn policy_none_takes_only_what_is_given() {
        let options = Options::new("n", IpAddr::from([10, 0, 0, 1]), "/tmp".into());
        let pod =
            BoundPod::decode(br#"{"metadata":{},"spec":{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"]}}}"#)
                .expect("decodes");
        assert_eq!(resolv_conf(&config(&options, &pod).await), "nameserver 1.1.1.1\n");
    }
}
