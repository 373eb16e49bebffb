//! Hostile expressions: refused or stopped, quickly, without a panic.

use coracle_cel::{Activation, Decl, Env};
use coracle_tree::json;

fn compile(text: &str) -> Result<coracle_cel::Program, String> {
    Env::new().variable("x", Decl::dynamic()).compile(text).map_err(|issues| coracle_cel::display(&issues))
}

fn error(text: &str, x: &coracle_tree::Value) -> String {
    let program = compile(text).unwrap();
    let (result, cost) = program.eval(&Activation::new().json(0, x), 1_000_000);
    assert!(cost > 0);
    result.map(|value| value.to_string()).unwrap_err().to_string()
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("(", ")"), ("[", "]"), ("!(", ")"), ("-(", ")"), ("x.map(y, ", ")"), ("true ? ", " : x"), ("x[", "]")] {
        for depth in [300, 10_000] {
            let text = format!("{}x{}", open.repeat(depth), close.repeat(depth));
            assert!(compile(&text).is_err(), "{open} {depth}");
        }
    }
    for step in [".y", "[0]", " + x", ".f()", " * x", " < x"] {
        assert!(compile(&format!("x{}", step.repeat(2_000))).is_err(), "{step}");
    }
}

#[test]
fn long_chains_of_and_and_or_are_no_nesting() {
    let text = vec!["x"; 10_000].join(" && ");
    assert!(compile(&text).is_ok());
    assert!(compile(&vec!["x"; 10_000].join(" || ")).is_ok());
}

#[test]
fn long_expressions_are_refused() {
    assert!(compile(&format!("'{}'", "a".repeat(100_000))).unwrap_err().contains("code point size exceeds limit"));
}

#[test]
fn copies_of_copies_are_refused() {
    let text = format!("optional.of(x){}", ".optMap(y, y)".repeat(60));
    assert!(compile(&text).unwrap_err().contains("too many nodes"));
}

#[test]
fn loops_within_loops_are_stopped() {
    let x = json!((0..1000).collect::<Vec<_>>());
    let cancelled = "operation cancelled: actual cost limit exceeded";
    assert_eq!(error("x.all(a, x.all(b, x.all(c, a + b + c >= 0)))", &x), cancelled);
    assert_eq!(error("x.map(a, x.map(b, x.map(c, [a, b, c]))).size() > 0", &x), cancelled);
    assert_eq!(error("x.exists(a, x.all(b, 1 / 0 == 1) || false)", &x), cancelled);
    assert_eq!(error("sets.contains(x.map(a, [a]) + x.map(a, [a]), x.map(a, [a]))", &x), cancelled);
    assert_eq!(error("lists.range(1000000)", &x), cancelled);
}

#[test]
fn values_that_double_are_stopped() {
    let doubled = |what: &str| format!("[{what}]{}", ".map(y, y + y)".repeat(60));
    let x = json!([1]);
    assert!(error(&doubled("'aaaaaaaa'"), &x).starts_with("operation cancelled"));
    assert!(error(&doubled("[1]"), &x).starts_with("operation cancelled"));
    assert!(
        error("lists.range(9000).map(i, 'aaaaaaaaaa').join().replace('a', lists.range(9000).map(i, 'bbbbbbbbbb').join())", &x)
            .starts_with("operation cancelled")
    );
}

#[test]
fn patterns_that_would_explode_do_not() {
    let x = json!("a".repeat(5_000) + "!");
    let program = compile("x.matches('^(a+)+$')").unwrap();
    assert_eq!(program.eval(&Activation::new().json(0, &x), 1_000_000).0.unwrap().as_bool(), Some(false));
    assert!(compile("x.matches('((a{1000}){1000}){1000}')").is_err());
}

#[test]
fn an_unbound_variable_is_an_error() {
    let program = compile("x == 1").unwrap();
    let (result, _) = program.eval(&Activation::new(), 100);
    assert_eq!(result.unwrap_err().message(), "no such attribute(s): x");
}

#[test]
fn many_programs_share_their_variables() {
    let env = Env::new().variable("x", Decl::int()).variable("y", Decl::int());
    let programs: Vec<_> = ["x + y", "y", "1"].into_iter().map(|text| env.compile(text).unwrap()).collect();
    let uses: Vec<(bool, bool)> = programs.iter().map(|program| (program.uses(0), program.uses(1))).collect();
    assert_eq!(uses, [(true, true), (false, true), (false, false)]);
}
