package provider_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A fakeMemory outlives the providers of a test.
type fakeMemory struct {
	mu     sync.Mutex
	kept   *provider.Known
	writes int
	fails  error         // of either
	full   error         // of Keep
	hangs  chan struct{} // nil: it answers
}

func (m *fakeMemory) Keep(k provider.Known) error { return m.do(&k) }

func (m *fakeMemory) Erase() error { return m.do(nil) }

func (m *fakeMemory) do(next *provider.Known) error {
	m.mu.Lock()
	hangs := m.hangs
	m.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fails != nil:
		return m.fails
	case next != nil && m.full != nil:
		return m.full
	}
	m.writes++
	m.kept = next
	return nil
}

func (m *fakeMemory) setHangs(hangs chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hangs = hangs
}

func (m *fakeMemory) last() *provider.Known {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept
}

func (m *fakeMemory) taken() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.writes
	m.writes = 0
	return n
}

// A life is one process: its provider ends with kill.
type life struct {
	*provider.Provider

	kill func()
}

// begin starts a process over a KMS, which knows what the memory holds.
func begin(t *testing.T, f *fakeKMS, m *fakeMemory, o ringOptions) life {
	t.Helper()
	o.memory, o.known = m, m.last()
	p := newRing(f, o)
	return life{p, stoppable(t, p)}
}

// A process that is killed in an outage and started again says what it would have
// said: ok within the grace since the key last worked, then the outage as a text
// with the same key_id.
func TestRestartInAnOutageKeepsWhatWasKnown(t *testing.T) {
	t.Parallel()
	for _, failure := range []cause.Code{cause.Unreachable, cause.CredentialsExpired} {
		synctest.Test(t, func(t *testing.T) {
			f, m := newFake(), &fakeMemory{}
			o := ringOptions{grace: 3 * time.Minute}
			p := begin(t, f, m, o)
			time.Sleep(time.Hour)
			wantStatus(t, p.Provider, "ok")
			p.kill()
			f.fail("Encrypt", failure)
			f.fail("Decrypt", failure)

			p = begin(t, f, m, o)
			wantStatus(t, p.Provider, "ok")
			if h := p.Health(); h.CanEncrypt() || h.KeyID != keyA || !h.GraceEnds.After(time.Now()) {
				t.Errorf("health %+v: want it not ready, with the key_id that Status tells and the grace's end", h)
			}
			if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err == nil {
				t.Error("an Encrypt was answered without KMS")
			}
			time.Sleep(2*time.Minute + 20*time.Second)
			wantStatus(t, p.Provider, "ok")
			time.Sleep(time.Minute)
			wantStatus(t, p.Provider, "text "+failure.String())
			p.kill() // again, after the grace
			p = begin(t, f, m, o)
			wantStatus(t, p.Provider, "text "+failure.String())

			f.mend("Encrypt")
			f.mend("Decrypt")
			time.Sleep(10 * time.Second)
			wantStatus(t, p.Provider, "ok")
			wantState(t, p.Provider, evidence.Healthy)
			if h := p.Health(); !h.GraceEnds.IsZero() || time.Since(h.LastOK) > time.Minute {
				t.Errorf("health %+v after the first contact: want it of this process", h)
			}
			f.fail("Encrypt", failure)
			time.Sleep(time.Minute)
			if h := p.Health(); !h.GraceEnds.After(time.Now()) {
				t.Errorf("health %+v in the next outage: want the grace of this process", h)
			}
			p.kill()
		})
	}
}

// A refusal is never told as anything else, whatever was known before.
func TestRefusalErasesWhatWasKnown(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]string{"Encrypt": "Encrypt", "Decrypt": "Decrypt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, m := newFake(), &fakeMemory{}
				o := ringOptions{grace: 3 * time.Minute}
				p := begin(t, f, m, o)
				wantStatus(t, p.Provider, "ok")
				time.Sleep(time.Minute)
				if m.last() == nil {
					t.Fatal("nothing is kept")
				}
				f.fail(refuse, cause.KeyDisabled)
				if e, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err == nil {
					_, _ = p.Decrypt(t.Context(), keyring.Stored{Ciphertext: e.Ciphertext})
				}
				synctest.Wait()
				if m.last() != nil {
					t.Fatal("a refusal was met, and what was known is still kept")
				}
				p.kill()
				// The next process meets the refusal first, and then an outage.
				m.kept = &provider.Known{KeyID: keyA, KeyARN: keyA, LastOK: time.Now()}
				p = begin(t, f, m, o)
				synctest.Wait()
				f.mend(refuse)
				f.fail("Encrypt", cause.Unreachable)
				time.Sleep(time.Minute)
				if s, err := p.Status(t.Context()); err == nil {
					t.Errorf("Status %+v after a refusal, want an error", s)
				}
				if m.last() != nil {
					t.Error("what was known is still kept")
				}
				p.kill()
			})
		})
	}
}

// However a process dies, the next one never tells a key_id that callers were told
// to leave.
func TestWhatIsKeptIsNeverOlderThanWhatWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := rotating(), &fakeMemory{}
		o := ringOptions{write: alias, grace: time.Hour}
		p := begin(t, f, m, o)
		defer func() { p.kill() }()
		change := func(what string, happen func()) {
			happen()
			for range 300 {
				time.Sleep(time.Second)
				s, err := p.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if k := m.last(); k == nil || k.KeyID != s.KeyID {
					t.Fatalf("after %s callers are told %s, and %+v is kept", what, s.KeyID, k)
				}
			}
		}
		change("nothing", func() {})
		first := m.last().KeyID
		change("a rotation", func() { f.rotate(keyA, "m2") })
		second := m.last().KeyID
		change("a move of the alias", f.moveAlias)
		if third := m.last().KeyID; first == second || second == third || m.last().KeyARN != keyB {
			t.Errorf("key_ids %s, %s, %s: want three, the last of key B", first, second, third)
		}
		// A write that fails must not leave the old key_id behind.
		m.mu.Lock()
		m.full = errors.New("no space left on device")
		m.mu.Unlock()
		f.rotate(keyB, "m2")
		time.Sleep(5 * time.Minute)
		if s, err := p.Status(t.Context()); err != nil || !strings.HasSuffix(s.KeyID, "m2") {
			t.Fatalf("Status %+v, %v, want the key_id of material m2", s, err)
		}
		if k := m.last(); k != nil {
			t.Errorf("%+v is kept although callers were told to leave it", k)
		}
	})
}

// What cannot be refreshed stays, as long as it names the key_id that callers were
// told last: a disk that is full does no harm to what was kept before.
func TestWhatIsKeptStaysWhereOnlyItsTimeCannotBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := rotating(), &fakeMemory{}
		o := ringOptions{grace: time.Hour}
		p := begin(t, f, m, o)
		wantMaterial(t, p, "m1")
		m.mu.Lock()
		m.full = errors.New("no space left on device")
		m.mu.Unlock()
		for range 2 { // the second process finds it kept
			time.Sleep(5 * time.Minute)
			wantMaterial(t, p, "m1")
			if k := m.last(); k == nil {
				t.Fatal("what was known is erased")
			}
			p.kill()
			p = begin(t, f, m, o)
		}
		f.rotate(keyA, "m2")
		time.Sleep(5 * time.Minute)
		wantMaterial(t, p, "m2")
		if k := m.last(); k != nil {
			t.Errorf("%+v is kept although callers were told to leave it", k)
		}
		p.kill()
	})
}

// A write that hangs while the key_id changes leaves the old one behind for as long as
// it hangs, and no longer.
func TestWhatWasToldWhileAWriteHungIsKeptOnceItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := rotating(), &fakeMemory{}
		p := begin(t, f, m, ringOptions{grace: time.Hour})
		wantMaterial(t, p, "m1")
		hung := make(chan struct{})
		m.setHangs(hung)
		time.Sleep(time.Minute) // a write begins, and is left behind
		f.rotate(keyA, "m2")
		time.Sleep(5*time.Minute + 10*time.Second) // the next regular write is not due soon
		wantMaterial(t, p, "m2")
		m.setHangs(nil)
		close(hung)
		time.Sleep(time.Second)
		if k := m.last(); k != nil && k.Material != "m2" {
			t.Errorf("%+v is kept although callers were told to leave it", k)
		}
		p.kill()
	})
}

func TestWritesSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := newFake(), &fakeMemory{}
		p := begin(t, f, m, ringOptions{grace: time.Minute})
		defer p.kill()
		synctest.Wait()
		m.taken()
		for range 600 {
			if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
				t.Fatal(err)
			}
			wantStatus(t, p.Provider, "ok")
			time.Sleep(time.Second)
		}
		if n := m.taken(); n > 21 || n < 10 {
			t.Errorf("%d writes in 10 minutes, want at most one every 30 s", n)
		}
	})
}

// The file is a help and never a condition: where it cannot be written all works,
// and one line says so.
func TestServesWithoutItsMemory(t *testing.T) {
	t.Parallel()
	hung := make(chan struct{})
	for name, m := range map[string]*fakeMemory{
		"it fails": {fails: errors.New("read-only file system")},
		"it hangs": {hangs: hung},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if m.hangs != nil {
					m.hangs = make(chan struct{}) // of this bubble
				}
				f, log := newFake(), &bytes.Buffer{}
				p := begin(t, f, m, ringOptions{log: log})
				for range 300 {
					if _, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil {
						t.Fatal(err)
					}
					wantStatus(t, p.Provider, "ok")
					time.Sleep(time.Second)
				}
				p.kill()
				if m.hangs != nil {
					close(m.hangs)
				}
				synctest.Wait()
				if n := strings.Count(log.String(), "cannot be kept for the next start"); n != 1 {
					t.Errorf("%d lines, want 1:\n%s", n, log)
				}
			})
		})
	}
}

// The key that the process before wrote with may be refused as a key that reads, where
// its alias cannot be asked.
func TestRefusalOfTheKnownKeyByAReadErasesWhatWasKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := newFake(), &fakeMemory{}
		o := ringOptions{write: alias, read: []string{keyA}, grace: 3 * time.Minute}
		p := begin(t, f, m, o)
		wantStatus(t, p.Provider, "ok")
		time.Sleep(time.Hour)
		p.kill()
		f.fail("Encrypt", cause.Unreachable)
		f.fail("Decrypt", cause.Unreachable)
		p = begin(t, f, m, o)
		defer p.kill()
		wantStatus(t, p.Provider, "ok")
		f.fail("Decrypt "+keyA, cause.AccessDenied)
		if _, err := p.Decrypt(t.Context(), stored(keyA, "seed", keyA)); err == nil {
			t.Fatal("a refused key reads")
		}
		synctest.Wait()
		if _, err := p.Status(t.Context()); err == nil {
			t.Error("Status speaks for the process before, whose key is refused")
		}
		if m.last() != nil {
			t.Errorf("%+v is kept", *m.last())
		}
	})
}
