//! Pulls from a real registry (Debian's `docker-registry`) on loopback, in a network namespace of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use super::disk;
use super::tests::tar_of;
use super::{Registries, Store};
use crate::network::in_a_network_of_its_own;
use crate::runtime::{Credentials, Images, RuntimeError};

const NAME: &str = "127.0.0.1:5000/team/app:1";

struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a registry; with `htpasswd`, one that wants user `me` with password `secret`.
fn registry(dir: &Path, htpasswd: bool) -> Registry {
    let mut config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
        dir.join("registry").display()
    );
    if htpasswd {
        let file = dir.join("htpasswd");
        std::fs::write(&file, "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n").unwrap();
        config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
    }
    let path = dir.join("config.yml");
    std::fs::write(&path, config).unwrap();
    let child = Command::new("docker-registry").arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let registry = Registry(child);
    for _ in 0..200 {
        if std::net::TcpStream::connect("127.0.0.1:5000").is_ok() {
            return registry;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the registry does not listen");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// Pushes an image of two layers; answers the packed layers.
async fn push(auth: RegistryAuth) -> Vec<Vec<u8>> {
    let mut big = vec![0u8; 300_000];
    rustix::rand::getrandom(&mut big, rustix::rand::GetRandomFlags::empty()).unwrap();
    let plain = [tar_of(&[("one", b"1"), ("big", &big)]), tar_of(&[(".wh.one", b""), ("two", b"2")])];
    let packed: Vec<Vec<u8>> = plain.iter().map(|layer| gzip(layer)).collect();
    let ids: Vec<String> = plain.iter().map(|layer| disk::digest_of(layer)).collect();
    let config = serde_json::json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["/two"]}, "rootfs": {"type": "layers", "diff_ids": ids}});
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_from(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() }).unwrap();
    let layers: Vec<ImageLayer> = packed.iter().map(|layer| ImageLayer::oci_v1_gzip(layer.clone(), None)).collect();
    let config = Config::oci_v1(config.to_string().into_bytes(), None);
    let reference: Reference = NAME.parse().unwrap();
    client.push(&reference, &layers, config, &auth, None).await.unwrap();
    packed
}

fn with_registry(htpasswd: bool, test: impl AsyncFnOnce(&Path, Store) + Send) {
    if Command::new("docker-registry").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return eprintln!("skipped: docker-registry is not installed");
    }
    in_a_network_of_its_own(|| {
        let dir = tempfile::tempdir().unwrap();
        let _registry = registry(dir.path(), htpasswd);
        let store = Store::open(&dir.path().join("images"), Registries::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test(dir.path(), store));
    });
}

#[test]
fn an_image_is_pulled_once_by_many_and_a_broken_download_goes_on() {
    with_registry(false, async |_, store| {
        let packed = push(RegistryAuth::Anonymous).await;
        // What an earlier try left.
        let half = &packed[0][..packed[0].len() / 2];
        let partial = store.ingest().join(format!("{}.partial", disk::hex_of(&disk::digest_of(&packed[0])).unwrap()));
        std::fs::write(&partial, half).unwrap();
        let (a, b) = tokio::join!(store.pull(NAME, &[]), store.pull(NAME, &[]));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a, b);
        assert_eq!(a.tags, [NAME]);
        assert!(a.digests[0].starts_with("127.0.0.1:5000/team/app@sha256:"), "{:?}", a.digests);
        let (layers, names) = store.layers(&store.config(&a.id).unwrap()).unwrap();
        assert_eq!(std::fs::read(layers.join(&names[1]).join("two")).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(store.ingest()).unwrap().count(), 0, "nothing unfinished is left");
        // By digest it is the same image, with no new tag.
        let again = store.pull(&a.digests[0], &[]).await.unwrap();
        assert_eq!((again.id, again.tags.len()), (a.id, 1));
    });
}

#[test]
fn failures_say_what_the_registry_says() {
    with_registry(false, async |_, store| {
        push(RegistryAuth::Anonymous).await;
        let error = store.pull("127.0.0.1:5000/team/app:nope", &[]).await.unwrap_err();
        assert!(matches!(error, RuntimeError::PullFailed { .. }), "{error:?}");
        let words = r#"failed to pull and unpack image "127.0.0.1:5000/team/app:nope": failed to resolve reference "127.0.0.1:5000/team/app:nope": 127.0.0.1:5000/team/app:nope: not found"#;
        assert_eq!(error.to_string(), words);
        let error = store.pull("127.0.0.1:1/x", &[]).await.unwrap_err();
        assert!(matches!(error, RuntimeError::RegistryUnavailable { .. }) && error.to_string().contains("refused"), "{error:?}");
        assert!(matches!(store.pull("127.0.0.1:5000/UP", &[]).await, Err(RuntimeError::InvalidReference { .. })));
    });
}

#[test]
fn credentials_are_tried_in_turn() {
    with_registry(true, async |_, store| {
        push(RegistryAuth::Basic("me".to_owned(), "secret".to_owned())).await;
        let error = store.pull(NAME, &[]).await.unwrap_err();
        assert!(matches!(error, RuntimeError::PullDenied { .. }), "{error:?}");
        let with = |password: &str| Credentials { username: "me".to_owned(), password: password.to_owned(), ..Credentials::default() };
        assert!(matches!(store.pull(NAME, &[with("wrong")]).await, Err(RuntimeError::PullDenied { .. })));
        store.pull(NAME, &[with("wrong"), with("secret")]).await.unwrap();
    });
}
