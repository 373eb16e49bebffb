package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/kms/pkg/service"
)

// A server under the name of kube-apiserver, over upstream's own side of KMS v2: what is written can be read, a new key is taken, and everything
// is written anew with it.
func TestSecretsAreEncryptedWithTheKeysOfAService(t *testing.T) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Skip("KUBEBUILDER_ASSETS names no kube-apiserver")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	socket, id := filepath.Join(dir, "kms.sock"), write("id", "one")
	keys := service.NewGRPCService(socket, 5*time.Second, keys{id})
	go func() { _ = keys.ListenAndServe() }()
	defer keys.Shutdown()
	config := write("encryption.yaml", fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: local, endpoint: "unix://%s"}
`, socket))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	server := exec.Command(filepath.Join(assets, "kube-apiserver"), "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--etcd-servers=memory",
		"--cert-dir="+dir, "--authorization-mode=RBAC", "--token-auth-file="+write("tokens.csv", `secret,admin,1,"system:masters"`), "--encryption-provider-config="+config)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()

	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 10 * time.Second}
	ask := func(method, path, body string) (int, string) {
		request, err := http.NewRequest(method, fmt.Sprintf("https://127.0.0.1:%d%s", port, path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer secret")
		request.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(request)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text)
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !done(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("not ready", func() bool { code, _ := ask("GET", "/readyz", ""); return code == 200 })
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
	write("id", "two")
	until("the new key is not taken", func() bool {
		_, text := ask("POST", "/encryption/reencrypt", "")
		return strings.Contains(text, `"rewritten":3`)
	})
	if code, text := ask("GET", secrets+"/s2", ""); code != 200 {
		t.Fatal(code, text)
	}
}
