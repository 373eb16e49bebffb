//! `--egress-selector-config-file` (apiserver `server/egressselector`): by which way others are reached. Here there is the direct one.

use serde::Deserialize;
use serde_json::Value;

use crate::wire::configuration::Format;

const FORMAT: Format = Format {
    group: "apiserver.k8s.io",
    versions: &["v1beta1", "v1alpha1"],
    kind: "EgressSelectorConfiguration",
    others: &[],
    fields: &[
        ("", &["apiVersion", "kind", "egressSelections"]),
        ("egressSelections", &["name", "connection"]),
        ("egressSelections.connection", &["proxyProtocol", "transport"]),
    ],
};
/// The group's newer name.
const CONFIGURATION: Format = Format { group: "apiserver.config.k8s.io", versions: &["v1alpha1", "v1beta1"], ..FORMAT };

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct File {
    egress_selections: Vec<Selection>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Selection {
    name: String,
    connection: Connection,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Connection {
    proxy_protocol: String,
    transport: Option<Value>,
}

/// Reads the file and refuses what is wrong with it, and every way but the direct one. The words are upstream's where it refuses, too.
pub fn check_egress(bytes: &[u8]) -> Result<(), String> {
    let file: File = FORMAT.read_or(&CONFIGURATION, bytes)?;
    let mut seen = Vec::new();
    for (at, Selection { name, connection }) in file.egress_selections.iter().enumerate() {
        let name = name.to_lowercase();
        match connection.proxy_protocol.as_str() {
            "Direct" if connection.transport.is_some() => {
                return Err(r#"service.connection.transport: Invalid value: "direct": config must be absent for direct connect"#.to_owned());
            }
            "Direct" => {}
            known @ ("HTTPConnect" | "GRPC") => {
                return Err(format!("egress selection {name:?}: proxy protocol {known} is not supported; allowed: Direct"));
            }
            other => {
                return Err(format!(
                    r#"service.connection.protocol: Unsupported value: {other:?}: supported values: "Direct", "HTTPConnect", "GRPC""#
                ));
            }
        }
        if seen.contains(&name) {
            return Err(format!("service.connection[{at}]: Duplicate value: {name:?}"));
        }
        if !["controlplane", "cluster", "etcd"].contains(&name.as_str()) {
            return Err(format!(r#"service.connection: Unsupported value: {name:?}: supported values: "cluster", "controlplane", "etcd""#));
        }
        seen.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selections: &str) -> Result<(), String> {
        let head = "apiVersion: apiserver.k8s.io/v1beta1\nkind: EgressSelectorConfiguration\negressSelections: ";
        check_egress(format!("{head}{selections}").as_bytes())
    }

    #[test]
    fn the_direct_way_is_taken_and_no_other() {
        check("[{name: controlplane, connection: {proxyProtocol: Direct}}, {name: Cluster, connection: {proxyProtocol: Direct}}]").unwrap();
        for (selections, why) in [
            (
                "[{name: cluster, connection: {proxyProtocol: GRPC, transport: {uds: {udsName: /a}}}}]",
                "proxy protocol GRPC is not supported",
            ),
            (
                "[{name: cluster, connection: {proxyProtocol: Tunnel}}]",
                "service.connection.protocol: Unsupported value: \"Tunnel\": supported values: \"Direct\", \"HTTPConnect\", \"GRPC\"",
            ),
            ("[{name: moon, connection: {proxyProtocol: Direct}}]", "service.connection: Unsupported value: \"moon\""),
            (
                "[{name: cluster, connection: {proxyProtocol: Direct, transport: {}}}]",
                "service.connection.transport: Invalid value: \"direct\": config must be absent for direct connect",
            ),
            (
                "[{name: etcd, connection: {proxyProtocol: Direct}}, {name: etcd, connection: {proxyProtocol: Direct}}]",
                "service.connection[1]: Duplicate value: \"etcd\"",
            ),
            ("[{nam: etcd}]", "strict decoding error: unknown field"),
        ] {
            let refused = check(selections).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(check_egress(b"kind: Pod").is_err());
    }
}
