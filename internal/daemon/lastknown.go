package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/lastknown"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
)

// recallLimit bounds the read of what the process before knew.
const recallLimit = time.Second

// A memory keeps what a provider knows in a file. It is safe for concurrent use.
type memory struct {
	config string // digest of the provider's configuration

	mu   sync.Mutex
	file lastknown.File
}

// Keep implements [provider.Memory].
func (m *memory) Keep(k provider.Known) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := lastknown.State{KeyID: k.KeyID, KeyARN: string(k.KeyARN), Material: k.Material, Left: k.Left, Config: m.config, LastOK: k.LastOK}
	for _, l := range k.LeftKeys {
		s.LeftKeys = append(s.LeftKeys, lastknown.LeftKey{Key: string(l.Key), At: l.At})
	}
	return m.file.Write(s)
}

// Erase implements [provider.Memory].
func (m *memory) Erase() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.file.Erase()
}

func (m *memory) path() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.file.Path
}

// move makes the next write go to another path, and removes what is at the one
// before unless another provider keeps its own there now.
func (m *memory) move(path string, shared bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if path == m.file.Path {
		return
	}
	if !shared {
		_ = m.file.Erase() // what stays behind counts for no other configuration
	}
	m.file.Path = path
}

// newMemory returns the memory of a provider, nil where there is no directory for
// it: that of an abstract socket without a service manager.
func (d *Daemon) newMemory(p config.Provider) *memory {
	path := d.memoryPath(p)
	if path == "" {
		return nil
	}
	return &memory{file: lastknown.File{Path: path, Clock: d.files.clock}, config: digest(p)}
}

// memoryPath is the file of a provider's memory. In the directory of a socket it is
// named after that, since two processes with a provider of the same name may have
// their sockets there.
func (d *Daemon) memoryPath(p config.Provider) string {
	if d.opts.RuntimeDir != "" {
		return filepath.Join(d.opts.RuntimeDir, "provider-"+p.Name+".state")
	}
	return lastknown.Beside(p.Listen)
}

// recall returns what the process before knew, nil where nothing counts.
func (d *Daemon) recall(m *memory) *provider.Known {
	ctx, cancel := context.WithTimeout(context.Background(), recallLimit)
	defer cancel()
	s, err := bounded.Do(ctx, d.waits, bounded.File, func(context.Context) (lastknown.State, error) { return m.file.Read(m.config) })
	switch {
	case err == nil:
		k := &provider.Known{KeyID: s.KeyID, KeyARN: keyref.ARN(s.KeyARN), Material: s.Material, Left: s.Left, LastOK: s.LastOK}
		for _, l := range s.LeftKeys {
			k.LeftKeys = append(k.LeftKeys, provider.LeftKey{Key: keyref.ID(l.Key), At: l.At})
		}
		return k
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, lastknown.ErrOtherConfig), errors.Is(err, lastknown.ErrOtherTime):
		d.log.Debug("nothing is known of the process before", "file", m.path(), "reason", err.Error())
	default:
		d.log.Warn("what the process before knew cannot be read: it does not count", "file", m.path(), "error", err.Error())
	}
	return nil
}

// digest tells one configuration of a provider from another, with what of the
// environment decides which key a name stands for. The socket has no part in it.
func digest(p config.Provider) string {
	p.Listen = ""
	var environment []string
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"} {
		environment = append(environment, os.Getenv(name))
	}
	text, err := json.Marshal([]any{p, environment})
	if err != nil { // it has texts and numbers only
		panic(fmt.Sprintf("a provider's configuration as JSON: %v", err))
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}
