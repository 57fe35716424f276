// Package config makes one validated, immutable [Config] of flags and
// environment, or of a file. Every mistake is found at once and named with its
// flag, or with its field and line.
//
// Both become one document with the file's fields, which is checked and built in
// one place; they differ in the words by which a mistake names a field.
package config

import (
	"io/fs"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Config is what the process runs by. It is made by [Flags.Parse] or
// [Source.Load], and never changed.
type Config struct {
	Providers []Provider
	Socket    Socket
	Health    Health
	Log       Log

	KMSTimeout    time.Duration // limit of one call, retries included
	OutageGrace   time.Duration // 0: an outage is reported when it is declared
	ShutdownDelay time.Duration // 0: shutdown begins at the signal

	File     string   // of --config; "" with flags
	Hash     string   // first 16 hex digits of the SHA-256 of its bytes; "" with flags
	Warnings []string // what was accepted and has no effect, for the log
}

// A Provider is one socket and the keys behind it.
type Provider struct {
	Name   string // of the pair's position with flags: "0", "1" ...
	Listen string // path, or @name in the abstract namespace
	Keys   []Key  // the first writes, all read; never empty
	Epoch  uint32 // part of the key_id: another one makes API servers take a new DEK seed; 0: none
	Retry  Retry
}

// A Key is a KMS key and how it is called.
type Key struct {
	Key               string            `file:"key,required"` // as KMS takes it
	Region            string            `file:"region"`       // "": to be found out
	Endpoint          string            `file:"endpoint"`     // "": the SDK's
	AssumeRoleARN     string            `file:"assumeRoleARN"`
	ExternalID        string            `file:"externalID"`
	SourceARN         string            `file:"sourceARN"`
	EncryptionContext map[string]string `file:"encryptionContext"`
}

// Equal reports whether both are the same key, called in the same way.
func (k Key) Equal(o Key) bool {
	context := maps.Equal(k.EncryptionContext, o.EncryptionContext)
	k.EncryptionContext, o.EncryptionContext = nil, nil
	return context && reflect.DeepEqual(k, o)
}

// Equal reports whether nothing differs, the order of the keys included.
func (p Provider) Equal(o Provider) bool {
	return p.Name == o.Name && p.Listen == o.Listen && p.Epoch == o.Epoch && p.Retry == o.Retry &&
		slices.EqualFunc(p.Keys, o.Keys, Key.Equal)
}

// Retry sizes the token bucket that retries draw from.
type Retry struct {
	Tokens uint // 0: the SDK's
	Flat   bool // each retry costs one token
}

// Socket says who may reach the sockets.
type Socket struct {
	Mode      fs.FileMode
	Group     int      // -1: the process's own
	AllowUIDs []uint32 // empty: the file's mode decides
}

// Health is the HTTP listener of health and metrics.
type Health struct {
	Address     string
	HealthzPath string
	LivezPath   string
}

// Log says what is logged and how.
type Log struct {
	Level slog.Level
	JSON  bool
}

// LogLevels are what a log's level can be.
func LogLevels() []string { return logLevel("").values() }

// LogFormats are what a log's format can be.
func LogFormats() []string { return logFormat("").values() }

// A Mistake is something wrong with one setting.
type Mistake struct {
	File    string // "" where it is not of a file
	Line    int    // of File, from 1; 0 where it is not of one line
	Field   string // such as "--key" or "providers[0].keys[1].region"; "" for the whole
	Text    string
	Usage   bool // the command line, or a variable, cannot be read as it is, whatever it configures
	Follows bool // something is missing, which may stand in what could not be read
}

// String returns where and what in one line.
func (m Mistake) String() string {
	var where string
	switch {
	case m.File != "" && m.Line > 0:
		where = m.File + ":" + strconv.Itoa(m.Line) + ": "
	case m.File != "":
		where = m.File + ": "
	}
	if m.Field != "" {
		where += m.Field + ": "
	}
	return where + m.Text
}

// Mistakes are all that is wrong with a configuration.
type Mistakes []Mistake //nolint:errname // a list, and called what it is

// Error returns a line for each mistake.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, one := range m {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Certain returns those that do not follow from another one: where a part of the
// command line could not be read, nobody knows what is missing.
func (m Mistakes) Certain() Mistakes {
	if !slices.ContainsFunc(m, func(one Mistake) bool { return one.Usage && !one.Follows }) {
		return m
	}
	return slices.DeleteFunc(slices.Clone(m), func(one Mistake) bool { return one.Follows })
}

func (m *Mistakes) addFollowing(field, text string) {
	*m = append(*m, Mistake{Field: field, Text: text, Follows: true})
}

func (m *Mistakes) add(field, text string) { *m = append(*m, Mistake{Field: field, Text: text}) }

func (m *Mistakes) addUsage(field, text string) {
	*m = append(*m, Mistake{Field: field, Text: text, Usage: true})
}
