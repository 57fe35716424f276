package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Sample is one line of a metrics page.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// Samples are a metrics page.
type Samples []Sample

// ParseMetrics reads Prometheus' text format as far as these servers write it:
// no time stamps, no comma or quote within a label's value.
func ParseMetrics(page string) Samples {
	line := regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)
	label := regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="([^"]*)"`)
	var samples Samples
	for text := range strings.Lines(page) {
		match := line.FindStringSubmatch(strings.TrimSpace(text))
		if match == nil {
			continue // a comment
		}
		value, err := strconv.ParseFloat(match[3], 64)
		if err != nil {
			continue
		}
		s := Sample{Name: match[1], Value: value, Labels: map[string]string{}}
		for _, pair := range label.FindAllStringSubmatch(match[2], -1) {
			s.Labels[pair[1]] = pair[2]
		}
		samples = append(samples, s)
	}
	return samples
}

// Named returns all samples of this name.
func (s Samples) Named(name string) Samples {
	return slices.DeleteFunc(slices.Clone(s), func(one Sample) bool { return one.Name != name })
}

// Value returns the sum of the samples of this name that have these labels
// among theirs, and whether there is any.
func (s Samples) Value(name string, labels map[string]string) (sum float64, found bool) {
	for _, one := range s.Named(name) {
		all := maps.Clone(one.Labels)
		maps.Copy(all, labels)
		if maps.Equal(all, one.Labels) {
			sum, found = sum+one.Value, true
		}
	}
	return sum, found
}

// KeyIDHash is how an API server's metrics name a key_id.
func KeyIDHash(keyID string) string {
	sum := sha256.Sum256([]byte(keyID))
	return "sha256:" + hex.EncodeToString(sum[:])
}
