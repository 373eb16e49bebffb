//! The variables that expressions may use, and compiling.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decl::{Decl, ObjectType};
use crate::library::{FUNCTIONS, Overload, Scope};
use crate::plan;
use crate::program::Program;
use crate::source::{Issue, Source};
use crate::types::Type;
use crate::{checker, cost, host, literals, parser};

/// Declared variables. Compile as many expressions against it as you like.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(String, Decl)>,
    places: HashMap<String, usize>,
    stored: bool,
    mutation: bool,
    bindings: bool,
}

impl Env {
    /// Without variables, for new expressions.
    pub fn new() -> Env {
        Env::default()
    }

    /// With one more variable; its place among the variables of an activation is the number of those before it. A name may have dots.
    #[must_use]
    pub fn variable(mut self, name: &str, decl: Decl) -> Env {
        self.places.insert(name.to_string(), self.variables.len());
        self.variables.push((name.to_string(), decl));
        self
    }

    /// For expressions that are stored already: they may use what new ones may not yet.
    #[must_use]
    pub fn stored(mut self) -> Env {
        self.stored = true;
        self
    }

    /// For expressions that may give a value a name: `cel.bind(name, value, expression)`.
    #[must_use]
    pub fn bindings(mut self) -> Env {
        self.bindings = true;
        self
    }

    /// For expressions that make patches: `Object{...}`, `JSONPatch{...}`, `jsonpatch.escapeKey`.
    #[must_use]
    pub fn mutation(mut self) -> Env {
        self.mutation = true;
        self
    }

    /// Parses and checks `text`, or tells what is wrong with it.
    pub fn compile(&self, text: &str) -> Result<Program, Vec<Issue>> {
        let mut source = Source::new(text);
        let Some(parsed) = parser::parse(text, self.bindings, &mut source) else { return Err(source.into_issues()) };
        let checked = checker::check(self, &parsed, &mut source);
        if !source.failed() {
            literals::check(&parsed, &checked, &mut source);
        }
        if source.failed() {
            return Err(source.into_issues());
        }
        let estimate = cost::estimate(self, &parsed.root, &checked);
        match plan::plan(self, &parsed.root, &checked) {
            Ok(planned) => Ok(Program::new(self, planned, checked.result(&parsed.root), estimate)),
            Err(error) => {
                source.report_bare(format!("program instantiation failed: {error}"));
                Err(source.into_issues())
            }
        }
    }

    pub(crate) fn variables(&self) -> &[(String, Decl)] {
        &self.variables
    }

    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The overloads of a function, and its name.
    pub(crate) fn function(&self, name: &str) -> Option<(&'static str, Vec<&'static Overload>)> {
        let (name, overloads) = FUNCTIONS.get_key_value(name.strip_prefix('.').unwrap_or(name))?;
        let known: Vec<&'static Overload> = overloads
            .iter()
            .filter(|overload| match overload.scope {
                Scope::All => true,
                Scope::Stored => self.stored,
                Scope::Mutation => self.mutation,
            })
            .collect();
        (!known.is_empty()).then_some((*name, known))
    }

    /// The type that an identifier names.
    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        Some(match name.strip_prefix('.').unwrap_or(name) {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "google.protobuf.Duration" => Type::Duration,
            "int" => Type::Int,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "null_type" => Type::Null,
            "string" => Type::String,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "type" => Type::Meta(None),
            "uint" => Type::Uint,
            "optional_type" => Type::optional(Type::Dyn),
            "net.IP" => host::ty("ip")?,
            "net.CIDR" => host::ty("cidr")?,
            name => return self.message(name).map(Type::Object),
        })
    }

    /// The message type that an expression may make.
    pub(crate) fn message(&self, name: &str) -> Option<Arc<ObjectType>> {
        if !self.mutation {
            return None;
        }
        if name == "JSONPatch" {
            let text = || Decl::string(None, None);
            let fields = [("op", text()), ("from", text()), ("path", text()), ("value", Decl::dynamic())];
            return Some(Arc::new(ObjectType::new(name, fields.map(|(name, decl)| (name.to_string(), decl)))));
        }
        (name == "Object" || name.starts_with("Object.")).then(|| Arc::new(ObjectType::open(name)))
    }
}
