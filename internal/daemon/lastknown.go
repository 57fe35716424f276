package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
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
