//! The ciphers, and how their values are laid out (`storage/value/encrypt/{aes,secretbox}`).

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::{
    AesGcm, KeyInit, Nonce,
    aead::{Aead, Payload, consts::U12},
};
use cbc::cipher::{
    BlockDecryptMut, BlockEncryptMut, KeyIvInit,
    block_padding::{NoPadding, Pkcs7},
};
use crypto_secretbox::XSalsa20Poly1305;
use ring::{
    hkdf,
    rand::{SecureRandom, SystemRandom},
};

/// Bytes of an AES block, and of an initialization vector.
const BLOCK: usize = 16;
/// Bytes of AES-GCM's nonce.
const NONCE: usize = 12;
/// Bytes of secretbox's.
const BOX_NONCE: usize = 24;
/// Bytes of its tag.
const BOX_TAG: usize = 16;
/// Bytes of a seed, of what is mixed with it, and of the key that comes of both.
pub(super) const SEED: usize = 32;

const SHORT: &str = "the stored data was shorter than the required size";
const FORGED: &str = "cipher: message authentication failed";

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "unable to read sufficient random bytes".to_owned())?;
    Ok(bytes)
}

/// What encrypts and decrypts with one key. `context` is authenticated with the data where the cipher can.
pub(super) enum Cipher {
    Gcm(Gcm),
    Cbc(Cbc),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl Cipher {
    pub(super) fn open(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.open(data, context),
            Self::Cbc(cbc) => cbc.open(data),
            Self::Secretbox(secretbox) => {
                if data.len() < BOX_NONCE + BOX_TAG {
                    return Err(SHORT.to_owned());
                }
                let (nonce, data) = data.split_at(BOX_NONCE);
                let opened = secretbox.decrypt(crypto_secretbox::Nonce::from_slice(nonce), data);
                opened.map_err(|_| "output array was not large enough for encryption".to_owned())
            }
        }
    }

    pub(super) fn seal(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(gcm) => gcm.seal(data, context),
            Self::Cbc(cbc) => cbc.seal(data),
            Self::Secretbox(secretbox) => {
                let nonce = random::<BOX_NONCE>()?;
                let sealed = secretbox.encrypt(crypto_secretbox::Nonce::from_slice(&nonce), data).map_err(|e| e.to_string())?;
                Ok([&nonce[..], &sealed].concat())
            }
        }
    }

    pub(super) fn gcm(key: &[u8]) -> Option<Self> {
        Gcm::new(key).map(Self::Gcm)
    }

    pub(super) fn cbc(key: &[u8]) -> Option<Self> {
        Cbc::new(key).map(Self::Cbc)
    }

    pub(super) fn secretbox(key: &[u8]) -> Option<Self> {
        XSalsa20Poly1305::new_from_slice(key).ok().map(|cipher| Self::Secretbox(Box::new(cipher)))
    }
}

/// AES-GCM: nonce, then data with its tag.
pub(super) enum Gcm {
    Short(Box<AesGcm<Aes128, U12>>),
    Middle(Box<AesGcm<Aes192, U12>>),
    Long(Box<AesGcm<Aes256, U12>>),
}

impl Gcm {
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        match key.len() {
            16 => AesGcm::new_from_slice(key).ok().map(|gcm| Self::Short(Box::new(gcm))),
            24 => AesGcm::new_from_slice(key).ok().map(|gcm| Self::Middle(Box::new(gcm))),
            32 => AesGcm::new_from_slice(key).ok().map(|gcm| Self::Long(Box::new(gcm))),
            _ => None,
        }
    }

    pub(super) fn open(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        if data.len() < NONCE {
            return Err(SHORT.to_owned());
        }
        let (nonce, msg) = data.split_at(NONCE);
        let (nonce, payload) = (Nonce::from_slice(nonce), Payload { msg, aad: context });
        let opened = match self {
            Self::Short(gcm) => gcm.decrypt(nonce, payload),
            Self::Middle(gcm) => gcm.decrypt(nonce, payload),
            Self::Long(gcm) => gcm.decrypt(nonce, payload),
        };
        opened.map_err(|_| FORGED.to_owned())
    }

    pub(super) fn seal(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let bytes = random::<NONCE>()?;
        let (nonce, payload) = (Nonce::from_slice(&bytes), Payload { msg: data, aad: context });
        let sealed = match self {
            Self::Short(gcm) => gcm.encrypt(nonce, payload),
            Self::Middle(gcm) => gcm.encrypt(nonce, payload),
            Self::Long(gcm) => gcm.encrypt(nonce, payload),
        };
        Ok([&bytes[..], &sealed.map_err(|e| e.to_string())?].concat())
    }
}

/// AES-CBC with PKCS#7: initialization vector, then blocks. Nothing is authenticated.
pub(super) struct Cbc(Vec<u8>);

impl Cbc {
    fn new(key: &[u8]) -> Option<Self> {
        [16, 24, 32].contains(&key.len()).then(|| Self(key.to_vec()))
    }

    fn open(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        if data.len() < BLOCK {
            return Err(SHORT.to_owned());
        }
        let (start, data) = data.split_at(BLOCK);
        if !data.len().is_multiple_of(BLOCK) {
            return Err("the stored data is not a multiple of the block size".to_owned());
        }
        let (key, mut plain) = (&self.0, data.to_vec());
        let length = |e: cbc::cipher::InvalidLength| e.to_string();
        let opened = match key.len() {
            16 => cbc::Decryptor::<Aes128>::new_from_slices(key, start).map_err(length)?.decrypt_padded_mut::<NoPadding>(&mut plain),
            24 => cbc::Decryptor::<Aes192>::new_from_slices(key, start).map_err(length)?.decrypt_padded_mut::<NoPadding>(&mut plain),
            _ => cbc::Decryptor::<Aes256>::new_from_slices(key, start).map_err(length)?.decrypt_padded_mut::<NoPadding>(&mut plain),
        };
        opened.map_err(|e| e.to_string())?;
        let padding = plain.last().copied().map(usize::from).unwrap_or_default();
        if padding == 0 || padding > plain.len() {
            return Err("invalid PKCS7 data (empty or not padded)".to_owned());
        }
        let size = plain.len() - padding;
        if plain[size..].iter().any(|byte| usize::from(*byte) != padding) {
            return Err("invalid padding on input".to_owned());
        }
        plain.truncate(size);
        Ok(plain)
    }

    fn seal(&self, data: &[u8]) -> Result<Vec<u8>, String> {
        let (key, start) = (&self.0, random::<BLOCK>()?);
        let length = |e: cbc::cipher::InvalidLength| e.to_string();
        let sealed = match key.len() {
            16 => cbc::Encryptor::<Aes128>::new_from_slices(key, &start).map_err(length)?.encrypt_padded_vec_mut::<Pkcs7>(data),
            24 => cbc::Encryptor::<Aes192>::new_from_slices(key, &start).map_err(length)?.encrypt_padded_vec_mut::<Pkcs7>(data),
            _ => cbc::Encryptor::<Aes256>::new_from_slices(key, &start).map_err(length)?.encrypt_padded_vec_mut::<Pkcs7>(data),
        };
        Ok([&start[..], &sealed].concat())
    }
}

/// AES-256-GCM with a key of its own for each value, derived from a seed and random bytes that stand before the nonce
/// (`aes_extended_nonce.go`): random nonces never wear it out.
pub(super) struct Seed(Vec<u8>);

impl Seed {
    /// Of at least [`SEED`] bytes.
    pub(super) fn new(seed: Vec<u8>) -> Result<Self, String> {
        if seed.len() < SEED {
            return Err(format!("invalid seed length {} used for key generation", seed.len()));
        }
        Ok(Self(seed))
    }

    pub(super) fn open(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        if data.len() < SEED {
            return Err(SHORT.to_owned());
        }
        let (info, data) = data.split_at(SEED);
        self.derived(info)?.open(data, context)
    }

    pub(super) fn seal(&self, data: &[u8], context: &[u8]) -> Result<Vec<u8>, String> {
        let info = random::<SEED>()?;
        let sealed = self.derived(&info)?.seal(data, context)?;
        Ok([&info[..], &sealed].concat())
    }

    fn derived(&self, info: &[u8]) -> Result<Gcm, String> {
        let failed = || "failed to KDF expand seed with info".to_owned();
        let mut key = [0; SEED];
        let seed = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.0);
        seed.expand(&[info], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key)).map_err(|_| failed())?;
        Gcm::new(&key).ok_or_else(failed)
    }
}
