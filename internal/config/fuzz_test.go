package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/yamlwords"
)

// FuzzLoad looks for a file that is taken and should not be: what is taken passes
// the schema, and means the same when it is written out again. What is refused is
// refused in lines that a log can hold.
func FuzzLoad(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil || len(seeds) < 40 {
		f.Fatalf("%d seeds, %v", len(seeds), err)
	}
	for _, path := range seeds {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	schema := compileSchema(f)
	source := &Source{path: "file"}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := source.Load(data)
		if (cfg == nil) == (err == nil) {
			t.Fatalf("config %v and error %v", cfg, err)
		}
		if err != nil {
			checkWords(t, err, data)
			return
		}
		if err := bySchema(schema, data); err != nil {
			t.Errorf("taken, and the schema refuses it: %v", err)
		}
		checkMeaning(t, source, cfg)
	})
}

func checkWords(t *testing.T, err error, data []byte) {
	t.Helper()
	mistakes, ok := errors.AsType[Mistakes](err)
	if !ok || len(mistakes) == 0 || len(mistakes) > maxMistakes+1 {
		t.Fatalf("%d mistakes: %v", len(mistakes), err)
	}
	last := len(yamlwords.Lines(data))
	for _, m := range mistakes {
		line := m.String()
		if m.File != "file" || m.Line < 0 || m.Line > last || m.Text == "" {
			t.Errorf("%+v of a file with %d lines", m, last)
		}
		if len(line) > 1000 || !utf8.ValidString(line) || strings.ContainsAny(line, "\n\r") {
			t.Errorf("no line of a log: %q", line)
		}
		for _, theirs := range []string{"yaml:", "did not find", "could not find", "this context", "any token"} {
			if strings.Contains(m.Text, theirs) {
				t.Errorf("the parser's words: %s", m.Text)
			}
		}
	}
}

func checkMeaning(t *testing.T, source *Source, cfg *Config) {
	t.Helper()
	if len(cfg.Providers) == 0 || len(cfg.Hash) != 16 {
		t.Fatalf("%+v", cfg)
	}
	for _, p := range cfg.Providers {
		if p.Name == "" || p.Listen == "" || len(p.Keys) == 0 {
			t.Errorf("%+v", p)
		}
		for _, k := range p.Keys {
			if _, err := keyref.Parse(k.Key); err != nil {
				t.Errorf("%+v: %v", k, err)
			}
		}
	}
	again, err := source.Load([]byte(written(cfg)))
	if err != nil {
		t.Fatalf("%s\n%v", written(cfg), err)
	}
	if !slices.EqualFunc(cfg.Providers, again.Providers, Provider.Equal) || cfg.KMSTimeout != again.KMSTimeout ||
		cfg.OutageGrace != again.OutageGrace || cfg.ShutdownDelay != again.ShutdownDelay || cfg.Health != again.Health {
		t.Errorf("%+v\nwritten out and read again:\n%+v", cfg, again)
	}
}

// written is a configuration as a file, with every text in quotes.
func written(cfg *Config) string {
	var b strings.Builder
	say := func(indent, name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s%s: %s\n", indent, name, strconv.QuoteToASCII(value))
		}
	}
	say("", "apiVersion", apiVersion)
	say("", "kind", kind)
	say("", "kmsTimeout", cfg.KMSTimeout.String())
	say("", "outageGrace", cfg.OutageGrace.String())
	say("", "shutdownDelay", cfg.ShutdownDelay.String())
	b.WriteString("socket: {allowUIDs: [0]}\nhealth:\n")
	say("  ", "address", cfg.Health.Address)
	say("  ", "healthzPath", cfg.Health.HealthzPath)
	say("  ", "livezPath", cfg.Health.LivezPath)
	b.WriteString("providers:\n")
	for _, p := range cfg.Providers {
		fmt.Fprintf(&b, "- epoch: %d\n  retryTokenCapacity: %d\n", p.Epoch, p.Retry.Tokens)
		say("  ", "name", p.Name)
		say("  ", "listen", p.Listen)
		b.WriteString("  keys:\n")
		for _, k := range p.Keys {
			b.WriteString("  - encryptionContext:\n      {")
			for name, value := range k.EncryptionContext {
				fmt.Fprintf(&b, "%s: %s,\n      ", strconv.QuoteToASCII(name), strconv.QuoteToASCII(value))
			}
			b.WriteString("}\n")
			say("    ", "key", k.Key)
			say("    ", "region", k.Region)
			say("    ", "endpoint", k.Endpoint)
			say("    ", "assumeRoleARN", k.AssumeRoleARN)
			say("    ", "externalID", k.ExternalID)
			say("    ", "sourceARN", k.SourceARN)
		}
	}
	return b.String()
}
