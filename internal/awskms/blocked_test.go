package awskms

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// What holds for look-ups that hang: see [identity.Timing] and what bounds how many run.
const (
	fewRunning, manyRunning, mostRunning = 16, 64, 128

	lookUpPatience, failurePause = 4 * time.Second, 5 * time.Second
	mostPause, crowdedPause      = 30 * time.Second, 10 * time.Minute
)

// A block is what a step of a look-up meets that ignores its context.
type block struct{ until atomic.Pointer[chan struct{}] }

func (b *block) set() (release func()) {
	c := make(chan struct{})
	b.until.Store(&c)
	return func() { b.until.Store(nil); close(c) }
}

func (b *block) pass() {
	if c := b.until.Load(); c != nil {
		<-*c
	}
}

// Whichever step of a look-up blocks, for a minute or ten, with and without valid
// credentials: calls that can be signed are, others are answered, what is left
// behind has a bound and is gone afterwards, and ten seconds after all is well calls
// are served.
func TestBlockedLookUpsAreLeftBehind(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]time.Duration{"with credentials that end meanwhile": time.Minute, "with credentials that last": 6 * time.Hour} {
		for _, step := range []string{"settings", "source"} {
			for _, blocked := range []time.Duration{time.Minute, 10 * time.Minute} {
				t.Run(name+", "+step+", "+blocked.String(), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { blockFor(t, life, step, blocked) })
				})
			}
		}
	}
}

func blockFor(t *testing.T, life time.Duration, step string, blocked time.Duration) {
	t.Helper()
	w, b, conns := newWorld(life), &block{}, NewConnections()
	defer conns.Close()
	waits, left := counted(nil)
	down := func(s string) {
		if s == step {
			b.pass()
		}
	}
	inner := w.sts(nil)
	source := provider(func(ctx context.Context) (aws.Credentials, error) { down("source"); return inner.Retrieve(ctx) })
	c := w.client(t, Options{Connections: conns, Waits: waits}, source)
	w.from(c, func(context.Context) (settings.Found, error) {
		down("settings")
		return settings.Found{Provider: aws.NewCredentialsCache(source)}, nil
	})
	if err := w.seal(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	release := b.set()
	conns.Refresh()
	for start := time.Now(); time.Since(start) < blocked; time.Sleep(time.Second) {
		began := time.Now()
		err := w.seal(t.Context(), c)
		if w.holds() && err != nil {
			t.Fatalf("after %s: %v, with valid credentials in hand", time.Since(start), err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Fatalf("a call took %s", took)
		}
		if n := running(c); n > mostRunning {
			t.Fatalf("%d look-ups run", n)
		}
	}
	if left(bounded.Settings) == 0 {
		t.Error("nothing was counted as left behind")
	}
	release()
	well := time.Now()
	for w.seal(t.Context(), c) != nil {
		if time.Since(well) > 10*time.Second {
			t.Fatal("ten seconds after all is well, no call is served")
		}
		time.Sleep(time.Second)
	}
	time.Sleep(10 * time.Second)
	if n := running(c); n != 0 {
		t.Errorf("%d look-ups still run", n)
	}
}

func running(c *Client) int { return c.identity.Running() }

// What comes after a look-up was left behind is dropped.
func TestLateResultsAreDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, conns := newWorld(6*time.Hour), &block{}, NewConnections()
		defer conns.Close()
		c := w.client(t, Options{Connections: conns}, nil)
		w.from(c, func(context.Context) (settings.Found, error) {
			w.mu.Lock()
			role := w.role
			w.mu.Unlock()
			b.pass()
			value := w.issue(role, w.life)
			return settings.Found{Provider: provider(func(context.Context) (aws.Credentials, error) { return value, nil })}, nil
		})
		_ = w.seal(t.Context(), c)
		release := b.set()
		w.become("late")
		conns.Refresh()
		_ = w.seal(t.Context(), c)
		time.Sleep(40 * time.Second)
		release()
		synctest.Wait()
		w.become("first")
		for range 10 {
			_ = w.seal(t.Context(), c)
		}
		if n := w.signed("AKIAlate2"); n != 0 {
			t.Errorf("%d calls were signed with what came late", n)
		}
	})
}

// Of two look-ups beside each other the one that began later counts, whichever ends
// first: it may have found what took the place of the other's.
func TestSlowResultOfBeforeIsDropped(t *testing.T) {
	inWorld(t, 6*time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		inner := w.sts(nil)
		source := provider(func(ctx context.Context) (aws.Credentials, error) {
			value, err := inner.Retrieve(ctx)
			if value.AccessKeyID == "AKIAfirst1" {
				time.Sleep(6 * time.Second)
			}
			return value, err
		})
		w.from(c, func(context.Context) (settings.Found, error) {
			return settings.Found{Provider: aws.NewCredentialsCache(source)}, nil
		})
		time.AfterFunc(time.Second, func() { w.become("second") })
		for range 60 {
			_ = w.seal(t.Context(), c)
			time.Sleep(time.Second)
		}
		if asks, old, now := len(w.begun()), w.signed("AKIAfirst1"), w.signed("AKIAsecond2"); asks != 2 || old != 0 || now < 50 {
			t.Errorf("%d asks, %d calls with what the first found, %d with what the second did; want two, none, nearly all", asks, old, now)
		}
	})
}

// While a source hangs and there is nothing to sign with, another look-up begins
// beside the first after four seconds, and not sooner. What hangs must not pile up:
// with 16 steps that run there are 30 seconds between two, with 64 ten minutes, and
// with 128 nothing begins. SIGHUP waits for none of these but the last.
func TestLookUpsThatHangDoNotPileUp(t *testing.T) {
	inWorld(t, time.Hour, func(t *testing.T, w *world, c *Client, _ *atomic.Bool) {
		b, ran := &block{}, &sync.Map{} // number of an ask → how many steps ran as it began
		source := provider(func(context.Context) (aws.Credentials, error) {
			w.asked()
			ran.Store(len(w.begun())-1, running(c)-1)
			b.pass()
			return aws.Credentials{}, errDown
		})
		w.from(c, func(context.Context) (settings.Found, error) {
			return settings.Found{Provider: source}, nil
		})
		release := b.set()
		_ = w.seal(t.Context(), c)
		requested := map[int]bool{}
		for _, crowd := range []int{fewRunning + 4, manyRunning + 4} {
			for running(c) < crowd {
				time.Sleep(time.Second)
			}
			before := len(w.begun())
			c.opts.Connections.Refresh()
			_ = w.seal(t.Context(), c)
			synctest.Wait()
			if n := len(w.begun()) - before; n != 1 {
				t.Errorf("while %d run: SIGHUP led to %d look-ups, want one at once", crowd, n)
			}
			requested[before] = true
		}
		time.Sleep(48 * time.Hour)
		c.opts.Connections.Refresh()
		_ = w.seal(t.Context(), c)
		time.Sleep(time.Hour)
		began := w.begun()
		if n := running(c); n != mostRunning || len(began) != mostRunning {
			t.Errorf("%d steps run, after %d look-ups; want %d", n, len(began), mostRunning)
		}
		for n := 1; n < len(began); n++ {
			least, most := lookUpPatience, lookUpPatience+failurePause
			beside, _ := ran.Load(n)
			switch beside := beside.(int); {
			case beside >= manyRunning:
				least, most = crowdedPause, crowdedPause+time.Second
			case beside >= fewRunning:
				least, most = mostPause, mostPause+time.Second
			}
			if gap := began[n].Sub(began[n-1]); !requested[n] && (gap < least || gap > most) {
				t.Errorf("look-up %d, while %d run, begins %s after the one before; want %s to %s", n, beside, gap, least, most)
			}
		}
		release()
		time.Sleep(10 * time.Second)
		if len(w.begun()) == len(began) {
			t.Error("ten seconds after nothing hangs, no look-up has begun")
		}
	})
}

// SIGHUP tries now, although another look-up hangs.
func TestRequestDoesNotWaitForWhatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, conns := newWorld(6*time.Hour), &block{}, NewConnections()
		defer time.Sleep(10 * time.Minute)
		defer conns.Close()
		inner := w.sts(nil)
		c := w.client(t, Options{Connections: conns}, provider(func(ctx context.Context) (aws.Credentials, error) { b.pass(); return inner.Retrieve(ctx) }))
		_ = w.seal(t.Context(), c)
		release := b.set()
		defer release()
		conns.Refresh()
		_ = w.seal(t.Context(), c)
		synctest.Wait()
		b.until.Store(nil) // what has begun still hangs
		w.become("second")
		conns.Refresh()
		for range 3 {
			_ = w.seal(t.Context(), c)
			synctest.Wait()
		}
		if n := w.signed("AKIAsecond2"); n == 0 {
			t.Error("what was asked for by SIGHUP is not used")
		}
	})
}

// What nobody can read to an end is refused before the SDK opens it, in the place of
// any file: the SDK would never return, or take all memory.
func TestFilesWithoutAnEndAreRefused(t *testing.T) {
	pipe := func(path string) error { return syscall.Mkfifo(path, 0o600) }
	device := func(path string) error { return os.Symlink("/dev/zero", path) }
	long := func(path string) error {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(path, 64<<30)
	}
	for kind, is := range map[string]struct {
		make func(path string) error
		said string
	}{
		"pipe": {pipe, "named pipe"}, "device": {device, "is a device"}, "long": {long, "has 68719476736 bytes"},
	} {
		t.Run(kind, func(t *testing.T) { testRefused(t, is.make, is.said) })
	}
}

func testRefused(t *testing.T, odd func(path string) error, said string) {
	t.Helper()
	for name, also := range map[string]map[string]string{
		"AWS_SHARED_CREDENTIALS_FILE":            nil,
		"AWS_CONFIG_FILE":                        nil,
		"AWS_CA_BUNDLE":                          {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"},
		"AWS_WEB_IDENTITY_TOKEN_FILE":            {"AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/r", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"},
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			noFiles(t)
			path := filepath.Join(t.TempDir(), "odd")
			if err := odd(path); err != nil {
				t.Fatal(err)
			}
			t.Setenv(name, path)
			for name, value := range also {
				t.Setenv(name, value)
			}
			wantRefused(t, path, said, strings.Contains(name, "TOKEN"))
		})
	}
	for _, setting := range []string{"ca_bundle", "web_identity_token_file"} {
		t.Run(setting, func(t *testing.T) {
			noFiles(t)
			dir := t.TempDir()
			path, file := filepath.Join(dir, "odd"), filepath.Join(dir, "config")
			if err := odd(path); err != nil {
				t.Fatal(err)
			}
			text := "[default]\nrole_arn = arn:aws:iam::111122223333:role/r\n" + setting + " = " + path + "\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AWS_CONFIG_FILE", file)
			wantRefused(t, path, said, strings.Contains(setting, "token"))
		})
	}
}

func wantRefused(t *testing.T, path, said string, isToken bool) {
	t.Helper()
	want := cause.SettingsUnreadable
	if isToken {
		want = cause.TokenUnreadable
	}
	w := newWorld(time.Hour)
	c := w.bare(t, Options{})
	err := w.seal(t.Context(), c)
	if code(err) != want || !strings.Contains(err.Error(), said) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want %s refused with code %s, since it %s", err, path, want, said)
	}
	if n := running(c); n != 0 {
		t.Errorf("%d steps still run", n)
	}
}

// /dev/null stands for a file that is not wanted.
func TestNullDeviceIsAnEmptyFile(t *testing.T) {
	noFiles(t)
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAnull")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	w := newWorld(time.Hour)
	if err := w.seal(t.Context(), w.bare(t, Options{})); code(err) == cause.SettingsUnreadable {
		t.Errorf("got %v", err)
	}
}

// Where a named pipe takes the place of a file, what was read before goes on; where
// a file takes that of the pipe, it is read.
func TestPipeInTheWayLeavesWhatWorks(t *testing.T) {
	noFiles(t)
	file := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	write := func(value aws.Credentials) {
		t.Helper()
		_ = os.Remove(file)
		text := "[default]\naws_access_key_id = " + value.AccessKeyID + "\naws_secret_access_key = s\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w, conns := newWorld(0), NewConnections()
		defer conns.Close()
		c := w.bare(t, Options{Connections: conns})
		write(w.issue("first", 0))
		must := func() {
			t.Helper()
			if err := w.seal(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		must()
		_ = os.Remove(file)
		if err := syscall.Mkfifo(file, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			time.Sleep(16 * time.Second)
			must()
		}
		write(w.issue("second", 0))
		time.Sleep(16 * time.Second)
		must()
		must()
		if w.signed("AKIAsecond2") == 0 {
			t.Error("the file that came back is not used")
		}
		if n := running(c); n != 0 {
			t.Errorf("%d steps still run", n)
		}
	})
}
