package cli_test

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cli"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/metrics"
)

// status runs the command until its exit code is the wanted one.
func status(t *testing.T, want int, args ...string) string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		var out bytes.Buffer
		code := cli.Main(t.Context(), append([]string{"status"}, args...), cli.Streams{
			Out: &out, Err: &out, LookupEnv: func(string) (string, bool) { return "", false },
		})
		if code == want {
			return out.String()
		}
		if time.Now().After(deadline) {
			t.Fatalf("status %q exits %d, want %d:\n%s", args, code, want, out.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestStatusShowsWhatAnAPIServerSees(t *testing.T) {
	_, socket, key := daemontest.Running(t)
	text := status(t, cli.Done, "--listen="+socket)
	for _, want := range []string{"grace         is not used", "healthz       ok", "key_id        " + key + "?material=", "key_id hash   sha256:", "v2beta1, round trip in", "v1beta1, round trip in", "AWSKMS v1", "result        ok"} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in:\n%s", want, text)
		}
	}
	var report struct {
		Version                int
		OK                     bool
		Healthz, KeyID, Socket string
		Problems               []string
		V1RoundTripSeconds     float64
		V2RoundTripSeconds     float64
		V1Version, V2Version   string
		KeyIDHash, V1Runtime   string
		Findings               []struct{ Code, Cause, Next string }
		Grace                  struct{ State, Until string }
		Readyz                 []string
	}
	decoder := json.NewDecoder(strings.NewReader(status(t, cli.Done, "-socket", socket, "-o", "json")))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&report); err != nil {
		t.Fatal(err)
	}
	if !report.OK || report.Version != 2 || report.Findings == nil || report.Grace.State != "idle" || !strings.HasPrefix(report.KeyID, key+"?material=") || report.KeyIDHash != metrics.KeyIDHash(report.KeyID) || report.Problems == nil ||
		report.V1RoundTripSeconds <= 0 || report.V2RoundTripSeconds <= 0 {
		t.Errorf("report %+v", report)
	}
}

func TestStatusExitsWith3WhereSomethingIsWrong(t *testing.T) {
	s, socket, key := daemontest.Running(t)
	text := status(t, cli.Done, "--socket=unix://"+socket, "--expect-key-id="+key)
	_, after, _ := strings.Cut(text, "key_id        ")
	keyID, _, _ := strings.Cut(after, "\n")
	status(t, cli.Done, "--socket="+socket, "--expect-key-id="+keyID)
	status(t, cli.Done, "--socket="+socket, "--expect-key-id="+metrics.KeyIDHash(keyID))
	if text := status(t, cli.Found, "--socket="+socket, "--expect-key-id=other"); !strings.Contains(text, `problem       KMS0805: the key_id is not the expected one (want "other")`) {
		t.Errorf("another key_id is expected:\n%s", text)
	}
	want := "socket        " + socket + "-none\n" +
		"problem       KMS0801: nothing is at " + socket + "-none\n" +
		"              do: start the program, or give its --listen\n" +
		"              see aws-encryption-provider explain KMS0801\n" +
		"result        not ok: 1 problem\n"
	if text := status(t, cli.Found, "--socket="+socket+"-none", "--timeout=1s"); text != want {
		t.Errorf("nobody serves the socket:\n%s\nwant\n%s", text, want)
	}
	if err := s.DisableKey(key); err != nil {
		t.Fatal(err)
	}
	text = status(t, cli.Found, "--socket="+socket)
	if strings.Count(text, "problem       KMS0101: ") != 1 || strings.Count(text, "\n              see aws-encryption-provider explain KMS0101\n") != 1 || strings.Count(text, "do: enable the key") != 1 || !strings.HasSuffix(text, "result        not ok: 1 problem\n") || !strings.Contains(text, "grace         does not apply") {
		t.Errorf("the key is disabled:\n%s", text)
	}
}

func TestStatusRefusesWrongUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-o", "yaml"}, {"--timeout=0s"}, {"--sokcet=x"}, {"--health-address=http"}, {"--expect-key-id="}, {"extra"}} {
		status(t, cli.Usage, args...)
	}
	if text := status(t, cli.Done, "--help"); !strings.Contains(text, "--expect-key-id") || !strings.Contains(text, "Exit codes") {
		t.Errorf("help:\n%s", text)
	}
}

// A socket that accepts and never answers must not hold a terminal.
func TestStatusEndsAtASignal(t *testing.T) {
	t.Parallel()
	dir := daemontest.Directory(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	signals := make(chan os.Signal, 1)
	signals <- os.Interrupt
	began := time.Now()
	code := cli.Main(t.Context(), []string{"status", "--socket=" + filepath.Join(dir, "s"), "--timeout=10m"}, cli.Streams{
		Out: new(bytes.Buffer), Err: new(bytes.Buffer), Signals: signals, LookupEnv: func(string) (string, bool) { return "", false },
	})
	if took := time.Since(began); code != cli.Found || took > time.Minute {
		t.Errorf("exit code %d after %v, want %d at once", code, took, cli.Found)
	}
}
