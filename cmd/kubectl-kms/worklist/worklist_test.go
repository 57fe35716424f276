package worklist_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/worklist"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

const (
	oldKey = "arn:aws:kms:us-west-2:111122223333:key/0000aaaa-12ab-34cd-56ef-1234567890ab?material=00"
	newKey = "arn:aws:kms:us-west-2:111122223333:key/4321abcd-12ab-34cd-56ef-1234567890ab?material=3d8a"
)

func config(t *testing.T, providers string) *encryptionconfig.Configuration {
	t.Helper()
	c, err := encryptionconfig.Parse([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" + providers))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newHash is that of newKey, as API servers have it.
func newHash() string {
	sum := sha256.Sum256([]byte(newKey))
	return "sha256:" + hex.EncodeToString(sum[:])
}

const kmsFirst = `- resources: [secrets, pandas.example.com]
  providers:
  - kms: {apiVersion: v2, name: aws, endpoint: "unix:///s"}
  - kms: {apiVersion: v1, name: aws-v1, endpoint: "unix:///s"}
  - aescbc: {keys: [{name: k1, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}
  - identity: {}
`

const v1First = `- resources: [secrets]
  providers:
  - kms: {apiVersion: v1, name: aws-v1, endpoint: "unix:///s"}
  - kms: {apiVersion: v1, name: aws-old, endpoint: "unix:///s"}
  - identity: {}
`

// TestWhatIsStale: path → "stale", "doubt" or why it cannot be sent.
func TestWhatIsStale(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, config, store string
		keys                map[string]string
		resources           []string
		want                map[string]string
	}{
		{
			name: "KMS v2 is first", config: kmsFirst, keys: map[string]string{"aws": newHash()},
			store: `/registry/secrets/a/new v2 aws ` + newKey + `
/registry/secrets/a/another-seed v2 aws ` + newKey + ` wrapped=1other
/registry/secrets/a/old v2 aws ` + oldKey + `
/registry/secrets/a/dek v2 aws ` + newKey + ` type=0
/registry/secrets/a/old-dek v2 aws ` + oldKey + ` type=0
/registry/secrets/a/v1 v1 aws-v1
/registry/secrets/a/cbc aescbc k1
/registry/secrets/a/plain plaintext
/registry/secrets/a/foreign v2 other ` + newKey + `
/registry/secrets/a/k2 aescbc k2
/registry/example.com/pandas/a/plain plaintext
/registry/configmaps/a/plain plaintext
/registry/configmaps/a/encrypted v2 aws ` + newKey + `
/registry/ranges/serviceips plaintext
`,
			want: map[string]string{
				"/registry/secrets/a/old": "stale", "/registry/secrets/a/dek": "doubt", "/registry/secrets/a/old-dek": "stale",
				"/registry/secrets/a/v1": "stale", "/registry/secrets/a/cbc": "stale", "/registry/secrets/a/plain": "stale",
				"/registry/example.com/pandas/a/plain": "stale",
				"/registry/secrets/a/foreign":          "no provider of the encryption configuration reads kms v2 other arn:..:key/4321abcd..?material=3d8a",
				"/registry/secrets/a/k2":               "no provider of the encryption configuration reads aescbc k2",
				"/registry/configmaps/a/encrypted":     "no provider of the encryption configuration reads kms v2 aws arn:..:key/4321abcd..?material=3d8a",
			},
		},
		{
			name: "its key_id is not known", config: kmsFirst, store: "/registry/secrets/a/x v2 aws " + newKey + "\n",
			want: map[string]string{"/registry/secrets/a/x": "doubt"},
		},
		{
			name: "KMS v1 knows no key", config: v1First, keys: map[string]string{"aws-v1": newHash()},
			store: "/registry/secrets/a/gcm v1 aws-v1 size=5\n/registry/secrets/a/gcm-or-cbc v1 aws-v1 size=4\n/registry/secrets/a/old v1 aws-old size=5\n",
			want:  map[string]string{"/registry/secrets/a/gcm-or-cbc": "doubt", "/registry/secrets/a/old": "stale"},
		},
		{
			name: "only some resources", config: kmsFirst, keys: map[string]string{"aws": newHash()}, resources: []string{"pandas.example.com"},
			store: "/registry/secrets/a/plain plaintext\n/registry/example.com/pandas/a/plain plaintext\n",
			want:  map[string]string{"/registry/example.com/pandas/a/plain": "stale"},
		},
		{
			name: "names", config: kmsFirst, keys: map[string]string{"aws": newHash()},
			store: "/registry/secrets/a/.. plaintext\n/registry/secrets/a/a%2fb plaintext\n/registry/secrets/./b plaintext\n\"/registry/secrets/a/odd\\nname\" plaintext\n/registry/mysteries/a/b v2 aws " + newKey + "\n/registry/mysteries/a/c plaintext\n",
			want: map[string]string{
				"/registry/secrets/a/..": "an API server takes no request for this name", "/registry/secrets/a/a%2fb": "an API server takes no request for this name",
				"/registry/secrets/./b": "an API server takes no request for this name", "/registry/secrets/a/odd\nname": "stale",
				"/registry/mysteries/a/b": "its path does not tell the group of mysteries, so nobody knows which provider writes it",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := audittest.Parse("etcd", c.store+"compacted\n", false) // read twice: nothing may count twice
			if err != nil {
				t.Fatal(err)
			}
			l := &worklist.List{Reader: s, Getter: getter{s, nil}, Options: audit.Options{Config: config(t, c.config)}, Resources: c.resources}
			work, err := l.List(t.Context(), c.keys)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, o := range work.Stale {
				got[o.Path] = "stale"
				if o.Doubt {
					got[o.Path] = "doubt"
				}
				now, err := l.Look(t.Context(), o, 0, c.keys)
				if err != nil || !now.Found || !now.Stale || cmp.Diff(o, now.Object) != "" {
					t.Errorf("Look: %+v, %v; List said %+v", now, err, o)
				}
			}
			for _, lost := range work.Lost {
				got[lost.Path] = lost.Cause
			}
			if diff := cmp.Diff(c.want, got); diff != "" || len(work.Stale)+len(work.Lost) != len(got) {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(work.NotRead) != 0 || !strings.HasPrefix(work.Basis, "etcd at revision 81234, under /registry") {
				t.Errorf("%q, not read: %q", work.Basis, work.NotRead)
			}
		})
	}
}

// A getter answers out of a store.
type getter struct {
	s   *audittest.Store
	err error
}

func (g getter) Get(_ context.Context, key string, _ int64) (store.KeyValue, bool, error) {
	i := slices.IndexFunc(g.s.Values, func(kv store.KeyValue) bool { return string(kv.Key) == key })
	if i < 0 || g.err != nil {
		return store.KeyValue{}, false, g.err
	}
	return g.s.Values[i], true, nil
}

func TestWhatWasNotReadIsSaid(t *testing.T) {
	t.Parallel()
	s, err := audittest.Parse("etcd", "unread /openshift.io\n/registry/secrets/a/b plaintext\n/registry/secrets/a/c raw k8s:enc:nope:v1:a:b\n", false)
	if err != nil {
		t.Fatal(err)
	}
	l := &worklist.List{Reader: s, Options: audit.Options{Config: config(t, kmsFirst), Elsewhere: []string{"events"}}}
	work, err := l.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"not read: /openshift.io in etcd", "not read: events in an etcd of their own", "1 value of etcd could not be read"}
	if diff := cmp.Diff(want, work.NotRead); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAggregatedAPIServersOfAnEncryptedList are asked for.
func TestAggregatedAPIServersOfAnEncryptedList(t *testing.T) {
	t.Parallel()
	const store = "/registry/secrets/a/b plaintext\n/registry/apiregistration.k8s.io/apiservices/v1.apps aescbc k1\n"
	failure := errors.New("denied")
	for _, c := range []struct {
		name   string
		groups []string
		err    error
		want   []string
	}{
		{"none", nil, nil, nil},
		{"metrics store nothing", []string{"metrics.k8s.io", "custom.metrics.k8s.io"}, nil, nil},
		{"one", []string{"a.example.com"}, nil, []string{"not read: what the aggregated API server of a.example.com stores"}},
		{"not told", nil, failure, []string{"not read: what aggregated API servers store, if there are any: their list is encrypted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := audittest.Parse("etcd", store, false)
			if err != nil {
				t.Fatal(err)
			}
			l := &worklist.List{Reader: s, Options: audit.Options{
				Config: config(t, kmsFirst), Aggregated: func(context.Context) ([]string, error) { return c.groups, c.err },
			}}
			work, err := l.List(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, work.NotRead, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	s, err := audittest.Parse("etcd", "/registry/secrets/a/new v2 aws "+newKey+"\n/registry/secrets/a/odd raw k8s:enc:nope:v1:a:b\n", false)
	if err != nil {
		t.Fatal(err)
	}
	failure := errors.New("no connection")
	for _, c := range []struct {
		name, path   string
		err          error
		found, stale bool
		want         error
	}{
		{"fresh", "/registry/secrets/a/new", nil, true, false, nil},
		{"gone", "/registry/secrets/a/gone", nil, false, false, nil},
		{"compacted", "/registry/secrets/a/new", &store.Error{Place: "etcd", Reason: "gone", Err: store.ErrCompacted}, false, false, rewrite.ErrNotCompared},
		{"failed", "/registry/secrets/a/new", failure, false, false, failure},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := &worklist.List{Reader: s, Getter: getter{s, c.err}, Options: audit.Options{Config: config(t, kmsFirst)}}
			got, err := l.Look(t.Context(), rewrite.Object{Path: c.path}, 7, map[string]string{"aws": newHash()})
			if !errors.Is(err, c.want) || got.Found != c.found || got.Stale != c.stale {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		t.Parallel()
		l := &worklist.List{Reader: s, Getter: getter{s, nil}, Options: audit.Options{Config: config(t, kmsFirst)}}
		if _, err := l.Look(t.Context(), rewrite.Object{Path: "/registry/secrets/a/odd"}, 0, nil); err == nil {
			t.Error("no error")
		}
	})
}
