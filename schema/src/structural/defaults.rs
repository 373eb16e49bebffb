//! Defaults must be values of their place: valid, and without members that the schema does not name
//! (apiextensions-apiserver `apiserver/schema/defaulting/validation.go`).

use coracle_tree::{Map, Value};

use super::{
    embedded::{self, Malformed},
    invariants::{child, property},
    node::{Additional, Kind, Node},
    prune, rules, text, value,
};
use crate::{field::FieldErrors, types::SchemaRef};

/// What must hold for defaults.
#[derive(Clone, Copy)]
pub(super) struct Options<'a> {
    /// The type of metadata.
    pub(super) metadata: &'a SchemaRef,
    /// Members that the schema does not name are refused.
    pub(super) pruned: bool,
}

/// Checks all defaults of a version's schema, which stands at `path`.
pub(super) fn check(root: &Node, path: &str, options: Options<'_>, errors: &mut FieldErrors) {
    // The resource itself has metadata like an embedded one.
    let root = Node { embedded: true, ..root.clone() };
    Walk { options }.node(&root, path, &Around::default(), errors);
}

/// Takes out of the defaults what does not belong in the objects they are filled into: what metadata has not, and what the schema does not
/// name. A CRD that came before its defaults were looked at may have such, and metadata may be spread over several of them.
pub(super) fn prune(root: &mut Node, metadata: &SchemaRef) {
    if root.any(&|node| node.embedded || node.default.as_deref().is_some_and(|d| d.is_object() || d.is_array())) {
        let frame = Node { embedded: true, ..root.clone() };
        Pruning { frame: &frame, metadata, steps: Vec::new() }.node(root);
    }
}

struct Pruning<'a> {
    frame: &'a Node,
    metadata: &'a SchemaRef,
    steps: Vec<Option<Box<str>>>,
}

impl Pruning<'_> {
    fn node(&mut self, node: &mut Node) {
        if let Some(default) = node.default.take() {
            node.default = self.pruned(*default).map(Box::new);
        }
        if let Some(items) = node.items.as_deref_mut() {
            self.below(None, items);
        }
        if let Additional::Schema(below) = &mut node.additional {
            self.below(Some("*".into()), below);
        }
        for (name, below) in &mut node.properties {
            self.below(Some(name.clone()), below);
        }
    }

    fn below(&mut self, step: Option<Box<str>>, node: &mut Node) {
        self.steps.push(step);
        self.node(node);
        self.steps.pop();
    }

    /// What is left of a default in an object that is otherwise empty.
    fn pruned(&self, default: Value) -> Option<Value> {
        let around = |inner: Value, step: &Option<Box<str>>| match step {
            None => Value::Array(vec![inner]),
            Some(name) => Value::Object(Map::from_iter([(String::from(&**name), inner)])),
        };
        let mut object = self.steps.iter().rev().fold(default, around);
        // Whatever cannot be read as metadata is left out.
        drop(embedded::coerce(self.frame, &mut object, self.metadata, Malformed::Drop));
        prune::prune(self.frame, &mut object);
        self.steps.iter().try_fold(object, |around, step| match (around, step) {
            (Value::Array(mut items), None) if !items.is_empty() => Some(items.swap_remove(0)),
            (Value::Object(mut members), Some(name)) => members.remove(name),
            _ => None,
        })
    }
}

struct Walk<'a> {
    options: Options<'a>,
}

/// Where a default stands in the innermost object around it.
#[derive(Default)]
struct Around<'a> {
    /// The place is inside of `metadata`, `apiVersion` or `kind` of this object.
    within: Option<&'a Node>,
    /// The way from that object to here.
    steps: Vec<Step<'a>>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Member(&'a str),
    Item,
}

impl Walk<'_> {
    fn node<'n>(&self, node: &'n Node, path: &str, around: &Around<'n>, errors: &mut FieldErrors) {
        let (within, steps) = if node.embedded { (None, Vec::new()) } else { (around.within, around.steps.clone()) };
        if let Some(default) = node.default.as_deref() {
            let at = child(path, "default");
            match within {
                Some(root) => self.in_metadata(root, node, default, &steps, &at, errors),
                None => self.ordinary(node, default, &at, errors),
            }
        }
        // Defaults below additionalProperties are not looked at: they cannot be filled in without a key.
        if let Some(items) = &node.items {
            let mut steps = steps.clone();
            steps.push(Step::Item);
            self.node(items, &child(path, "items"), &Around { within, steps }, errors);
        }
        for (name, below) in &node.properties {
            let within = within.or_else(|| (node.embedded && matches!(&**name, "metadata" | "apiVersion" | "kind")).then_some(node));
            let mut steps = steps.clone();
            steps.push(Step::Member(name));
            self.node(below, &property(path, name), &Around { within, steps }, errors);
        }
    }

    fn ordinary(&self, node: &Node, default: &Value, at: &str, errors: &mut FieldErrors) {
        if self.options.pruned {
            let mut pruned = default.clone();
            prune::value(node, &mut pruned);
            if pruned != *default {
                errors.invalid(at, text::shown(default), "must not have unknown fields");
            }
        }
        let mut coerced = default.clone();
        if let Err(mut error) = embedded::coerce(node, &mut coerced, self.options.metadata, Malformed::Refuse) {
            error.path = if error.path == "<nil>" { at.to_owned() } else { child(at, &error.path) };
            errors.0.push(error);
            return;
        }
        let mut wrong = FieldErrors::none();
        embedded::check(node, default, at, false, &mut wrong);
        if wrong.is_empty() {
            wrong = value::check(&untyped(node), default, None, at);
        }
        if wrong.is_empty() {
            rules::check_default(node, default, at, &mut wrong);
        }
        errors.extend(wrong);
    }

    /// A default inside of metadata: it is put where it belongs in an otherwise empty object, whose metadata must be right then.
    fn in_metadata(&self, root: &Node, node: &Node, default: &Value, steps: &[Step<'_>], at: &str, errors: &mut FieldErrors) {
        let mut object = default.clone();
        for step in steps.iter().rev() {
            object = match step {
                Step::Item => Value::Array(vec![object]),
                Step::Member(name) => Value::Object(Map::from_iter([((*name).to_owned(), object)])),
            };
        }
        for (name, stand_in) in [("kind", "Validation"), ("apiVersion", "validation/v1")] {
            if let Some(members) = object.as_object_mut() {
                members.entry(name).or_insert_with(|| stand_in.into());
            }
        }
        let detail = |why: &str| format!("must result in valid metadata: {why}");
        if let Err(error) = embedded::coerce_object(&mut object, self.options.metadata) {
            return errors.invalid(at, text::shown(default), &detail(&error.to_string()));
        }
        let mut wrong = FieldErrors::none();
        embedded::check(root, &object, "", true, &mut wrong);
        if !wrong.is_empty() {
            let texts: Vec<String> = wrong.0.iter().map(ToString::to_string).collect();
            let text = if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) };
            return errors.invalid(at, text::shown(default), &detail(&text));
        }
        errors.extend(value::check(&untyped(node), default, None, at));
    }
}

/// The schema as defaults are checked against it: upstream's form of it gives numbers or texts no type.
fn untyped(node: &Node) -> std::borrow::Cow<'_, Node> {
    if node.int_or_string && node.kind == Kind::Any {
        std::borrow::Cow::Owned(Node { int_or_string: false, ..node.clone() })
    } else {
        std::borrow::Cow::Borrowed(node)
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use crate::structural::tests::compiled;

    #[test]
    fn defaults_of_embedded_objects_hold_nothing_that_metadata_has_not() {
        let text = |default: &str| json!({"type": "string", "default": default});
        let whole = json!({"apiVersion": "foos/v1", "kind": "Foo", "metadata": {"name": "Bar", "unknown": "unknown"}});
        let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
        let with = |more: coracle_tree::Value| {
            let mut schema = embedded.clone();
            schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            schema
        };
        let metadata = json!({"type": "object", "properties": {"name": text("Bar"), "unknown": text("unknown")}});
        let made = compiled(&json!({"type": "object", "properties": {
            "fields": with(json!({"properties": {"apiVersion": text("foos/v1"), "kind": text("Foo"), "metadata": metadata}})),
            "object": with(json!({"default": whole})),
            "list": {"type": "array", "items": embedded, "default": [whole]},
            "around": {"type": "object", "properties": {"embedded": embedded}, "default": {"embedded": whole, "odd": 1}},
        }}));
        let mut object = json!({"apiVersion": "g/v1", "kind": "Widget", "metadata": {"name": "w"}, "fields": {"metadata": {}}});
        crate::default::apply(&mut object, &made.schema);
        let clean = json!({"apiVersion": "foos/v1", "kind": "Foo", "metadata": {"name": "Bar"}});
        assert_eq!([&object["fields"], &object["object"], &object["list"][0]], [&clean; 3]);
        assert_eq!(object["around"], json!({"embedded": clean}));
    }
}
