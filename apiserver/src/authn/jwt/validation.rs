//! What is wrong in an `AuthenticationConfiguration` (apiserver `pkg/apis/apiserver/validation/validation.go`).

use std::collections::HashSet;

use coracle_cel::Url;
use coracle_schema::{FieldErrors, go::quoted, name};

use super::{
    configuration::{ClaimRule, Configuration, Issuer, JwtAuthenticator, Mappings, Prefixed, UserRule},
    expressions::Expression,
    mapping::Mapping,
};
use crate::wire::status::refused;

/// Issuers at most.
const MOST: usize = 64;

/// What is wrong in all of it.
pub(super) fn whole(of: &Configuration) -> Result<(), String> {
    let mut errors = FieldErrors::none();
    if of.jwt.len() > MOST {
        errors.too_many("jwt", of.jwt.len(), MOST as u64);
        return refused(&errors);
    }
    let (mut urls, mut discoveries) = (HashSet::new(), HashSet::new());
    for (at, one) in of.jwt.iter().enumerate() {
        let path = format!("jwt[{at}]");
        authenticator(one, &[], &format!("{path}."), &mut errors);
        if !urls.insert(&one.issuer.url) {
            errors.duplicate(format!("{path}.issuer.url"), quoted(&one.issuer.url));
        }
        if !one.issuer.discovery_url.is_empty() && !discoveries.insert(&one.issuer.discovery_url) {
            errors.duplicate(format!("{path}.issuer.discoveryURL"), quoted(&one.issuer.discovery_url));
        }
    }
    if let Some(anonymous) = of.anonymous.as_ref().filter(|anonymous| !anonymous.enabled && !anonymous.conditions.is_empty()) {
        let shown: Vec<String> = anonymous.conditions.iter().map(|c| format!("{{\"Path\":{:?}}}", c.path)).collect();
        let detail = "enabled should be set to true when conditions are defined";
        errors.invalid("anonymous.conditions", format!("[{}]", shown.join(",")), detail);
    }
    refused(&errors)
}

/// Refuses issuers that are not allowed, and nothing else.
pub(super) fn disallowed(of: &JwtAuthenticator, disallowed: &[String]) -> Result<(), String> {
    let mut errors = FieldErrors::none();
    issuer(&of.issuer, disallowed, "issuer", &mut errors);
    refused(&errors)
}

/// One issuer's mapping, ready, when nothing is wrong with it and it is none of those that are not allowed.
pub(super) fn one(of: &JwtAuthenticator, disallowed: &[String]) -> Result<Mapping, String> {
    let mut errors = FieldErrors::none();
    let mapping = authenticator(of, disallowed, "", &mut errors);
    refused(&errors).map(|()| mapping)
}

/// `at` is what stands before each path.
fn authenticator(of: &JwtAuthenticator, disallowed: &[String], at: &str, errors: &mut FieldErrors) -> Mapping {
    issuer(&of.issuer, disallowed, &format!("{at}issuer"), errors);
    let mut mapping = Mapping {
        config: of.clone(),
        username: None,
        groups: None,
        uid: None,
        extra: Vec::new(),
        claim_rules: claim_rules(&of.claim_validation_rules, &format!("{at}claimValidationRules"), errors),
        user_rules: Vec::new(),
        mentioned: String::new(),
    };
    mappings(&of.claim_mappings, &format!("{at}claimMappings"), &mut mapping, errors);
    mapping.user_rules = user_rules(&of.user_validation_rules, &format!("{at}userValidationRules"), errors);
    mapping.note_mentioned();
    mapping
}

fn issuer(of: &Issuer, disallowed: &[String], path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.url");
    if of.url.is_empty() {
        errors.required(&at, "");
    } else {
        if disallowed.contains(&of.url) {
            let mut all = disallowed.to_vec();
            all.sort_unstable();
            errors.invalid(&at, quoted(&of.url), &format!("URL must not overlap with disallowed issuers: [{}]", all.join(" ")));
        }
        url(&of.url, &at, errors);
    }
    if !of.discovery_url.is_empty() {
        let at = format!("{path}.discoveryURL");
        if !of.url.is_empty() && of.url.trim_end_matches('/') == of.discovery_url.trim_end_matches('/') {
            errors.invalid(&at, quoted(&of.discovery_url), "discoveryURL must be different from URL");
        }
        url(&of.discovery_url, &at, errors);
    }
    audiences(of, path, errors);
    if !of.certificate_authority.is_empty() && crate::webhook::pem_certificates(of.certificate_authority.as_bytes()).is_err() {
        let detail = "data does not contain any valid RSA or ECDSA certificates";
        errors.invalid(format!("{path}.certificateAuthority"), "\"<omitted>\"", detail);
    }
    if !matches!(of.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
        let detail = "egress selector must be either controlplane or cluster";
        errors.invalid(format!("{path}.egressSelectorType"), quoted(&of.egress_selector_type), detail);
    }
}

fn audiences(of: &Issuer, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.audiences");
    if of.audiences.is_empty() {
        errors.required(&at, &format!("at least one {at} is required"));
        return;
    }
    let mut seen = HashSet::new();
    for (number, audience) in of.audiences.iter().enumerate() {
        let at = format!("{at}[{number}]");
        if audience.is_empty() {
            errors.required(&at, "");
        }
        if !seen.insert(audience) {
            errors.duplicate(&at, quoted(audience));
        }
    }
    let policy = of.audience_match_policy.as_str();
    let detail = match of.audiences.len() {
        1 if !matches!(policy, "" | "MatchAny") => "audienceMatchPolicy must be empty or MatchAny for single audience",
        2.. if policy != "MatchAny" => "audienceMatchPolicy must be MatchAny for multiple audiences",
        _ => return,
    };
    errors.invalid(format!("{path}.audienceMatchPolicy"), quoted(policy), detail);
}

fn url(text: &str, path: &str, errors: &mut FieldErrors) {
    let parts = match Url::reference(text) {
        Ok(parts) => parts,
        Err(why) => return errors.invalid(path, quoted(text), &why),
    };
    for (wrong, detail) in [
        (parts.scheme() != "https", "URL scheme must be https"),
        (parts.user().is_some(), "URL must not contain a username or password"),
        (!parts.raw_query().is_empty(), "URL must not contain a query"),
        (!parts.fragment().is_empty(), "URL must not contain a fragment"),
    ] {
        if wrong {
            errors.invalid(path, quoted(text), detail);
        }
    }
}

fn claim_rules(rules: &[ClaimRule], path: &str, errors: &mut FieldErrors) -> Vec<(Expression, String)> {
    let (mut claims, mut expressions, mut compiled) = (HashSet::new(), HashSet::new(), Vec::new());
    for (number, rule) in rules.iter().enumerate() {
        let at = format!("{path}[{number}]");
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => errors.invalid(&at, quoted(&rule.claim), "claim and expression can't both be set"),
            (true, true) => errors.required(&at, "claim or expression is required"),
            (false, true) => {
                if !rule.message.is_empty() {
                    errors.invalid(format!("{at}.message"), quoted(&rule.message), "may not be specified when claim is set");
                }
                if !claims.insert(&rule.claim) {
                    errors.duplicate(format!("{at}.claim"), quoted(&rule.claim));
                }
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    let detail = "may not be specified when expression is set";
                    errors.invalid(format!("{at}.requiredValue"), quoted(&rule.required_value), detail);
                }
                if !expressions.insert(&rule.expression) {
                    errors.duplicate(format!("{at}.expression"), quoted(&rule.expression));
                    continue;
                }
                let made = Expression::claim_rule(&rule.expression);
                compiled.extend(expression(made, &rule.expression, &format!("{at}.expression"), errors).map(|e| (e, rule.message.clone())));
            }
        }
    }
    compiled
}

/// The expression, or the error that it is none.
fn expression(made: Result<Expression, String>, text: &str, path: &str, errors: &mut FieldErrors) -> Option<Expression> {
    made.map_err(|why| errors.invalid(path, quoted(text), &why)).ok()
}

fn mappings(of: &Mappings, path: &str, into: &mut Mapping, errors: &mut FieldErrors) {
    let before = errors.0.len();
    let username = prefixed(&of.username, &format!("{path}.username"), true, errors);
    into.username = username.filter(|_| errors.0.len() == before);
    let before = errors.0.len();
    let groups = prefixed(&of.groups, &format!("{path}.groups"), false, errors);
    into.groups = groups.filter(|_| errors.0.len() == before);
    match (of.uid.claim.is_empty(), of.uid.expression.as_str()) {
        (_, "") => {}
        (false, _) => errors.invalid(format!("{path}.uid"), "\"\"", "claim and expression can't both be set"),
        (true, text) => into.uid = expression(Expression::of_claims(text), text, &format!("{path}.uid.expression"), errors),
    }
    let mut keys = HashSet::new();
    for (number, extra) in of.extra.iter().enumerate() {
        let at = format!("{path}.extra[{number}]");
        extra_key(&extra.key, &format!("{at}.key"), errors);
        if !keys.insert(&extra.key) {
            errors.duplicate(format!("{at}.key"), quoted(&extra.key));
            continue;
        }
        let (text, at) = (extra.value_expression.as_str(), format!("{at}.valueExpression"));
        if text.is_empty() {
            errors.required(at, "");
            continue;
        }
        into.extra.extend(expression(Expression::of_claims(text), text, &at, errors).map(|e| (extra.key.clone(), e)));
    }
    let asks_email = into.username.as_ref().is_some_and(|username| username.selects("email"));
    let verified = |e: &Expression| e.selects("email_verified");
    let is_verified = into.username.as_ref().is_some_and(verified)
        || into.extra.iter().any(|(_, e)| verified(e))
        || into.claim_rules.iter().any(|(e, _)| verified(e));
    if asks_email && !is_verified {
        let detail = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        errors.invalid(format!("{path}.username.expression"), quoted(&of.username.expression), detail);
    }
}

fn prefixed(of: &Prefixed, path: &str, required: bool, errors: &mut FieldErrors) -> Option<Expression> {
    match (of.claim.is_empty(), of.expression.as_str()) {
        (false, "") if of.prefix.is_none() => {
            let detail = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
            errors.required(format!("{path}.prefix"), detail);
            None
        }
        (false, "") => None,
        (false, _) => {
            errors.invalid(path, "\"\"", "claim and expression can't both be set");
            None
        }
        (true, "") => {
            if required {
                errors.required(path, "claim or expression is required");
            }
            None
        }
        (true, text) => {
            if let Some(prefix) = &of.prefix {
                errors.invalid(format!("{path}.prefix"), quoted(prefix), "may not be specified when expression is set");
            }
            expression(Expression::of_claims(text), text, &format!("{path}.expression"), errors)
        }
    }
}

/// `example.org/key`, in lower case and not Kubernetes' own.
fn extra_key(key: &str, path: &str, errors: &mut FieldErrors) {
    errors.extend(domain_prefixed_path(path, key));
    if key != key.to_lowercase() {
        errors.invalid(path, quoted(key), "must be lowercase");
    }
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    if ["k8s.io", "kubernetes.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}"))) {
        errors.invalid(path, quoted(key), "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
    }
}

/// What is wrong with a path that should begin with a domain (apimachinery `IsDomainPrefixedPath`).
pub(crate) fn domain_prefixed_path(path: &str, key: &str) -> FieldErrors {
    let mut errors = FieldErrors::none();
    match key.split_once('/') {
        _ if key.is_empty() => errors.required(path, ""),
        None | Some((_, "")) | Some(("", _)) => {
            errors.invalid(path, quoted(key), "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        Some((domain, rest)) => {
            errors.invalid_each(path, domain, name::subdomain(domain));
            if !is_path(rest) {
                let detail = format!("Invalid path (regex used for validation is '{}')", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+");
                errors.invalid(path, quoted(rest), &detail);
            }
        }
    }
    errors
}

fn is_path(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b))
}

fn user_rules(rules: &[UserRule], path: &str, errors: &mut FieldErrors) -> Vec<(Expression, String)> {
    let (mut seen, mut compiled) = (HashSet::new(), Vec::new());
    for (number, rule) in rules.iter().enumerate() {
        let at = format!("{path}[{number}].expression");
        if rule.expression.is_empty() {
            errors.required(at, "");
        } else if !seen.insert(&rule.expression) {
            errors.duplicate(at, quoted(&rule.expression));
        } else {
            let made = Expression::user_rule(&rule.expression);
            compiled.extend(expression(made, &rule.expression, &at, errors).map(|e| (e, rule.message.clone())));
        }
    }
    compiled
}
