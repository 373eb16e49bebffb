//! What all servers on one store share: the authorities and the key of tokens. The first server keeps them in the store, encrypted with a
//! token; whoever has the token joins by being started with it.
//!
//! What is stored: `{"authority": SHA-256 of the authority's public key, "salt", "nonce", "sealed"}`; `sealed` is AES-256-GCM of the files as
//! JSON under PBKDF2-HMAC-SHA256 of the token.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use coracle_store::{Expect, Key, Store, StoreError, Write};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::write_private;

/// Beside the objects; no API shows it.
const KEY: &str = "/registry/coracle/certificates";
/// The files of the folder that all servers must have alike. What they sign each server makes for itself.
const FILES: [&str; 5] = ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "token.key"];
/// As OWASP has it for PBKDF2-HMAC-SHA256: for tokens that people think of.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(600_000 - 1);
/// Binds the ciphertext to its purpose.
const PURPOSE: &[u8] = b"coracle certificates 1";
const SALT_BYTES: usize = 16;
/// Of a token that is made here.
const TOKEN_BYTES: usize = 32;
/// Servers that start at the same moment.
const RETRIES: usize = 5;

/// What is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    authority: String,
    salt: String,
    nonce: String,
    sealed: String,
}

/// The token: of the flags, or of the data directory, where the first server puts one.
pub(crate) fn token(given: Option<&str>, file: Option<&Path>, data_dir: &Path) -> Result<Option<String>> {
    let read = |file: &Path, flag: &str| -> Result<String> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{flag}: cannot read {}", file.display()))?;
        let text = text.trim().to_owned();
        if text.is_empty() { Err(anyhow!("{flag}: {} is empty", file.display())) } else { Ok(text) }
    };
    match (given, file) {
        (Some(_), Some(_)) => bail!("--token and --token-file cannot both be given"),
        (Some(""), None) => bail!("--token must not be empty"),
        (Some(token), None) => Ok(Some(token.to_owned())),
        (None, Some(file)) => read(file, "--token-file").map(Some),
        (None, None) => {
            let kept = kept(data_dir);
            if kept.exists() { read(&kept, "--data-dir").map(Some) } else { Ok(None) }
        }
    }
}

/// Where the token is that was made here.
pub(crate) fn kept(data_dir: &Path) -> PathBuf {
    data_dir.join("server-token")
}

/// Sees to it that `pki` has what the other servers have: takes it from the store, or, as the first, puts it there. `make` makes what is
/// missing in the folder.
pub(crate) async fn agree(store: &dyn Store, data_dir: &Path, token: Option<String>, make: impl Fn() -> Result<()>) -> Result<()> {
    let (pki, key) = (data_dir.join("pki"), Key::from(KEY));
    // What is made below is nobody's yet.
    let is_own = pki.join("ca.crt").exists();
    for _ in 0..RETRIES {
        let found = store.get(&key).await.context("the servers' certificates cannot be read from the store")?.value;
        let Some(entry) = found else {
            make()?;
            let token = token.clone().map_or_else(|| made(data_dir), Ok)?;
            let value = serde_json::to_vec(&seal(&pki, &token)?)?;
            match store.commit(&key, Expect::Absent, Write::put(value)).await {
                Ok(_) => return Ok(()),
                // Another server started at the same moment; or it was this one, whose answer was lost.
                Err(StoreError::Exists { .. }) => continue,
                Err(error) => return Err(error).context("the servers' certificates cannot be kept in the store"),
            }
        };
        let stored: Stored = serde_json::from_slice(&entry.value).context("what the store keeps of certificates cannot be read")?;
        if pki.join("ca.crt").exists() {
            let is_theirs = fingerprint(&pki)? == stored.authority;
            // Otherwise a join broke off: it is gone on with.
            if is_theirs && FILES.iter().all(|file| pki.join(file).exists()) {
                return Ok(());
            }
            if !is_theirs && is_own {
                bail!(
                    "{} has another certificate authority than the servers on this store; start with an empty --data-dir and their --token to join them",
                    pki.display()
                );
            }
            if !is_theirs {
                // What was made a moment ago was shown to nobody, and what it signed is good for nothing.
                discard(&pki)?;
                if token.is_none() {
                    discard(&kept(data_dir))?;
                }
            }
        }
        let token = token.context(
            "other servers work on this store: join them with the --token of the first (in its data directory as `server-token` unless it was given one)",
        )?;
        return open(&stored, &token, &pki);
    }
    bail!("the servers' certificates change faster than they can be read")
}

/// Removes a file or a folder.
fn discard(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

fn made(data_dir: &Path) -> Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    random(&mut bytes)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(&kept(data_dir), format!("{token}\n").as_bytes())?;
    Ok(token)
}

fn seal(pki: &Path, token: &str) -> Result<Stored> {
    let read = |file: &&str| -> Result<(String, String)> {
        let path = pki.join(file);
        Ok(((*file).to_owned(), std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?))
    };
    let files: BTreeMap<String, String> = FILES.iter().map(read).collect::<Result<_>>()?;
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_LEN]);
    random(&mut salt)?;
    random(&mut nonce)?;
    let mut sealed = serde_json::to_vec(&files)?;
    let sealing = key_of(token, &salt)?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(PURPOSE), &mut sealed);
    sealing.map_err(|_| anyhow!("the certificates cannot be encrypted"))?;
    Ok(Stored { authority: fingerprint(pki)?, salt: STANDARD.encode(salt), nonce: STANDARD.encode(nonce), sealed: STANDARD.encode(sealed) })
}

fn open(stored: &Stored, token: &str, pki: &Path) -> Result<()> {
    let decode = |text: &str| STANDARD.decode(text).context("what the store keeps of certificates cannot be read");
    let (salt, mut sealed) = (decode(&stored.salt)?, decode(&stored.sealed)?);
    let nonce = Nonce::try_assume_unique_for_key(&decode(&stored.nonce)?).map_err(|_| anyhow!("the stored nonce is no nonce"))?;
    let opened = key_of(token, &salt)?
        .open_in_place(nonce, Aad::from(PURPOSE), &mut sealed)
        .map_err(|_| anyhow!("--token is not the one of the servers on this store"))?;
    let files: BTreeMap<String, String> = serde_json::from_slice(opened).context("the stored certificates cannot be read")?;
    std::fs::create_dir_all(pki).with_context(|| format!("cannot create {}", pki.display()))?;
    for file in FILES {
        let text = files.get(file).with_context(|| format!("the store keeps no {file}"))?;
        write_private(&pki.join(file), text.as_bytes())?;
    }
    Ok(())
}

fn key_of(token: &str, salt: &[u8]) -> Result<LessSafeKey> {
    let mut key = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, token.as_bytes(), &mut key);
    UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new).map_err(|_| anyhow!("no key can be made of the token"))
}

/// Of the authority's key: a renewed certificate has the same.
fn fingerprint(pki: &Path) -> Result<String> {
    let path = pki.join("ca.crt");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let unreadable = || format!("{} is not a certificate", path.display());
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok().with_context(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok().with_context(unreadable)?;
    let hash = digest::digest(&digest::SHA256, certificate.public_key().raw);
    Ok(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random(bytes: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| anyhow!("this machine gives no random numbers"))
}

#[cfg(test)]
mod tests {
    use coracle_store::embedded::{Embedded, Options};

    use super::*;
    use crate::certs::{self, Names};

    fn make(folder: &Path) -> Result<()> {
        let names = Names { server: vec!["127.0.0.1".into()], agent: vec!["127.0.0.1".into()] };
        certs::load_or_make(&folder.join("pki"), &names, 1_800_000_000).map(drop)
    }

    /// Both have the same of what all must have alike.
    fn same(first: &tempfile::TempDir, second: &tempfile::TempDir) {
        for file in FILES {
            let read = |folder: &Path| std::fs::read(folder.join("pki").join(file)).unwrap();
            assert_eq!(read(first.path()), read(second.path()), "{file}");
        }
    }

    #[tokio::test]
    async fn a_second_server_with_the_token_has_what_the_first_has() {
        let store = Embedded::open(&Options::memory()).unwrap();
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        agree(&store, first.path(), None, || make(first.path())).await.unwrap();
        let token = token(None, None, first.path()).unwrap().unwrap();
        assert_eq!(token.len(), 64);
        agree(&store, second.path(), Some(token), || make(second.path())).await.unwrap();
        same(&first, &second);
        // Again, without a token: it has what it needs.
        agree(&store, second.path(), None, || panic!("nothing is made")).await.unwrap();
        let kept = store.get(&Key::from(KEY)).await.unwrap().value.unwrap();
        assert!(!String::from_utf8_lossy(&kept.value).contains("PRIVATE KEY"));
        store.close().await;
    }

    #[tokio::test]
    async fn a_join_that_broke_off_is_gone_on_with() {
        let store = Embedded::open(&Options::memory()).unwrap();
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        agree(&store, first.path(), Some("secret".into()), || make(first.path())).await.unwrap();
        let join = async |token: Option<&str>| agree(&store, second.path(), token.map(str::to_owned), || make(second.path())).await;
        join(Some("secret")).await.unwrap();
        for lost in ["token.key", "ca.key"] {
            std::fs::remove_file(second.path().join("pki").join(lost)).unwrap();
            assert!(join(None).await.unwrap_err().to_string().contains("--token of the first"), "{lost} is not made anew");
            join(Some("secret")).await.unwrap();
            same(&first, &second);
        }
        store.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_servers_that_start_at_the_same_moment_one_is_the_first_and_the_others_join_it() {
        for token in [Some("secret"), None] {
            let store = Embedded::open(&Options::memory()).unwrap();
            let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            // Both find nothing in the store; the first is done while the second still makes its own.
            let race = || {
                make(second.path())?;
                let first = agree(&store, first.path(), token.map(str::to_owned), || make(first.path()));
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(first))
            };
            let joined = agree(&store, second.path(), token.map(str::to_owned), race).await;
            if token.is_some() {
                joined.unwrap();
                same(&first, &second);
                // What its own authority signed is gone, too: this is signed by the one they share.
                let certificates = certs::load_or_make(&second.path().join("pki"), &Names { server: vec![], agent: vec![] }, 1_800_000_000);
                let of = |pem: &str| x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
                let (admin, authority) = certificates.map(|made| (of(&made.admin.certificate), of(&made.authority))).unwrap();
                let (_, admin) = X509Certificate::from_der(&admin).unwrap();
                let (_, authority) = X509Certificate::from_der(&authority).unwrap();
                assert_eq!(admin.verify_signature(Some(authority.public_key())), Ok(()));
            } else {
                // It was given no token, and its own opens nothing: it is started again with the first's.
                assert!(joined.unwrap_err().to_string().contains("--token of the first"));
                assert!(!kept(second.path()).exists());
                let token = super::token(None, None, first.path()).unwrap();
                agree(&store, second.path(), token, || panic!("nothing is made")).await.unwrap();
                same(&first, &second);
            }
            store.close().await;
        }
    }

    #[tokio::test]
    async fn who_has_no_token_or_a_wrong_one_or_another_authority_is_refused() {
        let store = Embedded::open(&Options::memory()).unwrap();
        let (first, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        agree(&store, first.path(), Some("secret".into()), || make(first.path())).await.unwrap();
        assert!(!kept(first.path()).exists(), "a token that was given is not kept");
        let joined = async |token: Option<&str>| {
            agree(&store, other.path(), token.map(str::to_owned), || make(other.path())).await.unwrap_err().to_string()
        };
        assert!(joined(None).await.contains("--token of the first"));
        assert!(joined(Some("guess")).await.contains("--token is not the one"));
        assert!(!other.path().join("pki/ca.key").exists());
        make(other.path()).unwrap();
        assert!(joined(Some("secret")).await.contains("another certificate authority"));
        store.close().await;
    }
}
