// Package apiserver starts API servers under the name of kube-apiserver for tests, and asks them.
package apiserver

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
	"syscall"
	"testing"
	"time"
)

// Patience is how long anything may take before it counts as broken.
const Patience = 60 * time.Second

// grace is how long a program may take to end.
const grace = 20 * time.Second

// Server is a running kube-apiserver.
type Server struct {
	URL    string
	client *http.Client
}

// FreePort is one that nobody listens on.
func FreePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// Run starts a program that ends with the test; the name of its log.
func Run(t *testing.T, program string, arguments ...string) string {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), filepath.Base(program)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, arguments...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = command.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(grace):
			_ = command.Process.Kill()
		}
		_ = log.Close()
	})
	return log.Name()
}

// Start runs the kube-apiserver of a folder with these flags, which name the port, too, and waits until it is ready.
func Start(t *testing.T, assets string, port int, flags ...string) *Server {
	t.Helper()
	log := Run(t, filepath.Join(assets, "kube-apiserver"), flags...)
	of := &Server{URL: fmt.Sprintf("https://127.0.0.1:%d", port), client: client(nil)}
	Until(t, func() string {
		said, _ := os.ReadFile(log)
		return fmt.Sprintf("%s is not ready: %s", assets, said)
	}, func() bool {
		code, _ := of.Ask(http.MethodGet, "/readyz", "", nil)
		return code == http.StatusOK
	})
	return of
}

// InMemory starts this program without an etcd. It knows the tokens of these lines (`token,user,uid,"groups"`).
func InMemory(t *testing.T, tokens string, flags ...string) *Server {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Skip("KUBEBUILDER_ASSETS names no kube-apiserver")
	}
	dir, port := t.TempDir(), FreePort(t)
	return Start(t, assets, port, append([]string{
		"--etcd-servers=memory", "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--cert-dir=" + dir,
		"--authorization-mode=RBAC", "--token-auth-file=" + Write(t, dir, "tokens.csv", tokens),
	}, flags...)...)
}

// As is the same server, asked with a client certificate.
func (s *Server) As(certificate *tls.Certificate) *Server {
	return &Server{URL: s.URL, client: client(certificate)}
}

// Ask sends a request; the code and the body of the answer, or 0 and why there is none.
func (s *Server) Ask(method, path, body string, headers map[string]string) (int, string) {
	request, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	request.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(said)
}

// Bearer are the headers of whoever has this token.
func Bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// Until waits for what comes true by itself; otherwise the test fails with what is told.
func Until(t *testing.T, tell func() string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > Patience {
			t.Fatal(tell())
		}
	}
}

// Write puts a file into a folder; its path.
func Write(t *testing.T, folder, name, content string) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func client(certificate *tls.Certificate) *http.Client {
	config := &tls.Config{InsecureSkipVerify: true}
	if certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}
