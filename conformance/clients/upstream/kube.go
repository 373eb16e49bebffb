package testing

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// Spawn starts the server of these options.
func Spawn(logf func(string, ...interface{}), s *options.ServerRunOptions, gates featuregate.MutableVersionedFeatureGate) (*Spawned, error) {
	port := s.SecureServing.BindPort
	if s.SecureServing.Listener != nil {
		port = s.SecureServing.Listener.Addr().(*net.TCPAddr).Port
		_ = s.SecureServing.Listener.Close()
	}
	sets := func(o *options.ServerRunOptions) []*pflag.FlagSet {
		var all []*pflag.FlagSet
		for _, set := range o.Flags().FlagSets {
			all = append(all, set)
		}
		return all
	}
	folder := s.SecureServing.ServerCert.CertDirectory
	var flags []string
	for _, flag := range Changed(sets(options.NewServerRunOptions()), sets(s), "secure-port", "bind-address", "cert-dir") {
		// The certificate that upstream made for itself.
		own := strings.HasPrefix(flag, "--tls-cert-file=") || strings.HasPrefix(flag, "--tls-private-key-file=")
		if !own || !strings.Contains(flag, "="+folder) {
			flags = append(flags, flag)
		}
	}
	flags = append(flags, Gates(gates)...)
	spawned, err := SpawnServer(logf, folder, port, s.Authentication.TokenFile.TokenFile, s.SecureServing.ServerCert.CertKey.CertFile, flags)
	if err == nil {
		spawned.Config.ContentType = "application/vnd.kubernetes.protobuf"
	}
	return spawned, err
}

// Bridge carries authenticators and authorizers of the test's process over to the server, as webhooks.
type Bridge struct {
	authn authenticator.Request
	authz authorizer.Authorizer
}

// NewBridge notes what a configuration has before the test changes it.
func NewBridge(c *genericapiserver.Config) *Bridge {
	return &Bridge{c.Authentication.Authenticator, c.Authorization.Authorizer}
}

func same(a, b interface{}) bool {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if va.Type() != vb.Type() {
		return false
	}
	switch va.Kind() {
	case reflect.Func, reflect.Pointer, reflect.Slice, reflect.Map:
		return va.Pointer() == vb.Pointer()
	}
	return reflect.DeepEqual(a, b)
}

// Apply makes webhooks of what the test changed.
func (b *Bridge) Apply(c *genericapiserver.Config, o *options.ServerRunOptions, folder string) error {
	authn, authz := c.Authentication.Authenticator, c.Authorization.Authorizer
	mux := http.NewServeMux()
	mux.HandleFunc("/authn", func(w http.ResponseWriter, r *http.Request) { authenticate(authn, w, r) })
	mux.HandleFunc("/authz", func(w http.ResponseWriter, r *http.Request) { authorize(authz, w, r) })
	server := httptest.NewServer(mux)
	kubeconfig := func(path string) (string, error) {
		file := filepath.Join(folder, "webhook-"+path)
		text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %s/%s}}]\nusers: [{name: u, user: {}}]\n"+
			"contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", server.URL, path)
		return file, os.WriteFile(file, []byte(text), 0o600)
	}
	var err error
	if !same(authn, b.authn) {
		hook := o.Authentication.WebHook
		hook.ConfigFile, err = kubeconfig("authn")
		hook.Version, hook.CacheTTL = "v1", 0
	}
	if err == nil && !same(authz, b.authz) {
		o.Authorization.Modes, o.Authorization.WebhookVersion = []string{"Webhook"}, "v1"
		o.Authorization.WebhookConfigFile, err = kubeconfig("authz")
		o.Authorization.WebhookCacheAuthorizedTTL, o.Authorization.WebhookCacheUnauthorizedTTL = 0, 0
	}
	return err
}

func authenticate(authn authenticator.Request, w http.ResponseWriter, r *http.Request) {
	review := authenticationv1.TokenReview{}
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &review)
	asked, _ := http.NewRequest(http.MethodGet, "/", nil)
	asked.Header.Set("Authorization", "Bearer "+review.Spec.Token)
	if len(review.Spec.Audiences) > 0 {
		asked = asked.WithContext(authenticator.WithAudiences(context.Background(), review.Spec.Audiences))
	}
	answer, ok, err := authn.AuthenticateRequest(asked)
	if err != nil {
		review.Status.Error = err.Error()
	}
	if review.Status.Authenticated = ok && err == nil; review.Status.Authenticated {
		who := answer.User
		review.Status.User = authenticationv1.UserInfo{Username: who.GetName(), UID: who.GetUID(), Groups: who.GetGroups(), Extra: map[string]authenticationv1.ExtraValue{}}
		for key, values := range who.GetExtra() {
			review.Status.User.Extra[key] = values
		}
		review.Status.Audiences = review.Spec.Audiences
	}
	_ = json.NewEncoder(w).Encode(review)
}

func authorize(authz authorizer.Authorizer, w http.ResponseWriter, r *http.Request) {
	review := authorizationv1.SubjectAccessReview{}
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &review)
	who := &user.DefaultInfo{Name: review.Spec.User, UID: review.Spec.UID, Groups: review.Spec.Groups, Extra: map[string][]string{}}
	for key, values := range review.Spec.Extra {
		who.Extra[key] = values
	}
	asked := authorizer.AttributesRecord{User: who}
	if of := review.Spec.ResourceAttributes; of != nil {
		asked.ResourceRequest, asked.Path = true, "/"
		asked.Namespace, asked.Verb, asked.Name = of.Namespace, of.Verb, of.Name
		asked.APIGroup, asked.APIVersion, asked.Resource, asked.Subresource = of.Group, of.Version, of.Resource, of.Subresource
	} else if of := review.Spec.NonResourceAttributes; of != nil {
		asked.Path, asked.Verb = of.Path, of.Verb
	}
	decision, reason, err := authz.Authorize(r.Context(), asked)
	review.Status.Allowed, review.Status.Denied = decision == authorizer.DecisionAllow, decision == authorizer.DecisionDeny
	review.Status.Reason = reason
	if err != nil {
		review.Status.EvaluationError = err.Error()
	}
	_ = json.NewEncoder(w).Encode(review)
}
