package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reload is what became of the configuration's file.
type Reload struct {
	OK     bool      // the file as it is now is what is served
	LastOK time.Time // when what is served was loaded
	Hash   string    // of what is served
}

// RegisterReload exports what became of the configuration's file, read at each
// scrape.
func RegisterReload(reg prometheus.Registerer, read func() Reload) {
	reg.MustRegister(&reloadCollector{
		read: read,
		success: prometheus.NewDesc("aws_encryption_provider_config_reload_success",
			"1 if the configuration's file was last loaded with success, 0 while it is broken or cannot be used.", nil, nil),
		lastOK: prometheus.NewDesc("aws_encryption_provider_config_reload_timestamp_seconds",
			"When the configuration that is served was loaded.", nil, nil),
		info: prometheus.NewDesc("aws_encryption_provider_config_info",
			"1 for the first 16 digits of the SHA-256 of the configuration's file that is served.", []string{"hash"}, nil),
	})
}

type reloadCollector struct {
	read                  func() Reload
	success, lastOK, info *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *reloadCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.success, c.lastOK, c.info} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *reloadCollector) Collect(out chan<- prometheus.Metric) {
	r := c.read()
	out <- prometheus.MustNewConstMetric(c.success, prometheus.GaugeValue, oneIf(r.OK))
	out <- prometheus.MustNewConstMetric(c.lastOK, prometheus.GaugeValue, float64(r.LastOK.UnixMilli())/1000)
	out <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, r.Hash)
}
