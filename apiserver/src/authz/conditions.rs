//! Which requests a webhook is asked about: `matchConditions` (apiserver `pkg/authorization/cel`).

use coracle_cel::{Activation, Decl, Env, Listing, ObjectType, Program, Type, Val, display, limits};
use coracle_tree::Value;

use crate::wire::status::aggregate;

/// Expressions over a SubjectAccessReview's spec, all of which must hold.
pub(super) struct Conditions(Vec<(String, Program)>);

impl Conditions {
    /// Compiles the expressions; the error is of the first that does not.
    pub(super) fn new(expressions: &[String]) -> Result<Self, String> {
        expressions.iter().map(|text| Ok((text.clone(), Self::compile(text)?))).collect::<Result<_, _>>().map(Self)
    }

    /// Compiles one expression, which must be one of truth.
    pub(super) fn compile(text: &str) -> Result<Program, String> {
        let program = environment().compile(text).map_err(|issues| match display(&issues) {
            failed if failed.starts_with("program instantiation failed") => failed,
            issues => format!("compilation failed: {issues}"),
        })?;
        match program.result() {
            Type::Bool => Ok(program),
            other => Err(format!("must evaluate to bool but got {other}")),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not settles it; the error is of those that cannot tell when all others hold.
    pub(super) fn hold(&self, spec: &Value) -> Result<bool, String> {
        let mut errors = Vec::new();
        for (text, program) in &self.0 {
            match program.eval(&Activation::new().json(0, spec), limits::PER_CALL).0 {
                Ok(Val::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(error) => errors.push(format!("cel evaluation error: expression '{text}' resulted in error: {error}")),
            }
        }
        aggregate(errors).map_or(Ok(true), Err)
    }
}

/// `request`, the spec of a SubjectAccessReview.
fn environment() -> Env {
    let requirement = || object("SelectorRequirement", &[("key", text()), ("operator", text()), ("values", texts())]);
    let selector =
        |name: &str| object(name, &[("rawSelector", text()), ("requirements", Decl::list(requirement(), Listing::Atomic, None))]);
    let resource = object(
        "ResourceAttributes",
        &[
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("FieldSelectorAttributes")),
            ("labelSelector", selector("LabelSelectorAttributes")),
        ],
    );
    let other = object("NonResourceAttributes", &[("path", text()), ("verb", text())]);
    let spec = object(
        "SubjectAccessReviewSpec",
        &[
            ("resourceAttributes", resource),
            ("nonResourceAttributes", other),
            ("user", text()),
            ("groups", texts()),
            ("extra", Decl::map(texts(), None)),
            ("uid", text()),
        ],
    );
    Env::new().stored().variable("request", spec)
}

fn text() -> Decl {
    Decl::string(None, None)
}

fn texts() -> Decl {
    Decl::list(text(), Listing::Atomic, None)
}

fn object(name: &str, fields: &[(&str, Decl)]) -> Decl {
    let fields = fields.iter().map(|(name, decl)| ((*name).to_owned(), decl.clone()));
    Decl::object(ObjectType::new(&format!("kubernetes.{name}"), fields), &[])
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn hold(expressions: &[&str], spec: &Value) -> Result<bool, String> {
        let expressions: Vec<String> = expressions.iter().map(ToString::to_string).collect();
        Conditions::new(&expressions).unwrap().hold(spec)
    }

    #[test]
    fn conditions_see_the_review_and_its_selectors() {
        let requirement = json!({"key": "spec.nodeName", "operator": "In", "values": ["a"]});
        let resource = json!({
            "namespace": "dev", "verb": "list", "group": "", "version": "v1", "resource": "pods", "subresource": "", "name": "",
            "fieldSelector": {"requirements": [requirement]},
        });
        let spec = json!({"user": "jane", "groups": ["devs"], "uid": "", "extra": {}, "resourceAttributes": resource});
        let by_field = "request.resourceAttributes.fieldSelector.requirements.exists(r, r.key == 'spec.nodeName' && 'a' in r.values)";
        assert_eq!(hold(&["has(request.resourceAttributes)", by_field, "!('admins' in request.groups)"], &spec), Ok(true));
        assert_eq!(hold(&["request.user == 'jane'", "request.resourceAttributes.namespace in ['kube-system']"], &spec), Ok(false));
        assert_eq!(hold(&[], &spec), Ok(true));
    }

    #[test]
    fn what_cannot_tell_matters_only_where_nothing_is_false() {
        let spec = json!({"user": "jane", "groups": [], "uid": "", "extra": {}, "nonResourceAttributes": {"path": "/x", "verb": "get"}});
        let broken = "request.resourceAttributes.verb == 'get'";
        assert_eq!(hold(&[broken, "request.user == 'joe'"], &spec), Ok(false));
        let said = hold(&[broken, "request.user == 'jane'"], &spec).unwrap_err();
        assert!(said.starts_with(&format!("cel evaluation error: expression '{broken}' resulted in error: no such key")), "{said}");
    }
}
