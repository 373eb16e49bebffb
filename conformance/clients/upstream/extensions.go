package testing

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/component-base/featuregate"
)

// Spawn starts a whole server where the tests would have one of CRDs alone.
func Spawn(logf func(string, ...interface{}), s *options.CustomResourceDefinitionsServerOptions, folder string, gates featuregate.MutableVersionedFeatureGate) (*Spawned, error) {
	secure := s.RecommendedOptions.SecureServing
	port := secure.Listener.Addr().(*net.TCPAddr).Port
	_ = secure.Listener.Close()
	sets := func(o *options.CustomResourceDefinitionsServerOptions) []*pflag.FlagSet {
		set := pflag.NewFlagSet("server", pflag.ContinueOnError)
		o.AddFlags(set)
		return []*pflag.FlagSet{set}
	}
	key := filepath.Join(folder, "sa.key")
	if err := exec.Command("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key).Run(); err != nil {
		return nil, err
	}
	flags := []string{
		"--authorization-mode=AlwaysAllow", "--anonymous-auth=false", "--service-cluster-ip-range=10.0.0.0/16", "--endpoint-reconciler-type=none",
		"--service-account-issuer=https://issuer.example", "--service-account-key-file=" + key, "--service-account-signing-key-file=" + key,
	}
	defaults := options.NewCustomResourceDefinitionsServerOptions(os.Stdout, os.Stderr)
	skip := []string{"secure-port", "bind-address", "cert-dir", "kubeconfig", "runtime-config", "authentication-skip-lookup", "authentication-kubeconfig", "authorization-kubeconfig"}
	for _, flag := range Changed(sets(defaults), sets(s), skip...) {
		if strings.HasPrefix(flag, "--disable-admission-plugins=") {
			flag += ",ServiceAccount"
		}
		if !strings.HasPrefix(flag, "--tls-") {
			flags = append(flags, flag)
		}
	}
	return SpawnServer(logf, folder, port, "", "", append(flags, Gates(gates)...))
}
