//! Flags of authentication, under upstream's names (`pkg/kubeapiserver/options/authentication.go`), for both programs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use coracle_apiserver::{
    CertificateAndKey, Kubeconfig,
    authn::{
        Anonymous, FrontProxy, Options, Version, WebhookOptions, bearer,
        jwt::{Algorithm, AnonymousConfiguration, ClaimRule, Configuration, Issuer, JwtAuthenticator, JwtOptions, Prefixed},
    },
    authz,
};
use jiff::SignedDuration;

use crate::dropin::flags::{span, truth};

/// How long answers of the webhook are remembered.
const CACHED: Duration = Duration::from_secs(120);

/// How users are recognised.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct AuthenticationFlags {
    /// Authorities of client certificates (PEM, read again when it changes): the common name is the user, organizations are groups.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Option<PathBuf>,

    /// Whether requests without credentials are those of system:anonymous.
    #[arg(long, value_name = "BOOL", value_parser = truth, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) anonymous_auth: Option<bool>,

    /// Recognise tokens of secrets of type bootstrap.kubernetes.io/token.
    #[arg(long, value_name = "BOOL", value_parser = truth, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) enable_bootstrap_token_auth: Option<bool>,

    /// Fixed tokens: lines of token,user,uid,"group1,group2".
    #[arg(long, value_name = "FILE")]
    pub(crate) token_auth_file: Option<PathBuf>,

    /// Issuers of JSON web tokens, and where requests without credentials are allowed: an AuthenticationConfiguration.
    #[arg(long, value_name = "FILE")]
    pub(crate) authentication_config: Option<PathBuf>,

    /// URL of an OpenID Connect issuer, https only.
    #[arg(long, value_name = "URL")]
    pub(crate) oidc_issuer_url: Option<String>,

    /// The client ID its tokens must be for; must be given with --oidc-issuer-url.
    #[arg(long, value_name = "ID")]
    pub(crate) oidc_client_id: Option<String>,

    /// Authorities of the issuer's certificate; the system's without it.
    #[arg(long, value_name = "FILE")]
    pub(crate) oidc_ca_file: Option<PathBuf>,

    /// The claim that is the user's name.
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub(crate) oidc_username_claim: String,

    /// What is put before it; - is nothing. Default: the issuer's URL and #, save for the claim email.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) oidc_username_prefix: Option<String>,

    /// The claim that names groups.
    #[arg(long, value_name = "CLAIM")]
    pub(crate) oidc_groups_claim: Option<String>,

    /// What is put before them.
    #[arg(long, value_name = "TEXT")]
    pub(crate) oidc_groups_prefix: Option<String>,

    /// Signatures that are taken.
    #[arg(long, value_name = "ALG,…", value_delimiter = ',', default_value = "RS256")]
    pub(crate) oidc_signing_algs: Vec<String>,

    /// Claims that must be there: NAME=VALUE, once for each.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) oidc_required_claim: Vec<String>,

    /// A kubeconfig of the webhook that is asked whose tokens are.
    #[arg(long, value_name = "FILE")]
    pub(crate) authentication_token_webhook_config_file: Option<PathBuf>,

    /// How long the webhook's answers are remembered.
    #[arg(long, value_name = "DURATION", default_value = "2m0s", value_parser = span)]
    pub(crate) authentication_token_webhook_cache_ttl: Option<Duration>,

    /// The version of TokenReview the webhook takes: v1 or v1beta1.
    #[arg(long, value_name = "VERSION", default_value = "v1beta1")]
    pub(crate) authentication_token_webhook_version: String,

    /// Authorities of front proxies (PEM, read again when it changes).
    #[arg(long, value_name = "FILE")]
    pub(crate) requestheader_client_ca_file: Option<PathBuf>,

    /// Common names of front proxies' certificates; any when empty.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) requestheader_allowed_names: Vec<String>,

    /// Headers in which a front proxy names the user; X-Remote-User is common.
    #[arg(long, value_name = "HEADER,…", value_delimiter = ',')]
    pub(crate) requestheader_username_headers: Vec<String>,

    /// Headers in which it names the user's uid; X-Remote-Uid is suggested.
    #[arg(long, value_name = "HEADER,…", value_delimiter = ',')]
    pub(crate) requestheader_uid_headers: Vec<String>,

    /// Headers in which it names groups; X-Remote-Group is suggested.
    #[arg(long, value_name = "HEADER,…", value_delimiter = ',')]
    pub(crate) requestheader_group_headers: Vec<String>,

    /// Beginnings of headers in which it tells extras; X-Remote-Extra- is suggested.
    #[arg(long, value_name = "PREFIX,…", value_delimiter = ',')]
    pub(crate) requestheader_extra_headers_prefix: Vec<String>,

    /// Where others read the keys of service-account tokens, https only: told in the discovery document instead of this server's address.
    #[arg(long, value_name = "URL")]
    pub(crate) service_account_jwks_uri: Option<String>,

    /// More certificates, each shown to those who ask for its names: CERTIFICATE,KEY or CERTIFICATE,KEY:NAME,….
    #[arg(long, value_name = "CERT,KEY[:NAME,…]")]
    pub(crate) tls_sni_cert_key: Vec<String>,
}

impl AuthenticationFlags {
    /// The part of the options that these flags decide.
    pub(crate) fn options(&self) -> Result<Options> {
        let fixed_tokens = match &self.token_auth_file {
            None => Default::default(),
            Some(file) => bearer::fixed_tokens(&read("token-auth-file", file)?)
                .map_err(|error| anyhow!("--token-auth-file: {}: {error}", file.display()))?,
        };
        let jwt = self.issuers()?;
        let configured = jwt.as_ref().and_then(|jwt| jwt.configuration.anonymous.as_ref());
        let anonymous = match (configured, self.anonymous_auth) {
            (Some(_), Some(_)) => bail!(
                "anonymous: Forbidden: --anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file"
            ),
            (Some(configured), None) => anonymous(configured),
            (None, flag) if flag.unwrap_or(true) => Anonymous::On,
            _ => Anonymous::Off,
        };
        if let Some(jwt) = &jwt {
            jwt.configuration.validate().map_err(|why| anyhow!("invalid authentication configuration: {why}"))?;
        }
        if let Some(url) = self.service_account_jwks_uri.as_deref().filter(|url| !url.starts_with("https://")) {
            bail!("service-account-jwks-uri requires https scheme, parsed as: {url}");
        }
        Ok(Options {
            jwt,
            jwks_uri: self.service_account_jwks_uri.clone(),
            anonymous,
            bootstrap_tokens: self.enable_bootstrap_token_auth.unwrap_or(false),
            fixed_tokens,
            webhook: self.webhook()?,
            front_proxy: self.front_proxy()?,
            ..Options::default()
        })
    }

    /// Issuers of JSON web tokens, by the file or by the `--oidc-…` flags.
    fn issuers(&self) -> Result<Option<JwtOptions>> {
        let flags = self.oidc_issuer_url.is_some()
            || self.oidc_client_id.is_some()
            || self.oidc_ca_file.is_some()
            || self.oidc_username_prefix.is_some()
            || self.oidc_groups_claim.is_some()
            || self.oidc_groups_prefix.is_some()
            || !self.oidc_required_claim.is_empty()
            || self.oidc_username_claim != "sub"
            || self.oidc_signing_algs != ["RS256"];
        if let Some(path) = &self.authentication_config {
            if flags {
                bail!("authentication-config file and oidc-* flags are mutually exclusive");
            }
            let shown = path.display().to_string();
            let failed = |why: String| anyhow!("failed to load authentication configuration from file {shown:?}: {why}");
            let bytes = std::fs::read(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => failed(format!("open {shown}: no such file or directory")),
                _ => failed(format!("open {shown}: {e}")),
            })?;
            let configuration = Configuration::parse(&bytes).map_err(failed)?;
            return Ok(Some(JwtOptions { configuration, algorithms: Algorithm::ALL.to_vec(), file: Some((path.clone(), bytes)) }));
        }
        if !flags {
            return Ok(None);
        }
        let (Some(url), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            bail!("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set");
        };
        let algorithm = |name: &String| {
            let allowed: Vec<&str> = Algorithm::ALL.into_iter().map(Algorithm::name).collect();
            Algorithm::named(name)
                .with_context(|| format!("--oidc-signing-algs: unsupported signing alg: {name:?}; allowed: {}", allowed.join(", ")))
        };
        let algorithms = self.oidc_signing_algs.iter().map(algorithm).collect::<Result<_>>()?;
        let configuration = Configuration { jwt: vec![self.oidc(url, client)?], anonymous: None };
        Ok(Some(JwtOptions { configuration, algorithms, file: None }))
    }

    /// What the `--oidc-…` flags say, as the configuration file would.
    fn oidc(&self, url: &str, client: &str) -> Result<JwtAuthenticator> {
        let prefix = match self.oidc_username_prefix.as_deref().unwrap_or_default() {
            "" if self.oidc_username_claim != "email" => format!("{url}#"),
            "-" => String::new(),
            given => given.to_owned(),
        };
        let username = Prefixed { claim: self.oidc_username_claim.clone(), prefix: Some(prefix), expression: String::new() };
        let issuer = Issuer { url: url.to_owned(), audiences: vec![client.to_owned()], ..Issuer::default() };
        let mut of = JwtAuthenticator { issuer, ..JwtAuthenticator::default() };
        of.claim_mappings.username = username;
        if let Some(claim) = self.oidc_groups_claim.clone().filter(|claim| !claim.is_empty()) {
            let prefix = Some(self.oidc_groups_prefix.clone().unwrap_or_default());
            of.claim_mappings.groups = Prefixed { claim, prefix, expression: String::new() };
        }
        if let Some(file) = &self.oidc_ca_file {
            of.issuer.certificate_authority = read("oidc-ca-file", file)?;
        }
        for required in &self.oidc_required_claim {
            let (claim, value) = required
                .split_once('=')
                .with_context(|| format!("--oidc-required-claim: malformed pair, expect string=string: {required}"))?;
            let (claim, required_value) = (claim.trim().to_owned(), value.trim().to_owned());
            of.claim_validation_rules.push(ClaimRule { claim, required_value, ..ClaimRule::default() });
        }
        Ok(of)
    }

    fn webhook(&self) -> Result<Option<WebhookOptions>> {
        let Some(file) = &self.authentication_token_webhook_config_file else { return Ok(None) };
        let kubeconfig = Kubeconfig::read(file).map_err(|why| anyhow!("--authentication-token-webhook-config-file: {why}"))?;
        let version = match self.authentication_token_webhook_version.as_str() {
            "v1" => Version::V1,
            "v1beta1" => Version::V1beta1,
            other => bail!(
                "--authentication-token-webhook-version: unsupported authentication webhook version {other:?}, supported versions are \"v1\", \"v1beta1\""
            ),
        };
        let cache = self.authentication_token_webhook_cache_ttl.unwrap_or(CACHED);
        let cache = SignedDuration::try_from(cache).unwrap_or(SignedDuration::MAX);
        Ok(Some(WebhookOptions { kubeconfig, version, cache }))
    }

    fn front_proxy(&self) -> Result<Option<FrontProxy>> {
        let lists = [
            ("requestheader-username-headers", &self.requestheader_username_headers, "X-Remote-User"),
            ("requestheader-group-headers", &self.requestheader_group_headers, "X-Remote-Group"),
            ("requestheader-extra-headers-prefix", &self.requestheader_extra_headers_prefix, "X-Remote-Extra-"),
            ("requestheader-uid-headers", &self.requestheader_uid_headers, ""),
            ("requestheader-allowed-names", &self.requestheader_allowed_names, ""),
        ];
        for (flag, list, standard) in lists {
            if list.iter().any(|value| value.trim().is_empty()) {
                bail!("empty value in {flag:?}");
            }
            if !standard.is_empty() && !list.is_empty() && !list.iter().any(|value| value.eq_ignore_ascii_case(standard)) {
                tracing::warn!("--{flag} is set without specifying the standard {standard} - API aggregation will not work");
            }
        }
        if self.requestheader_client_ca_file.is_none() {
            return Ok(None);
        }
        if let Some(clients) = &self.client_ca_file {
            self.overlap(&read("client-ca-file", clients)?)?;
        }
        Ok(Some(FrontProxy {
            allowed_names: self.requestheader_allowed_names.clone(),
            username_headers: self.requestheader_username_headers.clone(),
            uid_headers: self.requestheader_uid_headers.clone(),
            group_headers: self.requestheader_group_headers.clone(),
            extra_prefixes: self.requestheader_extra_headers_prefix.clone(),
        }))
    }

    /// Refuses authorities of clients (PEM) among those of front proxies, unless front proxies are told apart by their names: any client
    /// with a certificate would speak for a front proxy, hence for anybody.
    pub(crate) fn overlap(&self, clients: &str) -> Result<()> {
        match &self.requestheader_client_ca_file {
            Some(file) if self.requestheader_allowed_names.is_empty() => overlap(clients, &read("requestheader-client-ca-file", file)?),
            _ => Ok(()),
        }
    }

    /// The certificates of `--tls-sni-cert-key`, as their files are now. The error names the flag.
    pub(crate) fn named_certificates(&self) -> Result<Vec<CertificateAndKey>> {
        let read_one = |given: &String| -> Result<CertificateAndKey> {
            let (files, names) = given.split_once(':').map_or((given.as_str(), ""), |(files, names)| (files, names));
            let (certificate, key) = files
                .split_once(',')
                .filter(|(certificate, key)| !certificate.is_empty() && !key.is_empty())
                .with_context(|| format!("--tls-sni-cert-key: {given:?}: expected comma separated certificate and key file paths"))?;
            let names = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let of = |file: &str| read("tls-sni-cert-key", Path::new(file));
            Ok(CertificateAndKey { certificate: of(certificate)?, key: of(key)?, names })
        };
        self.tls_sni_cert_key.iter().map(read_one).collect()
    }
}

/// Where requests without credentials are allowed, as the file says it.
fn anonymous(of: &AnonymousConfiguration) -> Anonymous {
    match (of.enabled, of.conditions.as_slice()) {
        (false, _) => Anonymous::Off,
        (true, []) => Anonymous::On,
        (true, conditions) => Anonymous::Paths(conditions.iter().map(|condition| condition.path.clone()).collect()),
    }
}

/// Nobody is anonymous where everything is allowed (`BuiltInAuthenticationOptions.ApplyAuthorization`). Paths that a file names stay open.
pub(crate) fn restrain(anonymous: &mut Anonymous, authorization: &authz::Options) {
    if *anonymous == Anonymous::On && authorization.has(authz::Mode::AlwaysAllow) {
        tracing::warn!("--anonymous-auth is off: with --authorization-mode=AlwaysAllow anybody could do anything");
        *anonymous = Anonymous::Off;
    }
}

/// Refuses lists (PEM) that share an authority.
fn overlap(clients: &str, proxies: &str) -> Result<()> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect::<Vec<_>>();
    let clients = read(clients);
    if read(proxies).iter().any(|proxy| clients.contains(proxy)) {
        bail!(
            "--requestheader-client-ca-file and --client-ca-file contain overlapping certificates; --requestheader-allowed-names must be specified to ensure regular client certificates cannot set authenticating proxy headers for arbitrary users"
        );
    }
    Ok(())
}

/// A file named by a flag; the error names both.
pub(crate) fn read(flag: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--{flag}: cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::flags::group;

    fn of(given: &[(&'static str, &'static str)]) -> Result<AuthenticationFlags> {
        group(|name| given.iter().filter(|(flag, _)| *flag == name).map(|(_, value)| *value).collect())
    }

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let flags = of(&[
            ("requestheader-allowed-names", "a,b"),
            ("requestheader-allowed-names", "c"),
            ("anonymous-auth", "false"),
            ("authentication-token-webhook-cache-ttl", "1m30s"),
        ])
        .unwrap();
        assert_eq!(flags.requestheader_allowed_names, ["a", "b", "c"]);
        assert_eq!(flags.authentication_token_webhook_cache_ttl, Some(Duration::from_secs(90)));
        assert_eq!(flags.options().unwrap().anonymous, Anonymous::Off);
        assert!(of(&[("anonymous-auth", "maybe")]).unwrap_err().to_string().contains("--anonymous-auth"));
        assert!(of(&[("authentication-token-webhook-cache-ttl", "soon")]).unwrap_err().to_string().contains("must be a duration"));
    }

    #[test]
    fn wrong_values_are_refused_with_the_flag() {
        let refused = |given: &[(&'static str, &'static str)]| format!("{:#}", of(given).unwrap().options().map(|_| ()).unwrap_err());
        assert!(
            refused(&[("authentication-token-webhook-config-file", "/nowhere/k")])
                .starts_with("--authentication-token-webhook-config-file: stat")
        );
        assert_eq!(refused(&[("requestheader-username-headers", " ")]), "empty value in \"requestheader-username-headers\"");
        assert!(refused(&[("token-auth-file", "/nowhere/t")]).starts_with("--token-auth-file: cannot read /nowhere/t"));
        let named = of(&[("tls-sni-cert-key", "/nowhere/c")]).unwrap().named_certificates().map(|_| ()).unwrap_err();
        assert!(named.to_string().contains("expected comma separated certificate and key file paths"), "{named}");
    }

    #[test]
    fn authorities_of_clients_are_none_of_front_proxies_unless_names_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem()).unwrap();
        let file: &'static str = file.to_string_lossy().into_owned().leak();
        let both = [("client-ca-file", file), ("requestheader-client-ca-file", file)];
        assert!(of(&both).unwrap().options().map(|_| ()).unwrap_err().to_string().contains("overlapping certificates"));
        let named = [both[0], both[1], ("requestheader-allowed-names", "front")];
        assert_eq!(of(&named).unwrap().options().unwrap().front_proxy.unwrap().allowed_names, ["front"]);
        let own = std::fs::read_to_string(file).unwrap();
        assert!(of(&both[1..]).unwrap().overlap(&own).unwrap_err().to_string().contains("overlapping certificates"));
        of(&named[1..]).unwrap().overlap(&own).unwrap();
    }
}
