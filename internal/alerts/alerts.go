// Package alerts is the one source of the alerts for Prometheus: deploy/observability
// is made of it, and so is what a release ships.
//
// Each alert has a runbook of its name in docs/runbooks. Its expression keeps the
// labels cluster, job and instance, so that one Prometheus may evaluate the rules for
// several clusters; where there is no label cluster, it counts as empty. The units
// are those of docs/metrics.md.
package alerts

import (
	"fmt"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/docs"
)

// Near is how long before the end of the outage grace, in seconds, the alerts of an
// outage fire at the latest.
const Near = 120

// An Alert is one rule.
type Alert struct {
	Name        string
	Severity    string // critical: what keeps an API server from starting, or will
	For         string // how long the expression has to hold
	Expr        string // PromQL; lines are kept
	Summary     string // one line, a template of Prometheus
	Description string // sentences, a template of Prometheus
	note        string // for who reads the rules
}

// by are the labels of one provider on one instance of one cluster.
const (
	process  = "cluster, job, instance"
	provider = process + ", provider"
	key      = provider + ", key"
)

// All returns the alerts in the order of the file.
func All() []Alert {
	return []Alert{
		keyRefused(), readKeyTrouble(), keyPendingDeletion(), kmsUnreachable(), credentials(), graceOver(),
		kmsSlow(), reloadFailed(), keyIDsDiffer(), unreadableData(), socketMissing(), down(),
	}
}

func keyRefused() Alert {
	return Alert{
		Name: "EncryptionProviderKeyRefused", Severity: "critical", For: "1m",
		note: "The health is that of the write key. A Decrypt may also be refused for a key\n" +
			"that is not configured; for one that is, EncryptionProviderReadKeyTrouble names it.",
		Expr: `max by (` + provider + `) (aws_encryption_provider_health{state="refused"}) == 1
or sum by (` + provider + `) (increase(aws_encryption_provider_calls_total{operation="decrypt",class="refused"}[10m])) > 0
unless on (` + provider + `) max_over_time(aws_encryption_provider_key_health{use!="write",state="refused"}[11m]) > 0`,
		Summary:     "KMS refuses a key of provider {{ $labels.provider }} on {{ $labels.instance }}",
		Description: "Provider {{ $labels.provider }} on {{ $labels.instance }} may not use a key. If it is the write key, API servers stop writing about three minutes after they hear of it; if stored data needs another one, that cannot be read. Do not restart an API server.",
	}
}

func readKeyTrouble() Alert {
	return Alert{
		Name: "EncryptionProviderReadKeyTrouble", Severity: "critical", For: "0m",
		note: "Keys that only read do not change Status. Where the write key is in the same\n" +
			"outage, its own alert says so; where a key is to be deleted, the next one does.",
		Expr: `(
  sum by (` + key + `) (aws_encryption_provider_key_health{use!="write",state="refused"}) > 0
  or sum by (` + key + `) (aws_encryption_provider_key_health{use!="write",state=~"outage|credentials"}) > 0
  unless on (` + provider + `) aws_encryption_provider_health{state=~"outage|credentials"} == 1
)
unless on (` + key + `) aws_encryption_provider_key_health_cause{code="KMS0102"} > 0`,
		Summary:     "A key that provider {{ $labels.provider }} on {{ $labels.instance }} only reads with cannot be used",
		Description: "Provider {{ $labels.provider }} on {{ $labels.instance }} cannot decrypt with {{ $labels.key }}, or with a key that this alias named before. Writes go on. An API server that starts now cannot read what that key protects. Do not restart an API server, and do not change the keys of one node alone.",
	}
}

func keyPendingDeletion() Alert {
	return Alert{
		Name: "EncryptionProviderKeyPendingDeletion", Severity: "critical", For: "0m",
		note: "The value is the date where kms:DescribeKey is allowed, else the number of keys.",
		Expr: `max by (` + key + `) (aws_encryption_provider_key_deletion_timestamp_seconds) > 0
or sum by (` + key + `) (aws_encryption_provider_key_health_cause{code="KMS0102"}) > 0`,
		Summary:     "A key of provider {{ $labels.provider }} on {{ $labels.instance }} is scheduled for deletion",
		Description: "KMS deletes {{ $labels.key }}, or a key that this alias named before, {{ if gt $value 1000000.0 }}at {{ $value | humanizeTimestamp }}{{ else }}7 to 30 days after somebody scheduled it{{ end }}. What it protects is lost then, backups of etcd included. Cancel the deletion. Do not restart an API server.",
	}
}

func kmsUnreachable() Alert {
	return Alert{
		Name: "EncryptionProviderKMSUnreachable", Severity: "critical", For: "0m",
		note: "It fires when the outage grace ends within two minutes, or when the outage has\n" +
			"lasted for two minutes: at once where the grace is shorter, or none is running.",
		Expr:        outage("outage"),
		Summary:     "Provider {{ $labels.provider }} on {{ $labels.instance }} does not reach KMS",
		Description: "Calls of KMS by provider {{ $labels.provider }} on {{ $labels.instance }} fail. When its outage grace ends, API servers are no longer ready; a longer outageGrace in the configuration file, on every node, puts that off. An API server that starts now cannot read its data. Do not restart an API server, nor this program.",
	}
}

func credentials() Alert {
	return Alert{
		Name: "EncryptionProviderCredentials", Severity: "critical", For: "0m",
		note:        "When it fires: as the one above.",
		Expr:        outage("credentials"),
		Summary:     "Provider {{ $labels.provider }} on {{ $labels.instance }} has no valid AWS credentials",
		Description: "Provider {{ $labels.provider }} on {{ $labels.instance }} cannot sign its calls of KMS. When its outage grace ends, API servers are no longer ready; a longer outageGrace in the configuration file, on every node, puts that off. An API server that starts now cannot read its data. Do not restart an API server, nor this program.",
	}
}

// outage holds for a state in which Status stays ok for a grace. The end of the grace
// is a time and not a duration, so that a late scrape does not move it.
func outage(state string) string {
	health := `aws_encryption_provider_health{state="` + state + `"}`
	return health + ` == 1 unless on (` + provider + `) aws_encryption_provider_outage_grace_end_timestamp_seconds - time() > ` + fmt.Sprint(Near) + `
or min_over_time(` + health + `[2m]) == 1`
}

func graceOver() Alert {
	return Alert{
		Name: "EncryptionProviderGraceOver", Severity: "critical", For: "0m",
		note: "A process that started in the outage and knows no time before it has no grace.",
		Expr: `max by (` + provider + `) (aws_encryption_provider_health{state=~"outage|credentials"}) == 1
unless on (` + provider + `) aws_encryption_provider_outage_grace_end_timestamp_seconds > time()`,
		Summary:     "Status of provider {{ $labels.provider }} on {{ $labels.instance }} is not ok any more",
		Description: "The outage grace of provider {{ $labels.provider }} on {{ $labels.instance }} is over, or there was none: API servers hear of the outage, their /readyz fails, and load balancers drop them although they could still serve. A longer outageGrace in the configuration file, on every node, makes Status ok again within seconds. Do not restart an API server, nor this program.",
	}
}

func kmsSlow() Alert {
	return Alert{
		Name: "EncryptionProviderKMSSlow", Severity: "warning", For: "5m",
		Expr: `histogram_quantile(0.95, sum by (` + provider + `, le) (rate(aws_encryption_provider_kms_call_seconds_bucket[5m]))) > 1
unless on (` + provider + `) aws_encryption_provider_health{state="outage"} == 1`,
		Summary:     "KMS answers provider {{ $labels.provider }} on {{ $labels.instance }} slowly",
		Description: "One KMS call in twenty by provider {{ $labels.provider }} on {{ $labels.instance }} takes {{ $value | humanizeDuration }} or more. kube-apiserver gives up after 3 s, unless its EncryptionConfiguration says otherwise.",
	}
}

func reloadFailed() Alert {
	return Alert{
		Name: "EncryptionProviderReloadFailed", Severity: "warning", For: "2m",
		Expr:        `aws_encryption_provider_config_reload_success == 0`,
		Summary:     "The configuration on {{ $labels.instance }} cannot be used",
		Description: "The file on {{ $labels.instance }} is broken or cannot be used. The process serves the configuration before it; a restart would not.",
	}
}

func keyIDsDiffer() Alert {
	return Alert{
		Name: "EncryptionProviderKeyIDsDiffer", Severity: "warning", For: "15m",
		note:        "Compared are the instances of one job in one cluster.",
		Expr:        `count by (cluster, job, provider) (count by (cluster, job, provider, key_id_hash) (aws_encryption_provider_key_id_hash)) > 1`,
		Summary:     "Instances of provider {{ $labels.provider }} name different keys",
		Description: "The instances of provider {{ $labels.provider }} in job {{ $labels.job }} answer with {{ $value }} different key_ids. They should agree minutes after a rotation.",
	}
}

func unreadableData() Alert {
	return Alert{
		Name: "EncryptionProviderUnreadableData", Severity: "critical", For: "0m",
		Expr:        `sum by (` + provider + `) (increase(aws_encryption_provider_calls_total{operation="decrypt",class="bad_data"}[10m])) > 0`,
		Summary:     "Provider {{ $labels.provider }} on {{ $labels.instance }} was asked to decrypt what it cannot",
		Description: "Stored data was made by a key that provider {{ $labels.provider }} does not list, or is damaged. See the log of {{ $labels.instance }} for the code. Do not restart an API server.",
	}
}

func socketMissing() Alert {
	return Alert{
		Name: "EncryptionProviderSocketMissing", Severity: "critical", For: "2m",
		Expr:        `min by (` + provider + `) (aws_encryption_provider_socket_served) == 0`,
		Summary:     "Provider {{ $labels.provider }} on {{ $labels.instance }} has no socket",
		Description: "The process on {{ $labels.instance }} cannot have the socket of provider {{ $labels.provider }}, and serves its others. The API server that asks there finds no plugin: it reads what it has in memory, and cannot start. Do not restart an API server.",
	}
}

func down() Alert {
	return Alert{
		Name: "EncryptionProviderDown", Severity: "critical", For: "2m",
		note: "The last part is for a cluster that has lost its last target while others have\n" +
			"some; it holds for an hour.",
		Expr: `up{job="aws-encryption-provider"} == 0
or absent(up{job="aws-encryption-provider"})
or group by (cluster, job) (max_over_time(up{job="aws-encryption-provider"}[1h])) unless on (cluster, job) up{job="aws-encryption-provider"}`,
		Summary:     "aws-encryption-provider is down on {{ $labels.instance }}",
		Description: "Prometheus cannot scrape aws-encryption-provider on {{ $labels.instance }}; where no instance is named, it knows of none. An API server cannot start without it. Do not restart an API server.",
	}
}

// of names the cluster that a text is about, where there is one.
const of = "{{ with $labels.cluster }} (cluster {{ . }}){{ end }}"

// Rules returns the alerts as a rule file of Prometheus. docsURL is where docs is
// published: each alert then has its runbook_url. With "" there is none.
func Rules(docsURL string) string {
	return "# Generated by `make generate` from internal/alerts: do not edit.\n" +
		"# Alerts for Prometheus. docs/observability.md says how to load them; each has a\n" +
		"# page in docs/runbooks, which `aws-encryption-provider explain ALERT` prints. The\n" +
		"# scrape job has to be called aws-encryption-provider. Where one Prometheus serves\n" +
		"# several clusters, a label `cluster` tells them apart.\n" + groups(docsURL)
}

// PrometheusRule returns the same for the Prometheus operator.
func PrometheusRule(docsURL string) string {
	return "# Generated by `make generate` from internal/alerts: do not edit.\n" +
		"# alerts.yaml for the Prometheus operator.\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: aws-encryption-provider\n  namespace: monitoring\nspec:\n" +
		indented(groups(docsURL), "  ")
}

func groups(docsURL string) string {
	var b strings.Builder
	b.WriteString("groups:\n  - name: aws-encryption-provider\n    rules:\n")
	for _, a := range All() {
		b.WriteString(indented(a.rule(docsURL), "      "))
	}
	return b.String()
}

func (a Alert) rule(docsURL string) string {
	var b strings.Builder
	if a.note != "" {
		b.WriteString(indented(a.note+"\n", "# "))
	}
	fmt.Fprintf(&b, "- alert: %s\n  expr: |-\n%s  for: %s\n  labels:\n    severity: %s\n  annotations:\n    summary: %s\n    description: %s\n",
		a.Name, indented(a.Expr+"\n", "    "), a.For, a.Severity, quoted(a.Summary+of),
		quoted(a.Description+" What to do: aws-encryption-provider explain "+a.Name))
	if url := docs.URL(docsURL, docs.Runbook(a.Name)); url != "" {
		fmt.Fprintf(&b, "    runbook_url: %s\n", quoted(url))
	}
	return b.String()
}

// quoted is a string of YAML.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func indented(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + line)
	}
	return b.String()
}
