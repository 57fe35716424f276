package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// reloadsVariable says how many reloads TestReloadsUnderCallers makes, such as
// 1000; a hundred where it does not.
const reloadsVariable = "DAEMON_TEST_RELOADS"

func reloads(t *testing.T) int {
	t.Helper()
	text := os.Getenv(reloadsVariable)
	if text == "" {
		return 100
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Two files in turn, which differ in one provider's first key and another's
// socket and share a third, under 16 callers of all three.
func TestReloadsUnderCallers(t *testing.T) { //nolint:paralleltest // it counts what the process holds
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	dir := testkit.Directory(t)
	turns := providerText{name: "turns", listen: dir + "/turns", keys: []string{keyText(kms, a), keyText(kms, b)}}
	same := providerText{name: "same", listen: dir + "/same", keys: []string{keyText(kms, createKey(t, kms))}}
	moves := providerText{name: "moves", listen: dir + "/1", keys: []string{keyText(kms, createKey(t, kms))}}
	const patient = "kmsTimeout: 1m\n" // no call may fail because the machine is slow
	first := fileText(patient, turns, same, moves)
	turns.keys[0], turns.keys[1] = turns.keys[1], turns.keys[0]
	moves.listen = dir + "/2"
	second := fileText(patient, turns, same, moves)

	timing := shortTiming()
	timing.answer, timing.Keep = 10*testkit.Patience, 10*testkit.Patience // what comes and goes by itself
	timing.settle = time.Millisecond
	f := runFiled(t, filing{dir: dir, time: timing, log: &testkit.LogBook{Level: slog.LevelError}}, first)
	f.ready()
	var callers []*traffic
	for i := range 16 {
		switch i % 4 {
		case 0, 1:
			callers = append(callers, &traffic{caller: newCaller(t, turns.listen), bare: i == 1, keys: []string{a, b}})
		case 2:
			callers = append(callers, &traffic{caller: newCaller(t, same.listen), bare: i == 2})
		case 3:
			callers = append(callers, &traffic{caller: newCaller(t, dir+"/1", dir+"/2"), bare: i == 3})
		}
	}
	alternate := func(rounds int) {
		t.Helper()
		stop := runTraffic(callers)
		for range rounds {
			f.loads(second)
			f.loads(first)
		}
		calls := stop()
		for i, c := range callers { // so that each has a connection
			if err := c.once(i); err != nil {
				t.Errorf("a call over %s: %v", c.paths, err)
			}
		}
		if calls < int64(rounds) || t.Failed() {
			t.Fatalf("%d calls during %d reloads: the test shows nothing, or a call failed", calls, 2*rounds)
		}
	}
	alternate(10)
	before := held(f, kms)
	n := reloads(t)
	alternate(n / 2)
	after := held(f, kms)
	t.Logf("%d reloads: %+v, then %+v", n, before, after)
	const (
		heapNoise = 1 << 20
		workers   = 32 // that calls of KMS may leave idle: how many there are is a matter of chance
	)
	if after.goroutines > before.goroutines+workers || after.files > before.files || after.heap > before.heap+heapNoise {
		t.Errorf("held after %d reloads: %+v\nwant no more than before: %+v", n, after, before)
	}
	if text := f.log.String(); text != "" {
		t.Errorf("errors in the log:\n%s", text)
	}
}

// traffic is a caller that encrypts and decrypts all the time.
type traffic struct {
	*caller

	bare bool     // speaks KMS v1
	keys []string // one of which each key_id names; nil: any
	old  []*v2.EncryptResponse
}

// once does one round trip, and every few of them reads what it wrote long ago.
func (c *traffic) once(i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	if c.bare {
		return c.onceBare(ctx)
	}
	sealed, err := c.kms.Encrypt(ctx, &v2.EncryptRequest{Plaintext: plaintext(), Uid: "u"})
	if err != nil {
		return err
	}
	if !c.known(sealed.KeyId) {
		return errors.New("key_id of no key that it has: " + sealed.KeyId)
	}
	const remembered = 64
	if len(c.old) < remembered {
		c.old = append(c.old, sealed)
	}
	c.old[i%remembered%len(c.old)], sealed = sealed, c.old[i%remembered%len(c.old)]
	return errors.Join(c.open(ctx, sealed), c.open(ctx, c.old[i%remembered%len(c.old)]))
}

func (c *traffic) known(keyID string) bool {
	for _, key := range c.keys {
		if strings.HasPrefix(keyID, key+"?") {
			return true
		}
	}
	return c.keys == nil
}

func (c *traffic) onceBare(ctx context.Context) error {
	sealed, err := c.v1.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: plaintext()})
	if err != nil {
		return err
	}
	opened, err := c.v1.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: sealed.Cipher})
	if err == nil && string(opened.Plain) != string(plaintext()) {
		err = errors.New("other bytes than were encrypted")
	}
	return err
}

// runTraffic lets callers call until it is stopped, which returns how often they
// did. Each call has to succeed.
func runTraffic(callers []*traffic) (stop func() int64) {
	done := make(chan struct{})
	var running sync.WaitGroup
	var calls atomic.Int64
	for _, c := range callers {
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if err := c.once(i); err != nil {
					c.t.Errorf("a call over %s: %v", c.paths, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	return func() int64 {
		close(done)
		running.Wait()
		return calls.Load()
	}
}

// holdings are what the process holds.
type holdings struct {
	goroutines, files int
	heap              uint64
}

// held counts once all has come to rest: connections to KMS are closed, since
// how many there are is a matter of chance.
func held(f *filed, kms *kmstest.Server) holdings {
	f.t.Helper()
	f.settled()
	testkit.Until(f.t, "no connection to KMS is open", func() bool { kms.Disconnect(); return kms.Open() == 0 })
	var last, now holdings
	same := 0
	testkit.Until(f.t, "it comes to rest", func() bool {
		last, now = now, holdings{goroutines: runtime.NumGoroutine(), files: openFiles(f.t)}
		if same++; now != last {
			same = 0
		}
		return same > 20
	})
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	now.heap = m.HeapAlloc
	return now
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && !strings.HasPrefix(target, "/proc/") {
			n++
		}
	}
	return n
}
