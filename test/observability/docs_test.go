package observability_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const page = "../../docs/observability.md"

// blocks are the code blocks of a language on the page.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?)```").FindAllSubmatch(text, -1) {
		found = append(found, string(m[1]))
	}
	if len(found) == 0 {
		t.Fatalf("the page has no block of %s", language)
	}
	return found
}

var discovery = regexp.MustCompile(`    kubernetes_sd_configs:\n      - role: pod\n        namespaces: \{names: \[kube-system\]\}\n`)

func TestPrometheusTakesTheScrapeConfigs(t *testing.T) {
	t.Parallel()
	n := 0
	for _, block := range blocks(t, "yaml") {
		if !strings.HasPrefix(block, "scrape_configs:") {
			continue
		}
		n++
		// Debian's promtool knows no discovery in Kubernetes: the rest is checked.
		block = discovery.ReplaceAllString(block, "    static_configs: [{targets: ['10.0.0.11']}]\n")
		file := filepath.Join(t.TempDir(), "prometheus.yml")
		if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), tool(t), "check", "config", file).CombinedOutput(); err != nil {
			t.Errorf("promtool check config: %v\n%s\n%s", err, out, block)
		}
		if !strings.Contains(block, "job_name: aws-encryption-provider\n") {
			t.Errorf("the alerts do not find this job:\n%s", block)
		}
	}
	if n != 2 {
		t.Errorf("the page has %d scrape configs, want 2", n)
	}
}

func TestTheOperatorsRulesAreTheSame(t *testing.T) {
	t.Parallel()
	decoded := func(name string) map[string]any {
		data, err := os.ReadFile("../../deploy/observability/" + name)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]any{}
		if err := yaml.Unmarshal(data, &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	plain, wrapped := decoded("alerts.yaml"), decoded("prometheusrule.yaml")
	if !reflect.DeepEqual(wrapped["spec"], any(plain)) {
		t.Error("the spec of prometheusrule.yaml is not alerts.yaml")
	}
	if wrapped["apiVersion"] != "monitoring.coreos.com/v1" || wrapped["kind"] != "PrometheusRule" {
		t.Errorf("prometheusrule.yaml is of %v %v", wrapped["apiVersion"], wrapped["kind"])
	}
}

func TestThePagesTableHasEachAlert(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rows, want := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| \[(\w+)\]\((runbooks/\w+\.md)\) \| (\w+) \| (\w+) \|`).FindAllStringSubmatch(string(text), -1) {
		rows[fmt.Sprint(m[1:])] = true
	}
	for _, a := range alerts(t) {
		want[fmt.Sprint([]string{a.Alert, "runbooks/" + a.Alert + ".md", a.Labels["severity"], a.For})] = true
	}
	if !maps.Equal(rows, want) {
		t.Errorf("the table has\n%v\nwant\n%v", rows, want)
	}
}
