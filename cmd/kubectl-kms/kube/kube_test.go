package kube_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

func kubeconfig(server string) string {
	return "apiVersion: v1\nkind: Config\ncurrent-context: a\n" +
		"clusters:\n- {name: a, cluster: {server: '" + server + "', insecure-skip-tls-verify: true}}\n" +
		"- {name: b, cluster: {server: 'https://b:6443'}}\n" +
		"users:\n- {name: u, user: {token: SECRET-TOKEN}}\n" +
		"contexts:\n- {name: a, context: {cluster: a, user: u}}\n- {name: b, context: {cluster: b, user: u}}\n"
}

// Which kubeconfig counts: as for kubectl, and then kubeadm's.
func TestWhichKubeconfigCounts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	given, env := write("given", kubeconfig("https://given:6443")), write("env", kubeconfig("https://env:6443"))
	admin, broken := write("admin.conf", kubeconfig("https://admin:6443")), write("broken", "{")
	empty := write("empty", "apiVersion: v1\nkind: Config\n")
	nowhere := filepath.Join(dir, "nowhere")
	for name, c := range map[string]struct {
		args, env  []string
		admin      string
		from, host string
		err        string
	}{
		"a flag wins":               {[]string{"--kubeconfig", given}, []string{env}, admin, given, "https://given:6443", ""},
		"the environment":           {nil, []string{env}, admin, env, "https://env:6443", ""},
		"kubeadm's":                 {nil, nil, admin, admin, "https://admin:6443", ""},
		"another context":           {[]string{"--context", "b"}, nil, admin, admin, "https://b:6443", ""},
		"another server":            {[]string{"-s", "https://c:1"}, []string{env}, admin, env, "https://c:1", ""},
		"a server alone":            {[]string{"--server", "https://c:1"}, nil, admin, "--server", "https://c:1", ""},
		"none":                      {nil, nil, nowhere, "", "", "there is none"},
		"one that is not there":     {[]string{"--kubeconfig", nowhere}, nil, admin, "", "", "Name another by --kubeconfig"},
		"one that is no kubeconfig": {[]string{"--kubeconfig", broken}, nil, admin, "", "", "kubectl config view"},
		"one of no cluster":         {[]string{"--kubeconfig", empty}, nil, admin, "", "", "names no cluster"},
		"no such context":           {[]string{"--context", "c"}, nil, admin, "", "", `context "c" does not exist`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HOME", dir)
			t.Setenv("KUBECONFIG", strings.Join(c.env, ":"))
			f, set := kube.NewFlags(), pflag.NewFlagSet("test", pflag.ContinueOnError)
			f.Define(set)
			if err := set.Parse(c.args); err != nil {
				t.Fatal(err)
			}
			o := kube.Options{AdminConf: c.admin, LookupEnv: func(name string) (string, bool) {
				if name == "KUBERNETES_SERVICE_HOST" {
					return "", false // where this test runs is its own affair
				}
				return os.LookupEnv(name)
			}}
			cluster, err := f.Cluster(o)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "SECRET-TOKEN") {
					t.Fatalf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !f.Named(o) || cluster.From != c.from || cluster.Server() != c.host {
				t.Errorf("from %s, %s; want %s, %s", cluster.From, cluster.Server(), c.from, c.host)
			}
			if cluster.Config().Timeout == 0 || cluster.Config().Dial == nil {
				t.Error("requests are not bounded")
			}
		})
	}
}

// A client of an address has that address and name, and all else of the kubeconfig.
func TestAtAnAddress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(kubeconfig("https://lb:443/prefix")), 0o600); err != nil {
		t.Fatal(err)
	}
	f, set := kube.NewFlags(), pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Define(set)
	if err := set.Parse([]string{"--kubeconfig", file}); err != nil {
		t.Fatal(err)
	}
	c, err := f.Cluster(kube.Options{LookupEnv: os.LookupEnv})
	if err != nil {
		t.Fatal(err)
	}
	at := c.At("https://10.0.0.1:6443", "kubernetes")
	if at.Host != "https://10.0.0.1:6443" || at.TLSClientConfig.ServerName != "kubernetes" || at.BearerToken != "SECRET-TOKEN" {
		t.Errorf("%s, %s, %d bytes of a token", at.Host, at.TLSClientConfig.ServerName, len(at.BearerToken))
	}
	if c.Server() != "https://lb:443/prefix" || c.Config().TLSClientConfig.ServerName != "" {
		t.Error("the cluster itself has changed")
	}
}

func TestAddressesOfAPIServers(t *testing.T) {
	for text, wrong := range map[string]bool{
		"https://10.0.0.1:6443": false, "https://[fd00::1]:6443/": false, "https://host": false,
		"10.0.0.1:6443": true, "http://10.0.0.1:6443": true, "https://": true, "https://a:1/b": true, "https://u:p@a:1": true, "": true, "https://:6443": true,
	} {
		if got := kube.CheckURL(text); (got != "") != wrong || strings.Contains(got, "u:p") {
			t.Errorf("%s: %q", text, got)
		}
	}
}

// Errors say cause and next step, in words.
func TestErrorsSayCauseAndNextStep(t *testing.T) {
	answer := func(code int, reason string) func(*testing.T) *rest.Config {
		return func(t *testing.T) *rest.Config {
			t.Helper()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(code)
				_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"` + reason + `","message":"m","code":` + strconv.Itoa(code) + `}`))
			}))
			t.Cleanup(s.Close)
			return &rest.Config{Host: s.URL}
		}
	}
	listener := func(t *testing.T) string {
		t.Helper()
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l.Addr().String()
	}
	for name, c := range map[string]struct {
		config func(*testing.T) *rest.Config
		want   []string
	}{
		"forbidden":    {answer(403, "Forbidden"), []string{"does not allow get on /metrics", "ClusterRole"}},
		"unauthorized": {answer(401, "Unauthorized"), []string{"401", "whoami"}},
		"overloaded":   {answer(429, "TooManyRequests"), []string{"429", "later"}},
		"refused": {func(t *testing.T) *rest.Config {
			t.Helper()
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			return &rest.Config{Host: "https://" + l.Addr().String()}
		}, []string{"connection refused", "starting, or stopped"}},
		"silent": {func(t *testing.T) *rest.Config {
			t.Helper()
			return &rest.Config{Host: "https://" + listener(t), Timeout: 100 * time.Millisecond}
		}, []string{"does not answer in time", "network"}},
		"a foreign authority": {func(t *testing.T) *rest.Config {
			t.Helper()
			s := httptest.NewTLSServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return &rest.Config{Host: s.URL}
		}, []string{"certificate authority did not sign", "load balancer"}},
		"another name": {func(t *testing.T) *rest.Config {
			t.Helper()
			s := httptest.NewTLSServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return &rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{ServerName: "kubernetes", CAData: pemOf(s.Certificate())}}
		}, []string{"not for kubernetes", "--tls-server-name"}},
		"http": {func(t *testing.T) *rest.Config {
			t.Helper()
			s := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return &rest.Config{Host: "https" + strings.TrimPrefix(s.URL, "http")}
		}, []string{"speaks HTTP", "API server's address"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := c.config(t)
			client, err := rest.UnversionedRESTClientFor(unversioned(config))
			if err != nil {
				t.Fatal(err)
			}
			err = client.Get().AbsPath("/metrics").Do(t.Context()).Error()
			err = kube.Explain(t.Context(), config.Host, "get on /metrics", err)
			said, ok := errors.AsType[*store.Error](err)
			if !ok || said.Next == "" {
				t.Fatalf("%v has no next step", err)
			}
			for _, want := range append(c.want, config.Host) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v lacks %q", err, want)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := kube.Explain(ctx, "a", "b", errors.New("c")); !errors.Is(err, context.Canceled) {
		t.Errorf("an interruption became %v", err)
	}
}
