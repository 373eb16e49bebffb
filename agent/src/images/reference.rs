//! Image names: what a user may write, and the one full form each means (rules of `distribution/reference`).

use std::fmt;

use oci_client::Reference;

use super::{ImageError, Result};

/// A reference in full form: `docker.io/library/x:latest` for `x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference(Reference);

impl ImageReference {
    /// Reads a name as a user writes it.
    ///
    /// # Errors
    /// [`ImageError::InvalidReference`] with the words the kubelet's own parser uses.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason: String| ImageError::InvalidReference { reference: text.to_owned(), reason };
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid("invalid repository name, cannot specify 64-byte hexadecimal strings".to_owned()));
        }
        let error = match text.parse::<Reference>() {
            Ok(reference) => return Ok(Self(reference)),
            Err(error) => error,
        };
        let lower = text.to_ascii_lowercase();
        if lower != text
            && let Ok(reference) = lower.parse::<Reference>()
        {
            let repository = reference.repository();
            let written = text.get(lower.find(repository).unwrap_or(0)..).unwrap_or(text);
            let name = written.get(..repository.len()).filter(|name| name.eq_ignore_ascii_case(repository));
            let name = name.map_or_else(|| format!("library/{}", text.split([':', '@']).next().unwrap_or(text)), str::to_owned);
            return Err(invalid(format!("invalid reference format: repository name ({name}) must be lowercase")));
        }
        let words = error.to_string();
        let prefix = if words.starts_with("invalid reference format") { "" } else { "invalid reference format: " };
        Err(invalid(format!("{prefix}{words}")))
    }

    /// The registry to connect to (`index.docker.io` for `docker.io`).
    pub fn host(&self) -> &str {
        self.0.resolve_registry()
    }

    /// The name to keep in the index: without the tag when there is a digest too, because the digest wins.
    pub fn full(&self) -> String {
        match self.0.digest() {
            Some(digest) => self.with_digest(digest),
            None => self.0.whole(),
        }
    }

    /// Whether it is pinned by a digest.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// `host/repository@digest`.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.0.registry(), self.0.repository())
    }

    /// Whether the registry is on this machine, where plain HTTP is the rule.
    pub fn is_local(&self) -> bool {
        let host = self.0.resolve_registry();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub(super) fn inner(&self) -> &Reference {
        &self.0
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full())
    }
}

/// Whether the text is an image id: `sha256:` and 64 hex digits, or the digits alone.
pub(super) fn as_id(text: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then(|| format!("sha256:{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_docker_library_and_latest() {
        for (written, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("rancher/pause:3.6", "docker.io/rancher/pause:3.6"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", "registry.k8s.io/e2e-test-images/agnhost:2.53"),
        ] {
            assert_eq!(ImageReference::parse(written).unwrap().full(), full, "{written}");
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference = ImageReference::parse(&format!("busybox:1.36@{digest}")).unwrap();
        assert_eq!(reference.full(), format!("docker.io/library/busybox@{digest}"));
    }

    #[test]
    fn upper_case_is_refused_in_kubelet_words() {
        for (written, name) in [("UPPER/Case", "UPPER/Case"), ("Busybox:1", "library/Busybox"), ("example.org/A/b:c", "A/b")] {
            let error = ImageReference::parse(written).unwrap_err().to_string();
            let wanted =
                format!("couldn't parse image name {written:?}: invalid reference format: repository name ({name}) must be lowercase");
            assert_eq!(error, wanted);
        }
        for bad in ["", "a b", "busybox:", "x:ta g", &"a".repeat(64)] {
            assert!(ImageReference::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn loopback_registries_are_local() {
        for (name, local) in [("localhost:5000/x", true), ("127.0.0.1:5000/x", true), ("example.org/x", false), ("x", false)] {
            assert_eq!(ImageReference::parse(name).unwrap().is_local(), local, "{name}");
        }
    }
}
