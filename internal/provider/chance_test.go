package provider_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
)

// A gambler is an API server of a process to which anything happens
// (chance_events_test.go). It knows what is true of KMS, and what it was told, and
// judges every answer by that (chance_wants_test.go).
type gambler struct {
	*rand.Rand

	t     *testing.T
	kms   *tellingKMS
	began time.Time
	trace []string

	// The process, and what outlives it.
	*process

	file  stateFile
	names []string // of the keys, as configured; the first writes
	keys  map[string]chanceKey
	ring  *provider.Provider
	since time.Time // the ring serves

	// What is true of KMS.
	rotated     map[string]int             // ARN → number of its material
	changed     map[string]time.Time       // ARN → when it last began to fail otherwise, or to work
	troubles    map[string]map[string]bool // ARN → how its Decrypt failed since the key was last seen to work
	garbled     bool
	ungarbledAt time.Time
	release     func() // ends that calls hang; nil: none does
	hung        []string
	hungUntil   time.Time
	inTurnUntil time.Time            // the alias's earlier key is shown as well
	refused     map[string]time.Time // ARN → when KMS last refused it

	// What was told.
	newest    map[string]int  // ARN → material that was told last
	told      map[string]bool // key_ids, as far as the process can know
	lastTold  string          // key_id
	written   []provider.Encrypted
	erred     bool                 // the last Status was an error
	aliasAt   string               // ARN that was told last under the alias
	aliasLeft map[string]time.Time // ARN → when it was told last
	heardAt   time.Time            // when any was
	pausedAt  time.Time            // until when the process did not run
}

// A process is what a kill ends.
type process struct {
	started time.Time
	known   *provider.Known // what the process before left
	pauses  *bounded.Pauses
	frozen  atomic.Bool // it takes no turns
	end     context.CancelFunc
	ctx     context.Context //nolint:containedctx // of all that runs in it
	running sync.WaitGroup
	stop    func() // ends the ring

	killAt int
	wrote  bool        // it was killed after its last write, of which nobody was told
	dead   atomic.Bool // it was killed
}

// A chanceKey is a Key, and what it was answered.
type chanceKey struct {
	*kmskey.Key

	saw *witness
}

const (
	chanceGrace  = time.Minute
	chanceEvents = 60
)

func arns() []string { return []string{keyA, keyB, keyC} }

func gamble(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test that can be repeated
	g := &gambler{
		Rand: r, t: t, began: time.Now(),
		kms:     &tellingKMS{fakeKMS: rotating(), blind: r.IntN(2) == 0, shut: r.IntN(2) == 0, states: map[string]string{}},
		rotated: map[string]int{keyA: 1, keyB: 1, keyC: 1}, changed: map[string]time.Time{}, troubles: map[string]map[string]bool{},
		newest: map[string]int{}, told: map[string]bool{}, aliasLeft: map[string]time.Time{}, refused: map[string]time.Time{},
	}
	defer func() {
		g.kill()
		g.unhang()
		if t.Failed() {
			t.Logf("seed %d, dry runs blind %t, DescribeKey denied %t:\n%s", seed, g.kms.blind, g.kms.shut, strings.Join(g.trace, "\n"))
		}
	}()
	g.mend() // key C names material too
	g.names = g.someNames()
	g.start()
	for range chanceEvents {
		g.happen()
		g.serve(time.Duration(g.IntN(40)) * time.Second)
		switch g.IntN(12) {
		case 0:
			g.serve(6 * time.Minute)
		case 1:
			g.rest()
		}
		if t.Failed() {
			return
		}
	}
	g.tell(g.mend())
	g.propagated()
	g.serve(10 * time.Minute)
	wantState(t, g.ring, evidence.Healthy)
	g.rest()
	for i := range g.written {
		g.read(i, true)
	}
}

// tell notes what happened.
func (g *gambler) tell(what string) {
	what = strings.NewReplacer(keyA, "A", keyB, "B", keyC, "C", alias, "the alias").Replace(what)
	g.trace = append(g.trace, fmt.Sprintf("%9s %s", time.Since(g.began).Truncate(time.Millisecond), what))
}

// someNames is a configuration: the alias is in each, and often writes.
func (g *gambler) someNames() []string {
	names := []string{alias}
	for _, arn := range arns() {
		if g.IntN(4) > 0 { // else only the alias reads it
			names = append(names, arn)
		}
	}
	g.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	if g.IntN(3) == 0 {
		i := slices.Index(names, alias)
		names[0], names[i] = names[i], names[0]
	}
	return names
}

// start begins a process, which reads what the one before has kept for the same
// configuration.
func (g *gambler) start() {
	g.process = &process{started: time.Now(), pauses: bounded.NewPauses(), stop: func() {}}
	g.process.ctx, g.end = context.WithCancel(g.t.Context())
	g.running.Go(g.turns)
	g.keys = map[string]chanceKey{}
	if kept, config := g.file.read(); config == strings.Join(g.names, " ") {
		g.known = kept
	}
	g.forget()
	keys := g.keysOf(g.names, false)
	g.run(ringOf(ringOptions{
		grace: chanceGrace, known: g.known, memory: g.memory(), pauses: g.pauses,
	}, keys...))
}

// turns are those of the process, by which it knows that it was paused.
func (g *gambler) turns() {
	p := g.process
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
			if !p.frozen.Load() {
				p.pauses.Turn()
			}
		}
	}
}

func (g *gambler) memory() *mortal {
	return &mortal{process: g.process, file: &g.file, config: strings.Join(g.names, " ")}
}

// keysOf returns the keys of a configuration. Those of before go on, unless all, or
// some by chance, are made again.
func (g *gambler) keysOf(names []string, someAgain bool) []*kmskey.Key {
	keys := make([]*kmskey.Key, len(names))
	for i, name := range names {
		if _, ok := g.keys[name]; !ok || someAgain && g.IntN(4) == 0 {
			saw := newWitness(g.kms)
			g.keys[name] = chanceKey{kmskey.New(kmskey.Config{Name: name, KMS: saw}), saw}
		}
		keys[i] = g.keys[name].Key
	}
	return keys
}

// run makes a ring the one that serves. The one before ends a second later.
func (g *gambler) run(ring *provider.Provider) {
	time.AfterFunc(time.Second, g.stop)
	ctx, cancel := context.WithCancel(g.process.ctx)
	g.running.Go(func() { ring.Run(ctx) })
	g.ring, g.stop, g.since = ring, cancel, time.Now()
}

// reload is all or nothing. A key that would write and does not yet has to work.
func (g *gambler) reload() string {
	was, wasKeys := g.names, maps.Clone(g.keys)
	g.names = g.someNames()
	writer := g.keys[was[0]].Key
	keys := g.keysOf(g.names, true)
	next := ringOf(ringOptions{
		before: g.ring, grace: chanceGrace, memory: g.memory(), pauses: g.pauses,
	}, keys...)
	if keys[0] != writer {
		if err := next.Verify(g.t.Context()); err != nil {
			g.names, g.keys = was, wasKeys
			return "reload fails: " + err.Error()
		}
	}
	g.run(next)
	return fmt.Sprintf("reload: %s write, of %d keys", g.names[0], len(keys))
}

// kill ends the process at this instant.
func (g *gambler) kill() {
	g.dead.Store(true)
	g.end()
	g.running.Wait()
}

// restart kills the process and begins another one, at times with another
// configuration.
func (g *gambler) restart() string {
	g.kill()
	if kept, _ := g.file.read(); g.wrote { // it was about to tell that
		g.lastTold = kept.KeyID
	}
	if g.IntN(4) == 0 {
		g.names = g.someNames()
	}
	g.start()
	return fmt.Sprintf("the process is killed, and another one started, which knows of %t: %s writes, of %d keys", g.known != nil, g.names[0], len(g.names))
}

// forget is what a process that starts cannot know.
func (g *gambler) forget() {
	keep := func(string) bool { return false }
	g.aliasAt = ""
	if g.known != nil {
		g.judgeKept()
		keep = func(keyID string) bool { return keyref.ParseState(keyID).Key == keyref.ParseState(g.known.KeyID).Key }
		if g.names[0] == alias {
			g.aliasAt = g.known.KeyARN
		}
	}
	maps.DeleteFunc(g.told, func(keyID string, _ bool) bool { return !keep(keyID) })
	maps.DeleteFunc(g.newest, func(arn string, _ int) bool { return !keep(arn) })
	clear(g.aliasLeft)
	g.erred = false
}

// chanceRounds is the environment variable for how many fresh seeds are tried.
const chanceRounds = "KEYRING_CHANCE_ROUNDS"

// Whatever happens, and in whichever order: what was acknowledged reads, under a
// key_id that names its key; no caller is led back to material that was left, nor to
// a key that an alias has just left; Status and Health say what is true, in the time
// that is promised. Some seeds are the same in every run, the others are fresh.
func TestWhateverHappensWhatWasAcknowledgedReads(t *testing.T) {
	t.Parallel()
	fresh := 10
	if text := os.Getenv(chanceRounds); text != "" {
		var err error
		if fresh, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", chanceRounds, err)
		}
	}
	fixed := []uint64{0, 1, 2, 3}
	seeds := slices.Clone(fixed)
	for range fresh {
		seeds = append(seeds, rand.Uint64()) //nolint:gosec // it is printed
	}
	for _, seed := range seeds {
		synctest.Test(t, func(t *testing.T) { gamble(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d failed", seed)
		}
	}
	t.Logf("%d seeds, the fresh ones %d", len(seeds), seeds[len(fixed):])
}
