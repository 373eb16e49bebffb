package authn_test

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"coracle/conformance/clients/apiserver"
)

// How long upstream's server is watched: with a wrong configuration it has ended by then.
const watched = 12 * time.Second

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

// one is a configuration with one issuer, whose parts are as given.
func one(issuer, rules, mappings, userRules string) string {
	if issuer == "" {
		issuer = "{url: https://a.example, audiences: [kube]}"
	}
	if mappings == "" {
		mappings = "{username: {claim: sub, prefix: ''}}"
	}
	text := head + "jwt:\n- issuer: " + issuer + "\n  claimMappings: " + mappings + "\n"
	if rules != "" {
		text += "  claimValidationRules: " + rules + "\n"
	}
	if userRules != "" {
		text += "  userValidationRules: " + userRules + "\n"
	}
	return text
}

func configurations() map[string]string {
	username := func(of string) string { return one("", "", "{username: "+of+"}", "") }
	mapping := func(more string) string { return one("", "", "{username: {claim: sub, prefix: ''}, "+more+"}", "") }
	issuer := func(of string) string { return one(of, "", "", "") }
	rules := func(of string) string { return one("", of, "", "") }
	users := func(of string) string { return one("", "", "", of) }
	twice := strings.TrimPrefix(one("", "", "", ""), head+"jwt:\n")
	many := head + "jwt:\n"
	for n := range 65 {
		many += strings.ReplaceAll(twice, "a.example", fmt.Sprintf("a%d.example", n))
	}
	return map[string]string{
		"empty":                            "",
		"no kind":                          "apiVersion: apiserver.config.k8s.io/v1\n",
		"no version":                       "kind: AuthenticationConfiguration\n",
		"nothing but a head":               head,
		"v1beta1":                          strings.Replace(one("", "", "", ""), "/v1", "/v1beta1", 1),
		"a version nobody knows":           "apiVersion: apiserver.config.k8s.io/v7\nkind: AuthenticationConfiguration\n",
		"another kind":                     "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n",
		"an unknown field":                 head + "jwts: []\n",
		"an unknown field below":           issuer("{url: https://a.example, audiences: [kube], audience: x}"),
		"a good one":                       one("", "", "", ""),
		"no url":                           issuer("{audiences: [kube]}"),
		"http":                             issuer("{url: 'http://a.example', audiences: [kube]}"),
		"user in the url":                  issuer("{url: 'https://a:b@a.example', audiences: [kube]}"),
		"query in the url":                 issuer("{url: 'https://a.example?x=y', audiences: [kube]}"),
		"fragment in the url":              issuer("{url: 'https://a.example#x', audiences: [kube]}"),
		"no url at all":                    issuer("{url: 'https://a b', audiences: [kube]}"),
		"no scheme":                        issuer("{url: '://a', audiences: [kube]}"),
		"own issuer":                       issuer("{url: 'https://own.example', audiences: [kube]}"),
		"discovery elsewhere":              issuer("{url: https://a.example, discoveryURL: 'https://b.example/x', audiences: [kube]}"),
		"discovery is the url":             issuer("{url: https://a.example, discoveryURL: 'https://a.example/', audiences: [kube]}"),
		"discovery over http":              issuer("{url: https://a.example, discoveryURL: 'http://b.example', audiences: [kube]}"),
		"no audience":                      issuer("{url: https://a.example, audiences: []}"),
		"an empty audience":                issuer("{url: https://a.example, audiences: ['']}"),
		"the same audience twice":          issuer("{url: https://a.example, audiences: [a, a], audienceMatchPolicy: MatchAny}"),
		"two audiences without policy":     issuer("{url: https://a.example, audiences: [a, b]}"),
		"a policy nobody knows":            issuer("{url: https://a.example, audiences: [a], audienceMatchPolicy: MatchAll}"),
		"no certificate":                   issuer("{url: https://a.example, audiences: [a], certificateAuthority: x}"),
		"egress selector nobody knows":     issuer("{url: https://a.example, audiences: [a], egressSelectorType: moon}"),
		"the same issuer twice":            one("", "", "", "") + twice,
		"too many issuers":                 many,
		"no username":                      username("{}"),
		"claim and expression":             username("{claim: sub, prefix: '', expression: claims.sub}"),
		"claim without prefix":             username("{claim: sub}"),
		"expression with prefix":           username("{expression: claims.sub, prefix: x}"),
		"expression that does not compile": username("{expression: claims.sub +}"),
		"expression of nothing known":      username("{expression: token.sub}"),
		"expression of any type":           username("{expression: 1 + 2}"),
		"email not verified":               username("{expression: claims.email}"),
		"email verified in the expression": username("{expression: 'claims.email_verified == true ? claims.email : claims.sub'}"),
		"email verified in a rule":         one("", "[{expression: 'claims.?email_verified.orValue(true) == true'}]", "{username: {expression: claims.email}}", ""),
		"groups without prefix":            mapping("groups: {claim: groups}"),
		"groups twice":                     mapping("groups: {claim: groups, prefix: '', expression: claims.groups}"),
		"uid twice":                        mapping("uid: {claim: id, expression: claims.id}"),
		"uid that does not compile":        mapping("uid: {expression: 'claims.'}"),
		"extra without key":                mapping("extra: [{valueExpression: claims.a}]"),
		"extra without domain":             mapping("extra: [{key: a, valueExpression: claims.a}]"),
		"extra in upper case":              mapping("extra: [{key: acme.io/A, valueExpression: claims.a}]"),
		"extra of Kubernetes":              mapping("extra: [{key: x.k8s.io/a, valueExpression: claims.a}]"),
		"extra of a bad domain":            mapping("extra: [{key: 'a_b/a', valueExpression: claims.a}]"),
		"extra of a bad path":              mapping("extra: [{key: 'acme.io/a b', valueExpression: claims.a}]"),
		"extra twice":                      mapping("extra: [{key: acme.io/a, valueExpression: claims.a}, {key: acme.io/a, valueExpression: claims.b}]"),
		"extra without value":              mapping("extra: [{key: acme.io/a}]"),
		"a rule of nothing":                rules("[{}]"),
		"a rule of both":                   rules("[{claim: a, expression: 'true'}]"),
		"a message for a claim":            rules("[{claim: a, message: b}]"),
		"the same claim twice":             rules("[{claim: a}, {claim: a}]"),
		"a value for an expression":        rules("[{expression: 'claims.a == 1.0', requiredValue: b}]"),
		"the same expression twice":        rules("[{expression: 'claims.a == 1.0'}, {expression: 'claims.a == 1.0'}]"),
		"a rule that is no truth":          rules("[{expression: claims.a}]"),
		"a user rule of nothing":           users("[{message: a}]"),
		"a user rule of an unknown field":  users("[{expression: user.name == 'a'}]"),
		"a user rule that is no truth":     users("[{expression: user.username}]"),
		"the same user rule twice":         users("[{expression: 'true'}, {expression: 'true'}]"),
		"a good user rule":                 users("[{expression: \"user.groups.all(g, g != 'x')\", message: refused}]"),
		"anonymous where it is off":        head + "anonymous: {enabled: false, conditions: [{path: /livez}, {path: /readyz}]}\n",
		"anonymous on paths":               head + "anonymous: {enabled: true, conditions: [{path: /livez}]}\n",
		"everything wrong at once":         one("{}", "[{}]", "{}", "[{}]"),
	}
}

func TestConfigurationsAreRefusedAsUpstreamRefusesThem(t *testing.T) {
	w := newWorld(t)
	compare(t, "configurations", func(assets string) map[string]string {
		outcomes, guard, turns := map[string]string{}, sync.Mutex{}, make(chan struct{}, 6)
		var all sync.WaitGroup
		note := func(name string, flags ...string) {
			all.Add(1)
			port := apiserver.FreePort(t)
			arguments := append(w.flags(t, "http://127.0.0.1:1", port), flags...)
			go func() {
				defer all.Done()
				turns <- struct{}{}
				said := w.begins(assets, port, arguments)
				<-turns
				guard.Lock()
				outcomes[name] = said
				guard.Unlock()
			}()
		}
		for name, text := range configurations() {
			file := apiserver.Write(t, w.folder, strings.ReplaceAll(name, " ", "-")+".yaml", text)
			note(name, "--authentication-config="+file)
		}
		good := apiserver.Write(t, w.folder, "good.yaml", one("", "", "", ""))
		anonymous := apiserver.Write(t, w.folder, "anonymous.yaml", head+"anonymous: {enabled: true}\n")
		note("no such file", "--authentication-config="+filepath.Join(w.folder, "nowhere"))
		note("file and flags", "--authentication-config="+good, "--oidc-issuer-url=https://b.example", "--oidc-client-id=x")
		note("anonymous twice", "--authentication-config="+anonymous, "--anonymous-auth=true")
		note("flags: no client", "--oidc-issuer-url=https://b.example")
		note("flags: no url", "--oidc-client-id=x")
		note("flags: http", "--oidc-issuer-url=http://b.example", "--oidc-client-id=x")
		note("flags: good", "--oidc-issuer-url=https://b.example", "--oidc-client-id=x", "--oidc-groups-claim=g", "--oidc-required-claim=a=b")
		note("flags: algorithm", "--oidc-issuer-url=https://b.example", "--oidc-client-id=x", "--oidc-signing-algs=none")
		all.Wait()
		return outcomes
	})
}

// begins is how a start ends: with an error, or not within the time it is watched.
func (w *world) begins(assets string, port int, arguments []string) string {
	var said bytes.Buffer
	command := exec.Command(filepath.Join(assets, "kube-apiserver"), arguments...)
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		return err.Error()
	}
	done := make(chan error, 1)
	go func() { done <- command.Wait() }()
	for began := time.Now(); time.Since(began) < watched; {
		select {
		case <-done:
			return w.told(said.String())
		case <-time.After(50 * time.Millisecond):
		}
		// Upstream listens only once it has its etcd, and here it has none.
		if connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			connection.Close()
			break
		}
	}
	_ = command.Process.Signal(syscall.SIGKILL)
	<-done
	return "starts"
}

// told is the error among what a program said: what differs from one run or machine to the next is taken out.
func (w *world) told(said string) string {
	text := said
	if logged := regexp.MustCompile(`"command failed" err=("(?:[^"\\]|\\.)*")`).FindStringSubmatch(said); logged != nil {
		text, _ = strconv.Unquote(logged[1])
	}
	// klog writes a text of several lines so.
	if logged := regexp.MustCompile(`(?s)"command failed" err=<\n(.*?)\n >`).FindStringSubmatch(said); logged != nil {
		text = regexp.MustCompile(`(?m)^\t`).ReplaceAllString(logged[1], "")
	}
	for _, prefix := range []string{"\nError: ", "\nkube-apiserver: "} {
		if _, after, found := strings.Cut("\n"+said, prefix); found {
			text = after
		}
	}
	text = strings.TrimSpace(text)
	// Upstream tells usage errors again in a line of its log, and where its scheme was made.
	for pattern, by := range map[string]string{
		`(?s)\n[EI]\d{4}.*`:        "",
		` in scheme "[^"]*"`:       "",
		`; known: .*`:              "",
		`(?s)\nUsage:.*`:           "",
		regexp.QuoteMeta(w.folder): "FOLDER",
		`(?s)is missing in '.*'`:   "is missing in '…'",
		`--oidc-signing-algs: unsupported (.*); allowed.*`: "oidc: unsupported $1",
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, by)
	}
	return text
}
