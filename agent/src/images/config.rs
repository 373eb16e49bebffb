//! The image configuration: the part of `image-spec/config.md` (and docker's equal) that running a container needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ImageError, Result};

/// What an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `User`: name or number, with an optional `:group`.
    pub user: String,
    /// `Env`, each `NAME=value`.
    pub env: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `StopSignal`, empty = SIGTERM.
    pub stop_signal: String,
    /// Diff ids of the layers, lowest first.
    pub layers: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    config: Option<Section>,
    #[serde(default)]
    rootfs: RootFs,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Section {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    #[serde(rename = "Volumes")]
    _volumes: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize, Default)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl ImageConfig {
    /// Reads the JSON.
    ///
    /// # Errors
    /// [`ImageError::Corrupt`] when it is not an image configuration for Linux.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let file: File = serde_json::from_slice(json).map_err(|e| ImageError::Corrupt(format!("image configuration: {e}")))?;
        if !file.os.is_empty() && file.os != "linux" {
            return Err(ImageError::Corrupt(format!("image is for operating system {:?}, not linux", file.os)));
        }
        for id in &file.rootfs.diff_ids {
            super::disk::hex_of(id)?;
        }
        let section = file.config.unwrap_or_default();
        Ok(Self {
            user: section.user.unwrap_or_default(),
            env: section.env.unwrap_or_default(),
            entrypoint: section.entrypoint.unwrap_or_default(),
            cmd: section.cmd.unwrap_or_default(),
            working_dir: section.working_dir.unwrap_or_default(),
            stop_signal: section.stop_signal.unwrap_or_default(),
            layers: file.rootfs.diff_ids,
        })
    }

    /// Numeric user and user name, as CRI reports them (`runAsNonRoot` is checked with these).
    pub fn user_ids(&self) -> (Option<i64>, String) {
        let user = self.user.split(':').next().unwrap_or_default();
        match (user.is_empty(), user.parse::<i64>()) {
            (true, _) => (Some(0), String::new()),
            (false, Ok(uid)) => (Some(uid), String::new()),
            (false, Err(_)) => (None, user.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_sections_are_empty() {
        let config = ImageConfig::parse(br#"{"os":"linux","config":{"Cmd":null,"Env":["A=1"],"User":"web:www"},"rootfs":{}}"#).unwrap();
        assert_eq!(config.env, ["A=1"]);
        assert!(config.cmd.is_empty() && config.layers.is_empty());
        assert_eq!(config.user_ids(), (None, "web".to_owned()));
        assert_eq!(ImageConfig::parse(br#"{"rootfs":{}}"#).unwrap().user_ids(), (Some(0), String::new()));
    }

    #[test]
    fn a_diff_id_that_is_a_path_is_refused() {
        assert!(ImageConfig::parse(br#"{"rootfs":{"diff_ids":["sha256:../../etc"]}}"#).is_err());
        assert!(ImageConfig::parse(br#"{"os":"windows","rootfs":{}}"#).is_err());
    }
}
