package live_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers/live"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// A fake is an API server: paths and what they answer.
type fake struct {
	*httptest.Server

	mu          sync.Mutex
	forbidden   string // part of a path that nobody may ask for, after a method
	health      string // in place of a sound one
	connections int
	objects     map[string]map[string]any // by path
	created     []string
	refuse      int      // status of creates; 0: they are taken
	renewed     []string // that a watch tells
	ends        bool     // a watch does, early
}

const leaseName = "apiserver-a"

func startFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{objects: map[string]map[string]any{}}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			f.mu.Lock()
			f.connections++
			f.mu.Unlock()
		}
	}
	f.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}, MinVersion: tls.VersionTLS12}
	f.EnableHTTP2 = true
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

// certificate is for the name kubernetes, and for 127.0.0.1.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{"kubernetes"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (f *fake) port() string { return f.URL[strings.LastIndex(f.URL, ":")+1:] }

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forbidden != "" && strings.Contains(r.Method+" "+r.URL.Path, f.forbidden) {
		fail(w, http.StatusForbidden, "Forbidden")
		return
	}
	answers := map[string]string{
		"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases": fmt.Sprintf(
			`{"items":[{"metadata":{"name":%q,"labels":{"kubernetes.io/hostname":"cp-1"}},"spec":{"holderIdentity":"h","leaseDurationSeconds":3600,"renewTime":%q}}]}`,
			leaseName, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")),
		"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices": fmt.Sprintf(`{"items":[{"endpoints":[{"addresses":["127.0.0.1"]}],"ports":[{"name":"https","port":%s}]}]}`, f.port()),
		"/api/v1/nodes":                  `{"items":[{"metadata":{"name":"cp-1"}}]}`,
		"/api/v1/namespaces/kube-system": `{"metadata":{"name":"kube-system","resourceVersion":"7"}}`,
		"/api/v1":                        `{"resources":[{"name":"secrets","kind":"Secret","namespaced":true,"verbs":["create"]}]}`,
		"/metrics": fmt.Sprintf(`process_start_time_seconds 1.7e+09
apiserver_encryption_config_controller_last_config_info{apiserver_id_hash=%q,hash="sha256:c"} 1
apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash=%q,key_id_hash="sha256:k",provider_name="aws"} %d
`, apiservers.HashOf([]byte(leaseName)), apiservers.HashOf([]byte(leaseName)), time.Now().Unix()),
		"/healthz": "[+]ping ok\n[+]kms-providers ok\nhealthz check passed\n",
	}
	if strings.Contains(r.URL.Path, "/secrets") {
		f.secrets(w, r)
		return
	}
	if f.health != "" && strings.HasPrefix(r.URL.Path, "/healthz") {
		w.WriteHeader(http.StatusInternalServerError)
		if r.URL.Path == "/healthz" {
			answers["/healthz"] = "[+]ping ok\n[-]kms-providers failed: reason withheld\nhealthz check failed\n"
		} else {
			answers[r.URL.Path] = f.health
		}
	}
	text, ok := answers[r.URL.Path]
	if r.URL.Query().Get("watch") != "" {
		for _, at := range f.renewed {
			fmt.Fprintf(w, `{"type":"MODIFIED","object":{"metadata":{"name":%q},"spec":{"renewTime":%q}}}`+"\n", leaseName, at)
		}
		w.(http.Flusher).Flush() //nolint:forcetypeassert // a server's is one
		if f.ends {
			return
		}
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
		return
	}
	if !ok {
		fail(w, http.StatusNotFound, "NotFound")
		return
	}
	_, _ = io.WriteString(w, text)
}

func (f *fake) secrets(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		var object map[string]any
		_ = json.NewDecoder(r.Body).Decode(&object)
		if f.refuse != 0 {
			fail(w, f.refuse, "Invalid")
			return
		}
		name, _ := object["metadata"].(map[string]any)["name"].(string)
		f.objects[r.URL.Path+"/"+name] = object
		f.created = append(f.created, name)
		_, _ = io.WriteString(w, "{}")
	case http.MethodDelete:
		if f.objects[r.URL.Path] == nil {
			fail(w, http.StatusNotFound, "NotFound")
			return
		}
		delete(f.objects, r.URL.Path)
		_, _ = io.WriteString(w, "{}")
	default:
		_, _ = io.WriteString(w, "{}")
	}
}

func fail(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":"no","code":%d}`, reason, code)
}

// cluster asks the fake as a kubeconfig says.
func (f *fake) cluster(t *testing.T) *live.Cluster {
	t.Helper()
	trust := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"users":[{"name":"a","user":{"token":"SECRET-TOKEN"}}],"clusters":[{"name":"a","cluster":{"server":%q,"certificate-authority-data":%q}}]}`, f.URL, base64.StdEncoding.EncodeToString(trust))
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	flags, set := kube.NewFlags(), pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.Define(set)
	if err := set.Parse([]string{"--kubeconfig", file}); err != nil {
		t.Fatal(err)
	}
	k, err := flags.Cluster(kube.Options{LookupEnv: os.LookupEnv})
	if err != nil {
		t.Fatal(err)
	}
	return live.New(k)
}

// Leases, the EndpointSlice, nodes, metrics and health are read, and each answer comes
// over a connection of its own.
func TestAnObservationByTheEndpointSlice(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	o, err := apiservers.Observe(t.Context(), f.cluster(t), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := apiservers.Judge(o, apiservers.Options{})
	if r.Verdict.Answer != apiservers.Converged || r.ControlPlaneNodes != 1 || len(r.APIServers) != 1 || r.APIServers[0].Name != "cp-1" {
		t.Errorf("%+v", r)
	}
	if f.connections < 3 {
		t.Errorf("%d connections for members and two answers", f.connections)
	}
}

// A right that is missing is named, and never passed over.
func TestARightThatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	for forbidden, want := range map[string]string{
		"GET /apis/coordination": "does not allow list on leases.coordination.k8s.io in kube-system",
		"GET /apis/discovery":    "does not allow list on endpointslices.discovery.k8s.io in default",
		"GET /api/v1/nodes":      "would not be missed",
		"GET /metrics":           "does not allow get on /metrics",
		"GET /healthz":           "does not allow get on /healthz",
	} {
		t.Run(forbidden, func(t *testing.T) {
			t.Parallel()
			f := startFake(t)
			f.forbidden = forbidden
			text := ""
			o, err := apiservers.Observe(t.Context(), f.cluster(t), nil, nil)
			if err != nil {
				text = err.Error()
			} else if r := apiservers.Judge(o, apiservers.Options{}); r.Verdict.Answer == apiservers.NotKnown {
				text = r.Verdict.Text
			}
			if !strings.Contains(text, want) || strings.Contains(text, "SECRET-TOKEN") {
				t.Errorf("%q lacks %q", text, want)
			}
		})
	}
}

func TestAFailingKMSCheckSaysWhy(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.health = "internal server error: kms-providers: KMS0101 the key is disabled"
	o, err := apiservers.Observe(t.Context(), f.cluster(t), []string{f.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := apiservers.Judge(o, apiservers.Options{}); r.Verdict.Answer != apiservers.NotKnown || !strings.Contains(r.Verdict.Text, "KMS0101 the key is disabled") {
		t.Errorf("%s", r.Verdict.Text)
	}
}

// A watch of Leases lasts as long as it should; one that ends early proves nothing.
func TestRenewalsAreWatched(t *testing.T) {
	t.Parallel()
	f := startFake(t)
	f.renewed = []string{"2026-11-28T12:00:00.000000Z", "2026-11-28T12:00:04.000000Z"}
	got, err := f.cluster(t).Renewals(t.Context(), 500*time.Millisecond)
	if err != nil || len(got[leaseName]) != 2 || got[leaseName][1].Sub(got[leaseName][0]) != 4*time.Second {
		t.Errorf("%v, %v", got, err)
	}
	f.ends = true
	if got, err = f.cluster(t).Renewals(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), "ended a watch") {
		t.Errorf("%v, %v", got, err)
	}
	f.forbidden = "GET /apis/coordination"
	if _, err = f.cluster(t).Renewals(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), "does not allow watch on leases") {
		t.Errorf("%v", err)
	}
}

// An etcdOf gives what it is told for every probe.
type etcdOf struct {
	value string
	look  func()
}

func (e etcdOf) Get(ctx context.Context, key string) (store.KeyValue, bool, error) {
	if strings.HasSuffix(key, "/namespaces/kube-system") {
		return store.KeyValue{ModRevision: 7}, true, nil
	}
	if e.look != nil {
		e.look()
	}
	if ctx.Err() != nil {
		return store.KeyValue{}, false, ctx.Err()
	}
	return store.KeyValue{Value: []byte(e.value)}, strings.HasPrefix(key, "/registry/secrets/default/"+live.ProbePrefix), nil
}

func probeOptions(t *testing.T, resources string) live.ProbeOptions {
	t.Helper()
	c, err := encryptionconfig.Parse([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [" + resources +
		"]\n  providers:\n  - aescbc: {keys: [{name: k1, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return live.ProbeOptions{Config: c, Prefix: "/registry"}
}

const sealed = "k8s:enc:aescbc:v1:k1:0123456789abcdef0123456789abcdef"

// A probe says how its object was stored, and leaves none behind: not when it was
// interrupted, not when it was refused.
func TestAProbeLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	t.Run("done", func(t *testing.T) {
		t.Parallel()
		f := startFake(t)
		p, err := f.cluster(t).Probe(t.Context(), etcdOf{value: sealed}, probeOptions(t, "secrets, pods, ingresses.networking.k8s.io"), []string{f.URL})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Stored) != 1 || p.Stored[0].Format != "aescbc" || p.Stored[0].Provider != "k1" || len(p.NotProbed) != 2 || len(f.objects) != 0 || len(f.created) != 1 {
			t.Errorf("%+v; %d objects are left of %v", p, len(f.objects), f.created)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		f := startFake(t)
		ctx, interrupt := context.WithCancel(t.Context())
		_, err := f.cluster(t).Probe(ctx, etcdOf{look: interrupt}, probeOptions(t, "secrets"), []string{f.URL})
		if err == nil || len(f.objects) != 0 || len(f.created) != 1 {
			t.Errorf("%v; %d objects are left of %v", err, len(f.objects), f.created)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		f := startFake(t)
		f.refuse = http.StatusUnprocessableEntity
		p, err := f.cluster(t).Probe(t.Context(), etcdOf{value: sealed}, probeOptions(t, "secrets"), []string{f.URL})
		if err != nil || len(p.NotProbed) != 1 || !strings.Contains(p.NotProbed[0].Reason, "did not take one") {
			t.Errorf("%+v, %v", p, err)
		}
	})
	t.Run("not allowed", func(t *testing.T) {
		t.Parallel()
		f := startFake(t)
		f.forbidden = "/api/v1/namespaces/default/secrets"
		_, err := f.cluster(t).Probe(t.Context(), etcdOf{value: sealed}, probeOptions(t, "secrets"), []string{f.URL})
		if err == nil || !strings.Contains(err.Error(), "does not allow create on secrets in default") || strings.Contains(err.Error(), "left behind") {
			t.Errorf("%v", err)
		}
	})
	t.Run("may not be deleted", func(t *testing.T) {
		t.Parallel()
		f := startFake(t)
		f.forbidden = "DELETE "
		_, err := f.cluster(t).Probe(t.Context(), etcdOf{value: sealed}, probeOptions(t, "secrets"), []string{f.URL})
		if err == nil || !strings.Contains(err.Error(), "kubectl delete secrets -n default "+f.created[0]) {
			t.Errorf("%v", err)
		}
	})
	t.Run("of another etcd", func(t *testing.T) {
		t.Parallel()
		f := startFake(t)
		o := probeOptions(t, "secrets")
		_, err := f.cluster(t).Probe(t.Context(), noEtcd{}, o, []string{f.URL})
		if err == nil || !strings.Contains(err.Error(), "--etcd-prefix") || len(f.created) != 0 {
			t.Errorf("%v; created %v", err, f.created)
		}
	})
}

type noEtcd struct{}

func (noEtcd) Get(context.Context, string) (store.KeyValue, bool, error) {
	return store.KeyValue{}, false, nil
}
