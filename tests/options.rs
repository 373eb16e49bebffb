//! Wrong flags, files and machines get one clear error that says what is allowed.

use std::{net::TcpListener, process::Command};

/// Runs `coracle` with arguments that must be refused; what it says.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_coracle")).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} must be refused");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_wrong_flag_or_value_is_refused_with_what_is_allowed() {
    assert!(refused(&["server", "--hollow-node", "3"]).contains("--hollow-nodes"));
    assert!(refused(&["server", "--store", "postgres"]).contains("embedded, memory, etcd"));
    assert!(refused(&["server", "--service-cidr", "10.43.0.1/16"]).contains("10.43.0.0/16"));
    assert!(refused(&["server", "--listen", "localhost"]).contains("--listen"));
}

#[test]
fn a_wrong_configuration_file_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, "data-dirs: /tmp\n").unwrap();
    let said = refused(&["server", "--config", file.to_str().unwrap()]);
    assert!(said.contains("`data-dir`") && said.contains("config.yaml"), "{said}");
    let said = refused(&["server", "--config", "/nonexistent/config.yaml"]);
    assert!(said.contains("/nonexistent/config.yaml"), "{said}");
}

#[test]
fn a_wrong_flag_is_told_before_etcd_is_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = format!("--etcd-servers=http://{}", silent.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().display());
    let said =
        refused(&["server", "--agent=off", "--listen=127.0.0.1:0", &data, "--store=etcd", &servers, "--tls-min-version=VersionTLS09"]);
    assert!(said.contains("--tls-min-version"), "{said}");
}

#[test]
fn a_busy_port_is_named() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let said = refused(&["server", "--agent=off", "--listen", &address, "--data-dir", folder.path().to_str().unwrap()]);
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let said = refused(&["server", "--agent=off", "--data-dir", "/proc/coracle"]);
    assert!(said.contains("/proc/coracle"), "{said}");
}

#[test]
fn the_help_of_every_command_ends_well() {
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_coracle")).args(arguments).arg("--help").output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = help(&[]);
    let (_, commands) = all.split_once("Commands:\n").unwrap();
    // Each stands on a line of its own; what is told of it may go on in lines further in.
    let is_name = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names: Vec<&str> =
        commands.split("\n\n").next().unwrap().lines().filter(is_name).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 14 && names.contains(&"who-can"), "{names:?}");
    for command in names.into_iter().filter(|name| *name != "help") {
        assert!(help(&[command]).len() > 40, "{command}");
    }
}
