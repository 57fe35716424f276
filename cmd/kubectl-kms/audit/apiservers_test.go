package audit_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
)

// What API servers say decides whether a living etcd's clean answer is a yes.
func TestWhatAPIServersSayIsInTheVerdict(t *testing.T) {
	t.Parallel()
	const (
		etcd   = "etcd\n/registry/leases/kube-system/apiserver-a plaintext\n/registry/secrets/default/a v2 aws " + newARN + "?material=3d8a\n"
		mixed  = etcd + "/registry/secrets/default/b v2 aws " + oldARN + "?material=3d8a\n"
		byFile = "enc.yaml"
	)
	under := func(format, provider, keyID string) []audit.WrittenUnder {
		w := audit.WrittenUnder{Resource: "secrets", Format: format, Provider: provider}
		if keyID != "" {
			w.KeyIDHash = hashOf(keyID)
		}
		return []audit.WrittenUnder{w}
	}
	const newID, oldID = newARN + "?material=3d8a", oldARN + "?material=3d8a"
	for name, c := range map[string]struct {
		store    string
		question *audit.Question
		scope    string // --resources; empty: by the configuration
		said     *audit.APIServers
		want     audit.Answer
		text     string
	}{
		"not asked":     {etcd, only(t, newARN), "", nil, audit.NotKnown, "API servers: not asked"},
		"not converged": {etcd, only(t, newARN), "", &audit.APIServers{Text: "not converged: of provider aws, a and b", Leases: leases(999, 1000)}, audit.NotKnown, "API servers: not converged: of provider aws, a and b"},
		"they write under the key": {
			etcd, only(t, newARN), "", &audit.APIServers{Converged: true, Text: "both write", Writes: under("kms v2", "aws", newID), Leases: leases(999, 1000)},
			audit.Yes, "API servers: both write",
		},
		"by a question about the hash": {etcd, only(t, hashOf(newID)), "", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", newID), Leases: leases(999, 1000)}, audit.Yes, ""},
		"of another cluster": {
			etcd, only(t, newARN), "", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", newID), Leases: leases(1001, 1009)},
			audit.NotKnown, "is it their etcd?",
		},
		"no Lease of theirs is there": {
			"etcd\n/registry/secrets/default/a v2 aws " + newID + "\n", only(t, newARN), "", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", newID), Leases: leases(1, 9999)},
			audit.NotKnown, "is it their etcd?",
		},
		"they write under another key": {
			mixed, only(t, newARN), "", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", oldID), Leases: leases(999, 1000)},
			audit.No, "API servers write secrets under kms v2 aws, key_id " + hashOf(oldID),
		},
		"they write under a key that is nowhere": {
			etcd, only(t, newARN), "", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", oldID), Leases: leases(999, 1000)},
			audit.NotKnown, "a key_id that no object was read with",
		},
		"the same, by its hash": {
			etcd, only(t, hashOf(newID)), "", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", oldID), Leases: leases(999, 1000)},
			audit.No, "the next one will be",
		},
		"they write under the key that is to be unused": {
			etcd, unused(t, hashOf(oldID)), "", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", oldID), Leases: leases(999, 1000)},
			audit.No, "but the next one will be",
		},
		"they do not, and older revisions were not read": {
			etcd, unused(t, oldARN), "", &audit.APIServers{Converged: true, Text: "both write", Writes: under("kms v2", "aws", newID), Leases: leases(999, 1000)},
			audit.NotKnown, "nothing before the next compaction proves a key unused",
		},
		"KMS v1 writes": {
			etcd, unused(t, oldARN), "", &audit.APIServers{Converged: true, Writes: under("kms v1", "aws", ""), Leases: leases(999, 1000)},
			audit.NotKnown, "the bytes do not tell their key",
		},
		"aescbc writes, as asked":      {"etcd\n/registry/leases/kube-system/apiserver-a plaintext\n/registry/secrets/a/b aescbc k1\n", only(t, "provider:k1"), "", &audit.APIServers{Converged: true, Writes: under("aescbc", "k1", ""), Leases: leases(999, 1000)}, audit.Yes, ""},
		"another provider writes":      {"etcd\n/registry/leases/kube-system/apiserver-a plaintext\n/registry/secrets/a/b aescbc k1\n", only(t, "provider:k1"), "", &audit.APIServers{Converged: true, Writes: under("aescbc", "k2", ""), Leases: leases(999, 1000)}, audit.No, "under aescbc k2"},
		"a resource in the clear":      {"etcd\n/registry/leases/kube-system/apiserver-a plaintext\n/registry/configmaps/a/b plaintext\n", only(t, "plaintext"), "configmaps", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", newID), Leases: leases(999, 1000)}, audit.Yes, ""},
		"a wildcard's writer is known": {etcd, only(t, newARN), "*.*", &audit.APIServers{Converged: true, Writes: under("kms v2", "aws", newID), Leases: leases(999, 1000)}, audit.No, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			o := audit.Options{Config: config(t, secretsV2), ConfigName: byFile, Question: c.question}
			if c.scope != "" {
				o.Resources = []string{c.scope}
			}
			if c.said != nil {
				o.AskAPIServers = func(context.Context) audit.APIServers { asked++; return *c.said }
			}
			r := run(t, o, c.store)
			if r.Verdict.Answer != c.want || !strings.Contains(r.Verdict.Text, c.text) || asked > 1 {
				t.Errorf("%s, asked %d times; want %s and %q:\n%s", r.Verdict.Answer, asked, c.want, c.text, r.Verdict.Text)
			}
		})
	}
}

// Without the configuration nobody knows which provider writes.
func TestWritersAreNotGuessed(t *testing.T) {
	t.Parallel()
	r := run(t, audit.Options{
		Resources: []string{"secrets"}, Question: only(t, newARN),
		AskAPIServers: func(context.Context) audit.APIServers {
			return audit.APIServers{Converged: true, Leases: leases(1000, 1000)}
		},
	}, "etcd\n/registry/leases/kube-system/apiserver-a plaintext\n/registry/secrets/default/a v2 aws "+newARN+"\n")
	if r.Verdict.Answer != audit.NotKnown || !strings.Contains(r.Verdict.Text, "give --encryption-config") {
		t.Errorf("%s", r.Verdict.Text)
	}
}

// A snapshot is asked about itself, and no API server.
func TestNobodyAsksAPIServersAboutASnapshot(t *testing.T) {
	t.Parallel()
	o := audit.Options{Resources: []string{"secrets"}, AskAPIServers: func(context.Context) audit.APIServers {
		t.Error("they were asked")
		return audit.APIServers{}
	}}
	run(t, o, "etcd\n/registry/secrets/a/b plaintext\n") // no question
	o.Question = only(t, "plaintext")
	r := run(t, o, "snapshot\n/registry/secrets/a/b plaintext\n")
	if r.Verdict.Answer != audit.Yes || !strings.Contains(r.Verdict.Text, "API servers: not asked") {
		t.Errorf("%s", r.Verdict.Text)
	}
}

// leases are of one API server.
func leases(before, after int64) map[string][2]int64 {
	return map[string][2]int64{"apiserver-a": {before, after}}
}

func hashOf(keyID string) string {
	sum := sha256.Sum256([]byte(keyID))
	return "sha256:" + hex.EncodeToString(sum[:])
}
