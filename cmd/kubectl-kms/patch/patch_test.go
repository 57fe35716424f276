package patch_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/patch"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// planted stands for a value of a Secret. No output has it.
const planted = "PLANTED-5d1c"

// lowPlanted is one that could be a name.
const lowPlanted = "planted-5d1c"

var (
	secrets = rewrite.Resource{Name: "secrets"}                      //nolint:gochecknoglobals // a constant
	pandas  = rewrite.Resource{Name: "pandas", Group: "example.com"} //nolint:gochecknoglobals // a constant
)

// discovery is what an API server answers about what it serves.
func discovery() map[string]string {
	verbs := `"verbs": ["get", "list", "patch"]`
	return map[string]string{
		"/api/v1": `{"resources": [{"name": "secrets", "namespaced": true, ` + verbs + `}, {"name": "nodes", ` + verbs + `},
			{"name": "secrets/status", ` + verbs + `}, {"name": "bindings", "namespaced": true, "verbs": ["create"]}]}`,
		"/apis":                              `{"groups": [{"name": "example.com"}, {"name": "admissionregistration.k8s.io"}]}`,
		"/apis/down.example.com":             `{"preferredVersion": {"version": "v1"}, "versions": [{"version": "v1"}]}`,
		"/apis/example.com":                  `{"preferredVersion": {"version": "v2"}, "versions": [{"version": "v1"}, {"version": "v2"}]}`,
		"/apis/example.com/v2":               `{"resources": [{"name": "bears", "namespaced": true, ` + verbs + `}]}`,
		"/apis/example.com/v1":               `{"resources": [{"name": "bears", "namespaced": true, ` + verbs + `}, {"name": "pandas", ` + verbs + `}]}`,
		"/apis/admissionregistration.k8s.io": `{"preferredVersion": {"version": "v1"}, "versions": [{"version": "v1"}]}`,
		"/apis/admissionregistration.k8s.io/v1": `{"resources": [{"name": "mutatingwebhookconfigurations", "verbs": ["list", "patch"]},
			{"name": "mutatingadmissionpolicies", "verbs": ["list", "patch"]}]}`,
	}
}

// serve returns a client of an API server that answers GET from texts, and other requests
// by a handler.
func serve(t *testing.T, texts map[string]string, handler http.HandlerFunc) *patch.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := texts[r.URL.Path]
		switch {
		case r.Method == http.MethodGet && ok:
			_, _ = io.WriteString(w, text)
		case handler != nil:
			handler(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	base, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return patch.New(s.Client(), base)
}

// TestARequestCreatesNothingAndAsksForNoValue: the whole of what is sent.
func TestARequestCreatesNothingAndAsksForNoValue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		object rewrite.Object
		path   string
	}{
		{rewrite.Object{Resource: secrets, Namespace: "a", Object: "b", Revision: 76}, "/api/v1/namespaces/a/secrets/b?fieldManager=kubectl-kms"},
		{rewrite.Object{Resource: secrets, Namespace: "a", Object: "x?y z", Revision: 76}, "/api/v1/namespaces/a/secrets/x%3Fy%20z?fieldManager=kubectl-kms"},
		{rewrite.Object{Resource: rewrite.Resource{Name: "nodes"}, Object: "n", Revision: 76}, "/api/v1/nodes/n?fieldManager=kubectl-kms"},
		{rewrite.Object{Resource: pandas, Object: "p", Revision: 76}, "/apis/example.com/v1/pandas/p?fieldManager=kubectl-kms"},
		{rewrite.Object{Resource: rewrite.Resource{Name: "bears", Group: "example.com"}, Namespace: "a", Object: "p", Revision: 76}, "/apis/example.com/v2/namespaces/a/bears/p?fieldManager=kubectl-kms"},
	} {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			client := serve(t, discovery(), func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got := []string{r.Method, r.URL.RequestURI(), string(body), r.Header.Get("Content-Type"), r.Header.Get("Accept")}
				want := []string{
					"PATCH", c.path, `{"metadata":{"resourceVersion":"76"}}`, "application/merge-patch+json",
					"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				_, _ = io.WriteString(w, `{"kind": "PartialObjectMetadata", "metadata": {"resourceVersion": "83", "annotations": {"a": "`+planted+`"}}}`)
			})
			if err := client.Learn(t.Context(), []rewrite.Resource{c.object.Resource}); err != nil {
				t.Fatal(err)
			}
			if revision, err := client.Patch(t.Context(), c.object); revision != 83 || err != nil {
				t.Errorf("%d, %v", revision, err)
			}
		})
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	client := serve(t, discovery(), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apis/down.example.com/v1" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		http.NotFound(w, r)
	})
	want := map[rewrite.Resource]string{
		secrets:            "",
		pandas:             "",
		{Name: "bindings"}: "the API server takes no patch of this resource",
		{Name: "dodos", Group: "down.example.com"}: "the API server behind /apis/down.example.com/v1 does not say what it serves",
		{Name: "dodos"}: "no API server serves the resource any more",
		{Name: "dodos", Group: "extinct.example.com"}: "no API server serves the resource any more",
		{Name: "dodos", Group: "example.com"}:         "no API server serves the resource any more",
	}
	var all []rewrite.Resource
	for r := range want {
		all = append(all, r)
	}
	if err := client.Learn(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for r, why := range want {
		if got := client.Serves(r); got != why {
			t.Errorf("%s: %q, want %q", r, got, why)
		}
	}
	// A path of another shape than the resource has, and what nobody has learnt of.
	for _, o := range []rewrite.Object{
		{Resource: secrets, Object: "b", Revision: 1},
		{Resource: pandas, Namespace: "a", Object: "b", Revision: 1},
		{Resource: rewrite.Resource{Name: "new"}, Object: "b", Revision: 1},
	} {
		if _, err := client.Patch(t.Context(), o); err == nil {
			t.Errorf("%+v is sent", o)
		}
	}
}

// TestWhatAnAPIServerSays: cause, next step, and no word of an object.
func TestWhatAnAPIServerSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code          int
		header        string
		status        map[string]any
		cause         string
		next          string
		wait          time.Duration
		hangs, denied bool
		plainTextBody string
	}{
		"validation": {
			code: 422, status: map[string]any{
				"reason": "Invalid", "message": `Secret "b" is invalid: data[` + planted + `]: Invalid value: "` + planted + `": a valid config key`,
				"details": map[string]any{"causes": []any{
					map[string]any{"reason": "FieldValueInvalid", "field": "data[" + planted + "]", "message": `Invalid value: "` + planted + `"`},
					map[string]any{"reason": planted, "field": planted + ".x", "message": planted},
				}},
			},
			cause: "validation refuses it as it is stored: FieldValueInvalid in data, a mistake", next: "kubectl edit",
		},
		"validation of a value that reads like a webhook's answer": {
			code: 422, status: map[string]any{
				"reason": "Invalid", "message": `Secret "b" is invalid: data[a]: Invalid value: "failed calling webhook "` + lowPlanted + `": admission webhook "` + lowPlanted + `" denied the request, "` + lowPlanted + `" is forbidden: policy '` + lowPlanted + `' User "u" cannot patch resource "` + lowPlanted + `" in API group """`,
			},
			cause: "validation refuses it as it is stored", next: "kubectl edit",
		},
		"a webhook that refuses": {
			code: 403, status: map[string]any{"reason": planted, "message": `admission webhook "no.example.com" denied the request: ` + planted},
			cause: "webhook no.example.com refuses it", next: "Whoever runs the webhook", denied: true,
		},
		"a webhook that refuses with a status of its own": {
			code: 422, status: map[string]any{"reason": "Invalid", "message": `admission webhook "no.example.com" denied the request: ` + planted, "details": map[string]any{"causes": []any{map[string]any{"reason": planted, "field": planted}}}},
			cause: "webhook no.example.com refuses it", next: "Whoever runs the webhook", denied: true,
		},
		"a webhook that hangs": {
			code: 500, status: map[string]any{"reason": "InternalError", "message": `Internal error occurred: failed calling webhook "slow.example.com": failed to call webhook: Post "https://127.0.0.1:1/?timeout=1s": context deadline exceeded`},
			cause: "webhook slow.example.com does not answer", next: "Mend the webhook", hangs: true,
		},
		"a webhook that is not there": {
			code: 500, status: map[string]any{"reason": "InternalError", "message": `Internal error occurred: failed calling webhook "gone.example.com": failed to call webhook: Post "https://127.0.0.1:1/": connection refused`},
			cause: "webhook gone.example.com does not answer", next: "Mend the webhook",
		},
		"a policy": {
			code: 422, status: map[string]any{"reason": "Invalid", "message": `secrets "b" is forbidden: ValidatingAdmissionPolicy 'no-b.example.com' with binding 'b' denied request: ` + planted},
			cause: "policy no-b.example.com refuses it", next: "the policy", denied: true,
		},
		"a mutating policy that fails": {
			code: 422, status: map[string]any{"reason": "Invalid", "message": `secrets "b" is forbidden: policy 'm.example.com' with binding 'b' denied request: ` + planted},
			cause: "policy m.example.com refuses it", next: "the policy", denied: true,
		},
		"no right": {
			code: 403, status: map[string]any{"reason": "Forbidden", "message": `secrets "b" is forbidden: User "u" cannot patch resource "secrets" in API group "" in the namespace "a"`},
			cause: "this user may not patch secrets", next: "docs/kubectl-kms.md",
		},
		"no right on a group's list": {
			code: 403, status: map[string]any{"reason": "Forbidden", "message": `pandas.example.com is forbidden: User "u \"x\"" cannot list resource "pandas" in API group "example.com" at the cluster scope`},
			cause: "this user may not list pandas.example.com", next: "ClusterRole",
		},
		"no credentials": {code: 401, status: map[string]any{"reason": "Unauthorized", "message": "Unauthorized"}, cause: "the API server does not know who asks (401)", next: "whoami"},
		"a quota": {
			code: 403, status: map[string]any{"reason": "Forbidden", "message": `secrets "b" is forbidden: exceeded quota: ` + planted},
			cause: "the API server answers 403 Forbidden", next: "kubectl annotate",
		},
		"it cannot read it": {
			code: 500, status: map[string]any{"reason": "InternalError", "message": "Internal error occurred: StorageError: corrupt object, Code: 7, Key: /registry/secrets/a/b, data from the storage is not transformable revision=0: failed to decrypt DEK, error: rpc error: code = InvalidArgument desc = KMS0405 provider " + planted},
			cause: "the API server cannot read what is stored (KMS0405)", next: "explain KMS0405",
		},
		"it cannot read it, and no plugin says why": {
			code: 500, status: map[string]any{"message": "data from the storage is not transformable revision=0: no matching prefix found"},
			cause: "the API server cannot read what is stored", next: "lacks the provider or key",
		},
		"too many requests": {code: 429, header: "7", status: map[string]any{"reason": "TooManyRequests", "message": planted}, cause: "the API server answers 429 TooManyRequests", next: "readyz", wait: 7 * time.Second},
		"a pause in the body": {
			code: 500, status: map[string]any{"reason": "ServerTimeout", "message": planted, "details": map[string]any{"retryAfterSeconds": 3}},
			cause: "the API server answers 500 ServerTimeout", next: "readyz", wait: 3 * time.Second,
		},
		"another reason": {code: 400, status: map[string]any{"reason": planted, "message": planted}, cause: "the API server answers 400", next: "kubectl annotate"},
		"a proxy":        {code: 502, plainTextBody: "<html>" + planted, cause: "the API server answers 502", next: "readyz"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, discovery(), func(w http.ResponseWriter, _ *http.Request) {
				if c.header != "" {
					w.Header().Set("Retry-After", c.header)
				}
				w.WriteHeader(c.code)
				body, _ := json.Marshal(c.status)
				if c.plainTextBody != "" {
					body = []byte(c.plainTextBody)
				}
				_, _ = w.Write(body)
			})
			if err := client.Learn(t.Context(), []rewrite.Resource{secrets}); err != nil {
				t.Fatal(err)
			}
			_, err := client.Patch(t.Context(), rewrite.Object{Resource: secrets, Namespace: "a", Object: "b", Revision: 1})
			got, ok := err.(*rewrite.RefusalError) //nolint:errorlint // exactly this
			if !ok {
				t.Fatalf("%v is no RefusalError", err)
			}
			if got.Code != c.code || got.Cause != c.cause || !strings.Contains(got.Next, c.next) || got.RetryAfter != c.wait || got.Hangs != c.hangs || got.Denied != c.denied {
				t.Errorf("%+v, want %+v", got, c)
			}
			if text := fmt.Sprintf("%+v", got); strings.Contains(strings.ToLower(text), lowPlanted) {
				t.Errorf("%s has a value in it", text)
			}
		})
	}
}

// TestErrorsWithoutAnAnswer have no URL in them, and no word of what came.
func TestErrorsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no JSON": planted, "no resourceVersion": `{"metadata": {"name": "` + planted + `"}}`, "an odd one": `{"metadata": {"resourceVersion": "` + planted + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, discovery(), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
			if err := client.Learn(t.Context(), []rewrite.Resource{secrets}); err != nil {
				t.Fatal(err)
			}
			_, err := client.Patch(t.Context(), rewrite.Object{Resource: secrets, Namespace: "a", Object: "b", Revision: 1})
			if err == nil || strings.Contains(err.Error(), planted) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestWhatAdmissionMayDo: webhooks and policies that an update of the resources is shown to.
func TestWhatAdmissionMayDo(t *testing.T) {
	t.Parallel()
	const path = "/apis/admissionregistration.k8s.io/v1"
	texts := discovery()
	texts[path+"/mutatingwebhookconfigurations"] = `{"items": [{"metadata": {"name": "c"}, "webhooks": [
		{"name": "all", "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]},
		{"name": "secrets", "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "resources": ["pods", "secrets"]}]},
		{"name": "creates", "rules": [{"operations": ["CREATE"], "apiGroups": [""], "resources": ["secrets"]}]},
		{"name": "status", "rules": [{"operations": ["UPDATE"], "apiGroups": [""], "resources": ["secrets/*"]}]},
		{"name": "group", "rules": [{"operations": ["UPDATE"], "apiGroups": ["apps"], "resources": ["*"]}]}]}]}`
	texts[path+"/mutatingadmissionpolicies"] = `{"items": [
		{"metadata": {"name": "bound"}, "spec": {"matchConstraints": {"resourceRules": [{"operations": ["UPDATE"], "apiGroups": ["example.com"], "resources": ["pandas"]}]}}},
		{"metadata": {"name": "idle"}, "spec": {"matchConstraints": {"resourceRules": [{"operations": ["UPDATE"], "apiGroups": ["example.com"], "resources": ["pandas"]}]}}}]}`
	texts[path+"/mutatingadmissionpolicybindings"] = `{"items": [{"spec": {"policyName": "bound"}}]}`
	got, err := serve(t, texts, nil).Of(t.Context(), []rewrite.Resource{secrets, pandas})
	want := rewrite.Admission{Mutating: []string{
		"webhook all of mutatingwebhookconfiguration c, asked about secrets, pandas.example.com",
		"webhook secrets of mutatingwebhookconfiguration c, asked about secrets",
		"mutatingadmissionpolicy bound, asked about pandas.example.com",
	}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	denied := serve(t, discovery(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	got, err = denied.Of(t.Context(), []rewrite.Resource{secrets})
	if err != nil || got.Unknown != "this user may not list mutatingwebhookconfigurations and mutatingadmissionpolicies of admissionregistration.k8s.io" {
		t.Errorf("%+v, %v", got, err)
	}
	old := discovery()
	old[path] = `{"resources": [{"name": "mutatingwebhookconfigurations", "verbs": ["list"]}]}`
	old[path+"/mutatingwebhookconfigurations"] = `{"items": []}`
	if got, err = serve(t, old, nil).Of(t.Context(), []rewrite.Resource{secrets}); err != nil || got.Unknown != "" {
		t.Errorf("without policies: %+v, %v", got, err)
	}
}

// TestAListWithoutEtcd has every object of the resources that are encrypted, over pages.
func TestAListWithoutEtcd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config, only string
		want         []string
	}{
		"names":            {"[secrets, pandas.example.com, dodos]", "", []string{"pandas.example.com/p 7", "secrets/a/b 5", "secrets/a/c 6"}},
		"only some":        {"[secrets, pandas.example.com]", "pandas.example.com", []string{"pandas.example.com/p 7"}},
		"the core group":   {"['*.']", "", []string{"nodes/n 9", "secrets/a/b 5", "secrets/a/c 6"}},
		"a group":          {"['*.example.com']", "", []string{"bears.example.com/a/g 8", "pandas.example.com/p 7"}},
		"everything there": {"['*.*']", "secrets", []string{"secrets/a/b 5", "secrets/a/c 6"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, err := encryptionconfig.Parse([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [configmaps]\n  providers: [{identity: {}}]\n- resources: " +
				c.config + "\n  providers: [{kms: {apiVersion: v2, name: aws, endpoint: 'unix:///s'}}]\n"))
			if err != nil {
				t.Fatal(err)
			}
			client := serve(t, discovery(), func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Accept"); r.URL.Query().Has("limit") && got != "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1" {
					t.Errorf("accepts %s", got)
				}
				item := func(namespace, name, revision string) string {
					return fmt.Sprintf(`{"metadata": {"namespace": %q, "name": %q, "resourceVersion": %q}}`, namespace, name, revision)
				}
				text := map[string]string{
					"/api/v1/secrets?limit=500&continue=":             `{"metadata": {"continue": "a b"}, "items": [` + item("a", "b", "5") + `]}`,
					"/api/v1/secrets?limit=500&continue=a+b":          `{"items": [` + item("a", "c", "6") + `]}`,
					"/api/v1/nodes?limit=500&continue=":               `{"items": [` + item("", "n", "9") + `]}`,
					"/apis/example.com/v1/pandas?limit=500&continue=": `{"items": [` + item("", "p", "7") + `]}`,
					"/apis/example.com/v2/bears?limit=500&continue=":  `{"items": [` + item("a", "g", "8") + `]}`,
					"/api/v1/namespaces/a/secrets/b":                  item("a", "b", "50"),
				}[r.URL.RequestURI()]
				if text == "" {
					http.NotFound(w, r)
					return
				}
				_, _ = io.WriteString(w, text)
			})
			l := &patch.List{Client: client, Config: config}
			if c.only != "" {
				l.Resources = []string{c.only}
			}
			work, err := l.List(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range work.Stale {
				got = append(got, strings.ReplaceAll(fmt.Sprintf("%s/%s/%s %d", o.Resource, o.Namespace, o.Object, o.Revision), "//", "/"))
			}
			if !slices.Equal(got, c.want) || l.Proves() {
				t.Errorf("%q, want %q", got, c.want)
			}
			if name == "names" {
				for _, o := range work.Stale[1:] {
					sight, err := l.Look(t.Context(), o, 0, nil)
					if found := o.Object == "b"; err != nil || sight.Found != found || found && (sight.Object.Revision != 50 || !sight.Stale) {
						t.Errorf("%+v, %v", sight, err)
					}
				}
			}
		})
	}
}

func TestAggregated(t *testing.T) {
	t.Parallel()
	texts := map[string]string{"/apis/apiregistration.k8s.io/v1/apiservices": `{"items": [
		{"spec": {"group": "apps", "version": "v1"}}, {"spec": {"group": "a.example.com", "service": {"name": "a"}}},
		{"spec": {"group": "a.example.com", "service": {"name": "a"}}}, {"spec": {"group": "metrics.k8s.io", "service": {}}}]}`}
	got, err := serve(t, texts, nil).Aggregated(t.Context())
	if !slices.Equal(got, []string{"a.example.com", "metrics.k8s.io"}) || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := serve(t, nil, nil).Aggregated(t.Context()); err == nil {
		t.Error("no error where they may not be listed")
	}
}
