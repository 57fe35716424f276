package cli_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
)

// systemd ignores a message of more than 4,096 bytes.
func TestStatusLineFitsAMessage(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"short": "provider aws: healthy", "long": strings.Repeat("provider é: healthy, ", 1000)} {
		got := cli.Fitting(text)
		begins := strings.TrimSuffix(got, "...")
		if len("STATUS="+got) > 4096 || !utf8.ValidString(got) || !strings.HasPrefix(text, begins) || begins == "" || len(text) < 3000 && got != text {
			t.Errorf("%s: %d bytes: %s", name, len(got), got)
		}
	}
}
