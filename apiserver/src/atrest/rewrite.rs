//! Everything written anew that another provider or key would write now (`coracle secrets reencrypt`).

use coracle_store::{Durability, Expect, Key, Page, StoreError, Write};
use serde::Serialize;

use super::AtRest;

/// Where all objects are.
const ALL: &str = "/registry/";

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// Objects of resources that the configuration names.
    pub(crate) seen: usize,
    /// Those that were written again.
    pub(crate) rewritten: usize,
    /// Those that could not be, and why.
    pub(crate) failed: Vec<String>,
    /// Where the next step goes on; empty at the end.
    #[serde(rename = "continue")]
    pub(crate) after: String,
}

impl AtRest {
    /// Looks at up to `limit` objects after a key. What is fresh stays as it is, so that who begins again loses nothing.
    pub(crate) async fn rewrite(&self, after: &str, limit: usize) -> Result<Step, StoreError> {
        let page = Page { after: (!after.is_empty()).then(|| Key::from(after)), limit: Some(limit) };
        let entries = self.store.range(ALL, page).await?.value;
        let mut step = Step::default();
        if let Some(last) = entries.last().filter(|_| entries.len() == limit) {
            last.key.as_str().clone_into(&mut step.after);
        }
        for entry in entries {
            let key = &entry.key;
            if !self.names(key) {
                continue;
            }
            step.seen += 1;
            let opened = match self.open_value(key, &entry.value).await {
                Ok(opened) if !opened.stale => continue,
                Ok(opened) => opened,
                Err(why) => {
                    step.failed.push(format!("{key}: {why}"));
                    continue;
                }
            };
            let sealed = match self.seal_value(key, &opened.plain) {
                Ok(sealed) => sealed,
                Err(why) => {
                    step.failed.push(format!("{key}: {why}"));
                    continue;
                }
            };
            let ttl = self.places.time_to_live(key.as_str());
            // Strict whatever it is: the key that sealed it until now may be taken away next.
            let write = Write::Put { value: sealed.into(), ttl, durability: Durability::Strict };
            match self.store.commit(key, Expect::At(entry.revision), write).await {
                Ok(_) => step.rewritten += 1,
                // Somebody wrote or deleted it meanwhile: it is as it should be.
                Err(StoreError::Moved { .. } | StoreError::Absent) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(step)
    }
}
