package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"coracle/conformance/clients/apiserver"
	"k8s.io/kms/pkg/service"
)

// A server under the name of kube-apiserver, over upstream's own side of KMS v2: what is written can be read, a new key is taken, and everything
// is written anew with it.
func TestSecretsAreEncryptedWithTheKeysOfAService(t *testing.T) {
	dir := t.TempDir()
	socket, id := filepath.Join(dir, "kms.sock"), apiserver.Write(t, dir, "id", "one")
	keys := service.NewGRPCService(socket, 5*time.Second, keys{id})
	go func() { _ = keys.ListenAndServe() }()
	defer keys.Shutdown()
	config := apiserver.Write(t, dir, "encryption.yaml", fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: local, endpoint: "unix://%s"}
`, socket))
	server := apiserver.InMemory(t, `secret,admin,1,"system:masters"`, "--encryption-provider-config="+config)
	ask := func(method, path, body string) (int, string) {
		return server.Ask(method, path, body, apiserver.Bearer("secret"))
	}
	if code, text := ask("GET", "/readyz/kms-providers", ""); code != 200 {
		t.Fatal(code, text)
	}
	secrets := "/api/v1/namespaces/default/secrets"
	for n := range 3 {
		if code, text := ask("POST", secrets, fmt.Sprintf(`{"metadata":{"name":"s%d"},"stringData":{"a":"b"}}`, n)); code != 201 {
			t.Fatal(code, text)
		}
	}
	if code, text := ask("GET", secrets+"/s1", ""); code != 200 || !strings.Contains(text, `"a":"Yg=="`) {
		t.Fatal(code, text)
	}
	if _, text := ask("POST", "/encryption/reencrypt", ""); !strings.Contains(text, `"rewritten":0`) {
		t.Fatal(text)
	}
	apiserver.Write(t, dir, "id", "two")
	apiserver.Until(t, func() string { return "the new key is not taken" }, func() bool {
		_, text := ask("POST", "/encryption/reencrypt", "")
		return strings.Contains(text, `"rewritten":3`)
	})
	if code, text := ask("GET", secrets+"/s2", ""); code != 200 {
		t.Fatal(code, text)
	}
}
