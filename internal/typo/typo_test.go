package typo_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/typo"
)

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"status", "status", 0},
		{"statsu", "status", 1},
		{"kye", "key", 1},
		{"ab", "ba", 1},
		{"ca", "abc", 3},
		{"sttus", "status", 1},
		{"sstatus", "status", 1},
		{"stytus", "status", 1},
		{"kitten", "sitting", 3},
		{"secret", "secrets", 1},
		{strings.Repeat("a", 257), "a", 257},
		{strings.Repeat("a", 256), "a", 255},
	} {
		if got := typo.Distance(c.a, c.b); got != c.want {
			t.Errorf("Distance(%.20q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
