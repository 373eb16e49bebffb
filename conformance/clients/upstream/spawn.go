// Package testing is laid into upstream's two packages of this name, which start API servers for tests: it starts the binary that KAS names,
// with the flags of the server that the test wanted.
package testing

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	restclient "k8s.io/client-go/rest"
	"k8s.io/component-base/featuregate"
)

// Spawned is a server in a process of its own.
type Spawned struct {
	// Config is the client of its own identity, as in-process servers have one.
	Config *restclient.Config
	// Ended tells why the process ended; nil when it was asked to.
	Ended chan error
	stop  func()
}

// Stop ends the server.
func (s *Spawned) Stop() { s.stop() }

const ownToken = "system-apiserver-token"

// Changed gives the flags whose values are unlike the defaults.
func Changed(defaults, now []*pflag.FlagSet, skip ...string) []string {
	before, skipped := map[string]string{}, map[string]bool{"feature-gates": true, "token-auth-file": true}
	for _, name := range skip {
		skipped[name] = true
	}
	for _, set := range defaults {
		set.VisitAll(func(f *pflag.Flag) { before[f.Name] = f.Value.String() })
	}
	var flags []string
	for _, set := range now {
		set.VisitAll(func(f *pflag.Flag) {
			value := f.Value.String()
			if skipped[f.Name] || before[f.Name] == value {
				return
			}
			skipped[f.Name] = true
			if strings.HasPrefix(value, "[") && strings.HasSuffix(value, "]") {
				value = value[1 : len(value)-1]
			}
			flags = append(flags, "--"+f.Name+"="+value)
		})
	}
	sort.Strings(flags)
	return flags
}

// Gates gives the flag for the gates that are unlike their defaults.
func Gates(gates featuregate.MutableVersionedFeatureGate) []string {
	var changed []string
	for name, spec := range gates.GetAll() {
		on := gates.Enabled(name)
		if on != spec.Default && !spec.LockToDefault && !strings.HasPrefix(string(name), "All") {
			changed = append(changed, fmt.Sprintf("%s=%v", name, on))
		}
	}
	if len(changed) == 0 {
		return nil
	}
	sort.Strings(changed)
	return []string{"--feature-gates=" + strings.Join(changed, ",")}
}

// SpawnServer starts the binary on a port of the loopback; the folder takes its certificates. TokenFile is the test's own, or empty.
func SpawnServer(logf func(string, ...interface{}), folder string, port int, tokenFile, certificate string, flags []string) (*Spawned, error) {
	tokens := []byte(ownToken + ",system:apiserver,uid-apiserver,system:masters\n")
	if tokenFile != "" {
		more, err := os.ReadFile(tokenFile)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, more...)
	}
	file := filepath.Join(folder, "tokens.csv")
	if err := os.WriteFile(file, tokens, 0o600); err != nil {
		return nil, err
	}
	all := append([]string{"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--cert-dir=" + folder, "--token-auth-file=" + file}, flags...)
	logf("%s %s", os.Getenv("KAS"), strings.Join(all, " "))
	cmd := exec.Command(os.Getenv("KAS"), all...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Spawned{Ended: make(chan error, 1), stop: func() { _ = cmd.Process.Signal(syscall.SIGTERM) }}
	go func() {
		err := cmd.Wait()
		if err != nil && !strings.Contains(err.Error(), "signal: terminated") {
			text := said.String()
			s.Ended <- fmt.Errorf("%w: %s", err, text[max(0, len(text)-2000):])
		}
		close(s.Ended)
	}()
	if certificate == "" {
		certificate = filepath.Join(folder, "apiserver.crt")
	}
	for range 600 {
		if text, err := os.ReadFile(certificate); err == nil && len(text) > 0 {
			s.Config = &restclient.Config{
				Host: fmt.Sprintf("https://127.0.0.1:%d", port), BearerToken: ownToken, QPS: -1, Burst: -1,
				TLSClientConfig: restclient.TLSClientConfig{CAData: text, ServerName: nameIn(text)}, DisableCompression: true,
			}
			return s, nil
		}
		select {
		case err := <-s.Ended:
			return nil, fmt.Errorf("the server ended: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.Stop()
	return nil, fmt.Errorf("no certificate in %s", certificate)
}

// nameIn gives a name of the certificate; none where it is for the address of the loopback itself.
func nameIn(text []byte) string {
	block, _ := pem.Decode(text)
	if block == nil {
		return ""
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil || certificate.VerifyHostname("127.0.0.1") == nil || len(certificate.DNSNames) == 0 {
		return ""
	}
	return certificate.DNSNames[len(certificate.DNSNames)-1]
}
