package kmsemulator

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"
	"time"
)

// The states of a key, as DescribeKey names them.
const (
	creating               = "Creating"
	enabled                = "Enabled"
	disabled               = "Disabled"
	pendingDeletion        = "PendingDeletion"
	pendingImport          = "PendingImport"
	pendingReplicaDeletion = "PendingReplicaDeletion"
	unavailable            = "Unavailable"
	updating               = "Updating"
)

// A world is the whole state of the emulator at one instant. It and all that
// it points to are immutable: a change makes a new one, so that readers need
// no lock and connections can look at an earlier one.
type world struct {
	since   time.Time // when it came about
	keys    map[keyRef]*key
	lines   map[string]*line // key id → what the key shares over Regions
	aliases map[aliasRef]*alias
	handles map[handle]*material

	// wake is the first instant at which time alone changes the state; zero is
	// never.
	wake time.Time
}

type keyRef struct{ region, id string }

type aliasRef struct{ region, name string }

// A key is one Region's key. Multi-Region keys have one in each Region, with
// the same id, and a common line.
type key struct {
	ref         keyRef
	arn         string
	description string
	state       string
	created     time.Time
	policy      keyPolicy
	tags        []tag

	ready        time.Time // when a key in state Creating becomes Enabled
	deletion     time.Time // when a key in state PendingDeletion is gone
	windowInDays int32     // of the scheduled deletion
}

// A line is what all Regions' keys of one id have in common.
type line struct {
	id          string
	spec        string
	usage       string
	origin      string
	multiRegion bool
	primary     string // Region of the primary key
	materials   []*material
	rotations   []rotation // oldest first
	onDemand    int        // on-demand rotations so far

	rotates      bool // automatic rotation is enabled
	periodInDays int32
	next         time.Time // next automatic rotation, while enabled
}

// current is the material that encrypts, nil while there is none.
func (l *line) current() *material {
	if len(l.materials) == 0 {
		return nil
	}
	return l.materials[len(l.materials)-1]
}

// A rotation is one entry of ListKeyRotations.
type rotation struct {
	date       time.Time
	kind       string // AUTOMATIC or ON_DEMAND
	materialID string
}

// A handle names a material inside a CiphertextBlob. It is random, so that a
// blob tells its reader nothing about the key.
type handle [32]byte

// A material is one generation of key bytes, never changed and never shown.
type material struct {
	id     string // 64 hexadecimal digits
	handle handle
	keyID  string
	secret [32]byte
	aead   cipher.AEAD
}

func newMaterial(keyID string) *material {
	m := &material{keyID: keyID}
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails
	_, _ = rand.Read(m.secret[:])
	m.id = hex.EncodeToString(id[:])
	m.handle = newHandle()
	m.arm()
	return m
}

// arm builds the cipher, which costs more than a call.
func (m *material) arm() {
	block, err := aes.NewCipher(m.secret[:])
	if err != nil {
		panic(err) // 32 bytes are an AES-256 key
	}
	if m.aead, err = cipher.NewGCM(block); err != nil {
		panic(err) // AES has GCM's block size
	}
}

// An alias is a name for a key of its Region.
type alias struct {
	ref     aliasRef
	arn     string
	target  string // key id
	created time.Time
	updated time.Time
}

func emptyWorld() *world {
	return &world{
		keys: map[keyRef]*key{}, lines: map[string]*line{},
		aliases: map[aliasRef]*alias{}, handles: map[handle]*material{},
	}
}

// fork returns a world of its own for one change at the time now.
func (w *world) fork(now time.Time) *world {
	return &world{
		since: now, wake: w.wake,
		keys: maps.Clone(w.keys), lines: maps.Clone(w.lines),
		aliases: maps.Clone(w.aliases), handles: maps.Clone(w.handles),
	}
}

// editKey puts a changeable copy of a key in the fork w and returns it.
func (w *world) editKey(ref keyRef) *key {
	k := *w.keys[ref]
	w.keys[ref] = &k
	return &k
}

// editLine is editKey for a line.
func (w *world) editLine(id string) *line {
	l := *w.lines[id]
	l.materials = slices.Clone(l.materials)
	l.rotations = slices.Clone(l.rotations)
	w.lines[id] = &l
	return &l
}

// regionsOf returns the keys of one id in all Regions, sorted by Region.
func (w *world) regionsOf(id string) []*key {
	var found []*key
	for ref, k := range w.keys {
		if ref.id == id {
			found = append(found, k)
		}
	}
	slices.SortFunc(found, func(a, b *key) int {
		if a.ref.region < b.ref.region {
			return -1
		}
		return 1
	})
	return found
}

// addMaterial makes m the current material of a line in the fork w.
func (w *world) addMaterial(l *line, m *material) {
	l.materials = append(l.materials, m)
	w.handles[m.handle] = m
}

// setWake finds the next instant at which time alone changes something.
func (w *world) setWake() {
	w.wake = time.Time{}
	consider := func(t time.Time) {
		if !t.IsZero() && (w.wake.IsZero() || t.Before(w.wake)) {
			w.wake = t
		}
	}
	for _, k := range w.keys {
		switch k.state {
		case creating:
			consider(k.ready)
		case pendingDeletion:
			consider(k.deletion)
		}
	}
	for _, l := range w.lines {
		if l.rotates && w.rotatesNow(l) {
			consider(l.next)
		}
	}
}

// rotatesNow reports whether automatic rotation is at work: KMS does not rotate a
// key that is disabled or about to be deleted. The primary key decides.
func (w *world) rotatesNow(l *line) bool {
	k := w.keys[keyRef{l.primary, l.id}]
	return k != nil && (k.state == enabled || k.state == updating)
}

// pass makes the fork w what it is at the time now.
func (w *world) pass(now time.Time) {
	for ref, k := range w.keys {
		switch {
		case k.state == creating && !k.ready.After(now):
			w.editKey(ref).state = enabled
		case k.state == pendingDeletion && !k.deletion.After(now):
			w.remove(ref, now)
		}
	}
	for id, l := range w.lines {
		if l.rotates && w.rotatesNow(l) && !l.next.After(now) {
			w.rotateDue(id, now)
		}
	}
}

// rotateDue carries out the automatic rotations that have fallen due.
func (w *world) rotateDue(id string, now time.Time) {
	l := w.editLine(id)
	for !l.next.After(now) {
		m := newMaterial(id)
		w.addMaterial(l, m)
		l.rotations = append(l.rotations, rotation{date: l.next, kind: "AUTOMATIC", materialID: m.id})
		l.next = l.next.AddDate(0, 0, int(l.periodInDays))
	}
}

// remove deletes a key for good, with its aliases, and its material when no
// Region has the key any more. The deletion of a primary key that waited for
// its last replica then begins its own window.
func (w *world) remove(ref keyRef, now time.Time) {
	delete(w.keys, ref)
	for name, a := range w.aliases {
		if a.target == ref.id && name.region == ref.region {
			delete(w.aliases, name)
		}
	}
	rest := w.regionsOf(ref.id)
	if len(rest) == 0 {
		for _, m := range w.lines[ref.id].materials {
			delete(w.handles, m.handle)
		}
		delete(w.lines, ref.id)
		return
	}
	if len(rest) == 1 && rest[0].state == pendingReplicaDeletion {
		k := w.editKey(rest[0].ref)
		k.state = pendingDeletion
		k.deletion = now.AddDate(0, 0, int(k.windowInDays))
	}
}
