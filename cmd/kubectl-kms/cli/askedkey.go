package cli

import "github.com/spf13/pflag"

// An askedKey is a flag that asks about a key. It counts that it was given: an empty
// value, such as that of a variable which is not set, is a mistake and never no question.
type askedKey struct {
	text  string
	given bool
}

var _ pflag.Value = (*askedKey)(nil)

// Set implements [pflag.Value].
func (k *askedKey) Set(text string) error {
	k.text, k.given = text, true
	return nil
}

// String implements [pflag.Value].
func (k *askedKey) String() string { return k.text }

// Type implements [pflag.Value].
func (k *askedKey) Type() string { return "string" }
