package cli_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/generatedtest"
)

// said runs a command line and returns what it prints.
func said(t *testing.T, version string, args ...string) string {
	t.Helper()
	var out, errs strings.Builder
	code := cli.Main(t.Context(), append([]string{"kubectl-kms"}, args...), cli.Streams{
		Out: &out, Err: &errs, LookupEnv: func(string) (string, bool) { return "", false }, Version: version,
	})
	if code != cli.Done || errs.Len() > 0 {
		t.Fatalf("kubectl-kms %q: exit code %d, %s", args, code, errs.String())
	}
	return out.String()
}

// Packages install the scripts as they are in the checkout.
func TestGeneratesCompletionForPackages(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		generatedtest.Current(t, "../../../deploy/completion/kubectl-kms/"+shell, said(t, "", "completion", shell), *update)
	}
}

func TestVersionIsTheOneOfTheRelease(t *testing.T) {
	t.Parallel()
	if got := said(t, "v1.2.3", "version"); !strings.HasPrefix(got, "kubectl-kms v1.2.3\ncommit ") {
		t.Errorf("a release says %q", got)
	}
	if got := said(t, "", "version"); strings.HasPrefix(got, "kubectl-kms \n") {
		t.Errorf("a build without a version says %q", got)
	}
}
