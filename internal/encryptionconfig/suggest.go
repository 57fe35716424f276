package encryptionconfig

import (
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/typo"
)

// nearest returns what a misspelt name was probably meant as, and "" where none
// is near enough.
func nearest(name string, known []string) string {
	best, least := "", 3
	for _, one := range known {
		if d := typo.Distance(strings.ToLower(name), one); d < least && d*2 < len(one) {
			best, least = one, d
		}
	}
	return best
}
