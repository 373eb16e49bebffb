//! Feature gates that may be switched off (`--feature-gates`). What upstream makes switchable is otherwise fixed at its default; these few change
//! what clients see, and cost nothing where they are on.

use std::collections::BTreeSet;

/// Those that may be.
const SWITCHABLE: [&str; 6] =
    ["APIResponseCompression", "ComponentFlagz", "ComponentStatusz", "PodTopologyLabelsAdmission", "RemoteRequestHeaderUID", "WatchList"];

/// Which are switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates(BTreeSet<&'static str>);

impl Gates {
    /// Switches one; whether it may be switched.
    pub fn switch(&mut self, name: &str, on: bool) -> bool {
        let Some(name) = SWITCHABLE.into_iter().find(|known| *known == name) else { return false };
        if on {
            self.0.remove(name);
        } else {
            self.0.insert(name);
        }
        true
    }

    /// Switches all but those that were switched one by one (`AllBeta`: those that may be switched are all beta).
    pub fn switch_others(&mut self, on: bool, named: &[&str]) {
        SWITCHABLE.into_iter().filter(|name| !named.contains(name)).for_each(|name| {
            self.switch(name, on);
        });
    }

    /// Whether one that may be switched is on; `true` of all others.
    pub fn is_on(&self, name: &str) -> bool {
        !self.0.contains(name)
    }
}
