package cli

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// checkResources returns the names of --resources, as an EncryptionConfiguration has them,
// and what is wrong with them.
func checkResources(given []string) (names, mistakes []string) {
	wrong := func(format string, args ...any) { mistakes = append(mistakes, fmt.Sprintf(format, args...)) }
	for _, name := range given {
		name = strings.TrimSpace(name) // after a comma
		names = append(names, name)
		if text := audit.CheckResource(name); text != "" {
			wrong("--resources: %s %s", name, text)
		}
	}
	for _, m := range encryptionconfig.CheckResources(names) {
		wrong("--resources%s", m)
	}
	if slices.Contains(names, "") {
		wrong("--resources has an empty name")
	}
	return names, mistakes
}
