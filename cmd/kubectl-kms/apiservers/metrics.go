package apiservers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Names of metrics. k8s.io/apiserver 1.37, pkg/storage/value/encrypt/envelope/metrics and
// pkg/server/options/encryptionconfig/metrics.
const (
	metricStatus  = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"
	metricUsed    = "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds"
	metricConfig  = "apiserver_encryption_config_controller_last_config_info"
	metricV1      = "apiserver_envelope_encryption_dek_cache_inter_arrival_time_seconds_count"
	metricProcess = "process_start_time_seconds"
	metricBuild   = "kubernetes_build_info"
	metricRequest = "apiserver_request_total"

	labelID = "apiserver_id_hash"
)

// Bounds of what an API server may say.
const (
	maxMetrics = 512 << 20 // bytes
	maxLine    = 1 << 20
	maxKeys    = 10_000 // an API server keeps 100
)

// ReadMetrics reads what an API server's metrics say of encryption. It keeps nothing else
// of them: they may be tens of megabytes.
func ReadMetrics(r io.Reader) (Answer, error) {
	limited := &io.LimitedReader{R: r, N: maxMetrics + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	var a Answer
	for lines.Scan() {
		if err := a.add(lines.Text()); err != nil {
			return Answer{}, err
		}
	}
	if limited.N <= 0 {
		return Answer{}, errors.New("its metrics are longer than any API server's")
	}
	return a, lines.Err()
}

func (a *Answer) add(line string) error {
	end := strings.IndexAny(line, "{ ")
	if end < 0 {
		return nil
	}
	name := line[:end]
	switch name {
	case metricStatus, metricUsed, metricConfig, metricV1, metricProcess, metricBuild:
	case metricRequest:
		if !strings.Contains(line, `"leases"`) || !strings.Contains(line, `"409"`) {
			return nil // there are thousands
		}
	default:
		return nil
	}
	labels, text, err := labelsOf(line[end:])
	if err != nil {
		return fmt.Errorf("its metric %s has another form than metrics have: %w", name, err)
	}
	if id := labels[labelID]; id != "" {
		if a.ID != "" && a.ID != id {
			return errors.New("its metrics are of two API servers")
		}
		a.ID = id
	}
	return a.take(name, labels, text)
}

func (a *Answer) take(name string, labels map[string]string, text string) error {
	switch name {
	case metricConfig:
		a.Config = labels["hash"]
	case metricBuild:
		a.Version = labels["git_version"]
	case metricProcess:
		a.Process = text
	case metricV1: // KMS v2 has no such cache
		a.V1 = true
	case metricRequest:
		a.Conflicts = a.Conflicts || labels["resource"] == "leases" && labels["code"] == "409"
	case metricStatus:
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds < 0 || seconds > 1<<40 {
			return fmt.Errorf("its metric %s has the value %.64q", name, text)
		}
		if len(a.Keys) == maxKeys {
			return errors.New("its metrics name more keys than any API server's")
		}
		a.Keys = append(a.Keys, KeyID{labels["provider_name"], labels["key_id_hash"], time.UnixMicro(int64(seconds * 1e6))})
	}
	return nil
}

// labelsOf takes apart what follows a metric's name: labels, if any, and its value.
//
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
func labelsOf(text string) (labels map[string]string, value string, err error) {
	labels = map[string]string{}
	if rest, braced := strings.CutPrefix(text, "{"); braced {
		for {
			rest = strings.TrimLeft(rest, ", ")
			if after, closed := strings.CutPrefix(rest, "}"); closed {
				text = after
				break
			}
			name, quoted, ok := strings.Cut(rest, "=")
			if !ok || !strings.HasPrefix(quoted, `"`) {
				return nil, "", errors.New("a label without a value")
			}
			var content string
			if content, rest, err = unquote(quoted[1:]); err != nil {
				return nil, "", err
			}
			labels[strings.TrimSpace(name)] = content
		}
	}
	fields := strings.Fields(text) // a time may follow
	if len(fields) == 0 {
		return nil, "", errors.New("no value")
	}
	return labels, fields[0], nil
}

// unquote reads to the closing quote.
func unquote(text string) (content, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text):
			i++
			if text[i] == 'n' {
				b.WriteByte('\n')
			} else {
				b.WriteByte(text[i])
			}
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", errors.New("a label that does not end")
}
