// Package authn_test asks an API server who somebody is: tokens of an OpenID Connect issuer with its own keys, of a webhook, of a file; client
// certificates; front proxies. What kube-apiserver says of the same stands in testdata/*.golden: PEER=FOLDER, with its kube-apiserver and etcd,
// compares anew, and UPDATE=1 with it writes the files.
package authn_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"coracle/conformance/clients/apiserver"
)

// world is what the servers are configured with.
type world struct {
	folder                          string
	issuers, clients, others, front *authority
	first, second                   *issuer
	config, webhook, tokens         string
	saCertificate, saKey            string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{folder: t.TempDir()}
	w.issuers, w.clients, w.others, w.front = newAuthority(t, "issuers"), newAuthority(t, "clients"), newAuthority(t, "others"), newAuthority(t, "front")
	w.first, w.second = newIssuer(t, w.issuers), newIssuer(t, w.issuers)
	w.webhook = newWebhook(t, w.issuers, w.folder)
	w.tokens = apiserver.Write(t, w.folder, "tokens.csv", "fixed-token,file-user,f-1,\"a,b\"\nplain-token,plain,p-1\nadmin-token,admin,1,system:masters\n")
	certificate, key := w.issuers.leaf(t, "sa", nil)
	w.saCertificate, w.saKey = apiserver.Write(t, w.folder, "sa.crt", certificate), apiserver.Write(t, w.folder, "sa.key", key)
	w.config = apiserver.Write(t, w.folder, "authentication.yaml", w.configuration())
	return w
}

func (w *world) configuration() string {
	ca := indented(w.issuers.pem, "      ")
	return fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions: [{path: /livez}, {path: /readyz}, {path: /healthz}]
jwt:
- issuer:
    url: %s
    audiences: [kube, other-kube]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
%s
  claimValidationRules:
  - {expression: "!has(claims.age) || claims.age >= 18.0", message: too young}
  - {expression: "claims.?email_verified.orValue(true) == true", message: email}
  claimMappings:
    username: {expression: "'first:' + claims.sub"}
    groups: {expression: "claims.?roles.orValue('').split(',').filter(r, r != '')"}
    uid: {claim: id}
    extra:
    - {key: acme.io/org, valueExpression: "claims.?org.orValue('')"}
    - {key: acme.io/deep, valueExpression: "has(claims.deep__dot__er) ? claims.deep__dot__er.x : ''"}
  userValidationRules:
  - {expression: "!user.username.startsWith('first:system:')", message: reserved}
  - {expression: "user.groups.all(g, !g.startsWith('system:'))", message: reserved group}
- issuer:
    url: %s
    audiences: [kube]
    certificateAuthority: |
%s
  claimValidationRules:
  - {claim: hd, requiredValue: acme.io}
  claimMappings:
    username: {claim: email, prefix: "second:"}
    groups: {claim: groups, prefix: "g:"}
`, w.first.url, ca, w.second.url, ca)
}

// server is a running kube-apiserver.
type server struct{ *apiserver.Server }

// store starts the etcd of a pair of programs.
func store(t *testing.T, assets string) string {
	t.Helper()
	at, peers := apiserver.FreePort(t), apiserver.FreePort(t)
	url, peer := fmt.Sprintf("http://127.0.0.1:%d", at), fmt.Sprintf("http://127.0.0.1:%d", peers)
	apiserver.Run(t, filepath.Join(assets, "etcd"),
		"--listen-client-urls="+url, "--advertise-client-urls="+url, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster=default="+peer, "--data-dir="+t.TempDir(), "--unsafe-no-fsync=true")
	return url
}

func (w *world) flags(t *testing.T, etcd string, port int) []string {
	return []string{
		"--etcd-servers=" + etcd, fmt.Sprintf("--secure-port=%d", port), "--bind-address=127.0.0.1", "--authorization-mode=RBAC",
		"--cert-dir=" + t.TempDir(), "--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://own.example",
		"--service-account-key-file=" + w.saCertificate, "--service-account-signing-key-file=" + w.saKey,
	}
}

func (w *world) start(t *testing.T, assets string, more ...string) *server {
	t.Helper()
	port := apiserver.FreePort(t)
	return &server{apiserver.Start(t, assets, port, append(w.flags(t, store(t, assets), port), more...)...)}
}

// whoami is what a SelfSubjectReview says: the user, or the code and message of the refusal.
func (s *server) whoami(headers map[string]string) string {
	body := `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	code, said := s.Ask(http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", body, headers)
	if code == 0 {
		return "broken: " + said
	}
	var review struct {
		Message string `json:"message"`
		Status  any    `json:"status"`
	}
	if err := json.Unmarshal([]byte(said), &review); err != nil {
		return fmt.Sprintf("%d %s", code, said)
	}
	if code != http.StatusCreated {
		return fmt.Sprintf("%d %s", code, review.Message)
	}
	shown, _ := json.Marshal(review.Status)
	return regexp.MustCompile(`X509SHA256=[0-9a-f]+`).ReplaceAllString(string(shown), "X509SHA256=…")
}

// compare checks outcomes by name against the golden file, which upstream's server wrote.
func compare(t *testing.T, name string, outcomes func(assets string) map[string]string) {
	t.Helper()
	golden := filepath.Join("testdata", name+".golden")
	if peer := os.Getenv("PEER"); peer != "" {
		theirs := outcomes(peer)
		if os.Getenv("UPDATE") != "" {
			var lines []string
			for case_, said := range theirs {
				lines = append(lines, case_+"\t"+strings.ReplaceAll(said, "\n", "\\n"))
			}
			sort.Strings(lines)
			if err := os.WriteFile(golden, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		check(t, golden, theirs)
	}
	check(t, golden, outcomes(os.Getenv("KUBEBUILDER_ASSETS")))
}

func check(t *testing.T, golden string, outcomes map[string]string) {
	t.Helper()
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		name, said, _ := strings.Cut(line, "\t")
		known[name] = said
	}
	if len(known) != len(outcomes) {
		t.Errorf("%d cases, %d known", len(outcomes), len(known))
	}
	for name, said := range outcomes {
		if said := strings.ReplaceAll(said, "\n", "\\n"); known[name] != said {
			t.Errorf("%s:\n  upstream: %s\n  here:     %s", name, known[name], said)
		}
	}
}

func TestTokensNameWhomUpstreamNames(t *testing.T) {
	w := newWorld(t)
	tokens := w.tokensByName()
	compare(t, "tokens", func(assets string) map[string]string {
		server := w.start(t, assets, "--authentication-config="+w.config, "--token-auth-file="+w.tokens,
			"--authentication-token-webhook-config-file="+w.webhook, "--authentication-token-webhook-version=v1")
		w.ready(t, server)
		outcomes := map[string]string{}
		for name, token := range tokens {
			outcomes[name] = server.whoami(apiserver.Bearer(token))
		}
		outcomes["without any token"] = server.whoami(nil)
		outcomes["basic authentication"] = server.whoami(map[string]string{"Authorization": "Basic YTpi"})
		return outcomes
	})
}

func TestReviewsSayWhatUpstreamsSay(t *testing.T) {
	w := newWorld(t)
	tokens := w.tokensByName()
	compare(t, "reviews", func(assets string) map[string]string {
		server := w.start(t, assets, "--authentication-config="+w.config, "--token-auth-file="+w.tokens,
			"--authentication-token-webhook-config-file="+w.webhook, "--authentication-token-webhook-version=v1beta1", "--api-audiences=api,second")
		w.ready(t, server)
		outcomes := map[string]string{}
		for name, token := range tokens {
			outcomes[name] = w.review(server, token)
		}
		for name, audiences := range map[string][]string{"two of ours": {"second", "api"}, "one of ours": {"second", "else"}, "none of ours": {"else"}} {
			for of, token := range map[string]string{"issuer": w.first.token(nil), "file": "fixed-token", "webhook": "webhook-good", "webhook for other": "webhook-audience"} {
				outcomes[of+", asked for "+name] = w.review(server, token, audiences...)
			}
		}
		outcomes["webhook for other, asked for it"] = w.review(server, "webhook-audience", "other")
		return outcomes
	})
}

// review is what a TokenReview says of a token; times, ports and what only Go's decoder would say are taken out.
func (w *world) review(of *server, token string, audiences ...string) string {
	body, _ := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": map[string]any{"token": token, "audiences": audiences},
	})
	_, answer := of.Ask(http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", string(body), apiserver.Bearer("admin-token"))
	var review struct {
		Status json.RawMessage `json:"status"`
	}
	if err := json.Unmarshal([]byte(answer), &review); err != nil {
		return err.Error() + ": " + answer
	}
	// Members in one order, whoever wrote them.
	var status any
	_ = json.Unmarshal(review.Status, &status)
	var shown strings.Builder
	encoder := json.NewEncoder(&shown)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(status)
	said := strings.TrimSpace(shown.String())
	for pattern, by := range map[string]string{
		`Token Expiry: [^)]*`:            "Token Expiry: …",
		`current time .* before the nbf`: "current time … before the nbf",
		`\(not before\) time: [^"]*`:     "(not before) time: …",
		`127\.0\.0\.1:\d+`:               "127.0.0.1:PORT",
		`(malformed jwt|failed to unmarshal claims|json parse error)[^]]*]`: "$1…]",
		`unsupported algorithm, expected [^]]*`:                             "unsupported algorithm, expected …",
	} {
		said = regexp.MustCompile(pattern).ReplaceAllString(said, by)
	}
	return said
}

// ready waits until both issuers were reached.
func (w *world) ready(t *testing.T, of *server) {
	t.Helper()
	good := []string{w.first.token(nil), w.second.token(func(c map[string]any) { c["email"], c["hd"] = "r@a.io", "acme.io" })}
	apiserver.Until(t, func() string { return "the issuers are not reached" }, func() bool {
		for _, token := range good {
			if !strings.HasPrefix(of.whoami(apiserver.Bearer(token)), "{") {
				return false
			}
		}
		return true
	})
}

func (w *world) tokensByName() map[string]string {
	first, second := w.first, w.second
	set := func(pairs ...any) func(map[string]any) {
		return func(c map[string]any) {
			for at := 0; at < len(pairs); at += 2 {
				if pairs[at+1] == nil {
					delete(c, pairs[at].(string))
				} else {
					c[pairs[at].(string)] = pairs[at+1]
				}
			}
		}
	}
	mail := func(pairs ...any) string {
		return second.token(set(append([]any{"email", "j@acme.io", "hd", "acme.io"}, pairs...)...))
	}
	header := func(algorithm, kid string) map[string]any { return map[string]any{"alg": algorithm, "kid": kid} }
	good := first.token(nil)
	parts := strings.Split(good, ".")
	hour := func(hours int) int64 { return time.Now().Add(time.Duration(hours) * time.Hour).Unix() }
	tokens := map[string]string{
		"good":                        good,
		"other audience of two":       first.token(set("aud", []string{"x", "other-kube"})),
		"without audience":            first.token(set("aud", nil)),
		"wrong audience":              first.token(set("aud", "else")),
		"expired":                     first.token(set("exp", hour(-1))),
		"without expiry":              first.token(set("exp", nil)),
		"not yet":                     first.token(set("nbf", hour(1))),
		"begins within the leeway":    first.token(set("nbf", time.Now().Add(time.Minute).Unix())),
		"other issuer":                first.token(set("iss", "https://else.example")),
		"issuer with a slash":         first.token(set("iss", first.url+"/")),
		"without issuer":              first.token(set("iss", nil)),
		"without roles":               first.token(set("roles", nil)),
		"without id":                  first.token(set("id", nil)),
		"id is a number":              first.token(set("id", 7)),
		"without subject":             first.token(set("sub", nil)),
		"subject is a number":         first.token(set("sub", 7)),
		"too young":                   first.token(set("age", 17)),
		"age is a text":               first.token(set("age", "old")),
		"reserved name":               first.token(set("sub", "system:admin")),
		"reserved group":              first.token(set("roles", "system:masters")),
		"deep claim":                  first.token(set("deep.er", map[string]any{"x": "found"})),
		"email not verified":          first.token(set("email_verified", false)),
		"jti is empty":                first.token(set("jti", "")),
		"by RSA":                      sign(first.rsa, "RS256", header("RS256", "rsa"), first.claims(nil)),
		"by RSA 384":                  sign(first.rsa, "RS384", header("RS384", "rsa"), first.claims(nil)),
		"by RSA 512":                  sign(first.rsa, "RS512", header("RS512", "rsa"), first.claims(nil)),
		"by PSS":                      sign(first.rsa, "PS256", header("PS256", "rsa"), first.claims(nil)),
		"by PSS 512":                  sign(first.rsa, "PS512", header("PS512", "rsa"), first.claims(nil)),
		"by nobody's key":             sign(first.other, "ES256", header("ES256", "ec"), first.claims(nil)),
		"by a key of another name":    sign(first.ec, "ES256", header("ES256", "rsa"), first.claims(nil)),
		"by a key without a name":     sign(first.ec, "ES256", map[string]any{"alg": "ES256"}, first.claims(nil)),
		"by a key nobody knows":       sign(first.ec, "ES256", header("ES256", "unknown"), first.claims(nil)),
		"by the other issuer's key":   sign(second.ec, "ES256", header("ES256", "ec"), first.claims(nil)),
		"RSA said to be PSS":          sign(first.rsa, "RS256", header("PS256", "rsa"), first.claims(nil)),
		"algorithm none":              sign(first.ec, "ES256", header("none", "ec"), first.claims(nil)),
		"algorithm HS256":             sign(first.ec, "ES256", header("HS256", "ec"), first.claims(nil)),
		"without signature":           parts[0] + "." + parts[1] + ".",
		"two parts":                   parts[0] + "." + parts[1],
		"four parts":                  good + ".x",
		"changed claims":              parts[0] + "." + strings.Split(first.token(set("sub", "root")), ".")[1] + "." + parts[2],
		"not base64":                  parts[0] + ".!." + parts[2],
		"nonsense":                    "nonsense",
		"email":                       mail(),
		"email verified":              mail("email_verified", true),
		"email of the second not":     mail("email_verified", false),
		"email verified as a text":    mail("email_verified", "true"),
		"email missing":               mail("email", nil),
		"groups as a text":            mail("groups", "one"),
		"groups as a list":            mail("groups", []string{"a", "b"}),
		"groups of numbers":           mail("groups", []int{1}),
		"groups are null":             mail("groups", json.RawMessage("null")),
		"required claim missing":      mail("hd", nil),
		"required claim wrong":        mail("hd", "else"),
		"required claim is a number":  mail("hd", 1),
		"in the token file":           "fixed-token",
		"in the token file, no group": "plain-token",
		"known to the webhook":        "webhook-good",
		"for another audience there":  "webhook-audience",
		"refused by the webhook":      "webhook-error",
		"garbage from the webhook":    "webhook-broken",
	}
	return tokens
}

func TestCertificatesAndFrontProxies(t *testing.T) {
	w := newWorld(t)
	bundle := apiserver.Write(t, w.folder, "clients.crt", w.others.pem+w.clients.pem)
	front := apiserver.Write(t, w.folder, "front.crt", w.front.pem)
	pair := func(of *authority, name string, change func(*x509.Certificate)) *tls.Certificate {
		certificate, key := of.leaf(t, name, change)
		made, err := tls.X509KeyPair([]byte(certificate), []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return &made
	}
	certificates := map[string]*tls.Certificate{
		"of the second authority": pair(w.clients, "jane", func(c *x509.Certificate) { c.Subject.Organization = []string{"devs", "ops"} }),
		"of the first authority":  pair(w.others, "joe", nil),
		"expired":                 pair(w.clients, "jane", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"not yet valid":           pair(w.clients, "jane", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }),
		"for servers only":        pair(w.clients, "jane", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"without usages":          pair(w.clients, "jane", func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		"without a name":          pair(w.clients, "", func(c *x509.Certificate) { c.Subject.Organization = []string{"devs"} }),
		"of a stranger":           pair(newAuthority(t, "clients"), "jane", nil),
		"of a front proxy":        pair(w.front, "proxy", nil),
		"of another front proxy":  pair(w.front, "stranger", nil),
	}
	said := map[string]map[string]string{
		"":                        nil,
		", names a user":          {"X-Remote-User": "carol", "X-Remote-Group": "g", "X-Remote-Uid": "u", "X-Remote-Extra-Acme.io%2fa": "b"},
		", names only a group":    {"X-Remote-Group": "system:masters"},
		", with a good token":     {"Authorization": "Bearer fixed-token"},
		", with a wrong token":    {"Authorization": "Bearer wrong"},
		", with an empty name":    {"X-Remote-User": ""},
		", names another by hand": {"X-Other-User": "dave"},
	}
	compare(t, "certificates", func(assets string) map[string]string {
		running := w.start(t, assets, "--client-ca-file="+bundle, "--token-auth-file="+w.tokens, "--requestheader-client-ca-file="+front,
			"--requestheader-allowed-names=proxy,other", "--requestheader-username-headers=X-Remote-User,X-Other-User",
			"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-uid-headers=X-Remote-Uid")
		outcomes := map[string]string{}
		for name, certificate := range certificates {
			of := &server{running.As(certificate)}
			for case_, headers := range said {
				outcomes[name+case_] = of.whoami(headers)
			}
		}
		for case_, headers := range said {
			outcomes["none"+case_] = running.whoami(headers)
		}
		return outcomes
	})
}

func TestKubectlIsWhoItsTokenSays(t *testing.T) {
	w := newWorld(t)
	server := w.start(t, os.Getenv("KUBEBUILDER_ASSETS"), "--authentication-config="+w.config)
	w.ready(t, server)
	whoami := func(token string) (string, error) {
		said, err := exec.Command("kubectl", "--kubeconfig=/dev/null", "--server="+server.URL, "--insecure-skip-tls-verify", "--token="+token,
			"auth", "whoami", "-o", "json").CombinedOutput()
		return string(said), err
	}
	if said, err := whoami(w.first.token(nil)); err != nil || !strings.Contains(said, `"username": "first:jane"`) {
		t.Errorf("%v: %s", err, said)
	}
	if said, err := whoami(w.first.token(func(c map[string]any) { c["aud"] = "else" })); err == nil || !strings.Contains(said, "Unauthorized") {
		t.Errorf("%v: %s", err, said)
	}
}
