package provider_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey/kmscontract"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
	"sigs.k8s.io/aws-encryption-provider/test/model"
)

// Whatever happens, and in whichever order: what was acknowledged reads, under a
// key_id that names its key; no caller is led back to material that was left, nor to
// a key that an alias has just left; Status and Health say what is true, in the time
// that is promised. Some seeds are the same in every run, the others are fresh.
func TestWhateverHappensWhatWasAcknowledgedReads(t *testing.T) {
	t.Parallel()
	model.Each(t, model.Seeds(t, 4, 10), func(t *testing.T, seed uint64) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			model.Run(t, seed, model.InABubble(), func(t *testing.T, kms *model.KMS) model.Driver {
				t.Helper()
				return &driver{t: t, kms: kms}
			})
		})
	})
}

// The KMS of the model keeps to what the real one does.
func TestKMSOfTheModelKeepsTheContract(t *testing.T) {
	t.Parallel()
	kmscontract.Test(t, func(*testing.T) kmscontract.Subject {
		return kmscontract.Subject{KMS: modelled{model.NewKMS().Client("a")}, Key: model.KeyA, OtherKey: model.KeyB}
	})
}

// A driver runs a provider with its keys, and KMS as Go functions.
type driver struct {
	t    *testing.T
	kms  *model.KMS
	disk disk
}

// Settle implements [model.Driver].
func (*driver) Settle() { synctest.Wait() }

// SetFull implements [model.Disk].
func (d *driver) SetFull(full bool) { d.disk.setFull(full) }

// Kept implements [model.Driver].
func (d *driver) Kept(c model.Config) *model.Kept {
	if k := d.disk.read(c.ID()); k != nil {
		return &model.Kept{KeyID: k.KeyID, KeyARN: string(k.KeyARN), LastOK: k.LastOK}
	}
	return nil
}

// Start implements [model.Driver].
func (d *driver) Start(c model.Config) model.Process {
	p := &process{driver: d, pauses: bounded.NewPauses(), keys: map[model.Key]*kmskey.Key{}, stop: func() {}}
	p.ctx, p.end = context.WithCancel(d.t.Context())
	p.running.Go(p.turns)
	known := d.disk.read(c.ID())
	p.run(ringOf(ringOptions{grace: c.Grace, known: known, memory: p.memory(c), pauses: p.pauses}, p.keysOf(c)...))
	return p
}

// A process is what a kill ends: a ring that serves, with the keys that its rings have
// had.
type process struct {
	*driver

	pauses  *bounded.Pauses
	frozen  atomic.Bool     // it takes no turns
	ctx     context.Context //nolint:containedctx // of all that runs in it
	end     context.CancelFunc
	running sync.WaitGroup

	keys map[model.Key]*kmskey.Key
	ring *provider.Provider
	stop func() // ends the ring

	dead  atomic.Bool // it was killed
	death death       // guarded by the disk
	wrote bool        // it was killed after its last write; guarded by the disk
}

// turns are those of the process, by which it knows that it was paused.
func (p *process) turns() {
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

// keysOf returns the keys of a configuration. Those of before go on.
func (p *process) keysOf(c model.Config) []*kmskey.Key {
	keys := make([]*kmskey.Key, len(c.Keys))
	for i, k := range c.Keys {
		if p.keys[k] == nil {
			p.keys[k] = kmskey.New(kmskey.Config{Name: k.Name, KMS: modelled{p.kms.Client(k.Who)}})
		}
		keys[i] = p.keys[k]
	}
	return keys
}

// run makes a ring the one that serves. The one before ends a second later.
func (p *process) run(ring *provider.Provider) {
	time.AfterFunc(time.Second, p.stop)
	ctx, cancel := context.WithCancel(p.ctx)
	p.running.Go(func() { ring.Run(ctx) })
	p.ring, p.stop = ring, cancel
}

// Reload implements [model.Process]. A key that would write and does not yet has to
// work.
func (p *process) Reload(c model.Config) error {
	writer, keys := p.ring.Writer(), p.keysOf(c)
	next := ringOf(ringOptions{before: p.ring, grace: c.Grace, memory: p.memory(c), pauses: p.pauses}, keys...)
	if keys[0] != writer {
		if err := next.Verify(p.t.Context()); err != nil {
			return err
		}
	}
	p.run(next)
	return nil
}

// Kill implements [model.Process].
func (p *process) Kill() {
	p.dead.Store(true)
	p.end()
	p.running.Wait()
}

// Freeze implements [model.Pauser].
func (p *process) Freeze() {
	p.pauses.Turn()
	p.frozen.Store(true)
}

// Thaw implements [model.Pauser].
func (p *process) Thaw(took time.Duration) {
	p.ring.Frozen(took)
	p.frozen.Store(false)
}

// DieAtWrite implements [model.Mortal].
func (p *process) DieAtWrite(before bool) {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	p.death = afterTheWrite
	if before {
		p.death = beforeTheWrite
	}
}

// Died implements [model.Mortal].
func (p *process) Died() (died, wrote bool) {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	return p.dead.Load(), p.wrote
}

// Status implements [model.Process].
func (p *process) Status(ctx context.Context) (model.Status, error) {
	st, err := p.ring.Status(ctx)
	return model.Status(st), err
}

// A callersContext is in the context of what a caller of the provider asks.
type callersContext struct{}

// Encrypt implements [model.Process].
func (p *process) Encrypt(ctx context.Context, plaintext []byte) (model.Written, error) {
	e, err := p.ring.Encrypt(context.WithValue(ctx, callersContext{}, true), plaintext)
	return model.Written(e), err
}

// Decrypt implements [model.Process].
func (p *process) Decrypt(ctx context.Context, s model.Stored) ([]byte, error) {
	plaintext, err := p.ring.Decrypt(context.WithValue(ctx, callersContext{}, true), keyring.Stored{
		Ciphertext: s.Ciphertext, KeyID: s.KeyID, Annotations: s.Annotations, Bare: s.V1,
	})
	return plaintext, err
}

// Health implements [model.Process].
func (p *process) Health() model.Health {
	h := p.ring.Health()
	out := model.Health{Contacted: h.Contacted, KeyID: h.KeyID, State: h.State}
	for _, k := range h.ReadKeys {
		out.ReadKeys = append(out.ReadKeys, model.ReadKey{Key: k.Key, Unlisted: k.Unlisted, State: k.State, Deletion: k.Deletion != nil})
	}
	return out
}

// modelled is the KMS of the model as a key calls it.
type modelled struct{ *model.Client }

func (m modelled) Encrypt(ctx context.Context, within awskms.Call, key string, plaintext secret.Bytes) (awskms.Sealed, error) {
	s, err := asCaller(ctx, within, func(ctx context.Context) (model.Sealed, error) { return m.Client.Encrypt(ctx, key, plaintext) })
	return awskms.Sealed{Blob: s.Blob, KeyARN: keyref.ARN(s.ARN), RequestID: "r-9"}, err
}

func (m modelled) Decrypt(ctx context.Context, within awskms.Call, key string, blob []byte) (awskms.Opened, error) {
	o, err := asCaller(ctx, within, func(ctx context.Context) (model.Opened, error) { return m.Client.Decrypt(ctx, key, blob) })
	return awskms.Opened{Plaintext: o.Plaintext, KeyARN: keyref.ARN(o.ARN), Material: o.Material, RequestID: "r-8"}, err
}

func (m modelled) MayDecrypt(ctx context.Context, key string, blob []byte) error {
	if blob != nil {
		return &cause.Error{Code: cause.Unforeseen, Said: "the keyring asks without a ciphertext"}
	}
	return m.Client.MayDecrypt(model.Ignoring(ctx), key)
}

func (m modelled) DescribeKey(ctx context.Context, key string) (awskms.KeyInfo, error) {
	d, err := m.Client.DescribeKey(model.Ignoring(ctx), key)
	return awskms.KeyInfo{ARN: keyref.ARN(d.ARN), State: d.State, Deletion: d.Deletion}, err
}

// asCaller makes a call that ignores its context where it hangs. The client of KMS
// leaves behind what hangs: here it does so for callers alone, so that what hangs for
// checks is theirs to leave behind.
func asCaller[T any](ctx context.Context, within awskms.Call, call func(context.Context) (T, error)) (T, error) {
	if !within.By.IsZero() && !time.Now().Before(within.By) {
		var none T
		return none, &cause.Error{Code: cause.TimedOut}
	}
	if ctx.Value(callersContext{}) == nil {
		return call(model.Ignoring(ctx))
	}
	ctx, cancel := ending(ctx, within)
	defer cancel()
	out, err := bounded.Do(ctx, nil, bounded.Call, func(ctx context.Context) (T, error) { return call(model.Ignoring(ctx)) })
	if _, left := errors.AsType[*bounded.AbandonedError](err); left {
		return out, &cause.Error{Code: cause.TimedOut}
	}
	return out, err
}

// A disk is what stays while processes come and go.
type disk struct {
	mu     sync.Mutex
	kept   *provider.Known
	config string // that it is of
	full   bool   // nothing can be written
}

func (d *disk) read(config string) *provider.Known {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config != config {
		return nil
	}
	return d.kept
}

func (d *disk) setFull(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// A death is when a process is killed as its file is about to say another key_id.
type death int

const (
	atNoWrite death = iota
	beforeTheWrite
	afterTheWrite
)

// A mortal is the memory of one process with one configuration. What a process does
// that was killed changes nothing.
type mortal struct {
	*process

	config string
}

func (p *process) memory(c model.Config) *mortal { return &mortal{p, c.ID()} }

// Keep implements [provider.Memory].
func (m *mortal) Keep(k provider.Known) error {
	d := &m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	dies := d.kept != nil && d.kept.KeyID != k.KeyID && m.death != atNoWrite && !m.dead.Load()
	if dies && m.death == beforeTheWrite {
		m.dead.Store(true)
	}
	switch {
	case m.dead.Load():
		return nil
	case d.full:
		return errors.New("no space left on device")
	}
	d.kept, d.config = &k, m.config
	if dies {
		m.wrote = true
		m.dead.Store(true)
	}
	return nil
}

// Erase implements [provider.Memory].
func (m *mortal) Erase() error {
	d := &m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if !m.dead.Load() {
		d.kept = nil
	}
	return nil
}
