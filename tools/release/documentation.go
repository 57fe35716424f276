package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"sigs.k8s.io/aws-encryption-provider/internal/alerts"
)

// documentation is what is shipped to be read, and the alerts and the dashboard that it
// speaks of, by their paths in the checkout: so the links between them lead somewhere.
// The alerts link to docsURL, unless it is empty.
func documentation(source, docsURL string) (map[string][]byte, error) {
	const observability = "deploy/observability/"
	pages := map[string][]byte{
		observability + "alerts.yaml":         []byte(alerts.Rules(docsURL)),
		observability + "prometheusrule.yaml": []byte(alerts.PrometheusRule(docsURL)),
	}
	names := []string{"README.md", observability + "dashboard.json"}
	for _, pattern := range []string{"*.md", "runbooks/*.md"} {
		found, err := fs.Glob(os.DirFS(filepath.Join(source, "docs")), pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			names = append(names, path.Join("docs", name))
		}
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
