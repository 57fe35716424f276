package verify_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify/verifytest"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	keyA  = "arn:aws:kms:us-west-2:111122223333:key/aaaaaaaa-12ab-34cd-56ef-1234567890ab"
	keyB  = "arn:aws:kms:us-west-2:111122223333:key/bbbbbbbb-12ab-34cd-56ef-1234567890ab"
	keyC  = "arn:aws:kms:us-west-2:444455556666:key/cccccccc-12ab-34cd-56ef-1234567890ab"
	mrk   = "arn:aws:kms:us-west-2:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
	mrkID = "arn:aws:kms::111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
)

// A fake opens what its answers say, by the wrapped text.
type fake struct {
	mu      sync.Mutex
	answers map[string]answer
	keys    []verify.Key
	calls   []string
	given   [][]byte                 // what it returned
	each    func(text string, n int) // before each call, which is the n-th for its text
}

type answer struct {
	by      string // key that opens it
	secret  []byte // nil: 32 bytes of text
	refusal *verify.Refusal
	fails   int // so many calls end with the refusal, and later ones open; 0: all
}

func (f *fake) String() string { return "the keys of plugin.yaml" }

func (f *fake) Keys(ctx context.Context) ([]verify.Key, error) { return f.keys, ctx.Err() }

func (f *fake) Open(ctx context.Context, w verify.Wrapped) (verify.Unwrapped, error) {
	text := string(w.Ciphertext)
	f.mu.Lock()
	f.calls = append(f.calls, text)
	n := 0
	for _, c := range f.calls {
		if c == text {
			n++
		}
	}
	f.mu.Unlock()
	if f.each != nil {
		f.each(text, n)
	}
	if err := ctx.Err(); err != nil {
		return verify.Unwrapped{}, err
	}
	a, ok := f.answers[text]
	if !ok {
		return verify.Unwrapped{}, errors.New("the test has no answer to " + text)
	}
	if a.refusal != nil && (a.fails == 0 || n <= a.fails) {
		return verify.Unwrapped{}, a.refusal
	}
	if a.secret == nil {
		a.secret = []byte("secrettext secrettext secrettext")
	}
	own := bytes.Clone(a.secret)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.given = append(f.given, own)
	return verify.Unwrapped{Secret: own, Key: keyref.ARN(a.by)}, nil
}

func (f *fake) asked(text string) (n int) {
	for _, c := range f.calls {
		if c == text {
			n++
		}
	}
	return n
}

// places makes one of each text; "etcd" in its first line makes it a living one.
func places(t testing.TB, texts ...string) (all []audit.Place) {
	t.Helper()
	for i, text := range texts {
		first, rest, _ := strings.Cut(text, "\n")
		s, err := audittest.Parse(fmt.Sprintf("backup-%d.db", i+1), rest, first != "etcd")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, audit.Place{Reader: s, Live: first == "etcd"})
	}
	return all
}

func run(t testing.TB, o verify.Options, all []audit.Place) *verify.Report {
	t.Helper()
	r, err := verify.Run(t.Context(), all, o)
	if err != nil {
		t.Fatal(err)
	}
	if text := printed(t, r, "table") + printed(t, r, "json"); strings.Contains(text, verifytest.Planted) || strings.Contains(text, "secrettext") {
		t.Error("it prints what is stored, or what opened it")
	}
	if f, ok := o.Opener.(*fake); ok {
		for _, secret := range f.given {
			if !bytes.Equal(secret, make([]byte, len(secret))) {
				t.Error("a DEK or a seed is in memory after the end")
			}
		}
	}
	return r
}

func printed(t testing.TB, r *verify.Report, form string) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b, audit.PrintOptions{Form: form}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func config(t testing.TB, text string) *encryptionconfig.Configuration {
	t.Helper()
	c, err := encryptionconfig.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func unused(t testing.TB, key string) *audit.Question {
	t.Helper()
	k, err := audit.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &audit.Question{Key: k}
}

func refused(state verify.State, code string, keys ...string) *verify.Refusal {
	return &verify.Refusal{State: state, Code: code, Text: "it is so; do something", Keys: keys}
}

const encV2 = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: aws, endpoint: "unix:///run/a.sock"}
  - identity: {}
`

// Each row is what a store needs, who answers what, and what the verdict is.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	ends := time.Date(2026, 12, 24, 7, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		store   string
		answers map[string]answer
		keys    []verify.Key
		o       func(*verify.Options)
		want    audit.Answer
		lost    int64
		words   []string // of the table
	}{
		"all open": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + "?material=1 wrapped=1one\n/registry/secrets/a/2 v2 aws " + keyA + "?material=1 wrapped=1one\n/registry/namespaces/a plaintext",
			answers: map[string]answer{"1one": {by: keyA}}, keys: []verify.Key{{Name: keyA, ARN: keyA, State: verify.Enabled}},
			want:  audit.Yes,
			words: []string{"verdict: yes: 2 encrypted objects under 1 DEK or seed, which all open; by the keys of plugin.yaml; the objects themselves were not opened, which --open does; read: backup-1.db at revision 81234, prefix /registry; other backups: not known; not read: none.", "in the clear, which needs no key: 1 object"},
		},
		"nothing is encrypted": {store: "file\n/registry/secrets/a/1 plaintext", want: audit.Yes, words: []string{"nothing that was read needs a key"}},
		"a key that is pending deletion, and what hangs on it": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + "?material=1 wrapped=1one\n/registry/configmaps/a/2 v1 old wrapped=1two\n/registry/secrets/a/3 v1 old wrapped=1three",
			answers: map[string]answer{"1one": {by: keyA}, "1two": {refusal: refused(verify.PendingDeletion, "KMS0102", keyB)}, "1three": {refusal: refused(verify.PendingDeletion, "KMS0102", keyB)}},
			keys:    []verify.Key{{Name: keyA, ARN: keyA, State: verify.Enabled}, {Name: keyB, ARN: keyB, State: verify.PendingDeletion, Deletion: ends}},
			want:    audit.No, lost: 2,
			words: []string{
				"#1   enabled   secrets     kms v2 aws        1      1     1\n", "#2   deletion  configmaps  kms v1 old        1      1     0\n",
				"pending deletion on 2026-12-24; opens 0 of 2 DEKs and seeds, of 2 objects",
				"2 DEKs and seeds of 2 objects under #2, such as /registry/configmaps/a/2: KMS0102 it is so; do something",
				"verdict: no: 2 of 3 encrypted objects under 3 DEKs and seeds cannot be read; 2 objects under " + keyB + " (pending deletion on 2026-12-24): KMS0102;",
			},
		},
		"DescribeKey is denied, and Decrypt tells": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one\n/registry/secrets/a/2 v2 aws " + keyB + " wrapped=1two",
			answers: map[string]answer{"1one": {by: keyA}, "1two": {refusal: refused(verify.Disabled, "KMS0101", keyB)}},
			keys:    []verify.Key{{Name: keyA, State: verify.Unknown, Note: "kms:DescribeKey is denied"}, {Name: keyB, State: verify.Unknown, Note: "kms:DescribeKey is denied"}},
			want:    audit.No, lost: 1,
			words: []string{"#1   opens     secrets", "#2   disabled  secrets", "opens; its state is not known; kms:DescribeKey is denied"},
		},
		"DescribeKey says enabled, and Decrypt is denied": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one",
			answers: map[string]answer{"1one": {refusal: refused(verify.Denied, "KMS0104", keyA)}}, keys: []verify.Key{{Name: keyA, ARN: keyA, State: verify.Enabled}},
			want: audit.No, lost: 1, words: []string{"#1   denied  secrets"},
		},
		"a key that is not given": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyB + " wrapped=1one",
			answers: map[string]answer{"1one": {refusal: refused(verify.NotListed, "KMS0405")}}, keys: []verify.Key{{Name: keyA, ARN: keyA, State: verify.Enabled}},
			want: audit.No, lost: 1, words: []string{"#2   not listed  secrets", "  #1  " + keyA + "\n      enabled; nothing that was read is under it"},
		},
		"v1 of a foreign account": {
			store:   "file\n/registry/secrets/a/1 v1 old wrapped=1one",
			answers: map[string]answer{"1one": {refusal: &verify.Refusal{State: verify.Foreign, Code: "KMS0405", Made: keyC, Text: "foreign"}}},
			keys:    []verify.Key{{Name: keyA, ARN: keyA, State: verify.Enabled}},
			want:    audit.No, lost: 1, words: []string{"foreign  secrets   kms v1 old", "1 object under " + keyC + " (foreign): KMS0405"},
		},
		"v1 that two keys may have made": {
			store:   "file\n/registry/secrets/a/1 v1 old wrapped=1one",
			answers: map[string]answer{"1one": {refusal: refused(verify.Denied, "KMS0104", keyA, keyB)}},
			want:    audit.No, lost: 1, words: []string{"?    key not told  secrets"},
		},
		"a key_id that names another key than opens it": {
			store:   "file\n/registry/secrets/a/1 v2 aws alias/old wrapped=1one",
			answers: map[string]answer{"1one": {by: keyA}}, keys: []verify.Key{{Name: keyA, ARN: keyA, State: verify.Enabled}},
			want: audit.Yes, words: []string{"#1   enabled  secrets", "#1  " + keyA},
		},
		"replicas are one key": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + mrkID + "?material=1 wrapped=1one\n/registry/secrets/a/2 v2 aws " + mrk + " wrapped=1two",
			answers: map[string]answer{"1one": {by: mrk}, "1two": {by: mrk}}, keys: []verify.Key{{Name: mrk, ARN: mrk, State: verify.Enabled}},
			want: audit.Yes, words: []string{"#1   enabled  secrets   kms v2 aws        2      2     2\n", "keys:\n  #1  " + mrkID + "\n"},
		},
		"KMS cannot be reached: not known": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one\n/registry/secrets/a/2 v2 aws " + keyA + " wrapped=1two",
			answers: map[string]answer{"1one": {by: keyA}, "1two": {refusal: refused(verify.Unreachable, "KMS0204", keyA)}},
			keys:    []verify.Key{{Name: keyA, ARN: keyA, State: verify.Unreachable, Note: "no connection"}},
			want:    audit.NotKnown, words: []string{"verdict: not known: 2 encrypted objects under 2 DEKs and seeds, of which none was found that cannot be read, but 1 object under " + keyA + ": KMS0204;"},
		},
		"a damaged value says nothing of its key": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one\n/registry/secrets/a/2 v2 aws " + keyA + " wrapped=1two",
			answers: map[string]answer{"1one": {by: keyA}, "1two": {refusal: refused(verify.Damaged, "KMS0404", keyA)}},
			keys:    []verify.Key{{Name: keyA, State: verify.Unknown}},
			want:    audit.No, lost: 1, words: []string{"#1   opens  secrets   kms v2 aws        2      2     1"},
		},
		"what was wrapped is no DEK": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one",
			answers: map[string]answer{"1one": {by: keyA, secret: []byte("short")}},
			want:    audit.No, lost: 1, words: []string{"5 bytes were wrapped"},
		},
		"a key that goes, and still opens": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one",
			answers: map[string]answer{"1one": {by: keyA}}, keys: []verify.Key{{Name: keyA, ARN: keyA, State: verify.PendingDeletion, Deletion: ends}},
			want: audit.No, words: []string{"still opened 1 DEK or seed and is pending deletion on 2026-12-24"},
		},
		"local keys are not tried without --open": {
			store: "file\n/registry/secrets/a/1 aescbc k1", want: audit.NotKnown, words: []string{"local", "a local key is tried with --open alone"},
		},
		"local keys, and no configuration": {
			store: "file\n/registry/secrets/a/1 aescbc k1", o: func(o *verify.Options) { o.Open = true },
			want: audit.NotKnown, words: []string{"give that with --encryption-config"},
		},
		"a local key that the configuration does not have": {
			store: "file\n/registry/pandas/a/1 aescbc k1",
			o: func(o *verify.Options) {
				o.Open, o.Audit.Config, o.Audit.ConfigName = true, config(t, encV2), "enc.yaml"
			},
			want: audit.No, lost: 1, words: []string{"aescbc k1: enc.yaml has no key of this name"},
		},
		"no provider of the configuration reads it": {
			store:   "file\n/registry/secrets/a/1 v2 gone " + keyA + " wrapped=1one\n/registry/secrets/a/2 v1 aws wrapped=1two",
			answers: map[string]answer{"1one": {by: keyA}, "1two": {by: keyA}},
			o:       func(o *verify.Options) { o.Audit.Config, o.Audit.ConfigName = config(t, encV2), "enc.yaml" },
			want:    audit.No, lost: 2, words: []string{"kms v2 gone: no provider of enc.yaml reads it", "kms v1 aws: no provider of enc.yaml reads it"},
		},
		"plaintext that no provider of the configuration reads": {
			store: "file\n/registry/secrets/a/1 plaintext\n/registry/configmaps/a/1 plaintext",
			o: func(o *verify.Options) {
				o.Audit.Config, o.Audit.ConfigName = config(t, strings.Replace(encV2, "  - identity: {}\n", "", 1)), "enc.yaml"
			},
			want: audit.No, lost: 1, words: []string{"1 object, such as /registry/secrets/a/1: plaintext: no provider of enc.yaml reads it"},
		},
		"nobody is asked": {
			store: "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one", o: func(o *verify.Options) { o.Opener = nil },
			want: audit.NotKnown, words: []string{"nobody was asked"},
		},
		"not all was read": {
			store:   "file\nunread /openshift.io\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one\n/registry/secrets/a/2 raw k8s:enc:rot13:v1:x:" + verifytest.Planted,
			answers: map[string]answer{"1one": {by: keyA}},
			want:    audit.NotKnown, words: []string{"not read: /openshift.io in backup-1.db", "1 value of backup-1.db could not be read"},
		},
		"resources alone": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one\n/registry/configmaps/a/1 v2 aws " + keyB + " wrapped=1two",
			answers: map[string]answer{"1one": {by: keyA}},
			o:       func(o *verify.Options) { o.Audit.Resources = []string{"secrets"} },
			want:    audit.Yes, words: []string{"of secrets alone, by --resources"},
		},
		"a resource that is not there": {
			store: "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one", answers: map[string]answer{"1one": {by: keyA}},
			o:    func(o *verify.Options) { o.Audit.Resources = []string{"secrets", "secretz"} },
			want: audit.NotKnown, words: []string{"no object of secretz was read: is this its name?"},
		},
		"older revisions are counted, and not asked for": {
			store:   "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one\nold /registry/secrets/a/1 v2 aws " + keyB + "?material=2 wrapped=1gone\nold /registry/secrets/a/1 v1 old wrapped=1gone2\nold /registry/secrets/a/1 plaintext",
			answers: map[string]answer{"1one": {by: keyA}},
			want:    audit.Yes, words: []string{"older revisions: 2 encrypted, 1 under " + keyB + ", 1 under kms v1 old; etcd has them until it compacts"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fake{answers: c.answers, keys: c.keys}
			o := verify.Options{Opener: f}
			if c.o != nil {
				c.o(&o)
			}
			var r *verify.Report
			synctest.Test(t, func(t *testing.T) { r = run(t, o, places(t, c.store)) })
			text := printed(t, r, "table")
			if r.Verdict.Answer != c.want || r.Verdict.Lost != c.lost {
				t.Errorf("%s, %d lost; want %s, %d\n%s", r.Verdict.Answer, r.Verdict.Lost, c.want, c.lost, text)
			}
			for _, words := range c.words {
				if !strings.Contains(text, words) {
					t.Errorf("no %q in\n%s", words, text)
				}
			}
		})
	}
}

// One seed is asked for once in a run, however many objects, places and revisions have it.
func TestEachSeedIsAskedForOnce(t *testing.T) {
	t.Parallel()
	one := "file\n/registry/secrets/a/1 v2 aws " + keyA + " wrapped=1one\n/registry/configmaps/a/1 v2 aws " + keyA + " wrapped=1one\n/registry/secrets/a/2 v1 old wrapped=1two\n"
	f := &fake{answers: map[string]answer{"1one": {by: keyA}, "1two": {by: keyA}}}
	r := run(t, verify.Options{Opener: f, Open: true, Audit: audit.Options{Resources: []string{"secrets", "configmaps"}, Question: unused(t, keyB)}}, places(t, one, one, one))
	if f.asked("1one") != 1 || f.asked("1two") != 1 {
		t.Errorf("%q", f.calls)
	}
	for _, p := range r.Places {
		if len(p.Rows) != 3 {
			t.Errorf("%+v", p.Rows)
		}
	}
	if r.Keys[0].Seeds != 2 || r.Keys[0].Objects != 9 {
		t.Errorf("%+v", r.Keys)
	}
}

// A sample names what it left out, and is never a yes unless it left out nothing.
func TestASampleNeverProvesAll(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("file\n")
	answers := map[string]answer{"1seed": {by: keyA}}
	for i := range 50 {
		fmt.Fprintf(&b, "/registry/secrets/a/%d v1 old wrapped=1w%d\n/registry/configmaps/a/%d v1 old wrapped=1c%d\n", i, i, i, i)
		answers[fmt.Sprintf("1w%d", i)], answers[fmt.Sprintf("1c%d", i)] = answer{by: keyA}, answer{by: keyA}
	}
	fmt.Fprintf(&b, "/registry/secrets/a/s v2 aws %s wrapped=1seed\n", keyA)
	for sample, want := range map[int]audit.Answer{3: audit.NotKnown, 49: audit.NotKnown, 50: audit.Yes, 0: audit.Yes} {
		f := &fake{answers: answers}
		r := run(t, verify.Options{Opener: f, Sample: sample}, places(t, b.String()))
		calls := 101
		if sample > 0 {
			calls = 2*sample + 1
		}
		if r.Verdict.Answer != want || len(f.calls) != calls {
			t.Errorf("a sample of %d: %s after %d calls, want %s after %d", sample, r.Verdict.Answer, len(f.calls), want, calls)
		}
		if want == audit.NotKnown && (!strings.Contains(r.Verdict.Text, "since --sample leaves them out") || r.Verdict.Unknown != int64(100-2*sample)) {
			t.Errorf("%d unknown: %s", r.Verdict.Unknown, r.Verdict.Text)
		}
	}
}

// What may pass is asked for again, four times, and then left; a KMS that answers to
// nothing is not asked for thousands.
func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	throttled := &verify.Refusal{State: verify.Unreachable, Code: "KMS0201", Text: "throttled", Again: true}
	var many strings.Builder
	many.WriteString("file\n")
	all := map[string]answer{}
	for i := range 300 {
		fmt.Fprintf(&many, "/registry/secrets/a/%d v1 old wrapped=1w%d\n", i, i)
		all[fmt.Sprintf("1w%d", i)] = answer{refusal: throttled}
	}
	for name, c := range map[string]struct {
		store   string
		answers map[string]answer
		least   int
		most    int
		want    audit.Answer
	}{
		"it passes":       {"file\n/registry/secrets/a/1 v1 old wrapped=1one", map[string]answer{"1one": {by: keyA, refusal: throttled, fails: 3}}, 4, 4, audit.Yes},
		"it does not":     {"file\n/registry/secrets/a/1 v1 old wrapped=1one", map[string]answer{"1one": {by: keyA, refusal: throttled, fails: 99}}, 4, 4, audit.NotKnown},
		"refused is once": {"file\n/registry/secrets/a/1 v1 old wrapped=1one", map[string]answer{"1one": {refusal: refused(verify.Disabled, "KMS0101", keyA)}}, 1, 1, audit.No},
		"nobody answers":  {many.String(), all, 32, 60, audit.NotKnown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fake{answers: c.answers}
				r := run(t, verify.Options{Opener: f}, places(t, c.store))
				if n := len(f.calls); n < c.least || n > c.most || r.Verdict.Answer != c.want {
					t.Errorf("%d calls, %s; want %d to %d, %s", n, r.Verdict.Text, c.least, c.most, c.want)
				}
			})
		})
	}
}

// An interrupted run ends at once, wherever it is.
func TestAnInterruptionEndsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		f := &fake{answers: map[string]answer{"1one": {refusal: &verify.Refusal{State: verify.Unreachable, Again: true}}}, each: func(_ string, n int) {
			if n == 2 {
				interrupt()
			}
		}}
		r, err := verify.Run(ctx, places(t, "file\n/registry/secrets/a/1 v1 old wrapped=1one"), verify.Options{Opener: f})
		if r != nil || !errors.Is(err, context.Canceled) || len(f.calls) != 2 {
			t.Errorf("%v, %v after %q", r, err, f.calls)
		}
	})
}

// Values of KMS v1 name no key. The question is answered by who opened them.
func TestTheQuestionOfV1(t *testing.T) {
	t.Parallel()
	text := "file\n/registry/secrets/a/1 v1 old wrapped=1one\nold /registry/secrets/a/1 v1 old wrapped=1two\n"
	yes, no, notKnown := audit.Yes, audit.No, audit.NotKnown
	byB := answer{by: keyB}
	for name, c := range map[string]struct {
		key      string
		only     bool
		answers  map[string]answer
		question audit.Answer
		verdict  audit.Answer
	}{
		"unused":                             {key: keyA, answers: map[string]answer{"1one": byB, "1two": byB}, question: yes, verdict: yes},
		"used":                               {key: keyB, answers: map[string]answer{"1one": byB, "1two": byB}, question: no, verdict: no},
		"used, and refused":                  {key: keyB, answers: map[string]answer{"1one": {refusal: &verify.Refusal{State: verify.Disabled, Made: keyB}}, "1two": byB}, question: no, verdict: no},
		"unused, and refused":                {key: keyA, answers: map[string]answer{"1one": {refusal: &verify.Refusal{State: verify.Disabled, Made: keyB}}, "1two": byB}, question: yes, verdict: no},
		"used by an older revision":          {key: keyA, answers: map[string]answer{"1one": byB, "1two": {by: keyA}}, question: no, verdict: no},
		"an older revision is not open":      {key: keyA, answers: map[string]answer{"1one": byB, "1two": {refusal: refused(verify.Denied, "KMS0104", keyA)}}, question: notKnown, verdict: notKnown},
		"made by a key that is not given":    {key: keyA, answers: map[string]answer{"1one": byB, "1two": {refusal: &verify.Refusal{State: verify.NotListed, Made: keyC}}}, question: yes, verdict: yes},
		"only":                               {key: keyB, only: true, answers: map[string]answer{"1one": byB}, question: yes, verdict: yes},
		"not only":                           {key: keyA, only: true, answers: map[string]answer{"1one": byB}, question: no, verdict: no},
		"by a key id":                        {key: "bbbbbbbb-12ab-34cd-56ef-1234567890ab", answers: map[string]answer{"1one": byB, "1two": byB}, question: no, verdict: no},
		"a key_id says more than its key":    {key: keyB + "?material=1", answers: map[string]answer{"1one": byB, "1two": byB}, question: notKnown, verdict: notKnown},
		"a key_id of another key":            {key: keyA + "?material=1", answers: map[string]answer{"1one": byB, "1two": byB}, question: yes, verdict: yes},
		"who is asked does not tell the key": {key: keyA, answers: map[string]answer{"1one": {}, "1two": {}}, question: notKnown, verdict: notKnown},
		"unused, and it cannot be read":      {key: keyA, answers: map[string]answer{"1one": {refusal: &verify.Refusal{State: verify.NotListed, Made: keyC}}, "1two": byB}, question: yes, verdict: no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := unused(t, c.key)
			q.Only = c.only
			f := &fake{answers: c.answers}
			r := run(t, verify.Options{Opener: f, Audit: audit.Options{Resources: []string{"secrets"}, Question: q}}, places(t, text))
			if r.Question.Answer != c.question || r.Verdict.Answer != c.verdict {
				t.Errorf("%s, want %s; %s, want %s\n%s", r.Question.Answer, c.question, r.Verdict.Answer, c.verdict, printed(t, r, "table"))
			}
			if f.asked("1two") > 0 == c.only {
				t.Errorf("%q", f.calls)
			}
		})
	}
}

// A question is answered where nothing is wrapped, too.
func TestTheQuestionOfAStoreInTheClear(t *testing.T) {
	t.Parallel()
	o := verify.Options{Audit: audit.Options{Resources: []string{"secrets"}, Question: unused(t, "plaintext")}}
	r := run(t, o, places(t, "file\n/registry/secrets/a/1 plaintext\n"))
	if r.Question == nil || r.Question.Answer != audit.No || r.Verdict.Answer != audit.No || r.Verdict.Lost != 0 {
		t.Error(printed(t, r, "table"))
	}
}

// sealed are values that open, by what seals them.
type sealed struct {
	local, dek []byte
	values     map[string][]byte // by path
}

func newSealed() *sealed {
	s := &sealed{local: verifytest.Random(32), dek: verifytest.Random(32)}
	path := func(name string) string { return "/registry/secrets/a/" + name }
	s.values = map[string][]byte{
		path("aescbc"):    verifytest.AESCBC("k1", s.local),
		path("aesgcm"):    verifytest.AESGCM(path("aesgcm"), "k1", s.local),
		path("secretbox"): verifytest.Secretbox("k1", s.local),
		path("v1"):        verifytest.V1(path("v1"), "old", []byte("1v1"), s.dek),
		path("v1cbc"):     verifytest.V1InCBC("old", []byte("1v1cbc"), s.dek),
		path("v2"):        verifytest.V2(path("v2"), "aws", keyA, []byte("1v2"), s.dek, nil),
		path("v2dek"):     verifytest.V2DEK(path("v2dek"), "aws", keyA, []byte("1v2dek"), s.dek),
	}
	for _, path := range []string{"/registry/example.com/pandas/a/v2crd", "/registry/services/specs/a/v2svc"} { // no name tells these
		s.values[path] = verifytest.V2(path, "aws", keyA, []byte("1v2"), s.dek, nil)
	}
	return s
}

func (s *sealed) opener() *fake {
	f := &fake{answers: map[string]answer{}}
	for _, wrapped := range []string{"1v1", "1v1cbc", "1v2", "1v2dek"} {
		f.answers[wrapped] = answer{by: keyA, secret: s.dek}
	}
	return f
}

func (s *sealed) places(strip string) []audit.Place {
	st := &audittest.Store{Reading: store.Reading{Place: "backup.db", Revision: 7, OlderRead: true}}
	for _, path := range slices.Sorted(maps.Keys(s.values)) {
		st.Values = append(st.Values, store.KeyValue{Key: []byte(strip + path), Value: s.values[path], ModRevision: 5})
	}
	return []audit.Place{{Reader: st}}
}

func (s *sealed) config(t testing.TB, key []byte) *encryptionconfig.Configuration {
	t.Helper()
	text := base64.StdEncoding.EncodeToString(key)
	return config(t, fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets, services, pandas.example.com]
  providers:
  - kms: {apiVersion: v2, name: aws, endpoint: "unix:///run/a.sock"}
  - kms: {apiVersion: v1, name: old, endpoint: "unix:///run/a.sock"}
  - aescbc: {keys: [{name: k1, secret: %q}]}
  - aesgcm: {keys: [{name: k0, secret: %q}, {name: k1, secret: %q}]}
  - secretbox: {keys: [{name: k1, secret: %q}]}
`, text, base64.StdEncoding.EncodeToString(verifytest.Random(32)), text, text))
}

func TestOpenOpensEveryFormat(t *testing.T) {
	t.Parallel()
	for name, strip := range map[string]string{"as it is": "", "behind a proxy that prefixes keys": "/cluster-1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSealed()
			o := verify.Options{Opener: s.opener(), Open: true, Audit: audit.Options{Config: s.config(t, s.local), ConfigName: "enc.yaml", StripPrefix: strip}}
			r := run(t, o, s.places(strip))
			text := printed(t, r, "table")
			if r.Verdict.Answer != audit.Yes || !strings.Contains(text, "9 encrypted objects under 4 DEKs and seeds, all opened") {
				t.Error(text)
			}
			var padding, gcm, cbc int64
			for _, row := range r.Places[0].Rows {
				if row.ObjectsOpened != row.Objects {
					t.Errorf("%+v", row)
				}
				padding, gcm, cbc = padding+row.PaddingOnly, gcm+row.GCM, cbc+row.CBC
			}
			if padding != 2 || cbc != 1 || !strings.Contains(text, "of 2 objects in AES-CBC only the padding proves it") {
				t.Errorf("%d by their padding, %d gcm, %d cbc\n%s", padding, gcm, cbc, text)
			}
		})
	}
}

// Whatever is changed, moved or under another key of the same name is named, and lost.
func TestOpenRefusesWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	for path := range newSealed().values {
		for how, change := range map[string]func(*sealed){
			"changed": func(s *sealed) { // CBC has no integrity: its first block, which says what it is, tells
				v := s.values[path]
				if strings.HasSuffix(path, "cbc") {
					v[len(v)-len(verifytest.Object())/16*16-16-16] ^= 1
					return
				}
				if strings.Contains(path, "/v2") {
					v[len("k8s:enc:kms:v2:aws:")+40] ^= 1 // within encryptedData, the first field
					return
				}
				v[len(v)-1] ^= 1
			},
			"moved": func(s *sealed) {
				s.values[path+"-moved"] = s.values[path]
				delete(s.values, path)
			},
			"another key": func(s *sealed) { s.local, s.dek = verifytest.Random(32), verifytest.Random(32) },
		} {
			if how == "moved" && (strings.HasSuffix(path, "cbc") || strings.HasSuffix(path, "secretbox")) {
				continue // neither is bound to its path
			}
			t.Run(how+path, func(t *testing.T) {
				t.Parallel()
				s := newSealed()
				s.values = map[string][]byte{path: s.values[path]}
				change(s)
				o := verify.Options{Opener: s.opener(), Open: true, Audit: audit.Options{Config: s.config(t, s.local), ConfigName: "enc.yaml"}}
				r := run(t, o, s.places(""))
				if text := printed(t, r, "table"); r.Verdict.Answer != audit.No || r.Verdict.Lost != 1 || !strings.Contains(text, "such as "+path) {
					t.Error(text)
				}
			})
		}
	}
}

// Of objects that one and the same opens, one fails: its path is all that is told.
func TestAFailureTellsNothingOfWhatOpened(t *testing.T) {
	t.Parallel()
	s := newSealed()
	s.values = map[string][]byte{}
	for i := range 9 {
		path := fmt.Sprintf("/registry/secrets/a/%d", i)
		s.values[path] = verifytest.AESGCM(path, "k1", s.local)
		s.values[path+"v2"] = verifytest.V2(path+"v2", "aws", keyA, []byte("1v2"), s.dek, nil)
	}
	for _, path := range []string{"/registry/secrets/a/5", "/registry/secrets/a/5v2"} {
		v := s.values[path]
		s.values[path+"-moved"] = v
	}
	o := verify.Options{Opener: s.opener(), Open: true, Audit: audit.Options{Config: s.config(t, s.local), ConfigName: "enc.yaml"}}
	r := run(t, o, s.places(""))
	for _, f := range r.Failures {
		if f.Objects != 1 || !strings.HasSuffix(f.Example, "-moved") {
			t.Errorf("%+v", f)
		}
	}
	if len(r.Failures) != 2 || r.Verdict.Lost != 2 {
		t.Error(printed(t, r, "table"))
	}
}

// Without --open the seeds open, and nobody claims that the objects do.
func TestSeedsAloneProveNoObject(t *testing.T) {
	t.Parallel()
	s := newSealed()
	path := "/registry/secrets/a/v2"
	v := s.values[path]
	v[len(v)-1] ^= 1
	s.values = map[string][]byte{path: v}
	r := run(t, verify.Options{Opener: s.opener()}, s.places(""))
	if r.Verdict.Answer != audit.Yes || !strings.Contains(r.Verdict.Text, "the objects themselves were not opened, which --open does") {
		t.Error(r.Verdict.Text)
	}
}

// An etcd that API servers write to has new seeds when it is read again.
func TestWhatIsWrittenMeanwhileIsAskedForToo(t *testing.T) {
	t.Parallel()
	s := newSealed()
	path := "/registry/secrets/a/v2"
	all := s.places("")
	st, _ := all[0].Reader.(*audittest.Store)
	st.Values = st.Values[:0]
	add := func(path, wrapped string) {
		st.Values = append(st.Values, store.KeyValue{Key: []byte(path), Value: verifytest.V2(path, "aws", keyA, []byte(wrapped), s.dek, nil)})
	}
	add(path, "1v2")
	f := s.opener()
	f.answers["1new"] = answer{refusal: refused(verify.Disabled, "KMS0101", keyA)}
	f.each = func(text string, _ int) {
		if text == "1v2" {
			add(path+"-new", "1new")
		}
	}
	r := run(t, verify.Options{Opener: f, Open: true}, all)
	if f.asked("1new") != 1 || r.Verdict.Lost != 1 || r.Verdict.Answer != audit.No {
		t.Errorf("%q\n%s", f.calls, printed(t, r, "table"))
	}
}

// A place that is read again, since etcd compacted meanwhile, counts once.
func TestACompactionCountsNothingTwice(t *testing.T) {
	t.Parallel()
	f := &fake{answers: map[string]answer{"1one": {by: keyA}}}
	r := run(t, verify.Options{Opener: f}, places(t, "etcd\ncompacted\n/registry/secrets/a/1 v2 aws "+keyA+" wrapped=1one"))
	if r.Verdict.Objects != 1 || !strings.Contains(r.Verdict.Text, "true of one revision") {
		t.Error(r.Verdict.Text)
	}
}

func TestJSONAndYAMLAreAsTheSchemaSays(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.NewCompiler().Compile("../../../deploy/kubectl-kms-verify.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	s := newSealed()
	s.values["/registry/namespaces/a"] = []byte("k8s\x00")
	everything := run(t, verify.Options{
		Opener: &fake{answers: map[string]answer{
			"1v1": {by: keyA, secret: s.dek}, "1v1cbc": {by: keyA}, "1v2": {refusal: refused(verify.PendingDeletion, "KMS0102", keyA)},
			"1v2dek": {refusal: &verify.Refusal{State: verify.Unknown, Text: "?"}},
		}, keys: []verify.Key{{Name: keyA, ARN: keyA, State: verify.PendingDeletion, Deletion: time.Unix(1, 0)}, {Name: "alias/x", State: verify.Unknown, Note: "denied"}}},
		Open: true, Audit: audit.Options{Config: s.config(t, verifytest.Random(32)), ConfigName: "enc.yaml", Resources: []string{"secrets"}, Question: unused(t, keyB)},
	}, s.places(""))
	for name, r := range map[string]*verify.Report{
		"everything": everything,
		"older":      run(t, verify.Options{Opener: &fake{answers: map[string]answer{"1one": {by: keyA}}}}, places(t, "file\n/registry/secrets/a/1 v1 old wrapped=1one\nold /registry/secrets/a/1 v1 old")),
		"little":     run(t, verify.Options{}, places(t, "etcd\n/registry/namespaces/a plaintext")),
	} {
		var fromJSON, fromYAML any
		if err := json.Unmarshal([]byte(printed(t, r, "json")), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(fromJSON); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := yaml.Unmarshal([]byte(printed(t, r, "yaml")), &fromYAML); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(fromYAML)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := json.Marshal(fromJSON); err != nil || !bytes.Equal(want, again) {
			t.Errorf("%s: JSON and YAML differ\n%s\n%s", name, want, again)
		}
	}
}

// On a terminal nothing is wider than 80 columns but a word that fills a line.
func TestATerminalHas80Columns(t *testing.T) {
	t.Parallel()
	f := &fake{answers: map[string]answer{
		"1one": {by: keyA}, "1two": {refusal: &verify.Refusal{State: verify.PendingDeletion, Code: "KMS0102", Keys: []string{keyB}, Text: "the key is scheduled for deletion; cancel the deletion before its date, after which nothing brings the key back"}},
		"1three": {refusal: refused(verify.Denied, "KMS0104", keyB, keyC)}, "1blob": {by: keyA},
	}, keys: []verify.Key{{Name: keyA, ARN: keyA, State: verify.Enabled}, {Name: keyB, State: verify.Unknown, Note: "kms:DescribeKey is denied, so that only Decrypt tells"}}}
	o := verify.Options{Opener: f, Open: true, Audit: audit.Options{Resources: []string{"secrets", "*.*"}, Question: unused(t, keyA)}}
	r := run(t, o, places(t, "file\nunread /openshift.io\n/registry/secrets/a/1 v2 aws-encryption-provider "+keyA+"?material=1 wrapped=1one\n/registry/secrets/a/2 v2 aws-encryption-provider "+keyB+" wrapped=1two\n"+
		"/registry/certificates.example.com/certificaterequests/a/1 v1 aws-encryption-provider-old wrapped=1three\n/registry/configmaps/a/1 secretbox k1\n/registry/secrets/a/3 plaintext\nold /registry/secrets/a/3 v1 x"))
	var b strings.Builder
	if err := r.Print(&b, audit.PrintOptions{Form: "table", Wrap: true}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		widest := 0
		for word := range strings.FieldsSeq(line) {
			widest = max(widest, len(word))
		}
		if len(strings.TrimSuffix(line, "\n")) > 80 && widest <= 70 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	t.Log(b.String())
}
