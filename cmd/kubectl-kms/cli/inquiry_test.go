package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
)

func TestExpectedKeyIsComparedWithWhatIsWritten(t *testing.T) {
	t.Parallel()
	const (
		arn = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
		id  = arn + "?material=77aa"
	)
	v2 := func(keyID string) apiservers.Write {
		return apiservers.Write{Format: "kms v2", Provider: "aws", KeyIDHash: apiservers.HashOf([]byte(id)), KeyID: keyID}
	}
	for _, c := range []struct {
		key  string
		w    apiservers.Write
		want apiservers.Match
	}{
		{id, v2(""), apiservers.Meets},
		{arn, v2(""), apiservers.Unsaid},
		{arn, v2(id), apiservers.Meets},
		{"sha256:" + "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", v2(""), apiservers.NotYet},
		{"provider:aws", v2(""), apiservers.Meets},
		{"provider:b", v2(""), apiservers.Never},
		{id, apiservers.Write{Format: "aescbc", Provider: "k1"}, apiservers.Never},
		{id, apiservers.Write{Format: "kms v1", Provider: "aws"}, apiservers.Unsaid},
		{"plaintext", apiservers.Write{Format: "plaintext"}, apiservers.Meets},
	} {
		e, err := expectation(c.key)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Compare(c.w); got != c.want {
			t.Errorf("%s and %+v: %d, want %d", c.key, c.w, got, c.want)
		}
	}
	if e, err := expectation(""); e != nil || err != nil {
		t.Errorf("nothing is expected: %v, %v", e, err)
	}
}

// The flags of status and migrate reach who judges.
func TestExpectationReachesTheJudge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kubeconfig := file("kubeconfig", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:3\"}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
	config := file("enc.yaml", "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - kms: {apiVersion: v2, name: aws, endpoint: \"unix:///run/a.sock\"}\n  - identity: {}\n")
	named := func() *kube.Flags {
		flags, set := kube.NewFlags(), pflag.NewFlagSet("test", pflag.ContinueOnError)
		flags.Define(set)
		if err := set.Set("kubeconfig", kubeconfig); err != nil {
			t.Fatal(err)
		}
		return flags
	}
	s := Streams{LookupEnv: func(string) (string, bool) { return "", false }}
	status := statusFlags{kube: named(), encryption: config, expectOnly: "provider:aws", resources: []string{"secrets"}}
	inq, err := status.inquiry(s)
	if err != nil || inq.o.Expect == nil || inq.o.Expect.String() != "provider:aws" || len(inq.o.Only) != 1 {
		t.Errorf("status: %+v, %v", inq, err)
	}
	m := &migration{f: &migrateFlags{kube: named(), expectOnly: "provider:aws"}, s: s, file: config}
	m.audit.Resources = []string{"secrets"}
	gate, err := m.newGate(nil)
	if err != nil || gate.inq.o.Expect == nil || gate.inq.o.Expect.String() != "provider:aws" || len(gate.inq.o.Only) != 1 {
		t.Errorf("migrate: %+v, %v", gate, err)
	}
}
