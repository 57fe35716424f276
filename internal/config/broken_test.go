package config_test

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// files returns the configuration files of a folder, by their names.
func files(t testing.TB, dir string, atLeast int) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(paths) < atLeast {
		t.Fatalf("%s has %d files (%v), want at least %d", dir, len(paths), err, atLeast)
	}
	return paths
}

// loadFile starts with a file as the command line does.
func loadFile(path string) (*config.Config, error) {
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	return config.NewFlags(set).Parse([]string{"--config=" + path}, func(string) (string, bool) { return "", false })
}

// wantOf reads the head of a broken file: a comment for each mistake, in order.
func wantOf(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	lines := bufio.NewScanner(strings.NewReader(string(data)))
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "# want: ")
		if !ok {
			break
		}
		want = append(want, text)
	}
	if len(want) == 0 {
		t.Fatalf("%s does not begin with # want: and the words of a mistake", path)
	}
	return want
}

// Each file names in its head the lines, fields and words of all its mistakes.
func TestBrokenFilesAreRefusedAndEachMistakeIsNamed(t *testing.T) {
	t.Parallel()
	for _, path := range files(t, "testdata/broken", 40) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			cfg, err := loadFile(path)
			if cfg != nil || err == nil {
				t.Fatalf("taken: %+v", cfg)
			}
			got, want := strings.Split(err.Error(), "\n"), wantOf(t, path)
			for i := range max(len(got), len(want)) {
				switch {
				case i >= len(got):
					t.Errorf("not told: %q", want[i])
				case i >= len(want):
					t.Errorf("told besides: %q", got[i])
				case got[i] != path+":"+want[i] && got[i] != path+": "+want[i]:
					t.Errorf("told %q, want %s:%s", got[i], path, want[i])
				}
			}
		})
	}
}

func TestGoodFilesAreTaken(t *testing.T) {
	t.Parallel()
	for _, path := range files(t, "testdata/good", 9) {
		if cfg, err := loadFile(path); err != nil || len(cfg.Providers) == 0 || cfg.File != path {
			t.Errorf("%s: %+v, %v", path, cfg, err)
		}
	}
}
