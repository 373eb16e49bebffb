//! The one write path: create, update, patch, apply and scale differ only in how they compute the new object from the old.
//!
//! decode → default → own fields → mutating admission → claim → prepare → validate → validating admission → commit → answer.
//! The loop re-reads when somebody else was first; whoever sent a resource version then gets the conflict.

mod body;
mod outcome;
mod ownership;

pub use self::outcome::Outcome;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use coracle_schema::{
    FieldErrors,
    decode::{self, FieldValidation},
    managed::{self, Path},
    structural,
    validate::{self, Rigour},
};
use coracle_store::{Expect, Key, StoreError, cache::Freshness};
use coracle_tree::Value;

use super::{Api, Call, delete::Admitted, elsewhere::Elsewhere, scale};
use crate::{
    admission::{self, Attempt, Given, Operation},
    registry::{
        Kind, Object, Part,
        claims::Claim,
        items, meta, rules,
        storage::{DEFINITIONS, Storage, Stored, WriteError, Written, bytes_of, store_error},
    },
    request::{RequestInfo, query::WriteOptions},
    wire::{Status, Wanted},
};

/// How often a write that lost a race reads again before it gives up: of as many writers of one object each gets through, since one wins
/// every race. Upstream goes on until the request's time is up.
const RETRIES: usize = 300;
/// Bytes of a body whose object is not too large with what is noted of its owners.
const SMALL: usize = 256 << 10;
/// How many generated names are tried (`RetryGenerateName`).
const NAMES: usize = 8;

/// What owns the fields that the server itself writes.
const FIELD_MANAGER: &str = "kube-apiserver";

/// What upstream's registry of built-in types calls itself.
pub(super) const SCHEME: &str = "pkg/runtime/scheme.go:111";

const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// An object computed from what was there.
pub struct Made {
    /// Decoded and defaulted, in the kind's version.
    pub object: Object,
    /// Its managed fields are up to date (apply).
    pub owned: bool,
}

/// One write request.
pub struct Writing<'a> {
    /// What verbs work with.
    pub api: &'a Api,
    /// The request.
    pub call: &'a Call,
    /// The kind whose object is written.
    pub kind: &'a Arc<Kind>,
    /// Which part of it.
    pub part: Part<'a>,
    /// Options.
    pub options: WriteOptions,
    /// Whether admission looks at it.
    pub admitted: Admitted,
    /// Texts for `Warning:` headers so far.
    pub warnings: Vec<String>,
    /// The other versions in which somebody may own fields.
    elsewhere: Elsewhere,
    /// With what is noted of owners the object is too large: it goes without.
    unowned: bool,
    /// How the client is to be told, once that was asked for.
    wanted: OnceLock<Wanted>,
}

impl<'a> Writing<'a> {
    /// A write to `kind`, or to the part of it that the request's subresource is.
    pub fn new(api: &'a Api, call: &'a Call, kind: &'a Arc<Kind>, options: WriteOptions) -> Self {
        let part = match call.info.subresource.as_str() {
            "" => Part::Whole,
            "status" => Part::Status,
            other => Part::Other(other),
        };
        let elsewhere = Elsewhere::of(kind, &api.storage.catalog());
        Self {
            api,
            call,
            kind,
            part,
            options,
            admitted: Admitted::Now,
            warnings: Vec::new(),
            elsewhere,
            unowned: false,
            wanted: OnceLock::new(),
        }
    }

    /// A write of the server's own parts ([`Call::of_server`]).
    pub fn of_server(api: &'a Api, call: &'a Call, kind: &'a Arc<Kind>) -> Self {
        let field_manager = FIELD_MANAGER.to_owned();
        Self::new(api, call, kind, WriteOptions { field_manager, field_validation: FieldValidation::Ignore, ..WriteOptions::default() })
    }

    /// Creates the object.
    pub async fn create(&mut self, object: Object) -> Result<Outcome, Status> {
        let generated = object.name().is_empty() && !object.text("/metadata/generateName").is_empty();
        let spare = (self.call.body.len() > SMALL).then(|| object.clone());
        match self.create_named(object, generated).await {
            Err(Lost::Refused(status)) => Err(status),
            Err(Lost::Race(name)) => Err(Status::already_exists(self.kind.subject(&name))),
            Err(Lost::TooLarge(status)) => {
                self.unowned = true;
                let Some(object) = spare else { return Err(status) };
                self.create_named(object, generated).await.map_err(|lost| match lost {
                    Lost::Race(name) => Status::already_exists(self.kind.subject(&name)),
                    Lost::Refused(status) | Lost::TooLarge(status) => status,
                })
            }
            Ok(outcome) => Ok(outcome),
        }
    }

    /// Creates the object, under another name as long as a generated one is taken.
    async fn create_named(&mut self, object: Object, generated: bool) -> Result<Outcome, Lost> {
        for _ in 1..if generated { NAMES } else { 1 } {
            match self.commit_new(Made { object: object.clone(), owned: false }).await {
                Err(Lost::Race(_)) => {}
                settled => return settled,
            }
        }
        self.commit_new(Made { object, owned: false }).await
    }

    /// Changes the object named by the request: `compute` makes the new one from the old, or, where nothing is there and `creates` says
    /// so, from nothing.
    pub async fn change(
        &mut self,
        creates: bool,
        mut compute: impl FnMut(&mut Self, Option<&Object>) -> Result<Made, Status>,
    ) -> Result<Outcome, Status> {
        let (namespace, name) = (self.call.namespace_of(self.kind), self.call.info.name.as_str());
        for _ in 0..RETRIES {
            let old = self.api.storage.read(self.kind, namespace, name, Freshness::Latest).await?;
            let Some(old) = old else {
                if !creates {
                    return Err(Status::not_found(self.kind.subject(name)));
                }
                let made = self.computed(&mut compute, None).await?;
                self.may_create(&made.object).await?;
                match self.commit_new(made).await {
                    Err(Lost::Race(_)) => continue,
                    Err(Lost::TooLarge(_)) => {
                        self.unowned = true;
                        continue;
                    }
                    Err(Lost::Refused(status)) => return Err(status),
                    Ok(outcome) => return Ok(outcome),
                }
            };
            let made = self.computed(&mut compute, Some(&old.object)).await?;
            match self.commit_change(made, old).await {
                Err(Lost::Race(_)) => {}
                Err(Lost::TooLarge(_)) => self.unowned = true,
                Err(Lost::Refused(status)) => return Err(status),
                Ok(outcome) => return Ok(outcome),
            }
        }
        Err(Status::conflict(self.kind.subject(name), MODIFIED))
    }

    /// Creating by PUT or apply needs what creating needs.
    async fn may_create(&self, object: &Object) -> Result<(), Status> {
        if !object.uid().is_empty() {
            let why = match self.replaces() {
                true => self.other_uid(object.uid(), ""),
                false => format!("uid mismatch: the provided object specified uid {}, and no existing object was found", object.uid()),
            };
            return Err(Status::conflict(self.kind.subject(&self.call.info.name), &why));
        }
        let mut info = RequestInfo::clone(&self.call.info);
        "create".clone_into(&mut info.verb);
        self.api.authorizer.authorize(&self.call.user, &info).await
    }

    async fn commit_new(&mut self, made: Made) -> Result<Outcome, Lost> {
        let Made { mut object, owned } = made;
        let kind = self.kind;
        let namespace = self.call.namespace_of(kind);
        meta::match_request(&mut object, kind, namespace, &self.call.info.name)?;
        meta::wipe(&mut object);
        if !owned {
            self.drop_doubled_owners(&mut object, false);
            self.own(None, &mut object).await;
        }
        if kind.is_terminating() {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status::forbidden(kind.subject(object.name()), why).into());
        }
        self.admit_mutating(Operation::Create, &mut object, None).await?;
        self.drop_doubled_owners(&mut object, true);
        meta::match_request(&mut object, kind, namespace, "")?;
        // What is no version is none: upstream asks for the number.
        let version_set = object.resource_version().parse().is_ok_and(|version: u64| version > 0);
        meta::fill_new(&mut object, kind, self.api.now());
        let mut claim = self.api.claims.take(kind, &mut object, None, self.options.dry_run).await?;
        if let Err(refused) = self.settle_new(&mut object).await {
            claim.give_back().await;
            return Err(refused.into());
        }
        if self.options.dry_run {
            return Ok(Outcome::created(Storage::as_written(kind, &object).await?));
        }
        // What is only tried never reaches the storage that minds.
        if version_set {
            claim.give_back().await;
            return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created").into());
        }
        let key = kind.key(namespace, object.name()).ok_or_else(Status::no_such_path)?;
        let ttl = kind.rules.policy().ttl_seconds.map(Duration::from_secs);
        let name = object.name().to_owned();
        claim.sent(&object, None);
        let message = self.message(&object);
        match self.api.storage.put(kind, &key, Expect::Absent, object, ttl).await {
            Ok(Written { wire, revision }) => {
                claim.keep().await;
                Ok(Outcome::created(wire).told(message, revision))
            }
            Err(WriteError::Store(StoreError::Exists { .. } | StoreError::Moved { .. })) => {
                claim.give_back().await;
                Err(Lost::Race(name))
            }
            Err(other) => {
                unsettled(claim, &other).await;
                Err(self.lost(other, owned, &name))
            }
        }
    }

    /// What is done with a new object once it has what only it may have: upstream does so first, for what admission sees (`Store.Create`).
    async fn settle_new(&mut self, object: &mut Object) -> Result<(), Status> {
        let kind = self.kind;
        if kind.has_status() && !kind.traits.status_on_create {
            kind.reset_status(object);
        }
        kind.rules.prepare(object, None, self.part);
        let now = meta::time_text(self.api.now());
        kind.rules.note_time(object, None, self.part, &now);
        kind.rules.stamp(object, None, &now);
        kind.rules.note_creator(object, &self.call.user);
        let metadata = meta::validate(object, None, kind);
        if kind.rules.metadata_last(object) {
            self.refuse(FieldErrors::none(), object, None)?;
        }
        self.refuse(metadata, object, None)?;
        self.admit_validating(Operation::Create, object, None).await?;
        self.store_lists(object);
        kind.rules.read_back(object);
        Ok(())
    }

    async fn commit_change(&mut self, made: Made, old: Stored) -> Result<Outcome, Lost> {
        let Made { mut object, owned } = made;
        let kind = self.kind;
        meta::match_request(&mut object, kind, self.call.namespace_of(kind), &self.call.info.name)?;
        self.expect_uid(&object, &old.object)?;
        if !owned {
            if self.replaces() {
                self.drop_doubled_owners(&mut object, false);
            }
            self.own(Some(&old.object), &mut object).await;
        }
        self.admit_mutating(Operation::Update, &mut object, Some(&old.object)).await?;
        self.drop_doubled_owners(&mut object, true);
        self.expect_version(&object, &old.object)?;
        meta::match_request(&mut object, kind, self.call.namespace_of(kind), "")?;
        meta::carry_over(&mut object, &old.object);
        object.set_metadata("resourceVersion", old.object.resource_version());
        self.keep_apart(&mut object, &old.object);
        // A status holds nothing.
        let mut claim = match self.part {
            Part::Whole => self.api.claims.take(kind, &mut object, Some(&old.object), self.options.dry_run).await?,
            _ => Claim::none(),
        };
        if let Err(refused) = self.settle_change(&mut object, &old.object).await {
            claim.give_back().await;
            return Err(refused.into());
        }
        self.store_lists(&mut object);
        let same = managed::keep_times_if_unchanged(old.object.value(), object.value_mut());
        let key = kind.key(object.namespace(), object.name()).ok_or_else(Status::no_such_path)?;
        if self.options.dry_run {
            let wire = items::splice(&Storage::as_written(kind, &object).await?, old.revision);
            return Ok(Outcome::changed(wire));
        }
        if same && !self.api.storage.is_stale(kind, &key).await {
            let wire = items::splice(&bytes_of(&object)?, old.revision);
            return Ok(Outcome::changed(wire));
        }
        claim.sent(&object, Some(&old.object));
        let count = kind.rules.counts(&object, &old.object);
        match self.store_change(&key, object, old).await {
            Ok(outcome) => {
                claim.keep().await;
                if let Some(count) = count {
                    count();
                }
                Ok(outcome)
            }
            Err(error) => {
                unsettled(claim, &error).await;
                Err(self.lost(error, owned, &self.call.info.name))
            }
        }
    }

    /// The same of a changed object.
    async fn settle_change(&mut self, object: &mut Object, old: &Object) -> Result<(), Status> {
        let kind = self.kind;
        kind.rules.prepare(object, Some(old), self.part);
        let now = meta::time_text(self.api.now());
        kind.rules.note_time(object, Some(old), self.part, &now);
        kind.rules.stamp(object, Some(old), &now);
        if self.part != Part::Status {
            meta::advance_generation(object, old, kind);
        }
        let mut errors = meta::validate(object, Some(old), kind);
        errors.extend(meta::validate_update(object, old));
        self.refuse(errors, object, Some(old))?;
        self.admit_validating(Operation::Update, object, Some(old)).await?;
        Ok(())
    }

    /// Stores the changed object, or removes it when that was all it waited for.
    async fn store_change(&self, key: &Key, object: Object, old: Stored) -> Result<Outcome, WriteError> {
        let (kind, revision) = (self.kind, old.revision);
        if ends_with_change(kind, &object, &old.object) {
            let revision = self.api.storage.delete(kind, key, revision).await?;
            self.api.claims.release(kind, &old.object).await;
            return Ok(Outcome::changed(items::splice(&bytes_of(&object).map_err(WriteError::Status)?, revision)));
        }
        drop(old);
        let ttl = kind.rules.policy().ttl_seconds.map(Duration::from_secs);
        let message = self.message(&object);
        let Written { wire, revision } = self.api.storage.put(kind, key, Expect::At(revision), object, ttl).await?;
        Ok(Outcome::changed(wire).told(message, revision))
    }

    /// Why a commit did not happen. Who applies minds that its fields are noted (upstream's `isTooLargeError`).
    fn lost(&self, error: WriteError, applied: bool, name: &str) -> Lost {
        match error {
            WriteError::Store(StoreError::Moved { .. } | StoreError::Absent | StoreError::Exists { .. }) => Lost::Race(name.to_owned()),
            WriteError::Store(error @ StoreError::TooLarge { .. }) if !applied && !self.unowned => Lost::TooLarge(store_error(&error)),
            WriteError::Store(error) => Lost::Refused(store_error(&error)),
            WriteError::Status(status) => Lost::Refused(status),
        }
    }

    /// The uid the writer believes the object has, where one was sent.
    fn expect_uid(&self, new: &Object, old: &Object) -> Result<(), Status> {
        if self.replaces() && !new.uid().is_empty() && new.uid() != old.uid() {
            let subject = self.kind.subject(&self.call.info.name);
            return Err(Status::conflict(subject, &self.other_uid(new.uid(), old.uid())));
        }
        Ok(())
    }

    /// The resource version the writer believes the object has, where one was sent. Looked at after admission, as upstream's storage does.
    fn expect_version(&self, new: &Object, old: &Object) -> Result<(), Status> {
        let subject = self.kind.subject(&self.call.info.name);
        match new.resource_version() {
            "" | "0" if self.kind.rules.policy().unconditional_update => Ok(()),
            "" | "0" => {
                let mut errors = FieldErrors::none();
                errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
                Err(Status::invalid(subject, &errors))
            }
            version if version == old.resource_version() => Ok(()),
            _ => Err(Status::conflict(subject, MODIFIED)),
        }
    }

    /// Whether this is a PUT: its uid is a precondition. That of a patch is a field that may not change.
    fn replaces(&self) -> bool {
        self.call.info.verb == "update"
    }

    /// What the storage says of a uid that is not the object's (`Preconditions.Check` of apiserver `storage/interfaces.go`): a dry run is
    /// refused before the key gets its prefix.
    fn other_uid(&self, wanted: &str, found: &str) -> String {
        let key = self.kind.key(self.call.namespace_of(self.kind), &self.call.info.name);
        let key = key.as_ref().map_or("", |key| key.as_str());
        let key = if self.options.dry_run { key.trim_start_matches("/registry") } else { key };
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        format!("StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}")
    }

    /// Puts back what this endpoint does not write.
    fn keep_apart(&self, new: &mut Object, old: &Object) {
        match self.part {
            Part::Whole => {
                for path in self.reset() {
                    restore(new.value_mut(), old.value(), path);
                }
            }
            Part::Status => {
                // What a kind keeps of its own status is in its rules. Where metadata is not reset, a status may change finalizers and owners.
                for path in self.reset().iter().filter(|path| path.first() != Some(&"status")) {
                    if *path == ["metadata"] {
                        meta::keep_metadata(new, old);
                    } else {
                        restore(new.value_mut(), old.value(), path);
                    }
                }
            }
            Part::Other(_) => {}
        }
    }

    /// What becomes of lists without items when the object is stored. Definitions are stored as JSON upstream, which keeps them.
    fn store_lists(&self, object: &mut Object) {
        if !self.kind.id.is(DEFINITIONS) {
            object.adjust(|object| decode::as_stored(object, &self.kind.schema));
        }
    }

    /// Drops owners that are there twice, and warns of it (`dedupOwnerReferencesAndAddWarning` of `endpoints/handlers/rest.go`).
    fn drop_doubled_owners(&mut self, object: &mut Object, admitted: bool) {
        let doubled = meta::drop_doubled_owners(object);
        if !doubled.is_empty() {
            let when = if admitted { " after mutating admission happens" } else { "" };
            self.warnings.push(format!(
                ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject \
                 such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
                doubled.join(", ")
            ));
        }
    }

    fn attempt<'t>(&'t self, operation: Operation, old: Option<&'t Object>) -> Attempt<'t> {
        let call = self.call;
        Attempt { old, dry_run: self.options.dry_run, options: Given::Query(&call.query), ..call.attempt(operation, self.kind) }
    }

    async fn admit_mutating(&mut self, operation: Operation, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        if self.admitted == Admitted::Before {
            return Ok(());
        }
        // What is sent to `scale` is a Scale, and admission sees one.
        let scales = self.part == Part::Other("scale");
        let mut shown = if scales { Some(scale::shown(self.kind, object)?) } else { None };
        let before = old.filter(|_| scales).map(|old| scale::shown(self.kind, old)).transpose()?;
        let mut attempt = self.attempt(operation, before.as_ref().or(old));
        let result = admission::mutate(&self.api.admission, &mut attempt, Some(shown.as_mut().unwrap_or(object))).await;
        let warnings = attempt.warnings;
        self.warnings.extend(warnings);
        result?;
        if let Some(shown) = shown {
            scale::take(self.kind, object, &shown);
        }
        Ok(())
    }

    async fn admit_validating(&mut self, operation: Operation, object: &Object, old: Option<&Object>) -> Result<(), Status> {
        if self.admitted == Admitted::Before {
            return Ok(());
        }
        let scales = self.part == Part::Other("scale");
        let shown = if scales { Some(scale::shown(self.kind, object)?) } else { None };
        let before = old.filter(|_| scales).map(|old| scale::shown(self.kind, old)).transpose()?;
        let mut attempt = self.attempt(operation, before.as_ref().or(old));
        let result = admission::validate(&self.api.admission, &mut attempt, Some(shown.as_ref().unwrap_or(object))).await;
        let warnings = attempt.warnings;
        self.warnings.extend(warnings);
        result
    }

    /// Validates by table and rules; `errors` are those found so far. Notes the rules' warnings.
    fn refuse(&mut self, mut errors: FieldErrors, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let (value, before) = (new.value(), old.map(Object::value));
        let rules = self.kind.rules.validate(new, old, self.part);
        if self.kind.is_custom() {
            let written = if self.part == Part::Status { structural::Written::Status } else { structural::Written::Whole };
            errors.extend(structural::validate(value, before, &self.kind.schema, written));
            errors.extend(rules);
        } else {
            let tables = validate::structure(value, before, &self.kind.schema, Rigour::BuiltIn);
            errors.extend(rules::findings(tables, rules, &*self.kind.rules, new, old));
        }
        if let Some(old) = old {
            errors.extend(self.kind.rules.immutable(new, old, self.part));
        }
        if self.part == Part::Whole {
            errors.extend(admission::policy::faults(self.kind, value));
        }
        if !self.kind.is_custom() {
            // Of a custom resource several rules may say the same.
            errors.say_once();
        }
        if !errors.is_empty() {
            return Err(Status::invalid(self.kind.kind_subject(new.name()), &errors));
        }
        if self.part != Part::Status {
            self.warnings.extend(self.kind.rules.warnings(new, old));
        }
        Ok(())
    }
}

/// Why a commit did not happen.
enum Lost {
    /// Somebody else was first; the name it was about.
    Race(String),
    /// What is noted of owners may be what was too much.
    TooLarge(Status),
    /// For good.
    Refused(Status),
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// What was taken for a write that failed: it may have happened all the same when the store does not know.
async fn unsettled(claim: Claim, error: &WriteError) {
    match error {
        WriteError::Store(StoreError::Unavailable(_)) => claim.leave(),
        _ => claim.give_back().await,
    }
}

/// Whether the object goes away with this write: it is being deleted, without grace, and the last finalizer was taken off
/// (`ShouldDeleteDuringUpdate`).
pub fn ends_with_change(kind: &Kind, new: &Object, old: &Object) -> bool {
    let grace = old.value().pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
    old.is_deleting() && grace == 0 && new.finalizers().is_empty() && kind.spec_finalizers(new) == 0
}

/// Puts the value at `path` back to what it is in `old`.
fn restore(new: &mut Value, old: &Value, path: Path) {
    let Some((last, parents)) = path.split_last() else { return };
    let before = path.iter().try_fold(old, |at, name| at.get(*name));
    let mut at = new;
    for name in parents {
        let Some(next) = at.get_mut(*name) else { return };
        at = next;
    }
    let Some(members) = at.as_object_mut() else { return };
    if members.get(last) == before {
        return;
    }
    match before {
        Some(value) => members.insert((*last).to_owned(), value.clone()),
        None => members.remove(last),
    };
}
