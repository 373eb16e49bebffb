//! From verified claims to a user (`getUsername`, `getGroups`, `getUID`, `getExtra`, and the rules after them).

use coracle_schema::go::json_name;
use coracle_tree::{Map, Value, json};

use super::{
    configuration::JwtAuthenticator,
    expressions::{Claims, Expression, strings},
};
use crate::authn::{CREDENTIAL_ID, User};

/// What is made of an issuer's claims, its expressions compiled.
pub(super) struct Mapping {
    pub(super) config: JwtAuthenticator,
    pub(super) username: Option<Expression>,
    pub(super) groups: Option<Expression>,
    pub(super) uid: Option<Expression>,
    /// By key.
    pub(super) extra: Vec<(String, Expression)>,
    /// With what is said when one does not hold.
    pub(super) claim_rules: Vec<(Expression, String)>,
    /// With what is said when one does not hold.
    pub(super) user_rules: Vec<(Expression, String)>,
    /// All expressions over claims, one after the other.
    pub(super) mentioned: String,
}

impl Mapping {
    /// The user; the error is upstream's.
    pub(super) fn user(&self, claims: &Map) -> Result<User, String> {
        // Without expressions nobody looks.
        let shown = if self.mentioned.is_empty() { Map::new() } else { claims.clone() };
        let seen = Claims::new(shown, &self.mentioned);
        let mut user = User {
            name: self.name(claims, &seen)?.into(),
            groups: self.groups(claims, &seen)?.into_iter().map(Into::into).collect(),
            uid: self.uid(claims, &seen)?.into(),
            ..User::default()
        };
        if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, expression) in &self.extra {
            let value = expression.over(&seen)?;
            let values =
                strings(&value).map_err(|why| format!("oidc: error evaluating extra claim expression: {}: {why}", expression.text()))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        self.check(claims, &seen, &user)?;
        Ok(user)
    }

    /// Notes what the expressions over claims look at; to be called when all are there.
    pub(super) fn note_mentioned(&mut self) {
        let mapped = [&self.username, &self.groups, &self.uid].into_iter().flatten();
        let all = mapped.chain(self.extra.iter().map(|(_, e)| e)).chain(self.claim_rules.iter().map(|(e, _)| e));
        self.mentioned = all.map(Expression::text).collect::<Vec<_>>().join(" ");
    }

    fn name(&self, claims: &Map, seen: &Claims) -> Result<String, String> {
        let told = |why: &dyn std::fmt::Display| format!("oidc: error evaluating username claim expression: {why}");
        if let Some(expression) = &self.username {
            let value = expression.over(seen).map_err(|why| told(&why))?;
            let name = value.as_str().ok_or_else(|| told(&"username claim expression must return a string"))?;
            if name.is_empty() {
                return Err("oidc: empty username via CEL expression is not allowed".to_owned());
            }
            return Ok(name.to_owned());
        }
        let from = &self.config.claim_mappings.username;
        let name = text(claims, &from.claim).map_err(|why| format!("oidc: parse username claims {:?}: {why}", from.claim))?;
        if from.claim == "email"
            && let Some(verified) = claims.get("email_verified")
        {
            match verified {
                Value::Bool(true) => {}
                Value::Bool(false) | Value::Null => return Err("oidc: email not verified".to_owned()),
                _ => return Err(format!("oidc: parse 'email_verified' claim: {}", mistyped(verified, "bool"))),
            }
        }
        Ok(format!("{}{name}", from.prefix.as_deref().unwrap_or_default()))
    }

    fn groups(&self, claims: &Map, seen: &Claims) -> Result<Vec<String>, String> {
        let from = &self.config.claim_mappings.groups;
        if let Some(value) = claims.get(&from.claim).filter(|_| !from.claim.is_empty()) {
            let told = |value: &Value| format!("oidc: parse groups claim {:?}: {}", from.claim, mistyped(value, "string"));
            let groups = match value {
                Value::Null => Vec::new(),
                Value::String(one) => vec![one.to_string()],
                Value::Array(many) => {
                    many.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(|| told(value))).collect::<Result<_, _>>()?
                }
                other => return Err(told(other)),
            };
            let prefix = from.prefix.as_deref().unwrap_or_default();
            return Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect());
        }
        let Some(expression) = &self.groups else { return Ok(Vec::new()) };
        let value = expression.over(seen).and_then(|value| strings(&value));
        value.map_err(|why| format!("oidc: error evaluating group claim expression: {why}"))
    }

    fn uid(&self, claims: &Map, seen: &Claims) -> Result<String, String> {
        let from = &self.config.claim_mappings.uid.claim;
        if !from.is_empty() {
            return text(claims, from).map_err(|why| format!("oidc: parse uid claim {from:?}: {why}"));
        }
        let Some(expression) = &self.uid else { return Ok(String::new()) };
        let told = |why: &dyn std::fmt::Display| format!("oidc: error evaluating uid claim expression: {why}");
        let value = expression.over(seen).map_err(|why| told(&why))?;
        value.as_str().map(str::to_owned).ok_or_else(|| told(&"uid claim expression must return a string"))
    }

    /// The rules, of the claims and then of the user.
    fn check(&self, claims: &Map, seen: &Claims, user: &User) -> Result<(), String> {
        for rule in self.config.claim_validation_rules.iter().filter(|rule| !rule.claim.is_empty()) {
            let (claim, wanted) = (&rule.claim, &rule.required_value);
            if !claims.contains_key(claim) {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let value = text(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
            if value != *wanted {
                return Err(format!("oidc: required claim {claim} value does not match. Got = {value}, want = {wanted}"));
            }
        }
        let failed = |rule: &Expression, message: &str| format!("validation expression '{}' failed: {message}", rule.text());
        for (rule, message) in &self.claim_rules {
            let held = rule.holds(seen).and_then(|holds| if holds { Ok(()) } else { Err(failed(rule, message)) });
            held.map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        }
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let groups: Vec<&str> = user.groups.iter().map(|group| &**group).collect();
        let user = json!({"username": &*user.name, "uid": &*user.uid, "groups": groups, "extra": user.extra});
        for (rule, message) in &self.user_rules {
            let held = rule.holds_of_user(&user).and_then(|holds| if holds { Ok(()) } else { Err(failed(rule, message)) });
            held.map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        }
        Ok(())
    }

    /// Groups that stand elsewhere are not fetched. Upstream would ask there: without them the user would be somebody else.
    pub(super) fn refuse_distributed(&self, claims: &Map, names: &Value) -> Result<(), String> {
        let claim = &self.config.claim_mappings.groups.claim;
        if claim.is_empty() || claims.contains_key(claim) || names.get(claim).is_none() {
            return Ok(());
        }
        Err(format!("oidc: could not expand distributed claims: claim {claim:?} stands elsewhere, which is not supported here"))
    }
}

fn text(claims: &Map, name: &str) -> Result<String, String> {
    match claims.get(name) {
        None => Err("claim not present".to_owned()),
        Some(Value::String(text)) => Ok(text.to_string()),
        Some(Value::Null) => Ok(String::new()),
        Some(other) => Err(mistyped(other, "string")),
    }
}

/// As Go's decoder says it.
fn mistyped(value: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", json_name(value))
}
