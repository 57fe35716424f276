package daemon

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// wantOf reads the head of a broken file: a comment for each mistake.
func wantOf(t *testing.T, text string) []string {
	t.Helper()
	var want []string
	for line := range strings.Lines(text) {
		words, ok := strings.CutPrefix(strings.TrimSpace(line), "# want: ")
		if !ok {
			break
		}
		want = append(want, words)
	}
	if len(want) == 0 {
		t.Fatal("it does not begin with # want: and the words of a mistake")
	}
	return want
}

// refusalIn returns the error of the log's line that refuses a file, "" where there
// is none.
func refusalIn(b *testkit.LogBook, hash string) string {
	for line := range strings.Lines(b.String()) {
		var entry struct{ Msg, Hash, Error string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Hash == hash && strings.HasPrefix(entry.Msg, "configuration not reloaded") {
			return entry.Error
		}
	}
	return ""
}

// Each file that the configuration refuses, put in the place of one that is
// served.
func TestBrokenFileLeavesWhatIsServed(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../config/testdata/broken/*.yaml")
	if err != nil || len(paths) < 40 {
		t.Fatalf("%d broken files (%v), want at least 40", len(paths), err)
	}
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	good := fileText("health: {address: \"127.0.0.1:0\"}\n", p)
	f := runFiled(t, filing{dir: dir, bare: true}, good)
	f.ready()
	c := newCaller(t, p.listen)
	keyID := c.keyID()
	running := f.current.Load()
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := wantOf(t, string(data))
			f.write(string(data))
			testkit.Until(t, "it is refused", func() bool { return refusalIn(f.log, hashOf(string(data))) != "" })
			said := refusalIn(f.log, hashOf(string(data)))
			code, body := f.get("/readyz?verbose")
			for _, words := range want {
				if !strings.Contains(said, words) || !strings.Contains(body, words) {
					t.Errorf("%q is not told; the log:\n%s\n/readyz?verbose:\n%s", words, said, body)
				}
			}
			if code != http.StatusOK || !strings.Contains(body, "hash "+running.cfg.Hash) || !strings.Contains(body, "the running one goes on, it is read again when it changes: "+f.file+":") {
				t.Errorf("/readyz?verbose: %d %s", code, body)
			}
			if got := f.metric("aws_encryption_provider_config_reload_success"); got != "0" {
				t.Errorf("config_reload_success is %q, want 0", got)
			}
			if got := f.metric(`aws_encryption_provider_config_info{hash="` + running.cfg.Hash + `"}`); got != "1" {
				t.Errorf("config_info of what is served is %q, want 1", got)
			}
			if sealed := c.seals(); sealed.KeyId != keyID || c.keyID() != keyID || f.current.Load() != running {
				t.Errorf("key_id %s, want what was served to go on: %s", sealed.KeyId, keyID)
			}
		})
	}
	f.loads(good)
	if got := f.metric("aws_encryption_provider_config_reload_success"); got != "1" {
		t.Errorf("config_reload_success of a good file is %q, want 1", got)
	}
	if n := c.dials.Load(); n != 1 {
		t.Errorf("the caller has connected %d times, want its connection kept", n)
	}
}

func TestBrokenFileWaitsForAChange(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, createKey(t, kms))}}
	timing := shortTiming()
	timing.poll = 5 * time.Millisecond
	f := runFiled(t, filing{dir: dir, time: timing}, fileText("", p))
	f.ready()
	f.refuses("providers: []", "apiVersion: is missing")
	told := func() int { return strings.Count(f.log.String(), "configuration not reloaded") }
	time.Sleep(4 * timing.retryMost)
	if n := told(); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	f.Reload()
	testkit.Until(t, "it is told again on request", func() bool { return told() == 2 })
}

func TestWhatIsNoFileLeavesWhatIsServed(t *testing.T) {
	t.Parallel()
	_, p, f := runOne(t, "")
	f.must(os.Remove(f.file))
	f.must(os.Mkdir(f.file, 0o700))
	f.refused(f.file + " is a directory")
	newCaller(t, p.listen).keyID()
	f.must(os.Remove(f.file))
	f.loads(fileText("", p))
}
