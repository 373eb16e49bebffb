//! Levels, versions and the labels by which a namespace chooses them (`pod-security-admission/api`).

use std::{collections::BTreeMap, fmt, str::FromStr};

use coracle_schema::{FieldErrors, go};

/// How strict; the stricter the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Level {
    /// Everything goes.
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// The Kubernetes release whose rules are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Version {
    #[default]
    Latest,
    /// `v1.N`
    Minor(u32),
}

/// `baseline:v1.30`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Version,
}

/// What a namespace asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Policy {
    /// What is refused.
    pub(super) enforce: LevelVersion,
    /// What is noted for the audit.
    pub(super) audit: LevelVersion,
    /// What the client is warned of.
    pub(super) warn: LevelVersion,
}

impl Level {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Privileged, Self::Baseline, Self::Restricted];
        all.into_iter().find(|level| level.text() == text).ok_or("must be one of privileged, baseline, restricted")
    }
}

impl Version {
    /// The minor version; none for the newest.
    pub(super) fn minor(self) -> Option<u32> {
        match self {
            Self::Latest => None,
            Self::Minor(minor) => Some(minor),
        }
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let digits = text.strip_prefix("v1.").filter(|d| d.bytes().all(|b| b.is_ascii_digit()) && (*d == "0" || !d.starts_with('0')));
        digits.and_then(|d| d.parse().ok()).map(Self::Minor).ok_or(r#"must be "latest" or "v1.x""#)
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level.text()),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.text()),
        }
    }
}

/// Of the labels, and of what the audit is told.
pub(super) const PREFIX: &str = "pod-security.kubernetes.io/";

impl Policy {
    /// What the labels of a namespace ask for beside the defaults, and what is wrong with them. A wrong label enforces the strictest of the newest, and
    /// audits and warns of nothing.
    pub(super) fn of(labels: &BTreeMap<String, String>, defaults: Self) -> (Self, FieldErrors) {
        let mut policy = defaults;
        let mut errors = FieldErrors::none();
        let enforces = set(&mut policy.enforce, labels, "enforce", Level::Restricted, &mut errors);
        set(&mut policy.audit, labels, "audit", Level::Privileged, &mut errors);
        set(&mut policy.warn, labels, "warn", Level::Privileged, &mut errors);
        let has = |mode: &str| labels.contains_key(&format!("{PREFIX}{mode}"));
        // Who enforces wants to be warned of controllers, too, unless told otherwise.
        if enforces && !has("warn") && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if !has("warn-version") {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// Nothing is to be checked.
    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }
}

/// Reads the two labels of a mode; whether a level was given that makes sense.
fn set(mode: &mut LevelVersion, labels: &BTreeMap<String, String>, name: &str, else_level: Level, errors: &mut FieldErrors) -> bool {
    let mut level_given = false;
    let refuse = |label: &str, value: &str, why: &str, errors: &mut FieldErrors| {
        errors.invalid(format!("metadata.labels[{label}]"), go::quoted(value), why);
    };
    let label = format!("{PREFIX}{name}");
    if let Some(text) = labels.get(&label) {
        let level = text.parse::<Level>();
        level_given = level.is_ok();
        mode.level = level.unwrap_or_else(|why| {
            refuse(&label, text, why, errors);
            else_level
        });
    }
    let label = format!("{label}-version");
    if let Some(text) = labels.get(&label) {
        mode.version = text.parse().unwrap_or_else(|why| {
            refuse(&label, text, why, errors);
            Version::Latest
        });
    }
    level_given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(labels: &[(&str, &str)]) -> (Policy, Vec<String>) {
        let labels = labels.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect();
        let (policy, errors) = Policy::of(&labels, Policy::default());
        (policy, errors.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn who_enforces_is_warned_of_the_same() {
        let (policy, errors) = policy(&[("enforce", "baseline"), ("enforce-version", "v1.30")]);
        assert!(errors.is_empty());
        assert_eq!((policy.enforce.to_string(), policy.warn), ("baseline:v1.30".to_owned(), policy.enforce));
        assert_eq!(policy.audit.to_string(), "privileged:latest");
    }

    #[test]
    fn an_own_warning_level_stays() {
        let (policy, _) = policy(&[("enforce", "restricted"), ("warn", "privileged")]);
        assert_eq!(policy.warn.level, Level::Privileged);
    }

    #[test]
    fn wrong_labels_are_named_and_enforce_most() {
        let (policy, errors) = policy(&[("enforce", "strict"), ("warn", "x"), ("audit-version", "v1.01")]);
        assert_eq!((policy.enforce.to_string(), policy.warn.level), ("restricted:latest".to_owned(), Level::Privileged));
        assert_eq!(
            errors,
            [
                r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#,
                r#"metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: "v1.01": must be "latest" or "v1.x""#,
                r#"metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: "x": must be one of privileged, baseline, restricted"#,
            ]
        );
    }
}
