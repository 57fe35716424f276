package audit_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

const (
	oldARN = "arn:aws:kms:us-west-2:111122223333:key/0000aaaa-12ab-34cd-56ef-1234567890ab"
	newARN = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	mrkKey = "key/mrk-1234abcd12ab34cd56ef1234567890ab"
)

// places are stores of texts: "snapshot" and "etcd" as the first word of each.
func places(t *testing.T, texts ...string) []audit.Place {
	t.Helper()
	var out []audit.Place
	for i, text := range texts {
		kind, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
		name := fmt.Sprintf("backup-%d.db", i+1)
		if kind == "etcd" {
			name = "https://127.0.0.1:2379"
		}
		s, err := audittest.Parse(name, rest, kind == "snapshot")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, audit.Place{Reader: s, Live: kind == "etcd"})
	}
	return out
}

func run(t *testing.T, o audit.Options, texts ...string) *audit.Report {
	t.Helper()
	r, err := audit.Run(t.Context(), places(t, texts...), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(t *testing.T, text string) audit.Key {
	t.Helper()
	k, err := audit.ParseKey(text)
	if err != nil {
		t.Fatalf("ParseKey(%q): %v", text, err)
	}
	return k
}

func unused(t *testing.T, text string) *audit.Question {
	t.Helper()
	return &audit.Question{Key: key(t, text)}
}

func only(t *testing.T, text string) *audit.Question {
	t.Helper()
	return &audit.Question{Only: true, Key: key(t, text)}
}

func config(t *testing.T, entries string) *encryptionconfig.Configuration {
	t.Helper()
	c, err := encryptionconfig.Parse([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" + entries))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	secretOfTests = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="
	secretsV2     = `- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: aws, endpoint: "unix:///run/a.sock"}
  - kms: {name: aws-v1, endpoint: "unix:///run/a.sock"}
  - aescbc: {keys: [{name: k1, secret: ` + secretOfTests + `}, {name: k2, secret: ` + secretOfTests + `}]}
  - identity: {}
`
)

func TestRunCountsByWhatProtectsEachResource(t *testing.T) {
	t.Parallel()
	r := run(t, audit.Options{}, `snapshot
/registry/secrets/default/a v2 aws `+newARN+`?material=3d8a wrapped=1one
/registry/secrets/default/b v2 aws `+newARN+`?material=3d8a wrapped=1one
/registry/secrets/default/c v2 aws `+newARN+`?material=3d8a wrapped=1two
/registry/secrets/default/d v2 aws `+newARN+`?material=3d8a wrapped=1one type=0
/registry/secrets/default/e v2 azure https://vault/keys/k/1 wrapped=xyz
/registry/secrets/default/f v1 aws-v1 wrapped=1one
/registry/secrets/default/g v1 aws-v1 wrapped=\x01bare size=4
/registry/secrets/default/h aescbc k1
/registry/secrets/default/i secretbox k2
/registry/secrets/default/j aesgcm k3
old /registry/secrets/default/a plaintext
old /registry/secrets/default/z aescbc k1
/registry/deployments/default/a plaintext
/registry/example.com/pandas/default/a raw {"kind":"Panda"}
/registry/ranges/serviceips plaintext
/registry/masterleases/10.0.0.1 plaintext
/registry/peerserverleases/10.0.0.1 plaintext
/other/x plaintext
`)
	var got []string
	for _, row := range r.Places[0].Rows {
		got = append(got, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s %s %d %d %d", row.Resource, row.Format, row.Provider, row.KeyID, row.Wrapped, row.Cipher, row.Objects, row.Seeds, row.Older)), " "))
	}
	want := []string{
		"deployments.apps plaintext 1 0 0",
		"pandas.example.com plaintext 1 0 0",
		"secrets kms v2 aws " + newARN + "?material=3d8a direct gcm 1 1 0",
		"secrets kms v2 aws " + newARN + "?material=3d8a direct hkdf gcm 3 2 0",
		"secrets kms v2 azure https://vault/keys/k/1 other hkdf gcm 1 1 0",
		"secrets kms v1 aws-v1 bare gcm or cbc 1 1 0",
		"secrets kms v1 aws-v1 direct gcm 1 1 0",
		"secrets secretbox k2 xsalsa20-poly1305 1 0 0",
		"secrets aesgcm k3 gcm 1 0 0",
		"secrets aescbc k1 cbc 1 0 1",
		"secrets plaintext 0 0 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if p := r.Places[0]; p.Keys != 15 || p.NotObjects != 3 || p.Unreadable.Count != 0 {
		t.Errorf("%d keys, %d not objects, %d unreadable; want 15, 3, 0", p.Keys, p.NotObjects, p.Unreadable.Count)
	}
}

// The rows of the answers: what is asked of what is stored, and words of the verdict.
func TestVerdict(t *testing.T) {
	t.Parallel()
	newObject := "/registry/secrets/default/a v2 aws " + newARN + "?material=3d8a\n"
	oldObject := "/registry/secrets/default/b v2 aws " + oldARN + "\n"
	for name, c := range map[string]struct {
		places    []string
		resources []string
		config    string
		elsewhere []string
		prefixes  []string
		question  *audit.Question
		want      audit.Answer
		words     []string
	}{
		"snapshot, everything under the key": {
			places: []string{"snapshot\n" + newObject}, question: only(t, newARN), want: audit.Yes,
			words: []string{"yes: every object of secrets is under " + newARN, "backup-1.db at revision 81234, prefix /registry", "this speaks of this snapshot alone", "API servers: not asked", "other backups: not known", "not read: none."},
		},
		"snapshot, nothing under the old one": {
			places: []string{"snapshot\n" + newObject}, question: unused(t, oldARN), want: audit.Yes,
			words: []string{"yes: no object of secrets is under " + oldARN},
		},
		"two snapshots, one with the old key": {
			places: []string{"snapshot\n" + newObject, "snapshot\n" + oldObject}, question: unused(t, oldARN), want: audit.No,
			words: []string{"no: 1 of 2 objects of secrets is under " + oldARN, "backup-1.db", "backup-2.db", "these snapshots alone"},
		},
		"snapshot, an object under another key": {
			places: []string{"snapshot\n" + newObject + oldObject}, question: only(t, newARN), want: audit.No,
			words: []string{"no: 1 of 2 objects of secrets is not under " + newARN, "1 object of secrets under kms v2 aws"},
		},
		"live, however clean: API servers were not asked": {
			places: []string{"etcd\n" + newObject}, question: only(t, newARN), want: audit.NotKnown,
			words: []string{"not known: no object of secrets was found that is not under", "API servers: not asked", "snapshots: none given"},
		},
		"live, unused: older revisions were not read": {
			places: []string{"etcd\n" + newObject}, question: unused(t, oldARN), want: audit.NotKnown,
			words: []string{"older revisions were not read", "nothing before the next compaction proves a key unused"},
		},
		"live, used": {
			places: []string{"etcd\n" + newObject + oldObject}, question: unused(t, oldARN), want: audit.No,
			words: []string{"1 object of secrets under kms v2 aws"},
		},
		"live and a snapshot": {
			places: []string{"etcd\n" + newObject, "snapshot\n" + newObject}, question: only(t, newARN), want: audit.NotKnown,
			words: []string{"https://127.0.0.1:2379 at revision 81234", "backup-2.db at revision"},
		},
		"only an older revision is under the key": {
			places: []string{"snapshot\n" + newObject + "old " + oldObject}, question: unused(t, oldARN), want: audit.No,
			words: []string{"none of 1 object of secrets is under " + oldARN + ", but 1 older revision", "until etcd compacts"},
		},
		"older revisions under another key are no objects": {
			places: []string{"snapshot\n" + newObject + "old " + oldObject}, question: only(t, newARN), want: audit.Yes,
		},
		"v1 keeps a key's disuse unknown": {
			places: []string{"snapshot\n" + newObject + "/registry/secrets/default/c v1 aws-v1\n"}, question: unused(t, oldARN), want: audit.NotKnown,
			words: []string{"1 object of secrets under kms v1 aws-v1: the bytes do not tell their key, run verify"},
		},
		"an older v1 revision too": {
			places: []string{"snapshot\n" + newObject + "old /registry/secrets/default/c v1 aws-v1\n"}, question: unused(t, oldARN), want: audit.NotKnown,
			words: []string{"1 older revision of secrets under kms v1 aws-v1"},
		},
		"v1 by the provider's name": {
			places: []string{"snapshot\n" + newObject + "/registry/secrets/default/c v1 aws-v1\n"}, question: unused(t, "provider:aws-v1"), want: audit.No,
		},
		"v1 out of the question": {
			places: []string{"snapshot\n" + newObject + "/registry/configmaps/default/c v1 aws-v1\n"}, question: unused(t, oldARN), want: audit.Yes,
		},
		"plaintext is left": {
			places: []string{"snapshot\n" + newObject + "/registry/secrets/default/c plaintext\n"}, question: unused(t, "plaintext"), want: audit.No,
			words: []string{"1 object of secrets under plaintext"},
		},
		"plaintext elsewhere": {
			places: []string{"snapshot\n" + newObject + "/registry/configmaps/default/c plaintext\n"}, question: unused(t, "plaintext"), want: audit.Yes,
		},
		"a local key by its name": {
			places: []string{"snapshot\n/registry/secrets/default/c aescbc k1\n"}, question: only(t, "provider:k1"), want: audit.Yes,
		},
		"a value that nobody understands": {
			places: []string{"snapshot\n" + newObject + "/registry/secrets/default/c raw k8s:enc:rot13:v1:x:y\n"}, question: only(t, newARN), want: audit.NotKnown,
			words: []string{"1 value of backup-1.db could not be read"},
		},
		"an encrypted value at a path of no object": {
			places: []string{"snapshot\n" + newObject + "/registry/a/b/c/d/e v2 aws " + oldARN + "\n"}, question: unused(t, oldARN), want: audit.NotKnown,
			words: []string{"1 value of backup-1.db could not be read"},
		},
		"another prefix": {
			places: []string{"snapshot\nunread /openshift.io\n" + newObject}, question: only(t, newARN), want: audit.NotKnown,
			words: []string{"not read: /openshift.io in backup-1.db"},
		},
		"no leader of compaction is a prefix": {
			places: []string{"snapshot\nunread compact_rev_key\n" + newObject}, question: only(t, newARN), want: audit.Yes,
		},
		"two prefixes": {
			places:   []string{"snapshot\n/kubernetes.io/secrets/default/a v2 aws " + newARN + "\n/openshift.io/routes/default/a v2 aws " + oldARN + "\n"},
			prefixes: []string{"kubernetes.io", "/openshift.io/"}, resources: []string{"secrets", "routes.route.openshift.io"},
			question: unused(t, oldARN), want: audit.No, words: []string{"prefixes /kubernetes.io, /openshift.io"},
		},
		"a resource whose path has no group": {
			places:   []string{"snapshot\n/kubernetes.io/secrets/default/a v2 aws " + newARN + "\n/openshift.io/routes/default/a v2 aws " + newARN + "\n"},
			prefixes: []string{"kubernetes.io", "/openshift.io/"}, resources: []string{"secrets", "routes.route.openshift.io"},
			question: unused(t, oldARN), want: audit.Yes,
		},
		"events in an etcd of their own": {
			places: []string{"snapshot\n" + newObject}, elsewhere: []string{"events"}, question: only(t, newARN), want: audit.NotKnown,
			words: []string{"not read: events in an etcd of their own"},
		},
		"events in an etcd of their own, which is given too": {
			places: []string{"snapshot\n" + newObject, "snapshot\n/registry/events/default/a plaintext\n"}, elsewhere: []string{"events"}, question: only(t, newARN), want: audit.Yes,
		},
		"an aggregated API server": {
			places:   []string{"snapshot\n" + newObject + `/registry/apiregistration.k8s.io/apiservices/v1.wardle.example.com raw "{\"spec\":{\"service\":{\"name\":\"w\"}}}"` + "\n"},
			question: only(t, newARN), want: audit.NotKnown, words: []string{"not read: what the aggregated API server of wardle.example.com stores"},
		},
		"APIServices of metrics and of kube-apiserver itself": {
			places: []string{"snapshot\n" + newObject +
				`/registry/apiregistration.k8s.io/apiservices/v1beta1.metrics.k8s.io raw "{\"spec\":{\"service\":{\"name\":\"w\"}}}"` + "\n" +
				`/registry/apiregistration.k8s.io/apiservices/v1.apps raw "{\"spec\":{\"group\":\"apps\",\"service\":null}}"` + "\n"},
			question: only(t, newARN), want: audit.Yes,
		},
		"APIServices that are encrypted": {
			places:   []string{"snapshot\n" + newObject + "/registry/apiregistration.k8s.io/apiservices/v1.apps v2 aws " + newARN + "\n"},
			question: only(t, newARN), want: audit.NotKnown, words: []string{"their list is encrypted"},
		},
		"a caveat of the file": {
			places: []string{"snapshot\ncaveat The file has no digest. It may lack its end.\n" + newObject}, question: only(t, newARN), want: audit.NotKnown,
			words: []string{"The file has no digest; It may lack its end;"},
		},
		"nothing that the question is about": {
			places: []string{"snapshot\n/registry/configmaps/default/a plaintext\n"}, question: unused(t, oldARN), want: audit.NotKnown,
			words: []string{"no object of secrets was read"},
		},
		"scope of a configuration": {
			places: []string{"snapshot\n" + newObject + "/registry/configmaps/default/a plaintext\n"}, config: secretsV2, question: only(t, newARN), want: audit.Yes,
			words: []string{"by enc.yaml"},
		},
		"the key outside the configuration's resources": {
			places: []string{"snapshot\n" + newObject + "/registry/configmaps/default/a v2 aws " + oldARN + "\n"}, config: secretsV2, question: unused(t, oldARN), want: audit.NotKnown,
			words: []string{"1 object of configmaps, which enc.yaml does not encrypt, under it"},
		},
		"the key outside --resources": {
			places: []string{"snapshot\n" + newObject + "/registry/configmaps/default/a v2 aws " + oldARN + "\n"}, question: unused(t, oldARN), want: audit.Yes,
			words: []string{"outside the question: 1 object of configmaps under it"},
		},
		"wildcard of the core group": {
			places:    []string{"snapshot\n" + newObject + "/registry/configmaps/default/a v2 aws " + oldARN + "\n/registry/deployments/default/a plaintext\n"},
			resources: []string{"*."}, question: unused(t, oldARN), want: audit.No,
		},
		"wildcard of the core group, deployments are of another": {
			places:    []string{"snapshot\n" + newObject + "/registry/deployments/default/a plaintext\n"},
			resources: []string{"*."}, question: only(t, newARN), want: audit.Yes,
		},
		"wildcard of a built-in group": {
			places:    []string{"snapshot\n/registry/deployments/default/a plaintext\n/registry/statefulsets/default/a v2 aws " + newARN + "\n"},
			resources: []string{"*.apps"}, question: only(t, newARN), want: audit.No,
		},
		"wildcard of a group of custom resources": {
			places:    []string{"snapshot\n/registry/example.com/pandas/default/a plaintext\n" + newObject},
			resources: []string{"*.example.com"}, question: only(t, newARN), want: audit.No,
		},
		"wildcard of everything": {
			places:    []string{"snapshot\n/registry/example.com/pandas/default/a plaintext\n" + newObject},
			resources: []string{"*.*"}, question: only(t, newARN), want: audit.No,
		},
		"a resource without objects": {
			places:    []string{"snapshot\n" + newObject},
			resources: []string{"secrets", "pandas.example.com"}, question: only(t, newARN), want: audit.NotKnown,
			words: []string{"but no object of pandas.example.com was read: is this its name?"},
		},
		"a resource of the configuration without objects": {
			places: []string{"snapshot\n" + newObject}, config: strings.Replace(secretsV2, "[secrets]", "[secrets, pandas.example.com]", 1),
			question: only(t, newARN), want: audit.Yes, words: []string{"; no object of pandas.example.com was read"},
		},
		"events are in question and nowhere": {
			places:    []string{"snapshot\n" + newObject},
			resources: []string{"*."}, question: only(t, newARN), want: audit.Yes,
			words: []string{"no object of events was read"},
		},
		"a built-in resource that no release had": {
			places:    []string{"snapshot\n/registry/widgets/default/a plaintext\n/registry/statefulsets/default/a v2 aws " + newARN + "\n"},
			resources: []string{"*.apps"}, question: only(t, newARN), want: audit.NotKnown, words: []string{"1 object of widgets, whose group its path does not tell"},
		},
		"an alias as key_id may be any key": {
			places: []string{"snapshot\n/registry/secrets/default/a v2 aws alias/K8sKMSKey\n"}, question: unused(t, oldARN), want: audit.NotKnown,
			words: []string{"the key_id alias/K8sKMSKey is an alias"},
		},
		"an alias may name any key": {
			places: []string{"snapshot\n/registry/secrets/default/a v2 aws " + oldARN + "\n"}, question: unused(t, "alias/K8sKMSKey"), want: audit.NotKnown,
			words: []string{"alias/K8sKMSKey is an alias, and no bytes tell which key that names: give the ARN of the key"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := audit.Options{Question: c.question, Resources: c.resources, Elsewhere: c.elsewhere, Prefixes: c.prefixes}
			if c.config != "" {
				o.Config, o.ConfigName = config(t, c.config), "enc.yaml"
			} else if o.Resources == nil {
				o.Resources = []string{"secrets"}
			}
			v := run(t, o, c.places...).Verdict
			if v.Answer != c.want {
				t.Errorf("%s: want %s", v.Text, c.want)
			}
			for _, words := range c.words {
				if !strings.Contains(v.Text, words) {
					t.Errorf("%q lacks %q", v.Text, words)
				}
			}
			if strings.Contains(strings.ReplaceAll(v.Text, "*. ", ""), ". ") || !strings.HasSuffix(v.Text, ".") || strings.Contains(v.Text, "\n") {
				t.Errorf("%q is not one sentence", v.Text)
			}
			if (v.Answer == audit.Yes) != (len(v.Reasons) == 0) {
				t.Errorf("%s for %q", v.Answer, v.Reasons)
			}
		})
	}
}

// What may be elsewhere keeps every answer from being yes, and the verdict says so.
func TestWhatWasNotReadIsInTheVerdict(t *testing.T) {
	t.Parallel()
	good := "/registry/secrets/default/a v2 aws " + newARN + "\n"
	for name, c := range map[string]struct {
		text      string
		elsewhere []string
		words     string
	}{
		"a prefix":            {"unread /openshift.io\n", nil, "/openshift.io in backup-1.db"},
		"prefixes not listed": {"unread others, which etcd does not let this user list\n", nil, "does not let this user list"},
		"an override":         {"", []string{"events"}, "events in an etcd of their own"},
		"an aggregated API server": {
			"/registry/apiregistration.k8s.io/apiservices/v1.w.example.com raw {\"spec\":{\"service\":{}}}\n", nil,
			"the aggregated API server of w.example.com",
		},
		"a write-ahead log": {"caveat What etcd had only in its write-ahead log (WAL) is not applied.\n", nil, "write-ahead log (WAL) is not applied"},
		"a value":           {"/registry/secrets/default/b raw k8s:enc:x\n", nil, "1 value of backup-1.db could not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, q := range []*audit.Question{only(t, newARN), unused(t, oldARN), unused(t, "plaintext"), unused(t, "provider:x")} {
				r := run(t, audit.Options{Resources: []string{"secrets"}, Elsewhere: c.elsewhere, Question: q}, "snapshot\n"+c.text+good)
				if v := r.Verdict; v.Answer != audit.NotKnown || !strings.Contains(v.Text, c.words) {
					t.Errorf("%s: want not known, and %q", v.Text, c.words)
				}
				if r.Complete() {
					t.Error("the report is complete")
				}
			}
			used := run(t, audit.Options{Resources: []string{"secrets"}, Elsewhere: c.elsewhere, Question: unused(t, newARN)}, "snapshot\n"+c.text+good).Verdict
			if used.Answer != audit.No || !strings.Contains(used.Text, c.words) {
				t.Errorf("%s: want no, and %q", used.Text, c.words)
			}
		})
	}
}

// Only the running API servers know which key they write under.
func TestALiveStoreIsNeverAYes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"plaintext", "v2 aws " + newARN, "v1 aws-v1", "aescbc k1", "aesgcm k1", "secretbox k1"} {
		for _, k := range []string{newARN, oldARN, "provider:aws", "provider:k1", "plaintext", "sha256:" + strings.Repeat("0", 64)} {
			for _, q := range []*audit.Question{only(t, k), unused(t, k)} {
				v := run(t, audit.Options{Resources: []string{"secrets"}, Question: q}, "etcd\n/registry/secrets/default/a "+text+"\n").Verdict
				if v.Answer == audit.Yes || !strings.Contains(v.Text, "API servers: not asked") {
					t.Errorf("%s, %s %s: %s", text, q, k, v.Text)
				}
			}
		}
	}
}

// The wrapped DEK of v1 does not say which key wrapped it, whatever its bytes look like.
func TestV1IsCountedUnderNoKey(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"v1 aws", "v1 aws wrapped=1" + newARN, "v1 " + newARN, "v1 aws size=4"} {
		r := run(t, audit.Options{Resources: []string{"secrets"}, Question: unused(t, newARN)},
			"snapshot\n/registry/secrets/default/a "+value+"\n/registry/secrets/default/b v2 aws "+oldARN+"\n")
		for _, row := range r.Places[0].Rows {
			if row.Format == "kms v1" && (row.KeyID != "" || row.KeyIDHash != "") {
				t.Errorf("%s: %+v has a key", value, row)
			}
		}
		if r.Verdict.Answer != audit.NotKnown {
			t.Errorf("%s: %s: want not known", value, r.Verdict.Text)
		}
		if v := run(t, audit.Options{Resources: []string{"secrets"}, Question: only(t, newARN)}, "snapshot\n/registry/secrets/default/a "+value+"\n").Verdict; v.Answer != audit.NotKnown {
			t.Errorf("%s: %s: want not known", value, v.Text)
		}
	}
}

func TestOlderRevisionsAreNoObjects(t *testing.T) {
	t.Parallel()
	r := run(t, audit.Options{Resources: []string{"secrets"}, Question: only(t, newARN), Objects: true}, "snapshot\n"+
		"/registry/secrets/default/a v2 aws "+newARN+"\nold /registry/secrets/default/a v1 aws-v1\nold /registry/secrets/default/gone plaintext\n")
	if r.Verdict.Answer != audit.Yes || r.Verdict.Asked != 1 || len(r.Objects) != 0 {
		t.Errorf("%s, objects %v: want yes for one object", r.Verdict.Text, r.Objects)
	}
	var older int64
	for _, row := range r.Places[0].Rows {
		older += row.Older
		if row.Older > 0 && row.Objects+int64(row.Seeds) > 0 {
			t.Errorf("%+v: want older revisions counted apart", row)
		}
	}
	if older != 2 {
		t.Errorf("%d older revisions, want 2", older)
	}
}

// Annotations and other people's key_ids may contain the text of an ARN.
func TestKeysAreComparedAndNotSearched(t *testing.T) {
	t.Parallel()
	const id = "1234abcd-12ab-34cd-56ef-1234567890ab"
	mrk := "arn:aws:kms:eu-west-1:111122223333:" + mrkKey
	for name, c := range map[string]struct {
		value, key string
		used       bool
	}{
		"the ARN itself":                     {"v2 aws " + newARN, newARN, true},
		"the ARN with material":              {"v2 aws " + newARN + "?material=3d8a&epoch=2", newARN, true},
		"a key_id":                           {"v2 aws " + newARN + "?material=3d8a", newARN + "?material=3d8a", true},
		"a key_id of other material":         {"v2 aws " + newARN + "?material=3d8a", newARN + "?material=9f", false},
		"its hash":                           {"v2 aws abc", "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", true},
		"its hash in capitals":               {"v2 aws abc", "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD", true},
		"another hash":                       {"v2 aws abd", "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", false},
		"the ARN in an annotation":           {"v2 aws " + oldARN + " annotation=arn.example.com:" + newARN, newARN, false},
		"the ARN in another's key_id":        {"v2 aws vault/" + newARN, newARN, false},
		"the ARN as a parameter":             {"v2 aws " + oldARN + "?was=" + newARN, newARN, false},
		"the ARN as a provider's name":       {"v2 x " + oldARN, "provider:aws", false},
		"a longer id":                        {"v2 aws " + newARN + "0", newARN, false},
		"a replica of a multi-Region key":    {"v2 aws arn:aws:kms::111122223333:" + mrkKey + "?material=1", mrk, true},
		"a replica, by its name in a key_id": {"v2 aws arn:aws:kms::111122223333:" + mrkKey + "?material=1", "arn:aws:kms::111122223333:" + mrkKey, true},
		"a replica, as predecessors wrote":   {"v2 aws arn:aws:kms:us-east-1:111122223333:" + mrkKey, mrk, true},
		"another account's multi-Region key": {"v2 aws arn:aws:kms::999988887777:" + mrkKey, mrk, false},
		"a key in another Region":            {"v2 aws " + strings.Replace(newARN, "us-west-2", "us-east-1", 1), newARN, false},
		"a bare id, as predecessors wrote":   {"v2 aws " + id, newARN, true},
		"an ARN of the id that is asked":     {"v2 aws " + newARN, id, true},
		"another plugin's key":               {"v2 azure https://vault.example/keys/k/1", "https://vault.example/keys/k/1", true},
		"a part of another plugin's key":     {"v2 azure https://vault.example/keys/k/11", "https://vault.example/keys/k/1", false},
		"an alias, as predecessors wrote":    {"v2 aws alias/K8sKMSKey", "alias/K8sKMSKey", true},
		"an object that holds the ARN":       {"plaintext " + newARN, newARN, false},
		"provider":                           {"v2 aws x", "provider:aws", true},
		"provider with a colon":              {"v1 aws:b", "provider:aws:b", true},
		"provider, a part of its name":       {"v2 aws2 x", "provider:aws", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := run(t, audit.Options{Resources: []string{"secrets"}, Question: unused(t, c.key)}, "snapshot\n/registry/secrets/default/a "+c.value+"\n").Verdict
			if want := map[bool]audit.Answer{true: audit.No, false: audit.Yes}[c.used]; v.Answer != want {
				t.Errorf("%s: want %s", v.Text, want)
			}
		})
	}
}

func TestParseKeyRefusesWhatCannotBeMeant(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                   "is empty",
		"provider:":          "names no provider",
		"sha256:12":          "64 hex digits",
		newARN + " ":         "at its end",
		"arn:aws:s3:::x":     "not of kms",
		"arn:aws:kms:us-wes": "mistyped",
		"provider:aws ":      "a blank beside",
		"provider: aws":      "a blank beside",
		"Provider:aws":       "write provider",
		"Plaintext":          "write plaintext",
		"SHA256:12":          "write sha256",
		"ARN:aws:kms":        "write arn",
	} {
		if _, err := audit.ParseKey(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseKey(%q) = %v, want %q", text, err, want)
		}
	}
}

func TestStaleIsWhatTheConfigurationTells(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config, value string
		want          audit.Stale
	}{
		"first provider, v2: the key_id decides":   {secretsV2, "v2 aws x", audit.StaleUnknown},
		"second provider":                          {secretsV2, "v1 aws-v1", audit.StaleYes},
		"third":                                    {secretsV2, "aescbc k2", audit.StaleYes},
		"plaintext below":                          {secretsV2, "plaintext", audit.StaleYes},
		"a name that nobody has":                   {secretsV2, "v2 gone x", audit.StaleUnreadable},
		"the same name, another version":           {secretsV2, "v1 aws", audit.StaleUnreadable},
		"no provider of this format":               {secretsV2, "aesgcm k1", audit.StaleUnreadable},
		"first key of aescbc":                      {"- resources: [secrets]\n  providers:\n  - aescbc: {keys: [{name: k1, secret: " + secretOfTests + "}, {name: k2, secret: " + secretOfTests + "}]}\n", "aescbc k1", audit.StaleNo},
		"second key of aescbc":                     {"- resources: [secrets]\n  providers:\n  - aescbc: {keys: [{name: k1, secret: " + secretOfTests + "}, {name: k2, secret: " + secretOfTests + "}]}\n", "aescbc k2", audit.StaleYes},
		"v1 first, GCM for certain":                {"- resources: [secrets]\n  providers:\n  - kms: {name: aws, endpoint: \"unix:///run/a.sock\"}\n", "v1 aws size=61", audit.StaleNo},
		"v1 first, perhaps CBC":                    {"- resources: [secrets]\n  providers:\n  - kms: {name: aws, endpoint: \"unix:///run/a.sock\"}\n", "v1 aws size=4", audit.StaleUnknown},
		"no entry, plaintext":                      {"- resources: [configmaps]\n  providers:\n  - identity: {}\n", "plaintext", audit.StaleNo},
		"no entry, encrypted":                      {"- resources: [configmaps]\n  providers:\n  - identity: {}\n", "aescbc k1", audit.StaleUnreadable},
		"identity first":                           {"- resources: [secrets]\n  providers:\n  - identity: {}\n  - kms: {apiVersion: v2, name: aws, endpoint: \"unix:///run/a.sock\"}\n", "v2 aws x", audit.StaleYes},
		"names with colons, the longest that fits": {"- resources: [secrets]\n  providers:\n  - kms: {name: \"aws\", endpoint: \"unix:///run/a.sock\"}\n  - kms: {name: \"aws:b\", endpoint: \"unix:///run/b.sock\"}\n", "v1 aws:b", audit.StaleYes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, audit.Options{Config: config(t, c.config), ConfigName: "enc.yaml"}, "snapshot\n/registry/secrets/default/a "+c.value+"\n")
			if row := r.Places[0].Rows[0]; row.Stale != c.want {
				t.Errorf("%+v: want %s", row, c.want)
			}
		})
	}
}

func TestAnotherSeedAloneIsNeverStale(t *testing.T) {
	t.Parallel()
	text := "snapshot\n/registry/secrets/default/a v2 aws k wrapped=1one\n/registry/secrets/default/b v2 aws k wrapped=1two\n"
	r := run(t, audit.Options{Config: config(t, secretsV2)}, text)
	if len(r.Places[0].Rows) != 1 || r.Places[0].Rows[0].Stale != audit.StaleUnknown || r.Places[0].Rows[0].Seeds != 2 {
		t.Errorf("%+v: want one row of two seeds, stale or not", r.Places[0].Rows)
	}
}

func TestThePrefixBelowAnotherCounts(t *testing.T) {
	t.Parallel()
	r := run(t, audit.Options{Prefixes: []string{"/a", "/a/b"}}, "snapshot\n/a/b/namespaces/x plaintext\n/a/secrets/ns/x plaintext\n")
	if rows := r.Places[0].Rows; len(rows) != 2 || rows[0].Resource != "namespaces" || rows[1].Resource != "secrets" {
		t.Errorf("%+v: want namespaces and secrets", rows)
	}
}

func TestAPrefixOfAProxyIsTakenAway(t *testing.T) {
	t.Parallel()
	r := run(t, audit.Options{StripPrefix: "/cluster-1"}, "snapshot\n/cluster-1/registry/secrets/default/a plaintext\n/cluster-2/registry/secrets/default/a plaintext\n")
	if p := r.Places[0]; p.Keys != 1 || p.Rows[0].Resource != "secrets" || p.Prefixes[0] != "/cluster-1/registry" {
		t.Errorf("%+v", p)
	}
}

func TestNothingUnderThePrefixIsAnError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"snapshot\nunread /kubernetes.io\n":        "there are keys under /kubernetes.io: give that with --prefix",
		"snapshot\n/registry2/secrets/a/b raw x\n": "is this the etcd of the API servers",
	} {
		_, err := audit.Run(t.Context(), places(t, text), audit.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestAQuestionWithoutResourcesIsRefused(t *testing.T) {
	t.Parallel()
	_, err := audit.Run(t.Context(), places(t, "snapshot\n/registry/secrets/default/a plaintext\n"), audit.Options{Question: unused(t, "plaintext")})
	if err == nil || !strings.Contains(err.Error(), "--resources") {
		t.Errorf("%v, want one that names --resources", err)
	}
	plain := config(t, "- resources: [secrets]\n  providers:\n  - identity: {}\n")
	_, err = audit.Run(t.Context(), places(t, "snapshot\n/registry/secrets/default/a plaintext\n"), audit.Options{Question: unused(t, "plaintext"), Config: plain, ConfigName: "enc.yaml"})
	if err == nil || !strings.Contains(err.Error(), "enc.yaml encrypts nothing") {
		t.Errorf("%v, want one that says that enc.yaml encrypts nothing", err)
	}
}

func TestAReadingThatFailsGivesNoReport(t *testing.T) {
	t.Parallel()
	good := "snapshot\n/registry/secrets/default/a plaintext\n"
	r, err := audit.Run(t.Context(), places(t, good, "etcd\ncompacted\ncompacted\n/registry/secrets/default/a plaintext\n"), audit.Options{})
	if r != nil || err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("%v, %v: want no report and the compaction", r, err)
	}
	once := run(t, audit.Options{Objects: true}, "etcd\ncompacted\n/registry/secrets/default/a plaintext\n")
	if len(once.Objects) != 1 || once.Places[0].Rows[0].Objects != 1 {
		t.Errorf("after a compaction %+v: want one object, of the second reading", once.Places[0].Rows)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := audit.Run(ctx, places(t, good), audit.Options{}); r != nil || err == nil {
		t.Errorf("%v, %v: want no report and an error", r, err)
	}
}

func TestObjectsThatSpeakAgainstYes(t *testing.T) {
	t.Parallel()
	text := "snapshot\n/registry/secrets/default/b v2 aws " + oldARN + "\n/registry/secrets/default/a v2 aws " + newARN +
		"\n/registry/secrets/default/c v1 aws-v1\n/registry/configmaps/default/a plaintext\n"
	for name, c := range map[string]struct {
		question *audit.Question
		want     []string
	}{
		"without a question": {nil, []string{"/registry/configmaps/default/a", "/registry/secrets/default/a", "/registry/secrets/default/b", "/registry/secrets/default/c"}},
		"only":               {only(t, newARN), []string{"/registry/secrets/default/b", "/registry/secrets/default/c"}},
		"unused":             {unused(t, oldARN), []string{"/registry/secrets/default/b", "/registry/secrets/default/c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, audit.Options{Objects: true, Question: c.question, Resources: []string{"secrets"}}, text)
			var got []string
			for _, o := range r.Objects {
				got = append(got, o.Path)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMemoryIsBoundedWhateverEtcdHolds(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("snapshot\n")
	for i := range 1100 {
		fmt.Fprintf(&b, "/registry/secrets/default/a%d raw k8s:enc:x\n", i)
	}
	fmt.Fprintf(&b, "/registry/secrets/default/long aescbc %s\n", strings.Repeat("n", 2000))
	if u := run(t, audit.Options{}, b.String()).Places[0].Unreadable; u.Count != 1101 || len(u.Values) != 1000 {
		t.Errorf("%d values of %d are listed, want 1000 of 1101", len(u.Values), u.Count)
	}
	huge := strings.Repeat("h", 100_000)
	r := run(t, audit.Options{Objects: true}, "snapshot\n/registry/"+huge+"/a plaintext\n/registry/secrets/"+huge+"/a raw k8s:enc:x\n/registry/secrets/default/"+huge+" plaintext\n"+
		"/registry/apiregistration.k8s.io/apiservices/v1."+huge+" raw {\"spec\":{\"service\":{}}}\n")
	if data, err := json.Marshal(r); err != nil || len(data) > 20_000 || r.Places[0].Unreadable.Count != 2 {
		t.Errorf("paths of 100,000 bytes make a report of %d, %v", len(data), err)
	}
	b.Reset()
	b.WriteString("snapshot\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "/registry/secrets/default/a%d v1 n%d\n/registry/secrets/default/b%d aescbc n%d\n", i, i, i, i)
	}
	v := run(t, audit.Options{Resources: []string{"secrets"}, Question: only(t, newARN)}, b.String()).Verdict
	if len(v.Reasons) > 50 || len(v.Text) > 10_000 || !strings.Contains(v.Text, "and 980 more kinds") {
		t.Errorf("%d reasons, %d bytes of verdict", len(v.Reasons), len(v.Text))
	}
	b.Reset()
	b.WriteString("snapshot\n")
	for i := range 20_001 {
		fmt.Fprintf(&b, "/registry/secrets/default/a%d aescbc n%d\n", i, i)
	}
	if _, err := audit.Run(t.Context(), places(t, b.String()), audit.Options{}); err == nil || !strings.Contains(err.Error(), "20,000") {
		t.Errorf("20,001 names: %v, want an error", err)
	}
}

// Vectors of k8s.io/apiserver's own transformers are counted as what they are, and what
// package stored refuses is listed by its path.
func TestVectorsOfKubeAPIServer(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../internal/stored/testdata/vectors/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data := mustRead(t, file)
			vector := map[string]string{}
			for line := range strings.Lines(string(data)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				vector[name] = value
			}
			var raw []byte
			if _, err := fmt.Sscanf(vector["value"], "%x", &raw); err != nil {
				t.Fatal(err)
			}
			r := run(t, audit.Options{}, fmt.Sprintf("snapshot\n%s raw %q\n", vector["path"], raw))
			p := r.Places[0]
			if vector["refused"] != "" {
				if p.Unreadable.Count != 1 || p.Unreadable.Values[0].Path != vector["path"] {
					t.Errorf("%+v: want it unreadable", p)
				}
				return
			}
			if row := p.Rows[0]; row.Format != vector["format"] || row.Provider != vector["provider"] || row.KeyID != vector["key_id"] || row.Cipher != vector["cipher"] {
				t.Errorf("%+v: want %v", row, vector)
			}
		})
	}
}

func TestWhatCannotBeShownIsQuoted(t *testing.T) {
	t.Parallel()
	r := run(t, audit.Options{Objects: true}, `snapshot
"/registry/secrets/default/new\nline\u202e" v2 "n\x1b[31m" "key\x07id"
"/registry/secrets/default/\xff\x00" raw "k8s:enc:x"
"/registry/pods\n/default/a" plaintext
`)
	for _, form := range audit.Forms() {
		var b strings.Builder
		if err := r.Print(&b, audit.PrintOptions{Form: form}); err != nil {
			t.Fatal(err)
		}
		for _, c := range b.String() {
			if c != '\n' && (c < ' ' || c > '~') {
				t.Errorf("%s: a %q is printed", form, c)
				break
			}
		}
		if report.Plain(`a"b`) != `a"b` {
			t.Error("a quotation mark within a text needs none around it")
		}
	}
}

func mustRead(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// many is a store of n Secrets, each with a DEK of its own, as KMS v1 has.
type many int

func (n many) Read(_ context.Context, _ []string, each func(store.KeyValue) error) (store.Reading, error) {
	value := make([]byte, 1024)
	head := copy(value, "k8s:enc:kms:v1:aws:\x00\x20")
	for i := range int(n) {
		binary.BigEndian.PutUint64(value[head:], uint64(i))
		if err := each(store.KeyValue{Key: fmt.Appendf(nil, "/registry/secrets/default/s%d", i), Value: value}); err != nil {
			return store.Reading{}, err
		}
	}
	return store.Reading{Place: "many", Keys: int64(n)}, nil
}

func BenchmarkRun(b *testing.B) {
	for range b.N {
		if _, err := audit.Run(b.Context(), []audit.Place{{Reader: many(1_000_000)}}, audit.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
