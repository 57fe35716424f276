// Package model is the world as it should be around one provider: an AWS KMS with keys,
// an alias, states and failures, an API server that polls, writes and reads, and a
// process that is killed, reloaded, paused and started again. It makes anything happen,
// in whichever order, and judges every answer by what is true and by what was told
// before.
//
// It knows nothing about who is driven. A [Driver] runs the process:
//
//   - internal/provider drives a provider with its keys, in a synctest bubble, with
//     KMS called as Go functions;
//   - internal/daemon drives the whole daemon in a bubble, over connections in memory,
//     with KMS on AWS's wire;
//   - test/e2e/model drives the built program, over real sockets and in real time.
//
// A violation is: an acknowledged write that does not open, or opens to something else; a
// ciphertext under another key than its key_id names; material or an alias that callers
// are led back to; a Status or a Health that says what is not so, for longer than is
// promised; a write that is acknowledged although it is known not to open; good data
// that is called bad; a key of another account that reads.
//
// Files, from what is basic to what uses it: kms, wire; model, wants, events; seeds.
package model

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
)

// A Driver runs the process that the model judges. Its methods are called one at a time.
type Driver interface {
	// Start begins a process with a configuration. A process that was killed before has
	// left what it knew, which counts where the configuration is the same.
	Start(c Config) Process
	// Settle waits until nothing goes on but what waits for time to pass.
	Settle()
	// Kept is what the last process has left on the disk so far, nil where nothing
	// counts for a process with the configuration.
	Kept(c Config) *Kept
}

// A Process serves one provider. Its methods are called one at a time, and none after
// Kill.
type Process interface {
	Status(ctx context.Context) (Status, error)
	// Encrypt and Decrypt return errors with the class of a [cause.Error].
	Encrypt(ctx context.Context, plaintext []byte) (Written, error)
	Decrypt(ctx context.Context, s Stored) ([]byte, error)
	// Health is what operators are told.
	Health() Health
	// Reload makes another configuration the one that is served, or changes nothing and
	// returns why.
	Reload(c Config) error
	// Kill ends the process at this instant.
	Kill()
}

// A Pauser is a [Process] that can be made to stand still.
type Pauser interface {
	// Freeze makes the process take no turns, and Thaw lets it go on as if it had stood
	// still for as long as that.
	Freeze()
	Thaw(took time.Duration)
}

// A Disk is a [Driver] whose disk can be full: nothing is written then, and what is
// there can be removed.
type Disk interface{ SetFull(full bool) }

// A Mortal is a [Process] that can be killed as it writes what it knows.
type Mortal interface {
	// DieAtWrite kills the process when it is about to write another key_id, or when it
	// just has.
	DieAtWrite(before bool)
	// Died reports whether that has happened, and whether the write was made. Nobody is
	// answered any more then.
	Died() (died, wrote bool)
}

// A Config is one provider's.
type Config struct {
	Keys  []Key // the first writes, all read
	Grace time.Duration
}

// A Key is one of a configuration. Of the same name and Who, it is the same before and
// after a reload.
type Key struct {
	Name string // an ARN or [Alias]
	Who  string // by which [KMS] tells whom it answers
}

// ID tells one configuration from another.
func (c Config) ID() string { return fmt.Sprint(c.Keys) }

func (c Config) has(name string) bool {
	return slices.ContainsFunc(c.Keys, func(k Key) bool { return k.Name == name })
}

// Status is what an API server polls.
type Status struct{ Healthz, KeyID string }

// OK is the Healthz of a provider that works.
const OK = "ok"

// Written is what an Encrypt answers, and etcd keeps.
type Written struct {
	Ciphertext  []byte
	KeyID       string
	Annotations map[string][]byte
}

// Stored is what a Decrypt is asked for.
type Stored struct {
	Written

	V1 bool // by KMS v1, which has the ciphertext alone
}

// Health is what operators are told of a provider.
type Health struct {
	Contacted bool // KMS has been reached by this process
	KeyID     string
	State     evidence.State
	ReadKeys  []ReadKey
}

// ReadKey is what they are told of a key that only reads.
type ReadKey struct {
	Key      string // as configured, or the ARN of one that is not
	Unlisted bool   // it is an earlier key of an alias
	State    evidence.State
	Deletion bool // is scheduled
}

// Kept is what a process leaves on the disk.
type Kept struct {
	KeyID, KeyARN string
	LastOK        time.Time
}

const grace = time.Minute

// A Pace is how much happens, and how fast time passes.
type Pace struct {
	Events int
	Poll   time.Duration // between two calls of Status
	Most   time.Duration // between two events, but for those after which minutes pass
	// Real is a process in real time, of which nothing is judged that takes minutes, or to
	// know at the same instant what KMS answered and what the process made of it. Limits
	// are ten times as long.
	Real bool
}

// InABubble is hours of virtual time.
func InABubble() Pace { return Pace{Events: 60, Poll: 7 * time.Second, Most: 40 * time.Second} }

// InRealTime is about a minute.
func InRealTime() Pace {
	return Pace{Events: 15, Poll: 200 * time.Millisecond, Most: 3 * time.Second, Real: true}
}

// limit is how long something may take.
func (p Pace) limit(d time.Duration) time.Duration {
	if p.Real {
		return 10 * d
	}
	return d
}

// spell is how long something lasts that lasts for so long in a bubble.
func (p Pace) spell(d time.Duration) time.Duration {
	if p.Real {
		return d / 20
	}
	return d
}

// A Model is one run of one seed.
type Model struct {
	*rand.Rand

	t      *testing.T
	pace   Pace
	driver Driver
	kms    *KMS
	began  time.Time
	trace  []string

	// The process.
	process Process
	config  Config
	whos    map[string]int // name → number of the Key that is made of it
	keys    int            // that there have been
	known   *Kept          // what the process before left
	started time.Time      // the process
	since   time.Time      // the configuration serves

	// What is true of KMS.
	rotated     map[string]int             // ARN → number of its material
	changed     map[string]time.Time       // ARN → when it last began to fail otherwise, or to work
	troubles    map[string]map[string]bool // ARN → how its Decrypt failed since the key was last seen to work
	garbled     bool
	ungarbledAt time.Time
	hung        []string
	hungUntil   time.Time
	inTurnUntil time.Time            // the alias's earlier key is shown as well
	refused     map[string]time.Time // ARN → when KMS last refused it

	// What was told.
	newest    map[string]int  // ARN → material that was told last
	told      map[string]bool // key_ids, as far as the process can know
	lastTold  string          // key_id
	written   []Written
	erred     bool                 // the last Status was an error
	aliasAt   string               // ARN that was told last under the alias
	aliasLeft map[string]time.Time // ARN → when it was told last
	heardAt   time.Time            // when any was
	pausedAt  time.Time            // until when the process did not run
}

// Run makes things happen to a process and judges what it answers. The same seed chooses
// the same things. begin returns the driver, for a KMS.
func Run(t *testing.T, seed uint64, pace Pace, begin func(t *testing.T, kms *KMS) Driver) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test that can be repeated
	m := &Model{
		Rand: r, t: t, pace: pace, began: time.Now(), kms: newKMS(r.IntN(2) == 0, r.IntN(2) == 0), whos: map[string]int{},
		rotated: map[string]int{KeyA: 1, KeyB: 1, KeyC: 1}, changed: map[string]time.Time{}, troubles: map[string]map[string]bool{},
		newest: map[string]int{}, told: map[string]bool{}, aliasLeft: map[string]time.Time{}, refused: map[string]time.Time{},
	}
	m.driver = begin(t, m.kms)
	m.config = m.someConfig()
	m.start()
	defer func() {
		m.process.Kill()
		m.unhang()
		if t.Failed() {
			t.Logf("seed %d, dry runs blind %t, DescribeKey denied %t:\n%s", seed, m.kms.blind, m.kms.shut, strings.Join(m.trace, "\n"))
		}
	}()
	for range pace.Events {
		m.happen()
		m.serve(time.Duration(m.Int64N(int64(pace.Most/time.Second))) * time.Second)
		switch at := m.IntN(12); {
		case pace.Real:
		case at == 0:
			m.serve(6 * time.Minute)
		case at == 1:
			m.rest()
		}
		if t.Failed() {
			return
		}
	}
	m.end()
}

// end makes all well, and reads all that was ever written.
func (m *Model) end() {
	m.tell(m.mend())
	m.propagated()
	m.serve(m.pace.spell(10 * time.Minute))
	for end := time.Now().Add(m.pace.limit(servesAgain)); m.pace.Real && m.process.Health().State != evidence.Healthy && time.Now().Before(end); {
		m.serve(m.pace.Poll)
	}
	if h := m.process.Health(); h.State != evidence.Healthy {
		m.t.Errorf("Health %+v: want it healthy in the end", h)
	}
	if !m.pace.Real {
		m.rest()
	}
	for i := range m.written {
		m.read(i, true)
	}
}

// tell notes what happened.
func (m *Model) tell(what string) {
	what = strings.NewReplacer(KeyA, "A", KeyB, "B", KeyC, "C", Alias, "the alias").Replace(what)
	m.trace = append(m.trace, fmt.Sprintf("%9s %s", time.Since(m.began).Truncate(time.Millisecond), what))
}

// someConfig is a configuration: the alias is in each, and often writes.
func (m *Model) someConfig() Config {
	names := []string{Alias}
	for _, arn := range arns() {
		if m.IntN(4) > 0 { // else only the alias reads it
			names = append(names, arn)
		}
	}
	m.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	if m.IntN(3) == 0 {
		i := slices.Index(names, Alias)
		names[0], names[i] = names[i], names[0]
	}
	c := Config{Grace: grace}
	for _, name := range names {
		c.Keys = append(c.Keys, m.key(name))
	}
	return c
}

// key is the one that is made of a name at present.
func (m *Model) key(name string) Key {
	return Key{name, fmt.Sprintf("%s-%d", name[strings.LastIndex(name, "/")+1:], m.whos[name])}
}

// another makes the next Key of a name another one.
func (m *Model) another(name string) {
	m.keys++
	m.whos[name] = m.keys
}

// start begins a process, which reads what the one before has kept for the same
// configuration.
func (m *Model) start() {
	m.started = time.Now()
	m.known = m.driver.Kept(m.config)
	m.kms.each(func(c *Client) { c.forget() })
	m.forget()
	m.process = m.driver.Start(m.config)
	m.since = time.Now()
}

// forget is what a process that starts cannot know.
func (m *Model) forget() {
	keep := func(string) bool { return false }
	m.aliasAt = ""
	if m.known != nil {
		m.judgeKept()
		keep = func(keyID string) bool {
			return arnIn(keyID) == arnIn(m.known.KeyID)
		}
		if m.config.Keys[0].Name == Alias {
			m.aliasAt = m.known.KeyARN
		}
	}
	maps.DeleteFunc(m.told, func(keyID string, _ bool) bool { return !keep(keyID) })
	maps.DeleteFunc(m.newest, func(arn string, _ int) bool { return !keep(arn) })
	clear(m.aliasLeft)
	m.erred = false
}

// died reports whether the process was killed at a write, after which nobody is answered.
func (m *Model) died() bool {
	p, ok := m.process.(Mortal)
	if !ok {
		return false
	}
	died, _ := p.Died()
	return died
}

// restart kills the process and begins another one, at times with another
// configuration.
func (m *Model) restart() string {
	m.process.Kill()
	if p, ok := m.process.(Mortal); ok {
		if _, wrote := p.Died(); wrote { // it was about to tell that
			if kept := m.driver.Kept(m.config); kept != nil {
				m.lastTold = kept.KeyID
			}
		}
	}
	if m.IntN(4) == 0 {
		m.config = m.someConfig()
	}
	m.start()
	return fmt.Sprintf("the process is killed, and another one started, which knows of %t: %s writes, of %d keys", m.known != nil, m.config.Keys[0].Name, len(m.config.Keys))
}

// reload is all or nothing. Some keys are made again by chance.
func (m *Model) reload() string {
	was, whos := m.config, maps.Clone(m.whos)
	for _, name := range append(arns(), Alias) {
		if m.IntN(4) == 0 {
			m.another(name)
		}
	}
	next := m.someConfig()
	well := m.canWrite(next)
	if err := m.process.Reload(next); err != nil {
		if well && m.canWrite(next) {
			m.t.Errorf("a reload fails while KMS is well: %v", err)
		}
		m.whos = whos
		return fmt.Sprintf("reload fails of %s, of %d keys: %v", next.Keys[0], len(next.Keys), err)
	}
	m.config, m.since = next, time.Now()
	for _, k := range was.Keys {
		if !next.has(k.Name) {
			m.another(k.Name) // the process knows nothing of it when it comes back
		}
	}
	return fmt.Sprintf("reload: %s writes, of %d keys, since %s", next.Keys[0], len(next.Keys), was.Keys[0])
}

// canWrite reports whether the first key of a configuration has to work.
func (m *Model) canWrite(c Config) bool {
	if c.Keys[0].Name == Alias {
		return m.allWellFor(m.pace.limit(servesAgain)) && m.inTurnUntil.IsZero()
	}
	return m.wellFor(c.Keys[0].Name, m.pace.limit(servesAgain))
}
