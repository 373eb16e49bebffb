//! The versions besides that of a request in which fields of an object may be owned, and how it is converted into them.
//!
//! Who owns what is told without waiting for anybody. Where a webhook converts, it is told in rounds: what a round needed and had not is
//! asked for, and the round is done again.

use std::{borrow::Cow, sync::Arc};

use coracle_schema::{
    SchemaRef,
    managed::{Unconverted, Versions},
};
use coracle_tree::Value;
use parking_lot::Mutex;

use crate::registry::{Catalog, Conversion, Converter, Kind, convert};

/// The other versions of a kind.
#[derive(Debug)]
pub(super) enum Elsewhere {
    /// There are none.
    Nowhere,
    /// Built-in ones; that of the request is among them.
    BuiltIn(BuiltIn),
    /// Those of a custom resource.
    Custom(Asked),
}

impl Elsewhere {
    /// Those of `kind`.
    pub(super) fn of(kind: &Arc<Kind>, catalog: &Catalog) -> Self {
        match &kind.conversion {
            Some(Conversion::Versions(converter)) => {
                Self::Custom(Asked { converter: Arc::clone(converter), known: Mutex::default(), wanted: Mutex::default() })
            }
            _ => {
                let kinds = convert::siblings(kind, catalog);
                if kinds.is_empty() { Self::Nowhere } else { Self::BuiltIn(BuiltIn(kinds)) }
            }
        }
    }

    /// As managed fields ask for them.
    pub(super) fn versions(&self) -> Option<&dyn Versions> {
        match self {
            Self::Nowhere => None,
            Self::BuiltIn(built_in) => Some(built_in),
            Self::Custom(asked) => Some(asked),
        }
    }

    /// Whether somebody outside converts.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Custom(asked) if !asked.converter.is_local())
    }

    /// Has converted what was needed and not known; whether there was anything.
    pub(super) async fn ask(&self) -> bool {
        match self {
            Self::Custom(asked) => asked.ask().await,
            _ => false,
        }
    }
}

/// The versions of a built-in kind.
pub(super) struct BuiltIn(Vec<Arc<Kind>>);

impl std::fmt::Debug for BuiltIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|kind| kind.api_version())).finish()
    }
}

impl BuiltIn {
    fn kind(&self, api_version: &str) -> Result<&Arc<Kind>, Unconverted> {
        self.0.iter().find(|kind| kind.api_version() == api_version).ok_or(Unconverted::Missing)
    }
}

impl Versions for BuiltIn {
    fn schema(&self, api_version: &str) -> Result<&SchemaRef, Unconverted> {
        self.kind(api_version).map(|kind| &*kind.schema)
    }

    fn convert<'o>(&self, object: &'o Value, api_version: &str) -> Result<Cow<'o, Value>, Unconverted> {
        let said = version_of(object);
        if said == api_version {
            return Ok(Cow::Borrowed(object));
        }
        let made = convert::renamed(self.kind(said)?, self.kind(api_version)?, object);
        made.map(Cow::Owned).map_err(|status| Unconverted::Failed(status.message))
    }
}

/// The versions of a custom resource, and what a webhook has converted so far.
pub(super) struct Asked {
    converter: Arc<dyn Converter>,
    known: Mutex<Vec<Answered>>,
    wanted: Mutex<Vec<(Value, String)>>,
}

struct Answered {
    object: Value,
    version: String,
    made: Result<Value, String>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Asked").field(&self.converter.versions()).finish()
    }
}

impl Asked {
    async fn ask(&self) -> bool {
        let wanted = std::mem::take(&mut *self.wanted.lock());
        let any = !wanted.is_empty();
        for (object, version) in wanted {
            let made = self.converter.convert(object.clone(), &version).await.map_err(|status| status.message);
            self.known.lock().push(Answered { object, version, made });
        }
        any
    }
}

impl Versions for Asked {
    fn schema(&self, api_version: &str) -> Result<&SchemaRef, Unconverted> {
        self.converter.versions().schema(api_version)
    }

    fn convert<'o>(&self, object: &'o Value, api_version: &str) -> Result<Cow<'o, Value>, Unconverted> {
        if self.converter.is_local() || version_of(object) == api_version {
            return Ok(Cow::Borrowed(object));
        }
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        if let Some(answered) = self.known.lock().iter().find(|known| known.version == api_version && known.object == object) {
            return answered.made.clone().map(Cow::Owned).map_err(Unconverted::Failed);
        }
        let mut wanted = self.wanted.lock();
        let question = (object, api_version.to_owned());
        if !wanted.contains(&question) {
            wanted.push(question);
        }
        Err(Unconverted::Failed("not converted yet".to_owned()))
    }
}

fn version_of(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}
