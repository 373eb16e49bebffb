//! Semantic versions (apiserver `pkg/cel/library/semverlib.go`, which uses `blang/semver`).

use std::cmp::Ordering;

use crate::EvalError;

/// A version.
#[derive(Clone, Debug)]
pub struct Semver {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) patch: u64,
    pre: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

fn number(text: &str, what: &str) -> Result<u64, EvalError> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(EvalError::new(format!("Invalid character(s) found in {} number {text:?}", what.to_lowercase())));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(EvalError::new(format!("{what} number must not contain leading zeroes {text:?}")));
    }
    text.parse().map_err(|_| {
        let why = if text.is_empty() { "invalid syntax" } else { "value out of range" };
        EvalError::new(format!("strconv.ParseUint: parsing {text:?}: {why}"))
    })
}

fn word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn pre_release(text: &str) -> Result<Part, EvalError> {
    if text.is_empty() {
        return Err(EvalError::new("Prerelease is empty"));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(EvalError::new(format!("Numeric PreRelease version must not contain leading zeroes {text:?}")));
        }
        return number(text, "").map(Part::Number);
    }
    if !word(text) {
        return Err(EvalError::new(format!("Invalid character(s) found in prerelease {text:?}")));
    }
    Ok(Part::Text(text.to_string()))
}

impl Semver {
    /// Parses `major.minor.patch-pre+build`; if `normalize`, a `v`, leading zeros and missing parts are mended.
    pub(crate) fn parse(text: &str, normalize: bool) -> Result<Semver, EvalError> {
        if normalize { Semver::strict(&normalized(text)?) } else { Semver::strict(text) }
    }

    fn strict(text: &str) -> Result<Semver, EvalError> {
        if text.is_empty() {
            return Err(EvalError::new("Version string empty"));
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(EvalError::new("No Major.Minor.Patch elements found"));
        };
        let (major, minor) = (number(major, "Major")?, number(minor, "Minor")?);
        let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
        let (patch, pre) = rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
        let patch = number(patch, "Patch")?;
        let pre = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(pre_release).collect())?;
        for part in build.iter().flat_map(|build| build.split('.')) {
            if part.is_empty() {
                return Err(EvalError::new("Build meta data is empty"));
            }
            if !word(part) {
                return Err(EvalError::new(format!("Invalid character(s) found in build meta data {part:?}")));
            }
        }
        Ok(Semver { major, minor, patch, pre })
    }

    pub(crate) fn cmp(&self, other: &Semver) -> Ordering {
        let numbers = (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch));
        numbers.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            // What is released is newer than what is not yet.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

impl PartialEq for Semver {
    fn eq(&self, other: &Semver) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

fn normalized(text: &str) -> Result<String, EvalError> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            if part.len() <= 1 {
                return part.to_string();
            }
            let bare = part.trim_start_matches('0');
            if bare.starts_with(|c: char| c.is_ascii_digit()) { bare.to_string() } else { format!("0{bare}") }
        })
        .collect();
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err(EvalError::new("short version cannot contain PreRelease/Build meta data"));
    }
    parts.resize(3, "0".to_string());
    Ok(parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_mended() {
        let v = |text| Semver::parse(text, false).unwrap();
        assert!(v("1.2.3").cmp(&v("1.2.3-rc.1")) == Ordering::Greater);
        assert!(v("1.2.3-rc.2").cmp(&v("1.2.3-rc.10")) == Ordering::Less);
        assert!(v("1.2.3-1").cmp(&v("1.2.3-a")) == Ordering::Less);
        assert_eq!(v("1.2.3+a"), v("1.2.3+b"));
        assert_eq!(Semver::parse("v01.2", true).unwrap(), v("1.2.0"));
        for wrong in ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.x", "1.2.3-", "1.2.3+", "1.2.3-é"] {
            assert!(Semver::parse(wrong, false).is_err(), "{wrong}");
        }
    }
}
