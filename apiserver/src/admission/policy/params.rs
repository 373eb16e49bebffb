//! The parameters of a binding (apiserver `plugin/policy/generic/policy_dispatcher.go`, `CollectParams`).

use std::borrow::Cow;

use coracle_schema::selector::LabelSelector;
use coracle_tree::Value;

use super::{Engine, compile::Policy, index::Binding};
use crate::admission::look::{self, text};

/// What a policy is asked with that takes no parameters, or is given none.
static NONE: [Value; 1] = [Value::Null];

/// The parameters with which a policy is asked, one after the other; `Null` stands for none. The error is one of configuration.
pub(super) async fn collect(engine: &Engine, policy: &Policy, binding: &Binding, namespace: &str) -> Result<Cow<'static, [Value]>, String> {
    if !policy.declared.params || !binding.gives_params {
        return Ok(Cow::Borrowed(&NONE));
    }
    Box::pin(found(engine, policy, binding, namespace)).await.map(Cow::Owned)
}

async fn found(engine: &Engine, policy: &Policy, binding: &Binding, namespace: &str) -> Result<Vec<Value>, String> {
    let kind = policy.spec.get("paramKind").unwrap_or(&Value::Null);
    let reference = binding.spec.get("paramRef").unwrap_or(&Value::Null);
    let (version, name) = (text(kind, "apiVersion"), text(kind, "kind"));
    let shown = format!("&ParamKind{{APIVersion:{version},Kind:{name},}}");
    let (resource, namespaced) = (engine.resources)(version, name).ok_or_else(|| format!("paramKind kind `{shown}` not known"))?;
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let place = match (namespaced, text(reference, "namespace")) {
        (true, "") if namespace.is_empty() => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned());
        }
        (true, "") => namespace,
        (true, given) => given,
        (false, "") => "",
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
    };
    let selector = reference.get("selector").filter(|selector| selector.is_object());
    let failed = |status: crate::wire::Status| status.message;
    let found: Vec<Value> = match (text(reference, "name"), selector) {
        ("", None) => return Err("one of name or selector must be provided".to_owned()),
        ("", Some(selector)) => {
            let selector = LabelSelector::from_object(Some(selector))?;
            let all: Vec<Value> = look::all(&*engine.reader, group, &resource, place).await.map_err(failed)?;
            all.into_iter().filter(|object| selector.matches(&look::labels(object))).collect()
        }
        (_, Some(_)) => return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned()),
        (name, None) => {
            let one: Option<Value> = look::one(&*engine.reader, group, &resource, place, name).await.map_err(failed)?;
            one.into_iter().collect()
        }
    };
    if found.is_empty() && text(reference, "parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
