//! Keys as they are here and as they are in etcd.

use crate::{Key, StoreError};

/// What keys begin with on both sides.
pub(super) struct Keys {
    /// Here, without a trailing slash.
    root: String,
    /// In etcd, without a trailing slash.
    prefix: String,
}

impl Keys {
    /// The prefix is taken as upstream takes it: with a slash before it and none behind.
    pub(super) fn new(root: &str, prefix: &str) -> Result<Self, String> {
        let inner = prefix.trim_matches('/');
        if inner.is_empty() || inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!("{prefix:?} is not a prefix of keys such as /registry"));
        }
        Ok(Self { root: root.trim_end_matches('/').to_owned(), prefix: format!("/{inner}") })
    }

    /// A key as etcd knows it.
    pub(super) fn there(&self, key: &str) -> Vec<u8> {
        let rest = key.strip_prefix(self.root.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/') || self.root.is_empty());
        let rest = rest.unwrap_or(key);
        [self.prefix.as_bytes(), rest.as_bytes()].concat()
    }

    /// The key here of something of our own, under the prefix in etcd.
    pub(super) fn of_ours(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    /// A key of etcd as it is known here.
    pub(super) fn here(&self, key: &[u8]) -> Result<Key, StoreError> {
        let rest = key.strip_prefix(self.prefix.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok());
        let rest = rest.ok_or_else(|| StoreError::Corrupt(format!("a key of etcd is not text: {}", key.escape_ascii())))?;
        Ok(Key::from(format!("{}{rest}", self.root)))
    }

    /// The first key of those that begin with `prefix`, and the first behind them. All keys are those under our prefix in etcd.
    pub(super) fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        let mut start = self.there(prefix);
        if start == self.prefix.as_bytes() {
            start.push(b'/');
        }
        let mut end = start.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return (start, end);
            }
        }
        // Every key from the start on.
        (start, vec![0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_there_and_back() {
        let keys = Keys::new("/registry", "some/where/").unwrap();
        assert_eq!(keys.there("/registry/pods/a/b"), b"/some/where/pods/a/b");
        assert_eq!(keys.here(b"/some/where/pods/a/b").unwrap().as_str(), "/registry/pods/a/b");
        assert_eq!(keys.range(""), (b"/some/where/".to_vec(), b"/some/where0".to_vec()));
        assert_eq!(keys.range("/registry/"), (b"/some/where/".to_vec(), b"/some/where0".to_vec()));
        assert_eq!(keys.range("/registry/pods/").0, b"/some/where/pods/");
        assert!(keys.here(b"/some/where/\xff").is_err());
        assert!(Keys::new("", "/").is_err() && Keys::new("", "/a//b").is_err());
    }

    #[test]
    fn without_a_root_the_prefix_stands_before_every_key() {
        let keys = Keys::new("", "/test").unwrap();
        assert_eq!(keys.there("/p"), b"/test/p");
        assert_eq!(keys.here(b"/test/p").unwrap().as_str(), "/p");
        assert_eq!(keys.range(""), (b"/test/".to_vec(), b"/test0".to_vec()));
    }
}
