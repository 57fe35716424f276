// Package metrics holds what is measured, its names and its registry.
//
// It decides nothing and imports no other room: label values come in as words.
// Handles are bound once for each provider, since looking labels up costs more
// than counting. Everything is safe for concurrent use.
package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Success is the value of the label "class" of a call that worked.
const Success = "success"

// Metrics are the metrics of one process.
type Metrics struct {
	calls       *prometheus.CounterVec
	callSeconds *prometheus.HistogramVec
	kmsCalls    *prometheus.CounterVec
	kmsSeconds  *prometheus.HistogramVec
	rejected    *prometheus.CounterVec
	abandoned   *prometheus.CounterVec
	legacyTotal *prometheus.CounterVec
	legacyTime  *prometheus.HistogramVec

	classes []string
}

// New registers the process's metrics. classes are all values that the label
// "class" can have beside success, waits all that "wait" can have.
func New(reg prometheus.Registerer, version, commit, goVersion string, classes, waits []string) *Metrics {
	factory := promauto.With(reg)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	factory.NewGaugeVec(prometheus.GaugeOpts{
		Name: "aws_encryption_provider_build_info",
		Help: "Version of this program; the value is always 1.",
	}, []string{"version", "commit", "go_version"}).WithLabelValues(version, commit, goVersion).Set(1)
	seconds := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	m := &Metrics{
		classes: append([]string{Success}, classes...),
		calls: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aws_encryption_provider_calls_total",
			Help: "Calls of kube-apiserver, by class of outcome.",
		}, []string{"provider", "api", "operation", "class"}),
		callSeconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "aws_encryption_provider_call_seconds",
			Help:    "Time that calls of kube-apiserver took, by class of outcome.",
			Buckets: seconds,
		}, []string{"provider", "api", "operation", "class"}),
		kmsCalls: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aws_encryption_provider_kms_calls_total",
			Help: "Calls of AWS KMS, health checks included, by class of outcome. An attempt that was repeated counts once.",
		}, []string{"provider", "operation", "class"}),
		kmsSeconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "aws_encryption_provider_kms_call_seconds",
			Help:    "Time that calls of AWS KMS took, repeated attempts included.",
			Buckets: seconds,
		}, []string{"provider", "operation"}),
		rejected: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aws_encryption_provider_connections_rejected_total",
			Help: "Connections to a socket that were closed at once, because of the caller's uid or because there were too many.",
		}, []string{"provider", "reason"}),
		abandoned: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aws_encryption_provider_waits_abandoned_total",
			Help: "Waits that were given up by a timer of this program, since what was waited for ignored its time limit, by kind of wait.",
		}, []string{"wait"}),
		legacyTotal: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aws_encryption_provider_kms_operations_total",
			Help: "total aws encryption provider kms operations",
		}, legacyLabels()),
		legacyTime: factory.NewHistogramVec(prometheus.HistogramOpts{ //nolint:promlinter // the predecessor's name
			Name:    "aws_encryption_provider_kms_operation_latency_ms",
			Help:    "Response latency in milliseconds for aws encryption provider kms operation ",
			Buckets: prometheus.ExponentialBuckets(2, 2, 14),
		}, legacyLabels()),
	}
	for _, wait := range waits { // so that the first one is seen as an increase
		m.abandoned.WithLabelValues(wait)
	}
	return m
}

// legacyLabels are those of the predecessor's two metrics, which its users'
// dashboards and alerts read.
func legacyLabels() []string { return []string{"key_arn", "status", "operation", "version"} }

// Rejected counts a connection that was closed at once. reason is "uid" or
// "limit".
func (m *Metrics) Rejected(provider, reason string) {
	m.rejected.WithLabelValues(provider, reason).Inc()
}

// Abandoned counts a wait that was given up although what was waited for goes on.
func (m *Metrics) Abandoned(wait string) { m.abandoned.WithLabelValues(wait).Inc() }

// A Call is the handles of one API's one operation of one provider.
type Call struct {
	byClass map[string]*callSeries
}

type callSeries struct {
	total  prometheus.Counter
	legacy *legacySeries // nil where the predecessor counted nothing
	bind   func() prometheus.Observer
	took   atomic.Pointer[prometheus.Observer]
}

type legacySeries struct {
	bind func() (prometheus.Counter, prometheus.Observer)
	both atomic.Pointer[legacyBound]
}

type legacyBound struct {
	total prometheus.Counter
	took  prometheus.Observer
}

// Call binds the handles of one operation ("encrypt", "decrypt" or "status") of
// one API ("v1" or "v2"). keyARN is the predecessor's label: the key as it was
// configured; "" counts nothing under the predecessor's names.
func (m *Metrics) Call(provider, api, operation, keyARN string) *Call {
	c := &Call{byClass: map[string]*callSeries{}}
	for _, class := range m.classes {
		s := &callSeries{
			total: m.calls.WithLabelValues(provider, api, operation, class),
			bind: func() prometheus.Observer {
				return m.callSeconds.WithLabelValues(provider, api, operation, class)
			},
		}
		if keyARN != "" {
			s.legacy = m.legacySeries(keyARN, LegacyStatus(class, false), operation, api)
			c.byClass[class+throttledSuffix] = &callSeries{
				total: s.total, bind: s.bind, legacy: m.legacySeries(keyARN, LegacyStatus(class, true), operation, api),
			}
		}
		c.byClass[class] = s
	}
	return c
}

const throttledSuffix = "/throttled"

func (m *Metrics) legacySeries(keyARN, status, operation, api string) *legacySeries {
	return &legacySeries{bind: func() (prometheus.Counter, prometheus.Observer) {
		return m.legacyTotal.WithLabelValues(keyARN, status, operation, api), m.legacyTime.WithLabelValues(keyARN, status, operation, api)
	}}
}

// LegacyStatus is the predecessor's word for the outcome of a call.
func LegacyStatus(class string, throttled bool) string {
	switch {
	case class == Success:
		return "success"
	case throttled:
		return "failure-throttle"
	case class == "bad_data":
		return "failure-corruption"
	}
	return "failure"
}

// Done counts a call that has ended. class is Success or one of the classes;
// throttled says that KMS throttled it.
func (c *Call) Done(class string, throttled bool, took time.Duration) {
	s, ok := c.byClass[class]
	if legacy, differs := c.byClass[class+throttledSuffix]; throttled && differs {
		s, ok = legacy, true
	}
	if !ok {
		return
	}
	s.total.Inc()
	s.seconds().Observe(took.Seconds())
	if s.legacy != nil {
		b := s.legacy.bound()
		b.total.Inc()
		b.took.Observe(float64(took.Milliseconds()))
	}
}

// seconds binds a histogram when it is first needed: most classes never are,
// and each would be fifteen lines of every scrape.
func (s *callSeries) seconds() prometheus.Observer {
	if bound := s.took.Load(); bound != nil {
		return *bound
	}
	bound := s.bind()
	s.took.Store(&bound)
	return bound
}

func (s *legacySeries) bound() *legacyBound {
	if bound := s.both.Load(); bound != nil {
		return bound
	}
	bound := &legacyBound{}
	bound.total, bound.took = s.bind()
	s.both.Store(bound)
	return bound
}

// KMS returns a function that counts KMS calls of a provider. Its class is
// Success or one of the classes.
func (m *Metrics) KMS(provider string) func(operation, class string, took time.Duration) {
	type handles struct {
		seconds prometheus.Observer
		classes map[string]prometheus.Counter
	}
	bound := map[string]handles{}
	for _, operation := range []string{"Encrypt", "Decrypt"} {
		h := handles{seconds: m.kmsSeconds.WithLabelValues(provider, operation), classes: map[string]prometheus.Counter{}}
		for _, class := range m.classes {
			h.classes[class] = m.kmsCalls.WithLabelValues(provider, operation, class)
		}
		bound[operation] = h
	}
	return func(operation, class string, took time.Duration) {
		if h, ok := bound[operation]; ok && h.classes[class] != nil {
			h.classes[class].Inc()
			h.seconds.Observe(took.Seconds())
		}
	}
}
