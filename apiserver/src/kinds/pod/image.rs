//! What an image reference says about pulling (upstream `util/parsers`).

/// The pull policy of an image that names none: `latest`, named or implied, is always pulled.
pub(crate) fn pull_policy(image: &str) -> &'static str {
    if tag(image) == "latest" && is_reference(image) { "Always" } else { "IfNotPresent" }
}

/// Whether the repository is one: a registry if there is one, and a path of lower case; what is none has no tag either.
fn is_reference(image: &str) -> bool {
    const LONGEST: usize = 255;
    let name = image.split('@').next().unwrap_or(image);
    let end = name.rfind('/').unwrap_or(0);
    let name = name[end..].find(':').map_or(name, |at| &name[..end + at]);
    let is_registry = |first: &str| first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase());
    let path = name.split_once('/').filter(|(first, _)| is_registry(first)).map_or(name, |(_, path)| path);
    let is_end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let is_part = |part: &str| {
        let inner = part.bytes().all(|b| is_end(Some(b)) || b"._-".contains(&b));
        inner && is_end(part.bytes().next()) && is_end(part.bytes().last())
    };
    name.len() <= LONGEST && path.split('/').all(is_part)
}

/// The tag; `latest` when there is neither tag nor digest, empty when there is only a digest or no image.
fn tag(image: &str) -> &str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag,
        None if digest || image.is_empty() => "",
        None => "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_is_always_pulled() {
        for image in ["nginx", "nginx:latest", "registry.example.com:5000/a/nginx"] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
        for image in ["nginx:1.25", "nginx@sha256:abc", "registry.example.com:5000/a:v1", ""] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }

    #[test]
    fn what_is_no_reference_has_no_tag() {
        for image in ["x.Y", "Nginx", "a//b", "a/-b", "a b", &"a".repeat(300)] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
        for image in ["Registry/nginx", "localhost/a", "registry.example.com/a/b_c-d.e", "library/nginx:latest"] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
    }
}
