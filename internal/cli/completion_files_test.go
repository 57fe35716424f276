package cli_test

import (
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/generatedtest"
)

// Packages install the scripts as they are in the checkout.
func TestGeneratesCompletionForPackages(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		stdout, stderr, code := run(t, "completion", shell)
		if code != cli.Done || stderr != "" {
			t.Fatalf("completion %s: exit %d, %s", shell, code, stderr)
		}
		generatedtest.Current(t, "../../deploy/completion/"+shell, stdout, *update)
	}
}
