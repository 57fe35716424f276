package main

import (
	"strings"
	"testing"
	"time"
)

const stream = `
{"config": {"go_version": "go1.26.8", "scan_level": "symbol"}}
{"osv": {"id": "GO-1", "summary": "in the standard library"}}
{"osv": {"id": "GO-2", "summary": "in a module"}}
{"osv": {"id": "GO-3", "summary": "not called"}}
{"finding": {"osv": "GO-1", "fixed_version": "v1.26.9", "trace": [{"module": "stdlib", "version": "v1.26.8"}]}}
{"finding": {"osv": "GO-1", "fixed_version": "v1.26.9", "trace": [
	{"module": "stdlib", "version": "v1.26.8", "package": "net/http", "function": "Do", "receiver": "*Client"},
	{"module": "example.org", "package": "example.org/a", "function": "F", "receiver": "*T", "position": {"filename": "a.go", "line": 7}}]}}
{"finding": {"osv": "GO-2", "fixed_version": "v2.0.0", "trace": [
	{"module": "example.net", "version": "v1.0.0", "package": "example.net/b", "function": "B"},
	{"module": "example.org", "package": "example.org/a", "function": "F"}]}}
{"finding": {"osv": "GO-3", "trace": [{"module": "example.net", "package": "example.net/c"}]}}
`

func TestWhatFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		accepted map[string]string
		failed   int
		says     string
	}{
		"all that is reached": {nil, 2, "GO-1 REACHED: in the standard library\n    in net/http of stdlib v1.26.8, fixed in v1.26.9; called from example.org/a.T.F (a.go:7)"},
		"not what only a newer Go fixes": {
			map[string]string{"GO-1": "go1.26.9"}, 1, "GO-1, accepted until Go is go1.26.9",
		},
		"a fix that moved":        {map[string]string{"GO-1": "go1.26.7"}, 2, "GO-1 REACHED"},
		"no module can be listed": {map[string]string{"GO-2": "go2.0.0"}, 2, "GO-2 REACHED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := read(strings.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			if r.imported != 1 {
				t.Errorf("%d vulnerabilities in code that is not called, want 1", r.imported)
			}
			var out strings.Builder
			if failed := r.print(&out, ".", time.Second, c.accepted); failed != c.failed {
				t.Errorf("%d failed, want %d", failed, c.failed)
			}
			if !strings.Contains(out.String(), c.says) {
				t.Errorf("printed\n%swant in it\n%s", out.String(), c.says)
			}
		})
	}
}

// A scan that does not look at calls cannot say that nothing is reached.
func TestAShallowScanIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":   "",
		"modules": `{"config": {"go_version": "go1.26.8", "scan_level": "module"}}`,
		"cut":     stream[:len(stream)/2],
	} {
		if _, err := read(strings.NewReader(text)); err == nil {
			t.Errorf("%s: read, want an error", name)
		}
	}
}

func TestTheListIsWellFormed(t *testing.T) {
	t.Parallel()
	if _, err := parseAccepted(acceptedList); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"GO-1", "GO-1\tgo1.26.9\t", "CVE-1\tgo1.26.9\tx", "GO-1\tv2\tx", "GO-1\tgo1.2\tx\nGO-1\tgo1.2\tx"} {
		if _, err := parseAccepted(bad); err == nil {
			t.Errorf("%q: accepted, want an error", bad)
		}
	}
}
