package alerts_test

import (
	"flag"
	"io/fs"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/docs"
	"sigs.k8s.io/aws-encryption-provider/internal/alerts"
	"sigs.k8s.io/aws-encryption-provider/internal/generatedtest"
)

var update = flag.Bool("update", false, "write the alerts in deploy/observability")

func TestRuleFilesAreCurrent(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"alerts.yaml": alerts.Rules(""), "prometheusrule.yaml": alerts.PrometheusRule("")} {
		path := "../../deploy/observability/" + name
		generatedtest.Current(t, path, want, *update)
	}
}

func TestEachAlertNamesItsRunbook(t *testing.T) {
	t.Parallel()
	const base = "https://docs.example/kms"
	for name, text := range map[string]func(string) string{"alerts.yaml": alerts.Rules, "prometheusrule.yaml": alerts.PrometheusRule} {
		if bare := text(""); strings.Contains(bare, "runbook_url") || strings.Contains(bare, "http") {
			t.Errorf("%s has links without an address to link to", name)
		}
		linked := text(base + "/")
		for _, a := range alerts.All() {
			if _, err := fs.Stat(docs.Files(), docs.Runbook(a.Name)); err != nil {
				t.Errorf("%s: %v", a.Name, err)
			}
			if url := "runbook_url: '" + base + "/runbooks/" + a.Name + ".md'\n"; strings.Count(linked, url) != 1 {
				t.Errorf("%s: %s has not once %s", a.Name, name, url)
			}
			for _, with := range []string{"", base} {
				if !strings.Contains(text(with), "What to do: aws-encryption-provider explain "+a.Name+"'\n") {
					t.Errorf("%s: %s with docs at %q does not name the command that prints the runbook", a.Name, name, with)
				}
			}
		}
	}
}
