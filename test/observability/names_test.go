package observability_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
)

// A dashboard is what of Grafana's JSON says what is asked.
type dashboard struct {
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Panels []struct {
		Title       string
		Type        string
		FieldConfig struct {
			Defaults struct{ Unit string }
		}
		Datasource struct{ UID string }
		Targets    []struct {
			Expr, LegendFormat string
			Datasource         struct{ UID string }
		}
		Transformations []struct {
			ID      string
			Options struct {
				Include struct{ Names []string }
			}
		}
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	data, err := os.ReadFile("../../deploy/observability/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) < 8 {
		t.Fatalf("the dashboard has %d panels", len(d.Panels))
	}
	return d
}

// everything records a process that has done all that leaves a series.
func everything(t *testing.T) recording {
	t.Helper()
	p := start(t)
	reads := createKey(t, p.kms)
	p.configure(p.key, reads)
	p.traffic()
	if err := p.kms.ScheduleKeyDeletion(reads, 7); err != nil {
		t.Fatal(err)
	}
	p.until(`aws_encryption_provider_key_health{key="` + reads + `",provider="aws",state="refused",use="read"} 1`)
	p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle})
	p.until(`aws_encryption_provider_health{provider="aws",state="outage"} 1`)
	r := p.record("a")
	_ = p.encrypt()
	r.scrapes = append(r.scrapes, p.scrape())
	return r
}

// labelsOf are the labels of each series of a recording, by metric.
func labelsOf(t *testing.T, r recording) map[string][]map[string]string {
	t.Helper()
	all := map[string][]map[string]string{}
	pair := regexp.MustCompile(`([a-z_]+)="([^"]*)"`)
	for series := range samples(t, r.scrapes[len(r.scrapes)-1]) {
		metric, text, _ := strings.Cut(series, "{")
		labels := map[string]string{"job": "aws-encryption-provider", "instance": r.instance, "cluster": r.cluster}
		for _, m := range pair.FindAllStringSubmatch(text, -1) {
			labels[m[1]] = m[2]
		}
		all[metric] = append(all[metric], labels)
	}
	return all
}

var (
	selectors = regexp.MustCompile(`\b((?:aws_encryption_provider|process)_[a-z_]+)(?:\{([^}]*)\})?`)
	matchers  = regexp.MustCompile(`([a-z_]+)(=~|=|!=|!~)"([^"]*)"`)
	groupings = regexp.MustCompile(`\b(?:by|on|without|ignoring|group_left|group_right) ?\(([^)]*)\)`)
	legends   = regexp.MustCompile(`\{\{ *([a-z_]+) *\}\}`)
	templates = regexp.MustCompile(`\$labels\.([a-z_]+)`)
	variables = regexp.MustCompile(`\$\{?([a-z_]+)\}?`)
)

// unresolved says what in an expression no exported series has: a metric, a
// label that has the value, or a label to group by.
func unresolved(exported map[string][]map[string]string, expr string) []string {
	var wrong []string
	groups := groupings.FindAllStringSubmatch(expr, -1)
	found := selectors.FindAllStringSubmatch(groupings.ReplaceAllString(expr, "()"), -1)
	if len(found) == 0 && !strings.Contains(expr, "up{") {
		wrong = append(wrong, "no metric of the program")
	}
	known := []string{}
	if strings.Contains(expr, "up{") { // Prometheus's own
		known = append(known, "cluster", "job", "instance")
	}
	for _, s := range found {
		fits := slices.ContainsFunc(exported[s[1]], func(labels map[string]string) bool {
			for _, m := range matchers.FindAllStringSubmatch(s[2], -1) {
				value, ok := labels[m[1]]
				matches := regexp.MustCompile(`^(?:` + m[3] + `)$`).MatchString(value)
				if !ok || matches == strings.HasPrefix(m[2], "!") {
					return false
				}
			}
			return true
		})
		if !fits {
			wrong = append(wrong, "no series is "+s[0])
		}
		for _, labels := range exported[s[1]] {
			for name := range labels {
				known = append(known, name)
			}
		}
	}
	for _, g := range groups {
		for label := range strings.SplitSeq(g[1], ",") {
			if label = strings.TrimSpace(label); !slices.Contains(known, label) {
				wrong = append(wrong, "no series has the label "+label)
			}
		}
	}
	return wrong
}

// TestNamesResolve shares one recording, since an outage takes 20 s to be one.
func TestNamesResolve(t *testing.T) {
	r := everything(t).in("east")
	exported := labelsOf(t, r)
	t.Run("alerts name only what the program exports", func(t *testing.T) { checkAlerts(t, exported) })
	t.Run("the check finds slips", func(t *testing.T) { checkSlips(t, exported) })
	t.Run("each query of the dashboard has an answer", func(t *testing.T) { checkDashboard(t, r, exported) })
	t.Run("each query of the docs has an answer", func(t *testing.T) {
		for _, expr := range blocks(t, "promql") {
			expr = strings.ReplaceAll(expr, "\n", " ")
			for _, w := range unresolved(exported, expr) {
				t.Errorf("%s: %s", expr, w)
			}
			promtool(t, r.extended(t, faulty), faulty, query{expr: "count(" + expr + ") > bool 0", expected: map[string]string{"{}": "1"}})
		}
	})
}

func checkAlerts(t *testing.T, exported map[string][]map[string]string) {
	t.Helper()
	for _, a := range alerts(t) {
		for _, w := range unresolved(exported, a.Expr) {
			t.Errorf("%s: %s", a.Alert, w)
		}
		kept := []string{"cluster", "job", "instance", "provider"}
		if g := groupings.FindStringSubmatch(a.Expr); g != nil && !strings.HasPrefix(a.Expr, "up{") {
			kept = strings.Split(strings.ReplaceAll(g[1], " ", ""), ",")
		}
		for _, text := range a.Annotations {
			for _, l := range templates.FindAllStringSubmatch(text, -1) {
				if !slices.Contains(kept, l[1]) {
					t.Errorf("%s: its text names the label %s, and the alert has %v", a.Alert, l[1], kept)
				}
			}
		}
	}
}

// checkSlips holds the checks above and below.
func checkSlips(t *testing.T, exported map[string][]map[string]string) {
	t.Helper()
	for _, expr := range []string{
		`aws_encryption_provider_healthy == 1`,
		`aws_encryption_provider_health{state="refuse"}`,
		`aws_encryption_provider_health{status="refused"}`,
		`sum by (providers) (aws_encryption_provider_health)`,
		`aws_encryption_provider_health unless on (class) aws_encryption_provider_key_id_hash`,
		`rate(aws_encryption_provider_calls_seconds_bucket[5m])`,
		`vector(1)`,
	} {
		if len(unresolved(exported, expr)) == 0 {
			t.Errorf("%s resolves", expr)
		}
	}
}

func checkDashboard(t *testing.T, r recording, exported map[string][]map[string]string) {
	t.Helper()
	all := []string{}
	for _, series := range exported {
		for _, labels := range series {
			for name := range labels {
				all = append(all, name)
			}
		}
	}
	fill := strings.NewReplacer("$__rate_interval", "5m", "$job", "aws-encryption-provider", "$instance", ".*", "$provider", ".*")
	d := readDashboard(t)
	known := []string{"__rate_interval"}
	definition := regexp.MustCompile(`^label_values\((.*), ([a-z_]+)\)$`)
	for _, v := range d.Templating.List {
		known = append(known, v.Name)
		if v.Name == "datasource" {
			continue
		}
		m := definition.FindStringSubmatch(v.Definition)
		if m == nil {
			t.Errorf("variable %s: its definition is %q", v.Name, v.Definition)
			continue
		}
		for _, w := range append(unresolved(exported, fill.Replace(m[1])), unresolved(exported, "sum by ("+m[2]+") ("+fill.Replace(m[1])+")")...) {
			t.Errorf("variable %s: %s", v.Name, w)
		}
	}
	var queries []query
	for _, p := range d.Panels {
		if p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: no unit, no query, or not the datasource that was chosen", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("%s: a query does not ask the datasource that was chosen", p.Title)
			}
			for _, v := range variables.FindAllStringSubmatch(target.Expr+target.LegendFormat, -1) {
				if !slices.Contains(known, v[1]) {
					t.Errorf("%s: no variable is %s", p.Title, v[1])
				}
			}
			expr := fill.Replace(target.Expr)
			for _, w := range unresolved(exported, expr) {
				t.Errorf("%s: %s", p.Title, w)
			}
			queries = append(queries, query{expr: "count(" + expr + ") > bool 0", expected: map[string]string{"{}": "1"}})
			for _, l := range legends.FindAllStringSubmatch(target.LegendFormat, -1) {
				queries = append(queries, query{
					expr:     `group by (named) (label_replace((` + expr + `), "named", "yes", "` + l[1] + `", ".+"))`,
					expected: map[string]string{`{named="yes"}`: "1"},
				})
			}
		}
		for _, tr := range p.Transformations {
			for _, column := range tr.Options.Include.Names {
				if !slices.Contains(all, column) {
					t.Errorf("%s: no label is %s", p.Title, column)
				}
			}
		}
	}
	promtool(t, r.extended(t, faulty), faulty, queries...)
}
