//! Expressions over claims and users (apiserver `authentication/cel`).

use std::sync::LazyLock;

use coracle_cel::{Activation, Decl, Env, Listing, ObjectType, Program, Type, Val, display, escape, limits};
use coracle_tree::{Map, Number, Value};

/// A compiled expression with one variable.
pub(super) struct Expression {
    text: String,
    program: Program,
}

/// The expressions of one issuer see its claims so.
pub(super) struct Claims(Value);

fn text() -> Decl {
    Decl::string(None, None)
}

fn texts() -> Decl {
    Decl::list(text(), Listing::Atomic, None)
}

static CLAIMS: LazyLock<Env> = LazyLock::new(|| Env::new().stored().variable("claims", Decl::map(Decl::dynamic(), None)));

static USER: LazyLock<Env> = LazyLock::new(|| {
    let fields = [("username", text()), ("uid", text()), ("groups", texts()), ("extra", Decl::map(texts(), None))];
    let object = ObjectType::new("kubernetes.UserInfo", fields.map(|(name, decl)| (name.to_owned(), decl)));
    Env::new().stored().variable("user", Decl::object(object, &[]))
});

impl Expression {
    /// Over `claims`, of any result.
    pub(super) fn of_claims(text: &str) -> Result<Self, String> {
        Self::compile(&CLAIMS, text, false)
    }

    /// Over `claims`, true or false.
    pub(super) fn claim_rule(text: &str) -> Result<Self, String> {
        Self::compile(&CLAIMS, text, true)
    }

    /// Over `user`, true or false.
    pub(super) fn user_rule(text: &str) -> Result<Self, String> {
        Self::compile(&USER, text, true)
    }

    fn compile(env: &Env, text: &str, rule: bool) -> Result<Self, String> {
        let program = env.compile(text).map_err(|issues| match display(&issues) {
            failed if failed.starts_with("program instantiation failed") => failed,
            issues => format!("compilation failed: {issues}"),
        })?;
        if rule && !matches!(program.result(), Type::Bool) {
            return Err("must evaluate to bool".to_owned());
        }
        Ok(Self { text: text.to_owned(), program })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it asks for `claims.FIELD` by that name.
    pub(super) fn selects(&self, field: &str) -> bool {
        coracle_cel::selects(&self.text, "claims", field)
    }

    /// The value over the claims.
    pub(super) fn over<'a>(&'a self, claims: &'a Claims) -> Result<Val<'a>, String> {
        self.eval(&claims.0)
    }

    fn eval<'a>(&'a self, value: &'a Value) -> Result<Val<'a>, String> {
        let (found, _) = self.program.eval(&Activation::new().json(0, value), limits::PER_CALL);
        found.map_err(|why| format!("expression '{}' resulted in error: {why}", self.text))
    }

    /// Whether a rule holds of the claims.
    pub(super) fn holds(&self, claims: &Claims) -> Result<bool, String> {
        truth(&self.eval(&claims.0)?)
    }

    /// Whether a rule holds of the user (`{"username": …, "uid": …, "groups": […], "extra": {…}}`).
    pub(super) fn holds_of_user(&self, user: &Value) -> Result<bool, String> {
        truth(&self.eval(user)?)
    }
}

fn truth(value: &Val<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "validation expression must return a boolean".to_owned())
}

impl Claims {
    /// Claims as expressions of these texts see them: numbers are floats, as Go's decoder makes them, and a field whose name is no identifier
    /// is found under its escaped name, too, where an expression says so.
    pub(super) fn new(claims: Map, mentioned: &str) -> Self {
        let mut value = Value::Object(claims);
        seen(&mut value, mentioned);
        Self(value)
    }
}

fn seen(value: &mut Value, mentioned: &str) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().and_then(Number::from_f64) {
                *number = float;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| seen(item, mentioned)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| seen(value, mentioned));
            let escaped: Vec<(String, Value)> = fields
                .iter()
                .filter_map(|(name, value)| Some((escape(name).filter(|e| e != name && mentioned.contains(e))?, value.clone())))
                .collect();
            fields.extend(escaped);
        }
        _ => {}
    }
}

/// A text, or a list of texts; what is empty is not there (`convertCELValueToStringList`).
pub(super) fn strings(value: &Val<'_>) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    match value {
        Val::Null => Ok(Vec::new()),
        Val::List(list) => {
            let mut all = Vec::with_capacity(list.len());
            for item in list.iter() {
                let item = item.map_err(|why| why.to_string())?;
                let text = item.as_str().ok_or_else(wrong)?;
                if !text.is_empty() {
                    all.push(text.to_owned());
                }
            }
            Ok(all)
        }
        value => match value.as_str().ok_or_else(wrong)? {
            "" => Ok(Vec::new()),
            text => Ok(vec![text.to_owned()]),
        },
    }
}

#[cfg(test)]
mod tests {
    use coracle_tree::json;

    use super::*;

    fn value(text: &str, claims: &Value) -> Result<Vec<String>, String> {
        let expression = Expression::of_claims(text)?;
        let claims = Claims::new(claims.as_object().unwrap().clone(), text);
        strings(&expression.over(&claims)?)
    }

    #[test]
    fn claims_are_seen_as_go_sees_them() {
        let claims = json!({"sub": "a", "n": 3, "roles": "x,y", "a.b/c": {"d-e": "deep"}, "empty": ["", "z"], "none": null});
        assert_eq!(value("claims.sub + '!'", &claims).unwrap(), ["a!"]);
        assert_eq!(value("claims.roles.split(',')", &claims).unwrap(), ["x", "y"]);
        assert_eq!(value("claims.a__dot__b__slash__c.d__dash__e", &claims).unwrap(), ["deep"]);
        assert_eq!(value("claims.empty", &claims).unwrap(), ["z"]);
        assert_eq!(value("claims.none", &claims).unwrap(), Vec::<String>::new());
        assert_eq!(value("claims.n == 3.0 ? 'float' : 'other'", &claims).unwrap(), ["float"]);
        assert_eq!(value("claims.?missing.orValue('default')", &claims).unwrap(), ["default"]);
        let missing = value("claims.missing", &claims).unwrap_err();
        assert_eq!(missing, "expression 'claims.missing' resulted in error: no such key: missing");
        assert!(value("claims.n", &claims).unwrap_err().contains("must return a string or a list of strings"));
    }

    #[test]
    fn rules_are_true_or_false_and_what_does_not_compile_is_told() {
        assert_eq!(Expression::claim_rule("claims.a").err().unwrap(), "must evaluate to bool");
        assert!(Expression::claim_rule("claims.a == 'b'").is_ok());
        assert!(Expression::user_rule("user.username.startsWith('a') && user.groups.all(g, g != 'x')").is_ok());
        let wrong = Expression::user_rule("user.name == 'a'").err().unwrap();
        assert!(wrong.starts_with("compilation failed: ERROR: <input>:1:5: undefined field 'name'"), "{wrong}");
        assert!(Expression::of_claims("claim.a").err().unwrap().contains("undeclared reference to 'claim'"));
    }

    #[test]
    fn what_an_expression_asks_for_is_known() {
        let asks = |text: &str| Expression::of_claims(text).unwrap().selects("email");
        assert!(asks("claims.email") && asks("has(claims.email) ? 'a' : 'b'") && asks("['x'].map(y, claims.email + y)"));
        assert!(asks("claims.?email.orValue('')"));
        assert!(!asks("claims.sub") && !asks("claims.a.email") && !asks("'claims.email'"));
    }
}
