package provider_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A fault makes the n-th call of KMS fail, and with forGood all after it, until
// the story ends.
type fault struct {
	n       int
	forGood bool
	code    cause.Code
	only    string // ARN: no other key's calls count; "": all do
}

func (f fault) String() string {
	return fmt.Sprintf("%s at call %d, for good %v, of key %q", f.code, f.n, f.forGood, f.only)
}

// A story is some minutes of a process, in which something is done to its key.
type story struct {
	name    string
	write   string
	at      func(f *fakeKMS)
	restart bool // the process ends and another begins, 12 s after that
	keyIDs  []string
}

func stories() []story {
	rotate := func(f *fakeKMS) { f.rotate(keyA, "m2") }
	move := func(f *fakeKMS) { f.moveAlias() }
	return []story{
		{"rotation", keyA, rotate, false, []string{m1, m2}},
		{"rotation and restart", keyA, rotate, true, []string{m1, m2}},
		{"alias move", alias, move, false, []string{aliasA, aliasB}},
		{"alias move and restart", alias, move, true, []string{aliasA, aliasB}},
	}
}

const (
	storyBegins = 70 * time.Second // what happens, happens then
	storyEnds   = 2 * time.Minute

	firstContact = 4  // calls of KMS
	newKeysCalls = 20 // of the key that is to be followed
)

// A teller tells a story, with a fault in it, and what callers were answered.
type teller struct {
	t      *testing.T
	kms    *fakeKMS
	calls  atomic.Int64
	mended atomic.Bool
	told   [][]string // key_ids, by process
	stored []provider.Encrypted
}

// tell returns between which calls of KMS all of what happens lies.
func (s story) tell(t *testing.T, bad fault) (begins, ends int) {
	t.Helper()
	f := rotating()
	w := &teller{t: t, kms: f}
	f.inject = func(_, arn string) error {
		if bad.only != "" && arn != bad.only {
			return nil
		}
		n := int(w.calls.Add(1))
		if w.mended.Load() || n < bad.n || n > bad.n && !bad.forGood || bad.n == 0 {
			return nil
		}
		return &cause.Error{Code: bad.code}
	}
	p, stop := w.process(s.write)
	w.serve(p, storyBegins)
	begins = int(w.calls.Load())
	s.at(f)
	time.Sleep(12 * time.Second)
	if s.restart {
		stop()
		p, stop = w.process(s.write)
	}
	w.serve(p, storyEnds)
	ends = int(w.calls.Load())
	w.mended.Store(true)
	w.serve(p, 3*time.Minute)
	w.readAll(p, "the same process", bad)
	stop()
	fresh, stop := w.process(s.write)
	defer stop()
	w.serve(fresh, 10*time.Second)
	w.readAll(fresh, "a process that starts afresh", bad)
	w.judge(s, bad)
	return begins, ends
}

func (w *teller) process(write string) (p *provider.Provider, stop func()) {
	p = newRing(w.kms, ringOptions{write: write, grace: time.Minute})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { p.Run(ctx); close(done) }()
	w.told = append(w.told, nil)
	return p, func() { cancel(); <-done }
}

// serve is an API server: it asks for Status and writes.
func (w *teller) serve(p *provider.Provider, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(15 * time.Second) {
		if st, err := p.Status(w.t.Context()); err == nil {
			w.tellKeyID(st.KeyID)
		}
		if e, err := p.Encrypt(w.t.Context(), secret.Bytes("seed")); err == nil {
			w.tellKeyID(e.KeyID)
			w.stored = append(w.stored, e)
		}
	}
}

func (w *teller) tellKeyID(keyID string) {
	told := &w.told[len(w.told)-1]
	if len(*told) == 0 || (*told)[len(*told)-1] != keyID {
		*told = append(*told, keyID)
	}
}

// readAll reads everything that was acknowledged, as v2 and as v1 do.
func (w *teller) readAll(p *provider.Provider, by string, bad fault) {
	w.t.Helper()
	for _, e := range w.stored {
		for _, in := range []keyring.Stored{read(e), {Ciphertext: e.Ciphertext, Bare: true}} {
			if plaintext, err := p.Decrypt(w.t.Context(), in); err != nil || string(plaintext) != "seed" {
				w.t.Fatalf("%v: acknowledged under %s, %s cannot read it: %v", bad, e.KeyID, by, err)
			}
		}
		if made, _, _ := strings.Cut(string(e.Ciphertext[1:]), "#"); string(keyref.ParseState(e.KeyID).Key) != made {
			w.t.Fatalf("%v: key_id %s for what %s made", bad, e.KeyID, made)
		}
	}
}

func (w *teller) judge(s story, bad fault) {
	w.t.Helper()
	for i, told := range w.told {
		for j, keyID := range told {
			if !slices.Contains(s.keyIDs, keyID) {
				w.t.Fatalf("%v: key_id %q, want one of %q", bad, keyID, s.keyIDs)
			}
			if slices.Contains(told[:j], keyID) {
				w.t.Fatalf("%v: process %d told %q: a key_id that it had left", bad, i+1, told)
			}
		}
	}
	if told := w.told[len(w.told)-1]; len(told) == 0 || told[len(told)-1] != s.keyIDs[1] {
		w.t.Fatalf("%v: at the end %q, want %q", bad, told, s.keyIDs[1])
	}
}

// Whichever call of KMS fails amid a rotation, a move of the alias or a restart
// in between: never a key_id that no configured key can decrypt under, or one
// that the process had left, and never an acknowledged ciphertext that nobody
// can read.
func TestNthFailureAmidARotationOrAMove(t *testing.T) {
	t.Parallel()
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			told := 0
			run := func(bad fault) (begins, ends int) {
				synctest.Test(t, func(t *testing.T) { begins, ends = s.tell(t, bad) })
				told++
				return begins, ends
			}
			begins, ends := run(fault{})
			for _, code := range []cause.Code{cause.AccessDenied, cause.TimedOut, cause.NotKMS} {
				for n := 1; n <= ends && !t.Failed(); n++ {
					if n > firstContact && n < begins {
						continue
					}
					run(fault{n: n, code: code})
					run(fault{n: n, code: code, forGood: true})
				}
			}
			for n := 1; n <= newKeysCalls && !t.Failed(); n++ {
				run(fault{n: n, forGood: true, code: cause.AccessDenied, only: keyB})
			}
			t.Logf("told %d times; undisturbed, it lies between calls %d and %d of KMS", told, begins, ends)
		})
	}
}
