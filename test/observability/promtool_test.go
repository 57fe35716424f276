package observability_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A recording is what an instance exported, scrape after scrape.
type recording struct {
	cluster  string // "": there is no such label
	instance string
	scrapes  []string
	began    time.Time // of the first scrape
}

// record scrapes for the first time.
func (p *plugin) record(instance string) recording {
	p.t.Helper()
	r := recording{instance: instance}
	r.add(p)
	return r
}

// add scrapes once more.
func (r *recording) add(p *plugin) {
	p.t.Helper()
	if r.began.IsZero() {
		r.began = time.Now()
	}
	r.scrapes = append(r.scrapes, p.scrape())
}

// in is the recording of an instance in a cluster.
func (r recording) in(cluster string) recording {
	r.cluster = cluster
	return r
}

const (
	interval = 15 * time.Second // between two samples of promtool
	faulty   = 20 * time.Minute // that a fault is extended to
)

// samples of a scrape, by series.
func samples(t *testing.T, body string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, "aws_encryption_provider_") && !strings.HasPrefix(line, "process_") {
			continue
		}
		cut := strings.LastIndex(line, " ")
		value, err := strconv.ParseFloat(strings.TrimSpace(line[cut+1:]), 64)
		if err != nil {
			t.Fatal(err)
		}
		all[line[:cut]] = value
	}
	if len(all) < 50 {
		t.Fatalf("a scrape has %d series:\n%s", len(all), body)
	}
	return all
}

// extended makes series of promtool of a recording. What passed between two
// scrapes is drawn out to an equal share of the time: a counter grows at each
// sample by what it grew between them, a gauge is what it was at their end. A gauge
// of a time counts from the first scrape, as promtool's clock does.
func (r recording) extended(t *testing.T, over time.Duration) string {
	t.Helper()
	scrapes, names := []map[string]float64{}, map[string]bool{}
	for _, body := range r.scrapes {
		s := samples(t, body)
		for name := range s {
			if metric, _, _ := strings.Cut(name, "{"); strings.HasSuffix(metric, "_timestamp_seconds") {
				s[name] -= float64(r.began.UnixMilli()) / 1000
			}
		}
		scrapes = append(scrapes, s)
		for name := range s {
			names[name] = true
		}
	}
	steps := int(over/interval) / (len(scrapes) - 1)
	counter := regexp.MustCompile(`^[a-z_]+_(total|bucket|count|sum)(\{|$)`)
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		value, there := scrapes[0][name]
		values := "_"
		if there {
			values = number(value)
		}
		for i, s := range scrapes[1:] {
			next, still := s[name]
			switch {
			case !still && there:
				values += fmt.Sprintf(" stale _x%d", steps-1)
			case !still:
				values += fmt.Sprintf(" _x%d", steps)
			case counter.MatchString(name):
				grown := next - scrapes[i][name]
				values += fmt.Sprintf(" %s+%sx%d", number(value+grown), number(grown), steps-1)
				value += grown * float64(steps)
			default:
				values += fmt.Sprintf(" %s+0x%d", number(next), steps-1)
			}
			there = still
		}
		metric, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
		if labels != "" {
			labels += ","
		}
		fmt.Fprintf(&out, "      - series: '%s{%s%s}'\n        values: '%s'\n", metric, labels, target(r.cluster, r.instance), values)
	}
	return out.String() + up(r.cluster, r.instance, 1, over)
}

// target are the labels that Prometheus gives an instance.
func target(cluster, instance string) string {
	labels := `job="aws-encryption-provider",instance="` + instance + `"`
	if cluster != "" {
		labels += `,cluster="` + cluster + `"`
	}
	return labels
}

func up(cluster, instance string, value int, over time.Duration) string {
	return fmt.Sprintf("      - series: 'up{%s}'\n        values: '%dx%d'\n", target(cluster, instance), value, over/interval)
}

// firing fails the test unless exactly one alert fires at any time of the series,
// that of the labels, or none for "". Others are those that the same fault fires too.
func firing(t *testing.T, series, labels string, over time.Duration, others ...string) {
	t.Helper()
	expected := map[string]string{}
	for _, l := range append(others, labels) {
		if l != "" {
			expected["{"+l+"}"] = "1"
		}
	}
	promtool(t, series, over, query{
		expr: `group by (alertname, cluster, provider, instance, key) (count_over_time(ALERTS{alertstate="firing"}[1h]))`, expected: expected,
	})
}

// A query of PromQL and the samples that it must have, by labels.
type query struct {
	expr     string
	expected map[string]string
	at       time.Duration // 0: at the end
}

// tool is the path of promtool.
func tool(t *testing.T) string {
	t.Helper()
	fetch := exec.CommandContext(t.Context(), "../../hack/promtool.sh")
	fetch.Stderr = os.Stderr
	path, err := fetch.Output()
	if err != nil {
		t.Fatalf("hack/promtool.sh, which fetches promtool: %v", err)
	}
	return strings.TrimSpace(string(path))
}

// promtool evaluates the rules over the series, and then the queries.
func promtool(t *testing.T, series string, over time.Duration, queries ...query) {
	t.Helper()
	promtoolEvery(t, interval, series, over, queries...)
}

// promtoolEvery is promtool with another time between two samples, and between two
// evaluations of the rules.
func promtoolEvery(t *testing.T, step time.Duration, series string, over time.Duration, queries ...query) {
	t.Helper()
	rules, err := filepath.Abs("../../deploy/observability/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("rule_files: ['%s']\nevaluation_interval: %s\ntests:\n  - interval: %[2]s\n    input_series:\n", rules, step) + series +
		"    promql_expr_test:\n"
	for _, q := range queries {
		at := over
		if q.at > 0 {
			at = q.at
		}
		text += fmt.Sprintf("      - expr: %q\n        eval_time: %s\n        exp_samples:\n", q.expr, at)
		for labels, value := range q.expected {
			text += "          - {labels: '" + labels + "', value: " + value + "}\n"
		}
	}
	file := filepath.Join(t.TempDir(), "test.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool(t), "test", "rules", file).CombinedOutput()
	if err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
