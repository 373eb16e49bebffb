package authn_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"coracle/conformance/clients/apiserver"
)

// authority signs certificates of servers and clients.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert, encode("CERTIFICATE", der)}
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// leaf is a certificate and its key, both PEM, for 127.0.0.1 or a client; change may say otherwise.
func (a *authority) leaf(t *testing.T, name string, change func(*x509.Certificate)) (string, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", private)
}

// serve answers over TLS with a certificate of the authority until the test ends.
func (a *authority) serve(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	certificate, key := a.leaf(t, "server", nil)
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// issuer is an OpenID Connect provider with keys of its own.
type issuer struct {
	url   string
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
	other *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, of *authority) *issuer {
	t.Helper()
	made := &issuer{}
	var err error
	if made.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	for _, key := range []**ecdsa.PrivateKey{&made.ec, &made.other} {
		if *key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	answer := func(path string, value func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(value())
		})
	}
	answer("/.well-known/openid-configuration", func() any { return map[string]any{"issuer": made.url, "jwks_uri": made.url + "/keys"} })
	b64 := func(bytes []byte) string { return base64.RawURLEncoding.EncodeToString(bytes) }
	answer("/keys", func() any {
		pad := func(n *big.Int) string { return b64(n.FillBytes(make([]byte, 32))) }
		return map[string]any{"keys": []any{
			map[string]any{"kty": "RSA", "kid": "rsa", "use": "sig", "n": b64(made.rsa.N.Bytes()), "e": b64(big.NewInt(int64(made.rsa.E)).Bytes())},
			map[string]any{"kty": "EC", "kid": "ec", "use": "sig", "crv": "P-256", "x": pad(made.ec.X), "y": pad(made.ec.Y)},
		}}
	})
	made.url = of.serve(t, mux).URL
	return made
}

// sign makes a token; header and claims are as they are given, the signature is by the key and the algorithm named.
func sign(key any, algorithm string, header, claims map[string]any) string {
	part := func(value any) string {
		bytes, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(bytes)
	}
	signed := part(header) + "." + part(claims)
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	hash := hashes[algorithm[2:]]
	var digest []byte
	switch hash {
	case crypto.SHA256:
		sum := sha256.Sum256([]byte(signed))
		digest = sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384([]byte(signed))
		digest = sum[:]
	default:
		sum := sha512.Sum512([]byte(signed))
		digest = sum[:]
	}
	var signature []byte
	var err error
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if algorithm[0] == 'P' {
			signature, err = rsa.SignPSS(rand.Reader, key, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			signature, err = rsa.SignPKCS1v15(rand.Reader, key, hash, digest)
		}
	case *ecdsa.PrivateKey:
		r, s, failed := ecdsa.Sign(rand.Reader, key, digest)
		err = failed
		if err == nil {
			signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	}
	if err != nil {
		panic(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// claims are those of a good token; change may say otherwise.
func (i *issuer) claims(change func(map[string]any)) map[string]any {
	claims := map[string]any{
		"iss": i.url, "aud": "kube", "sub": "jane", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
		"roles": "dev,ops", "org": "acme", "id": "u-1", "jti": "j-1", "age": 30,
	}
	if change != nil {
		change(claims)
	}
	return claims
}

func (i *issuer) token(change func(map[string]any)) string {
	return sign(i.ec, "ES256", map[string]any{"alg": "ES256", "kid": "ec"}, i.claims(change))
}

// newWebhook answers TokenReviews: it knows two tokens, and tells of a third why it does not.
func newWebhook(t *testing.T, of *authority, folder string) string {
	t.Helper()
	server := of.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			APIVersion string `json:"apiVersion"`
			Spec       struct {
				Token     string   `json:"token"`
				Audiences []string `json:"audiences"`
			} `json:"spec"`
		}
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || r.Header.Get("Authorization") != "Bearer webhook-secret" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		status := map[string]any{}
		switch review.Spec.Token {
		case "webhook-good":
			user := map[string]any{"username": "hooked", "uid": "7", "groups": []string{"g"}, "extra": map[string]any{"a.io/b": []string{"c"}}}
			status = map[string]any{"authenticated": true, "user": user}
		case "webhook-audience":
			status = map[string]any{"authenticated": true, "user": map[string]any{"username": "elsewhere"}, "audiences": []string{"other"}}
		case "webhook-error":
			status = map[string]any{"error": "revoked"}
		case "webhook-broken":
			_, _ = w.Write([]byte("no json"))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": review.APIVersion, "kind": "TokenReview", "status": status})
	}))
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: u, user: {token: webhook-secret}}]
`, server.URL+"/review", base64.StdEncoding.EncodeToString([]byte(of.pem)))
	return apiserver.Write(t, folder, "webhook.kubeconfig", config)
}

// indented puts spaces before each line, as a block of YAML needs.
func indented(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}
