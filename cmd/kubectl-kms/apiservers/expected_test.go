package apiservers_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
)

// expects is met by what is written under a hash, and knows nothing of others where it is
// vague.
type expects struct {
	hash  string
	vague bool
}

func (e expects) Meets(w apiservers.Write) (meets, known bool) {
	meets = w.KeyIDHash == e.hash
	return meets, meets || !e.vague
}

func (e expects) String() string { return "the key" }

// For a minute after a change all API servers may still name the key of before: they write
// alike, and not as somebody expects.
func TestThatAPIServersWriteAlikeIsNoProofOfTheKey(t *testing.T) {
	t.Parallel()
	v1 := strings.Replace(file, "apiVersion: v2", "apiVersion: v1", 1)
	second := func(o *observation, key string) {
		every(o, func(a *apiservers.Answer) {
			a.Keys = append(a.Keys, apiservers.KeyID{Provider: "aws-b", Hash: hash(key), Seen: now()})
		})
	}
	for name, c := range map[string]struct {
		change  func(*observation)
		config  string
		expect  expects
		want    apiservers.Outcome
		kind    apiservers.ReasonKind // the first reason's; "": there is none
		text    string
		lasting bool
	}{
		"they write under it":              {nil, file, expects{hash: hash(newKey)}, apiservers.Converged, "", "all 3 API servers write under kms v2 aws", false},
		"all write under the one before":   {nil, file, expects{hash: hash(oldKey)}, apiservers.NotConverged, apiservers.OtherKey, "not converged: cp-0, cp-1, cp-2 write under kms v2 aws, key_id sha256:", false},
		"nobody knows which key a hash is": {nil, file, expects{hash(oldKey), true}, apiservers.NotKnown, apiservers.KeyUnsaid, "whether that is of the key is not known", true},
		"one does not yet": {func(o *observation) {
			both(o, 1, func(a *apiservers.Answer) { a.Keys[0].Hash = hash(oldKey) })
		}, file, expects{hash: hash(newKey)}, apiservers.NotConverged, apiservers.Differ, "cp-1 writes under kms v2 aws, key_id sha256:", false},
		"the configuration is not known":             {nil, "", expects{hash: hash(newKey)}, apiservers.Converged, "", "", false},
		"nor is it, and another key":                 {nil, "", expects{hash: hash(oldKey)}, apiservers.NotConverged, apiservers.OtherKey, "and not under the key", false},
		"one of two providers writes, one is not it": {func(o *observation) { second(o, oldKey) }, "", expects{hash: hash(newKey)}, apiservers.NotKnown, apiservers.WriterUnsaid, "--encryption-config tells", true},
		"one of two providers writes, both are it":   {func(o *observation) { second(o, newKey) }, "", expects{hash: hash(newKey)}, apiservers.Converged, "", "", false},
		"KMS v1 writes": {func(o *observation) {
			every(o, func(a *apiservers.Answer) { a.Keys, a.V1, a.Config = nil, true, hash(v1) })
		}, v1, expects{hash(newKey), true}, apiservers.NotKnown, apiservers.V1, "name the key", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, opts := three(), options{}
			if c.config != "" {
				opts = parse(t, c.config)
			}
			opts.Expect = c.expect
			if c.change != nil {
				c.change(o)
			}
			v := apiservers.Judge(o, opts).Verdict
			if v.Answer != c.want || !strings.Contains(v.Text, c.text) || v.Lasting != c.lasting {
				t.Errorf("%q, lasting %t: want %s with %q, lasting %t", v.Text, v.Lasting, c.want, c.text, c.lasting)
			}
			if c.kind != "" && (len(v.Reasons) == 0 || v.Reasons[0].Kind != c.kind) || c.kind == "" && len(v.Reasons) > 0 {
				t.Errorf("reasons %+v, want %q first", v.Reasons, c.kind)
			}
		})
	}
}
