//! Which plugins run, in which order (`pkg/kubeapiserver/options/plugins.go`).

use std::sync::Arc;

use super::{
    Admission, namespace::NamespaceLifecycle, priority::Priority, serviceaccount::ServiceAccount, tolerations::DefaultTolerationSeconds,
};
use crate::registry::Reader;

/// What plugins need, and which are wanted.
pub struct Options {
    /// Where plugins look at other objects.
    pub reader: Arc<dyn Reader>,
    /// `--enable-admission-plugins`: beyond those that are on anyway.
    pub enable: Vec<String>,
    /// `--disable-admission-plugins`
    pub disable: Vec<String>,
}

/// The plugins in upstream's order. The error names an unknown plugin.
pub fn chain(options: &Options) -> Result<Vec<Arc<dyn Admission>>, String> {
    let reader = || options.reader.clone();
    let all: Vec<(bool, Arc<dyn Admission>)> = vec![
        (true, Arc::new(NamespaceLifecycle { reader: reader() })),
        (true, Arc::new(ServiceAccount { reader: reader() })),
        (true, Arc::new(Priority { reader: reader() })),
        (true, Arc::new(DefaultTolerationSeconds::default())),
    ];
    Ok(all.into_iter().map(|(_, plugin)| plugin).collect())
}
