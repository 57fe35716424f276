package metrics

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Health is how one provider is doing at the moment of a scrape.
type Health struct {
	Provider  string
	State     string
	Codes     []string  // of what is wrong; empty where nothing is
	Served    bool      // callers find the socket, and somebody answers there
	KeyID     string    // "" before the first contact with KMS
	LastOK    time.Time // zero: never
	GraceEnds time.Time // zero: no grace is running
}

// RegisterHealth exports the health of all providers, read at each scrape.
// states are all values that the label "state" can have.
func RegisterHealth(reg prometheus.Registerer, states []string, read func() []Health) {
	label := []string{"provider"}
	reg.MustRegister(&healthCollector{
		states: states, read: read,
		state: prometheus.NewDesc("aws_encryption_provider_health",
			"1 for the state that the provider is in, 0 for the others.", []string{"provider", "state"}, nil),
		cause: prometheus.NewDesc("aws_encryption_provider_health_cause",
			"1 for the code of what is wrong with the provider; absent where nothing is.", []string{"provider", "code"}, nil),
		age: prometheus.NewDesc("aws_encryption_provider_health_age_seconds",
			"Seconds since the provider's key last worked; absent before the first time.", label, nil),
		grace: prometheus.NewDesc("aws_encryption_provider_outage_grace_end_timestamp_seconds",
			"When Status will report the outage that is under way; absent where none is.", label, nil),
		socket: prometheus.NewDesc("aws_encryption_provider_socket_served",
			"1 if the provider's socket is served, 0 while it cannot be had or its file is gone.", label, nil),
		keyID: prometheus.NewDesc("aws_encryption_provider_key_id_hash",
			"1 for the hash of the provider's key_id, in the form in which kube-apiserver exports it.",
			[]string{"provider", "key_id_hash"}, nil),
	})
}

type healthCollector struct {
	states                                  []string
	read                                    func() []Health
	state, cause, age, grace, socket, keyID *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *healthCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.state, c.cause, c.age, c.grace, c.socket, c.keyID} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *healthCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for _, h := range c.read() {
		for _, state := range c.states {
			gauge(c.state, oneIf(h.State == state), h.Provider, state)
		}
		for _, code := range h.Codes {
			gauge(c.cause, 1, h.Provider, code)
		}
		gauge(c.socket, oneIf(h.Served), h.Provider)
		if !h.LastOK.IsZero() {
			gauge(c.age, time.Since(h.LastOK).Seconds(), h.Provider)
		}
		if !h.GraceEnds.IsZero() {
			gauge(c.grace, float64(h.GraceEnds.UnixMilli())/1000, h.Provider)
		}
		if h.KeyID != "" {
			gauge(c.keyID, 1, h.Provider, KeyIDHash(h.KeyID))
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// KeyIDHash is kube-apiserver's form of a key_id in its own metrics:
// "sha256:" and the hex digest.
//
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/staging/src/k8s.io/apiserver/pkg/storage/value/encrypt/envelope/metrics/metrics.go
func KeyIDHash(keyID string) string {
	sum := sha256.Sum256([]byte(keyID))
	return "sha256:" + hex.EncodeToString(sum[:])
}
