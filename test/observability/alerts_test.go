// Package observability_test holds the alerts of deploy/observability against the
// metrics that the program exports, and against their runbooks.
package observability_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const runbooks = "../../docs/runbooks"

type alert struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	data, err := os.ReadFile("../../deploy/observability/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 || len(all) > 8 {
		t.Fatalf("%d alerts, want 1 to 8", len(all))
	}
	return all
}

func TestEachAlertHasARunbookAndEachRunbookAnAlert(t *testing.T) {
	t.Parallel()
	pages := map[string]bool{}
	for _, a := range alerts(t) {
		page := filepath.Join(runbooks, a.Alert+".md")
		pages[page] = true
		text, err := os.ReadFile(page)
		if err != nil {
			t.Errorf("%s: %v", a.Alert, err)
			continue
		}
		for _, section := range []string{
			"# " + a.Alert, "## Cause", "## Symptoms", "## Does it block a start of kube-apiserver?",
			"## Can data be lost?", "## What to do", "## Codes",
		} {
			if !strings.Contains("\n"+string(text), "\n"+section+"\n") {
				t.Errorf("%s has no section %q", page, section)
			}
		}
		if url := a.Annotations["runbook_url"]; !strings.HasSuffix(url, "/docs/runbooks/"+a.Alert+".md") {
			t.Errorf("%s: runbook_url is %q", a.Alert, url)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" || a.Labels["severity"] == "" {
			t.Errorf("%s has no summary, description or severity", a.Alert)
		}
	}
	files, err := filepath.Glob(filepath.Join(runbooks, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !pages[f] {
			t.Errorf("%s is of no alert", f)
		}
	}
}

// A plugin is the program's daemon over an emulated KMS.
type plugin struct {
	t       *testing.T
	kms     *kmstest.Server
	key     string
	file    string
	address func() string
	reload  func()
	client  v2.KeyManagementServiceClient
}

// run starts one that has encrypted.
func run(t *testing.T, kms *kmstest.Server) *plugin {
	t.Helper()
	key, err := kms.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := daemontest.Directory(t)
	socket, file := filepath.Join(dir, "s"), filepath.Join(dir, "c.yaml")
	text := "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\n" +
		"health: {address: '127.0.0.1:0'}\nproviders:\n- {name: aws, listen: " + socket + ", keys: [{key: '" + key + "'}]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	cfg, err := flags.Parse([]string{"--config=" + file}, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	d := daemon.Start(cfg, daemon.Options{
		Log: slog.New(slog.DiscardHandler), Version: "v1", Commit: "c", GoVersion: "go", Source: flags.Source(),
	})
	t.Cleanup(func() {
		hurry, cancel := context.WithCancel(context.Background())
		cancel()
		d.Shutdown(hurry)
	})
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &plugin{t, kms, key, file, d.HealthAddress, d.Reload, v2.NewKeyManagementServiceClient(conn)}
	if err := p.encrypt(grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *plugin) encrypt(options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	_, err := p.client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("k"), Uid: "u"}, options...)
	return err
}

// decryptDamaged asks for what no key made.
func (p *plugin) decryptDamaged() {
	p.t.Helper()
	if _, err := p.client.Decrypt(p.t.Context(), &v2.DecryptRequest{Ciphertext: []byte("damaged"), KeyId: "k", Uid: "u"}); err == nil {
		p.t.Fatal("damaged data decrypts")
	}
}

func (p *plugin) scrape() string {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); p.address() == ""; {
		if time.Now().After(end) {
			p.t.Fatal("no health port")
		}
		_ = p.encrypt() // takes a moment
	}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.address()+"/metrics", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// until scrapes until a line is there.
func (p *plugin) until(line string) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(p.scrape(), line+"\n"); {
		if time.Now().After(end) {
			p.t.Fatalf("no line %q", line)
		}
		_ = p.encrypt()
	}
}

func start(t *testing.T) *plugin {
	t.Helper()
	kms := kmstest.Start(t)
	kms.SetEnv(t)
	return run(t, kms)
}

func TestAlertsNameOnlySeriesThatTheProgramExports(t *testing.T) {
	p := start(t)
	p.decryptDamaged()
	body := p.scrape()
	name := regexp.MustCompile(`aws_encryption_provider_[a-z_]+(\{[^}]*\})?`)
	for _, a := range alerts(t) {
		for _, selector := range name.FindAllString(a.Expr, -1) {
			metric, matchers, _ := strings.Cut(strings.TrimSuffix(selector, "}"), "{")
			if !exported(body, metric, matchers) {
				t.Errorf("%s: no series is %s", a.Alert, selector)
			}
		}
	}
}

// exported says whether a line of body has the metric and each of the matchers.
func exported(body, metric, matchers string) bool {
lines:
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, metric+"{") && !strings.HasPrefix(line, metric+" ") {
			continue
		}
		for m := range strings.SplitSeq(matchers, ",") {
			if !strings.Contains(line, m) {
				continue lines
			}
		}
		return true
	}
	return false
}

const minutes = 20 // that the recorded series are extended to

// extended writes two scrapes as series of promtool: counters go on as they went
// between the two, gauges stay.
func extended(first, second, instance string) string {
	before := map[string]float64{}
	series := func(line string) (name string, value float64, ok bool) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.Contains(line, "}") {
			name, text, _ = strings.Cut(strings.TrimSpace(line), " ")
			name += "{"
		}
		value, err := strconv.ParseFloat(text, 64)
		return name, value, err == nil && strings.HasPrefix(name, "aws_encryption_provider_")
	}
	for line := range strings.Lines(first) {
		if name, value, ok := series(line); ok {
			before[name] = value
		}
	}
	counter := regexp.MustCompile(`^[a-z_]+_(total|bucket|count|sum)\{`)
	var out strings.Builder
	for line := range strings.Lines(second) {
		name, value, ok := series(line)
		if !ok {
			continue
		}
		from, step := value, 0.0
		if counter.MatchString(name) {
			from, step = before[name], value-before[name]
		}
		if !strings.HasSuffix(name, "{") {
			name += ","
		}
		fmt.Fprintf(&out, "      - series: '%sjob=\"aws-encryption-provider\",instance=\"%s\"}'\n        values: '%f+%fx%d'\n",
			name, instance, from, step, minutes*4)
	}
	return out.String()
}

func up(value int) string {
	return fmt.Sprintf("      - series: 'up{job=\"aws-encryption-provider\",instance=\"a\"}'\n        values: '%dx%d'\n", value, minutes*4)
}

// firing fails the test unless exactly one alert fires at any time of the series,
// that of the labels, or none for "".
func firing(t *testing.T, series, labels string) {
	t.Helper()
	rules, err := filepath.Abs("../../deploy/observability/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := "rule_files: ['" + rules + "']\nevaluation_interval: 15s\ntests:\n  - interval: 15s\n    input_series:\n" + series +
		"    promql_expr_test:\n      - expr: group by (alertname, provider, instance) (count_over_time(ALERTS{alertstate=\"firing\"}[1h]))\n" +
		fmt.Sprintf("        eval_time: %dm\n", minutes-1)
	if labels != "" {
		text += "        exp_samples: [{labels: '{" + labels + "}', value: 1}]\n"
	}
	file := filepath.Join(t.TempDir(), "test.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.CommandContext(t.Context(), "../../hack/promtool.sh").Output()
	if err != nil {
		t.Fatalf("hack/promtool.sh, which fetches promtool: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), strings.TrimSpace(string(path)), "test", "rules", file).CombinedOutput()
	if err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

func TestEachAlertFiresForItsFaultAndNoOther(t *testing.T) {
	state := func(s string) string { return `aws_encryption_provider_health{provider="aws",state="` + s + `"} 1` }
	for alert, fault := range map[string]func(p *plugin){
		"": func(*plugin) {},
		"EncryptionProviderKeyRefused": func(p *plugin) {
			if err := p.kms.DisableKey(p.key); err != nil {
				p.t.Fatal(err)
			}
			p.until(state("refused"))
		},
		"EncryptionProviderKMSUnreachable": func(p *plugin) {
			p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle})
			p.until(state("outage"))
		},
		"EncryptionProviderCredentials": func(p *plugin) {
			p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.ExpiredToken})
			p.until(state("credentials"))
		},
		"EncryptionProviderKMSSlow": func(p *plugin) {
			p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 1100 * time.Millisecond})
		},
		"EncryptionProviderReloadFailed": func(p *plugin) {
			if err := os.WriteFile(p.file, []byte("no: configuration\n"), 0o600); err != nil {
				p.t.Fatal(err)
			}
			p.reload()
			p.until("aws_encryption_provider_config_reload_success 0")
		},
		"EncryptionProviderUnreadableData": func(*plugin) {},
	} {
		t.Run(alert, func(t *testing.T) {
			p := start(t)
			fault(p)
			first := p.scrape()
			_ = p.encrypt()
			if alert == "EncryptionProviderUnreadableData" {
				p.decryptDamaged()
			}
			labels := ""
			if alert != "" {
				labels = `alertname="` + alert + `",instance="a"`
				if alert != "EncryptionProviderReloadFailed" { // it is of the process
					labels += `,provider="aws"`
				}
			}
			firing(t, up(1)+extended(first, p.scrape(), "a"), labels)
		})
	}
	t.Run("EncryptionProviderKeyIDsDiffer", func(t *testing.T) {
		a := start(t)
		one, two := a.scrape(), run(t, a.kms).scrape()
		firing(t, up(1)+extended(one, one, "a")+extended(two, two, "b"), `alertname="EncryptionProviderKeyIDsDiffer",provider="aws"`)
	})
	t.Run("EncryptionProviderDown", func(t *testing.T) { firing(t, up(0), `alertname="EncryptionProviderDown",instance="a"`) })
	t.Run("no target at all", func(t *testing.T) { firing(t, "      []\n", `alertname="EncryptionProviderDown"`) })
}
