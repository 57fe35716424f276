// Package secret gives key material a type that cannot be printed.
//
// Whatever prints a [Bytes], by fmt, slog, JSON or text, prints REDACTED. The
// bytes themselves are reached by an explicit conversion, which a reader can
// grep for.
package secret

import (
	"fmt"
	"log/slog"
)

const redacted = "REDACTED"

// Bytes is plaintext key material, such as a DEK or a DEK seed. The zero value
// is an empty secret. It is as safe for concurrent use as a byte slice.
type Bytes []byte

// Clear overwrites the bytes with zeros. Copies that the runtime or a library
// made are out of its reach: it shortens the time a secret stays in memory, and
// promises no more.
func (b Bytes) Clear() { clear(b) }

// String returns REDACTED.
func (b Bytes) String() string { return redacted }

// GoString returns REDACTED, for %#v.
func (b Bytes) GoString() string { return redacted }

// Format prints REDACTED for every verb, %x and %s included.
func (b Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue returns REDACTED to log/slog.
func (b Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON encodes as "REDACTED".
func (b Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText encodes as REDACTED.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
