package kmsemulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
)

// A stateFile keeps a world in a directory: one JSON file, replaced as a whole,
// and a lock file that an emulator holds while it runs. The file holds key
// material in the clear and is readable by its owner alone.
type stateFile struct {
	dir  string
	lock *os.File
}

const (
	stateName    = "kms.json"
	stateVersion = 1
)

// savedWorld is the file's form. Its member names are a format: a change of
// their meaning needs another version.
type savedWorld struct {
	Version int          `json:"version"`
	Keys    []savedKey   `json:"keys"`
	Lines   []savedLine  `json:"lines"`
	Aliases []savedAlias `json:"aliases"`

	// Since when the last uses of keys are kept: zero before they were.
	UsageSince time.Time    `json:"usageSince,omitzero"`
	Usages     []savedUsage `json:"usages,omitempty"`
}

type savedUsage struct {
	Region    string    `json:"region"`
	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	Operation string    `json:"operation"`
	RequestID string    `json:"requestId"`
}

type savedKey struct {
	Region       string    `json:"region"`
	ID           string    `json:"id"`
	ARN          string    `json:"arn"`
	Description  string    `json:"description,omitempty"`
	State        string    `json:"state"`
	Created      time.Time `json:"created"`
	Policy       string    `json:"policy,omitempty"`
	Tags         []tag     `json:"tags,omitempty"`
	Ready        time.Time `json:"ready,omitzero"`
	Deletion     time.Time `json:"deletion,omitzero"`
	WindowInDays int32     `json:"windowInDays,omitempty"`
}

type savedLine struct {
	ID           string          `json:"id"`
	Spec         string          `json:"spec"`
	Usage        string          `json:"usage"`
	Origin       string          `json:"origin"`
	MultiRegion  bool            `json:"multiRegion,omitempty"`
	Primary      string          `json:"primary"`
	Materials    []savedMaterial `json:"materials,omitempty"`
	Rotations    []savedRotation `json:"rotations,omitempty"`
	OnDemand     int             `json:"onDemand,omitempty"`
	Rotates      bool            `json:"rotates,omitempty"`
	PeriodInDays int32           `json:"periodInDays,omitempty"`
	Next         time.Time       `json:"next,omitzero"`
}

type savedMaterial struct {
	ID     string `json:"id"`
	Handle []byte `json:"handle"`
	Secret []byte `json:"secret"`
}

type savedRotation struct {
	Date       time.Time `json:"date"`
	Kind       string    `json:"kind"`
	MaterialID string    `json:"materialId"`
}

type savedAlias struct {
	Region  string    `json:"region"`
	Name    string    `json:"name"`
	ARN     string    `json:"arn"`
	Target  string    `json:"target"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// openStateFile takes a directory, making it if needed, and its lock, which the
// kernel gives free when the process dies, however it dies.
func openStateFile(dir string) (*stateFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("kmsemulator: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the directory is the operator's choice
	if err != nil {
		return nil, fmt.Errorf("kmsemulator: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("kmsemulator: another emulator uses %s: %w", dir, err)
	}
	return &stateFile{dir: dir, lock: lock}, nil
}

func (f *stateFile) close() error { return f.lock.Close() }

// load reads the file, and the last uses in it; a directory without one holds an
// empty world.
func (f *stateFile) load(uses *usages) (*world, error) {
	text, err := os.ReadFile(filepath.Join(f.dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return emptyWorld(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("kmsemulator: %w", err)
	}
	var saved savedWorld
	if err := json.Unmarshal(text, &saved); err != nil {
		return nil, fmt.Errorf("kmsemulator: state in %s: %w", f.dir, err)
	}
	if saved.Version != stateVersion {
		return nil, fmt.Errorf("kmsemulator: state in %s has version %d, this emulator reads %d", f.dir, saved.Version, stateVersion)
	}
	if !saved.UsageSince.IsZero() {
		uses.since = saved.UsageSince
	}
	for _, use := range saved.Usages {
		uses.last[keyRef{use.Region, use.ID}] = usage{use.At, use.Operation, use.RequestID}
	}
	return saved.world()
}

// save puts the world on disk: when it returns nil, the world survives the
// process and the power; when it fails, the file is as before.
func (f *stateFile) save(w *world, since time.Time, uses map[keyRef]usage) error {
	saved := saveWorld(w)
	saved.UsageSince = since
	for ref, use := range uses {
		if w.keys[ref] != nil {
			saved.Usages = append(saved.Usages, savedUsage{ref.region, ref.id, use.at, use.operation, use.requestID})
		}
	}
	text, err := json.Marshal(saved)
	if err != nil {
		return err
	}
	temp := filepath.Join(f.dir, stateName+".new")
	if err := writeSynced(temp, text); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(f.dir, stateName)); err != nil {
		return err
	}
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func writeSynced(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // the directory is the operator's choice
	if err != nil {
		return err
	}
	if _, err := file.Write(text); err != nil {
		_ = file.Close()
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

func saveWorld(w *world) savedWorld {
	saved := savedWorld{Version: stateVersion}
	for ref, k := range w.keys {
		saved.Keys = append(saved.Keys, savedKey{
			ref.region, ref.id, k.arn, k.description, k.state, k.created, k.policy.text, k.tags, k.ready, k.deletion, k.windowInDays,
		})
	}
	for _, l := range w.lines {
		saved.Lines = append(saved.Lines, saveLine(l))
	}
	for ref, a := range w.aliases {
		saved.Aliases = append(saved.Aliases, savedAlias{ref.region, ref.name, a.arn, a.target, a.created, a.updated})
	}
	return saved
}

func saveLine(l *line) savedLine {
	saved := savedLine{
		ID: l.id, Spec: l.spec, Usage: l.usage, Origin: l.origin, MultiRegion: l.multiRegion, Primary: l.primary,
		OnDemand: l.onDemand, Rotates: l.rotates, PeriodInDays: l.periodInDays, Next: l.next,
	}
	for _, m := range l.materials {
		saved.Materials = append(saved.Materials, savedMaterial{m.id, m.handle[:], m.secret[:]})
	}
	for _, r := range l.rotations {
		saved.Rotations = append(saved.Rotations, savedRotation{r.date, r.kind, r.materialID})
	}
	return saved
}

// world builds the world that was saved. What does not fit together is an
// error: a state that somebody has edited must not be half believed.
func (s savedWorld) world() (*world, error) {
	w := emptyWorld()
	for _, saved := range s.Lines {
		l, err := saved.line(w.handles)
		if err != nil {
			return nil, err
		}
		w.lines[l.id] = l
	}
	for _, k := range s.Keys {
		if w.lines[k.ID] == nil {
			return nil, fmt.Errorf("kmsemulator: saved key %s has no material entry", k.ARN)
		}
		ref := keyRef{k.Region, k.ID}
		w.keys[ref] = &key{
			ref, k.ARN, k.Description, k.State, k.Created, savedPolicy(k.Policy), k.Tags, k.Ready, k.Deletion, k.WindowInDays,
		}
	}
	for _, a := range s.Aliases {
		ref := aliasRef{a.Region, a.Name}
		w.aliases[ref] = &alias{ref, a.ARN, a.Target, a.Created, a.Updated}
	}
	return w, nil
}

// savedPolicy reads a key's policy. One that was saved before policies decided may
// be any text, and goes on deciding nothing.
func savedPolicy(text string) keyPolicy {
	read, err := iam.Parse(iam.Key, text)
	if err != nil {
		return keyPolicy{text: text}
	}
	return keyPolicy{text: text, read: read}
}

func (s savedLine) line(handles map[handle]*material) (*line, error) {
	l := &line{
		id: s.ID, spec: s.Spec, usage: s.Usage, origin: s.Origin, multiRegion: s.MultiRegion, primary: s.Primary,
		onDemand: s.OnDemand, rotates: s.Rotates, periodInDays: s.PeriodInDays, next: s.Next,
	}
	for _, saved := range s.Materials {
		m := &material{id: saved.ID, keyID: s.ID}
		if copy(m.handle[:], saved.Handle) != len(m.handle) || copy(m.secret[:], saved.Secret) != len(m.secret) || !m.handle.intact() {
			return nil, fmt.Errorf("kmsemulator: saved material of key %s is damaged", s.ID)
		}
		m.arm()
		l.materials = append(l.materials, m)
		handles[m.handle] = m
	}
	if len(l.materials) == 0 && l.spec == symmetric && l.origin == "AWS_KMS" {
		return nil, fmt.Errorf("kmsemulator: saved key %s has no material", s.ID)
	}
	for _, r := range s.Rotations {
		l.rotations = append(l.rotations, rotation{r.Date, r.Kind, r.MaterialID})
	}
	return l, nil
}
