// Package observability_test holds the alerts of deploy/observability against the
// metrics that the program exports, and against their runbooks.
package observability_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const runbooks = "../../docs/runbooks"

type alert struct {
	Alert       string
	Expr        string
	For         string
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
	if len(all) == 0 {
		t.Fatal("no alerts")
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

func TestEachAlertFiresForItsFaultAndNoOther(t *testing.T) {
	state := func(s string) string { return `aws_encryption_provider_health{provider="aws",state="` + s + `"} 1` }
	reader := func(s, key string) string {
		return `aws_encryption_provider_key_health{key="` + key + `",provider="aws",state="` + s + `",use="read"} 1`
	}
	shown := map[string]string{} // what was seen of each alert's faults
	healthy := recordHealthy(t)
	// fault is there from the first scrape on, call is made before the second.
	for _, c := range []struct {
		name, alert string
		key         bool // the alert names it
		fault, call func(p *plugin)
	}{
		{name: "no fault"},
		{
			name: "the write key is disabled", alert: "EncryptionProviderKeyRefused",
			fault: func(p *plugin) {
				if err := p.kms.DisableKey(p.key); err != nil {
					p.t.Fatal(err)
				}
				p.until(state("refused"))
			},
		},
		{
			name: "a key that only reads is disabled, and data needs it", alert: "EncryptionProviderReadKeyTrouble", key: true,
			fault: func(p *plugin) {
				p.configure(createKey(p.t, p.kms), p.key)
				if err := p.kms.DisableKey(p.key); err != nil {
					p.t.Fatal(err)
				}
			},
			call: func(p *plugin) {
				if err := p.decryptStored(); err == nil {
					p.t.Fatal("data of a disabled key decrypts")
				}
				p.until(reader("refused", p.key))
			},
		},
		{
			name: "a key that only reads is disabled, without traffic", alert: "EncryptionProviderReadKeyTrouble", key: true,
			fault: func(p *plugin) {
				reads := createKey(p.t, p.kms)
				if err := p.kms.DisableKey(reads); err != nil {
					p.t.Fatal(err)
				}
				p.configure(p.key, reads)
				p.until(reader("refused", reads))
			},
		},
		{
			name: "a key that only reads is denied, without traffic", alert: "EncryptionProviderReadKeyTrouble", key: true,
			fault: func(p *plugin) {
				reads := createKey(p.t, p.kms)
				p.kms.Deny(reads, "Decrypt")
				p.configure(p.key, reads)
				p.until(reader("refused", reads))
			},
		},
		{
			name: "a key that only reads is to be deleted", alert: "EncryptionProviderKeyPendingDeletion", key: true,
			fault: func(p *plugin) {
				reads := createKey(p.t, p.kms)
				if err := p.kms.ScheduleKeyDeletion(reads, 7); err != nil {
					p.t.Fatal(err)
				}
				p.configure(p.key, reads)
				p.until(reader("refused", reads))
			},
		},
		{
			name: "a key that only reads is to be deleted, and nobody may describe it", alert: "EncryptionProviderKeyPendingDeletion", key: true,
			fault: func(p *plugin) {
				reads := createKey(p.t, p.kms)
				p.kms.Deny("", "DescribeKey")
				if err := p.kms.ScheduleKeyDeletion(reads, 7); err != nil {
					p.t.Fatal(err)
				}
				p.configure(p.key, reads)
				p.until(reader("refused", reads))
			},
		},
		{
			name: "KMS throttles", alert: "EncryptionProviderKMSUnreachable",
			fault: func(p *plugin) {
				p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle})
				p.until(state("outage"))
			},
		},
		{
			name: "the credentials have expired", alert: "EncryptionProviderCredentials",
			fault: func(p *plugin) {
				p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.ExpiredToken})
				p.until(state("credentials"))
			},
		},
		{
			name: "KMS is slow", alert: "EncryptionProviderKMSSlow",
			fault: func(p *plugin) {
				p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 1100 * time.Millisecond})
			},
		},
		{
			name: "the file is broken", alert: "EncryptionProviderReloadFailed",
			fault: func(p *plugin) {
				if err := os.WriteFile(p.file, []byte("no: configuration\n"), 0o600); err != nil {
					p.t.Fatal(err)
				}
				p.reload()
				p.until("aws_encryption_provider_config_reload_success 0")
			},
		},
		{
			name: "something is in the place of the socket", alert: "EncryptionProviderSocketMissing",
			fault: func(p *plugin) {
				if err := errors.Join(os.Remove(p.socket), os.Mkdir(p.socket, 0o700)); err != nil {
					p.t.Fatal(err)
				}
				p.until(`aws_encryption_provider_socket_served{provider="aws"} 0`)
			},
		},
		{
			name: "stored data is damaged", alert: "EncryptionProviderUnreadableData",
			call: func(p *plugin) { p.decryptDamaged() },
		},
		{
			name: "a key that stored data needs is not listed", alert: "EncryptionProviderUnreadableData",
			fault: func(p *plugin) { p.configure(createKey(p.t, p.kms)) },
			call: func(p *plugin) {
				if err := p.decryptStored(); err == nil {
					p.t.Fatal("data of a key that is not listed decrypts")
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t)
			if c.fault != nil {
				c.fault(p)
			}
			r := p.record("a")
			if c.call != nil {
				c.call(p)
			} else {
				_ = p.encrypt()
			}
			r.add(p)
			labels := ""
			if c.alert != "" {
				labels = `alertname="` + c.alert + `",instance="a"`
				if c.alert != "EncryptionProviderReloadFailed" { // it is of the process
					labels += `,provider="aws"`
				}
				if c.key {
					labels += `,key="` + p.reads() + `"`
				}
			}
			others := []string{}
			if c.alert == "EncryptionProviderKMSUnreachable" || c.alert == "EncryptionProviderCredentials" {
				others = append(others, graceOver("a")) // in twenty minutes
			}
			firing(t, r.extended(t, faulty), labels, faulty, others...)
			inTwoClusters(t, r, healthy, labels, others...)
			shown[c.alert] += p.shown()
			if len(others) > 0 {
				p.graceEnds()
				shown["EncryptionProviderGraceOver"] += p.shown()
			}
		})
	}
	for _, alert := range []string{
		"EncryptionProviderKeyRefused", "EncryptionProviderReadKeyTrouble", "EncryptionProviderKeyPendingDeletion",
		"EncryptionProviderKMSUnreachable", "EncryptionProviderCredentials", "EncryptionProviderGraceOver",
		"EncryptionProviderReloadFailed", "EncryptionProviderUnreadableData", "EncryptionProviderSocketMissing",
	} {
		t.Run("symptoms of "+alert, func(t *testing.T) { checkSymptoms(t, alert, shown[alert]) })
	}
	t.Run("the write key is to be deleted", func(t *testing.T) {
		p := start(t)
		if err := p.kms.ScheduleKeyDeletion(p.key, 7); err != nil {
			t.Fatal(err)
		}
		p.until(state("refused"))
		r := p.record("a")
		r.add(p)
		firing(t, r.extended(t, faulty), `alertname="EncryptionProviderKeyRefused",instance="a",provider="aws"`, faulty,
			`alertname="EncryptionProviderKeyPendingDeletion",instance="a",key="`+p.key+`",provider="aws"`)
	})
	t.Run("KMS fails for all keys", func(t *testing.T) { // one alert says so
		p := start(t)
		p.configure(p.key, createKey(t, p.kms))
		p.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle})
		p.until(state("outage"))
		p.until(reader("outage", p.reads()))
		r := p.record("a")
		r.add(p)
		firing(t, r.extended(t, faulty), `alertname="EncryptionProviderKMSUnreachable",instance="a",provider="aws"`, faulty, graceOver("a"))
	})
	t.Run("two instances write with keys of their own", func(t *testing.T) {
		a := start(t)
		b := run(t, a.kms, createKey(t, a.kms))
		one, two := a.record("a"), b.record("b")
		one.add(a)
		two.add(b)
		firing(t, one.extended(t, faulty)+two.extended(t, faulty), `alertname="EncryptionProviderKeyIDsDiffer",provider="aws"`, faulty)
		east := one.in("east").extended(t, faulty)
		firing(t, east+two.in("east").extended(t, faulty), `alertname="EncryptionProviderKeyIDsDiffer",cluster="east",provider="aws"`, faulty)
		firing(t, east+two.in("west").extended(t, faulty), "", faulty) // each cluster has its own key
	})
	t.Run("KMS is not reached from the start", func(t *testing.T) {
		kms := kmstest.Start(t)
		kms.SetEnv(t)
		key := createKey(t, kms)
		kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Reset})
		p := launch(t, kms, key)
		p.until(state("outage"))
		r := p.record("a")
		r.add(p)
		firing(t, r.extended(t, faulty), `alertname="EncryptionProviderKMSUnreachable",instance="a",provider="aws"`, faulty, graceOver("a"))
		// There is no grace to wait for the end of.
		promtool(t, r.extended(t, faulty), faulty,
			firesAt("EncryptionProviderKMSUnreachable", interval), firesAt("EncryptionProviderGraceOver", interval))
	})
	t.Run("a scrape fails", func(t *testing.T) {
		firing(t, up("", "a", 0, faulty), `alertname="EncryptionProviderDown",instance="a"`, faulty)
	})
	t.Run("nothing is scraped", func(t *testing.T) {
		firing(t, "      []\n", `alertname="EncryptionProviderDown"`, faulty)
	})
	t.Run("a cluster has lost its targets", func(t *testing.T) {
		west := strings.ReplaceAll(up("west", "a", 1, faulty), "1x80", "1x4 stale")
		firing(t, up("east", "a", 1, faulty)+west, `alertname="EncryptionProviderDown",cluster="west"`, faulty)
	})
}

// TestNoAlertFiresInAHealthyHour has two instances with traffic, each of them
// reloaded four times, once for a new write key and once for new key material,
// and the second always after the first.
func TestNoAlertFiresInAHealthyHour(t *testing.T) {
	a := start(t)
	b := run(t, a.kms, a.key)
	next := createKey(t, a.kms)
	both := []recording{{instance: "a"}, {instance: "b"}}
	scrape := func() {
		for i, p := range []*plugin{a, b} {
			p.traffic()
			both[i].add(p)
		}
	}
	each := func(change func(p *plugin)) {
		for _, p := range []*plugin{a, b} {
			change(p)
			scrape()
		}
	}
	scrape()
	scrape()
	each(func(p *plugin) { p.configure(p.key) })
	each(func(p *plugin) { p.configure(p.key, next) }) // it reads first
	each(func(p *plugin) { p.configure(next, p.key) })
	if err := a.kms.RotateKey(next); err != nil {
		t.Fatal(err)
	}
	each(func(p *plugin) { p.configure(next, p.key) })
	for len(both[0].scrapes) < 13 {
		scrape()
	}

	series := ""
	for _, r := range both {
		distinct := func(metric string) int {
			found := map[string]bool{}
			for _, body := range r.scrapes {
				for name, value := range samples(t, body) {
					if strings.HasPrefix(name, metric) {
						found[fmt.Sprint(name, value)] = true
					}
				}
			}
			return len(found)
		}
		if n := distinct("aws_encryption_provider_config_info"); n != 5 {
			t.Errorf("%s served %d files, want 5", r.instance, n)
		}
		if n := distinct("aws_encryption_provider_key_id_hash"); n < 2 {
			t.Errorf("%s had %d key_ids, want that of another key as well", r.instance, n)
		}
		series += r.extended(t, time.Hour)
	}
	firing(t, series, "", time.Hour)
}

// graceOver are the labels of that alert.
func graceOver(instance string) string {
	return `alertname="EncryptionProviderGraceOver",instance="` + instance + `",provider="aws"`
}

// firesAt is the question whether an alert fires at a time, of one instance.
func firesAt(alert string, at time.Duration) query {
	return query{expr: firingNow(alert), expected: map[string]string{"{}": "1"}, at: at}
}

// silentAt is the question whether an alert does not fire at a time.
func silentAt(alert string, at time.Duration) query { return query{expr: firingNow(alert), at: at} }

func firingNow(alert string) string {
	return `count(ALERTS{alertname="` + alert + `",alertstate="firing"})`
}

// recordHealthy records an instance that has no fault.
func recordHealthy(t *testing.T) recording {
	t.Helper()
	var r recording
	t.Run("record one without a fault", func(t *testing.T) {
		p := start(t)
		r = p.record("a")
		_ = p.encrypt()
		r.add(p)
	})
	return r
}

// inTwoClusters has the same instances in two clusters, one of them with the fault:
// what fires names it.
func inTwoClusters(t *testing.T, faulted, healthy recording, labels string, others ...string) {
	t.Helper()
	for i := range others {
		others[i] += `,cluster="east"`
	}
	if labels != "" {
		labels += `,cluster="east"`
	}
	firing(t, faulted.in("east").extended(t, faulty)+healthy.in("west").extended(t, faulty), labels, faulty, others...)
}

// checkSymptoms fails the test unless each line of the runbook's symptoms, or the
// beginning of it that stands there, was seen.
func checkSymptoms(t *testing.T, alert, shown string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(runbooks, alert+".md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Symptoms\n")
	section, _, _ = strings.Cut(section, "\n## ")
	n := 0
	for i, block := range strings.Split(section, "```") {
		if i%2 == 0 {
			continue
		}
		for line := range strings.Lines(strings.TrimPrefix(block, "text\n")) {
			n++
			if line = strings.TrimSpace(line); !strings.Contains(shown, line) {
				t.Errorf("not seen: %s\nseen:\n%s", line, shown)
			}
		}
	}
	if n < 2 {
		t.Errorf("the runbook shows %d lines", n)
	}
}
