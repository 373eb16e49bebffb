//! Keys that sign and verify service-account tokens, read from PEM.
//!
//! Private keys: PKCS#8, SEC 1 (EC) and PKCS#1 (RSA). Verification keys: any of those, a public key, or an X.509 certificate.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_tree::{Value, json};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey},
};
use sha2::{Digest, Sha256};
use x509_parser::{
    pem::Pem,
    prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate},
    public_key::PublicKey,
};

/// Signature algorithms, as JOSE names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
}

/// Why a key file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or nothing in it.
    #[error("no PEM block with a key or certificate")]
    NoPem,
    /// The block's label names nothing we read.
    #[error("unsupported PEM block {0:?}; allowed: PRIVATE KEY, EC PRIVATE KEY, RSA PRIVATE KEY, PUBLIC KEY, RSA PUBLIC KEY, CERTIFICATE")]
    Label(String),
    /// The block does not hold what its label says, or a curve or size that is not supported.
    #[error("malformed or unsupported key in PEM block {0:?}; allowed: RSA of 2048 to 8192 bits, EC on P-256 or P-384")]
    Unusable(String),
}

/// The key new tokens are signed with.
pub struct SigningKey {
    pair: Pair,
    public: VerifyingKey,
}

enum Pair {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// A key tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    /// Key id: unpadded base64url of the SHA-256 of the DER public key info, as upstream computes it.
    pub id: String,
    /// The only algorithm it is used with.
    pub algorithm: Algorithm,
    /// Others are not told of it: it verifies what was issued before.
    pub is_hidden: bool,
    /// EC point, or PKCS#1 `RSAPublicKey`: what ring verifies with.
    key: Vec<u8>,
}

const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_RSA_NULL: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

impl Algorithm {
    /// `ES256`
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }

    fn verification(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        }
    }

    /// DER `AlgorithmIdentifier` content of a public key.
    fn identifier(self) -> Vec<u8> {
        match self {
            Self::Rs256 => OID_RSA_NULL.to_vec(),
            Self::Es256 => [OID_EC, OID_P256].concat(),
            Self::Es384 => [OID_EC, OID_P384].concat(),
        }
    }
}

impl SigningKey {
    /// Reads the first private key of a PEM file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut refused = KeyError::NoPem;
        for block in blocks(pem) {
            match private(&block) {
                Some(Ok(key)) => return Ok(key),
                Some(Err(e)) => return Err(e),
                None => refused = KeyError::Label(block.label),
            }
        }
        Err(refused)
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs; the form is JOSE's (fixed-length `r || s` for EC). `None` only when the system has no randomness.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, message).ok().map(|s| s.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut out).ok()?;
                Some(out)
            }
        }
    }

    fn ec(pkcs8: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let curves = [
            (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        ];
        curves.into_iter().find_map(|(algorithm, curve)| {
            let pair = EcdsaKeyPair::from_pkcs8(curve, pkcs8, &random).ok()?;
            let public = VerifyingKey::new(algorithm, pair.public_key().as_ref());
            Some(Self { pair: Pair::Ec(Box::new(pair)), public })
        })
    }

    fn rsa(pair: RsaKeyPair) -> Self {
        let public = VerifyingKey::new(Algorithm::Rs256, signature::KeyPair::public_key(&pair).as_ref());
        Self { pair: Pair::Rsa(Box::new(pair)), public }
    }
}

impl VerifyingKey {
    /// Reads every key and certificate of a PEM file.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, KeyError> {
        let mut keys = Vec::new();
        for block in blocks(pem) {
            keys.push(public(&block)?);
        }
        if keys.is_empty() { Err(KeyError::NoPem) } else { Ok(keys) }
    }

    /// Reads a public key of DER (PKIX).
    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        if rest.is_empty() { Self::from_info(&info) } else { None }
    }

    /// The same by another id, as whoever has its private half calls it.
    pub(super) fn named(self, id: String, is_hidden: bool) -> Self {
        Self { id, is_hidden, ..self }
    }

    /// Whether `signature` over `message` was made by this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm.verification(), &self.key).verify(message, signature).is_ok()
    }

    /// The JSON web key (RFC 7517).
    pub fn jwk(&self) -> Value {
        let mut jwk = json!({"use": "sig", "kid": self.id, "alg": self.algorithm.name()});
        match self.algorithm {
            Algorithm::Rs256 => {
                let (modulus, exponent) = rsa_parts(&self.key).unwrap_or_default();
                jwk["kty"] = "RSA".into();
                jwk["n"] = URL_SAFE_NO_PAD.encode(modulus).into();
                jwk["e"] = URL_SAFE_NO_PAD.encode(exponent).into();
            }
            Algorithm::Es256 | Algorithm::Es384 => {
                let (x, y) = self.key[1..].split_at((self.key.len() - 1) / 2);
                jwk["kty"] = "EC".into();
                jwk["crv"] = if self.algorithm == Algorithm::Es256 { "P-256" } else { "P-384" }.into();
                jwk["x"] = URL_SAFE_NO_PAD.encode(x).into();
                jwk["y"] = URL_SAFE_NO_PAD.encode(y).into();
            }
        }
        jwk
    }

    fn new(algorithm: Algorithm, key: &[u8]) -> Self {
        let info = tlv(0x30, &[tlv(0x30, &algorithm.identifier()), tlv(0x03, &[&[0], key].concat())].concat());
        Self { id: URL_SAFE_NO_PAD.encode(Sha256::digest(info)), algorithm, is_hidden: false, key: key.to_vec() }
    }

    fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let key = &*info.subject_public_key.data;
        match info.parsed().ok()? {
            PublicKey::RSA(_) => Some(Self::new(Algorithm::Rs256, key)),
            // An uncompressed point: 0x04, x, y.
            PublicKey::EC(_) if key.len() == 65 => Some(Self::new(Algorithm::Es256, key)),
            PublicKey::EC(_) if key.len() == 97 => Some(Self::new(Algorithm::Es384, key)),
            _ => None,
        }
    }
}

/// The blocks of a PEM file that may hold keys; `openssl ecparam` puts parameters before the key.
fn blocks(pem: &[u8]) -> impl Iterator<Item = Pem> + '_ {
    Pem::iter_from_buffer(pem).filter_map(Result::ok).filter(|b| b.label != "EC PARAMETERS")
}

/// The private key in a block; `None` when its label is not of a private key.
fn private(block: &Pem) -> Option<Result<SigningKey, KeyError>> {
    let der = &block.contents;
    let key = match block.label.as_str() {
        "PRIVATE KEY" => SigningKey::ec(der).or_else(|| RsaKeyPair::from_pkcs8(der).ok().map(SigningKey::rsa)),
        "EC PRIVATE KEY" => [OID_P256, OID_P384].into_iter().find_map(|curve| SigningKey::ec(&pkcs8(curve, der))),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).ok().map(SigningKey::rsa),
        _ => return None,
    };
    Some(key.ok_or_else(|| KeyError::Unusable(block.label.clone())))
}

fn public(block: &Pem) -> Result<VerifyingKey, KeyError> {
    if let Some(key) = private(block) {
        return key.map(|k| k.public);
    }
    let der = &block.contents;
    let key = match block.label.as_str() {
        "PUBLIC KEY" => SubjectPublicKeyInfo::from_der(der).ok().and_then(|(_, info)| VerifyingKey::from_info(&info)),
        "RSA PUBLIC KEY" => rsa_parts(der).map(|_| VerifyingKey::new(Algorithm::Rs256, der)),
        "CERTIFICATE" => X509Certificate::from_der(der).ok().and_then(|(_, c)| VerifyingKey::from_info(c.public_key())),
        other => return Err(KeyError::Label(other.to_owned())),
    };
    key.ok_or_else(|| KeyError::Unusable(block.label.clone()))
}

/// Modulus and exponent, big-endian without leading zeros, of a PKCS#1 public key.
fn rsa_parts(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (content, _) = element(der, 0x30)?;
    let (modulus, rest) = element(content, 0x02)?;
    let (exponent, _) = element(rest, 0x02)?;
    let trim = |n: &[u8]| n.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
    Some((trim(modulus), trim(exponent)))
}

/// The content of a DER element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f)).filter(|(b, _)| b.len() <= 4)?;
        (bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)), rest)
    };
    rest.split_at_checked(length)
}

/// A SEC 1 private key wrapped as PKCS#8, the form ring reads.
fn pkcs8(curve: &[u8], sec1: &[u8]) -> Vec<u8> {
    let version = [0x02, 0x01, 0x00];
    tlv(0x30, &[&version[..], &tlv(0x30, &[OID_EC, curve].concat()), &tlv(0x04, sec1)].concat())
}

/// A DER element: tag, length, value.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = value.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|b| *b == 0).collect();
    match significant.as_slice() {
        [] => out.push(0),
        [one] if *one < 0x80 => out.push(*one),
        many => {
            // A usize has at most eight bytes.
            out.push(0x80 | u8::try_from(many.len()).unwrap_or(8));
            out.extend_from_slice(many);
        }
    }
    out.extend_from_slice(value);
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    /// Made with openssl for this test only.
    const RSA: &str = include_str!("testdata/rsa.pem");

    /// The SEC 1 form of a PKCS#8 EC key: what stands in its octet string.
    fn sec1(pkcs8: &KeyPair) -> String {
        let der = pkcs8.serialize_der();
        let (content, _) = element(&der, 0x30).unwrap();
        let (_, rest) = element(content, 0x02).unwrap();
        let (_, rest) = element(rest, 0x30).unwrap();
        let (key, _) = element(rest, 0x04).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(key);
        format!(
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n"
        )
    }

    #[test]
    fn every_private_form_signs_what_its_public_key_verifies() {
        let p256 = KeyPair::generate().unwrap();
        let (p256, sec1) = (p256.serialize_pem(), sec1(&p256));
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for (pem, algorithm) in
            [(p256.as_str(), Algorithm::Es256), (&p384, Algorithm::Es384), (RSA, Algorithm::Rs256), (&sec1, Algorithm::Es256)]
        {
            let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(key.public().algorithm, algorithm);
            let signature = key.sign(b"message").unwrap();
            let read = VerifyingKey::all_from_pem(pem.as_bytes()).unwrap();
            assert_eq!(read, [key.public().clone()]);
            assert!(read[0].verifies(b"message", &signature));
            assert!(!read[0].verifies(b"massage", &signature));
        }
    }

    #[test]
    fn a_certificate_verifies_under_the_key_id_of_its_key() {
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&pair).unwrap();
        let signing = SigningKey::from_pem(pair.serialize_pem().as_bytes()).unwrap();
        let from_certificate = VerifyingKey::all_from_pem(certificate.pem().as_bytes()).unwrap();
        let from_public = VerifyingKey::all_from_pem(pair.public_key_pem().as_bytes()).unwrap();
        assert_eq!(from_certificate, [signing.public().clone()]);
        assert_eq!(from_public, from_certificate);
        let expected = URL_SAFE_NO_PAD.encode(Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&pair)));
        assert_eq!(signing.public().id, expected);
    }

    #[test]
    fn rsa_web_key_has_the_usual_exponent() {
        let key = SigningKey::from_pem(RSA.as_bytes()).unwrap();
        let jwk = key.public().jwk();
        assert_eq!((jwk["kty"].as_str(), jwk["e"].as_str()), (Some("RSA"), Some("AQAB")));
        assert_eq!(URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap().len(), 256);
    }

    #[test]
    fn files_without_a_usable_key_say_what_is_allowed() {
        assert_eq!(SigningKey::from_pem(b"").err(), Some(KeyError::NoPem));
        let bad = b"-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n";
        assert_eq!(VerifyingKey::all_from_pem(bad).err(), Some(KeyError::Label("DSA PRIVATE KEY".into())));
        let broken = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(SigningKey::from_pem(broken).err(), Some(KeyError::Unusable("PRIVATE KEY".into())));
    }
}
