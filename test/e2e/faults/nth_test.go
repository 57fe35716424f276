package faults

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const (
	// maxCalls is more KMS calls than any operation makes.
	maxCalls = 8
	// declared is how long an outage may take to be called one: twenty seconds
	// by design, and the time to notice.
	declared = 45 * time.Second
	// earliest is when an outage may be called one, less the error of
	// measurement.
	earliest = 19 * time.Second
	alias    = "alias/faults"
)

// An operation is one of those at which KMS's n-th call fails. do is one round:
// it carries the operation out while call n fails, once or for good, sees to it
// that all is well afterwards, and returns how many calls failed.
type operation struct {
	name  string
	grace time.Duration // --outage-grace while a fault lasts
	do    func(c *nthCase, n int) (hits int)
}

func operations() []operation {
	const long = 3 * time.Minute
	return []operation{
		{"start", 0, (*nthCase).start},
		{"first contact", 0, (*nthCase).firstContact},
		{"v1 Encrypt", long, func(c *nthCase, n int) int { return c.traffic(n, c.encryptOnce(v1API)) }},
		{"v2 Encrypt", 0, func(c *nthCase, n int) int { return c.traffic(n, c.encryptOnce(v2API)) }},
		{"v1 Decrypt", long, func(c *nthCase, n int) int { return c.traffic(n, c.decryptOnce(v1API)) }},
		{"v2 Decrypt", 0, func(c *nthCase, n int) int { return c.traffic(n, c.decryptOnce(v2API)) }},
		{"disable", 0, (*nthCase).disable},
		{"enable", 0, (*nthCase).enable},
		{"shutdown", long, (*nthCase).shutdown},
	}
}

// TestNthFailure: KMS's first call of an operation fails, then the second, and
// so on until the operation passes untouched; once and for good, by each fault.
// Each time no acknowledged ciphertext is lost, Status says what it promises in
// the form that it promises, nobody waits, the process lives, and all is well
// within 15 s of the last fault.
func TestNthFailure(t *testing.T) {
	t.Parallel()
	var tally tally
	t.Run("all", func(t *testing.T) {
		// For good takes longest: it begins first.
		for _, once := range []bool{false, true} {
			for _, op := range operations() {
				for _, f := range faults() {
					t.Run(strings.Join([]string{op.name, f.name, mode(once)}, "/"), func(t *testing.T) {
						t.Parallel()
						c := newNthCase(t, op, f, once)
						tally.add(op.name, f.name, once, c.run())
					})
				}
			}
		}
	})
	t.Logf("KMS calls that failed, once + for good:\n%s", tally.table())
}

func mode(once bool) string {
	if once {
		return "once"
	}
	return "for good"
}

// An nthCase is one operation under one fault.
type nthCase struct {
	*machine
	op    operation
	fault fault
	once  bool
	w     *watch // of the present life

	failing time.Time // when a failure came before the fault; zero: none did
}

func newNthCase(t *testing.T, op operation, f fault, once bool) *nthCase {
	t.Helper()
	grace := op.grace
	if once {
		grace = 0 // what must never be seen is seen soonest
	}
	c := &nthCase{machine: newMachine(t, "--outage-grace="+grace.String()), op: op, fault: f, once: once}
	c.must(c.kms.CreateAlias(kmstest.Region, alias, c.key))
	return c
}

// run returns how many calls failed in all rounds together.
func (c *nthCase) run() int {
	c.t.Helper()
	total := 0
	for n := 1; ; n++ {
		if n > maxCalls {
			c.t.Fatalf("%s still met the fault at call %d", c.op.name, n-1)
		}
		hits := c.op.do(c, n)
		if c.t.Failed() {
			c.t.Fatalf("call %d", n)
		}
		if hits == 0 {
			break
		}
		total += hits
	}
	if total == 0 {
		c.t.Errorf("%s met no fault, and it calls KMS", c.op.name)
	}
	// What was acknowledged is there for an API server that starts afresh.
	c.stop()
	c.relaunch()
	c.wellWithin(recovery)
	c.readsAll()
	c.stop()
	return total
}

// relaunch begins a life under watch.
func (c *nthCase) relaunch() {
	c.t.Helper()
	c.launch()
	c.w = c.watch()
}

// stop ends the present life, if there is one.
func (c *nthCase) stop() {
	c.t.Helper()
	if c.w != nil {
		c.w.stop()
	}
	c.end()
}

// forget makes the next life a first one: what the life before knew is gone.
func (c *nthCase) forget() {
	c.t.Helper()
	for i := range c.keys {
		if err := os.Remove(filepath.Join(c.dir, fmt.Sprintf(".%d.sock.state", i))); !errors.Is(err, fs.ErrNotExist) {
			c.must(err)
		}
	}
}

// formAmidRefusal is what Status is while a fault for good hides how a key is doing
// that is, or was, disabled: a refusal that is confirmed stays one, and any other ends
// as the fault does. Which it is is known when the first call that the fault hit has
// ended: another before it may have been an answer.
func (c *nthCase) formAmidRefusal(in *injection) form {
	c.t.Helper()
	firstHit, _ := in.times()
	c.eventually(recovery, "the first call that was hit has ended", func(context.Context) error {
		if since := time.Since(firstHit); since < 5*time.Second {
			return fmt.Errorf("it began %v ago, and may have 2.5 s", since)
		}
		return nil
	})
	if a := c.ask(c.t.Context(), c.plugin, 0, c.key, true); a.form == refusal {
		return refusal
	}
	return c.formForGood()
}

// prepare gives the round a plugin that is well, with something to read, and
// KMS left alone.
func (c *nthCase) prepare() {
	c.t.Helper()
	if c.plugin == nil {
		c.relaunch()
	}
	c.wellWithin(recovery)
	for _, api := range []string{v1API, v2API} {
		if !slices.ContainsFunc(c.entries, func(s sealed) bool { return s.api == api }) {
			err := c.write(c.t.Context(), api)
			c.must(err)
		}
	}
	c.settle()
}

func (c *nthCase) wellWithin(limit time.Duration) {
	c.t.Helper()
	c.eventually(limit, "all is well", c.well)
}

// recover ends the fault, demands that all is well soon after the last call
// that it hit, and that everything reads.
func (c *nthCase) recover(in *injection) (hits int) {
	c.t.Helper()
	hits = in.remove()
	_, last := in.times()
	c.wellWithin(time.Until(last.Add(recovery)))
	c.settle()
	c.readsAll()
	return hits
}

// start: the process starts, and KMS's n-th call fails.
func (c *nthCase) start(n int) int {
	c.stop()
	c.forget()
	in := c.inject(c.fault, n, c.once)
	begun := time.Now()
	c.relaunch()
	c.reach(in)
	return c.meet(in, begun)
}

// firstContact: the process runs and has never reached KMS, which knows its key
// by an alias; then it can be reached, and its n-th call fails.
func (c *nthCase) firstContact(n int) int {
	c.stop()
	c.forget()
	c.keys = []string{alias}
	apart := c.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Reset})
	defer apart()
	c.relaunch()
	c.eventually(recovery, "/readyz says that KMS cannot be reached", c.readyzSays(resetCause))
	if a := c.ask(c.t.Context(), c.plugin, 0, "", false); a.form != refusal || !names(a.words, []string{resetCause}) {
		c.t.Errorf("before the first contact Status is %v, want an error that names %s", a, resetCause)
	}
	in := c.inject(c.fault, n, c.once)
	apart()
	begun := time.Now()
	c.reach(in)
	return c.meet(in, begun)
}

// reach waits until the plugin has made its first contact with KMS, or, where
// the fault is for good, has met it.
func (c *nthCase) reach(in *injection) {
	c.t.Helper()
	c.eventually(recovery, "the first contact with KMS", func(ctx context.Context) error {
		if !c.once && in.hits() > 0 {
			return nil
		}
		return c.well(ctx)
	})
}

// meet is the rest of start and firstContact. Before the first contact there is
// no key_id, so Status is an error and can be nothing else; after it, one
// failure alone changes nothing.
func (c *nthCase) meet(in *injection, begun time.Time) int {
	c.t.Helper()
	if !c.once && in.hits() > 0 {
		c.hold(in, refusal, nil)
		c.judge(c.w, begun, c.causes(noContactCause, resetCause), refusal)
	}
	hits := c.recover(in)
	before := begun
	if a, found := first(c.w.between(begun, time.Now()), ok); found {
		before = a.start
	}
	c.judge(c.w, begun, c.causes(noContactCause, resetCause), ok, refusal)
	c.judge(c.w, before, nil, ok)
	return hits
}

// traffic: the API server makes one call, and KMS's n-th of it fails. Where the
// fault is for good, the API server goes on to call.
func (c *nthCase) traffic(n int, call func() error) int {
	c.prepare()
	in := c.inject(c.fault, n, c.once)
	begun := time.Now()
	err := call()
	hits := in.hits()
	switch {
	case hits == 0 && err != nil:
		c.t.Errorf("nothing failed, and the call did: %v", err)
	case c.once && c.fault.retry && err != nil:
		c.t.Errorf("one attempt failed, and the call did: %v", err)
	case !c.once && hits > 0 && n == 1 && err == nil:
		c.t.Error("every attempt failed, and the call did not")
	}
	c.fails(err)
	if c.once || hits == 0 {
		hits = c.recover(in)
		c.judge(c.w, begun, nil, ok)
		return hits
	}
	c.hold(in, c.formForGood(), call)
	hits = c.recover(in)
	c.judge(c.w, begun, c.causes(), ok, c.formForGood())
	return hits
}

func (c *nthCase) encryptOnce(api string) func() error {
	return func() error {
		err := c.write(c.t.Context(), api)
		return err
	}
}

func (c *nthCase) decryptOnce(api string) func() error {
	return func() error {
		i := slices.IndexFunc(c.entries, func(s sealed) bool { return s.api == api })
		return c.decrypt(c.t.Context(), 0, c.entries[i])
	}
}

// disable: the key is disabled, the API server makes a call, and KMS's n-th
// fails. Whatever that hides, Status is an error that names the cause as soon
// as KMS says so, and until the key is enabled.
func (c *nthCase) disable(n int) int {
	c.prepare()
	in := c.inject(c.fault, n, c.once)
	c.must(c.kms.DisableKey(c.key))
	begun := time.Now()
	c.callRefused()
	c.failing = begun // a refusal that is not confirmed yet is a failure too
	hidden := false
	c.eventually(recovery, "Status is an error that says that the key is disabled", func(ctx context.Context) error {
		if hidden = !c.once && in.hits() > 0; hidden {
			return nil
		}
		return c.saysDisabled(ctx)
	})
	if hidden {
		c.hold(in, c.formAmidRefusal(in), nil)
	}
	hits := in.remove()
	_, last := in.times()
	c.eventually(time.Until(last.Add(recovery)), "Status is an error that says that the key is disabled", c.saysDisabled)
	from := time.Now()
	c.judge(c.w, begun, c.causes(disabledCause), ok, refusal, c.formForGood())
	c.alive(c.plugin)
	c.callRefused()
	c.settle()
	c.judge(c.w, from, []string{disabledCause}, refusal)
	c.must(c.kms.EnableKey(c.key))
	c.wellWithin(recovery)
	c.settle()
	c.readsAll()
	return hits
}

// enable: a key that is known to be disabled is enabled, and KMS's n-th call
// fails. Nothing but time makes the plugin notice.
func (c *nthCase) enable(n int) int {
	c.prepare()
	c.must(c.kms.DisableKey(c.key))
	c.failing = time.Now() // it counts from here that the key does not work
	c.callRefused()
	c.eventually(recovery, "Status is an error that says that the key is disabled", c.saysDisabled)
	c.settle()
	decrypts := c.kms.Calls("Decrypt")
	in := c.inject(c.fault, n, c.once)
	c.must(c.kms.EnableKey(c.key))
	begun := time.Now()
	hidden := false
	c.eventually(2*recovery, "the plugin has checked the key", func(ctx context.Context) error {
		if hidden = !c.once && in.hits() > 0; hidden {
			return nil
		}
		if c.kms.Calls("Decrypt") == decrypts {
			return errors.New("KMS was asked for no Decrypt")
		}
		return c.well(ctx)
	})
	if hidden {
		c.hold(in, c.formAmidRefusal(in), nil)
	}
	hits := c.recover(in)
	c.judge(c.w, begun, c.causes(disabledCause), ok, refusal, c.formForGood())
	return hits
}

// shutdown: the process is told to end while an Encrypt and a Decrypt are under
// way, and KMS's n-th call fails. Both end as they would have, and so does the
// process.
func (c *nthCase) shutdown(n int) int {
	c.prepare()
	calls := c.kms.Calls("*")
	// The calls have to be under way when the signal comes.
	prompt := c.kms.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 500 * time.Millisecond})
	defer prompt()
	in := c.inject(c.fault, n, c.once)
	var encrypted, decrypted error
	var underWay sync.WaitGroup
	underWay.Go(func() { encrypted = c.encryptOnce(v2API)() })
	old := c.entries[0]
	p := c.plugin
	underWay.Go(func() { decrypted = p.decrypt(c.t.Context(), 0, old) })
	c.eventually(deadline, "both calls are under way", func(context.Context) error {
		if made := c.kms.Calls("*") - calls; made < 2 {
			return fmt.Errorf("KMS has got %d calls", made)
		}
		return nil
	})
	c.w.stop()
	c.must(c.program.Signal(syscall.SIGTERM))
	underWay.Wait()
	for what, err := range map[string]error{"Encrypt": encrypted, "Decrypt": decrypted} {
		if err != nil && (in.hits() == 0 || c.once && c.fault.retry) {
			c.t.Errorf("%s, under way at the signal, failed: %v", what, err)
		}
		c.fails(err)
	}
	c.ends()
	prompt()
	hits := in.remove()
	c.relaunch()
	c.wellWithin(recovery)
	c.readsAll()
	c.settle()
	return hits
}

// A tally counts the calls that failed.
type tally struct {
	mu    sync.Mutex
	cells map[[2]string][2]int // operation and fault → failed once, for good
}

func (t *tally) add(op, fault string, once bool, failed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cells == nil {
		t.cells = map[[2]string][2]int{}
	}
	cell := t.cells[[2]string{op, fault}]
	if once {
		cell[0] += failed
	} else {
		cell[1] += failed
	}
	t.cells[[2]string{op, fault}] = cell
}

// table has a row for each operation and a column for each fault.
func (t *tally) table() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s", "")
	for _, f := range faults() {
		fmt.Fprintf(&b, "%14s", f.name)
	}
	for _, op := range operations() {
		fmt.Fprintf(&b, "\n%-14s", op.name)
		for _, f := range faults() {
			cell := t.cells[[2]string{op.name, f.name}]
			fmt.Fprintf(&b, "%14s", fmt.Sprintf("%d + %d", cell[0], cell[1]))
		}
	}
	return b.String()
}
