// Package observability holds the alerts of deploy/observability against the
// metrics that the program exports, and against their runbooks.
package observability_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
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

// scrape runs the program's daemon over an emulated KMS, has it encrypt once
// and refuse damaged bytes once, and returns its metrics.
func scrape(t *testing.T) string {
	t.Helper()
	s := kmstest.Start(t)
	s.SetEnv(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
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
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := v2.NewKeyManagementServiceClient(conn)
	if _, err := c.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("k"), Uid: "u"}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: []byte("damaged"), KeyId: key, Uid: "u"}); err == nil {
		t.Fatal("damaged data decrypts")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.HealthAddress()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestAlertsNameOnlySeriesThatTheProgramExports(t *testing.T) {
	body := scrape(t)
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
