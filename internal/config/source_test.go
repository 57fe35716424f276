package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

const head = "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\n"

// writeFile returns the path of a file that holds text.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFileSaysWhatFlagsSay(t *testing.T) {
	t.Parallel()
	path := writeFile(t, head+"providers:\n- name: \"0\"\n  keys:\n  - key: "+keyA+"\n")
	got, want := mustParse(t, nil, "--config="+path), mustParse(t, nil, "--key="+keyA)
	want.File, want.Hash = path, got.Hash
	if diff := cmp.Diff(want, got); diff != "" || len(got.Hash) != 16 {
		t.Errorf("hash %q, (-flags +file):\n%s", got.Hash, diff)
	}
}

func TestSourceReadsAnotherFileUnderTheSameCommandLine(t *testing.T) {
	t.Parallel()
	path := writeFile(t, head+"log: {level: warn}\nproviders: [{name: a, keys: [{key: alias/a}]}]\n")
	flags := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	first, err := flags.Parse([]string{"--config", path, "--log-level=error"}, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	second, err := flags.Source().Load([]byte(head + "providers: [{name: b, keys: [{key: alias/b}]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if first.Log != second.Log || second.Providers[0].Name != "b" || first.Hash == second.Hash || flags.Source().Path() != path {
		t.Errorf("first %+v, second %+v", first, second)
	}
}
