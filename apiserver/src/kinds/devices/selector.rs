//! Expressions that choose devices (`dynamic-resource-allocation/cel/compile.go`).

use std::sync::LazyLock;

use coracle_cel::{Decl, Env, ObjectType, Type, display};
use coracle_schema::FieldErrors;
use coracle_tree::Value;

use super::super::view;

/// Longer expressions are not read.
const LONGEST: usize = 10 * 1024;
/// An evaluation may not cost more.
const DEAREST: u64 = 1_000_000;
/// Attributes and capacities that a device may have, and so names of domains.
const ENTRIES: u64 = 32;
/// Bytes of a driver's name.
const DRIVER: u64 = 63;
/// Characters of a value's text: a quarter of its bytes.
const VALUE: u64 = 16;

/// `device`, as expressions see it.
static DEVICE: LazyLock<Env> = LazyLock::new(|| {
    // A value is of any type, and has the size of the largest.
    let value = Decl::int_or_string(Some(VALUE));
    let by_domain = |of: Decl| Decl::map(Decl::map(of, Some(ENTRIES)), Some(ENTRIES));
    let fields = [
        ("driver", Decl::string(None, Some(DRIVER))),
        ("allowMultipleAllocations", Decl::bool()),
        ("attributes", by_domain(value)),
        ("capacity", by_domain(Decl::host(Type::named("kubernetes.Quantity")))),
    ];
    let device = ObjectType::new("kubernetes.DRADevice", fields.map(|(name, decl)| (name.to_owned(), decl)));
    Env::new().bindings().variable("device", Decl::object(device, &[]))
});

/// Checks a selector.
pub(super) fn check(selector: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(cel) = view::get(selector, "cel") else { return errors.required(format!("{path}.cel"), "") };
    let (text, path) = (view::text(cel, "expression"), format!("{path}.cel.expression"));
    if text.len() > LONGEST {
        return errors.too_long(path, LONGEST as u64, "byte");
    }
    match DEVICE.compile(text) {
        Err(issues) => {
            let why = display(&issues);
            let why = if why.starts_with("program instantiation failed") { why } else { format!("compilation failed: {why}") };
            errors.invalid(path, view::quoted(text), &why);
        }
        Ok(program) if !matches!(program.result(), Type::Bool | Type::Dyn) => {
            let detail = format!("must evaluate to bool or the unknown type, not {}", program.result());
            errors.invalid(path, view::quoted(text), &detail);
        }
        Ok(program) if program.estimate().max > DEAREST => errors.forbidden(path, "too complex, exceeds cost limit"),
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn faults(expression: &str) -> Vec<String> {
        let mut errors = FieldErrors::none();
        check(&json!({"cel": {"expression": expression}}), "selectors[0]", &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_selector_looks_at_the_device_and_says_yes_or_no() {
        let fine = [
            "device.driver == \"gpu.example.com\"",
            "device.attributes[\"gpu.example.com\"].model == \"a\" && device.allowMultipleAllocations",
            "device.capacity[\"gpu.example.com\"].memory.compareTo(quantity(\"1Gi\")) >= 0",
            "device.attributes[\"gpu.example.com\"].healthy",
            "cel.bind(dra, device.attributes[\"dra.example.com\"], dra.one && dra.other)",
        ];
        for expression in fine {
            assert_eq!(faults(expression), Vec::<String>::new(), "{expression}");
        }
        assert!(faults("pod.name == 'a'")[0].contains("compilation failed: ERROR: <input>:1:1: undeclared reference to 'pod'"));
        assert!(
            faults("device.driver")[0].ends_with("must evaluate to bool or the unknown type, not string"),
            "{:?}",
            faults("device.driver")
        );
    }
}
