package main

import (
	"strings"
	"testing"
	"time"
)

func TestOutputStaysInOnePiece(t *testing.T) {
	t.Parallel()
	in := `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: first\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: other\n"}
{"Action":"run","Package":"p","Test":"TestA/sub"}
{"Action":"output","Package":"p","Test":"TestA/sub","Output":"        a_test.go:2: second\n"}
{"Action":"pass","Package":"p","Test":"TestA/sub","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- FAIL: TestB (0.10s)\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- PASS: TestA (0.20s)\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.2}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.3s\n"}
{"Action":"fail","Package":"p","Elapsed":0.3}
`
	want := `    b_test.go:1: other
--- FAIL: TestB (0.10s)
    a_test.go:1: first
        a_test.go:2: second
--- PASS: TestA (0.20s)
FAIL	p	0.3s
1 passed, 1 failed, 0 skipped
`
	var out strings.Builder
	err := run(strings.NewReader(in), &out, nil)
	if err == nil || err.Error() != "failed: p" {
		t.Errorf("error %v, want that p failed", err)
	}
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", out.String(), want)
	}
}

func TestWhatPasses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in, says string
		fails    bool
	}{
		"nothing":      {"", "", true},
		"a package":    {`{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}` + "\n" + `{"Action":"pass","Package":"p"}`, "ok  \tp\t0.1s\n", false},
		"no build":     {`{"Action":"build-output","ImportPath":"p","Output":"x.go:1: no\n"}` + "\n" + `{"Action":"build-fail","ImportPath":"p"}`, "x.go:1: no", true},
		"plain words":  {"go: downloading x\n" + `{"Action":"pass","Package":"p"}`, "go: downloading x\n", false},
		"a dead child": {`{"Action":"output","Package":"p","Test":"TestA","Output":"panic\n"}` + "\n" + `{"Action":"fail","Package":"p"}`, "panic\n", true},
	} {
		var out strings.Builder
		if err := run(strings.NewReader(c.in), &out, nil); (err != nil) != c.fails {
			t.Errorf("%s: error %v, want one: %v", name, err, c.fails)
		}
		if !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: printed %q, want %q in it", name, out.String(), c.says)
		}
	}
}

func TestItSaysWhatRuns(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var out strings.Builder
	p := printer{out: &out, started: map[string]time.Time{"p TestA": now.Add(-time.Minute), "p TestB": now.Add(-time.Second)}}
	p.waiting(now)
	if want := "... 0 passed, 0 failed; running: TestA (1m0s), TestB (1s)\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}
