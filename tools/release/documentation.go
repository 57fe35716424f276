package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/aws-encryption-provider/internal/alerts"
)

// documentation is what is shipped to be read, and the alerts and the dashboard that it
// speaks of, by their paths in the checkout: so the links between them lead somewhere.
// The alerts link to docsURL, unless it is empty. More are patterns of further files.
func documentation(source, docsURL string, more []string) (map[string][]byte, error) {
	const observability = "deploy/observability/"
	pages := map[string][]byte{
		observability + "alerts.yaml":         []byte(alerts.Rules(docsURL)),
		observability + "prometheusrule.yaml": []byte(alerts.PrometheusRule(docsURL)),
	}
	names := []string{"README.md", observability + "dashboard.json"}
	for _, pattern := range slices.Concat([]string{"docs/*.md", "docs/runbooks/*.md"}, more) {
		found, err := fs.Glob(os.DirFS(source), pattern)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s has no %s", source, pattern)
		}
		names = append(names, found...)
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(source, filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		pages[name] = data
	}
	return pages, nil
}
