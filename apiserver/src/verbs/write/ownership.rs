//! Which fields a write owns, asked in whatever versions somebody owns some.

use coracle_schema::managed::{self, Path, Who};

use super::{Made, Writing};
use crate::{
    registry::{Object, meta},
    wire::Status,
};

impl Writing<'_> {
    /// What `compute` makes once all that it needs to know of other versions is known.
    pub(super) async fn computed(
        &mut self,
        compute: &mut impl FnMut(&mut Self, Option<&Object>) -> Result<Made, Status>,
        old: Option<&Object>,
    ) -> Result<Made, Status> {
        loop {
            let made = compute(self, old);
            if !self.elsewhere.ask().await {
                return made;
            }
        }
    }

    pub(super) fn reset(&self) -> &'static [Path] {
        let id = &self.kind.id;
        managed::reset_fields(&id.group, &id.resource, &self.call.info.subresource, self.kind.has_status())
    }

    /// Notes which fields this write owns.
    pub(super) async fn own(&self, old: Option<&Object>, new: &mut Object) {
        let (version, now) = (self.kind.api_version(), meta::time_text(self.api.now()));
        let sent = self.elsewhere.is_asked().then(|| new.clone());
        loop {
            managed::record_update(&self.kind.schema, old.map(Object::value), new.value_mut(), &self.who(&version, &now));
            match &sent {
                Some(sent) if self.elsewhere.ask().await => *new = sent.clone(),
                _ => break,
            }
        }
        if self.unowned {
            new.metadata_mut().remove("managedFields");
        }
    }

    /// Who writes, for managed fields.
    pub fn who<'w>(&'w self, api_version: &'w str, now: &'w str) -> Who<'w> {
        Who {
            manager: &self.options.field_manager,
            api_version,
            kind: &self.kind.gvk.kind,
            subresource: &self.call.info.subresource,
            now,
            reset: self.reset(),
            versions: self.elsewhere.versions(),
        }
    }
}
