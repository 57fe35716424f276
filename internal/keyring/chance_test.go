package keyring_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A gambler is an API server of a process to which anything happens: rotations,
// answers from before them, moves of the alias, refusals, outages, and reloads
// that change the order of keys and make some of them anew.
type gambler struct {
	*rand.Rand

	t       *testing.T
	kms     *fakeKMS
	keys    map[string]*keyring.Key
	ring    *keyring.Provider
	stop    func()
	rotated map[string]int  // ARN → number of its material
	newest  map[string]int  // ARN → that was told last
	told    map[string]bool // key_ids
	written []keyring.Encrypted
	trace   []string
}

func gamble(t *testing.T, seed uint64) {
	t.Helper()
	g := &gambler{
		Rand: rand.New(rand.NewPCG(seed, seed)), t: t, kms: rotating(), keys: map[string]*keyring.Key{}, stop: func() {}, //nolint:gosec // a test that can be repeated
		rotated: map[string]int{keyA: 1, keyB: 1, keyC: 1}, newest: map[string]int{}, told: map[string]bool{},
	}
	g.mend() // key C names material too
	if !g.reload() {
		t.Fatal("nothing has happened yet, and no key may write")
	}
	for range 60 {
		g.happen()
		g.serve(time.Duration(g.IntN(40)) * time.Second)
		if g.IntN(6) == 0 {
			g.serve(6 * time.Minute)
		}
	}
	g.mend()
	g.serve(10 * time.Minute)
	wantState(t, g.ring, keyring.Healthy)
	for i := range g.written {
		g.read(i, true)
	}
	g.stop()
	if t.Failed() {
		t.Logf("seed %d:\n%s", seed, strings.Join(g.trace, "\n"))
	}
}

func (g *gambler) happen() {
	arn := []string{keyA, keyB, keyC}[g.IntN(3)]
	before := g.rotated[arn] - 1
	switch g.IntN(8) {
	case 0:
		g.rotated[arn]++
		g.kms.rotate(arn, "m"+strconv.Itoa(g.rotated[arn]))
	case 1: // what was never told cannot be known to be from before
		if !g.told[arn+"?material=m"+strconv.Itoa(before)] {
			return
		}
		g.kms.rotate(arn, "m"+strconv.Itoa(before))
		arn += " answers from before"
	case 2:
		g.kms.moveAliasTo(arn)
		arn = "alias at " + arn
	case 3, 4:
		what := []string{"Encrypt ", "Decrypt "}[g.IntN(2)] + arn
		g.kms.fail(what, []cause.Code{cause.KeyDisabled, cause.AccessDenied, cause.KMSInternal}[g.IntN(3)])
		arn = what + " fails"
	case 5:
		g.mend()
		arn = "all is well"
	default:
		arn = fmt.Sprintf("reload: %v", g.reload())
	}
	g.trace = append(g.trace, arn)
}

func (g *gambler) mend() {
	for arn, n := range g.rotated {
		g.kms.rotate(arn, "m"+strconv.Itoa(n))
		g.kms.mend("Encrypt " + arn)
		g.kms.mend("Decrypt " + arn)
	}
}

// reload is all or nothing, and the provider before ends a second later.
func (g *gambler) reload() bool {
	names := []string{alias, keyA, keyB, keyC}
	g.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	keys := make([]*keyring.Key, len(names))
	for i, name := range names {
		if g.keys[name] == nil || g.IntN(4) == 0 {
			g.keys[name] = newKey(g.kms, name)
		}
		keys[i] = g.keys[name]
	}
	next := ringOf(ringOptions{before: g.ring, grace: time.Minute}, keys...)
	if next.Verify(g.t.Context()) != nil {
		return false
	}
	before := g.stop
	time.AfterFunc(time.Second, before)
	ctx, cancel := context.WithCancel(g.t.Context())
	done := make(chan struct{})
	go func() { next.Run(ctx); close(done) }()
	g.ring, g.stop = next, func() { cancel(); <-done }
	return true
}

func (g *gambler) serve(d time.Duration) {
	for end := time.Now().Add(d); !time.Now().After(end) && !g.t.Failed(); time.Sleep(7 * time.Second) {
		if st, err := g.ring.Status(g.t.Context()); err == nil {
			g.hear(st.KeyID)
		}
		if e, err := g.ring.Encrypt(g.t.Context(), secret.Bytes("seed"+strconv.Itoa(len(g.written)))); err == nil {
			g.hear(e.KeyID)
			if key := keyref.ParseState(e.KeyID).Key; !strings.HasPrefix(string(e.Ciphertext[1:]), key) {
				g.t.Errorf("ciphertext %q is not under key_id %s", e.Ciphertext, e.KeyID)
			}
			g.written = append(g.written, e)
		}
		if n := len(g.written); n > 0 {
			g.read(g.IntN(n), false)
		}
	}
}

// hear is told a key_id. Material goes forward only.
func (g *gambler) hear(keyID string) {
	s := keyref.ParseState(keyID)
	n, err := strconv.Atoi(strings.TrimPrefix(s.Material, "m"))
	if err != nil || n < g.newest[s.Key] {
		g.t.Errorf("key_id %s after material m%d", keyID, g.newest[s.Key])
	}
	g.newest[s.Key] = n
	g.told[keyID] = true
}

// read reads as v2, v1, and with the predecessor's key_id. Amid failures it may
// fail, and never says of good data that it is bad.
func (g *gambler) read(i int, well bool) {
	e := g.written[i]
	for _, in := range []keyring.Stored{read(e), {Ciphertext: e.Ciphertext, Bare: true}, {Ciphertext: e.Ciphertext, KeyID: alias}} {
		plaintext, err := g.ring.Decrypt(g.t.Context(), in)
		switch {
		case err == nil && string(plaintext) != "seed"+strconv.Itoa(i):
			g.t.Errorf("write %d reads as %q", i, plaintext)
		case err != nil && (well || cause.ClassOf(err) == cause.BadData):
			g.t.Errorf("write %d, under %s: %v", i, e.KeyID, err)
		}
	}
}

// Whatever happens, and in whichever order: what was acknowledged reads, under a
// key_id that names its key, and no caller is led back to material that was left.
func TestWhateverHappensWhatWasAcknowledgedReads(t *testing.T) {
	t.Parallel()
	const rounds = 15
	for seed := range uint64(rounds) {
		synctest.Test(t, func(t *testing.T) { gamble(t, seed) })
		if t.Failed() {
			return
		}
	}
}
