//! JSON web keys of issuers and the signatures they make (RFC 7517, RFC 7518).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// Signature algorithms that are taken. `ES512` is not: no P-521 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are JOSE's")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Ps256,
    Ps384,
    Ps512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 8] = [Self::Rs256, Self::Rs384, Self::Rs512, Self::Es256, Self::Es384, Self::Ps256, Self::Ps384, Self::Ps512];

    /// By the name JOSE gives it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// `RS256`
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    fn of_rsa(self) -> Option<&'static signature::RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 | Self::Es384 => return None,
        })
    }
}

/// The head of a token.
#[derive(Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    /// Extensions one must understand: none are.
    pub(super) crit: Option<serde::de::IgnoredAny>,
}

/// One key of an issuer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    id: String,
    material: Material,
}

#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Jwk>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Jwk {
    kid: String,
    kty: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// The keys of a document; those of kinds nobody here verifies with are left out.
pub(super) fn read(document: &[u8]) -> Result<Vec<Key>, String> {
    let document: Document = serde_json::from_slice(document).map_err(|e| format!("failed to decode keys: {e}"))?;
    Ok(document.keys.into_iter().filter_map(key).collect())
}

fn key(jwk: Jwk) -> Option<Key> {
    let number = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
    let point = |length: usize| {
        let padded = |text: &str| {
            let bytes = number(text)?;
            (bytes.len() <= length).then(|| [vec![0; length - bytes.len()], bytes].concat())
        };
        Some([vec![4], padded(&jwk.x)?, padded(&jwk.y)?].concat())
    };
    let material = match (jwk.kty.as_str(), jwk.crv.as_str()) {
        ("RSA", _) => {
            let trim = |bytes: Vec<u8>| bytes.into_iter().skip_while(|b| *b == 0).collect::<Vec<u8>>();
            Material::Rsa { n: trim(number(&jwk.n)?), e: trim(number(&jwk.e)?) }
        }
        ("EC", "P-256") => Material::P256(point(32)?),
        ("EC", "P-384") => Material::P384(point(48)?),
        _ => return None,
    };
    Some(Key { id: jwk.kid, material })
}

impl Key {
    /// Whether a token that names a key, or none, may mean this one.
    pub(super) fn is_meant(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| id.is_empty() || id == self.id)
    }

    /// Whether it made a signature by an algorithm, which must be one of its kind.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, algorithm) => {
                algorithm.of_rsa().is_some_and(|parameters| RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok())
            }
            (Material::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (Material::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{RsaEncoding, RsaKeyPair},
    };

    use super::*;
    use crate::authn::keys::SigningKey;

    const RSA: &str = include_str!("../testdata/rsa.pem");

    #[test]
    fn each_algorithm_verifies_what_it_signed_and_no_other() {
        let jwk = SigningKey::from_pem(RSA.as_bytes()).unwrap().public().jwk();
        let keys = read(coracle_tree::json!({"keys": [jwk, {"kty": "OKP", "crv": "Ed25519"}]}).to_string().as_bytes()).unwrap();
        assert_eq!(keys.len(), 1, "kinds nobody knows are left out");
        let der = x509_parser::pem::parse_x509_pem(RSA.as_bytes()).unwrap().1.contents;
        let pair = RsaKeyPair::from_pkcs8(&der).or_else(|_| RsaKeyPair::from_der(&der)).unwrap();
        let encodings: [(Algorithm, &'static dyn RsaEncoding); 6] = [
            (Algorithm::Rs256, &signature::RSA_PKCS1_SHA256),
            (Algorithm::Rs384, &signature::RSA_PKCS1_SHA384),
            (Algorithm::Rs512, &signature::RSA_PKCS1_SHA512),
            (Algorithm::Ps256, &signature::RSA_PSS_SHA256),
            (Algorithm::Ps384, &signature::RSA_PSS_SHA384),
            (Algorithm::Ps512, &signature::RSA_PSS_SHA512),
        ];
        for (algorithm, encoding) in encodings {
            let mut made = vec![0; pair.public().modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), b"message", &mut made).unwrap();
            for other in Algorithm::ALL {
                assert_eq!(keys[0].verifies(other, b"message", &made), other == algorithm, "{algorithm:?} as {other:?}");
            }
        }
    }

    #[test]
    fn curves_verify_their_own_algorithm_and_keys_are_meant_by_their_names() {
        for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let signing = SigningKey::from_pem(rcgen::KeyPair::generate_for(kind).unwrap().serialize_pem().as_bytes()).unwrap();
            let keys = read(coracle_tree::json!({"keys": [signing.public().jwk()]}).to_string().as_bytes()).unwrap();
            let made = signing.sign(b"message").unwrap();
            let good: Vec<&str> =
                Algorithm::ALL.into_iter().filter(|a| keys[0].verifies(*a, b"message", &made)).map(Algorithm::name).collect();
            assert_eq!(good, [signing.public().algorithm.name()]);
            assert!(keys[0].is_meant(None) && keys[0].is_meant(Some("")) && keys[0].is_meant(Some(&signing.public().id)));
            assert!(!keys[0].is_meant(Some("other")));
        }
        assert!(read(b"{}").is_err() && read(b"no").is_err());
    }
}
