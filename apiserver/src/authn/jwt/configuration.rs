//! `AuthenticationConfiguration` as it is written (apiserver `pkg/apis/apiserver/v1`).

use serde::Deserialize;

use crate::wire::configuration::Format;

/// What is made of tokens of others, and of requests without any.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Configuration {
    /// Issuers of JSON web tokens.
    pub jwt: Vec<JwtAuthenticator>,
    /// Where requests without credentials are those of nobody in particular.
    pub anonymous: Option<AnonymousConfiguration>,
}

/// Whether, and where.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct AnonymousConfiguration {
    /// At all.
    pub enabled: bool,
    /// Where; everywhere without any.
    pub conditions: Vec<Condition>,
}

/// One place.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Condition {
    /// `/livez`
    pub path: String,
}

/// One issuer and what is made of its claims.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct JwtAuthenticator {
    pub issuer: Issuer,
    pub claim_validation_rules: Vec<ClaimRule>,
    pub claim_mappings: Mappings,
    pub user_validation_rules: Vec<UserRule>,
}

/// Who issues.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

/// What must be true of the claims.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

/// What claims make of a user.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct Mappings {
    pub username: Prefixed,
    pub groups: Prefixed,
    pub uid: ClaimOrExpression,
    pub extra: Vec<Extra>,
}

/// A claim with something before it, or an expression.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct Prefixed {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

/// A claim or an expression.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct ClaimOrExpression {
    pub claim: String,
    pub expression: String,
}

/// An extra.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct Extra {
    pub key: String,
    pub value_expression: String,
}

/// What must be true of the user.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are upstream's")]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

const FORMAT: Format = Format {
    group: "apiserver.config.k8s.io",
    versions: &["v1", "v1beta1", "v1alpha1"],
    kind: "AuthenticationConfiguration",
    others: &["AuthorizationConfiguration", "EncryptionConfiguration", "AdmissionConfiguration", "TracingConfiguration"],
    fields: &[
        ("", &["apiVersion", "kind", "jwt", "anonymous"]),
        ("anonymous", &["enabled", "conditions"]),
        ("anonymous.conditions", &["path"]),
        ("jwt", &["issuer", "claimValidationRules", "claimMappings", "userValidationRules"]),
        ("jwt.issuer", &["url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy", "egressSelectorType"]),
        ("jwt.claimValidationRules", &["claim", "requiredValue", "expression", "message"]),
        ("jwt.claimMappings", &["username", "groups", "uid", "extra"]),
        ("jwt.claimMappings.username", &["claim", "prefix", "expression"]),
        ("jwt.claimMappings.groups", &["claim", "prefix", "expression"]),
        ("jwt.claimMappings.uid", &["claim", "expression"]),
        ("jwt.claimMappings.extra", &["key", "valueExpression"]),
        ("jwt.userValidationRules", &["expression", "message"]),
    ],
};

impl Configuration {
    /// Reads a file. The error is upstream's.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("empty config data".to_owned());
        }
        FORMAT.read(bytes)
    }

    /// Refuses issuers that are this server itself.
    pub fn refuse(&self, own: &[String]) -> Result<(), String> {
        self.jwt.iter().try_for_each(|one| super::validation::disallowed(one, own))
    }

    /// What is wrong in it, in upstream's words.
    pub fn validate(&self) -> Result<(), String> {
        super::validation::whole(self)
    }
}
