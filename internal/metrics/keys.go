package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What a key is used for: values of the label "use". Earlier keys of an alias that
// no configuration lists are counted together under the alias, so that the number
// of series follows from the configuration.
const (
	UseWrite   = "write"
	UseRead    = "read"
	UseEarlier = "earlier"
)

// Key is how one key of a provider is doing at the moment of a scrape.
type Key struct {
	Provider string
	Key      string // as configured
	Use      string
	State    string
	Code     string // of the cause; "" where nothing is wrong

	Deletion time.Time // zero: not scheduled, or not told
}

// RegisterKeys exports the health of each key, read at each scrape. states are all
// values that the label "state" can have.
func RegisterKeys(reg prometheus.Registerer, states []string, read func() []Key) {
	reg.MustRegister(&keyCollector{
		states: states, read: read,
		health: prometheus.NewDesc("aws_encryption_provider_key_health",
			"How many keys of this name and use are in the state: 1 or 0, but for the earlier keys of an alias, which are counted together.",
			[]string{"provider", "key", "use", "state"}, nil),
		cause: prometheus.NewDesc("aws_encryption_provider_key_health_cause",
			"How many keys of this name and use have the code as what is wrong with them; absent where nothing is.",
			[]string{"provider", "key", "use", "code"}, nil),
		deletion: prometheus.NewDesc("aws_encryption_provider_key_deletion_timestamp_seconds",
			"When KMS deletes the key, where DescribeKey tells it, the first of an alias's keys; absent where no deletion is scheduled.",
			[]string{"provider", "key"}, nil),
	})
}

type keyCollector struct {
	states                  []string
	read                    func() []Key
	health, cause, deletion *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *keyCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.health, c.cause, c.deletion} {
		out <- d
	}
}

// Collect implements [prometheus.Collector]. A key may be listed twice, with two
// encryption contexts: what has the same labels is added up.
func (c *keyCollector) Collect(out chan<- prometheus.Metric) {
	type name struct{ provider, key, use string }
	type series struct {
		name

		value string
	}
	type owner struct{ provider, key string }
	health, causes, deletions := map[series]float64{}, map[series]float64{}, map[owner]time.Time{}
	for _, k := range c.read() {
		n := name{k.Provider, k.Key, k.Use}
		for _, state := range c.states {
			health[series{n, state}] += 0
		}
		health[series{n, k.State}]++
		if k.Code != "" {
			causes[series{n, k.Code}]++
		}
		o := owner{k.Provider, k.Key}
		if first, ok := deletions[o]; !k.Deletion.IsZero() && (!ok || k.Deletion.Before(first)) {
			deletions[o] = k.Deletion
		}
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for s, n := range health {
		gauge(c.health, n, s.provider, s.key, s.use, s.value)
	}
	for s, n := range causes {
		gauge(c.cause, n, s.provider, s.key, s.use, s.value)
	}
	for o, date := range deletions {
		gauge(c.deletion, float64(date.Unix()), o.provider, o.key)
	}
}
