//! What is written, from the body of its request: decoded, of the kind that the path names, with defaults.

use coracle_schema::{
    FieldErrors,
    decode::{self, FieldValidation},
    default,
    tables::Tables,
};
use coracle_tree::Value;

use super::{SCHEME, Writing};
use crate::{
    registry::{Kind, Object},
    wire::{
        Status,
        negotiate::{self, BodyEncoding},
        status::Subject,
        yaml,
    },
};

/// What upstream's decoder reads first of a body, as its errors name it.
const TYPE_META: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

impl Writing<'_> {
    /// Decodes the body as an object of the kind and fills in defaults.
    pub fn decode_body(&mut self) -> Result<Object, Status> {
        let kind = self.kind;
        if self.call.body.trim_ascii() == b"null" {
            return self.decode_value(Value::Object(coracle_tree::Map::new()));
        }
        let decoded = match negotiate::body_encoding(&self.call.headers)? {
            // In one pass, which also sees what stands twice.
            BodyEncoding::Json => decode::from_json(&self.call.body, &kind.schema, self.options.field_validation),
            BodyEncoding::Protobuf => decode::from_value(self.call.body_as(&kind.schema)?, &kind.schema, self.options.field_validation),
            BodyEncoding::Yaml => self.decode_yaml()?,
        };
        let object = self.finish_decoding(decoded.map_err(|error| decode_error(&error, kind, &self.call.body)))?;
        self.call.note(object.value());
        Ok(object)
    }

    fn decode_yaml(&self) -> Result<Result<decode::Decoded, decode::DecodeError>, Status> {
        let (schema, mode, body) = (&self.kind.schema, self.options.field_validation, &self.call.body);
        let read = yaml::read(body).map_err(|why| negotiate::unrecognized(schema, &why, body))?;
        let strict = read.strict();
        let value = if read.value.is_null() { Value::Object(coracle_tree::Map::new()) } else { read.value };
        let mut decoded = decode::from_value(value, schema, mode);
        match (&mut decoded, mode, strict) {
            (Ok(_), FieldValidation::Strict, Some(strict)) => decoded = Err(decode::DecodeError::Strict(vec![strict])),
            (Err(decode::DecodeError::Strict(reports)), _, Some(strict)) => reports.insert(0, strict),
            (Ok(decoded), FieldValidation::Warn, _) => drop(decoded.reports.splice(..0, read.doubled)),
            _ => {}
        }
        Ok(decoded)
    }

    /// Decodes a value that was made here.
    pub fn decode_value(&mut self, value: Value) -> Result<Object, Status> {
        let decoded = decode::from_value(value, &self.kind.schema, self.options.field_validation);
        self.finish_decoding(decoded.map_err(|error| decode_error(&error, self.kind, &self.call.body)))
    }

    /// Decodes what an apply has made.
    pub fn decode_applied(&mut self, value: Value) -> Result<Object, Status> {
        let decoded = decode::from_applied(value, &self.kind.schema, self.options.field_validation);
        self.finish_decoding(decoded.map_err(|error| decode_error(&error, self.kind, &self.call.body)))
    }

    /// Decodes a value that a patch made. `reports` is what was found in the patch itself; `refuse` words what is wrong with either.
    pub fn decode_patched(
        &mut self,
        value: Value,
        mut reports: Vec<String>,
        refuse: impl FnOnce(&decode::DecodeError) -> Status,
    ) -> Result<Object, Status> {
        let mode = self.options.field_validation;
        let decoded = match decode::from_value(value, &self.kind.schema, mode) {
            Ok(_) if mode == FieldValidation::Strict && !reports.is_empty() => Err(decode::DecodeError::Strict(reports)),
            Ok(decoded) => {
                reports.extend(decoded.reports);
                Ok(decode::Decoded { reports, ..decoded })
            }
            Err(decode::DecodeError::Strict(found)) => {
                reports.extend(found);
                Err(decode::DecodeError::Strict(reports))
            }
            Err(error) => Err(error),
        };
        self.finish_decoding(decoded.map_err(|error| refuse(&error)))
    }

    fn finish_decoding(&mut self, decoded: Result<decode::Decoded, Status>) -> Result<Object, Status> {
        let kind = self.kind;
        let decoded = decoded?;
        if self.options.field_validation == FieldValidation::Warn {
            self.warn_once(decoded.reports);
        }
        let mut object = Object::new(decoded.value).ok_or_else(|| Status::bad_request("the body is not an object"))?;
        check_type(&object, kind, &self.api.tables)?;
        object.value_mut()["apiVersion"] = kind.api_version().into();
        object.value_mut()["kind"] = (*kind.gvk.kind).into();
        self.default(&mut object);
        Ok(object)
    }

    /// Warns of each that was not warned of before: changes are tried again.
    pub fn warn_once(&mut self, reports: impl IntoIterator<Item = String>) {
        for report in reports {
            if !self.warnings.contains(&report) {
                self.warnings.push(report);
            }
        }
    }

    /// The defaults of the table and of the kind's rules.
    pub fn default(&self, object: &mut Object) {
        default::apply(object.value_mut(), &self.kind.schema);
        self.kind.rules.default(object);
    }
}

/// The body must say it is what the path says (apiserver `endpoints/handlers/create.go`).
fn check_type(object: &Object, kind: &Kind, tables: &Tables) -> Result<(), Status> {
    let (version, name) = (object.text("/apiVersion"), object.text("/kind"));
    if !kind.is_custom() && !version.is_empty() && !name.is_empty() && !known(tables, version, name) {
        let short = version.rsplit('/').next().unwrap_or_default();
        let text = format!(
            "{name} in version {short:?} cannot be handled as a {}: no kind {name:?} is registered for version {version:?} in scheme {SCHEME:?}",
            kind.gvk.kind
        );
        return Err(Status::bad_request(text));
    }
    // The core group may be named, by nothing.
    let said = version.strip_prefix('/').filter(|rest| !rest.contains('/')).unwrap_or(version);
    if (kind.is_custom() || !version.is_empty()) && said != kind.api_version() {
        let text = format!("the API version in the data ({version}) does not match the expected API version ({})", kind.api_version());
        return Err(Status::bad_request(text));
    }
    if kind.is_custom() && name != &*kind.gvk.kind {
        // Upstream finds out when it validates.
        let mut errors = FieldErrors::none();
        errors.invalid("kind", format!("{name:?}"), &format!("must be {}", kind.gvk.kind));
        return Err(Status::invalid(Subject { group: &kind.gvk.group, resource: name, name: object.name() }, &errors));
    }
    if !name.is_empty() && name != &*kind.gvk.kind {
        let text = format!("the kind in the data ({name}) does not match the expected kind ({})", kind.gvk.kind);
        return Err(Status::bad_request(text));
    }
    Ok(())
}

fn decode_error(error: &decode::DecodeError, kind: &Kind, body: &[u8]) -> Status {
    let message = match error {
        decode::DecodeError::Syntax(text) => {
            // As Go words the most common one.
            let text = if text.starts_with("EOF") { "unexpected end of JSON input" } else { text };
            unrecognized(&kind.gvk.kind, text, body)
        }
        decode::DecodeError::MissingKind => {
            let (kind, body_text, shown) = (&kind.gvk.kind, String::from_utf8_lossy(body), negotiate::summary(body));
            format!("the object provided is unrecognized (must be of type {kind}): Object 'Kind' is missing in '{body_text}' ({shown})")
        }
        decode::DecodeError::Mismatch(text) => {
            match text.strip_suffix(&format!("into Go value of type {}.{}", kind.gvk.version, kind.gvk.kind)) {
                Some(head) => unrecognized(&kind.gvk.kind, &format!("{head}into Go value of type {TYPE_META}"), body),
                None => error.describe(&kind.gvk.kind, &kind.gvk.version),
            }
        }
        _ => error.describe(&kind.gvk.kind, &kind.gvk.version),
    };
    match error.code() {
        413 => Status::new(413, "RequestEntityTooLarge", message),
        _ => Status::bad_request(message),
    }
}

/// A body that is no object (`transformDecodeError`, `summarizeData` of `endpoints/handlers/rest.go`).
fn unrecognized(kind: &str, why: &str, body: &[u8]) -> String {
    let shown = negotiate::summary(body);
    format!("the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why} ({shown})")
}

/// Whether the built-in API has a kind.
fn known(tables: &Tables, api_version: &str, kind: &str) -> bool {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    tables.kind(group, version, kind).is_some()
}
