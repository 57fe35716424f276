package apiservers_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
)

// expects is met by what is written under a hash or a provider, and knows nothing of other
// hashes where it is vague.
type expects struct {
	hash, provider string
	vague          bool
}

func (e expects) Compare(w apiservers.Write) apiservers.Match {
	switch {
	case e.provider != "" && w.Provider == e.provider, e.hash != "" && w.KeyIDHash == e.hash, e == (expects{}) && w.Format == "plaintext":
		return apiservers.Meets
	case e.provider != "" || !strings.HasPrefix(w.Format, "kms "):
		return apiservers.Never
	case e.vague:
		return apiservers.Unsaid
	}
	return apiservers.NotYet
}

func (e expects) String() string { return "the key" }

// For a minute after a change all API servers may still name the key of before: they write
// alike, and not as somebody expects.
func TestThatAPIServersWriteAlikeIsNoProofOfTheKey(t *testing.T) {
	t.Parallel()
	const (
		yes = apiservers.Converged
		no  = apiservers.NotConverged
		dk  = apiservers.NotKnown
	)
	v1 := strings.Replace(file, "apiVersion: v2", "apiVersion: v1", 1)
	aescbcFirst := `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: k1, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}
  - kms: {apiVersion: v2, name: aws, endpoint: "unix:///run/a.sock"}
  - identity: {}
`
	two := file + "- resources: ['*.apps', configmaps]\n  providers:\n  - aescbc: {keys: [{name: k1, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}\n  - identity: {}\n"
	nothing := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - identity: {}\n"
	loaded := func(config string) func(*observation) {
		return func(o *observation) { every(o, func(a *apiservers.Answer) { a.Config = hash(config) }) }
	}
	is, was := expects{hash: hash(newKey)}, expects{hash: hash(oldKey)}
	for name, c := range map[string]struct {
		change  func(*observation)
		config  string // of --encryption-config
		only    string
		expect  expects
		want    apiservers.Outcome
		kind    apiservers.ReasonKind // the first reason's; "": there is none
		text    string
		lasting bool
	}{
		"they write under it":              {nil, file, "", is, yes, "", "that is under the key, as expected; rests on", false},
		"all write under the one before":   {nil, file, "", was, no, apiservers.OtherKey, "not converged: cp-0, cp-1, cp-2 write under kms v2 aws, key_id sha256:", false},
		"nobody knows which key a hash is": {nil, file, "", expects{hash: hash(oldKey), vague: true}, dk, apiservers.KeyUnsaid, "whether that is under the key is not known: metrics name a key_id by its hash alone", true},
		"one does not yet": {func(o *observation) {
			both(o, 1, func(a *apiservers.Answer) { a.Keys[0].Hash = hash(oldKey) })
		}, file, "", is, no, apiservers.Differ, "cp-1 writes under kms v2 aws, key_id sha256:", false},

		// A key that a plugin named is no proof that it writes: aescbc may be the first.
		"the configuration is not known":     {nil, "", "", is, dk, apiservers.WriterUnsaid, "--encryption-config tells", true},
		"nor is it, and another key":         {nil, "", "", was, dk, apiservers.WriterUnsaid, "--encryption-config tells", true},
		"nor is it, and a provider":          {nil, "", "", expects{provider: "aws"}, dk, apiservers.WriterUnsaid, "--encryption-config tells", true},
		"aescbc writes before it":            {loaded(aescbcFirst), aescbcFirst, "", is, no, apiservers.OtherWriter, "write under aescbc k1, and not under the key, as enc.yaml says", true},
		"aescbc writes, as expected":         {loaded(aescbcFirst), aescbcFirst, "", expects{provider: "k1"}, yes, "", "", false},
		"another provider writes":            {nil, file, "", expects{provider: "b"}, no, apiservers.OtherWriter, "and not under the key, as enc.yaml says", true},
		"nothing is encrypted any more":      {loaded(nothing), nothing, "", is, no, apiservers.OtherWriter, "write in the clear, since enc.yaml encrypts nothing, and not under the key", true},
		"nothing is encrypted, as expected":  {loaded(nothing), nothing, "", expects{}, yes, "", "all 3 API servers write in the clear, since enc.yaml encrypts nothing", false},
		"one of two entries is under it":     {loaded(two), two, "", is, no, apiservers.OtherWriter, "write under aescbc k1, and not", true},
		"that entry alone is asked about":    {loaded(two), two, "secrets", is, yes, "", "as expected", false},
		"a wildcard's resource is not":       {loaded(two), two, "secrets deployments.apps", is, no, apiservers.OtherWriter, "write under aescbc k1, and not", true},
		"a wildcard's is, as expected":       {loaded(two), two, "deployments.apps", expects{provider: "k1"}, yes, "", "as expected", false},
		"a resource that is not encrypted":   {loaded(two), two, "secrets pods", is, no, apiservers.OtherWriter, "write pods in the clear, and not under the key", true},
		"a resource of which no key is said": {func(o *observation) { every(o, func(a *apiservers.Answer) { a.Keys = nil }) }, file, "secrets", is, dk, apiservers.NoKey, "", false},
		"KMS v1 writes": {func(o *observation) {
			every(o, func(a *apiservers.Answer) { a.Keys, a.V1, a.Config = nil, true, hash(v1) })
		}, v1, "", expects{hash: hash(newKey), vague: true}, dk, apiservers.V1, "not known: neither metrics nor values of v1 name the key", true},
		"KMS v1 writes, as expected": {func(o *observation) {
			every(o, func(a *apiservers.Answer) { a.Keys, a.V1, a.Config = nil, true, hash(v1) })
		}, v1, "", expects{provider: "aws"}, dk, apiservers.V1, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, opts := three(), options{}
			if c.config != "" {
				opts = parse(t, c.config)
			}
			opts.Expect, opts.Only = c.expect, strings.Fields(c.only)
			if c.change != nil {
				c.change(o)
			}
			r := apiservers.Judge(o, opts)
			v := r.Verdict
			if v.Answer != c.want || !strings.Contains(v.Text, c.text) || v.Lasting != c.lasting || r.Expected != "the key" {
				t.Errorf("%q, lasting %t: want %s with %q, lasting %t", v.Text, v.Lasting, c.want, c.text, c.lasting)
			}
			if c.kind != "" && (len(v.Reasons) == 0 || v.Reasons[0].Kind != c.kind) || c.kind == "" && len(v.Reasons) > 0 {
				t.Errorf("reasons %+v, want %q first", v.Reasons, c.kind)
			}
		})
	}
}

// While another configuration is on its way, waiting helps, whatever a probe finds now.
func TestAnotherWriterIsWaitedForWhileAConfigurationIsOnItsWay(t *testing.T) {
	t.Parallel()
	o, opts := three(), parse(t, file)
	both(o, 1, func(a *apiservers.Answer) { a.Config = hash("the one before") })
	opts.Expect, opts.Probe = expects{provider: "aws"}, &apiservers.Probe{}
	for i := range 3 {
		provider := "aws"
		if i == 1 {
			provider = "old"
		}
		opts.Probe.Stored = append(opts.Probe.Stored, apiservers.Stored{Address: o.Asked[i].Address, Resource: "secrets", Format: "kms v2", Provider: provider, KeyID: newKey})
	}
	v := apiservers.Judge(o, opts).Verdict
	if v.Answer != apiservers.NotConverged || v.Lasting || !strings.Contains(v.Text, "cp-1 writes under kms v2 old") {
		t.Errorf("%q, lasting %t", v.Text, v.Lasting)
	}
	every(o, func(a *apiservers.Answer) { a.Config = hash(file) })
	if v := apiservers.Judge(o, opts).Verdict; v.Answer != apiservers.NotConverged || !v.Lasting {
		t.Errorf("all have it: %q, lasting %t", v.Text, v.Lasting)
	}
}
